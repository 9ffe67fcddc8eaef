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
from ..cpuinfo import Isa, usable_cores
from ..explain import Report
from ..launched.code import LaunchCode, LaunchStep
from ..launched.engine import LaunchEngine
from ..memory import Arena
from ..opencl.devices import all_devices, pyopencl
from ..opencl.queue import opencl_queue
from ..opencl.runtime import session, told
from ..program import KernelStep, Program
from ..runnable import Runnable

Array = npt.NDArray[Any]


@frozen(eq=False)
class Job:
    """A candidate as it is sent: what an engine needs, and no expressions."""

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
        return Runnable(self.program, code, self.arena, 1, Report("opencl", (), ()))


@frozen(eq=False)
class Compile:
    """A request: compile programs at the same time, so that they are in the cache when their candidates are made."""

    files: list[tuple[str, str]]


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


def job_of(program: Program, code: LaunchCode, arena: Arena, inputs: Mapping[str, Array]) -> Job:
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
    return Job(bare, compiled, code.packed, list(code.files), code.isa, arena, inputs)


def _kernels(program: Program) -> list[KernelStep]:
    return [step for step in program.steps if isinstance(step, KernelStep)]


@define(eq=False)
class Server:
    """The candidates of one device.

    Attributes:
        index: the number of the device.
        sweep: bytes that are read or written before each timed run, so that caches are as a whole network leaves them.
    """

    index: int
    sweep: int
    engines: dict[int, tuple[LaunchEngine, Job]] = field(factory=dict)
    _swept: list[Any] = field(factory=list)

    def answer(self, request: Compile | Make | Time) -> object:
        """Do what is asked.

        Raises:
            FusewireError: it cannot be done; the message names the kernel and the call.
        """
        if isinstance(request, Compile):
            self.compile(request.files)
            return None
        if isinstance(request, Make):
            return self.make(request.number, request.job)
        for number in request.forget:
            self.engines.pop(number, None)
        return self.seconds(*self.engines[request.number])

    def compile(self, files: list[tuple[str, str]]) -> None:
        """Compile programs; what the driver refuses is said when its candidate is made."""

        def one(file: tuple[str, str]) -> None:
            with contextlib.suppress(FusewireError):
                session(self.index).programs([file])

        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(one, files))

    def make(self, number: int, job: Job) -> list[Array]:
        """Compile a candidate, and run it."""
        lib = job.runnable()
        engine = LaunchEngine(lib, opencl_queue(self.index))
        self._give(engine, job)
        for action in engine.compile(lib.program.steps):
            action()
        engine.wait()
        self.engines[number] = engine, job
        return [np.array(engine.read(slot)) for slot in lib.program.outputs]

    def seconds(self, engine: LaunchEngine, job: Job) -> float:
        """Run a candidate once. Its inputs are warm, as a producer leaves them; weights and code are not."""
        self._wipe()
        self._give(engine, job)
        times = opencl_queue(self.index).events(engine.launches(_kernels(engine.lib.program)))
        return max(end for _, end in times) - times[0][0] if times else 0.0

    def _give(self, engine: LaunchEngine, job: Job) -> None:
        for name, slots in job.program.inputs.items():
            engine.write(slots[0], job.inputs[name])

    def _wipe(self) -> None:
        cl, where = pyopencl(), session(self.index)
        half = self.sweep // 2
        with told(f"going over {self.sweep} bytes between runs", where.device):
            if not self._swept:
                self._swept = [cl.Buffer(where.context, cl.mem_flags.READ_WRITE, size=half) for _ in range(2)]
            # A copy, for Intel's CPU runtime fills buffers a hundred times slower.
            cl.enqueue_copy(where.queue, self._swept[0], self._swept[1], byte_count=half)
            where.queue.finish()


def serve(index: int, identity: str, sweep: int) -> Callable[[Compile | Make | Time], object]:
    """Answers requests for the device with this number.

    Raises:
        DeviceError: this process sees another device there.
    """
    if all_devices()[index].identity != identity:
        raise DeviceError(f"device {index} is {all_devices()[index].identity} here, not {identity}")
    return Server(index, sweep).answer
