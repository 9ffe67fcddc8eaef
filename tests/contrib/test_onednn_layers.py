"""oneDNN beyond convolutions and products: what it takes, the results, and what it refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.contrib.onednn import LIBRARY, ffi
from fusewire.fuse.transform import AnnotateTarget, InferType, MergeComposite, PartitionGraph, Sequential
from fusewire.targets.build import make_runnable
from fusewire.targets.cpuinfo import isa_for
from fusewire.targets.executor import GraphModule
from fusewire.targets.explain import Report
from fusewire.targets.runnable import Factory
from fusewire.testing import evaluate
from tests.contrib.offload import (
    Build,
    check,
    compare,
    conv2d,
    function_of,
    placed,
    refusals,
    uniform,
    values_for,
    var,
)
from tests.contrib.onednn_cases import needs_onednn

nn = fw.nn


def only(body: fw.Expr, *constants: str) -> fw.CompiledModule:
    """Check a graph that oneDNN takes as one step, named after the first operator."""
    first: list[str] = []

    def visit(e: fw.Expr) -> None:
        if isinstance(e, fw.Call):
            first.append(str(e.op).removeprefix("nn."))

    fw.analysis.post_order_visit(body, visit)
    return check(body, "onednn", [f"onednn.{first[0]}"], constants, against_cpu=False)


TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "strides and padding": {"strides": 2, "padding": 1},
    "output_padding": {"strides": 2, "output_padding": 1},
    "dilation": {"dilation": 2},
    "groups": {"groups": 2, "strides": 2},
    "depthwise": {"groups": 8},
}


@needs_onednn
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("attributes", TRANSPOSED.values(), ids=TRANSPOSED)
def test_transposed_convolution(rank: int, attributes: dict[str, Any]) -> None:
    filters = 1 if attributes.get("groups") == 8 else 4
    data, weight = var("data", 2, 8, *(5, 4, 3)[:rank]), var("weight", 8, filters, *(3, 2, 3)[:rank])
    body = getattr(nn, f"conv{rank}d_transpose")(data, weight, **attributes)
    only(body, "weight")
    only(nn.relu(body))


@needs_onednn
def test_transposed_convolution_in_other_layouts() -> None:
    attributes: dict[str, Any] = {"data_layout": "NHWC", "kernel_layout": "HWOI", "strides": 2}
    only(nn.conv2d_transpose(var("data", 2, 5, 4, 8), var("weight", 3, 3, 6, 8), **attributes), "weight")
    only(nn.conv2d_transpose(var("data", 2, 5, 4, 8), var("weight", 3, 3, 3, 8), groups=2, **attributes), "weight")


WINDOWS: dict[str, dict[str, Any]] = {
    "strides": {"pool_size": 3, "strides": 2},
    "padding": {"pool_size": 3, "strides": 2, "padding": 1},
    "ceil_mode": {"pool_size": 2, "strides": 2, "ceil_mode": True},
    "both": {"pool_size": 3, "strides": 2, "padding": 1, "ceil_mode": True},
}


@needs_onednn
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("attributes", WINDOWS.values(), ids=WINDOWS)
def test_pool(kind: str, attributes: dict[str, Any]) -> None:
    for rank in (1, 2, 3):
        only(getattr(nn, f"{kind}_pool{rank}d")(var("data", 2, 8, *(13, 12, 7)[:rank]), **attributes))
    if kind == "avg" and not attributes.get("ceil_mode"):
        only(nn.avg_pool2d(var("data", 2, 8, 13, 12), count_include_pad=True, **attributes))


POOLS: dict[str, Build] = {
    "NHWC": lambda: nn.max_pool2d(var("data", 2, 9, 8, 3), 2, 2, layout="NHWC"),
    "blocks": lambda: nn.avg_pool2d(var("data", 2, 2, 9, 9, 16), 2, 2, layout="NCHW16c"),
    "global": lambda: nn.global_avg_pool2d(var("data", 2, 3, 9, 8)),
    "global maximum": lambda: nn.global_max_pool2d(var("data", 2, 3, 9, 8)),
    "adaptive": lambda: nn.adaptive_avg_pool2d(var("data", 2, 3, 8, 6), (4, 2)),
    "adaptive 3-D": lambda: nn.adaptive_max_pool3d(var("data", 2, 3, 8, 6, 4), (4, 2, 1)),
    "softmax": lambda: nn.softmax(var("data", 4, 10)),
    "softmax, 3-D": lambda: nn.softmax(var("data", 2, 4, 10), axis=-1),
    "fast_softmax": lambda: nn.fast_softmax(var("data", 4, 10)),
    "log_softmax": lambda: nn.log_softmax(var("data", 4, 10)),
    "layer_norm": lambda: nn.layer_norm(var("data", 2, 4, 10), var("g", 10), var("b", 10)),
    "layer_norm, no shift": lambda: nn.layer_norm(var("data", 4, 10), var("g", 10), var("b", 10), center=False),
    "layer_norm, plain": lambda: nn.layer_norm(
        var("data", 4, 10), var("g", 10), var("b", 10), center=False, scale=False, epsilon=0.1
    ),
    "sum, last axis": lambda: fw.sum(var("data", 4, 6, 8), -1),
    "mean, last axis": lambda: fw.mean(var("data", 4, 6, 8), -1),
    "max, last axis": lambda: fw.max(var("data", 4, 6, 8), -1),
    "min, last axis": lambda: fw.min(var("data", 4, 6, 8), -1),
    "prod, last axis": lambda: fw.prod(var("data", 4, 6, 8), -1),
    "sum, two axes": lambda: fw.sum(var("data", 4, 6, 8), (1, 2), keepdims=True),
    "sum of all": lambda: fw.sum(var("data", 4, 6, 8)),
    "all but one": lambda: fw.sum(var("data", 4, 6, 8), axis=(0,), exclude=True),
    "mean, scaled": lambda: fw.mean(var("data", 4, 6, 8), -1) * var("s", 6) + fw.const(1.0),
    "relu": lambda: nn.relu(var("data", 3, 5)),
    "leaky_relu": lambda: nn.leaky_relu(var("data", 3, 5), 0.3),
    "clip": lambda: fw.clip(var("data", 3, 5), -0.5, 0.25),
    "tanh of a number": lambda: fw.tanh(var("data")),
    "sum of tensors": lambda: var("data", 3, 5) + var("other", 3, 5),
    "shorter on the left": lambda: var("other", 5) * var("data", 3, 5),
    "with a number": lambda: fw.const(2.0) * var("data", 3, 5),
    "several": lambda: nn.relu((var("data", 4, 6, 5) - var("y", 6, 1)) * var("z", 4, 6, 5)),
}  # fmt: skip


@needs_onednn
@pytest.mark.parametrize("body", POOLS.values(), ids=POOLS)
def test_layer(body: Build) -> None:
    only(body())


BATCH_NORMS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "NCHW": ((2, 6, 5, 4), {}),
    "NHWC": ((2, 5, 4, 6), {"axis": 3}),
    "2-D": ((7, 6), {}),
    "no scale": ((2, 6, 5), {"scale": False}),
    "no shift, epsilon": ((2, 6, 5, 4, 3), {"center": False, "epsilon": 0.1}),
}


def partitioned(function: fw.Function) -> GraphModule:
    """The function with oneDNN's regions in it, simplified by no pass, ready to run."""
    passes = [InferType(), MergeComposite(LIBRARY), AnnotateTarget(LIBRARY), PartitionGraph()]
    main = Sequential(passes)(fw.IRModule.from_expr(function))["main"]
    assert isinstance(main, fw.Function)
    target = fw.Target("cpu")
    runnable = make_runnable(main, target, isa_for(target), Report("cpu", [LIBRARY], []), "default")
    return GraphModule(Factory(runnable, fw.cpu()))


