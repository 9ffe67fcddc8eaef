"""oneDNN's C API: refusals, wrong arguments, memory, threads, and finding the library."""

import ctypes
import ctypes.util
import gc
import importlib.metadata
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusewire.contrib.onednn import ffi
from fusewire.contrib.onednn.convolution import Convolution
from fusewire.contrib.onednn.describe import Binary, Eltwise
from fusewire.contrib.onednn.ffi import OneDNNError, OneDNNRefused
from fusewire.contrib.onednn.primitive import Primitive
from fusewire.contrib.onednn.product import MatMul
from fusewire.ir.errors import LibraryNotFound, RuntimeInputError
from tests.contrib.onednn_cases import close, describe, needs_onednn, reference_convolution, uniform


@needs_onednn
def test_reference_implementations_are_refused() -> None:
    c = describe((1, 16, 9, 9), 16, (3, 3), low=1, high=1, post_ops=(Binary("add", (1, 16, 1, 9)),))
    reason = c.check()
    assert reason is not None
    assert "reference implementation (ref" in reason
    with pytest.raises(OneDNNRefused, match=r"reference implementation .* in Convolution\(.*src_shape=\(1, 16, 9, 9\)"):
        Primitive(c)


@needs_onednn
def test_a_failing_call_is_named_and_its_status_is_in_words() -> None:
    c = describe((1, 16, 9, 9), 16, (3, 3), post_ops=(Eltwise("clip", 1.0, -1.0),))  # lower bound above the upper
    with pytest.raises(
        OneDNNError, match=r"dnnl_post_ops_append_eltwise: invalid arguments \(status 2\), in Convolution\("
    ):
        Primitive(c)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Convolution((1, 3, 8), (4, 3, 3, 3), (1, 4, 6, 6), (1,), (0,), (0,), (0,)), "same rank"),
        (lambda: Convolution((1, 3, 8, 8), (4, 3, 3, 3), (1, 4, 6, 6), (1,), (0, 0), (0, 0), (0, 0)), "2 values"),
        (lambda: Convolution((1, 3, 8), (4, 3, 3), (1, 4, 7), (1,), (0,), (0,), (0,)), r"expected \(1, 4, 6\)"),
        (lambda: Convolution((1, 3, 2), (4, 3, 3), (1, 4, 0), (1,), (0,), (0,), (0,)), "dst_shape is"),
        (lambda: Convolution((1, 3, 8), (4, 2, 3), (1, 4, 6), (1,), (0,), (0,), (0,)), "1 groups of 2 channels"),
        (lambda: Convolution((1, 3, 8), (4, 1, 3), (1, 4, 6), (1,), (0,), (0,), (0,), 3), "3 groups of 1 channels"),
        (lambda: Convolution((1, 3, 8), (4, 3, 3), (1, 4, 6), (0,), (0,), (0,), (0,)), "at least 1"),
        (lambda: Convolution((1, 3, 8), (4, 3, 3), (1, 4, 5), (1,), (0,), (-1,), (0,)), "padding at least 0"),
        (lambda: Convolution((1, 0, 8), (4, 0, 3), (1, 4, 6), (1,), (0,), (0,), (0,)), "at least 1"),
        (lambda: describe((1, 3, 8), 4, (3,), src_order=(0, 1, 1)), "each axis from 0 to 2 once"),
        (lambda: describe((1, 3, 8), 4, (3,), dst_order=()), "each axis from 0 to 2 once"),
        (lambda: describe((1, 3, 8), 4, (3,), num_threads=0), "num_threads is 0"),
        (lambda: describe((1, 3, 8), 4, (3,), dtype="float64"), "dtype is 'float64', expected one of float32"),
        (lambda: describe((1, 3, 8), 4, (3,), post_ops=[Binary("add", (1, 3, 1))]), "does not broadcast"),
        (lambda: describe((1, 3, 8), 4, (3,), post_ops=[Binary("add", (4, 1))]), "does not broadcast"),
        (
            lambda: Convolution((1, 3, 8), (3, 2, 3), (1, 6, 6), (1,), (0,), (0,), (0,), depthwise=True),
            "1 groups do not fit",
        ),
        (
            lambda: Convolution((1, 3, 8), (1, 2, 3), (1, 2, 6), (1,), (0,), (0,), (0,), depthwise=True),
            "for 1 channels",
        ),
        (lambda: describe((1, 2**20, 2**12), 4, (3,)), "src has 4294967296 elements, expected at most 2147483647"),
        (lambda: describe((1, 1, 8), 4, (3,), low=2**31), "has [0-9]+ elements, expected at most 2147483647"),
        (lambda: MatMul((2**16, 1), (1, 2**16), (2**16, 2**16)), "dst has 4294967296 elements"),
        (lambda: Eltwise("sine"), "algorithm is 'sine', expected one of relu"),
        (lambda: Binary("pow", (1, 4, 1)), "algorithm is 'pow', expected one of add"),
        (lambda: MatMul((2, 3), (4, 5), (2, 5)), "is not"),
        (lambda: MatMul((2, 3), (3, 5), (5, 2)), "is not"),
        (lambda: MatMul((2, 2, 3), (3, 3, 5), (3, 2, 5)), "is not"),
        (lambda: MatMul((2, 3), (1, 3, 5), (1, 2, 5)), "same rank"),
        (lambda: MatMul((2, 0), (0, 5), (2, 5)), "at least 1"),
    ],
)
def test_descriptions_that_do_not_fit(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OneDNNError, match=message):
        make()


