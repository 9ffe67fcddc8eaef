"""cuDNN on doubles: a library that stands in for it checks how it is called and computes, CuPy's double is the device.

What is asserted of placement, logs and refusals needs neither a library nor a device.
"""

import ctypes
import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.contrib.cudnn import convolution
from fusewire.contrib.cudnn.ffi import CUDNN
from fusewire.fuse.library import Region
from fusewire.targets.launched.libqueue import LibraryQueue
from fusewire.testing import evaluate
from tests.contrib.fakes import Fake, HostDevice, addresses, missing, use
from tests.contrib.offload import (
    compare,
    conv2d,
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
from tests.cuda.double import Double, Stream, install
from tests.cuda.host import needs_compiler


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, Double())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return use(monkeypatch, fake_cudnn=CUDNN)["fake_cudnn"]


def run(body: fw.Expr, constants: Sequence[str] = ()) -> fw.CompiledModule:
    return run_on_device(body, "cuda -libs=cudnn", constants, times=3)  # launched, recorded, repeated


def bias(*shape: int) -> fw.Expr:
    return var("bias", *shape)


CONVOLUTIONS: dict[str, Callable[[], fw.Expr]] = {
    "plain": lambda: conv2d((1, 3, 8, 9), (4, 3, 3, 3)),
    "padding, strides, batch": lambda: conv2d((2, 3, 9, 8), (5, 3, 3, 2), strides=(2, 1), padding=(1, 2)),
    "dilation": lambda: conv2d((1, 2, 11, 12), (3, 2, 3, 2), dilation=(2, 3), padding=(2, 0)),
    "groups": lambda: conv2d((1, 6, 5, 5), (4, 3, 3, 3), groups=2),
    "groups and dilation": lambda: conv2d((1, 6, 7, 7), (4, 3, 3, 3), groups=2, dilation=(2, 1)),
    "depthwise": lambda: conv2d((1, 4, 6, 6), (4, 1, 3, 3), groups=4, padding=(1, 1)),
    "depthwise, twice as many": lambda: conv2d((1, 4, 6, 6), (4, 2, 3, 3), groups=4, channels=8, kernel_size=(3, 3)),
}


@needs_compiler
def test_convolutions(cuda: Double, fake: Fake) -> None:
    for name, make in CONVOLUTIONS.items():
        fake.clear()
        lib = run(make(), constants=("weight",) if len(name) % 2 else ())
        assert placed(lib) == ["cudnn.conv2d"], name
        assert fake.calls() == ["cudnnFindConvolutionForwardAlgorithm", *["cudnnConvolutionForward"] * 3]
    assert "cudnnConvolutionForward(1, 4096, 0)" in fake.log  # the fastest in float32 whose workspace is not too large


def residual_block() -> fw.Expr:
    return fw.nn.relu(fw.add(fw.nn.bias_add(CONVOLUTIONS["groups"](), bias(4)), var("z", 1, 4, 3, 3)))


FUSED = "cudnnConvolutionBiasActivationForward"
PLAIN, ADD = "cudnnConvolutionForward", "cudnnAddTensor"

EPILOGUES: dict[str, tuple[Callable[[], fw.Expr], list[str]]] = {
    "bias_add and relu": (lambda: fw.nn.relu(fw.nn.bias_add(CONVOLUTIONS["plain"](), bias(4))), [FUSED]),
    "add and relu": (lambda: fw.nn.relu(CONVOLUTIONS["plain"]() + bias(4, 1, 1)), [FUSED]),
    "relu": (lambda: fw.nn.relu(CONVOLUTIONS["plain"]()), [FUSED]),
    "bias, residual, relu": (residual_block, [FUSED]),
    "residual, relu": (lambda: fw.nn.relu(CONVOLUTIONS["groups"]() + var("z", 1, 4, 3, 3)), [FUSED]),
    "bias": (lambda: fw.nn.bias_add(CONVOLUTIONS["plain"](), bias(4)), [PLAIN, ADD]),
    "residual, bias": (lambda: CONVOLUTIONS["groups"]() + var("z", 1, 4, 3, 3) + bias(1, 4, 1, 1), [PLAIN, ADD, ADD]),
}