@needs_onednn
@pytest.mark.parametrize("behind", [lambda x: x, nn.relu], ids=["alone", "relu"])
@pytest.mark.parametrize(("shape", "attributes"), BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_batch_norm(shape: tuple[int, ...], attributes: dict[str, Any], behind: Callable[[Any], Any]) -> None:
    """In a build SimplifyInference comes before; who partitions by hand may skip it."""
    g, b, m, v = (var(name, 6) for name in ("gamma", "beta", "mean", "variance"))
    function = function_of(behind(nn.batch_norm(var("data", *shape), g, b, m, v, **attributes)[0]))
    values = values_for(function) | {"variance": np.abs(uniform(9, (6,))) + np.float32(0.5)}
    module = partitioned(function)
    (step,) = module.lib.program.leaf_steps()
    assert getattr(step, "composite", "") == "onednn.batch_norm"
    module.run(**values)
    compare([module.get_output(0).numpy()], evaluate(function, values))


def half(name: str, *shape: int) -> fw.Var:
    return var(name, *shape, dtype="bfloat16")


def windows(**attributes: Any) -> Build:
    return lambda: nn.avg_pool2d(var("data", 2, 3, 5, 6), **attributes)


REFUSALS: dict[str, tuple[Build, str]] = {
    "windows of padding": (
        windows(pool_size=3, padding=3, count_include_pad=True, layout="NCHW"),
        "padding (3, 3, 3, 3) makes windows without elements: they reach over 3",
    ),
    "ceil_mode": (
        windows(pool_size=2, strides=2, ceil_mode=True, count_include_pad=True),
        "ceil_mode makes windows that reach beyond the padding, which count_include_pad does not count",
    ),
    "out_layout of a pool": (
        windows(pool_size=2, out_layout="NHWC"),
        "out_layout is NHWC, expected NCHW as the data has",
    ),
    "layout of a pool": (
        lambda: nn.max_pool2d(var("data", 2, 3, 5, 6, 4), layout="NCHW4c"),
        "layout NCHW4c has blocks that oneDNN does not know, expected whole axes such as NCHW, or NCHW8c or NCHW16c",
    ),
    "uneven parts": (
        lambda: nn.adaptive_avg_pool2d(var("data", 2, 3, 9, 8), 4),
        "9 elements in 4 parts give windows of several sizes",
    ),
    "axis of layer_norm": (
        lambda: nn.layer_norm(var("data", 4, 10, 3), var("g", 10), var("b", 10), axis=1),
        "axis is 1, expected the last one of Tensor[(4, 10, 3), float32]",
    ),
    "dtype of layer_norm": (
        lambda: nn.layer_norm(half("x", 4, 9), half("g", 9), half("b", 9)),
        "data is bfloat16, expected float32, as oneDNN has scale and shift",
    ),
    "left side": (
        lambda: var("y", 6) - var("x", 4, 6),
        "the left side Tensor[(6,), float32] is broadcast to Tensor[(4, 6), float32], expected the right side only",
    ),
    "one tensor twice": (
        lambda: (lambda x: x + x)(var("x", 4, 6)),
        "both operands of add are one tensor, expected separate memory",
    ),
    "output_padding": (
        lambda: nn.conv1d_transpose(var("x", 1, 8, 5), var("w", 8, 8, 3), dilation=2, output_padding=1),
        "output padding (1,) must be less than the strides (1,)",
    ),
}


@pytest.mark.parametrize(("body", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refused(body: Build, reason: str) -> None:
    lib = fw.build(function_of(body()), "cpu -libs=onednn")
    assert set(placed(lib)) == {"kernel"}
    assert reason in [refusal.split(": ", 1)[1] for refusal in refusals(lib)]


SLOW: dict[str, Build] = {
    "softmax of an inner axis": lambda: nn.softmax(var("x", 2, 10, 7), axis=1),
    "sum over an inner axis": lambda: fw.sum(var("x", 4, 6, 8), 1),
    "dilated pool": lambda: nn.max_pool2d(var("x", 2, 3, 8, 8), 2, dilation=2),
}


@needs_onednn
@pytest.mark.parametrize("body", SLOW.values(), ids=SLOW)
def test_reference_implementations_are_refused(body: Build) -> None:
    lib = check(body(), "onednn", ["kernel"], against_cpu=False)
    reason = f"oneDNN {ffi.version()}: only the slow reference implementation (ref:any) takes it"
    assert refusals(lib)[0].split(": ", 1)[1] == reason


@needs_onednn
def test_reference_as_a_part_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffi, "implementation_name", lambda api, described: "conv:any+ref:any")
    lib = fw.build(function_of(nn.conv1d_transpose(var("x", 1, 8, 5), var("w", 8, 4, 2))), "cpu -libs=onednn")
    assert placed(lib) == ["kernel"] and "(conv:any+ref:any)" in refusals(lib)[0]


# Elementwise operators: only where nothing else could take them along


@needs_onednn
def test_elementwise_operators_stay_with_generated_neighbours() -> None:
    lib = check(fw.erf(fw.tanh(var("x", 4, 6))), "onednn", ["kernel"], against_cpu=False)
    assert refusals(lib) == ["tanh_onednn.cpu: generated code fuses it with its neighbours"]
    lib = check(fw.sum(fw.erf(var("x", 4, 6)), -1), "onednn", ["kernel"], against_cpu=False)
    assert refusals(lib) == ["sum_onednn.cpu: generated code fuses it with its neighbours"]


@needs_onednn
def test_elementwise_operators_between_library_calls() -> None:
    x = nn.dense(var("x", 4, 6), var("w", 6, 6))
    body = nn.dense(fw.Tuple([x])[0] + nn.softmax(x), var("v", 6, 6))  # the first result is used twice
    lib = check(body, "onednn", ["onednn.dense", "onednn.softmax", "onednn.add", "onednn.dense"], against_cpu=False)
    reason = f"oneDNN {ffi.version()}: only the slow reference implementation (ref:any) takes it"
    assert refusals(lib)[0] == f"softmax_onednn.cpu: {reason}"  # with a tensor added
    y = nn.relu(x)
    body = nn.dense(y, var("v", 6, 6)) + nn.softmax(x)
    lib = check(body, "onednn", ["onednn.dense", "onednn.relu", "onednn.softmax", "onednn.dense"], against_cpu=False)


@needs_onednn
def test_layers_without_post_ops() -> None:
    body = nn.relu(nn.max_pool2d(conv2d((1, 3, 8, 8), (4, 3, 3, 3)), 2, 2))
    check(body, "onednn", ["onednn.conv2d", "onednn.max_pool2d"], ["weight"], against_cpu=False)
    check(body, "onednn -postops=0", ["onednn.conv2d", "onednn.max_pool2d", "kernel"], ["weight"], against_cpu=False)
