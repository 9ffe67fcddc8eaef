"""What gets installed: the packages on disk, the wheel, and what `import fusewire` loads."""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fusewire as fw

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("ir", "ops", "fuse", "targets", "contrib")
OPTIONAL = (
    "pyopencl",
    "cupy",
    "onnx",
    "torch",
    "dask",
    "jinja2",
    "matplotlib",
    "PIL",
    "scipy",
    "scipy_openblas32",
    "networkx",
    "click",
    "rich",
)
"""Packages that may only load when they are needed; networkx is required, but needs a long time to load."""


def folders() -> dict[str, Path]:
    """Every folder with Python files that belongs to the package, by its dotted name."""
    found = {}
    for base, prefix in [(ROOT / "fusewire", "fusewire"), *((ROOT / room, f"fusewire.{room}") for room in ROOMS)]:
        for file in base.rglob("*.py"):
            inner = file.parent.relative_to(base).parts
            if prefix != "fusewire" or not inner or inner[0] not in ROOMS:
                found[".".join((prefix, *inner))] = file.parent
    return found


def test_packages_are_the_folders_on_disk() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(folders())
    assert {name: ROOT / path for name, path in setuptools["package-dir"].items()} == folders()


@pytest.mark.parametrize("room", ROOMS)
def test_links_lead_to_the_folders(room: str) -> None:
    link = ROOT / "fusewire" / room
    assert link.is_symlink() and link.readlink() == Path("..") / room


def test_versions_agree() -> None:
    assert fw.__version__ == PROJECT["project"]["version"] == importlib.metadata.version("fusewire")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel made of the working tree."""
    pytest.importorskip("setuptools", "77", reason="building a wheel needs setuptools 77 or later")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy, because setuptools writes build/ and *.egg-info next to what it builds.
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc", ".*_cache")
    for name in ("fusewire", *ROOMS, "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir"]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(folder), str(source)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (file,) = folder.glob("fusewire-*.whl")
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_wheel_has_every_file(wheel: list[str]) -> None:
    expected = {
        f"{package.replace('.', '/')}/{file.name}"
        for package, folder in folders().items()
        for file in folder.iterdir()
        if file.suffix in (".py", ".c", ".h", ".in", ".typed", ".jinja", ".css", ".js")
    }
    assert expected - set(wheel) == set()
    assert {"fusewire/py.typed", "fusewire/targets/runtime.c", "fusewire/targets/fw_team.h"} <= expected


def test_wheel_has_nothing_else(wheel: list[str]) -> None:
    foreign = [n for n in wheel if not n.startswith("fusewire/") and ".dist-info/" not in n]
    assert not foreign
    assert not [n for n in wheel if "test_" in n or n.endswith(".pyc")]
    assert any(n.endswith("dist-info/licenses/LICENSE") for n in wheel)


def test_import_loads_no_optional_package(tmp_path: Path) -> None:
    code = f"import sys, fusewire; print(sorted(set({OPTIONAL!r}) & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == "[]"
