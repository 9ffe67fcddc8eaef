"""OpenBLAS as a library: what it takes and what not, the results, threads."""

import importlib.metadata
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.contrib.openblas import LIBRARY, ffi
from fusewire.fuse.partition import partition_for_libraries
from fusewire.testing import evaluate
from tests.contrib.offload import Build, check, compare, conv2d, function_of, placed, refusals, uniform, values_for, var

MISSING = ffi.probe() or ""
needs_openblas = pytest.mark.skipif(bool(MISSING), reason=MISSING)

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

OPERANDS: dict[str, tuple[Callable[..., fw.Expr], tuple[int, ...], tuple[int, ...], dict[str, bool]]] = {
    "dense": (fw.nn.dense, (5, 7), (9, 7), {}),
    "dense, a vector": (fw.nn.dense, (7,), (9, 7), {}),
    "dense, 4-D": (fw.nn.dense, (2, 3, 5, 7), (9, 7), {}),
    "dense, sizes of 1": (fw.nn.dense, (1, 1), (1, 1), {}),
    "dense, one unit": (fw.nn.dense, (5, 7), (1, 7), {}),
    "batch_matmul, columns": (fw.nn.batch_matmul, (3, 5, 7), (1, 1, 7), {}),
    "matmul": (fw.nn.matmul, (5, 7), (7, 9), {}),
    "matmul, a transposed": (fw.nn.matmul, (7, 5), (7, 9), {"transpose_a": True}),
    "matmul, both transposed": (fw.nn.matmul, (7, 5), (9, 7), {"transpose_a": True, "transpose_b": True}),
    "matmul, 3-D": (fw.nn.matmul, (3, 5, 7), (7, 9), {}),
    "matmul, 4-D, a transposed": (fw.nn.matmul, (2, 3, 7, 5), (7, 9), {"transpose_a": True}),
    "batch_matmul": (fw.nn.batch_matmul, (3, 5, 7), (3, 9, 7), {}),
    "batch_matmul, plain": (fw.nn.batch_matmul, (3, 5, 7), (3, 7, 9), {"transpose_b": False}),
    "batch_matmul, both transposed": (fw.nn.batch_matmul, (3, 7, 5), (3, 9, 7), {"transpose_a": True}),
    "batch_matmul, one a": (fw.nn.batch_matmul, (1, 5, 7), (3, 9, 7), {}),
    "batch_matmul, one b": (fw.nn.batch_matmul, (3, 5, 7), (1, 9, 7), {}),
}


@needs_openblas
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("constants", [["b"], []], ids=["constant", "variable"])
@pytest.mark.parametrize(("op", "a", "b", "attributes"), OPERANDS.values(), ids=OPERANDS)
def test_product(
    op: Callable[..., fw.Expr], a: Any, b: Any, attributes: dict[str, bool], constants: list[str], dtype: str
) -> None:
    body = op(var("a", *a, dtype=dtype), var("b", *b, dtype=dtype), **attributes)
    assert isinstance(body, fw.Call)
    check(body, "openblas", [f"openblas.{str(body.op).removeprefix('nn.')}"], constants, TOLERANCE[dtype])


@needs_openblas
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=4, max_size=4), *[st.booleans()] * 3, st.sampled_from([*TOLERANCE]))
def test_random_products(sizes: list[int], trans_a: bool, trans_b: bool, constant: bool, dtype: str) -> None:
    batch, m, n, k = sizes
    a, b = (batch, k, m) if trans_a else (batch, m, k), (batch, n, k) if trans_b else (batch, k, n)
    left, right = var("a", *a, dtype=dtype), var("b", *b, dtype=dtype)
    body = fw.nn.batch_matmul(left, right, transpose_a=trans_a, transpose_b=trans_b)
    check(body, "openblas", ["openblas.batch_matmul"], ["b"] if constant else [], TOLERANCE[dtype])


