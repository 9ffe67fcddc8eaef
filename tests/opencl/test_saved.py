"""Saved modules for opencl: loading needs no OpenCL, results have the same bits, files that were edited are refused."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fusewire as fw
from fusewire.targets.artifact.read import load
from fusewire.targets.launched.code import LaunchCode
from fusewire.targets.opencl import devices
from tests.opencl.present import each_device
from tests.random_graphs import random_graph
from tests.targets.stored import bits, manifest_of, members_of, network, refused, results, with_manifest, with_member
from tests.targets.test_artifact import assert_same

ROOT = Path(__file__).parents[2]


@each_device
def test_round_trip(target: str, tmp_path: Path) -> None:
    lib, inputs = network(target, name="net")
    expected = bits(results(lib, inputs))
    lib.save(tmp_path / "m.fw")
    loaded = load(tmp_path / "m.fw")
    assert bits(results(loaded, inputs)) == expected
    assert_same(lib, loaded)
    loaded.save(tmp_path / "again.fw")
    assert (tmp_path / "again.fw").read_bytes() == (tmp_path / "m.fw").read_bytes()
    assert sorted(name for name in members_of(tmp_path / "m.fw") if name.startswith("kernels/")) == [
        f"kernels/{k:04}.txt" for k in range(len(lib.program.leaf_steps()) + len(lib.runnable.code.files))
    ]


@each_device
@pytest.mark.parametrize("seed", [5, 6])
def test_random_graphs(target: str, seed: int, tmp_path: Path) -> None:
    function, inputs = random_graph(seed)
    lib = fw.build(function, target)
    lib.save(tmp_path / "m.fw")
    loaded = load(tmp_path / "m.fw")
    assert bits(results(loaded, inputs)) == bits(results(lib, inputs)), f"seed {seed}"


def test_without_opencl(tmp_path: Path) -> None:
    """A process that has no pyopencl loads and shows the module, and says what it needs to run it."""
    lib, _ = network("opencl")
    lib.save(tmp_path / "m.fw")
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["pyopencl"] = None
import fusewire as fw
lib = fw.load(sys.argv[1])
print(lib.get_source(), end="")
try:
    lib["default"](fw.device("opencl"))
except fw.DeviceNotFound as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "m.fw")]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *source, last = done.stdout.splitlines()
    assert "\n".join(source) + "\n" == lib.get_source()
    assert "needs the package pyopencl" in last and devices.INSTALL in last


def put(*where: Any) -> Callable[[Any], None]:
    def edit(manifest: Any) -> None:
        place = manifest["module"]
        for key in where[:-2]:
            place = place[key]
        place[where[-2]] = where[-1]

    return edit


STEP = ("code", "steps", 0)

EDITS: dict[str, tuple[Callable[[Any], None], str]] = {
    "kind": (put("code", "kind", "fortran"), r"expected a kind of code \(c, opencl, cuda, hip\), got 'fortran'"),
    "kind of the target": (put("target", "cpu"), "for which no module has opencl code"),
    "slot": (put(*STEP, "calls", 0, "arguments", 0, "value", 1), "its code was not made for its program"),
    "items": (put(*STEP, "calls", 0, "items", 1 << 40), "its code was not made for its program"),
    "scratch": (put(*STEP, "team_bytes", 1), "its code was not made for its program"),
    "kernel": (put(*STEP, "calls", 0, "kernel", "other"), "its code was not made for its program"),
    "input": (put(*STEP, "inputs", [2]), "and its kernel have different inputs"),
    "arena": (put("arena", "offsets", 0, 1, 64), "is at byte 64 of the arena"),
    "field": (put("code", "more", 1), r"extra fields found \(more\)"),
    "argument": (put(*STEP, "calls", 0, "arguments", 0, "kind", 7), "expected a text, got 7"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_files_are_refused(name: str, tmp_path: Path) -> None:
    lib, _ = network("opencl")
    lib.save(tmp_path / "m.fw")
    manifest = manifest_of(tmp_path / "m.fw")
    edit, message = EDITS[name]
    edit(manifest)
    refused(with_manifest(tmp_path / "m.fw", manifest), message)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    lib, _ = network("opencl")
    lib.save(tmp_path / "m.fw")
    ((_, text),) = lib.runnable.code.files
    (member,) = [n for n, data in members_of(tmp_path / "m.fw").items() if data == text.encode()]
    changed = text.replace("0.0f", "1.0f").encode()
    refused(with_member(tmp_path / "m.fw", member, changed), "its code was not made for its program")


def test_kernels_of_another_version_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib, _ = network("opencl")
    with monkeypatch.context() as inner:
        inner.setattr(lib.runnable.code, "mark", "that of another version")
        inner.setattr("fusewire.targets.artifact.write.fusewire_version", lambda: "0.0.1")
        lib.save(tmp_path / "m.fw")
    loaded = load(tmp_path / "m.fw")
    own, stored = lib.runnable.code, loaded.runnable.code
    assert isinstance(own, LaunchCode) and isinstance(stored, LaunchCode)
    assert stored.mark == own.mark and loaded.get_source() == lib.get_source()


def test_what_cannot_be_saved_or_exported(tmp_path: Path) -> None:
    x = fw.var("x", shape=(2, 3))
    lib = fw.build(fw.nn.relu(x), "opencl")
    with pytest.raises(fw.FusewireError, match="export as a C project is there for the target cpu only"):
        lib.export_c(tmp_path / "project")
    assert not list(tmp_path.iterdir())
