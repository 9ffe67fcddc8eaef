"""Which regions of a graph go to an external library, and why the others do not.

Libraries take their pick in the order in which the user named them. Each looks at the graph from the result towards the
inputs, so that a region is found at its last operator first: conv2d + bias_add + relu before conv2d + bias_add. Among
the rules that match at one place the longest match wins. A region must have no inner value that is used outside of it.
Rules for what generated code would fuse anyway (`Rule.light`) come last.

A region becomes a function with three attributes, which the passes of `regions` set one by one:

    Composite="onednn.conv2d"   the rule that matched    (MergeComposite)
    Compiler="onednn"           the library              (AnnotateTarget)
    Primitive=1                 no pass looks inside     (PartitionGraph)
"""

from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from typing import Any

from attrs import define, field, frozen

from ..ir.expr import Call, Expr, Function, Tuple, TupleGetItem
from ..ir.module import IRModule
from ..ir.op import Op
from .chain import Chain
from .graph import is_op_call, is_sealed, outline, walk
from .infra import Pass, PassContext
from .library import Library, Rule
from .matcher import Match, Users, matches_at, replace_regions, users_of
from .patterns import AltPattern, AttrPattern, CallPattern, DFPattern, ExprPattern


@frozen(eq=False)
class Decision:
    """What became of one match.

    Attributes:
        library: the library's name.
        rule: the rule's name.
        ops: the operators of the region, first to last.
        reason: why the library refused the region; None if it took it.
        root: the last expression of the region, in the graph before partitioning.

    """

    library: str
    rule: str
    ops: tuple[str, ...]
    reason: str | None
    root: Expr

    @property
    def taken(self) -> bool:
        """Whether the library took the region."""
        return self.reason is None

    def __str__(self) -> str:
        verdict = "taken" if self.reason is None else f"refused: {self.reason}"
        return f"{self.rule}({' + '.join(self.ops)}) {verdict}"


def partition_for_libraries(
    mod: IRModule, libraries: Sequence[Library], *, post_ops: bool = True
) -> tuple[IRModule, list[Decision]]:
    """Wrap what libraries can take in functions with the attributes Composite, Compiler and Primitive.

    Args:
        mod: a typed module.
        libraries: in order of preference.
        post_ops: whether regions may be longer than the anchor of their rule's chain; without, light rules rest, too.

    Returns:
        The new module, and a record of everything that was considered.

    """
    decisions: list[Decision] = []
    functions = dict(mod.functions)
    for name, function in mod.functions.items():
        if is_sealed(function):
            continue
        for light in (False, True) if post_ops else (False,):
            for library in libraries:
                rules = [rule for rule in library.rules if rule.light == light]
                attributes = {"Compiler": library.name, "Primitive": 1}
                merge = Merge(library.name, rules, attributes, post_ops, decisions)
                functions[name] = merge.function(functions[name])
    same = all(functions[name] is f for name, f in mod.functions.items())
    return (mod if same else IRModule(functions)), decisions


def partition_pass(
    libraries: Sequence[Library], decisions: MutableSequence[Decision] | None = None, *, post_ops: bool = True
) -> Pass:
    """`partition_for_libraries` as the pass PartitionForLibraries; the record is appended to `decisions`."""

    def run(mod: IRModule, context: PassContext) -> IRModule:
        result, made = partition_for_libraries(mod, libraries, post_ops=post_ops)
        if decisions is not None:
            decisions.extend(made)
        return result

    return Pass("PartitionForLibraries", 0, run)


def why_unused(library: Library, decisions: Sequence[Decision]) -> str | None:
    """Why a library took nothing at all, in one sentence; None if it took something."""
    own = [d for d in decisions if d.library == library.name]
    if any(d.taken for d in own):
        return None
    if not own:
        left = " that the other libraries left" if any(d.taken for d in decisions) else ""
        rules = ", ".join(rule.name for rule in library.rules)
        return f"no part of the graph{left} matches a rule of {library.name} ({rules})"
    return "; ".join(dict.fromkeys(f"{d.rule}: {d.reason}" for d in own))


