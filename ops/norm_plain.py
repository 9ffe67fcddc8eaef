"""Normalisations without learned parameters: l2_normalize and local response normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Index
from ..ir.op import Attrs
from ..ir.scalar import Value, apply
from ..ir.types import Type
from .lowering import Context, Reduce, Reduction, Stage, total
from .norm import merged
from .spec import REAL, Array, Case, Fusion, normalize_axis, operator
from .unary import FLOATING, draw_shape, dtype_among


def _l2_axes(a: Attrs, ndim: int) -> list[int]:
    axes = range(ndim) if a.axis is None else [normalize_axis(axis, ndim) for axis in a.axis]
    if len(set(axes)) < len(axes):
        raise TypeInferenceError(f"axis={a.axis} names a dimension twice")
    return sorted(axes)


def _infer_l2(a: Attrs, data: Type) -> Type:
    x = dtype_among(data, FLOATING)
    _l2_axes(a, x.ndim)
    return x


def _l2(c: Context) -> Reduction:
    (x,) = c.args
    reduced = _l2_axes(c.attrs, len(c.shape))
    kept = [axis for axis in range(len(c.shape)) if axis not in reduced]
    rows, extents = (tuple(c.shape[axis] for axis in axes) for axes in (kept, reduced))
    read = merged(kept, reduced, x)

    def square(row: Any, place: Any) -> Value:
        value = read(row, place)
        return value * value

    def result(index: tuple[Index, ...], squares: Value) -> Value:
        return x(*index) / apply("sqrt", apply("max", squares, c.attrs.eps))

    return Reduction(rows, (Stage("sum", extents, square),), result, tuple(reduced))


def _np_l2(a: Attrs, x: Array) -> Array:
    axes = tuple(range(x.ndim)) if a.axis is None else a.axis
    return np.asarray(x / np.sqrt(np.maximum(np.square(x).sum(axes, keepdims=True), a.eps)))


def _cases_l2(rng: np.random.Generator) -> Case:
    shape = draw_shape(rng, size=600)
    axis = [int(k) for k in rng.permutation(len(shape))[: rng.integers(0, len(shape) + 1)]]
    some = [k - len(shape) if rng.random() < 0.3 else k for k in axis]
    return Case([shape], {"eps": float(rng.choice([1e-10, 1e-3, 2.0])), "axis": some if rng.random() < 0.8 else None})


@operator(
    "nn.l2_normalize",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_l2,
    _np_l2,
    Reduce(_l2),
    cases=_cases_l2,
    dtypes=REAL,
)
def l2_normalize(data: ExprLike, eps: float, axis: int | Sequence[int] | None = None) -> Expr:
    """Vectors of length 1: x / sqrt(max(sum of x squared, eps)), the sum taken along some axes.

    Args:
        data: floating tensor.
        eps: the least that the sum of squares counts for.
        axis: the axes of the sum; negative ones count from the end; None: all.

    """
    axes = (axis,) if isinstance(axis, int) else axis
    return call("nn.l2_normalize", [data], eps=float(eps), axis=None if axes is None else tuple(int(k) for k in axes))


def _infer_lrn(a: Attrs, data: Type) -> Type:
    x = dtype_among(data, FLOATING)
    normalize_axis(a.axis, x.ndim)
    if a.size < 1 or a.size % 2 == 0:
        raise TypeInferenceError(f"size must be odd and at least 1, got {a.size}")
    return x


def _lrn(c: Context) -> Reduction:
    (x,) = c.args
    a, axis = c.attrs, normalize_axis(c.attrs.axis, len(c.shape))

    def square(row: tuple[Index, ...], place: tuple[Index, ...]) -> Value:
        value = x.padded(*row[:axis], row[axis] + place[0] - a.size // 2, *row[axis + 1 :])
        return value * value

    def result(index: tuple[Index, ...], squares: Value) -> Value:
        return x(*index) / apply("pow", squares * (a.alpha / a.size) + a.bias, a.beta)

    return total(c.shape, "sum", (a.size,), square, result)


def _np_lrn(a: Attrs, x: Array) -> Array:
    if not x.size:
        return x
    reach = a.size // 2
    pads = [(0, 0)] * x.ndim
    pads[a.axis] = (reach, reach)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(np.square(x), pads), a.size, a.axis)
    return np.asarray(x / (a.bias + a.alpha / a.size * windows.sum(-1)) ** a.beta)


def _cases_lrn(rng: np.random.Generator) -> Case:
    shape = draw_shape(rng, 1, size=600)
    attributes = {
        "size": int(rng.choice([1, 3, 5, 9])),
        "axis": int(rng.integers(-len(shape), len(shape))),
        "bias": float(rng.choice([1.0, 2.0])),
        "alpha": float(rng.choice([1e-5, 0.5])),
        "beta": float(rng.choice([0.75, 0.5, 1.0])),
    }
    return Case([shape], attributes)


@operator(
    "nn.lrn",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_lrn,
    _np_lrn,
    Reduce(_lrn),
    cases=_cases_lrn,
    dtypes=REAL,
)
def lrn(
    data: ExprLike, size: int = 5, axis: int = 1, bias: float = 2, alpha: float = 0.00001, beta: float = 0.75
) -> Expr:
    """Local response normalisation: x / (bias + alpha / size * sum of x squared) ** beta.

    The sum is taken over the `size` nearest channels. The algorithm is that of Krizhevsky, Sutskever and
    Hinton: ImageNet classification with deep convolutional neural networks, 2012, section 3.3.

    Args:
        data: floating tensor.
        size: how many channels a sum takes in, centred; odd. Channels that do not exist count as 0.
        axis: the channel axis; negative counts from the end.
        bias: added to the scaled sum.
        alpha: the factor of the mean square.
        beta: the exponent.

    """
    parts = {"bias": float(bias), "alpha": float(alpha), "beta": float(beta)}
    return call("nn.lrn", [data], size=int(size), axis=int(axis), **parts)
