"""docs/cli.md: its commands are run and must write what is shown, numbers aside."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli_models import fusewire

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def shape_of(text: str) -> list[list[str]]:
    """A text without its numbers and the width of its columns."""
    number = r"(?<![\w\[])-?\d+\.\d+(e[+-]\d+)?%?|(?<=  )\d+(?=  |$)"
    return [re.sub(number, "N", line).split() for line in text.strip().splitlines()]


def test_examples_write_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    if fusewire("doctor").out.count("missing  -libs=onednn"):
        pytest.skip("oneDNN is not installed")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    compared = 0
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, PAGE.name, "exec"), {})
            continue
        for command, expected in re.findall(r"^\$ fusewire (.*)\n((?:(?!\$).*\n)*)", block, flags=re.MULTILINE):
            ended = fusewire(*shlex.split(command))
            assert shape_of(ended.out + ended.err) == shape_of(expected), command
            compared += 1
    assert compared == 6
