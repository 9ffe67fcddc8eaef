"""A content-addressed cache of shared objects on disk, safe to share between processes and to delete at any moment.

    objects/ab/abcdef.../    one entry: lib.so, the sources it was built from, MANIFEST (JSON: sha256 of lib.so, ...)
    failed/abcdef.../        sources that the compiler refused, kept for the user to look at
    tmp/                     entries being written, and entries on their way out

An entry is written under `tmp/` and appears under its name by one rename, so a reader sees a whole entry or none. Two
processes that build the same key race harmlessly: the one that comes second finds the name taken and drops its copy.
What a reader finds is checked against the manifest's checksum before use, since loading a truncated library would
crash the process. A use touches the manifest; eviction removes the entries used longest ago.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import random
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import field, frozen

_log = logging.getLogger("fusewire")

LIBRARY = "lib.so"
MANIFEST = "MANIFEST"

# A writer that is interrupted leaves its folder under tmp/; nobody writes for this long (seconds).
_STALE = 3600.0
# What writing fails with when another process made the entry, or deleted a folder under our hands: try again.
_RACE = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
_ATTEMPTS = 20


@frozen
class ObjectCache:
    """The cache under `root`. `OSError` out of a method that writes means that the folder cannot be written."""

    root: Path = field(converter=Path)
    member: str = LIBRARY
    """The file that an entry is about."""

    def find(self, key: str) -> Path | None:
        """The library stored under `key`, checked and marked as just used; None if there is none, or a damaged one."""
        return self._entry(key) / self.member if self.read(key) is not None else None

    def read(self, key: str) -> bytes | None:
        """The contents of the library stored under `key`; otherwise as `find`."""
        entry = self._entry(key)
        try:
            manifest = json.loads((entry / MANIFEST).read_text())
            library = (entry / self.member).read_bytes()
            intact = manifest["sha256"] == hashlib.sha256(library).hexdigest()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            _log.info("cache entry %s is damaged and will be rebuilt", entry)
            return None
        # A cache that may only be read still serves; its entries just do not count as used.
        with contextlib.suppress(OSError):
            os.utime(entry / MANIFEST)
        return library

    def put(self, key: str, library: bytes, texts: Mapping[str, str], about: Mapping[str, object]) -> Path:
        """Store a library with its source `texts` (by file name) and what is to be known `about` it; returns its path.

        A sound entry that is already there stays and is returned; a damaged one is replaced.
        """
        manifest = json.dumps({**about, "sha256": hashlib.sha256(library).hexdigest(), "size": len(library)}, indent=1)
        files = {name: text.encode() for name, text in texts.items()} | {
            self.member: library,
            MANIFEST: manifest.encode(),
        }
        entry = self._entry(key)
        for _ in range(_ATTEMPTS):
            if self._publish(files, entry):
                return entry / self.member
            if found := self.find(key):
                return found
            self.drop(key)
        raise OSError(errno.EBUSY, "a damaged cache entry comes back again and again", str(entry))

    def keep_failed(self, key: str, texts: Mapping[str, str]) -> Path:
        """Keep sources that failed to compile; returns their folder."""
        folder = self.root / "failed" / key
        if not self._publish({name: text.encode() for name, text in texts.items()}, folder):
            with contextlib.suppress(OSError):
                os.utime(folder)  # the same sources are there already: they count as new
        return folder

    def drop(self, key: str) -> None:
        """Remove the entry under `key`, if there is one."""
        self._remove(self._entry(key))

    def evict(self, limit: int, keep: str = "") -> int:
        """Remove entries, the one used longest ago first, until at most `limit` bytes remain; returns how many went.

        The entry under the key `keep` stays whatever its size. Abandoned temporary folders go too.
        """
        for folder in _folders(self.root / "tmp"):
            if time.time() - _used(folder) > _STALE:
                shutil.rmtree(folder, ignore_errors=True)
        shelves = [self.root / "failed", *_folders(self.root / "objects")]
        entries = [entry for shelf in shelves for entry in _folders(shelf) if entry.name != keep]
        sizes = {entry: _size(entry) for entry in entries}
        total = sum(sizes.values()) + (_size(self._entry(keep)) if keep else 0)
        removed = 0
        for entry in sorted(entries, key=_used):
            if total <= limit:
                break
            self._remove(entry)
            total -= sizes[entry]
            removed += 1
        return removed

    def _entry(self, key: str) -> Path:
        return self.root / "objects" / key[:2] / key

    def _temporary(self) -> Path:
        # Not tempfile: its folders are closed to other users, and a shared cache is to be readable.
        return self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _publish(self, files: Mapping[str, bytes], entry: Path) -> bool:
        """Make `entry` a folder with `files`, in one step; False when it is there already."""
        for attempt in range(_ATTEMPTS):
            try:
                self._write(files, entry)
                return True
            except OSError as error:
                if error.errno not in _RACE or attempt == _ATTEMPTS - 1:
                    raise
            if entry.is_dir():
                return False
            # Out of step with whoever deletes the cache as fast as we fill it.
            time.sleep(random.uniform(0, 0.001) * attempt)
        raise AssertionError("the last attempt returns or raises")

    def _write(self, files: Mapping[str, bytes], entry: Path) -> None:
        """One attempt at `_publish`."""
        folder = self._temporary()
        try:
            folder.mkdir(parents=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
            entry.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(entry)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _remove(self, entry: Path) -> None:
        """Take `entry` away in one step, so that no reader meets half of it, then delete it."""
        trash = self._temporary()
        try:
            trash.parent.mkdir(parents=True, exist_ok=True)
            entry.rename(trash)
        except OSError as error:
            if error.errno not in _RACE:
                raise
            return  # it is not there, or the whole cache is being deleted
        shutil.rmtree(trash, ignore_errors=True)


def _folders(folder: Path) -> Iterator[Path]:
    """The folders within `folder`; none where it does not exist."""
    try:
        with os.scandir(folder) as items:
            yield from [Path(item.path) for item in items if item.is_dir(follow_symlinks=False)]
    except OSError:
        return


def _used(entry: Path) -> float:
    """When the entry was last used (seconds since the epoch); 0 for one that has just gone."""
    for path in (entry / MANIFEST, entry):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _size(entry: Path) -> int:
    """Bytes in the files of the entry."""
    try:
        with os.scandir(entry) as items:
            return sum(item.stat(follow_symlinks=False).st_size for item in items)
    except OSError:
        return 0