@define(eq=False)
class Merge:
    """Moves what some rules take into functions, which are called in its place.

    Attributes:
        library: the name for the record.
        rules: what to look for.
        attributes: attributes of the functions, beside Composite, which is the name of the rule.
        post_ops: see `partition_for_libraries`.
        decisions: where everything that was considered is recorded.

    """

    library: str
    rules: Sequence[Rule]
    attributes: Mapping[str, Any] = field(factory=dict)
    post_ops: bool = True
    decisions: MutableSequence[Decision] = field(factory=list)

    def function(self, function: Function) -> Function:
        """The function with regions in it; the same object if nothing was taken."""
        users = users_of(function)
        taken: set[int] = set()
        chosen: dict[int, Match] = {}
        rules: dict[int, Rule] = {}
        nodes = walk(function)
        present = {str(node.op) for node in nodes if is_op_call(node)}
        possible = [rule for rule in self.rules if _anchor(rule) in present | {None}]  # most operators never occur
        patterns = [(rule, pattern := rule.sought(self.post_ops), heads(pattern)) for rule in possible]
        for node in reversed(nodes):
            for rule, match in _candidates(patterns, node, users, taken):
                reason = _why_fused(match, users) if rule.light else None
                tangled = rule.pattern.why_tangled(match) if isinstance(rule.pattern, Chain) and self.post_ops else None
                reason = reason or tangled or rule.check(match)
                self.decisions.append(Decision(self.library, rule.name, match.ops, reason, node))
                if reason is None:
                    taken.update(id(n) for n in match.nodes)
                    chosen[id(node)], rules[id(node)] = match, rule
                    break
        if not chosen:
            return function

        def make(match: Match, renew: Callable[[Expr], Expr]) -> Expr:
            attributes = {"Composite": rules[id(match.root)].name, **self.attributes}
            body, args = outline(match.nodes, attributes, renew)
            return Call(body, args)

        result = replace_regions(function, chosen, make)
        assert isinstance(result, Function)
        return result


_Sought = tuple[Rule, DFPattern, frozenset[str] | None]


def _candidates(patterns: Sequence[_Sought], node: Expr, users: Users, taken: set[int]) -> Iterator[tuple[Rule, Match]]:
    """Possible regions that end in `node`, the longest first."""
    found: list[tuple[Rule, Match]] = []
    seen: set[tuple[str, frozenset[int]]] = set()
    name = node.op.name if is_op_call(node) and isinstance(node.op, Op) else ""
    for rule, pattern, names in patterns:
        if names is not None and name not in names:
            continue
        for match in matches_at(pattern, node, users):
            key = rule.name, frozenset(id(n) for n in match.nodes)
            if key not in seen and match.isolated(users) and not any(id(n) in taken for n in match.nodes):
                seen.add(key)
                found.append((rule, match))
    yield from sorted(found, key=lambda pair: (-len(pair[1].calls), -pair[0].priority))


def _anchor(rule: Rule) -> str | None:
    """The operator without which there is no match; None where that is not so simple."""
    anchor = rule.pattern.anchor if isinstance(rule.pattern, Chain) else None
    return anchor if isinstance(anchor, str) else None


def heads(pattern: DFPattern) -> frozenset[str] | None:
    """The operators of which the last node of a match may be a call; None if it may be anything else."""
    match pattern:
        case AltPattern(left=left, right=right):
            first, second = heads(left), heads(right)
            return None if first is None or second is None else first | second
        case CallPattern(op=ExprPattern(expr=Op() as op)):
            return frozenset([op.name])
        case AttrPattern(pattern=inner):
            return heads(inner)
    return None


NEIGHBOURS = "generated code fuses it with its neighbours"
"""Why a light rule does not get a region."""


def _why_fused(match: Match, users: Users) -> str | None:
    """Why a region is left to generated code, which takes a neighbour of it; None if there is no such neighbour."""
    pending = [*match.inputs, *users.get(id(match.root), ())]
    while pending:
        node = pending.pop()
        if is_op_call(node):
            return NEIGHBOURS
        if isinstance(node, TupleGetItem):
            pending.append(node.tuple_value)
        elif isinstance(node, Tuple):
            pending.extend(users.get(id(node), ()))
    return None
