"""Which decisions stand: judged on networks whose times are made up, and once on a real one with made-up scales."""

import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest
from attrs import define, field

import fusewire as fw
from fusewire.targets.tuning import judge as judging
from fusewire.targets.tuning import tune as tuning
from fusewire.targets.tuning.judge import PATIENCE, VERDICTS, Verdict, judge, losers, step_times
from fusewire.targets.tuning.search import Option, Outcome
from fusewire.targets.tuning.store import Key
from tests.targets.test_tuning import TARGET, network


def key(name: str) -> Key:
    """A group that is known by one letter."""
    return Key("cpu", "device", "driver", 1, name, name)


def keys(names: str) -> set[Key]:
    return set(map(key, names))


@define
class FakeScales:
    """A network of groups that take 10 seconds untuned.

    Attributes:
        gains: seconds that a decision wins in its place.
        together: seconds that decisions cost the whole, by those which must all stand for it.
        standing: the groups whose decisions stand.
        weighed: what stood whenever the whole was weighed.
    """

    gains: dict[str, float]
    together: dict[str, float] = field(factory=dict)
    standing: set[Key] = field()
    weighed: list[str] = field(factory=list)

    @standing.default
    def _all(self) -> set[Key]:
        return keys("".join(self.gains))

    def names(self) -> str:
        return "".join(sorted(k.work for k in self.standing))

    def whole(self) -> tuple[float, float]:
        self.weighed.append(self.names())
        before = 10.0 * len(self.gains)
        after = before - sum(self.gains[name] for name in self.names())
        return before, after + sum(cost for names, cost in self.together.items() if keys(names) <= self.standing)

    def places(self) -> Mapping[Key, tuple[float, float]]:
        return {key(name): (10.0, 10.0 - gain * (key(name) in self.standing)) for name, gain in self.gains.items()}

    def withdraw(self, falling: Collection[Key]) -> None:
        assert falling and self.standing >= set(falling)
        self.standing -= set(falling)

    def judged(self, now: Callable[[], float] = lambda: 0.0) -> Verdict:
        found = judge(set(self.standing), self, self.withdraw, now)
        assert keys("".join(self.gains)) == found.fallen | self.standing and not found.fallen & self.standing
        assert found.after <= found.before
        return found


def test_what_wins_stands_as_it_is() -> None:
    scales = FakeScales({"a": 5.0, "b": -1.0})
    assert scales.judged() == Verdict(20.0, 16.0, frozenset()) and scales.weighed == ["ab"]


def test_one_bad_decision_does_not_cost_the_good_ones() -> None:
    scales = FakeScales({"a": 2.0, "b": -4.0, "c": 1.0, "d": 0.0})
    assert scales.judged() == Verdict(40.0, 37.0, frozenset(keys("bd"))) and scales.weighed == ["abcd", "ac"]


