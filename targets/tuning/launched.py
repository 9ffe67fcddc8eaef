"""Tuning on `opencl`, `cuda` and `rocm`: candidates are lowered here; a process of their own makes and times them.

A kernel that hangs or crashes takes that process down and no more: the candidate is recorded with what happened, and
another process goes on. So it does after an error that leaves the process unusable: on GPUs an access of memory that is
not there breaks all that follows in the same process. Times are those of the device's events.
"""

import contextlib
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence

from attrs import define, field

from ...ir.errors import FusewireError
from ...ir.expr import Function
from ..backends import backend_of, launch_device
from ..implement import Decision
from ..launched.code import LaunchCode, open_group
from ..launched.device import LaunchDevice
from ..runnable import Runnable
from ..schedules.space import GROUP
from ..target import Target
from .bench import LOOPS, Array, MakeBench, factors_of, program_of, random_inputs, sweep_bytes, wrong
from .child import Child
from .search import CannotTune, Option
from .serving import Compile, Job, Make, Time, job_of

SERVING = f"{__package__}.serving"
"""The module whose `serve` runs there."""
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
        files = [file for job in jobs for file in job.files]
        self.child.ask(Compile(files, jobs[0].isa), limit)

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
class LaunchBench:
    """One group on one device; implements `search.Bench`.

    Attributes:
        function: the group.
        constants: its known inputs by position.
        lib: the module that it is a part of.
        kind: of the target.
        device: what they run on.
        options: the candidates.
        worker: where they run.
        limit: seconds that a candidate may take to be made and run.
    """

    function: Function
    constants: Mapping[int, Array]
    lib: Runnable
    kind: str
    device: LaunchDevice
    options: Sequence[Option]
    worker: Worker
    limit: float = 0.0
    _inputs: dict[str, Array] = field(factory=dict)
    _reference: list[Array] = field(factory=list)
    _items: dict[str, int] = field(factory=dict)

    def make(self, options: Sequence[Option]) -> list["LaunchTrial | str"]:
        """Candidates, each compared with the generic loops on the same device.

        Raises:
            CannotTune: the generic loops do not run.
        """
        if not self._reference:
            self._inputs.update(random_inputs(self.function, self.constants))
            name = f"{LOOPS}.{self.kind}"
            try:
                number, self._reference = self.worker.make(self.job(Option(name, {})), REFERENCE_LIMIT)
            except FusewireError as error:
                raise CannotTune(f"{name}, which others are compared with: {error}") from error
            self.worker.forgotten.append(number)
        jobs = [self.job(option) for option in options]
        if len(jobs) > 1:
            with contextlib.suppress(FusewireError):  # one by one it shows which was to blame
                self.worker.compile(jobs, self.limit * len(jobs))
        return [self._checked(job) for job in jobs]

    def resized(self, option: Option) -> Sequence[Option]:
        """A candidate with other numbers of work-items in a work-group."""
        sizes, isa = self.device.sizes(self._items.get(_name(option), 0)), self.lib.code.isa
        own = open_group(self.device.local, isa)
        sizes = [size for size in sizes if size != own and isa.takes_groups(size)]
        return [Option(option.implementation, {**option.config, GROUP: size}, option.predicted) for size in sizes]

    def job(self, option: Option) -> Job:
        """A candidate, lowered and printed."""
        program = program_of(self.function, self.constants)
        decision = Decision(option.implementation, option.config)
        backend = backend_of(self.kind)
        code = backend.generate(program, self.lib.code.isa, self.lib.threads, lambda problem, function: decision)
        assert isinstance(code, LaunchCode)
        self._items[_name(option)] = self._open_items(code)
        return job_of(self.kind, program, code, backend.plan(program, code), self._inputs)

    def _open_items(self, code: LaunchCode) -> int:
        """Iterations of the largest launch whose work-groups may have any size; 0: there is none."""
        calls = [call for step in code.steps.values() for call in step.calls if not (call.group or call.thread_bytes)]
        return max((call.items for call in calls), default=0)

    def _checked(self, job: Job) -> "LaunchTrial | str":
        start = time.monotonic()
        try:
            number, results = self.worker.make(job, self.limit or REFERENCE_LIMIT)
        except FusewireError as error:
            return str(error)
        self.limit = self.limit or max(LEAST_LIMIT, TIMES_FIRST * (time.monotonic() - start))
        trial = LaunchTrial(self, job)
        trial.became(number)
        return wrong(results, self._reference, factors_of(job.program)) or trial


def _name(option: Option) -> str:
    return f"{option.implementation} {sorted(option.config.items())}"


@define(eq=False)
class LaunchTrial:
    """A candidate in the other process; implements `search.Trial`."""

    bench: LaunchBench
    job: Job
    number: int = 0
    process: int = 0
    """The number of the process that knows it."""
    _forget: "weakref.finalize[..., LaunchTrial] | None" = None

    def became(self, number: int) -> None:
        """It is known by a number in the process that is there now, until nobody has it here."""
        worker = self.bench.worker
        if self._forget is not None:
            self._forget.detach()  # from its number in a process that is gone
        self._forget = weakref.finalize(self, worker.forgotten.append, number)
        self.number, self.process = number, worker.child.ended

    def seconds(self) -> float:
        """Time one run there; where another candidate took the process down, this one is made again first.

        Raises:
            FusewireError: it failed, hung or crashed.
        """
        worker, limit = self.bench.worker, self.bench.limit
        if self.process != worker.child.ended:
            number, _ = worker.make(self.job, limit)
            self.became(number)
        return worker.seconds(self.number, limit)


@contextlib.contextmanager
def launch_benches(lib: Runnable, target: Target) -> Iterator[MakeBench]:
    """Benches for the groups of a module, on the device that its target means; the process ends with them."""
    kind, device = target.kind, launch_device(target)
    child = Child(SERVING, (f"{kind} -device={device.index}", device.identity, sweep_bytes(lib.program)))
    worker = Worker(child)
    with contextlib.closing(child):
        yield lambda function, constants, options: LaunchBench(function, constants, lib, kind, device, options, worker)
