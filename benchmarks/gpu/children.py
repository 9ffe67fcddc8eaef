"""Processes with a time limit: those that answer with lines of JSON, and commands whose output is kept."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from attrs import frozen

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]
DONE, LATE = "done", "out of time"
TAIL = 3000
"""Characters of an output that are kept."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For children: they find the repository, and use nobody's tuning records."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # tests start us, too
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "FUSEWIRE_TUNING": "", **(more or {})}


def end(process: "subprocess.Popen[str]") -> None:
    """Stop a process, and those that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start(command: Sequence[str], output: Any, errors: Any, more: Mapping[str, str] | None) -> "subprocess.Popen[str]":
    """A command in the root of the repository, as the head of a group of processes."""
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(more), stdout=output, stderr=errors, text=True, start_new_session=True
    )


@frozen
class Done:
    """A command that was run: its exit status (None: it ran out of time), its seconds, and its output."""

    code: int | None
    seconds: float
    output: str

    @property
    def tail(self) -> str:
        """The end of the output."""
        return self.output[-TAIL:]


def command(words: Sequence[str], seconds: float, more: Mapping[str, str] | None = None) -> Done:
    """Run a command for so long at most."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = start(words, log, subprocess.STDOUT, more)
        try:
            code: int | None = process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
        log.seek(0)
        return Done(code, time.monotonic() - begun, log.read())


def rows(
    jobs: Sequence[str],
    deadline: float,
    keep: Callable[[Row], None],
    prefix: Sequence[str] = (),
    options: Sequence[str] = (),
) -> str:
    """Run jobs in a worker, and in another one where it died; every row is kept as soon as it is there.

    Args:
        jobs: their names.
        deadline: `time.monotonic()` after which nothing goes on.
        keep: gets the rows; a job that ended its process has one that says so.
        prefix: a command that runs the worker's.
        options: of the worker.

    Returns:
        DONE or LATE.
    """
    left = list(jobs)
    while left:
        finished, begun, words = _worker([*prefix, *_WORKER, *options, *left], deadline, keep)
        if words is None:
            return LATE
        left = left[finished:]
        if begun is not None and left:
            keep({"job": left.pop(0), "error": f"the process died: {words}"})
        elif not finished:
            for name in left:
                keep({"job": name, "error": f"the process did not start: {words}"})
            break
    return DONE


_WORKER = (sys.executable, "-m", "benchmarks.gpu.worker")


def _worker(words: Sequence[str], deadline: float, keep: Callable[[Row], None]) -> tuple[int, str | None, str | None]:
    """One worker: the rows that it gave, the job that it was at when it ended, and its last words (None: late)."""
    finished, begun = 0, None
    with tempfile.TemporaryFile("w+") as errors:
        process = start(words, subprocess.PIPE, errors, None)
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            while line := lines.get(timeout=max(deadline - time.monotonic(), 0.01)):
                row = json.loads(line)
                if "begun" in row:
                    begun = row["begun"]
                else:
                    begun, finished = None, finished + 1
                    keep(row)
        except queue.Empty:
            return finished, begun, None
        finally:
            end(process)
            reader.join()
            process.stdout.close()
        errors.seek(0)
        said = [text for text in errors.read().splitlines() if text.strip()]
        return finished, begun, (said or [f"exit status {process.returncode}"])[-1][:300]


def _read(stream: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
