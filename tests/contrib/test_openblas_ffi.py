"""OpenBLAS's gemm against NumPy in float64: layouts, scaling, batches, errors, threads, the choice of kernels."""

import ctypes
import importlib.metadata
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusewire.contrib.openblas import ffi
from fusewire.contrib.openblas.ffi import batched_gemm, gemm, preferred_coretype
from fusewire.ir.errors import LibraryNotFound, RuntimeInputError

Array = NDArray[Any]

MISSING = ffi.probe() or ""
needs_openblas = pytest.mark.skipif(bool(MISSING), reason=MISSING)

DTYPES = [np.float32, np.float64]
F32 = np.float32


def uniform(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def close(got: Array, expected: Array) -> None:
    tolerance = 1e-5 if got.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def product(a: Array, b: Array, trans_a: bool = False, trans_b: bool = False) -> Array:
    left, right = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((left.swapaxes(-1, -2) if trans_a else left) @ (right.swapaxes(-1, -2) if trans_b else right))


@needs_openblas
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 7, 3), (1, 33, 64), (33, 1, 64), (65, 47, 129)])
def test_gemm(m: int, n: int, k: int, trans_a: bool, trans_b: bool, dtype: Any) -> None:
    a = uniform(1, (k, m) if trans_a else (m, k), dtype)
    b = uniform(2, (n, k) if trans_b else (k, n), dtype)
    out = np.full((m, n), np.nan, dtype)
    gemm(a, b, out, trans_a, trans_b)
    close(out, product(a, b, trans_a, trans_b))


@needs_openblas
@pytest.mark.parametrize("dtype", DTYPES)
def test_alpha_and_beta(dtype: Any) -> None:
    a, b, out = uniform(1, (5, 6), dtype), uniform(2, (6, 7), dtype), uniform(3, (5, 7), dtype)
    expected = 0.5 * product(a, b) - 2 * out.astype(np.float64)
    gemm(a, b, out, alpha=0.5, beta=-2)
    close(out, expected)


@needs_openblas
def test_columns_cut_from_wider_matrices() -> None:
    wide_a, wide_b, wide_out = uniform(1, (5, 20)), uniform(2, (6, 30)), uniform(3, (5, 40))
    rest = wide_out.copy()
    gemm(wide_a[:, 3:9], wide_b[:, 4:11], wide_out[:, 5:12])
    close(wide_out[:, 5:12], product(wide_a[:, 3:9], wide_b[:, 4:11]))
    np.testing.assert_array_equal(np.delete(wide_out, range(5, 12), axis=1), np.delete(rest, range(5, 12), axis=1))


@needs_openblas
def test_every_other_row_and_single_rows() -> None:
    a, b, out = uniform(1, (10, 6)), uniform(2, (6, 7)), np.zeros((5, 7), F32)
    gemm(a[::2], b, out)
    close(out, product(a[::2], b))
    row, row_out = a[::-1][:1], np.zeros((1, 7), F32)  # the stride of a single row does not count
    gemm(row, b, row_out)
    close(row_out, product(row, b))


@needs_openblas
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize(("m", "n"), [(1, 7), (7, 1), (1, 1)])
def test_one_row_or_column_goes_to_gemv(
    monkeypatch: pytest.MonkeyPatch, m: int, n: int, trans_a: bool, trans_b: bool, dtype: Any
) -> None:
    monkeypatch.setattr(ffi, "_GEMM", dict.fromkeys(ffi._GEMM, ("no_gemm", None)))
    a, b = uniform(1, (6, m) if trans_a else (m, 6), dtype), uniform(2, (n, 6) if trans_b else (6, n), dtype)
    out = np.full((m, n), np.nan, dtype)
    gemm(a, b, out, trans_a, trans_b, alpha=2)
    close(out, 2 * product(a, b, trans_a, trans_b))
    gemm(a, b, out, trans_a, trans_b, alpha=-1, beta=1)
    close(out, product(a, b, trans_a, trans_b))


