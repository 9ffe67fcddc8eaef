"""oneDNN's prepared convolutions and matrix products against NumPy in float64: layouts, dtypes, post-ops."""

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusewire.contrib.onednn.convolution import Convolution
from fusewire.contrib.onednn.describe import Binary, Eltwise, Sum
from fusewire.contrib.onednn.ffi import ELTWISE, OneDNNRefused
from fusewire.contrib.onednn.primitive import Primitive
from fusewire.contrib.onednn.product import MatMul
from tests.contrib.onednn_cases import Array, close, describe, needs_onednn, reference_convolution, uniform


def run_convolution(c: Convolution, *operands: Array, before: Array | None = None) -> tuple[Array, Array, Primitive]:
    src, weights = uniform(1, c.src_shape), uniform(2, c.weights_shape)
    primitive = Primitive(c)
    primitive.set_weights(weights, uniform(3, c.dst_shape[1:2]) if c.bias else None)
    got = np.full(c.dst_shape, np.nan, np.float32) if before is None else before.copy()
    primitive.execute(src, got, operands=operands)
    expected = reference_convolution(c, src, weights)
    if c.bias:
        expected += uniform(3, c.dst_shape[1:2]).reshape(-1, *[1] * len(c.strides))
    return got, expected, primitive


CONVOLUTIONS = {
    "3x3": describe((2, 16, 9, 11), 32, (3, 3), low=1, high=1),
    "image": describe((1, 3, 20, 20), 16, (3, 3), low=1, high=1),
    "odd channels": describe((1, 5, 8, 8), 7, (3, 3), low=1, high=1),
    "stride 2": describe((1, 16, 13, 13), 16, (3, 3), stride=2, low=1, high=1),
    "stride 2 with a remainder": describe((1, 16, 14, 14), 16, (3, 3), stride=2, low=1, high=1),
    "dilation 2": describe((1, 16, 13, 13), 16, (3, 3), dilation=1, low=2, high=2),
    "2 groups": describe((1, 16, 9, 9), 32, (3, 3), low=1, high=1, groups=2),
    "3 groups of 1, doubled": describe((1, 3, 9, 9), 6, (3, 3), groups=3),
    "depthwise": describe((2, 24, 9, 9), 24, (3, 3), low=1, high=1, groups=24),
    "asymmetric padding": describe((1, 16, 9, 9), 16, (3, 3), stride=2, low=0, high=1),
    "1x1": describe((1, 32, 7, 7), 64, (1, 1)),
    "1x1 stride 2": describe((1, 32, 8, 8), 64, (1, 1), stride=2),
    "7x7 stride 2": describe((1, 3, 32, 32), 64, (7, 7), stride=2, low=3, high=3),
    "kernel of the image's size": describe((2, 16, 5, 7), 8, (5, 7)),
    "1-D": describe((2, 16, 30), 24, (5,), low=2, high=2),
    "1-D stride and dilation": describe((2, 16, 30), 24, (3,), stride=2, dilation=2, low=1, high=3),
    "3-D": describe((1, 16, 5, 6, 7), 16, (3, 3, 3), low=1, high=1),
    "bias": describe((1, 16, 9, 9), 32, (3, 3), low=1, high=1, bias=True),
    "bias and groups": describe((1, 32, 9, 9), 32, (3, 3), groups=2, bias=True),
    "one thread": describe((1, 16, 9, 9), 16, (3, 3), num_threads=1),
    "three threads": describe((1, 16, 9, 9), 16, (3, 3), num_threads=3),
}


