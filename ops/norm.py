"""Normalisations with learned scale and shift: layer, group, instance and batch norm.

The variance is the mean of the squared differences from the mean, in two passes over the data: the one-pass formula
loses all digits where the mean is large.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Call, Expr, ExprLike, call
from ..ir.index import Index
from ..ir.op import Attrs
from ..ir.scalar import Value, apply
from ..ir.tuple_wrapper import TupleWrapper
from ..ir.types import TupleType, Type
from .activation import along, check_vector, vector_like
from .lowering import Context, Reduce, Reduction, Stage, View
from .reshape import reindex
from .spec import REAL, Array, Case, Fusion, normalize_axis, operator
from .unary import FLOATING, draw_shape, dtype_among
from .window import divided

_EPSILONS = (1e-5, 1e-3, 0.1)


def _check_epsilon(a: Attrs) -> None:
    if a.epsilon < 0:
        raise TypeInferenceError(f"epsilon must not be negative, got {a.epsilon}")


def _infer_norm(a: Attrs, data: Type, gamma: Type, beta: Type) -> Type:
    _check_epsilon(a)
    check_vector(gamma, data, a.axis, "gamma")
    check_vector(beta, data, a.axis, "beta")
    return data


def _complete(a: Attrs, data: Type | None, *vectors: Type | None) -> Sequence[Type | None]:
    """The vectors of a normalisation have one value for each channel."""
    return (data, *(vector_like(data, a.axis) for _ in vectors)) if data else (data, *vectors)


def _scaled(a: Attrs, x: Array, gamma: Array, beta: Array) -> Array:
    """The learned scale and shift of each channel."""
    if a.scale:
        x = x * along(gamma, a.axis, x.ndim)
    return x + along(beta, a.axis, x.ndim) if a.center else x


def _np_standard(a: Attrs, x: Array, axes: tuple[int, ...]) -> Array:
    """`x` with mean 0 and variance 1 along `axes`."""
    if not x.size:
        return x
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + a.epsilon))


def _affine(c: Context, index: Sequence[Index], value: Value) -> Value:
    """`value` with the learned scale and shift of its channel."""
    _, gamma, beta = c.args
    channel = index[normalize_axis(c.attrs.axis, len(index))]
    if c.attrs.scale:
        value = value * gamma(channel)
    return value + beta(channel) if c.attrs.center else value


def _moments(
    c: Context,
    rows: Sequence[int],
    extents: Sequence[int],
    read: Callable[..., Value],
    spread: tuple[int, ...],
    shape: tuple[int, ...] | None = None,
) -> Reduction:
    """A normalisation whose groups of elements are `read(row, place)` for every place in the box `extents`.

    Where the output is seen under another `shape`, `spread` means axes of that.
    """
    share = 1 / max(math.prod(extents), 1)

    def squared(row: Any, place: Any, total: Value) -> Value:
        difference = read(row, place) - total * share
        return difference * difference

    def result(index: tuple[Index, ...], total: Value, squares: Value) -> Value:
        scale = apply("rsqrt", squares * share + c.attrs.epsilon)
        own = reindex(index, shape, c.shape) if shape and 0 not in shape else index[: len(c.shape)]
        return _affine(c, own, (c.args[0](*own) - total * share) * scale)

    stages = (Stage("sum", tuple(extents), read), Stage("sum", tuple(extents), squared))
    return Reduction(tuple(rows), stages, result, spread, shape)


def merged(kept: Sequence[int], reduced: Sequence[int], x: View) -> Callable[..., Value]:
    """Reads the element whose kept axes are at the first index and whose reduced axes are at the second."""
    axes = [*kept, *reduced]

    def read(row: tuple[Index, ...], place: tuple[Index, ...]) -> Value:
        where = dict(zip(axes, (*row, *place), strict=True))
        return x(*(where[axis] for axis in range(len(axes))))

    return read


def _over_axes(c: Context, reduced: Sequence[int]) -> Reduction:
    """A normalisation along whole axes."""
    kept = [axis for axis in range(len(c.shape)) if axis not in reduced]
    rows, extents = ([c.shape[axis] for axis in axes] for axes in (kept, reduced))
    return _moments(c, rows, extents, merged(kept, reduced, c.args[0]), tuple(reduced))


def _cases_norm(rng: np.random.Generator) -> Case:
    shape = draw_shape(rng, 1, size=600)
    axis = int(rng.integers(-len(shape), len(shape)))
    attributes = {
        "axis": axis,
        "epsilon": float(rng.choice(_EPSILONS)),
        "center": bool(rng.random() < 0.7),
        "scale": bool(rng.random() < 0.7),
    }
    return Case([shape, (shape[axis],), (shape[axis],)], attributes)


def _norm_call(
    name: str, data: ExprLike, gamma: ExprLike, beta: ExprLike, axis: int, epsilon: float, center: bool, scale: bool,
    **more: int,
) -> Call:  # fmt: skip
    parts = {"axis": int(axis), "epsilon": float(epsilon), "center": bool(center), "scale": bool(scale)}
    return call(name, [data, gamma, beta], **more, **parts)


@operator(
    "nn.layer_norm",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_norm,
    lambda a, x, gamma, beta: _scaled(a, _np_standard(a, x, (a.axis,)), gamma, beta),
    Reduce(lambda c: _over_axes(c, [normalize_axis(c.attrs.axis, len(c.shape))])),
    cases=_cases_norm,
    dtypes=REAL,
    complete=_complete,
    tolerance=10,
)
def layer_norm(
    data: ExprLike,
    gamma: ExprLike,
    beta: ExprLike,
    axis: int = -1,
    epsilon: float = 1e-5,
    center: bool = True,
    scale: bool = True,
) -> Expr:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with mean and variance along one axis.

    The algorithm is that of Ba, Kiros and Hinton: Layer normalization, 2016.

    Args:
        data: floating tensor.
        gamma: the scale of each place on the axis, a vector.
        beta: the shift of each place on the axis, a vector.
        axis: the axis to normalise; negative counts from the end.
        epsilon: added to the variance.
        center: whether to add beta.
        scale: whether to multiply by gamma.

    """
    return _norm_call("nn.layer_norm", data, gamma, beta, axis, epsilon, center, scale)


