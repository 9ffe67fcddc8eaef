"""Memory of this process: limits, and aligned pieces of it."""

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.errors import FusewireError
from ..ir.types import TensorType, numpy_dtype
from .memory import ALIGN


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
    """Uninitialised bytes that start at a multiple of `ALIGN`.

    Raises:
        FusewireError: the system does not have that much memory.
    """
    try:
        raw = np.empty(nbytes + ALIGN, np.uint8)
    except (MemoryError, ValueError) as error:
        raise FusewireError(f"cannot allocate {nbytes} bytes for the tensors of the module: {error}") from None
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + nbytes]


def view(memory: npt.NDArray[np.uint8], offset: int, type_: TensorType) -> npt.NDArray[Any]:
    """A tensor in memory, at an offset in bytes."""
    return memory[offset : offset + type_.nbytes].view(numpy_dtype(type_.dtype)).reshape(type_.static_shape)
