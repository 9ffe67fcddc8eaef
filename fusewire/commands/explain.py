"""`fusewire explain`: which implementation runs each part of a model, and why."""

from pathlib import Path

import click
from rich.text import Text

from .. import __version__
from ..ir.errors import FusewireError
from ..targets.explain import Choice, Explanation
from ..targets.implement import Candidate
from .base import Command, Session
from .models import BUILD_STEPS, open_module
from .options import BuildOptions, build_options, json_option, model_argument


@click.command(
    cls=Command,
    examples=(
        'fusewire explain resnet50.onnx --target "cpu -libs=onednn"',
        "fusewire explain resnet50.onnx --op nn.conv2d",
        "fusewire explain resnet50.onnx --json",
    ),
)
@model_argument
@click.option("--op", metavar="NAME", help="Only the steps that have this operator, or this name.")
@build_options()
@json_option
@click.pass_obj
@click.pass_context
def explain_command(
    ctx: click.Context, session: Session, model: Path, op: str | None, build: BuildOptions, as_json: bool
) -> None:
    """Tell which implementation runs each part of a model, and why.

    MODEL is an ONNX model or a compiled module (.fw). For every step: the candidates with their priorities, which of
    them was chosen, and the reason where one was refused; predicted costs are in vector operations, times
    are those of tuning (`fusewire tune`), where there was any.
    """
    with session.progress(BUILD_STEPS) as step:
        library = open_module(model, build, step, ctx)
    explanation = library.explain(op)
    if op is not None and not explanation.choices:
        known = sorted({name for choice in library.explain().choices for name in choice.ops})
        raise FusewireError(f"no step has the operator {op!r}; there are {', '.join(known) or 'none'}")
    if as_json:
        about = {"model": str(model), "target": str(library.target), "fusewire": __version__}
        session.json({**about, "steps": explanation.to_dict()})
    else:
        _show(session, explanation)


def _show(session: Session, explanation: Explanation) -> None:
    rows: list[list[str | Text]] = []
    for choice in explanation.choices:
        rows.append([Text(choice.step, "bold"), "", ", ".join(choice.ops)])
        rows += [[f"  {c.name}", str(c.priority), _verdict(c, choice)] for c in choice.candidates]
        rows += [["  instead", "", Text(choice.change, "dim")]] if choice.change else []
    session.table(["step, and its candidates", "priority", "operators, and verdicts"], rows)


def _verdict(candidate: Candidate, choice: Choice) -> Text:
    styles = {"chosen": "green", "refused": "yellow"}
    return Text(choice.reason(candidate), styles.get(choice.verdict(candidate).partition(":")[0], "dim"))
