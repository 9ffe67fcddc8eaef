"""How patterns find their places in a graph, and what is done there: the algorithms behind `dataflow_pattern`.

A pattern is tried by backtracking: `Matching.solve(pattern, node)` is a generator that yields once for each way in
which the pattern fits, with the bindings of its parts in place. Recursion goes as deep as the pattern, never as deep
as the graph.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from attrs import field, frozen

from ..ir.errors import FusewireError
from ..ir.expr import Call, Expr, Tuple, TupleGetItem
from ..ir.infer import infer_type
from ..ir.op import Op
from ..ir.visitor import children, with_children
from .graph import is_op_call, outline, rewrite, walk

Node: TypeAlias = Expr | Op
Users: TypeAlias = Mapping[int, Sequence[Expr]]

MAX_ROUNDS = 100
"""How often `rewrite` goes over a graph that keeps changing."""


class Pattern(Protocol):
    """What the matcher needs of a pattern."""

    def solutions(self, node: Node, state: "Matching") -> Iterator[None]:
        """Yield once for each way in which the pattern fits `node`."""
        ...

    @property
    def inner(self) -> bool:
        """Whether what this pattern binds belongs to the matched region, rather than being one of its inputs."""
        ...


def users_of(expr: Expr) -> dict[int, list[Expr]]:
    """The nodes that use each node of a graph, by id."""
    users: dict[int, list[Expr]] = {}
    for node in walk(expr):
        for child in children(node):
            users.setdefault(id(child), []).append(node)
    return users


class Matching:
    """The state of one attempt: what each pattern is bound to so far."""

    def __init__(self, users: Users) -> None:
        self.users = users
        self.bound: dict[int, tuple[Any, tuple[Node, ...]]] = {}

    def solve(self, pattern: Any, node: Node) -> Iterator[None]:
        """Yield once for each way in which `pattern` fits `node`, bindings in place."""
        known = self.bound.get(id(pattern))
        if known is not None:
            if known[1][0] is node:
                yield
            return
        for _ in pattern.solutions(node, self):
            self.bound[id(pattern)] = (pattern, (node,))
            yield
            del self.bound[id(pattern)]

    def solve_all(self, pairs: Sequence[tuple[Any, Node]]) -> Iterator[None]:
        """Yield once for each way in which all patterns fit their nodes."""
        if not pairs:
            yield
            return
        (pattern, node), *rest = pairs
        for _ in self.solve(pattern, node):
            yield from self.solve_all(rest)

    def fits(self, pattern: Any, node: Node) -> bool:
        """Whether `pattern` fits `node` by itself, bindings ignored."""
        return any(True for _ in Matching(self.users).solve(pattern, node))

    def bind_several(self, pattern: Any, nodes: Sequence[Node]) -> Iterator[None]:
        """Bind a pattern that fits any number of nodes."""
        self.bound[id(pattern)] = (pattern, tuple(nodes))
        yield
        del self.bound[id(pattern)]


@frozen(eq=False)
class Match:
    """A place where a pattern fits.

    Attributes:
        root: the expression whose value leaves the region.
        nodes: the region, parts before wholes, `root` last: calls, tuples and tuple items that the pattern spells out,
            but not what wildcards, variables and constants match.
        bindings: what each part of the pattern matched; one expression for each part, save for dominator paths.

    """

    root: Expr
    nodes: tuple[Expr, ...]
    bindings: Mapping[Any, tuple[Node, ...]] = field(repr=False)

    def __getitem__(self, pattern: Any) -> Expr:
        """What a part of the pattern matched; KeyError if that part took no place in the match."""
        node = self.bindings[pattern][0]
        if not isinstance(node, Expr):
            raise KeyError(pattern)
        return node

    def get(self, pattern: Any) -> Expr | None:
        """What a part of the pattern matched, or None."""
        return self[pattern] if pattern in self.bindings else None

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The operator calls of the region, parts before wholes."""
        return tuple(n for n in self.nodes if is_op_call(n))

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """The names of the operators of the region, in the same order."""
        return tuple(str(call.op) for call in self.calls)

    @cached_property
    def inputs(self) -> tuple[Expr, ...]:
        """What the region reads from outside, constants included, each once, in the order of first use."""
        inside = {id(n) for n in self.nodes}
        outside = {id(c): c for n in self.nodes for c in children(n) if id(c) not in inside}
        return tuple(outside.values())

    def call(self, *names: str) -> Call | None:
        """The first call of one of these operators in the region."""
        return next((call for call in self.calls if str(call.op) in names), None)

    def has(self, *names: str) -> bool:
        """Whether the region calls one of these operators."""
        return any(op in names for op in self.ops)

    def isolated(self, users: Users) -> bool:
        """Whether nothing outside of the region uses a node of it other than the root."""
        inside = {id(n) for n in self.nodes}
        return all(id(user) in inside for n in self.nodes[:-1] for user in users.get(id(n), ()))