F32 = np.float32


@needs_onednn
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"src": np.zeros((1, 16, 9, 8), F32)},
            r"src: expected an array of float32 \(1, 16, 9, 9\), got float32 \(1, 16",
        ),
        ({"src": np.zeros((1, 16, 9, 9))}, "got float64"),
        ({"src": np.zeros((1, 9, 9, 16), F32).transpose(0, 3, 1, 2)}, "src: expected a C-contiguous array"),
        ({"src": 1234}, "src: expected a NumPy array or a c_void_p, got int"),
        ({"src": ctypes.c_void_p()}, "null pointer"),
        ({"src": None}, r"src: missing, expected shape \(1, 16, 9, 9\)"),
        ({"dst": np.zeros((1, 16, 9, 9), F32)}, r"dst: expected an array of float32 \(1, 16, 7, 7\)"),
        ({"dst": np.broadcast_to(F32(0), (1, 16, 7, 7))}, "dst: expected a C-contiguous, writeable array"),
        ({"weights": np.zeros((16, 16, 3, 3), F32)}, "weights: unexpected"),
        ({"bias": np.zeros(16, F32)}, "bias: unexpected"),
        ({"operands": ()}, "operands: expected 1, got 0"),
        ({"operands": [np.zeros(16, F32)]}, "operand of post-op 0: expected an array of"),
        ({"operands": [None]}, "operand of post-op 0: missing"),
    ],
)
def test_wrong_arrays_give_an_error(change: dict[str, Any], message: str) -> None:
    c = describe((1, 16, 9, 9), 16, (3, 3), post_ops=[Binary("add", (1, 16, 1, 1))])
    primitive = Primitive(c)
    primitive.set_weights(np.zeros(c.weights_shape, F32))
    given: dict[str, Any] = {
        "src": np.zeros(c.src_shape, F32),
        "dst": np.zeros(c.dst_shape, F32),
        "operands": [np.zeros((1, 16, 1, 1), F32)],
    }
    primitive.execute(**given)
    with pytest.raises(RuntimeInputError, match=message):
        primitive.execute(**(given | change))


@needs_onednn
def test_read_only_destination_and_overlap() -> None:
    m = MatMul((4, 4), (4, 4), (4, 4), constant_weights=False)
    primitive, a, b = Primitive(m), uniform(1, (4, 4)), uniform(2, (4, 4))
    frozen = np.zeros((4, 4), F32)
    frozen.flags.writeable = False
    with pytest.raises(RuntimeInputError, match="dst: expected a C-contiguous, writeable array"):
        primitive.execute(a, frozen, b)
    with pytest.raises(RuntimeInputError, match="weights: overlaps dst"):
        primitive.execute(a, b, b)


@needs_onednn
def test_weights_given_at_the_wrong_time() -> None:
    c = describe((1, 16, 9, 9), 16, (3, 3), bias=True)
    src, weights, dst = (np.zeros(shape, F32) for shape in (c.src_shape, c.weights_shape, c.dst_shape))
    primitive = Primitive(c)
    with pytest.raises(RuntimeInputError, match="call set_weights before execute"):
        primitive.execute(src, dst)
    with pytest.raises(RuntimeInputError, match=r"bias: missing, expected shape \(16,\)"):
        primitive.set_weights(weights)
    with pytest.raises(RuntimeInputError, match="weights: expected an array of"):
        primitive.set_weights(weights[:8], np.zeros(16, F32))
    variable = Primitive(describe((1, 16, 9, 9), 16, (3, 3), constant_weights=False))
    with pytest.raises(RuntimeInputError, match="constant_weights=False"):
        variable.set_weights(weights)
    with pytest.raises(RuntimeInputError, match="weights: missing"):
        variable.execute(src, dst)


# memory, threads, loading


@needs_onednn
def test_addresses_instead_of_arrays() -> None:
    c = describe((1, 16, 9, 9), 16, (3, 3))
    src, weights, got = uniform(1, c.src_shape), uniform(2, c.weights_shape), np.zeros(c.dst_shape, F32)
    primitive = Primitive(c)
    primitive.set_weights(ctypes.c_void_p(weights.ctypes.data))
    primitive.execute(ctypes.c_void_p(src.ctypes.data), ctypes.c_void_p(got.ctypes.data))
    close(got, reference_convolution(c, src, weights))


