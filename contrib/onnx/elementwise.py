"""Operators on the elements of tensors: arithmetic, comparisons, logic, activations, conversions."""

import functools
from collections.abc import Callable

import numpy as np

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ir.types import FLOATS, numpy_dtype
from ...ops import nn
from .dtypes import dtype_of
from .node import Node, constant
from .registry import plain, translate
from .values import Value

plain(
    {
        "Abs": ops.abs,
        "Acos": ops.acos,
        "Acosh": ops.acosh,
        "Add": ops.add,
        "And": ops.logical_and,
        "Asin": ops.asin,
        "Asinh": ops.asinh,
        "Atan": ops.atan,
        "Atanh": ops.atanh,
        "BitwiseAnd": ops.bitwise_and,
        "BitwiseNot": ops.bitwise_not,
        "BitwiseOr": ops.bitwise_or,
        "BitwiseXor": ops.bitwise_xor,
        "Ceil": ops.ceil,
        "Cos": ops.cos,
        "Cosh": ops.cosh,
        "Div": ops.divide,
        "Equal": ops.equal,
        "Erf": ops.erf,
        "Exp": ops.exp,
        "Floor": ops.floor,
        "Greater": ops.greater,
        "GreaterOrEqual": ops.greater_equal,
        "IsNaN": ops.isnan,
        "Less": ops.less,
        "LessOrEqual": ops.less_equal,
        "Log": ops.log,
        "Mul": ops.multiply,
        "Neg": ops.negative,
        "Not": ops.logical_not,
        "Or": ops.logical_or,
        "Relu": nn.relu,
        "Round": ops.round,
        "Sigmoid": ops.sigmoid,
        "Sign": ops.sign,
        "Sin": ops.sin,
        "Sinh": ops.sinh,
        "Sqrt": ops.sqrt,
        "Sub": ops.subtract,
        "Tan": ops.tan,
        "Tanh": ops.tanh,
        "Where": ops.where,
        "Xor": ops.logical_xor,
    }
)


@translate("Identity")
def identity(node: Node) -> Value:
    """The value itself, of any kind."""
    return node.value(0)


def _folded(name: str, combine: Callable[[Expr, Expr], Expr]) -> None:
    @translate(name)
    def read(node: Node) -> Expr:
        return functools.reduce(combine, node.tensors)


_folded("Max", ops.maximum)
_folded("Min", ops.minimum)
_folded("Sum", ops.add)


@translate("Mean")
def mean(node: Node) -> Expr:
    """The mean of the inputs."""
    return ops.divide(functools.reduce(ops.add, node.tensors), len(node.tensors))


@translate("Reciprocal")
def reciprocal(node: Node) -> Expr:
    """1 / x."""
    return ops.divide(constant(1, node.dtype()), node[0])


@translate("Pow")
def power(node: Node) -> Expr:
    """The result has the dtype of the base; squares and cubes are products."""
    base, exponent = node.dtype(0), node.dtype(1)
    known = node.known(1)
    if known is not None and known.size == 1 and known.ndim <= node.rank() and known.item() in (2, 3):
        return functools.reduce(ops.multiply, [node[0]] * int(known.item()))
    if base == exponent:
        return ops.power(node[0], node[1])
    if exponent in FLOATS and base not in FLOATS:
        wide = ops.power(ops.cast(node[0], "float64"), ops.cast(node[1], "float64"))
        return ops.cast(wide, base)
    return ops.power(node[0], ops.cast(node[1], base))


@translate("Mod")
def modulo(node: Node) -> Expr:
    """fmod=1: the sign of the dividend."""
    return (ops.mod if node.attr("fmod", 0) else ops.floor_mod)(node[0], node[1])


@translate("BitShift")
def bit_shift(node: Node) -> Expr:
    """Shifts by the width and more give 0."""
    left = node.one_of("direction", "", ("LEFT", "RIGHT")) == "LEFT"
    return (ops.left_shift if left else ops.right_shift)(node[0], node[1])


