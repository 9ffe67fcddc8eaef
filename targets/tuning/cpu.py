"""Tuning on `cpu`: a group as a small program of its own, with the real weights and random inputs."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from ...ir.errors import CompileError
from ...ir.expr import Call, Constant, Function, Var
from ...ir.scalar import SMALL_FLOATS
from ...ir.types import TensorType, TupleType, Type, numpy_dtype
from ..cpu import CpuCode, generate
from ..cpuinfo import Isa, usable_cores
from ..device import Device
from ..executor import GraphModule
from ..explain import Report
from ..implement import Decision, choose, entries
from ..lower import Problem, make_problem
from ..memory import plan
from ..program import KernelStep, Program, make_program
from ..runnable import Factory, Runnable
from .search import Option

Array = npt.NDArray[Any]

MEMORY_SWEEP = 64 << 20
"""Bytes read between runs at most: what a whole network touches before it comes to the same weights again."""
NEAR_SWEEP = 4 << 20
"""Bytes read between runs at least: what pushes a kernel's tensors out of a core's own caches."""

TOLERANCE = {"float64": 1e-11, "float32": 2e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference to the reference, relative to the reference's largest value, by the dtype of a result or of
what it is computed from: schedules may round weights of 16 bits once more (Winograd's does)."""


def constants_of(program: Program, step: KernelStep) -> dict[int, Array]:
    """The inputs of a step that are known, by position."""
    return {k: program.constants[s] for k, s in enumerate(step.inputs) if s in program.constants}


@frozen(eq=False)
class CpuBench:
    """One group on this machine; implements `search.Bench`.

    Attributes:
        function: the group.
        constants: its known inputs by position.
        isa, threads: what it is compiled for, and how many threads run it.
        sweep: memory that is read before each run, so that caches are as a whole network leaves them.
    """

    function: Function
    constants: Mapping[int, Array]
    isa: Isa
    threads: int
    sweep: npt.NDArray[np.float32]
    options: Sequence[Option]
    _inputs: dict[str, Array] = field(factory=dict)
    _reference: list[Array] = field(factory=list)

    @staticmethod
    def of(
        function: Function, constants: Mapping[int, Array], isa: Isa, threads: int, sweep: npt.NDArray[np.float32]
    ) -> "CpuBench":
        """The bench of a group, with all its candidates."""
        problem = make_problem(function, "KERNEL", isa, threads, tuple(constants))
        return CpuBench(function, constants, isa, threads, sweep, options_of(problem))

    def make(self, options: Sequence[Option]) -> list["CpuTrial | str"]:
        """Compile candidates, as many at a time as there are cores, and compare each with the generic loops."""
        if not self._reference:
            self._inputs.update(self._random())
            self._reference.extend(self._trial(Option("loops.cpu", {})).outputs())
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(self._checked, options))

    def _checked(self, option: Option) -> "CpuTrial | str":
        try:
            trial = self._trial(option)
        except CompileError as error:
            return f"the C compiler failed: {error}"
        return trial.difference(self._reference) or trial

    def _trial(self, option: Option) -> "CpuTrial":
        arguments = [
            Constant(self.constants[k]) if k in self.constants else Var(f"x{k}", p.checked_type)
            for k, p in enumerate(self.function.params)
        ]
        call = Call(self.function, arguments)
        main = Function([a for a in arguments if isinstance(a, Var)], call, call.checked_type)
        program = make_program(main, "tune")
        decision = Decision(option.implementation, option.config)
        code = generate(program, self.isa, self.threads, lambda problem, function: decision)
        code.load()
        return CpuTrial.start(program, code, self.threads, self._inputs, self.sweep)

    def _random(self) -> dict[str, Array]:
        rng = np.random.default_rng(0)
        found: dict[str, Array] = {}
        for k, param in enumerate(self.function.params):
            type_ = param.checked_type
            if k not in self.constants and isinstance(type_, TensorType):
                found[f"x{k}"] = fill(rng, type_)
        return found


