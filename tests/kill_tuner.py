"""Kills tuners at random moments of their searches, and looks whether their records can still be read.

    python -m tests.kill_tuner [--count 50] [--most 12] [--target "opencl -device=intel"] [--seed 0]

One process loads fusewire and forks a tuner for each try (before any driver is loaded, for drivers do not survive a
fork). The moment is drawn for each: so many records after the tuner's start (none: before the first), and then at once,
while the record is on its way to the disk, or some time later, wherever in its work the tuner is then; a few networks
are tuned in that time, from building to judging them. After each SIGKILL every line of the records must be whole, but
for the one that was being written; nothing that was there before may be gone; the store must answer from them; and what
a tuner started must end by itself.
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

import fusewire as fw
from fusewire.targets.tuning.store import Key, TuningStore

PATIENCE = 120.0
"""Seconds in which a tuner must have added a record, and its processes must have ended after it."""


def tune(target: str, records: Path, number: int) -> None:
    """Tune one network after the other: each of another size, for what is known is not searched again."""
    for rows in itertools.count(100 * number + 8):
        x, weight = fw.var("data", shape=(rows, 16)), fw.var("weight")
        mod, params = fw.testing.create_workload(fw.Function([x, weight], fw.nn.dense(x, weight, units=16)))
        fw.tune(mod, target, params, level="heavy", trials=2, records=records)


def forked(target: str, records: Path, number: int) -> int:
    """The process of a tuner, in a session of its own."""
    if pid := os.fork():
        return pid
    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        tune(target, records, number)
    finally:
        os._exit(1)


def size(path: Path) -> int:
    """Bytes of a file that may not be there yet."""
    return path.stat().st_size if path.exists() else 0


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: str, done: Callable[[], bool]) -> None:
    """Wait until a function says true."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {PATIENCE:g} s")
        time.sleep(0.02)


@frozen
class Moment:
    """When a tuner is killed: after so many of its records are there, and so many seconds."""

    records: int
    delay: float


def draw(rng: random.Random, most: int, longest: float) -> Moment:
    """A moment; one in three is at once."""
    return Moment(rng.randint(0, most), rng.choice((0.0, 1.0, 1.0)) * rng.uniform(0.0, longest))


def kill_one(target: str, records: Path, number: int, moment: Moment) -> int:
    """Let a tuner record something, kill it, and look at what is left: how many records it has added."""
    before = records.read_bytes() if records.exists() else b""

    torn = bool(before) and not before.endswith(b"\n")  # the first new line ends what the kill before this one left

    def added() -> int:
        return records.read_bytes().count(b"\n", len(before)) - torn if size(records) > len(before) else 0

    def there(count: int) -> bool:
        return added() >= count or not alive(pid)

    pid = forked(target, records, number)
    for count in range(1, moment.records + 1):
        wait_for(f"record {count}", partial(there, count))
    time.sleep(moment.delay)
    assert alive(pid), "the tuner ended by itself"
    started = children(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for("the end of what the tuner had started", lambda: not any(map(alive, started)))
    check(before, torn, records)
    return added()


def check(before: bytes, torn: bool, records: Path) -> None:
    """Look whether nothing is gone, all that was added is whole, and the store answers from it."""
    data = records.read_bytes() if records.exists() else b""
    assert data.startswith(before), "records that were there are gone"
    lines = data[len(before) :].split(b"\n")[torn:]
    for line in lines[:-1]:
        assert isinstance(json.loads(line), dict), f"a broken line: {line!r}"
    decisions = [Key(**r["key"]) for r in whole(records) if r["record"] == "decision"]
    assert all(TuningStore(records).decision(key) for key in decisions[-3:]), "a decision cannot be read"


def whole(records: Path) -> list[dict[str, Any]]:
    """The records that can be read."""
    data = records.read_bytes() if records.exists() else b""
    return [json.loads(line) for line in data.split(b"\n") if line.endswith(b"}")]


def main() -> int:
    """Kill tuners; 0 if all records could be read."""
    parser = argparse.ArgumentParser(description="Kill tuners and read their records.")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--most", type=int, default=12, help="records of a tuner that are waited for, at most")
    parser.add_argument("--longest", type=float, default=0.5, help="seconds from there until the kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="fusewire-kill-") as folder:
        records = Path(folder) / "records.jsonl"
        moments = [draw(rng, given.most, given.longest) for _ in range(given.count)]
        added = [kill_one(given.target, records, number, moment) for number, moment in enumerate(moments)]
        kinds = [record["record"] for record in whole(records)]
    found = " and ".join(f"{kinds.count(kind)} {kind}s" for kind in ("timing", "decision"))
    later = [count for count in added if count]
    print(f"{given.count} tuners killed, {len(later)} after a first record (after {statistics.median(later or [0]):g} "
          f"in the middle, {max(added, default=0)} at most); {found} can be read")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
