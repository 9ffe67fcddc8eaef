"""The search: which candidates are tried, for how long, and when one is better than the first guess.

    rank      candidates by predicted cost; the best of each implementation first, then the rest
    batches   a few at a time are made and verified; a round of single runs each
    prune     implementations that are far behind are not tried further, unless all are to be; nothing after the budget
    sizes     where kernels are launches, the fastest few are tried with other sizes of their work-groups
    final     the fastest few and the first guess take turns; a candidate must win by more than the noise

The engine knows nothing of a target: it is given a `Bench` that makes candidates of one group runnable.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

from attrs import define, field, frozen

from ...ir.errors import FusewireError
from ..schedules.space import GROUP, Config
from .store import Timing


class CannotTune(FusewireError):
    """A group's first guess, or what it is compared with, does not run."""


BATCH = 8
"""Candidates made at a time."""
FAR = 1.5
"""An implementation is given up when its best is this much slower than the best of all."""
MARGIN = 0.02
"""By how much a candidate must beat the first guess: timing noise."""
SIZES_SHARE = 3
"""One in so many trials is for sizes of work-groups."""
FINALISTS = 3
FINAL_ROUNDS = 12
FIRST_RUNS = 3


@frozen
class Level:
    """How hard to search: candidates a group and seconds for all groups at most; None: no limit."""

    trials: int | None
    seconds: float | None


BUDGETS: Mapping[str, Level] = {
    "none": Level(0, 0.0),
    "fast": Level(6, 20.0),
    "normal": Level(20, 150.0),
    "wide": Level(60, 900.0),
    "heavy": Level(None, None),
}


@frozen
class Option:
    """A candidate: an implementation, its numbers, and what it is expected to cost."""

    implementation: str
    config: Config
    predicted: float = 0.0


class Trial(Protocol):
    """A candidate that has been made and was found to be right."""

    def seconds(self) -> float:
        """Run once; the time that it took.

        Raises:
            FusewireError: the device refused it, or it never came back.
        """
        ...


class Bench(Protocol):
    """One group on one device."""

    @property
    def options(self) -> Sequence[Option]:
        """All candidates; what would run without tuning comes first."""
        ...

    def make(self, options: Sequence[Option]) -> Sequence["Trial | str"]:
        """Candidates made and compared with a reference; a text says what is wrong with one."""
        ...

    def resized(self, option: Option) -> Sequence[Option]:
        """A candidate with other sizes of its work-groups, the likeliest first; none where there are no groups."""
        ...


@define
class Outcome:
    """What a search found.

    Attributes:
        best: the winner, which may be the first guess.
        seconds, first_seconds: the fastest runs of the winner and of the first guess, in the same rounds.
        timings: everything that was tried.
    """

    best: Option
    seconds: float
    first_seconds: float
    timings: list[Timing] = field(factory=list)


def ranked(options: Sequence[Option]) -> list[Option]:
    """The first guess, the best of every implementation, then the rest, by predicted cost."""
    first, *others = options
    others.sort(key=lambda option: option.predicted)
    seen = {first.implementation}
    leaders: list[Option] = []
    rest: list[Option] = []
    for option in others:
        (rest if option.implementation in seen else leaders).append(option)
        seen.add(option.implementation)
    return [first, *leaders, *rest]