@needs_openblas
def test_vectors_cut_from_matrices() -> None:
    a, wide_b, wide_out = uniform(1, (5, 6)), uniform(2, (6, 4)), np.zeros((5, 3), F32)
    gemm(a, wide_b[:, 2:3], wide_out[:, 1:2])
    close(wide_out[:, 1:2], product(a, wide_b[:, 2:3]))
    assert not wide_out[:, [0, 2]].any()


@needs_openblas
def test_empty_dimensions() -> None:
    out = np.full((3, 4), np.nan, F32)
    gemm(np.zeros((3, 0), F32), np.zeros((0, 4), F32), out)
    np.testing.assert_array_equal(out, 0)
    row = np.full((1, 4), np.nan, F32)
    gemm(np.zeros((1, 0), F32), np.zeros((0, 4), F32), row)
    np.testing.assert_array_equal(row, 0)
    gemm(np.zeros((0, 5), F32), np.zeros((5, 4), F32), np.zeros((0, 4), F32))
    gemm(np.zeros((3, 5), F32), np.zeros((5, 0), F32), np.zeros((3, 0), F32))


@needs_openblas
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch_a", "batch_b", "batch"), [(3, 3, 3), (1, 3, 3), (3, 1, 3), (1, 1, 2), (0, 1, 0)])
def test_batched_gemm(batch_a: int, batch_b: int, batch: int, dtype: Any) -> None:
    a, b = uniform(1, (batch_a, 6, 5), dtype), uniform(2, (batch_b, 7, 6), dtype)
    out = np.full((batch, 5, 7), np.nan, dtype)
    batched_gemm(a, b, out, trans_a=True, trans_b=True, alpha=2)
    close(out, np.broadcast_to(2 * product(a, b, True, True), out.shape))


A, B, OUT = uniform(1, (5, 6)), uniform(2, (6, 7)), np.zeros((5, 7), F32)


@needs_openblas
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": uniform(1, (5, 5))}, r"\(5, 5\) times \(6, 7\) is not \(5, 7\)"),
        ({"trans_a": True}, r"\(6, 5\) times \(6, 7\)"),
        ({"out": np.zeros((7, 5), F32)}, r"is not \(7, 5\)"),
        ({"a": A[0]}, r"a: expected 2 dimensions, got shape \(6,\)"),
        ({"a": A.tolist()}, "a: expected a NumPy array, got list"),
        ({"b": B.astype(np.float64)}, "b: expected float32, as out has, got float64"),
        ({"out": np.zeros((5, 7), np.int32)}, "out: expected float32 or float64, got int32"),
        ({"a": np.asfortranarray(A)}, "a: expected adjacent elements"),
        ({"a": A[::-1]}, "a: expected adjacent elements in rows that do not overlap"),
        ({"b": np.broadcast_to(B[0], (6, 7))}, "b: expected adjacent elements in rows that do not overlap"),
        ({"out": np.broadcast_to(F32(0), (5, 7))}, "out: expected a writeable array"),
        ({"a": np.zeros(5 * 6 * 4 + 1, np.uint8)[1:].view(F32).reshape(5, 6)}, "a: expected aligned memory"),
    ],
)
def test_wrong_arrays_give_an_error(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"a": A, "b": B, "out": OUT.copy()}
    gemm(**given)
    with pytest.raises(RuntimeInputError, match=message):
        gemm(**(given | change))


@needs_openblas
def test_overlap_and_wrong_batches() -> None:
    square = uniform(1, (4, 4))
    for a, b, name in (
        (square, uniform(2, (4, 4)), "a"),
        (uniform(2, (4, 4)), square, "b"),
        (square[::-1], square, "a"),
    ):
        with pytest.raises(RuntimeInputError, match=f"{name}: overlaps out"):
            gemm(a, b, square)
    stack = np.zeros((3, 4, 4), F32)
    with pytest.raises(RuntimeInputError, match="a: batch of 2, expected 3, as out has, or 1"):
        batched_gemm(stack[:2], stack.copy(), stack.copy())
    with pytest.raises(RuntimeInputError, match="out: expected 3 dimensions"):
        batched_gemm(stack, stack.copy(), square)


