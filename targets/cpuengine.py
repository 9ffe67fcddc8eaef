"""The engine of `cpu`: tensors in this process, one call into C for each run of generated steps."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from .cpu import Call, CpuCode, cpu_code
from .engine import Action, Array, in_runs
from .host import SMALL, aligned, at_line, check_memory, view
from .program import BranchStep, CopyStep, KernelStep, LibraryStep, Step
from .runnable import Runnable
from .team import ThreadTeam
from .timing import steady


class CpuEngine:
    """Implements `Engine`."""

    def __init__(self, lib: Runnable) -> None:
        self.lib = lib
        self.code: CpuCode = cpu_code(lib.code, "this engine")
        program, code, arena = lib.program, self.code, lib.arena
        fixed = program.fixed - program.constants.keys()
        scratch = code.workspace(lib.threads)
        check_memory(arena.size + scratch + sum(program.slots[s].nbytes for s in fixed))
        self._arena = aligned(arena.size)
        self._arrays: list[Array] = [np.empty(0)] * (len(program.slots) + len(code.packed))
        for slot, offset in arena.offsets.items():
            self._arrays[slot] = view(self._arena, offset, program.slots[slot])
        for slot, array in {**program.constants, **code.packed}.items():
            # Shifts and scales are copied to where vectors begin; what is large stays shared between modules.
            self._arrays[slot] = at_line(array) if array.nbytes < SMALL else array
        for slot in fixed:
            type_ = program.slots[slot]
            self._arrays[slot] = view(aligned(type_.nbytes), 0, type_)
        for slot, shown in program.views.items():
            self._arrays[slot] = self._arrays[shown].reshape(program.slots[slot].static_shape)
        self._own = {s: self._arrays[s] for slots in program.inputs.values() for s in slots}
        self._scratch = aligned(scratch)
        self._table = (ctypes.c_void_p * len(self._arrays))()
        for slot in range(len(self._arrays)):
            self._point(slot)
        base = self._scratch.ctypes.data
        self._call = Call(
            ctypes.addressof(self._table), base, code.thread_bytes, base + code.thread_bytes * lib.threads
        )
        self._team = ThreadTeam(lib.threads, code.runtime()) if code.steps else None
        self._libraries = {id(s): lib.library_call(s) for s in program.leaf_steps() if isinstance(s, LibraryStep)}

    def _point(self, slot: int) -> None:
        array = self._arrays[slot]
        self._table[slot] = array.ctypes.data

    def _bind(self, slot: int, array: Array) -> None:
        """Let an input, and what shows it under other shapes, be an array."""
        self._arrays[slot] = array
        self._point(slot)
        for shown_as, shown in self.lib.program.views.items():
            if shown == slot:
                self._arrays[shown_as] = array.reshape(self.lib.program.slots[shown_as].static_shape)
                self._point(shown_as)

    def adopted(self, value: Any) -> Any | None:
        """Nothing but NumPy arrays."""
        return None

    def write(self, slot: int, array: Array) -> None:
        """Copy an array into an input."""
        own = self._own[slot]
        own[...] = array
        self._bind(slot, own)

    def share(self, slot: int, array: Array) -> None:
        """Let an input be an array."""
        self._bind(slot, np.require(array, requirements=["C", "A"]).reshape(array.shape))

    def read(self, slot: int) -> Array:
        """A tensor where it lies."""
        return self._arrays[slot]

    def seconds(self, step: Step, repeat: int) -> float:
        """How long one step takes."""
        return steady(self.action(step), repeat)

    def wait(self) -> None:
        """Nothing runs on."""

    def array(self, slot: int) -> Any:
        """A tensor where it lies."""
        return self.read(slot)

    def compile(self, steps: Sequence[Step]) -> list[Action]:
        """Runs of kernel steps are one call into C."""
        return in_runs(steps, lambda run: self._segment(run[0]), self.action)

    def _segment(self, first: KernelStep) -> Action:
        number = next(k for k, run in enumerate(self.code.segments) if run[0] is first)
        return self._region(f"fw_segment_{number}")

    def _region(self, symbol: str) -> Action:
        address, call, team = self.code.function(symbol), ctypes.addressof(self._call), self._team
        assert team is not None
        return lambda: team.run(address, call)

    def action(self, step: Step) -> Action:
        """One step."""
        arrays = self._arrays
        match step:
            case LibraryStep(inputs=inputs, outputs=outputs):
                library = self._libraries[id(step)]
                return lambda: library([arrays[s] for s in inputs], [arrays[s] for s in outputs])
            case CopyStep(source=source, target=target):
                return lambda: np.copyto(arrays[target], arrays[source])
            case BranchStep(cond=cond, then=then, orelse=orelse):
                yes, no = self.compile(then), self.compile(orelse)

                def branch() -> None:
                    for action in yes if arrays[cond].item() else no:
                        action()

                return branch
            case KernelStep():
                return self._region(f"fw_step_{step.name}")