def _instance_axes(axis: int, ndim: int) -> tuple[int, ...]:
    """The axes that instance_norm takes mean and variance along: all but the first and the channels."""
    return tuple(k for k in range(1, ndim) if k != normalize_axis(axis, ndim))


@operator(
    "nn.instance_norm",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_norm,
    lambda a, x, gamma, beta: _scaled(a, _np_standard(a, x, _instance_axes(a.axis, x.ndim)), gamma, beta),
    Reduce(lambda c: _over_axes(c, _instance_axes(c.attrs.axis, len(c.shape)))),
    cases=_cases_norm,
    dtypes=REAL,
    complete=_complete,
    tolerance=10,
)
def instance_norm(
    data: ExprLike,
    gamma: ExprLike,
    beta: ExprLike,
    axis: int = 1,
    epsilon: float = 1e-5,
    center: bool = True,
    scale: bool = True,
) -> Expr:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with mean and variance of each channel of each image.

    The algorithm is that of Ulyanov, Vedaldi and Lempitsky: Instance normalization, 2016.

    Args:
        data: floating tensor, whose first axis counts the images.
        gamma: the scale of each channel, a vector.
        beta: the shift of each channel, a vector.
        axis: the channel axis; negative counts from the end.
        epsilon: added to the variance.
        center: whether to add beta.
        scale: whether to multiply by gamma.

    """
    return _norm_call("nn.instance_norm", data, gamma, beta, axis, epsilon, center, scale)


def _infer_group(a: Attrs, data: Type, gamma: Type, beta: Type) -> Type:
    x = dtype_among(data, FLOATING, "data")
    if a.num_groups < 1:
        raise TypeInferenceError(f"num_groups must be at least 1, got {a.num_groups}")
    divided(x.shape[normalize_axis(a.axis, x.ndim)], a.num_groups, "the number of channels")
    return _infer_norm(a, data, gamma, beta)


def _group(c: Context) -> Reduction:
    """The output is seen with its channels as (groups, channels of a group): a row is a group, spread over the rest."""
    axis = normalize_axis(c.attrs.axis, len(c.shape))
    groups = c.attrs.num_groups
    per_group = c.shape[axis] // groups
    inside = (per_group, *c.shape[axis + 1 :])
    rows = (*c.shape[:axis], groups)

    def read(row: tuple[Index, ...], place: tuple[Index, ...]) -> Value:
        return c.args[0](*row[:axis], row[axis] * per_group + place[0], *place[1:])

    spread = tuple(range(axis + 1, len(c.shape) + 1))
    return _moments(c, rows, inside, read, spread, (*rows, *inside))


def _np_group(a: Attrs, x: Array, gamma: Array, beta: Array) -> Array:
    axis = a.axis % x.ndim
    split = (*x.shape[:axis], a.num_groups, x.shape[axis] // a.num_groups, *x.shape[axis + 1 :])
    grouped = _np_standard(a, x.reshape(split), tuple(range(axis + 1, len(split))))
    return _scaled(a, grouped.reshape(x.shape), gamma, beta)


def _cases_group(rng: np.random.Generator) -> Case:
    case = _cases_norm(rng)
    axis, groups, shape = case.attributes["axis"], int(rng.integers(1, 4)), list(case.shapes[0])
    shape[axis] = groups * int(rng.integers(1, 4))
    vector = (shape[axis],)
    return Case([tuple(shape), vector, vector], {**case.attributes, "num_groups": groups})


@operator(
    "nn.group_norm",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_group,
    _np_group,
    Reduce(_group),
    cases=_cases_group,
    dtypes=REAL,
    complete=_complete,
    tolerance=10,
)
def group_norm(
    data: ExprLike,
    gamma: ExprLike,
    beta: ExprLike,
    num_groups: int,
    axis: int = 1,
    epsilon: float = 1e-5,
    center: bool = True,
    scale: bool = True,
) -> Expr:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with mean and variance of each group of channels.

    A group takes in neighbouring channels and all axes behind the channel axis; the axes before it are kept apart. The
    algorithm is that of Wu and He: Group normalization, 2018.

    Args:
        data: floating tensor.
        gamma: the scale of each channel, a vector.
        beta: the shift of each channel, a vector.
        num_groups: how many groups; it divides the number of channels.
        axis: the channel axis; negative counts from the end.
        epsilon: added to the variance.
        center: whether to add beta.
        scale: whether to multiply by gamma.

    """
    return _norm_call("nn.group_norm", data, gamma, beta, axis, epsilon, center, scale, num_groups=int(num_groups))


