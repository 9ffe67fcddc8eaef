"""`fusewire bisect`: the first group, and the first operator in it, where targets part."""

from pathlib import Path

import attrs
import click

from .. import __version__
from ..bisection import bisect_mismatch
from ..fuse.inline import bind_params, inline, typed
from ..targets.target import Target
from .base import FAILED, Session
from .compare import TargetsCommand
from .inputs import input_types, make_inputs
from .models import BUILD_STEPS, build_model, read_model, with_layout
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
    with_cores,
)


@click.command(
    cls=TargetsCommand,
    examples=(
        'fusewire bisect resnet50.onnx --targets "cpu" "cpu -libs=onednn"',
        'fusewire bisect resnet50.onnx --targets "cpu -libs=onednn" --inputs data=cat.png --reproducer bug',
    ),
)
@model_argument
@targets_option("Two targets, or one to compare with NumPy in float64.")
@cores_option
@click.option("--rtol", type=TOLERANCE, help="Relative tolerance of a group.  [default: 1e-4 for float32]")
@click.option("--atol", type=TOLERANCE, help="Absolute tolerance of a group.  [default: by its values]")
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
    if len(targets) > 2:
        raise click.BadParameter(f"takes one target or two, got {len(targets)}", param_hint="'--targets'")
    targets = tuple(with_cores(target, num_cores) for target in targets)
    with session.progress(2 + len(targets) * BUILD_STEPS) as step:
        step(f"read {model.name}")
        mod, params = read_model(model, build.input_shapes)
        libraries = [build_model(mod, params, attrs.evolve(build, target=target), step) for target in targets]
        inputs = make_inputs(input_types(libraries[0]), feed)
        step("compare groups")
        second = libraries[1] if len(libraries) == 2 else None
        graph = typed(bind_params(inline(with_layout(mod, build)), params))  # before all passes, with its weights
        found = bisect_mismatch(libraries[0], second, inputs, rtol=rtol, atol=atol, reference=graph)
    scripts = found.write_reproducer(reproducer) if reproducer is not None else []
    if as_json:
        about = {"model": str(model), **found.to_dict(), "reproducers": [str(s) for s in scripts]}
        session.json({**about, "fusewire": __version__})
    else:
        session.line(str(found))
        for script in scripts:
            session.line(f"\nreproducer: python {script}")
    return 0 if found.agree else FAILED