def matches_at(pattern: Any, expr: Expr, users: Users) -> Iterator[Match]:
    """Every way in which a pattern fits with `expr` as its last node."""
    state = Matching(users)
    for _ in state.solve(pattern, expr):
        bindings = dict(state.bound.values())
        inner = {id(n) for p, nodes in bindings.items() if p.inner for n in nodes}
        yield Match(expr, _region(expr, inner), bindings)


def fits_at(pattern: Any, expr: Expr) -> bool:
    """Whether a pattern fits with `expr` as its last node, `expr` being all there is of the graph."""
    return any(True for _ in matches_at(pattern, expr, users_of(expr)))


def _region(root: Expr, inner: set[int]) -> tuple[Expr, ...]:
    """The nodes of a match, parts before wholes; `root` alone for patterns without structure."""
    found: dict[int, Expr] = {}
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            found[id(node)] = node
        elif id(node) not in found:
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(children(node)) if id(c) in inner and id(c) not in found)
    return tuple(found.values())


def find_all(pattern: Any, expr: Expr) -> list[Match]:
    """All matches in a graph that do not overlap, found from the result towards the inputs.

    Left out are matches of which an inner node is used from outside: replacing them would leave that use behind.
    """
    users, taken, found = users_of(expr), set[int](), list[Match]()
    for node in reversed(walk(expr)):
        for match in matches_at(pattern, node, users):
            if match.isolated(users) and not any(id(n) in taken for n in match.nodes):
                taken.update(id(n) for n in match.nodes)
                found.append(match)
                break
    return found


Callback: TypeAlias = Callable[[Expr, Expr, Mapping[Any, list[Node]]], Expr]


def rewrite_matches(pattern: Any, callback: Callback, expr: Expr) -> Expr:
    """Replace every match by `callback(pre, post, node_map)`: the root as it was, as it is now, and the bindings."""
    matches = {id(match.root): match for match in find_all(pattern, expr)}
    if not matches:
        return expr
    new: dict[int, Node] = {}

    def replace(old: Expr, post: Expr) -> Expr:
        match = matches.get(id(old))
        result = post
        if match is not None:
            new[id(old)] = post
            node_map = {p: [new.get(id(n), n) for n in nodes] for p, nodes in match.bindings.items()}
            result = callback(old, post, node_map)
            if not isinstance(result, Expr):
                raise FusewireError(f"the callback must return an expression, got {result!r}")
        new[id(old)] = result
        return result

    return rewrite(expr, replace)


def rewrite_until_stable(callbacks: Iterable[Any], expr: Expr) -> Expr:
    """Apply callbacks (objects with pattern, callback, require_type, rewrite_once) again and again until none changes
    anything, `MAX_ROUNDS` times at most.
    """
    steps = list(callbacks)
    for _ in range(MAX_ROUNDS):
        changed = False
        for step in steps:
            if step.pattern is None:
                raise FusewireError(f"{type(step).__name__} has no pattern: set self.pattern in its constructor")
            if step.require_type:
                expr = infer_type(expr)
            result = rewrite_matches(step.pattern, step.callback, expr)
            changed = changed or result is not expr
            expr = result
        steps = [step for step in steps if not step.rewrite_once]
        if not changed or not steps:
            break
    return expr


def partition_matches(pattern: Any, expr: Expr, attributes: Mapping[str, Any], check: Callable[[Expr], bool]) -> Expr:
    """Move every match for which `check(root)` holds into a function, which is called in its place.

    Constants that `is_constant` matched go along; whatever else comes from outside becomes a parameter.
    """
    outlinable = Call | Tuple | TupleGetItem
    chosen = {
        id(m.root): m
        for m in find_all(pattern, expr)
        if m.calls and all(isinstance(n, outlinable) for n in m.nodes) and check(m.root)
    }

    def make(match: Match, renew: Callable[[Expr], Expr]) -> Expr:
        named = {"PartitionedFromPattern": "".join(f"{op}_" for op in match.ops), **attributes}
        own = {id(n) for p, nodes in match.bindings.items() if p.embeds for n in nodes}
        function, args = outline(match.nodes, named, renew, lambda e: id(e) in own)
        return Call(function, args)

    return replace_regions(expr, chosen, make)


def replace_regions(
    expr: Expr, matches: Mapping[int, Match], make: Callable[[Match, Callable[[Expr], Expr]], Expr]
) -> Expr:
    """`expr` with every matched region replaced as a whole.

    Args:
        expr: the graph.
        matches: the regions by the id of their root; they do not overlap and are isolated.
        make: gets a match, and a function that says what a node outside has become; returns what takes its place.

    """
    new: dict[int, Expr] = {}
    hidden = {id(n) for m in matches.values() for n in m.nodes[:-1]}

    def renew(node: Expr) -> Expr:
        return new.get(id(node), node)

    for node in walk(expr):
        if id(node) in matches:
            new[id(node)] = make(matches[id(node)], renew)
        elif id(node) not in hidden:
            new[id(node)] = with_children(node, [renew(child) for child in children(node)])
    return renew(expr)
