"""`-strict`: what would silently run elsewhere than the target asks is an error when the graph is built.

A target asks each library that `-libs=` names for every operator that one of the library's rules is about. So

* a library that takes nothing is an error, and
* an operator that a rule of one of the libraries matches, and that none of them took, is an error: they refused it, or
  the pass that would have handed it over did not run.

Operators that no rule is about run in generated code, and that is where they were asked to run. What is found while the
module runs is an error without `-strict`, too: a library that is missing, or that fails. Where the choice is left to
measurement (`-libs=auto`), a library is not asked for anything.
"""

from collections.abc import Mapping, Sequence

from ..ir.errors import PlacementError
from ..ir.expr import Call, Expr
from ..ir.module import IRModule
from ..ir.visitor import children
from .graph import is_op_call
from .infra import Pass, PassContext
from .library import Library
from .partition import Decision, partition_for_libraries, why_unused


def strict_pass(libraries: Sequence[Library], decisions: Sequence[Decision]) -> Pass:
    """A pass, RequireLibraries, that comes after PartitionForLibraries, changes nothing and checks who took what.

    Its function raises PlacementError with all that would run elsewhere, and why.

    Args:
        libraries: those that the target names.
        decisions: what PartitionForLibraries has recorded by the time the pass runs.

    """

    def run(mod: IRModule, context: PassContext) -> IRModule:
        left = _left(mod, libraries)
        problems, named = misplaced(left), {decision.library for decision in left}
        for library in libraries:
            if library.name not in named and (reason := why_unused(library, decisions)):
                problems.append(f"library {library.name} takes nothing: {reason}")
        if problems:
            raise PlacementError("-strict: not everything runs where the target asks:\n  " + "\n  ".join(problems))
        return mod

    return Pass("RequireLibraries", 0, run)


def misplaced(left: Sequence[Decision]) -> list[str]:
    """The operators that are left of a partitioned module though rules of the libraries are about them, and why.

    Each line has the operator, its types, and each library's reason; equal ones are counted.
    """
    found: dict[int, tuple[Expr, dict[str, Decision]]] = {}
    for decision in left:
        anchor = _anchor(decision)
        _, reasons = found.setdefault(id(anchor), (anchor, {}))
        # Of a rule with a chain of operators behind the first, the shortest match says what hinders the first.
        if decision.library not in reasons or len(decision.ops) < len(reasons[decision.library].ops):
            reasons[decision.library] = decision
    lines = [_line(call, reasons) for call, reasons in reversed(found.values())]  # from the inputs on
    return [line + (f" ({n} times)" if (n := lines.count(line)) > 1 else "") for line in dict.fromkeys(lines)]


def _left(mod: IRModule, libraries: Sequence[Library]) -> list[Decision]:
    """What the libraries say when they are asked again, about what nobody took.

    They are asked for the first operators of their chains only: what follows may run anywhere, and what generated code
    fuses with its neighbours (light rules), too.
    """
    return partition_for_libraries(mod, libraries, post_ops=False)[1]


def _anchor(decision: Decision) -> Expr:
    """The operator call that a match is about: its first."""
    stack: list[Expr] = [decision.root]
    while stack:
        node = stack.pop()
        if is_op_call(node, *decision.ops[:1]):
            return node
        if not isinstance(node, Call) or is_op_call(node, *decision.ops):
            stack.extend(reversed(children(node)))
    return decision.root


def _line(anchor: Expr, reasons: Mapping[str, Decision]) -> str:
    what = type(anchor).__name__
    if isinstance(anchor, Call):
        what = f"{anchor.op}({', '.join(str(arg.checked_type) for arg in anchor.args)})"
    unasked = "not asked, PartitionForLibraries did not run"
    because = "; ".join(f"{decision.rule}: {decision.reason or unasked}" for decision in reasons.values())
    return f"{what} -> {anchor.checked_type}: {because}"
