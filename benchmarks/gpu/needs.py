"""What has to be installed. This file imports nothing of it, so that it can say what is missing."""

import importlib.util
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def _own() -> list[str]:
    """What fusewire depends on."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]]


PACKAGES = (*_own(), "pytest", "hypothesis")
"""For the command itself, and for the tests."""
DEVICE = {"cuda": ("cupy-cuda13x", "cupy"), "opencl": ("pyopencl", "pyopencl")}
"""For kinds of device: what pip installs, and the module."""
MODULES = {"attrs": "attr"}
OPTIONAL = {"torch": "rows of PyTorch", "matplotlib": "the figure", "xdist": "tests in parallel"}
"""What is left out where it is missing, and what is missing then."""


def absent(names: Sequence[str]) -> list[str]:
    """Those of some packages that cannot be imported."""
    return [name for name in names if importlib.util.find_spec(MODULES.get(name, name)) is None]


def require() -> None:
    """End with a sentence that says what to install, unless all is there that the command itself needs."""
    if missing := absent(PACKAGES):
        sys.exit(f"python -m benchmarks.gpu needs: pip install {' '.join(missing)}")


def notes(kind: str) -> list[str]:
    """A sentence for each package that would be useful for a kind of device and is missing."""
    pip, module = DEVICE.get(kind, ("", ""))
    found = [f"there is no {name}: no {what}" for name, what in OPTIONAL.items() if absent([name])]
    return ([f"nothing can run on {kind}: pip install {pip}"] if module and absent([module]) else []) + found
