"""Reductions in two passes over a tensor: variance and what derives from it, and logsumexp.

The arguments `axis`, `keepdims` and `exclude` are those of the reductions in ops/reduce.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, Tuple, as_expr, call, const
from ..ir.index import Index, product
from ..ir.op import Attrs
from ..ir.scalar import Value, apply, select
from ..ir.tuple_wrapper import TupleWrapper
from .binary import multiply, subtract
from .lowering import Context, Reduce, Reduction, Stage
from .reduce import (
    Axes,
    axis_attribute,
    extents_of,
    flattened,
    folded,
    mean,
    read_element,
    reduce_cases,
    reduced_axes,
    same_dtype_rule,
)
from .spec import REAL, Array, Fusion, operator, tensor
from .unary import FLOATING, sqrt


def _variance(c: Context) -> Reduction:
    """Two passes: the mean, then the squared distances from it (one pass would cancel digits)."""
    extents = extents_of(c)
    count = math.prod(extents)

    def squared(row: Sequence[Index], place: Sequence[Index], total: Value) -> Value:
        distance = read_element(c, row, place) - total / count
        return distance * distance

    def result(index: Sequence[Index], total: Value, squares: Value) -> Value:
        return squares / (count - int(c.attrs.unbiased))

    first = Stage("sum", extents, lambda row, place: read_element(c, row, place))
    return Reduction(c.shape, (first, Stage("sum", extents, squared)), result)


def _variance_reference(attrs: Attrs, x: Array) -> Array:
    flat = flattened(attrs, x)
    with np.errstate(all="ignore"):
        centre = np.sum(flat, axis=-1, keepdims=True) / np.float64(flat.shape[-1])
        squares = np.sum((flat - centre) ** 2, axis=-1)
        return folded(attrs, x, squares / np.float64(flat.shape[-1] - attrs.unbiased))


@operator(
    "variance",
    Fusion.COMM_REDUCE,
    same_dtype_rule(FLOATING),
    _variance_reference,
    Reduce(_variance),
    cases=reduce_cases(unbiased=True),
    dtypes=REAL,
)
def variance(
    data: ExprLike,
    axis: Axes = None,
    keepdims: bool = False,
    exclude: bool = False,
    unbiased: bool = False,
    with_mean: Expr | None = None,
) -> Expr:
    """The mean squared distance from the mean over axes.

    Args:
        data: a floating tensor.
        axis: the axis or axes to reduce; None or an empty list for all.
        keepdims: whether a reduced axis stays, with size 1.
        exclude: whether to reduce the axes that are not in `axis` instead.
        unbiased: divide by one less than the number of elements (NaN or infinite for one element).
        with_mean: the mean, where it is known already, with the reduced axes kept.

    """
    if with_mean is not None:
        return _variance_around(as_expr(data), with_mean, axis, keepdims, exclude, unbiased)
    flags = {"keepdims": bool(keepdims), "exclude": bool(exclude), "unbiased": bool(unbiased)}
    return call("variance", [data], axis=axis_attribute(axis), **flags)


def _variance_around(data: Expr, centre: Expr, axis: Axes, keepdims: bool, exclude: bool, unbiased: bool) -> Expr:
    distance = subtract(data, centre)
    squares = mean(multiply(distance, distance), axis, keepdims, exclude)
    if not unbiased:
        return squares
    type_ = tensor(data.checked_type)
    axes = reduced_axes(Attrs({"axis": axis_attribute(axis), "exclude": exclude}), type_.ndim)
    count = product(type_.shape[a] for a in axes)
    if not isinstance(count, int):
        raise TypeInferenceError(f"variance: unbiased=True and with_mean need a static shape, got {type_}")
    return multiply(squares, const(count / (count - 1) if count > 1 else math.nan, type_.dtype))


def std(
    data: ExprLike, axis: Axes = None, keepdims: bool = False, exclude: bool = False, unbiased: bool = False
) -> Expr:
    """The square root of the variance over axes.

    Args:
        data: a floating tensor.
        axis: the axis or axes to reduce; None or an empty list for all.
        keepdims: whether a reduced axis stays, with size 1.
        exclude: whether to reduce the axes that are not in `axis` instead.
        unbiased: divide by one less than the number of elements.

    """
    return sqrt(variance(data, axis, keepdims, exclude, unbiased))


def mean_variance(
    data: ExprLike, axis: Axes = None, keepdims: bool = False, exclude: bool = False, unbiased: bool = False
) -> TupleWrapper:
    """The mean and the variance over axes, as two results; the arguments are those of `variance`."""
    shared = as_expr(data)
    both = mean(shared, axis, keepdims, exclude), variance(shared, axis, keepdims, exclude, unbiased)
    return TupleWrapper(Tuple(both), 2)


def mean_std(data: ExprLike, axis: Axes = None, keepdims: bool = False, exclude: bool = False) -> TupleWrapper:
    """The mean and the standard deviation over axes, as two results; the arguments are those of `std`."""
    shared = as_expr(data)
    both = mean(shared, axis, keepdims, exclude), std(shared, axis, keepdims, exclude)
    return TupleWrapper(Tuple(both), 2)


def _logsumexp(c: Context) -> Reduction:
    """Shifted by the greatest element, so that no exponential overflows; by nothing where that is not finite."""
    extents = extents_of(c)

    def shift(greatest: Value) -> Value:
        return select(apply("isfinite", greatest), greatest, 0.0)

    def shifted(row: Sequence[Index], place: Sequence[Index], greatest: Value) -> Value:
        return apply("exp", read_element(c, row, place) - shift(greatest))

    def result(index: Sequence[Index], greatest: Value, total: Value) -> Value:
        return apply("log", total) + shift(greatest)

    first = Stage("max", extents, lambda row, place: read_element(c, row, place))
    return Reduction(c.shape, (first, Stage("sum", extents, shifted)), result)


@operator(
    "logsumexp",
    Fusion.COMM_REDUCE,
    same_dtype_rule(FLOATING),
    lambda attrs, x: folded(attrs, x, np.logaddexp.reduce(flattened(attrs, x), axis=-1)),
    Reduce(_logsumexp),
    cases=reduce_cases(-9, 9, exclude=False),
    dtypes=REAL,
)
def logsumexp(data: ExprLike, axis: Axes = None, keepdims: bool = False) -> Expr:
    """The logarithm of the sum of the exponentials over axes, without overflow; -inf for none.

    Args:
        data: a floating tensor.
        axis: the axis or axes to reduce; None or an empty list for all.
        keepdims: whether a reduced axis stays, with size 1.

    """
    return call("logsumexp", [data], axis=axis_attribute(axis), keepdims=bool(keepdims))
