"""MergeComposite, AnnotateTarget and PartitionGraph: partitioning in steps that a user can call, as in Relay.

    table = [("acme.conv_relu", is_op("nn.relu")(is_op("nn.conv2d")(wildcard(), wildcard())))]
    mod = Sequential([MergeComposite(table), AnnotateTarget("acme"), PartitionGraph()])(mod)

`partition_for_libraries` is the three of them in one go. The regions stay where they are, as functions that are called;
Relay moves them to the module's top level, and puts `annotation.compiler_begin` and `end` around them before.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from ..ir.errors import FusewireError
from ..ir.expr import Call, Expr, Function
from ..ir.visitor import bind
from .chain import Chain
from .graph import rewrite_function
from .infra import Pass, over_functions
from .library import Executable, Library, Region, Rule
from .matcher import Match
from .partition import Merge
from .patterns import DFPattern

PatternEntry: TypeAlias = (
    Rule | tuple[str, DFPattern | Chain] | tuple[str, DFPattern | Chain, Callable[[Expr], bool]] | Sequence[Any]
)
"""A rule, or Relay's (name, pattern) or (name, pattern, check of the last expression)."""


def merge_composite(pattern_table: Library | Iterable[PatternEntry]) -> Pass:
    """The pass MergeComposite.

    Raises:
        FusewireError: an entry of the table is malformed.

    """
    entries = pattern_table.rules if isinstance(pattern_table, Library) else pattern_table
    rules = [_as_rule(entry) for entry in entries]

    def run(function: Function, mod: object, context: object) -> Function:
        for light in (False, True):
            function = Merge("", [rule for rule in rules if rule.light == light]).function(function)
        return function

    return over_functions("MergeComposite", 0, run)


def _as_rule(entry: Any) -> Rule:
    if isinstance(entry, Rule):
        return entry
    match entry:
        case (str(name), DFPattern() | Chain() as pattern):
            return Rule(name, pattern, implement=_nobody)
        case (str(name), DFPattern() | Chain() as pattern, check) if callable(check):

            def refused(match: Match) -> str | None:
                return None if check(match.root) else "the table's check refuses it"

            return Rule(name, pattern, refused, implement=_nobody)
    raise FusewireError(
        f"a pattern table has rules, or tuples (name, pattern) or (name, pattern, check), got {entry!r}"
    )


def _nobody(region: Region) -> Executable:
    raise FusewireError(f"{region.function.attrs['Composite']} was merged by a table that does not say who runs it")


def annotate_target(targets: str | Library | Iterable[str | Library]) -> Pass:
    """The pass AnnotateTarget: composite functions named "acme.something" get the attribute Compiler="acme"."""
    given = [targets] if isinstance(targets, str | Library) else [*targets]
    names = {target.name if isinstance(target, Library) else target for target in given}

    def annotated(old: Expr, new: Expr) -> Expr | None:
        region = _region(new)
        if region is None or "Compiler" in region.attrs:
            return None
        library = str(region.attrs["Composite"]).partition(".")[0]
        return _with(new, Compiler=library) if library in names else None

    return over_functions("AnnotateTarget", 0, lambda f, mod, context: rewrite_function(f, annotated))


def partition_graph() -> Pass:
    """The pass PartitionGraph: annotated functions are sealed, and composite ones that nobody took are opened again."""

    def sealed(old: Expr, new: Expr) -> Expr | None:
        region = _region(new)
        if region is None or "Primitive" in region.attrs:
            return None
        return _with(new, Primitive=1) if "Compiler" in region.attrs else _opened(new, region)

    return over_functions("PartitionGraph", 0, lambda f, mod, context: rewrite_function(f, sealed))


def _region(node: Expr) -> Function | None:
    """The function of a call of a composite function."""
    function = node.op if isinstance(node, Call) else None
    return function if isinstance(function, Function) and "Composite" in function.attrs else None


def _with(call: Expr, **attributes: object) -> Expr:
    assert isinstance(call, Call) and isinstance(call.op, Function)
    return Call(call.op.with_attr(attributes), call.args)


def _opened(call: Expr, region: Function) -> Expr:
    assert isinstance(call, Call)
    return bind(region.body, dict(zip(region.params, call.args, strict=True)))
