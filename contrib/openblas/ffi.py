"""Matrix products of OpenBLAS, called through its CBLAS interface with ctypes.

The library is the file that the pip package `scipy-openblas32` brings (its symbols start with `scipy_`); NumPy's own
copy is another file and is not touched. It is loaded on first use, not when this file is imported. OpenBLAS chooses its
kernels while it loads, so where it may take a CPU with AVX-512 for one without, `OPENBLAS_CORETYPE` is set meanwhile.
"""

import ctypes
import functools
import importlib.metadata
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char_p, c_double, c_float, c_int, c_void_p
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import LibraryNotFound, RuntimeInputError
from ..blas import INT_MAX
from ..vendor import why_missing

Array: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

_PACKAGE = "scipy-openblas32"
_CORETYPE = "OPENBLAS_CORETYPE"
_SKYLAKEX_NEEDS = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112  # enums of cblas.h
_GEMM = {
    np.dtype(np.float32): ("scipy_cblas_sgemm", c_float),
    np.dtype(np.float64): ("scipy_cblas_dgemm", c_double),
}
_GEMV = {dtype: (name.replace("gemm", "gemv"), real) for dtype, (name, real) in _GEMM.items()}
_environment = threading.Lock()
_turn = threading.Lock()
_idle = threading.Condition()
_running = 0


def library_path() -> str:
    """Return the path of the shared library.

    Raises:
        LibraryNotFound: the package is not installed.

    """
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.startswith("libscipy_openblas") and ".so" in file.name:
            return str(file.locate())
    raise LibraryNotFound(f"OpenBLAS: {_PACKAGE} is not installed. Install it with: pip install 'fusewire[openblas]'")


def preferred_coretype(cpuinfo: str) -> str | None:
    """Return the kernel family to ask for, given the text of /proc/cpuinfo, or None to leave the choice to OpenBLAS.

    OpenBLAS knows other vendors' CPUs by model number and takes one that came out after it for its AVX2 family
    "Haswell", at about half the speed; Intel's are recognised by their features.
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    has_avx512 = set(fields.get("flags", "").split()) >= _SKYLAKEX_NEEDS
    return "SkylakeX" if has_avx512 and fields.get("vendor_id") != "GenuineIntel" else None


def _before_fork() -> None:
    """Wait for the products that run: OpenBLAS ends its threads when a process forks, and who used them would hang."""
    _turn.acquire()
    with _idle:
        _idle.wait_for(lambda: _running == 0)


def _after_fork_in_parent() -> None:
    _turn.release()


def _after_fork_in_child() -> None:
    global _environment, _turn, _idle, _running
    _environment, _turn, _idle, _running = threading.Lock(), threading.Lock(), threading.Condition(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@contextmanager
def _coretype(value: str | None) -> Iterator[None]:
    """Set the variable while loading, unless the user has set it; afterwards the environment is as before."""
    with _environment:
        if value is None or _CORETYPE in os.environ:
            yield
            return
        os.environ[_CORETYPE] = value
        try:
            yield
        finally:
            del os.environ[_CORETYPE]


@functools.cache
def load() -> ctypes.CDLL:
    """Load OpenBLAS once and declare the functions used here.

    Raises:
        LibraryNotFound: the package is not installed, or its library does not load.

    """
    path, cpuinfo = library_path(), Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    try:
        with _coretype(preferred_coretype(text)):
            dll = ctypes.CDLL(path)
    except OSError as error:
        hint = "Install it again with: pip install --force-reinstall 'fusewire[openblas]'"
        raise LibraryNotFound(f"OpenBLAS at {path} does not load: {error}. {hint}") from error
    for name, real in _GEMM.values():
        function = getattr(dll, name)
        function.argtypes = (*[c_int] * 6, real, c_void_p, c_int, c_void_p, c_int, real, c_void_p, c_int)
        function.restype = None
    for name, real in _GEMV.values():
        function = getattr(dll, name)
        function.argtypes = (*[c_int] * 4, real, c_void_p, c_int, c_void_p, c_int, real, c_void_p, c_int)
        function.restype = None
    dll.scipy_openblas_get_corename.restype = c_char_p
    dll.scipy_openblas_get_config.restype = c_char_p
    dll.scipy_openblas_set_num_threads.argtypes = (c_int,)
    dll.scipy_openblas_set_num_threads.restype = None
    return dll


def probe() -> str | None:
    """Return None if OpenBLAS can be loaded, else why not and how to install it."""
    return why_missing(load)


def core_name() -> str:
    """Return the kernel family in use, such as "SkylakeX" or "Haswell"."""
    return bytes(load().scipy_openblas_get_corename()).decode()


def config() -> str:
    """Return OpenBLAS's description of itself: version, build options, kernel family, thread limit."""
    return bytes(load().scipy_openblas_get_config()).decode()


def set_num_threads(count: int) -> None:
    """Set how many threads OpenBLAS uses, for the whole process (it has one pool for all callers).

    Raises:
        RuntimeInputError: the count is less than 1.

    """
    _require(count >= 1, f"set_num_threads: expected at least 1, got {count}")
    load().scipy_openblas_set_num_threads(count)


