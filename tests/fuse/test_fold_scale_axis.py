"""FoldScaleAxis: the multiplication must go, and the result stay."""

from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.transform import BackwardFoldScaleAxis, FoldScaleAxis, ForwardFoldScaleAxis, InferType, Pass
from fusewire.testing import evaluate

RNG = np.random.default_rng(5)


def const(*shape: int, low: float = -2.0, high: float = 2.0, dtype: str = "float64") -> fw.Constant:
    return fw.const(RNG.uniform(low, high, shape).astype(dtype))


def image(*shape: int) -> fw.Var:
    return fw.var("x", shape=shape, dtype="float64")


def ops(mod: fw.IRModule) -> list[str]:
    found: list[str] = []
    fw.analysis.post_order_visit(mod["main"], lambda e: found.append(str(e.op)) if isinstance(e, fw.Call) else None)
    return found


def check(expr: fw.Expr, expected: list[str], step: Pass | None = None) -> None:
    """Run the pass, look at the operators that are left, and compare with NumPy before and after."""
    before = InferType()(fw.IRModule.from_expr(expr))
    after = (step or FoldScaleAxis())(before)
    assert ops(after) == expected
    shapes = {p.name_hint: p.checked_type.static_shape for p in before["main"].params}  # type: ignore[attr-defined]
    data = {name: np.asarray(RNG.uniform(-1, 1, shape)) for name, shape in shapes.items()}
    for got, wanted in zip(evaluate(after["main"], data), evaluate(before["main"], data), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def unchanged(expr: fw.Expr, step: Pass | None = None) -> None:
    before = InferType()(fw.IRModule.from_expr(expr))
    assert (step or FoldScaleAxis())(before)["main"] is before["main"]


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 4, 7, 6), (6, 4, 3, 3), {"padding": (1, 1)}),
    "strided": ((2, 4, 7, 6), (6, 4, 3, 2), {"strides": (2, 1), "padding": (1, 0, 0, 1), "dilation": (1, 2)}),
    "groups": ((2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2}),
    "depthwise": ((2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4}),
    "depthwise with multiplier": ((2, 4, 5, 5), (4, 3, 3, 3), {"groups": 4}),
    "depthwise, more outputs": ((2, 4, 5, 5), (8, 1, 3, 3), {"groups": 4}),
    "NHWC": ((2, 5, 5, 4), (3, 3, 4, 6), {"data_layout": "NHWC", "kernel_layout": "HWIO"}),
    "NHWC to NCHW": (
        (2, 5, 5, 4), (3, 3, 4, 6), {"data_layout": "NHWC", "kernel_layout": "HWIO", "out_layout": "NCHW"}
    ),
}  # fmt: skip


def conv(name: str) -> tuple[fw.Var, Any, int, int]:
    """Data, a function from data to the convolution, and the channel axes of input and output."""
    shape, weight, attributes = CONVOLUTIONS[name]
    x, w = image(*shape), const(*weight)
    layout = attributes.get("data_layout", "NCHW")
    out = attributes.get("out_layout", layout)
    return x, lambda data: fw.nn.conv2d(data, w, **attributes), layout.index("C"), out.index("C")


def vector(size: int, axis: int, ndim: int = 4, low: float = -2.0) -> fw.Constant:
    return const(*((size,) + (1,) * (ndim - axis - 1)), low=low)


@pytest.mark.parametrize("name", CONVOLUTIONS)
class TestConvolution:
    def test_scale_behind(self, name: str) -> None:
        x, make, _, axis = conv(name)
        y = make(x)
        check(fw.multiply(y, vector(y.checked_type.shape[axis], axis)), ["nn.conv2d"])

    def test_scale_in_front(self, name: str) -> None:
        x, make, axis, _ = conv(name)
        check(make(fw.multiply(vector(4, axis), x)), ["nn.conv2d"])

    def test_both(self, name: str) -> None:
        x, make, before, after = conv(name)
        y = make(fw.multiply(x, vector(4, before)))
        y = fw.multiply(y, vector(y.checked_type.shape[after], after))
        check(fw.nn.relu(y), ["nn.conv2d", "nn.relu"])


