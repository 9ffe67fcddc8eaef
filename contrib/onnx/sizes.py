"""Arithmetic on shapes with symbolic dimensions, followed while a graph is read.

What models compute from `Shape` on the way to a Reshape are integer tensors like any other. Where a dimension is
symbolic, their values are not known, but they are *formulas* of dimensions: NumPy arrays of `Dim` objects, on which
the operators' own references compute. Many come out as plain numbers: the height of an image in a batch of unknown
size, say.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ...ir.errors import FusewireError
from ...ir.expr import Call, Constant, Expr, Tuple, TupleGetItem
from ...ir.index import Dim, as_dim, as_index, floordiv, product
from ...ir.types import TensorType, numpy_dtype, tensors_of
from ...ops.spec import OpSpec

Array = npt.NDArray[Any]
Formulas = npt.NDArray[Any]
"""An array of `Dim`s, dtype object."""

SHAPES = ("shape_of", "ndarray_size")
"""Operators whose results depend on the type of their argument alone."""

MOVES = ("take", "strided_slice", "concatenate", "stack", "expand_dims", "squeeze", "reshape", "split", "transpose")
"""Operators that do not look at the elements that they move."""

LARGEST = 64
"""Elements that a tensor may have to be followed: shapes are short."""


class _UnknownError(Exception):
    """A formula has no answer before its dimensions are bound."""


def _quotient(a: Dim, b: Dim) -> Dim:
    """ONNX rounds towards 0: down, where nothing is negative."""
    if as_index(a).bounds[0] < 0 or as_index(b).bounds[0] < 1:
        raise _UnknownError
    try:
        return floordiv(a, b)
    except ValueError:
        raise _UnknownError from None


def _equal(a: Dim, b: Dim) -> bool:
    low, high = as_index(a - b).bounds
    if low > 0 or high < 0:
        return False
    if low < high:
        raise _UnknownError
    return True


ARITHMETIC: dict[str, Callable[..., Dim | bool]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": _quotient,
    "equal": _equal,
    "where": lambda condition, a, b: a if condition else b,
    "cast": lambda a: a,
}
"""Operators that compute element by element."""


@attrs.frozen(eq=False)
class Sizes:
    """Which values are formulas of symbolic dimensions."""

    _memo: dict[int, tuple[Expr, Formulas | None]] = attrs.field(factory=dict)

    def of(self, expr: Expr) -> Formulas | None:
        """The elements of an integer tensor, in its shape; None where they depend on more than shapes.

        Every value is looked at when it has been read, after its inputs: recursion goes no deeper than one translation.
        """
        if id(expr) not in self._memo:
            self._memo[id(expr)] = (expr, self._formulas(expr) if _followed(expr) else None)
        return self._memo[id(expr)][1]

    def numbers(self, expr: Expr) -> Array | None:
        """The elements of an integer tensor where all of them are plain numbers after all."""
        found = self.of(expr)
        if found is None or not all(isinstance(x, int | bool) for x in found.flat):
            return None
        (type_,) = tensors_of(expr.checked_type)
        try:
            return found.astype(numpy_dtype(type_.dtype))
        except OverflowError:
            return None

    def _formulas(self, expr: Expr) -> Formulas | None:
        match expr:
            case Constant(data=data):
                return np.asarray(data).astype(object)
            case TupleGetItem(tuple_value=Call(op=OpSpec(name="split")) as whole, index=index):
                parts = self._result(whole)
                return None if parts is None else parts[index]
            case Call():
                found = self._result(expr)
                return None if found is None else found[0]
        return None

    def _result(self, call: Call) -> list[Formulas] | None:
        """The results of a call of one of the known operators."""
        spec = call.op
        if not isinstance(spec, OpSpec):
            return None
        if spec.name in SHAPES:
            (type_,) = tensors_of(call.args[0].checked_type)
            return [_objects(type_.shape) if spec.name == "shape_of" else _objects(product(type_.shape))]
        if (spec.name not in MOVES and spec.name not in ARITHMETIC) or call.attrs.get("dtype") == "bool":
            return None
        arguments = [self._argument(arg) for arg in call.args]
        if any(a is None for a in arguments):
            return None
        if spec.name in MOVES:
            moved = spec.reference(call.attrs, *arguments)
            return [_objects(m) for m in (moved if isinstance(moved, list | tuple) else [moved])]
        try:
            return [_elementwise(ARITHMETIC[spec.name], arguments)]
        except _UnknownError:
            return None

    def _argument(self, arg: Expr) -> Any:
        """What a reference takes for an argument; plain numbers, which may be places, as integers."""
        if isinstance(arg, Tuple):
            fields = [self._argument(f) for f in arg.fields]
            return None if any(f is None for f in fields) else fields
        numbers = self.numbers(arg)
        return self.of(arg) if numbers is None else numbers


def of_shape(expr: Expr) -> bool:
    """Whether a value depends on the type of another value alone."""
    return isinstance(expr, Call) and isinstance(expr.op, OpSpec) and expr.op.name in SHAPES


def _followed(expr: Expr) -> bool:
    """Whether a value is a short tensor of integers or truth values."""
    type_ = expr.known_type
    if not isinstance(type_, TensorType) or not type_.is_static or math.prod(type_.static_shape) > LARGEST:
        return False
    return type_.dtype in ("bool", "int32", "int64")


def _objects(dims: Any) -> Formulas:
    """Dimensions as an array of objects."""
    return np.asarray(dims).astype(object) if isinstance(dims, np.ndarray) else np.array(dims, dtype=object)


def _elementwise(compute: Callable[..., Any], arguments: Sequence[Any]) -> Formulas:
    """A function of elements, arguments broadcast; results that are known as plain numbers."""
    parts = np.broadcast_arrays(*(np.asarray(a).astype(object) for a in arguments))
    found = np.empty(parts[0].shape, object)
    for place in np.ndindex(found.shape):
        value = compute(*(part[place] for part in parts))
        found[place] = value if isinstance(value, bool) else as_dim(value)
    return found


def reshape_codes(dims: Sequence[Dim], wanted: Sequence[Dim]) -> tuple[int, ...]:
    """The shape `wanted` for a tensor of shape `dims` in the codes of reshape: 0 copies a dimension, -1 is inferred.

    Raises:
        FusewireError: there is no way to write it: more than one symbolic dimension is new.
    """
    codes = []
    for place, size in enumerate(wanted):
        if isinstance(size, int):
            codes.append(size)
        else:
            codes.append(0 if place < len(dims) and dims[place] == size else -1)
    if codes.count(-1) > 1:
        raise FusewireError(
            f"cannot reshape {tuple(map(str, dims))} to {tuple(map(str, wanted))} before its symbolic dimensions are "
            f"bound; give them with shape="
        )
    return tuple(codes)
