"""NVIDIA's GPUs through CuPy: memory, launches, CUDA graphs, events.

Everything is put into CuPy's current stream, so that `with cupy.cuda.Stream(): module.run()` does what it says, and
work on the same stream needs no waiting in between. Graphs are captured on a stream in which nothing runs.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field

from ...ir.errors import DeviceError, DeviceNotFound, RuntimeInputError
from ..device import wanted_package
from ..engine import Action, Array
from ..launched.compiler import compile_all
from ..launched.device import (
    LOCAL,
    Block,
    Launch,
    Timer,
    define_local,
    homes,
    when_repeated,
)
from ..launched.libqueue import Gpu
from ..prove import ALIGNED
from .nvrtc import nvrtc, options

INSTALL = "pip install 'fusewire[cuda]'"
_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3  # cudaMemcpyKind
_DLPACK_CUDA = 2
_LONG, _MOST = 1e-3, 50
"""Short launches are timed several in a row: for so many seconds, and so often at most."""

_ONE_CAPTURE = threading.Lock()


@lru_cache(maxsize=1)
def cupy() -> Any:
    """The module cupy.

    Raises:
        DeviceNotFound: it is not installed; the message says what installs it.
    """
    return wanted_package("cupy", "running on cuda", INSTALL)


def count() -> int:
    """How many GPUs there are.

    Raises:
        DeviceNotFound: there is none, or no driver; the message says what is missing.
    """
    runtime = cupy().cuda.runtime
    try:
        found: int = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise DeviceNotFound(f"there is no CUDA device: {error}; install NVIDIA's driver") from None
    if not found:
        raise DeviceNotFound("there is no CUDA device: CuPy finds a driver, but no GPU")
    return found


@lru_cache(maxsize=16)
def cuda_device(index: int) -> "CudaDevice":
    """The GPU of this number.

    Raises:
        DeviceNotFound: there is none.
    """
    if index >= (there := count()):
        raise DeviceNotFound(f"there is no CUDA device {index}; there are {there}, numbered from 0")
    cp = cupy()
    with told(f"asking for the properties of CUDA device {index}"):
        facts = cp.cuda.runtime.getDeviceProperties(index)
        driver = cp.cuda.runtime.driverGetVersion()
        toolkit = cp.cuda.runtime.runtimeGetVersion() // 1000
    name = facts["name"].decode() if isinstance(facts["name"], bytes) else facts["name"]
    arch = f"sm_{facts['major']}{facts['minor']}"
    return CudaDevice(index, name, arch, driver, toolkit, facts["totalGlobalMem"], facts["multiProcessorCount"])


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn errors of CUDA into one in words, with what was being done.

    Raises:
        DeviceError: in place of any error of the driver or the runtime.
    """
    cuda = cupy().cuda
    try:
        yield
    except cuda.memory.OutOfMemoryError as error:
        raise DeviceError(f"{what}: the device has not enough memory ({error})") from error
    except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
        raise DeviceError(f"{what}: {error}") from error


def compatible(wanted: str | None, own: str) -> str:
    """The architecture to compile for: that of the device, with the special instructions of `wanted` (sm_90a).

    Raises:
        DeviceError: the code was made for a later architecture, or for the special instructions of another one.
    """
    if wanted is None:
        return own
    if wanted[-1].isalpha():
        if wanted[:-1] != own:
            raise DeviceError(f"the code was made for {wanted} alone, and the device is {own}")
        return wanted
    if _number(wanted) > _number(own):
        raise DeviceError(f"the code was made for {wanted}, and the device is {own}: build for -arch={own}")
    return own


def _number(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))