def search(
    bench: Bench,
    trials: int | None,
    deadline: float | None,
    record: Callable[[Timing], None] = lambda timing: None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Try the candidates of a group.

    Args:
        bench: makes them runnable.
        trials: how many beside the first guess; None: all.
        deadline: the time, as `now` gives it, after which nothing new is begun; None: none.
        record: gets every measurement as soon as there is one.
        now: the clock.

    Raises:
        CannotTune: the first guess cannot be made or is wrong.
    """
    first, *rest = ranked(bench.options)
    hunt = _Hunt(bench, record)
    hunt.batch([first])
    if not hunt.alive:
        raise CannotTune(f"{first.implementation} cannot be tuned: {hunt.timings[-1].problem}")
    sizes = bench.resized(first)
    spare = 0 if trials is None else min(len(sizes), max(trials // SIZES_SHARE, trials - len(rest)))
    rest = rest[: None if trials is None else trials - spare]
    while rest and (deadline is None or now() < deadline):
        rest = [option for option in rest if trials is None or not hunt.hopeless(option)]
        hunt.batch(rest[:BATCH])
        rest = rest[BATCH:]
    rest = hunt.sizes()[: None if trials is None else spare] if sizes else []
    while rest and (deadline is None or now() < deadline):
        hunt.batch(rest[:BATCH])
        rest = rest[BATCH:]
    return hunt.final(first)


@define
class _Hunt:
    bench: Bench
    record: Callable[[Timing], None]
    alive: list[tuple[float, Option, Trial]] = field(factory=list)
    timings: list[Timing] = field(factory=list)

    def batch(self, options: Sequence[Option]) -> None:
        """Make some candidates and run each a few times, in turn."""
        made = list(zip(options, self.bench.make(options), strict=True)) if options else []
        running = [(option, trial) for option, trial in made if not isinstance(trial, str)]
        # The first run meets cold code and untouched memory.
        running = [(option, trial) for option, trial in running if self.seconds(option, trial) < math.inf]
        times: list[list[float]] = [[] for _ in running]
        for _ in range(FIRST_RUNS):
            for (option, trial), taken in zip(running, times, strict=True):
                taken.append(math.inf if math.inf in taken else self.seconds(option, trial))
        for (option, trial), taken in zip(running, times, strict=True):
            if math.inf not in taken:
                self.note(Timing(option.implementation, option.config, min(taken)))
                self.alive.append((min(taken), option, trial))
        for option, failed in made:
            if isinstance(failed, str):
                self.note(Timing(option.implementation, option.config, None, failed))
        # Memory: of what was tried, only what may still win is kept, and the first guess.
        self.alive[1:] = sorted(self.alive[1:], key=lambda entry: entry[0])[:FINALISTS]

    def seconds(self, option: Option, trial: Trial) -> float:
        """Run a candidate once; infinite if it failed, which is noted."""
        try:
            return trial.seconds()
        except FusewireError as error:
            self.note(Timing(option.implementation, option.config, None, str(error)))
            return math.inf

    def sizes(self) -> list[Option]:
        """The fastest candidates with other sizes of their work-groups, in turns."""
        leaders = sorted(self.alive, key=lambda entry: entry[0])[:FINALISTS]
        queues = [self.bench.resized(option) for _, option, _ in leaders if GROUP not in option.config]
        return [option for turn in zip_longest(*queues) for option in turn if option is not None]

    def note(self, timing: Timing) -> None:
        self.timings.append(timing)
        self.record(timing)

    def hopeless(self, option: Option) -> bool:
        """Whether the implementation of a candidate has been tried and was far behind."""
        times: dict[str, float] = {}
        for timing in self.timings:
            if timing.seconds is not None:
                name = timing.implementation
                times[name] = min(timing.seconds, times.get(name, timing.seconds))
        own = times.get(option.implementation)
        return own is not None and own > FAR * min(times.values())

    def final(self, first: Option) -> Outcome:
        """The fastest few against the first guess, in turns."""
        if len(self.alive) == 1:
            return Outcome(first, self.alive[0][0], self.alive[0][0], self.timings)
        times: list[list[float]] = [[] for _ in self.alive]
        for _ in range(FINAL_ROUNDS):
            for (_, option, trial), taken in zip(self.alive, times, strict=True):
                taken.append(math.inf if math.inf in taken else self.seconds(option, trial))
        guess = max(times[0]) if math.inf in times[0] else min(times[0])
        best, seconds = first, guess
        for (_, option, _), taken in list(zip(self.alive, times, strict=True))[1:]:
            wins = sum(t < g for t, g in zip(taken, times[0], strict=True))
            sound = math.inf not in taken
            better = sound and min(taken) < guess * (1 - MARGIN) and wins > FINAL_ROUNDS // 2
            if better and min(taken) < seconds:
                best, seconds = option, min(taken)
        return Outcome(best, seconds, guess, self.timings)
