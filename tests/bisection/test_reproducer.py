"""Reproducers: scripts that show a difference and say when it is gone; and the command `fusewire bisect`."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.bisection import Mismatch
from fusewire.commands import models
from fusewire.fuse.library import Library
from fusewire.ir.types import numpy_dtype
from tests.bisection.doubles import faulty, unary
from tests.bisection.test_bisect import DATA, ONE, bisect, conv_relu, wrong_schedule
from tests.cli_models import bad_usage, classifier, failed, fine, fusewire
from tests.contrib.offload import function_of, uniform, var

Known = Callable[[Library], None]


def status(script: Path) -> int:
    """The exit status of a script that runs in this process."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


def mismatch(function: fw.Function, *targets: str, **inputs: Any) -> Mismatch:
    found = bisect(function, *targets, **inputs).mismatch
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reproducer_of_a_kernel(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    function = conv_relu(dtype)
    name = fw.build(function, ONE).explain("nn.conv2d").choices[0].chosen
    with monkeypatch.context() as patch:
        wrong_schedule(patch, name, error=1.0)
        found = mismatch(function, ONE, data=DATA.astype(numpy_dtype(dtype)))
        script = found.write_reproducer(tmp_path / "new" / "folder")
        assert sorted(p.name for p in script.parent.iterdir()) == ["reproduce.py", "tensors.npz"]
        assert status(script) == 1
        assert found.op == "nn.conv2d" and "result 0: 576 of 576 elements differ; max abs 1" in capsys.readouterr().out
    assert status(script) == 0
    assert "result 0: agrees" in capsys.readouterr().out
    text = script.read_text()
    assert f"implementation={name!r}" in text and "constants=['p1']" in text and "-num-cores=1" in text


LIBRARY = """
import fusewire as fw
from tests.bisection.doubles import faulty, unary
WRONG = True
LIBRARY = faulty({"tanh": unary("tanh")}, lambda call: WRONG)
"""


def test_reproducer_of_a_library_call_in_another_process(tmp_path: Path, known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda c: True))
    function = function_of(fw.exp(fw.tanh(var("x", 3, 4))))
    script = mismatch(function, f"{ONE} -libs=faulty", x=uniform(1, (3, 4))).write_reproducer(tmp_path / "out")
    packages = tmp_path / "packages"
    info = packages / "faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fusewire.libraries]\nfaulty = faulty_library:LIBRARY\n")

    def run() -> tuple[int, str]:
        path = os.pathsep.join([str(packages), str(Path(__file__).parents[2])])
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    (packages / "faulty_library.py").write_text(LIBRARY)
    ended, text = run()
    assert ended == 1 and text.startswith("result 0: 12 of 12 elements differ; max abs 0.01")
    (packages / "faulty_library.py").write_text(LIBRARY.replace("WRONG = True", "WRONG = False"))
    ended, text = run()
    assert ended == 0 and text.startswith("result 0: agrees")


def test_what_reproduce_refuses(tmp_path: Path, known: Known) -> None:
    group = "fn (%p0: Tensor[(2,), float32]) { tanh(%p0) }"
    more: dict[str, Any] = {"target": ONE, "implementation": "loops.cpu", "rtol": 0, "atol": 1e-6}
    x = uniform(1, (2,))
    (right,) = fw.testing.reproduce(group, {"p0": x, "expected0": np.tanh(x)}, **more)
    assert right.within
    with pytest.raises(fw.FusewireError, match="the archive has no expected0; it has p0"):
        fw.testing.reproduce(group, {"p0": x}, **more)
    with pytest.raises(fw.TargetError, match="no library is called 'gone'"):
        fw.testing.reproduce(group, {"p0": x, "expected0": x}, library="gone", **more)
    known(Library("lost", ("cpu",), [], lambda: "install it with: get-lost"))
    with pytest.raises(fw.LibraryNotFound, match="lost: install it with: get-lost"):
        fw.testing.reproduce(group, {"p0": x, "expected0": x}, library="lost", **more)


def test_folders_that_cannot_be_written(tmp_path: Path, known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda c: True))
    found = mismatch(function_of(fw.tanh(var("x", 3))), f"{ONE} -libs=faulty", x=uniform(1, (3,)))
    (tmp_path / "file").write_text("")
    with pytest.raises(fw.FusewireError, match="cannot write the reproducer to"):
        found.write_reproducer(tmp_path / "file")


# fusewire bisect


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return classifier(tmp_path / "net.onnx")


def test_command_without_a_difference(model: Path) -> None:
    assert fine("bisect", model, "--targets", ONE, "cpu -num-cores=2").startswith("no difference: the results agree")
    report = json.loads(fine("bisect", model, "-t", ONE, "--json", "--reproducer", "bug"))
    assert (report["verdict"], report["targets"]) == ("agree", [str(fw.Target(ONE)), "reference"])
    assert report["mismatches"] == report["reproducers"] == [] and not Path("bug").exists()


def test_command_that_finds_something(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_schedule(monkeypatch, "conv2d_nchw.cpu")
    ended = fusewire("bisect", model, "-t", ONE, "--reproducer", "bug")
    assert ended.status == 1 and ended.err == ""
    assert "operator        nn.conv2d" in ended.out and "implementation  conv2d_nchw.cpu" in ended.out
    assert ended.out.endswith("reproducer: python bug/reproduce.py\n") and status(Path("bug/reproduce.py")) == 1
    both = fusewire("bisect", model, "-t", ONE, "-t", "cpu -num-cores=2", "--json", "--reproducer", "two")
    report = json.loads(both.out)
    assert both.status == 1 and [m["op"] for m in report["mismatches"]] == ["nn.conv2d", "nn.conv2d"]
    assert report["reproducers"] == ["two/0_nn_conv2d/reproduce.py", "two/1_nn_conv2d/reproduce.py"]
    assert fusewire("bisect", model, "-t", ONE, "--atol", "0.1").status == 0


def test_command_knows_the_model_before_the_passes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = models.build_model

    def wrong(mod: fw.IRModule, params: dict[str, Any], *rest: Any) -> fw.CompiledModule:
        return real(mod, {name: value * np.float32(1.1) for name, value in params.items()}, *rest)

    monkeypatch.setattr("fusewire.commands.bisect.build_model", wrong)
    ended = fusewire("bisect", model, "-t", ONE, "cpu -num-cores=2")
    assert ended.status == 0 and "no difference" in ended.out  # both the same
    ended = fusewire("bisect", model, "-t", ONE)
    assert ended.status == 1 and f"the passes for '{fw.Target(ONE)}' changed what the graph means" in ended.out


def test_bad_options(model: Path) -> None:
    assert "takes one target or two" in bad_usage("bisect", model, "--targets", "cpu", ONE, "cpu -num-cores=2")
    for option in (["--rtol", "nan"], ["--atol", "inf"], ["--rtol", "-1"], ["--targets"], []):
        bad_usage("bisect", model, *(["-t", ONE] if option[:1] != ["--targets"] and option else []), *option)
    fine("compile", model, "-o", "net.fw")
    assert "is compiled already" in failed("bisect", "net.fw", "-t", ONE)
