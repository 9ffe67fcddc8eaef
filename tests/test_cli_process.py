"""The command line as a process: pipes, terminals, signals, what gets imported; and completion by shells."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fusewire as fw
from tests.cli_models import bad_usage, classifier, fine, fusewire, pointwise

COMMAND = [sys.executable, "-m", "fusewire"]


def run(*args: object, **options: object) -> "subprocess.CompletedProcess[str]":
    given: dict[str, object] = {"capture_output": True, "text": True, "check": False, **options}
    return subprocess.run([*COMMAND, *map(str, args)], **given)  # type: ignore[call-overload, no-any-return]


def on_terminal(folder: Path, *args: object, **environment: str) -> tuple[str, str]:
    """What a command writes to stdout and stderr, each of them a terminal."""
    pipes = [pty.openpty() for _ in range(2)]
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    env |= {"TERM": "xterm-256color", "COLUMNS": "200", "FUSEWIRE_CACHE_DIR": str(folder / "cache"), **environment}
    words = [*COMMAND, *map(str, args)]
    process = subprocess.Popen(words, stdout=pipes[0][1], stderr=pipes[1][1], stdin=subprocess.DEVNULL, env=env)
    texts = []
    for _, writer in pipes:
        os.close(writer)
    for reader, _ in reversed(pipes):  # stderr first: it is the longer one
        content = b""
        try:
            while chunk := os.read(reader, 65536):
                content += chunk
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(reader)
        texts.append(content.decode())
    assert process.wait() == 0
    return texts[1], texts[0]


def test_exit_statuses(tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").touch()
    version, failed, bad = (
        run(*words, cwd=tmp_path) for words in (["--version"], ["run", "wrong.onnx"], ["run", "no"])
    )
    assert (version.returncode, version.stdout, version.stderr) == (0, f"fusewire {fw.__version__}\n", "")
    assert (failed.returncode, bad.returncode) == (1, 2)
    for ended in (failed, bad):
        assert ended.stdout == "" and ended.stderr.startswith("Error: ") and "Traceback" not in ended.stderr


def test_closed_pipe(tmp_path: Path) -> None:
    model = classifier(tmp_path / "net.onnx")
    reader, writer = os.pipe()
    os.close(reader)
    ended = run("explain", model, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert ended.stderr == ""


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    model = pointwise(tmp_path / "relu.onnx", "Relu", [2])
    with open("/dev/full", "w") as full:
        ended = run("run", model, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr == "Error: cannot write the output: No space left on device\n"
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *COMMAND, "run", str(model)], check=False)
    assert closed.returncode == 0


def test_names_that_the_output_cannot_spell(tmp_path: Path) -> None:
    model = pointwise(tmp_path / "relu.onnx", "Relu", [2])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = run("compile", model, "-o", tmp_path / "✓.fw", env=environment)
    assert ended.returncode == 0 and "\\u2713.fw" in ended.stdout


def test_no_progress_in_a_pipe(tmp_path: Path) -> None:
    model = classifier(tmp_path / "net.onnx")
    ended = run("run", model, env={**os.environ, "FORCE_COLOR": "1"})
    assert ended.returncode == 0 and ended.stderr == ""


def test_progress_and_colours_on_a_terminal(tmp_path: Path) -> None:
    model = classifier(tmp_path / "net.onnx")
    out, err = on_terminal(tmp_path, "explain", model)
    assert "read net.onnx" in err and "━" in err and "\x1b[" in err
    assert "\x1b[32mchosen" in out and "━" not in out
    out, err = on_terminal(tmp_path, "explain", model, NO_COLOR="1")
    assert "read net.onnx" in err and "chosen" in out
    colours = re.compile(r"\x1b\[[\d;]*\b(3[0-7]|38|9[0-7])\b[\d;]*m")
    assert not colours.search(out) and not colours.search(err)


def test_wide_tables_are_not_folded_in_a_pipe(tmp_path: Path) -> None:
    name = "input_" + "x" * 150
    model = pointwise(tmp_path / f"{name}.onnx", "Relu", [2])
    assert f"{name}.onnx" in run("bench", model, "--repeat", 1, env={**os.environ, "COLUMNS": "40"}).stdout


@pytest.mark.parametrize("words", [["bench", "--repeat", "1000000", "--number", "1000000", "-v"]])
def test_ctrl_c(words: list[str], tmp_path: Path) -> None:
    model = classifier(tmp_path / "net.onnx")
    command = [*COMMAND, *words, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("info: Using ")  # it is at work now
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130 and out == ""
    assert err.strip().endswith("Interrupted.") and "Traceback" not in err


def test_ctrl_c_in_a_search_says_what_is_kept(tmp_path: Path) -> None:
    model, records = classifier(tmp_path / "net.onnx"), tmp_path / "records.jsonl"
    command = [*COMMAND, "tune", "--level", "heavy", "--records", str(records), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not records.exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130 and out == ""
    kept = len(records.read_text().splitlines())
    said = re.search(r"Kept in (\S+): (\d+) measurements and the decisions for (\d+) groups", err)
    assert said and said[1] == str(records) and 0 < kept <= int(said[2]) + int(said[3]) <= kept + 1
    assert "same command goes on" in err and err.strip().endswith("Interrupted.")


def test_fusewire_itself_loads_no_command_line(tmp_path: Path) -> None:
    code = "import sys, fusewire; print(sorted({'click', 'rich', 'fusewire.cli'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path).stdout == "[]\n"


def test_help_loads_nothing_optional(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fusewire.cli import cli\ntry:\n  cli(['--help'])\nfinally:\n"
        "  print(sorted({'onnx', 'PIL', 'torch', 'scipy', 'networkx'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0 and ended.stdout.endswith("[]\n")


def test_onnx_is_named_if_it_is_missing(tmp_path: Path) -> None:
    model = pointwise(tmp_path / "relu.onnx", "Relu", [2])
    code = "import sys\nsys.modules['onnx'] = None\nfrom fusewire.cli import main\nmain()"
    words = [sys.executable, "-c", code, "run", str(model)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "pip install 'fusewire[onnx]'" in ended.stderr


# Completion


def complete(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    line = " ".join(["fusewire", *words])
    environment = {"_FUSEWIRE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return [item.split(",", 1)[1] for item in fusewire(env=environment).out.splitlines() if item]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["comp"], ["compare", "compile", "completion"]),
        (["run", "--tar"], ["--target"]),
        (["run", "--target", "c"], ["cpu", "cuda"]),
        (["run", "-t", "'cpu -li"], ["cpu -libs="]),
        (["run", "-t", "'cpu -libs=one"], ["cpu -libs=onednn"]),
        (["run", "-t", "'cpu -libs=openblas,"], ["cpu -libs=openblas,onednn"]),
        (["run", "-t", "'llvm -libs=onednn -num"], ["llvm -libs=onednn -num-cores="]),
        (["run", "-t", "'tpu -li"], []),
        (["compare", "--targets", "op"], ["opencl"]),
        (["compile", "--disabled-pass", "FoldC"], ["FoldConstant"]),
        (["compile", "--disabled-pass", "FoldConstant,FuseO"], ["FoldConstant,FuseOps"]),
        (["compile", "--pass-config", "relay.Fuse"], ["relay.FuseOps.max_depth="]),
        (["compile", "--dump-code", "c,"], ["c,loops", "c,relay"]),
        (["compile", "--desired-layout", "NH"], ["NHWC"]),
        (["run", "--device", "ro"], ["rocm"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_completion(words: list[str], expected: list[str]) -> None:
    assert [found for found in complete(*words) if found in expected or len(expected) < 2] == expected


def test_completion_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dogs").mkdir()
    Path("dogs/rex.png").touch()
    line = "fusewire run model.onnx --inputs {} "
    for word, expected in (
        ("", "file,"),
        ("do", "file,do"),
        ("data=do", "plain,data=dogs/"),
        ("data=dogs/", "plain,data=dogs/rex.png"),
        ("data=nowhere/", ""),
    ):
        environment = {"_FUSEWIRE_COMPLETE": "bash_complete", "COMP_WORDS": line.format(word), "COMP_CWORD": "4"}
        assert fusewire(env=environment).out.strip() == expected
    environment = {"_FUSEWIRE_COMPLETE": "bash_complete", "COMP_WORDS": "fusewire run x", "COMP_CWORD": "2"}
    assert fusewire(env=environment).out == "file,x\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    ended = fusewire("completion", shell)
    assert ended.status == 0 and f"_FUSEWIRE_COMPLETE={shell}_complete" in ended.out
    assert "fusewire" in ended.out


def test_completion_for_other_shells() -> None:
    bad_usage("completion", "tcsh")
    bad_usage("completion")
    assert "eval" in fine("completion", "--help")
