"""Running programs on a device that is given launches: one arena, constants that modules share, launches recorded once
and then repeated. What differs between OpenCL, CUDA and HIP is a `LaunchDevice`.
"""

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from attrs import frozen

from ...fuse.library import ADDRESS, DEVICE
from ...ir.errors import DeviceError
from ...ir.types import numpy_dtype
from ..engine import Action, Array, in_runs
from ..host import view
from ..locks import Lock
from ..memory import rounded
from ..program import BranchStep, CopyStep, KernelStep, LibraryStep, Step, flatten
from ..runnable import Runnable
from ..timing import steady
from .code import Argument, Call, LaunchCode, open_group
from .device import Launch, LaunchDevice, Memory, Place

MOST_RECORDED = 8
"""For how many sets of shared inputs a run of launches is kept recorded."""

_lock = Lock()
_constants: "WeakKeyDictionary[LaunchCode, dict[LaunchDevice, _Held]]" = WeakKeyDictionary()


@frozen(eq=False)
class _Held:
    """Constants of a program on a device: what keeps the memory of tensors, their places, and those of images."""

    keeper: Any
    places: dict[int, Place]
    images: dict[int, Place]


class LaunchEngine:
    """Implements `Engine` on a `LaunchDevice`.

    Args:
        lib: the program and its code.
        device: where it runs.
        arch: the architecture that the code is for; None is the device's.
    """

    def __init__(self, lib: Runnable, device: LaunchDevice, arch: str | None = None) -> None:
        assert isinstance(lib.code, LaunchCode)
        self.lib, self.code, self.device = lib, lib.code, device
        self._open = open_group(device.local, lib.code.isa)
        self._kept: list[Any] = []
        self._held, self._places = self._allocate()
        self._shared: dict[int, tuple[Place, Any]] = {}
        self._team, self._own = self._scratch()
        files = self.code.files
        find = device.load(files, device.arch_for(arch), self._open) if files else lambda name: None
        self._functions = {call.kernel: find(call.kernel) for step in self.code.steps.values() for call in step.calls}
        self._queue = device.library_queue()
        self._libraries = {id(s): self._library(s) for s in lib.program.leaf_steps() if isinstance(s, LibraryStep)}

    # Memory

    def _allocate(self) -> tuple[_Held, dict[int, Place]]:
        """Constants, and places by slot."""
        program, arena = self.lib.program, self.lib.arena
        fixed = sorted(program.fixed - program.constants.keys())
        needed = arena.size + sum(self._size(slot) for slot in fixed) + self.code.workspace(self.device.units)
        if needed > (there := self.device.total_memory):
            raise DeviceError(f"the module needs {needed} bytes; {self.device.name} has {there}")
        held = self._shared_constants()
        found = dict(held.places)
        if whole := self._memory(arena.size, "intermediate tensors"):
            found.update({slot: whole.at(offset, self._size(slot)) for slot, offset in arena.offsets.items()})
        for slot in fixed:
            if memory := self._memory(self._size(slot), f"a tensor {program.slots[slot]}"):
                found[slot] = memory.at(0, self._size(slot))
        return held, found

    def _size(self, slot: int) -> int:
        return rounded(self.lib.program.slots[slot].nbytes, LaunchCode.ALIGN)

    def _memory(self, nbytes: int, what: str) -> Memory | None:
        """New memory; None for nothing."""
        if not nbytes:
            return None
        memory = self.device.allocate(nbytes, what)
        self._kept.append(memory)
        return memory

    def _shared_constants(self) -> _Held:
        """The constants, which all modules of one library on one device share."""
        with _lock:
            known = _constants.setdefault(self.code, {})
            if self.device not in known:
                images = {slot: self.device.image(self.code.packed[slot]) for slot in self.code.read("image")}
                known[self.device] = _Held(*self.device.hold(self._constants()), images)
            return known[self.device]

    def _constants(self) -> dict[int, Array]:
        """The constants that steps read, or that are outputs."""
        program = self.lib.program
        used = {program.root(s) for step in flatten(program.steps) for s in self._read_by(step)} | {*program.outputs}
        return {s: a for s, a in {**program.constants, **self.code.packed}.items() if s in used}

    def _read_by(self, step: Step) -> Collection[int]:
        match step:
            case KernelStep():
                return self.code.read("tensor", step)
            case CopyStep(source=source):
                return (source,)
            case LibraryStep(inputs=inputs):
                return inputs
        return ()

    def _scratch(self) -> tuple[Memory | None, Place]:
        """Scratch of steps, and of work-items; steps use the same one after the other."""
        calls = [call for step in self.code.steps.values() for call in step.calls]
        team = max((step.team_bytes for step in self.code.steps.values()), default=0)
        size = max((c.thread_bytes * self._groups(c) * self._local(c) for c in calls), default=0)
        own = self._memory(size, "scratch of work-items")
        return self._memory(team, "scratch"), own.at(0, size) if own else None

    def _place(self, slot: int) -> Place:
        """Where a tensor lies just now."""
        root = self.lib.program.root(slot) if slot < len(self.lib.program.slots) else slot
        return self._shared[root][0] if root in self._shared else self._places[root]

    # Launches

    def _groups(self, call: Call) -> int:
        """Work-groups of a launch: kernels let work-items beyond the last one do nothing."""
        items = self.device.shares(call.thread_bytes, call.items) if call.shared else call.items
        return max(-(-items // self._local(call)), 1)

    def _local(self, call: Call) -> int:
        """Work-items in a work-group."""
        return call.group or self._open

    def launches(self, steps: Sequence[KernelStep]) -> list[Launch]:
        """The launches of kernel steps, with the places that their tensors have now."""
        return [
            Launch(c.kernel, self._functions[c.kernel], self._groups(c), self._local(c), self._arguments(c))
            for step in steps
            for c in self.code.of(step).calls
        ]

    def _arguments(self, call: Call) -> tuple[Place | int, ...]:
        return tuple(map(self._argument, call.arguments))

    def _argument(self, argument: Argument) -> Place | int:
        match argument.kind:
            case "tensor":
                return self._place(argument.value)
            case "image":
                return self._held.images[argument.value]
            case "team":
                assert self._team is not None
                return self._team.at(argument.value, argument.nbytes)
            case "own":
                return self._own
        return argument.value

    def compile(self, steps: Sequence[Step]) -> list[Action]:
        """Runs of kernel steps as one function."""
        return in_runs(steps, self._repeated, self._single)

    def _repeated(self, steps: Sequence[KernelStep]) -> Action:
        """Kernel steps as a function, which is recorded for each set of places where shared inputs lie."""
        runs: dict[tuple[tuple[int, Place], ...], Action] = {}

        def go() -> None:
            key = tuple((slot, place) for slot, (place, _) in sorted(self._shared.items(), key=itemgetter(0)))
            if key not in runs:
                if len(runs) >= MOST_RECORDED:
                    runs.pop(next(iter(runs)))
                runs[key] = self.device.recorded(self.launches(steps))
            runs[key]()

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
            case LibraryStep():
                return self._libraries[id(step)]
            case KernelStep():
                return self._repeated([step])

    def _library(self, step: LibraryStep) -> Action:
        """A call of a library: on memory of the device, in its queue, or on arrays that are fetched and put back."""
        run = self.lib.library_call(step, self._queue)
        memory = self.lib.report.rule(step).memory
        if memory == ADDRESS:
            return lambda: run([self._place(s) for s in step.inputs], [self._place(s) for s in step.outputs])
        if memory == DEVICE:
            return lambda: run([self._operand(s) for s in step.inputs], [self._operand(s) for s in step.outputs])
        types = [self.lib.program.slots[s] for s in step.outputs]

        def fetched() -> None:
            results = [np.empty(t.static_shape, numpy_dtype(t.dtype)) for t in types]
            run([self.read(s) for s in step.inputs], results)
            for slot, result in zip(step.outputs, results, strict=True):
                if result.size:
                    self.device.write(self._place(slot), result)

        return fetched

    def _operand(self, slot: int) -> Any:
        return self._turned(slot, self.device.operand)

    def _turned(self, slot: int, turn: Callable[..., Any]) -> Any:
        """A tensor as something of the device's; its memory stays there as long as that."""
        type_ = self.lib.program.slots[slot]
        owner = self, self._shared.get(self.lib.program.root(slot))
        return turn(self._place(slot), type_.static_shape, numpy_dtype(type_.dtype), owner)

    def _copy(self, source: int, target: int) -> None:
        if nbytes := self.lib.program.slots[target].nbytes:
            self.device.copy(self._place(target), self._place(source), nbytes)

    def action(self, step: Step) -> Action:
        """One step, and waiting for it."""
        inner: Callable[[], None] = self._single(step)

        def go() -> None:
            inner()
            self.wait()

        return go

    def seconds(self, step: Step, repeat: int) -> float:
        """How long one step takes: kernels by the clock of the device, other steps with waiting for them."""
        if not isinstance(step, KernelStep):
            return steady(self.action(step), repeat)
        return float(np.median(self.device.seconds(self.launches([step]), repeat)))

    def wait(self) -> None:
        """Wait for the device."""
        self.device.wait()

    # Inputs and outputs

    def adopted(self, value: Any) -> Any | None:
        """Arrays that lie on a device of this kind."""
        return self.device.adopted(value)

    def write(self, slot: int, array: Any) -> None:
        """Copy an array into an input."""
        self._shared.pop(slot, None)
        if not array.size:
            return
        put = self.device.write if isinstance(array, np.ndarray) else self.device.take
        put(self._places[slot], array)

    def fill(self, slot: int, source: Place) -> None:
        """Copy memory of the device into an input."""
        self.device.copy(self._places[slot], source, self.lib.program.slots[slot].nbytes)

    def share(self, slot: int, array: Any) -> None:
        """Let an input be an array of the device where its kernels can read it; copy others."""
        place = None if isinstance(array, np.ndarray) or not array.size else self.device.place(array)
        if place is None:
            self.write(slot, array)
        else:
            self._shared[slot] = place, array

    def read(self, slot: int) -> Array:
        """A tensor as it is just now: where it lies if this process sees it, else a copy."""
        type_, constants, root = self.lib.program.slots[slot], self.lib.program.constants, self.lib.program.root(slot)
        if root in constants:
            return constants[root].reshape(type_.static_shape)
        if not type_.nbytes:
            return np.empty(type_.static_shape, numpy_dtype(type_.dtype))
        place = self._place(slot)
        if (seen := self.device.seen(place, type_.nbytes)) is not None:
            return view(seen, 0, type_)
        array = np.empty(type_.static_shape, numpy_dtype(type_.dtype))
        self.device.read(array, place)
        return array

    def array(self, slot: int) -> Any:
        """A tensor where it lies on the device; where users of the device have NumPy alone, as `read` gives it."""
        shown = self._turned(slot, self.device.shown)
        return self.read(slot) if shown is None else shown
