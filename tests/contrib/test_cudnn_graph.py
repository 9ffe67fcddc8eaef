"""cuDNN's graph interface on a double of its Python frontend, and on CuPy's double as the device."""

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

import fusewire as fw
from fusewire.contrib.cudnn import graph
from fusewire.contrib.cudnn.ffi import CUDNN
from fusewire.fuse.library import Region
from fusewire.targets.cuda.device import CudaDevice
from fusewire.testing import evaluate
from tests.contrib.fake_frontend import Frontend, Graph
from tests.contrib.fakes import use
from tests.contrib.offload import compare, conv2d, function_of, placed, refusals, taken, values_for, var
from tests.cuda.double import Double, install


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, Double())


@pytest.fixture
def frontend(monkeypatch: pytest.MonkeyPatch) -> Frontend:
    use(monkeypatch, fake_cudnn=CUDNN)
    fake = Frontend()
    monkeypatch.setitem(sys.modules, "cudnn", fake)
    monkeypatch.setattr(CudaDevice, "seconds_of", lambda self, action, repeat: fake.seconds(action, repeat))
    return fake


def half(dtype: str = "float16", **attributes: Any) -> fw.Expr:
    return conv2d((2, 4, 8, 9), (6, 4, 3, 3), dtype=dtype, padding=(1, 1), **attributes)


def last(dtype: str = "float16") -> fw.Expr:
    data, weight = var("data", 2, 8, 9, 4, dtype=dtype), var("weight", 6, 3, 3, 4, dtype=dtype)
    return fw.nn.conv2d(data, weight, channels=6, kernel_size=(3, 3), data_layout="NHWC", kernel_layout="OHWI")


def vector(name: str, *shape: int, dtype: str = "float16") -> fw.Expr:
    return var(name, *shape, dtype=dtype)


def block() -> fw.Expr:
    net = half() * vector("scale", 6, 1, 1) + vector("shift", 6, 1, 1)
    return fw.nn.relu(net + vector("z", 2, 6, 8, 9))


