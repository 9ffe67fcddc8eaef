"""The code of a program as OpenCL C: each kernel step is a few launches of kernels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy.typing as npt
from attrs import define, field, frozen

from ...ir.deferred import Deferred, force
from ...ir.index import IndexVar
from ...ir.loops import Kernel
from ...ir.scalar import Buffer
from ..cpuinfo import Isa
from ..cpuinfo import isa_for as cpu_isa_for
from ..csource import Emitter, LaunchHead
from ..generate import KERNEL, Decide, Kernels
from ..implement import Candidate
from ..kernelcache import KernelText
from ..launches import ALIGN, Launch, Plan, plan_launches
from ..prelude import Prelude
from ..program import KernelStep, Program, flatten
from ..target import Target
from ..units import Units
from .dialect import OPENCL

ONE_PROGRAM = 60000
"""Characters of kernels up to which they are one program; more are several, compiled at the same time."""


@frozen
class Argument:
    """One argument of a launch: a tensor by its slot, a piece of the step's scratch, the scratch of work-items, or a
    number; `value` is the slot, the offset in bytes, nothing, or the number.
    """

    kind: str
    value: int = 0
    nbytes: int = 0


@frozen
class Call:
    """One launch.

    Attributes:
        kernel: the name of the kernel.
        arguments: in the order of its parameters.
        items: work-items that it needs; or can use, if they take shares.
        shared: whether they take shares, so that fewer will do.
        thread_bytes: scratch of one work-item.
    """

    kernel: str
    arguments: tuple[Argument, ...]
    items: int
    shared: bool
    thread_bytes: int


@frozen(eq=False)
class OpenclStep:
    """A kernel step with its code; implements `StepCode`."""

    step: KernelStep
    _loop_ir: str | Deferred[str]
    source: str
    symbol: str
    implementation: str
    candidates: tuple[Candidate, ...]
    inputs: tuple[int, ...]
    calls: tuple[Call, ...]
    team_bytes: int

    @property
    def loop_ir(self) -> str:
        """The kernel as loop IR, before it was cut into launches."""
        return force(self._loop_ir)


@define(eq=False)
class OpenclCode:
    """All generated code of a program; implements `Code`.

    Attributes:
        steps: kernels by step.
        packed: tensors that hold constants in the form that a kernel wants, by slot.
        files: the programs as (name, text).
        isa: what the schedules wrote for.
    """

    ALIGN: ClassVar[int] = ALIGN
    steps: dict[int, OpenclStep]
    packed: dict[int, npt.NDArray[Any]]
    files: list[tuple[str, str]]
    isa: Isa

    def of(self, step: KernelStep) -> OpenclStep:
        """The code of a step."""
        return self.steps[id(step)]

    def workspace(self, threads: int, step: KernelStep | None = None) -> int:
        """Bytes of scratch that a step needs, or the whole program, with `threads` work-items that take shares."""
        steps = self.steps.values() if step is None else [self.of(step)]
        shares = max((c.thread_bytes for s in steps for c in s.calls), default=0)
        return shares * threads + max((s.team_bytes for s in steps), default=0)


def isa_for(target: Target) -> Isa:
    """What schedules write for: vectors and registers of this machine's processor, which CPU devices are."""
    own = cpu_isa_for(Target("cpu"))
    return Isa(f"opencl{own.vector_bytes}", own.vector_bytes, own.registers, (), ("f16c",))


def generate(program: Program, isa: Isa, threads: int, decide: Decide) -> OpenclCode:
    """Lower, cut and print all kernels of a program; nothing is compiled yet."""
    maker = _Maker(Kernels(program, isa, threads, decide, _written, "opencl"))
    for step in flatten(program.steps):
        if isinstance(step, KernelStep):
            maker.add(step)
    return OpenclCode(maker.steps, maker.kernels.packed, maker.files(), isa)


# One kernel


def _written(kernel: Kernel) -> KernelText:
    plan = plan_launches(kernel)
    emitter = Emitter(Prelude(OPENCL))
    buffers = [*kernel.params, *plan.team]
    names = [f"{KERNEL}_{k}" for k in range(len(plan.launches))]
    heads = [
        emitter.launch(name, launch, kernel.inputs, buffers) for name, launch in zip(names, plan.launches, strict=True)
    ]
    calls = [
        _call(plan, names[k], plan.launches[k], heads[k], dict(zip(plan.launches[k].variables, values, strict=True)))
        for k, values in plan.calls
    ]
    text = "\n".join(head.text for head in heads)
    thread_bytes = max((head.thread_bytes for head in heads), default=0)
    return KernelText(text, emitter.prelude.definitions, thread_bytes, plan.team_bytes, (), calls)


def _call(plan: Plan, name: str, launch: Launch, head: LaunchHead, values: dict[IndexVar, int]) -> list[Any]:
    """A call as plain data: a tensor is meant by its position among the kernel's parameters."""
    arguments = [_argument(plan, buffer) for buffer in head.buffers]
    if head.thread_bytes:
        arguments.append(["own", 0, 0])
    arguments += [["number", values[v], 0] for v in head.variables]
    return [name, arguments, launch.items, launch.shared, head.thread_bytes]


def _argument(plan: Plan, buffer: Buffer) -> list[Any]:
    if buffer in plan.team:
        after = [o for o in plan.team.values() if o > plan.team[buffer]]
        return ["team", plan.team[buffer], min(after, default=plan.team_bytes) - plan.team[buffer]]
    return ["tensor", plan.kernel.params.index(buffer), 0]


# All kernels


@define
class _Maker:
    kernels: Kernels
    steps: dict[int, OpenclStep] = field(factory=dict)
    names: dict[str, str] = field(factory=dict)
    units: Units = field(factory=lambda: Units(OPENCL))

    def add(self, step: KernelStep) -> None:
        made = self.kernels.of(step)
        written = made.written
        if written.text not in self.names:  # different groups may come to one text
            self.names[written.text] = step.name
            self.units.add(written.text.replace(KERNEL, step.name), written.definitions)
        inputs = self.kernels.inputs(step, made)
        slots = (*inputs, *step.outputs)
        name = self.names[written.text]
        calls = tuple(self._call(call, name, slots) for call in written.calls)
        self.steps[id(step)] = OpenclStep(
            step, made.loop_ir(step), made.source(step), name, made.implementation, made.candidates, inputs, calls,
            written.team_bytes,
        )  # fmt: skip

    def _call(self, call: Sequence[Any], name: str, slots: Sequence[int]) -> Call:
        kernel, arguments, items, shared, thread_bytes = call
        bound = [Argument(kind, slots[value] if kind == "tensor" else value, n) for kind, value, n in arguments]
        return Call(kernel.replace(KERNEL, name), tuple(bound), items, shared, thread_bytes)

    def files(self) -> list[tuple[str, str]]:
        """The programs."""
        return [
            (f"kernels{k}", "\n".join([OPENCL.headers, prelude.text(texts), *texts]))
            for k, (prelude, texts) in enumerate(self.units.files(ONE_PROGRAM))
            if texts
        ]
