"""python -m benchmarks.gpu without a GPU: what it would run, its reports, its children; and the sections, on OpenCL."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import fusewire as fw
from benchmarks.gpu import checks, children, command, engines, jobs, models, needs, report, twin, worker
from benchmarks.gpu.jobs import COMPILED, EAGER, Job
from fusewire.contrib.cudnn.ffi import CUDNN
from tests.contrib.fake_frontend import Frontend
from tests.contrib.fakes import use
from tests.contrib.offload import placed
from tests.cuda.double import Double, install
from tests.opencl.present import DEVICES, needs_device

WORKER = Job("layers", "simple", 1, "float32", "cpu")


def invoke(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(command.main, [str(w) for w in words])
    assert done.exit_code == code, done.output
    return done.output


def test_the_list_has_what_a_gpu_is_needed_for() -> None:
    text = invoke("--list")
    for name in jobs.SECTIONS:
        assert f"{name} (" in text
    makers = ["cuda", "cuda -libs=cudnn", "cuda -libs=cudnn,cublas", EAGER, COMPILED]
    assert (
        f"tutorial ({510 * 25 / sum(jobs.SECTIONS.values()):.0f} s)\n  simple, 1, float32: {', '.join(makers)}" in text
    )
    assert "  matmul, 8192, bfloat16: cuda, cuda -libs=cudnn,cublas, torch eager\n" in text
    for network in ("resnet50", "bert", "gpt2_step"):
        for batch in (1, 8, 64):
            for precision in ("float32", "tf32", "bfloat16"):
                libraries = "" if precision == "bfloat16" else "cuda -libs=cudnn,cublas, "
                assert f"  {network}, {batch}, {precision}: cuda, {libraries}torch eager" in text
    assert "tests/ops/test_oracle.py" in text and "tests/test_random_graphs.py" in text
    assert all((children.ROOT / file).exists() for file in checks.TESTS)


def test_batch_1_in_float32_comes_first_and_targets_say_the_precision() -> None:
    made = jobs.jobs("networks", "cuda")
    assert {(j.batch, j.precision) for j in made[:12]} == {(1, "float32")}
    assert next(j for j in made if j.precision == "tf32").target == "cuda -precision=tf32"
    assert jobs.jobs("gemm", "cuda")[0].target == "cuda"  # bfloat16 by its types
    assert all(j == jobs.named(j.name) for name in jobs.MEASURED for j in jobs.jobs(name, "rocm"))
    assert {j.precision for j in jobs.jobs("layers", "opencl")} == {"float32"}  # it has no tf32


@pytest.mark.parametrize("kind", jobs.LIBRARIES)
def test_libraries_take_part_in_what_is_measured_in_bfloat16(kind: str) -> None:
    """By types: then every step is in bfloat16."""
    every = [j for section in jobs.MEASURED for j in jobs.jobs(section, kind, small=True) if j.with_libraries]
    chosen = [j for j in every if j.precision == "bfloat16"]
    assert {j.section for j in chosen} == {"cuda": {"layers", "gemm"}, "rocm": {"gemm"}, "opencl": set()}[kind]
    assert {j.case for j in chosen if j.section == "layers"} in (set(), set(models.LAYERS))
    for job in (j for j in chosen if j.section == "gemm" or j.batch == 1):
        model = job.model(small=True)
        lib = fw.build(model.function, job.target, params=dict(model.params))
        expected = {"layers": "cudnn.conv2d_graph", "gemm": {"cuda": "cublas.matmul"}.get(kind, "rocblas.matmul")}
        assert "-precision" not in job.target and placed(lib) == [expected[job.section]]


def test_a_layer_of_cudnn_in_bfloat16_runs_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Double())
    use(monkeypatch, fake_cudnn=CUDNN)
    fake = Frontend()
    monkeypatch.setitem(sys.modules, "cudnn", fake)
    (job,) = (
        j for j in jobs.jobs("layers", "cuda", small=True)
        if (j.case, j.batch, j.precision) == ("c3_64_56", 2, "bfloat16") and j.with_libraries
    )  # fmt: skip
    row, goes_on = worker.answer(job.name, small=True)
    assert goes_on and "error" not in row, row
    assert [step["by"] for step in row["longest"]] == ["conv2d_graph_cudnn.cuda"] and row["steps"] == 1
    (graph,) = fake.graphs
    assert graph.steps == ["conv", "scale", "bias", "relu"]
    assert (graph.result.kind, graph.result.dim, graph.result.stride[1]) == ("bfloat16", [2, 64, 8, 8], 1)
    assert 1e-4 < row["difference"] < 2e-2  # from the layer whose weights are not rounded


def test_layers_in_16_bits_are_the_same_layers() -> None:
    plain, other = models.layer(2, 3, 4, 3, 5), models.layer_in_16_bits(2, 3, 4, 3, 5)
    assert {array.dtype.name for array in (*other.params.values(), *other.inputs.values())} == {"bfloat16"}
    assert other.last and other.inputs["data"].shape == (2, 5, 5, 3) and other.params["w0"].shape == (4, 3, 3, 3)
    first, second = (fw.testing.evaluate(m.function, {**m.params, **m.inputs})[0] for m in (plain, other))
    np.testing.assert_allclose(np.moveaxis(np.asarray(second, np.float64), -1, 1), first, atol=0.05, rtol=0.05)


WRONG = {
    "section": (["--sections", "nets"], "'--sections': there is no 'nets'; there are environment,"),
    "kind": (["--target", "gpu"], "'--target': target 'gpu': unknown kind 'gpu'"),
    "cpu": (["--target", "cpu"], "'--target': 'cpu' is no GPU; expected cuda, rocm or opencl"),
    "libraries": (["--target", "cuda -libs=cudnn"], "'cuda -libs=cudnn' has libraries; expected a target without"),
    "auto": (["--target", "rocm -libs=auto"], "'rocm -libs=auto' has libraries; expected a target without"),
    "precision": (["--target", "cuda -precision=tf32"], "'cuda -precision=tf32' has a precision; expected a target"),
    "nan": (["--seconds", "nan"], "'--seconds': got nan, expected more than 0 and at most 86400"),
    "infinite": (["--seconds", "inf"], "'--seconds': got inf, expected"),
    "negative": (["--seconds", "-1"], "'--seconds': got -1, expected"),
    "tests": (["--tests", "nofile.py"], "'--tests': there is no 'nofile.py' in "),
    "no test": (["--tests", ""], "'--tests': there is no '' in "),
    "folder": (["--folder", __file__], "'--folder': Directory"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words(name: str) -> None:
    words, said = WRONG[name]
    assert said in " ".join(invoke(*words, "--list", code=2).split())


def test_the_list_has_the_tests_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)  # they run in the root
    given = ["tests/test_house.py::test_one", "mine.py", children.ROOT / "tests" / "ops"]
    text = invoke("--list", "--sections", "tests", *(word for file in given for word in ("--tests", file)))
    assert text.splitlines()[1:] == ["  tests/test_house.py::test_one", f"  {tmp_path / 'mine.py'}", "  tests/ops"]
    assert invoke("--list", "--sections", "tests").splitlines()[1:] == [f"  {file}" for file in checks.TESTS]


def test_what_is_missing_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"attr", "cupy"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in found else None)
    assert "attrs" not in needs.absent(needs.PACKAGES)
    with pytest.raises(SystemExit, match=r"pip install numpy networkx ml_dtypes platformdirs .*cattrs.* hypothesis$"):
        needs.require()
    assert needs.notes("opencl")[0] == "nothing can run on opencl: pip install pyopencl"
    assert needs.notes("cuda")[0] == "there is no torch: no rows of PyTorch"


def test_a_job_on_the_cpu_is_a_row() -> None:
    row, goes_on = worker.answer(WORKER.name, small=True)
    assert goes_on and row["difference"] < 1e-5 and row["ms"]["min"] > 0 and row["steps"] == 1
    assert row["flops"] >= 2 * 27 * 16 * 32 * 32 and row["longest"][0]["by"].startswith("conv2d")
    refused, goes_on = worker.answer("layers/simple/1/tf32/cpu", small=True)
    assert goes_on and "bad value 'tf32'" in refused["error"]
    broken, goes_on = worker.answer("layers/none/1/float32/cpu", small=True)
    assert not goes_on and broken["error"].startswith("KeyError")


def test_products_and_kernels_on_the_cpu() -> None:
    for name in ("gemm/matmul/64/bfloat16/cpu", "streaming/softmax_last/262144/float32/cpu"):
        row, _ = worker.answer(name, small=True)
        assert "error" not in row and row["difference"] < 1e-2 and row["nbytes"] > 0


def test_a_layer_is_tuned_and_timed_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "SEARCH", 1.0)
    (first, *_) = jobs.jobs("tuning", "cpu")
    row, goes_on = worker.answer(first.name, small=True)
    assert goes_on and "error" not in row, row
    assert row["difference"] < 1e-5 and row["untuned"]["device_ms"] > 0 and row["tried"] >= 1 and not row["problems"]
    failed = {"job": jobs.jobs("tuning", "cuda")[1].name, "error": "DeviceError: gone"}
    text = report.section("tuning", {"status": "done", "rows": [row | {"problems": ["one: too large"]}, failed]})
    assert "| simple" in text and "one: too large" in text and "gone" in text
    assert "; ".join(row["chosen"]) in text and ("(withdrawn)" in text) == bool(row["withdrawn"])


def script(folder: Path, text: str) -> list[str]:
    """A command that runs a Python text, whatever follows."""
    (folder / "child.py").write_text(text)
    return [sys.executable, str(folder / "child.py")]


def test_children_that_crash_lose_their_own_job_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "import json, os, sys, time\n"
        "for name in sys.argv[1:]:\n"
        "  print(json.dumps({'begun': name}), flush=True)\n"
        "  if name == 'crash': print('out of luck', file=sys.stderr, flush=True); os.abort()\n"
        "  if name == 'hang': time.sleep(60)\n"
        "  print(json.dumps({'job': name}), flush=True)\n"
        "  if name == 'leave': sys.exit(3)\n"
    )
    monkeypatch.setattr(children, "_WORKER", tuple(script(tmp_path, text)))
    kept: list[Any] = []
    status = children.rows(["a", "crash", "leave", "b", "crash"], time.monotonic() + 60, kept.append)
    died = {"job": "crash", "error": "the process died: out of luck"}
    assert (status, kept) == (children.DONE, [{"job": "a"}, died, {"job": "leave"}, {"job": "b"}, died])
    kept.clear()
    assert children.rows(["a", "hang", "b"], time.monotonic() + 2, kept.append) == children.LATE
    assert kept == [{"job": "a"}]
    monkeypatch.setattr(children, "_WORKER", tuple(script(tmp_path, "raise SystemExit('no such thing')")))
    kept.clear()
    assert children.rows(["a", "b"], time.monotonic() + 60, kept.append) == children.DONE
    assert [row["error"] for row in kept] == ["the process did not start: no such thing"] * 2


def test_commands_end_in_time(tmp_path: Path) -> None:
    done = children.command(script(tmp_path, "import time; print('hello', flush=True); time.sleep(60)"), 2)
    assert done.code is None and done.tail == "hello\n" and done.seconds < 30
    assert children.command(script(tmp_path, "raise SystemExit(4)"), 60).code == 4


def test_outcomes_of_tests(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "import os, pytest\ndef test_target(): assert os.environ['FUSEWIRE_TEST_TARGET'] == 'opencl'\n"
        "def test_wrong(): assert 1 == 2\n@pytest.mark.skip\ndef test_left(): ...\n"
    )
    row = checks.tests("opencl", 120, [str(file)], processes=1)
    assert (row["passed"], row["failed"], row["skipped"], row["status"]) == (1, 1, 1, children.DONE)
    assert row["failures"][0]["test"].endswith("test_wrong") and "assert 1 == 2" in row["failures"][0]["why"]


def test_findings_of_compute_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert checks.findings(clean) == {"errors": 0, "first": []}
    bad = "========= Invalid __global__ write of size 4 bytes\n========= ERROR SUMMARY: 2 errors\n"
    assert checks.findings(bad) == {"errors": 2, "first": ["========= Invalid __global__ write of size 4 bytes"]}
    assert checks.findings("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n")["errors"] == 1
    assert checks.findings("")["errors"] is None
    program = tmp_path / "compute-sanitizer"  # writes a log, and runs nothing
    program.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[4], 'w').write({bad!r})\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    row = checks.sanitized("cuda", 60)
    assert row["memcheck"]["errors"] == row["racecheck"]["errors"] == 2 and row["memcheck"]["failed"]
    assert checks.sanitized("opencl", 60)["status"] == "left out"


def row(engine: str, ms: float, **more: Any) -> dict[str, Any]:
    job = Job("layers", "simple", 1, "float32", engine)
    return {
        "job": job.name,
        "ms": {"median": ms, "min": ms, "runs": 3},
        "device_ms": ms / 2,
        "difference": 1e-7,
        **more,
    }


def test_reports(tmp_path: Path) -> None:
    failed = {
        "job": Job("layers", "simple", 1, "float32", "cuda -libs=cudnn").name,
        "error": "LibraryNotFound: no cudnn",
    }
    rows = [row("cuda", 2.0, flops=4e9, nbytes=1), row(EAGER, 3.0), row(COMPILED, 5.0), failed]
    streaming = [{"job": "copy/cuda/8", "gbytes": 4000.0}]
    streaming.append({**row("cuda", 1.0, nbytes=1.8e9), "job": "streaming/add/64/float32/cuda"})
    sections = {"layers": {"status": "done", "seconds": 3.0, "rows": rows, "not_reached": ["x"]},
                "streaming": {"status": "done", "rows": streaming},
                "tests": {"status": "done", "passed": 3, "failed": 0, "skipped": 1, "failures": []}}  # fmt: skip
    whole = {"about": {"device": "A GPU", "date": "2026-01-01"}, "sections": sections}
    text = report.markdown(whole)
    assert report.engines_of(rows) == ["cuda", "cuda -libs=cudnn", EAGER, COMPILED]
    line = next(part for part in text.splitlines() if part.startswith("| simple"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["simple", "1", "float32", "2.000 (1.000)", "failed", "3.000 (1.500)", "5.000 (2.500)",
                     "1.50 / 1.50", "4.00", "1.0e-07", "1.0e-07"]  # fmt: skip
    assert "cuda -libs=cudnn: LibraryNotFound: no cudnn" in text and "Not reached: 1" in text
    assert "3600 | 90%" in " ".join(text.split()) and "3 passed, 0 failed, 1 skipped" in text
    assert report.ratio({EAGER: rows[1]}, "ms") is None
    pytest.importorskip("matplotlib")
    report.figure(whole, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", models.SMALL)
def test_twins_of_networks_compute_the_same(name: str) -> None:
    torch = pytest.importorskip("torch")
    model = models.SMALL[name](2)
    forward, inputs = twin.twin(model, torch, "cpu", torch.float64)
    got = forward(*inputs)
    results = got if isinstance(got, tuple) else (got,)
    expected = fw.testing.evaluate(model.function, {**model.params, **model.inputs})
    assert len(results) == len(expected)
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-6, atol=1e-6)


def test_without_a_device_nothing_is_begun(tmp_path: Path) -> None:
    if not command.device_name("cuda").startswith(command.NO_DEVICE):
        pytest.skip("there is a GPU")
    ended = CliRunner().invoke(command.main, ["--sections", "tutorial", "--small", "--folder", str(tmp_path)])
    assert ended.exit_code == 1 and "Error: no device: " in ended.output and not list(tmp_path.iterdir())


@needs_device
def test_the_sections_on_opencl(tmp_path: Path) -> None:
    target = f"opencl -device={DEVICES[0].index}"
    words = [
        "--target",
        target,
        "--small",
        "--folder",
        tmp_path,
        "--sections",
        "environment,streaming",
        "--seconds",
        300,
    ]
    text = invoke(*words)
    (path,) = tmp_path.glob("*.json")
    made = json.loads(path.read_text())["sections"]
    row, _ = worker.answer(Job("layers", "simple", 1, "float32", target).name, small=True)
    assert row["difference"] < 1e-5
    rows = {r["job"].split("/")[1]: r for r in made["streaming"]["rows"]}
    assert made["streaming"]["rows"][0]["gbytes"] > 0 and "| softmax_last" in text
    assert all(rows[name]["difference"] < 1e-2 for name in jobs.KERNELS)