def aligned(size: int, offset: int = 0) -> NDArray[np.uint8]:
    raw = np.zeros(size + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    return raw[start : start + size]


@needs_onednn
def test_primitives_share_a_workspace() -> None:
    descriptions = [describe((1, 16, 9, 9), 32, (3, 3)), describe((1, 3, 20, 20), 16, (3, 3))]
    primitives = [Primitive(c) for c in descriptions]
    buffer = aligned(max(p.workspace_size for p in primitives))
    assert buffer.size > 0
    for c, primitive in zip(descriptions, primitives, strict=True):
        primitive.set_workspace(buffer)
        primitive.set_weights(uniform(2, c.weights_shape))
    for _ in range(2):
        for c, primitive in zip(descriptions, primitives, strict=True):
            buffer[:] = 255  # NaN: whatever another primitive left behind does not matter
            got = np.empty(c.dst_shape, F32)
            primitive.execute(uniform(1, c.src_shape), got)
            close(got, reference_convolution(c, uniform(1, c.src_shape), uniform(2, c.weights_shape)))
            assert (buffer != 255).any()  # it was used


@needs_onednn
def test_workspace_that_does_not_fit() -> None:
    primitive = Primitive(describe((1, 16, 9, 9), 32, (3, 3)))
    size = primitive.workspace_size
    signed: Any = aligned(size).view(np.int8)
    for buffer in (aligned(size - 1), aligned(size, offset=4), signed, aligned(2 * size)[::2]):
        with pytest.raises(RuntimeInputError, match=f"workspace: expected a writeable uint8 vector of {size} bytes"):
            primitive.set_workspace(buffer)


def test_no_memory_for_a_workspace() -> None:
    with pytest.raises(OneDNNError, match="workspace: cannot allocate 4611686018427387904 bytes"):
        ffi.aligned_buffer(2**62)


def run_threads(*targets: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # handed to the main thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@needs_onednn
@pytest.mark.parametrize("shared", [True, False], ids=["one primitive", "two primitives"])
def test_two_threads_at_once(shared: bool) -> None:
    c = describe((1, 16, 12, 12), 32, (3, 3), low=1, high=1, num_threads=2)
    weights = uniform(2, c.weights_shape)
    primitives = [Primitive(c)] if shared else [Primitive(c), Primitive(c)]
    for primitive in primitives:
        primitive.set_weights(weights)
    start = threading.Barrier(2)

    def worker(seed: int) -> Callable[[], None]:
        src = uniform(seed, c.src_shape)
        expected = reference_convolution(c, src, weights)

        def work() -> None:
            start.wait()
            for _ in range(50):
                got = np.full(c.dst_shape, np.nan, F32)
                primitives[seed % len(primitives)].execute(src, got)
                close(got, expected)

        return work

    run_threads(worker(10), worker(11))


@needs_onednn
def test_thread_count_is_restored() -> None:
    api = ffi.load()
    get, put = api.dll.omp_get_max_threads, api.dll.omp_set_num_threads
    before = get()
    try:
        put(5)
        primitive = Primitive(MatMul((4, 4), (4, 4), (4, 4), constant_weights=False, num_threads=2))
        assert primitive.num_threads == 2
        assert Primitive(MatMul((4, 4), (4, 4), (4, 4))).num_threads == 5
        a, dst, b = (np.zeros((4, 4), F32) for _ in range(3))
        primitive.execute(a, dst, b)
        with pytest.raises(RuntimeInputError):
            primitive.execute(a[0], dst, b)
        assert get() == 5
    finally:
        put(before)


@needs_onednn
def test_everything_is_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    create = ffi.Handle.__init__

    def counted(self: Any, *arguments: Any) -> None:
        create(self, *arguments)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(ffi.Handle, "__init__", counted)
    c = describe((1, 16, 9, 9), 16, (3, 3), post_ops=[Binary("add", (1, 16, 7, 7)), Eltwise("relu")])
    primitive = Primitive(c)
    primitive.set_weights(np.zeros(c.weights_shape, F32))
    assert any(handle() is not None for handle in alive)
    del primitive
    gc.collect()
    assert alive
    assert all(handle() is None for handle in alive)


@needs_onednn
def test_version_and_description_as_key() -> None:
    assert ffi.version().startswith("3.")
    assert len({describe((1, 3, 8), 4, (3,)), describe((1, 3, 8), 4, (3,)), describe((1, 3, 8), 5, (3,))}) == 2


@pytest.fixture
def fresh_load() -> Iterator[None]:
    caches = (ffi.load, ffi._system_library)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("fresh_load")
def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    c = describe((1, 3, 8), 4, (3,))  # describing needs no library
    for call in (c.check, lambda: Primitive(c), ffi.version):
        with pytest.raises(LibraryNotFound, match=r"no installed package.*pip install 'fusewire\[onednn\]'"):
            call()


@pytest.mark.usefixtures("fresh_load")
def test_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    broken = tmp_path / "libdnnl.so.3"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(ffi, "library_candidates", lambda: [str(broken), "libc.so.6"])
    with pytest.raises(LibraryNotFound, match=r"libdnnl\.so\.3.*dnnl_version.*pip install 'fusewire\[onednn\]'"):
        ffi.load()
