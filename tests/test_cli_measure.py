"""The command line: bench, compare, explain."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.commands import compare
from tests.cli_models import bad_usage, classifier, failed, fine, fusewire, two_in_two_out


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return classifier(tmp_path / "net.onnx")


# bench


def test_bench(model: Path) -> None:
    options = ["--target", "cpu", "--num-cores", 1, "--repeat", 4, "--number", 2, "--warmup", 1]
    report = json.loads(fine("bench", model, *options, "--json"))
    times = report["times_ms"]
    assert len(times) == 4 and min(times) > 0
    assert report["median_ms"] == pytest.approx(np.median(times)) and report["mean_ms"] == pytest.approx(np.mean(times))
    assert report["min_ms"] == min(times) and min(times) <= report["p90_ms"] <= max(times)
    facts = ("model", "target", "threads", "repeat", "number", "warmup", "fusewire")
    expected = (str(model), str(fw.Target("cpu -num-cores=1")), 1, 4, 2, 1, fw.__version__)
    assert tuple(report[name] for name in facts) == expected
    head, names, values = fine("bench", model, *options).splitlines()
    assert head == f"{model}, target 'cpu -num-cores=1', 1 threads, fusewire {fw.__version__}"
    assert names.split("  ")[0] == "median (ms)" and values.split()[-2:] == ["4", "2"]


def test_bench_of_a_compiled_module(model: Path) -> None:
    fine("compile", model, "-o", "net.fw", "--num-cores", 1)
    assert json.loads(fine("bench", "net.fw", "--json", "--repeat", 1))["threads"] == 1
    for option in (["--target", "cpu"], ["--num-cores", 2], ["--opt-level", 3]):
        assert f"{option[0]} is for ONNX models" in bad_usage("bench", "net.fw", *option)
    for option in (["--repeat", 0], ["--number", 0], ["--warmup", 0], ["--repeat", "x"]):
        bad_usage("bench", "net.fw", *option)


def test_json_stays_alone_on_stdout(model: Path) -> None:
    ended = fusewire("-vv", "bench", model, "--json", "--repeat", 1)
    assert ended.status == 0 and json.loads(ended.out) and "info: " in ended.err


def test_bench_compares_with_the_peaks(model: Path) -> None:
    options = ["--num-cores", 1, "--repeat", 1]
    report = json.loads(fine("bench", model, *options, "--profile", "--json"))
    assert report["gflop"] > 0 and report["gflops"] == pytest.approx(report["gflop"] / report["median_ms"] * 1e3)
    steps, peaks = report["profile"]["steps"], report["profile"]["peaks"]
    assert peaks["threads"] == 1 and report["peak"] == pytest.approx(report["gflops"] * 1e9 / peaks["flops"]["float32"])
    assert sum(s["flops"] for s in steps) == pytest.approx(report["gflop"] * 1e9)
    assert {s["bound"] for s in steps} <= {"compute", "memory"} and all(s["roof"] > 0 for s in steps)
    assert "profile" not in json.loads(fine("bench", model, *options, "--json"))
    for text in (fine("bench", model, *options, "--profile"), fine("run", model, "--num-cores", 1, "--profile")):
        assert "GFLOP/s" in text and "of peak" in text and "peaks (" in text and "threads: 1, measured 2" in text


# compare

TWO = ("--targets", "cpu", "cpu -num-cores=1")


def test_compare(model: Path) -> None:
    report = json.loads(fine("compare", model, *TWO, "--json", "--repeat", 3, "--number", 2))
    assert report["agree"] is True and (report["repeat"], report["number"]) == (3, 2)
    assert [t["target"] for t in report["targets"]] == [str(fw.Target(t)) for t in TWO[1:]]
    for target in report["targets"]:
        assert target["median_ms"] > 0
        (output,) = target["outputs"]
        assert output["within"] and output["size"] == 5 and output["argmax_agreement"] == 1
    text = fine("compare", model, *TWO, "--repeat", 1)
    assert "max ulp" in text and "reference" in text and "agrees" in text and "speed-up" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_compare_fails_on_differences(as_json: bool, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compare._run

    def wrong(read: Any, options: Any, *rest: Any) -> Any:
        run, inputs = real(read, options, *rest)
        changed = [a + np.float32(0.01) for a in run.outputs] if options.target.num_cores == 1 else run.outputs
        return evolve(run, outputs=changed), inputs

    monkeypatch.setattr(compare, "_run", wrong)
    ended = fusewire("compare", model, *TWO, "--repeat", 1, *(["--json"] if as_json else []))
    assert ended.status == 1
    if as_json:
        report = json.loads(ended.out)
        assert not report["agree"] and report["targets"][1]["outputs"][0]["beyond"] == 5
    else:
        assert "5 of 5 differ" in ended.out and "results differ by more than 1e-05 + 0.001" in ended.err
    assert fusewire("compare", model, *TWO, "--repeat", 1, "--atol", 1).status == 0


def test_compare_with_a_library(model: Path) -> None:
    pytest.importorskip("scipy_openblas32")
    text = fine("compare", model, "-t", "cpu", "-t", "cpu -libs=openblas", "--repeat", 1, "--num-cores", 1)
    assert "cpu -libs=openblas -num-cores=1" in text


def test_compare_with_a_library_that_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusewire.contrib.openblas import ffi

    def missing() -> str:
        raise fw.LibraryNotFound("OpenBLAS is not installed. Install it with: pip install 'fusewire[openblas]'")

    monkeypatch.setattr(ffi, "library_path", missing)
    ffi.load.cache_clear()
    try:
        error = failed("compare", model, "--targets", "cpu", "cpu -libs=openblas")
    finally:
        ffi.load.cache_clear()
    assert "target 'cpu -libs=openblas'" in error and "pip install 'fusewire[openblas]'" in error


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--targets"],
        ["--targets", "cpu"],
        ["--targets", "cpu", "cup"],
        [*TWO, "--rtol", "-1"],
        [*TWO, "--rtol", "nan"],
        [*TWO, "--atol", "inf"],
        [*TWO, "--target", "cpu"],
    ],
)
def test_bad_options_of_compare(options: list[str], model: Path) -> None:
    bad_usage("compare", model, *options)


def test_compare_needs_a_model(model: Path) -> None:
    fine("compile", model, "-o", "net.fw")
    assert "is compiled already" in failed("compare", "net.fw", *TWO)
    assert "unknown kind 'tpu'" in bad_usage("compare", model, "--targets", "cpu", "tpu")


# explain


def test_explain(model: Path) -> None:
    text = fine("explain", model)
    name = "fusewire_default_fused_nn_conv2d_add_nn_relu"
    assert re.search(rf"{name} +nn.conv2d, add, nn.relu\n +conv2d_nchw.cpu +10 +chosen\n", text)
    assert re.search(r"conv2d_nchwc.cpu +10 +refused", text) and re.search(r"\n +loops.cpu +1 +lower", text)
    assert "gemm.cpu" in text and "gemm.cpu" not in fine("explain", model, "--op", "nn.conv2d")
    error = failed("explain", model, "--op", "nn.conv3d")
    assert "no step has the operator 'nn.conv3d'; there are" in error and "nn.conv2d" in error
    fine("compile", model, "-o", "net.fw")
    assert fine("explain", "net.fw") == text


def test_explain_gives_reasons(model: Path) -> None:
    report = json.loads(fine("explain", model, "--desired-layout", "NHWC", "--op", "nn.conv2d", "--json"))
    assert report["target"] == str(fw.Target("cpu")) and report["model"] == str(model)
    (step,) = report["steps"]
    refused = next(c for c in step["candidates"] if c["name"] == "conv2d_nchw.cpu")
    assert step["chosen"] == "loops.cpu" and "NHWC" in refused["refusal"]
    assert f"refused: {refused['refusal']}" in fine("explain", model, "--desired-layout", "NHWC")


def test_two_outputs(tmp_path: Path) -> None:
    both = two_in_two_out(tmp_path / "both.onnx")
    out = fine("run", both, "--fill-mode", "ones", "--print-top", 1)
    assert re.findall(r"(output_\d) +\[0\] +(\S+)", out) == [("output_0", "2.0"), ("output_1", "0.0")]
    assert len(json.loads(fine("compare", both, *TWO, "--json", "--repeat", 1))["targets"][1]["outputs"]) == 2
