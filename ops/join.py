"""Operators that put tensors together and take them apart, and those that repeat one."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_dim, as_index, floordiv, product
from ..ir.op import Attrs
from ..ir.scalar import Operand, apply, constant, select
from ..ir.tuple_wrapper import TupleWrapper
from ..ir.types import TensorType, TupleType, Type
from .arguments import TupleLike, divisible, one_of, shown, static_ints, tuple_argument, tuple_size
from .draw import any_axis, small_shape
from .lowering import Context, Map, View
from .reshape import reshaped
from .spec import EVERY, Array, Case, Fusion, fields, normalize_axis, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8")


def _alike(types: Sequence[TensorType], axis: int | None, what: str) -> TensorType:
    """The first of some tensor types, all of which agree in dtype and shape, but for dimension `axis`."""
    if not types:
        raise TypeInferenceError(f"{what} needs at least one tensor, got an empty tuple")
    first = types[0]
    for k, other in enumerate(types):
        same_rank = other.ndim == first.ndim
        if other.dtype != first.dtype or not same_rank:
            raise TypeInferenceError(f"{what}: tensor {k} is {other}, expected dtype and rank of {first}")
        for d, (n, m) in enumerate(zip(first.shape, other.shape, strict=True)):
            if n != m and d != axis:
                raise TypeInferenceError(f"{what}: dimension {d} of tensor {k} is {m}, expected {n} as in {first}")
    return first


# concatenate and stack


def _infer_concatenate(a: Attrs, data: Type) -> Type:
    parts = fields(data, "data")
    axis = normalize_axis(a.axis, parts[0].ndim) if parts else 0
    first = _alike(parts, axis, "concatenate")
    joined: Dim = 0
    for part in parts:
        joined = joined + part.shape[axis]
    return TensorType((*first.shape[:axis], as_dim(joined), *first.shape[axis + 1 :]), first.dtype)


def _concatenated(c: Context, *index: Index) -> Operand:
    axis = normalize_axis(c.attrs.axis, len(index))
    place, begin, parts = index[axis], 0, list[tuple[int, View]]()
    for view in c.args:
        if view.shape[axis]:
            parts.append((begin, view))
        begin += view.shape[axis]

    def among(low: int, high: int) -> Operand:
        """The element, known to lie in parts low..high-1: halving keeps many parts from nesting deeply."""
        if high - low == 1:
            start, view = parts[low]
            return view(*index[:axis], place - start, *index[axis + 1 :])
        middle = (low + high) // 2
        return select(apply("lt", place, parts[middle][0]), among(low, middle), among(middle, high))

    return among(0, len(parts)) if parts else constant(0, c.dtype)


def _cases_concatenate(rng: np.random.Generator) -> Case:
    shape = small_shape(rng, 1)
    axis = any_axis(rng, len(shape))
    sizes = rng.choice([0, 1, 2, 3, 5, 16], rng.integers(1, 5))
    at = axis % len(shape)
    return Case([[(*shape[:at], int(n), *shape[at + 1 :]) for n in sizes]], {"axis": axis})


@operator(
    "concatenate",
    Fusion.INJECTIVE,
    _infer_concatenate,
    lambda a, xs: np.concatenate(xs, a.axis),
    Map(_concatenated),
    cases=_cases_concatenate,
    dtypes=_DTYPES,
)
def concatenate(data: TupleLike, axis: int = 0) -> Expr:
    """Tensors joined along an axis.

    Args:
        data: tensors of one dtype whose shapes agree in all dimensions but `axis`.
        axis: the dimension to join along; negative counts from the end.

    """
    return call("concatenate", [tuple_argument(data)], axis=int(axis))


def _infer_stack(a: Attrs, data: Type) -> Type:
    parts = fields(data, "data")
    first = _alike(parts, None, "stack")
    axis = normalize_axis(a.axis, first.ndim + 1)
    return TensorType((*first.shape[:axis], len(parts), *first.shape[axis:]), first.dtype)


def _stacked(c: Context, *index: Index) -> Operand:
    axis = normalize_axis(c.attrs.axis, len(index))
    rest = (*index[:axis], *index[axis + 1 :])
    found: Operand = c.args[-1](*rest)
    for k in range(len(c.args) - 2, -1, -1):
        found = select(apply("le", index[axis], k), c.args[k](*rest), found)
    return found


def _cases_stack(rng: np.random.Generator) -> Case:
    shape = small_shape(rng)
    return Case([[shape] * int(rng.integers(1, 5))], {"axis": any_axis(rng, len(shape) + 1)})


@operator(
    "stack",
    Fusion.INJECTIVE,
    _infer_stack,
    lambda a, xs: np.stack(xs, a.axis),
    Map(_stacked),
    cases=_cases_stack,
    dtypes=_DTYPES,
)
def stack(data: TupleLike, axis: int = 0) -> Expr:
    """Tensors of one type joined along a new axis.

    Args:
        data: tensors of one shape and dtype.
        axis: where the new dimension goes, -n-1..n for tensors of n dimensions.

    """
    return call("stack", [tuple_argument(data)], axis=int(axis))


# split


def _cuts(a: Attrs, size: Dim) -> list[Dim]:
    """Where the parts begin, and the end of the last."""
    given = a.indices_or_sections
    if isinstance(given, int):
        if given < 1 or not divisible(size, given):
            raise TypeInferenceError(f"cannot split a dimension of size {size} into {given} equal parts")
        return [as_dim(floordiv(size, given) * k) for k in range(given + 1)]
    cuts: list[Dim] = [0, *given, size]
    known = [cut for cut in cuts if isinstance(cut, int)]
    if known != sorted(known):
        raise TypeInferenceError(f"indices_or_sections={shown(given)} must be sorted and lie in 0..{size}")
    if not isinstance(size, int) and len(given):
        raise TypeInferenceError(f"a dimension of symbolic size {size} can only be split into equal parts")
    return cuts


def _infer_split(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    axis = normalize_axis(a.axis, x.ndim)
    cuts = _cuts(a, x.shape[axis])
    sizes = [as_dim(as_index(end) - begin) for begin, end in pairwise(cuts)]
    return TupleType([TensorType((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in sizes])


def _part(c: Context, k: int, *index: Index) -> Operand:
    axis = normalize_axis(c.attrs.axis, len(index))
    begin = _cuts(c.attrs, c.args[0].shape[axis])[k]
    return c.args[0](*index[:axis], index[axis] + begin, *index[axis + 1 :])


def _reference_split(a: Attrs, x: Array) -> list[Array]:
    return np.split(x, a.indices_or_sections, a.axis)


def _cases_split(rng: np.random.Generator) -> Case:
    shape = list(small_shape(rng, 1))
    axis = any_axis(rng, len(shape))
    if rng.random() < 0.5:
        parts: Any = int(rng.integers(1, 5))
        shape[axis] = parts * int(rng.integers(0, 4))
    else:
        parts = sorted(int(i) for i in rng.integers(0, shape[axis] + 1, rng.integers(0, 4)))
    return Case([tuple(shape)], {"indices_or_sections": parts, "axis": axis})


@operator(
    "split",
    Fusion.INJECTIVE,
    _infer_split,
    _reference_split,
    Map(_part, several=True),
    cases=_cases_split,
    dtypes=_DTYPES,
)
def split(data: ExprLike, indices_or_sections: int | Sequence[int], axis: int = 0) -> TupleWrapper:
    """A tensor cut into parts along an axis.

    Args:
        data: tensor with at least one dimension.
        indices_or_sections: the number of equal parts, or the sorted places 0..n to cut at.
        axis: the dimension to cut; negative counts from the end.

    Returns:
        As many tensors as there are parts, or one more than there are places to cut.

    """
    whole = isinstance(indices_or_sections, int | np.integer)
    given = static_ints(indices_or_sections, "indices_or_sections")
    size = max(given[0], 0) if whole else len(given) + 1
    parts = call("split", [data], indices_or_sections=given[0] if whole else given, axis=int(axis))
    return TupleWrapper(parts, size)


# meshgrid


def _grid_axes(a: Attrs, count: int) -> list[int]:
    """The output axis along which each input varies."""
    axes = list(range(count))
    if one_of(a.indexing, ("ij", "xy"), "indexing") == "xy" and count > 1:
        axes[:2] = [1, 0]
    return axes


def _infer_meshgrid(a: Attrs, data: Type) -> Type:
    parts = fields(data, "data")
    axes = _grid_axes(a, len(parts))
    if not parts:
        raise TypeInferenceError("meshgrid needs at least one tensor, got an empty tuple")
    shape: list[Dim] = [1] * len(parts)
    for k, (part, axis) in enumerate(zip(parts, axes, strict=True)):
        if part.ndim > 1 or part.dtype != parts[0].dtype:
            raise TypeInferenceError(f"meshgrid takes scalars and vectors of one dtype; tensor {k} is {part}")
        shape[axis] = part.shape[0] if part.ndim else 1
    return TupleType([TensorType(shape, parts[0].dtype)] * len(parts))


def _grid(c: Context, k: int, *index: Index) -> Operand:
    view = c.args[k]
    return view(index[_grid_axes(c.attrs, len(index))[k]]) if view.shape else view()


def _cases_meshgrid(rng: np.random.Generator) -> Case:
    shapes = [small_shape(rng, 0, 2) for _ in range(rng.integers(1, 5))]
    return Case([shapes], {"indexing": str(rng.choice(["ij", "xy"]))})


@operator(
    "meshgrid",
    Fusion.INJECTIVE,
    _infer_meshgrid,
    lambda a, xs: list(np.meshgrid(*xs, indexing=a.indexing)),
    Map(_grid, several=True),
    cases=_cases_meshgrid,
    dtypes=_DTYPES,
)
def meshgrid(data: TupleLike, indexing: str = "ij") -> TupleWrapper:
    """Coordinate tensors of a grid: result `k` varies along one axis as vector `k`, and is constant along the others.

    Args:
        data: vectors or scalars of one dtype.
        indexing: "ij": vector `k` runs along axis `k`; "xy": the first two axes are exchanged.

    """
    argument = tuple_argument(data)
    size = tuple_size(argument, "meshgrid")
    return TupleWrapper(call("meshgrid", [argument], indexing=str(indexing)), size)


# tile and repeat


def _infer_tile(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    if any(r < 1 for r in a.reps):
        raise TypeInferenceError(f"reps must be positive, got {shown(a.reps)}")
    ndim = max(x.ndim, len(a.reps))
    shape = (1,) * (ndim - x.ndim) + x.shape
    reps = (1,) * (ndim - len(a.reps)) + a.reps
    return TensorType([as_dim(n * r) for n, r in zip(shape, reps, strict=True)], x.dtype)


def _tiled(c: Context, *index: Index) -> Operand:
    (view,) = c.args
    if 0 in view.shape:
        return constant(0, c.dtype)
    tail = index[len(index) - len(view.shape) :]
    return view(*(i % n for i, n in zip(tail, view.shape, strict=True)))


def _cases_tile(rng: np.random.Generator) -> Case:
    reps = [int(r) for r in rng.integers(1, 4, rng.integers(0, 4))]
    return Case([small_shape(rng, 0, 4)], {"reps": reps})


@operator(
    "tile",
    Fusion.INJECTIVE,
    _infer_tile,
    lambda a, x: np.tile(x, a.reps),
    Map(_tiled),
    cases=_cases_tile,
    dtypes=_DTYPES,
)
def tile(data: ExprLike, reps: int | Sequence[int]) -> Expr:
    """The whole tensor repeated along its axes.

    Args:
        data: tensor of any shape.
        reps: how often along each axis, all positive; the shorter one of `reps` and the shape is filled up with ones in
            front.

    """
    return call("tile", [data], reps=static_ints(reps, "reps"))


def _infer_repeat(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    if a.repeats < 1:
        raise TypeInferenceError(f"repeats must be positive, got {a.repeats}")
    if a.axis is None:
        return TensorType([as_dim(product(x.shape) * a.repeats)], x.dtype)
    axis = normalize_axis(a.axis, x.ndim)
    return TensorType((*x.shape[:axis], as_dim(x.shape[axis] * a.repeats), *x.shape[axis + 1 :]), x.dtype)


def _repeated(c: Context, *index: Index) -> Operand:
    (view,) = c.args
    if c.attrs.axis is None:
        return reshaped(view, (math.prod(view.shape),), (index[0] // c.attrs.repeats,))
    axis = normalize_axis(c.attrs.axis, len(index))
    return view(*index[:axis], index[axis] // c.attrs.repeats, *index[axis + 1 :])


def _cases_repeat(rng: np.random.Generator) -> Case:
    shape = small_shape(rng, 0, 4)
    axis = any_axis(rng, len(shape)) if shape and rng.random() < 0.8 else None
    return Case([shape], {"repeats": int(rng.integers(1, 5)), "axis": axis})


@operator(
    "repeat",
    Fusion.INJECTIVE,
    _infer_repeat,
    lambda a, x: np.repeat(x, a.repeats, a.axis),
    Map(_repeated),
    cases=_cases_repeat,
    dtypes=_DTYPES,
)
def repeat(data: ExprLike, repeats: int, axis: int | None = None) -> Expr:
    """Each element repeated on the spot.

    Args:
        data: tensor of any shape.
        repeats: how often, positive.
        axis: along which dimension; None: the elements in row-major order, as a vector.

    """
    return call("repeat", [data], repeats=int(repeats), axis=None if axis is None else int(axis))
