"""CLBlast on every OpenCL driver: what it takes and what not, the results, and what is said where it is missing."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.contrib.clblast import ffi
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.library import HOST, Executable, Library, Region, Rule
from fusewire.targets import libraries
from fusewire.targets import target as targets
from fusewire.targets.executor import GraphModule
from fusewire.targets.launched.engine import LaunchEngine
from fusewire.targets.opencl.devices import find
from fusewire.testing import evaluate
from tests.contrib.fakes import missing
from tests.contrib.offload import (
    compare,
    conv2d,
    function_of,
    placed,
    refusals,
    unfit_convolutions,
    uniform,
    values_for,
    var,
)
from tests.opencl.present import each_device

MISSING = ffi.CLBLAST.probe() or ""
needs_clblast = pytest.mark.skipif(bool(MISSING), reason=MISSING)

PRODUCTS: dict[str, Callable[[], fw.Expr]] = {
    "dense": lambda: fw.nn.dense(var("a", 5, 7), var("b", 9, 7)),
    "dense, a vector": lambda: fw.nn.dense(var("a", 7), var("b", 9, 7)),
    "dense, 4-D": lambda: fw.nn.dense(var("a", 2, 3, 5, 7), var("b", 9, 7)),
    "dense, sizes of 1": lambda: fw.nn.dense(var("a", 1, 1), var("b", 1, 1)),
    "matmul": lambda: fw.nn.matmul(var("a", 5, 7), var("b", 7, 9)),
    "matmul, both transposed": lambda: fw.nn.matmul(var("a", 7, 5), var("b", 9, 7), transpose_a=True, transpose_b=True),
    "matmul, 4-D, a transposed": lambda: fw.nn.matmul(var("a", 2, 3, 7, 5), var("b", 7, 9), transpose_a=True),
    "batch_matmul": lambda: fw.nn.batch_matmul(var("a", 3, 5, 7), var("b", 3, 9, 7)),
    "batch_matmul, one a": lambda: fw.nn.batch_matmul(var("a", 1, 5, 7), var("b", 3, 9, 7)),
    "batch_matmul, one b": lambda: fw.nn.batch_matmul(var("a", 3, 5, 7), var("b", 1, 7, 9), transpose_b=False),
}

SOME = ("dense", "matmul, both transposed", "batch_matmul")
"""What is run on PoCL, which takes ten seconds to compile the kernels of a routine."""


def run(body: fw.Expr, target: str, constants: Sequence[str] = ()) -> fw.CompiledModule:
    """Build, run twice, and compare with NumPy in float64."""
    function = function_of(body)
    values = values_for(function)
    params = {name: values[name] for name in constants}
    lib = fw.build(function, f"{target} -libs=clblast", params=params)
    for _ in range(2):
        result = lib(**{name: value for name, value in values.items() if name not in params})
        compare(result if isinstance(result, list) else [result], evaluate(function, values))
    return lib


@needs_clblast
@each_device
def test_products(target: str) -> None:
    slow = "Portable" in find(target.partition("=")[2]).platform
    for name in SOME if slow else PRODUCTS:
        body = PRODUCTS[name]()
        assert isinstance(body, fw.Call)
        lib = run(body, target, ["b"] if len(name) % 2 else [])
        assert placed(lib) == [f"clblast.{str(body.op).removeprefix('nn.')}"], name


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"data": (1, 3, 8, 9), "weight": (4, 3, 3, 3)},
    "padding, strides": {"data": (2, 3, 9, 8), "weight": (5, 3, 3, 2), "strides": (2, 1), "padding": (1, 2)},
    "dilation": {"data": (1, 2, 11, 12), "weight": (3, 2, 3, 2), "dilation": (2, 3), "padding": (2, 0)},
    "1x1": {"data": (1, 17, 5, 5), "weight": (9, 17, 1, 1)},
    "whole image": {"data": (1, 2, 4, 5), "weight": (3, 2, 4, 5)},
}


@needs_clblast
@each_device
def test_convolutions(target: str) -> None:
    for name, given in CONVOLUTIONS.items():
        lib = run(conv2d(**given), target, ["weight"] if len(name) % 2 else [])
        assert placed(lib) == ["clblast.conv2d"], name


@needs_clblast
@each_device
def test_epilogues_and_neighbours_are_kernels(target: str, caplog: pytest.LogCaptureFixture) -> None:
    """Steps before and after share the queue and the memory; nothing is fetched."""
    net = fw.nn.conv2d(fw.exp(var("data", 1, 4, 10, 10)), var("weight", 8, 4, 3, 3), padding=(1, 1))
    net = fw.nn.relu(net + var("shift", 8, 1, 1))
    net = fw.nn.softmax(fw.nn.dense(fw.nn.batch_flatten(net), var("w", 6, 800)))
    with caplog.at_level(logging.INFO, logger="fusewire"):
        lib = run(net, target, ["weight", "w"])
    assert placed(lib) == ["kernel", "clblast.conv2d", "kernel", "clblast.dense", "kernel"]
    assert "Using conv2d_clblast.opencl for nn.conv2d based on highest priority (20)" in caplog.messages
    assert lib.explain("nn.dense").choices[0].chosen == "dense_clblast.opencl"


@needs_clblast
@each_device
def test_nothing_is_fetched(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = var("x", 4, 6)
    function = fw.Function([x], fw.nn.relu(fw.nn.dense(fw.tanh(x), fw.const(uniform(1, (5, 6))))))
    module = GraphModule(fw.build(function, f"{target} -libs=clblast")["default"](fw.device("opencl")))
    module.run(x=uniform(2, (4, 6)))
    monkeypatch.setattr(LaunchEngine, "read", lambda *given: pytest.fail("a tensor was fetched"))
    module.run()


REFUSED: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "groups": (
        lambda: conv2d((1, 4, 5, 5), (4, 2, 3, 3), groups=2),
        "conv2d_clblast.opencl: groups is 2, expected 1",
    ),
    "dtype": (
        lambda: fw.nn.dense(var("a", 2, 3, dtype="float64"), var("b", 4, 3, dtype="float64")),
        "dense_clblast.opencl: data is float64, expected float32",
    ),
    **unfit_convolutions("conv2d_clblast.opencl"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = REFUSED[name]
    lib = fw.build(function_of(make()), "opencl -libs=clblast")
    assert placed(lib) == ["kernel"] and reason in refusals(lib)
    assert any(m.startswith("library clblast is not used: ") for m in caplog.messages)


def test_other_targets_have_no_clblast() -> None:
    with pytest.raises(fw.FusewireError, match="clblast"):
        fw.build(function_of(PRODUCTS["dense"]()), "cpu -libs=clblast")


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building and looking at the module go on; making it on a device says what to install."""
    missing(monkeypatch)
    lib = fw.build(function_of(fw.nn.relu(PRODUCTS["dense"]())), "opencl -libs=clblast")
    assert placed(lib) == ["clblast.dense", "kernel"]
    monkeypatch.setattr("fusewire.targets.build.backend_of", lambda kind: Checked)
    with pytest.raises(fw.LibraryNotFound, match=r"libclblast.so.1 does not load.*apt install libclblast1"):
        lib["default"](fw.device("opencl"))


