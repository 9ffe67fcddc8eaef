"""From a file to a compiled module."""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt
from attrs import define

from ..frontend import from_onnx
from ..fuse.infra import PassContext, Sequential
from ..fuse.instrument import PassInfo, PassInstrument
from ..fuse.pipeline import pipeline
from ..fuse.transform import ConvertLayout
from ..ir.errors import FusewireError, RuntimeInputError
from ..ir.module import IRModule
from ..ir.types import TensorType
from ..targets.artifact.read import load
from ..targets.build import build
from ..targets.compiled import CompiledModule
from ..targets.device import Device
from ..targets.executor import GraphModule
from .base import interrupts_held
from .options import BuildOptions

Params = dict[str, npt.NDArray[Any]]
Step = Callable[[str], None]

SUFFIX = ".fw"
"""Of compiled modules."""

PASSES = len(pipeline().passes)
BUILD_STEPS = PASSES + 3
"""Steps of the progress bar from a file to a compiled module: reading, the passes, FuseOps, generating code."""


@define(eq=False)
class _Watch(PassInstrument):
    """Moves the progress bar on with every pass."""

    step: Step

    def run_before_pass(self, mod: IRModule, info: PassInfo) -> None:
        if info.name not in ("pipeline", "sequential", "ConvertLayout", "FuseStages"):
            self.step(info.name)

    def run_after_pass(self, mod: IRModule, info: PassInfo) -> None:
        if info.name == "FuseOps":
            self.step("generate code")


def is_compiled(path: Path) -> bool:
    """Whether a file is a compiled module (by its suffix, or as it begins), and not a model."""
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def read_model(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[IRModule, Params]:
    """Read an ONNX model whose sizes are all known, in itself or from `shapes`.

    Raises:
        FusewireError: it is no model, or sizes are missing.
        click.BadParameter: `shapes` names something that is no input.
    """
    if is_compiled(path):
        raise FusewireError(f"{path} is compiled already; this needs the ONNX model")
    with interrupts_held(), contextlib.suppress(ImportError):  # what is missing, from_onnx says
        importlib.import_module("onnx")
    try:
        mod, params = from_onnx(path, dict(shapes))
    except RuntimeInputError as error:
        raise click.BadParameter(str(error), param_hint="'--input-shapes'") from error
    except FusewireError as error:
        raise FusewireError(f"{path}: {error}") from error
    inputs = {p.name_hint: p.checked_type for p in mod["main"].params if p.name_hint not in params}
    if open_ := {n: t for n, t in inputs.items() if isinstance(t, TensorType) and not t.is_static}:
        shown = ", ".join(f"{name}: {type_}" for name, type_ in open_.items())
        example = " ".join(f"{name}:[{','.join(map(str, type_.shape))}]" for name, type_ in open_.items())
        raise FusewireError(
            f'the model leaves sizes open: {shown}. Give them as --input-shapes "{example}", with numbers in place of '
            f"the names"
        )
    return mod, params


def build_model(
    mod: IRModule, params: Params, options: BuildOptions, step: Step, name: str = "default"
) -> CompiledModule:
    """Compile a model that `read_model` read.

    Raises:
        FusewireError: see `build`.
    """
    with pass_context(options, _Watch(step)):
        return build(
            with_layout(mod, options), options.target, params,
            mod_name=name, records=options.records, locked=options.locked,
        )  # fmt: skip


def pass_context(options: BuildOptions, *instruments: PassInstrument) -> PassContext:
    """How the passes run."""
    level, disabled, config = options.opt_level, options.disabled_pass, options.pass_config
    return PassContext(level, disabled_pass=disabled, config=config, instruments=instruments)


def with_layout(mod: IRModule, options: BuildOptions) -> IRModule:
    """The module with its 2-D convolutions in the layout that was asked for."""
    if not options.desired_layout:
        return mod
    return Sequential([ConvertLayout({"nn.conv2d": [options.desired_layout, "default"]})])(mod)


def open_module(path: Path, options: BuildOptions, step: Step, ctx: click.Context) -> CompiledModule:
    """The compiled module in a file, or one compiled from the ONNX model in it.

    Raises:
        FusewireError: the file is neither.
        click.UsageError: options for compiling were given for a module that is compiled already.
    """
    if not is_compiled(path):
        step(f"read {path.name}")
        return build_model(*read_model(path, options.input_shapes), options, step)
    given = [p for p in ctx.command.params if isinstance(p, click.Option) and _is_given(ctx, p)]
    if given:
        raise click.UsageError(f"{given[0].opts[-1]} is for ONNX models; {path} is compiled already", ctx)
    step(f"load {path.name}")
    return load(path)


_BUILD_NAMES = {
    "target", "num_cores", "input_shapes", "opt_level", "disabled_pass", "pass_config", "desired_layout",
    "records", "locked",
}  # fmt: skip


def _is_given(ctx: click.Context, param: click.Parameter) -> bool:
    source = ctx.get_parameter_source(param.name or "")
    return param.name in _BUILD_NAMES and source is not click.core.ParameterSource.DEFAULT


def start(library: CompiledModule, device: Device, step: Step) -> GraphModule:
    """A module that is ready to run: code compiled by the C compiler, memory allocated."""
    step("compile")
    return GraphModule(library[library.name](device))
