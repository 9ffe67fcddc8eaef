"""Models of other projects, read as fusewire modules."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from .ir.errors import FusewireError
from .ir.module import IRModule

if TYPE_CHECKING:
    from .contrib.onnx.model import ModelLike

__all__ = ["from_onnx"]


def from_onnx(
    model: "ModelLike",
    shape: Mapping[str, int | Sequence[int]] | None = None,
    dtype: str | Mapping[str, str] | None = None,
    opset: int | None = None,
    *,
    constants: Mapping[str, Any] | None = None,
) -> tuple[IRModule, dict[str, npt.NDArray[Any]]]:
    """Read an ONNX model.

        mod, params = fw.frontend.from_onnx("model.onnx", shape={"batch": 1})
        lib = fw.build(mod, target="cpu", params=params)

    Inputs keep their names. Floating initialisers become parameters of their name, after the inputs; what follows
    from constants alone, such as the target shapes of reshapes, is computed here.

    Args:
        model: an `onnx.ModelProto`, the path of a file (external data is read from its folder), or a file's bytes.
        shape: shapes of inputs by name, or sizes of symbolic dimensions by name. Others stay symbolic.
        dtype: the dtype in which inputs arrive, one for all or by name; they are converted to what the model wants.
        opset: read the model as one of this opset instead of the one that it names.
        constants: values of inputs by name, which then are no inputs any more: an input that decides a shape, say.

    Returns:
        The module, and the values of its parameters by name.

    Raises:
        FusewireError: the onnx package is missing; the model is malformed; or operators are not supported, in which
            case one message lists all of them. `DynamicValueError` (contrib.onnx), a subclass, says that something
            must be known now that depends on inputs.
    """
    found: tuple[IRModule, dict[str, npt.NDArray[Any]]] = _importer().from_onnx(
        model, shape, dtype, opset, constants=constants
    )
    return found


def _importer() -> Any:
    """The importer, which needs the onnx package."""
    try:
        return importlib.import_module(".contrib.onnx", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("onnx", "google"):
            raise
        raise FusewireError("ONNX models need the onnx package: pip install 'fusewire[onnx]'") from None
