"""Exports networks, runs them with fusewire, and compares with ONNX Runtime.

    python -m benchmarks.exported [NAME ...] [--out DIR] [--json FILE] [--exporter dynamo|torchscript|both]

from the root of the repository. Needs torch (2.5 or newer), onnxruntime and onnxscript. Every model is exported and
compiled in processes of its own, one after the other; the kernels are always compiled anew. Files stay in DIR.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

ROOT = Path(__file__).parents[2]
LIMIT = 1e-4
"""The largest difference that passes, relative to the largest magnitude of an output."""

VARIANT_LIMITS = {"half": 4e-3, "qdq": 0.06, "qoperator": 0.06, "dynamic": 0.06}
"""The same for other forms: a few roundings to float16; values that are rounded to the other side of a half, once or
more in many layers, which ONNX Runtime does in just as many places when its own optimisations are turned off."""

COLUMNS = {
    "model": "model", "exporter": "exporter", "operators": "ONNX ops", "groups": "groups", "kernels": "kernels",
    "import_s": "import s", "build_s": "build s", "compile_s": "compile s", "peak_mib": "peak MiB",
    "weights_mib": "weights MiB", "difference": "max diff", "element_difference": "by element",
}  # fmt: skip
FORMATS = {"import_s": ".2f", "build_s": ".2f", "compile_s": ".1f", "peak_mib": ".0f", "weights_mib": ".1f"}


def child(module: str, *arguments: str) -> str:
    """What `python -m benchmarks.exported.<module>` prints, with a kernel cache of its own.

    Raises:
        RuntimeError: it failed; the message is the end of its error output.
    """
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.exported.{module}", *arguments],
            cwd=ROOT, env={**os.environ, "FUSEWIRE_CACHE_DIR": cache}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-5:]) or f"exit status {done.returncode}")
    return done.stdout


def measured(name: str, exporter: str, folder: Path, target: str, options: Sequence[str]) -> dict[str, Any]:
    """The row of one model."""
    path = folder / "".join([f"{name}.{exporter}", *(option.replace("--", ".") for option in options), ".onnx"])
    row: dict[str, Any] = {"model": name, "exporter": exporter}
    try:
        child("export", name, str(path), "--exporter", exporter, *options)
    except RuntimeError as error:
        return {**row, "error": f"not exported: {error}"}
    try:
        return {**row, **json.loads(child("check", str(path), "--target", target).splitlines()[-1])}
    except RuntimeError as error:
        return {**row, "error": str(error)}


def passed(row: dict[str, Any], variant: str | None) -> bool:
    """Whether a model ran and agrees."""
    return not row["error"] and row["difference"] <= VARIANT_LIMITS.get(variant or "", LIMIT)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows that ran, as text."""
    shown = [
        [format(row[c], FORMATS.get(c, ".1e" if isinstance(row[c], float) else "")) for c in COLUMNS]
        for row in rows
        if not row["error"]
    ]
    return tabulate(shown, list(COLUMNS.values()), disable_numparse=True)


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="A folder for the ONNX files.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="A file for the results.")
@click.option("--exporter", type=click.Choice(["dynamo", "torchscript", "both"]), default="dynamo")
@click.option("--opset", type=int, help="The opset to export; the exporter's own choice if left out.")
@click.option("--plain", is_flag=True, help="Without the exporter's optimisations: batch normalisations stay, say.")
@click.option("--variant", help="Another form of the networks: half precision, quantised, ... (see variants.py).")
@click.option("--target", default="cpu", help="fusewire's target.")
def main(
    names: Sequence[str], out: Path | None, json_path: Path | None, exporter: str, opset: int | None, plain: bool,
    variant: str | None, target: str,
) -> None:  # fmt: skip
    """Run and print the table."""
    try:
        known = child("export", "--list").split()
    except RuntimeError as error:  # torch is missing, say
        raise click.ClickException(str(error)) from None
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no network is called {', '.join(unknown)}; there are {', '.join(known)}")
    options = [f"--variant={variant}"] if variant else []
    options += [f"--opset={opset}"] * (opset is not None) + ["--plain"] * plain
    exporters = ("dynamo", "torchscript") if exporter == "both" else (exporter,)
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in names or known:
            for by in exporters:
                rows.append(measured(name, by, folder, target, options))
                row = rows[-1]
                click.echo(f"{name} {by}: {row['error'] or format(row['difference'], '.1e')}", err=True)
    click.echo(table(rows))
    if json_path:
        json_path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if all(passed(row, variant) for row in rows) else 1)


if __name__ == "__main__":
    main()
