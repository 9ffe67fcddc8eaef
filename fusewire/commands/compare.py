"""`fusewire compare`: whether targets agree, and which is faster."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import numpy.typing as npt
from rich.text import Text

from .. import __version__
from ..ir.errors import FusewireError
from ..targets.device import device as find_device
from ..targets.target import KINDS, Target
from .base import FAILED, Command, Session, shown
from .bench import statistics
from .differences import Difference, difference
from .inputs import input_types, make_inputs
from .models import BUILD_STEPS, SUFFIX, Params, Step, build_model, read_model, start
from .options import (
    BuildOptions,
    InputOptions,
    build_options,
    cores_option,
    input_options,
    json_option,
    model_argument,
    timing_options,
    with_cores,
)
from .params import TargetType

Array = npt.NDArray[Any]


class _Compare(Command):
    """Lets --targets take several values: `--targets A B` is `--targets A --targets B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(args: Sequence[str]) -> list[str]:
    """Command-line words with the flag --targets repeated before each of its values.

    Words behind the flag are values up to the next option, or to a word that is a model: an existing file or a name
    that ends in .onnx (and no kind of target).
    """
    flags = ("-t", "--targets")
    kinds = {name for kind in KINDS.values() for name in (kind.name, *kind.aliases)}
    result: list[str] = []
    flag = ""
    for k, word in enumerate(args):
        if word == "--":
            return [*result, *args[k:]]
        first = bool(result) and result[-1] in flags
        if word.startswith("-"):
            flag = word.split("=")[0] if word in flags or word.startswith("--targets=") else ""
            result.append(word)
        elif first or not flag:
            result.append(word)
        elif word.split(" ")[0] in kinds or not (Path(word).is_file() or Path(word).suffix in (".onnx", SUFFIX)):
            result += [flag, word]
        else:
            flag = ""
            result.append(word)
    return result


@attrs.frozen(eq=False)
class Run:
    """A target's outputs, and its times in seconds."""

    target: Target
    outputs: list[Array]
    times: tuple[float, ...]
    differences: list[Difference]


@click.command(
    cls=_Compare,
    examples=(
        'fusewire compare resnet50.onnx --targets "cpu" "cpu -libs=onednn"',
        'fusewire compare resnet50.onnx -t "cpu -mcpu=haswell" -t cpu --inputs data=cat.png --rtol 1e-5 --json',
    ),
)
@model_argument
@click.option(
    "-t", "--targets", type=TargetType(), multiple=True, required=True, metavar="TARGET...",
    help="Two or more targets; the first is the reference.",
)  # fmt: skip
@cores_option
@click.option("--rtol", type=click.FloatRange(min=0), default=1e-3, show_default=True, help="Relative tolerance.")
@click.option("--atol", type=click.FloatRange(min=0), default=1e-5, show_default=True, help="Absolute tolerance.")
@timing_options(repeat=10, number=1)
@input_options
@build_options(target=False)
@json_option
@click.pass_obj
def compare_command(
    session: Session,
    model: Path,
    targets: tuple[Target, ...],
    num_cores: int | None,
    rtol: float,
    atol: float,
    repeat: int,
    number: int,
    feed: InputOptions,
    build: BuildOptions,
    as_json: bool,
) -> int:
    """Run a model on the same inputs for several targets, and compare results and times.

    MODEL is an ONNX model. Differences are to the first target. The exit status is 1 where an element differs by more
    than atol + rtol * |reference|. A difference of 1 ulp is one between neighbouring floating numbers.
    """
    if not math.isfinite(rtol) or not math.isfinite(atol):
        raise click.BadParameter("expected finite numbers", param_hint="'--rtol', '--atol'")
    if len(targets) < 2:
        given = ", ".join(f"'{shown(target)}'" for target in targets)
        raise click.BadParameter(f"needs two targets or more, got {given} alone", param_hint="'--targets'")
    targets = tuple(with_cores(target, num_cores) for target in targets)
    runs: list[Run] = []
    with session.progress(1 + len(targets) * (BUILD_STEPS + 1)) as step:
        step(f"read {model.name}")
        read = read_model(model, build.input_shapes)
        inputs: Mapping[str, Any] | None = None
        for target in targets:
            try:
                run, inputs = _run(read, attrs.evolve(build, target=target), feed, inputs, (repeat, number), step)
            except FusewireError as error:
                where = "" if str(error).startswith("target ") else f"target '{shown(target)}': "
                raise FusewireError(f"{where}{error}") from error
            first = runs[0].outputs if runs else run.outputs
            differences = [difference(a, b, rtol, atol) for a, b in zip(run.outputs, first, strict=True)]
            runs.append(attrs.evolve(run, differences=differences))
    agree = all(d.within for run in runs for d in run.differences)
    if as_json:
        tolerance = {"rtol": rtol, "atol": atol}
        session.json(_report(model, runs, {**tolerance, "repeat": repeat, "number": number, "agree": agree}))
    else:
        _show(session, runs)
        if not agree:
            session.fail(f"results differ by more than {atol:g} + {rtol:g} * |reference|")
    return 0 if agree else FAILED


def _run(
    read: tuple[Any, Params],
    options: BuildOptions,
    feed: InputOptions,
    inputs: Mapping[str, Any] | None,
    timing: tuple[int, int],
    step: Step,
) -> tuple[Run, Mapping[str, Any]]:
    """Build for one target, run and measure; makes the inputs where there are none yet."""
    library = build_model(*read, options, step)
    module = start(library, find_device(options.target), step)
    if inputs is None:
        inputs = make_inputs(input_types(library), feed)
    module.run(**inputs)
    outputs = [module.get_output(k).numpy() for k in range(module.get_num_outputs())]
    repeat, number = timing
    times = module.benchmark(repeat=repeat, number=number).results
    return Run(options.target, outputs, times, []), inputs


def _report(model: Path, runs: Sequence[Run], rest: Mapping[str, Any]) -> dict[str, Any]:
    targets = [
        {
            "target": str(run.target),
            **statistics(run.times),
            "outputs": [{**attrs.asdict(d), "within": d.within} for d in run.differences],
        }
        for run in runs
    ]
    return {"model": str(model), "reference": str(runs[0].target), **rest, "targets": targets, "fusewire": __version__}


def _show(session: Session, runs: Sequence[Run]) -> None:
    rows: list[list[str | Text]] = []
    for run in runs:
        for k, d in enumerate(run.differences):
            ulp = "-" if d.max_ulp is None else f"{d.max_ulp:.0f}"
            agreement = "-" if d.argmax_agreement is None else f"{d.argmax_agreement:.1%}"
            verdict = Text("reference") if run is runs[0] else _verdict(d)
            name = shown(run.target)
            rows.append([name, f"output_{k}", f"{d.max_abs:.3g}", f"{d.max_rel:.3g}", ulp, agreement, verdict])
    session.table(["target", "output", "max abs", "max rel", "max ulp", "same argmax", "verdict"], rows)
    session.line()
    base = float(np.median(runs[0].times))
    times = [
        [
            shown(run.target),
            *(f"{v:.4f}" for v in statistics(run.times).values()),
            f"{base / float(np.median(run.times)):.2f}",
        ]
        for run in runs
    ]
    session.table(["target", "median (ms)", "min (ms)", "p90 (ms)", "mean (ms)", "speed-up"], times)


def _verdict(d: Difference) -> Text:
    return Text("agrees", "green") if d.within else Text(f"{d.beyond} of {d.size} differ", "bold red")
