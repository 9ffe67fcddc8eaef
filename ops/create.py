"""Operators that make a tensor from nothing, from one number, or from the shape of another tensor."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Constant, Expr, ExprLike, as_expr, call, const
from ..ir.index import Dim, Index
from ..ir.op import Attrs
from ..ir.scalar import Value, constant
from ..ir.scalar import cast as convert
from ..ir.types import DTYPES, TensorType, Type, check_dtype, numpy_dtype
from .arguments import static_ints
from .lowering import Context, Map
from .spec import EVERY, REAL, Case, Cases, Fusion, operator, tensor
from .unary import NUMBERS, draw_shape, same_type, unary_cases

ShapeLike: TypeAlias = Dim | Sequence[Dim] | Constant
"""What a builder takes for the shape of its result."""

Number: TypeAlias = int | float | Constant
"""What a builder takes for a number that must be known when the graph is built."""


def _static_shape(shape: ShapeLike) -> tuple[Dim, ...]:
    if isinstance(shape, int | Index):
        return (shape,)
    if not isinstance(shape, Expr) and any(isinstance(dim, Index) for dim in shape):
        return TensorType(shape).shape
    return static_ints(shape, "the shape")


def _attribute_type(attrs: Attrs) -> TensorType:
    return TensorType(attrs.shape, attrs.dtype)


_TEST_DTYPES = [dtype for dtype in DTYPES if dtype != "bfloat16"]


def _shape_cases(rng: np.random.Generator) -> Case:
    return Case([], {"shape": draw_shape(rng), "dtype": str(rng.choice(_TEST_DTYPES))})


@operator(
    "zeros",
    Fusion.ELEMWISE,
    _attribute_type,
    lambda attrs: np.zeros(attrs.shape, numpy_dtype(attrs.dtype)),
    Map(lambda c, *index: constant(0, c.dtype)),
    cases=_shape_cases,
    dtypes=("float32",),
)
def zeros(shape: ShapeLike, dtype: str) -> Expr:
    """A tensor of zeros.

    Args:
        shape: its shape, known when the graph is built.
        dtype: its element type.

    """
    return call("zeros", [], shape=_static_shape(shape), dtype=check_dtype(dtype))


@operator(
    "ones",
    Fusion.ELEMWISE,
    _attribute_type,
    lambda attrs: np.ones(attrs.shape, numpy_dtype(attrs.dtype)),
    Map(lambda c, *index: constant(1, c.dtype)),
    cases=_shape_cases,
    dtypes=("float32",),
)
def ones(shape: ShapeLike, dtype: str) -> Expr:
    """A tensor of ones.

    Args:
        shape: its shape, known when the graph is built.
        dtype: its element type.

    """
    return call("ones", [], shape=_static_shape(shape), dtype=check_dtype(dtype))


@operator(
    "zeros_like",
    Fusion.ELEMWISE,
    same_type,
    lambda attrs, x: np.zeros_like(x),
    Map(lambda c, *index: constant(0, c.dtype)),
    cases=unary_cases(),
    dtypes=EVERY,
)
def zeros_like(data: ExprLike) -> Expr:
    """A tensor of zeros of the type of another tensor.

    Args:
        data: the other tensor; only its type counts.

    """
    return call("zeros_like", [data])


@operator(
    "ones_like",
    Fusion.ELEMWISE,
    same_type,
    lambda attrs, x: np.ones_like(x),
    Map(lambda c, *index: constant(1, c.dtype)),
    cases=unary_cases(),
    dtypes=EVERY,
)
def ones_like(data: ExprLike) -> Expr:
    """A tensor of ones of the type of another tensor.

    Args:
        data: the other tensor; only its type counts.

    """
    return call("ones_like", [data])


def _scalar(type_: Type) -> TensorType:
    found = tensor(type_, "fill_value")
    if found.shape:
        raise TypeInferenceError(f"fill_value must be a scalar, got {found}")
    return found


def _full_type(attrs: Attrs, fill_value: Type) -> TensorType:
    value = _scalar(fill_value)
    return TensorType(attrs.shape, attrs.dtype or value.dtype)


def _fill_cases(like: bool) -> Cases:
    def cases(rng: np.random.Generator) -> Case:
        shape = draw_shape(rng)
        if like:
            return Case([shape, ()], dtypes=[None, str(rng.choice(["float32", "int32"]))], low=0, high=9)
        return Case([()], {"shape": shape, "dtype": str(rng.choice(["", "float32", "int64"]))}, low=0, high=9)

    return cases


@operator(
    "full",
    Fusion.ELEMWISE,
    _full_type,
    lambda attrs, fill_value: np.full(attrs.shape, fill_value, numpy_dtype(attrs.dtype) if attrs.dtype else None),
    Map(lambda c, *index: c.args[0]()),
    cases=_fill_cases(like=False),
    dtypes=EVERY,
)
def full(fill_value: ExprLike, shape: ShapeLike = (), dtype: str = "") -> Expr:
    """A tensor that holds one number everywhere.

    Args:
        fill_value: the number, or a scalar tensor.
        shape: the shape of the result, known when the graph is built.
        dtype: the element type of the result; left out, that of `fill_value`.

    Raises:
        TypeInferenceError: `fill_value` is not a scalar.

    """
    if dtype:
        dtype = check_dtype(dtype)
    value = fill_value if isinstance(fill_value, Expr) else const(fill_value, dtype or None)
    return call("full", [value], shape=_static_shape(shape), dtype=dtype)


def _full_like_type(attrs: Attrs, data: Type, fill_value: Type) -> TensorType:
    _scalar(fill_value)
    return tensor(data, "data")


@operator(
    "full_like",
    Fusion.ELEMWISE,
    _full_like_type,
    lambda attrs, x, fill_value: np.full_like(x, fill_value),
    Map(lambda c, *index: c.args[1]()),
    cases=_fill_cases(like=True),
    dtypes=EVERY,
)
def full_like(data: ExprLike, fill_value: ExprLike) -> Expr:
    """A tensor of the type of another one that holds one number everywhere.

    Args:
        data: the other tensor; only its type counts.
        fill_value: the number, or a scalar tensor; it is converted to the dtype of `data`.

    Raises:
        TypeInferenceError: `fill_value` is not a scalar.

    """
    first = as_expr(data)
    return call("full_like", [first, as_expr(fill_value, first)])


def _number(value: Any, what: str, dtype: str) -> int | float:
    """A number given as such or as a scalar constant, as an int for integer dtypes, else as a float."""
    if isinstance(value, Constant):
        value = value.data
    if isinstance(value, Expr):
        raise TypeInferenceError(f"arange: {what} must be known when the graph is built, got the expression\n{value}")
    array = np.asarray(value)
    if array.shape or array.dtype.kind not in "iuf" or not np.isfinite(array):
        raise TypeInferenceError(f"arange: {what} must be a finite number, got {value!r}")
    number: int | float = array.item()
    if dtype.startswith(("float", "bfloat")):
        return float(number)
    if number != int(number):
        raise TypeInferenceError(f"arange: {what} must be a whole number where dtype is {dtype}, got {number}")
    return int(number)


def _arange_type(attrs: Attrs) -> TensorType:
    if attrs.step == 0:
        raise TypeInferenceError("step must not be 0")
    if isinstance(attrs.step, int):
        size: int = -((attrs.start - attrs.stop) // attrs.step)
    else:
        size = math.ceil((attrs.stop - attrs.start) / attrs.step)
    return TensorType((max(size, 0),), attrs.dtype)


def _arange_element(c: Context, i: Index) -> Value:
    return convert(i, c.dtype) * constant(c.attrs.step, c.dtype) + constant(c.attrs.start, c.dtype)


def _arange_cases(rng: np.random.Generator) -> Case:
    dtype = str(rng.choice([*REAL, "int32", "int64", "int8"]))
    start: float
    stop: float
    step: float
    if dtype.startswith("int"):
        start, stop, step = (int(i) for i in (*rng.integers(-20, 20, 2), rng.choice([-3, -1, 1, 2, 5])))
    else:
        start, stop, step = (float(x) for x in (*rng.integers(-40, 40, 2) / 4, rng.choice([-1.5, -0.25, 0.5, 1.0])))
    ways: list[dict[str, Any]] = [
        {"start": start, "stop": stop, "step": step},
        {"start": start, "stop": stop},
        {"start": stop},
    ]
    return Case([], {**ways[rng.integers(3)], "dtype": dtype})


@operator(
    "arange",
    Fusion.INJECTIVE,
    _arange_type,
    lambda attrs: np.arange(attrs.start, attrs.stop, attrs.step).astype(numpy_dtype(attrs.dtype)),
    Map(_arange_element),
    cases=_arange_cases,
    dtypes=("float32",),
)
def arange(start: Number, stop: Number | None = None, step: Number | None = None, dtype: str = "float32") -> Expr:
    """The numbers start, start + step, ... below `stop` (above it for a negative step), as a vector.

    Args:
        start: the first number; given alone, it is `stop`, and the first number is 0.
        stop: where the numbers end; it is not among them.
        step: the distance between them; 1 if left out.
        dtype: the element type; for integer types the other arguments must be whole numbers.

    Raises:
        TypeInferenceError: the step is 0, or a number is not finite, or computed by the graph.

    """
    if check_dtype(dtype) not in NUMBERS:
        raise TypeInferenceError(f"arange: dtype must be a number type, got {dtype}")
    if stop is None:
        start, stop = 0, start
    given = {"start": start, "stop": stop, "step": 1 if step is None else step}
    numbers = {what: _number(value, what, dtype) for what, value in given.items()}
    return call("arange", [], **numbers, dtype=check_dtype(dtype))
