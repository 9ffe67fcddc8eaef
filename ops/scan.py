"""Running sums and products along an axis."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, product
from ..ir.loops import Builder
from ..ir.op import Attrs
from ..ir.scalar import Buffer, apply, compute_dtype
from ..ir.scalar import cast as convert
from ..ir.types import TensorType, Type, check_dtype, numpy_dtype
from .lowering import Context, Procedure
from .reshape import unravel
from .spec import NUMERIC, Array, Case, Cases, Fusion, normalize_axis, operator, tensor
from .unary import NUMBERS, draw_shape


def _scan_type(attrs: Attrs, data: Type) -> TensorType:
    found = tensor(data)
    dtype = attrs.dtype or found.dtype
    if dtype not in NUMBERS:
        raise TypeInferenceError(f"cannot accumulate in {dtype}: give a number type as dtype")
    if attrs.axis is not None:
        normalize_axis(attrs.axis, found.ndim)
    shape: Sequence[Dim] = found.shape if attrs.axis is not None else [product(found.shape)]
    return TensorType(shape, dtype)


def _write(fn: str, start: int) -> Callable[[Context, Builder, Sequence[Buffer]], None]:
    """Writes one loop over the rows, which are independent, and in it one along the axis."""

    def write(c: Context, b: Builder, outputs: Sequence[Buffer]) -> None:
        data, shape = c.args[0], c.shape
        if 0 in shape:
            return
        flat = c.attrs.axis is None
        axis = 0 if flat else normalize_axis(c.attrs.axis, len(shape))
        rows = shape[:axis] + shape[axis + 1 :]
        dtype = compute_dtype(c.out.dtype)
        with b.loop("row", math.prod(rows), "parallel") as row:
            at = unravel(row, rows)
            total = b.alloc("total", (1,), dtype, "thread")
            b.store(total, (0,), start)
            with b.loop("i", shape[axis]) as i:
                place = (*at[:axis], i, *at[axis:])
                source = unravel(i, data.shape) if flat else place
                after = apply(fn, b.load(total, (0,)), convert(data(*source), dtype))
                if c.attrs.exclusive:
                    b.store(outputs[0], place, b.load(total, (0,)))
                    b.store(total, (0,), after)
                else:
                    b.store(total, (0,), after)
                    b.store(outputs[0], place, b.load(total, (0,)))

    return write


def _reference(accumulate: Callable[..., Array], start: int) -> Callable[[Attrs, Array], Array]:
    def reference(attrs: Attrs, x: Array) -> Array:
        axis = 0 if attrs.axis is None else attrs.axis
        x = x.reshape(-1) if attrs.axis is None else x
        dtype = numpy_dtype(attrs.dtype) if attrs.dtype else x.dtype
        exact = np.dtype(np.float64) if dtype.kind == "f" else dtype
        scanned = accumulate(x.astype(exact), axis=axis, dtype=exact)
        if not attrs.exclusive:
            return scanned
        one = [*x.shape[:axis], 1, *x.shape[axis % x.ndim + 1 :]]
        first = np.full(one, start, exact)
        return np.concatenate([first, scanned], axis).take(range(x.shape[axis]), axis)

    return reference


def _cases(low: float, high: float, size: int) -> Cases:
    def cases(rng: np.random.Generator) -> Case:
        shape = draw_shape(rng, size=size)
        axis: Any = int(rng.integers(-len(shape), len(shape))) if shape and rng.random() < 0.8 else None
        dtype = [None, None, "float32", "int64"][rng.integers(4)]
        exclusive = [None, False, True][rng.integers(3)]
        return Case([shape], {"axis": axis, "dtype": dtype, "exclusive": exclusive}, low=low, high=high)

    return cases


def _attributes(axis: int | None, dtype: str | None, exclusive: bool | None) -> dict[str, Any]:
    return {
        "axis": None if axis is None else int(axis),
        "dtype": check_dtype(dtype) if dtype else None,
        "exclusive": bool(exclusive),
    }


@operator(
    "cumsum",
    Fusion.OPAQUE,
    _scan_type,
    _reference(np.cumsum, 0),
    Procedure(_write("add", 0)),
    cases=_cases(-2, 2, 2000),
    dtypes=(*NUMERIC, "int8"),
)
def cumsum(data: ExprLike, axis: int | None = None, dtype: str | None = None, exclusive: bool | None = None) -> Expr:
    """The running sum along an axis.

    Args:
        data: the tensor.
        axis: the axis; None for the elements in row-major order, with a vector as the result.
        dtype: the element type of the result; None for that of `data`. Elements are converted before they are added.
        exclusive: whether a sum leaves out its own element, so that the first one is 0.

    Raises:
        TypeInferenceError: the axis is out of range, or the result would be bool.

    """
    return call("cumsum", [data], **_attributes(axis, dtype, exclusive))


@operator(
    "cumprod",
    Fusion.OPAQUE,
    _scan_type,
    _reference(np.cumprod, 1),
    Procedure(_write("mul", 1)),
    cases=_cases(0.8, 1.25, 200),
    dtypes=(*NUMERIC, "int8"),
)
def cumprod(data: ExprLike, axis: int | None = None, dtype: str | None = None, exclusive: bool | None = None) -> Expr:
    """The running product along an axis.

    Args:
        data: the tensor.
        axis: the axis; None for the elements in row-major order, with a vector as the result.
        dtype: the element type of the result; None for that of `data`. Elements are converted first.
        exclusive: whether a product leaves out its own element, so that the first one is 1.

    Raises:
        TypeInferenceError: the axis is out of range, or the result would be bool.

    """
    return call("cumprod", [data], **_attributes(axis, dtype, exclusive))
