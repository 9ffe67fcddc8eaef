"""The search, on candidates whose times are made up; and every candidate of real spaces against NumPy."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pytest
from attrs import define, field

import fusewire as fw
from fusewire.ir.loops import Kernel
from fusewire.targets.cpuinfo import Isa
from fusewire.targets.implement import Chosen, entries, finish
from fusewire.targets.lower import make_problem
from fusewire.targets.schedules.space import GROUP, Config, register_tiles, space
from fusewire.targets.tuning.search import FINAL_ROUNDS, FIRST_RUNS, Option, Trial, ranked, search
from fusewire.targets.tuning.store import Timing
from tests.direct import AVX2, AVX512, Array, run_kernels
from tests.targets.test_schedules import only_step

TIMES = FIRST_RUNS + FINAL_ROUNDS + 1


@define
class Fake:
    """A candidate that takes the same time again and again, or the times given."""

    times: Sequence[float]
    runs: int = 0

    def seconds(self) -> float:
        self.runs += 1
        return self.times[(self.runs - 1) % len(self.times)]


@define
class FakeBench:
    """Candidates by name: the time of a run, times, or what is wrong."""

    speeds: dict[str, float | Sequence[float] | str]
    predicted: dict[str, float] = field(factory=dict)
    made: list[str] = field(factory=list)
    sizes: Sequence[int] = ()

    @property
    def options(self) -> Sequence[Option]:
        return [_option(name, self.predicted.get(name, 0.0)) for name in self.speeds]

    def make(self, options: Sequence[Option]) -> Sequence[Trial | str]:
        self.made += [_name(option) for option in options]
        found = [self.speeds[_name(option)] for option in options]
        return [f if isinstance(f, str) else Fake([f] if isinstance(f, int | float) else f) for f in found]

    def resized(self, option: Option) -> Sequence[Option]:
        return [Option(option.implementation, {**option.config, GROUP: size}) for size in self.sizes]


@define
class SizedBench(FakeBench):
    """Work-groups of 4 are best."""

    def make(self, options: Sequence[Option]) -> Sequence[Trial | str]:
        made = super().make(options)
        slow = {2: 1.0, 4: 0.5, 8: 2.0}
        return [
            trial if isinstance(trial, str) else Fake([trial.seconds() * slow.get(option.config.get(GROUP, 0), 1.0)])
            for option, trial in zip(options, made, strict=True)
        ]


def _option(name: str, predicted: float = 0.0) -> Option:
    implementation, _, number = name.partition("/")
    return Option(implementation, {"n": int(number or 0)}, predicted)


def _name(option: Option) -> str:
    return f"{option.implementation}/{option.config['n']}"


def test_the_fastest_wins() -> None:
    recorded: list[Timing] = []
    bench = FakeBench({"a/0": 5.0, "a/1": 4.5, "b/0": 3.0, "b/1": 2.5, "b/2": 6.0})
    found = search(bench, None, None, recorded.append)
    assert _name(found.best) == "b/1" and (found.seconds, found.first_seconds) == (2.5, 5.0)
    assert recorded == found.timings and len(recorded) == 5


def test_the_first_guess_stays_inside_the_noise() -> None:
    found = search(FakeBench({"a/0": 5.0, "a/1": 4.95}), None, None)
    assert _name(found.best) == "a/0" and found.seconds == found.first_seconds == 5.0


def test_one_lucky_run_does_not_win() -> None:
    lucky = [6.0] * (TIMES - 1) + [1.0]
    found = search(FakeBench({"a/0": 5.0, "a/1": lucky}), None, None)
    assert _name(found.best) == "a/0"


def test_what_is_wrong_is_never_chosen() -> None:
    found = search(FakeBench({"a/0": 5.0, "a/1": "result 0 is wrong: off by 0.01", "a/2": 4.0}), None, None)
    assert _name(found.best) == "a/2"
    (wrong,) = [t for t in found.timings if t.problem]
    assert wrong.seconds is None and wrong.config == {"n": 1} and "off by" in str(wrong.problem)


def test_a_wrong_first_guess_is_an_error() -> None:
    with pytest.raises(fw.FusewireError, match="a cannot be tuned: result 0 is wrong"):
        search(FakeBench({"a/0": "result 0 is wrong", "a/1": 1.0}), None, None)


def test_trials_are_counted_beside_the_first_guess() -> None:
    bench = FakeBench({f"a/{n}": 5.0 - n / 10 for n in range(10)}, {f"a/{n}": float(10 - n) for n in range(10)})
    assert _name(search(bench, 0, None).best) == "a/0" and bench.made == ["a/0"]
    bench.made.clear()
    search(bench, 3, None)
    assert bench.made == ["a/0", "a/9", "a/8", "a/7"]  # by prediction


def test_nothing_is_begun_after_the_deadline() -> None:
    clock = itertools.count()
    bench = FakeBench({f"a/{n}": 5.0 for n in range(40)})
    search(bench, None, 2.0, now=lambda: float(next(clock)))
    assert len(bench.made) == 1 + 2 * 8


def test_far_behind_is_given_up() -> None:
    speeds: dict[str, float | Sequence[float] | str] = {"a/0": 1.0}
    speeds |= {f"slow/{n}": 9.0 for n in range(30)} | {f"near/{n}": 1.2 for n in range(30)}
    bench = FakeBench(speeds)
    search(bench, 60, None)
    assert sum(name.startswith("near") for name in bench.made) == 30
    assert sum(name.startswith("slow") for name in bench.made) < 10


def test_without_a_limit_all_are_tried() -> None:
    speeds: dict[str, float | Sequence[float] | str] = {"a/0": 1.0}
    bench = FakeBench(speeds | {f"slow/{n}": 9.0 for n in range(30)})
    search(bench, None, None)
    assert len(bench.made) == 31


@define
class Failing(Fake):
    """A candidate that fails from its run number `good` on."""

    good: int = 0

    def seconds(self) -> float:
        if self.runs >= self.good:
            raise fw.FusewireError("crashed (signal SIGSEGV)")
        return super().seconds()


@define
class FailingBench(FakeBench):
    """One candidate fails from its run number `good` on."""

    failing: str = ""
    good: int = 0

    def make(self, options: Sequence[Option]) -> Sequence[Trial | str]:
        made = zip(options, super().make(options), strict=True)
        return [Failing([1.0], good=self.good) if _name(option) == self.failing else trial for option, trial in made]


@pytest.mark.parametrize("good", [0, 1, FIRST_RUNS, FIRST_RUNS + 3, FIRST_RUNS + FINAL_ROUNDS])
def test_what_fails_while_it_is_timed_is_never_chosen(good: int) -> None:
    bench = FailingBench({"a/0": 5.0, "a/1": 4.0, "b/0": 1.0}, failing="b/0", good=good)
    found = search(bench, None, None)
    assert _name(found.best) == "a/1"
    assert [t.implementation for t in found.timings if t.problem == "crashed (signal SIGSEGV)"] == ["b"]


def test_a_first_guess_that_fails_later_gives_way() -> None:
    bench = FailingBench({"a/0": 5.0, "a/1": 6.0}, failing="a/0", good=FIRST_RUNS + 3)
    assert _name(search(bench, None, None).best) == "a/1"


def test_sizes_of_work_groups_are_tried_for_the_fastest() -> None:
    bench = SizedBench({f"a/{n}": 10.0 - n for n in range(6)}, sizes=(2, 4, 8))
    found = search(bench, None, None)
    assert found.best == Option("a", {"n": 5, GROUP: 4})
    sized = [t.config for t in found.timings if GROUP in t.config]
    assert len(sized) == 9 and {c["n"] for c in sized} == {3, 4, 5}
    assert [c[GROUP] for c in sized] == [2, 2, 2, 4, 4, 4, 8, 8, 8]


def test_a_third_of_the_trials_is_for_sizes() -> None:
    speeds: dict[str, float | Sequence[float] | str] = {f"a/{n}": 10.0 - n for n in range(40)}
    tried = [GROUP in t.config for t in search(SizedBench(speeds, sizes=(2, 4, 8)), 6, None).timings]
    assert tried == [False] * 5 + [True] * 2
    alone = search(SizedBench({"a/0": 5.0}, sizes=(2, 4, 8)), 2, None)
    assert [t.config.get(GROUP) for t in alone.timings] == [None, 2, 4]


def test_ranking() -> None:
    options = [_option("a/0"), _option("a/1", 3.0), _option("b/0", 9.0), _option("b/1", 7.0), _option("a/2", 1.0)]
    assert [_name(option) for option in ranked(options)] == ["a/0", "b/1", "a/2", "a/1", "b/0"]


def test_space() -> None:
    configs = list(space({"a": 2, "b": 1}, {"a": (1, 2), "b": (1, 2)}, lambda c: c["a"] + c["b"] < 4))
    assert configs == [{"a": 2, "b": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 2}]
    for registers in (16, 32):
        for vectors, points in register_tiles(registers):
            assert registers // 2 < vectors * points + vectors + 1 <= registers


def _cases() -> Iterator[tuple[str, fw.Expr]]:
    def weight(*shape: int) -> fw.Expr:
        return fw.const(np.random.default_rng(1).normal(size=shape).astype(np.float32))

    plain = fw.var("x", shape=(1, 48, 9, 11))
    blocked = fw.var("x", shape=(1, 3, 9, 11, 16))
    conv = partial(fw.nn.conv2d, padding=(1, 1), data_layout="NCHW16c", out_layout="NCHW16c")
    yield "plain", fw.nn.relu(fw.nn.conv2d(plain, weight(40, 48, 3, 3), padding=(1, 1), strides=(2, 1)))
    yield "first", fw.nn.conv2d(fw.var("x", shape=(1, 3, 9, 37)), weight(20, 3, 3, 3), padding=(1, 1))
    yield "blocked", fw.nn.relu(conv(blocked, weight(80, 48, 3, 3)))
    yield "depthwise", conv(blocked, weight(48, 1, 3, 3), groups=48)
    yield "dense", fw.nn.dense(fw.var("x", shape=(37, 64)), weight(100, 64)) * fw.const(np.float32(0.5))
    yield "vector", fw.nn.dense(fw.var("x", shape=(1, 64)), weight(100, 64))


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=["avx512", "avx2"])
@pytest.mark.parametrize(("name", "graph"), list(_cases()), ids=lambda v: v if isinstance(v, str) else "")
def test_candidates_compute_the_same(name: str, graph: fw.Expr, isa: Isa) -> None:
    """A sample of every space, against the plain loops."""
    _, step, constants = only_step(graph)
    problem = make_problem(step.function, "KERNEL", isa, 2, tuple(constants))
    rng = np.random.default_rng(0)
    inputs = [constants.get(k, rng.normal(size=b.shape).astype(b.dtype)) for k, b in enumerate(problem.inputs)]
    work: list[tuple[Kernel, list[Array]]] = []
    about: list[tuple[str, Config]] = []
    for entry in entries(problem):
        if entry.check(problem):
            continue
        configs = list(entry.configs(problem))
        for config in [configs[0], *rng.permutation(np.array(configs[1:], object))[:2]]:
            made = make_problem(step.function, f"kernel{len(work)}", isa, 2, tuple(constants))
            kernel, packed = Chosen(entry, config).schedule(made)
            arrays = [packed[k](a) if k in packed else a for k, a in enumerate(inputs)]
            work.append((finish(kernel, isa.vector_bytes), arrays))
            about.append((entry.name, config))
    *others, (reference,) = run_kernels(work)
    assert about[-1][0] == "loops.cpu" and len(others) >= 3
    scale = np.abs(reference).max()
    for (got,), what in zip(others, about, strict=False):
        np.testing.assert_allclose(got, reference, rtol=0, atol=2e-6 * scale, err_msg=str(what))
