"""`fusewire run`: run a model once, and show or keep what comes out."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from ..ir.errors import FusewireError
from ..targets.device import device as find_device
from ..targets.timing import COLUMNS, BenchmarkResult, Profile
from .base import Command, Session
from .files import written
from .inputs import input_types, make_inputs
from .models import BUILD_STEPS, open_module, start
from .options import COUNT, MODEL, BuildOptions, InputOptions, build_options, input_options, timing_options
from .params import DeviceType, OutputType

Array = npt.NDArray[Any]


@click.command(
    cls=Command,
    examples=(
        "fusewire run resnet50.fw --inputs data=cat.png --mean 123.7,116.3,103.5 --scale 58.4,57.1,57.4 --print-top 5",
        "fusewire run resnet50.fw --inputs x.npz -o y.npz",
        "fusewire run bert.onnx --inputs ids=ids.npy --inputs mask=mask.npy -o y.npz",
        "fusewire run resnet50.fw --print-time --repeat 20 --profile",
    ),
)
@click.argument("file", type=MODEL)
@input_options
@click.option(
    "-o",
    "--outputs",
    type=OutputType(),
    metavar="FILE",
    help="Write the outputs: an .npz archive (output_0, ...), or .npy where there is one output.",
)
@click.option("--print-top", type=COUNT, metavar="N", help="Show the N largest values of each output, and where.")
@click.option("--print-time", is_flag=True, help="Show how long runs take.")
@timing_options(repeat=1, number=1)
@click.option("--profile", is_flag=True, help="Show each step's time, and how near it comes to the peak.")
@click.option(
    "--device", type=DeviceType(), metavar="KIND[:N]", help="Where to run.  [default: what it was compiled for]"
)
@build_options()
@click.pass_obj
@click.pass_context
def run_command(
    ctx: click.Context,
    session: Session,
    file: Path,
    feed: InputOptions,
    outputs: Path | None,
    print_top: int | None,
    print_time: bool,
    repeat: int,
    number: int,
    profile: bool,
    device: tuple[str, int] | None,
    build: BuildOptions,
) -> None:
    """Run a model once.

    FILE is what `fusewire compile` wrote (.fw), or an ONNX model, which is then compiled first. Inputs that no file
    gives are made up; see --fill-mode. Without other options, what came out is summed up.

    --repeat and --number imply --print-time.
    """
    chosen = find_device(*device) if device else None
    with session.progress(BUILD_STEPS + 2) as step:
        library = open_module(file, build, step, ctx)
        module = start(library, chosen or find_device(library.target), step)
        inputs = make_inputs(input_types(library), feed)
        step("run")
        module.run(**inputs)
    results = [module.get_output(k).numpy() for k in range(module.get_num_outputs())]
    if outputs:
        save_outputs(outputs, results)
    if print_top:
        _show_top(session, results, print_top)
    timed = print_time or any(
        ctx.get_parameter_source(n) != click.core.ParameterSource.DEFAULT for n in ("repeat", "number")
    )
    if not (outputs or print_top or timed or profile):
        _show_summary(session, results)
    if timed:
        _show_time(session, module.benchmark(repeat=repeat, number=number), number)
    if profile:
        show_profile(session, module.profile())


def save_outputs(path: Path, results: Sequence[Array]) -> None:
    """Write outputs to an .npz archive, or the only one to an .npy file.

    NumPy's files know no bfloat16: such outputs are written as float32, exactly.

    Raises:
        FusewireError: the file cannot be written, or it is an .npy file and there are several outputs.
    """
    plain = [r.astype(np.float32) if r.dtype.name == "bfloat16" else r for r in results]
    content = io.BytesIO()
    if path.suffix == ".npy":
        if len(plain) != 1:
            raise FusewireError(f"{path} can hold one array; there are {len(plain)} outputs: write an .npz file")
        np.save(content, plain[0])
    else:
        np.savez(content, **{f"output_{k}": array for k, array in enumerate(plain)})  # type: ignore[arg-type]
    with written(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _show_summary(session: Session, results: Sequence[Array]) -> None:
    rows = []
    for k, array in enumerate(results):
        wide = array.astype(np.float64)
        numbers = [f"{f(wide):.6g}" for f in (np.min, np.mean, np.max)] if array.size else ["-"] * 3
        rows.append([f"output_{k}", array.dtype.name, _shape(array), *numbers])
    session.table(["output", "dtype", "shape", "min", "mean", "max"], rows)


def _shape(array: Array) -> str:
    return "(" + ", ".join(map(str, array.shape)) + ")"


def _show_top(session: Session, results: Sequence[Array], count: int) -> None:
    rows = []
    for k, array in enumerate(results):
        for place, value in top(array, count):
            rows.append([f"output_{k}", "[" + ", ".join(map(str, place)) + "]", str(value)])
    session.table(["output", "index", "value"], rows)


def top(array: Array, count: int) -> list[tuple[tuple[int, ...], Any]]:
    """The indices and values of the largest elements, the largest first; NaN comes last, equals by their place."""
    flat = array.reshape(-1)
    keys = flat.astype(np.float64) if flat.dtype.kind not in "iu" else flat
    backwards = np.flatnonzero(keys == keys)[::-1]
    ranked = backwards[np.argsort(keys[backwards], kind="stable")][::-1]
    order = np.concatenate([ranked, np.flatnonzero(keys != keys)])[:count]
    return [(tuple(int(i) for i in np.unravel_index(k, array.shape)), flat[k]) for k in order]


def _show_time(session: Session, result: BenchmarkResult, number: int) -> None:
    names = ("mean", "median", "min", "max", "std")
    cells = [f"{getattr(result, name) * 1e3:.4f}" for name in names]
    session.table(
        [*(f"{name} (ms)" for name in names), "repeat", "number"], [[*cells, str(len(result.results)), str(number)]]
    )


def show_profile(session: Session, profile: Profile) -> None:
    """The table of a profile, and what has to be known to read it."""
    session.table(COLUMNS, [s.cells() for s in profile.steps])
    for note in profile.notes():
        session.line(note)
