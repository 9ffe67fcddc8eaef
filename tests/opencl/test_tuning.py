"""Tuning on OpenCL devices: decisions are found, remembered by device and driver, and survive what goes wrong."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.targets.launched.engine import LaunchEngine
from fusewire.targets.opencl.devices import find
from fusewire.targets.opencl.runtime import Session
from fusewire.targets.program import KernelStep
from fusewire.targets.target import Target
from fusewire.targets.tuning import judge, tune
from fusewire.targets.tuning.bench import constants_of
from fusewire.targets.tuning.decide import opencl_place, place_of
from fusewire.targets.tuning.launched import LaunchBench, LaunchTrial, launch_benches
from fusewire.targets.tuning.search import Option, Outcome
from fusewire.targets.tuning.serving import Job
from fusewire.targets.tuning.store import TuningStore
from tests.cli_models import classifier, fine
from tests.opencl.present import DEVICES, each_device, needs_device

CRASH = "*(volatile __global int *)16 = 1;"
HANG = "volatile int fw_never = 0; while (!fw_never) {}"


def network() -> tuple[fw.IRModule, dict[str, fw.NDArray]]:
    net = fw.nn.dense(fw.var("data", shape=(64, 32)), fw.var("w"), units=256)
    return fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), fw.nn.relu(net)))


@each_device
def test_tuning(target: str, tmp_path: Path) -> None:
    mod, params = network()
    path = tmp_path / "records.jsonl"
    found = fw.tune(mod, target, params, level="fast", trials=2, records=path)
    (group,) = found.groups
    assert group.outcome is not None and not any(t.problem for t in group.outcome.timings)
    tried = [t.config.get("group") for t in group.outcome.timings]
    assert tried == [None, None, None]  # a third of six trials or more would be for sizes of work-groups
    assert found.after <= found.before
    key = json.loads(path.read_text().splitlines()[0])["key"]
    device = find(Target(target).device)
    assert key["target"] == "opencl" and key["device"] == device.name
    assert device.driver in key["driver"] and device.platform in key["driver"]
    x = np.random.default_rng(0).uniform(-1, 1, (64, 32)).astype(np.float32)
    expected = np.maximum(x.astype(np.float64) @ params["w"].numpy().astype(np.float64).T, 0)
    np.testing.assert_allclose(found.lib(data=x), expected, atol=1e-5)


@needs_device
def test_what_is_known_is_not_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that can be written in one way only still has its sizes."""
    monkeypatch.setattr(Session, "sizes", lambda self, items: [2, 4] if items >= 4 else [])
    target, path = f"opencl -device={DEVICES[0].index}", tmp_path / "r.jsonl"
    (group,) = fw.tune(plain(), target, level="fast", records=path).groups
    assert group.outcome is not None
    assert [t.config for t in group.outcome.timings] == [{}, {"group": 2}, {"group": 4}]
    before = path.read_bytes()
    again = fw.tune(plain(), target, level="fast", records=path)
    assert [g.outcome for g in again.groups] == [None] and path.read_bytes() == before
    assert "measured" in str(fw.build(plain(), target, records=path).explain())


def plain() -> fw.Expr:
    return fw.nn.relu(fw.var("data", shape=(32, 1024)))


def decided(mod: fw.IRModule, params: dict[str, fw.NDArray], target: str, config: dict[str, int]) -> TuningStore:
    """Records that give the dense layer a config, its default beside."""
    lib = fw.build(mod, target, params)
    (step,) = lib.program.leaf_steps()
    assert isinstance(step, KernelStep)
    place = place_of(lib.target, lib.runnable.code.isa, lib.threads)
    default = next(c.config for c in lib.explain().choices[0].candidates if c.name == "gemm.opencl")
    store = TuningStore()
    known = constants_of(lib.program, step)
    store.decide(place.key(step.function, known), "gemm.opencl", {**default, **config}, "normal")
    return store


@needs_device
def test_a_build_follows_the_size_of_work_groups() -> None:
    mod, params = network()
    target = f"opencl -device={DEVICES[0].index}"
    lib = fw.build(mod, target, params, records=decided(mod, params, target, {"group": 2}))
    assert "reqd_work_group_size(2, 1, 1)" in lib.get_source()
    module = fw.GraphModule(lib["default"](fw.device("opencl")))
    engine = module._engine
    assert isinstance(engine, LaunchEngine)
    launches = engine.launches([s for s in lib.program.steps if isinstance(s, KernelStep)])
    assert launches and all(launch.local == 2 for launch in launches)
    x = np.random.default_rng(0).uniform(-1, 1, (64, 32)).astype(np.float32)
    module.run(data=x)
    np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(x @ params["w"].numpy().T, 0), atol=1e-5)
    assert "group=2" not in str(fw.build(mod, target, params).explain())
    assert "FW_LOCAL, 1, 1" in fw.build(mod, target, params).get_source()