class Checked:
    """A backend whose devices are all there."""

    @staticmethod
    def check(code: Any, target: Any, device: fw.Device) -> fw.Device:
        return device


@needs_clblast
@each_device
def test_auto_says_that_it_cannot_check(target: str) -> None:
    function = fw.Function([x := var("x", 4, 6)], fw.nn.dense(x, fw.const(uniform(1, (5, 6)))))
    with pytest.raises(fw.TargetError, match="-libs=auto measures on cpu only, not on opencl"):
        fw.build(function, f"{target} -libs=auto")


@needs_clblast
@each_device
def test_refused_calls_are_errors_in_words(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = fw.build(function_of(PRODUCTS["dense"]()), f"{target} -libs=clblast")
    module = GraphModule(lib["default"](fw.device("opencl")))
    values = {"a": uniform(1, (5, 7)), "b": uniform(2, (9, 7))}
    real = ffi.gemm
    monkeypatch.setattr(ffi, "gemm", lambda queue, operands, flags, shape, batches: real(
        queue, operands, flags, (1000, 1000, 1000), batches))  # fmt: skip
    with pytest.raises(fw.LibraryCallError, match=r"clblast.dense failed to run .*met a buffer too small for A"):
        module.run(**values)
    monkeypatch.undo()
    module.run(**values)
    np.testing.assert_allclose(module.get_output(0).numpy(), values["a"] @ values["b"].T, atol=1e-5)


@each_device
def test_a_library_that_works_on_arrays(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays of its inputs are fetched, its results put back."""
    monkeypatch.setitem(targets._LIBRARIES, "opencl", [*targets._LIBRARIES["opencl"]])
    monkeypatch.setattr(libraries, "_registered", {})
    seen: list[Any] = []

    def implement(region: Region) -> Executable:
        assert region.queue is not None

        def call(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            seen.append([type(x) for x in (*inputs, *outputs)])
            outputs[0][...] = inputs[0] @ inputs[1].T

        return call

    rule = Rule("acme.dense", is_op("nn.dense")(wildcard(), wildcard()), implement=implement)
    assert rule.memory == HOST
    fw.register_library(Library("acme", ("opencl",), [rule], lambda: None))
    x, w = var("x", 4, 6), uniform(1, (5, 6))
    function = fw.Function([x], fw.nn.relu(fw.nn.dense(fw.reshape(fw.tanh(x), (4, 6)), fw.const(w))))
    lib = fw.build(function, f"{target} -libs=acme")
    data = uniform(2, (4, 6))
    compare([lib(x=data)], evaluate(function, {"x": data}))
    libraries.find_library.cache_clear()
    assert seen == [[np.ndarray] * 3]
