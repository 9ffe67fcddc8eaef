"""Tuning a network: decisions are found, remembered, and used by later builds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.lower import make_problem
from fusewire.targets.program import KernelStep
from fusewire.targets.tuning import decide, judge
from fusewire.targets.tuning import tune as tuning
from fusewire.targets.tuning.bench import constants_of, mismatch, options_of
from fusewire.targets.tuning.cpu import CpuBench, cpu_benches
from fusewire.targets.tuning.decide import place_of, work_of
from fusewire.targets.tuning.search import CannotTune, Option, Outcome
from fusewire.targets.tuning.store import TuningStore
from tests.cli_models import Array, bad_usage, classifier, failed, fine

TARGET = "cpu -num-cores=1"


def network() -> tuple[fw.IRModule, dict[str, fw.NDArray]]:
    """Two equal layers and one of another kind."""
    net: fw.Expr = fw.var("data", shape=(1, 16, 12, 12))
    for name in ("w1", "w2"):
        net = fw.nn.relu(fw.nn.conv2d(net, fw.var(name), kernel_size=(3, 3), channels=16, padding=(1, 1)))
    net = fw.nn.dense(fw.nn.batch_flatten(fw.nn.global_avg_pool2d(net)), fw.var("w3"), units=24)
    return fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))


def test_tuning(tmp_path: Path) -> None:
    mod, params = network()
    path, calls = tmp_path / "records.jsonl", list[tuple[str, int, int]]()
    found = fw.tune(mod, TARGET, params, level="heavy", trials=6, records=path,
                    progress=lambda what, done, total: calls.append((what, done, total)))  # fmt: skip
    assert len(found.groups) == 2 and {len(group.steps) for group in found.groups} == {1, 2}
    assert calls[0][1:] == (0, 2) and calls[-1] == ("", 2, 2)
    assert all(g.outcome and 2 <= len(g.outcome.timings) <= 7 for g in found.groups)
    assert found.after <= found.before
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {r["record"] for r in records} == {"timing", "decision"} and len(TuningStore(path)) == 2
    x = np.random.default_rng(0).normal(size=(1, 16, 12, 12)).astype(np.float32)
    plain = fw.build(mod, TARGET, params)
    fw.testing.assert_allclose(found.lib(data=x), plain(data=x), rtol=1e-5, atol=1e-6)
    # What is known is not searched again.
    again = fw.tune(mod, TARGET, params, level="fast", records=path)
    assert [g.outcome for g in again.groups] == [None, None]
    measured = [c.measured for choice in again.lib.explain("nn.conv2d").choices for c in choice.candidates]
    assert any(measured) and "measured" in str(again.lib.explain())


def decided(store: TuningStore, implementation: str, config: dict[str, int]) -> fw.CompiledModule:
    """The network with one decision for its convolutions."""
    mod, params = network()
    lib = fw.build(mod, TARGET, params)
    for step in lib.program.leaf_steps():
        assert isinstance(step, KernelStep)
        if "conv2d" in step.name:
            known = tuple(constants_of(lib.program, step))
            place = place_of(lib.target, lib.code.isa, 1)
            store.decide(place.key(step.function, known), implementation, config, "normal")
    return fw.build(mod, TARGET, params, records=store)


def test_builds_use_decisions() -> None:
    lib = decided(TuningStore(), "loops.cpu", {})
    (choice, *_) = lib.explain("nn.conv2d").choices
    assert choice.chosen == "loops.cpu"
    steps = [s for s in lib.program.leaf_steps() if "conv2d" in s.name]
    assert all("loops" in lib.code.of(s).implementation for s in steps if isinstance(s, KernelStep))


def test_decisions_with_numbers() -> None:
    plain = decided(TuningStore(), "no such thing", {})
    (choice, *_) = plain.explain("nn.conv2d").choices
    (candidate,) = [c for c in choice.candidates if c.name == choice.chosen]
    config = {**candidate.config, "points": 8 if candidate.config["points"] != 8 else 4}
    assert decided(TuningStore(), choice.chosen, config).explain("nn.conv2d").choices[0].chosen == choice.chosen
    impossible = decided(TuningStore(), choice.chosen, {"points": 10**6})
    (same, *_) = impossible.explain("nn.conv2d").choices
    assert [c.config for c in same.candidates if c.name == choice.chosen] == [candidate.config]


def test_records_need_the_same_number_of_threads() -> None:
    store = TuningStore()
    decided(store, "loops.cpu", {})
    mod, params = network()
    assert (
        fw.build(mod, "cpu -num-cores=2", params, records=store).explain("nn.conv2d").choices[0].chosen != "loops.cpu"
    )


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mod, params = network()
    lib = fw.build(mod, TARGET, params)
    step = next(s for s in lib.program.leaf_steps() if "conv2d" in s.name and isinstance(s, KernelStep))
    constants = constants_of(lib.program, step)
    options = options_of(make_problem(step.function, "K", lib.code.isa, 1, tuple(constants)))
    with cpu_benches(lib.runnable, lib.target) as make_bench:
        bench = make_bench(step.function, constants, options)
    assert isinstance(bench, CpuBench)
    good = bench.make(bench.options[:1])[0]
    assert not isinstance(good, str) and good.seconds() > 0
    off = [array + 1e-2 for array in bench._reference]
    bench._reference[:] = off
    (wrong,) = bench.make([Option("loops.cpu", {})])
    assert isinstance(wrong, str) and "result 0 is wrong: off by" in wrong


@pytest.mark.parametrize(
    ("got", "expected", "problem"),
    [
        (np.array([1, 2], "float32"), np.array([1, 2.0001], "float32"), None),
        (np.array([1, 2], "float32"), np.array([1, 2.01], "float32"), "off by 0.005 of the largest value; "),
        (np.array([1, np.nan], "float32"), np.array([1, 2], "float32"), "infinities or NaN stand elsewhere"),
        (np.array([1, np.nan], "float32"), np.array([1, np.nan], "float32"), None),
        (np.array([1, 2], "int32"), np.array([1, 3], "int32"), "1 of 2 elements differ"),
        (np.array([], "float32"), np.array([], "float32"), None),
    ],
)  # fmt: skip
def test_mismatch(got: Array, expected: Array, problem: str | None) -> None:
    found = mismatch(got, expected)
    assert found == problem or (problem and found and found.startswith(problem))


def test_withdrawn_where_the_whole_is_slower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mod, params = network()
    monkeypatch.setattr(judge, "compare", lambda one, other: (1.0, 2.0))
    monkeypatch.setattr(tuning, "search", _last)
    found = fw.tune(mod, TARGET, params, level="heavy", trials=2, records=tmp_path / "r.jsonl")
    assert found.withdrawn == 2 and found.after == found.before and "withdrawn" in str(found)
    plain = fw.build(mod, TARGET, params)
    assert found.lib.code.files == plain.code.files


def _last(*given: object) -> Outcome:
    """A search that finds the plain loops best."""
    return Outcome(Option("loops.cpu", {}), 1.0, 2.0, [])


@pytest.mark.parametrize("times", [1, 2, 99])
def test_groups_that_cannot_be_searched(
    times: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once more, then the others go on; where none can be searched it is an error."""
    mod, params = network()
    fails = iter([True] * times)

    def crashing(*given: object) -> Outcome:
        if next(fails, False):
            raise CannotTune("crashed (signal SIGKILL)")
        return _last()

    monkeypatch.setattr(tuning, "search", crashing)
    monkeypatch.setattr(judge, "compare", lambda one, other: (1.0, 1.0))
    if times == 99:
        with pytest.raises(fw.FusewireError, match=r"fused_.*: crashed \(signal SIGKILL\)"):
            fw.tune(mod, TARGET, params, level="heavy", records=tmp_path / "r.jsonl")
        return
    found = fw.tune(mod, TARGET, params, level="heavy", records=tmp_path / "r.jsonl")
    left = [group for group in found.groups if group.problem]
    assert len(left) == times - 1 and "crashed (signal SIGKILL); once more" in caplog.text
    assert ("not searched: crashed" in str(found)) == (times == 2) == ("it is left alone" in caplog.text)
    assert all(group.decision is None for group in left) and any(group.decision for group in found.groups)


