"""The `cpu` backend: the kernels of a program as C files, compiled to one shared object.

Every kernel step becomes a function `fw_step_K` that takes its tensors from a table of pointers. Consecutive kernel
steps become one function `fw_segment_K`: one call into C, one parallel region, a barrier between the steps.
"""

import ctypes
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from attrs import define, field, frozen

from ..ir.errors import CompileError, FusewireError
from ..ir.loops import Kernel
from ..ir.types import TensorType
from .code import Code, StepCode
from .cpuinfo import Isa
from .csource import Emitter
from .dialects import C
from .generate import KERNEL, Decide, Kernels, no_decision
from .inplace import overwritable
from .kernelcache import KernelText
from .prelude import Prelude
from .program import KernelStep, Program, Step, flatten
from .team import RUNTIME, TEAM_HEADER, declared, load_runtime
from .toolchain import SharedObject, load_object, load_shared, shared_object
from .units import Units

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
class Compiled(StepCode):
    """A kernel step with its code; `overwrites`: as in `KernelText`."""

    thread_bytes: int
    team_bytes: int
    overwrites: tuple[tuple[int, int], ...] = ()


@frozen(eq=False)
class Objects:
    """Compiled code as it goes into a file: the kernels, and the code of the thread team that runs them."""

    kernels: SharedObject
    runtime: SharedObject


@define(eq=False)
class CpuCode:
    """All generated code of a program.

    Attributes:
        steps: compiled kernels by step.
        segments: runs of consecutive kernel steps, each one call into C.
        packed: tensors that hold constants in the form that a kernel wants, by slot (numbers beyond the program's).
        files: the C files as (name, text).
        isa: what they are compiled for.
        objects: what they were compiled to elsewhere, for code that comes from a file.
    """

    steps: dict[int, Compiled]
    segments: list[list[KernelStep]]
    packed: dict[int, npt.NDArray[Any]]
    files: list[tuple[str, str]]
    isa: Isa
    thread_bytes: int
    team_bytes: int
    objects: Objects | None = field(default=None)
    _library: ctypes.CDLL | None = field(default=None)

    def of(self, step: KernelStep) -> Compiled:
        """The code of a step."""
        return self.steps[id(step)]

    def workspace(self, threads: int, step: KernelStep | None = None) -> int:
        """Bytes of scratch that a step needs, or the whole program."""
        one = self if step is None else self.of(step)
        return one.thread_bytes * threads + one.team_bytes

    def overwrites(self) -> dict[int, list[int]]:
        """By slot that a kernel writes, the slots that it reads and may write over."""
        found: dict[int, list[int]] = {}
        for compiled in self.steps.values():
            for output, given in compiled.overwrites:
                found.setdefault(compiled.step.outputs[output], []).append(compiled.step.inputs[given])
        return found

    def load(self) -> ctypes.CDLL:
        """The compiled library (compiled, or found in the cache, on first use).

        Raises:
            CompileError: the compiler is missing or failed.
        """
        if self._library is None:
            stored = self._stored(lambda objects: load_object(objects.kernels.data))
            self._library = stored or load_shared(self.files, self.isa.cflags)
        return self._library

    def runtime(self) -> ctypes.CDLL:
        """The code of the thread team.

        Raises:
            CompileError: as `load`.
        """
        stored = self._stored(lambda objects: load_object(objects.runtime.data))
        return declared(stored) if stored else load_runtime()

    def compiled(self) -> Objects:
        """The objects that came with the code, unless this machine did not load them, else those compiled here.

        Raises:
            CompileError: as `load`.
        """
        return self.objects or Objects(shared_object(self.files, self.isa.cflags), shared_object(RUNTIME))

    def _stored(self, load: Callable[[Objects], ctypes.CDLL]) -> ctypes.CDLL | None:
        if self.objects is None:
            return None
        try:
            return load(self.objects)
        except CompileError as error:
            _log.info("compiling again what came compiled for another system: %s", error)
            self.objects = None
            return None

    def function(self, name: str) -> int:
        """The address of a step's or segment's function."""
        return ctypes.cast(getattr(self.load(), name), ctypes.c_void_p).value or 0


