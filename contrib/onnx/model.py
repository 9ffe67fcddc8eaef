"""Models as they come: from a file, from bytes, or made by the onnx package; loaded and checked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, Union

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ...ir.errors import FusewireError

ModelLike: TypeAlias = Union[onnx.ModelProto, str, "os.PathLike[str]", bytes]
"""A model, the path of a file, or the content of a file."""

LARGEST = 2**31 - 1
"""Bytes that protobuf can write, beyond which only a file on disk can be checked."""


def load(model: ModelLike) -> onnx.ModelProto:
    """Load a model (external data from the folder of its file) and check it.

    Raises:
        FusewireError: the file is missing, or it is not a valid ONNX model.
    """
    if not isinstance(model, onnx.ModelProto | str | bytes | os.PathLike):
        raise FusewireError(f"expected an ONNX model, a path or bytes, got a {type(model).__name__}")
    try:
        if isinstance(model, bytes):
            model = onnx.load_model_from_string(model)
        elif not isinstance(model, onnx.ModelProto):
            model = onnx.load_model(Path(model))
    except OSError as error:
        raise FusewireError(f"cannot read the ONNX model: {error}") from None
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise FusewireError(f"not an ONNX model: {error}") from None
    _check(model)
    return model


def _check(model: onnx.ModelProto) -> None:
    if not model.HasField("graph"):
        raise FusewireError("not an ONNX model: it has no graph")
    if model.ByteSize() > LARGEST:
        return
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError) as error:
        raise FusewireError(f"the ONNX model is malformed: {error}") from None


def opsets(model: onnx.ModelProto, opset: int | None) -> dict[str, int]:
    """The version of every domain that a model uses; `opset` replaces that of the default domain.

    Raises:
        FusewireError: there is none for the default domain, or it is older than 7 or newer than the onnx package.
    """
    found = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    if opset is not None:
        found[""] = opset
    newest = onnx.defs.onnx_opset_version()
    version = found.setdefault("", 1 if model.ir_version < 3 else newest)
    if not 1 <= version <= newest:
        raise FusewireError(f"the model uses opset {version}; this version of the onnx package knows 1 to {newest}")
    return found


def plain_domain(domain: str) -> str:
    """A domain, with "" for the default one under its long name."""
    return "" if domain == "ai.onnx" else domain


def per_name(value: Any, name: str) -> Any:
    """What a `dtype=` or `shape=` argument says of an input: a mapping by name, or one value for all."""
    return value.get(name) if isinstance(value, Mapping) else value
