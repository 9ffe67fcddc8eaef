"""What oneDNN does not take, and why; and builds where it is not installed."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.contrib.onednn import LIBRARY, describe, ffi
from fusewire.contrib.onednn.ffi import OneDNNError
from fusewire.fuse.partition import partition_for_libraries
from fusewire.testing import create_workload
from tests.contrib.offload import (
    Build,
    check,
    compare,
    conv2d,
    function_of,
    placed,
    refusals,
    tutorial_net,
    uniform,
    var,
)
from tests.contrib.onednn_cases import needs_onednn

REFUSALS: dict[str, tuple[Build, str]] = {
    "dtype": (
        lambda: conv2d((1, 3, 8, 8), (4, 3, 3, 3), "float64"),
        "data is float64, expected float32, bfloat16 or float16",
    ),
    "dtype of a product": (
        lambda: fw.nn.dense(var("a", 2, 3, dtype="int32"), var("b", 4, 3, dtype="int32")),
        "data is int32, expected float32, bfloat16 or float16",
    ),
    "two dtypes": (
        lambda: fw.nn.matmul(var("a", 2, 3), var("b", 3, 4, dtype="float16")),
        "tensor_b is float16, expected float32 as tensor_a is",
    ),
    "out_dtype": (
        lambda: conv2d((1, 3, 8, 8), (4, 3, 3, 3), out_dtype="float64"),
        "out_dtype is float64, expected float32 as data is",
    ),
    "empty data": (lambda: conv2d((0, 3, 8, 8), (4, 3, 3, 3)), "data has no elements: Tensor[(0, 3, 8, 8), float32]"),
    "empty weight": (
        lambda: fw.nn.dense(var("a", 2, 3), var("b", 0, 3)),
        "weight has no elements: Tensor[(0, 3), float32]",
    ),
    "data_layout": (
        lambda: conv2d((1, 2, 8, 8, 4), (4, 8, 3, 3), data_layout="NCHW4c"),
        "data_layout NCHW4c has blocks that oneDNN does not know, "
        "expected whole axes such as NCHW, or NCHW8c or NCHW16c",
    ),
    "kernel_layout": (
        lambda: conv2d((1, 8, 8, 8), (1, 8, 3, 3, 4), kernel_layout="OIHW4o"),
        "kernel_layout OIHW4o has blocks, expected whole axes such as OIHW",
    ),
    "out_layout": (
        lambda: conv2d((1, 8, 8, 8), (4, 8, 3, 3), out_layout="NCHW4c"),
        "out_layout NCHW4c has blocks that oneDNN does not know, "
        "expected whole axes such as NCHW, or NCHW8c or NCHW16c",
    ),
    "padding": (
        lambda: conv2d((1, 3, 8, 8), (4, 3, 3, 3), padding=(0, 0, 0, 99)),
        "padding (0, 0, 0, 99) exceeds 11, the sum of data and window on axis W",
    ),
}

TOO_LARGE = "expected at most 2147483647"

NOT_BUILT: dict[str, tuple[Build, str]] = {
    "symbolic": (
        lambda: conv2d((fw.size_var("n"), 3, 8, 8), (4, 3, 3, 3)),
        "data has symbolic dimensions: Tensor[(n, 3, 8, 8), float32]",
    ),
    "symbolic weight": (
        lambda: fw.nn.dense(var("a", 2, 3), var("b", fw.size_var("n"), 3)),
        "weight has symbolic dimensions: Tensor[(n, 3), float32]",
    ),
    "large data": (lambda: conv2d((1, 3, 2**20, 2**12), (4, 3, 3, 3)), f"src has {3 * 2**32} elements, {TOO_LARGE}"),
    "large result": (
        lambda: fw.nn.dense(var("a", 2**16, 3), var("b", 2**16, 3)),
        f"dst has {2**32} elements, {TOO_LARGE}",
    ),
    "large strides": (
        lambda: conv2d((1, 3, 8, 8), (4, 3, 3, 3), strides=(2**31, 1)),
        f"padded src has {3 * 8 * 2**31} elements, {TOO_LARGE}",
    ),
}


ALL = REFUSALS | NOT_BUILT


@pytest.mark.parametrize(("body", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refused(body: Build, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    built = body()
    assert isinstance(built, fw.Call)
    name = str(built.op).removeprefix("nn.")
    with caplog.at_level(logging.WARNING, logger="fusewire"):
        lib = fw.build(function_of(built), "cpu -libs=onednn")
    assert "kernel" in placed(lib) and f"onednn.{name}" not in placed(lib)
    assert refusals(lib)[0] == f"{name}_onednn.cpu: {reason}"
    assert caplog.messages == [f"library onednn is not used: onednn.{name}: {reason}"]


@pytest.mark.parametrize(("body", "reason"), ALL.values(), ids=ALL)
def test_refused_when_partitioned(body: Build, reason: str) -> None:
    before = fw.IRModule.from_expr(function_of(body()))
    after, (decision,) = partition_for_libraries(before, [LIBRARY])
    assert (decision.reason, decision.taken) == (reason, False)
    assert after is before


@needs_onednn
def test_reference_implementation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffi, "implementation_name", lambda api, described: "ref:any")
    lib = fw.build(function_of(conv2d((1, 3, 8, 8), (4, 3, 3, 3))), "cpu -libs=onednn")
    assert placed(lib) == ["kernel"]
    reason = "only the slow reference implementation (ref:any) takes it"
    assert refusals(lib)[0] == f"conv2d_onednn.cpu: oneDNN {ffi.version()}: {reason}"


@needs_onednn
def test_what_the_library_reports_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, api: Any) -> None:
        raise OneDNNError("dnnl_memory_desc_create_with_tag", "invalid arguments (status 2)", 2)

    monkeypatch.setattr(describe.Tensor, "requested", fail)
    lib = fw.build(function_of(conv2d((1, 3, 8, 8), (4, 3, 3, 3))), "cpu -libs=onednn")
    assert placed(lib) == ["kernel"]
    reason = f"oneDNN {ffi.version()}: dnnl_memory_desc_create_with_tag: invalid arguments (status 2)"
    assert refusals(lib)[0] == f"conv2d_onednn.cpu: {reason}"


@needs_onednn
def test_float16_is_right_or_refused_by_the_library() -> None:
    body = conv2d((1, 16, 8, 8), (16, 16, 3, 3), "float16")
    lib = fw.build(function_of(body), "cpu -libs=onednn")
    if placed(lib) == ["kernel"]:  # CPUs differ
        assert refusals(lib)[0].startswith(f"conv2d_onednn.cpu: oneDNN {ffi.version()}: not implemented")
    else:
        check(body, "onednn", ["onednn.conv2d"], ["weight"], rtol=2.0**-9)


# Where it is not installed


@pytest.fixture
def no_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no package and no system library were there."""
    monkeypatch.setattr(ffi, "library_candidates", list)
    ffi.load.cache_clear()
    yield
    ffi.load.cache_clear()


