"""Memory of this process: limits, and aligned pieces of it."""

import mmap
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field

from ..ir.errors import FusewireError
from ..ir.types import TensorType, numpy_dtype
from .memory import ALIGN, rounded

PAGE = 2 << 20
"""Bytes of a large page."""

CHUNK = 16 << 20
"""Bytes that a shelf takes at a time; what is never written costs no memory."""

SMALL = 1 << 16
"""Bytes below which an array is not worth a large page."""


def memory_limits() -> dict[str, int]:
    """How many bytes this process can have at most: by the machine, by its container, by its own limits."""
    found = {}
    with suppress(ValueError, OSError, AttributeError):
        found["this machine has"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1 of Linux's control groups
        with suppress(ValueError, OSError):
            found["its container may have"] = int(Path("/sys/fs/cgroup", group).read_text())
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            found["this process may have (ulimit)"] = soft
    return found


def check_memory(nbytes: int) -> None:
    """Refuse to allocate what the machine cannot hold, before trying.

    Raises:
        FusewireError: `nbytes` is more than the memory there is for this process.
    """
    for who, limit in memory_limits().items():
        if nbytes > limit:
            raise FusewireError(f"the module needs {nbytes} bytes for its tensors; {who} {limit} bytes of memory")


def aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised bytes that start at a multiple of `ALIGN`; many of them on large pages, where there are such.

    Raises:
        FusewireError: the system does not have that much memory.
    """
    align = ALIGN if nbytes < PAGE else PAGE
    try:
        raw = np.empty(nbytes + ALIGN, np.uint8) if nbytes < PAGE else _pages(nbytes + PAGE)
    except (MemoryError, ValueError, OverflowError, OSError) as error:
        raise FusewireError(f"cannot allocate {nbytes} bytes for the tensors of the module: {error}") from None
    start = -raw.ctypes.data % align
    return raw[start : start + nbytes]


def _pages(nbytes: int) -> npt.NDArray[np.uint8]:
    """Memory of its own pages, large ones if the system has them to give."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def at_line(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array, in C order, that starts at a multiple of `ALIGN`: itself, or a copy.

    Vectors that lie across two cache lines take two reads.
    """
    if array.flags.c_contiguous and array.ctypes.data % ALIGN == 0:
        return array
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@define
class Shelf:
    """Memory for arrays that are read one after the other, side by side.

    A network reads its weights once a run, and from large pages that goes faster: the processor knows the addresses of
    few pages at a time, and what fetches ahead stops at the end of a page.
    """

    _free: npt.NDArray[np.uint8] = field(factory=lambda: np.empty(0, np.uint8))

    def place(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy of an array on the shelf; a small one may be itself."""
        if array.nbytes < SMALL:
            return at_line(array)
        size = rounded(array.nbytes)
        if size > len(self._free):
            self._free = aligned(max(size, CHUNK))
        memory, self._free = self._free[: array.nbytes], self._free[size:]
        copy = memory.view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy


def view(memory: npt.NDArray[np.uint8], offset: int, type_: TensorType) -> npt.NDArray[Any]:
    """A tensor in memory, at an offset in bytes."""
    return memory[offset : offset + type_.nbytes].view(numpy_dtype(type_.dtype)).reshape(type_.static_shape)