def test_mistakes(tmp_path: Path) -> None:
    mod, params = network()
    with pytest.raises(fw.FusewireError, match="no tuning level 'extreme'; the levels are none, fast"):
        fw.tune(mod, TARGET, params, level="extreme")
    for wrong in (-1, 1.5, True, float("inf"), "2"):
        with pytest.raises(fw.FusewireError, match="trials must be a whole number that is not negative, got"):
            fw.tune(mod, TARGET, params, trials=wrong)  # type: ignore[arg-type]
    with pytest.raises(fw.FusewireError, match="records must be a path or a TuningStore, got 5"):
        fw.tune(mod, TARGET, params, records=5)  # type: ignore[arg-type]
    with pytest.raises(fw.FusewireError, match="seconds must be a number that is not negative, got -1"):
        fw.tune(mod, TARGET, params, seconds=-1)
    with pytest.raises(fw.FusewireError, match="cannot read tuning records"):
        fw.build(mod, TARGET, params, records=tmp_path)


def test_level_none_tries_nothing(tmp_path: Path) -> None:
    mod, params = network()
    found = fw.tune(mod, TARGET, params, level="none", records=tmp_path / "r.jsonl")
    assert all(group.outcome is None for group in found.groups) and not (tmp_path / "r.jsonl").exists()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = classifier(tmp_path / "net.onnx")
    options = ["--num-cores", 1, "--records", "r.jsonl"]
    out = fine("tune", model, *options, "--level", "fast")
    assert "ms before" in out and "records: r.jsonl" in out and Path("r.jsonl").exists()
    report = json.loads(fine("tune", model, *options, "--level", "fast", "--json"))
    assert report["level"] == "fast" and report["groups"] and all(not g["tried"] for g in report["groups"])
    assert "measured" in fine("explain", model, *options)
    assert "measured" not in fine("explain", model, "--num-cores", 1)
    bad_usage("tune", model, "--level", "extreme")
    bad_usage("tune", model, "--trials", -1)


