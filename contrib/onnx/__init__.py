"""ONNX models: `from_onnx` reads them; `import_model` also tells how outputs are made up.

The operators are declared by family: `elementwise`, `reduction`, `shape`, `indexing`, `linear`, `window`,
`normalize`, `deform`, `optimizer`, `resize`, `quantize`, `recurrent`, `control`, `host`, and `microsoft` for those of
ONNX Runtime.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.module import IRModule
from . import (
    control,
    deform,
    elementwise,
    host,
    indexing,
    linear,
    microsoft,
    normalize,
    optimizer,
    quantize,
    recurrent,
    reduction,
    resize,
    shape,
    window,
)
from .importer import Imported, Options, check_model, check_operators, import_model
from .model import ModelLike, UnknownOperatorError, folder, load
from .values import Array, DynamicValueError, bound

FAMILIES = (
    control, deform, elementwise, host, indexing, linear, microsoft, normalize, optimizer, quantize, recurrent,
    reduction, resize, shape, window,
)  # fmt: skip
"""The modules that declare translations."""


def from_onnx(
    model: ModelLike,
    shape: Mapping[str, int | Sequence[int]] | None = None,
    dtype: str | Mapping[str, str] | None = None,
    opset: int | None = None,
    *,
    constants: Mapping[str, Any] | None = None,
) -> tuple[IRModule, dict[str, Array]]:
    """Read an ONNX model; see `fusewire.frontend.from_onnx`."""
    options = Options(bound(shape), dtype, opset, bound(constants), base=folder(model))
    try:
        loaded = load(model, external=False, opset=opset)
    except UnknownOperatorError as error:
        check_operators(error.model, opset)  # raises one error for all of them
        raise
    imported = import_model(loaded, options)
    return IRModule.from_expr(imported.function), imported.params


__all__ = ["DynamicValueError", "FAMILIES", "Imported", "Options", "check_model", "from_onnx", "import_model", "load"]
