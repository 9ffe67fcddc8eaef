"""Launches recorded once and run by one call: cl_khr_command_buffer, where a device has it.

pyopencl does not wrap the extension; its functions are asked of the loader that pyopencl itself is linked with. Empty
kernels go twice as fast that way (Intel's runtime, two cores: 1.9 us in place of 4.4); where kernels have work to do on
a CPU, putting them into the queue costs nothing anyway, for it goes on beside them.
"""

import ctypes
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from attrs import define, field, frozen

from ...ir.errors import DeviceError
from .devices import OpenclDevice, pyopencl

EXTENSION = "cl_khr_command_buffer"

_HANDLE, _STATUS, _COUNT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "clCreateCommandBufferKHR": (_HANDLE, _COUNT, _HANDLE, _HANDLE, _HANDLE),
    "clFinalizeCommandBufferKHR": (_STATUS, _HANDLE),
    "clReleaseCommandBufferKHR": (_STATUS, _HANDLE),
    "clCommandNDRangeKernelKHR": (
        _STATUS, _HANDLE, _HANDLE, _HANDLE, _HANDLE, _COUNT, _HANDLE, _HANDLE, _HANDLE, _COUNT, _HANDLE, _HANDLE,
        _HANDLE,
    ),
    "clEnqueueCommandBufferKHR": (_STATUS, _COUNT, _HANDLE, _HANDLE, _COUNT, _HANDLE, _HANDLE),
}  # fmt: skip
"""The functions of the extension: what each returns, and its parameters."""


@frozen(eq=False)
class Ready:
    """A launch that is ready to go: a kernel with its arguments set, which it does not keep alive, and its sizes."""

    kernel: Any
    items: tuple[int]
    group: tuple[int]
    arguments: tuple[Any, ...]


@lru_cache(maxsize=4)
def functions(platform: int) -> dict[str, Any] | None:
    """The functions of a platform (given as a pointer) by name; None where one of them is missing."""
    find = ctypes.CDLL(pyopencl()._cl.__file__).clGetExtensionFunctionAddressForPlatform
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    found = {name: find(platform, name.encode()) for name in _FUNCTIONS}
    if not all(found.values()):
        return None
    return {name: ctypes.CFUNCTYPE(*_FUNCTIONS[name])(place) for name, place in found.items()}


def available(device: OpenclDevice) -> bool:
    """Whether launches on a device can be recorded."""
    if EXTENSION not in device.extensions:
        return False
    try:
        return functions(device.raw.platform.int_ptr) is not None
    except (OSError, AttributeError):  # a loader that is not linked with pyopencl
        return False


@define(eq=False)
class Recording:
    """Launches in a buffer of commands for one queue, in order, with the arguments that their kernels have now."""

    device: OpenclDevice
    queue: Any
    launches: Sequence[Ready]
    _buffer: Any = field(default=None, init=False)
    _call: dict[str, Any] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """Record.

        Raises:
            DeviceError: the driver refused.
        """
        self._call = functions(self.device.raw.platform.int_ptr) or {}
        status = ctypes.c_int(0)
        queues = (ctypes.c_void_p * 1)(self.queue.int_ptr)
        self._buffer = self._call["clCreateCommandBufferKHR"](1, queues, None, ctypes.byref(status))
        self._told("recording launches", status.value)
        weakref.finalize(self, self._call["clReleaseCommandBufferKHR"], self._buffer)
        for launch in self.launches:
            items, group = ((ctypes.c_size_t * 1)(*size) for size in (launch.items, launch.group))
            place = launch.kernel.int_ptr
            done = self._call["clCommandNDRangeKernelKHR"](
                self._buffer, None, None, place, 1, None, items, group, 0, None, None, None
            )
            self._told(f"recording the kernel {launch.kernel.function_name}", done)
        self._told("recording launches", self._call["clFinalizeCommandBufferKHR"](self._buffer))

    def __call__(self) -> None:
        """Put the launches into the queue. An earlier call must have ended.

        Raises:
            DeviceError: the driver refused.
        """
        status = self._call["clEnqueueCommandBufferKHR"](0, None, self._buffer, 0, None, None)
        if status:
            names = ", ".join(dict.fromkeys(launch.kernel.function_name for launch in self.launches))
            self._told(f"launching the kernels {names}", status)

    def _told(self, what: str, status: int) -> None:
        if status:
            name = pyopencl().status_code.to_string(status, "status %d")
            raise DeviceError(f"{what} on {self.device.name} ({self.device.platform}): the driver gave {name}")