@needs_onednn
@pytest.mark.parametrize("c", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(c: Convolution) -> None:
    assert c.check() is None
    got, expected, primitive = run_convolution(c)
    close(got, expected)
    assert not primitive.implementation.startswith("ref")
    assert primitive.num_threads == (c.num_threads or primitive.num_threads)


@needs_onednn
@pytest.mark.parametrize("groups", [1, 2, 16])
def test_convolution_in_other_layouts(groups: int) -> None:
    order, weights_order = (0, 2, 3, 1), (2, 3, 1, 0)
    orders: dict[str, Any] = {"src_order": order, "weights_order": weights_order, "dst_order": order}
    c = describe((2, 16, 8, 9), 32, (3, 3), low=1, high=1, groups=groups, **orders)
    src, weights = uniform(1, c.src_shape), uniform(2, c.weights_shape)
    primitive = Primitive(c)
    primitive.set_weights(weights.transpose(weights_order).copy())
    got = np.empty(tuple(c.dst_shape[axis] for axis in order), np.float32)
    primitive.execute(src.transpose(order).copy(), got)
    close(got.transpose(0, 3, 1, 2), reference_convolution(c, src, weights))


@needs_onednn
@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.parametrize("order", [None, (2, 3, 1, 0)])
def test_depthwise_weights_with_a_multiplier(channels: int, order: tuple[int, ...] | None) -> None:
    c = Convolution(
        (2, channels, 8, 9), (channels, 3, 3, 3), (2, 3 * channels, 6, 7), (1, 1), (0, 0), (0, 0), (0, 0),
        groups=channels, depthwise=True, weights_order=order, bias=True,
    )  # fmt: skip
    src, weights, bias = uniform(1, c.src_shape), uniform(2, c.weights_shape), uniform(3, (3 * channels,))
    primitive, got = Primitive(c), np.empty(c.dst_shape, np.float32)
    primitive.set_weights(weights if order is None else weights.transpose(order).copy(), bias)
    primitive.execute(src, got)
    flat = describe(c.src_shape, 3 * channels, (3, 3), groups=channels)
    close(got, reference_convolution(flat, src, weights.reshape(flat.weights_shape)) + bias.reshape(-1, 1, 1))


@needs_onednn
def test_weights_can_change_at_each_call() -> None:
    c = describe((1, 16, 9, 9), 32, (3, 3), groups=2, bias=True, constant_weights=False)
    primitive = Primitive(c)
    src = uniform(1, c.src_shape)
    for seed in (5, 6):
        weights, bias = uniform(seed, c.weights_shape), uniform(seed + 10, (32,))
        got = np.empty(c.dst_shape, np.float32)
        primitive.execute(src, got, weights, bias)
        close(got, reference_convolution(c, src, weights) + bias.astype(np.float64).reshape(-1, 1, 1))


@needs_onednn
@pytest.mark.parametrize("channels", [3, 16])
def test_constant_weights_are_copied_and_can_be_replaced(channels: int) -> None:
    c = describe((1, channels, 9, 9), 16, (3, 3), bias=True)
    primitive, src = Primitive(c), uniform(1, c.src_shape)
    for seed in (5, 6):
        weights, bias = uniform(seed, c.weights_shape), uniform(seed + 10, (16,))
        expected = reference_convolution(c, src, weights) + bias.astype(np.float64).reshape(-1, 1, 1)
        primitive.set_weights(weights, bias)
        weights[:], bias[:] = np.nan, np.nan
        got = np.empty(c.dst_shape, np.float32)
        primitive.execute(src, got)
        close(got, expected)


MATMULS = {
    "2-D": MatMul((5, 7), (7, 9), (5, 9)),
    "a transposed": MatMul((7, 5), (7, 9), (5, 9), a_transposed=True),
    "b transposed": MatMul((5, 7), (9, 7), (5, 9), b_transposed=True),
    "both transposed": MatMul((7, 5), (9, 7), (5, 9), a_transposed=True, b_transposed=True),
    "one row": MatMul((1, 64), (64, 33), (1, 33)),
    "one column": MatMul((33, 64), (64, 1), (33, 1)),
    "wide": MatMul((64, 128), (128, 96), (64, 96)),
    "bias": MatMul((5, 7), (7, 9), (5, 9), bias=True),
    "batches": MatMul((3, 5, 7), (3, 7, 9), (3, 5, 9)),
    "batches, b transposed": MatMul((3, 5, 7), (3, 9, 7), (3, 5, 9), b_transposed=True),
    "batches, one a": MatMul((1, 5, 7), (3, 7, 9), (3, 5, 9)),
    "batches, one b": MatMul((3, 7, 5), (1, 7, 9), (3, 5, 9), a_transposed=True),
    "batches, bias": MatMul((3, 5, 7), (3, 7, 9), (3, 5, 9), bias=True),
}


@needs_onednn
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "variable"])
@pytest.mark.parametrize("m", MATMULS.values(), ids=MATMULS)
def test_matmul(m: MatMul, constant: bool) -> None:
    description = MatMul(
        m.a_shape, m.b_shape, m.dst_shape, m.a_transposed, m.b_transposed, bias=m.bias, constant_weights=constant
    )
    assert description.check() is None
    a, b, bias = uniform(1, m.a_shape), uniform(2, m.b_shape), uniform(3, m.dst_shape[-1:])
    got, primitive = np.full(m.dst_shape, np.nan, np.float32), Primitive(description)
    optional = bias if m.bias else None
    if constant:
        primitive.set_weights(b, optional)
        primitive.execute(a, got)
    else:
        primitive.execute(a, got, b, optional)
    left, right = a.astype(np.float64), b.astype(np.float64)
    expected = (left.swapaxes(-1, -2) if m.a_transposed else left) @ (
        right.swapaxes(-1, -2) if m.b_transposed else right
    )
    close(got, expected + (bias.astype(np.float64) if m.bias else 0))
    assert not primitive.implementation.startswith("ref")


