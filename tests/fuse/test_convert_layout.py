"""ConvertLayout: convolutions in another layout, and what happens to their surroundings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.transform import ConvertLayout, FoldConstant, InferType, PassContext, Sequential, SimplifyExpr
from fusewire.ir.structural import assert_structural_equal
from tests.random_graphs import random_graph

NHWC = {"nn.conv2d": ["NHWC", "default"]}
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
X = fw.var("x", shape=(2, 4, 9, 8))
W = fw.var("w", shape=(6, 4, 3, 3))
HWIO = fw.transpose(W, (2, 3, 1, 0))
rng = np.random.default_rng(0)


def first(x: fw.Expr) -> fw.Expr:
    """From channels last back to channels first."""
    return fw.transpose(x, TO_FIRST)


def conv(x: fw.Expr = X, w: fw.Expr = W, **attributes: Any) -> fw.Expr:
    return fw.nn.conv2d(x, w, kernel_size=(3, 3), padding=(1, 1), **attributes)


def last() -> fw.Expr:
    """The convolution of `conv()`, channels last."""
    x = fw.transpose(X, TO_LAST)
    return fw.nn.conv2d(x, HWIO, kernel_size=(3, 3), padding=(1, 1), data_layout="NHWC", kernel_layout="HWIO")


def converted(before: fw.Expr, desired: dict[str, list[str]] = NHWC) -> fw.IRModule:
    return ConvertLayout(desired)(fw.IRModule.from_expr(before))


def check(before: fw.Expr, expected: fw.Expr, desired: dict[str, list[str]] = NHWC) -> None:
    """Compare the graph with the expected one, and its values with those of the graph before."""
    after = converted(before, desired)["main"]
    assert_structural_equal(fw.IRModule.from_expr(after), InferType()(fw.IRModule.from_expr(expected)))
    same_values(before, after)


def same_values(before: fw.Expr, after: fw.Function) -> None:
    function = InferType()(fw.IRModule.from_expr(before))["main"]
    types = {p.name_hint: p.checked_type for p in function.params}
    data = {n: rng.normal(size=t.static_shape).astype("float32") for n, t in types.items()}  # type: ignore[attr-defined]
    for got, want in zip(fw.testing.evaluate(after, data), fw.testing.evaluate(function, data), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_one_convolution() -> None:
    check(conv(), first(last()))


def test_elementwise_follows() -> None:
    check(fw.exp(fw.clip(conv(), 0, 6)), first(fw.exp(fw.clip(last(), 0, 6))))


def test_chain_has_no_transposes_inside() -> None:
    v = fw.var("v", shape=(5, 6, 3, 3))
    inner = fw.nn.conv2d(
        fw.nn.relu(last()), fw.transpose(v, (2, 3, 1, 0)), kernel_size=(3, 3), padding=(1, 1), data_layout="NHWC",
        kernel_layout="HWIO",
    )  # fmt: skip
    check(conv(fw.nn.relu(conv()), v), first(inner))


@pytest.mark.parametrize(
    "branch",
    [lambda x: fw.sigmoid(x), lambda x: fw.nn.max_pool2d(x, (3, 3), padding=(1, 1))],
    ids=["moved", "not moved"],
)
def test_residual(branch: Callable[[fw.Expr], fw.Expr]) -> None:
    before = fw.add(conv(X, fw.var("w", shape=(4, 4, 3, 3))), branch(X))
    after = converted(before)["main"]
    same_values(before, after)
    assert isinstance(after.body, fw.Call) and str(after.body.op) == "transpose"  # the sum itself is in NHWC


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (8,), (), (2, 6, 9, 8)])
def test_broadcast_operand(shape: tuple[int, ...]) -> None:
    b = fw.var("b", shape=shape)
    stretched = fw.expand_dims(b, axis=0, num_newaxis=4 - len(shape)) if 0 < len(shape) < 4 else b
    moved = fw.transpose(stretched, TO_LAST) if shape else b
    check(fw.multiply(b, conv()), first(fw.multiply(moved, last())))


def test_where_takes_three() -> None:
    before = fw.where(fw.greater(conv(), fw.const(0.5)), fw.const(1.0), conv())
    after = converted(before)["main"]
    same_values(before, after)
    assert str(after.body.op) == "transpose"  # type: ignore[attr-defined]


def test_bias_add_and_prelu_change_axis() -> None:
    b, a = fw.var("b", shape=(6,)), fw.var("a", shape=(6,))
    before = fw.nn.prelu(fw.nn.bias_add(conv(), b), a)
    check(before, first(fw.nn.prelu(fw.nn.bias_add(last(), b, axis=3), a, axis=3)))


@pytest.mark.parametrize("axis", [1, -3])
def test_batch_norm_changes_axis(axis: int) -> None:
    gamma, beta, mean, var = (fw.var(name, shape=(6,)) for name in ("gamma", "beta", "mean", "var"))
    norm = fw.nn.batch_norm(fw.nn.relu(conv()), gamma, beta, mean, var, axis=axis)
    expected = fw.nn.batch_norm(fw.nn.relu(last()), gamma, beta, mean, var, axis=3)
    step = ConvertLayout(NHWC)
    after = step(fw.IRModule.from_expr(fw.nn.relu(norm[0])))
    assert_structural_equal(after, InferType()(fw.IRModule.from_expr(first(fw.nn.relu(expected[0])))))
    statistics = step(fw.IRModule.from_expr(norm[2]))
    assert_structural_equal(statistics, InferType()(fw.IRModule.from_expr(expected[2])))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x, layout: fw.nn.max_pool2d(x, (2, 3), strides=(2, 1), padding=(1, 0), layout=layout),
        lambda x, layout: fw.nn.avg_pool2d(x, (3, 2), padding=(0, 1), layout=layout),
        lambda x, layout: fw.nn.global_avg_pool2d(x, layout=layout),
        lambda x, layout: fw.nn.adaptive_max_pool2d(x, (3, 2), layout=layout),
        lambda x, layout: fw.nn.upsampling(x, 2, 3, layout=layout),
        lambda x, layout: fw.image.resize2d(x, (5, 11), layout=layout),
    ],
)
def test_pools_and_resizes_change_layout(pool: Callable[[fw.Expr, str], fw.Expr]) -> None:
    check(pool(conv(), "NCHW"), first(pool(last(), "NHWC")))


def test_pad_changes_its_widths() -> None:
    widths = ((0, 0), (1, 2), (3, 4), (5, 6))
    moved = ((0, 0), (3, 4), (5, 6), (1, 2))
    check(fw.nn.pad(conv(), widths), first(fw.nn.pad(last(), moved)))


def test_concatenate_changes_axis() -> None:
    other = fw.var("other", shape=(2, 1, 9, 8))
    expected = fw.concatenate([last(), fw.transpose(other, TO_LAST)], axis=3)
    check(fw.concatenate([conv(), other], axis=1), first(expected))


def test_split_changes_axis() -> None:
    parts = fw.split(conv(), 3, axis=1)
    expected = fw.split(last(), 3, axis=3)
    check(fw.subtract(parts[0], parts[2]), first(fw.subtract(expected[0], expected[2])))


def test_softmax_over_channels() -> None:
    check(fw.nn.softmax(conv(), axis=1), first(fw.nn.softmax(last(), axis=3)))


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize(
    ("axis", "exclude", "places"), [((2, 3), False, (1, 2)), ((1,), False, (3,)), ((0, 1), True, (1, 2))]
)
def test_reductions(axis: tuple[int, ...], exclude: bool, places: tuple[int, ...], keepdims: bool) -> None:
    reduced = fw.sum(last(), axis=places, keepdims=keepdims)
    check(fw.sum(conv(), axis=axis, keepdims=keepdims, exclude=exclude), first(reduced) if keepdims else reduced)


def test_reduction_that_leaves_another_order() -> None:
    reduced = fw.mean(last(), axis=(1,))  # N W C is left of N H W C
    check(fw.mean(conv(), axis=(2,)), fw.transpose(reduced, (0, 2, 1)))


@pytest.mark.parametrize(
    "stays",
    [
        lambda x: fw.reshape(x, (2, -1)),
        lambda x: fw.nn.depth_to_space(x, 1),
        lambda x: fw.argmax(x, axis=(1, 2)),
        lambda x: fw.broadcast_to(x, (2, 6, 9, 8)),
        lambda x: fw.expand_dims(x, axis=1),
    ],
)
def test_others_get_the_original_order(stays: Callable[[fw.Expr], fw.Expr]) -> None:
    check(stays(conv()), stays(first(last())))


def test_both_orders_are_used() -> None:
    one = last()
    check(
        fw.Tuple([fw.reshape(conv(), (-1,)), fw.nn.relu(conv())]),
        fw.Tuple([fw.reshape(first(last()), (-1,)), first(fw.nn.relu(one))]),
    )


def test_depthwise_and_groups() -> None:
    w = fw.var("w", shape=(4, 1, 3, 3))
    x = fw.transpose(X, TO_LAST)
    attributes: dict[str, Any] = {"kernel_size": (3, 3), "data_layout": "NHWC"}
    depthwise = fw.nn.conv2d(x, fw.transpose(w, (2, 3, 0, 1)), groups=4, kernel_layout="HWOI", **attributes)
    check(fw.nn.conv2d(X, w, groups=4, kernel_size=(3, 3)), first(depthwise))
    v = fw.var("v", shape=(6, 2, 3, 3))
    grouped = fw.nn.conv2d(x, fw.transpose(v, (2, 3, 1, 0)), groups=2, kernel_layout="HWIO", **attributes)
    check(fw.nn.conv2d(X, v, groups=2, kernel_size=(3, 3)), first(grouped))


def test_kernel_layout_may_be_given() -> None:
    expected = fw.nn.conv2d(
        fw.transpose(X, TO_LAST), fw.transpose(W, (0, 2, 3, 1)), kernel_size=(3, 3), padding=(1, 1),
        data_layout="NHWC", kernel_layout="OHWI",
    )  # fmt: skip
    check(conv(), first(expected), {"nn.conv2d": ["NHWC", "OHWI"]})


def test_there_and_back_is_the_beginning() -> None:
    """NHWC, then NCHW: SimplifyExpr cancels all transposes."""
    before = fw.nn.relu(conv(fw.nn.max_pool2d(conv(), (2, 2)), fw.var("v", shape=(4, 6, 3, 3))))
    steps = Sequential([ConvertLayout(NHWC), ConvertLayout({"nn.conv2d": ["NCHW", "default"]}), SimplifyExpr()])
    with PassContext(opt_level=3):
        after = steps(fw.IRModule.from_expr(before))
    assert_structural_equal(after, InferType()(fw.IRModule.from_expr(before)))


def test_what_is_as_desired_stays() -> None:
    mod = fw.IRModule.from_expr(fw.nn.relu(conv()))
    assert ConvertLayout({"nn.conv2d": ["NCHW", "default"]})(mod)["main"] is InferType()(mod)["main"]
    assert ConvertLayout({})(mod)["main"] is InferType()(mod)["main"]


def test_blocked_convolutions_stay() -> None:
    x = fw.var("x", shape=(1, 2, 8, 8, 4))
    blocked = fw.nn.conv2d(
        x, fw.var("w", shape=(4, 8, 1, 1)), kernel_size=(1, 1), data_layout="NCHW4c", out_layout="NCHW"
    )
    check(fw.nn.relu(blocked), fw.nn.relu(blocked))


def test_one_and_three_dimensions() -> None:
    x, w = fw.var("x", shape=(1, 2, 7)), fw.var("w", shape=(3, 2, 3))
    expected = fw.nn.conv1d(
        fw.transpose(x, (0, 2, 1)), fw.transpose(w, (2, 1, 0)), kernel_size=3, data_layout="NWC", kernel_layout="WIO"
    )
    check(fw.nn.conv1d(x, w, kernel_size=3), fw.transpose(expected, (0, 2, 1)), {"nn.conv1d": ["NWC"]})
    x, w = fw.var("x", shape=(1, 2, 4, 5, 6)), fw.var("w", shape=(3, 2, 3, 2, 1))
    before = fw.nn.conv3d(x, w, kernel_size=(3, 2, 1))
    after = converted(before, {"nn.conv3d": ["NDHWC", "default"]})["main"]
    same_values(before, after)
    assert 'kernel_layout="DHWIO"' in str(after)


def test_constant_weights_are_transposed_once_and_for_all() -> None:
    weight = fw.const(rng.normal(size=(6, 4, 3, 3)).astype("float32"))
    mod = Sequential([ConvertLayout(NHWC), FoldConstant()])
    with PassContext(opt_level=3):
        after = mod(fw.IRModule.from_expr(conv(X, weight)))
    assert str(after).count("transpose(") == 2  # the data, and the result


def test_compiled_network_gives_the_same() -> None:
    x = fw.var("data", shape=(1, 3, 8, 8))
    net = fw.nn.conv2d(x, fw.var("w1"), kernel_size=(3, 3), channels=8, padding=(1, 1))
    gamma, beta, mean, var = (fw.var(name) for name in ("gamma", "beta", "mean", "var"))
    net = fw.nn.batch_norm(net, gamma, beta, mean, var)[0]
    side = fw.nn.relu(net)
    net = fw.nn.conv2d(side, fw.var("w2"), kernel_size=(3, 3), channels=8, padding=(1, 1), groups=8)
    net = fw.nn.max_pool2d(fw.concatenate([net, side], axis=1), (2, 2), strides=(2, 2))
    net = fw.nn.dense(fw.nn.batch_flatten(net), fw.var("w3"), units=5)
    mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))
    data = rng.normal(size=(1, 3, 8, 8)).astype("float32")
    with PassContext(opt_level=3):
        moved = ConvertLayout(NHWC)(mod)
        assert 'data_layout="NCHW"' not in moved.astext() and moved.astext().count('data_layout="NHWC"') == 2
        got, want = (fw.build(m, "cpu", params)(data=data) for m in (moved, mod))
    fw.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first_seed", range(0, 40, 10))
def test_random_graphs_mean_the_same(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 10):
        before, data = random_graph(seed, 14)
        after = converted(before)["main"]
        for got, want in zip(fw.testing.evaluate(after, data), fw.testing.evaluate(before, data), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=f"seed {seed}")


def test_level_and_name() -> None:
    mod = fw.IRModule.from_expr(conv())
    assert "NHWC" not in str(Sequential([ConvertLayout(NHWC)])(mod))  # level 3; the default is 2
    with PassContext(opt_level=3, disabled_pass=["ConvertLayout"]):
        assert "NHWC" not in str(Sequential([ConvertLayout(NHWC)])(mod))


@pytest.mark.parametrize(
    ("desired", "message"),
    [
        ({"nn.dense": ["NC"]}, "cannot convert 'nn.dense'; it converts nn.conv1d, nn.conv2d, nn.conv3d"),
        ({"nn.conv2d": []}, r"needs \[data layout, kernel layout\], got \[\]"),
        ({"nn.conv2d": "NHWC"}, "needs .* got 'NHWC'"),
        ({"nn.conv2d": ["NHWC", "HWIO", "NHWC"]}, "needs"),
        ({"nn.conv2d": ["NHXC"]}, "layout 'NHXC' must be an order of the axes NCHW"),
        ({"nn.conv2d": ["NCHW16c"]}, "without blocks"),
        ({"nn.conv2d": ["nhwc"]}, "nn.conv2d: malformed layout"),
        ({"nn.conv2d": ["NHWC", "HWIC"]}, "axes OIHW"),
    ],
)
def test_mistakes(desired: dict[str, list[str]], message: str) -> None:
    with pytest.raises(fw.FusewireError, match=message):
        ConvertLayout(desired)
