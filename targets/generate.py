"""The kernels of a program, for any target: chosen, scheduled, and printed once for all equal groups."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field, frozen

from ..fuse.infra import debug_level
from ..ir.deferred import Deferred
from ..ir.expr import Function
from ..ir.hashing import structural_hash
from ..ir.loops import Kernel
from ..ir.structural import structural_equal
from .cpuinfo import Isa
from .host import Shelf
from .implement import Candidate, Decision, choose, finish, log_choice, named, operator_name
from .kernelcache import KernelText, cached
from .looptext import kernel_text
from .lower import Problem, make_problem
from .program import KernelStep, Program
from .scales import prepared
from .schedules.tiles import Packed

_log = logging.getLogger("fusewire")

KERNEL = "KERNEL"
"""What a kernel is called until it is known for which step it is."""

Decide = Callable[[Problem, Function], Decision | None]
"""What tuning found for a group, if anything."""


def no_decision(problem: Problem, function: Function) -> Decision | None:
    """Nothing was tuned."""
    return None


@frozen(eq=False)
class Made:
    """A kernel without the step that it is for; in its text it is called KERNEL. Its loops are only written if somebody
    asks for them, or its text is not in the cache.
    """

    scheduled: Deferred[tuple[Kernel, Packed]]
    packed: Packed
    scales: Mapping[int, int]
    implementation: str
    candidates: tuple[Candidate, ...]
    written: KernelText
    vector_bytes: int

    def loop_ir(self, step: KernelStep) -> Deferred[str]:
        """The kernel as loop IR, as that of a step."""

        def text() -> str:
            return kernel_text(finish(self.scheduled.get()[0], self.vector_bytes)).replace(KERNEL, step.name, 1)

        return Deferred(text)

    def source(self, step: KernelStep) -> str:
        """The kernel as text, as that of a step."""
        return self.written.text.replace(KERNEL, step.name)


@define
class Kernels:
    """Makes the kernels of a program.

    Attributes:
        program, isa, threads: what they are for.
        decide: what tuning found.
        write: prints a kernel whose loops are vectorised and unrolled, with so many work-items in a work-group where
            kernels are launches (0: as the device likes it).
        kind: the kind of target, the last part of the names of implementations.
        packed: tensors that hold constants in the form that a kernel wants, by slot (numbers beyond the program's).
    """

    program: Program
    isa: Isa
    threads: int
    decide: Decide
    write: Callable[[Kernel, int], KernelText]
    kind: str = "cpu"
    packed: dict[int, npt.NDArray[Any]] = field(factory=dict)
    _made: dict[tuple[int, frozenset[int]], list[tuple[Function, Made]]] = field(factory=dict)
    _packed_slots: dict[tuple[int, int, int, int], int] = field(factory=dict)
    _forms: dict[int, list[int]] = field(factory=dict)
    _shelf: Shelf = field(factory=Shelf)

    def of(self, step: KernelStep) -> Made:
        """The kernel of a step."""
        made = self._find(step)
        log_choice(made.implementation, operator_name(step.function), made.candidates)
        if debug_level() >= 3:
            _log.info("%s", made.loop_ir(step).get())
        if debug_level() >= 4:
            _log.info("%s", made.source(step))
        return made

    def inputs(self, step: KernelStep, made: Made) -> tuple[int, ...]:
        """The slots that the kernel of a step reads, packed constants among them."""
        changed = made.packed.keys() | made.scales.keys()
        return tuple(self._packed(step, made, k) if k in changed else slot for k, slot in enumerate(step.inputs))

    def _find(self, step: KernelStep) -> Made:
        """The kernel of a step: that of an equal step before, as in repeated blocks of a network, or a new one."""
        constants = frozenset(k for k, slot in enumerate(step.inputs) if slot in self.program.constants)
        alike = self._made.setdefault((structural_hash(step.function), constants), [])
        for function, made in alike:
            if structural_equal(function, step.function):
                return made
        problem = make_problem(step.function, KERNEL, self.isa, self.threads, constants)
        chosen, candidates = choose(problem, self.decide(problem, step.function))
        scheduled = Deferred(lambda: chosen.schedule(problem))
        width = self.isa.vector_bytes

        def write() -> KernelText:
            kernel, packed = scheduled.get()
            return evolve(self.write(finish(kernel, width), chosen.group), packed=tuple(packed))

        written = cached(step.function, chosen, (self.isa, self.threads, constants), write)
        pack = chosen.entry.pack
        packed = {} if not written.packed else pack(problem, chosen.config) if pack else scheduled.get()[1]
        shown = tuple(evolve(c, name=named(c.name, self.kind)) for c in candidates)
        made = Made(scheduled, packed, problem.scales, named(chosen.entry.name, self.kind), shown, written, width)
        alike.append((step.function, made))
        return made

    def _packed(self, step: KernelStep, made: Made, position: int) -> int:
        """The slot of a packed constant; kernels that want a constant in the same form share it.

        Whether the form is the same shows in the contents only: 64 rows and 1 row want weights in other tiles.
        """
        slot, scale = step.inputs[position], made.scales.get(position)
        key = (slot, id(made), position, step.inputs[scale] if scale is not None else -1)
        if key not in self._packed_slots:
            constants = self.program.constants
            array = prepared(position, made.scales, made.packed, lambda k: constants[step.inputs[k]])
            self._packed_slots[key] = self._same(slot, array)
        return self._packed_slots[key]

    def _same(self, slot: int, array: npt.NDArray[Any]) -> int:
        forms = self._forms.setdefault(slot, [])
        for found in forms:
            if self.packed[found].shape == array.shape and np.array_equal(self.packed[found], array):
                return found
        forms.append(len(self.program.slots) + len(self.packed))
        self.packed[forms[-1]] = self._shelf.place(array)
        return forms[-1]
