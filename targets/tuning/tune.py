"""`fw.tune`: search for the fastest kernels of a network, group by group, and remember them."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen
from tabulate import tabulate

from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ir.module import IRModule
from ..build import build
from ..compiled import CompiledModule
from ..implement import Decision, caution, follows
from ..lower import Problem, make_problem
from ..program import KernelStep
from ..target import Target
from .bench import Benches, MakeBench, constants_of, options_of, tunable
from .cpu import cpu_benches
from .decide import freeze, place_of
from .judge import Modules, judge, step_times
from .launched import launch_benches
from .search import BUDGETS, Bench, CannotTune, Option, Outcome, search
from .store import LEVELS, LOCKFILE, Key, Timing, TuningStore, open_store

_log = logging.getLogger("fusewire")

BENCHES: Mapping[str, Benches] = {"cpu": cpu_benches, **dict.fromkeys(("opencl", "cuda", "rocm"), launch_benches)}
"""What tries candidates, by kind of target."""

Progress = Callable[[str, int, int], None]
"""Told what is being tuned, how many groups are done, and how many there are."""

WALKS = 5
"""Runs of the network, step by step, that tell what each group costs."""
SMALL = 0.002
"""Groups with less of the whole time than this are not worth a search, but at the level "heavy"."""

EVERY = ("wide", "heavy")
"""Levels at which variants of a lower priority than the first guess are tried, too."""


@frozen
class TunedGroup:
    """One group of a network.

    Attributes:
        key: what it is.
        steps: the names of the steps that compute it.
        outcome: what the search found; None: an earlier search had decided.
        decision: what is decided now, if anything.
        withdrawn: whether this is the first guess after all, for the whole network was not faster with what was found.
        problem: why it could not be searched; empty: it could.
    """

    key: Key
    steps: tuple[str, ...]
    outcome: Outcome | None
    decision: Decision | None = None
    withdrawn: bool = False
    problem: str = ""

    def row(self) -> list[str]:
        """First step, number of steps, candidates tried, microseconds before and after, and what is decided now."""
        chosen = "the first guess"
        if self.decision is not None:
            numbers = (f"{name}={value}" for name, value in self.decision.config.items())
            chosen = " ".join([self.decision.implementation, *numbers, *["(withdrawn)"] * self.withdrawn])
        if self.problem:
            chosen += f" (not searched: {self.problem.splitlines()[0]})"
        found = self.outcome
        if found is None:
            return [self.steps[0], str(len(self.steps)), "0", "", "", chosen]
        times = [f"{found.first_seconds * 1e6:.1f}", f"{found.seconds * 1e6:.1f}"]
        return [self.steps[0], str(len(self.steps)), str(len(found.timings)), *times, chosen]


@frozen
class TuneResult:
    """What tuning did.

    Attributes:
        lib: the module as it is built with the decisions.
        groups: the groups that had anything to choose, the most expensive first.
        before, after: seconds of the whole network untuned and tuned, fastest runs of alternating rounds.
        seconds: how long the search took.
    """

    lib: CompiledModule
    groups: tuple[TunedGroup, ...]
    before: float
    after: float
    seconds: float

    @property
    def withdrawn(self) -> int:
        """How many groups are decided for their first guesses after all (see judge.py)."""
        return sum(group.withdrawn for group in self.groups)

    def verdict(self) -> str:
        """What was withdrawn, in words; empty: nothing."""
        if not self.withdrawn:
            return ""
        return f"The whole was not faster with the new decisions for {self.withdrawn} groups: they were withdrawn."

    def __str__(self) -> str:
        rows = [group.row() for group in self.groups]
        head = ["group", "steps", "tried", "before (us)", "after (us)", "chosen"]
        whole = f"whole network: {self.before * 1e3:.3f} ms before, {self.after * 1e3:.3f} ms after"
        return f"{tabulate(rows, head, disable_numparse=True)}\n\n{whole}\n{self.verdict()}".rstrip()


def tune(
    mod: IRModule | Expr,
    target: str | Target | Mapping[str, object] = "cpu",
    params: Mapping[str, Any] | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    level: str = "normal",
    trials: int | None = None,
    seconds: float | None = None,
    records: TuningStore | str | PathLike[str] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> TuneResult:
    """Search for the fastest kernel of every group of a network on this machine, and remember what was found.

    Every candidate is compared with the plain loops before it is timed. What the search finds goes to `records`, from
    where later builds take it; a group that is known at this level already is not searched again.

    Args:
        mod: as for `fw.build`.
        target: as for `fw.build`.
        params: as for `fw.build`.
        shape: as for `fw.build`.
        level: how hard to search: "none", "fast", "normal", "wide" or "heavy" (every candidate).
        trials: candidates beside the first guess for each group at most, in place of the level's number.
        seconds: how long to search at most, in place of the level's number; what has begun is finished.
        records: the file of the records, or a store; None: the user's own.
        progress: is told how far it is.

    Raises:
        FusewireError: the level is unknown, the records cannot be used, no group could be searched, or as `fw.build`.
    """
    if level not in BUDGETS:
        raise FusewireError(f"there is no tuning level {level!r}; the levels are {', '.join(BUDGETS)}")
    _check_budget("trials", trials, "a whole number", int)
    _check_budget("seconds", seconds, "a number", int | float)
    where = Target(target)
    budget = BUDGETS[level]
    store = open_store(records)
    most, longest = budget.trials if trials is None else trials, budget.seconds if seconds is None else seconds
    tuner = _Tuner(store, level, most, longest, _covered(most, longest))
    start = time.monotonic()

    def built(store: TuningStore) -> CompiledModule:
        return build(mod, target, params, shape, records=store)

    with BENCHES[where.kind]((before := built(store)).runnable, where) as make_bench:
        groups = tuner.run(before, make_bench, progress)
    keys = {name: group.key for group in groups for name in group.steps}
    scales = Modules(built(TuningStore()), lambda: built(store), keys)
    guesses = tuner.guesses()
    verdict = judge(guesses, scales, tuner.withdraw)
    tuner.confirm(guesses.keys() - verdict.fallen)
    groups = [evolve(g, decision=tuner.followed(g.key), withdrawn=g.key in verdict.fallen) for g in groups]
    return TuneResult(scales.tuned, tuple(groups), verdict.before, verdict.after, time.monotonic() - start)


def lock(
    mod: IRModule | Expr,
    target: str | Target | Mapping[str, object] = "cpu",
    params: Mapping[str, Any] | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    records: TuningStore | str | PathLike[str] | None = None,
    path: str | PathLike[str] = LOCKFILE,
) -> int:
    """Write every decision that a build takes into a file, for builds with `locked=True`.

    Args:
        mod: as for `fw.build`.
        target: as for `fw.build`.
        params: as for `fw.build`.
        shape: as for `fw.build`.
        records: where decisions come from; what is not there is decided as without tuning.
        path: the file.

    Returns:
        The number of decisions.

    Raises:
        FusewireError: the file cannot be written, or as `fw.build`.
    """
    store = open_store(records)
    store.asked.clear()
    lib = build(mod, target, params, shape, records=store)
    return freeze(lib, store.asked, Path(path))


def _check_budget(name: str, value: object, what: str, kinds: Any) -> None:
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if value is not None and not (number and value >= 0):  # type: ignore[operator]
        raise FusewireError(f"{name} must be {what} that is not negative, got {value!r}")


def _covered(trials: int | None, seconds: float | None) -> str:
    """The highest level that a budget is enough for: decisions of a small search must not stop a later, larger one."""
    enough = [
        name for name in LEVELS if _at_least(trials, BUDGETS[name].trials) and _at_least(seconds, BUDGETS[name].seconds)
    ]
    return enough[-1]


def _at_least(given: float | None, full: float | None) -> bool:
    return given is None or (full is not None and given >= full)


@define
class _Group:
    key: Key
    problem: Problem
    bench: Bench
    steps: list[str]
    share: float = 0.0


@define
class _Tuner:
    store: TuningStore
    level: str
    trials: int | None
    seconds: float | None
    recorded: str
    """The level that decisions are recorded with."""
    groups: dict[Key, _Group] = field(factory=dict)

    def run(self, lib: CompiledModule, make_bench: MakeBench, progress: Progress) -> list[TunedGroup]:
        """Search all groups, the most expensive first.

        Raises:
            CannotTune: what was to be searched could not be.
        """
        self.groups = self.found(lib, make_bench)
        groups = list(self.groups.values())
        done: list[TunedGroup] = []
        end = None if self.seconds is None else time.monotonic() + self.seconds
        left = sum(group.share for group in groups) or 1.0
        for number, group in enumerate(groups):
            progress(group.steps[0], number, len(groups))
            deadline = None
            if end is not None:
                now = time.monotonic()
                if now >= end:  # left for another search
                    done.append(TunedGroup(group.key, tuple(group.steps), None))
                    continue
                deadline = now + max(0.0, end - now) * min(1.0, group.share / left)
                left = max(left - group.share, 1e-9)
            done.append(self.tried(group, deadline))
        progress("", len(groups), len(groups))
        problems = [f"{group.steps[0]}: {group.problem}" for group in done if group.problem]
        if problems and not any(group.outcome for group in done):
            raise CannotTune(problems[0])
        return done

    def tried(self, group: _Group, deadline: float | None) -> TunedGroup:
        """Search one group; what does not run, though it is no candidate, may run at a second try."""
        for last in (False, True):
            try:
                return TunedGroup(group.key, tuple(group.steps), self.search(group, deadline))
            except CannotTune as error:
                problem = str(error)
                _log.warning("%s: %s; %s", group.steps[0], problem, "it is left alone" if last else "once more")
        return TunedGroup(group.key, tuple(group.steps), None, problem=problem)

    def search(self, group: _Group, deadline: float | None) -> Outcome | None:
        """Search one group, unless it is known or too small."""
        if self.level == LEVELS[0] or LEVELS.index(self.store.level(group.key)) >= LEVELS.index(self.level):
            return None
        if self.level != "heavy" and group.share < SMALL:
            return None

        def record(timing: Timing) -> None:
            if timing.problem:
                what = " ".join([timing.implementation, *(f"{knob}={value}" for knob, value in timing.config.items())])
                _log.warning("%s is no candidate for %s: %s", what, group.steps[0], timing.problem)
            self.store.add_timing(group.key, timing)

        outcome = search(group.bench, self.trials, deadline, record)
        best, first = outcome.best, group.bench.options[0]
        self.store.decide(group.key, best.implementation, best.config, self.recorded, judged=best == first)
        if known := caution(group.problem, outcome.best.implementation):
            _log.warning("%s will run by %s: %s", group.steps[0], outcome.best.implementation, known)
        return outcome

    def followed(self, key: Key) -> Decision | None:
        """What is decided for a group, if a build follows that."""
        decision = self.store.decision(key)
        return decision if decision and follows(self.groups[key].problem, decision) else None

    def guesses(self) -> dict[Key, Option]:
        """The first guesses of groups that were decided otherwise and not judged yet: an earlier search may have ended
        before that.
        """
        return {
            key: group.bench.options[0]
            for key, group in self.groups.items()
            if self.followed(key) and not self.store.judged(key)
        }

    def confirm(self, keys: Collection[Key]) -> None:
        """Record that decisions were judged and stand."""
        for key in keys:
            if decision := self.store.decision(key):
                self.store.decide(key, decision.implementation, decision.config, self.store.level(key))

    def withdraw(self, keys: Collection[Key]) -> None:
        """Decide for the first guesses after all."""
        for key in keys:
            first = self.groups[key].bench.options[0]
            self.store.decide(key, first.implementation, first.config, self.recorded)

    def found(self, lib: CompiledModule, make_bench: MakeBench) -> dict[Key, _Group]:
        """The different groups that have something to choose, by their share of the time."""
        found: dict[Key, _Group] = {}
        times = _profile(lib)
        isa, kind = lib.runnable.code.isa, lib.target.kind
        place = place_of(lib.target, isa, lib.threads)
        for step in lib.program.leaf_steps():
            if not isinstance(step, KernelStep) or not tunable(step.function):
                continue
            constants = constants_of(lib.program, step)
            key = place.key(step.function, constants)
            if key not in found:
                problem = make_problem(step.function, "KERNEL", isa, lib.threads, constants)
                if problem.anchor is None and kind == "cpu":
                    continue
                options = options_of(problem, kind, every=self.level in EVERY)
                if len(options) == 1 and kind == "cpu":
                    continue
                found[key] = _Group(key, problem, make_bench(step.function, constants, options), [])
            found[key].steps.append(step.name)
            found[key].share += times.get(step.name, 0.0)
        return dict(sorted(found.items(), key=lambda item: -item[1].share))


def _profile(lib: CompiledModule) -> dict[str, float]:
    """The share of each step in the time of a run."""
    (fastest,) = step_times([lib], WALKS)
    whole = sum(fastest.values()) or 1.0
    return {name: seconds / whole for name, seconds in fastest.items()}