def test_options_begin_with_what_runs_anyway() -> None:
    mod, params = network()
    lib = fw.build(mod, TARGET, params)
    for step in lib.program.leaf_steps():
        assert isinstance(step, KernelStep)
        problem = make_problem(step.function, "K", lib.code.isa, 1, tuple(constants_of(lib.program, step)))
        assert options_of(problem)[0].implementation == lib.code.of(step).implementation


def test_records_say_what_they_are_for() -> None:
    conv = fw.nn.conv2d(fw.var("x", shape=(1, 2, 9, 9, 16)), fw.const(np.zeros((40, 32, 3, 5), np.float32)),
                        strides=(2, 1), padding=(1, 2), data_layout="NCHW16c", out_layout="NCHW8c")  # fmt: skip
    lib = fw.build(fw.nn.relu(conv), TARGET)
    (step,) = (s for s in lib.program.leaf_steps() if "conv2d" in s.name)
    assert work_of(step.function).startswith("nn.conv2d+nn.relu 32_40_3_5_2_1_1_1 Tensor[(1, 2, 9, 9, 16), float32] ")


def test_libraries_are_measured_on_cpu_only() -> None:
    mod, params = network()
    with pytest.raises(fw.TargetError, match="-libs=auto measures on cpu only, not on opencl"):
        fw.build(mod, "opencl -libs=auto", params)


