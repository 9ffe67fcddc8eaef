"""Scratch folders that do not outlive their process for long, however it ends.

A folder is `fusewire-*` among the system's temporary files. It holds a file that its process keeps locked; the system
drops the lock when the process ends, killed or not. Whoever makes the first scratch folder of a process removes those
that nobody holds any more.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "fusewire-"
OWNER = "OWNER"
"""The locked file of a folder; a folder without one belongs to nobody here, and is left alone."""

_swept: set[Path] = set()


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new folder of this process's own, which goes with everything in it at the end.

    Args:
        purpose: becomes a part of its name.

    Raises:
        OSError: it cannot be made.
    """
    folder, lock = own_folder(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def own_folder(purpose: str) -> tuple[Path, int]:
    """As `scratch_folder`, until the process ends; with the descriptor that holds the lock.

    Raises:
        OSError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    if parent not in _swept:
        _swept.add(parent)
        sweep(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-"))
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)  # a sweeper came between the two calls and took it for abandoned


def sweep(parent: Path) -> list[Path]:
    """Remove this user's scratch folders that no process holds; returns them."""
    found: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(parent) as items:
        found = [Path(item.path) for item in items if item.name.startswith(PREFIX) and _own(item)]
    return [folder for folder in found if _abandoned(folder)]


def _own(item: os.DirEntry[str]) -> bool:
    """Whether something is a folder of this user's; what has gone since it was listed is not."""
    try:
        return item.is_dir(follow_symlinks=False) and item.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        return False


def _abandoned(folder: Path) -> bool:
    """Remove a folder if its lock can be had."""
    try:
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
