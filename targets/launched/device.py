"""What an engine wants of a device, and nothing more: memory, programs, launches, and waiting."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ...ir.errors import DeviceError
from ..engine import Action, Array
from ..memory import rounded
from .code import LaunchCode

T = TypeVar("T")
_CALLED = re.compile(r"(\w+)\(")

LOCAL = 256
"""Work-items in a work-group of a GPU, where a kernel leaves that open and the target allows as many."""

LEAST_LOCAL, MOST_LOCAL = 32, 1024
"""The smallest and largest work-groups of a GPU that are worth a try."""

SHARED_BYTES = 256 << 20
"""Bytes of scratch that work-items who take shares of a loop may have together."""

Place: TypeAlias = Any
"""Where in its memory a device finds something: an address, or with OpenCL a buffer or a part of one. Hashable."""


Timer: TypeAlias = Callable[[Action], float]
"""Runs launches once, behind what a function puts into the stream, and gives the seconds from the start of the first
to the end of the last by the device's clock. Where that function keeps the device busy for longer than the host needs
for the launches, nothing else is in that time."""


class Memory(Protocol):
    """Memory of a device, there as long as this object is. It starts at a multiple of 256 bytes."""

    def at(self, offset: int, nbytes: int) -> Place:
        """A part of it, from a multiple of `LaunchCode.ALIGN` on."""
        ...


@frozen(eq=False)
class Block:
    """Memory where an address is all that it takes; implements `Memory`."""

    address: int
    nbytes: int
    owner: Any

    def at(self, offset: int, nbytes: int) -> int:
        """The address of a part."""
        return self.address + offset


@frozen(eq=False)
class Launch:
    """A kernel to run.

    Attributes:
        name: of the kernel, for messages.
        function: what the device knows it by.
        groups: how many work-groups.
        local: work-items in each.
        arguments: places, and integers of 64 bits.
    """

    name: str
    function: Any
    groups: int
    local: int
    arguments: tuple[Place | int, ...]


class LaunchDevice(Protocol):
    """A device. What is put into its stream is done in this order; reading waits for all before.

    Each method raises DeviceError where the driver refuses; the message says in words what was being done.
    """

    @property
    def index(self) -> int:
        """Its number among those of its kind."""
        ...

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    @property
    def arch(self) -> str:
        """Its architecture, as `-arch=` calls it; empty where there is none to compile for."""
        ...

    @property
    def identity(self) -> str:
        """Device and driver: what was measured or compiled for one of them is for no other."""
        ...

    @property
    def total_memory(self) -> int:
        """Bytes."""
        ...

    @property
    def units(self) -> int:
        """Processors that run work-groups."""
        ...

    @property
    def local(self) -> int:
        """Work-items in a work-group, where neither a kernel nor the target says anything."""
        ...

    def library_queue(self) -> Any:
        """What the libraries of one module put their work into: `Region.queue`."""
        ...

    def shares(self, thread_bytes: int, items: int) -> int:
        """How many work-items share the iterations of a launch that can use `items`, each with so much scratch."""
        ...

    def sizes(self, items: int) -> list[int]:
        """Other numbers than `local` that are worth a try for a launch of `items`, the likeliest first."""
        ...

    def allocate(self, nbytes: int, what: str) -> Memory:
        """New memory, for `what`."""
        ...

    def hold(self, arrays: Mapping[int, Array]) -> tuple[Any, dict[int, Place]]:
        """Arrays that never change: what keeps their memory, and the place of each."""
        ...

    def image(self, array: Array) -> Place:
        """An array (rows, columns, 4) that never changes, as an image."""
        ...

    def write(self, place: Place, array: Array) -> None:
        """Copy an array of the host; it may be changed as soon as this returns."""
        ...

    def read(self, array: Array, place: Place) -> None:
        """Fill a contiguous array of the host, and wait until it is full."""
        ...

    def seen(self, place: Place, nbytes: int) -> npt.NDArray[np.uint8] | None:
        """Memory as this process sees it, once all is done that was put into the stream; None where it does not."""
        ...

    def copy(self, target: Place, source: Place, nbytes: int) -> None:
        """Copy within the device."""
        ...

    def arch_for(self, wanted: str | None) -> str:
        """The architecture to compile code for, which a target made for `wanted`."""
        ...

    def load(self, files: Sequence[tuple[str, str]], arch: str, local: int) -> Callable[[str], Any]:
        """Compile source files (name, text) for an architecture; finds the functions in them by name.

        Work-groups that the text leaves open have `local` work-items.
        """
        ...

    def recorded(self, launches: Sequence[Launch]) -> Action:
        """Launches as one function that repeats them, as cheaply as the device can."""
        ...

    def seconds(self, launches: Sequence[Launch], repeat: int) -> list[float]:
        """How long launches take, by the device's clock, `repeat` times, after a time to warm up."""
        ...

    def timer(self, launches: Sequence[Launch]) -> Timer:
        """What times launches, each time anew."""
        ...

    def wait(self) -> None:
        """Wait until all is done."""
        ...

    def adopted(self, value: Any) -> Any | None:
        """An array that lies on a device, made by whatever package, as one with a shape and a NumPy dtype."""
        ...

    def take(self, place: Place, array: Any) -> None:
        """Copy an adopted array."""
        ...

    def place(self, array: Any) -> Place | None:
        """Where kernels read an adopted array; None if they cannot: it has gaps, starts amiss, or lies elsewhere."""
        ...

    def operand(self, place: Place, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> Any:
        """Memory as libraries take it, which asked for that of the device; it keeps `owner` alive."""
        ...

    def shown(self, place: Place, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> Any | None:
        """Memory as an array of the package that users of the device have; None where they have NumPy's alone."""
        ...


class GpuDevice(LaunchDevice, Protocol):
    """A device whose places are addresses, and where libraries are given a stream."""

    @property
    def software(self) -> str:
        """Architecture and driver: what tuning finds is for both."""
        ...

    def allocate(self, nbytes: int, what: str) -> Block:
        """New memory, for `what`."""
        ...

    def using(self, what: str) -> AbstractContextManager[int]:
        """Makes it the current device while a library is called for `what`; gives the handle of the stream."""
        ...


def when_repeated(once: Action, record: Callable[[], Action]) -> Action:
    """A function that runs as `once` does the first time, and as what `record` makes from then on.

    What runs a single time is not worth recording, and recording wants that all is loaded.
    """
    recorded: Action | None = None
    ran = False

    def go() -> None:
        nonlocal recorded, ran
        if recorded is None:
            if not ran:
                ran = True
                once()
                return
            recorded = record()
        recorded()

    return go


def held_in_one_block(device: LaunchDevice, arrays: Mapping[int, Array]) -> tuple[Memory, dict[int, Place]]:
    """Arrays copied one behind the other: `hold` for devices where each allocation costs something."""
    sizes = {slot: rounded(array.nbytes, LaunchCode.ALIGN) for slot, array in arrays.items()}
    memory = device.allocate(max(sum(sizes.values()), 1), "constants")
    places, offset = {}, 0
    for slot, array in arrays.items():
        places[slot] = memory.at(offset, sizes[slot])
        if array.nbytes:
            device.write(places[slot], array)
        offset += sizes[slot]
    return memory, places


def no_images(device: LaunchDevice, array: Array) -> NoReturn:
    """`image` for devices whose language has none, so that no code that was made for them asks for it."""
    raise DeviceError(f"an image of {array.nbytes} bytes on {device.name}: kernels for it read buffers only")


def sharing(most: int, thread_bytes: int, items: int) -> int:
    """How many work-items, `most` of them, take shares of `items`: no more than that, and than `SHARED_BYTES` allow."""
    return max(1, min(most, items, SHARED_BYTES // max(thread_bytes, 1)))


def define_local(local: int) -> str:
    """The option by which compilers are told how large the work-groups are that kernels leave open."""
    return f"-DFW_LOCAL={local}"


def homes(files: Sequence[tuple[str, str]], modules: Sequence[T]) -> dict[str, T]:
    """Where kernels are, by name: in the module compiled from the file whose text defines them. All other functions are
    static, so what else the texts call does no harm.
    """
    return {name: module for (_, text), module in zip(files, modules, strict=True) for name in _CALLED.findall(text)}


def sizes_on_gpu(items: int) -> list[int]:
    """`sizes` of a GPU: whole warps, powers of two, and no more than there is work for; those near `LOCAL` first."""
    powers = [1 << k for k in range(LEAST_LOCAL.bit_length() - 1, MOST_LOCAL.bit_length())]
    fitting = [size for size in powers if size != LOCAL and (size < items or size == LEAST_LOCAL)]
    return sorted(fitting, key=lambda size: abs(size.bit_length() - LOCAL.bit_length())) if items else []
