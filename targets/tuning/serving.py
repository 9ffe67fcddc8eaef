"""Candidates of a launch target at work, in a process of their own: made, run once for their results, then timed."""

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field, frozen

from ...ir.deferred import Deferred
from ...ir.errors import DeviceError, FusewireError
from ...ir.expr import Function
from ..backends import GPU_KINDS, backend_of, launch_device
from ..cpuinfo import Isa, usable_cores
from ..device import Device
from ..explain import Report
from ..launched.code import LaunchCode, LaunchStep, open_group
from ..launched.device import LaunchDevice, Memory, Timer
from ..launched.engine import LaunchEngine
from ..launched.gpu import arch_of
from ..memory import Arena
from ..program import KernelStep, Program
from ..runnable import Runnable
from ..target import Target
from .child import Unusable

Array = npt.NDArray[Any]

LEAD, COPIES = 128 << 20, 4
"""Bytes that a GPU goes over at least, and how often, before each timed run. It is busy with them for longer than the
host needs to put the launches behind them into the stream; else the time between two events would be the host's."""


@frozen(eq=False)
class Job:
    """A candidate as it is sent: what an engine needs, and no expressions."""

    kind: str
    program: Program
    steps: tuple[LaunchStep, ...]
    packed: dict[int, Array]
    files: list[tuple[str, str]]
    isa: Isa
    arena: Arena
    inputs: Mapping[str, Array]

    def runnable(self) -> Runnable:
        """What an engine runs."""
        code = LaunchCode({id(step.step): step for step in self.steps}, self.packed, self.files, self.isa)
        return Runnable(self.program, code, self.arena, 1, Report(self.kind, (), ()))


@frozen(eq=False)
class Compile:
    """A request: compile programs at the same time, so that they are in the cache when their candidates are made."""

    files: list[tuple[str, str]]
    isa: Isa


@frozen(eq=False)
class Make:
    """A request: make a candidate and run it; the answer is its results."""

    number: int
    job: Job


@frozen(eq=False)
class Time:
    """A request: run a candidate; the answer is the seconds from the start of its first launch to the end of its last.

    Attributes:
        number: which candidate.
        forget: candidates that are no longer needed.
    """

    number: int
    forget: tuple[int, ...] = ()


def _left_behind() -> Function:
    raise FusewireError("expressions stay with the process that made the kernels")


def job_of(kind: str, program: Program, code: LaunchCode, arena: Arena, inputs: Mapping[str, Array]) -> Job:
    """A candidate for another process. Weights that only its packed forms stand for stay here."""
    steps = {id(step): evolve(step, function=Deferred(_left_behind)) for step in _kernels(program)}
    compiled = tuple(
        evolve(code.of(step), step=steps[id(step)], loop_ir="", source="", candidates=()) for step in _kernels(program)
    )
    used = {slot for step in compiled for slot in step.inputs} | {getattr(s, "source", -1) for s in program.steps}
    bare = evolve(
        program,
        constants={slot: array for slot, array in program.constants.items() if slot in used},
        steps=tuple(steps.get(id(step), step) for step in program.steps),
        function=Deferred(_left_behind),
    )
    return Job(kind, bare, compiled, code.packed, list(code.files), code.isa, arena, inputs)


def _kernels(program: Program) -> list[KernelStep]:
    return [step for step in program.steps if isinstance(step, KernelStep)]


@frozen(eq=False)
class Candidate:
    """A candidate that was made.

    Attributes:
        engine: has its memory.
        timer: times its launches.
        inputs: the inputs by their slots, in memory of the device; they are copied from there.
    """

    engine: LaunchEngine
    timer: Timer
    inputs: Mapping[int, Memory]


def give(engine: LaunchEngine, inputs: Mapping[int, Memory]) -> None:
    """Copy inputs to where they are read."""
    for slot, memory in inputs.items():
        if nbytes := engine.lib.program.slots[slot].nbytes:
            engine.fill(slot, memory.at(0, nbytes))


@define(eq=False)
class Server:
    """The candidates of one device.

    Attributes:
        kind: of the target.
        device: what runs them.
        sweep: bytes that are read or written before each timed run, so that caches are as a whole network leaves them.
    """

    kind: str
    device: LaunchDevice
    sweep: int
    candidates: dict[int, Candidate] = field(factory=dict)
    _swept: list[Memory] = field(factory=list)

    def answer(self, request: Compile | Make | Time) -> object:
        """Do what is asked.

        Raises:
            Unusable: it cannot be done, and nothing else can from now on.
            FusewireError: it cannot be done; the message names the kernel and the call.
        """
        try:
            if isinstance(request, Compile):
                self.compile(request.files, request.isa)
                return None
            if isinstance(request, Make):
                return self.make(request.number, request.job)
            for number in request.forget:
                self.candidates.pop(number, None)
            return self.seconds(self.candidates[request.number])
        except DeviceError as error:
            if self.broken():
                raise Unusable(str(error)) from error
            raise

    def broken(self) -> bool:
        """Whether the last error stays: on CUDA all calls fail after an access of memory that is not there."""
        try:
            self.device.wait()
        except DeviceError:
            return True
        return False

    def compile(self, files: list[tuple[str, str]], isa: Isa) -> None:
        """Compile programs; what the driver refuses is said when its candidate is made."""

        def one(file: tuple[str, str]) -> None:
            with contextlib.suppress(FusewireError):
                self.device.load([file], self.device.arch_for(arch_of(isa)), open_group(self.device.local, isa))

        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(one, files))

    def make(self, number: int, job: Job) -> list[Array]:
        """Compile a candidate, and run it."""
        lib = job.runnable()
        engine = backend_of(self.kind).engine(lib, Device(self.kind, self.device.index))
        assert isinstance(engine, LaunchEngine)
        inputs = {slots[0]: self._kept(job.inputs[name]) for name, slots in lib.program.inputs.items()}
        give(engine, inputs)
        for action in engine.compile(lib.program.steps):
            action()
        engine.wait()
        results = [np.array(engine.read(slot)) for slot in lib.program.outputs]
        timer = self.device.timer(engine.launches(_kernels(lib.program)))
        self.candidates[number] = Candidate(engine, timer, inputs)
        return results

    def _kept(self, array: Array) -> Memory:
        memory = self.device.allocate(array.nbytes, "an input")
        if array.nbytes:
            self.device.write(memory.at(0, array.nbytes), array)
        return memory

    def seconds(self, candidate: Candidate) -> float:
        """Run a candidate once. Its inputs are warm, as a producer leaves them; weights and code are not."""

        def before() -> None:
            self._wipe()
            give(candidate.engine, candidate.inputs)

        return candidate.timer(before)

    def _wipe(self) -> None:
        gpu = self.kind in GPU_KINDS
        half = (max(self.sweep, LEAD) if gpu else self.sweep) // 2
        if not self._swept:
            for _ in range(2):
                self._swept.append(self._kept(np.zeros(half, np.uint8)))
        one, other = (memory.at(0, half) for memory in self._swept)
        for _ in range(COPIES if gpu else 1):
            # A copy, for Intel's CPU runtime fills buffers a hundred times slower.
            self.device.copy(one, other, half)
        if not gpu:
            self.device.wait()


def serve(target: str, identity: str, sweep: int) -> Callable[[Compile | Make | Time], object]:
    """Answers requests for the device that a target means.

    Raises:
        DeviceError: this process sees another device there.
    """
    where = Target(target)
    device = launch_device(where)
    if device.identity != identity:
        raise DeviceError(f"{target} is {device.identity} here, not {identity}")
    return Server(where.kind, device, sweep).answer
