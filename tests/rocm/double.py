"""A double for the HIP runtime: memory of the host, one stream, no kernels."""

import ctypes
from typing import Any

import numpy as np
import pytest

from fusewire.targets.launched import gpu
from fusewire.targets.launched.selftest import SelfTest
from fusewire.targets.rocm import device

STREAM = 4242


class HostRuntime:
    """Functions of the runtime; those that are not here succeed and do nothing."""

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("hip"):
            raise AttributeError(name)
        return lambda *given: 0

    def hipGetErrorString(self, status: int) -> bytes:
        return b"an error"

    def hipGetDeviceCount(self, place: Any) -> int:
        return _store(place, ctypes.c_int, 1)

    def hipDeviceTotalMem(self, place: Any, index: int) -> int:
        return _store(place, ctypes.c_size_t, 1 << 34)

    def hipStreamCreate(self, place: Any) -> int:
        return _store(place, ctypes.c_void_p, STREAM)

    def hipMalloc(self, place: Any, size: Any) -> int:
        raw = np.zeros(size.value + 256, np.uint8)
        address = -(-raw.ctypes.data // 256) * 256
        self.live[address] = raw
        return _store(place, ctypes.c_void_p, address)

    def hipFree(self, place: Any) -> int:
        del self.live[place.value]
        return 0

    def hipMemcpyAsync(self, target: Any, source: Any, size: Any, kind: int, stream: Any) -> int:
        assert stream.value == STREAM
        ctypes.memmove(target, source, size.value)
        return 0


def _store(place: Any, kind: Any, value: int) -> int:
    ctypes.cast(place, ctypes.POINTER(kind))[0] = value
    return 0


def install(patch: pytest.MonkeyPatch) -> HostRuntime:
    """Let the double stand in for the runtime."""
    found = HostRuntime()
    device.rocm_device.cache_clear()
    patch.setattr(device, "runtime", lambda: found)
    patch.setattr(gpu, "tested", lambda *given: SelfTest(None, 0.0))
    return found