@define(eq=False)
class CudaDevice(Gpu):
    """A GPU; implements `GpuDevice`.

    Attributes:
        index: its number.
        arch: sm_90 and the like.
        driver: the version of CUDA that the driver brings, 13000 for 13.0.
        toolkit: the major version that CuPy is made for.
        units: its streaming multiprocessors.
        local: work-items in a work-group, where neither a kernel nor the target says anything.
    """

    index: int
    name: str
    arch: str
    driver: int
    toolkit: int
    total_memory: int
    units: int
    local: int = LOCAL
    _capturing: Any = field(default=None)

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[Any]:
        """CuPy, with this device as the current one."""
        cp = cupy()
        with told(f"{what} on {self.name}"), cp.cuda.Device(self.index):
            yield cp

    def allocate(self, nbytes: int, what: str) -> Block:
        """New memory; CuPy gives what starts at a multiple of 512 bytes."""
        with self._doing(f"allocating {nbytes} bytes for {what}") as cp:
            memory = cp.cuda.alloc(max(nbytes, 1))
            return Block(memory.ptr, nbytes, memory)

    def write(self, place: int, array: Array) -> None:
        """Copy an array of the host."""
        array = np.ascontiguousarray(array)
        with self._doing(f"copying {array.nbytes} bytes to the device") as cp:
            stream = cp.cuda.get_current_stream()
            cp.cuda.runtime.memcpyAsync(place, array.ctypes.data, array.nbytes, _TO_DEVICE, stream.ptr)
            stream.synchronize()  # copies from page-locked memory go on after the call

    def read(self, array: Array, place: int) -> None:
        """Fill an array of the host."""
        with self._doing(f"reading {array.nbytes} bytes from the device") as cp:
            stream = cp.cuda.get_current_stream()
            cp.cuda.runtime.memcpyAsync(array.ctypes.data, place, array.nbytes, _TO_HOST, stream.ptr)
            stream.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""
        with self._doing(f"copying {nbytes} bytes") as cp:
            stream = cp.cuda.get_current_stream()
            cp.cuda.runtime.memcpyAsync(target, source, nbytes, _WITHIN, stream.ptr)

    def arch_for(self, wanted: str | None) -> str:
        """The architecture to compile for; see `compatible`."""
        return compatible(wanted, self.arch)

    def load(self, files: Sequence[tuple[str, str]], arch: str, local: int) -> Callable[[str], Any]:
        """Compile with NVRTC, or take from the cache, and load."""
        cubins = compile_all(nvrtc(self.toolkit), files, [*options(arch), define_local(local)], f"driver {self.driver}")
        modules = []
        with self._doing("loading kernels") as cp:
            for cubin in cubins:
                modules.append(cp.cuda.function.Module())
                modules[-1].load(cubin)
        home = homes(files, modules)

        def find(name: str) -> Any:
            with self._doing(f"looking for the kernel {name}"):
                return home[name].get_function(name)

        return find

    def launch(self, launch: Launch) -> None:
        """Run a kernel in the current stream."""
        with self._doing(f"launching the kernel {launch.name}"):
            launch.function((launch.groups,), (launch.local,), tuple(map(np.int64, launch.arguments)))

    def recorded(self, launches: Sequence[Launch]) -> Action:
        """Launches as a CUDA graph, which runs in the stream that is current then."""

        def once() -> None:
            for launch in launches:
                self.launch(launch)

        return when_repeated(once, lambda: self._captured(launches)) if len(launches) > 1 else once

    def _captured(self, launches: Sequence[Launch]) -> Action:
        with self._doing("capturing a graph") as cp, _ONE_CAPTURE:
            if self._capturing is None:
                self._capturing = cp.cuda.Stream(non_blocking=True)
            with self._capturing:
                self._capturing.begin_capture()
                try:
                    for launch in launches:
                        self.launch(launch)
                finally:
                    graph = self._capturing.end_capture()

        def replay() -> None:
            with self._doing("launching a graph"):
                graph.launch()

        return replay

    def seconds(self, launches: Sequence[Launch], repeat: int) -> list[float]:
        """How long launches take, by CUDA's events; short ones in a row, as the host's part is in the time, too."""
        run = self._warm(launches)
        many = int(np.clip(_LONG / max(*self.seconds_of(run, 2), 1e-9), 1, _MOST)) if launches else 1
        if many > 1:
            run = self._warm([*launches] * many)
        return [seconds / many for seconds in self.seconds_of(run, repeat)]

    def _warm(self, launches: Sequence[Launch]) -> Action:
        """Launches that have been run, and recorded."""
        run = self.recorded(launches)
        run()
        run()  # which captures them
        return run

    def timer(self, launches: Sequence[Launch]) -> Timer:
        """What times launches, by CUDA's events."""
        run = self._warm(launches)

        def go(before: Action) -> float:
            before()
            return self.seconds_of(run, 1)[0]

        return go

    def seconds_of(self, run: Action, repeat: int) -> list[float]:
        """How long what a function puts into the current stream takes, by CUDA's events."""
        times = []
        with self._doing("timing kernels") as cp:
            for _ in range(repeat):
                start, end = cp.cuda.Event(), cp.cuda.Event()
                start.record()
                run()
                end.record()
                end.synchronize()
                times.append(cp.cuda.get_elapsed_time(start, end) * 1e-3)
        return times

    @contextlib.contextmanager
    def using(self, what: str) -> Iterator[int]:
        """Makes it the current device; gives the handle of CuPy's current stream."""
        with self._doing(what) as cp:
            yield cp.cuda.get_current_stream().ptr

    def wait(self) -> None:
        """Wait for the current stream."""
        with self._doing("running") as cp:
            cp.cuda.get_current_stream().synchronize()

    def adopted(self, value: Any) -> Any | None:
        """Arrays of CuPy, and of whoever has `__cuda_array_interface__` or DLPack, on a GPU."""
        if isinstance(value, np.ndarray | np.generic):
            return None
        dlpack = getattr(value, "__dlpack_device__", None)
        if not hasattr(value, "__cuda_array_interface__") and (dlpack is None or dlpack()[0] != _DLPACK_CUDA):
            return None
        with self._doing("taking an array") as cp:
            if isinstance(value, cp.ndarray) and value.device.id == self.index:
                return value
            return cp.asarray(value) if hasattr(value, "__cuda_array_interface__") else cp.from_dlpack(value)

    def take(self, place: int, array: Any) -> None:
        """Copy an array of CuPy."""
        if array.flags.c_contiguous:
            self.copy(place, array.data.ptr, array.nbytes)
        else:
            self.write(place, array.get())

    def place(self, array: Any) -> int | None:
        """The address of CuPy's array, if it is contiguous and starts where vectors may start."""
        found: int = array.data.ptr
        return found if array.flags.c_contiguous and found % ALIGNED == 0 else None

    def operand(self, place: int, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> Any:
        """What libraries take are arrays of CuPy."""
        return self.shown(place, shape, dtype, owner)

    def shown(self, place: int, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> Any:
        """Memory as an array of CuPy.

        Raises:
            RuntimeInputError: CuPy does not have the dtype (bfloat16).
        """
        wanted = np.dtype(dtype)
        if wanted.kind not in "biuf":
            raise RuntimeInputError(f"CuPy has no {wanted.name}: take the output as a NumPy array")
        nbytes = int(np.prod(shape)) * wanted.itemsize
        with self._doing("showing a tensor") as cp:
            memory = cp.cuda.UnownedMemory(place, nbytes, owner, self.index)
            return cp.ndarray(shape, wanted, cp.cuda.MemoryPointer(memory, 0))
