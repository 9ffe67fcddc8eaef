"""Operators of ONNX Runtime's own domain, which its quantiser writes in models of the form QOperator.

As their documentation says (docs/ContribOperators.md of ONNX Runtime): each is an operator on dequantised values whose
result is quantised again. Scales and zero points stand behind each tensor; a zero point that is left out is 0.
"""

from collections.abc import Callable

import attrs

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import nn
from .linear import matmul
from .node import Node, constant
from .quantize import centred, dequantize_linear, matrix_zero, quantize_linear, requantized, saturated, scalar
from .registry import translate
from .window import average_pool

DOMAIN = "com.microsoft"

translate("QuantizeLinear", domain=DOMAIN)(quantize_linear)
translate("DequantizeLinear", domain=DOMAIN)(dequantize_linear)


def real(node: Node, k: int, scale: int) -> Expr:
    """Input `k` in float32; its scale is input `scale`, the zero point comes next."""
    whole = centred(node[k], scalar(node, scale + 1) if node.has(scale + 1) else None)
    return ops.multiply(ops.cast(whole, "float32"), scalar(node, scale))


def whole(node: Node, value: Expr, scale: int, dtype: str) -> Expr:
    """A result quantised; its scale is input `scale`, the zero point comes next."""
    rounded = ops.round(ops.divide(value, scalar(node, scale)))
    if node.has(scale + 1):
        rounded = ops.add(rounded, ops.cast(scalar(node, scale + 1), "float32"))
    return saturated(rounded, dtype)


def _unary(name: str, compute: Callable[[Node, Expr], Expr]) -> None:
    @translate(name, domain=DOMAIN)
    def read(node: Node) -> Expr:
        return whole(node, compute(node, real(node, 0, 1)), 3, node.dtype())


def _binary(name: str, compute: Callable[[Expr, Expr], Expr]) -> None:
    @translate(name, domain=DOMAIN)
    def read(node: Node) -> Expr:
        return whole(node, compute(real(node, 0, 1), real(node, 3, 4)), 6, node.dtype())


def _channels_first(compute: Callable[[Node, Expr], Expr]) -> Callable[[Node, Expr], Expr]:
    """Refuse tensors with the channels last, which only models that were optimised for a machine have."""

    def read(node: Node, x: Expr) -> Expr:
        if node.attr("channels_last", 0):
            raise FusewireError("channels_last=1 is not supported")
        return compute(node, x)

    return read


def _pooled(node: Node, x: Expr) -> Expr:
    pooled = average_pool(attrs.evolve(node, inputs=(x,)))
    assert isinstance(pooled, Expr)
    return pooled


def _softmax(node: Node, x: Expr) -> Expr:
    axis = node.axis(-1)
    if node.attr("opset", 13) < 13 and axis != node.rank() - 1:
        raise FusewireError("a softmax over several axes (opset 12 and older) is not supported")
    return nn.softmax(x, axis)


_binary("QLinearAdd", ops.add)
_binary("QLinearMul", ops.multiply)
_unary("QLinearSigmoid", lambda node, x: ops.sigmoid(x))
_unary("QLinearLeakyRelu", lambda node, x: nn.leaky_relu(x, node.attr("alpha", 0.01)))
_unary("QLinearSoftmax", _softmax)
_unary("QLinearAveragePool", _channels_first(_pooled))
_unary(
    "QLinearGlobalAveragePool", _channels_first(lambda node, x: ops.mean(x, list(range(2, node.rank())), keepdims=True))
)


@translate("QLinearConcat", domain=DOMAIN)
def qlinear_concat(node: Node) -> Expr:
    """The scale and zero point of the result come first, then each tensor with its own."""
    tensors = [real(node, k, k + 1) for k in range(2, len(node.inputs), 3)]
    return whole(node, ops.concatenate(tensors, node.axis(0, node.rank(2))), 0, node.dtype(2))


@translate("QLinearWhere", domain=DOMAIN)
def qlinear_where(node: Node) -> Expr:
    """Chosen element by element."""
    return whole(node, ops.where(node[0], real(node, 1, 2), real(node, 4, 5)), 7, node.dtype(1))


@translate("QGemm", domain=DOMAIN)
def qgemm(node: Node) -> Expr:
    """Alpha * A' B' + C, with C in units of the product of both scales; float32 if the result has no scale."""
    turned = bool(node.attr("transB", 0))
    a, b = centred(node[0], matrix_zero(node, 2, True)), centred(node[3], matrix_zero(node, 5, turned))
    a = ops.transpose(a, [1, 0]) if node.attr("transA", 0) else a
    b = ops.transpose(b, [1, 0]) if turned else b
    sums = matmul(a, b)
    if node.has(6):
        sums = ops.add(sums, node[6])
    scales = [scalar(node, 1), scalar(node, 4)]
    alpha = node.attr("alpha", 1.0)
    if alpha != 1:
        scales[0] = ops.multiply(scales[0], constant(alpha, "float32"))
    if not node.has(7):
        return ops.multiply(ops.cast(sums, "float32"), ops.multiply(*scales))
    zero = scalar(node, 8) if node.has(8) else constant(0, node.dtype())
    return requantized(sums, [*scales, scalar(node, 7)], zero, node.dtype(8) if node.has(8) else node.dtype())