def test_a_locked_build_needs_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided for a device cannot be looked up without it; other builds go on as if nothing was tuned."""

    def missing(wanted: str | None) -> None:
        raise fw.DeviceNotFound("there is no OpenCL device")

    monkeypatch.setattr(decide, "find", missing)
    mod, params = network()
    store = TuningStore()
    decided(store, "loops.cpu", {})
    assert "__kernel" in fw.build(mod, "opencl", params, records=store).get_source()
    path = tmp_path / "fusewire.lock"
    path.write_text("")
    with pytest.raises(fw.DeviceNotFound, match="there is no OpenCL device"):
        fw.build(mod, "opencl", params, records=path, locked=True)


# Lock files


def test_locked_builds_follow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mod, params = network()
    store = TuningStore()
    wanted = decided(store, "loops.cpu", {})
    count = fw.lock(mod, TARGET, params, records=store, path=tmp_path / "fusewire.lock")
    lines = (tmp_path / "fusewire.lock").read_text().splitlines()
    assert count == len(lines) == 2 and lines == sorted(lines) and not any("seconds" in line for line in lines)
    assert fw.build(mod, TARGET, params).code.files != wanted.code.files
    monkeypatch.chdir(tmp_path)
    assert fw.build(mod, TARGET, params, locked=True).code.files == wanted.code.files
    named = fw.build(mod, TARGET, params, records=tmp_path / "fusewire.lock", locked=True)
    assert named.code.files == wanted.code.files


def test_a_lock_must_be_complete(tmp_path: Path) -> None:
    mod, params = network()
    path = tmp_path / "fusewire.lock"
    with pytest.raises(fw.FusewireError, match=r"there is no .* for a locked build; `fusewire lock` writes it"):
        fw.build(mod, TARGET, params, records=path, locked=True)
    fw.lock(mod, TARGET, params, path=path)
    whole = path.read_text()
    for line in whole.splitlines():
        path.write_text(whole.replace(f"{line}\n", ""))
        with pytest.raises(fw.FusewireError, match=r"lacks: nn\.(conv2d|dense)"):
            fw.build(mod, TARGET, params, records=path, locked=True)
    path.write_text(re.sub(r'"blocks": \d+', '"blocks": 777', whole))
    with pytest.raises(fw.FusewireError, match=r"says .*777.*which is not there"):
        fw.build(mod, TARGET, params, records=path, locked=True)
    path.write_text(whole)
    with pytest.raises(fw.FusewireError, match=r"lacks: .*, 2 threads"):
        fw.build(mod, "cpu -num-cores=2", params, records=path, locked=True)


def test_lock_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = classifier(tmp_path / "net.onnx")
    assert "there is no 'fusewire.lock'" in failed("compile", model, "--locked")
    assert fine("lock", model) == "wrote 2 decisions to fusewire.lock\n"
    fine("compile", model, "--locked", "-o", "net.fw")
    assert "--locked is for ONNX models" in bad_usage("run", "net.fw", "--locked")


def test_a_locked_file_holds_nothing_else(tmp_path: Path) -> None:
    mod, params = network()
    path = tmp_path / "fusewire.lock"
    fw.lock(mod, TARGET, params, path=path)
    whole = path.read_text()
    for text, message in (
        ("", "lacks: nn"),
        ("garbage\n", "line 1: no decision"),
        (whole + whole[:40], "line 3: no decision"),
        (whole + re.sub(r'"points": \d+', '"points": 1', whole), "two decisions for one group"),
    ):
        path.write_text(text)
        with pytest.raises(fw.FusewireError, match=message):
            fw.build(mod, TARGET, params, records=path, locked=True)
    path.write_text(whole + whole)  # the same twice, as merging gives it
    fw.build(mod, TARGET, params, records=path, locked=True)


def test_named_records_must_be_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mod, params = network()
    with pytest.raises(fw.FusewireError, match=r"there are no tuning records at .*typo"):
        fw.build(mod, TARGET, params, records=tmp_path / "typo.jsonl")
    (tmp_path / "odd.jsonl").write_text("what is this\n")
    fw.build(mod, TARGET, params, records=tmp_path / "odd.jsonl")
    assert "passing over 1 lines" in caplog.text


def test_a_smaller_search_leaves_room_for_a_larger_one(tmp_path: Path) -> None:
    mod, params = network()
    path = tmp_path / "records.jsonl"
    fw.tune(mod, TARGET, params, level="fast", trials=0, records=path)
    found = fw.tune(mod, TARGET, params, level="fast", trials=1, records=path)
    assert all(group.outcome is not None and len(group.outcome.timings) <= 2 for group in found.groups)


def test_mistakes_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = classifier(tmp_path / "net.onnx")
    assert "give --records FILE" in bad_usage("tune", model)  # the tests have no records of their own
    assert "does not follow a lock file" in bad_usage("tune", model, "--locked")
    assert "nothing was recorded" in fine("tune", model, "--level", "none", "--records", "r.jsonl")
