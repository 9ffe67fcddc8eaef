"""OpenCL's devices as engines want them: buffers, launches prepared once and then only put into the queue, events.

A CPU works in the memory of the host: there buffers lie in arrays that are mapped, and weights stay where they are.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

from ...ir.errors import RuntimeInputError, TargetError
from ..engine import Action, Array
from ..host import aligned, memory_limits
from ..launched.device import Launch, Timer, when_repeated
from ..launches import ALIGN
from ..memory import rounded
from ..target import Target
from .devices import find, pyopencl
from .replay import Ready, Recording, available
from .runtime import Session, session, told


@frozen
class Piece:
    """A buffer, or a part of one; and the same memory as the host sees it, if it does."""

    buffer: Any
    host: npt.NDArray[np.uint8] | None = field(default=None, eq=False, repr=False)


@define(eq=False)
class Buffer:
    """Memory of a device; implements `Memory`."""

    whole: Piece
    nbytes: int
    queue: "OpenclQueue"
    _parts: dict[tuple[int, int], Piece] = field(factory=dict)

    def at(self, offset: int, nbytes: int) -> Piece:
        """A part of it."""
        if (offset, nbytes) == (0, self.nbytes):
            return self.whole
        if (offset, nbytes) not in self._parts:
            with told(f"taking {nbytes} of {self.nbytes} bytes", self.queue.session.device):
                part = self.whole.buffer.get_sub_region(offset, nbytes)
            host = None if self.whole.host is None else self.whole.host[offset : offset + nbytes]
            self._parts[offset, nbytes] = Piece(part, host)
        return self._parts[offset, nbytes]


@define(eq=False)
class OpenclQueue:
    """A device with its queue; implements `LaunchDevice`."""

    session: Session
    arch: str = ""

    @property
    def cl(self) -> Any:
        """The module pyopencl."""
        return pyopencl()

    @property
    def index(self) -> int:
        """The number of the device among all of OpenCL."""
        return self.session.device.index

    @property
    def name(self) -> str:
        """The device, and the driver that brings it."""
        return f"{self.session.device.name} ({self.session.device.platform})"

    @property
    def identity(self) -> str:
        """Device and driver."""
        return self.session.device.identity

    @property
    def near(self) -> bool:
        """Whether the device works in the memory of the host."""
        return self.session.device.type == "cpu" and self.session.device.unified

    @property
    def total_memory(self) -> int:
        """Bytes that a module may have."""
        there: int = self.session.device.raw.global_mem_size
        return min(there, *memory_limits().values()) if self.near else there

    @property
    def units(self) -> int:
        """Processors that run work-groups."""
        return self.session.device.compute_units

    @property
    def local(self) -> int:
        """Work-items in a work-group, where a kernel leaves that open."""
        return self.session.local

    @property
    def queue(self) -> Any:
        """The CommandQueue."""
        return self.session.queue

    def library_queue(self) -> Any:
        """Libraries put their work into the same one."""
        return self.queue

    def shares(self, thread_bytes: int, items: int) -> int:
        """How many work-items share the iterations of a launch."""
        return self.session.shares(thread_bytes, items)

    def sizes(self, items: int) -> list[int]:
        """Other numbers of work-items in a work-group that are worth a try."""
        return self.session.sizes(items)

    # Memory

    def allocate(self, nbytes: int, what: str) -> Buffer:
        """New memory.

        Raises:
            DeviceError: there is not enough; the message has the bytes.
        """
        flags = self.cl.mem_flags
        with told(f"allocating {nbytes} bytes for {what}", self.session.device):
            if not self.near:
                buffer = self.cl.Buffer(self.session.context, flags.READ_WRITE, size=max(nbytes, 1))
                return Buffer(Piece(buffer), nbytes, self)
            host = aligned(rounded(nbytes))
            buffer = self.cl.Buffer(self.session.context, flags.READ_WRITE | flags.USE_HOST_PTR, hostbuf=host)
            return Buffer(Piece(buffer, host[:nbytes]), len(host), self)

    def hold(self, arrays: Mapping[int, Array]) -> tuple[Any, dict[int, Piece]]:
        """Arrays that never change, a buffer for each: a device may have a lot of memory and small buffers only."""
        return None, {slot: self._held(array) for slot, array in arrays.items()}

    def _held(self, array: Array) -> Piece:
        flags = self.cl.mem_flags
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if not raw.size:
            return self.allocate(ALIGN, "a constant").whole
        # Where the device works in our memory the weights stay where they are, if their place suits.
        stay = self.near and raw.ctypes.data % 64 == 0 and raw.flags.writeable
        how = flags.READ_ONLY | (flags.USE_HOST_PTR if stay else flags.COPY_HOST_PTR)
        with told(f"allocating {raw.nbytes} bytes for a constant", self.session.device):
            return Piece(self.cl.Buffer(self.session.context, how, hostbuf=raw))

    def image(self, array: Array) -> Piece:
        """An array (rows, columns, 4) of float32 or float16 that never changes, as an image of as many texels.

        Raises:
            DeviceError: the device has no images, none of this type or size, or not enough memory.
        """
        cl, (rows, columns, _) = self.cl, array.shape
        channel = {"float32": cl.channel_type.FLOAT, "float16": cl.channel_type.HALF_FLOAT}[array.dtype.name]
        texel, form = cl.ImageFormat(cl.channel_order.RGBA, channel), cl.ImageDescriptor()
        form.image_type, form.shape, form.pitches = cl.mem_object_type.IMAGE2D, (columns, rows), (0, 0)
        form.num_mip_levels, form.num_samples, form.buffer = 0, 0, None
        how = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        with told(f"allocating an image of {columns} x {rows} texels of {array.dtype}", self.session.device):
            raw = np.ascontiguousarray(array)
            return Piece(cl.Image(self.session.context, how, texel, desc=form, hostbuf=raw))

    def _mapped(self, place: Piece, flags: int, nbytes: int) -> Any:
        """Memory for a while in the hands of the host, which sees it at `place.host`."""
        array, _ = self.cl.enqueue_map_buffer(self.queue, place.buffer, flags, 0, (nbytes,), np.uint8, is_blocking=True)
        return array.base

    def write(self, place: Piece, array: Array) -> None:
        """Copy an array of the host."""
        with told(f"copying {array.nbytes} bytes to the device", self.session.device):
            if place.host is None:
                self.cl.enqueue_copy(self.queue, place.buffer, np.ascontiguousarray(array))
                return
            with self._mapped(place, self.cl.map_flags.WRITE_INVALIDATE_REGION, array.nbytes):
                place.host[: array.nbytes].view(array.dtype).reshape(array.shape)[...] = array

    def read(self, array: Array, place: Piece) -> None:
        """Fill an array of the host."""
        with told(f"reading {array.nbytes} bytes from the device", self.session.device):
            self.cl.enqueue_copy(self.queue, array.reshape(-1).view(np.uint8), place.buffer)

    def seen(self, place: Piece, nbytes: int) -> npt.NDArray[np.uint8] | None:
        """Memory as the host sees it, once all is done."""
        if place.host is None:
            return None
        with told(f"reading {nbytes} bytes", self.session.device):
            # Nothing has to go back, so nobody need wait for the end of the mapping.
            self._mapped(place, self.cl.map_flags.READ, nbytes).release(self.queue)
        return place.host[:nbytes]

    def copy(self, target: Piece, source: Piece, nbytes: int) -> None:
        """Copy within the device."""
        with told(f"copying {nbytes} bytes", self.session.device):
            self.cl.enqueue_copy(self.queue, target.buffer, source.buffer, byte_count=nbytes)

    # Launches

    def arch_for(self, wanted: str | None) -> str:
        """A driver knows what it compiles for."""
        return self.arch

    def load(self, files: Sequence[tuple[str, str]], arch: str, local: int) -> Callable[[str], Any]:
        """Compile programs, or take them from the cache; a kernel is known by its program."""
        programs = self.session.programs(files, local)
        found = {name: program for program in programs for name in program.kernel_names.split(";")}
        return lambda name: found[name]

    def prepared(self, launch: Launch) -> Ready:
        """A kernel of its own for a launch, with its arguments set."""
        with told(f"preparing the kernel {launch.name}", self.session.device):
            kernel = self.cl.Kernel(launch.function, launch.name)
            for k, argument in enumerate(launch.arguments):
                kernel.set_arg(k, argument.buffer if isinstance(argument, Piece) else np.int64(argument))
        return Ready(kernel, (launch.groups * launch.local,), (launch.local,), launch.arguments)

    def recorded(self, launches: Sequence[Launch]) -> Action:
        """Launches that are prepared, and only need to be put into the queue; where a device has such, by one call."""
        ready = [self.prepared(launch) for launch in launches]
        once = self._one_by_one(ready)
        if len(ready) < 2 or not available(self.session.device):
            return once
        return when_repeated(once, lambda: Recording(self.session.device, self.queue, ready))

    def _one_by_one(self, launches: Sequence[Ready]) -> Action:
        ready = [(r.kernel, r.items, r.group, r.arguments) for r in launches]
        queue, launch, failed = self.queue, self.cl.enqueue_nd_range_kernel, self.cl.Error

        def go() -> None:
            kernel: Any = None
            try:
                for kernel, items, group, _ in ready:
                    launch(queue, kernel, items, group)
            except failed:
                with told(f"launching the kernel {kernel.function_name}", self.session.device):
                    raise

        return go

    def seconds(self, launches: Sequence[Launch], repeat: int) -> list[float]:
        """How long launches take, by their events; what lies between them does not count."""
        times = [sum(end - start for start, end in self.events(launches)) for _ in range(repeat + 1)]
        return times[1:]

    def timer(self, launches: Sequence[Launch]) -> Timer:
        """What times launches: each has events of its own, so the host's part is in no time."""

        def go(before: Action) -> float:
            before()
            times = self.events(launches)
            return max(end for _, end in times) - times[0][0] if times else 0.0

        return go

    def events(self, launches: Sequence[Launch]) -> list[tuple[float, float]]:
        """Run launches; when each of them began and ended, in seconds by the clock of the device."""
        queue, ready = self.session.timed_queue(), [self.prepared(launch) for launch in launches]
        self.wait()
        with told(f"timing {', '.join(launch.name for launch in launches)}", self.session.device):
            events = [self.cl.enqueue_nd_range_kernel(queue, r.kernel, r.items, r.group) for r in ready]
            queue.finish()
            return [(event.profile.start * 1e-9, event.profile.end * 1e-9) for event in events]

    def wait(self) -> None:
        """Wait for the queue."""
        with told("running", self.session.device):
            self.queue.finish()

    # Arrays of others

    def adopted(self, value: Any) -> Any | None:
        """Arrays of pyopencl."""
        array = getattr(self.cl, "array", None)
        return value if array is not None and isinstance(value, array.Array) else None

    def take(self, place: Piece, array: Any) -> None:
        """Copy an array of pyopencl."""
        with told(f"copying {array.nbytes} bytes to an input", self.session.device):
            if array.context != self.session.context or not array.flags.c_contiguous:
                self.write(place, self._fetched(array))
                return
            # Others may have filled it in a queue of their own.
            self.cl.enqueue_copy(self.queue, place.buffer, array.base_data, byte_count=array.nbytes,
                                 src_offset=array.offset, wait_for=array.events)  # fmt: skip

    def _fetched(self, array: Any) -> Array:
        """A copy of pyopencl's array, which may have gaps, or no queue."""
        if not array.flags.forc:
            raise RuntimeInputError(f"an array of pyopencl must be contiguous, got strides {array.strides}")
        return np.asarray(array.get(queue=array.queue or self.cl.CommandQueue(array.context)))

    def place(self, array: Any) -> Piece | None:
        """The buffer of pyopencl's array, if it lies in this context, contiguous and from its start on."""
        if array.context != self.session.context or array.offset or not array.flags.c_contiguous:
            return None
        if array.events:  # others may fill it in a queue of their own
            self.cl.wait_for_events(array.events)
        return Piece(array.base_data)

    def operand(self, place: Piece, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> Any:
        """What libraries take are pyopencl's Buffers."""
        return place.buffer

    def shown(self, place: Piece, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any) -> None:
        """Outputs are given as arrays of NumPy."""


@lru_cache(maxsize=16)
def opencl_queue(index: int) -> OpenclQueue:
    """The device with this number, at work."""
    return OpenclQueue(session(index))


def command_queue(target: str | Target = "opencl") -> Any:
    """The pyopencl.CommandQueue of the device that a target means; modules put their work into it.

    Arrays that pyopencl makes with this queue lie in the modules' context: kernels read them in place.

    Raises:
        DeviceNotFound: there is no such device, or no pyopencl.
        TargetError: the target is not `opencl`.
    """
    where = Target(target)
    if where.kind != "opencl":
        raise TargetError(f"expected a target of kind opencl, got '{where}': others have no command queue")
    return opencl_queue(find(where.device).index).queue