@needs_compiler
def test_what_follows_is_absorbed(cuda: Double, fake: Fake) -> None:
    for name, (make, calls) in EPILOGUES.items():
        fake.clear()
        lib = run(make())
        assert placed(lib) == ["cudnn.conv2d"], name
        assert fake.calls("cudnnFindConvolutionForwardAlgorithm") == calls * 3, name


def test_the_tutorial_is_one_call_and_one_kernel(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    missing(monkeypatch)
    with caplog.at_level(logging.INFO, logger="fusewire"):
        mod, params = fw.testing.create_workload(tutorial_net())
        lib = fw.build(mod, "cuda -libs=cudnn", params=params)
    assert placed(lib) == ["cudnn.conv2d", "kernel"] and taken(lib) == [("nn.conv2d",)]
    assert "Using conv2d_cudnn.cuda for nn.conv2d based on highest priority (25)" in caplog.messages
    names = [name for name in lib.function_metadata if "fused" in name]
    assert len(names) == 1 and names[0].endswith("fused_multiply_add_nn_relu")
    source = lib.get_source(names[0])
    assert source.count("__global__") == 1
    choice = lib.explain("nn.conv2d").choices[0]
    assert choice.chosen == "conv2d_cudnn.cuda" and choice.candidates[0].priority == 25
    plain = fw.build(mod, "cuda", params=params)
    assert placed(plain) == ["kernel"] and plain.explain("nn.conv2d").choices[0].candidates[0].priority < 25
    assert str(fw.Target("cuda -libs=cudnn")) == (
        "cuda -keys=cuda,gpu -libs=cudnn -max_num_threads=1024 -thread_warp_size=32"
    )


@needs_compiler
def test_calls_and_kernels_share_memory(cuda: Double, fake: Fake) -> None:
    net = fw.tanh(var("data", 1, 3, 8, 9))
    net = fw.nn.conv2d(net, var("weight", 4, 3, 3, 3), padding=(1, 1)) * var("scale", 4, 1, 1) + bias(4, 1, 1)
    assert placed(run(fw.nn.max_pool2d(fw.nn.relu(net), (2, 2), (2, 2)))) == [
        "kernel", "cudnn.conv2d", "kernel", "cudnn.max_pool2d",
    ]  # fmt: skip


@needs_compiler
def test_the_search_is_logged_once(cuda: Double, fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fusewire"):
        run(fw.nn.relu(CONVOLUTIONS["plain"]()))
        run(CONVOLUTIONS["plain"]())
    told = [message for message in caplog.messages if "cuDNN" in message or "CUDNN" in message]
    algorithm = "CUDNN_CONVOLUTION_FWD_ALGO_"
    assert told == [
        "cuDNN found 4 forward algorithms for conv2d float32 (1, 3, 8, 9) * (4, 3, 3, 3), choosing "
        f"{algorithm}IMPLICIT_PRECOMP_GEMM",
        f"  0) {algorithm}WINOGRAD_NONFUSED - time: 0.0200 ms, workspace: {5 << 30} bytes",
        f"  1) {algorithm}IMPLICIT_PRECOMP_GEMM - time: 0.0500 ms, workspace: 4096 bytes",
        f"  2) {algorithm}IMPLICIT_GEMM - time: 0.3000 ms, workspace: 0 bytes",
        f"  3) {algorithm}FFT_TILING - time: 0.3500 ms, workspace: 100 bytes",
    ]
    assert fake.calls().count("cudnnFindConvolutionForwardAlgorithm") == 1


def test_tf32_only_where_it_is_asked_for(fake: Fake) -> None:
    """An algorithm that rounds the factors is faster, and runs with `-precision=tf32`."""
    function = function_of(CONVOLUTIONS["plain"]())
    values = values_for(function)
    result = np.empty((1, 4, 6, 7), np.float32)
    for precision, math, call in (("float32", 3, "(1, 4096, 0)"), ("tf32", 1, "(6, 64, 0)")):
        device: Any = HostDevice()
        region = Region(function, {}, 1, LibraryQueue(device), precision)
        convolution.implement(region)(addresses(values.values()), addresses([result]))
        compare([result], evaluate(function, values))
        assert fake.log[-1] == f"cudnnConvolutionForward{call}"
        assert ctypes.c_int.in_dll(fake.dll, "fake_math").value == math


LAYERS: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "max": (lambda: fw.nn.max_pool2d(var("x", 2, 3, 8, 9), (3, 2), (2, 1), padding=(1, 0)), "max_pool2d"),
    "average": (lambda: fw.nn.avg_pool2d(var("x", 1, 3, 8, 8), (3, 3), (2, 2), padding=(1, 1)), "avg_pool2d"),
    "average with zeros": (
        lambda: fw.nn.avg_pool2d(var("x", 1, 2, 7, 7), (3, 3), padding=(1, 1), count_include_pad=True), "avg_pool2d"),
    "global average": (lambda: fw.nn.global_avg_pool2d(var("x", 2, 3, 5, 7)), "global_avg_pool2d"),
    "global max": (lambda: fw.nn.global_max_pool2d(var("x", 2, 3, 5, 7)), "global_max_pool2d"),
    "softmax": (lambda: fw.nn.softmax(var("x", 4, 10)), "softmax"),
    "softmax, middle axis": (lambda: fw.nn.softmax(var("x", 2, 5, 3, 4), axis=1), "softmax"),
    "log_softmax": (lambda: fw.nn.log_softmax(var("x", 4, 10)), "log_softmax"),
}  # fmt: skip


@needs_compiler
def test_layers(cuda: Double, fake: Fake) -> None:
    for name, (make, rule) in LAYERS.items():
        assert placed(run(make())) == [f"cudnn.{rule}"], name
    sent = list(dict.fromkeys(line for line in fake.log if "Stream" not in line))
    assert sent == ["cudnnPoolingForward(0, 0)", "cudnnPoolingForward(2, 0)", "cudnnPoolingForward(1, 0)",
                    "cudnnSoftmaxForward(1, 1)", "cudnnSoftmaxForward(2, 1)"]  # fmt: skip


@needs_compiler
def test_work_goes_into_the_current_stream(cuda: Double, fake: Fake) -> None:
    net = fw.nn.softmax(fw.tanh(conv2d((1, 3, 8, 9), (4, 3, 3, 3))))
    function = function_of(net)
    values = values_for(function)
    module = fw.GraphModule(fw.build(function, "cuda -libs=cudnn")["default"](fw.device("cuda")))
    module.run(**values)
    fake.clear()
    module.run(**values)
    assert not any("Stream" in line for line in fake.log)  # it is set once
    with (stream := Stream(cuda)):
        module.run(**values)
    module.run(**values)
    streams = [line for line in fake.log if "Stream" in line]
    assert streams == [f"cudnnSetStream({stream.ptr})", f"cudnnSetStream({cuda.null.ptr})"]
    compare([module.get_output(0).numpy()], evaluate(function, values))


@needs_compiler
def test_modules_give_back_what_they_had(cuda: Double, fake: Fake) -> None:
    gc.collect()  # of other tests
    before, memory = fake.objects, len(cuda.live)
    run(fw.nn.relu(CONVOLUTIONS["plain"]()))
    gc.collect()
    assert fake.objects == before and len(cuda.live) == memory


REFUSED: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "dtype": (
        lambda: conv2d((1, 4, 5, 5), (4, 4, 3, 3), dtype="float64"),
        "conv2d_cudnn.cuda: data is float64, expected float32",
    ),
    **unfit_convolutions("conv2d_cudnn.cuda"),
    "ceil_mode": (
        lambda: fw.nn.max_pool2d(var("x", 1, 1, 6, 6), (3, 3), (2, 2), ceil_mode=True),
        "max_pool2d_cudnn.cuda: ceil_mode makes windows that reach beyond the padding",
    ),
    "dilated pool": (
        lambda: fw.nn.max_pool2d(var("x", 1, 1, 8, 8), (3, 3), dilation=(2, 2)),
        "max_pool2d_cudnn.cuda: dilation is (2, 2), expected (1, 1)",
    ),
    "softmax of integers": (
        lambda: fw.nn.softmax(var("x", 2, 3, dtype="float64")),
        "softmax_cudnn.cuda: x is float64, expected float32 or float16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = REFUSED[name]
    lib = fw.build(function_of(make()), "cuda -libs=cudnn")
    assert placed(lib) == ["kernel"] and reason.replace(": x is", ": data is") in refusals(lib)
    assert any(m.startswith("library cudnn is not used: ") for m in caplog.messages)


def test_sums_that_are_no_bias_are_left_to_a_kernel() -> None:
    net = fw.nn.relu(conv2d((1, 4, 5, 5), (4, 4, 3, 3)) + var("row", 1, 1, 1, 3))
    lib = fw.build(function_of(net), "cuda -libs=cudnn")
    assert placed(lib) == ["cudnn.conv2d", "kernel"] and taken(lib) == [("nn.conv2d",)]
    twice = fw.nn.relu(conv2d((1, 4, 5, 5), (4, 4, 3, 3)) + bias(4, 1, 1) + var("b", 4, 1, 1))
    lib = fw.build(function_of(twice), "cuda -libs=cudnn")
    assert taken(lib) == [("nn.conv2d", "add")] and placed(lib) == ["cudnn.conv2d", "kernel"]
    lib = fw.build(function_of(EPILOGUES["add and relu"][0]()), "cuda -libs=cudnn -postops=0")
    assert taken(lib) == [("nn.conv2d",)]


@needs_compiler
def test_saved_modules_call_it_too(cuda: Double, fake: Fake, tmp_path: Path) -> None:
    function = function_of(EPILOGUES["bias, residual, relu"][0]())
    values = values_for(function)
    fw.build(function, "cuda -libs=cudnn").save(tmp_path / "net.fw")
    loaded = fw.load(tmp_path / "net.fw")
    module = fw.GraphModule(loaded["default"](fw.device("cuda")))
    module.run(**values)
    compare([module.get_output(0).numpy()], evaluate(function, values))
    assert placed(loaded) == ["cudnn.conv2d"] and FUSED in fake.calls()


@needs_compiler
def test_errors_are_in_words(cuda: Double, fake: Fake) -> None:
    lib = fw.build(function_of(CONVOLUTIONS["plain"]()), "cuda -libs=cudnn")
    fake.fail("cudnnFindConvolutionForwardAlgorithm", 3007)
    with pytest.raises(fw.LibraryCallError, match=(
        r"cudnn.conv2d cannot prepare nn.conv2d.*cudnnFindConvolutionForwardAlgorithm met an architecture of a device "
        r"that it does not support \(status 3007\): the fake was told to fail"
    )):  # fmt: skip
        fw.GraphModule(lib["default"](fw.device("cuda")))
    fake.clear()
    module = fw.GraphModule(lib["default"](fw.device("cuda")))
    fake.fail("cudnnConvolutionForward", 5004)
    with pytest.raises(fw.LibraryCallError, match=r"failed to run .* met an error while it ran \(status 5004\)"):
        module.run(**values_for(function_of(CONVOLUTIONS["plain"]())))


@needs_compiler
def test_no_algorithm_is_an_error(cuda: Double, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "MOST_SCRATCH", -1)
    lib = fw.build(function_of(CONVOLUTIONS["plain"]()), "cuda -libs=cudnn")
    with pytest.raises(fw.LibraryCallError, match="found 4 algorithms in float32, the least of 0 bytes of workspace"):
        fw.GraphModule(lib["default"](fw.device("cuda")))


@needs_compiler
def test_missing_library(cuda: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch)
    lib = fw.build(function_of(CONVOLUTIONS["plain"]()), "cuda -libs=cudnn")
    assert placed(lib) == ["cudnn.conv2d"]
    with pytest.raises(fw.LibraryNotFound, match=r"libcudnn.so.9 does not load.*pip install 'fusewire\[cudnn\]'"):
        lib["default"](fw.device("cuda"))
