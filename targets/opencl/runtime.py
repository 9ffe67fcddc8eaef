"""A device at work: its context and queue, its programs, compiled or from the cache, and its errors in words."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from attrs import define, field

from ...ir.errors import CompileError, DeviceError
from ..cpuinfo import usable_cores
from ..launched.device import define_local, sharing
from ..objcache import ObjectCache
from ..toolchain import cache_dir, cache_limit
from .devices import OpenclDevice, all_devices, pyopencl

_log = logging.getLogger("fusewire")

OPTIONS = ("-cl-std=CL1.2",)

GROUP = 64
"""Work-items in a work-group of a GPU, and those for each of its units that take shares of a loop."""

FLAT = "Portable Computing Language"
"""The platform whose stores of vectors are replaced on CPUs, where all memory is one (see the dialect's headers):
PoCL 3.1 stores a float16 in quarters. The tutorial's network takes 0.25 ms in place of 0.34 on one core."""

SHARES = 2
"""Work-items for each unit of a CPU, between which it can balance. Of Intel's runtime, 4 in place of 300 save 8 us."""

WORDS = {
    "MEM_OBJECT_ALLOCATION_FAILURE": "the device has not enough memory",
    "OUT_OF_RESOURCES": "the device ran out of resources (memory, registers, or a kernel that was stopped)",
    "OUT_OF_HOST_MEMORY": "this process ran out of memory",
    "INVALID_BUFFER_SIZE": "the buffer is larger than the device allows",
    "INVALID_IMAGE_SIZE": "the image is larger than the device allows",
    "IMAGE_FORMAT_NOT_SUPPORTED": "the device has no images of this type",
    "INVALID_WORK_GROUP_SIZE": "the work-group does not fit the device or the kernel",
    "INVALID_WORK_ITEM_SIZE": "the work-group is larger than the device allows",
    "INVALID_KERNEL_ARGS": "an argument of the kernel was not set",
    "BUILD_PROGRAM_FAILURE": "the driver's compiler refused the program",
    "DEVICE_NOT_AVAILABLE": "the device is not available",
    "COMPILER_NOT_AVAILABLE": "the driver has no compiler",
}


@contextlib.contextmanager
def told(what: str, device: OpenclDevice) -> Iterator[None]:
    """Turn an OpenCL status into an error in words, with what was being done.

    Raises:
        DeviceError: in place of any error of OpenCL.
    """
    cl = pyopencl()
    try:
        yield
    except cl.Error as error:
        code = getattr(error, "code", None)
        name = cl.status_code.to_string(code, "status %d") if isinstance(code, int) else type(error).__name__
        call = f"{error.routine} " if getattr(error, "routine", None) else ""
        why = WORDS.get(name, "")
        detail = f"{call}gave {name}" + (f": {why}" if why else "")
        raise DeviceError(f"{what} on {device.name} ({device.platform}): {detail}") from error


@define(eq=False)
class Session:
    """A device with a context and a queue of its own; modules on one device share it."""

    device: OpenclDevice
    context: Any = field(init=False)
    queue: Any = field(init=False)
    _timed: Any = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        cl = pyopencl()
        with told("opening a queue", self.device):
            self.context = cl.Context([self.device.raw])
            self.queue = cl.CommandQueue(self.context)

    def timed_queue(self) -> Any:
        """A queue whose events tell when kernels ran."""
        if self._timed is None:
            cl = pyopencl()
            with told("opening a queue", self.device):
                properties = cl.command_queue_properties.PROFILING_ENABLE
                self._timed = cl.CommandQueue(self.context, properties=properties)
        return self._timed

    @property
    def local(self) -> int:
        """Work-items in a work-group: on a CPU one, which is a loop of its own there."""
        return 1 if self.device.type == "cpu" else min(GROUP, self.device.max_group)

    def sizes(self, items: int) -> list[int]:
        """Work-items in a work-group that are worth a try for a launch of `items`, those near `local` first: powers of
        two within the limits of the device, no more than there is work for (on a CPU, than leave work for each core).
        """
        work = items // self.device.compute_units if self.device.type == "cpu" else items
        if work < 1:
            return []
        most = min(self.device.max_group, self.device.raw.max_work_item_sizes[0], 1 << (work - 1).bit_length())
        powers = [1 << k for k in range(most.bit_length()) if 1 << k <= most and 1 << k != self.local]
        return sorted(powers, key=lambda size: abs(size.bit_length() - self.local.bit_length()))

    def shares(self, thread_bytes: int, items: int) -> int:
        """How many work-items share the iterations of a launch, each with so much scratch."""
        few = 1 if thread_bytes else SHARES
        most = self.device.compute_units * (few if self.device.type == "cpu" else GROUP)
        return sharing(most, thread_bytes, items)

    def programs(self, files: Sequence[tuple[str, str]], local: int) -> list[Any]:
        """Programs for sources, compiled at the same time, with `local` items in work-groups whose size is open.

        Raises:
            CompileError: the driver's compiler refused one; the message has its words.
        """
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(lambda file: self._program(file[0], file[1], local), files))

    def options(self, local: int) -> list[str]:
        """What the driver's compiler is told, for work-groups of `local` items where a kernel leaves that open."""
        flat = self.device.type == "cpu" and self.device.platform == FLAT
        return [*OPTIONS, define_local(local), *["-DFW_FLAT"] * flat]

    def _program(self, name: str, source: str, local: int) -> Any:
        cl = pyopencl()
        options = self.options(local)
        parts = (self.device.identity, *options, source)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        cache = ObjectCache(cache_dir(), "program.bin")
        if (binary := cache.read(key)) is not None:
            with contextlib.suppress(cl.Error):
                return cl.Program(self.context, [self.device.raw], [binary]).build(options)
        start = time.perf_counter()
        try:
            program = cl.Program(self.context, source).build(options, cache_dir=False)
        except cl.Error as error:
            raise CompileError(f"{self.device.name} ({self.device.platform}) refused {name}: {error}") from None
        _log.debug("%s compiled %s in %.2f s", self.device.name, name, time.perf_counter() - start)
        self._keep(cache, key, source, program)
        return program

    def _keep(self, cache: ObjectCache, key: str, source: str, program: Any) -> None:
        try:
            (binary,) = program.get_info(pyopencl().program_info.BINARIES)
            cache.put(key, binary, {"kernels.cl": source}, {"device": self.device.identity})
            cache.evict(cache_limit(), key)
        except (OSError, ValueError, pyopencl().Error) as error:
            _log.info("the compiled program is not kept: %s", error)


@lru_cache(maxsize=16)
def session(index: int) -> Session:
    """The session of a device by its number."""
    return Session(all_devices()[index])