@needs_openblas
def test_log_and_explanation(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fusewire"):
        lib = check(fw.nn.relu(fw.nn.dense(var("a", 4, 8), var("b", 3, 8))), "openblas", ["openblas.dense", "kernel"])
    assert "Using dense_openblas.cpu for nn.dense based on highest priority (20)" in caplog.messages
    first, second = lib.explain().choices
    assert (first.chosen, first.ops) == ("dense_openblas.cpu", ("nn.dense",))
    assert (second.chosen, second.ops) == ("loops.cpu", ("nn.relu",))


@needs_openblas
def test_same_input_twice_and_result_used_twice() -> None:
    a = var("a", 6, 6)
    check(fw.nn.matmul(a, a), "openblas", ["openblas.matmul"])
    y = fw.nn.matmul(a, a, transpose_a=True)
    check(fw.add(fw.nn.relu(y), y), "openblas", ["openblas.matmul", "kernel"])
    lib = fw.build(function_of(fw.nn.dense(var("a", 6, 6), var("b", 6, 6))), "cpu -libs=openblas")
    assert placed(lib) == ["openblas.dense"]
    x = uniform(1, (6, 6))
    compare([lib(a=x, b=x)], [x.astype(np.float64) @ x.T.astype(np.float64)])


REFUSALS: dict[str, tuple[Build, str]] = {
    "dtype": (
        lambda: fw.nn.dense(var("a", 2, 3, dtype="float16"), var("b", 4, 3, dtype="float16")),
        "data is float16, expected float32 or float64",
    ),
    "two dtypes": (
        lambda: fw.nn.matmul(var("a", 2, 3), var("b", 3, 4, dtype="float64")),
        "tensor_b is float64, expected float32 as tensor_a is",
    ),
    "out_dtype": (
        lambda: fw.nn.dense(var("a", 2, 3), var("b", 4, 3), out_dtype="float64"),
        "out_dtype is float64, expected float32 as data is",
    ),
    "empty": (
        lambda: fw.nn.batch_matmul(var("a", 2, 3, 0), var("b", 2, 4, 0)),
        "tensor_a has no elements: Tensor[(2, 3, 0), float32]",
    ),
}

NOT_BUILT: dict[str, tuple[Build, str]] = {
    "symbolic": (
        lambda: fw.nn.dense(var("a", fw.size_var("n"), 3), var("b", 4, 3)),
        "data has symbolic dimensions: Tensor[(n, 3), float32]",
    ),
    "large": (
        lambda: fw.nn.dense(var("a", 2**17, 2**15, 1), var("b", 4, 1)),
        "a dimension is 4294967296, expected at most 2147483647",
    ),
}
ALL = REFUSALS | NOT_BUILT


@pytest.mark.parametrize(("body", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refused(body: Build, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    built = body()
    assert isinstance(built, fw.Call)
    name = str(built.op).removeprefix("nn.")
    with caplog.at_level(logging.WARNING, logger="fusewire"):
        lib = fw.build(function_of(built), "cpu -libs=openblas")
    assert placed(lib) == ["kernel"]
    assert refusals(lib)[0] == f"{name}_openblas.cpu: {reason}"
    assert caplog.messages == [f"library openblas is not used: openblas.{name}: {reason}"]


@pytest.mark.parametrize(("body", "reason"), ALL.values(), ids=ALL)
def test_refused_when_partitioned(body: Build, reason: str) -> None:
    _, (decision,) = partition_for_libraries(fw.IRModule.from_expr(function_of(body())), [LIBRARY])
    assert decision.reason == reason


def test_no_rule_for_convolutions(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fusewire"):
        lib = fw.build(function_of(conv2d((1, 3, 8, 8), (4, 3, 3, 3))), "cpu -libs=openblas")
    assert placed(lib) == ["kernel"]
    rules = "openblas.dense, openblas.matmul, openblas.batch_matmul"
    assert caplog.messages == [
        f"library openblas is not used: no part of the graph matches a rule of openblas ({rules})"
    ]


@needs_openblas
def test_wrong_arrays_name_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    function = function_of(fw.nn.dense(var("a", 4, 8), var("b", 3, 8)))
    values = values_for(function)
    lib = fw.build(function, "cpu -libs=openblas")
    assert placed(lib) == ["openblas.dense"]
    module = fw.GraphModule(lib["default"](fw.cpu()))
    for name, value in values.items():
        module.set_input(name, value)

    with monkeypatch.context() as patch:
        patch.setattr(ffi, "_check", lambda a, b, out, ndim: ffi._require(False, "out: overlaps an input"))
        with pytest.raises(fw.LibraryCallError, match=r" nn\.dense\(Tensor\[\(4, 8\), float32\], .*\): out: overlaps"):
            module.run()
    module.run()
    compare([module.get_output(0).numpy()], evaluate(function, values))


@needs_openblas
def test_modules_with_different_thread_counts_run_at_once() -> None:
    function = function_of(fw.nn.dense(var("a", 65, 64), var("b", 66, 64)))
    weight = uniform(1, (66, 64))
    before = ffi.get_num_threads()
    libs = [fw.build(function, f"cpu -libs=openblas -num-cores={n}", params={"b": weight}) for n in (1, 2, 1, 2)]
    assert all(placed(lib) == ["openblas.dense"] for lib in libs)

    def work(number: int) -> None:
        module = fw.GraphModule(libs[number]["default"](fw.cpu()))
        a = uniform(number, (65, 64))
        expected = evaluate(function, {"a": a, "b": weight})
        for _ in range(30):
            module.run(a=a)
            compare([module.get_output(0).numpy()], expected)

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        ffi.set_num_threads(before)


@needs_openblas
def test_thread_count_does_not_change_under_a_running_product() -> None:
    before = ffi.get_num_threads()
    entered, order = threading.Event(), list[str]()

    def other() -> None:
        entered.set()
        with ffi.threads(2):
            order.append(f"other with {ffi.get_num_threads()}")

    try:
        with ffi.threads(1):
            thread = threading.Thread(target=other)
            thread.start()
            entered.wait()
            for _ in range(1000):  # gives the other thread every chance to go on too early
                assert ffi.get_num_threads() == 1
            order.append("first")
        thread.join()
        assert order == ["first", "other with 2"]
    finally:
        ffi.set_num_threads(before)


@needs_openblas
def test_same_thread_count_runs_side_by_side() -> None:
    before = ffi.get_num_threads()
    inside = threading.Barrier(2, timeout=60)

    def both(_: int) -> None:
        with ffi.threads(1):
            inside.wait()  # only passes if both are inside

    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(both, range(2)))
    finally:
        ffi.set_num_threads(before)


@pytest.fixture
def no_openblas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package were not there."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    ffi.load.cache_clear()
    yield
    ffi.load.cache_clear()


@pytest.mark.usefixtures("no_openblas")
def test_missing_package_builds_but_does_not_run() -> None:
    lib = fw.build(function_of(fw.nn.relu(fw.nn.dense(var("a", 4, 8), var("b", 3, 8)))), "cpu -libs=openblas")
    assert placed(lib) == ["openblas.dense", "kernel"]
    with pytest.raises(fw.LibraryNotFound, match=r"^openblas: .*pip install 'fusewire\[openblas\]'"):
        lib["default"](fw.cpu())
