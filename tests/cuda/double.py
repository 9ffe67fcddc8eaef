"""A double for CuPy: devices, memory, streams, graphs and launches on the host, which check how they are used.

Kernels are compiled for the host and run. Memory that is not there any more, or an argument of a wrong type, is an
error here; on a GPU it would be a crash, or a wrong result. The clock of the device goes on by what launches cost.
"""

import ctypes
import itertools
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fusewire.targets.cuda import device as under_test
from fusewire.targets.launched import compiler, gpu
from fusewire.targets.launched.selftest import SelfTest
from tests.cuda.host import library, parameters

TRAP = "fw_illegal_access"
"""A kernel with this word in it accesses memory that is not there: the launch is fine, and all calls after it fail."""


class CudaError(RuntimeError):
    """The double's error of the runtime."""


class OutOfMemory(MemoryError):
    """The double's error where memory ends."""


class Memory:
    """A piece of memory."""

    def __init__(self, world: "Double", nbytes: int) -> None:
        raw = np.zeros(nbytes + 512, np.uint8)
        self.ptr = -(-raw.ctypes.data // 512) * 512
        world.live[self.ptr] = nbytes
        weakref.finalize(self, lambda keep, ptr: world.live.pop(ptr, keep), raw, self.ptr)


class Stream:
    """A stream: what is captured in it is kept, not run."""

    counter = itertools.count(1)

    def __init__(self, world: "Double", non_blocking: bool = False) -> None:
        self.world, self.ptr = world, next(self.counter)
        self.captured: list[Callable[[], None]] | None = None
        self.before: list[Stream] = []

    def __enter__(self) -> "Stream":
        self.before.append(self.world.current)
        self.world.current = self
        return self

    def __exit__(self, *error: object) -> None:
        self.world.current = self.before.pop()

    def synchronize(self) -> None:
        assert self.captured is None, "waiting inside of a capture"
        self.world.alive()

    def begin_capture(self) -> None:
        assert self is not self.world.null, "the default stream cannot be captured"
        self.captured = []

    def end_capture(self) -> Any:
        work, self.captured = self.captured or [], None
        self.world.log.append(("capture", len(work)))

        def launch() -> None:
            self.world.log.append(("graph", self.world.current.ptr))
            for run in work:
                run()

        return SimpleNamespace(launch=launch)


class Function:
    """A kernel."""

    def __init__(self, world: "Double", name: str, text: str) -> None:
        self.world, self.name = world, name
        size, self.types = parameters(text)[name]
        self.size = int(text.split(maxsplit=3)[2] if size == "FW_LOCAL" else size)
        self.run = getattr(library(text), f"run_{name}")
        self.breaks = TRAP in text

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        assert len(grid) == len(block) == 1 and 1 <= block[0] <= 1024 and 1 <= grid[0] < 1 << 31
        assert self.size == block[0], "the group is not as large as the kernel says"
        self.world.alive()
        assert len(args) == len(self.types) and all(type(a) is np.int64 for a in args)
        for value, kind in zip(args, self.types, strict=True):
            if "*" in kind:
                self.world.check(int(value), 0)

        def run() -> None:
            for value, kind in zip(args, self.types, strict=True):
                if "*" in kind:
                    self.world.check(int(value), 0)
            values = [ctypes.c_int64(int(a)) for a in args]
            table = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(v) for v in values))
            self.world.clock += self.world.cost(self.name, grid[0], block[0])
            self.world.broken = self.world.broken or self.breaks
            if not (self.breaks or self.world.idle):
                self.run(table, grid[0], block[0])

        self.world.log.append(("launch", self.name, grid[0], block[0]))
        self.world.put(run)


class Module:
    """A loaded program."""

    def __init__(self, world: "Double") -> None:
        self.world, self.text = world, ""

    def load(self, code: bytes) -> None:
        self.text = code.decode()

    def get_function(self, name: str) -> Function:
        return Function(self.world, name, self.text)


class Array:
    """An array of the double's CuPy."""

    def __init__(
        self, shape: Sequence[int], dtype: Any, memptr: Any = None, strides: tuple[int, ...] | None = None
    ) -> None:
        self.shape, self.dtype, self.data = tuple(shape), np.dtype(dtype), memptr
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize
        self.strides = strides
        self.flags = SimpleNamespace(c_contiguous=strides is None)
        self.device = SimpleNamespace(id=0)
        self.__cuda_array_interface__ = {"shape": self.shape, "data": (memptr.ptr, False)}

    def host(self) -> Any:
        """The memory as NumPy's."""
        first = (ctypes.c_char * (self.nbytes * 8)).from_address(self.data.ptr)
        if self.strides is None:
            return np.frombuffer(first, self.dtype, self.size).reshape(self.shape)
        return np.lib.stride_tricks.as_strided(np.frombuffer(first, self.dtype), self.shape, self.strides)

    def get(self) -> Any:
        """A copy."""
        return self.host().copy()


