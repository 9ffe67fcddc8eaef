"""The code of a program for a device that is given launches: each kernel step is a few of them."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy.typing as npt
from attrs import asdict, define, evolve, field, frozen

from ...ir.index import IndexVar
from ...ir.loops import Kernel
from ...ir.scalar import EXCHANGES, Buffer
from ...ir.types import TensorType
from ..code import StepCode
from ..cpuinfo import Isa
from ..csource import Emitter
from ..dialects import Dialect
from ..generate import KERNEL, Decide, Kernels
from ..kernelcache import KernelText
from ..launches import ALIGN, Launch, Plan, plan_launches
from ..launchtext import LaunchHead
from ..prelude import Prelude
from ..program import KernelStep, Program, flatten
from ..units import Units
from .exchange import through_memory
from .narrow import fits_int32

ONE_PROGRAM = 60000
"""Characters of kernels up to which they are one program; more are several, compiled at the same time."""


def open_group(usual: int, isa: Isa) -> int:
    """Work-items in a work-group where a kernel leaves that open, in its source and in launches: as many as is `usual`,
    but no more than the target allows.
    """
    return min(usual, isa.device.max_group) if isa.device else usual


@frozen
class Argument:
    """One argument of a launch: a tensor by its slot, a constant that is an image by its slot, a piece of the step's
    scratch, the scratch of work-items, or a number; `value` is the slot, the offset in bytes, nothing, or the number.
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
        group: work-items in a group; 0: any number will do.
    """

    kernel: str
    arguments: tuple[Argument, ...]
    items: int
    shared: bool
    thread_bytes: int
    group: int = 0


@frozen(eq=False)
class LaunchStep(StepCode):
    """A kernel step with its code."""

    calls: tuple[Call, ...]
    team_bytes: int


@define(eq=False)
class LaunchCode:
    """All generated code of a program; implements `Code`.

    Attributes:
        steps: kernels by step.
        packed: tensors that hold constants in the form that a kernel wants, by slot.
        files: the programs as (name, text).
        isa: what the schedules wrote for.
        language: the kind of the sources, as `get_source` calls it.
        mark: the `fingerprint` of the program and of all this.
    """

    ALIGN: ClassVar[int] = ALIGN
    steps: dict[int, LaunchStep]
    packed: dict[int, npt.NDArray[Any]]
    files: list[tuple[str, str]]
    isa: Isa
    language: str = "opencl"
    mark: str = ""

    def of(self, step: KernelStep) -> LaunchStep:
        """The code of a step."""
        return self.steps[id(step)]

    def read(self, kind: str, step: KernelStep | None = None) -> set[int]:
        """The slots that are arguments of a kind ("tensor" or "image") of a step, or of the whole program."""
        steps = self.steps.values() if step is None else [self.of(step)]
        return {a.value for s in steps for call in s.calls for a in call.arguments if a.kind == kind}

    def workspace(self, threads: int, step: KernelStep | None = None) -> int:
        """Bytes of scratch that a step needs, or the whole program, with `threads` work-items that take shares."""
        steps = self.steps.values() if step is None else [self.of(step)]
        shares = max((c.thread_bytes for s in steps for c in s.calls), default=0)
        return shares * threads + max((s.team_bytes for s in steps), default=0)


def generate_launches(
    program: Program, isa: Isa, threads: int, decide: Decide, dialects: tuple[Dialect, Dialect], kind: str
) -> LaunchCode:
    """Lower, cut and print all kernels of a program; nothing is compiled yet.

    They are printed in the first of `dialects` where 32 bits are enough for all positions, else in the second; `kind`
    is the kind of target, the rest is as for any.
    """
    write = partial(_written, dialects, not isa.gpu)
    maker = _Maker(Kernels(program, isa, threads, decide, write, kind), Units(dialects[0]))
    for step in flatten(program.steps):
        if isinstance(step, KernelStep):
            maker.add(step)
    code = LaunchCode(maker.steps, maker.kernels.packed, maker.files(), isa, dialects[0].name.lower())
    code.mark = fingerprint(program, code)
    return code


def fingerprint(program: Program, code: LaunchCode) -> str:
    """What launches take for granted of the tables that they work on, and the sources, as a hash.

    By it, a program and its code that come from a file are known to belong together.
    """
    kernels = [
        (s.step.name, s.symbol, s.inputs, s.step.outputs, s.team_bytes, [asdict(call) for call in s.calls])
        for s in code.steps.values()
    ]
    forms = [(slot, str(TensorType(array.shape, array.dtype.name))) for slot, array in code.packed.items()]
    facts = [[str(type_) for type_ in program.slots], sorted(program.views.items()), forms, kernels, code.files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# One kernel


def resized(dialect: Dialect, text: KernelText, group: int) -> KernelText:
    """A kernel with `group` work-items in the groups of those launches that leave it open.

    Work-items that take shares stay apart: there are no more of them than can run at once.
    """
    left_open = {call[0]: call[3] for call in text.calls if not call[-1]}  # launches as they stand in the text: shared?
    any_size = dialect.launch["group_size"]
    first, *rest = text.text.split(any_size)
    sizes = [any_size if shared else str(group) for shared in left_open.values()]
    calls = [[*call[:-1], call[-1] or (0 if call[3] else group)] for call in text.calls]
    whole = first + "".join(size + part for size, part in zip(sizes, rest, strict=True))
    return evolve(text, text=whole, calls=calls)


def _written(dialects: tuple[Dialect, Dialect], shares: bool, kernel: Kernel, group: int) -> KernelText:
    exchanges = EXCHANGES.keys() <= dialects[0].functions["float"].keys()
    plan = plan_launches(kernel if exchanges else through_memory(kernel), shares and not group)
    emitter = Emitter(Prelude(dialects[0] if fits_int32(plan) else dialects[1]))
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
    written = KernelText(text, emitter.prelude.definitions, thread_bytes, plan.team_bytes, (), calls)
    return resized(dialects[0], written, group) if group else written


def _call(plan: Plan, name: str, launch: Launch, head: LaunchHead, values: dict[IndexVar, int]) -> list[Any]:
    """A call as plain data: a tensor is meant by its position among the kernel's parameters."""
    arguments = [_argument(plan, buffer) for buffer in head.buffers]
    if head.thread_bytes:
        arguments.append(["own", 0, 0])
    arguments += [["number", values[v], 0] for v in head.variables]
    return [name, arguments, launch.items, launch.shared, head.thread_bytes, launch.group]


