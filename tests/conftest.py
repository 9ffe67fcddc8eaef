"""Shared by all tests: expected texts in tests/golden, and `pytest --update-golden`, which writes them anew."""

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import configuration

from fusewire.fuse.library import Library
from fusewire.targets import libraries, target

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the files of tests/golden instead of comparing"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis keep its notes beside pytest's own, and build without the user's tuning records."""
    os.environ["FUSEWIRE_TUNING"] = ""
    # Not in a temporary folder: runs that are killed, and workers of runs that are, would leave it behind.
    configuration.set_hypothesis_home_dir(config.rootpath / ".pytest_cache" / "hypothesis")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares a text with the file tests/golden/<name>."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert path.exists(), f"there is no {path}; pytest --update-golden writes it"
        assert text == path.read_text(), f"{path} is no longer what comes out; see pytest --update-golden"

    return compare


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Library], None]]:
    """`known(library)` lets `-libs=` find a library while a test runs, as if a package offered it."""
    offered: dict[str, SimpleNamespace] = {}
    real = importlib.metadata.entry_points

    def entry_points(**wanted: Any) -> Any:
        if wanted.get("group") != target.LIBRARY_GROUP:
            return real(**wanted)
        return [point for point in offered.values() if wanted.get("name") in (None, point.name)]

    def add(library: Library) -> None:
        offered[library.name] = SimpleNamespace(name=library.name, value="a test", load=lambda: library)
        libraries.find_library.cache_clear()

    monkeypatch.setitem(target._LIBRARIES, "cpu", [*target._LIBRARIES["cpu"]])
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    yield add
    libraries.find_library.cache_clear()