def get_num_threads() -> int:
    """Return how many threads OpenBLAS uses."""
    return int(load().scipy_openblas_get_num_threads())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Have OpenBLAS use `count` threads for the calls inside.

    The number belongs to the whole process, and must not change while a product runs. So calls with the same number
    run side by side, and one with another number waits until those have ended; who comes later waits behind it.
    """
    global _running
    with _turn, _idle:
        _idle.wait_for(lambda: _running == 0 or get_num_threads() == count)
        if get_num_threads() != count:
            set_num_threads(count)
        _running += 1
    try:
        yield
    finally:
        with _idle:
            _running -= 1
            _idle.notify_all()


def gemm(
    a: Array,
    b: Array,
    out: Array,
    trans_a: bool = False,
    trans_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> None:
    """Compute out = alpha op(a) op(b) + beta out, where op transposes if the flag says so.

    op(a) is (M, K), op(b) (K, N), out (M, N), all float32 or all float64. Elements of a row are adjacent; rows may be
    further apart than they are long (columns cut from a wider matrix). With beta 0, out is only written. Safe to call
    from several threads with different outputs.

    Raises:
        RuntimeInputError: shapes, dtypes or memory do not fit, or out overlaps an input.
        LibraryNotFound: see `load`.

    """
    _check(a, b, out, ndim=2)
    _multiply(a, b, out, trans_a, trans_b, alpha, beta)


def batched_gemm(
    a: Array,
    b: Array,
    out: Array,
    trans_a: bool = False,
    trans_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> None:
    """Compute `gemm` for each matrix of 3-D batches, one call each; a batch of 1 in a or b is used for all.

    Raises:
        RuntimeInputError: as for `gemm`, or the batches do not fit.
        LibraryNotFound: see `load`.

    """
    _check(a, b, out, ndim=3)
    for name, array in (("a", a), ("b", b)):
        expected = f"expected {len(out)}, as out has, or 1"
        _require(len(array) in (1, len(out)), f"{name}: batch of {len(array)}, {expected}")
    for i in range(len(out)):
        _multiply(a[min(i, len(a) - 1)], b[min(i, len(b) - 1)], out[i], trans_a, trans_b, alpha, beta)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise RuntimeInputError(problem)


def _problem(array: Any, out: Any, ndim: int) -> str | None:
    """Return what is wrong with one array, or None; texts are made only when needed, for this runs at each call."""
    if not isinstance(array, np.ndarray):
        return f"expected a NumPy array, got {type(array).__name__}"
    if array.ndim != ndim:
        return f"expected {ndim} dimensions, got shape {array.shape}"
    if array.dtype not in _GEMM:
        return f"expected float32 or float64, got {array.dtype}"
    if array.dtype != out.dtype:
        return f"expected {out.dtype}, as out has, got {array.dtype}"
    if not array.flags.aligned:
        return "expected aligned memory"
    if max(array.shape) > INT_MAX:
        return f"shape {array.shape} has a dimension of 2**31 or more"
    return None


def _check(a: Any, b: Any, out: Any, ndim: int) -> None:
    for name, array in (("out", out), ("a", a), ("b", b)):
        if problem := _problem(array, out, ndim):
            raise RuntimeInputError(f"{name}: {problem}")
    if not out.flags.writeable:
        raise RuntimeInputError("out: expected a writeable array")
    for name, array in (("a", a), ("b", b)):
        if np.may_share_memory(array, out) and np.shares_memory(array, out):
            raise RuntimeInputError(f"{name}: overlaps out, expected separate memory")


def _leading(name: str, array: Array) -> int:
    """Return the distance in elements from one row to the next, as CBLAS wants it: at least the row's length."""
    rows, columns = int(array.shape[0]), int(array.shape[1])
    if array.size == 0:
        return max(1, columns)
    distance, rest = divmod(array.strides[0], array.itemsize)
    adjacent = columns == 1 or array.strides[1] == array.itemsize
    apart = rows == 1 or (columns <= distance <= INT_MAX and rest == 0)
    if not (adjacent and apart):
        got = f"strides {array.strides} for shape {array.shape}"
        raise RuntimeInputError(f"{name}: expected adjacent elements in rows that do not overlap, got {got}")
    return columns if rows == 1 else int(distance)


def _multiply(a: Array, b: Array, out: Array, trans_a: bool, trans_b: bool, alpha: float, beta: float) -> None:
    m, k = reversed(a.shape) if trans_a else a.shape
    k_b, n = reversed(b.shape) if trans_b else b.shape
    if k != k_b or out.shape != (m, n):
        raise RuntimeInputError(f"gemm: ({m}, {k}) times ({k_b}, {n}) is not {out.shape}")
    leading = [_leading(name, array) for name, array in (("a", a), ("b", b), ("out", out))]
    if out.size == 0:
        return
    if k and 1 in (m, n):  # gemv leaves the result as it is where there is nothing to add up
        _multiply_vector(a, b, out, trans_a, trans_b, alpha, beta, leading)
        return
    name, _ = _GEMM[out.dtype]
    order = (_ROW_MAJOR, _TRANSPOSED if trans_a else _PLAIN, _TRANSPOSED if trans_b else _PLAIN)
    address_a, address_b, address_out = (array.ctypes.data for array in (a, b, out))
    operands = (alpha, address_a, leading[0], address_b, leading[1], beta, address_out, leading[2])
    getattr(load(), name)(*order, m, n, k, *operands)


def _multiply_vector(
    a: Array, b: Array, out: Array, trans_a: bool, trans_b: bool, alpha: float, beta: float, leading: Sequence[int]
) -> None:
    """The product of a matrix and a vector: b where out is a column, else a, for out' = op(b)' a'."""
    steps = [ld if array.shape[1] == 1 else 1 for array, ld in zip((a, b, out), leading, strict=True)]
    column = out.shape[1] == 1
    matrix, vector = (a, b) if column else (b, a)
    transposed = trans_a if column else not trans_b
    name, _ = _GEMV[out.dtype]
    sizes = (_ROW_MAJOR, _TRANSPOSED if transposed else _PLAIN, *matrix.shape)
    factors = (matrix.ctypes.data, leading[0 if column else 1], vector.ctypes.data, steps[1 if column else 0])
    getattr(load(), name)(*sizes, alpha, *factors, beta, out.ctypes.data, steps[2])
