"""`fusewire compare`: whether targets agree, which is faster, and where the difference comes from."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import numpy.typing as npt
from click.core import ParameterSource
from rich.text import Text

from .. import __version__
from ..ir.errors import FusewireError
from ..report.collect import Measured, collect
from ..report.data import Report, Settings, plain
from ..report.figures import require_matplotlib, save_figures
from ..report.page import page, require_jinja
from ..targets.compiled import CompiledModule
from ..targets.cpuinfo import cpu_features
from ..targets.device import device as find_device
from ..targets.executor import GraphModule
from ..targets.target import KINDS, Target
from .base import FAILED, Command, Session, shown
from .bench import statistics
from .differences import Difference, difference, rounding_of
from .files import why_not_writable, written
from .inputs import input_types, make_inputs
from .models import BUILD_STEPS, SUFFIX, Params, Step, build_model, read_model, start
from .options import (
    TOLERANCE,
    BuildOptions,
    InputOptions,
    build_options,
    cores_option,
    input_options,
    json_option,
    model_argument,
    targets_option,
    timing_options,
    with_cores,
)

Array = npt.NDArray[Any]


class TargetsCommand(Command):
    """Lets --targets take several values: `--targets A B` is `--targets A --targets B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of the command line."""
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
    """A target's module, its outputs, and its times in seconds."""

    target: Target
    library: CompiledModule
    module: GraphModule
    outputs: list[Array]
    times: tuple[float, ...] = ()
    differences: list[Difference] = attrs.field(factory=list)


@attrs.frozen
class Tolerance:
    """How far elements may be apart; `rough`: more where a target rounds to a precision on purpose."""

    rtol: float
    atol: float
    rough: bool

    def rounding(self, targets: Sequence[Target]) -> float:
        """The share of the largest element that is allowed on top."""
        return rounding_of(targets) if self.rough else 0.0


@attrs.frozen
class Paths:
    """Where a report goes: the page, and a folder for pictures."""

    report: Path | None
    figures: Path | None

    @property
    def wanted(self) -> bool:
        """Whether there is to be a report."""
        return self.report is not None or self.figures is not None

    def check(self) -> None:
        """Say what is missing or in the way before anything is measured."""
        if self.report is not None:
            require_jinja()
            if reason := why_not_writable(self.report):
                raise FusewireError(f"cannot write the report: {reason}")
        if self.figures is not None:
            require_matplotlib()
            if self.figures.exists() and not self.figures.is_dir():
                raise FusewireError(f"cannot write figures: {self.figures} is no folder")


@click.command(
    cls=TargetsCommand,
    examples=(
        'fusewire compare resnet50.onnx --targets "cpu" "cpu -libs=onednn"',
        'fusewire compare resnet50.onnx --targets "cpu" "cpu -libs=onednn" --report out.html',
        'fusewire compare resnet50.onnx -t "cpu -mcpu=haswell" -t cpu --inputs data=cat.png --rtol 1e-5 --json',
    ),
)
@model_argument
@targets_option("Two or more targets; the first is the reference.")
@cores_option
@click.option("--rtol", type=TOLERANCE, default=1e-3, show_default=True, help="Relative tolerance.")
@click.option("--atol", type=TOLERANCE, default=1e-5, show_default=True, help="Absolute tolerance.")
@timing_options(repeat=10, number=1)
@click.option(
    "--report",
    "report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write an HTML page: graphs, time of each group, errors against float64, memory.",
)
@click.option(
    "--figures", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Write the report's figures as PNG files.",
)  # fmt: skip
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
    report: Path | None,
    figures: Path | None,
    feed: InputOptions,
    build: BuildOptions,
    as_json: bool,
) -> int:
    """Run a model on the same inputs for several targets, and compare results and times.

    MODEL is an ONNX model. Differences are to the first target. The exit status is 1 where an element differs by more
    than atol + rtol * |reference|. For targets with -precision, and without --rtol or --atol, another 2**-5 (bfloat16)
    or 2**-8 (float16) of the output's largest element is allowed. A difference of 1 ulp is one between neighbouring
    floating numbers. The targets take turns when times are taken. With --report, --json holds the data of the report
    too.
    """
    if len(targets) < 2:
        given = ", ".join(f"'{shown(target)}'" for target in targets)
        raise click.BadParameter(f"needs two targets or more, got {given} alone", param_hint="'--targets'")
    targets = tuple(with_cores(target, num_cores) for target in targets)
    source = click.get_current_context().get_parameter_source
    rough = {source("rtol"), source("atol")} == {ParameterSource.DEFAULT}
    tolerance = Tolerance(rtol, atol, rough)
    paths, timing = Paths(report, figures), (repeat, number)
    paths.check()
    steps = 2 + len(targets) * (BUILD_STEPS + (2 if paths.wanted else 0)) + paths.wanted
    with session.progress(steps) as step:
        step(f"read {model.name}")
        read = read_model(model, build.input_shapes)
        runs, inputs = _runs(read, targets, build, feed, tolerance, step)
        step("measure")
        runs = _timed(runs, *timing)
        settings = _settings(tolerance, targets, timing, feed)
        found = _collect(model, read, runs, inputs, settings, step) if paths.wanted else None
        if found:
            _write(found, paths)
    agree = all(d.within for run in runs for d in run.differences)
    if as_json:
        about = {"rtol": rtol, "atol": atol, "repeat": repeat, "number": number, "agree": agree}
        session.json({**_summary(model, runs, about), **({"report": plain(found)} if found else {})})
    else:
        _show(session, runs)
        if report:
            session.line(f"\nThe report is in {report}")
        if not agree:
            share = tolerance.rounding(targets)
            more = f" + {share:g} * the largest" if share else ""
            session.fail(f"results differ by more than {atol:g} + {rtol:g} * |reference|{more}")
    return 0 if agree else FAILED


def _runs(
    read: tuple[Any, Params],
    targets: Sequence[Target],
    build: BuildOptions,
    feed: InputOptions,
    tolerance: Tolerance,
    step: Step,
) -> tuple[list[Run], Mapping[str, Any]]:
    """Build and run for every target on the same inputs; returns the inputs too."""
    runs: list[Run] = []
    inputs: Mapping[str, Any] | None = None
    for target in targets:
        try:
            run, inputs = _run(read, attrs.evolve(build, target=target), feed, inputs, step)
        except FusewireError as error:
            where = "" if str(error).startswith("target ") else f"target '{shown(target)}': "
            raise FusewireError(f"{where}{error}") from error
        first = runs[0].outputs if runs else run.outputs
        allowed = tolerance.rtol, tolerance.atol, tolerance.rounding((targets[0], target))
        differences = [difference(a, b, *allowed) for a, b in zip(run.outputs, first, strict=True)]
        runs.append(attrs.evolve(run, differences=differences))
    return runs, inputs or {}


def _run(
    read: tuple[Any, Params],
    options: BuildOptions,
    feed: InputOptions,
    inputs: Mapping[str, Any] | None,
    step: Step,
) -> tuple[Run, Mapping[str, Any]]:
    """Build for one target and run; makes the inputs where there are none yet."""
    library = build_model(*read, options, step)
    module = start(library, find_device(options.target), step)
    if inputs is None:
        inputs = make_inputs(input_types(library), feed)
    module.run(**inputs)
    outputs = [module.get_output(k).numpy() for k in range(module.get_num_outputs())]
    return Run(options.target, library, module, outputs), inputs


def _timed(runs: Sequence[Run], repeat: int, number: int) -> list[Run]:
    """Take times in turns, so that whatever else the machine does meanwhile hits all targets alike."""
    rounds = [[run.module.benchmark(repeat=1, number=number).results[0] for run in runs] for _ in range(repeat)]
    return [attrs.evolve(run, times=times) for run, times in zip(runs, zip(*rounds, strict=True), strict=True)]


def _settings(tolerance: Tolerance, targets: Sequence[Target], timing: tuple[int, int], feed: InputOptions) -> Settings:
    made = {"random": f"random (seed {feed.seed})"}.get(feed.fill_mode, feed.fill_mode)
    given = ", ".join(feed.inputs)
    return Settings(
        tolerance.rtol,
        tolerance.atol,
        tolerance.rounding(targets),
        *timing,
        inputs=f"{given}; others {made}" if given else made,
        machine=cpu_features().name,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _collect(
    model: Path,
    read: tuple[Any, Params],
    runs: Sequence[Run],
    inputs: Mapping[str, Any],
    settings: Settings,
    step: Step,
) -> Report:
    measured = [
        Measured(
            name,
            run.library,
            run.module,
            run.outputs,
            [(d.max_abs, d.of_largest, d.beyond) for d in run.differences],
            run.times,
        )
        for name, run in zip(short_names([shown(run.target) for run in runs]), runs, strict=True)
    ]
    return collect(model.name, read, measured, inputs, settings, step)


def short_names(names: Sequence[str]) -> list[str]:
    """Names of targets without the options that all have, where that leaves them different."""
    common = set.intersection(*(set(name.split(" ")[1:]) for name in names))
    short = [" ".join(word for word in name.split(" ") if word not in common) for name in names]
    return short if len(set(short)) == len(short) else list(names)


def _write(report: Report, paths: Paths) -> None:
    if paths.report is not None:
        text = page(report)
        with written(paths.report) as file:
            file.write_text(text, encoding="utf-8")
    if paths.figures is not None:
        save_figures(report, paths.figures)


def _summary(model: Path, runs: Sequence[Run], rest: Mapping[str, Any]) -> dict[str, Any]:
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
            rows.append(
                [
                    name,
                    f"output_{k}",
                    f"{d.max_abs:.3g}",
                    f"{d.max_rel:.3g}",
                    f"{d.of_largest:.3g}",
                    ulp,
                    agreement,
                    verdict,
                ]
            )
    session.table(["target", "output", "max abs", "max rel", "of largest", "max ulp", "same argmax", "verdict"], rows)
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
