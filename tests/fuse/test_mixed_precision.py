"""ToMixedPrecision: which factors are rounded, and that everything else stays as it is."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.transform import ToMixedPrecision

RNG = np.random.default_rng(3)
BF16 = np.dtype(ml_dtypes.bfloat16)


def weight(*shape: int, scale: float = 1.0) -> fw.Constant:
    return fw.const((RNG.normal(size=shape) * scale).astype(np.float32))


def rounded(constant: fw.Constant, dtype: str) -> fw.Constant:
    return fw.const(constant.data.astype(BF16 if dtype == "bfloat16" else dtype))


def after(expr: fw.Expr, dtype: str) -> fw.Function:
    function = ToMixedPrecision(dtype)(fw.IRModule.from_expr(expr))["main"]
    assert isinstance(function, fw.Function)
    return function


def expect(expr: fw.Expr, dtype: str, wanted: fw.Expr) -> None:
    expected = fw.transform.InferType()(fw.IRModule.from_expr(wanted))["main"]
    fw.analysis.assert_structural_equal(after(expr, dtype), expected)


def unchanged(expr: fw.Expr, dtype: str) -> None:
    expect(expr, dtype, expr)


X = fw.var("x", shape=(4, 32))


def test_bfloat16_rounds_both_factors_and_adds_in_float32() -> None:
    w = weight(16, 32)
    small = fw.nn.dense(fw.cast(X, "bfloat16"), rounded(w, "bfloat16"), out_dtype="float32")
    expect(fw.nn.softmax(fw.nn.dense(X, w)), "bfloat16", fw.nn.softmax(small))


def test_float16_rounds_both_factors_where_devices_compute_in_it() -> None:
    w = weight(16, 32)
    small = fw.nn.dense(fw.cast(X, "float16"), rounded(w, "float16"), out_dtype="float32")
    found = ToMixedPrecision("float16", both=True)(fw.IRModule.from_expr(fw.tanh(fw.nn.dense(X, w))))["main"]
    expected = fw.transform.InferType()(fw.IRModule.from_expr(fw.tanh(small)))["main"]
    fw.analysis.assert_structural_equal(found, expected)


def test_float16_rounds_weights_only() -> None:
    w = weight(16, 32)
    expect(fw.tanh(fw.nn.dense(X, w)), "float16", fw.tanh(fw.nn.dense(X, rounded(w, "float16"))))


def test_one_cast_and_one_constant_for_several_products() -> None:
    w = weight(32, 32)
    both = fw.nn.dense(X, w) + fw.nn.matmul(X, w)
    cast, small = fw.cast(X, "bfloat16"), rounded(w, "bfloat16")
    products = [product(cast, small, out_dtype="float32") for product in (fw.nn.dense, fw.nn.matmul)]
    expect(both, "bfloat16", products[0] + products[1])
    found: list[fw.Expr] = []
    fw.analysis.post_order_visit(after(both, "bfloat16"), found.append)
    assert sum(isinstance(e, fw.Constant) for e in found) == 1
    assert sum(isinstance(e, fw.Call) and str(e.op) == "cast" for e in found) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_convolutions_by_their_layout(dtype: str) -> None:
    x, w = fw.var("x", shape=(1, 8, 8, 16)), weight(3, 3, 16, 24)
    layout: dict[str, Any] = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    data = fw.cast(x, dtype) if dtype == "bfloat16" else x
    out: dict[str, Any] = {"out_dtype": "float32"} if dtype == "bfloat16" else {}
    wanted = fw.nn.conv2d(data, rounded(w, dtype), kernel_size=(3, 3), channels=24, **layout, **out)
    expect(fw.nn.conv2d(x, w, kernel_size=(3, 3), channels=24, **layout), dtype, wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_stays_float32(dtype: str) -> None:
    image = fw.var("x", shape=(1, 3, 8, 8))
    unchanged(fw.nn.conv2d(image, weight(16, 3, 3, 3)), dtype)  # three channels
    blocks = fw.var("x", shape=(1, 16, 8, 8))
    unchanged(fw.nn.conv2d(blocks, weight(16, 1, 3, 3), groups=16), dtype)  # depthwise
    unchanged(
        fw.nn.dense(X, fw.var("w", shape=(16, 32))), dtype
    )  # rounded at each run, it would cost more than it saves
    unchanged(fw.nn.dense(fw.cast(X, "float64"), fw.const(np.ones((16, 32)))), dtype)
    unchanged(fw.nn.layer_norm(X, weight(32), weight(32)), dtype)
    unchanged(fw.nn.dense(X, weight(16, 32, scale=1e6)), dtype)  # beyond float16
    unchanged(fw.nn.dense(X, weight(16, 32, scale=1e-8)), dtype)  # rounded to 0 by float16


def test_large_tables_of_embeddings_are_stored_small() -> None:
    table, indices = weight(2048, 512), fw.var("i", shape=(3,), dtype="int32")
    wanted = fw.cast(fw.take(rounded(table, "float16"), indices, axis=0), "float32")
    expect(fw.take(table, indices, axis=0), "float16", wanted)
    unchanged(fw.take(weight(64, 512), indices, axis=0), "float16")


def test_other_types_are_refused() -> None:
    with pytest.raises(fw.FusewireError, match="expected float16 or bfloat16, got 'int8'"):
        ToMixedPrecision("int8")
