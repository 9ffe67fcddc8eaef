"""CLBlast through its C interface, with ctypes: matrix products and convolutions of buffers, put into a queue.

Arguments are pyopencl's objects; CLBlast gets the handles behind them (`int_ptr`). Its kernels are compiled at the
first call for each device and kept by the process. Names and numbers are those of clblast_c.h, version 1.5.
"""

from collections.abc import Sequence
from ctypes import byref, c_float, c_size_t, c_void_p
from typing import Any

from ..vendor import Vendor

_ROW_MAJOR, _PLAIN, _TRANSPOSED, _CROSS_CORRELATION = 101, 111, 112, 151
_HEAD = "iii" + "zzz"  # layout, transposed?, transposed?, M, N, K
_END = "pp"  # queue, event

CLBLAST = Vendor(
    title="CLBlast",
    files=("libclblast.so.1", "libclblast.so"),
    install="apt install libclblast1 (Debian and Ubuntu; see https://github.com/CNugteren/CLBlast for others)",
    functions={
        "CLBlastSgemm": _HEAD + "f" + "pzz" * 2 + "f" + "pzz" + _END,
        "CLBlastSgemmStridedBatched": _HEAD + "f" + "pzzz" * 2 + "f" + "pzzz" + "z" + _END,
        "CLBlastSgemmBatched": _HEAD + "p" + "ppz" * 2 + "p" + "ppz" + "z" + _END,
        "CLBlastSconvgemm": "i" + "z" * 13 + "pz" * 3 + _END,
    },
    statuses={
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
    },
)  # fmt: skip
"""Version 1.5 or later. Statuses are those of OpenCL, of clBLAS, and its own."""


def _call(name: str, queue: Any, *arguments: Any) -> None:
    CLBLAST.call(name, *arguments, byref(c_void_p(queue.int_ptr)), None)


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
        LibraryNotFound: see `Vendor.load`.

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
        LibraryNotFound: see `Vendor.load`.

    """
    count, *image = data
    filters, _, *window = weight
    sizes = (*image, *window, *padding, *strides, *dilation, filters, count)
    places = [place for buffer in operands for place in (buffer.int_ptr, 0)]
    _call("CLBlastSconvgemm", queue, _CROSS_CORRELATION, *sizes, *places)
