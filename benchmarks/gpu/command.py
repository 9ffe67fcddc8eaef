"""All that needs a GPU, in one command that ends within nine minutes.

    python -m benchmarks.gpu                                 # on a machine with CUDA
    python -m benchmarks.gpu --target "opencl -device=0"     # the same sections on another device
    python -m benchmarks.gpu --list                          # what would be run
    python -m benchmarks.gpu --sections networks --seconds 1800

It runs the tests of operators and of random graphs on the device, the tutorial with and without libraries, small
networks under compute-sanitizer (where it is installed), and times convolution + batch norm + ReLU, matrix products,
kernels that move memory, ResNet-50, BERT and a step of GPT-2, beside cuDNN, PyTorch and torch.compile, and tunes three
layers. Everything runs in processes of its own; what crashes or takes too long is reported and left.
FOLDER/gpu-DATE-DEVICE.json, .md and .png are written again after each row, so that nothing is lost where the command is
stopped. The exit status is 1 where a test failed or compute-sanitizer found something.
"""

import datetime
import importlib.metadata
import json
import math
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from attrs import define, field

import fusewire as fw
from fusewire.targets.backends import backend_of
from fusewire.targets.opencl.devices import find
from fusewire.targets.target import Target

from . import checks, needs, report
from .children import LATE, ROOT, rows
from .jobs import MEASURED, SECTIONS, jobs
from .worker import COPY

Row = dict[str, Any]
NO_DEVICE = "no device"
DAY = 24 * 60 * 60
"""Seconds that it may take at most."""
COPIED = 256 << 20
"""Bytes that the copy moves which others are compared with."""