@translate("IsInf")
def is_inf(node: Node) -> Expr:
    """One or both of the infinities."""
    found = ops.isinf(node[0])
    zero = constant(0, node.dtype())
    if not node.attr("detect_negative", 1):
        found = ops.logical_and(found, ops.greater(node[0], zero))
    if not node.attr("detect_positive", 1):
        found = ops.logical_and(found, ops.less(node[0], zero))
    return found


@translate("Clip")
def clip_attributes(node: Node) -> Expr:
    """Bounds as attributes (before opset 11)."""
    return ops.clip(node[0], node.attr("min", -np.inf), node.attr("max", np.inf))


@translate("Clip", since=11)
def clip(node: Node) -> Expr:
    """Bounds as inputs; the upper one wins."""
    low, high = node.known(1), node.known(2)
    if node.is_float() and (low is not None or not node.has(1)) and (high is not None or not node.has(2)):
        bounds = [float(node.scalar(1, -np.inf)), float(node.scalar(2, np.inf))]
        if not np.isnan(bounds).any():
            return ops.clip(node[0], *bounds)
    data = node[0]
    if node.has(1):
        data = ops.maximum(data, node[1])
    return ops.minimum(data, node[2]) if node.has(2) else data


@translate("LeakyRelu")
def leaky_relu(node: Node) -> Expr:
    """A slope for negative elements."""
    return nn.leaky_relu(node[0], alpha=node.attr("alpha", 0.01))


@translate("PRelu")
def prelu(node: Node) -> Expr:
    """The slope is broadcast to the data (before opset 7: one for each channel)."""
    data, slope = node[0], node[1]
    if node.opset < 7 and node.rank(1) == 1:
        slope = ops.reshape(slope, (-1,) + (1,) * max(node.rank() - 2, 0))
    zero = constant(0, node.dtype())
    return ops.where(ops.less(data, zero), ops.multiply(data, slope), data)


@translate("Dropout")
def dropout(node: Node) -> list[Value]:
    """What inference makes of it: the data unchanged, and a mask of ones."""
    training = node.known(2)
    if node.has(2) and (training is None or training.any()) and (not node.has(1) or node.scalar(1) != 0):
        raise FusewireError("dropout in training mode is random, which is not supported")
    mask = "bool" if node.opset >= 10 else node.dtype()
    return [node[0], ops.ones(node.shape(), mask) if node.wants(1) else None]


def converted(data: Expr, source: str, target: str) -> Expr:
    """A conversion; NaN and what does not fit is as C does it."""
    return data if source == target else ops.cast(data, target)


@translate("Cast")
def cast(node: Node) -> Expr:
    """To the type of the attribute `to`."""
    return converted(node[0], node.dtype(), dtype_of(node.attr("to")))


@translate("CastLike")
def cast_like(node: Node) -> Expr:
    """To the type of the second input."""
    return converted(node[0], node.dtype(), node.dtype(1))


@translate("BitCast")
def bit_cast(node: Node) -> Expr:
    """The same bits under another type."""
    target = dtype_of(node.attr("to"))
    if numpy_dtype(target).itemsize != numpy_dtype(node.dtype()).itemsize:
        raise FusewireError(f"BitCast from {node.dtype()} to {target}: the sizes differ")
    if "bool" in (node.dtype(), target):
        byte = node[0] if node.dtype() != "bool" else ops.cast(node[0], "uint8")
        return ops.cast(byte, target) if target == "bool" else ops.reinterpret(byte, target)
    return converted(node[0], "", target) if node.dtype() == target else ops.reinterpret(node[0], target)


@translate("Binarizer", domain="ai.onnx.ml")
def binarizer(node: Node) -> Expr:
    """1 above a threshold, else 0."""
    limit = constant(node.attr("threshold", 0.0), node.dtype())
    return ops.cast(ops.greater(node[0], limit), node.dtype())
