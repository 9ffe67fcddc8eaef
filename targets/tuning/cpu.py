"""Tuning on `cpu`: a group as a small program of its own, with the real weights and random inputs."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from ...ir.errors import CompileError
from ...ir.expr import Function
from ..cpu import CpuCode, generate
from ..cpuinfo import Isa, usable_cores
from ..device import Device
from ..executor import GraphModule
from ..explain import Report
from ..implement import Decision
from ..memory import plan
from ..program import Program
from ..runnable import Factory, Runnable
from ..target import Target
from .bench import LOOPS, Array, MakeBench, factors_of, program_of, random_inputs, sweep_bytes, wrong
from .search import Option


@frozen(eq=False)
class CpuBench:
    """One group on this machine; implements `search.Bench`.

    Attributes:
        function: the group.
        constants: its known inputs by position.
        isa, threads: what it is compiled for, and how many threads run it.
        sweep: memory that is read before each run, so that caches are as a whole network leaves them.
        options: the candidates.
    """

    function: Function
    constants: Mapping[int, Array]
    isa: Isa
    threads: int
    sweep: npt.NDArray[np.float32]
    options: Sequence[Option]
    _inputs: dict[str, Array] = field(factory=dict)
    _reference: list[Array] = field(factory=list)

    def make(self, options: Sequence[Option]) -> list["CpuTrial | str"]:
        """Compile candidates, as many at a time as there are cores, and compare each with the generic loops."""
        if not self._reference:
            self._inputs.update(random_inputs(self.function, self.constants))
            self._reference.extend(self._trial(Option(f"{LOOPS}.cpu", {})).outputs())
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(self._checked, options))

    def resized(self, option: Option) -> Sequence[Option]:
        """Nothing: threads take what there is."""
        return ()

    def _checked(self, option: Option) -> "CpuTrial | str":
        try:
            trial = self._trial(option)
        except CompileError as error:
            return f"the C compiler failed: {error}"
        return trial.difference(self._reference) or trial

    def _trial(self, option: Option) -> "CpuTrial":
        program = program_of(self.function, self.constants)
        decision = Decision(option.implementation, option.config)
        code = generate(program, self.isa, self.threads, lambda problem, function: decision)
        code.load()
        return CpuTrial.start(program, code, self.threads, self._inputs, self.sweep)


@contextlib.contextmanager
def cpu_benches(lib: Runnable, target: Target) -> Iterator[MakeBench]:
    """Benches for the groups of a module."""
    sweep = np.ones(sweep_bytes(lib.program) // 4, np.float32)
    yield lambda function, constants, options: CpuBench(function, constants, lib.code.isa, lib.threads, sweep, options)


@frozen(eq=False)
class CpuTrial:
    """A compiled candidate with memory of its own; implements `search.Trial`."""

    module: GraphModule
    inputs: Mapping[str, Array]
    sweep: npt.NDArray[np.float32]
    factors: tuple[str, ...] = ()
    """The types of weights of 16 bits."""

    @staticmethod
    def start(
        program: Program, code: CpuCode, threads: int, inputs: Mapping[str, Array], sweep: npt.NDArray[np.float32]
    ) -> "CpuTrial":
        """Give a candidate memory."""
        runnable = Runnable(program, code, plan(program), threads, Report("cpu", (), ()))
        return CpuTrial(GraphModule(Factory(runnable, Device("cpu"))), inputs, sweep, factors_of(program))

    def outputs(self) -> list[Array]:
        """The results for the bench's inputs."""
        self.module.run(**self.inputs)
        return [self.module.get_output(k).numpy().copy() for k in range(self.module.get_num_outputs())]

    def difference(self, reference: Sequence[Array]) -> str | None:
        """What is wrong with the results, or None."""
        return wrong(self.outputs(), reference, self.factors)

    def seconds(self) -> float:
        """Time one run. The inputs are warm, as a producer leaves them; weights and code are not."""
        self.sweep.max()
        for name, value in self.inputs.items():
            self.module.set_input(name, value)
        start = time.perf_counter()
        self.module.run()
        return time.perf_counter() - start
