"""ONNX's own test suite, run in worker processes with a time limit for each test.

Tests that are left out stand in `tests_left_out.txt`, one regular expression a line with its reason.
"""

import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import SkipTest

import onnx
from attrs import define, field, frozen
from onnx.backend.test import BackendTest
from onnx.backend.test.loader import load_model_tests

LIST = Path(__file__).parent / "tests_left_out.txt"
KINDS = ("node", "simple", "real", "pytorch-converted", "pytorch-operator")


@frozen
class Outcome:
    """What became of one test.

    Attributes:
        name: of the test.
        operator: what it is about.
        passed: whether it did.
        error: the last line of the error.
        known: the inputs that were known when the model was compiled.
        constant: whether nothing was left to compute by kernels.
    """

    name: str
    operator: str
    passed: bool
    error: str = ""
    known: tuple[str, ...] = ()
    constant: bool = False


def exclusions() -> list[tuple[str, str]]:
    """Regular expressions of tests that are left out, and the reasons."""
    found = []
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition("  ")
            found.append((pattern.strip(), reason.strip()))
    return found


def tests(backend: Any) -> dict[str, Callable[[], None]]:
    """The CPU tests of all kinds, by name."""
    with redirect_stdout(StringIO()):
        cases = BackendTest(backend, __name__).test_cases
    found: dict[str, Callable[[], None]] = {}
    for case in cases.values():
        for name in dir(case):
            if name.startswith("test_") and name.endswith("_cpu"):
                found[name] = getattr(case(name), name)
    return found


def operators() -> dict[str, str]:
    """The operator that each test is about: the only one of its model, else the stem of its name."""
    found = {}
    for kind in KINDS:
        for test in load_model_tests(kind=kind):
            model = test.model
            if kind == "node" and model is None and test.model_dir:
                model = onnx.load(Path(test.model_dir) / "model.onnx")
            kinds = {node.op_type for node in model.graph.node} if model else set()
            if "_expanded" in test.name:
                found[f"{test.name}_cpu"] = "(function bodies)"
            else:
                found[f"{test.name}_cpu"] = kinds.pop() if len(kinds) == 1 else f"({kind} models)"
    return found


def run(backend: Any, pattern: str, jobs: int, timeout: float, *, everything: bool = False) -> list[Outcome]:
    """Run the tests whose name has `pattern` in it, except those left out."""
    found, about = tests(backend), operators()
    skipped = [] if everything else [re.compile(p) for p, _ in exclusions()]
    names = [n for n in found if re.search(pattern, n) and not any(s.search(n) for s in skipped)]
    return list(_run(backend, found, about, names, max(jobs, 1), timeout))


@define(eq=False)
class _Worker:
    """A process that runs tests one after the other."""

    process: Any
    pipe: Connection
    name: str = ""
    started: float = field(factory=time.monotonic)

    def give(self, name: str) -> None:
        self.name, self.started = name, time.monotonic()
        self.pipe.send(name)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(backend: Any, found: dict[str, Callable[[], None]], pipe: Connection) -> None:
    """The loop of a worker."""
    with suppress(EOFError):
        while True:
            pipe.send(_one(backend, found, pipe.recv()))


def _one(backend: Any, found: dict[str, Callable[[], None]], name: str) -> tuple[bool, str, tuple[str, ...], bool]:
    backend.last = None
    try:
        with redirect_stdout(StringIO()):
            found[name]()
    except (Exception, SkipTest) as error:  # whatever a test raises is its failure
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return False, f"{type(error).__name__}: {' | '.join(lines[:4])[:400]}", (), False
    rep: Any = backend.last
    return (True, "", rep.known, rep.is_constant) if rep else (True, "", (), False)


def _run(
    backend: Any,
    found: dict[str, Callable[[], None]],
    about: dict[str, str],
    names: Sequence[str],
    jobs: int,
    timeout: float,
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("fork")

    def start() -> _Worker:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(backend, found, there), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)

    pending = list(reversed(names))
    workers = [start() for _ in range(min(jobs, len(pending)))]
    for worker in workers:
        worker.give(pending.pop())
    while workers:
        ready = wait([w.pipe for w in workers], 0.5)
        for place, worker in enumerate(list(workers)):
            late = time.monotonic() - worker.started > timeout
            if worker.pipe not in ready and not late:
                continue
            try:
                passed, error, known, constant = (
                    worker.pipe.recv() if worker.pipe in ready else (False, "timeout", (), False)
                )
            except EOFError:
                passed, error, known, constant = False, "the process died", (), False
            yield Outcome(worker.name, about.get(worker.name, "?"), passed, error, known, constant)
            if error in ("timeout", "the process died"):
                worker.stop()
                worker = workers[place] = start()
            if pending:
                worker.give(pending.pop())
            else:
                worker.name = ""
        for worker in [w for w in workers if not w.name]:
            worker.stop()
            workers.remove(worker)


def report(outcomes: Sequence[Outcome], *, verbose: bool = False) -> str:
    """Passed and failed tests by operator, and in all."""
    passed, failed = Counter[str](), Counter[str]()
    for outcome in outcomes:
        (passed if outcome.passed else failed)[outcome.operator] += 1
    lines = [f"{'operator':32} passed failed"]
    lines += [f"{name:32} {passed[name]:6} {failed[name]:6}" for name in sorted(passed | failed)]
    if verbose:
        lines += [f"FAILED {o.name}: {o.error}" for o in outcomes if not o.passed]
    host = sum(o.passed and o.constant for o in outcomes)
    lines.append(
        f"{sum(passed.values())} passed, {sum(failed.values())} failed; of those passed, {host} were computed "
        "while the model was read, because all of their inputs decide shapes"
    )
    return "\n".join(lines)
