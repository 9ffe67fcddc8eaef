"""The command line: doctor."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.commands import health
from fusewire.targets import peaks
from fusewire.targets.backends import GPU_KINDS
from fusewire.targets.cpuinfo import usable_cores
from fusewire.targets.toolchain import cache_dir
from tests.cli_models import bad_usage, fine, fusewire


@pytest.fixture(autouse=True)
def small_world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty kernel cache; and only one test searches the system for GPU libraries, which takes long."""
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "kernels"))
    if request.node.name != "test_a_machine_in_order":
        monkeypatch.setattr(health, "gpus", list)
        monkeypatch.setattr(health, "opencl", list)


def report(status: int = 0) -> dict[str, Any]:
    ended = fusewire("doctor", "--json")
    assert (ended.status, ended.err) == (status, "")
    found: dict[str, Any] = json.loads(ended.out)
    assert found["works"] is (status == 0)
    return found


def fixes(found: dict[str, Any]) -> str:
    return "\n".join(str(problem["fix"]) for problem in found["problems"])


def test_a_machine_in_order() -> None:
    found = report()
    assert found["fusewire"] == found["version"]["fusewire"]["version"] == fw.__version__
    for name in ("python", "numpy", "click", "onnx", "pillow", "pyopencl", "cupy"):
        assert name in found["version"]
    assert found["version"]["numpy"] == {
        "state": "ok",
        "detail": np.__version__,
        "fix": None,
        "version": np.__version__,
    }
    cpu = found["cpu"]["processor"]
    assert cpu["usable_cores"] >= 1 and cpu["vector_bytes"] in (16, 32, 64) and cpu["name"] and cpu["features"]
    assert found["compiler"]["C compiler"]["version"] and found["compiler"]["test kernel"]["works"] is True
    assert found["cache"]["kernel cache"]["path"] == str(cache_dir())
    assert {"clblast", "onednn", "openblas"} <= found["library"].keys()
    assert {name[:4] for name in found["gpu"]} == {"cuda", "rocm"}


def test_text() -> None:
    text = fine("doctor")
    lines = text.splitlines()
    assert lines[0].split() == ["what", "found"] and lines[-1] == "The cpu target works."
    for name in ("C compiler", "test kernel", "kernel cache", "-libs=onednn", "processor"):
        assert sum(name in line for line in lines) >= 1


def test_libraries_that_are_there() -> None:
    pytest.importorskip("scipy_openblas32")
    facts = next(f.facts for f in health.libraries() if f.name == "openblas")
    assert facts["found"] and facts["version"][0].isdigit() and Path(facts["file"]).is_file()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    found = report(status=1)
    assert found["compiler"]["C compiler"]["state"] == "broken" and "unset CC" in fixes(found)
    ended = fusewire("doctor")
    assert ended.status == 1 and "The cpu target does not work." in ended.out and "\n  unset CC\n" in ended.out
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'fusewire[zig]'" in fixes(report(status=1))


def test_a_compiler_that_computes_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "build", lambda net, target: lambda x: x)
    assert report(status=1)["compiler"]["test kernel"]["detail"] == "gives wrong results"


def test_the_test_kernel_leaves_the_cache_and_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "cache"))
    assert report()["cache"]["kernel cache"]["bytes"] == 0
    assert os.environ["FUSEWIRE_CACHE_DIR"] == str(tmp_path / "cache") and not list(tmp_path.rglob("*"))
    monkeypatch.delenv("FUSEWIRE_CACHE_DIR")
    assert health.kernel().state == "ok" and "FUSEWIRE_CACHE_DIR" not in os.environ


@pytest.mark.usefixtures("quick")
def test_cache_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = report()
    assert found["cache"]["kernel cache"]["writable"] is False and "export FUSEWIRE_CACHE_DIR=" in fixes(found)
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FUSEWIRE_CACHE_SIZE", "a lot")
    assert "unset FUSEWIRE_CACHE_SIZE" in fixes(report(status=1))


def test_cache_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(bytes(1000))
    (tmp_path / "b").write_bytes(bytes(24))
    facts = health.cache().facts
    assert facts["bytes"] == 1024 and facts["writable"] and facts["path"] == str(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the test kernel."""
    monkeypatch.setattr(health, "kernel", lambda: health.Finding("compiler", "test kernel", "ok", "left out"))


@pytest.mark.usefixtures("quick")
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = health._version
    monkeypatch.setattr(health, "_version", lambda *names: None if {"onnx", "ziglang"} & {*names} else real(*names))
    found = report()
    assert found["version"]["onnx"]["state"] == "missing"
    assert "pip install 'fusewire[onnx]'" in fixes(found) and "pip install 'fusewire[zig]'" in fixes(found)
    monkeypatch.setattr(health, "_version", lambda *names: None if "rich" in names else real(*names))
    assert "pip install rich" in fixes(report(status=1))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("count", [0, 1])
def test_libraries_of_gpus_are_wanted_where_there_is_one(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = {kind: evolve(gpu, count=lambda: count) for kind, gpu in GPU_KINDS.items()}
    monkeypatch.setattr(health, "GPU_KINDS", gpus)
    found = {finding.name: finding for finding in health.libraries()}
    for name in ("cudnn", "cublas", "miopen", "rocblas"):
        finding = found[name]
        assert (finding.state == health.ABSENT) == (count == 0)
        assert count or (finding.fix is None and "of which there is no device" in finding.detail)
    assert found["onednn"].state != health.ABSENT


def test_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusewire.targets.libraries import find_library as real

    def find(name: str) -> Any:
        if name == "onednn":
            raise fw.LibraryNotFound("it is broken")
        return real(name)

    monkeypatch.setattr(health, "find_library", find)
    found = report()
    assert found["library"]["onednn"]["detail"] == "it is broken" and "pip install 'fusewire[onednn]'" in fixes(found)
    text = fusewire("doctor").out
    assert "missing  -libs=onednn" in text and "\n  pip install 'fusewire[onednn]'\n" in text


def test_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROUNDS", 1), ("ROUND", 1e-4), ("LARGEST", 1 << 20)):
        monkeypatch.setattr(peaks, name, value)
    before = report()["peaks"]["peaks on 1 thread"]
    assert before["state"] == "absent" and "fusewire doctor --peaks" in before["detail"]
    measured = json.loads(fine("doctor", "--peaks", "--json"))["peaks"]
    assert {p["threads"] for p in measured.values()} == {1, usable_cores()}
    assert all(p["state"] == "ok" and p["flops"]["float32"] > 0 and p["date"] for p in measured.values())
    assert report()["peaks"] == measured
    assert "peaks on 1 thread" in fine("doctor")


def test_bad_words() -> None:
    bad_usage("doctor", "--fix")
