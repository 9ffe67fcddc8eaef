"""One network to one ONNX file, with what ONNX Runtime makes of it: `python -m benchmarks.exported.export`.

In a process of its own, whose memory and modules then do not count in measurements.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch

from . import sequence, vision
from .model import Example
from .variants import VARIANTS, half

Array = npt.NDArray[Any]

MODELS: Mapping[str, Callable[[], Any]] = {**vision.MODELS, **sequence.MODELS}
EXPORTERS = ("dynamo", "torchscript")


def export(example: Example, path: Path, exporter: str, opset: int | None = None, plain: bool = False) -> None:
    """Write an ONNX file.

    Args:
        example: the network.
        path: of the file; weights are stored in it.
        exporter: "dynamo", PyTorch's own graph capture, or "torchscript", the tracer before it.
        opset: the exporter's default if None.
        plain: without the exporter's optimisations: batch normalisations stay, for one.
    """
    axes = {name: dict(found) for name, found in (example.axes or {}).items()}
    common: dict[str, Any] = {"input_names": list(example.names), "opset_version": opset, "external_data": False}
    if exporter == "dynamo":
        shapes = tuple(axes.get(name, {}) for name in example.names) if axes else None
        common |= {"dynamic_shapes": shapes, "optimize": not plain}
    else:
        kept = torch.onnx.TrainingMode.PRESERVE if plain else torch.onnx.TrainingMode.EVAL
        common |= {"dynamic_axes": axes or None, "training": kept, "do_constant_folding": not plain}
    torch.onnx.export(example.module, example.inputs, path, dynamo=exporter == "dynamo", **common)


def reference(path: Path, inputs: Sequence[Array]) -> tuple[dict[str, Array], list[Array]]:
    """The inputs by name, and what ONNX Runtime computes from them."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
    return feed, [np.asarray(output) for output in session.run(None, feed)]


def sizes(path: Path, feed: Mapping[str, Array]) -> dict[str, int]:
    """The symbolic dimensions of a model by name, as given by arrays."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        dim.dim_param: feed[info.name].shape[axis]
        for info in graph.input
        if info.name in feed
        for axis, dim in enumerate(info.type.tensor_type.shape.dim)
        if dim.dim_param
    }


def record(path: Path, inputs: Sequence[Array]) -> None:
    """Write what `check` needs beside a model: `<name>.npz` with inputs, sizes and expected outputs."""
    feed, outputs = reference(path, inputs)
    found: dict[str, Any] = {f"in:{name}": array for name, array in feed.items()}
    found |= {f"size:{name}": size for name, size in sizes(path, feed).items()}
    found |= {f"out:{k}": array for k, array in enumerate(outputs)}
    np.savez(path.with_suffix(".npz"), **found)


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo("\n".join(MODELS))
        context.exit()


@click.command()
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Print all names.")
@click.argument("name", type=click.Choice(sorted(MODELS)))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--exporter", type=click.Choice(EXPORTERS), default="dynamo")
@click.option("--opset", type=int)
@click.option("--plain", is_flag=True, help="Without the exporter's optimisations.")
@click.option("--variant", type=click.Choice(["half", *VARIANTS]))
def main(name: str, path: Path, exporter: str, opset: int | None, plain: bool, variant: str | None) -> None:
    """Write a network to PATH, and inputs and ONNX Runtime's outputs beside it."""
    warnings.simplefilter("ignore")
    example = Example(*MODELS[name]())
    if variant == "half":
        example = half(example)
    export(example, path, exporter, opset, plain)
    if rewrite := VARIANTS.get(variant or ""):
        rewrite(example, path)
    record(path, [x.numpy() for x in example.inputs])


if __name__ == "__main__":
    main()
