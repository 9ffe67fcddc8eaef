"""Options that several commands have."""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from attrs import fields, frozen

from ..ir.errors import TargetError
from ..targets.target import Target
from .params import ConfigType, InputType, NamesType, NumbersType, ShapesType, SizeType, TargetType, pass_names

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

OPT_LEVEL = 3
"""The default of --opt-level, as tvmc's: unlike `PassContext`, whose default is 2, also fold scales into weights."""


@frozen
class BuildOptions:
    """How a model becomes a compiled module.

    Attributes:
        target: where it runs.
        input_shapes: shapes of inputs by name, for those that the model leaves open.
        opt_level, disabled_pass, pass_config: what `PassContext` takes.
        desired_layout: the layout of 2-D convolutions, if it is to be changed.
        records: the file of tuning records; None: the user's own.
        locked: whether every decision must stand in `records`, or in fusewire.lock.
    """

    target: Target
    input_shapes: Mapping[str, tuple[int, ...]]
    opt_level: int
    disabled_pass: tuple[str, ...]
    pass_config: Mapping[str, Any]
    desired_layout: str | None
    records: Path | None
    locked: bool


@frozen
class InputOptions:
    """Where inputs come from.

    Attributes:
        inputs: files, as given: FILE or NAME=FILE.
        fill_mode: what inputs are that no file gives: random, zeros or ones.
        seed: of the random numbers.
        image_size: pictures get this height and width before the middle is cut out; None: what the input has.
        mean, scale: a picture's values become (value - mean) / scale.
        image_layout: NCHW, NHWC, CHW or HWC; None: by the shape of the input.
    """

    inputs: tuple[str, ...]
    fill_mode: str
    seed: int
    image_size: tuple[int, int] | None
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    image_layout: str | None


MODEL = click.Path(exists=True, dir_okay=False, path_type=Path)
COUNT = click.IntRange(min=1, max=1_000_000)
CORES = click.IntRange(min=1, max=4096)


class _Finite(click.FloatRange):
    """A range of numbers that ends before infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error where it is none of the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}", param, ctx)
        return number


TOLERANCE = _Finite(min=0)


def model_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument MODEL."""
    return click.argument("model", type=MODEL)(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flag --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")(function)


def targets_option(text: str) -> Decorator:
    """The option --targets, whose values a `TargetsCommand` takes one by one or in a row."""
    return click.option(
        "-t", "--targets", type=TargetType(), multiple=True, required=True, metavar="TARGET...", help=text
    )


def cores_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --num-cores."""
    return click.option(
        "--num-cores", type=CORES, metavar="N", help="Threads to use; as -num-cores=N in the target, and before that."
    )(function)


def timing_options(repeat: int, number: int) -> Decorator:
    """The options --repeat and --number, with their defaults."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(
            "--number", type=COUNT, default=number, show_default=True, metavar="N", help="Runs for each time taken."
        )(function)
        return click.option(
            "--repeat", type=COUNT, default=repeat, show_default=True, metavar="N", help="How many times to take."
        )(function)

    return decorate


def build_options(target: bool = True) -> Decorator:
    """The options of `BuildOptions`, handed on as the argument `build`.

    Args:
        target: whether --target and --num-cores are among them; without, the command puts the target in itself.
    """
    options: list[Any] = [
        click.option(
            "--input-shapes", type=ShapesType(), default={}, metavar="SHAPES",
            help='Sizes that the model leaves open: "data:[1,3,224,224] ids:[1,8]".',
        ),
        click.option(
            "-O", "--opt-level", type=click.IntRange(min=0, max=100), default=OPT_LEVEL, show_default=True,
            metavar="N", help="Passes of a higher level are skipped.",
        ),
        click.option(
            "--disabled-pass", type=NamesType("passes", pass_names), default=(), metavar="PASS,PASS",
            help="Passes to leave out.",
        ),
        click.option(
            "--pass-config", type=ConfigType(), multiple=True, metavar="KEY=VALUE",
            help="An option of a pass; may be repeated.",
        ),
        click.option(
            "--desired-layout", type=click.Choice(["NCHW", "NHWC"]), help="Layout that 2-D convolutions are to have.",
        ),
        click.option(
            "--records", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
            help="Records of `fusewire tune`.  [default: your own]",
        ),
        click.option(
            "--locked", is_flag=True,
            help="Take every decision from --records, or from fusewire.lock; it is an error if one is missing.",
        ),
    ]  # fmt: skip
    if target:
        options.insert(0, target_option)
        options.insert(1, cores_option)
    names = {field.name for field in fields(BuildOptions)} | {"num_cores"}
    return _packed("build", names if target else names - {"target", "num_cores"}, options, _read_build)


def target_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --target."""
    return click.option(
        "-t", "--target", type=TargetType(), default="cpu", show_default=True, metavar="TARGET",
        help='Where it runs, and with which libraries: cpu, "cpu -libs=onednn", ...',
    )(function)  # fmt: skip


def _read_build(given: dict[str, Any]) -> BuildOptions:
    given["target"] = with_cores(given.get("target") or Target("cpu"), given.pop("num_cores", None))
    given["pass_config"] = dict(given["pass_config"])
    return BuildOptions(**given)


def with_cores(target: Target, cores: int | None) -> Target:
    """A target with another number of threads; a usage error where its kind has no such thing."""
    if cores is None:
        return target
    try:
        return Target({**target.to_dict(), "num-cores": cores})
    except TargetError:
        what = f"a target of kind {target.kind} has no number of cores"
        raise click.BadParameter(what, param_hint="'--num-cores'") from None


def input_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `InputOptions`, handed on as the argument `feed`."""
    options = [
        click.option(
            "-i", "--inputs", type=InputType(), multiple=True, metavar="[NAME=]FILE",
            help="An .npz archive, or an .npy array or a picture for one input; may be repeated.",
        ),
        click.option(
            "--fill-mode", type=click.Choice(["random", "zeros", "ones"]), default="random", show_default=True,
            help="What inputs hold that no file gives.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of random inputs."
        ),
        click.option(
            "--image-size", type=SizeType(), metavar="HxW",
            help="Pictures get this size, of which the input is the middle.  [default: the input's]",
        ),
        click.option(
            "--mean", type=NumbersType(), default=(0.0,), metavar="R,G,B",
            help="Pictures: (value - mean) / scale, with values 0 to 255.  [default: 0]",
        ),
        click.option(
            "--scale", type=NumbersType(), default=(1.0,), metavar="R,G,B", help="Pictures: see --mean.  [default: 1]"
        ),
        click.option(
            "--image-layout", type=click.Choice(["NCHW", "NHWC", "CHW", "HWC"]),
            help="Where channels lie; by default seen from the shape of the input.",
        ),
    ]  # fmt: skip
    names = {field.name for field in fields(InputOptions)}
    return _packed("feed", names, options, _read_inputs)(function)


def _read_inputs(given: dict[str, Any]) -> InputOptions:
    if 0.0 in given["scale"]:
        raise click.BadParameter("pictures are divided by it, so it must not be 0", param_hint="'--scale'")
    return InputOptions(**given)


def _packed(name: str, names: set[str], options: list[Any], read: Callable[[dict[str, Any]], Any]) -> Decorator:
    """Options whose values (called `names`) the command gets as one object, which `read` makes, under `name`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def packed(*args: Any, **kwargs: Any) -> Any:
            given = {key: kwargs.pop(key) for key in names & kwargs.keys()}
            return function(*args, **kwargs, **{name: read(given)})

        for option in reversed(options):
            packed = option(packed)
        return packed

    return decorate
