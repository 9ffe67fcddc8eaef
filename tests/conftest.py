"""Shared by all tests: expected texts in tests/golden, and `pytest --update-golden`, which writes them anew."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import configuration

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the files of tests/golden instead of comparing"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis keep its notes where they vanish with the run."""
    notes = tempfile.mkdtemp(prefix="fusewire-hypothesis-")
    configuration.set_hypothesis_home_dir(notes)
    atexit.register(shutil.rmtree, notes, ignore_errors=True)


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
