"""The command line: what all commands have in common, and compile."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import fusewire as fw
from fusewire.cli import cli
from fusewire.commands import base, models
from fusewire.targets.artifact.read import load
from tests.cli_models import bad_usage, classifier, failed, fine, fusewire, pointwise

COMMANDS = ("compile", "run", "bench", "compare", "explain", "doctor", "completion")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return classifier(tmp_path / "net.onnx")


# What all have


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_can_be_parsed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = fine(command, "--help")
    assert fine(command, "-h") == text
    examples = re.findall(r"^ +(?:eval \"\$\()?(fusewire .*?)(?:\)\".*| > .*)?$", text.split("Examples:")[1], re.M)
    monkeypatch.chdir(tmp_path)
    for name in ("resnet50.onnx", "bert.onnx", "resnet50.fw"):
        Path(name).touch()
    for example in examples:
        _, name, *args = shlex.split(example)
        assert name == command
        found = cli.commands[name]
        context = found.make_context(name, args, obj=base.Session.start(), parent=click.Context(cli))
        assert context.params


def test_no_command_shows_the_help() -> None:
    ended = fusewire()
    assert (ended.status, ended.out) == (2, "")
    for command in COMMANDS:
        assert command in ended.err


def test_version() -> None:
    assert fine("--version") == f"fusewire {fw.__version__}\n"


@pytest.mark.parametrize(
    "args", [["frobnicate"], ["--frobnicate"], ["run"], ["doctor", "--frobnicate"], ["doctor", "x"]]
)
def test_bad_words(args: list[str]) -> None:
    bad_usage(*args)


@pytest.mark.parametrize("command", ["compile", "run", "bench", "compare", "explain"])
def test_model_files_that_are_none(command: str, tmp_path: Path) -> None:
    more = ["--targets", "cpu", "cpu -num-cores=1"] if command == "compare" else []
    assert "does not exist" in bad_usage(command, tmp_path / "nosuch.onnx", *more)
    assert "is a directory" in bad_usage(command, tmp_path, *more)
    wrong = tmp_path / "wrong.onnx"
    for content in (b"", b"hello", bytes(100)):
        wrong.write_bytes(content)
        assert f"{wrong}: not an ONNX model" in failed(command, wrong, *more)


@pytest.mark.parametrize("place", [0, 1])
def test_debug_shows_tracebacks(place: int, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.touch()
    words: list[object] = ["run", wrong]
    words.insert(2 * place, "--debug")
    ended = fusewire(*words)
    assert ended.status == 1 and "Traceback" in ended.err and "Error: " in ended.err


@pytest.mark.parametrize("error", [RuntimeError("whoops"), ZeroDivisionError(), RecursionError("deep")])
def test_bugs_ask_for_a_report(error: Exception, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(models, "build", fail)
    assert f"{type(error).__name__}: {error}. This is a bug" in failed("run", model)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is not enough memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/some/file"), "/some/file: Permission denied"),
    ],
)
def test_errors_of_the_system(error: Exception, message: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(models, "build", fail)
    text = failed("run", model)
    assert message in text and "bug" not in text


def test_interruption(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "build", interrupt)
    ended = fusewire("run", model)
    assert ended.status == 130 and ended.err.strip() == "Interrupted."


def test_verbosity(model: Path) -> None:
    line = "info: Using conv2d_nchw.cpu for nn.conv2d based on highest priority (10)"
    assert fusewire("run", model).err == ""
    cases: list[list[object]] = [["-v", "run", model], ["run", "-v", model], ["run", model, "--verbose"]]
    for words in cases:
        ended = fusewire(*words)
        assert line in ended.err and "debug: " not in ended.err and line not in ended.out
    for flags in (["-vv", "run"], ["-v", "run", "-v"]):
        assert "debug: " in fusewire(*flags, model, "--opt-level", 0).err  # passes that are skipped


def test_warnings_are_shown(tmp_path: Path) -> None:
    relu = pointwise(tmp_path / "relu.onnx", "Relu", [4])
    ended = fusewire("run", relu, "--target", "cpu -libs=openblas")
    assert ended.status == 0 and ended.err.startswith("warning: library openblas is not used")


# compile


def test_compile_and_run(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 6)).astype("float32")
    np.savez(tmp_path / "x.npz", data=x)
    assert fine("compile", model, "-o", "net.fw") == "cpu: wrote net.fw\n"
    mod, params = fw.frontend.from_onnx(model)
    (expected,) = fw.testing.evaluate(mod["main"], {"data": x, **params})
    fw.testing.assert_allclose(load("net.fw")(data=x), expected, rtol=1e-4, atol=1e-5)
    for file in ("net.fw", model):
        fine("run", file, "--inputs", "x.npz", "--outputs", "y.npz")
        with np.load("y.npz") as archive:
            assert archive.files == ["output_0"]
            fw.testing.assert_allclose(archive["output_0"], expected, rtol=1e-4, atol=1e-5)


def test_compile_has_a_default_output(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    inner = classifier(tmp_path / "sub" / "net.v2.onnx")
    assert "wrote net.v2.fw" in fine("compile", inner)
    assert Path("net.v2.fw").is_file() and not list((tmp_path / "sub").glob("*.fw"))


def test_dump_code(model: Path) -> None:
    out = fine("compile", model, "--output", "out.fw", "--dump-code", "c,loops,relay")
    assert out == "cpu: wrote out.fw, out.c, out.loops, out.relay\n"
    assert "fusewire_default_fused_nn_conv2d_add_nn_relu" in Path("out.c").read_text()
    assert "kernel fusewire_default_fused_nn_conv2d_add_nn_relu(" in Path("out.loops").read_text()
    assert Path("out.relay").read_text().startswith('#[version = "0.0.5"]')
    fine("compile", model, "-o", "plain", "--dump-code", "relay")
    assert Path("plain").is_file() and "nn.conv2d" in Path("plain.relay").read_text()


def test_desired_layout(model: Path) -> None:
    fine("compile", model, "-o", "a.fw", "--dump-code", "relay")
    fine("compile", model, "-o", "b.fw", "--dump-code", "relay", "--desired-layout", "NHWC")
    fine("compile", model, "-o", "c.fw", "--dump-code", "relay", "--desired-layout", "NCHW")
    texts = [Path(f"{name}.relay").read_text() for name in "abc"]
    assert ["NHWC" in text for text in texts] == [False, True, False]
    results = [fine("run", f"{name}.fw", "--print-top", 1) for name in "ab"]
    assert results[0].split()[:5] == results[1].split()[:5]


def test_levels_passes_and_config(model: Path) -> None:
    def steps(*options: object) -> list[Any]:
        found: list[Any] = json.loads(fine("explain", model, "--json", *options))["steps"]
        return found

    fused = len(steps())
    assert "nn.bias_add" in str(steps("--opt-level", 2)) and "nn.bias_add" not in str(steps("-O", 3))
    assert len(steps("--disabled-pass", "FuseOps,FoldScaleAxis")) > fused
    assert len(steps("--pass-config", "relay.FuseOps.max_depth=1")) > fused


def test_export_c(model: Path) -> None:
    assert fine("compile", model, "--export-c", "project", "--module-name", "mynet") == "cpu: wrote project\n"
    assert Path("project/CMakeLists.txt").is_file() and not Path("net.fw").exists()
    assert any("mynet" in path.name for path in Path("project").rglob("*"))
    assert "wrote net.fw, project" in fine("compile", model, "-o", "net.fw", "--export-c", "project")
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    assert "--overwrite" in failed("compile", model, "--export-c", "mine")
    fine("compile", model, "--export-c", "mine", "--overwrite")
    assert Path("mine/thesis.txt").is_file() and Path("mine/CMakeLists.txt").is_file()


def test_open_sizes(tmp_path: Path) -> None:
    dynamic = classifier(tmp_path / "dyn.onnx", ["n", 3, "h", "w"])
    error = failed("run", dynamic)
    assert '--input-shapes "data:[n,3,h,w]"' in error and "(n, 3, h, w)" in error
    assert "(2, 5)" in fine("run", dynamic, "--input-shapes", "data:[2, 3,8,6]")
    assert "has no input 'foo', which shape= names; there are: data, h, n, w" in bad_usage(
        "run", dynamic, "--input-shapes", "foo:[1]"
    )
    assert "shape" in failed("run", dynamic, "--input-shapes", "data:[1,3]")


@pytest.mark.parametrize(
    "fault", ["--target=cuda", "--target=rocm", "compiler", "save", "dump"], ids=lambda f: f.split("=")[0]
)
def test_a_failing_compile_writes_nothing(fault: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise fw.CompileError("no")

    if fault == "compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif fault == "save":
        monkeypatch.setattr(fw.CompiledModule, "save", fail)
    elif fault == "dump":
        monkeypatch.setattr(fw.CompiledModule, "get_source", fail)
    failed("compile", model, *([fault] if fault.startswith("-") else []), "-o", "out.fw", "--dump-code", "c")
    assert sorted(p.name for p in Path().iterdir()) == ["net.onnx"]


def test_compile_refuses_bad_outputs(model: Path) -> None:
    assert "there is no folder" in bad_usage("compile", model, "-o", "nodir/net.fw")
    assert "is a folder" in bad_usage("compile", model, "-o", ".")
    assert "is the model itself" in bad_usage("compile", model, "-o", model)
    Path("net.c").mkdir()
    assert "net.c is a folder" in bad_usage("compile", model, "--dump-code", "c")
    fine("compile", model, "-o", "net.fw")
    assert "is compiled already" in failed("compile", "net.fw", "-o", "again.fw")


def test_outputs_through_links_and_devices(model: Path) -> None:
    Path("link.npz").symlink_to("real.npz")
    fine("run", model, "-o", "link.npz")
    assert Path("link.npz").is_symlink() and Path("real.npz").is_file()
    fine("run", model, "-o", "/dev/null")
    fine("compile", model, "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "cup"], "unknown kind 'cup'; did you mean 'cpu'?"),
        (["-t", "cpu -libs=onednnn"], "did you mean 'onednn'?"),
        (["--target", ""], "expected 'kind -key=value ...'"),
        (["--input-shapes", "data"], 'expected "NAME:[N,N,...]'),
        (["--input-shapes", "data:[1,x]"], "'x' is no size"),
        (["--input-shapes", "data:[-1]"], "'-1' is no size"),
        (["--input-shapes", "data:[1] data:[1]"], "data is given twice"),
        (["--opt-level", "-1"], "--opt-level"),
        (["--opt-level", "high"], "--opt-level"),
        (["--disabled-pass", "FuseOpz"], "did you mean 'FuseOps'?"),
        (
            ["--pass-config", "relay.FuseOps.max_dept=1"],
            "known keys: fusewire.FuseStages.min_bytes, relay.FuseOps.max_depth",
        ),
        (["--pass-config", "relay.FuseOps.max_depth"], "expected KEY=VALUE"),
        (["--pass-config", "relay.FuseOps.max_depth=many"], "takes a value of type int"),
        (["--desired-layout", "NCWH"], "--desired-layout"),
        (["--num-cores", "0"], "--num-cores"),
        (["--target", "cuda", "--num-cores", "2"], "kind cuda has no number of cores"),
        (["--dump-code", "c,asm"], "known: c, loops, relay"),
        (["--dump-code"], "requires an argument"),
    ],
)
def test_bad_options_of_compile(options: list[str], message: str, model: Path) -> None:
    assert message in bad_usage("compile", model, "-o", "out.fw", *options)
    assert not Path("out.fw").exists()