@needs_device
@pytest.mark.parametrize("group", [-1, 0, 65, 1 << 40])
def test_work_groups_that_cannot_be_are_passed_over(group: int, tmp_path: Path) -> None:
    mod, params = network()
    target = f"opencl -device={DEVICES[0].index} -max_num_threads=64"
    store = decided(mod, params, target, {"group": group})
    assert fw.build(mod, target, params, records=store).get_source() == fw.build(mod, target, params).get_source()
    with pytest.raises(
        fw.FusewireError, match=rf"'group': {group}, .*}}, but work-groups have 1 to 64 items: nn\.dense"
    ):
        fw.build(mod, target, params, records=evolve(store, locked=True))


@needs_device
def test_open_work_groups_keep_to_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled for groups of the size that they are launched with, else the driver refuses them."""
    monkeypatch.setattr(Session, "local", property(lambda self: 64))
    x = np.random.default_rng(0).uniform(-1, 1, (32, 1024)).astype(np.float32)
    for most, expected in ((32, 32), (256, 64)):
        lib = fw.build(plain(), f"opencl -device={DEVICES[0].index} -max_num_threads={most}")
        module = fw.GraphModule(lib["default"](fw.device("opencl")))
        assert isinstance(module._engine, LaunchEngine)
        launches = module._engine.launches([s for s in lib.program.leaf_steps() if isinstance(s, KernelStep)])
        assert launches and all(launch.local == expected for launch in launches)
        module.run(data=x)
        np.testing.assert_array_equal(module.get_output(0).numpy(), np.maximum(x, 0))


@needs_device
@pytest.mark.parametrize("change", ["device", "driver"])
def test_records_of_another_device_or_driver_are_not_used(change: str) -> None:
    mod, params = network()
    target = f"opencl -device={DEVICES[0].index}"
    store = decided(mod, params, target, {"group": 2})
    (key,) = store._entries
    entry = store._entries.pop(key)
    store._entries[evolve(key, **{change: "another"})] = entry  # type: ignore[arg-type]
    assert "FW_LOCAL, 1, 1" in fw.build(mod, target, params, records=store).get_source()


@needs_device
def test_keys_name_device_and_driver() -> None:
    one = DEVICES[0]
    isa = fw.build(network()[0], "opencl").runnable.code.isa
    place = opencl_place(one, isa, 2)
    assert opencl_place(evolve(one, driver="other"), isa, 2) != place != opencl_place(evolve(one, name="x"), isa, 2)


@pytest.mark.parametrize(
    ("kind", "units", "most", "local", "items", "expected"),
    [
        ("cpu", 2, 8192, 1, 100, [2, 4, 8, 16, 32, 64]),
        ("cpu", 64, 8192, 1, 100, []),
        ("cpu", 2, 16, 1, 100, [2, 4, 8, 16]),
        ("gpu", 64, 256, 64, 1000, [32, 128, 16, 256, 8, 4, 2, 1]),
        ("gpu", 64, 256, 64, 5, [8, 4, 2, 1]),
        ("gpu", 64, 256, 64, 0, []),
    ],
)
def test_sizes_of_work_groups(kind: str, units: int, most: int, local: int, items: int, expected: list[int]) -> None:
    raw = SimpleNamespace(max_work_item_sizes=[1024, 1024, 64])
    device = SimpleNamespace(type=kind, compute_units=units, max_group=most, raw=raw)
    assert Session.sizes(SimpleNamespace(device=device, local=local), items) == expected  # type: ignore[arg-type]


# What goes wrong


def poisoned(job: Job, statement: str) -> Job:
    """A candidate whose kernels begin with a statement."""
    files = [(name, re.sub(r"(__kernel[^{]*\{)", rf"\1 {statement}", text)) for name, text in job.files]
    assert files != job.files
    return evolve(job, files=files)


@each_device
def test_what_crashes_or_hangs_is_recorded_and_the_search_goes_on(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = fw.build(plain(), target)
    (step,) = lib.program.leaf_steps()
    good, crashing, hanging = (Option("loops.opencl", {"group": n}) for n in (1, 2, 4))
    real = LaunchBench.job

    def planted(self: LaunchBench, option: Option) -> Job:
        statement = {2: CRASH, 4: HANG}.get(option.config.get("group", 0))
        return poisoned(real(self, option), statement) if statement else real(self, option)

    monkeypatch.setattr(LaunchBench, "job", planted)
    with launch_benches(lib.runnable, Target(target)) as make_bench:
        bench = make_bench(step.function, {}, [good])
        assert isinstance(bench, LaunchBench)
        (first,) = bench.make([good])
        assert isinstance(first, LaunchTrial) and first.seconds() > 0
        (crashed,) = bench.make([crashing])
        assert isinstance(crashed, str) and crashed.startswith("crashed (signal SIG")
        bench.limit = 1.5
        assert bench.make([hanging]) == ["took longer than 1.5 s"]
        bench.limit = 60.0
        assert first.seconds() > 0  # in another process, made again
        assert bench.worker.child.ended == 2
    assert bench.worker.child._process is None


@needs_device
def test_a_refused_launch_names_kernel_and_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Work-groups that are larger than any device has them; they are never tried, so one is put in place of 4."""
    target = f"opencl -device={DEVICES[0].index}"
    monkeypatch.setattr(Session, "sizes", lambda self, items: [1 << 20, 4, 2])
    real = LaunchBench.job

    def job(self: LaunchBench, option: Option) -> Job:
        made = real(self, option)
        if option.config.get("group") != 4:
            return made
        large = [evolve(s, calls=tuple(evolve(call, group=1 << 20) for call in s.calls)) for s in made.steps]
        return evolve(made, steps=tuple(large))

    monkeypatch.setattr(LaunchBench, "job", job)
    caplog.set_level(logging.WARNING, "fusewire")
    found = fw.tune(plain(), target, level="fast", records=tmp_path / "r.jsonl")
    assert found.groups[0].outcome is not None
    timings = found.groups[0].outcome.timings
    assert [t.config.get("group") for t in timings if t.problem] == [4]
    (failed,) = [t for t in timings if t.problem]
    assert failed.seconds is None and failed.problem and re.search("kernel|refused", failed.problem)
    assert re.search(r"loops.opencl group=4 is no candidate for fusewire_default_\w+: ", caplog.text)
    assert {t.config.get("group") for t in timings if t.seconds} == {None, 2}


