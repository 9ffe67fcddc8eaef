"""Jobs in a process of their own: `python -m benchmarks.gpu.worker [--small] JOB ...`, a line of JSON for each.

A job that fails in fusewire's own words is a row with that error, and the next follows. Anything else may have left the
device in a bad state: the process ends after that row, and its parent starts another one for the rest.
"""

import json
import os
import sys
from typing import Any

from fusewire.ir.errors import DeviceError, FusewireError

from .engines import copy_gbytes, run
from .jobs import named

COPY = "copy"
"""The name of the job that measures the bandwidth: COPY/TARGET/BYTES."""


def answer(name: str, small: bool) -> tuple[dict[str, Any], bool]:
    """The row of a job, and whether others may follow in this process."""
    try:
        if name.startswith(f"{COPY}/"):
            _, target, nbytes = name.split("/")
            return {"job": name, "gbytes": copy_gbytes(target, int(nbytes))}, True
        return {"job": name, **run(named(name), small)}, True
    except Exception as error:  # whatever it is, it belongs into the report
        lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        sound = isinstance(error, FusewireError) and not isinstance(error, DeviceError)
        return {"job": name, "error": " ".join(lines)[:600]}, sound


def main(words: list[str]) -> None:
    """Run the jobs named; what packages print goes to the error output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    small = "--small" in words
    for name in words:
        if name == "--small":
            continue
        print(json.dumps({"begun": name}), file=answers, flush=True)
        row, sound = answer(name, small)
        print(json.dumps(row), file=answers, flush=True)
        if not sound:
            sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1:])
