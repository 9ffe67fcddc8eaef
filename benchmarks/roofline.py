"""How near each step of a model comes to the machine's measured peak.

    python -m benchmarks.roofline [MODEL ...] [--threads 1] [--figure FILE] [--json FILE]

MODEL is the name of a benchmark network (benchmarks/networks.py; resnet50 if none is given) or an ONNX file. The figure
has a dot for each step: its operations per byte and its speed, under the machine's roofs; with several models it is
drawn for all of them together. `fusewire run MODEL --profile` prints the same table for one model.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from . import figures
from .networks import files_of
from .peers.engines import Fusewire


def measure(model: Path, threads: int, target: str) -> dict[str, Any]:
    """A model's profile as plain data."""
    profile = Fusewire(model, threads, target).module.profile()
    click.echo(f"{model.stem}, {threads} thread{'s' * (threads > 1)}\n{profile}\n")
    return {"model": model.stem, "threads": threads, **profile.to_dict()}


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--target", default="cpu", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("output/networks"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here")
@click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="draw them here (.png, .svg)")
def main(
    models: Sequence[str],
    threads: int,
    target: str,
    folder: Path,
    json_path: Path | None,
    figure_path: Path | None,
) -> None:
    """Measure, print, write, draw."""
    found = [measure(file, threads, target) for file in files_of(models or ("resnet50",), folder)]
    if json_path:
        json_path.write_text(json.dumps({"target": target, "models": found}, indent=1) + "\n")
    if figure_path:
        steps = [step for model in found for step in model["steps"]]
        names = ", ".join(model["model"] for model in found)
        peaks = found[0]["peaks"]
        figures.roofline(steps, peaks, figure_path, f"{names}: {threads} thread{'s' * (threads > 1)}, {peaks['cpu']}")


if __name__ == "__main__":
    main()
