"""partition_for_libraries: which regions of a graph go to an external library, and why the others do not.

Libraries take their pick in the order in which the user named them. Each looks at the graph from the result towards the
inputs, so that a region is found at its last operator first: conv2d + bias_add + relu before conv2d + bias_add. Among
the rules that match at one place the longest match wins. A region must have no inner value that is used outside of it.
"""

from collections.abc import Callable, Iterator, MutableSequence, Sequence

from attrs import frozen

from ..ir.expr import Call, Expr, Function
from ..ir.module import IRModule
from .graph import is_sealed, outline, walk
from .infra import Pass, PassContext
from .library import Library, Rule
from .matcher import Match, Users, matches_at, replace_regions, users_of


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


def partition_for_libraries(mod: IRModule, libraries: Sequence[Library]) -> tuple[IRModule, list[Decision]]:
    """Wrap what libraries can take in functions with the attributes Composite, Compiler and Primitive.

    Args:
        mod: a typed module.
        libraries: in order of preference.

    Returns:
        The new module, and a record of everything that was considered.

    """
    decisions: list[Decision] = []
    functions = dict(mod.functions)
    for name, function in mod.functions.items():
        if not is_sealed(function):
            for library in libraries:
                functions[name] = _partition(functions[name], library, decisions)
    same = all(functions[name] is f for name, f in mod.functions.items())
    return (mod if same else IRModule(functions)), decisions


def partition_pass(libraries: Sequence[Library], decisions: MutableSequence[Decision] | None = None) -> Pass:
    """`partition_for_libraries` as the pass PartitionForLibraries; the record is appended to `decisions`."""

    def run(mod: IRModule, context: PassContext) -> IRModule:
        result, made = partition_for_libraries(mod, libraries)
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


def _partition(function: Function, library: Library, decisions: list[Decision]) -> Function:
    users = users_of(function)
    taken: set[int] = set()
    chosen: dict[int, Match] = {}
    rules: dict[int, Rule] = {}
    for node in reversed(walk(function)):
        for rule, match in _candidates(library, node, users, taken):
            reason = rule.check(match)
            decisions.append(Decision(library.name, rule.name, match.ops, reason, node))
            if reason is None:
                taken.update(id(n) for n in match.nodes)
                chosen[id(node)], rules[id(node)] = match, rule
                break
    if not chosen:
        return function

    def make(match: Match, renew: Callable[[Expr], Expr]) -> Expr:
        attributes = {"Composite": rules[id(match.root)].name, "Compiler": library.name, "Primitive": 1}
        body, args = outline(match.nodes, attributes, renew)
        return Call(body, args)

    result = replace_regions(function, chosen, make)
    assert isinstance(result, Function)
    return result


def _candidates(library: Library, node: Expr, users: Users, taken: set[int]) -> Iterator[tuple[Rule, Match]]:
    """Possible regions that end in `node`, the longest first."""
    found: list[tuple[Rule, Match]] = []
    seen: set[tuple[str, frozenset[int]]] = set()
    for rule in library.rules:
        for match in matches_at(rule.pattern, node, users):
            key = rule.name, frozenset(id(n) for n in match.nodes)
            if key not in seen and match.isolated(users) and not any(id(n) in taken for n in match.nodes):
                seen.add(key)
                found.append((rule, match))
    yield from sorted(found, key=lambda pair: (-len(pair[1].calls), -pair[0].priority))
