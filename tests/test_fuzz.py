"""A short run of the fuzzer (tests/fuzz): damaged models and artefacts end in a result or a FusewireError."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", "1.16")

from tests.fuzz.__main__ import ROOT, mixture, reports, shown

COUNT = 60


@pytest.mark.parametrize(("kind", "every"), [("onnx", 6), ("artefact", 1)])
def test_damaged_files(kind: str, every: int, tmp_path: Path) -> None:
    """Some are compiled and run; none crashes, hangs, takes much memory, or writes outside of its folder."""
    found = list(reports(mixture(kind, 0, COUNT), 1, tmp_path / "root", every))
    bad = [shown(report) for report in found if not report.good]
    assert not bad, "\n\n".join(bad)
    assert sorted(report.number for report in found) == list(range(COUNT))
    ends = {report.end for report in found}
    assert "result" in ends and ends & {"FusewireError", "ArtifactError"}


WAYS = {
    "crash": ("os.kill(os.getpid(), 11)", "crashed (SIGSEGV)"),
    "exit": ("os._exit(3)", "crashed (3)"),
    "work without end": ("\n    while True: pass", ("timeout", "hang")),  # the latter on a machine with much to do
    "sleep without end": ("import time; time.sleep(99)", "hang"),
    "memory": ("x = bytearray(300 << 20)", "memory"),
    "another exception": ("raise KeyError('x')", "raised KeyError"),
    "warning": ("import numpy; numpy.float32(1) / numpy.zeros(1)", "raised RuntimeWarning"),
    "written file": ("open(os.environ['HOME'] + '/x', 'w').close()", "left home/x"),
    "changed file": ("os.truncate('../outside/secret.bin', 0)", "left outside/secret.bin"),
    "file elsewhere": ("open('/dev/full', 'w')", "wrote or started /dev/full"),
    "shell": ("os.system('true')", "wrote or started os.system"),
    "read secret": ("return open('../outside/secret.bin').read()", "read outside"),
}
"""What a case may do that it must not, as Python code, and what the fuzzer calls it."""

SCRIPT = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
for part in ("home", "tmp", "cache", "outside", "work"):
    (folder / part).mkdir(parents=True)
os.environ.update(HOME=str(folder / "home"), TMPDIR=str(folder / "tmp"), FUSEWIRE_CACHE_DIR=str(folder / "cache"))
from tests.fuzz import cases, worker
worker.SECONDS, worker.PATIENCE, worker.MEMORY = 1, 3, 256 << 20
worker.cases = cases
ways = json.loads(sys.argv[2])
handler = worker.Worker(folder)
for code in ways:
    space = {"os": os}
    exec(f"def step(*_):\\n    {code}\\n    return 'result'", space)
    cases._steps = lambda *a, step=space["step"]: (
        "read outside" if (end := step()) and end.encode().startswith(cases.CANARY) else end)
    report = handler.run("onnx", 0, True)
    print(json.dumps([report.end, report.good]))
"""


def test_the_fuzzer_sees_what_goes_wrong(tmp_path: Path) -> None:
    """A fuzzer that finds nothing is no proof: this is what it would find."""
    codes = [code for code, _ in WAYS.values()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "root"), json.dumps([*codes, "pass"])],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *found, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last == ["result", True]
    for (end, good), (way, (_, expected)) in zip(found, WAYS.items(), strict=True):
        assert end.startswith(expected) and not good, f"{way}: {end}"
