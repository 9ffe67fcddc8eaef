"""A node of an ONNX graph as its translation sees it: typed inputs, plain attributes, subgraphs to run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
import onnx
from onnx import helper

from ...ir.errors import FusewireError
from ...ir.expr import Constant, Expr
from ...ir.index import Dim
from ...ir.types import FLOATS, TensorType, numpy_dtype, tensors_of
from .dtypes import to_array
from .values import Array, Knowledge, Value

MOST = 1 << 16
"""How long a list of sizes, axes or indices may be that decides what the program is."""

RunGraph: TypeAlias = Callable[[onnx.GraphProto, Sequence[Value]], list[Value]]
"""`run(graph, inputs) -> outputs`: reads a subgraph in the scope of the node."""


@attrs.frozen(eq=False)
class Node:
    """One node.

    Attributes:
        proto: the node itself.
        opset: the version of its domain that the model uses.
        inputs: its inputs; None where one was left out.
        attributes: its attributes as Python numbers, texts, lists and arrays.
        knowledge: what is known of values.
        run: reads a subgraph.
    """

    proto: onnx.NodeProto
    opset: int
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Any]
    knowledge: Knowledge
    run: RunGraph

    def error(self, message: str) -> FusewireError:
        """An error that says which node it is about."""
        return FusewireError(f"{described(self.proto, self.opset)}: {message}")

    def __getitem__(self, k: int) -> Expr:
        """Input `k`, a tensor that must be there."""
        value = self.value(k)
        if not isinstance(value, Expr):
            raise self.error(f"input {k} must be a tensor" if value else f"input {k} is missing")
        return value

    def value(self, k: int) -> Value:
        """Input `k`, or None where it was left out."""
        return self.inputs[k] if k < len(self.inputs) else None

    def get(self, k: int) -> Expr | None:
        """Input `k` if it was given."""
        return None if self.value(k) is None else self[k]

    def has(self, k: int) -> bool:
        """Whether input `k` was given."""
        return self.value(k) is not None

    @property
    def tensors(self) -> list[Expr]:
        """All inputs, which must be tensors."""
        return [self[k] for k in range(len(self.inputs))]

    def type(self, k: int = 0) -> TensorType:
        """The type of input `k`."""
        (type_,) = tensors_of(self[k].checked_type)
        return type_

    def dims(self, k: int = 0) -> tuple[Dim, ...]:
        """The shape of input `k`, with symbolic dimensions."""
        return self.type(k).shape

    def shape(self, k: int = 0, rank: int | None = None) -> tuple[int, ...]:
        """The shape of input `k`, which must be static; with `rank`, which must have so many dimensions."""
        shape = self.type(k).static_shape
        if rank is not None and len(shape) != rank:
            raise self.error(f"input {k} must have {rank} dimensions, got the shape {shape}")
        return shape

    def length(self, axis: int, k: int = 0) -> int:
        """The size of an axis of input `k`, which must be static, whatever the others are."""
        size = self.dims(k)[axis]
        if not isinstance(size, int):
            raise self.error(f"axis {axis} of {self.type(k)} must have a known size: give it with shape=")
        return size

    def rank(self, k: int = 0) -> int:
        """The number of dimensions of input `k`."""
        return self.type(k).ndim

    def dtype(self, k: int = 0) -> str:
        """The dtype of input `k`."""
        return self.type(k).dtype

    def is_float(self, k: int = 0) -> bool:
        """Whether input `k` is floating."""
        return self.dtype(k) in FLOATS

    def known(self, k: int) -> Array | None:
        """The value of input `k` where it is known while the graph is read."""
        return self.knowledge.of(self[k]) if self.has(k) else None

    def static(self, k: int, what: str = "") -> Array:
        """The value of input `k`, which must be known while the graph is read.

        Raises:
            DynamicValueError: it depends on inputs of the model.
        """
        found = self.known(k)
        if found is None:
            raise self.knowledge.dynamic(self[k], f"{described(self.proto, self.opset)}: {what or f'input {k}'}")
        return found

    def ints(self, k: int, what: str = "") -> tuple[int, ...]:
        """Input `k` as static integers."""
        found = self.static(k, what)
        if found.size > MOST:
            raise self.error(f"{what or f'input {k}'} has {found.size} numbers, expected at most {MOST}")
        return tuple(int(i) for i in found.reshape(-1))

    def sizes(self, k: int, what: str = "") -> tuple[Dim, ...]:
        """Input `k` as sizes, which may be formulas of symbolic dimensions."""
        found = None if self.known(k) is not None else self.knowledge.sizes.of(self[k])
        return self.ints(k, what) if found is None else tuple(found.reshape(-1))

    def scalar(self, k: int, default: Any = None) -> Any:
        """Input `k` as a static Python number; `default` where it was left out."""
        if not self.has(k):
            return default
        found = self.static(k)
        if found.size != 1:
            raise self.error(f"input {k} must be one number, got the shape {found.shape}")
        return found.item()

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        return self.attributes.get(name, default)

    def one_of(self, name: str, default: str, choices: Iterable[str]) -> str:
        """An attribute that is one of some texts."""
        found = self.attr(name, default)
        if found not in choices:
            raise self.error(f"{name} is {found!r}, expected one of {', '.join(map(repr, choices))}")
        return str(found)

    def count(self, name: str, default: int | None = None) -> int:
        """An attribute that is a number of things, 1 or more."""
        found = self.attr(name, default)
        if not isinstance(found, int) or found < 1:
            raise self.error(f"{name} is {found}, expected a whole number from 1 on")
        return found

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis` as 0..rank-1."""
        return self.place(int(self.attr("axis", default)), self.rank() if rank is None else rank)

    def place(self, axis: int, rank: int) -> int:
        """An axis, perhaps negative, as 0..rank-1."""
        if not -rank <= axis < rank:
            raise self.error(f"axis {axis} is out of range for {rank} dimensions")
        return axis % rank

    def wants(self, k: int) -> bool:
        """Whether output `k` is used."""
        return k < len(self.proto.output) and bool(self.proto.output[k])


def described(proto: onnx.NodeProto, opset: int) -> str:
    """A node for error messages: operator, name, opset."""
    domain = f"{proto.domain}." if proto.domain not in ("", "ai.onnx") else ""
    return f"{domain}{proto.op_type} {proto.name or ', '.join(proto.output)!r} (opset {opset})"


def attribute(proto: onnx.AttributeProto) -> Any:
    """The value of an attribute; tensors as arrays, texts as str."""
    value = helper.get_attribute_value(proto)
    match value:
        case bytes():
            return value.decode("utf-8", "replace")
        case onnx.TensorProto():
            return to_array(value)
        case list() if value and isinstance(value[0], bytes):
            return [v.decode("utf-8", "replace") for v in value]
    return value


def constant(array: Any, dtype: str | None = None) -> Constant:
    """An array, list or number as a constant; without `dtype`, numbers and lists become int64 or float32."""
    given = np.asarray(array)
    if dtype is None and not isinstance(array, np.ndarray | np.generic) and given.dtype == np.float64:
        given = given.astype(np.float32)
    return Constant(given if dtype is None else given.astype(numpy_dtype(dtype)))
