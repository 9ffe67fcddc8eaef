"""Measured peaks and rooflines; nothing here depends on how fast the machine is."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets import peaks as module
from fusewire.targets.cpuinfo import Isa, isa_for
from fusewire.targets.peaks import Bench, Peaks, known_peaks, measure, peaks, rate, stored
from fusewire.targets.target import Target
from fusewire.targets.team import ThreadTeam
from fusewire.targets.timing import profiled
from fusewire.targets.work import Work

MACHINE = Peaks(
    "a processor", "avx2", "cc 1", 2, "2026-01-02T03:04:05+00:00",
    {"float32": 100e9, "float64": 50e9}, ((1000, 40e9), (100000, 10e9)), ((1000, 80e9), (100000, 20e9)),
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Isa]:
    """A cache of its own, and measurements of next to no time."""
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path))
    for name, value in (("ROUNDS", 1), ("ROUND", 1e-4), ("STEPS", 64), ("LARGEST", 1 << 20)):
        monkeypatch.setattr(module, name, value)
    peaks.cache_clear()
    yield isa_for(Target("cpu"))
    peaks.cache_clear()


def test_the_kernels_do_what_is_counted(quick: Isa) -> None:
    bench = Bench(quick, 2)
    rng = np.random.default_rng(0)
    with ThreadTeam(2) as team:
        for name, kernel in bench.kernels.items():
            arrays = [rng.uniform(0, 1, b.shape).astype(b.dtype) for b in kernel.params]
            given = arrays[0].copy()
            bench.call(name, arrays, team)()
            data, out = arrays
            np.testing.assert_array_equal(data, given)
            if name.startswith("copy"):
                np.testing.assert_array_equal(out, data)
            elif name.startswith("read"):
                np.testing.assert_allclose(out.sum(), data.sum(dtype=np.float64), rtol=1e-4)
            else:
                expected = data[:-2].astype(np.float64)
                for _ in range(module.STEPS):
                    expected = expected * data[-2] + data[-1]
                np.testing.assert_allclose(out, [expected] * 2, rtol=1e-4)


def test_peaks_are_kept_with_their_date(quick: Isa, tmp_path: Path) -> None:
    assert stored(quick, 1) is None
    found = peaks(quick, 1)
    assert found.threads == 1 and found.isa == quick.name and set(found.flops) == {"float32", "float64"}
    assert all(r > 0 for r in found.flops.values())
    assert [n for n, _ in found.copy] == [n for n, _ in found.read] == list(module.sizes())
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(found.date)
    assert age < datetime.timedelta(hours=1)
    assert stored(quick, 1) == found and stored(quick, 2) is None
    assert peaks(quick, 1) is found
    (path,) = (tmp_path / "peaks").iterdir()
    for damage in ("", "{", "[]", '{"cpu": 3}'):
        path.write_text(damage)
        assert stored(quick, 1) is None
    assert known_peaks(quick, 1) is found


def test_measuring_again_keeps_the_faster_figures(quick: Isa) -> None:
    found = measure(quick, 1)
    again = measure(quick, 1)
    assert all(again.flops[d] >= found.flops[d] for d in found.flops)
    assert all(b >= a for (_, a), (_, b) in zip(found.copy, again.copy, strict=True))
    slow, fast = MACHINE, MACHINE.at_least(MACHINE)
    assert slow == fast


def test_a_cache_that_cannot_be_written(quick: Isa, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "peaks").write_text("in the way")
    assert measure(quick, 1).threads == 1 and stored(quick, 1) is None


def test_without_a_compiler(quick: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    with pytest.raises(fw.CompileError):
        peaks(quick, 1)
    assert known_peaks(quick, 1) is None
    profile = profiled([("a", "b", 1.0, Work(1, (4,), 4, "float32"))], None)
    assert profile.steps[0].bound == "" and "not compared with" in str(profile)


def test_roofs() -> None:
    assert rate(MACHINE.copy, 1) == 40e9 and rate(MACHINE.copy, 1 << 40) == 10e9
    assert rate(MACHINE.copy, 10000) == pytest.approx(25e9)
    for work, seconds, bound in (
        (Work(1, (500,), 500, "float32"), 1000 / 40e9, "memory"),  # copied, in the first cache
        (Work(1, (900,), 100, "float32"), 800 / 80e9 + 200 / 40e9, "memory"),  # 800 of them are only read
        (Work(1, (0,), 1000, "float32"), 1000 / 40e9, "memory"),  # more written than read counts as copying
        (Work(10**6, (500,), 500, "float32"), 1e-5, "compute"),
        (Work(10**6, (500,), 500, "float64"), 2e-5, "compute"),
    ):
        least, nearer = MACHINE.roof(work)
        assert least == pytest.approx(seconds) and nearer == bound


def test_a_profile_compares_with_the_nearer_roof() -> None:
    profile = profiled(
        [
            ("conv", "conv2d_nchwc.cpu", 2e-5, Work(10**6, (500,), 500, "float32")),
            ("wino", "conv2d_winograd4_nchwc.cpu", 5e-6, Work(10**6, (500,), 500, "float32")),
            ("relu", "loops.cpu", 1e-7, Work(10, (500,), 500, "float32")),
            ("if", "host", 1e-6, None),
        ],
        MACHINE,
    )
    conv, wino, relu, host = profile.steps
    assert conv.bound == "compute" and [conv.roof, conv.gflops, conv.gbytes] == pytest.approx([0.5, 50, 0.05])
    assert wino.effective and wino.cells()[6] == "200%*" and profile.plausible
    assert relu.roof == pytest.approx(0.25) and relu.bound == "memory"
    assert host.cells()[4:] == ["-", "-", "-", "-"]
    text = str(profile)
    assert "* Winograd: operations of the convolution's definition" in text and "measured 2026-01-02" in text
    assert profile.to_dict()["peaks"]["threads"] == 2
    faster = profiled([("conv", "conv2d_nchwc.cpu", 5e-6, Work(10**6, (500,), 500, "float32"))], MACHINE)
    assert not faster.plausible


def test_implausible_peaks_are_measured_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    x = fw.var("x", shape=(64, 64))
    made = fw.GraphModule(fw.build(fw.Function([x], fw.exp(x)), "cpu -num-cores=1")["default"](fw.cpu()))
    slow = Peaks("", "", "", 1, "2026-01-02", {"float32": 1.0, "float64": 1.0}, ((1, 1.0),), ((1, 1.0),))
    asked: list[int] = []

    def look(isa: Isa, threads: int) -> Peaks:
        asked.append(threads)
        return MACHINE

    monkeypatch.setattr("fusewire.targets.executor.known_peaks", lambda isa, threads: slow)
    monkeypatch.setattr("fusewire.targets.executor.second_look", look)
    profile = made.profile(repeat=1, x=np.ones((64, 64), np.float32))
    assert asked == [1] and profile.peaks is MACHINE
    assert made.profile(repeat=1, peaks=False).peaks is None and asked == [1]
