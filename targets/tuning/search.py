"""The search: which candidates are tried, for how long, and when one is better than the first guess.

    rank      candidates by predicted cost; the best of each implementation first, then the rest
    batches   a few at a time are made and verified; a round of single runs each
    prune     implementations that are far behind are not tried further; nor is anything after the budget
    final     the fastest few and the first guess take turns; a candidate must win by more than the noise

The engine knows nothing of a target: it is given a `Bench` that makes candidates of one group runnable.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import define, field, frozen

from ...ir.errors import FusewireError
from ..schedules.space import Config
from .store import Timing

BATCH = 8
"""Candidates made at a time."""
FAR = 1.5
"""An implementation is given up when its best is this much slower than the best of all."""
MARGIN = 0.02
"""By how much a candidate must beat the first guess: timing noise."""
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
        """Run once; the time that it took."""
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
        FusewireError: the first guess cannot be made or is wrong.
    """
    queue = ranked(bench.options)[: None if trials is None else trials + 1]
    hunt = _Hunt(bench, record)
    hunt.batch(queue[:1])
    if not hunt.alive:
        raise FusewireError(f"{queue[0].implementation} cannot be tuned: {hunt.timings[0].problem}")
    rest = queue[1:]
    while rest and (deadline is None or now() < deadline):
        rest = [option for option in rest if not hunt.hopeless(option)]
        hunt.batch(rest[:BATCH])
        rest = rest[BATCH:]
    return hunt.final(queue[0])


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
        for _, trial in running:
            trial.seconds()  # the first run meets cold code and untouched memory
        times = [[trial.seconds() for _, trial in running] for _ in range(FIRST_RUNS)]
        for (option, trial), best in zip(running, map(min, zip(*times, strict=True)), strict=True):
            self.note(Timing(option.implementation, option.config, best))
            self.alive.append((best, option, trial))
        for option, failed in made:
            if isinstance(failed, str):
                self.note(Timing(option.implementation, option.config, None, failed))
        # Memory: of what was tried, only what may still win is kept, and the first guess.
        self.alive[1:] = sorted(self.alive[1:], key=lambda entry: entry[0])[:FINALISTS]

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
        times: list[list[float]] = [[] for _ in self.alive]
        for _ in range(FINAL_ROUNDS):
            for entry, taken in zip(self.alive, times, strict=True):
                taken.append(entry[2].seconds())
        guess = min(times[0])
        best, seconds = first, guess
        for (_, option, _), taken in list(zip(self.alive, times, strict=True))[1:]:
            wins = sum(t < g for t, g in zip(taken, times[0], strict=True))
            better = min(taken) < guess * (1 - MARGIN) and wins > FINAL_ROUNDS // 2
            if better and min(taken) < seconds:
                best, seconds = option, min(taken)
        return Outcome(best, seconds, guess, self.timings)
