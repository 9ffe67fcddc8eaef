"""Operators that ONNX defines by other operators: their bodies, fitted to a node."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import defs, helper

from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ir.types import TensorType
from .dtypes import code_of
from .values import Sequence as SequenceValue
from .values import Value


def schema_of(domain: str, name: str, opset: int) -> Any:
    """The schema of an operator in an opset, or None if it has none."""
    try:
        return defs.get_schema(name, opset, domain)
    except defs.SchemaError:
        return None


def has_body(domain: str, name: str, opset: int) -> bool:
    """Whether ONNX defines the operator by other ones."""
    schema = schema_of(domain, name, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def body_of(
    proto: onnx.NodeProto, opset: int, inputs: Sequence[Value], given: Mapping[str, onnx.AttributeProto]
) -> onnx.FunctionProto | None:
    """The body that ONNX gives for a node with these inputs, or None."""
    schema = schema_of(proto.domain, proto.op_type, opset)
    if schema is None:
        return None
    body = onnx.FunctionProto()
    if versions := sorted(schema.function_opset_versions):
        body.ParseFromString(schema.get_function_with_opset_version(fitting(versions, opset)))
        return body
    if versions := sorted(schema.context_dependent_function_opset_versions):
        plain = onnx.NodeProto()
        plain.CopyFrom(proto)
        del plain.attribute[:]
        plain.attribute.extend(given.values())
        types = [type_proto(value) for value in inputs]
        try:
            text = schema.get_context_dependent_function_with_opset_version(
                fitting(versions, opset), plain.SerializeToString(), [t.SerializeToString() for t in types]
            )
        except Exception as error:  # C++ code that raises many kinds
            raise FusewireError(f"onnx cannot expand {proto.op_type} {proto.name!r}: {error}") from None
        body.ParseFromString(text)
        return body if body.node else None
    return None


def fitting(versions: Sequence[int], opset: int) -> int:
    """The newest version that is not newer than the model's, else the oldest."""
    older = [v for v in versions if v <= opset]
    return older[-1] if older else versions[0]


def with_defaults(
    proto: onnx.NodeProto, opset: int, given: Mapping[str, onnx.AttributeProto], body: onnx.FunctionProto
) -> dict[str, onnx.AttributeProto]:
    """The attributes that a body sees: those of the node, and defaults."""
    found = {entry.name: entry for entry in body.attribute_proto}
    schema = schema_of(proto.domain, proto.op_type, opset)
    for name, declared in (schema.attributes if schema else {}).items():
        if declared.default_value.type != onnx.AttributeProto.UNDEFINED:
            found[name] = declared.default_value
    return {**found, **given}


def type_proto(value: Value) -> onnx.TypeProto:
    """The ONNX type of a value."""
    if isinstance(value, SequenceValue) and value.items:
        return helper.make_sequence_type_proto(type_proto(value.items[0]))
    if isinstance(value, Expr) and isinstance(type_ := value.checked_type, TensorType):
        shape = [d if isinstance(d, int) else str(d) for d in type_.shape]
        return helper.make_tensor_type_proto(code_of(type_.dtype), shape)
    return onnx.TypeProto()
