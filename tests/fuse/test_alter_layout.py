"""AlterLayout: which graphs are written for blocked channels, and that they compute the same."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.graph import tensor_type, walk

RNG = np.random.default_rng(0)


def const(*shape: int) -> fw.Constant:
    return fw.const((RNG.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32))


def conv(x: fw.Expr, channels: int, window: int = 3, **attrs: Any) -> fw.Expr:
    into = fw.transform.InferType()(fw.IRModule.from_expr(x))["main"].body
    weight = const(channels, tensor_type(into).static_shape[1] // attrs.get("groups", 1), window, window)
    return fw.nn.conv2d(x, weight, padding=window // 2, **attrs)


def altered(net: fw.Expr, vector_bytes: int = 64) -> fw.Function:
    mod = fw.IRModule.from_expr(net)
    return fw.transform.AlterLayout(vector_bytes)(mod)["main"]


def layouts(function: fw.Function) -> list[str]:
    """The calls in order: name, and the layouts that they mention."""
    found = []
    for node in walk(function.body):
        if isinstance(node, fw.Call):
            a = node.attrs
            named = [a[k] for k in ("src_layout", "data_layout", "layout", "out_layout", "dst_layout") if a.get(k)]
            found.append(" ".join([str(node.op), *named]))
    return found


def same(net: fw.Expr, function: fw.Function) -> None:
    before = fw.transform.InferType()(fw.IRModule.from_expr(net))["main"]
    x = {p.name_hint: RNG.standard_normal(tensor_type(p).static_shape) for p in before.params}
    for want, got in zip(fw.testing.evaluate(before, x), fw.testing.evaluate(function, x), strict=True):
        assert want.shape == got.shape
        assert np.abs(want - got).max() <= 1e-6 * np.abs(want).max()


def data(channels: int = 64, side: int = 28) -> fw.Var:
    return fw.var("x", shape=(1, channels, side, side))


def test_expected_graph() -> None:
    x, w, shift = data(32, 20), const(32, 32, 3, 3), const(32, 1, 1)
    got = altered(fw.nn.relu(fw.nn.conv2d(x, w, padding=1) + shift))

    inside = fw.layout_transform(x, "NCHW", "NCHW16c")
    inside = fw.nn.conv2d(inside, w, padding=1, data_layout="NCHW16c", out_layout="NCHW16c")
    inside = fw.nn.relu(inside + fw.const(shift.data.reshape(2, 1, 1, 16).reshape(1, 2, 1, 1, 16)))
    fw.analysis.assert_structural_equal(got, fw.Function([x], fw.layout_transform(inside, "NCHW16c", "NCHW")))


def test_a_first_layer_keeps_its_input() -> None:
    x = data(3)
    net = conv(fw.nn.relu(conv(x, 32)), 32)
    function = altered(net)
    assert layouts(function) == [
        "nn.conv2d NCHW NCHW16c", "nn.relu", "nn.conv2d NCHW16c NCHW16c", "layout_transform NCHW16c NCHW",
    ]  # fmt: skip
    same(net, function)


@pytest.mark.parametrize(
    "net",
    [
        lambda: fw.nn.relu(conv(data(3, 32), 16)),  # nothing to gain: the result has to be transposed
        lambda: conv(data(64, 8), 64, window=1),
        lambda: conv(data(20), 20),  # no block divides 20
        lambda: conv(data(12), 64, groups=2),
        lambda: conv(data(24), 24, groups=2),  # blocks of 8 lie across groups of 12
        lambda: fw.nn.relu(data() + const(64, 1, 1)),
        lambda: fw.nn.conv2d(fw.var("x", shape=(1, 28, 28, 64)), const(3, 3, 64, 64), data_layout="NHWC",
                             kernel_layout="HWIO"),
        lambda: fw.nn.conv2d(fw.var("x", shape=(fw.size_var("n"), 64, 28, 28)), const(64, 64, 3, 3)),
    ],
)  # fmt: skip
def test_left_alone(net: Callable[[], fw.Expr]) -> None:
    before = fw.transform.InferType()(fw.IRModule.from_expr(net()))["main"]
    after = fw.transform.AlterLayout(64)(fw.IRModule({"main": before}))["main"]
    fw.analysis.assert_structural_equal(after, before)


def residual() -> fw.Expr:
    x = data()
    first = fw.nn.relu(conv(x, 64))
    return fw.nn.relu(conv(first, 64) + x)


def squeeze_and_excite() -> fw.Expr:
    x = conv(data(), 64)
    gate = fw.nn.global_avg_pool2d(x)
    gate = fw.nn.relu(conv(gate, 16, window=1))
    return x * fw.sigmoid(conv(gate, 64, window=1))


def inception() -> fw.Expr:
    x = conv(data(), 64)
    return fw.concatenate([conv(x, 32), conv(x, 24), fw.nn.max_pool2d(x, pool_size=(3, 3), padding=(1, 1))], axis=1)


def pools() -> fw.Expr:
    x = fw.nn.max_pool2d(conv(data(), 64), pool_size=(3, 3), strides=(2, 2), padding=(1, 1))
    x = fw.nn.avg_pool2d(x, pool_size=(2, 2), strides=(2, 2), count_include_pad=True)
    x = fw.nn.adaptive_avg_pool2d(x, output_size=(2, 2))
    return fw.nn.dense(fw.nn.batch_flatten(fw.mean(x, axis=(2, 3), keepdims=True)), const(10, 64))


def grouped_and_depthwise() -> fw.Expr:
    x = conv(data(), 64, groups=4)
    x = fw.clip(conv(conv(x, 64, groups=64), 64, groups=64), 0.0, 6.0)
    return conv(x, 48, window=1)


def broadcasts() -> fw.Expr:
    x = conv(data(), 64)
    x = fw.nn.bias_add(x, const(64)) * const(28) + const(1, 1, 28, 28) - const(64, 28, 28)
    x = fw.where(fw.greater(x, fw.const(0.0)), x, x * fw.const(0.1))
    return conv(fw.nn.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1))), 64)


def in_a_tuple() -> fw.Expr:
    x = conv(data(), 64)
    return fw.Tuple([conv(x, 64), x, fw.transpose(x, (0, 2, 3, 1))])


def two_block_sizes() -> fw.Expr:
    x = conv(data(), 24)
    return conv(conv(x, 24) + x, 40)


NETS = [residual, squeeze_and_excite, inception, pools, grouped_and_depthwise, broadcasts, in_a_tuple, two_block_sizes]


@pytest.mark.parametrize("vector_bytes", [64, 32, 16])
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_same_results(net: Callable[[], fw.Expr], vector_bytes: int) -> None:
    graph = net()
    function = altered(graph, vector_bytes)
    assert any("c" in line.split(" ", 1)[-1] for line in layouts(function) if "nn.conv2d" in line)
    same(graph, function)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_compiled(net: Callable[[], fw.Expr]) -> None:
    graph = net()
    function = fw.transform.InferType()(fw.IRModule.from_expr(graph))["main"]
    x = RNG.standard_normal(tensor_type(function.params[0]).static_shape).astype(np.float32)
    got = fw.build(graph, "cpu -num-cores=2")(x=x)
    for want, result in zip(
        fw.testing.evaluate(function, {"x": x}), got if isinstance(got, list) else [got], strict=True
    ):
        assert np.abs(want - result).max() <= 2e-5 * np.abs(want).max()


def test_what_stays_inside_is_not_transposed() -> None:
    assert layouts(altered(residual())).count("layout_transform NCHW NCHW16c") == 1
    transposed = [line for line in layouts(altered(squeeze_and_excite())) if line.startswith("layout_transform")]
    assert transposed == ["layout_transform NCHW NCHW16c", "layout_transform NCHW16c NCHW"]
    assert not [line for line in layouts(altered(squeeze_and_excite())) if line.startswith("reshape")]


def test_it_can_be_switched_off() -> None:
    with fw.PassContext(disabled_pass=["AlterLayout"]):
        lib = fw.build(residual(), "cpu -mcpu=x86-64-v4")
    assert not [line for line in layouts(lib.ir_mod["main"]) if "16c" in line]


def test_narrow_vectors_have_no_blocks() -> None:
    before = fw.transform.InferType()(fw.IRModule.from_expr(residual()))["main"]
    fw.analysis.assert_structural_equal(fw.transform.AlterLayout(8)(fw.IRModule({"main": before}))["main"], before)
