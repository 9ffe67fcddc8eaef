"""The long run: `python -m tests.fuzz --count 5000`."""

import argparse
import itertools
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from . import cases
from .worker import GIB, Report

ROOT = Path(__file__).parents[2]
EVERY = 2
"""One case of so many is compiled and run, if it comes that far; the others end when they are built."""

MIXTURE = ("onnx", "nodes", "onnx", "nodes", "artefact")


def mixture(kind: str, first: int, count: int) -> list[tuple[str, int]]:
    """Which cases to run: (kind, number)."""
    if kind != "all":
        return [(kind, first + k) for k in range(count)]
    numbers = {name: itertools.count(first) for name in MIXTURE}
    kinds = [MIXTURE[k % len(MIXTURE)] for k in range(count)]
    return [(name, next(numbers[name])) for name in kinds]


class Lane:
    """A worker process."""

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.fuzz.worker", str(folder), *kinds]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, kind: str, number: int, compiled: bool) -> Report:
        """One case."""
        assert self.process.stdin and self.process.stdout
        request = {"kind": kind, "number": number, "compiled": compiled}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker died over {kind} {number}")
        return Report(**json.loads(answer))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def reports(wanted: Sequence[tuple[str, int]], jobs: int, folder: Path, every: int = EVERY) -> Iterator[Report]:
    """Run cases in `jobs` workers; reports come in the order in which cases end."""
    todo: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for case in wanted:
        todo.put(case)
    done: queue.SimpleQueue[Report | BaseException | None] = queue.SimpleQueue()
    kinds = sorted({kind for kind, _ in wanted})

    def lane(k: int) -> None:
        try:
            worker = Lane(folder / f"worker{k}", kinds)
            while True:
                try:
                    kind, number = todo.get_nowait()
                except queue.Empty:
                    break
                done.put(worker.run(kind, number, number % every == 0))
            worker.close()
        except BaseException as error:
            done.put(error)
        done.put(None)

    for k in range(jobs):
        threading.Thread(target=lane, args=(k,), daemon=True).start()
    running = jobs
    while running:
        match done.get():
            case None:
                running -= 1
            case BaseException() as error:
                raise error
            case report:
                yield report


def shown(report: Report) -> str:
    """A report as text, with the command that runs the case again."""
    where = f"python -m tests.fuzz --kind {report.kind} --replay {report.number}"
    head = f"{report.end} ({report.stage}, {report.seconds:.1f} s, {report.memory >> 20} MiB): {report.about}"
    return f"{where}\n  {head}\n  {report.message}\n{report.trace}"


def summary(found: Sequence[Report]) -> str:
    """Counts by outcome, the slowest and the largest."""
    lines = [f"{sum(r.good for r in found)} of {len(found)} cases ended in a result or a FusewireError"]
    lines += [f"{n:6} {stage}: {end}" for (stage, end), n in sorted(Counter((r.stage, r.end) for r in found).items())]
    for what, key in (("slowest", lambda r: r.seconds), ("largest", lambda r: r.memory)):
        lines.append(f"the {what}:")
        for r in sorted(found, key=key, reverse=True)[:5]:
            size = r.memory / GIB
            lines.append(f"  {r.seconds:5.1f} s {size:5.2f} GiB  {r.kind} {r.number}: {r.end[:60]}; {r.about[:100]}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first case")
    parser.add_argument("--kind", choices=[*cases.KINDS, "all"], default="all", help="what is damaged")
    parser.add_argument("-j", dest="jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--every", type=int, default=EVERY, help="compile and run one case of so many (default 2)")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one case of --kind, compiled and run")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="put the files of bad cases here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all reports here")
    return parser.parse_args()


def _kept(report: Report, folder: Path) -> Path:
    place = folder / f"{report.kind}-{report.number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    cases.write(report.kind, report.number, place)
    return place


def main() -> int:
    """Run what the command line says; 1 if a case ended badly."""
    options = _arguments()
    replayed = options.replay is not None
    wanted = [(options.kind, options.replay)] if replayed else mixture(options.kind, options.seed, options.count)
    found: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="fusewire-fuzz-") as folder:
        for report in reports(wanted, 1 if replayed else options.jobs, Path(folder), 1 if replayed else options.every):
            found.append(report)
            if replayed or not report.good:
                print(shown(report), flush=True)
            if options.keep and not report.good:
                print(f"kept in {_kept(report, options.keep)}")
            if len(found) % 500 == 0:
                print(f"... {len(found)}", flush=True)
    print(summary(found))
    if options.json:
        options.json.write_text("".join(f"{json.dumps(attrs.asdict(r))}\n" for r in found))
    return 0 if all(r.good for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