def test_what_is_faster_in_its_place_and_not_together_loses_the_lesser_half() -> None:
    """Two that evict each other from a cache."""
    scales = FakeScales({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, {"bd": 30.0})
    assert scales.judged().fallen == keys("ab") and scales.weighed == ["abcd", "cd"]


def test_all_fall_where_nothing_helps() -> None:
    scales = FakeScales({"a": 1.0, "b": 2.0, "c": 3.0}, {"c": 50.0})
    assert scales.judged() == Verdict(30.0, 30.0, frozenset(keys("abc")))
    assert scales.weighed == ["abc", "c", ""]


def test_a_few_rounds_and_no_more() -> None:
    names = "abcdefghijklmnopqrstuvwxyz"
    scales = FakeScales({name: 1.0 + k for k, name in enumerate(names)}, {"z": 1000.0})
    assert scales.judged().fallen == keys(names)
    assert len(scales.weighed) == VERDICTS + 1 and scales.weighed[-2:] == ["xyz"[-len(scales.weighed[-2]) :], ""]


def test_all_fall_when_the_time_is_over() -> None:
    late = itertools.chain([0.0, PATIENCE - 1], itertools.repeat(PATIENCE))
    scales = FakeScales({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}, {"e": 1000.0})
    scales.judged(lambda: next(late))
    assert scales.weighed == ["abcde", "de", ""]


def test_nothing_decided_is_nothing_to_judge() -> None:
    scales = FakeScales({"a": -1.0})
    assert judge((), scales, scales.withdraw) == Verdict(10.0, 11.0, frozenset())


def test_what_never_ran_has_won_nothing() -> None:
    assert losers(keys("ab"), {key("a"): (2.0, 1.0)}) == keys("b")


# In a real network


def _loops(*given: object) -> Outcome:
    """A search that finds the plain loops best."""
    return Outcome(Option("loops.cpu", {}), 1.0, 2.0, [])


def test_decisions_of_a_network_fall_by_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a clock on which the plain loops lose with convolutions and win with products."""
    mod, params = network()
    plain = fw.build(mod, TARGET, params)

    def looped(lib: fw.CompiledModule, operator: str) -> bool:
        return all(choice.chosen == "loops.cpu" for choice in lib.explain(operator).choices)

    def seconds(lib: fw.CompiledModule) -> dict[str, float]:
        extra = {"conv2d": looped(lib, "nn.conv2d"), "dense": -looped(lib, "nn.dense")}
        return {s.name: 2.0 + sum(extra[e] for e in extra if e in s.name) for s in lib.program.leaf_steps()}

    times: list[tuple[float, float]] = []

    def compare(one: fw.CompiledModule, other: fw.CompiledModule) -> tuple[float, float]:
        times.append((sum(seconds(one).values()), sum(seconds(other).values())))
        return times[-1]

    monkeypatch.setattr(tuning, "search", _loops)
    monkeypatch.setattr(judging, "compare", compare)
    monkeypatch.setattr(judging, "step_times", lambda libs, walks: [seconds(lib) for lib in libs])
    path = tmp_path / "r.jsonl"
    found = fw.tune(mod, TARGET, params, level="heavy", records=path)
    assert len(times) == 2 and times[0][1] > times[0][0] == times[1][0] > times[1][1]
    assert {("conv2d" in g.steps[0], g.withdrawn) for g in found.groups} == {(True, True), (False, False)}
    assert found.withdrawn == 1 and "for 1 groups: they were withdrawn" in str(found) and "(withdrawn)" in str(found)
    assert (found.before, found.after) == times[1]
    later = fw.build(mod, TARGET, params, records=path)
    assert later.code.files == found.lib.code.files != plain.code.files
    assert looped(later, "nn.dense") and not looped(later, "nn.conv2d")


def test_what_an_ended_search_decided_is_judged_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mod, params = network()
    path = tmp_path / "r.jsonl"

    def ended(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "search", _loops)
        patch.setattr(tuning, "judge", ended)
        with pytest.raises(KeyboardInterrupt):
            fw.tune(mod, TARGET, params, level="heavy", records=path)
    plain = fw.build(mod, TARGET, params).code.files
    assert fw.build(mod, TARGET, params, records=path).code.files != plain
    monkeypatch.setattr(judging, "compare", lambda one, other: (1.0, 1.0 + (one.code.files != other.code.files)))
    found = fw.tune(mod, TARGET, params, level="heavy", records=path)
    assert all(group.outcome is None and group.withdrawn for group in found.groups)
    assert fw.build(mod, TARGET, params, records=path).code.files == plain


def test_steps_are_timed_by_name() -> None:
    mod, params = network()
    lib = fw.build(mod, TARGET, params)
    names = {step.name for step in lib.program.leaf_steps()}
    times = step_times([lib, lib], 2)
    assert [set(found) for found in times] == [names, names]
    assert all(seconds > 0 for found in times for seconds in found.values())
