"""Constant scales and shifts of channels go into constant weights, and into the bias, where they cost nothing.

oneDNN computes a post-op with an operand for each result it stores, and for small windows that shows: 125 us in place
of 100 for a depthwise convolution of 96 channels with scale, shift and relu.
"""

from collections.abc import Callable

import attrs
import numpy as np
import numpy.typing as npt

from ...ir.expr import Expr
from .convolution import Convolution
from .describe import Binary, Description, Eltwise, Tensor, operand_name
from .epilogue import Prepared
from .product import MatMul

Array = npt.NDArray[np.float64]
Value = Callable[[Expr], npt.NDArray[np.generic] | None]
"""The contents of an expression, if they are known."""


@attrs.frozen(eq=False)
class Affine:
    """What is done to each channel: `x * scale + shift`."""

    scale: Array
    shift: Array

    def then(self, algorithm: str, value: Array) -> "Affine":
        """This, followed by one of "mul", "div", "add" and "sub"."""
        with np.errstate(all="ignore"):
            factor = {"mul": value, "div": 1 / value}.get(algorithm, np.ones_like(value))
            addend = {"add": value, "sub": -value}.get(algorithm, np.zeros_like(value))
            return Affine(self.scale * factor, self.shift * factor + addend)

    @property
    def finite(self) -> bool:
        """Whether float32 can hold all numbers."""
        with np.errstate(over="ignore"):
            both = np.concatenate([self.scale, self.shift]).astype(np.float32)
        return bool(np.isfinite(both).all())


def fold(prepared: Prepared, value: Value) -> tuple[Prepared, Affine | None]:
    """Take leading post-ops with known operands for each channel out of a description.

    Args:
        prepared: what to ask for; only float32 with constant weights is changed.
        value: says what is known.

    Returns:
        The description that is left (with a bias if need be), and what to do to weights and bias; None: nothing.

    """
    description = prepared.description
    if not isinstance(description, Convolution | MatMul) or description.dtype != "float32":
        return prepared, None
    if not description.constant_weights:
        return prepared, None
    dims = description.tensors()["dst"].dims
    axis = 1 if isinstance(description, Convolution) else len(dims) - 1
    channel = tuple(size if k == axis else 1 for k, size in enumerate(dims))
    affine, count = Affine(np.ones(dims[axis]), np.zeros(dims[axis])), 0
    for j, op in enumerate(description.post_ops):
        following = _step(affine, op, channel, prepared.arguments.get(operand_name(j)), value)
        if following is None or not following.finite:
            break
        affine, count = following, j + 1
    return (_without(prepared, count, bool(affine.shift.any())), affine) if count else (prepared, None)


def _step(affine: Affine, op: object, channel: tuple[int, ...], operand: Expr | None, value: Value) -> Affine | None:
    """`affine` followed by a post-op, if that is one value for each channel, all of them known."""
    if isinstance(op, Eltwise) and op.algorithm == "linear":
        ones = np.ones_like(affine.scale)
        return affine.then("mul", op.alpha * ones).then("add", op.beta * ones)
    if not isinstance(op, Binary) or op.shape != channel or op.algorithm not in ("mul", "div", "add", "sub"):
        return None
    known = value(operand) if operand is not None else None
    return None if known is None else affine.then(op.algorithm, known.astype(np.float64).reshape(-1))


def _without(prepared: Prepared, count: int, bias: bool) -> Prepared:
    """`prepared` without the first post-ops."""
    old = prepared.description
    description: Description = attrs.evolve(old, post_ops=old.post_ops[count:], bias=bias)
    gone = {operand_name(j): operand_name(j - count) for j in range(len(old.post_ops))}
    kept = {operand_name(j) for j in range(count, len(old.post_ops))}
    arguments = {gone.get(k, k): e for k, e in prepared.arguments.items() if k not in gone or k in kept}
    return Prepared(description, arguments)


def scaled(weights: npt.NDArray[np.float32], scale: Array, description: Description) -> npt.NDArray[np.float32]:
    """Weights as the caller stores them, times one number for each result channel."""
    tensor: Tensor = description.tensors()["weights"]
    if isinstance(description, MatMul):
        shape = (*(1 for _ in tensor.dims[1:]), len(scale))
    else:  # (O, ...), or with groups (groups, O / groups, ...)
        grouped = len(tensor.dims) - len(description.tensors()["dst"].dims)
        shape = (*tensor.dims[: 1 + grouped], *(1 for _ in tensor.dims[1 + grouped :]))
    stored = weights.reshape([tensor.dims[axis] for axis in tensor.order])
    factors = scale.reshape(shape).transpose(tensor.order)
    return (stored * factors).astype(np.float32).reshape(weights.shape)
