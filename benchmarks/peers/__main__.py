"""Time fusewire beside other engines on the same ONNX models.

    python -m benchmarks.peers [MODEL ...] [--threads 1 --threads 2] [--rounds 5] [--json FILE] [--figure FILE]

MODEL is the name of a benchmark network (see benchmarks/networks.py; all if none is given) or an ONNX file. Every
engine runs in a process of its own that loads the model once and then runs when it is its turn, so that no engine's
spinning threads disturb another's, and a drifting clock hits all alike. Reported are the fastest and the median run in
milliseconds, the ratio of the best peer to fusewire (above 1: fusewire is faster), and how far the outputs differ from
ONNX Runtime's, relative to the largest element. Engines that are not installed are named and left out:
pip install onnxruntime openvino MNN
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

from ..networks import NETWORKS, write
from .engines import ENGINES

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


class Worker:
    """The process of one engine."""

    def __init__(self, engine: str, model: Path, threads: int, target: str, folder: Path) -> None:
        self.output = folder / f"{engine}.npy"
        self.errors = (folder / f"{engine}.log").open("w+")
        command = [sys.executable, "-m", "benchmarks.peers.worker", engine, str(model), str(threads), target]
        self.process = subprocess.Popen(
            [*command, str(self.output)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def answer(self) -> Any:
        """The next line, or None where the process has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def round(self) -> list[float]:
        """The times of one round."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        times = self.answer()
        if times is None:
            raise click.ClickException(f"an engine died: {self.last_words()}")
        return list(times)

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
        times: dict[str, list[float]] = {engine: [] for engine in workers}
        for _ in range(rounds):
            for engine, worker in workers.items():
                times[engine] += worker.round()
        outputs = {engine: np.load(worker.output).ravel() for engine, worker in workers.items()}
    row["ms"] = {e: {"min": min(t), "median": float(np.median(t)), "runs": len(t)} for e, t in times.items()}
    if "fusewire" in times and len(times) > 1:
        best = {kind: min(t[kind] for e, t in row["ms"].items() if e != "fusewire") for kind in ("min", "median")}
        row["ratio"] = {kind: best[kind] / row["ms"]["fusewire"][kind] for kind in best}
    if {"fusewire", "onnxruntime"} <= outputs.keys():
        reference = outputs["onnxruntime"]
        row["difference"] = float(np.abs(outputs["fusewire"] - reference).max() / np.abs(reference).max())
    return row


def cells(row: Row, engines: Sequence[str]) -> list[str]:
    """A row of the table."""
    shown = [f"{t['min']:.3f} / {t['median']:.3f}" if (t := row["ms"].get(e)) else "-" for e in engines]
    ratio = f"{row['ratio']['min']:.2f} / {row['ratio']['median']:.2f}" if "ratio" in row else "-"
    return [row["model"], str(row["threads"]), *shown, ratio, f"{row.get('difference', float('nan')):.1e}"]


def figure(rows: Sequence[Row], path: Path) -> None:
    """Bars of the ratio best peer / fusewire."""
    import matplotlib.pyplot as plt

    shown = [row for row in rows if "ratio" in row]
    fig, axes = plt.subplots(figsize=(8, 0.35 * len(shown) + 1.2), layout="constrained")
    labels = [f"{row['model']}, {row['threads']} thread{'s' * (row['threads'] > 1)}" for row in shown]
    axes.barh(labels, [row["ratio"]["min"] for row in shown], color="#4477aa")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("time of the best peer / time of fusewire (fastest runs)")
    fig.savefig(path, dpi=150)
    plt.close(fig)


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--engines", default=",".join(ENGINES), show_default=True)
@click.option("--target", default="cpu", show_default=True, help="fusewire's target")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("output/networks"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here")
@click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="draw the ratios here")
def main(
    models: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    engines: str,
    target: str,
    folder: Path,
    json_path: Path | None,
    figure_path: Path | None,
) -> None:
    """Measure, print, write."""
    chosen = engines.split(",")
    if unknown := [e for e in chosen if e not in ENGINES]:
        raise click.BadParameter(f"unknown engine {unknown[0]!r}; there are {', '.join(ENGINES)}", param_hint="engines")
    files = [write(m, folder) if m in NETWORKS else Path(m) for m in models or NETWORKS]
    if missing := [f for f in files if not f.is_file()]:
        raise click.BadParameter(f"{missing[0]} is neither a file nor one of {', '.join(NETWORKS)}", param_hint="MODEL")
    rows: list[Row] = []
    for file in files:
        for count in threads:
            rows.append(measure(file.resolve(), count, chosen, target, rounds))
            click.echo("  ".join(cells(rows[-1], chosen)), err=True)
    heads = ["model", "threads", *(f"{e} (ms, min / median)" for e in chosen), "best peer / fusewire", "difference"]
    click.echo(tabulate([cells(row, chosen) for row in rows], heads, disable_numparse=True))
    for engine, reason in {e: r for row in rows for e, r in row["left_out"].items()}.items():
        click.echo(f"{engine} left out: {reason}", err=True)
    if json_path:
        about = {"target": target, "rounds": rounds, "processor": _processor(), "rows": rows}
        json_path.write_text(json.dumps(about, indent=1) + "\n")
    if figure_path:
        figure(rows, figure_path)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
