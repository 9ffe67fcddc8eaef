"""A node of an ONNX graph as its translation sees it: typed inputs, plain attributes, subgraphs to run."""

from collections.abc import Callable, Mapping, Sequence
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
from .values import Array, DynamicValueError, Knowledge, Value

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

    def shape(self, k: int = 0) -> tuple[int, ...]:
        """The shape of input `k`, which must be static."""
        return self.type(k).static_shape

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
            names = self.knowledge.inputs_of(self[k])
            raise DynamicValueError(
                f"{described(self.proto, self.opset)}: {what or f'input {k}'} must be known when the model is "
                f"imported, but depends on the inputs {', '.join(names)}; give their values with constants=",
                names,
            )
        return found

    def ints(self, k: int, what: str = "") -> tuple[int, ...]:
        """Input `k` as static integers."""
        return tuple(int(i) for i in self.static(k, what).reshape(-1))

    def scalar(self, k: int, default: Any = None) -> Any:
        """Input `k` as a static Python number; `default` where it was left out."""
        return self.static(k).reshape(-1)[0].item() if self.has(k) else default

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        return self.attributes.get(name, default)

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis` as 0..rank-1."""
        rank = self.rank() if rank is None else rank
        axis = int(self.attr("axis", default))
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"axis {axis} is out of range for {rank} dimensions")
        return axis % rank if rank else 0

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
