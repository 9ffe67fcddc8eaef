"""CLBlast through its C interface, with ctypes: matrix products and convolutions of buffers, put into a queue.

Arguments are pyopencl's objects; CLBlast gets the handles behind them (`int_ptr`). Its kernels are compiled at the
first call for each device and kept by the process. Names and numbers are those of clblast_c.h, version 1.5.
"""

import ctypes
import ctypes.util
import functools
from collections.abc import Sequence
from ctypes import POINTER, byref, c_float, c_int, c_size_t, c_void_p
from typing import Any

from ...ir.errors import LibraryCallError, LibraryNotFound
from ..vendor import why_missing

INSTALL = "apt install libclblast1 (Debian and Ubuntu; see https://github.com/CNugteren/CLBlast for others)"

_ROW_MAJOR, _PLAIN, _TRANSPOSED, _CROSS_CORRELATION = 101, 111, 112, 151
_STATUS = {
    -3: "a driver without a compiler", -4: "not enough memory of the device for a temporary buffer",
    -5: "not enough resources of the device", -6: "not enough memory", -11: "a driver that refused its kernels",
    -30: "an invalid value", -36: "an invalid queue", -38: "an invalid buffer", -54: "an invalid work-group size",
    -1024: "what it has no code for", -1022: "an invalid matrix A", -1021: "an invalid matrix B",
    -1020: "an invalid matrix C", -1017: "an invalid dimension", -1016: "rows of A that overlap",
    -1015: "rows of B that overlap", -1014: "rows of C that overlap", -1011: "a buffer too small for A",
    -1010: "a buffer too small for B", -1009: "a buffer too small for C",
    -2050: "a temporary buffer that is too small", -2049: "an invalid batch count",
    -2046: "not enough local memory", -2041: "no parameters for the device", -2040: "an unknown error",
    -2039: "an unexpected error",
}  # fmt: skip
"""What the numbers of clblast_c.h mean (those of OpenCL, of clBLAS, and its own)."""

_MATRIX = (c_void_p, c_size_t, c_size_t)
_STRIDED = (*_MATRIX, c_size_t)
_BATCHED = (c_void_p, POINTER(c_size_t), c_size_t)
_END = (POINTER(c_void_p), c_void_p)
_HEAD = (*[c_int] * 3, *[c_size_t] * 3)
_SIGNATURES = {
    "CLBlastSgemm": (*_HEAD, c_float, *_MATRIX, *_MATRIX, c_float, *_MATRIX, *_END),
    "CLBlastSgemmStridedBatched": (
        *_HEAD, c_float, *_STRIDED, *_STRIDED, c_float, *_STRIDED, c_size_t, *_END,
    ),
    "CLBlastSgemmBatched": (
        *_HEAD, POINTER(c_float), *_BATCHED, *_BATCHED, POINTER(c_float), *_BATCHED, c_size_t, *_END,
    ),
    "CLBlastSconvgemm": (c_int, *[c_size_t] * 13, *[c_void_p, c_size_t] * 3, *_END),
}  # fmt: skip


@functools.cache
def load() -> ctypes.CDLL:
    """Load CLBlast once and declare the functions used here.

    Raises:
        LibraryNotFound: it is not installed, or too old.

    """
    name = ctypes.util.find_library("clblast") or "libclblast.so.1"
    try:
        dll = ctypes.CDLL(name)
    except OSError as error:
        raise LibraryNotFound(f"CLBlast: {name} does not load ({error}). Install it with: {INSTALL}") from error
    for function, arguments in _SIGNATURES.items():
        try:
            found = getattr(dll, function)
        except AttributeError:
            raise LibraryNotFound(f"CLBlast: {name} has no {function}; 1.5 or later is needed: {INSTALL}") from None
        found.argtypes, found.restype = arguments, c_int
    return dll


def probe() -> str | None:
    """Return None if CLBlast can be loaded, else why not and how to install it."""
    return why_missing(load)


def _call(name: str, queue: Any, *arguments: Any) -> None:
    status = getattr(load(), name)(*arguments, byref(c_void_p(queue.int_ptr)), None)
    if status:
        raise LibraryCallError(f"{name} met {_STATUS.get(status, 'an error of OpenCL')} (status {status})")


def gemm(
    queue: Any,
    operands: Sequence[Any],
    transposed: tuple[bool, bool],
    shape: tuple[int, int, int],
    batches: tuple[int, int, int] = (1, 1, 1),
) -> None:
    """Put out = op(a) op(b) into a queue, for float32 matrices in row order; op transposes where its flag says so.

    Args:
        queue: a command queue.
        operands: the buffers a, b and out.
        transposed: whether a and b are stored transposed.
        shape: (M, N, K): op(a) is (M, K), op(b) is (K, N), out is (M, N).
        batches: how many matrices a, b and out hold; those of a or b may be 1, which is used for all.

    Raises:
        LibraryCallError: CLBlast refuses; the message has its status.
        LibraryNotFound: see `load`.

    """
    m, n, k = shape
    flags = [_TRANSPOSED if flag else _PLAIN for flag in transposed]
    widths = (m if transposed[0] else k, k if transposed[1] else n, n)
    a, b, out = (buffer.int_ptr for buffer in operands)
    head = (_ROW_MAJOR, *flags, m, n, k)
    sizes = (m * k, k * n, m * n)
    if batches == (1, 1, 1):
        _call("CLBlastSgemm", queue, *head, 1.0, a, 0, widths[0], b, 0, widths[1], 0.0, out, 0, widths[2])
        return
    count = batches[2]
    if batches == (count, count, count):
        left, right, result = zip((a, b, out), (0, 0, 0), widths, sizes, strict=True)
        _call("CLBlastSgemmStridedBatched", queue, *head, 1.0, *left, *right, 0.0, *result, count)
        return
    ones, zeros = (c_float * count)(*[1.0] * count), (c_float * count)()
    offsets = [(c_size_t * count)(*[0 if n == 1 else i * size for i in range(count)])
               for n, size in zip(batches, sizes, strict=True)]  # fmt: skip
    first, second, third = zip((a, b, out), offsets, widths, strict=True)
    _call("CLBlastSgemmBatched", queue, *head, ones, *first, *second, zeros, *third, count)


def convgemm(
    queue: Any,
    operands: Sequence[Any],
    data: tuple[int, ...],
    weight: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> None:
    """Put a 2-D convolution (as networks have it: a cross-correlation) of float32 into a queue.

    Args:
        queue: a command queue.
        operands: the buffers of data, weight and result.
        data: the shape (N, C, H, W).
        weight: the shape (O, C, KH, KW).
        strides: between windows, (height, width).
        padding: zeros on both sides, (height, width).
        dilation: between the elements of a window, (height, width).

    Raises:
        LibraryCallError: CLBlast refuses; the message has its status.
        LibraryNotFound: see `load`.

    """
    count, *image = data
    filters, _, *window = weight
    sizes = (*image, *window, *padding, *strides, *dilation, filters, count)
    places = [place for buffer in operands for place in (buffer.int_ptr, 0)]
    _call("CLBlastSconvgemm", queue, _CROSS_CORRELATION, *sizes, *places)
