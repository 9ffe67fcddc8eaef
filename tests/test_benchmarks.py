"""The benchmarks' own code, with small models; how fast anything is plays no part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.cli_models import classifier

pytest.importorskip("onnx")

import onnx

import fusewire as fw
from benchmarks import accuracy, figures, networks, opencl, roofline
from benchmarks.peers import __main__ as peers
from tests.opencl.present import DEVICES, needs_device

MODELS = {"simple", "c7s2", "c3_64_56", "c3_128_28", "c3_256_14", "c3_512_7", "c1_256_64_56", "c1_1024_256_14"}


def invoke(command: Any, *words: object) -> str:
    done = CliRunner().invoke(command, [str(w) for w in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_layers() -> None:
    assert set(networks.LAYERS) == MODELS
    assert set(networks.NETWORKS) - MODELS == {"resnet18", "resnet50", "mobilenetv2", "bert", "gpt2_step"}


def test_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is missing is named and left out; the table has our kernel beside the machine's peak."""
    model = classifier(tmp_path / "net.onnx")
    (tmp_path / "MNN.py").write_text('raise ImportError("not here")')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md")}
    options = ["--engines", "fusewire,mnn", "--threads", 1, "--rounds", 1]
    output = invoke(peers.main, model, *options, "--json", files["json"], "--markdown", files["md"])
    assert "mnn left out: ImportError: not here" in output
    report = json.loads(files["json"].read_text())
    (row,) = report["rows"]
    assert row["left_out"] == {"mnn": "ImportError: not here"} and "ratio" not in row
    assert row["ms"]["fusewire"]["min"] > 0 and row["profile"]["steps"]
    assert report["date"] and report["processor"] and report["versions"].keys() >= {"fusewire"}
    head, rule, line = files["md"].read_text().splitlines()
    assert head.startswith("| model") and set(rule) == {"|", "-"} and line.startswith("| net")
    assert peers.kernel(row) in line and " of " in peers.kernel(row)


def test_an_engine_that_dies_is_left_out() -> None:
    class Stub:
        def __init__(self, rounds: int) -> None:
            self.rounds = rounds

        def ask(self, what: str) -> list[float] | None:
            self.rounds -= 1
            return [1.0, 2.0] if self.rounds >= 0 else None

        def last_words(self) -> str:
            return "out of luck"

    left: dict[str, str] = {}
    workers: Any = {"fusewire": Stub(9), "other": Stub(2)}
    assert peers.alternate(workers, 3, left) == {"fusewire": [1.0, 2.0] * 3}
    assert left == {"other": "out of luck"}


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = {"model": "net", "threads": 1, "ms": {"fusewire": {"min": 1.0}, "other": {"min": 2.0}}, "ratio": {"min": 2.0}}
    figures.ratios([row, {**row, "threads": 2}, {"model": "alone", "threads": 1, "ms": {}}], tmp_path / "r.png", "here")
    model = classifier(tmp_path / "net.onnx")
    output = invoke(roofline.main, model, "--figure", tmp_path / "roofline.png", "--json", tmp_path / "r.json")
    assert "GFLOP/s" in output and json.loads((tmp_path / "r.json").read_text())["models"][0]["steps"]
    for name in ("r.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_accuracy(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = classifier(tmp_path / "net.onnx")
    output = invoke(accuracy.main, model, "--inputs", 2, "--steps", 1, "--limit", 1000, "--json", tmp_path / "a.json")
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert 0 < row["fusewire"]["largest"] < 1e-5 and row["steps"] and "steps by the error they add" in output
    failed = CliRunner().invoke(accuracy.main, [str(model), "--limit", "0"])
    assert failed.exit_code == 1 and "above 0" in failed.output


def test_errors_of_steps() -> None:
    """Each step is held against the exact result of its own inputs; views and several inputs are no obstacle."""
    x, y = fw.var("x", shape=(4, 6)), fw.var("y", shape=(6, 4))
    net = fw.nn.dense(fw.nn.softmax(x), fw.concatenate([fw.reshape(y, (4, 6)), fw.cumsum(x, axis=1)], 0))
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((4, 6), np.float32), "y": rng.standard_normal((6, 4), np.float32)}
    lib = fw.build(fw.Function([x, y], net), "cpu")
    found = accuracy.step_errors(lib, feed)
    assert {s.name for s in found} == {step.name for step in lib.program.leaf_steps()} and len(found) > 2
    assert all(0 <= s.rounding.largest < 1e-7 and s.fusewire.largest < 1e-5 for s in found)
    assert [s.fusewire.largest for s in found] == sorted((s.fusewire.largest for s in found), reverse=True)


