"""The engine of `opencl`: tensors in buffers of a device, launches prepared once and then only put into the queue."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ...ir.errors import DeviceError, FusewireError
from ...ir.types import numpy_dtype
from ..device import Device
from ..engine import Action, Array, in_runs
from ..host import aligned, check_memory, view
from ..launches import ALIGN
from ..memory import rounded
from ..program import BranchStep, CopyStep, KernelStep, LibraryStep, Step
from ..runnable import Runnable
from ..timing import steady
from .code import Argument, Call, OpenclCode
from .devices import pyopencl
from .runtime import Session, session, told


@frozen(eq=False)
class Ready:
    """A launch that is ready to go: a kernel with its arguments set, and its sizes."""

    kernel: Any
    items: tuple[int]
    group: tuple[int]


class OpenclEngine:
    """Implements `Engine`. On devices that work in the memory of the host, inputs and outputs lie in arrays that are
    mapped; elsewhere they are copied.
    """

    sees_host = True
    """Whether devices may work in the memory of the host, where they can."""

    def __init__(self, lib: Runnable, device: Device) -> None:
        assert isinstance(lib.code, OpenclCode)
        self.lib, self.code = lib, lib.code
        self.cl = pyopencl()
        self.session: Session = session(device.index)
        self._near = self.sees_host and self.session.device.type == "cpu" and self.session.device.unified
        self._host: dict[int, Array] = {}
        self._memory = self._allocate()
        self._bound = dict(self._memory)
        self._pieces: dict[tuple[int, int], Any] = {}
        self._scratch = self._make_scratch()
        self._programs = self.session.programs(self.code.files)
        self._kernels = (
            {name: p for p in self._programs for name in p.kernel_names.split(";")} if lib.code.files else {}
        )
        self._uses: dict[int, list[tuple[Any, int]]] = {}
        self._ready = {id(step): self._prepare(lib.code.of(step)) for step in lib.program.leaf_steps()
                       if isinstance(step, KernelStep)}  # fmt: skip

    # Memory

    def _allocate(self) -> dict[int, Any]:
        """Buffers by slot."""
        program, arena = self.lib.program, self.lib.arena
        fixed = program.fixed - program.constants.keys()
        scratch = self.code.workspace(self.session.device.compute_units)
        needed = arena.size + scratch + sum(program.slots[s].nbytes for s in fixed)
        if self._near:
            check_memory(needed)
        elif needed > (there := self.session.device.raw.global_mem_size):
            raise DeviceError(f"the module needs {needed} bytes; {self.session.device.name} has {there}")
        found: dict[int, Any] = {}
        if arena.size:
            whole = self._buffer(arena.size, "intermediate tensors")
            for slot, offset in arena.offsets.items():
                size = rounded(program.slots[slot].nbytes, ALIGN)
                with told(f"taking {size} bytes of the arena", self.session.device):
                    found[slot] = whole.get_sub_region(offset, size)
        for slot in sorted(fixed):
            found[slot] = self._fixed(slot)
        used = {s for step in program.leaf_steps() if isinstance(step, KernelStep) for s in self.code.of(step).inputs}
        used |= {getattr(step, "source", -1) for step in program.steps}
        for slot, array in {**program.constants, **self.code.packed}.items():
            if {slot, *(v for v, shown in program.views.items() if shown == slot)} & used or slot in used:
                found[slot] = self._constant(array)
        for slot, shown in program.views.items():
            if shown in found:
                found[slot] = found[shown]
        return found

    def _buffer(self, nbytes: int, what: str, flags: int = 0, hostbuf: Any = None) -> Any:
        """New memory of the device.

        Raises:
            DeviceError: there is not enough; the message has the bytes.
        """
        with told(f"allocating {nbytes} bytes for {what}", self.session.device):
            access = flags or self.cl.mem_flags.READ_WRITE
            if hostbuf is not None:
                return self.cl.Buffer(self.session.context, access, hostbuf=hostbuf)
            return self.cl.Buffer(self.session.context, access, size=max(nbytes, 1))

    def _fixed(self, slot: int) -> Any:
        """An input or output, in an array of the host where the device works there."""
        type_ = self.lib.program.slots[slot]
        if not self._near:
            return self._buffer(type_.nbytes, f"a tensor {type_}")
        memory = aligned(rounded(type_.nbytes))
        self._host[slot] = view(memory, 0, type_)
        flags = self.cl.mem_flags
        return self._buffer(type_.nbytes, f"a tensor {type_}", flags.READ_WRITE | flags.USE_HOST_PTR, memory)

    def _constant(self, array: Array) -> Any:
        flags = self.cl.mem_flags
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if not raw.size:
            return self._buffer(1, "a constant")
        # Where the device works in our memory the weights stay where they are, if their place suits.
        near = self._near and raw.ctypes.data % 64 == 0 and raw.flags.writeable
        how = flags.USE_HOST_PTR if near else flags.COPY_HOST_PTR
        return self._buffer(raw.nbytes, "a constant", flags.READ_ONLY | how, raw)

    def _make_scratch(self) -> tuple[Any, Any]:
        """Scratch of steps, and of work-items; steps use the same one after the other."""
        calls = [call for step in self.code.steps.values() for call in step.calls]
        team = max((step.team_bytes for step in self.code.steps.values()), default=0)
        own = max((c.thread_bytes * self._items(c) for c in calls), default=0)
        return (
            self._buffer(team, "scratch") if team else None,
            self._buffer(own, "scratch of work-items") if own else None,
        )

    # Launches

    def _prepare(self, step: Any) -> list[Ready]:
        return [self._prepared(call) for call in step.calls]

    def _prepared(self, call: Call) -> Ready:
        with told(f"preparing the kernel {call.kernel}", self.session.device):
            kernel = self.cl.Kernel(self._kernels[call.kernel], call.kernel)
            for k, argument in enumerate(call.arguments):
                kernel.set_arg(k, self._argument(argument))
                if argument.kind == "tensor":
                    self._uses.setdefault(self.lib.program.root(argument.value), []).append((kernel, k))
        return Ready(kernel, (self._items(call),), (self.session.local,))

    def _items(self, call: Call) -> int:
        """Work-items of a launch: whole work-groups; kernels let those beyond the last one do nothing."""
        items = self.session.shares(call.thread_bytes, call.items) if call.shared else call.items
        return -(-items // self.session.local) * self.session.local

    def _argument(self, argument: Argument) -> Any:
        match argument.kind:
            case "tensor":
                return self._memory[argument.value]
            case "team":
                key = argument.value, argument.nbytes
                if key not in self._pieces:
                    self._pieces[key] = self._scratch[0].get_sub_region(*key)
                return self._pieces[key]
            case "own":
                return self._scratch[1]
        return np.int64(argument.value)

    def compile(self, steps: Sequence[Step]) -> list[Action]:
        """Runs of kernel steps as one function that fills the queue."""
        return in_runs(steps, self._enqueue, self._single)

    def _enqueue(self, steps: Sequence[KernelStep]) -> Action:
        launches = [(r.kernel, r.items, r.group) for step in steps for r in self._ready[id(step)]]
        queue, launch, failed = self.session.queue, self.cl.enqueue_nd_range_kernel, self.cl.Error

        def go() -> None:
            kernel: Any = None
            try:
                for kernel, items, group in launches:
                    launch(queue, kernel, items, group)
            except failed:
                with told(f"launching the kernel {kernel.function_name}", self.session.device):
                    raise

        return go

    def _single(self, step: Step) -> Action:
        match step:
            case CopyStep(source=source, target=target):
                return lambda: self._copy(source, target)
            case BranchStep(cond=cond, then=then, orelse=orelse):
                yes, no = self.compile(then), self.compile(orelse)

                def branch() -> None:
                    for action in yes if self.read(cond).item() else no:
                        action()

                return branch
            case LibraryStep(name=name):
                raise FusewireError(f"{name}: libraries do not run on opencl yet")
            case KernelStep():
                return self._enqueue([step])

    def _copy(self, source: int, target: int) -> None:
        nbytes = self.lib.program.slots[target].nbytes
        if nbytes:
            with told(f"copying {nbytes} bytes", self.session.device):
                self.cl.enqueue_copy(
                    self.session.queue, self._bound.get(target, self._memory[target]),
                    self._bound.get(source, self._memory[source]), byte_count=nbytes,
                )  # fmt: skip

    def action(self, step: Step) -> Action:
        """One step, and waiting for it."""
        inner: Callable[[], None] = self._single(step)

        def go() -> None:
            inner()
            self.wait()

        return go

    def seconds(self, step: Step, repeat: int) -> float:
        """How long one step takes: kernels by the events of the device, other steps with waiting for them."""
        if not isinstance(step, KernelStep):
            return steady(self.action(step), repeat)
        queue, times = self.session.timed_queue(), []
        with told(f"timing {step.name}", self.session.device):
            self.wait()
            for _ in range(repeat + 1):  # the first time is to warm up
                ready = self._ready[id(step)]
                events = [self.cl.enqueue_nd_range_kernel(queue, r.kernel, r.items, r.group) for r in ready]
                queue.finish()
                times.append(sum(event.profile.end - event.profile.start for event in events) * 1e-9)
        return float(np.median(times[1:]))

    def wait(self) -> None:
        """Wait for the queue."""
        with told("running", self.session.device):
            self.session.queue.finish()

    # Inputs and outputs

    def takes(self, value: Any) -> bool:
        """Arrays of pyopencl."""
        array = getattr(self.cl, "array", None)
        return array is not None and isinstance(value, array.Array)

    def write(self, slot: int, array: Any) -> None:
        """Copy an array into an input."""
        self._bind(slot, self._memory[slot])
        if not array.size:
            return
        with told(f"copying {array.nbytes} bytes to an input", self.session.device):
            if self.takes(array):
                if array.context == self.session.context and array.flags.c_contiguous:
                    self.cl.enqueue_copy(self.session.queue, self._memory[slot], array.base_data,
                                         byte_count=array.nbytes, src_offset=array.offset)  # fmt: skip
                    return
                array = array.get()
            if slot in self._host:
                with self._mapped(slot, self.cl.map_flags.WRITE_INVALIDATE_REGION):
                    self._host[slot][...] = array
            else:
                self.cl.enqueue_copy(self.session.queue, self._memory[slot], np.ascontiguousarray(array))

    def share(self, slot: int, array: Any) -> None:
        """Let an input be an array of pyopencl that lies in this context; copy others."""
        here = self.takes(array) and array.context == self.session.context and not array.offset
        if here and array.flags.c_contiguous:
            self._bind(slot, array.base_data)
        else:
            self.write(slot, array)

    def _bind(self, slot: int, memory: Any) -> None:
        """Let an input be other memory."""
        if self._bound.get(slot) is memory:
            return
        self._bound[slot] = memory
        for kernel, position in self._uses.get(slot, ()):
            kernel.set_arg(position, memory)

    def _mapped(self, slot: int, flags: int) -> Any:
        """The array of a tensor, for a while in the hands of the host."""
        nbytes = self.lib.program.slots[slot].nbytes
        array, _ = self.cl.enqueue_map_buffer(
            self.session.queue, self._memory[slot], flags, 0, (nbytes,), np.uint8, is_blocking=True
        )
        return array.base

    def read(self, slot: int) -> Array:
        """A tensor: where it lies if this process sees it, else a copy."""
        type_ = self.lib.program.slots[slot]
        memory = self._bound.get(self.lib.program.root(slot), self._bound.get(slot))
        constants = {**self.lib.program.constants, **self.code.packed}
        if slot in constants:
            return constants[slot]
        with told(f"reading {type_.nbytes} bytes", self.session.device):
            if slot in self._host and memory is self._memory[slot]:
                if type_.nbytes:
                    self._mapped(slot, self.cl.map_flags.READ).release(self.session.queue)
                    self.session.queue.finish()
                return self._host[slot]
            array = np.empty(type_.static_shape, numpy_dtype(type_.dtype))
            if array.nbytes:
                self.cl.enqueue_copy(self.session.queue, array.reshape(-1).view(np.uint8), memory)
            return array