class TestOtherOperators:
    @pytest.mark.parametrize("groups", [1, 2])
    def test_transposed_convolution(self, groups: int) -> None:
        x, w = image(2, 4, 5, 5), const(4, 3, 3, 3)
        y = fw.nn.conv2d_transpose(fw.multiply(x, vector(4, 1)), w, strides=(2, 2), groups=groups)
        check(fw.multiply(y, vector(3 * groups, 1)), ["nn.conv2d_transpose"])

    @pytest.mark.parametrize("rank", [1, 3])
    def test_other_ranks(self, rank: int) -> None:
        x, w = image(2, 4, *[5] * rank), const(6, 4, *[3] * rank)
        make = getattr(fw.nn, f"conv{rank}d")
        y = make(fw.multiply(x, vector(4, 1, rank + 2)), w)
        check(fw.multiply(y, vector(6, 1, rank + 2)), [f"nn.conv{rank}d"])

    @pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
    def test_dense(self, shape: tuple[int, ...]) -> None:
        y = fw.nn.dense(fw.multiply(image(*shape), const(5)), const(7, 5))
        check(fw.multiply(y, const(7)), ["nn.dense"])

    def test_scalar_scale(self) -> None:
        x, make, _, _ = conv("plain")
        check(fw.multiply(make(fw.multiply(x, const())), const(1, 1, 1)), ["nn.conv2d"])


class TestStepsBetween:
    def test_sums_with_constants(self) -> None:
        x, make, _, _ = conv("plain")
        y = fw.subtract(const(6, 1, 1), fw.add(make(x), const(1, 6, 7, 6)))
        check(fw.multiply(y, vector(6, 1)), ["nn.conv2d", "add", "subtract"])

    def test_scalar_scale_and_sum(self) -> None:
        x, make, _, _ = conv("plain")
        check(fw.multiply(fw.add(make(x), const(6, 1, 1)), const()), ["nn.conv2d", "add"])

    def test_bias_add(self) -> None:
        x, make, _, _ = conv("plain")
        y = fw.nn.bias_add(make(x), const(6))
        check(fw.multiply(y, vector(6, 1)), ["nn.conv2d", "nn.bias_add"])
        check(fw.multiply(y, const()), ["nn.conv2d", "nn.bias_add"])

    def test_sum_of_convolutions(self) -> None:
        x, make, _, _ = conv("plain")
        y = fw.add(make(x), make(fw.exp(x)))
        check(fw.multiply(y, vector(6, 1)), ["nn.conv2d", "exp", "nn.conv2d", "add"])

    def test_several_scales(self) -> None:
        x, make, _, _ = conv("plain")
        y = fw.multiply(fw.add(make(x), const(6, 1, 1)), vector(6, 1))
        check(fw.multiply(fw.add(y, const(6, 1, 1)), vector(6, 1)), ["nn.conv2d", "add", "add"])

    @pytest.mark.parametrize("act", [fw.nn.relu, lambda x: fw.nn.leaky_relu(x, 0.1)])
    def test_positive_scale_through_relu(self, act: Any) -> None:
        x, make, _, _ = conv("plain")
        name = str(act(x).op)
        check(fw.multiply(act(make(x)), vector(6, 1, low=0.1)), ["nn.conv2d", name])
        check(make(act(fw.multiply(x, vector(4, 1, low=0.1)))), [name, "nn.conv2d"])

    def test_negative_scale_stops_at_relu(self) -> None:
        x, make, _, _ = conv("plain")
        negative = fw.const(np.array([1, 1, -1, 1, 1, 1.0]).reshape(6, 1, 1))
        unchanged(fw.multiply(fw.nn.relu(make(x)), negative))
        unchanged(make(fw.nn.relu(fw.multiply(x, fw.const(np.array([1, 0, 1, 1.0]).reshape(4, 1, 1))))))


