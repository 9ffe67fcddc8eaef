"""The emitter: loop IR to C-family source text, in the spelling of a dialect.

Statements print one to one. Values print as expressions; a value that several places use becomes a local variable,
declared in the innermost scope where all of it is valid. A `select` one of whose arms may only be evaluated when taken
(a guarded load) prints as an if-else around a local variable. Register buffers become one variable per element when
every access has a constant index (after unrolling), so that the compiler keeps them in registers.

Operators print as operatortext.py says. The functions and vector types that expressions need are collected in a
`Prelude` (prelude.py).
"""

import math
import re
from collections.abc import Collection, Sequence

from attrs import define, field

from ..ir.errors import VerifyError
from ..ir.index import FloorDiv, Index, IndexVar, Mod, ValueAtom
from ..ir.loops import Alloc, Barrier, For, If, Kernel, Prefetch, Stmt, Store
from ..ir.scalar import Apply, Buffer, Const, Load, Scalar, Value, operands_of
from .dialects import Dialect
from .imagetext import image_load, image_param
from .launches import PRIVATE_BYTES, Launch
from .launchtext import LaunchHead, counter_line, group_lines
from .matrixtext import async_copy, matrix_product, product_call
from .operatortext import Operators
from .prelude import Prelude, literal, width
from .prove import alignment, proven_inside
from .rewrite import all_values, values_of, walk


@define
class _Scope:
    """A block of source: its lines, and which values it holds in variables."""

    parent: "_Scope | None"
    lines: list[str] = field(factory=list)
    names: dict[int, str] = field(factory=dict)

    def find(self, node: Scalar) -> str | None:
        scope: _Scope | None = self
        while scope is not None:
            if id(node) in scope.names:
                return scope.names[id(node)]
            scope = scope.parent
        return None