@needs_openblas
def test_two_threads_at_once() -> None:
    wrong: list[int] = []
    start = threading.Barrier(2)

    def work(seed: int) -> None:
        a, b = uniform(seed, (48, 64)), uniform(seed + 1, (64, 56))
        expected = product(a, b)
        start.wait()
        for _ in range(50):
            out = np.full((48, 56), np.nan, F32)
            gemm(a, b, out)
            if not np.allclose(out, expected, rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_openblas
def test_thread_count() -> None:
    before = ffi.get_num_threads()
    try:
        for count in (1, 2):
            ffi.set_num_threads(count)
            assert ffi.get_num_threads() == count
            out = np.zeros((65, 65), F32)
            a, b = uniform(1, (65, 65)), uniform(2, (65, 65))
            gemm(a, b, out)
            close(out, product(a, b))
        with pytest.raises(RuntimeInputError, match="expected at least 1, got 0"):
            ffi.set_num_threads(0)
    finally:
        ffi.set_num_threads(before)


# choosing the kernels


def cpuinfo(vendor: str, *flags: str) -> str:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: some CPU\nflags\t\t: fpu avx2 {' '.join(flags)}\n\n"
    return one * 2


AVX512 = ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cpuinfo("AuthenticAMD", *AVX512), "SkylakeX"),
        (cpuinfo("AuthenticAMD", *AVX512, "avx512_bf16"), "SkylakeX"),
        (cpuinfo("AuthenticAMD"), None),
        (cpuinfo("AuthenticAMD", *AVX512[:4]), None),
        (cpuinfo("GenuineIntel", *AVX512), None),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None),
        ("", None),
    ],
)
def test_preferred_coretype(text: str, expected: str | None) -> None:
    assert preferred_coretype(text) == expected


class FakeLibrary:
    """Records the environment while it is being loaded."""

    seen: str | None = None

    def __init__(self, path: str) -> None:
        FakeLibrary.seen = os.environ.get("OPENBLAS_CORETYPE")
        raise OSError("stop here")


@pytest.fixture
def fresh_load() -> Iterator[None]:
    ffi.load.cache_clear()
    yield
    ffi.load.cache_clear()


@pytest.mark.usefixtures("fresh_load")
@pytest.mark.parametrize("users", [None, "Haswell"])
def test_variable_is_set_only_while_loading(monkeypatch: pytest.MonkeyPatch, users: str | None) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if users:
        monkeypatch.setenv("OPENBLAS_CORETYPE", users)
    monkeypatch.setattr(ffi, "library_path", lambda: "somewhere/libscipy_openblas.so")
    monkeypatch.setattr(ffi, "preferred_coretype", lambda text: "SkylakeX")
    monkeypatch.setattr(ctypes, "CDLL", FakeLibrary)
    with pytest.raises(LibraryNotFound, match=r"libscipy_openblas\.so does not load: stop here"):
        ffi.load()
    assert FakeLibrary.seen == (users or "SkylakeX")
    assert os.environ.get("OPENBLAS_CORETYPE") == users


@needs_openblas
def test_kernels_are_those_asked_for() -> None:
    path = Path("/proc/cpuinfo")
    wanted = preferred_coretype(path.read_text()) if path.exists() else None
    if wanted is not None and "OPENBLAS_CORETYPE" not in os.environ:
        assert ffi.core_name() == wanted
    assert ffi.core_name() in ffi.config()


@pytest.mark.usefixtures("fresh_load")
def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(LibraryNotFound, match=r"scipy-openblas32 is not installed.*pip install 'fusewire\[openblas\]'"):
        gemm(A, B, OUT.copy())
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)  # installed, but its record is gone
    with pytest.raises(LibraryNotFound, match="not installed"):
        ffi.load()
