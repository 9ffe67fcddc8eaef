"""What ONNX says of an operator: how many inputs, of which kinds and element types, and the attributes it must have.

The onnx package checks attributes before; those of nodes in functions may come from the call, or not come.
Translations rely on it: they may read an index as an integer, or take two operands to have one dtype. What a later
opset allows is allowed in earlier ones, too: exporters are ahead of the opset that they name.
"""

import functools
from typing import Any

import onnx
from attrs import frozen
from onnx import TensorProto, defs

from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ir.types import TensorType
from .dtypes import dtype_of
from .functions import schema_of
from .node import Node
from .values import Sequence, Struct, Value

KINDS: dict[str, tuple[type, ...]] = {
    "tensor": (Expr,), "seq": (Sequence,), "optional": (Expr, Sequence, Struct)
}  # fmt: skip
"""The values that stand for ONNX's kinds of types; an optional that holds something is that thing."""


@frozen
class Parameter:
    """A formal input.

    Attributes:
        name: in the ONNX documentation.
        needed: whether it must be given.
        kinds: of `KINDS`.
        dtypes: the element types of tensors.
        variable: the type variable: inputs that have the same one have the same dtype.
    """

    name: str
    needed: bool
    kinds: frozenset[str]
    dtypes: frozenset[str]
    variable: str


@frozen
class Signature:
    """What an operator takes.

    Attributes:
        parameters: its inputs; the last one stands for all further inputs if it is `variadic`.
        least: how many inputs there must be.
        attributes: those that must be given.
    """

    parameters: tuple[Parameter, ...]
    least: int
    variadic: bool
    attributes: tuple[str, ...]

    def parameter(self, k: int) -> Parameter | None:
        """What input `k` is, None if there is no such input."""
        if k < len(self.parameters):
            return self.parameters[k]
        return self.parameters[-1] if self.variadic else None


@functools.cache
def signature(domain: str, name: str, opset: int) -> Signature | None:
    """The inputs of an operator, None if ONNX does not know it."""
    schema = schema_of(domain, name, opset)
    if schema is None:
        return None
    newest = defs.get_schema(name, domain)
    later = [set(p.types) for p in newest.inputs]
    found = []
    for k, formal in enumerate(schema.inputs):
        types = set(formal.types) | (later[k] if k < len(later) else set())
        single = formal.option == defs.OpSchema.FormalParameterOption.Single
        variable = formal.type_str if formal.is_homogeneous and "(" not in formal.type_str else ""
        kinds = frozenset(t.split("(")[0] for t in types)
        found.append(Parameter(formal.name, single, kinds, frozenset(filter(None, map(_dtype, types))), variable))
    variadic = bool(found) and schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic
    needed = tuple(sorted(name for name, declared in schema.attributes.items() if declared.required))
    return Signature(tuple(found), schema.min_input, variadic, needed)


NAMES = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE}


def _dtype(text: str) -> str:
    """The fusewire dtype in a type such as "tensor(float)", or ""."""
    name = text.rstrip(")").split("(")[-1]
    code = NAMES.get(name) or dict(TensorProto.DataType.items()).get(name.upper(), TensorProto.UNDEFINED)
    try:
        return dtype_of(code)
    except FusewireError:
        return ""


def check_node(node: Node) -> None:
    """Raise a FusewireError if the inputs of a node are not such as ONNX says, or an attribute is missing."""
    expected = signature(node.proto.domain, node.proto.op_type, node.opset)
    if expected is None:
        _check_attributes(node)
        return
    if missing := [name for name in expected.attributes if name not in node.attributes]:
        raise node.error(f"the attribute {missing[0]} is missing")
    if len(node.inputs) < expected.least:
        raise node.error(f"got {len(node.inputs)} inputs, expected at least {expected.least}")
    dtypes: dict[str, tuple[int, str]] = {}
    for k, value in enumerate(node.inputs):
        parameter = expected.parameter(k)
        if parameter is None:
            raise node.error(f"got {len(node.inputs)} inputs, expected at most {len(expected.parameters)}")
        _check(node, k, value, parameter)
        type_ = value.known_type if isinstance(value, Expr) else None
        if isinstance(type_, TensorType) and parameter.variable:
            first, dtype = dtypes.setdefault(parameter.variable, (k, type_.dtype))
            if dtype != type_.dtype:
                raise node.error(f"inputs {first} and {k} must have one element type, got {dtype} and {type_.dtype}")


def _check_attributes(node: Node) -> None:
    """Attributes of operators that the onnx package does not know must be of the kinds they have in ONNX's own."""
    for entry in node.proto.attribute:
        expected = kinds_of().get(entry.name, set())
        if expected and entry.type not in expected and not entry.ref_attr_name:
            got, *wanted = map(onnx.AttributeProto.AttributeType.Name, (entry.type, *sorted(expected)))
            raise node.error(f"the attribute {entry.name} is {got}, expected {' or '.join(wanted)}")


OTHER_KINDS = {"channels_last": {onnx.AttributeProto.INT}, "opset": {onnx.AttributeProto.INT}}
"""Of attributes that no operator of ONNX has."""


@functools.cache
def kinds_of() -> dict[str, set[int]]:
    """The kinds that attributes of a name have."""
    found: dict[str, set[int]] = {name: {int(k) for k in kinds} for name, kinds in OTHER_KINDS.items()}
    for schema in defs.get_all_schemas():
        for name, declared in schema.attributes.items():
            kind: Any = declared.type
            found.setdefault(name, set()).add(int(kind.value))
    return found


def _check(node: Node, k: int, value: Value, parameter: Parameter) -> None:
    what = f"input {k} ({parameter.name})"
    if value is None:
        if parameter.needed:
            raise node.error(f"{what} is missing")
        return
    if not any(isinstance(value, KINDS[kind]) for kind in parameter.kinds & KINDS.keys()):
        got = "a tensor" if isinstance(value, Expr) else "a sequence" if isinstance(value, Sequence) else "nothing"
        raise node.error(f"{what} is {got}, expected {' or '.join(sorted(parameter.kinds))}")
    type_ = value.known_type if isinstance(value, Expr) else None
    if isinstance(type_, TensorType) and type_.dtype not in parameter.dtypes:
        expected = ", ".join(sorted(parameter.dtypes)) or "an element type that fusewire does not have"
        raise node.error(f"{what} has the element type {type_.dtype}, expected {expected}")
