"""Models as they come: from a file, from bytes, or made by the onnx package; loaded and checked."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, Union

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from ...ir.errors import FusewireError

ModelLike: TypeAlias = Union[onnx.ModelProto, str, "os.PathLike[str]", bytes]
"""A model, the path of a file, or the content of a file."""


def load(model: ModelLike, external: bool = True, opset: int | None = None) -> onnx.ModelProto:
    """Load a model and check it.

    Args:
        model: the model.
        external: whether to read all external data, too, from the folder of the model's file. Otherwise that of the
            graph's initialisers stays in its files, for a reader that knows `folder`.
        opset: check it as a model of this opset, instead of the one that it names.

    Raises:
        FusewireError: the file is missing, or it is not a valid ONNX model.
    """
    if not isinstance(model, onnx.ModelProto | str | bytes | os.PathLike):
        raise FusewireError(f"expected an ONNX model, a path or bytes, got a {type(model).__name__}")
    try:
        if isinstance(model, bytes):
            model = onnx.load_model_from_string(model)
        elif not isinstance(model, onnx.ModelProto):
            base, model = folder(model), onnx.load_model(Path(model), load_external_data=external)
            _complete(model, base)
    except OSError as error:
        raise FusewireError(f"cannot read the ONNX model: {error}") from None
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise FusewireError(f"not an ONNX model: {error}") from None
    _check(model, opset)
    return model


class UnknownOperatorError(FusewireError):
    """The onnx package does not know an operator; it names the first one only, so the model goes with it."""

    def __init__(self, message: str, model: onnx.ModelProto) -> None:
        super().__init__(message)
        self.model = model


def folder(model: ModelLike) -> str:
    """Where the external data of a model lies: the folder of its file; the current one for a model without a file."""
    return str(Path(model).parent) if isinstance(model, str | os.PathLike) else os.curdir


def _complete(model: onnx.ModelProto, base: str) -> None:
    """Read external data of tensors in nodes."""
    waiting: list[Any] = [*model.graph.node, *model.functions]
    while waiting:
        message = waiting.pop()
        if not isinstance(message, onnx.TensorProto):
            for descriptor, value in message.ListFields():
                if descriptor.type == descriptor.TYPE_MESSAGE:
                    waiting.extend([value] if hasattr(value, "ListFields") else value)
        elif uses_external_data(message):
            load_external_data_for_tensor(message, base)
            message.data_location = onnx.TensorProto.DEFAULT
            del message.external_data[:]


def _check(model: onnx.ModelProto, opset: int | None) -> None:
    if not model.HasField("graph"):
        raise FusewireError("not an ONNX model: it has no graph")
    try:
        light = _without_weights(model)
        _check_texts(light)
        if opset is not None:
            opsets(model, opset)
            kept = [entry for entry in model.opset_import if plain_domain(entry.domain)]
            del light.opset_import[:]
            light.opset_import.extend([onnx.helper.make_opsetid("", opset), *kept])
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as error:
        if str(error).startswith("No Op registered"):
            raise UnknownOperatorError(f"the ONNX model is malformed: {error}", model) from None
        raise FusewireError(f"the ONNX model is malformed: {error}") from None
    except (ValueError, RuntimeError, TypeError) as error:
        raise FusewireError(f"the ONNX model is malformed: {error}") from None


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose initialisers are empty: the checker works on a serialised model, which protobuf limits to 2 GiB.

    Inputs and outputs need not tell their shapes.

    Whether the contents of an initialiser fit its type is found when it is read.
    """
    light = onnx.ModelProto()
    _copy(model, light, "graph")
    _copy(model.graph, light.graph, "initializer")
    for tensor in model.graph.initializer:
        light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=[0])
    for info in (*light.graph.input, *light.graph.output):
        if info.type.HasField("tensor_type"):  # a caller may give what the checker misses: the shape
            info.type.tensor_type.shape.SetInParent()
    return light


def _check_texts(model: onnx.ModelProto) -> None:
    """Refuse text that is not UTF-8: protobuf gives it out as bytes, or raises, when it is asked for it."""
    waiting: list[Any] = [model]
    while waiting:
        for descriptor, value in waiting.pop().ListFields():
            repeated = isinstance(value, Sequence) and not isinstance(value, str | bytes)
            if descriptor.type == descriptor.TYPE_MESSAGE:
                waiting.extend(value if repeated else [value])
            elif descriptor.type == descriptor.TYPE_STRING:
                for text in value if repeated else [value]:
                    if isinstance(text, bytes):
                        raise FusewireError(
                            f"the ONNX model is malformed: {descriptor.name} {text[:100]!r} is not UTF-8"
                        )


def _copy(source: Any, target: Any, left_out: str) -> None:
    """Copy all fields of a message but one."""
    for descriptor, value in source.ListFields():
        if descriptor.name == left_out:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, descriptor.name).MergeFrom(value)
        else:
            setattr(target, descriptor.name, value)


def opsets(model: onnx.ModelProto, opset: int | None) -> dict[str, int]:
    """The version of every domain that a model uses; `opset` replaces that of the default domain.

    Raises:
        FusewireError: the one for the default domain is newer than the onnx package, or no opset at all.
    """
    found = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    if opset is not None:
        if not isinstance(opset, int):
            raise FusewireError(f"opset must be a whole number, got {opset!r}")
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
