"""Tuning on cuda, on a double of CuPy in both processes: what is found is used, and what goes wrong is survived."""

import gc
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.ir.errors import DeviceError
from fusewire.targets.backends import launch_device
from fusewire.targets.cuda.device import CudaDevice
from fusewire.targets.launched import gpu
from fusewire.targets.launched.device import sizes_on_gpu
from fusewire.targets.launched.engine import LaunchEngine
from fusewire.targets.program import KernelStep
from fusewire.targets.rocm.device import RocmDevice
from fusewire.targets.target import Target
from fusewire.targets.tuning import decide, judge, launched, tune
from fusewire.targets.tuning.launched import LaunchBench, LaunchTrial, launch_benches
from fusewire.targets.tuning.search import Option
from fusewire.targets.tuning.serving import Job
from fusewire.targets.tuning.store import TuningStore
from tests.cli_models import classifier, fine
from tests.cuda.double import TRAP, Double, install
from tests.cuda.host import compiler
from tests.cuda.served import BEST, cost

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler for x86")
BOUNDS = f"__launch_bounds__({BEST})"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Double:
    monkeypatch.setattr(launched, "SERVING", "tests.cuda.served")
    monkeypatch.setattr(judge, "compare", lambda one, other: (2.0, 1.0))
    monkeypatch.setattr(CudaDevice, "sizes", lambda self, items: [128, BEST] if items else [])
    return install(monkeypatch, Double(cost=cost))


def network() -> fw.Expr:
    """There is one way to write this, with groups of any size."""
    return fw.cumsum(fw.var("data", shape=(2048, 4)), axis=1)


def dense() -> fw.Function:
    net = fw.nn.dense(fw.var("data", shape=(2, 40)), fw.var("w"), units=8)
    return fw.Function(fw.analysis.free_vars(net), net)