@define
class Emitter:
    """Prints kernels of one source file; `prelude` collects what they need."""

    prelude: Prelude
    thread_bytes: int = 0
    team_bytes: int = 0
    _count: int = 0
    _uses: dict[int, int] = field(factory=dict)
    _fragile: dict[int, bool] = field(factory=dict)
    _keep: list[Scalar] = field(factory=list)
    _scalars: set[Buffer] = field(factory=set)
    _copies: bool = False

    @property
    def dialect(self) -> Dialect:
        """The dialect."""
        return self.prelude.dialect

    @property
    def operators(self) -> Operators:
        """How operators print."""
        return Operators(self.prelude)

    def kernel(self, kernel: Kernel) -> str:
        """A function definition; afterwards `thread_bytes` and `team_bytes` tell the scratch it needs."""
        self.thread_bytes = self.team_bytes = 0
        scope = _Scope(None)
        self._top(kernel.body, scope)
        words = set(re.findall(r"\w+", " ".join(scope.lines)))
        params: list[str] = []
        for i, buffer in enumerate(kernel.params):
            if buffer.name not in words:  # a tensor without elements
                continue
            params.append(self._param(buffer, buffer in kernel.inputs, i))
        body = "\n".join("  " + line for line in (*params, *scope.lines))
        head = self.dialect.kernel.format(name=kernel.name)
        rest = ("tid", "nthreads", "team", "thread_scratch", "team_scratch")
        unused = " ".join(f"(void){name};" for name in (rest if params else ("args", *rest)))
        return f"{head}\n{{\n{body}\n  {unused}\n}}\n"

    def launch(self, name: str, launch: Launch, inputs: Collection[Buffer], buffers: Sequence[Buffer]) -> "LaunchHead":
        """Print a launch as a kernel called `name`; `buffers` are those that it may use, `inputs` those it only reads.

        Afterwards `thread_bytes` is the scratch of one work-item.
        """
        self.thread_bytes = self.team_bytes = 0
        scope, words = _Scope(None), self.dialect.launch
        self._copies = bool(self.dialect.copy) and any(async_copy(stmt) for stmt in walk(launch.body))
        if launch.nest:
            # Local arrays must stand in the outermost scope, so work-items have no braces around them.
            scope.lines += group_lines(launch.nest, self.prelude)
            self.block(launch.nest.body, scope)
        else:
            self._items(launch, scope)
        used = set(re.findall(r"\w+", " ".join(scope.lines)))
        given = [b for b in buffers if b.name in used]
        params = [self._param(b, b in inputs) for b in given]
        if self.thread_bytes:
            used.add("fw_item")
        head = [words[name] for name in ("item", "items", "group", "local_item") if f"fw_{name}" in used]
        if self.thread_bytes:
            params.append(words["scratch"])
            head.append(words["own"].format(bytes=self.thread_bytes))
        variables = [v for v in launch.variables if v.name in used]
        params += [words["variable"].format(v=v.name) for v in variables]
        lines = "\n".join("  " + line for line in (*head, *scope.lines))
        size = str(launch.group) if launch.nest else words["group_size"]
        start = self.dialect.kernel.format(name=name, params=", ".join(params), group=size)
        text = f"{start}\n{{\n{lines}\n}}\n"
        return LaunchHead(text, tuple(given), tuple(variables), self.thread_bytes)

    def _items(self, launch: Launch, scope: _Scope) -> None:
        """Loops whose iterations are work-items."""
        first = 0
        for loop in launch.loops:
            facts = {"v": loop.var.name, "n": loop.extent, "first": first, "end": first + loop.extent}
            inner = _Scope(scope)
            if not launch.shared:
                inner.lines.append(counter_line(self.dialect, loop, f"fw_item - {first}"))
                first += loop.extent
            self.block(loop.body, inner)
            scope.lines += [self.dialect.loops[loop.kind].format(**facts) + " {", *("  " + x for x in inner.lines), "}"]

    def _param(self, buffer: Buffer, constant: bool, position: int = 0) -> str:
        if buffer.scope == "image":
            return image_param(self.dialect, buffer)
        ctype, const = self.prelude.type(buffer.dtype, storage=True), "const " if constant else ""
        return self.dialect.param.format(const=const, t=ctype, name=buffer.name, position=position)

    def _top(self, body: Sequence[Stmt], scope: _Scope) -> None:
        """The outermost block: what is not a parallel loop runs on the first thread only."""
        alone: list[Stmt] = []

        def flush() -> None:
            if alone:
                inner = _Scope(scope)
                self.block(alone, inner)
                scope.lines += ["if (tid == 0) {", *("  " + line for line in inner.lines), "}"]
                alone.clear()

        for stmt in body:
            shared = isinstance(stmt, Alloc) and stmt.buffer.scope == "team"
            if shared or isinstance(stmt, Barrier) or (isinstance(stmt, For) and stmt.kind == "parallel"):
                flush()
                self.block([stmt], scope)
            elif isinstance(stmt, For) and stmt.kind == "lockstep":
                flush()
                scope.lines.append(self.dialect.loops["lockstep"].format(v=stmt.var.name, n=stmt.extent) + " {")
                inner = _Scope(scope)
                self._top(stmt.body, inner)
                scope.lines += [*("  " + line for line in inner.lines), "}"]
            else:
                alone.append(stmt)
        flush()

    def block(self, body: Sequence[Stmt], scope: _Scope) -> None:
        """Statements into a scope."""
        for position, stmt in enumerate(body):
            match stmt:
                case For():
                    self._loop(stmt, scope)
                case Store():
                    self._store(stmt, scope)
                case Alloc(buffer=buffer):
                    self._alloc(buffer, body[position + 1 :], scope)
                case If(cond=cond, then=then, orelse=orelse):
                    scope.lines.append(f"if ({self._expression(cond, scope)}) {{")
                    self._nested(then, scope)
                    if orelse:
                        scope.lines.append("} else {")
                        self._nested(orelse, scope)
                    scope.lines.append("}")
                case Barrier(scope=kind):
                    late = kind == "local" and self._copies
                    scope.lines.append(self.dialect.barriers["copied" if late else kind])
                case Prefetch(buffer=buffer, index=index, level=level, write=write) if self.dialect.prefetch:
                    place = f"{buffer.name}[{self._index(buffer.offset(index), scope)}]"
                    scope.lines.append(self.dialect.prefetch.format(place=place, near=4 - level, write=int(write)))

    def _nested(self, body: Sequence[Stmt], scope: _Scope) -> None:
        inner = _Scope(scope)
        self.block(body, inner)
        scope.lines += ["  " + line for line in inner.lines]

    def _loop(self, loop: For, scope: _Scope) -> None:
        if loop.kind == "mma" and self.dialect.matrix:
            scope.lines.append(product_call(matrix_product(loop), self.prelude, lambda i: self._index(i, scope)))
            return
        known = loop.kind in self.dialect.loops or loop.kind not in ("vectorised", "unrolled", "short", "mma")
        kind = loop.kind if known else "serial"
        if kind not in self.dialect.loops:
            raise VerifyError(f"{self.dialect.name} has no {kind} loops")
        scope.lines.append(self.dialect.loops[kind].format(v=loop.var.name, n=loop.extent) + " {")
        self._nested(loop.body, scope)
        scope.lines.append("}")

    def _alloc(self, buffer: Buffer, rest: Sequence[Stmt], scope: _Scope) -> None:
        size = math.prod(buffer.shape)
        ctype = self.prelude.type(buffer.dtype, buffer.lanes, storage=buffer.lanes == 1)
        if buffer.scope == "register" and self._constant_indices(buffer, rest):
            self._scalars.add(buffer)
            value_type = self.prelude.type(buffer.dtype, buffer.lanes)
            scope.lines.extend(f"{value_type} {buffer.name}_{i};" for i in range(size))
        elif buffer.scope == "register" or (buffer.scope == "thread" and size * width(buffer.dtype) <= PRIVATE_BYTES):
            scope.lines.append(self.dialect.array.format(t=ctype, name=buffer.name, n=max(size, 1)))
        else:
            used = self.team_bytes if buffer.scope == "team" else self.thread_bytes
            place = f"{buffer.scope}_scratch + {used}"
            scope.lines.append(self.dialect.scratch.format(t=ctype, name=buffer.name, place=place))
            bytes_ = -(-(size * width(buffer.dtype)) // 64) * 64
            if buffer.scope == "team":
                self.team_bytes += bytes_
            else:
                self.thread_bytes += bytes_

    def _constant_indices(self, buffer: Buffer, rest: Sequence[Stmt]) -> bool:
        for stmt in walk(rest):
            if isinstance(stmt, Store) and stmt.buffer is buffer and not all(i.is_const for i in stmt.index):
                return False
            for node in all_values(values_of(stmt)):
                if isinstance(node, Load) and node.buffer is buffer and not all(i.is_const for i in node.index):
                    return False
        return True

    def _store(self, stmt: Store, scope: _Scope) -> None:
        # Locals made for one statement must not outlive it: a later statement may see other memory.
        inner = _Scope(scope)
        self._count_uses(stmt.value, *stmt.index)
        if self._copies and (copy := async_copy(stmt)):
            cond = self._value(copy.cond, inner)
            places = [f"&{b.name}[{self._index(b.offset(i), inner)}]" for b, i in copy.ends]
            self.prelude.helper("fw_copy", self.dialect.copy)
            inner.lines.append(f"fw_copy<{copy.nbytes}>({places[0]}, {places[1]}, {cond});")
            scope.lines += ["{", *("  " + line for line in inner.lines), "}"] if inner.lines[1:] else inner.lines
            return
        value = self._value(stmt.value, inner)
        buffer, lanes = stmt.buffer, stmt.value.lanes
        offset = buffer.offset(stmt.index)
        if buffer in self._scalars:
            inner.lines.append(f"{buffer.name}_{offset.const} = {value};")
        else:
            place = f"{buffer.name}[{self._index(offset, inner)}]"
            if buffer.lanes == 1 and lanes > 1:
                if buffer.dtype == "bool":
                    value = self.operators.convert(f"{value} & 1", "uint8", lanes)
                inner.lines.append(self._vector(self.dialect.store, stmt, lanes, place, value))
            else:
                inner.lines.append(f"{place} = {value};")
        if len(inner.lines) == 1:
            scope.lines += inner.lines
        else:
            scope.lines += ["{", *("  " + line for line in inner.lines), "}"]

    # Values

    def _expression(self, root: Scalar, scope: _Scope) -> str:
        """The text of a value; what it shares with itself is put into locals of `scope` first."""
        self._count_uses(root)
        return self._value(root, scope)

    def _count_uses(self, *roots: Scalar) -> None:
        self._uses.clear()
        self._fragile.clear()
        self._keep = all_values(roots)
        for node in self._keep:
            parts = operands_of(node)
            for part in parts:
                self._uses[id(part)] = self._uses.get(id(part), 0) + 1
            self._fragile[id(node)] = any(self._fragile[id(p)] for p in parts) or (
                isinstance(node, Load) and not proven_inside(node)
            )

    def _value(self, root: Scalar, scope: _Scope) -> str:
        """Operands first, from a stack of our own: expressions may be thousands of nodes deep."""
        for node in self._reachable(root, scope):
            if isinstance(node, Index) or scope.find(node):
                continue
            text = self._text(node, scope)
            shared = self._uses.get(id(node), 0) > 1 and not isinstance(node, Const)
            if shared or len(text) > 400:
                text = self._local(node, text, scope)
            scope.names[id(node)] = text
        if isinstance(root, Index):
            return self._operand(root, scope)
        return scope.find(root) or self._text(root, scope)

    def _reachable(self, root: Scalar, scope: _Scope) -> list[Scalar]:
        """What must be evaluated in this scope: all below `root` but the fragile arms of selects."""
        order: list[Scalar] = []
        seen: set[int] = set()
        stack: list[tuple[Scalar, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
                continue
            if id(node) in seen or scope.find(node):
                continue
            seen.add(id(node))
            stack.append((node, True))
            parts = operands_of(node)
            if self._is_guard(node):
                parts = parts[:1]
            stack.extend((part, False) for part in reversed(parts))
        return order

    def _is_guard(self, node: Scalar) -> bool:
        return isinstance(node, Apply) and node.fn == "select" and any(self._fragile[id(a)] for a in node.args[1:])

    def _local(self, node: Value, text: str, scope: _Scope) -> str:
        self._count += 1
        name = f"t{self._count}"
        scope.lines.append(f"const {self.prelude.type(node.dtype, node.lanes)} {name} = {text};")
        return name

    def _text(self, node: Scalar, scope: _Scope) -> str:
        match node:
            case Const(value=value, dtype=dtype, lanes=lanes):
                text = literal(value, dtype, self.dialect)
                return text if lanes == 1 else self.operators.splat(text, dtype, lanes)
            case Load():
                return self._load(node, scope)
            case Apply() if self._is_guard(node):
                return self._guarded(node, scope)
            case Apply():
                return self.operators.apply(node, [self._operand(a, scope) for a in node.args])
        raise VerifyError(f"cannot print {node!r}")

    def _operand(self, value: Scalar, scope: _Scope) -> str:
        if isinstance(value, Index):
            text = self._index(value, scope)
            return text if value.is_var else f"({text})"
        found = scope.find(value)
        assert found is not None
        return found

    def _guarded(self, node: Apply, scope: _Scope) -> str:
        """An if-else, each arm in a scope of its own."""
        cond, *arms = node.args
        self._count += 1
        name = f"t{self._count}"
        scope.lines.append(f"{self.prelude.type(node.dtype, node.lanes)} {name};")
        head = f"if ({self._operand(cond, scope)}) {{"
        for arm in arms:
            inner = _Scope(scope)
            text = self._value(arm, inner)
            scope.lines += [head, *("  " + line for line in inner.lines), f"  {name} = {text};"]
            head = "} else {"
        scope.lines.append("}")
        return name

    def _load(self, node: Load, scope: _Scope) -> str:
        buffer, lanes = node.buffer, node.lanes
        if buffer.scope == "image":
            return image_load(node, self.prelude, lambda i: self._index(i, scope))
        offset = buffer.offset(node.index)
        if buffer in self._scalars:
            return f"{buffer.name}_{offset.const}"
        name = buffer.name
        if buffer.source:
            name = f"((const {self.prelude.type(buffer.dtype)} *){buffer.source.name})"
        place = f"{name}[{self._index(offset, scope)}]"
        if buffer.lanes > 1 or lanes == 1:
            return place
        vector = self._vector(self.dialect.load, node, lanes, place)
        return f"({self.operators.convert(vector, 'int32', lanes)} != 0)" if buffer.dtype == "bool" else vector

    def _vector(self, template: str, access: Load | Store, lanes: int, place: str, value: str = "") -> str:
        ctype = self.prelude.type(access.buffer.dtype, lanes, storage=True)
        align = alignment(access.buffer, access.index, lanes)
        return template.format(t=ctype, place=place, lanes=lanes, align=align, value=value)

    def _index(self, index: Index, scope: _Scope) -> str:
        parts = []
        for atom, coeff in index.sorted_terms():
            match atom:
                case IndexVar():
                    text = atom.name
                case FloorDiv(value=value, divisor=d):
                    text = self._divide(value, d, "/", "fw_index_div", scope)
                case Mod(value=value, divisor=d):
                    text = self._divide(value, d, "%", "fw_index_mod", scope)
                case ValueAtom(value=value):
                    text = f"({self.dialect.types['index']}){scope.find(value) or self._value(value, scope)}"
                case _:
                    raise VerifyError(f"cannot print the index {index}")
            parts.append(text if coeff == 1 else f"{coeff} * {text}")
        if index.const or not parts:
            parts.append(str(index.const))
        return " + ".join(parts).replace("+ -", "- ")

    def _divide(self, value: Index, divisor: int, sign: str, helper: str, scope: _Scope) -> str:
        inner = self._index(value, scope)
        if value.bounds[0] >= 0:
            return f"({inner if value.is_var else f'({inner})'} {sign} {divisor})"
        quotient = "a / d - (a % d < 0)"
        body = quotient if sign == "/" else "a % d + (a % d < 0 ? d : 0)"
        self.prelude.helper(helper, f"static inline int64_t {helper}(int64_t a, int64_t d) {{ return {body}; }}")
        return f"{helper}({inner}, {divisor})"
