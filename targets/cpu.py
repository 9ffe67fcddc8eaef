"""The `cpu` backend: the kernels of a program as C files, compiled to one shared object.

Every kernel step becomes a function `fw_step_K` that takes its tensors from a table of pointers. Consecutive kernel
steps become one function `fw_segment_K`: one call into C, one parallel region, a barrier between the steps.
"""

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

from ..fuse.infra import debug_level
from ..ir.loops import Kernel
from .cpuinfo import Isa, usable_cores
from .csource import Emitter
from .dialects import C
from .implement import Candidate, implement
from .looptext import kernel_text
from .lower import make_problem
from .prelude import Prelude
from .program import KernelStep, Program, Step, flatten
from .team import TEAM_HEADER
from .toolchain import load_shared

_log = logging.getLogger("fusewire")

CALL_STRUCT = """
typedef struct {
  void *const *slots;
  char *thread_scratch;
  int64_t thread_stride;
  char *team_scratch;
} fw_call;
"""


ONE_FILE = 40000
"""Characters of kernels up to which one file compiles faster than several at the same time."""


class Call(ctypes.Structure):
    """What a step gets: the table of tensors, and scratch memory."""

    _fields_ = (
        ("slots", ctypes.c_void_p),
        ("thread_scratch", ctypes.c_void_p),
        ("thread_stride", ctypes.c_int64),
        ("team_scratch", ctypes.c_void_p),
    )


@frozen(eq=False)
class Compiled:
    """A kernel step with its code."""

    step: KernelStep
    kernel: Kernel
    source: str
    symbol: str
    implementation: str
    candidates: tuple[Candidate, ...]
    inputs: tuple[int, ...]
    thread_bytes: int
    team_bytes: int


@define(eq=False)
class CpuCode:
    """All generated code of a program.

    Attributes:
        steps: compiled kernels by step.
        segments: runs of consecutive kernel steps, each one call into C.
        packed: tensors that hold constants in the form that a kernel wants, by slot (numbers beyond the program's).
        files: the C files as (name, text).
    """

    steps: dict[int, Compiled]
    segments: list[list[KernelStep]]
    packed: dict[int, npt.NDArray[Any]]
    files: list[tuple[str, str]]
    flags: tuple[str, ...]
    thread_bytes: int
    team_bytes: int
    _library: ctypes.CDLL | None = field(default=None)

    def of(self, step: KernelStep) -> Compiled:
        """The code of a step."""
        return self.steps[id(step)]

    def load(self) -> ctypes.CDLL:
        """The compiled library (compiled, or found in the cache, on first use).

        Raises:
            CompileError: the compiler is missing or failed.
        """
        if self._library is None:
            self._library = load_shared(self.files, self.flags)
        return self._library

    def function(self, name: str) -> int:
        """The address of a step's or segment's function."""
        return ctypes.cast(getattr(self.load(), name), ctypes.c_void_p).value or 0


def generate(program: Program, isa: Isa, threads: int) -> CpuCode:
    """Lower, emit and lay out all kernels of a program; nothing is compiled yet."""
    maker = _Maker(program, isa, threads)
    for step in flatten(program.steps):
        if isinstance(step, KernelStep):
            maker.add(step)
    return maker.finish()


def _segments(steps: Sequence[Step]) -> list[list[KernelStep]]:
    """Maximal runs of consecutive kernel steps, those inside branches included."""
    found: list[list[KernelStep]] = [[]]
    for step in steps:
        if isinstance(step, KernelStep):
            found[-1].append(step)
            continue
        found.append([])
        for arm in (getattr(step, "then", ()), getattr(step, "orelse", ())):
            found.extend(_segments(arm))
        found.append([])
    return [run for run in found if run]


