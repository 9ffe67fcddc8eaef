"""Time fusewire beside other engines on the same ONNX models.

    python -m benchmarks.peers [MODEL ...] [--layers] [--threads 1 --threads 2] [--rounds 5]
                               [--json FILE] [--markdown FILE] [--figure FILE]

MODEL is the name of a benchmark network (see benchmarks/networks.py; all if none is given, with --layers all single
layers) or an ONNX file. Every engine runs in a process of its own that loads the model once and then runs when it is
its turn, so that no engine's spinning threads disturb another's, and a drifting clock hits all alike. Reported are the
fastest and the median run in milliseconds, the ratio of the best peer to fusewire (above 1: fusewire is faster), how
far the outputs differ from ONNX Runtime's, relative to the largest element, and which kernel of fusewire took the
longest, with its speed and the part of the machine's measured peak that it reached ("*": Winograd's operations are
those of the convolution's definition). Engines that are not installed, or fail, are named and left out:
pip install onnxruntime openvino MNN
"""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

from .. import figures
from ..networks import LAYERS, NETWORKS, files_of
from .engines import ENGINES, OPENCL_ONLY

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


class Worker:
    """The process of one engine."""

    def __init__(self, engine: str, model: Path, threads: int, target: str, folder: Path) -> None:
        """`engine` is one of ENGINES, or another target of fusewire."""
        self.output = folder / f"{engine}.npy"
        self.errors = (folder / f"{engine}.log").open("w+")
        known, wanted = (engine, target) if engine in ENGINES else ("fusewire", engine)
        command = [sys.executable, "-m", "benchmarks.peers.worker", known, str(model), str(threads), wanted]
        self.process = subprocess.Popen(
            [*command, str(self.output)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def answer(self) -> Any:
        """The next line, or None where the process has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, what: str) -> Any:
        """The answer to "run" (the times of one round) or "profile"; None where the process has died."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        return self.answer()

    def last_words(self) -> str:
        """The last line that the process wrote to its error output."""
        self.errors.seek(0)
        return (self.errors.read().strip().splitlines() or ["no message"])[-1]

    def end(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.wait()
        self.errors.close()


def measure(model: Path, threads: int, engines: Sequence[str], target: str, rounds: int) -> Row:
    """All engines on one model."""
    row: Row = {"model": model.stem, "threads": threads, "ms": {}, "left_out": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers: dict[str, Worker] = {}
        for engine in engines:
            worker = Worker(engine, model, threads, target, folder)
            stack.callback(worker.end)
            if worker.answer() is None:
                row["left_out"][engine] = worker.last_words()
            else:
                workers[engine] = worker
        times = alternate(workers, rounds, row["left_out"])
        outputs = {engine: np.load(worker.output).ravel() for engine, worker in workers.items() if engine in times}
        if "fusewire" in times:
            for engine in workers.keys() - {"fusewire"}:  # idle threads of some engines keep spinning
                workers[engine].end()
            row["profile"] = workers["fusewire"].ask("profile")
    row["ms"] = {e: {"min": min(t), "median": float(np.median(t)), "runs": len(t)} for e, t in times.items()}
    peers = [engine for engine in times if engine in ENGINES and engine != "fusewire"]
    if "fusewire" in times and peers:
        best = {kind: min(row["ms"][e][kind] for e in peers) for kind in ("min", "median")}
        row["ratio"] = {kind: best[kind] / row["ms"]["fusewire"][kind] for kind in best}
    if {"fusewire", "onnxruntime"} <= outputs.keys():
        reference = outputs["onnxruntime"]
        row["difference"] = float(np.abs(outputs["fusewire"] - reference).max() / np.abs(reference).max())
    return row


def alternate(workers: dict[str, Worker], rounds: int, left_out: dict[str, str]) -> dict[str, list[float]]:
    """The times of each engine, all engines taking turns; one that dies is left out."""
    times: dict[str, list[float]] = {engine: [] for engine in workers}
    for _ in range(rounds):
        for engine, worker in workers.items():
            if engine in times and (taken := worker.ask("run")) is not None:
                times[engine] += taken
            elif engine in times:
                del times[engine]
                left_out[engine] = worker.last_words()
    return times


def kernel(row: Row) -> str:
    """The kernel that took the longest, its speed, and what part of the peak that is."""
    steps = (row.get("profile") or {}).get("steps") or []
    if not steps:
        return "-"
    step = max(steps, key=lambda s: s["share"])
    speed = f"{step['gflops']:.0f} GFLOP/s" if step["bound"] == "compute" else f"{step['gbytes']:.1f} GB/s"
    part = f", {step['roof']:.0%}{'*' if step['effective'] else ''} of {step['bound']}" if step["bound"] else ""
    return f"{step['implementation'].removesuffix('.cpu')}: {speed}{part}"


def cells(row: Row, engines: Sequence[str]) -> list[str]:
    """A row of the table."""
    shown = [f"{t['min']:.3f} / {t['median']:.3f}" if (t := row["ms"].get(e)) else "-" for e in engines]
    ratio = f"{row['ratio']['min']:.2f} / {row['ratio']['median']:.2f}" if "ratio" in row else "-"
    difference = f"{row['difference']:.1e}" if "difference" in row else "-"
    return [row["model"], str(row["threads"]), *shown, ratio, difference, kernel(row)]


def table(rows: Sequence[Row], engines: Sequence[str], style: str) -> str:
    """All rows, in one of tabulate's styles."""
    heads = ["model", "threads", *(f"{e} (ms, min / median)" for e in engines), "best peer / fusewire", "difference"]
    body = [cells(row, engines) for row in rows]
    return str(tabulate(body, [*heads, "longest kernel"], disable_numparse=True, tablefmt=style))


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--layers", is_flag=True, help="the single layers, besides the models named")
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--engines", default=",".join(e for e in ENGINES if e not in OPENCL_ONLY), show_default=True)
@click.option("--target", default="cpu", show_default=True, help="fusewire's target")
@click.option("--also", multiple=True, metavar="TARGET", help="another target of fusewire to time in the same rounds")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("output/networks"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="write the table here")
@click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="draw the ratios here (.png, .svg)")
def main(
    models: Sequence[str],
    layers: bool,
    threads: Sequence[int],
    rounds: int,
    engines: str,
    target: str,
    also: Sequence[str],
    folder: Path,
    json_path: Path | None,
    markdown_path: Path | None,
    figure_path: Path | None,
) -> None:
    """Measure, print, write, draw."""
    chosen = engines.split(",")
    if unknown := [e for e in chosen if e not in ENGINES]:
        raise click.BadParameter(f"unknown engine {unknown[0]!r}; there are {', '.join(ENGINES)}", param_hint="engines")
    chosen += also
    if figure_path:
        figures.pyplot()  # before the work, not after it
    names = [*models, *(LAYERS if layers else ())] or list(NETWORKS)
    rows: list[Row] = []
    for file in files_of(names, folder):
        for count in threads:
            rows.append(measure(file, count, chosen, target, rounds))
            click.echo("  ".join(cells(rows[-1], chosen)), err=True)
    click.echo(table(rows, chosen, "simple"))
    for engine, reason in {e: r for row in rows for e, r in row["left_out"].items()}.items():
        click.echo(f"{engine} left out: {reason}", err=True)
    about: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "processor": processor(),
        "target": target,
        "rounds": rounds,
    }
    about["versions"] = versions(chosen)
    if json_path:
        json_path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    if markdown_path:
        markdown_path.write_text(table(rows, chosen, "github") + "\n")
    if figure_path:
        figures.ratios(rows, figure_path, f"{about['processor']}; rounds: {rounds}; fp32, batch 1")


def versions(engines: Sequence[str]) -> dict[str, str]:
    """The versions of the engines that are installed."""
    found = {}
    for engine in engines:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[engine] = importlib.metadata.version(engine)
    return found


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
