"""MIOpen and rocBLAS on doubles: libraries that stand in for them, and one of the HIP runtime as the device.

What is asserted of placement, logs and refusals needs neither. None of this has run on a GPU.
"""

import gc
import logging
from collections.abc import Callable, Iterator

import pytest

import fusewire as fw
from fusewire.contrib.miopen.ffi import MIOPEN
from fusewire.contrib.rocblas import ROCBLAS
from fusewire.targets.rocm import device
from tests.contrib.fakes import Fake, missing, use
from tests.contrib.offload import (
    function_of,
    placed,
    refusals,
    run_on_device,
    taken,
    tutorial_net,
    unfit_convolutions,
    values_for,
    var,
)
from tests.contrib.test_cublas import PRODUCTS
from tests.contrib.test_cudnn import CONVOLUTIONS, LAYERS
from tests.rocm.double import STREAM, HostRuntime, install

TARGET = "rocm -arch=gfx90a -libs=miopen,rocblas"


@pytest.fixture
def rocm(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostRuntime]:
    yield install(monkeypatch)
    device.rocm_device.cache_clear()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    return use(monkeypatch, fake_miopen=MIOPEN, fake_rocblas=ROCBLAS)


def run(body: fw.Expr) -> fw.CompiledModule:
    return run_on_device(body, TARGET)


def test_convolutions(rocm: HostRuntime, fakes: dict[str, Fake], caplog: pytest.LogCaptureFixture) -> None:
    for name, make in CONVOLUTIONS.items():
        fakes["fake_miopen"].clear()
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="fusewire"):
            assert placed(run(make())) == ["miopen.conv2d"], name
        assert fakes["fake_miopen"].log == [
            f"miopenSetStream({STREAM})", "miopenFindConvolutionForwardAlgorithm(8, 8192, 0)",
            "miopenConvolutionForward(3, 1024)", "miopenConvolutionForward(3, 1024)",
        ]  # fmt: skip
        told = [m.rpartition("conv2d")[2] for m in caplog.messages if "iopen" in m.lower() and "Using" not in m]
        assert told[0].endswith("choosing miopenConvolutionFwdAlgoWinograd") and told[1:] == [
            "  0) miopenConvolutionFwdAlgoWinograd - time: 0.2500 ms, workspace: 1024 bytes",
            "  1) miopenConvolutionFwdAlgoGEMM - time: 0.5000 ms, workspace: 8192 bytes",
            "  2) miopenConvolutionFwdAlgoDirect - time: 0.7500 ms, workspace: 0 bytes",
        ]


def test_layers(rocm: HostRuntime, fakes: dict[str, Fake]) -> None:
    for name, (make, rule) in LAYERS.items():
        assert placed(run(make())) == [f"miopen.{rule}"], name
    sent = list(dict.fromkeys(line for line in fakes["fake_miopen"].log if "Stream" not in line))
    assert sent == ["miopenPoolingForward(0)", "miopenPoolingForward(1)", "miopenPoolingForward(2)",
                    "miopenSoftmaxForward_V2(1, 1)", "miopenSoftmaxForward_V2(2, 1)"]  # fmt: skip


def test_products(rocm: HostRuntime, fakes: dict[str, Fake]) -> None:
    for name, (make, call) in PRODUCTS.items():
        fakes["fake_rocblas"].clear()
        body = make()
        assert isinstance(body, fw.Call)
        assert placed(run(body)) == [f"rocblas.{str(body.op).removeprefix('nn.')}"], name
        flags, rest = call.partition("(")[2].split(" ", 1)
        transposed = " ".join(str(111 + int(flag)) for flag in flags)
        rest = rest.replace(", 68)", ", 151)").replace(", 70)", ", 152)")
        kind = "strided_batched_" if "Batched" in call else ""
        assert fakes["fake_rocblas"].log[1:] == [f"rocblas_gemm_{kind}ex({transposed} {rest}"] * 2, name


def test_memory_and_objects_are_given_back(rocm: HostRuntime, fakes: dict[str, Fake]) -> None:
    gc.collect()
    before, memory = fakes["fake_miopen"].objects, len(rocm.live)
    run(fw.nn.softmax(CONVOLUTIONS["plain"]()))
    gc.collect()
    assert fakes["fake_miopen"].objects == before and len(rocm.live) == memory


def test_the_tutorial_without_a_library(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    missing(monkeypatch)
    with caplog.at_level(logging.INFO, logger="fusewire"):
        mod, params = fw.testing.create_workload(tutorial_net())
        lib = fw.build(mod, TARGET, params=params)
    assert placed(lib) == ["miopen.conv2d", "kernel"] and taken(lib) == [("nn.conv2d",)]
    assert "Using conv2d_miopen.rocm for nn.conv2d based on highest priority (25)" in caplog.messages
    assert any(name.endswith("fused_multiply_add_nn_relu") for name in lib.function_metadata)
    assert str(lib.target) == (
        "rocm -keys=rocm,gpu -arch=gfx90a -libs=miopen,rocblas -max_num_threads=256 -thread_warp_size=64"
    )
    install(monkeypatch)
    with pytest.raises(fw.LibraryNotFound, match=r"libMIOpen.so.1 does not load.*install ROCm with miopen-hip"):
        lib["default"](fw.device("rocm"))


REFUSED: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "bfloat16": (
        lambda: fw.nn.conv2d(var("data", 1, 4, 5, 5, dtype="bfloat16"), var("weight", 4, 4, 3, 3, dtype="bfloat16")),
        "conv2d_miopen.rocm: data is bfloat16, expected float32 or float16",
    ),
    **unfit_convolutions("conv2d_miopen.rocm"),
    "integers": (
        lambda: fw.nn.dense(var("a", 4, 4, dtype="int8"), var("b", 4, 4, dtype="int8"), out_dtype="int32"),
        "dense_rocblas.rocm: data is int8, expected float32, float64, float16 or bfloat16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    make, reason = REFUSED[name]
    lib = fw.build(function_of(make()), TARGET)
    assert placed(lib) == ["kernel"] and reason in refusals(lib)


def test_errors_are_in_words(rocm: HostRuntime, fakes: dict[str, Fake]) -> None:
    lib = fw.build(function_of(CONVOLUTIONS["plain"]()), TARGET)
    fakes["fake_miopen"].fail("miopenFindConvolutionForwardAlgorithm", -1)
    with pytest.raises(fw.LibraryCallError, match="MIOpen found no algorithm for float32"):
        fw.GraphModule(lib["default"](fw.device("rocm")))
    fakes["fake_miopen"].clear()
    module = fw.GraphModule(lib["default"](fw.device("rocm")))
    fakes["fake_miopen"].fail("miopenConvolutionForward", 5)
    with pytest.raises(fw.LibraryCallError, match=r"miopenConvolutionForward met an internal error \(status 5\)"):
        module.run(**values_for(function_of(CONVOLUTIONS["plain"]())))
    body = fw.nn.dense(var("a", 5, 7), var("b", 9, 7))
    module = fw.GraphModule(fw.build(body, TARGET)["default"](fw.device("rocm")))
    fakes["fake_rocblas"].fail("rocblas_gemm_ex", 15)
    with pytest.raises(fw.LibraryCallError, match=r"met a device whose architecture it does not have \(status 15\)"):
        module.run(**values_for(function_of(body)))
