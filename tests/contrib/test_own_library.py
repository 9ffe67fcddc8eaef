"""A library of one's own: in a package that pip installs, or made known by the program that uses it."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.library import Library
from fusewire.targets import libraries, target
from tests.bisection.doubles import faulty, unary
from tests.contrib.offload import function_of, placed, uniform, var

TUTORIAL = Path(__file__).parents[2] / "tutorials" / "06_your_own_library.py"

PROGRAM = """
import importlib.metadata, sys
import numpy as np
import fusewire as fw

assert "acme_fusewire" not in sys.modules
function = fw.parse_expr("fn (%x: Tensor[(2, 3), float32], %w: Tensor[(4, 3), float32]) { nn.relu(nn.dense(%x, %w)) }")
lib = fw.build(function, "cpu -libs=acme -strict")
print([choice.chosen for choice in lib.explain().choices], importlib.metadata.version("acme-fusewire"))
import acme_fusewire
x, w = np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3), np.linspace(-1, 2, 12, dtype="float32").reshape(4, 3)
print(acme_fusewire.acme().acme_calls(), acme_fusewire.__file__)
np.testing.assert_allclose(lib(x=x, w=w), np.maximum(x @ w.T, 0), rtol=1e-5, atol=1e-6)
print(acme_fusewire.acme().acme_calls())
"""


def test_package_that_pip_installs(tmp_path: Path) -> None:
    """The file of the tutorial, unchanged, with the pyproject.toml that it shows."""
    project, site = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    shutil.copy(TUTORIAL, project / "acme_fusewire.py")
    (project / "pyproject.toml").write_text(runpy.run_path(str(TUTORIAL))["PYPROJECT"])
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(project)]
    subprocess.run(install, check=True, capture_output=True)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, environment = [sys.executable, "-c", PROGRAM], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chosen, before, after = done.stdout.splitlines()
    assert chosen == "['dense_acme.cpu'] 1.0"
    assert before == f"0 {site / 'acme_fusewire.py'}" and after == "1"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets libraries that a test registers."""
    monkeypatch.setitem(target._LIBRARIES, "cpu", [*target._LIBRARIES["cpu"]])
    monkeypatch.setattr(libraries, "_registered", {})
    yield
    libraries.find_library.cache_clear()


@pytest.mark.usefixtures("names")
def test_library_of_this_process() -> None:
    function, x = function_of(fw.tanh(var("x", 4))), uniform(1, (4,))
    with pytest.raises(fw.TargetError, match="unknown library 'faulty'"):
        fw.build(function, "cpu -libs=faulty")
    wrong = faulty({"tanh": unary("tanh")}, lambda call: True)
    right = faulty({"tanh": unary("tanh")}, lambda call: False)
    for library, error in ((wrong, 0.01), (right, 0.0)):  # the new one takes the place of the old one
        assert fw.register_library(library) is library
        lib = fw.build(function, "cpu -libs=faulty")
        assert placed(lib) == ["faulty.tanh"]
        np.testing.assert_allclose(lib(x=x), np.tanh(x) + error, rtol=1e-5)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("acme", "expected a Library, got a str"),
        (Library("onednn", ("cpu",), [], lambda: None), "'onednn' is the name of a library that fusewire brings"),
        (Library("two words", ("cpu",), [], lambda: None), "expected letters, digits"),
        (Library("auto", ("cpu",), [], lambda: None), "not 'auto'"),
        (Library("acme", ("tpu",), [], lambda: None), "no target is called 'tpu'; there are cpu, "),
    ],
)
def test_what_cannot_be_registered(library: Library, message: str) -> None:
    with pytest.raises(fw.TargetError, match=message):
        fw.register_library(library)


@pytest.mark.usefixtures("names")
def test_library_for_another_kind_of_target() -> None:
    fw.register_library(Library("elsewhere", ("cuda",), [], lambda: None))
    assert fw.Target("cuda -libs=elsewhere").libs == ("elsewhere",)
    with pytest.raises(fw.TargetError, match=r"unknown library 'elsewhere' for kind cpu \(a library for cuda\)"):
        fw.Target("cpu -libs=elsewhere")