@needs_compiler
def test_what_is_found_is_remembered_and_used(cuda: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    found = fw.tune(network(), "cuda", level="fast", seconds=600, records=path)
    (group,) = found.groups
    assert not found.withdrawn and group.outcome is not None and group.decision is not None
    assert not any(timing.problem for timing in group.outcome.timings)
    assert (group.outcome.first_seconds, group.outcome.seconds) == (2e-3, 1e-3)
    assert group.decision.config["group"] == BEST and BOUNDS in found.lib.get_source()
    keys = {json.dumps(json.loads(line)["key"]) for line in path.read_text().splitlines()}
    (key,) = map(json.loads, keys)
    assert (key["target"], key["device"], key["driver"]) == ("cuda", "Double", "sm_90, driver 13000, cuda")
    before = path.read_bytes()
    monkeypatch.setattr(tune, "search", None)  # a second search would fail
    again = fw.tune(network(), "cuda", level="fast", seconds=600, records=path)
    assert [g.outcome for g in again.groups] == [None] and path.read_bytes() == before
    lib = fw.build(network(), "cuda", records=path)
    assert f"chosen, measured 1000.0 us, group={BEST}" in str(lib.explain())
    module = fw.GraphModule(lib["default"](fw.device("cuda")))
    assert isinstance(module._engine, LaunchEngine)
    launches = module._engine.launches([s for s in lib.program.steps if isinstance(s, KernelStep)])
    assert [launch.local for launch in launches] == [BEST]
    x = np.random.default_rng(0).uniform(-1, 1, (2048, 4)).astype(np.float32)
    module.run(data=x)
    np.testing.assert_allclose(module.get_output(0).numpy(), np.cumsum(x.astype(np.float64), 1), atol=1e-6)


@needs_compiler
def test_knobs_of_schedules_are_tried(cuda: Double, tmp_path: Path) -> None:
    """Work-groups that kernels are written for; and the best of two schedules."""
    mod, params = fw.testing.create_workload(dense())
    found = fw.tune(mod, "cuda", params, level="fast", trials=2, seconds=600, records=tmp_path / "r.jsonl")
    (group,) = found.groups
    assert group.outcome is not None and not any(timing.problem for timing in group.outcome.timings)
    assert len({timing.implementation for timing in group.outcome.timings}) == 3
    x = np.random.default_rng(0).uniform(-1, 1, (2, 40)).astype(np.float32)
    np.testing.assert_allclose(found.lib(data=x), x.astype(np.float64) @ params["w"].numpy().T, atol=1e-5)


def decided(path: Path, target: str = "cuda", group: int = BEST) -> None:
    """Records that give the network groups of so many items."""
    lib = fw.build(network(), target)
    (step,) = lib.program.leaf_steps()
    key = decide.place_of(lib.target, lib.runnable.code.isa, lib.threads).key(step.function, [])
    TuningStore(path).decide(key, "loops.cuda", {"group": group}, "normal")


@pytest.mark.parametrize("change", [{"name": "Another"}, {"driver": 12080}])
def test_records_of_another_device_or_driver_are_not_used(
    change: Any, cuda: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    decided(path)
    assert BOUNDS in fw.build(network(), "cuda", records=path).get_source()
    install(monkeypatch, Double(cost=cost, **change))
    assert BOUNDS not in fw.build(network(), "cuda", records=path).get_source()


@pytest.mark.parametrize("other", ["cuda -arch=sm_90", "cuda -arch=sm_80"])
def test_records_are_for_the_architecture_that_is_compiled_for(other: str, cuda: Double, tmp_path: Path) -> None:
    """Whether it is that of the device, or one named that the device's own stands in for (see `compatible`)."""
    for number, (tuned, built) in enumerate((("cuda", other), (other, "cuda"))):
        path = tmp_path / f"{number}.jsonl"
        decided(path, tuned)
        assert BOUNDS in fw.build(network(), built, records=path).get_source()
        assert BOUNDS not in fw.build(network(), "cuda -arch=sm_90a", records=path).get_source()


def test_code_for_another_architecture_takes_no_records(
    cuda: Double, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "records.jsonl"
    decided(path)
    caplog.set_level(logging.INFO, "fusewire")
    assert BOUNDS not in fw.build(network(), "cuda -arch=sm_100", records=path).get_source()
    assert "without tuning records: the code was made for sm_100, and the device is sm_90" in caplog.text
    with pytest.raises(DeviceError, match="made for sm_100, and the device is sm_90"):
        fw.build(network(), "cuda -arch=sm_100", records=path, locked=True)


@pytest.mark.parametrize("group", [-1, 0, 33, 128, 1 << 40])
def test_work_groups_that_cannot_be_are_passed_over(group: int, cuda: Double, tmp_path: Path) -> None:
    target, path = "cuda -max_num_threads=64", tmp_path / "records.jsonl"
    decided(path, target, group)
    plain = fw.build(network(), target).get_source()
    assert fw.build(network(), target, records=path).get_source() == plain
    told = rf"records\.jsonl' says loops\.cuda {{'group': {group}}}, but .* 32 to 64 items, a multiple of 32: cumsum"
    with pytest.raises(fw.FusewireError, match=told):
        fw.build(network(), target, records=path, locked=True)
    decided(path, target, 32)
    assert "__launch_bounds__(32)" in fw.build(network(), target, records=path).get_source()


def test_a_build_without_a_device_takes_no_records(
    cuda: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fusewire.lock"
    decided(path)
    install(monkeypatch, Double(devices=0))
    caplog.set_level(logging.INFO, "fusewire")
    assert BOUNDS not in fw.build(network(), "cuda", records=path).get_source()
    assert "without tuning records: there is no CUDA device" in caplog.text
    with pytest.raises(fw.DeviceNotFound, match="there is no CUDA device"):
        fw.build(network(), "cuda", records=path, locked=True)
    with pytest.raises(fw.DeviceNotFound, match="there is no CUDA device"):
        fw.tune(network(), "cuda", records=tmp_path / "r.jsonl")


def test_a_place_on_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    one = RocmDevice(0, "AMD Instinct MI250X", "gfx90a", 60342131, 1 << 34, 110)
    monkeypatch.setattr(gpu.GpuKind, "device", lambda self, target, index=0: one)
    lib = fw.build(network(), "rocm")
    place = decide.place_of(lib.target, lib.runnable.code.isa, 2)
    assert (place.target, place.device, place.driver) == ("rocm", one.name, "gfx90a, driver 60342131, rocm")


@pytest.mark.parametrize(
    ("items", "expected"), [(0, []), (5, [32]), (100, [64, 32]), (10**6, [128, 512, 64, 1024, 32])]
)
def test_sizes_of_work_groups(items: int, expected: list[int]) -> None:
    assert sizes_on_gpu(items) == expected


def test_sizes_keep_to_the_target(cuda: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole warps of the architecture, no more than -max_num_threads=, and not what it is without a decision."""
    monkeypatch.setattr(CudaDevice, "sizes", lambda self, items: sizes_on_gpu(items))
    for target, expected in (("cuda -max_num_threads=128", [64, 32]), ("rocm -arch=gfx90a", [128, 64])):
        lib = fw.build(fw.cumsum(fw.var("x", shape=(2048, 4)), axis=1), target)
        (step,) = lib.program.leaf_steps()
        device = launch_device(Target("cuda"))
        kind = lib.target.kind
        bench = LaunchBench(step.function, {}, lib.runnable, kind, device, [], None)  # type: ignore[arg-type]
        option = Option(f"loops.{kind}", {})
        bench.job(option)
        assert [other.config["group"] for other in bench.resized(option)] == expected


# What goes wrong


def planted(monkeypatch: pytest.MonkeyPatch, statements: dict[int, str]) -> None:
    """Let the kernels of candidates begin with statements, by their `group`."""
    real = LaunchBench.job

    def job(self: LaunchBench, option: Option) -> Job:
        made = real(self, option)
        statement = statements.get(option.config.get("group", 0))
        if statement is None:
            return made
        files = [(name, text.replace("\n{\n", f"\n{{\n  {statement}\n")) for name, text in made.files]
        assert files != made.files
        return evolve(made, files=files)

    monkeypatch.setattr(LaunchBench, "job", job)


@needs_compiler
def test_what_breaks_the_process_is_told_and_others_go_on(cuda: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs: tests/opencl/test_tuning.py."""
    lib = fw.build(network(), "cuda")
    (step,) = lib.program.leaf_steps()
    name = lib.runnable.label(step)[1]
    statements = {32: f"/* {TRAP} */", 128: "*(volatile int *)16 = 1;"}
    planted(monkeypatch, statements)
    with launch_benches(lib.runnable, lib.target) as make_bench:
        options = {size: Option(name, {"group": size}) for size in statements}
        good = Option(name, {"group": BEST})
        bench = make_bench(step.function, {}, [good])
        assert isinstance(bench, LaunchBench)
        (first,) = bench.make([good])
        assert isinstance(first, LaunchTrial), first
        assert first.seconds() == 1e-3 and bench.worker.child.ended == 0
        (broken,) = bench.make([options[32]])
        assert isinstance(broken, str) and "illegal memory access" in broken and bench.worker.child.ended == 1
        assert first.seconds() == 1e-3  # made again, in another process
        (crashed,) = bench.make([options[128]])
        assert isinstance(crashed, str) and crashed.startswith("crashed (signal SIGSEGV")
        assert bench.worker.child.ended == 2


@needs_compiler
def test_candidates_are_freed_on_the_device(cuda: Double) -> None:
    """What no one holds here is forgotten there: the reference, and a candidate that was made a second time."""
    lib = fw.build(network(), "cuda")
    (step,) = lib.program.leaf_steps()
    with launch_benches(lib.runnable, lib.target) as make_bench:
        bench = make_bench(step.function, {}, [])
        assert isinstance(bench, LaunchBench)
        worker = bench.worker
        (trial,) = bench.make([Option(lib.runnable.label(step)[1], {"group": BEST})])
        assert isinstance(trial, LaunchTrial) and (trial.number, worker.forgotten) == (2, [1])
        assert trial.seconds() == 1e-3 and not worker.forgotten
        with pytest.raises(fw.FusewireError, match=r"crashed .*KeyError: 1\)"):
            worker.seconds(1, 60.0)
        assert worker.child.ended == 1 and trial.seconds() == 1e-3 and trial.number == 3
        del trial
        gc.collect()
        assert worker.forgotten == [3]


@needs_compiler
def test_a_search_survives_a_broken_process(
    cuda: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planted(monkeypatch, {128: f"/* {TRAP} */"})
    found = fw.tune(network(), "cuda", level="fast", seconds=600, records=tmp_path / "r.jsonl")
    (group,) = found.groups
    assert group.outcome is not None and group.decision is not None and group.decision.config["group"] == BEST
    (failed,) = {t.problem for t in group.outcome.timings if t.problem}
    assert "illegal memory access" in failed and "group=128 is no candidate for" in caplog.text


@needs_compiler
def test_wrong_results_never_win(cuda: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = fw.build(network(), "cuda")
    (step,) = lib.program.leaf_steps()
    planted(monkeypatch, {BEST: "return;"})
    with launch_benches(lib.runnable, lib.target) as make_bench:
        bench = make_bench(step.function, {}, [])
        (wrong,) = bench.make([Option(lib.runnable.label(step)[1], {"group": BEST})])
    assert isinstance(wrong, str) and wrong.startswith("result 0 is wrong: off by 1 of the largest value")


@needs_compiler
def test_command(cuda: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = classifier(tmp_path / "net.onnx")
    options = ["--target", "cuda", "--records", "r.jsonl"]
    out = fine("tune", model, *options, "--level", "fast", "--seconds", 0.01)
    assert "ms before" in out and "records: r.jsonl" in out and ".cuda" in out
    assert "measured" in fine("explain", model, *options)


def test_libraries_are_not_measured(cuda: Double) -> None:
    with pytest.raises(fw.TargetError, match="-libs=auto measures on cpu only, not on cuda; name libraries"):
        fw.build(network(), "cuda -libs=auto")