@define
class _Maker:
    program: Program
    isa: Isa
    threads: int
    steps: dict[int, Compiled] = field(factory=dict)
    packed: dict[int, npt.NDArray[Any]] = field(factory=dict)
    texts: dict[str, str] = field(factory=dict)
    units: list[tuple[Prelude, list[str]]] = field(factory=list)
    _packed_slots: dict[tuple[int, str], int] = field(factory=dict)

    def add(self, step: KernelStep) -> None:
        constants = {k: self.program.constants[s] for k, s in enumerate(step.inputs) if s in self.program.constants}
        problem = make_problem(step.function, "KERNEL", self.isa, self.threads, constants)
        lowered, name, candidates = implement(problem)
        inputs = tuple(
            self._packed(slot, name, lowered.packed[k]) if k in lowered.packed else slot
            for k, slot in enumerate(step.inputs)
        )
        unit = self._unit()
        emitter = Emitter(unit[0])
        text = emitter.kernel(lowered.kernel)
        # Kernels with one text are one function: repeated blocks of a network are compiled once.
        symbol = self.texts.setdefault(text, step.name)
        if symbol == step.name:
            unit[1].append(text.replace("KERNEL", symbol, 1).removeprefix("static "))
        source = text.replace("KERNEL", step.name, 1)
        if debug_level() >= 3:
            _log.info("%s", kernel_text(lowered.kernel).replace("KERNEL", step.name, 1))
        if debug_level() >= 4:
            _log.info("%s", source)
        self.steps[id(step)] = Compiled(
            step,
            lowered.kernel,
            source,
            symbol,
            name,
            tuple(candidates),
            inputs,
            emitter.thread_bytes,
            emitter.team_bytes,
        )

    def _packed(self, slot: int, form: str, array: npt.NDArray[Any]) -> int:
        key = (slot, f"{form}{array.shape}")
        if key not in self._packed_slots:
            self._packed_slots[key] = len(self.program.slots) + len(self.packed)
            self.packed[self._packed_slots[key]] = np.ascontiguousarray(array)
        return self._packed_slots[key]

    def _unit(self) -> tuple[Prelude, list[str]]:
        """The file that the next kernel goes to: one for each processor, filled evenly."""
        if len(self.units) < usable_cores():
            self.units.append((Prelude(C), []))
        return min(self.units, key=lambda unit: sum(map(len, unit[1])))

    def finish(self) -> CpuCode:
        segments = _segments(self.program.steps)
        main = self._main(segments)
        if sum(len(text) for _, texts in self.units for text in texts) < ONE_FILE:
            prelude = Prelude(C)
            for unit, _ in self.units:
                prelude.definitions.update(unit.definitions)
            files = [("module", "\n".join([_file(prelude, [t for _, texts in self.units for t in texts]), main]))]
        else:
            files = [(f"kernels{k}", _file(prelude, texts)) for k, (prelude, texts) in enumerate(self.units) if texts]
            files.append(("main", C.headers + TEAM_HEADER + main))
        compiled = self.steps.values()
        return CpuCode(
            self.steps, segments, self.packed, files if compiled else [], self.isa.cflags,
            max((c.thread_bytes for c in compiled), default=0), max((c.team_bytes for c in compiled), default=0),
        )  # fmt: skip

    def _main(self, segments: Sequence[Sequence[KernelStep]]) -> str:
        params = "void *const *restrict, int, int, fw_team *, char *restrict, char *restrict"
        lines = [CALL_STRUCT]
        lines += [f"void {symbol}({params});" for symbol in self.texts.values()]
        for compiled in self.steps.values():
            slots = ", ".join(f"call->slots[{s}]" for s in (*compiled.inputs, *compiled.step.outputs))
            lines += [
                f"\nvoid fw_step_{compiled.step.name}(void *arg, int tid, int nthreads, fw_team *team)\n{{",
                "  const fw_call *call = arg;",
                f"  void *const args[] = {{{slots}}};",
                "  char *scratch = call->thread_scratch + tid * call->thread_stride;",
                f"  {compiled.symbol}(args, tid, nthreads, team, scratch, call->team_scratch);\n}}",
            ]
        for k, run in enumerate(segments):
            calls = [f"  fw_step_{step.name}(arg, tid, nthreads, team);" for step in run]
            lines.append(f"\nvoid fw_segment_{k}(void *arg, int tid, int nthreads, fw_team *team)\n{{")
            lines += ["\n  fw_barrier(team, tid);\n".join(calls), "}"]
        return "\n".join(lines) + "\n"


def _file(prelude: Prelude, texts: Sequence[str]) -> str:
    return "\n".join([C.headers, TEAM_HEADER, prelude.text(), *texts])
