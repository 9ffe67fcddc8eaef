"""Tuning on `opencl`: candidates are lowered here, and made, verified and timed in a process of their own.

A kernel that hangs or crashes takes that process down and no more: the candidate is recorded with what happened, and
another process goes on. Times are those of the device's events.
"""

import contextlib
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence

from attrs import define, field

from ...ir.errors import FusewireError
from ...ir.expr import Function
from ..implement import Decision
from ..launched.code import LaunchCode
from ..memory import plan
from ..opencl.devices import all_devices
from ..opencl.kernels import generate
from ..opencl.runtime import session
from ..runnable import Runnable
from ..schedules.space import GROUP
from .bench import LOOPS, Array, MakeBench, factors_of, program_of, random_inputs, sweep_bytes, wrong
from .child import Child
from .search import Option
from .serving import Compile, Job, Make, Time, job_of

REFERENCE_LIMIT = 300.0
"""Seconds that the plain loops may take."""
LEAST_LIMIT, TIMES_FIRST = 10.0, 20.0
"""A candidate may take that many seconds, or that many times as long as the first one of its group, to be made."""


@define(eq=False)
class Worker:
    """The process that candidates run in, and their numbers there."""

    child: Child
    count: int = 0
    forgotten: list[int] = field(factory=list)
    """Candidates that nobody here knows any longer."""

    def compile(self, jobs: Sequence[Job], limit: float) -> None:
        """Compile candidates there, several at a time."""
        self.child.ask(Compile([file for job in jobs for file in job.files]), limit)

    def make(self, job: Job, limit: float) -> tuple[int, list[Array]]:
        """Make a candidate there: its number and its results."""
        self.count += 1
        return self.count, self.child.ask(Make(self.count, job), limit)

    def seconds(self, number: int, limit: float) -> float:
        """Time a candidate there."""
        forget = tuple(self.forgotten)
        self.forgotten.clear()
        return float(self.child.ask(Time(number, forget), limit))


@define(eq=False)
class OpenclBench:
    """One group on one device; implements `search.Bench`.

    Attributes:
        function: the group.
        constants: its known inputs by position.
        lib: the module that it is a part of.
        index: the number of the device.
        options: the candidates.
        worker: where they run.
        limit: seconds that a candidate may take to be made and run.
    """

    function: Function
    constants: Mapping[int, Array]
    lib: Runnable
    index: int
    options: Sequence[Option]
    worker: Worker
    limit: float = 0.0
    _inputs: dict[str, Array] = field(factory=dict)
    _reference: list[Array] = field(factory=list)
    _items: dict[str, int] = field(factory=dict)

    def make(self, options: Sequence[Option]) -> list["OpenclTrial | str"]:
        """Candidates, each compared with the generic loops on the same device.

        Raises:
            FusewireError: the generic loops do not run.
        """
        if not self._reference:
            self._inputs.update(random_inputs(self.function, self.constants))
            job = self.job(Option(f"{LOOPS}.opencl", {}))
            _, self._reference = self.worker.make(job, REFERENCE_LIMIT)
        jobs = [self.job(option) for option in options]
        if len(jobs) > 1:
            with contextlib.suppress(FusewireError):  # one by one it shows which was to blame
                self.worker.compile(jobs, self.limit * len(jobs))
        return [self._checked(job) for job in jobs]

    def resized(self, option: Option) -> Sequence[Option]:
        """A candidate with other numbers of work-items in a work-group."""
        sizes = session(self.index).sizes(self._items.get(_name(option), 0))
        return [Option(option.implementation, {**option.config, GROUP: size}, option.predicted) for size in sizes]

    def job(self, option: Option) -> Job:
        """A candidate, lowered and printed."""
        program = program_of(self.function, self.constants)
        decision = Decision(option.implementation, option.config)
        code = generate(program, self.lib.code.isa, self.lib.threads, lambda problem, function: decision)
        self._items[_name(option)] = self._open_items(code)
        return job_of(program, code, plan(program, align=LaunchCode.ALIGN), self._inputs)

    def _open_items(self, code: LaunchCode) -> int:
        """Iterations of the largest launch whose work-groups may have any size; 0: there is none."""
        calls = [call for step in code.steps.values() for call in step.calls if not (call.group or call.thread_bytes)]
        return max((call.items for call in calls), default=0)

    def _checked(self, job: Job) -> "OpenclTrial | str":
        start = time.monotonic()
        try:
            number, results = self.worker.make(job, self.limit or REFERENCE_LIMIT)
        except FusewireError as error:
            return str(error)
        self.limit = self.limit or max(LEAST_LIMIT, TIMES_FIRST * (time.monotonic() - start))
        trial = OpenclTrial(self, job, number, self.worker.child.ended)
        weakref.finalize(trial, self.worker.forgotten.append, number)
        return wrong(results, self._reference, factors_of(job.program)) or trial


def _name(option: Option) -> str:
    return f"{option.implementation} {sorted(option.config.items())}"


@define(eq=False)
class OpenclTrial:
    """A candidate in the other process; implements `search.Trial`."""

    bench: OpenclBench
    job: Job
    number: int
    process: int
    """The number of the process that knows it."""

    def seconds(self) -> float:
        """Time one run there; where another candidate took the process down, this one is made again first.

        Raises:
            FusewireError: it failed, hung or crashed.
        """
        worker, limit = self.bench.worker, self.bench.limit
        if self.process != worker.child.ended:
            self.number, _ = worker.make(self.job, limit)
            self.process = worker.child.ended
        return worker.seconds(self.number, limit)


@contextlib.contextmanager
def opencl_benches(lib: Runnable, number: int) -> Iterator[MakeBench]:
    """Benches for the groups of a module, on the device with this number; the process ends with them."""
    identity = all_devices()[number].identity
    child = Child(f"{__package__}.serving", (number, identity, sweep_bytes(lib.program)))
    worker = Worker(child)
    with contextlib.closing(child):
        yield lambda function, constants, options: OpenclBench(function, constants, lib, number, options, worker)
