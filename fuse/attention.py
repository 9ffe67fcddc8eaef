r"""FuseAttention: two matrix products around a softmax become one operator, nn.attention.

    query   key                                  query   key   value   mask
       \   /                                         \     |     |    /
    batch_matmul                                      \    |     |   /
         |                                          nn.attention(scale=..)
    multiply or divide by a number   (or not)              |
         |         mask                                reshape
        add ------/                  (or not)
         |
     nn.softmax along the last axis
         |
    where(isnan, 0, ..)              (or not)
         |      value
    batch_matmul

Reshapes that keep the last two axes may stand anywhere between. The matrix of scores, as large as all of the rest for
long sequences, is then never stored. What lies in front of query, key and value (heads cut out of one matrix,
transposes) is fused into the operator by FuseOps; a transpose of heads and rows behind it becomes an attribute.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from ..ir.expr import Call, Constant, Expr, Function, call
from ..ops.attention import attention
from ..ops.spec import normalize_axis
from .graph import is_op_call, rewrite_function, tensor_type, use_counts
from .infra import Pass, over_functions

_RESHAPES = ("reshape", "squeeze", "expand_dims")
_DTYPES = ("float32", "float64")


def fuse_attention() -> Pass:
    """The pass FuseAttention."""
    return over_functions("FuseAttention", 2, lambda function, mod, context: _Fuser(use_counts(function)).run(function))


@frozen(eq=False)
class _Scores:
    """What a softmax is taken of: the product, what it is multiplied with, what is added."""

    product: Call
    scale: float
    mask: Expr | None


class _Fuser:
    """One function: patterns are looked for in the old graph, and built of what its parts have become."""

    def __init__(self, uses: Counter[int]) -> None:
        self.uses = uses
        self.renewed: dict[int, Expr] = {}

    def run(self, function: Function) -> Function:
        """The function with attention in it."""
        return rewrite_function(function, self.replace)

    def replace(self, old: Expr, new: Expr) -> Expr | None:
        """What becomes of a node, if not the same with new parts."""
        found = None
        if is_op_call(old, "nn.batch_matmul"):
            found = self.attention(old)
        elif is_op_call(new, "transpose") and is_op_call(old, "transpose") and self.uses[id(old.args[0])] == 1:
            found = _swapped(new)
        self.renewed[id(old)] = new if found is None else found
        return found

    def attention(self, outer: Call) -> Expr | None:
        """nn.attention in place of the last product, reshaped to its shape."""
        out = tensor_type(outer)
        if not out.is_static or out.dtype not in _DTYPES or outer.attrs.transpose_a:
            return None
        found = self._softmax(outer.args[0])
        if found is None:
            return None
        softmax, nan_to_zero = found
        kind = tensor_type(softmax)
        scores = self._scores(softmax.args[0]) if kind.ndim in (3, 4) else None
        if scores is None or kind.static_shape[-2:] != tensor_type(outer.args[0]).static_shape[-2:]:
            return None
        parts = self._operands(outer, scores.product, kind.static_shape)
        if parts is None:
            return None
        mask = None if scores.mask is None else self.renewed.get(id(scores.mask), scores.mask)
        turned = not scores.product.attrs.transpose_b
        result = attention(*parts, mask, scale=scores.scale, key_transposed=turned, nan_to_zero=nan_to_zero)
        return reshaped(result, out.static_shape)

    def _operands(self, outer: Call, inner: Call, shape: Sequence[int]) -> tuple[Expr, Expr, Expr] | None:
        """Query, key and value with axes of their own for batch and heads."""
        operands = (*inner.args, outer.args[1])
        types = [tensor_type(part) for part in operands]
        if inner.attrs.transpose_a or any(not t.is_static or t.dtype != types[0].dtype for t in types):
            return None
        if len({t.static_shape[0] for t in types}) != 1 or tensor_type(outer).dtype != types[0].dtype:
            return None
        heads = tuple(shape[:2]) if len(shape) == 4 else (1, shape[0])
        query, key, value = (
            reshaped(self.renewed.get(id(part), part), (*heads, *t.static_shape[1:]))
            for part, t in zip(operands, types, strict=True)
        )
        if outer.attrs.transpose_b:
            value = call("transpose", [value], axes=(0, 1, 3, 2))
        return query, key, value

    def _softmax(self, weights: Expr) -> tuple[Call, bool] | None:
        """The softmax behind the weights of the values, and whether its NaN become 0."""
        weights, nan_to_zero = self._below(weights), False
        if is_op_call(weights, "where") and _is_zero(weights.args[1]):
            test, weights = weights.args[0], weights.args[2]
            if not is_op_call(test, "isnan") or test.args[0] is not weights or self.uses[id(weights)] != 2:
                return None
            nan_to_zero = True
        elif self.uses[id(weights)] != 1:
            return None
        if not is_op_call(weights, "nn.softmax"):
            return None
        ndim = tensor_type(weights).ndim
        return (weights, nan_to_zero) if normalize_axis(weights.attrs.axis, ndim) == ndim - 1 else None

    def _scores(self, scores: Expr) -> _Scores | None:
        """The way from a softmax back to the product; mask and scale are met in this order."""
        shape, scale, mask = tensor_type(scores).shape, 1.0, None
        while True:
            scores = self._below(scores)
            if self.uses[id(scores)] != 1 or not isinstance(scores, Call):
                return None
            if is_op_call(scores, "nn.batch_matmul"):
                return _Scores(scores, scale, mask)
            if is_op_call(scores, "add") and mask is None and scale == 1:
                position = 1 if self._foreign(scores.args[0]) else 0
                mask, scores = scores.args[1 - position], scores.args[position]
                if tensor_type(scores).shape != shape:
                    return None
                continue
            factor = _factor(scores)
            if factor is None:
                return None
            scale, scores = scale * factor[0], factor[1]

    def _foreign(self, expr: Expr) -> bool:
        """Whether an operand of an addition is no score: nothing that ends in a product."""
        while is_op_call(expr, *_RESHAPES) or (isinstance(expr, Call) and _factor(expr) is not None):
            factor = _factor(expr)
            expr = expr.args[0] if factor is None else factor[1]
        return not is_op_call(expr, "nn.batch_matmul")

    def _below(self, expr: Expr) -> Expr:
        """What stands in front of reshapes that keep the last two axes and have no other use."""
        while is_op_call(expr, *_RESHAPES) and self.uses[id(expr)] == 1:
            data = expr.args[0]
            if tensor_type(data).shape[-2:] != tensor_type(expr).shape[-2:]:
                break
            expr = data
        return expr


def reshaped(expr: Expr, shape: Sequence[int]) -> Expr:
    """`expr` with another shape, by one reshape or none."""
    while is_op_call(expr, *_RESHAPES):
        expr = expr.args[0]
    if tensor_type(expr).shape == tuple(shape):
        return expr
    return call("reshape", [expr], newshape=tuple(shape), allowzero=False)


def _swapped(transpose: Call) -> Expr | None:
    """nn.attention that writes rows before heads, in place of a transpose behind it."""
    data = transpose.args[0]
    while is_op_call(data, *_RESHAPES):
        data = data.args[0]
    if not is_op_call(data, "nn.attention") or data.attrs.swap_heads or transpose.attrs.axes is None:
        return None
    if tensor_type(data).shape != tensor_type(transpose.args[0]).shape:
        return None
    if [axis % 4 for axis in transpose.attrs.axes] != [0, 2, 1, 3]:
        return None
    return call("nn.attention", data.args, **{**data.attrs, "swap_heads": True})


def _factor(expr: Call) -> tuple[float, Expr] | None:
    """What a multiplication or division by a number multiplies with, and the other operand."""
    if is_op_call(expr, "divide"):
        number, data = _number(expr.args[1]), expr.args[0]
        number = None if number is None else 1 / number
    elif is_op_call(expr, "multiply"):
        position = 1 if _number(expr.args[1]) is not None else 0
        number, data = _number(expr.args[position]), expr.args[1 - position]
    else:
        return None
    return None if number is None or tensor_type(data).shape != tensor_type(expr).shape else (number, data)


def _number(expr: Expr) -> float | None:
    """The value of a constant of one element."""
    if not isinstance(expr, Constant) or expr.data.size != 1:
        return None
    value = float(expr.data.reshape(()))
    return value if np.isfinite(value) and value else None


def _is_zero(expr: Expr) -> bool:
    return isinstance(expr, Constant) and expr.data.size == 1 and not expr.data.any()