class Event:
    """An event: what the clock says when it is recorded."""

    def __init__(self, world: "Double") -> None:
        self.world, self.at = world, -1.0

    def record(self) -> None:
        self.at = self.world.clock

    def synchronize(self) -> None:
        self.world.alive()


class Double:
    """The module cupy.

    Args:
        devices: how many there are; -1: the driver is too old.
        total: bytes of memory.
        cost: milliseconds of a launch, by its kernel, groups and items.
        name, driver: of the device.
    """

    ndarray = Array

    def __init__(
        self,
        devices: int = 1,
        total: int = 1 << 34,
        cost: Callable[[str, int, int], float] = lambda *launch: 2.0,
        name: str = "Double",
        driver: int = 13000,
    ) -> None:
        self.cost, self.clock, self.broken = cost, 0.0, False
        self.name, self.driver = name, driver
        self.idle = False  # whether launches only take time
        self.live: dict[int, int] = {}
        self.log: list[Any] = []
        self.devices, self.total = devices, total
        self.refuse = False
        self.null = self.current = Stream(self)
        runtime = SimpleNamespace(
            CUDARuntimeError=CudaError, getDeviceCount=self._count, driverGetVersion=lambda: self.driver,
            runtimeGetVersion=lambda: 13020, memcpyAsync=self._copy, getDeviceProperties=self._properties,
        )  # fmt: skip
        self.cuda = SimpleNamespace(
            runtime=runtime, driver=SimpleNamespace(CUDADriverError=CudaError),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemory), alloc=self._alloc, Device=_Device,
            Stream=lambda non_blocking=False: Stream(self, non_blocking), get_current_stream=lambda: self.current,
            Event=lambda: Event(self), get_elapsed_time=lambda start, end: end.at - start.at,
            function=SimpleNamespace(Module=lambda: Module(self)),
            UnownedMemory=lambda ptr, size, owner, device: SimpleNamespace(ptr=ptr, owner=owner),
            MemoryPointer=lambda memory, offset: SimpleNamespace(ptr=memory.ptr + offset, mem=memory),
        )  # fmt: skip

    def _count(self) -> int:
        if self.devices < 0:
            raise CudaError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return self.devices

    def _properties(self, index: int) -> dict[str, Any]:
        about = {"name": self.name.encode(), "major": 9, "minor": 0}
        return {**about, "totalGlobalMem": self.total, "multiProcessorCount": 4}

    def alive(self) -> None:
        """Whether no kernel has broken the process yet."""
        if self.broken:
            raise CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def _alloc(self, nbytes: int) -> Memory:
        self.alive()
        if self.refuse:
            raise OutOfMemory(f"out of memory allocating {nbytes} bytes")
        return Memory(self, nbytes)

    def check(self, address: int, nbytes: int) -> None:
        """Whether memory is there."""
        if address == 0 and nbytes == 0:
            return
        inside = any(ptr <= address and address + nbytes <= ptr + size for ptr, size in self.live.items())
        assert inside, f"{nbytes} bytes at {address:#x} are not there"

    def put(self, run: Callable[[], None]) -> None:
        """Into the current stream."""
        if self.current.captured is not None:
            self.current.captured.append(run)
        else:
            run()

    def _copy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.alive()
        assert stream == self.current.ptr and nbytes > 0
        if kind in (1, 3):
            self.check(target, nbytes)
        if kind in (2, 3):
            self.check(source, nbytes)
        self.log.append(("copy", kind, nbytes))
        self.put(lambda: _move(target, source, nbytes))

    def asarray(self, value: Any, offset: int = 0) -> Array:
        """A copy on the device."""
        if isinstance(value, Array):
            return value
        array = np.ascontiguousarray(value)
        memory = Memory(self, array.nbytes + offset)
        made = Array(array.shape, array.dtype, SimpleNamespace(ptr=memory.ptr + offset, mem=memory))
        made.host()[...] = array
        return made


def _move(target: int, source: int, nbytes: int) -> None:
    ctypes.memmove(target, source, nbytes)


class _Device:
    def __init__(self, index: int) -> None:
        self.index = index

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def install(patch: pytest.MonkeyPatch, double: Double) -> Double:
    """Let the double stand in for CuPy, and the host's compiler for NVRTC; the self-test has passed."""
    under_test.cuda_device.cache_clear()
    patch.setattr(gpu, "tested", lambda *given: SelfTest(None, 0.0))
    patch.setattr(under_test, "cupy", lambda: double)
    patch.setattr(under_test, "nvrtc", lambda major: compiler.RuntimeCompiler("host", None, "", "", "text"))
    patch.setattr(under_test, "compile_all", _compiled)
    return double


def _compiled(made: Any, files: Sequence[tuple[str, str]], options: Sequence[str], device: str) -> list[bytes]:
    """The texts, with what the compiler is told in front."""
    (local,) = (option.removeprefix("-DFW_LOCAL=") for option in options if option.startswith("-D"))
    return [f"#define FW_LOCAL {local}\n{text}".encode() for _, text in files]
