"""The sections that are no measurements: the tests of operators and graphs, the tutorial, compute-sanitizer."""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusewire.targets.target import Target

from .children import DONE, LATE, ROOT, command, rows
from .counted import FILE
from .jobs import Job, engines
from .needs import absent

Row = dict[str, Any]
TESTS = ("tests/test_random_graphs.py", "tests/targets/test_numerics.py", "tests/ops/test_oracle.py")
"""Those that FUSEWIRE_TEST_TARGET sends to another target, the most telling first."""
TUTORIAL = "tutorials/05_cuda_and_cudnn.py"
TOOLS = ("memcheck", "racecheck")
KEPT = 30
"""Failed tests that are reported with their message."""
PLACES = ("/usr/local/cuda/bin/compute-sanitizer", "/opt/nvidia/compute-sanitizer/compute-sanitizer")


def tests(
    target: str, seconds: float, files: Sequence[str] = TESTS, processes: int = min(8, os.cpu_count() or 1)
) -> Row:
    """Run the tests on the target: numbers of outcomes, the failures, and whether the time was enough."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes"
        parallel = [] if processes < 2 or absent(["xdist"]) else ["-n", str(processes)]
        words = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu.counted", "-p", "no:cacheprovider"]
        done = command([*words, *parallel, *files], seconds, {"FUSEWIRE_TEST_TARGET": target, FILE: str(outcomes)})
        lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    counts = {kind: sum(line["outcome"] == kind for line in found) for kind in ("passed", "failed", "skipped")}
    row: Row = {"status": LATE if done.code is None else DONE, "files": list(files), **counts}
    row["failures"] = [line for line in found if line["outcome"] == "failed"][:KEPT]
    if not found or (done.code not in (0, None) and not counts["failed"]):
        row |= {"status": "failed", "output": done.tail}
    return row


def tutorial(target: str, seconds: float) -> Row:
    """Run the script of the tutorial; what it prints is kept."""
    if Target(target).kind != "cuda" or not (ROOT / TUTORIAL).exists():
        return {"status": "left out", "reason": f"{TUTORIAL} is about cuda"}
    with tempfile.TemporaryDirectory() as folder:
        done = command([sys.executable, TUTORIAL, "--output", folder], seconds)
    status = LATE if done.code is None else DONE if done.code == 0 else "failed"
    return {"status": status, "seconds": done.seconds, "output": done.output[-20_000:]}


def sanitizer() -> str | None:
    """The program, if it is installed."""
    return shutil.which("compute-sanitizer") or next((place for place in PLACES if Path(place).exists()), None)


def checked_jobs(target: str) -> list[str]:
    """Small networks that together take most kinds of kernels."""
    made = engines(target, "streaming")[0]
    layers = [Job("layers", name, 1, "float32", made) for name in ("simple", "c3_64_56")]
    nets = [Job("networks", name, 1, "float32", made) for name in ("resnet50", "bert", "gpt2_step")]
    kernels = [
        Job("streaming", name, 1 << 14, "float32", made) for name in ("add", "transpose_2d", "sum_last", "softmax_last")
    ]
    return [job.name for job in (*layers, *nets, *kernels)]


def sanitized(target: str, seconds: float) -> Row:
    """Run small networks under compute-sanitizer: its findings by tool, and jobs that failed."""
    program = sanitizer()
    if Target(target).kind != "cuda" or program is None:
        return {"status": "left out", "reason": "compute-sanitizer is not installed, or the target is not cuda"}
    deadline, row = time.monotonic() + seconds, Row(status=DONE)
    for number, tool in enumerate(TOOLS):
        until = time.monotonic() + (deadline - time.monotonic()) / (len(TOOLS) - number)
        made: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            prefix = [program, "--tool", tool, "--log-file", str(log)]
            status = rows(checked_jobs(target), until, made.append, prefix, ["--small"])
            text = log.read_text() if log.exists() else ""
        row[tool] = {"status": status, **findings(text), "jobs": len(made), "failed": [r for r in made if "error" in r]}
        row["status"] = row["status"] if status == DONE else status
    return row


def findings(text: str) -> Row:
    """What a log of compute-sanitizer says: errors or hazards in all (None: it did not come so far), and the first."""
    counts = [int(n) for n in re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)]
    said = [line for line in text.splitlines() if line.strip("= ") and "SUMMARY" not in line]
    return {"errors": sum(counts) if counts else None, "first": said[:12] if any(counts) else []}