NETS: dict[str, tuple[Callable[[], fw.Expr], list[str]]] = {
    "plain": (half, ["conv"]),
    "bfloat16": (lambda: half("bfloat16"), ["conv"]),
    "all padding": (lambda: conv2d((1, 4, 8, 9), (6, 4, 3, 3), dtype="float16", padding=(0, 1, 2, 0)), ["conv"]),
    "groups, strides, dilation": (
        lambda: conv2d((1, 4, 9, 9), (6, 2, 3, 3), dtype="float16", groups=2, strides=(2, 1), dilation=(1, 2)),
        ["conv"],
    ),
    "scale, shift, residual, relu": (block, ["conv", "scale", "bias", "add", "relu"]),
    "bias_add, clip": (
        lambda: fw.clip(fw.nn.bias_add(half(), vector("b", 6)), -0.5, 0.5), ["conv", "bias", "relu"]),
    "tanh": (lambda: fw.tanh(half()), ["conv", "tanh"]),
    "channels last": (last, ["conv"]),
    "channels last, scale, relu": (
        lambda: fw.nn.relu(last() * vector("scale", 6) + vector("b", 1, 1, 6)), ["conv", "scale", "bias", "relu"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_regions_are_graphs(name: str, cuda: Double, frontend: Frontend) -> None:
    make, steps = NETS[name]
    function = function_of(make())
    values = values_for(function)
    lib = fw.build(function, "cuda -libs=cudnn")
    assert placed(lib) == ["cudnn.conv2d_graph"]
    module = fw.GraphModule(lib["default"](fw.device("cuda")))
    frontend.ran.clear()
    for _ in range(2):
        module.run(**values)
        expected = evaluate(function, values)
        compare([module.get_output(0).numpy()], expected, 2e-2 if "bfloat16" in name else 2e-3)
    assert frontend.graphs[0].steps == steps
    assert frontend.ran == [("fast", cuda.null.ptr)] * 2
    del module
    gc.collect()
    assert frontend.ended == 1


def test_strides_say_where_channels_lie(cuda: Double, frontend: Frontend) -> None:
    assert graph.geometry((2, 4, 8, 9), False) == ([2, 4, 8, 9], [288, 72, 9, 1])
    assert graph.geometry((2, 8, 9, 4), True) == ([2, 4, 8, 9], [288, 1, 36, 4])


def test_all_plans_are_timed_and_told(cuda: Double, frontend: Frontend, caplog: pytest.LogCaptureFixture) -> None:
    lib = fw.build(function_of(half()), "cuda -libs=cudnn")
    with caplog.at_level(logging.INFO, logger="fusewire"):
        fw.GraphModule(lib["default"](fw.device("cuda")))
    told = [m for m in caplog.messages if "found" in m or m.startswith("  ")]
    assert told[0].startswith("cuDNN found 3 plans for nn.conv2d(") and told[0].endswith("choosing fast")
    assert told[1:] == [
        "  0) fast - time: 1.0000 ms, workspace: 200 bytes",
        "  1) middle - time: 2.0000 ms, workspace: 300 bytes",
        "  2) slow - time: 3.0000 ms, workspace: 0 bytes",
    ]


def test_errors(cuda: Double, frontend: Frontend, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = fw.build(function_of(half()), "cuda -libs=cudnn")
    frontend.plans = {"broken": 0.0}
    with pytest.raises(fw.LibraryCallError, match=r"none of cuDNN's plans for nn.conv2d.* runs"):
        fw.GraphModule(lib["default"](fw.device("cuda")))
    with monkeypatch.context() as patch:  # a fault of ours is not taken for a plan that does not run
        patch.setattr(Graph, "get_workspace_size_plan_at_index", lambda self, index: "many")
        with pytest.raises(fw.LibraryCallError, match=r"cannot prepare nn.conv2d.*not supported between instances"):
            fw.GraphModule(lib["default"](fw.device("cuda")))
    with monkeypatch.context() as patch:
        patch.setattr(Graph, "validate", lambda self: int("a shape"))
        with pytest.raises(fw.LibraryCallError, match=r"cuDNN has no plan for nn.conv2d\(.*: invalid literal"):
            fw.GraphModule(lib["default"](fw.device("cuda")))
    frontend.unsupported = True
    with pytest.raises(fw.LibraryCallError, match=r"cuDNN has no plan for nn.conv2d\(.*: no engine"):
        fw.GraphModule(lib["default"](fw.device("cuda")))
    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(fw.LibraryNotFound, match=r"needs its Python frontend.*pip install 'fusewire\[cudnn\]'"):
        fw.GraphModule(lib["default"](fw.device("cuda")))


REFUSED: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "dtype": (lambda: half("float64"), "data is float64, expected float16 or bfloat16"),
    "layout": (
        lambda: conv2d((1, 5, 5, 4), (3, 3, 4, 2), dtype="float16", data_layout="NHWC", kernel_layout="HWIO"),
        "layouts are NHWC, HWIO (data, kernel), expected NCHW, OIHW or NHWC, OHWI",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    make, reason = REFUSED[name]
    lib = fw.build(function_of(make()), "cuda -libs=cudnn")
    assert placed(lib) == ["kernel"] and f"conv2d_graph_cudnn.cuda: {reason}" in refusals(lib)


def test_other_operands_stay_outside() -> None:
    net = fw.nn.relu(half() * vector("row", 9))
    lib = fw.build(function_of(net), "cuda -libs=cudnn")
    assert taken(lib) == [("nn.conv2d",)] and placed(lib) == ["cudnn.conv2d_graph", "kernel"]
    whole = half() * vector("z", 2, 6, 8, 9)
    assert taken(fw.build(function_of(whole), "cuda -libs=cudnn")) == [("nn.conv2d",)]


def test_the_real_frontend_takes_the_calls() -> None:
    """Where it is installed: a graph is written; to build its plans would need a GPU."""
    pytest.importorskip("nvidia.cudnn", reason="cuDNN is not installed")
    try:
        real = graph.frontend()
    except fw.LibraryNotFound as error:
        pytest.skip(str(error))
    region = Region(function_of(block()), {}, 1)
    made = graph._Writer(real, region, graph.CHAIN.links(region.function), None).written()
    assert len(made.graph.nodes) == 5 and list(made.result.dim) == [2, 6, 8, 9]
