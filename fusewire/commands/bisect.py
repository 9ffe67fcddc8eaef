"""`fusewire bisect`: the first group, and the first operator in it, where targets part."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from .. import __version__
from ..bisection import Bisection, bisect_mismatch
from ..fuse.inline import bind_params, inline, typed
from ..ir.expr import Function
from ..ir.module import IRModule
from ..targets.build import CompiledModule
from ..targets.target import Target
from .base import FAILED, Session
from .compare import TargetsCommand
from .inputs import input_types, make_inputs
from .models import BUILD_STEPS, Params, build_model, read_model, with_layout
from .options import (
    BuildOptions,
    InputOptions,
    build_options,
    cores_option,
    input_options,
    json_option,
    model_argument,
    with_cores,
)
from .params import TargetType


@click.command(
    cls=TargetsCommand,
    examples=(
        'fusewire bisect resnet50.onnx --targets "cpu" "cpu -libs=onednn"',
        'fusewire bisect resnet50.onnx --targets "cpu -libs=onednn" --inputs data=cat.png --reproducer bug',
    ),
)
@model_argument
@click.option(
    "-t", "--targets", type=TargetType(), multiple=True, required=True, metavar="TARGET...",
    help="Two targets, or one to compare with NumPy in float64.",
)  # fmt: skip
@cores_option
@click.option(
    "--rtol", type=click.FloatRange(min=0), help="Relative tolerance of a group.  [default: 1e-4 for float32]"
)
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute tolerance of a group.  [default: by its values]")
@click.option(
    "--reproducer", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write a script and its data there that show the difference.",
)  # fmt: skip
@input_options
@build_options(target=False)
@json_option
@click.pass_obj
def bisect_command(
    session: Session,
    model: Path,
    targets: tuple[Target, ...],
    num_cores: int | None,
    rtol: float | None,
    atol: float | None,
    reproducer: Path | None,
    feed: InputOptions,
    build: BuildOptions,
    as_json: bool,
) -> int:
    """Find the first group, and the first operator in it, where targets part.

    MODEL is an ONNX model. Each group of the model, fused as it is, runs on the values that a float64 reference has
    there, so that errors do not add up and a group that differs is guilty itself; its operators are then added one by
    one. The exit status is 1 where a difference was found.
    """
    if any(value is not None and not math.isfinite(value) for value in (rtol, atol)):
        raise click.BadParameter("expected finite numbers", param_hint="'--rtol', '--atol'")
    if len(targets) > 2:
        raise click.BadParameter(f"takes one target or two, got {len(targets)}", param_hint="'--targets'")
    targets = tuple(with_cores(target, num_cores) for target in targets)
    with session.progress(2 + len(targets) * BUILD_STEPS) as step:
        step(f"read {model.name}")
        mod, params = read_model(model, build.input_shapes)
        libraries = [build_model(mod, params, attrs.evolve(build, target=target), step) for target in targets]
        inputs = make_inputs(input_types(libraries[0]), feed)
        step("compare groups")
        found = _bisect(libraries, inputs, rtol, atol, _graph(with_layout(mod, build), params))
    scripts = found.write_reproducer(reproducer) if reproducer is not None else []
    if as_json:
        about = {"model": str(model), **found.to_dict(), "reproducers": [str(s) for s in scripts]}
        session.json({**about, "fusewire": __version__})
    else:
        session.line(str(found))
        for script in scripts:
            session.line(f"\nreproducer: python {script}")
    return 0 if found.agree else FAILED


def _bisect(
    libraries: list[CompiledModule],
    inputs: Mapping[str, Any],
    rtol: float | None,
    atol: float | None,
    graph: Function,
) -> Bisection:
    second = libraries[1] if len(libraries) == 2 else None
    return bisect_mismatch(libraries[0], second, inputs, rtol=rtol, atol=atol, reference=graph)


def _graph(mod: IRModule, params: Params) -> Function:
    """The model before all passes, with its weights."""
    return typed(bind_params(inline(mod), params))
