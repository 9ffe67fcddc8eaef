"""The benchmarks' own code, with small models; how fast anything is plays no part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.cli_models import classifier

pytest.importorskip("onnx")

from benchmarks import accuracy, figures, networks, roofline
from benchmarks.peers import __main__ as peers

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


def test_errors_of_results() -> None:
    exact = [np.array([1.0, -4.0]), np.array([7], np.int64)]
    error = accuracy.Error.of([np.array([1.5, -4.0], np.float32), np.array([8], np.int64)], exact)
    assert (error.largest, error.mean) == (0.125, 0.0625)
    assert error.worst(accuracy.Error(0.5, 0.0)) == accuracy.Error(0.5, 0.0625)