@pytest.mark.usefixtures("no_onednn")
def test_missing_package_builds_but_does_not_run() -> None:
    mod, params = create_workload(tutorial_net())
    lib = fw.build(mod, "cpu -libs=onednn", params=params)
    assert placed(lib) == ["onednn.conv2d"]
    assert "conv2d_onednn.cpu" in str(lib.explain())
    data = uniform(1, (1, 3, 224, 224))
    message = r"^onednn: .*pip install 'fusewire\[onednn\]'"
    with pytest.raises(fw.LibraryNotFound, match=message):
        lib["default"](fw.cpu())
    with pytest.raises(fw.LibraryNotFound, match=message):
        lib(data=data)


@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize(("body", "reason"), ALL.values(), ids=ALL)
def test_missing_package_refuses_the_same(body: Build, reason: str) -> None:
    _, (decision,) = partition_for_libraries(fw.IRModule.from_expr(function_of(body())), [LIBRARY])
    assert decision.reason == reason


@pytest.mark.usefixtures("no_onednn")
def test_unused_missing_package_does_not_matter() -> None:
    function = function_of(fw.erf(var("x", 3)))
    lib = fw.build(function, "cpu -libs=onednn")
    assert placed(lib) == ["kernel"]
    x = np.array([-1, 0, 2], np.float32)
    compare([lib(x=x)], [np.vectorize(math.erf)(x)])
