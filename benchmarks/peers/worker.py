"""One engine with one model, in a process of its own: started by `benchmarks.peers`, which tells it when to run.

After it has loaded and warmed up it prints a line of JSON; then each line that it reads is answered: "run" with the
times of one round, in milliseconds, "profile" with the steps of the engine, if it tells them. Numbers go to the real
standard output; what engines print goes to the error output.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from .engines import ENGINES

ROUND = 0.4
"""Seconds that a round lasts."""


def milliseconds(run: object) -> float:
    """One run."""
    start = time.perf_counter()
    run()  # type: ignore[operator]
    return (time.perf_counter() - start) * 1e3


def main(engine: str, path: str, threads: str, target: str, output: str) -> None:
    """Serve rounds until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = ENGINES[engine](Path(path), int(threads), target)
    np.save(output, run())
    for _ in range(3):
        run()
    count = int(np.clip(ROUND * 1e3 / milliseconds(run), 3, 400))
    print(json.dumps({"ready": count}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "profile":
            profile = getattr(run, "profile", dict)
            print(json.dumps(profile()), file=answers, flush=True)
        else:
            print(json.dumps([milliseconds(run) for _ in range(count)]), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
