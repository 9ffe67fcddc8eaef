"""`fusewire compile`: from an ONNX model to a file that `fusewire run` and `fw.load` take."""

from pathlib import Path

import click

from ..ir.errors import FusewireError
from ..targets.compiled import CompiledModule
from .base import Command, Session, shown
from .files import why_not_writable, written
from .models import BUILD_STEPS, SUFFIX, build_model, read_model
from .options import BuildOptions, build_options, model_argument
from .params import NamesType, OutputType

DUMPS = ("c", "loops", "relay")


@click.command(
    cls=Command,
    examples=(
        "fusewire compile resnet50.onnx -o resnet50.fw",
        'fusewire compile resnet50.onnx --target "cpu -libs=onednn" -o resnet50.fw',
        'fusewire compile bert.onnx --input-shapes "ids:[1,128] mask:[1,128]" -o bert.fw',
        "fusewire compile resnet50.onnx --dump-code c,relay --export-c resnet50_c",
    ),
)
@model_argument
@click.option(
    "-o", "--output", type=OutputType(), metavar="FILE", help="The file to write.  [default: the model's name with .fw]"
)
@build_options()
@click.option(
    "--dump-code",
    type=NamesType("kinds", lambda: DUMPS),
    default=(),
    metavar="c,loops,relay",
    help="Also write generated C, loops or the graph before fusion, beside the output.",
)
@click.option(
    "--export-c",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write the module as plain C that needs no Python; alone, without -o, instead of a file.",
)
@click.option("--overwrite", is_flag=True, help="Let --export-c write into a folder that holds other things.")
@click.option(
    "--module-name",
    default="default",
    show_default=True,
    metavar="NAME",
    help="What generated functions are called by.",
)
@click.pass_obj
def compile_command(
    session: Session,
    model: Path,
    output: Path | None,
    build: BuildOptions,
    dump_code: tuple[str, ...],
    export_c: Path | None,
    overwrite: bool,
    module_name: str,
) -> None:
    """Compile an ONNX model for a target.

    MODEL is an ONNX file. The result is one file with code and weights, for `fusewire run` and for `fw.load` in Python.
    Nothing is written if anything fails.
    """
    beside = output or Path(model.name).with_suffix(SUFFIX)
    file = output if output or export_c else beside
    _check(model, [file] if file else [], [_dump_path(beside, kind) for kind in dump_code])
    with session.progress(BUILD_STEPS + 1) as step:
        step(f"read {model.name}")
        library = build_model(*read_model(model, build.input_shapes), build, step, module_name)
        texts = {_dump_path(beside, kind): _dump(library, kind) for kind in dump_code}
        step("write")
        if export_c:
            _export(library, export_c, overwrite)
        if file:
            with written(file) as temporary:
                library.save(temporary)
        for path, text in texts.items():
            with written(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    made = [path for path in (file, *texts, export_c) if path]
    session.line(f"{shown(library.target)}: wrote {', '.join(map(str, made))}")


def _dump_path(output: Path, kind: str) -> Path:
    """OUT.c beside OUT.fw."""
    name = output.name.removesuffix(SUFFIX)
    return output.with_name(f"{name}.{kind}")


def _check(model: Path, outputs: list[Path], dumps: list[Path]) -> None:
    """Usage errors that would otherwise show up after a long compilation."""
    for path in (*outputs, *dumps):
        if reason := why_not_writable(path):
            raise click.BadParameter(reason, param_hint="'--output'")
        if path.exists() and path.samefile(model):
            raise click.BadParameter(f"{path} is the model itself", param_hint="'--output'")


def _export(library: CompiledModule, folder: Path, overwrite: bool) -> None:
    try:
        library.export_c(folder, overwrite)
    except FusewireError as error:
        raise FusewireError(str(error).replace("overwrite=True", "--overwrite")) from error


def _dump(library: CompiledModule, kind: str) -> str:
    return library.ir_mod.astext(show_meta_data=False) if kind == "relay" else library.get_source(kind=kind)
