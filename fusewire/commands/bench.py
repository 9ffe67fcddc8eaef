"""`fusewire bench`: how fast a model runs."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from .. import __version__
from ..targets.compiled import CompiledModule
from ..targets.device import device as find_device
from ..targets.peaks import known_peaks
from ..targets.work import flops_of_program
from .base import Command, Session, shown
from .inputs import input_types, make_inputs
from .models import BUILD_STEPS, open_module, start
from .options import (
    COUNT,
    BuildOptions,
    InputOptions,
    build_options,
    input_options,
    json_option,
    model_argument,
    timing_options,
)
from .run import show_profile


@click.command(
    cls=Command,
    examples=(
        "fusewire bench resnet50.onnx --num-cores 4",
        'fusewire bench resnet50.onnx --target "cpu -libs=onednn" --repeat 50 --json',
        "fusewire bench resnet50.fw --profile",
    ),
)
@model_argument
@build_options()
@timing_options(repeat=20, number=1)
@click.option(
    "--warmup", type=COUNT, default=3, show_default=True, metavar="N",
    help="Runs before the first time is taken.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help="Show each step, too, and how near it comes to the machine's peak.")
@input_options
@json_option
@click.pass_obj
@click.pass_context
def bench_command(
    ctx: click.Context,
    session: Session,
    model: Path,
    build: BuildOptions,
    repeat: int,
    number: int,
    warmup: int,
    profile: bool,
    feed: InputOptions,
    as_json: bool,
) -> None:
    """Measure how fast a model runs.

    MODEL is an ONNX model or a compiled module (.fw). A time is the mean of --number runs; --repeat times are taken.
    All times are in milliseconds for one run. GFLOP/s are the operations of the model's definition for the median time;
    "of peak" compares them with what this machine's multiply-add units were measured to do with as many threads
    (Winograd's convolutions do fewer operations, and may pass it).
    """
    with session.progress(BUILD_STEPS + 3) as step:
        library = open_module(model, build, step, ctx)
        module = start(library, find_device(library.target), step)
        module.set_input(**make_inputs(input_types(library), feed))
        step("measure")
        for _ in range(warmup - 1):  # benchmark() adds one
            module.run()
        times = module.benchmark(repeat=repeat, number=number).results
        step("compare with the peaks")
        steps = module.profile() if profile else None
        speed = arithmetic(library, float(np.median(times)))
    report: dict[str, Any] = {
        "model": str(model),
        "target": str(library.target),
        "threads": library.threads,
        "repeat": repeat,
        "number": number,
        "warmup": warmup,
        **statistics(times),
        **speed,
        "times_ms": [t * 1e3 for t in times],
        **({"profile": steps.to_dict()} if steps else {}),
        "fusewire": __version__,
    }
    if as_json:
        session.json(report)
        return
    session.line(f"{model}, target '{shown(library.target)}', {library.threads} threads, fusewire {__version__}")
    names = ("median", "min", "p90", "mean")
    cells = [f"{report[f'{name}_ms']:.4f}" for name in names]
    cells += [f"{speed['gflops']:.1f}" if speed["gflops"] else "-", f"{speed['peak']:.0%}" if speed["peak"] else "-"]
    heads = [*(f"{name} (ms)" for name in names), "GFLOP/s", "of peak", "repeat", "number"]
    session.table(heads, [[*cells, str(repeat), str(number)]])
    if steps:
        session.line()
        show_profile(session, steps)


def arithmetic(library: CompiledModule, seconds: float) -> dict[str, float | None]:
    """Operations of a run (10^9), those per second, and their part of the peak; None where it is not known."""
    flops = flops_of_program(library.program)
    found = known_peaks(library.code.isa, library.threads) if library.target.kind == "cpu" else None
    speed = flops / seconds if flops else None
    return {
        "gflop": None if flops is None else flops / 1e9,
        "gflops": speed and speed / 1e9,
        "peak": speed / found.flops["float32"] if speed and found else None,
    }


def statistics(times: tuple[float, ...]) -> dict[str, float]:
    """Median, minimum, 90th percentile and mean of times in seconds, in milliseconds."""
    ms = np.asarray(times) * 1e3
    return {
        "median_ms": float(np.median(ms)),
        "min_ms": float(np.min(ms)),
        "p90_ms": float(np.percentile(ms, 90)),
        "mean_ms": float(np.mean(ms)),
    }
