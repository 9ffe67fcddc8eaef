"""What benches of all targets share: a group as a program of its own, random inputs, the reference, the candidates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir.expr import Call, Constant, Function, Var
from ...ir.scalar import SMALL_FLOATS
from ...ir.types import TensorType, TupleType, Type, numpy_dtype
from ..implement import choose, entries, named, stem
from ..lower import Problem
from ..program import KernelStep, Program, make_program
from ..runnable import Runnable
from ..target import Target
from .search import Bench, Option

Array = npt.NDArray[Any]

MakeBench = Callable[[Function, Mapping[int, Array], Sequence[Option]], Bench]
"""The bench of a group: from the function, its known inputs by position, and its candidates."""

Benches = Callable[[Runnable, Target], AbstractContextManager[MakeBench]]
"""Benches for the groups of a module, on the device that its target means."""

MEMORY_SWEEP = 64 << 20
"""Bytes read between runs at most: what a whole network touches before it comes to the same weights again."""
NEAR_SWEEP = 4 << 20
"""Bytes read between runs at least: what pushes a kernel's tensors out of a core's own caches."""

TOLERANCE = {"float64": 1e-11, "float32": 2e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference to the reference, relative to the reference's largest value, by the dtype of a result or of
what it is computed from: schedules may round weights of 16 bits once more (Winograd's does)."""

LOOPS = "loops"
"""The implementation that is the reference."""


def constants_of(program: Program, step: KernelStep) -> dict[int, Array]:
    """The inputs of a step that are known, by position."""
    return {k: program.constants[s] for k, s in enumerate(step.inputs) if s in program.constants}


def program_of(function: Function, constants: Mapping[int, Array]) -> Program:
    """A group as a program with one step; its inputs are called x0, x1, ... by their positions."""
    arguments = [
        Constant(constants[k]) if k in constants else Var(f"x{k}", p.checked_type)
        for k, p in enumerate(function.params)
    ]
    call = Call(function, arguments)
    return make_program(Function([a for a in arguments if isinstance(a, Var)], call, call.checked_type), "tune")


def random_inputs(function: Function, constants: Mapping[int, Array]) -> dict[str, Array]:
    """Inputs for such a program, the same each time."""
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for k, param in enumerate(function.params):
        type_ = param.checked_type
        if k not in constants and isinstance(type_, TensorType):
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


def tunable(function: Function) -> bool:
    """Whether a group can be tried by itself."""
    return all(isinstance(param.checked_type, TensorType) for param in function.params)


def options_of(problem: Problem, kind: str = "cpu", every: bool = False) -> list[Option]:
    """All candidates of a group, what runs without tuning first. The generic loops stand in only where nothing else
    fits: they are the reference.

    Args:
        problem: the group.
        kind: the kind of target.
        every: also what has a lower priority than what runs without tuning.
    """
    chosen, candidates = choose(problem)
    first = Option(named(chosen.entry.name, kind), chosen.config)
    options = [first]
    refused = {c.name for c in candidates if c.refusal}
    for entry in entries(problem):
        behind = stem(entry.name) == LOOPS if every else entry.priority < chosen.entry.priority
        if entry.name in refused or (behind and entry is not chosen.entry):
            continue
        for config in entry.configs(problem):
            predicted = entry.predict(problem, config) if entry.predict else 0.0
            option = Option(named(entry.name, kind), config, predicted)
            if (option.implementation, config) != (first.implementation, first.config):
                options.append(option)
    return options


def factors_of(program: Program) -> tuple[str, ...]:
    """The types of weights of 16 bits."""
    return tuple(sorted({array.dtype.name for array in program.constants.values()} & {*SMALL_FLOATS}))


def wrong(got: Sequence[Array], reference: Sequence[Array], factors: Iterable[str]) -> str | None:
    """What is wrong with results, or None."""
    for k, (one, expected) in enumerate(zip(got, reference, strict=True)):
        if problem := mismatch(one, expected, factors):
            return f"result {k} is wrong: {problem}"
    return None


def mismatch(got: Array, expected: Array, factors: Iterable[str] = ()) -> str | None:
    """How a result differs from the reference by more than the tolerance of its dtype, or of `factors`, or None."""
    if got.dtype.name not in TOLERANCE:
        differing = int(np.count_nonzero(got != expected))
        return f"{differing} of {got.size} elements differ" if differing else None
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "infinities or NaN stand elsewhere"
    finite = np.isfinite(b)
    scale = float(np.max(np.abs(b[finite]), initial=0.0)) or 1.0
    error = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / scale
    limit = max(TOLERANCE.get(dtype, 0.0) for dtype in (got.dtype.name, *factors))
    return f"off by {error:.2g} of the largest value; {limit:.0e} is allowed" if error > limit else None


def sweep_bytes(program: Program) -> int:
    """Memory to go over between runs: as much as the network's weights are."""
    nbytes = sum(array.nbytes for array in program.constants.values())
    return min(max(nbytes, NEAR_SWEEP), MEMORY_SWEEP) // 1024 * 1024
