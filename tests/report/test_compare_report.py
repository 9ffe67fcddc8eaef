"""`fusewire compare --report`, from an ONNX file to the page and its data."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("jinja2")

from attrs import evolve

from fusewire.commands import compare
from tests.cli_models import classifier, failed, fine, fusewire
from tests.report.samples import data_of

TWO = ("--targets", "cpu", "cpu -num-cores=1")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return classifier(tmp_path / "net <b>.onnx")


def page_data(file: str) -> Any:
    text = Path(file).read_text(encoding="utf-8")
    assert "<title>net &lt;b&gt;.onnx: cpu, cpu -num-cores=1</title>" in text
    return data_of(text)


def test_report_and_json_hold_the_same(model: Path) -> None:
    out = json.loads(fine("compare", model, *TWO, "--repeat", 2, "--report", "out.html", "--json"))
    report = out["report"]
    assert page_data("out.html") == report
    assert [t["timing"]["median_ms"] for t in report["targets"]] == [t["median_ms"] for t in out["targets"]]
    assert report["targets"][0]["groups"][0]["implementation"] == "conv2d_nchw.cpu"
    assert all(g["ms"] > 0 and g["error"]["scaled"] < 1e-5 for t in report["targets"] for g in t["groups"])
    assert all(o["error"]["max_abs"] < 1e-4 for t in report["targets"] for o in t["outputs"])
    assert report["settings"]["repeat"] == 2 and report["model"] == "net <b>.onnx"
    memory = report["targets"][0]["memory"]
    assert memory["constants"] >= 4 * (4 * 3 * 9 + 4 + 20) and memory["arena"] > 0


def test_the_report_is_mentioned_and_figures_are_written(model: Path) -> None:
    pytest.importorskip("matplotlib")
    text = fine("compare", model, *TWO, "--repeat", 1, "--report", "out.html", "--figures", "figures")
    assert text.splitlines()[-1] == "The report is in out.html"
    assert {p.name for p in Path("figures").iterdir()} >= {"times.png", "kinds.png", "errors.png"}
    fine("compare", model, *TWO, "--repeat", 1, "--figures", "more")
    assert Path("more", "times.png").exists()


def test_a_wrong_target_shows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compare._run

    def wrong(read: Any, options: Any, *rest: Any) -> Any:
        run, inputs = real(read, options, *rest)
        changed = [a + 1 for a in run.outputs] if options.target.num_cores == 1 else run.outputs
        return evolve(run, outputs=changed), inputs

    monkeypatch.setattr(compare, "_run", wrong)
    assert fusewire("compare", model, *TWO, "--repeat", 1, "--report", "out.html").status == 1
    assert "Results differ: cpu -num-cores=1 has 5 elements of output_0" in Path("out.html").read_text()
    first, second = (t["outputs"][0] for t in page_data("out.html")["targets"])
    assert first["error"]["beyond"] == 0 and second["error"]["beyond"] == 5 == second["differing"]


def test_what_cannot_be_written_is_said_before_anything_is_measured(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*rest: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(compare, "_run", never)
    assert "there is no folder" in failed("compare", model, *TWO, "--report", "nowhere/out.html")
    Path("file").write_text("")
    assert fusewire("compare", model, *TWO, "--figures", "file").status == 2


def test_names_without_what_all_have() -> None:
    assert compare.short_names(["cpu -num-cores=1", "cpu -libs=onednn -num-cores=1"]) == ["cpu", "cpu -libs=onednn"]
    assert compare.short_names(["cpu", "cpu -num-cores=1"]) == ["cpu", "cpu -num-cores=1"]
    assert compare.short_names(["cpu -num-cores=1"] * 2) == ["cpu -num-cores=1"] * 2