@needs_onednn
@pytest.mark.parametrize("operator", ["convolution", "matmul"])
@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_half_precision_is_right_or_refused(operator: str, dtype: str, bits: int) -> None:
    c: Convolution | MatMul = describe((1, 16, 9, 9), 16, (3, 3), dtype=dtype)
    if operator == "matmul":
        c = MatMul((16, 32), (32, 16), (16, 16), dtype=dtype)
    reason = c.check()
    if reason is not None:  # CPUs differ
        assert reason.startswith("not implemented")
        with pytest.raises(OneDNNRefused, match=r"dnnl_\w+_create: not implemented .*\(status 3\), in "):
            Primitive(c)
        return
    element = np.dtype(getattr(ml_dtypes, dtype, dtype))
    shapes = (c.src_shape, c.weights_shape) if isinstance(c, Convolution) else (c.a_shape, c.b_shape)
    src, weights = (uniform(seed, shape, element) for seed, shape in enumerate(shapes))
    got, primitive = np.zeros(c.dst_shape, element), Primitive(c)
    primitive.set_weights(weights)
    primitive.execute(src, got)
    wide = src.astype(np.float64), weights.astype(np.float64)
    expected = reference_convolution(c, *wide) if isinstance(c, Convolution) else wide[0] @ wide[1]
    close(got, expected, rtol=2.0**-bits, atol=1e-3)


# post-ops


@needs_onednn
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_scale_shift_relu(layout: str) -> None:
    per_channel = (1, 32, 1, 1)
    post_ops = (Binary("mul", per_channel), Binary("add", per_channel), Eltwise("relu"))
    order = (0, 2, 3, 1) if layout == "NHWC" else (0, 1, 2, 3)
    c = describe((2, 16, 9, 9), 32, (3, 3), low=1, high=1, post_ops=post_ops, src_order=order, dst_order=order)
    src, weights = uniform(1, c.src_shape), uniform(2, c.weights_shape)
    scale, shift = uniform(7, per_channel), uniform(8, per_channel)
    primitive = Primitive(c)
    primitive.set_weights(weights)
    got = np.empty(tuple(c.dst_shape[axis] for axis in order), np.float32)
    primitive.execute(src.transpose(order).copy(), got, operands=[v.transpose(order).copy() for v in (scale, shift)])
    expected = np.maximum(reference_convolution(c, src, weights) * scale + shift, 0)
    close(got.transpose(np.argsort(order)), expected)