def fill(rng: np.random.Generator, type_: TensorType) -> Array:
    """Random contents of a type: normal numbers; whole numbers are 0 or 1."""
    dtype = numpy_dtype(type_.dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, type_.static_shape).astype(dtype)
    return rng.standard_normal(type_.static_shape, np.float32).astype(dtype)


def fill_inputs(program: Program) -> dict[str, Any]:
    """Random inputs for a whole network, the same each time; whole numbers are 0 or 1."""
    rng = np.random.default_rng(0)

    def value(type_: Type) -> Any:
        if isinstance(type_, TupleType):
            return [value(t) for t in type_.fields]
        assert isinstance(type_, TensorType)
        return fill(rng, type_)

    return {name: value(type_) for name, type_ in program.types.items()}


def tunable(function: Function, problem: Problem) -> bool:
    """Whether there is anything to choose for a group."""
    tensors = all(isinstance(param.checked_type, TensorType) for param in function.params)
    return tensors and problem.anchor is not None and len(options_of(problem)) > 1


def options_of(problem: Problem) -> list[Option]:
    """All candidates of a group, what runs without tuning first. The generic loops stand in only where nothing else
    fits: they are the reference.
    """
    chosen, candidates = choose(problem)
    options = [Option(chosen.entry.name, chosen.config)]
    refused = {c.name for c in candidates if c.refusal}
    for entry in entries(problem):
        if entry.name in refused or entry.priority < chosen.entry.priority:
            continue
        for config in entry.configs(problem):
            predicted = entry.predict(problem, config) if entry.predict else 0.0
            if (entry.name, config) != (chosen.entry.name, chosen.config):
                options.append(Option(entry.name, config, predicted))
    return options


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
        small = {array.dtype.name for array in program.constants.values()} & {*SMALL_FLOATS}
        return CpuTrial(GraphModule(Factory(runnable, Device("cpu"))), inputs, sweep, tuple(small))

    def outputs(self) -> list[Array]:
        """The results for the bench's inputs."""
        self.module.run(**self.inputs)
        return [self.module.get_output(k).numpy().copy() for k in range(self.module.get_num_outputs())]

    def difference(self, reference: Sequence[Array]) -> str | None:
        """What is wrong with the results, or None."""
        for k, (got, expected) in enumerate(zip(self.outputs(), reference, strict=True)):
            if problem := mismatch(got, expected, self.factors):
                return f"result {k} is wrong: {problem}"
        return None

    def seconds(self) -> float:
        """Time one run. The inputs are warm, as a producer leaves them; weights and code are not."""
        self.sweep.max()
        for name, value in self.inputs.items():
            self.module.set_input(name, value)
        start = time.perf_counter()
        self.module.run()
        return time.perf_counter() - start


def mismatch(got: Array, expected: Array, factors: Iterable[str] = ()) -> str | None:
    """How a result differs from the reference by more than the tolerance of its dtype, or of `factors`, or None."""
    if got.dtype.name not in TOLERANCE:
        wrong = int(np.count_nonzero(got != expected))
        return f"{wrong} of {got.size} elements differ" if wrong else None
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "infinities or NaN stand elsewhere"
    finite = np.isfinite(b)
    scale = float(np.max(np.abs(b[finite]), initial=0.0)) or 1.0
    error = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / scale
    limit = max(TOLERANCE.get(dtype, 0.0) for dtype in (got.dtype.name, *factors))
    return f"off by {error:.2g} of the largest value; {limit:.0e} is allowed" if error > limit else None


def sweep_for(program: Program) -> npt.NDArray[np.float32]:
    """Memory to read between runs, as large as the network's weights are."""
    nbytes = sum(array.nbytes for array in program.constants.values())
    return np.ones(min(max(nbytes, NEAR_SWEEP), MEMORY_SWEEP) // 4, np.float32)
