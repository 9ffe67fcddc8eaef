"""CanonicalizeOps and SimplifyExpr: one way to say a thing, and no detours."""

import numpy as np

from ..ir.expr import Call, Expr, call
from ..ops.dense import batch_matmul, matmul
from .graph import is_op_call, rewrite_function, tensor_type
from .infra import Pass, over_functions
from .simplify_inference import along_axis

_RESHAPES = ("reshape", "squeeze", "expand_dims", "nn.batch_flatten")


def canonicalize_ops() -> Pass:
    """The pass CanonicalizeOps: bias_add becomes expand_dims and add, so that later passes know one addition only."""
    return over_functions("CanonicalizeOps", 3, lambda f, mod, context: rewrite_function(f, _canonical))


def _canonical(old: Expr, new: Expr) -> Expr | None:
    if not is_op_call(new, "nn.bias_add"):
        return None
    data, bias = new.args
    return call("add", [data, along_axis(bias, tensor_type(data), new.attrs.axis)])


def simplify_expr() -> Pass:
    """The pass SimplifyExpr: transposes, reshapes and casts that undo each other, do nothing, or go into a product."""
    return over_functions("SimplifyExpr", 2, lambda f, mod, context: rewrite_function(f, _simpler))


def _simpler(old: Expr, new: Expr) -> Expr | None:
    if is_op_call(new, "cast"):
        (data,) = new.args
        return data if data.checked_type == new.checked_type else None
    if is_op_call(new, "transpose"):
        return _transpose(new)
    if is_op_call(new, *_RESHAPES):
        return _reshape(new)
    if is_op_call(new, "nn.dense", "nn.matmul", "nn.batch_matmul"):
        return _product(new)
    return None


def _product(outer: Call) -> Expr | None:
    """A matrix product that reads its right-hand side transposed in place of one that is given the transpose."""
    left, right = outer.args
    if not is_op_call(right, "transpose"):
        return None
    *batch, last, lines = _order(right)
    if (last, lines) != (len(batch) + 1, len(batch)) or batch != list(range(len(batch))):
        return None
    (matrix,) = right.args
    out_dtype = outer.attrs.out_dtype
    if is_op_call(outer, "nn.dense"):
        return matmul(left, matrix, None, out_dtype)
    flags = {"transpose_a": outer.attrs.transpose_a, "transpose_b": not outer.attrs.transpose_b}
    if is_op_call(outer, "nn.matmul"):
        return matmul(left, matrix, None, out_dtype, **flags)
    return batch_matmul(left, matrix, out_dtype, **flags)


def _order(transpose: Call) -> tuple[int, ...]:
    ndim = tensor_type(transpose).ndim
    axes = transpose.attrs.axes
    return tuple(a % ndim for a in axes) if axes else tuple(reversed(range(ndim)))


def _transpose(outer: Call) -> Expr | None:
    """One transpose in place of two, and none in place of one that keeps the order."""
    (data,) = outer.args
    order = _order(outer)
    if is_op_call(data, "transpose"):
        order = tuple(int(a) for a in np.asarray(_order(data), dtype=int)[list(order)])
        (data,) = data.args
        outer = call("transpose", [data], axes=order)
    elif order != tuple(range(len(order))):
        return None
    return data if order == tuple(range(len(order))) else outer


def _reshape(outer: Call) -> Expr | None:
    """One reshape in place of two, and none in place of one that keeps the shape."""
    (data,) = outer.args
    found = None
    if is_op_call(data, *_RESHAPES):
        (data,) = data.args
        type_ = tensor_type(outer)
        if type_.is_static and 0 not in type_.static_shape:
            found = call("reshape", [data], newshape=type_.static_shape, allowzero=False)
    return data if data.checked_type == outer.checked_type else found