@needs_onednn
def test_residual_add_keeps_a_fast_implementation() -> None:
    shape = (2, 16, 9, 9)
    post_ops = (Binary("mul", (1, 16, 1, 1)), Binary("add", shape), Eltwise("relu", 0.1))
    c = describe(shape, 16, (3, 3), low=1, high=1, post_ops=post_ops)
    assert c.check() is None
    scale, residual = uniform(7, (1, 16, 1, 1)), uniform(8, shape)
    got, expected, _ = run_convolution(c, scale, residual)
    expected = expected * scale + residual
    close(got, np.where(expected > 0, expected, 0.1 * expected))


@needs_onednn
def test_sum_reads_the_destination() -> None:
    c = describe((1, 16, 9, 9), 16, (3, 3), post_ops=(Sum(0.5),))
    before = uniform(9, c.dst_shape)
    got, expected, _ = run_convolution(c, before=before)
    close(got, expected + 0.5 * before)


@needs_onednn
def test_matmul_post_ops() -> None:
    m = MatMul((5, 7), (9, 7), (5, 9), b_transposed=True, post_ops=(Binary("add", (5, 9)), Binary("mul", (1, 9))))
    a, b, residual, scale = (uniform(seed, s) for seed, s in enumerate([(5, 7), (9, 7), (5, 9), (1, 9)]))
    primitive, got = Primitive(m), np.empty((5, 9), np.float32)
    primitive.set_weights(b)
    primitive.execute(a, got, operands=(residual, scale))
    close(got, (a.astype(np.float64) @ b.T.astype(np.float64) + residual) * scale)


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


ELTWISE_REFERENCES: dict[str, Callable[[Array, float, float], Array]] = {
    "relu": lambda x, alpha, beta: np.where(x > 0, x, alpha * x),
    "tanh": lambda x, alpha, beta: np.tanh(x),
    "elu": lambda x, alpha, beta: np.where(x > 0, x, alpha * np.expm1(x)),
    "square": lambda x, alpha, beta: x * x,
    "abs": lambda x, alpha, beta: np.abs(x),
    "sqrt": lambda x, alpha, beta: np.sqrt(x),
    "linear": lambda x, alpha, beta: alpha * x + beta,
    "soft_relu": lambda x, alpha, beta: np.log1p(np.exp(alpha * x)) / alpha,
    "hardsigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "logistic": lambda x, alpha, beta: 1 / (1 + np.exp(-x)),
    "exp": lambda x, alpha, beta: np.exp(x),
    "gelu_tanh": lambda x, alpha, beta: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x, alpha, beta: x / (1 + np.exp(-alpha * x)),
    "log": lambda x, alpha, beta: np.log(x),
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
    "gelu_erf": lambda x, alpha, beta: _gelu(x),
    "mish": lambda x, alpha, beta: x * np.tanh(np.log1p(np.exp(x))),
    "hardswish": lambda x, alpha, beta: x * np.clip(alpha * x + beta, 0, 1),
}


@needs_onednn
@pytest.mark.parametrize("algorithm", ELTWISE)
def test_eltwise(algorithm: str) -> None:
    alpha, beta = 0.25, 0.5
    m = MatMul((8, 4), (4, 16), (8, 16), post_ops=(Eltwise(algorithm, alpha, beta),))
    a, b = uniform(1, (8, 4)), uniform(2, (4, 16))
    if algorithm in ("sqrt", "log"):
        a, b = np.abs(a) + np.float32(0.1), np.abs(b) + np.float32(0.1)
    primitive, got = Primitive(m), np.empty((8, 16), np.float32)
    primitive.set_weights(b)
    primitive.execute(a, got)
    expected = ELTWISE_REFERENCES[algorithm](a.astype(np.float64) @ b.astype(np.float64), alpha, beta)
    close(got, expected, rtol=1e-4, atol=1e-4)