@define
class Run:
    """A run of some sections, and the report that it writes.

    Attributes:
        target: fusewire's target, without libraries.
        folder: where the files go.
        sections: those to run, in order.
        small: try the command with small networks.
        end: `time.monotonic()` when it has to be over.
        about: date, device, versions.
        test_files: for the section "tests".
        found: the sections so far.
    """

    target: str
    folder: Path
    sections: Sequence[str]
    small: bool
    end: float
    about: Row
    test_files: Sequence[str] = checks.TESTS
    found: dict[str, Row] = field(factory=dict)

    @property
    def path(self) -> Path:
        """The JSON file; the others have its name."""
        words = re.sub(r"[^a-z0-9]+", "-", str(self.about["device"]).lower()).strip("-")
        return self.folder / f"gpu-{self.about['date']}-{words}.json"

    def go(self) -> None:
        """All sections. What one leaves of its time, those after it have."""
        for number, name in enumerate(self.sections):
            weight = sum(SECTIONS[later] for later in self.sections[number:])
            now = time.monotonic()
            seconds = max(self.end - now, 0.0) * SECTIONS[name] / weight
            self.found[name] = {"status": "begun"}
            self.found[name] |= self._section(name, seconds)
            self.found[name]["seconds"] = time.monotonic() - now
            self.write()
            click.echo(f"{name}: {self.found[name]['status']}, {time.monotonic() - now:.0f} s", err=True)

    def _section(self, name: str, seconds: float) -> Row:
        match name:
            case "environment":
                return {"status": "done", "notes": "; ".join(needs.notes(Target(self.target).kind))}
            case "tests":
                return checks.tests(self.target, seconds, self.test_files)
            case "sanitizer":
                return checks.sanitized(self.target, seconds)
        if name != "tutorial":
            return self._measured(name, seconds)
        end = time.monotonic() + seconds
        row = self._measured(name, seconds * 0.6)
        script = checks.tutorial(self.target, end - time.monotonic())
        return {**row, "script": script, "output": script.get("output", "")}

    def _measured(self, name: str, seconds: float) -> Row:
        """A section of jobs; the report is written after each."""
        names = [job.name for job in jobs(name, self.target, self.small)]
        if name == "streaming":
            names.insert(0, f"{COPY}/{self.target}/{1 << 20 if self.small else COPIED}")
        kept: list[Row] = []
        self.found[name]["rows"] = kept

        def keep(row: Row) -> None:
            kept.append(row)
            self.write()
            click.echo(f"  {row['job']}: {row.get('error') or _short(row)}", err=True)

        status = rows(names, time.monotonic() + seconds, keep, (), ["--small"] if self.small else [])
        done = {row["job"] for row in kept}
        return {"status": status, "rows": kept, "not_reached": [n for n in names if n not in done]}

    def write(self) -> None:
        """The report as it is just now, through a file beside it: a reader never sees half of one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"about": self.about, "sections": self.found}
        for path, text in ((self.path, json.dumps(content, indent=1)), (self.path.with_suffix(".md"), None)):
            beside = path.with_suffix(f"{path.suffix}.new")
            beside.write_text((text or report.markdown(content)).rstrip() + "\n")
            beside.replace(path)

    @property
    def sound(self) -> bool:
        """Whether no test failed and nothing was found by compute-sanitizer."""
        tests, found = self.found.get("tests", {}), self.found.get("sanitizer", {})
        clean = all(not found.get(tool, {}).get("errors") for tool in checks.TOOLS)
        return clean and not tests.get("failed") and tests.get("status") != "failed"


def _short(row: Row) -> str:
    if "ms" not in row:
        return f"{row['gbytes']:.0f} GB/s"
    return f"{row['ms']['median']:.3f} ms ({row['device_ms']:.3f} on the device)"


def device_name(target: str) -> str:
    """What the device calls itself; else the target, with the reason why there is none."""
    where = Target(target)
    lib = fw.build(fw.Function([x := fw.var("x", shape=(4,))], fw.nn.relu(x)), target)
    try:
        found = backend_of(where.kind).check(lib.runnable.code, where, fw.device(where.kind, 0))
        name = getattr(found, "name", None)
        if name is None and where.kind == "opencl":
            name = find(where.device).name
        return str(name or where.kind)
    except fw.FusewireError as error:
        return f"{NO_DEVICE}: {error}"


def facts(target: str) -> Row:
    """Date, device, versions, and the state of the repository."""
    known: Row = {
        "date": str(datetime.date.today()),
        "device": device_name(target),
        "target": str(Target(target)),
        "python": platform.python_version(),
    }
    for package in ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "pyopencl", "nvidia-cudnn-cu13"):
        with suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    for what, words in (
        ("driver", ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,memory.total", "--format=csv,noheader"]),
        ("commit", ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
    ):
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
            known[what] = done.stdout.strip()
    return known


def listing(sections: Sequence[str], target: str, small: bool, seconds: float, test_files: Sequence[str]) -> str:
    """What would be run, and how long each section may take."""
    weight = sum(SECTIONS[name] for name in sections)
    lines = []
    for name in sections:
        lines.append(f"{name} ({seconds * SECTIONS[name] / weight:.0f} s)")
        lines += [f"  {line}" for line in report.subjects(jobs(name, target, small))] if name in MEASURED else []
        lines += [f"  {file}" for file in test_files] if name == "tests" else []
        lines += [f"  {job}" for job in checks.checked_jobs(target)] if name == "sanitizer" else []
    return "\n".join(lines)


def _target(context: click.Context, param: click.Parameter, value: str) -> str:
    """A target of a GPU, to which jobs add libraries and precisions."""
    try:
        target = Target(value)
    except fw.FusewireError as error:
        raise click.BadParameter(str(error)) from error
    if target.kind == "cpu":
        raise click.BadParameter(f"{value!r} is no GPU; expected cuda, rocm or opencl, perhaps with options")
    given = "libraries" if target.libs_auto or target.libs_named else "a precision" if target.precision else None
    if given:
        raise click.BadParameter(f"{value!r} has {given}; expected a target without, such as {target.kind}: "
                                 "libraries and precisions are taken in turn")  # fmt: skip
    return value


def _seconds(context: click.Context, param: click.Parameter, value: float) -> float:
    if not (math.isfinite(value) and 0 < value <= DAY):
        raise click.BadParameter(f"got {value:g}, expected more than 0 and at most {DAY}")
    return value


def _sections(context: click.Context, param: click.Parameter, value: str) -> list[str]:
    """The sections named, in the order in which they run."""
    named = value.split(",")
    if unknown := set(named) - SECTIONS.keys():
        raise click.BadParameter(f"there is no {min(unknown)!r}; there are {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in named]


def _tests(context: click.Context, param: click.Parameter, value: Sequence[str]) -> list[str]:
    """Files of tests as the root of the repository sees them, where they run; tests in them, and folders, are fine."""
    found = []
    for words in value:
        path, *rest = words.split("::")
        place = next((folder / path for folder in (ROOT, Path.cwd()) if path and (folder / path).exists()), None)
        if place is None:
            raise click.BadParameter(f"there is no {path!r} in {ROOT}, nor here")
        shown = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place
        found.append("::".join([str(shown), *rest]))
    return found


@click.command(help=__doc__)
@click.option(
    "--target", default="cuda", show_default=True, callback=_target,
    help="fusewire's target, without libraries and precision",
)  # fmt: skip
@click.option(
    "--seconds", default=510.0, show_default=True, callback=_seconds, help="how long it may take in all"
)  # fmt: skip
@click.option(
    "--sections", default=",".join(SECTIONS), show_default=True, callback=_sections, help="which sections to run"
)
@click.option("--list", "--dry-run", "only_list", is_flag=True, help="say what would be run, and end")
@click.option("--small", is_flag=True, help="small networks, to try the command itself")
@click.option(
    "--tests", "test_files", multiple=True, default=checks.TESTS, show_default=True, callback=_tests, help="test files"
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "benchmarks" / "results",
    help="for the files",
)
def main(
    target: str,
    seconds: float,
    sections: Sequence[str],
    only_list: bool,
    small: bool,
    test_files: Sequence[str],
    folder: Path,
) -> None:
    """Run, print, write."""
    begun = time.monotonic()
    if only_list:
        click.echo(listing(sections, target, small, seconds, test_files))
        return
    if (device := device_name(target)).startswith(NO_DEVICE):
        raise click.ClickException(device)
    run = Run(target, folder, sections, small, begun + seconds, facts(target), test_files)
    run.go()
    if not needs.absent(["matplotlib"]):
        report.figure({"about": run.about, "sections": run.found}, run.path.with_suffix(".png"))
    click.echo(report.markdown({"about": run.about, "sections": run.found}))
    late = [name for name, found in run.found.items() if found["status"] == LATE]
    if late:
        click.echo(f"Out of time: {', '.join(late)}. --sections and --seconds give one more of it.", err=True)
    click.echo(f"Written: {run.path}", err=True)
    if not run.sound:
        raise SystemExit(1)
