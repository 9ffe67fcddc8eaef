"""The kernels of a program, for any target: chosen, scheduled, and printed once for all equal groups."""

import logging
from collections.abc import Callable
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
from .implement import Candidate, Decision, choose, finish, log_choice, operator_name
from .kernelcache import KernelText, cached
from .looptext import kernel_text
from .lower import Problem, make_problem
from .program import KernelStep, Program
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
    """A kernel without the step that it is for; in its text it is called KERNEL."""

    scheduled: Kernel
    packed: Packed
    implementation: str
    candidates: tuple[Candidate, ...]
    written: KernelText
    vector_bytes: int

    def loop_ir(self, step: KernelStep) -> Deferred[str]:
        """The kernel as loop IR, as that of a step."""
        return Deferred(lambda: kernel_text(finish(self.scheduled, self.vector_bytes)).replace(KERNEL, step.name, 1))

    def source(self, step: KernelStep) -> str:
        """The kernel as text, as that of a step."""
        return self.written.text.replace(KERNEL, step.name)


@define
class Kernels:
    """Makes the kernels of a program.

    Attributes:
        program, isa, threads: what they are for.
        decide: what tuning found.
        write: prints a kernel whose loops are vectorised and unrolled.
        kind: the kind of target, the last part of the names of implementations.
        packed: tensors that hold constants in the form that a kernel wants, by slot (numbers beyond the program's).
    """

    program: Program
    isa: Isa
    threads: int
    decide: Decide
    write: Callable[[Kernel], KernelText]
    kind: str = "cpu"
    packed: dict[int, npt.NDArray[Any]] = field(factory=dict)
    _made: dict[tuple[int, frozenset[int]], list[tuple[Function, Made]]] = field(factory=dict)
    _packed_slots: dict[tuple[int, int, int], int] = field(factory=dict)
    _forms: dict[int, list[int]] = field(factory=dict)

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
        return tuple(self._packed(slot, made, k) if k in made.packed else slot for k, slot in enumerate(step.inputs))

    def _find(self, step: KernelStep) -> Made:
        """The kernel of a step: that of an equal step before, as in repeated blocks of a network, or a new one."""
        constants = frozenset(k for k, slot in enumerate(step.inputs) if slot in self.program.constants)
        alike = self._made.setdefault((structural_hash(step.function), constants), [])
        for function, made in alike:
            if structural_equal(function, step.function):
                return made
        problem = make_problem(step.function, KERNEL, self.isa, self.threads, constants)
        chosen, candidates = choose(problem, self.decide(problem, step.function))
        kernel, packed = chosen.schedule(problem)
        context = self.isa, self.threads, constants
        width = self.isa.vector_bytes
        written = cached(step.function, chosen, context, lambda: self.write(finish(kernel, width)))
        named = tuple(evolve(c, name=self._named(c.name)) for c in candidates)
        made = Made(kernel, packed, self._named(chosen.entry.name), named, written, width)
        alike.append((step.function, made))
        return made

    def _named(self, implementation: str) -> str:
        """An implementation of the table, which names those of cpu, as one of this kind of target."""
        return f"{implementation.removesuffix('.cpu')}.{self.kind}"

    def _packed(self, slot: int, made: Made, position: int) -> int:
        """The slot of a packed constant; kernels that want a constant in the same form share it.

        Whether the form is the same shows in the contents only: 64 rows and 1 row want weights in other tiles.
        """
        key = (slot, id(made), position)
        if key not in self._packed_slots:
            array = np.ascontiguousarray(made.packed[position](self.program.constants[slot]))
            self._packed_slots[key] = self._same(slot, array)
        return self._packed_slots[key]

    def _same(self, slot: int, array: npt.NDArray[Any]) -> int:
        forms = self._forms.setdefault(slot, [])
        for found in forms:
            if self.packed[found].shape == array.shape and np.array_equal(self.packed[found], array):
                return found
        forms.append(len(self.program.slots) + len(self.packed))
        self.packed[forms[-1]] = array
        return forms[-1]
