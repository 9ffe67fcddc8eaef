"""Relay's pattern language: describe a piece of a graph, then find, rewrite or cut out what it matches.

    conv = is_op("nn.conv2d")(wildcard(), is_constant())
    pattern = conv.optional(lambda x: is_op("nn.bias_add")(x, is_constant())).optional(is_op("nn.relu"))
    pattern.match(expr)                       # does the pattern fit, with `expr` as its last node?
    pattern.partition(expr)                   # every match becomes a function
    rewrite(MyCallback(), expr)               # every match is replaced by what the callback makes of it

A pattern object that occurs twice in a pattern must match one and the same expression, so diamonds can be described.
The kinds of patterns are in `patterns`, the algorithms in `matcher`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..ir.expr import Expr
from ..ir.op import get_op
from ..ir.types import TensorType, Type, check_dtype
from .matcher import Match, Node, find_all, partition_matches, rewrite_until_stable
from .patterns import (
    AltPattern,
    AttrPattern,
    CallPattern,
    ConstantPattern,
    DataTypePattern,
    DFPattern,
    DominatorPattern,
    ExprPattern,
    FunctionPattern,
    IfPattern,
    LetPattern,
    ScalarPattern,
    ShapePattern,
    TupleGetItemPattern,
    TuplePattern,
    TypePattern,
    VarPattern,
    WildcardPattern,
)

__all__ = [
    "AltPattern", "AttrPattern", "CallPattern", "ConstantPattern", "DFPattern", "DFPatternCallback", "DataTypePattern",
    "DominatorPattern", "ExprPattern", "FunctionPattern", "IfPattern", "LetPattern", "Match", "ScalarPattern",
    "ShapePattern", "TupleGetItemPattern", "TuplePattern", "TypePattern", "VarPattern", "WildcardPattern", "dominates",
    "find", "has_attr", "has_dtype", "has_shape", "has_type", "is_constant", "is_expr", "is_if", "is_let", "is_op",
    "is_scalar", "is_tuple", "is_tuple_get_item", "is_var", "match", "partition", "rewrite", "wildcard",
]  # fmt: skip


class DFPatternCallback:
    """A rewrite rule: derive from it, set `self.pattern` and define `callback`.

    Args:
        require_type: infer types before matching.
        rewrite_once: apply the rule in the first round only, not until nothing changes any more.

    """

    pattern: DFPattern | None = None

    def __init__(self, require_type: bool = False, rewrite_once: bool = False) -> None:
        self.pattern = None
        self.require_type = require_type
        self.rewrite_once = rewrite_once

    def rewrite(self, expr: Expr) -> Expr:
        """Apply this rule to a graph."""
        return rewrite(self, expr)

    def callback(self, pre: Expr, post: Expr, node_map: Mapping[Any, list[Node]]) -> Expr:
        """What takes the place of a match; return `post` to keep it.

        Args:
            pre: the root of the match in the graph before this round.
            post: the same with rewrites below it done.
            node_map: what each part of the pattern matched, rewrites done: `node_map[self.x][0]`.

        """
        raise NotImplementedError(f"{type(self).__name__} must define callback(pre, post, node_map)")


def is_var(name: str = "") -> VarPattern:
    """A variable, of this name unless it is empty."""
    return VarPattern(name)


def is_constant() -> ConstantPattern:
    """A constant."""
    return ConstantPattern()


def is_scalar(value: float) -> ScalarPattern:
    """A floating constant without dimensions that is `value` as far as its dtype can tell."""
    return ScalarPattern(value)


def is_expr(expr: Expr) -> ExprPattern:
    """An expression structurally equal to `expr`."""
    return ExprPattern(expr)


def is_op(op_name: str) -> ExprPattern:
    """An operator; call it with patterns to describe a call: `is_op("add")(wildcard(), is_constant())`.

    Raises:
        FusewireError: there is no operator of this name.

    """
    return ExprPattern(get_op(op_name))


def is_tuple(fields: Sequence[DFPattern] | None) -> TuplePattern:
    """A tuple of expressions that fit; None: any tuple."""
    return TuplePattern(None if fields is None else tuple(fields))


def is_tuple_get_item(tuple_value: DFPattern, index: int | None = None) -> TupleGetItemPattern:
    """An item of a tuple; any item if `index` is None."""
    return TupleGetItemPattern(tuple_value, index)


def is_if(cond: DFPattern, true_branch: DFPattern, false_branch: DFPattern) -> IfPattern:
    """An `If`."""
    return IfPattern(cond, true_branch, false_branch)


def is_let(var: DFPattern, value: DFPattern, body: DFPattern) -> LetPattern:
    """A `Let`."""
    return LetPattern(var, value, body)


def wildcard() -> WildcardPattern:
    """Anything; two wildcards may match the same expression, one wildcard used twice must."""
    return WildcardPattern()


def has_attr(attrs: Mapping[str, Any], pattern: DFPattern | None = None) -> AttrPattern:
    """A pattern (any, by default) whose call has these attributes."""
    return AttrPattern(pattern if pattern is not None else wildcard(), dict(attrs))


def has_type(ttype: Type, pattern: DFPattern | None = None) -> TypePattern:
    """A pattern (any, by default) whose expression has this type."""
    return TypePattern(pattern if pattern is not None else wildcard(), ttype)


def has_dtype(dtype: str, pattern: DFPattern | None = None) -> DataTypePattern:
    """A pattern (any, by default) whose expression is a tensor of this element type."""
    return DataTypePattern(pattern if pattern is not None else wildcard(), check_dtype(dtype))


def has_shape(shape: Sequence[Any], pattern: DFPattern | None = None) -> ShapePattern:
    """A pattern (any, by default) whose expression is a tensor of this shape."""
    return ShapePattern(pattern if pattern is not None else wildcard(), TensorType(shape).shape)


def dominates(parent: DFPattern, path: DFPattern, child: DFPattern) -> DominatorPattern:
    """`child`, to which all paths from one `parent` lead, by steps that fit `path`."""
    return DominatorPattern(parent, path, child)


def match(pattern: DFPattern, expr: Expr) -> bool:
    """Whether the pattern fits with `expr` as its last node."""
    return pattern.match(expr)


def find(pattern: DFPattern, expr: Expr) -> list[Match]:
    """All matches in a graph, from the result towards the inputs; they do not overlap."""
    return find_all(pattern, expr)


def rewrite(callbacks: DFPatternCallback | Sequence[DFPatternCallback], expr: Expr) -> Expr:
    """`expr` with every match replaced, again and again until no callback changes anything.

    A match is left alone if an inner node of it is used from outside.
    """
    rules = [callbacks] if isinstance(callbacks, DFPatternCallback) else callbacks
    return rewrite_until_stable(rules, expr)


def partition(
    pattern: DFPattern,
    expr: Expr,
    attrs: Mapping[str, Any] | None = None,
    check: Callable[[Expr], bool] = lambda expr: True,
) -> Expr:
    """`expr` with every match moved into a function, called in its place, with the attribute PartitionedFromPattern.

    Args:
        pattern: what to look for.
        expr: the graph; it must be typed.
        attrs: further attributes of the functions.
        check: says of the last node of a match whether it may be moved.

    """
    return partition_matches(pattern, expr, attrs or {}, check)
