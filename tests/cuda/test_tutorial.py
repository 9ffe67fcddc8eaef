"""The second half of tutorial 5, on doubles of the device and of cuDNN that compute what they are asked for."""

import logging
import runpy
import sys
from pathlib import Path

import pytest

from fusewire.contrib.cudnn.ffi import CUDNN
from tests.contrib.fakes import use
from tests.cuda.double import Double, install
from tests.cuda.host import needs_compiler

SCRIPT = Path(__file__).parents[2] / "tutorials" / "05_cuda_and_cudnn.py"


@needs_compiler
def test_cuda_and_cudnn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("matplotlib")
    caplog.set_level(logging.INFO, "fusewire")  # the script sets it; so it is what it was again in the end
    install(monkeypatch, Double())
    fake = use(monkeypatch, fake_cudnn=CUDNN)["fake_cudnn"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--repeat", "1", "--side", "32", "--output", str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr().out
    assert "cudnnConvolutionForward" in fake.calls()
    assert "it ends here" not in output
    made = output.split("Making the modules")[1]
    assert "forward algorithms for conv2d" in caplog.text and "workspace:" in caplog.text
    differences = made.split("Largest difference")[1].splitlines()[2:5]
    assert [line.split(":")[0] for line in differences] == [
        "between the two", "generated from float64", "cuDNN + generated from float64",
    ]  # fmt: skip
    assert max(float(line.rpartition(" ")[2]) for line in differences) < 1e-5
    assert made.count(" ms a run (median)") == 2 and "[conv2d_cudnn.cuda]" in made
    assert (tmp_path / "05_cuda_and_cudnn.png").read_bytes().startswith(b"\x89PNG")