def test_errors_of_results() -> None:
    exact = [np.array([1.0, -4.0]), np.array([7], np.int64)]
    error = accuracy.Error.of([np.array([1.5, -4.0], np.float32), np.array([8], np.int64)], exact)
    assert (error.largest, error.mean) == (0.125, 0.0625)
    assert error.worst(accuracy.Error(0.5, 0.0)) == accuracy.Error(0.5, 0.0625)


ROW: dict[str, Any] = {
    "model": "resnet18",
    "ms": {e: {"min": t} for e, t in (("fusewire", 2.0), ("cpu", 1.0), ("onnxruntime", 3.0), ("tinygrad", 1.5))},
    "between": 0.01,
}
LAYER: dict[str, Any] = {
    "model": "c3_64_56",
    "ms": {"fusewire": {"min": 1.0}},
    "kernel": {"peak": 200.0, "gflops": {"conv2d_nchwc.opencl": 190.0, "conv2d_winograd4_nchwc.opencl": 150.0}},
}


def test_goals_on_opencl() -> None:
    """Each figure is held against what is wanted; what was not measured has no verdict."""
    met = {goal.what: goal.met for row in (ROW, LAYER) for goal in opencl.goals(row)}
    assert met == {
        "resnet18: time / cpu target's": False,
        "resnet18: onnxruntime's time / ours": True,
        "resnet18: tinygrad's time / ours": False,
        "resnet18: part of a run between kernels": True,
        "c3_64_56: direct kernel / peak": True,
        "c3_64_56: Winograd / direct": False,
    }
    assert "NO" in opencl.verdicts([ROW], "simple")
    printed = opencl.table([ROW, LAYER], "github")
    assert "conv2d_nchwc 190, conv2d_winograd4_nchwc 150" in printed and "| resnet18" in printed


def test_rows_measured_again_stand_in_for_the_old_ones() -> None:
    old = [{"model": "a", "n": 1}, {"model": "b", "n": 1}]
    assert opencl.merged(old, [{"model": "c", "n": 2}, {"model": "a", "n": 2}]) == [
        {"model": "a", "n": 2}, {"model": "b", "n": 1}, {"model": "c", "n": 2},
    ]  # fmt: skip


@needs_device
def test_kernels_against_the_peak(tmp_path: Path) -> None:
    """All implementations that fit are timed, the winograd ones beside the direct one, and so is a run as a whole."""
    path = tmp_path / "layer.onnx"
    onnx.save(networks.layer(16, 16, 3, 14)("layer"), path)
    target = f"opencl -device={DEVICES[0].index}"
    found = opencl.kernels(path, target, 1)
    assert {"conv2d_nchwc.opencl", "conv2d_winograd4_nchwc.opencl"} <= found["gflops"].keys()
    assert found["chosen"] in found["gflops"] and min(found["peak"], *found["gflops"].values()) > 0
    assert opencl.between(path, target, 1) < 1


@needs_device
def test_opencl_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl, "measured", lambda name, *rest: {**ROW, "model": name, "left_out": {"cpu": "no"}})
    monkeypatch.setattr(opencl, "files_of", lambda names, folder: [folder / names[0]])
    options = ["--target", f"opencl -device={DEVICES[0].index}", "--results", tmp_path, "--label", "here"]
    for name in ("simple", "c7s2"):
        assert f"{name}" in invoke(opencl.main, name, *options)
    report = json.loads((tmp_path / "here.json").read_text())
    assert [row["model"] for row in report["rows"]] == ["simple", "c7s2"] and report["driver"] and report["processor"]
    assert "| figure" in (tmp_path / "here.md").read_text()
