"""EliminateCommonSubexpr: what is computed twice from the same values is computed once.

Nodes are numbered by what they compute (hash-consing), from the leaves up, so each is looked at once. Functions inside
of a function are left alone: their bodies live in another scope.
"""

from collections.abc import Callable, Hashable

from ..ir.expr import Call, Constant, Expr, Function, Tuple, TupleGetItem
from ..ir.op import Op
from .graph import rewrite_function, walk
from .infra import Pass, over_functions

SMALL = 4096
"""Bytes up to which constants are compared by value; larger ones are the same only if they are one object."""


def eliminate_common_subexpr(fskip: Callable[[Expr], bool] | None = None) -> Pass:
    """The pass EliminateCommonSubexpr.

    Args:
        fskip: calls for which this holds are kept as they are.

    """
    return over_functions("EliminateCommonSubexpr", 3, lambda f, mod, context: eliminate(f, fskip))


def eliminate(function: Function, fskip: Callable[[Expr], bool] | None = None) -> Function:
    """`function` with equal subexpressions merged into the first of them."""
    inner = {id(n) for f in walk(function.body) if isinstance(f, Function) for n in walk(f.body)}
    first: dict[Hashable, Expr] = {}

    def merged(old: Expr, new: Expr) -> Expr | None:
        if id(old) in inner or (fskip is not None and isinstance(new, Call) and fskip(new)):
            return None
        key = _key(new)
        return None if key is None else first.setdefault(key, new)

    return rewrite_function(function, merged)


def _key(expr: Expr) -> Hashable | None:
    """What an expression computes; equal keys mean equal values. None for what is only equal to itself."""
    match expr:
        case Call(op=Op() as op, args=args, attrs=attributes):
            return ("call", id(op), attributes, tuple(map(id, args)))
        case Tuple(fields=fields):
            return ("tuple", tuple(map(id, fields)))
        case TupleGetItem(tuple_value=value, index=index):
            return ("item", id(value), index)
        case Constant(data=data) if data.nbytes <= SMALL:
            return ("constant", data.dtype.name, data.shape, data.tobytes())
    return None