def cpu_code(code: Code, purpose: str) -> CpuCode:
    """Code that is for `cpu`.

    Raises:
        FusewireError: it is for another target; `purpose` says what cannot be done then.
    """
    if not isinstance(code, CpuCode):
        raise FusewireError(f"{purpose} is there for the target cpu only")
    return code


def generate(program: Program, isa: Isa, threads: int, decide: Decide = no_decision) -> CpuCode:
    """Lower, emit and lay out all kernels of a program; nothing is compiled yet."""
    maker = _Maker(program, isa, Kernels(program, isa, threads, decide, _written))
    for step in flatten(program.steps):
        if isinstance(step, KernelStep):
            maker.add(step)
    return maker.finish()


def _written(finished: Kernel, group: int) -> KernelText:
    emitter = Emitter(Prelude(C))
    text = emitter.kernel(finished)
    return KernelText(
        text, emitter.prelude.definitions, emitter.thread_bytes, emitter.team_bytes, overwritable(finished)
    )


def fingerprint(program: Program, steps: Iterable[Compiled], packed: Mapping[int, npt.NDArray[Any]]) -> str:
    """What code takes for granted of the tables it runs on, as a hash that stands in the code itself.

    By it, a program and an object that come from a file are known to belong together.
    """
    kernels = [(c.step.name, c.symbol, c.inputs, c.step.outputs, c.thread_bytes, c.team_bytes) for c in steps]
    forms = [(slot, str(TensorType(array.shape, array.dtype.name))) for slot, array in packed.items()]
    runs = [[step.name for step in run] for run in segments_of(program.steps)]
    facts = [
        CALL_STRUCT,
        TEAM_HEADER,
        [str(type_) for type_ in program.slots],
        sorted(program.views.items()),
        forms,
        kernels,
        runs,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def segments_of(steps: Sequence[Step]) -> list[list[KernelStep]]:
    """Maximal runs of consecutive kernel steps, those inside branches included."""
    found: list[list[KernelStep]] = [[]]
    for step in steps:
        if isinstance(step, KernelStep):
            found[-1].append(step)
            continue
        found.append([])
        for arm in (getattr(step, "then", ()), getattr(step, "orelse", ())):
            found.extend(segments_of(arm))
        found.append([])
    return [run for run in found if run]


@define
class _Maker:
    program: Program
    isa: Isa
    kernels: Kernels
    steps: dict[int, Compiled] = field(factory=dict)
    texts: dict[str, str] = field(factory=dict)
    units: Units = field(factory=lambda: Units(C))

    def add(self, step: KernelStep) -> None:
        made = self.kernels.of(step)
        written = made.written
        if written.text not in self.texts:  # different groups may come to one text
            self.texts[written.text] = step.name
            text = written.text.replace(KERNEL, step.name, 1).removeprefix("static ")
            self.units.add(text, written.definitions)
        self.steps[id(step)] = Compiled(
            step,
            made.loop_ir(step),
            made.source(step),
            self.texts[written.text],
            made.implementation,
            made.candidates,
            self.kernels.inputs(step, made),
            written.thread_bytes,
            written.team_bytes,
            written.overwrites,
        )

    def finish(self) -> CpuCode:
        segments = segments_of(self.program.steps)
        main = self._main(segments)
        units = [_file(prelude, texts) for prelude, texts in self.units.files(ONE_FILE)]
        if self.units.size < ONE_FILE:
            files = [("module", "\n".join([*units, main]))]
        else:
            files = [(f"kernels{k}", text) for k, text in enumerate(units)]
            files.append(("main", C.headers + TEAM_HEADER + main))
        compiled = self.steps.values()
        return CpuCode(
            self.steps, segments, self.kernels.packed, files if compiled else [], self.isa,
            max((c.thread_bytes for c in compiled), default=0), max((c.team_bytes for c in compiled), default=0),
        )  # fmt: skip

    def _main(self, segments: Sequence[Sequence[KernelStep]]) -> str:
        params = "void *const *restrict, int, int, fw_team *, char *restrict, char *restrict"
        mark = fingerprint(self.program, self.steps.values(), self.kernels.packed)
        lines = [CALL_STRUCT, f'const char fw_fingerprint[] = "{mark}";\n']
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
    return "\n".join([C.headers, TEAM_HEADER, prelude.text(texts), *texts])
