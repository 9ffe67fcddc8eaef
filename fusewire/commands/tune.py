"""`fusewire tune`: search for the fastest kernels of a model on this machine."""

from pathlib import Path
from typing import Any

import click
from attrs import asdict

from .. import __version__
from ..targets.tuning.store import LEVELS, TuningStore, default_path, open_store
from ..targets.tuning.tune import TuneResult, tune
from .base import Command, Session, shown
from .models import pass_context, read_model, with_layout
from .options import BuildOptions, build_options, json_option, model_argument


@click.command(
    cls=Command,
    examples=(
        "fusewire tune resnet50.onnx",
        "fusewire tune resnet50.onnx --level fast --num-cores 4 --records resnet50.jsonl",
        "fusewire compile resnet50.onnx -o resnet50.fw --records resnet50.jsonl",
    ),
)
@model_argument
@build_options()
@click.option(
    "--level", type=click.Choice(LEVELS), default="normal", show_default=True,
    help="How hard to search; heavy tries every candidate.",
)  # fmt: skip
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    metavar="N",
    help="Candidates beside the first guess for each group at most.  [default: by level]",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), metavar="S", help="How long to search at most.  [default: by level]"
)
@json_option
@click.pass_obj
def tune_command(
    session: Session,
    model: Path,
    build: BuildOptions,
    level: str,
    trials: int | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Search for the fastest kernels of a model on this machine.

    MODEL is an ONNX model. Every candidate is compared with plain loops before it is timed. What is found goes to the
    file of --records, or to your own records, and later builds for the same target use it. Stop it whenever you like:
    nothing that was measured is lost, and the next search goes on from there.
    """
    records = build.records or default_path()
    if build.locked:
        raise click.UsageError("--locked is for builds: a search does not follow a lock file")
    if records is None:
        raise click.UsageError("FUSEWIRE_TUNING is empty, so that nothing would be kept: give --records FILE")
    mod, params = read_model(model, build.input_shapes)
    with session.bar() as advance, pass_context(build):
        store = open_store(records)
        try:
            result = tune(
                with_layout(mod, build), build.target, params,
                level=level, trials=trials, seconds=seconds, records=store, progress=advance,
            )  # fmt: skip
        except KeyboardInterrupt:
            session.note(_kept(store, records))
            raise
    if as_json:
        session.json(_report(model, result, level, records))
        return
    rows = [group.row() for group in result.groups]
    session.table(["group", "steps", "tried", "before (us)", "after (us)", "chosen"], rows)
    session.line(f"{model}, target '{shown(result.lib.target)}', {result.lib.threads} threads")
    session.line(f"{result.before * 1e3:.3f} ms before, {result.after * 1e3:.3f} ms after; {result.seconds:.1f} s")
    if verdict := result.verdict():
        session.line(verdict)
    session.line(f"records: {records}" if records.exists() else "nothing was recorded")


def _kept(store: TuningStore, records: Path) -> str:
    """What a search that was stopped leaves behind, and how it goes on."""
    if not store.measured:
        return f"Stopped before anything was measured: nothing was added to {records}."
    return (
        f"Stopped. Kept in {records}: {store.measured} measurements and the decisions for {store.decided} groups, "
        "which builds use from now on. The same command goes on with the groups that are left."
    )


def _report(model: Path, result: TuneResult, level: str, records: Path) -> dict[str, Any]:
    groups = [
        {
            "work": group.key.work,
            "steps": list(group.steps),
            "tried": [asdict(timing) for timing in group.outcome.timings] if group.outcome else [],
            "chosen": asdict(group.outcome.best) if group.outcome else None,
            "withdrawn": group.withdrawn,
        }
        for group in result.groups
    ]
    return {
        "model": str(model),
        "target": str(result.lib.target),
        "threads": result.lib.threads,
        "level": level,
        "before_ms": result.before * 1e3,
        "after_ms": result.after * 1e3,
        "withdrawn": result.withdrawn,
        "seconds": result.seconds,
        "records": str(records),
        "groups": groups,
        "fusewire": __version__,
    }
