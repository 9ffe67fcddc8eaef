"""Scratch folders: gone at the end, and swept away where their process was killed."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusewire.targets import scratch
from fusewire.targets.scratch import OWNER, own_folder, scratch_folder, sweep

HOLD = """
import sys
from fusewire.targets.scratch import own_folder
print(own_folder("test")[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(scratch, "_swept", set())
    yield
    tempfile.tempdir = None


def test_a_folder_goes_with_what_is_in_it(tmp_path: Path) -> None:
    with scratch_folder("test") as folder:
        assert folder.parent == tmp_path and folder.name.startswith("fusewire-test-")
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert sweep(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().decode().strip())
        (left / "cc123.o").write_bytes(b"half")
        assert sweep(tmp_path) == [] and left.exists()  # its process lives
        process.send_signal(signal.SIGKILL)
    others = tmp_path / "fusewire-of-somebody", tmp_path / "other-folder"
    for other in others:
        other.mkdir()
    (others[1] / OWNER).touch()
    (tmp_path / "fusewire-link").symlink_to(others[1])
    with scratch_folder("next") as folder:
        assert not left.exists()
        assert {*tmp_path.iterdir()} == {folder, *others, tmp_path / "fusewire-link"}


def test_what_goes_while_it_is_listed_keeps_nothing_else_from_being_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fusewire-a", "fusewire-b", "fusewire-c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / OWNER).touch()

    class Gone:
        name, path = "fusewire-gone", str(tmp_path / "fusewire-gone")

        def is_dir(self, follow_symlinks: bool) -> bool:
            return True

        def stat(self, follow_symlinks: bool) -> os.stat_result:
            return os.stat(self.path)

    scandir = os.scandir

    def listed(path: Any) -> Any:
        if path != tmp_path:
            return scandir(path)
        with scandir(path) as items:
            return contextlib.nullcontext([Gone(), *items])

    monkeypatch.setattr(os, "scandir", listed)
    assert len(sweep(tmp_path)) == 3 and not [*tmp_path.iterdir()]


def test_a_folder_whose_owner_is_gone_is_kept_without_its_mark(tmp_path: Path) -> None:
    folder, lock = own_folder("cache")
    (folder / OWNER).unlink()
    os.close(lock)
    assert sweep(tmp_path) == [] and folder.exists()


def test_a_folder_that_is_swept_while_it_is_made_is_made_again(tmp_path: Path) -> None:
    flock, taken = fcntl.flock, list[int]()

    def late(lock: int, how: int) -> None:
        if not taken:
            taken.append(1)
            assert len(sweep(tmp_path)) == 1
        flock(lock, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        folder, lock = own_folder("test")
    assert (folder / OWNER).exists() and [*tmp_path.iterdir()] == [folder]
    os.close(lock)
