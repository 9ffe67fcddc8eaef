"""From the steps behind an anchor, as a chain names them, to oneDNN's post-ops."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs

from ...fuse.chain import Link, Links
from ...fuse.postops import ACTIVATIONS, ADD, BIAS, DIVIDE, MAXIMUM, MINIMUM, MULTIPLY, SUBTRACT
from ...ir.expr import Constant, Expr
from ...ir.op import Attrs
from ...ir.types import TensorType
from .describe import Binary, Description, Eltwise, Tensor, operand_name
from .ffi import OneDNNError

SCALE, SHIFT, OTHER = (MULTIPLY, DIVIDE), (ADD, BIAS, SUBTRACT), (MAXIMUM, MINIMUM)
EPILOGUE = (SHIFT, SCALE, SHIFT, (ADD,), ACTIVATIONS, SCALE, SHIFT, (*ACTIVATIONS, *OTHER))
"""What a primitive with post-ops can take: bias, normalisation, residual, activation, and the same once more."""

_ELTWISE: Mapping[str, Callable[[Attrs], Eltwise]] = MappingProxyType(
    {
        "relu": lambda a: Eltwise("relu"),
        "leaky_relu": lambda a: Eltwise("relu", a.alpha),
        "clip": lambda a: Eltwise("clip", a.a_min, a.a_max),
        "tanh": lambda a: Eltwise("tanh"),
        "sigmoid": lambda a: Eltwise("logistic"),
        "exp": lambda a: Eltwise("exp"),
        "log": lambda a: Eltwise("log"),
        "sqrt": lambda a: Eltwise("sqrt"),
        "abs": lambda a: Eltwise("abs"),
        "gelu": lambda a: Eltwise("gelu_erf"),
        "gelu_tanh": lambda a: Eltwise("gelu_tanh"),
        "swish": lambda a: Eltwise("swish", 1.0),
        "hard_sigmoid": lambda a: Eltwise("hardsigmoid", 1 / 6, 0.5),
        "hard_swish": lambda a: Eltwise("hardswish", 1 / 6, 0.5),
    }
)
"""Steps without an operand, by the attributes of their last call."""

BINARY: Mapping[str, str] = MappingProxyType(
    {"add": "add", "bias_add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
    | {"maximum": "max", "minimum": "min"}
)
"""Steps with an operand."""

_SCALAR: Mapping[str, Callable[[float], Eltwise]] = MappingProxyType(
    {
        "add": lambda c: Eltwise("linear", 1.0, c),
        "subtract": lambda c: Eltwise("linear", 1.0, -c),
        "multiply": lambda c: Eltwise("linear", c),
        "divide": lambda c: Eltwise("linear", 1 / c if c else math.copysign(math.inf, c)),
        "maximum": lambda c: Eltwise("clip", c, math.inf),
        "minimum": lambda c: Eltwise("clip", -math.inf, c),
    }
)
"""Steps whose operand is a number."""


@attrs.frozen
class Prepared:
    """What to ask oneDNN for, and which expressions are its arguments, by name."""

    description: Description
    arguments: dict[str, Expr]


def eltwise(name: str, attributes: Attrs) -> Eltwise:
    """The algorithm of a step without an operand."""
    return _ELTWISE[name](attributes)


def with_number(name: str, operand: Expr) -> Eltwise | None:
    """The step with a number as its operand; None if the operand is something else."""
    if isinstance(operand, Constant) and operand.data.ndim == 0 and name in _SCALAR:
        return _SCALAR[name](float(operand.data))
    return None


def with_post_ops(prepared: Prepared, links: Links) -> Prepared:
    """`prepared`, which computes the anchor, with the steps behind it as post-ops.

    Raises:
        OneDNNError: a step is nothing that oneDNN does; the problem says why.

    """
    if not links.steps:
        return prepared
    dst = prepared.description.tensors()["dst"]
    post_ops, arguments = list[Eltwise | Binary](), dict(prepared.arguments)
    for j, link in enumerate(links.steps):
        post_op = _post_op(link, dst)
        post_ops.append(post_op)
        if isinstance(post_op, Binary) and link.operand is not None:
            arguments[operand_name(j)] = link.operand
    return Prepared(attrs.evolve(prepared.description, post_ops=post_ops), arguments)


def _post_op(link: Link, dst: Tensor) -> Eltwise | Binary:
    name, operand, value, result = link.post_op.name, link.operand, link.value.checked_type, link.result.checked_type
    if result != value:
        raise OneDNNError("post-op", f"{name} turns {value} into {result}, expected the same shape and dtype")
    if operand is None:
        return eltwise(name, link.call.attrs)
    if number := with_number(name, operand):
        return number
    assert isinstance(value, TensorType) and isinstance(operand.checked_type, TensorType)
    shape = operand.checked_type.static_shape
    if name == "bias_add":
        axis = link.call.attrs.axis % value.ndim
        shape = shape + (1,) * (value.ndim - axis - 1)
    return Binary(BINARY[name], logical_shape(name, shape, value.static_shape, dst))


def logical_shape(name: str, shape: Sequence[int], whole: Sequence[int], dst: Tensor) -> tuple[int, ...]:
    """The shape of an operand in the order of oneDNN's axes.

    Args:
        name: the step, for the error.
        shape: the operand's shape in the graph; broadcasts to `whole`.
        whole: the shape of the result in the graph.
        dst: the result as the primitive has it; leading dimensions may be merged into one.

    Raises:
        OneDNNError: the operand is broadcast along some of the merged dimensions (or of a block) only.

    """
    full = [*[1] * (len(whole) - len(shape)), *shape]
    merged = max(len(whole) - len(dst.stored) + 1, 0)
    found = [1] * len(dst.dims)
    parts: dict[int, list[tuple[int, int]]] = {}
    for place, axis in enumerate(dst.order):
        dims = range(merged) if place == 0 else range(place + merged - 1, place + merged)
        parts.setdefault(axis, []).extend((full[d], whole[d]) for d in dims)
    for axis, pairs in parts.items():
        if all(own == extent for own, extent in pairs):
            found[axis] = dst.dims[axis]
        elif any(own != 1 for own, _ in pairs):
            problem = f"the operand of {name} has shape {tuple(shape)}, which repeats it along a part of an axis of"
            raise OneDNNError("post-op", f"{problem} {dst.stored}")
    return tuple(found)
