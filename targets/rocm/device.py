"""AMD's GPUs through the HIP runtime, by ctypes: memory, launches, events. One stream for each device.

None of this has run on a GPU yet. Tests call it with a library that stands in for the runtime.
"""

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field

from ...ir.errors import DeviceError, DeviceNotFound, RuntimeInputError
from ..engine import Action, Array
from ..launched.compiler import compile_all
from ..launched.device import (
    LOCAL,
    Block,
    Launch,
    Timer,
    define_local,
    homes,
)
from ..launched.libqueue import Gpu
from .hiprtc import INSTALL, hiprtc, options, rocm_library

TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")
_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3  # hipMemcpyKind
_OUT_OF_MEMORY = 2  # hipErrorOutOfMemory
_FACTS, _NAME = 1 << 16, 256
"""More bytes than hipDeviceProp_t has in any version (R0600: 1,472), and those of its first member, the name."""
UNITS = 64
"""Compute units, where the system does not tell."""


@lru_cache(maxsize=1)
def runtime() -> Any:
    """The HIP runtime.

    Raises:
        DeviceNotFound: it is not installed; the message says what to do.
    """
    library = rocm_library("amdhip64")
    if library is None:
        raise DeviceNotFound(
            f"running on rocm needs the HIP runtime (libamdhip64.so), which is not installed: {INSTALL}"
        )
    library.hipGetErrorString.restype = ctypes.c_char_p
    return library


def _call(what: str, name: str, *arguments: Any) -> None:
    """Call a function of the runtime.

    Raises:
        DeviceError: it failed; the message says at `what`.
    """
    if status := getattr(runtime(), name)(*arguments):
        words = runtime().hipGetErrorString(status) or b""
        raise DeviceError(f"{what}: {name} gave {status} ({words.decode(errors='replace')})")


def count() -> int:
    """How many GPUs there are.

    Raises:
        DeviceNotFound: there is none, or no runtime; the message says what is missing.
    """
    found = ctypes.c_int()
    try:
        _call("counting devices", "hipGetDeviceCount", ctypes.byref(found))
    except DeviceError as error:
        raise DeviceNotFound(f"there is no ROCm device: {error}") from None
    if not found.value:
        raise DeviceNotFound("there is no ROCm device: the HIP runtime finds none")
    return found.value


@lru_cache(maxsize=16)
def rocm_device(index: int) -> "RocmDevice":
    """The GPU of this number.

    Raises:
        DeviceNotFound: there is none.
    """
    if index >= (there := count()):
        raise DeviceNotFound(f"there is no ROCm device {index}; there are {there}, numbered from 0")
    what = f"asking for the properties of ROCm device {index}"
    name, memory, driver = ctypes.create_string_buffer(256), ctypes.c_size_t(), ctypes.c_int()
    _call(what, "hipDeviceGetName", name, 256, index)
    _call(what, "hipDeviceTotalMem", ctypes.byref(memory), index)
    _call(what, "hipDriverGetVersion", ctypes.byref(driver))
    arch, units = _arch_and_units(index, there)
    return RocmDevice(index, name.value.decode(errors="replace"), arch, driver.value, memory.value, units)


def _arch_and_units(index: int, there: int) -> tuple[str, int]:
    """Architecture and compute units of a device; "" and a usual number where nobody tells.

    The runtime is asked first: HIP_VISIBLE_DEVICES makes it leave out devices and count in another order than the
    system does, whose order counts only where it knows as many devices.
    """
    nodes, arch = topology(), _told_arch(index)
    if not arch:
        return nodes[index] if len(nodes) == there else ("", UNITS)
    return arch, next((units for known, units in nodes if known == arch), UNITS)


