"""How exact results are: fusewire and ONNX Runtime, both against a float64 evaluation of the same model.

    python -m benchmarks.accuracy [MODEL ...] [--layers] [--limit 3] [--inputs 1] [--steps N] [--json FILE]

MODEL is the name of a benchmark network (all if none is given) or an ONNX file. The yardstick is the imported graph,
operator by operator in NumPy with float64 (`fw.testing.evaluate`). Errors are relative to the largest magnitude of the
exact result: the largest error, and the mean. The ratio is fusewire's over ONNX Runtime's; where it is above --limit,
the model fails, the exit status is 1, and the steps that add the most error are shown: each is computed by itself from
the exact values of its inputs (--steps N shows N of them for every model). Needs onnxruntime.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from attrs import asdict, frozen
from tabulate import tabulate

import fusewire as fw
from fusewire.bisection.groups import interpret, meaning, over_tensors, rounded, run_step
from fusewire.targets.program import KernelStep, LibraryStep

from .networks import LAYERS, NETWORKS, files_of
from .peers.engines import inputs_of, onnxruntime_session

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
EPS = float(np.finfo(np.float32).eps)


@frozen
class Error:
    """Differences to the exact result, relative to its largest magnitude."""

    largest: float
    mean: float

    @staticmethod
    def of(got: Sequence[Array], exact: Sequence[Array]) -> "Error":
        """The errors over all floating outputs."""
        found = [
            (float(np.abs(g - e).max() / scale), float(np.abs(g - e).mean() / scale))
            for g, e in zip(got, exact, strict=True)
            if e.dtype.kind == "f" and e.size and (scale := np.abs(e).max() or 1.0)
        ]
        return Error(max((a for a, _ in found), default=0.0), max((b for _, b in found), default=0.0))

    def worst(self, other: "Error") -> "Error":
        """The larger figures of two."""
        return Error(max(self.largest, other.largest), max(self.mean, other.mean))


@frozen
class StepError:
    """The error that one step adds to exact inputs."""

    name: str
    implementation: str
    fusewire: Error
    rounding: Error


@frozen
class Result:
    """One model: the errors of both, and their ratios."""

    model: str
    fusewire: Error
    onnxruntime: Error
    steps: tuple[StepError, ...] = ()

    @property
    def ratio(self) -> float:
        """Fusewire's largest error over ONNX Runtime's."""
        return self.fusewire.largest / max(self.onnxruntime.largest, EPS / 64)

    @property
    def mean_ratio(self) -> float:
        """The same of the mean errors."""
        return self.fusewire.mean / max(self.onnxruntime.mean, EPS / 1024)


def feeds(path: Path, count: int) -> list[Feed]:
    """Several inputs: those of the other benchmarks, and floating ones of other seeds."""
    first = inputs_of(path)
    found: list[Feed] = [first]
    for seed in range(1, count):
        rng = np.random.default_rng(seed)
        drawn = {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in first.items() if a.dtype.kind == "f"}
        found.append({**first, **drawn})
    return found


def measure(path: Path, target: str, count: int, steps: int, limit: float) -> Result:
    """The errors on `count` inputs; the steps that add the most where they are asked for, or the limit is passed."""
    mod, params = fw.frontend.from_onnx(path)
    lib = fw.build(mod, target, params)
    session = onnxruntime_session(path, 1)
    own = other = Error(0.0, 0.0)
    for feed in feeds(path, count):
        exact = fw.testing.evaluate(mod["main"], {**params, **feed})
        got = lib(**feed)
        own = own.worst(Error.of(got if isinstance(got, list) else [got], exact))
        other = other.worst(Error.of(session.run(None, dict(feed)), exact))
    result = Result(path.stem, own, other)
    if steps or result.ratio > limit:
        found = step_errors(lib, feeds(path, 1)[0])
        return Result(path.stem, own, other, tuple(found[: steps or 5]))
    return result


def step_errors(lib: fw.CompiledModule, feed: Feed) -> list[StepError]:
    """What every step adds to exact inputs (rounded to their dtypes), the worst first."""
    module = fw.GraphModule(lib["default"](fw.cpu()))
    given = {slots[0]: np.asarray(feed[name]) for name, slots in lib.program.inputs.items()}
    found: list[StepError] = []

    def visit(step: KernelStep | LibraryStep, values: list[Array]) -> list[Array]:
        group = over_tensors(step.function)
        exact = meaning(group, values)
        kept = rounded(exact, group.body.checked_type)
        by = lib.runnable.label(step)[1]
        found.append(StepError(step.name, by, Error.of(run_step(module, step, values), exact), Error.of(kept, exact)))
        return kept

    interpret(lib.program, given, visit)
    return sorted(found, key=lambda s: -s.fusewire.largest)


def table(results: Sequence[Result], limit: float) -> str:
    """All results."""
    rows = [
        [
            r.model, f"{r.fusewire.largest:.2e}", f"{r.onnxruntime.largest:.2e}", f"{r.ratio:.2f}",
            f"{r.fusewire.mean:.2e}", f"{r.onnxruntime.mean:.2e}", f"{r.mean_ratio:.2f}",
            "ok" if r.ratio <= limit else f"above {limit:g}",
        ]
        for r in results
    ]  # fmt: skip
    heads = ["model", "largest error", "ONNX Runtime", "ratio", "mean error", "ONNX Runtime", "ratio", ""]
    return str(tabulate(rows, heads, disable_numparse=True))


def step_table(result: Result) -> str:
    """The steps of a model that add the most."""
    rows = [
        [s.name, s.implementation, f"{s.fusewire.largest:.2e}", f"{s.fusewire.mean:.2e}", f"{s.rounding.largest:.2e}"]
        for s in result.steps
    ]
    heads = [f"{result.model}: steps by the error they add", "by", "largest", "mean", "rounding of the result alone"]
    return str(tabulate(rows, heads, disable_numparse=True))


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--layers", is_flag=True, help="the single layers, besides the models named")
@click.option("--limit", default=3.0, show_default=True, help="the largest ratio that passes")
@click.option("--inputs", default=1, show_default=True, type=click.IntRange(1), help="how many inputs to try")
@click.option("--steps", default=0, show_default=True, type=click.IntRange(0), help="show the worst steps of all")
@click.option("--target", default="cpu", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("output/networks"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here")
def main(
    models: Sequence[str],
    layers: bool,
    limit: float,
    inputs: int,
    steps: int,
    target: str,
    folder: Path,
    json_path: Path | None,
) -> None:
    """Measure, print, write; fails where a model is above the limit."""
    names = [*models, *(LAYERS if layers else ())] or list(NETWORKS)
    results: list[Result] = []
    for file in files_of(names, folder):
        results.append(measure(file, target, inputs, steps, limit))
        click.echo(f"{file.stem}: {results[-1].ratio:.2f}", err=True)
    click.echo(table(results, limit))
    for result in results:
        if result.steps:
            click.echo("\n" + step_table(result))
    if json_path:
        rows = [{**asdict(r), "ratio": r.ratio, "mean_ratio": r.mean_ratio} for r in results]
        json_path.write_text(json.dumps({"target": target, "inputs": inputs, "rows": rows}, indent=1) + "\n")
    sys.exit(any(r.ratio > limit for r in results))


if __name__ == "__main__":
    main()
