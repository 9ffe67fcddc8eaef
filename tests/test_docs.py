"""The documentation is up to date, its examples give the results shown, and what it points to exists."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.opencl.present import needs_device

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))


def test_operator_table_is_up_to_date() -> None:
    script = ROOT / "docs" / "make_operators.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"run: python docs/make_operators.py\n{checked.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    missing = [t for t in targets if t and not (page.parent / t).exists()]
    assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_named_in_code_spans_exist(page: Path) -> None:
    """`targets/csource.py` in the text must be a file of the repository (or of the folder of the page)."""
    spans = re.findall(r"`([\w./-]+\.(?:py|c|h|md|toml|png))`", page.read_text(encoding="utf-8"))
    named = {span for span in spans if "/" in span}
    missing = sorted(span for span in named if not (ROOT / span).exists() and not (page.parent / span).exists())
    assert not missing, f"{page.name} names {missing}"


def test_readme_has_two_commands() -> None:
    script = ROOT / ".ci" / "run"
    listed = subprocess.run([script, "--commands"], capture_output=True, text=True, check=True, cwd=ROOT)
    tutorial, tests = listed.stdout.splitlines()
    assert tutorial.endswith("tutorials/01_using_external_libraries.py")
    assert "pytest" in tests


def test_readme_examples_print_what_is_shown() -> None:
    """Python blocks run one after the other, as one program; a text block shows what the block before it prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|text)\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, object] = {}
    printed, compared = "", 0
    for kind, block in blocks:
        if kind == "text":
            assert [line.rstrip() for line in printed.splitlines()] == block.splitlines()
            compared += 1
            continue
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            exec(compile(block, "README.md", "exec"), names)
        printed = stream.getvalue().rstrip()
    assert compared == 2


@needs_device
def test_the_example_of_devices_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "devices.md").read_text(encoding="utf-8"), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        exec(compile(block, "devices.md", "exec"), {})
    assert stream.getvalue() == "1.0\n"


def test_the_example_of_tuning_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8"), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        exec(compile(block, "tuning.md", "exec"), {})
    assert "whole network" in stream.getvalue() and (tmp_path / "records.jsonl").exists()