class TestRefused:
    def test_second_use(self) -> None:
        x, make, _, _ = conv("plain")
        y = make(x)
        unchanged(fw.Tuple([fw.multiply(y, vector(6, 1)), y]))
        z = fw.multiply(x, vector(4, 1))
        unchanged(fw.Tuple([make(z), fw.exp(z)]))
        b = fw.add(make(x), const(6, 1, 1))
        unchanged(fw.Tuple([fw.multiply(b, vector(6, 1)), b]))

    def test_second_use_of_relu(self) -> None:
        x, make, _, _ = conv("plain")
        y = fw.nn.relu(fw.multiply(x, vector(4, 1, low=0.1)))
        unchanged(fw.Tuple([make(y), y]))

    def test_variable_bias(self) -> None:
        x, make, _, _ = conv("plain")
        unchanged(fw.multiply(fw.nn.bias_add(make(x), fw.var("b", shape=(6,), dtype="float64")), vector(6, 1)))

    def test_variable_weight(self) -> None:
        x, w = image(2, 4, 5, 5), fw.var("w", shape=(6, 4, 3, 3), dtype="float64")
        unchanged(fw.multiply(fw.nn.conv2d(x, w), vector(6, 1)))

    def test_variable_scale(self) -> None:
        x, make, _, _ = conv("plain")
        unchanged(fw.multiply(make(x), fw.var("s", shape=(6, 1, 1), dtype="float64")))

    def test_other_axis(self) -> None:
        x, make, _, _ = conv("plain")
        unchanged(fw.multiply(make(x), const(7, 1)))
        unchanged(fw.multiply(make(x), const(6, 7, 1)))
        unchanged(fw.multiply(fw.nn.dense(image(3, 5), const(7, 5)), const(3, 1)))
        unchanged(fw.nn.dense(fw.multiply(image(3, 5), const(3, 1)), const(7, 5)))
        unchanged(fw.multiply(fw.nn.bias_add(make(x), const(6)), const(7, 1)))

    def test_scale_that_widens_the_result(self) -> None:
        unchanged(fw.multiply(fw.nn.dense(image(1, 5), const(1, 5)), const(7)))

    def test_sum_with_a_variable(self) -> None:
        x, make, _, _ = conv("plain")
        unchanged(fw.multiply(fw.add(make(x), fw.var("r", shape=(2, 6, 7, 6), dtype="float64")), vector(6, 1)))

    def test_integers(self) -> None:
        x = fw.var("x", shape=(3, 5), dtype="int32")
        w, s = fw.const(np.ones((7, 5), "int32")), fw.const(np.full(7, 3, "int32"))
        unchanged(fw.multiply(fw.nn.dense(x, w), s))

    def test_blocked_channels(self) -> None:
        x, w = image(1, 1, 5, 5, 4), const(2, 1, 3, 3, 4, 4)
        y = fw.nn.conv2d(x, w, data_layout="NCHW4c", kernel_layout="OIHW4i4o")
        unchanged(fw.multiply(y, const(4)))
        unchanged(fw.multiply(y, const(2, 1, 1, 1)))


def test_directions() -> None:
    x, make, _, _ = conv("plain")
    y = fw.multiply(make(fw.multiply(x, vector(4, 1))), vector(6, 1))
    check(y, ["multiply", "nn.conv2d"], BackwardFoldScaleAxis())
    check(y, ["nn.conv2d", "multiply"], ForwardFoldScaleAxis())


def test_rounding_is_that_of_the_weight() -> None:
    x, w = fw.var("x", shape=(1, 2)), const(3, 2, dtype="float32")
    s = const(3, dtype="float32")
    after = FoldScaleAxis()(fw.IRModule.from_expr(fw.multiply(fw.nn.dense(x, w), s)))["main"].body
    assert isinstance(after, fw.Call) and isinstance(after.args[1], fw.Constant)
    np.testing.assert_array_equal(after.args[1].data, w.data * s.data[:, None])
