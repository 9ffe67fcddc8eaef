"""`fusewire lock`: write down what a build decides."""

from pathlib import Path

import click

from ..targets.tuning.store import LOCKFILE
from ..targets.tuning.tune import lock
from .base import Command, Session
from .models import pass_context, read_model, with_layout
from .options import BuildOptions, build_options, model_argument


@click.command(
    cls=Command,
    examples=(
        'fusewire lock resnet50.onnx --target "cpu -libs=auto"',
        'fusewire compile resnet50.onnx --target "cpu -libs=auto" --locked',
    ),
)
@model_argument
@build_options()
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=LOCKFILE, show_default=True,
    metavar="FILE", help="The file to write.",
)  # fmt: skip
@click.pass_obj
def lock_command(session: Session, model: Path, build: BuildOptions, output: Path) -> None:
    """Write down what a build decides.

    MODEL is an ONNX model. The file holds one decision a line: which implementation, with which numbers, or which
    library runs each part. Builds with --locked follow it, on processors of the same kind, and measure nothing.
    """
    mod, params = read_model(model, build.input_shapes)
    with pass_context(build):
        count = lock(with_layout(mod, build), build.target, params, records=build.records, path=output)
    session.line(f"wrote {count} decisions to {output}")
