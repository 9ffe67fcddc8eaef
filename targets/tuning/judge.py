"""The judge: whether what a search decided makes the whole network faster; where it does not, which part of it does.

    whole     the network untuned and tuned, in turns: where it is not slower tuned, all decisions stand
    places    else both run step by step, in turns; decisions of groups that are not faster in their places fall, and
              where all are faster there, that half of them which gains least
    again     what is left is judged as a whole; after a few rounds, or too much time, all that is left falls

So a tuned network is never slower than the untuned, and one bad decision does not cost the good ones.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from attrs import define, field, frozen

from ..backends import GPU_KINDS
from ..compiled import CompiledModule
from ..device import Device
from ..executor import GraphModule
from ..program import KernelStep, LibraryStep, Step
from .bench import fill_inputs
from .store import Key

ROUNDS = 20
"""Runs of the whole network before and after, in turns."""
WALKS = 8
"""Runs of both networks, step by step, in turns."""
VERDICTS = 4
"""How often a part of the decisions is judged as a whole at most."""
PATIENCE = 60.0
"""Seconds after which no further part is tried."""


class Scales(Protocol):
    """A network untuned, and as it stands decided now."""

    def whole(self) -> tuple[float, float]:
        """Seconds of a run, untuned and as decided now."""
        ...

    def places(self) -> Mapping[Key, tuple[float, float]]:
        """Seconds of all steps of a group in their places in the network, untuned and as `whole` found it decided."""
        ...


@frozen
class Verdict:
    """What came of it.

    Attributes:
        before, after: seconds of the whole network untuned, and as it is decided now.
        fallen: the groups that were decided for their first guesses after all.
    """

    before: float
    after: float
    fallen: frozenset[Key]


def judge(
    fresh: Collection[Key],
    scales: Scales,
    withdraw: Callable[[Collection[Key]], None],
    now: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Let those decisions stand with which the whole network is not slower.

    Args:
        fresh: the groups that are decided against their first guesses.
        scales: weigh the network as it is decided.
        withdraw: decides groups for their first guesses.
        now: the clock.
    """
    standing, end, rounds = set(fresh), now() + PATIENCE, 1
    while True:
        before, after = scales.whole()
        if not standing or after <= before:
            return Verdict(before, after, frozenset(fresh) - standing)
        falling = standing if rounds == VERDICTS or now() >= end else losers(standing, scales.places())
        withdraw(falling)
        standing, rounds = standing - falling, rounds + 1


def losers(standing: Collection[Key], places: Mapping[Key, tuple[float, float]]) -> set[Key]:
    """The groups that are not faster in their places; if there are none, the half that gains least, in seconds.

    A group without times stands where nothing ran: it gains nothing.
    """
    gains = {key: before - after for key in standing for before, after in [places.get(key, (0.0, 0.0))]}
    slower = {key for key, gain in gains.items() if gain <= 0}
    return slower or set(sorted(gains, key=lambda key: gains[key])[: (len(gains) + 1) // 2])


@define
class Modules:
    """Two modules on a device; implements `Scales`.

    Attributes:
        plain: the network untuned.
        build: builds it as it is decided now.
        keys: the groups by the names of their steps.
    """

    plain: CompiledModule
    build: Callable[[], CompiledModule]
    keys: Mapping[str, Key]
    tuned: CompiledModule = field(init=False)
    """What `whole` built last."""

    def __attrs_post_init__(self) -> None:
        self.tuned = self.plain

    def whole(self) -> tuple[float, float]:
        """The fastest runs; the same code takes the same time."""
        self.tuned = self.build()
        before, after = compare(self.plain, self.tuned)
        same = self.plain.runnable.code.files == self.tuned.runnable.code.files
        least = min(before, after)
        return (least, least) if same else (before, after)

    def places(self) -> Mapping[Key, tuple[float, float]]:
        """The fastest times of the steps, summed by group."""
        found: dict[Key, tuple[float, float]] = {}
        before, after = step_times([self.plain, self.tuned], WALKS)
        for name, key in self.keys.items():
            sums = found.get(key, (0.0, 0.0))
            found[key] = sums[0] + before.get(name, 0.0), sums[1] + after.get(name, 0.0)
        return found


def compare(one: CompiledModule, other: CompiledModule) -> tuple[float, float]:
    """The fastest runs of two modules in alternating rounds, on the same random inputs."""
    modules = _ready([one, other])
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for module, taken in zip(modules, times, strict=True):
            start = time.perf_counter()
            module.run()
            taken.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def step_times(libs: Sequence[CompiledModule], walks: int) -> list[dict[str, float]]:
    """Seconds of the steps of modules by name, which run step by step in turns: the fastest of several, for a busy
    machine holds up some. Steps of branches that are not taken are left out.
    """
    found: list[dict[str, float]] = [{} for _ in libs]

    def look(into: dict[str, float]) -> Callable[[Step, float], None]:
        def visit(step: Step, seconds: float) -> None:
            if isinstance(step, KernelStep | LibraryStep):
                into[step.name] = min(seconds, into.get(step.name, seconds))

        return visit

    modules = _ready(libs)
    if libs[0].target.kind in GPU_KINDS:  # by its clock, for waiting for a GPU takes longer than many kernels
        return [{step.name: step.seconds for step in module.profile(walks, peaks=False).steps} for module in modules]
    for _ in range(walks):
        for module, times in zip(modules, found, strict=True):
            module.walk(look(times))
    return found


def _ready(libs: Sequence[CompiledModule]) -> list[GraphModule]:
    """Modules that have run once, on the same random inputs."""
    modules = [GraphModule(lib["default"](Device(lib.target.kind))) for lib in libs]
    inputs = fill_inputs(libs[0].program)
    for module in modules:
        module.run(**inputs)
    return modules
