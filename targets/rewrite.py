"""Rewriting the loop IR: substitution of loop variables, and unrolling.

Values are rebuilt with the smart constructors of ir/scalar.py, so that a comparison that becomes decidable, or a
division that becomes exact, disappears. Nodes that were shared stay shared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from attrs import evolve

from ..ir.index import Dim, Index, IndexVar, ValueAtom, as_index, rebuild
from ..ir.loops import Alloc, For, If, Prefetch, Stmt, Store
from ..ir.scalar import Apply, Buffer, Const, Load, Scalar, Value, apply, as_position, cast, operands_of, select


class Rewriter:
    """Rebuilds statements and values with variables, buffers and loads replaced.

    Args:
        bind: what each variable becomes.
        buffers: which buffers are replaced by which.
        load: called with each rebuilt load; gives the value to put in its place, or None to keep it.
        known: what nodes become, by identity of the old node.
    """

    def __init__(
        self,
        bind: Mapping[IndexVar, Dim],
        buffers: Mapping[Buffer, Buffer] | None = None,
        load: Callable[[Load], Value | None] | None = None,
        known: Mapping[int, Scalar] | None = None,
    ) -> None:
        self.bind = bind
        self.buffers = dict(buffers or {})
        self.load = load
        self._memo: dict[int, tuple[Scalar, Scalar]] = {key: (new, new) for key, new in (known or {}).items()}

    def index(self, index: Index) -> Index:
        """An index expression."""
        if not index.values and not (index.variables & self.bind.keys()):
            return index

        def leaf(atom: object) -> Index | None:
            if isinstance(atom, IndexVar):
                return as_index(self.bind[atom]) if atom in self.bind else None
            if isinstance(atom, ValueAtom):
                return as_position(self.value(atom.value), atom.lo, atom.hi)
            return None

        return rebuild(index, leaf)

    def value(self, value: Scalar) -> Scalar:
        """A value; deep expressions are walked without recursion."""
        stack = [value]
        while stack:
            node = stack[-1]
            if id(node) in self._memo:
                stack.pop()
                continue
            pending = [part for part in operands_of(node) if id(part) not in self._memo]
            if pending:
                stack.extend(pending)
                continue
            self._memo[id(stack.pop())] = (node, self._rebuild(node))
        return self._memo[id(value)][1]

    def _rebuild(self, node: Scalar) -> Scalar:
        match node:
            case Index():
                return self.index(node)
            case Load(buffer=buffer, index=index, lanes=lanes):
                places, other = tuple(self.index(i) for i in index), self.buffers.get(buffer, buffer)
                same = other is buffer and all(a is b for a, b in zip(places, index, strict=True))
                load = node if same else Load(other, places, lanes)
                return (self.load(load) if self.load else None) or load
            case Apply(fn=fn, args=args):
                parts = [self._memo[id(a)][1] for a in args]
                return node if all(a is b for a, b in zip(args, parts, strict=True)) else remake(node, fn, parts)
        return node

    def stmts(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        """A block."""
        return tuple(new for stmt in body for new in self.stmt(stmt))

    def stmt(self, stmt: Stmt) -> tuple[Stmt, ...]:
        """A statement; an `If` whose condition becomes known leaves only the arm that runs."""
        match stmt:
            case For(var=var, extent=extent, body=body, kind=kind):
                # A copied loop needs a variable of its own where the body is copied several times.
                return (For(var, extent, self.stmts(body), kind),)
            case Store(buffer=buffer, index=index, value=value):
                new = self.value(value)
                assert isinstance(new, Value)
                return (Store(self.buffers.get(buffer, buffer), tuple(self.index(i) for i in index), new),)
            case Alloc(buffer=buffer):
                return (Alloc(self.buffers.get(buffer, buffer)),)
            case If(cond=cond, then=then, orelse=orelse):
                test = self.value(cond)
                if isinstance(test, Const):
                    return self.stmts(then if test.value else orelse)
                assert isinstance(test, Value)
                return (If(test, self.stmts(then), self.stmts(orelse)),)
            case Prefetch(buffer=buffer, index=index):
                place = tuple(self.index(i) for i in index)
                return (evolve(stmt, buffer=self.buffers.get(buffer, buffer), index=place),)
        return (stmt,)


def remake(node: Apply, fn: str, parts: Sequence[Scalar]) -> Value:
    """The function `fn` of new arguments."""
    if fn == "select":
        return select(*parts)
    if fn == "cast":
        return cast(parts[0], node.dtype)
    if fn in ("bitcast", "splat", "dot2", "pair", "async"):
        return Apply(fn, tuple(parts), node.dtype, node.lanes)
    return apply(fn, *parts)


def unroll(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Copy out every loop of kind "unrolled"."""
    result: list[Stmt] = []
    for stmt in body:
        match stmt:
            case For(var=var, extent=extent, body=inner, kind="unrolled"):
                inner = unroll(inner)
                for i in range(extent):
                    result.extend(Rewriter({var: i}).stmts(inner))
            case For(var=var, extent=extent, body=inner, kind=kind):
                result.append(For(var, extent, unroll(inner), kind))
            case If(cond=cond, then=then, orelse=orelse):
                result.append(If(cond, unroll(then), unroll(orelse)))
            case _:
                result.append(stmt)
    return tuple(result)


def walk(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """Every statement, outer before inner."""
    for stmt in body:
        yield stmt
        match stmt:
            case For(body=inner):
                yield from walk(inner)
            case If(then=then, orelse=orelse):
                yield from walk(then)
                yield from walk(orelse)


def values_of(stmt: Stmt) -> tuple[Scalar, ...]:
    """The values that a statement itself computes, indices included; not those of nested statements."""
    match stmt:
        case Store(index=index, value=value):
            return (*index, value)
        case If(cond=cond):
            return (cond,)
        case Prefetch(index=index):
            return index
    return ()


def all_values(roots: Sequence[Scalar]) -> list[Scalar]:
    """Every value below `roots`, once, operands before what uses them."""
    order: list[Scalar] = []
    seen: set[int] = set()
    stack: list[tuple[Scalar, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((part, False) for part in reversed(operands_of(node)))
    return order
