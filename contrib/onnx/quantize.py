"""Quantised arithmetic: sums in int32, scales in float32, rounded half to even and saturated, as ONNX defines it."""

import math
from collections.abc import Sequence

import numpy as np

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ir.types import INTEGERS
from ...ops import nn
from .dtypes import dtype_of
from .linear import matmul
from .node import Node
from .registry import translate
from .window import convolution


def _along(node: Node, k: int, rank: int, axis: int) -> Expr:
    """A scale or zero point shaped so that it is broadcast along `axis`; one element: a scalar."""
    dims = node.shape(k)
    if len(dims) <= 1 and int(np.prod(dims)) == 1:
        return ops.reshape(node[k], ())
    if len(dims) == 1:
        return ops.reshape(node[k], (-1,) + (1,) * (rank - 1 - axis))
    return node[k]


def _blocked(node: Node, k: int, axis: int) -> Expr:
    """A scale or zero point of blocks, each element repeated over its block."""
    size, block = node.shape()[axis], node.count("block_size")
    repeated = ops.repeat(node[k], block, axis)
    return ops.strided_slice(repeated, [0], [size], axes=[axis])


def _parameter(node: Node, k: int) -> Expr:
    rank = node.rank()
    axis = int(node.attr("axis", 1))
    if node.attr("block_size", 0) and node.rank(k) == rank:
        return _blocked(node, k, node.place(axis, rank))
    # One scale for all elements has no axis: the attribute, by default 1, may not fit the tensor then.
    single = math.prod(node.shape(k)) == 1
    return _along(node, k, rank, 0 if single else node.place(axis, rank))


def saturated(value: Expr, dtype: str) -> Expr:
    """Whole numbers, still floating, brought into the range of an integer dtype."""
    if dtype not in INTEGERS:
        raise FusewireError(f"quantised tensors have an integer dtype, got {dtype}")
    limits = np.iinfo(dtype)
    return ops.cast(ops.clip(value, float(limits.min), float(limits.max)), dtype)


@translate("QuantizeLinear")
def quantize_linear(node: Node) -> Expr:
    """round(x / scale) + zero point, saturated."""
    target = node.dtype(2) if node.has(2) else "uint8"
    if node.attr("output_dtype", 0):
        target = dtype_of(node.attr("output_dtype"))
    if target.startswith(("float", "bfloat")):
        raise FusewireError(f"QuantizeLinear to {target} is not supported")
    wide = "float64" if node.dtype() in ("float64", "int32") else "float32"
    data = node[0] if node.dtype() == wide else ops.cast(node[0], wide)
    scale = _parameter(node, 1)
    scaled = ops.divide(data, scale if node.dtype(1) == wide else ops.cast(scale, wide))
    rounded = ops.round(scaled)
    if node.has(2):
        rounded = ops.add(rounded, ops.cast(_parameter(node, 2), wide))
    return saturated(rounded, target)


@translate("DequantizeLinear")
def dequantize_linear(node: Node) -> Expr:
    """(x - zero point) * scale, in the dtype of the scale."""
    target = node.dtype(1)
    if node.attr("output_dtype", 0):
        target = dtype_of(node.attr("output_dtype"))
    wide = "float32" if target != "float64" else target
    data = ops.cast(node[0], "int32") if node.dtype() != "int32" else node[0]
    if node.has(2):
        data = ops.subtract(data, ops.cast(_parameter(node, 2), "int32"))
    scale = _parameter(node, 1)
    scale = scale if node.dtype(1) == wide else ops.cast(scale, wide)
    done = ops.multiply(ops.cast(data, wide), scale)
    return done if wide == target else ops.cast(done, target)


def centred(data: Expr, zero: Expr | None) -> Expr:
    """In int32, minus the zero point."""
    wide = ops.cast(data, "int32")
    return wide if zero is None else ops.subtract(wide, ops.cast(zero, "int32"))


def matrix_zero(node: Node, k: int, rows: bool) -> Expr | None:
    """The zero point of a matrix product's operand: one, or one for each row (or column)."""
    if not node.has(k):
        return None
    dims = node.shape(k)
    if int(np.prod(dims)) == 1:
        return ops.reshape(node[k], ())
    return ops.expand_dims(node[k], 1) if rows and len(dims) == 1 else node[k]


def _channel_zero(node: Node, k: int, rank: int) -> Expr | None:
    if not node.has(k):
        return None
    return ops.reshape(node[k], (-1,) + (1,) * (rank - 1) if int(np.prod(node.shape(k))) > 1 else ())


@translate("MatMulInteger")
def matmul_integer(node: Node) -> Expr:
    """Sums in int32."""
    return matmul(centred(node[0], matrix_zero(node, 2, True)), centred(node[1], matrix_zero(node, 3, False)))


@translate("ConvInteger")
def conv_integer(node: Node) -> Expr:
    """Sums in int32."""
    zero = _channel_zero(node, 3, node.rank(1))
    return convolution(node, centred(node[0], _channel_zero(node, 2, 0)), centred(node[1], zero))


def requantized(sums: Expr, scales: Sequence[Expr], zero: Expr, dtype: str) -> Expr:
    """int32 sums times a * b / y, rounded, plus the zero point, saturated."""
    a, b, y = (ops.cast(s, "float64") for s in scales)
    scaled = ops.divide(ops.multiply(ops.cast(sums, "float64"), ops.multiply(a, b)), y)
    return saturated(ops.add(ops.round(scaled), ops.cast(zero, "float64")), dtype)


def scalar(node: Node, k: int) -> Expr:
    """Input `k`, without its dimensions where it is one number."""
    return ops.reshape(node[k], ()) if int(np.prod(node.shape(k))) == 1 else node[k]


@translate("QLinearMatMul")
def qlinear_matmul(node: Node) -> Expr:
    """a, its scale and zero point, b with the same, and those of the result."""
    za, zb = matrix_zero(node, 2, True), matrix_zero(node, 5, False)
    sums = matmul(centred(node[0], za), centred(node[3], zb))
    scale_a = matrix_zero(node, 1, True)
    assert scale_a is not None
    return requantized(sums, [scale_a, scalar(node, 4), scalar(node, 6)], scalar(node, 7), node.dtype(7))


@translate("QLinearConv")
def qlinear_conv(node: Node) -> Expr:
    """The bias is in units of the product of both scales."""
    rank = node.rank()
    weight = centred(node[3], _channel_zero(node, 5, node.rank(3)))
    sums = convolution(node, centred(node[0], _channel_zero(node, 2, 0)), weight)
    if node.has(8):
        sums = nn.bias_add(sums, node[8])
    channels = int(np.prod(node.shape(4)))
    scale = ops.reshape(node[4], (-1,) + (1,) * (rank - 2) if channels > 1 else ())
    return requantized(sums, [scalar(node, 1), scale, scalar(node, 6)], scalar(node, 7), node.dtype(7))