@needs_device
def test_locked_builds_follow_the_file(tmp_path: Path) -> None:
    mod, params = network()
    target = f"opencl -device={DEVICES[0].index}"
    store = decided(mod, params, target, {"group": 2})
    path = tmp_path / "fusewire.lock"
    assert fw.lock(mod, target, params, records=store, path=path) == 1
    assert '"group": 2' in path.read_text() and "seconds" not in path.read_text()
    lib = fw.build(mod, target, params, records=path, locked=True)
    assert "reqd_work_group_size(2, 1, 1)" in lib.get_source()
    path.write_text(path.read_text().replace(DEVICES[0].name, "another device"))
    with pytest.raises(fw.FusewireError, match=r"lacks: nn\.dense"):
        fw.build(mod, target, params, records=path, locked=True)


@needs_device
def test_withdrawn_where_the_whole_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"opencl -device={DEVICES[0].index}"
    monkeypatch.setattr(judge, "compare", lambda one, other: (1.0, 2.0))
    monkeypatch.setattr(tune, "search", lambda *given: Outcome(Option("loops.opencl", {"group": 2}), 1.0, 2.0, []))
    found = fw.tune(plain(), target, level="fast", records=tmp_path / "r.jsonl")
    assert found.withdrawn == 1 and found.lib.get_source() == fw.build(plain(), target).get_source()


@needs_device
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = classifier(tmp_path / "net.onnx")
    options = ["--target", f"opencl -device={DEVICES[0].index}", "--records", "r.jsonl"]
    out = fine("tune", model, *options, "--level", "fast", "--trials", 1)
    assert "ms before" in out and "records: r.jsonl" in out and ".opencl" in out
    assert "measured" in fine("explain", model, *options)


@needs_device
def test_killed_at_any_time() -> None:
    """Five tuners; `python -m tests.kill_tuner` kills fifty."""
    options = ["--count", "5", "--most", "4", "--target", f"opencl -device={DEVICES[0].index}"]
    command = [sys.executable, "-m", "tests.kill_tuner", *options]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("5 tuners killed"), run.stderr
    assert re.search(r"killed, [1-5] after a first record", run.stdout), run.stdout
