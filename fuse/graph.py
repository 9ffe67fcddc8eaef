"""What passes share: walking a function without entering sealed ones, counting uses, cutting out a region."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from ..ir.expr import Call, Constant, Expr, Function, Tuple, TupleGetItem, Var
from ..ir.op import Op
from ..ir.types import TensorType, TupleType
from ..ir.visitor import children, post_order, with_children

SEALED = ("Primitive", "Compiler", "Composite")
"""Attributes of functions that passes neither enter nor change: fused groups and regions that belong to a library."""


def is_sealed(expr: Expr) -> bool:
    """Whether `expr` is a fused function or a library's."""
    return isinstance(expr, Function) and any(key in expr.attrs for key in SEALED)


def walk(expr: Expr) -> list[Expr]:
    """Every node once, parts before wholes; sealed functions are left out."""
    return post_order(expr, done=is_sealed)


def rewrite(expr: Expr, replace: Callable[[Expr, Expr], Expr | None]) -> Expr:
    """Rebuild `expr` from its leaves up, sealed functions excepted.

    `replace(old, new)` gets each node as it was and with its parts already rebuilt, and returns what to put in its
    place, or None to keep `new`.
    """
    done: dict[int, Expr] = {}
    for node in walk(expr):
        rebuilt = with_children(node, [done.get(id(child), child) for child in children(node)])
        replaced = replace(node, rebuilt)
        done[id(node)] = rebuilt if replaced is None else replaced
    return done.get(id(expr), expr)


def rewrite_function(function: Function, replace: Callable[[Expr, Expr], Expr | None]) -> Function:
    """`rewrite` for a function."""
    result = rewrite(function, replace)
    assert isinstance(result, Function)
    return result


def use_counts(expr: Expr) -> Counter[int]:
    """How often each node is used as a part of another, by id; `x + x` uses x twice."""
    return Counter(id(child) for node in walk(expr) for child in children(node))


def is_op_call(expr: Expr, *names: str) -> TypeGuard[Call]:
    """Whether `expr` calls an operator, and one of `names` where names are given."""
    return isinstance(expr, Call) and isinstance(expr.op, Op) and (not names or expr.op.name in names)


def is_scalar_constant(expr: Expr) -> bool:
    """Whether `expr` is a constant of rank 0; such constants become part of generated code."""
    return isinstance(expr, Constant) and expr.data.ndim == 0


def tensor_type(expr: Expr) -> TensorType:
    """The type of an expression that is known to be a tensor."""
    type_ = expr.checked_type
    assert isinstance(type_, TensorType), f"expected a tensor, got {type_}"
    return type_


def outline(
    members: Sequence[Expr],
    attributes: Mapping[str, Any],
    new: Callable[[Expr], Expr],
    embed: Callable[[Expr], bool] = is_scalar_constant,
) -> tuple[Function, list[Expr]]:
    """Cut a region out of a graph and make a function of it.

    Parameters are called p0, p1, ... in the order of first use. They are tensors: a tuple from outside is taken apart.

    Args:
        members: the nodes of the region, parts before wholes; the last is its only result.
        attributes: the attributes of the function.
        new: what a node outside of the region has become in the graph under construction.
        embed: which nodes from outside become part of the function; by default scalar constants do, while other
            constants become arguments.

    Returns:
        The function, and the arguments to call it with (already passed through `new`).

    """
    params: dict[int, Var] = {}
    args: list[Expr] = []
    inner: dict[int, Expr] = {}

    def from_outside(expr: Expr) -> Expr:
        if embed(expr):
            return expr
        type_ = expr.checked_type
        if isinstance(type_, TupleType):
            return Tuple([from_outside(item(expr, k)) for k in range(len(type_.fields))])
        if id(expr) not in params:
            params[id(expr)] = Var(f"p{len(args)}", type_)
            args.append(expr)
        return params[id(expr)]

    for node in members:
        parts = []
        for child in children(node):
            if id(child) not in inner:
                inner[id(child)] = from_outside(new(child))
            parts.append(inner[id(child)])
        inner[id(node)] = with_children(node, parts)
    return Function(list(params.values()), inner[id(members[-1])], None, attributes), args


def item(expr: Expr, index: int) -> Expr:
    """Field `index` of a tuple-valued expression, without the detour over a `Tuple` that was just built."""
    return expr.fields[index] if isinstance(expr, Tuple) else TupleGetItem(expr, index)
