"""The process that forks one child for each case, limits it, watches it, and looks at what it left behind.

It reads requests (JSON, one a line) and answers each with a line. A forked child starts with everything imported, dies
alone, and leaves the next one a clean slate, in a few milliseconds.

    home/ tmp/ cache/      what HOME, TMPDIR and FUSEWIRE_CACHE_DIR name; home and tmp must be empty after each case
    outside/               a file that no model has business with
    work/                  the current folder; work/case holds the file
"""

import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

GIB = 1 << 30
MEMORY = 2 * GIB
"""Bytes of memory that a case may take at most, its compiler included."""

ADDRESSES = 5 * GIB
"""Bytes of address space, as a backstop: memory that is asked for and not touched costs nothing."""

SECONDS = 10
"""Processor time of a case, its compiler included."""

PATIENCE = 60
"""Seconds until a case that uses no processor time counts as hanging."""

LARGEST_FILE = GIB // 4


@frozen
class Report:
    """What became of a case.

    Attributes:
        kind, number: which case.
        about: the model and its damage.
        end, good, stage, message, trace: as `cases.Outcome`; `end` may also be "timeout", "hang", "memory",
            "crashed (signal)", or "wrote FILE".
        seconds: of processor time.
        wall: seconds that passed.
        memory: bytes at the peak.
    """

    kind: str
    number: int
    end: str
    good: bool
    stage: str
    message: str
    trace: str
    about: str
    seconds: float
    wall: float
    memory: int


class Worker:
    """The folders of one worker, and its cases one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.case = root / "work" / "case"
        self.notes = root / "notes.txt"
        self.notes.touch()
        self.before = self._put_right()

    def _put_right(self) -> dict[str, tuple[int, int]]:
        """The file outside as it was; gives what lies around."""
        (self.root / "outside" / "secret.bin").write_bytes(cases.CANARY * 1000)
        return self._listing()

    def run(self, kind: str, number: int, compiled: bool) -> Report:
        """One case."""
        self.case.mkdir()
        start = time.monotonic()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            self._child(kind, number, compiled, writer)
        os.close(writer)
        usage, status = _wait(child)
        with os.fdopen(reader, "rb") as pipe:
            lines = pipe.read().splitlines()
        wall = time.monotonic() - start
        about = json.loads(lines[0]) if lines else ""
        found = json.loads(lines[1]) if len(lines) > 1 else attrs.asdict(cases.Outcome("", False))
        seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        if trouble := self._trouble(status, seconds, wall, memory) or self._left_behind():
            notes = self.notes.read_text(errors="replace")[-6000:]
            found = {**found, "end": trouble, "good": False, "trace": notes or found["trace"]}
        shutil.rmtree(self.case)
        return Report(kind=kind, number=number, about=about, seconds=seconds, wall=wall, memory=memory, **found)

    def _child(self, kind: str, number: int, compiled: bool, writer: int) -> None:
        """Run the case in this process, and end it."""
        try:
            os.setsid()  # so that its compilers die with it
            _limit()
            os.chdir(self.root / "work")
            nothing = os.open(os.devnull, os.O_RDONLY)
            notes = os.open(self.notes, os.O_WRONLY | os.O_TRUNC)
            os.dup2(nothing, 0)
            os.dup2(notes, 1)
            os.dup2(notes, 2)
            faulthandler.enable(2)
            faulthandler.register(signal.SIGXCPU, 2, chain=True)  # to see where the time went
            watch = _watch(self.root)
            model, damage = cases.write(kind, number, self.case)
            os.write(writer, json.dumps(f"{model.name}: {damage}").encode() + b"\n")
            outcome = cases.run(model, number, self.case, compiled)
            if watch:
                outcome = attrs.evolve(outcome, end=f"wrote or started {watch[0]}", good=False)
            os.write(writer, json.dumps(attrs.asdict(outcome)).encode())
        except BaseException:  # the fuzzer itself is wrong
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _trouble(self, status: int, seconds: float, wall: float, memory: int) -> str:
        """How a process ended, where that is not as it should."""
        code = os.waitstatus_to_exitcode(status)
        if seconds > SECONDS or code == -signal.SIGXCPU:
            return "timeout"
        if wall > PATIENCE:
            return "hang"
        if code:
            return f"crashed ({signal.Signals(-code).name if code < 0 else code})"
        return "memory" if memory > MEMORY else ""

    def _left_behind(self) -> str:
        """What changed around the case."""
        after = self._listing()
        changed = sorted(name for name in after.keys() | self.before.keys() if after.get(name) != self.before.get(name))
        for name in changed:
            path = self.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if changed:
            self.before = self._put_right()
        return f"left {changed[0]}" if changed else ""

    def _listing(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name in ("home", "tmp", "outside", "work"):
            for path in (self.root / name).rglob("*"):
                if path != self.case and self.case not in path.parents:
                    status = path.lstat()
                    time_of_change = 0 if path.is_dir() else status.st_mtime_ns
                    found[str(path.relative_to(self.root))] = (time_of_change, status.st_size)
        return found


def _limit() -> None:
    for what, value in (
        (resource.RLIMIT_AS, ADDRESSES),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value + 2 if what == resource.RLIMIT_CPU else value))


def _wait(child: int) -> tuple[resource.struct_rusage, int]:
    """Wait for a process, and end it and its own if that takes too long."""
    handle = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([handle], [], [], PATIENCE)
        if not ready:
            os.killpg(child, signal.SIGKILL)
    finally:
        os.close(handle)
    _, status, usage = os.wait4(child, 0)
    return usage, status


def _watch(root: Path) -> list[str]:
    """A list that fills with files opened for writing outside of the worker's folders, and with shells started."""
    found: list[str] = []
    allowed = (*(str(root / name) for name in ("tmp", "cache", "work")), os.devnull)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if writes and isinstance(path, str | bytes) and not os.path.realpath(os.fsdecode(path)).startswith(allowed):
                found.append(os.fsdecode(path))
        elif event in ("os.system", "os.exec", "os.posix_spawn", "pty.spawn", "pickle.find_class", "socket.connect"):
            found.append(f"{event}{arguments}")

    sys.addaudithook(hook)
    return found


def main(root: Path) -> None:
    """Answer requests until there are no more."""
    worker = Worker(root)
    for line in sys.stdin:
        report = worker.run(**json.loads(line))
        print(json.dumps(attrs.asdict(report)), flush=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    for part in ("home", "tmp", "cache", "outside", "work"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    os.environ.update(
        HOME=str(folder / "home"),
        TMPDIR=str(folder / "tmp"),
        XDG_CACHE_HOME=str(folder / "home" / "cache"),
        FUSEWIRE_CACHE_DIR=str(folder / "cache"),
        OPENBLAS_NUM_THREADS="1",
        PYTHONDONTWRITEBYTECODE="1",
    )
    from . import cases

    for which in sys.argv[2:]:
        cases.prepare(which)
    main(folder)