def _argument(plan: Plan, buffer: Buffer) -> list[Any]:
    if buffer in plan.team:
        after = [o for o in plan.team.values() if o > plan.team[buffer]]
        return ["team", plan.team[buffer], min(after, default=plan.team_bytes) - plan.team[buffer]]
    return ["image" if buffer.scope == "image" else "tensor", plan.kernel.params.index(buffer), 0]


# All kernels

_SLOTS = ("tensor", "image")
"""Kinds of arguments that are meant by slots."""


@define
class _Maker:
    kernels: Kernels
    units: Units
    steps: dict[int, LaunchStep] = field(factory=dict)
    names: dict[str, str] = field(factory=dict)

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
        self.steps[id(step)] = LaunchStep(
            step, made.loop_ir(step), made.source(step), name, made.implementation, made.candidates, inputs, calls,
            written.team_bytes,
        )  # fmt: skip

    def _call(self, call: Sequence[Any], name: str, slots: Sequence[int]) -> Call:
        kernel, arguments, *sizes = call
        bound = [Argument(kind, slots[value] if kind in _SLOTS else value, n) for kind, value, n in arguments]
        return Call(kernel.replace(KERNEL, name), tuple(bound), *sizes)

    def files(self) -> list[tuple[str, str]]:
        """The programs."""
        return [
            (f"kernels{k}", "\n".join([self._head(), prelude.text(texts), *texts]))
            for k, (prelude, texts) in enumerate(self.units.files(ONE_PROGRAM))
            if any(texts)  # kernels without elements have no text
        ]

    def _head(self) -> str:
        dialect = self.units.dialect
        macro, items = dialect.launch["group_size"], open_group(int(dialect.launch["usual"]), self.kernels.isa)
        return f"{dialect.headers}#ifndef {macro}\n#define {macro} {items}\n#endif\n"
