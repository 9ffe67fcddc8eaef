"""Records of tuning: a text file of JSON lines, to which lines are only ever added.

    {"record": "timing", "key": {...}, "implementation": ..., "config": {...}, "seconds": ..., "problem": null}
    {"record": "decision", "key": {...}, "implementation": ..., "config": {...}, "level": "normal"}

Timings are what was measured; decisions are what follows from them, and all that a build needs. Files merge by putting
one behind the other: of several decisions for one key the last counts. Each line is written in one piece and flushed to
the disk before the search goes on, so whatever ends the process, at most a part of the last line is lost, and readers
pass over lines that are not whole.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
from attrs import asdict, define, field, frozen

from ...ir.errors import FusewireError
from ..implement import Decision
from ..schedules.space import Config

_log = logging.getLogger("fusewire")

KERNELS = 1
"""The version of the kernels; counts up when schedules change so much that old measurements mean nothing."""

LEVELS = ("none", "fast", "normal", "wide", "heavy")


@frozen
class Key:
    """What a measurement holds for.

    Attributes:
        target: the kind of target, e.g. "cpu".
        device: the processor's or device's name.
        driver: whoever makes code of the source, and for what: "gcc 12.2.0, avx512".
        threads: how many threads run the kernel; 0 where that means nothing.
        work: operators and types, to be read.
        group: a hash of the group as it is.
        kernels: the version of the kernels.
    """

    target: str
    device: str
    driver: str
    threads: int
    work: str
    group: str
    kernels: int = KERNELS


@frozen
class Timing:
    """One candidate as it was measured: seconds for a run, or the problem with it."""

    implementation: str
    config: Config
    seconds: float | None
    problem: str | None = None


@define
class _Entry:
    """All that is known for one key."""

    level: str = "none"
    implementation: str = ""
    config: Config = field(factory=dict)
    judged: bool = True
    best: dict[str, float] = field(factory=dict)
    problems: dict[str, str] = field(factory=dict)


@define(eq=False)
class TuningStore:
    """The records in a file; without a path, in memory.

    Attributes:
        path: the file.
        locked: builds find every decision that they need here, or fail.
        asked: what was asked for so far, with the answers.
        measured, decided: how many measurements and decisions came from this process.

    Raises:
        FusewireError: the file cannot be read or written.
    """

    path: Path | None = None
    locked: bool = False
    asked: dict[Key, Decision | None] = field(factory=dict)
    measured: int = 0
    decided: int = 0
    _entries: dict[Key, _Entry] = field(factory=dict)
    _seen: tuple[int, int] | None = None

    def decision(self, key: Key) -> Decision | None:
        """What was decided for a key, or None."""
        self._refresh()
        entry = self._entries.get(key)
        found = None
        if entry is not None and entry.implementation:
            found = Decision(entry.implementation, entry.config, dict(entry.best), dict(entry.problems))
        self.asked[key] = found
        return found

    def level(self, key: Key) -> str:
        """The level at which a key was tuned; "none" if it was not."""
        self._refresh()
        entry = self._entries.get(key)
        return entry.level if entry else "none"

    def judged(self, key: Key) -> bool:
        """Whether the whole network was tried with what is decided for a key (see judge.py)."""
        self._refresh()
        entry = self._entries.get(key)
        return entry is None or entry.judged

    def add_timing(self, key: Key, timing: Timing) -> None:
        """Record a measurement."""
        self.measured += 1  # before it is written: an interrupted write has most likely been one
        self._add({"record": "timing", "key": asdict(key), **asdict(timing)})

    def decide(self, key: Key, implementation: str, config: Config, level: str, judged: bool = True) -> None:
        """Record a decision."""
        self.decided += 1
        self._add(json.loads(decision_line(key, implementation, config, level)) | ({} if judged else {"judged": False}))

    def __len__(self) -> int:
        self._refresh()
        return sum(bool(entry.implementation) for entry in self._entries.values())

    def _add(self, record: dict[str, Any]) -> None:
        self._take(record)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                broken = file.tell() > 0 and not _ends_a_line(self.path)
                file.write(b"\n" * broken + json.dumps(record, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FusewireError(f"cannot write tuning records to '{self.path}': {error.strerror or error}") from None

    def _refresh(self) -> None:
        """Read the file if it has changed since."""
        if self.path is None:
            return
        try:
            stat = self.path.stat()
            if (stat.st_size, stat.st_mtime_ns) == self._seen:
                return
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise FusewireError(f"cannot read tuning records from '{self.path}': {error.strerror or error}") from None
        self._entries.clear()
        for record in _records(data, self.path, self.locked):
            self._take(record)
        self._seen = stat.st_size, stat.st_mtime_ns

    def _take(self, record: dict[str, Any]) -> None:
        entry = self._entries.setdefault(Key(**record["key"]), _Entry())
        if record["record"] == "decision":
            decided = entry.implementation, dict(entry.config)
            if self.locked and entry.implementation and decided != (record["implementation"], record["config"]):
                raise FusewireError(f"'{self.path}' has two decisions for one group: {record['key']['work']}")
            entry.implementation, entry.config = record["implementation"], record["config"]
            entry.level, entry.judged = record["level"], record.get("judged", True) is not False
        elif record["seconds"] is not None:
            name, seconds = record["implementation"], record["seconds"]
            entry.best[name] = min(seconds, entry.best.get(name, seconds))
        elif isinstance(record.get("problem"), str):
            entry.problems[record["implementation"]] = record["problem"]


def decision_line(key: Key, implementation: str, config: Config, level: str) -> str:
    """A decision as a line of a file."""
    facts = {"implementation": implementation, "config": dict(config), "level": level}
    return json.dumps({"record": "decision", "key": asdict(key), **facts}, sort_keys=True)


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "decision": {"key": (dict,), "implementation": (str,), "config": (dict,), "level": (str,)},
    "timing": {"key": (dict,), "implementation": (str,), "config": (dict,), "seconds": (int, float, type(None))},
}
_KEY = {"target": str, "device": str, "driver": str, "threads": int, "work": str, "group": str, "kernels": int}


def _records(data: bytes, path: Path, locked: bool) -> Iterator[dict[str, Any]]:
    """The whole and well-formed records of a file; what else is there is told in the log.

    Raises:
        FusewireError: a locked file holds anything else.
    """
    strange = 0
    for number, line in enumerate(data.splitlines(), 1):
        record = _parsed(line)
        if record is not None and _well_formed(record):
            yield record
        elif line.strip():
            if locked:
                raise FusewireError(f"'{path}', line {number}: no decision; `fusewire lock` writes the file anew")
            strange += 1
    if strange:
        _log.warning("passing over %d lines of '%s' that are no tuning records", strange, path)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _well_formed(record: Any) -> bool:
    if not isinstance(record, dict) or record.get("record") not in _FIELDS:
        return False
    fields = _FIELDS[record["record"]]
    if not all(isinstance(record.get(name), kinds) for name, kinds in fields.items()):
        return False
    if record.get("level", "none") not in LEVELS or not all(type(v) is int for v in record["config"].values()):
        return False
    key = record["key"]
    return key.keys() == _KEY.keys() and all(type(key[name]) is kind for name, kind in _KEY.items())


def default_path() -> Path | None:
    """Where records are kept unless told otherwise: `$FUSEWIRE_TUNING` (empty: nowhere), or the user's data folder."""
    chosen = os.environ.get("FUSEWIRE_TUNING")
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    return Path(platformdirs.user_data_dir("fusewire")) / "tuning.jsonl"


LOCKFILE = Path("fusewire.lock")


def open_store(
    records: "TuningStore | str | os.PathLike[str] | None" = None, locked: bool = False, must_exist: bool = False
) -> TuningStore:
    """The store at a path, or a store as it is; None: the default one, or `fusewire.lock` here for a locked build.

    Args:
        records: the path, or the store.
        locked: whether every decision must be there.
        must_exist: whether a path that is given must lead to a file.

    Raises:
        FusewireError: the file is not there, or `records` is no path.
    """
    if isinstance(records, TuningStore):
        return records
    if not isinstance(records, str | os.PathLike | None):
        raise FusewireError(f"records must be a path or a TuningStore, got {records!r}")
    if not locked:
        if must_exist and records is not None and not Path(records).expanduser().exists():
            raise FusewireError(f"there are no tuning records at '{records}'; `fusewire tune` writes them")
        return TuningStore(Path(records).expanduser() if records is not None else default_path())
    path = Path(records).expanduser() if records is not None else LOCKFILE
    if not path.is_file():
        raise FusewireError(f"there is no '{path}' for a locked build; `fusewire lock` writes it")
    return TuningStore(path, locked=True)