def _told_arch(index: int) -> str:
    """The architecture in what the runtime says of a device (hipDeviceProp_t.gcnArchName), or "".

    The layout of that struct differs from version to version, and so does the function's name. gcnArchName is the one
    member behind the name that begins with "gfx", as in "gfx90a:sramecc+:xnack-"; it is looked for, wherever it is.
    """
    for function in ("hipGetDevicePropertiesR0600", "hipGetDeviceProperties"):
        facts = ctypes.create_string_buffer(_FACTS)
        if hasattr(runtime(), function) and not getattr(runtime(), function)(facts, index):
            found = re.search(rb"gfx[0-9a-f]+(?=[:\0])", facts.raw[_NAME:])
            return found[0].decode() if found else ""
    return ""


def topology(root: Path | None = None) -> list[tuple[str, int]]:
    """Architecture and compute units of each GPU, as the kernel's driver tells them."""
    found = []
    folders = (root or TOPOLOGY).glob("*") if (root or TOPOLOGY).is_dir() else []
    for node in sorted(folders, key=lambda path: int(path.name)):
        try:
            text = (node / "properties").read_text()
        except OSError:
            continue
        facts = {key: int(value) for key, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
        version = facts.get("gfx_target_version", 0)
        if version:  # that of a CPU is 0
            units = facts.get("simd_count", 0) // max(facts.get("simd_per_cu", 1), 1)
            arch = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
            found.append((arch, units or UNITS))
    return found


class _Memory:
    """Memory of a device, given back when nobody has it any more."""

    def __init__(self, nbytes: int, what: str) -> None:
        place = ctypes.c_void_p()
        if status := runtime().hipMalloc(ctypes.byref(place), ctypes.c_size_t(max(nbytes, 1))):
            why = "the device has not enough memory" if status == _OUT_OF_MEMORY else f"hipMalloc gave {status}"
            raise DeviceError(f"allocating {nbytes} bytes for {what}: {why}")
        self.place, self._free = place, runtime().hipFree

    def __del__(self) -> None:
        if getattr(self, "place", None):
            self._free(self.place)


@define(eq=False)
class RocmDevice(Gpu):
    """A GPU; implements `GpuDevice`.

    Attributes:
        index: its number.
        arch: gfx90a and the like; empty where the system does not tell.
        driver: its version.
        units: compute units.
        local: work-items in a work-group, where neither a kernel nor the target says anything.
    """

    index: int
    name: str
    arch: str
    driver: int
    total_memory: int
    units: int
    local: int = LOCAL
    _stream: ctypes.c_void_p | None = field(default=None)

    def arch_for(self, wanted: str | None) -> str:
        """The architecture to compile for.

        Raises:
            DeviceError: the code was made for another one, or it is known from nowhere.
        """
        if not (wanted or self.arch):
            raise DeviceError(f"{self.name} does not say its architecture: build for it with -arch=gfx...")
        if wanted and self.arch and wanted != self.arch:
            raise DeviceError(
                f"the code was made for {wanted}, and the device is {self.arch}: build for -arch={self.arch}"
            )
        return wanted or self.arch

    def _do(self, what: str, name: str, *arguments: Any) -> None:
        _call(f"{what} on {self.name}", "hipSetDevice", self.index)
        _call(f"{what} on {self.name}", name, *arguments)

    @property
    def stream(self) -> ctypes.c_void_p:
        """The stream that everything is put into."""
        if self._stream is None:
            stream = ctypes.c_void_p()
            self._do("opening a stream", "hipStreamCreate", ctypes.byref(stream))
            self._stream = stream
        return self._stream

    def allocate(self, nbytes: int, what: str) -> Block:
        """New memory."""
        _call(f"allocating {nbytes} bytes on {self.name}", "hipSetDevice", self.index)
        memory = _Memory(nbytes, what)
        return Block(memory.place.value or 0, nbytes, memory)

    def _move(self, what: str, target: int, source: int, nbytes: int, kind: int) -> None:
        given = ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(nbytes)
        self._do(what, "hipMemcpyAsync", *given, kind, self.stream)

    def write(self, place: int, array: Array) -> None:
        """Copy an array of the host."""
        array = np.ascontiguousarray(array)
        self._move(f"copying {array.nbytes} bytes to the device", place, array.ctypes.data, array.nbytes, _TO_DEVICE)
        self.wait()  # copies from page-locked memory go on after the call

    def read(self, array: Array, place: int) -> None:
        """Fill an array of the host."""
        self._move(f"reading {array.nbytes} bytes from the device", array.ctypes.data, place, array.nbytes, _TO_HOST)
        self.wait()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""
        self._move(f"copying {nbytes} bytes", target, source, nbytes, _WITHIN)

    def load(self, files: Sequence[tuple[str, str]], arch: str, local: int) -> Callable[[str], Any]:
        """Compile with HIPRTC, or take from the cache, and load."""
        codes = compile_all(hiprtc(), files, [*options(arch), define_local(local)], f"driver {self.driver}")
        modules = [ctypes.c_void_p() for _ in codes]
        for module, code in zip(modules, codes, strict=True):
            self._do("loading kernels", "hipModuleLoadData", ctypes.byref(module), code)
        home = homes(files, modules)

        def find(name: str) -> Any:
            function = ctypes.c_void_p()
            given = ctypes.byref(function), home[name], name.encode()
            self._do(f"looking for the kernel {name}", "hipModuleGetFunction", *given)
            return function

        return find

    def launch(self, launch: Launch) -> None:
        """Run a kernel."""
        values = [ctypes.c_int64(value) for value in launch.arguments]
        table = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = (launch.groups, 1, 1, launch.local, 1, 1, 0)
        self._do(f"launching the kernel {launch.name}", "hipModuleLaunchKernel", launch.function, *sizes, self.stream,
                 table, None)  # fmt: skip

    def recorded(self, launches: Sequence[Launch]) -> Action:
        """Launches one after the other."""

        def go() -> None:
            for launch in launches:
                self.launch(launch)

        return go

    def seconds(self, launches: Sequence[Launch], repeat: int) -> list[float]:
        """How long launches take, by events."""
        action = self.recorded(launches)
        action()
        return self.seconds_of(action, repeat)

    def timer(self, launches: Sequence[Launch]) -> Timer:
        """What times launches, by events."""
        run = self.recorded(launches)

        def go(before: Action) -> float:
            before()
            return self.seconds_of(run, 1)[0]

        return go

    def seconds_of(self, action: Action, repeat: int) -> list[float]:
        """How long what a function puts into the stream takes, by events."""
        start, end, taken = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        times = []
        for event in (start, end):
            self._do("timing", "hipEventCreate", ctypes.byref(event))
        try:
            for _ in range(repeat):
                self._do("timing", "hipEventRecord", start, self.stream)
                action()
                self._do("timing", "hipEventRecord", end, self.stream)
                self._do("timing", "hipEventSynchronize", end)
                self._do("timing", "hipEventElapsedTime", ctypes.byref(taken), start, end)
                times.append(taken.value * 1e-3)
        finally:
            for event in (start, end):
                self._do("timing", "hipEventDestroy", event)
        return times

    @contextlib.contextmanager
    def using(self, what: str) -> Iterator[int]:
        """Makes it the current device; gives the handle of its stream."""
        _call(f"{what} on {self.name}", "hipSetDevice", self.index)
        yield self.stream.value or 0

    def wait(self) -> None:
        """Wait for the stream."""
        self._do("running", "hipStreamSynchronize", self.stream)

    def adopted(self, value: Any) -> Any | None:
        """Arrays of other packages are not taken yet."""
        return None

    def take(self, place: int, array: Any) -> None:
        """Nothing is adopted, so there is nothing to copy."""
        raise RuntimeInputError(f"a {type(array).__name__} cannot be copied on rocm")

    def place(self, array: Any) -> None:
        """Nothing is adopted, so there is nothing to place."""

    def operand(self, place: int, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> int:
        """What libraries take are addresses."""
        return place

    def shown(self, place: int, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> None:
        """Users of rocm have arrays of NumPy."""