def _infer_batch(a: Attrs, data: Type, gamma: Type, beta: Type, moving_mean: Type, moving_var: Type) -> Type:
    _infer_norm(a, data, gamma, beta)
    check_vector(moving_mean, data, a.axis, "moving_mean")
    check_vector(moving_var, data, a.axis, "moving_var")
    return TupleType([data, moving_mean, moving_var])


def _np_batch(a: Attrs, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> list[Array]:
    standard = (x - along(mean, a.axis, x.ndim)) / np.sqrt(along(var, a.axis, x.ndim) + a.epsilon)
    return [_scaled(a, standard, gamma, beta), mean, var]


def _cases_batch(rng: np.random.Generator) -> Case:
    case = _cases_norm(rng)
    shape, vector, _ = case.shapes

    def values(rng: np.random.Generator, dtype: str) -> list[Array]:
        drawn = [rng.uniform(-2, 2, s) for s in (shape, vector, vector, vector)]
        return [array.astype(dtype) for array in (*drawn, rng.uniform(0.1, 2, vector))]

    return Case([shape, *[vector] * 4], case.attributes, values=values)


@operator(
    "nn.batch_norm",
    Fusion.OPAQUE,
    _infer_batch,
    _np_batch,
    None,
    cases=_cases_batch,
    dtypes=REAL,
    complete=_complete,
    tolerance=10,
)
def batch_norm(
    data: ExprLike,
    gamma: ExprLike,
    beta: ExprLike,
    moving_mean: ExprLike,
    moving_var: ExprLike,
    axis: int = 1,
    epsilon: float = 1e-5,
    center: bool = True,
    scale: bool = True,
) -> TupleWrapper:
    """(x - moving_mean) / sqrt(moving_var + epsilon) * gamma + beta for each channel, with stored statistics.

    The result is a tuple: the normalised data, and mean and variance unchanged. Before code is generated,
    SimplifyInference turns it into one multiplication and one addition. The algorithm is that of Ioffe and Szegedy:
    Batch normalization, 2015.

    Args:
        data: floating tensor.
        gamma: the scale of each channel, a vector.
        beta: the shift of each channel, a vector.
        moving_mean: the mean of each channel, a vector.
        moving_var: the variance of each channel, a vector.
        axis: the channel axis; negative counts from the end.
        epsilon: added to the variance.
        center: whether to add beta.
        scale: whether to multiply by gamma.

    """
    parts = {"axis": int(axis), "epsilon": float(epsilon), "center": bool(center), "scale": bool(scale)}
    return TupleWrapper(call("nn.batch_norm", [data, gamma, beta, moving_mean, moving_var], **parts), 3)
