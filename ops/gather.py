"""Operators that read a tensor at places that another tensor holds: take, gather, gather_nd and one_hot.

No place read from a tensor can lead outside of a buffer: it is clamped, after negative places were counted from the end
where the operator says so.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, as_expr, call, const
from ..ir.index import Dim, Index, product
from ..ir.op import Attrs
from ..ir.scalar import Operand, Scalar, apply, as_position, cast, clamped, select
from ..ir.types import TensorType, Type, check_dtype
from .arguments import integer_tensor, one_of, shown
from .draw import any_axis, small_shape, with_indices
from .lowering import Context, Map
from .reshape import reshaped
from .spec import EVERY, Array, Case, Fusion, normalize_axis, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8")
INDEX_DTYPES = ("int32", "int64", "int8", "uint8", "int16", "uint32")
"""Dtypes of indices that sample uses draw from."""


def from_end(value: Scalar, extent: int) -> Index:
    """An integer value as a place in a dimension: negative ones count from the end, and what is outside is clamped."""
    wide = cast(value, "int64")
    return clamped(select(apply("lt", wide, 0), wide + extent, wide), extent)


def reference_from_end(places: Array, extent: int) -> Array:
    """What `from_end` does, on arrays."""
    wide = places.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + extent, wide), 0, max(extent - 1, 0))


def check_not_empty(places: Sequence[Dim], data: Sequence[Dim], axes: Sequence[int]) -> None:
    """TypeInferenceError if there are places to look up in a dimension of size 0."""
    if product(places) != 0 and any(data[axis] == 0 for axis in axes):
        raise TypeInferenceError(f"there is nothing to find in an empty dimension: data has shape {shown(data)}")


def draw_places(rng: np.random.Generator, shape: Sequence[int], extent: int, dtype: str) -> Array:
    """Random places in a dimension of size `extent`, some of them negative or outside (as far as `dtype` has them)."""
    low = 0 if dtype.startswith("u") else -extent - 2
    return rng.integers(low, extent + 3, tuple(shape)).astype(dtype)


# take


def _take_axes(a: Attrs, data: Sequence[Dim], indices: Sequence[Dim]) -> tuple[int, int]:
    """`axis` and `batch_dims`, checked."""
    axis = normalize_axis(a.axis, len(data))
    batch = a.batch_dims + (len(indices) if a.batch_dims < 0 else 0)
    if not 0 <= batch <= min(axis, len(indices)):
        raise TypeInferenceError(
            f"batch_dims={a.batch_dims} must lie in 0..{min(axis, len(indices))}, "
            "as it can exceed neither axis nor the rank of indices"
        )
    if tuple(data[:batch]) != tuple(indices[:batch]):
        raise TypeInferenceError(
            f"the first {batch} dimensions of data {shown(data)} and indices {shown(indices)} must agree"
        )
    return axis, batch


def _infer_take(a: Attrs, data: Type, indices: Type) -> Type:
    x, places = tensor(data, "data"), integer_tensor(indices, "indices")
    one_of(a.mode, ("clip", "wrap", "fast"), "mode")
    if a.axis is None:
        if a.batch_dims != 0:
            raise TypeInferenceError(f"batch_dims={a.batch_dims} needs an axis")
        check_not_empty(places.shape, (product(x.shape),), (0,))
        return TensorType(places.shape, x.dtype)
    axis, batch = _take_axes(a, x.shape, places.shape)
    check_not_empty(places.shape, x.shape, (axis,))
    return TensorType((*x.shape[:axis], *places.shape[batch:], *x.shape[axis + 1 :]), x.dtype)


def _place(value: Scalar, extent: int, mode: str) -> Index:
    if mode == "wrap":
        return as_position(apply("floormod", cast(value, "int64"), extent), 0, max(extent - 1, 0))
    # "fast" promises places inside of the dimension; a broken promise shall not read foreign memory.
    return clamped(value, extent)


def _taken(c: Context, *index: Index) -> Operand:
    data, indices = c.args
    if c.attrs.axis is None:
        size = int(np.prod(data.shape, dtype=np.int64))
        return reshaped(data, (size,), (_place(indices(*index), size, c.attrs.mode),))
    axis, batch = _take_axes(c.attrs, data.shape, indices.shape)
    behind = axis + len(indices.shape) - batch
    value = indices(*index[:batch], *index[axis:behind])
    return data(*index[:axis], _place(value, data.shape[axis], c.attrs.mode), *index[behind:])


def _reference_take(a: Attrs, x: Array, places: Array) -> Array:
    places, axis = places.astype(np.int64), a.axis
    mode: Literal["wrap", "clip"] = "wrap" if a.mode == "wrap" else "clip"
    batch = a.batch_dims + (places.ndim if a.batch_dims < 0 else 0)
    if axis is None:
        return np.asarray(np.take(x.reshape(-1), places, mode=mode))
    axis = axis % x.ndim - batch
    shape = x.shape[: axis + batch] + places.shape[batch:] + x.shape[axis + batch + 1 :]
    result = np.empty(shape, x.dtype)
    for b in np.ndindex(places.shape[:batch]):
        result[b] = np.take(x[b], places[b], axis, mode=mode)
    return result


def _cases_take(rng: np.random.Generator) -> Case:
    dtype, mode = str(rng.choice(INDEX_DTYPES)), str(rng.choice(["clip", "wrap", "fast"]))
    data, more = small_shape(rng, 1), small_shape(rng, 0, 3)
    axis, batch = any_axis(rng, len(data)), 0
    if rng.random() < 0.4:
        batch = int(rng.integers(0, axis % len(data) + 1))
    indices = (*data[:batch], *more)
    flat = batch == 0 and rng.random() < 0.2
    extent = int(np.prod(data)) if flat else data[axis]
    if extent == 0:
        indices = (*indices, 0)
    attributes = {
        "axis": None if flat else axis,
        "batch_dims": batch - len(indices) if batch and rng.random() < 0.4 and batch < len(indices) else batch,
        "mode": mode,
    }

    def places(rng: np.random.Generator) -> Array:
        if mode == "fast" and extent:
            return rng.integers(0, extent, indices)
        return draw_places(rng, indices, extent, dtype)

    shapes = [data, indices]
    return Case(shapes, attributes, [None, dtype], values=with_indices(shapes, places, dtype=dtype))


@operator(
    "take",
    Fusion.INJECTIVE,
    _infer_take,
    _reference_take,
    Map(_taken),
    cases=_cases_take,
    dtypes=_DTYPES,
)
def take(data: ExprLike, indices: ExprLike, axis: int | None = None, batch_dims: int = 0, mode: str = "clip") -> Expr:
    """The slices of `data` along `axis` at the places in `indices`.

    Args:
        data: tensor of any shape.
        indices: integer tensor; its dimensions take the place of dimension `axis` in the result.
        axis: the dimension; None: `data` as one vector.
        batch_dims: so many leading dimensions of `data` and `indices` go together.
        mode: for places outside of the dimension, "clip": the nearest one inside; "wrap": counted round and round;
            "fast": there are none (if there are, they are clipped).

    """
    attributes = {"batch_dims": int(batch_dims), "axis": None if axis is None else int(axis), "mode": str(mode)}
    return call("take", [data, indices], **attributes)


# gather


def _infer_gather(a: Attrs, data: Type, indices: Type) -> Type:
    x, places = tensor(data, "data"), integer_tensor(indices, "indices")
    axis = normalize_axis(a.axis, x.ndim)
    if places.ndim != x.ndim:
        raise TypeInferenceError(f"indices must have as many dimensions as data: got {places} and {x}")
    for d, (n, m) in enumerate(zip(x.shape, places.shape, strict=True)):
        fits = m <= n if isinstance(n, int) and isinstance(m, int) else m == n
        if d != axis and not fits:
            raise TypeInferenceError(f"dimension {d} of indices is {m}, expected at most {n} as in data")
    check_not_empty(places.shape, x.shape, (axis,))
    return TensorType(places.shape, x.dtype)


def _gathered(c: Context, *index: Index) -> Operand:
    data, indices = c.args
    axis = normalize_axis(c.attrs.axis, len(index))
    place = from_end(indices(*index), data.shape[axis])
    return data(*index[:axis], place, *index[axis + 1 :])


def _reference_gather(a: Attrs, x: Array, places: Array) -> Array:
    axis = a.axis % x.ndim
    part = x[tuple(slice(None) if d == axis else slice(n) for d, n in enumerate(places.shape))]
    if 0 in places.shape:
        return np.empty(places.shape, x.dtype)
    return np.take_along_axis(part, reference_from_end(places, x.shape[axis]), axis)


def _cases_gather(rng: np.random.Generator) -> Case:
    data, dtype = small_shape(rng, 1), str(rng.choice(INDEX_DTYPES))
    axis = any_axis(rng, len(data))
    indices = list(data) if rng.random() < 0.5 else [int(rng.integers(0, n + 1)) for n in data]
    indices[axis] = int(rng.integers(0, 6)) if data[axis] else 0
    shapes = [data, tuple(indices)]
    values = with_indices(shapes, lambda rng: draw_places(rng, indices, data[axis], dtype), dtype=dtype)
    return Case(shapes, {"axis": axis}, [None, dtype], values=values)


@operator(
    "gather",
    Fusion.INJECTIVE,
    _infer_gather,
    _reference_gather,
    Map(_gathered),
    cases=_cases_gather,
    dtypes=_DTYPES,
)
def gather(data: ExprLike, axis: int, indices: ExprLike) -> Expr:
    """`out[i, j, k] = data[i, indices[i, j, k], k]` (for axis 1), as `np.take_along_axis` and torch.gather.

    Args:
        data: tensor with at least one dimension.
        axis: the dimension that `indices` point into.
        indices: integer tensor of the rank of `data`, no larger than it in the other dimensions. Negative places count
            from the end; places outside are clamped.

    """
    return call("gather", [data, indices], axis=int(axis))


# gather_nd


def _nd_parts(a: Attrs, data: Sequence[Dim], indices: Sequence[Dim]) -> tuple[int, int]:
    """How many dimensions the places address (the first size of indices), and `batch_dims`, checked."""
    if not indices or not isinstance(indices[0], int):
        raise TypeInferenceError(f"indices must have a known first dimension, got shape {shown(indices)}")
    count, batch = indices[0], a.batch_dims
    if a.index_rank not in (None, count):
        raise TypeInferenceError(f"index_rank={a.index_rank}, but the first dimension of indices is {count}")
    if not 0 <= batch < len(indices) or batch + count > len(data):
        raise TypeInferenceError(
            f"indices of shape {shown(indices)} address {count} dimensions after batch_dims={batch}; "
            f"data has shape {shown(data)}"
        )
    if tuple(data[:batch]) != tuple(indices[1 : batch + 1]):
        raise TypeInferenceError(
            f"the first {batch} dimensions of data {shown(data)} and indices[0] {shown(indices[1:])} must agree"
        )
    return count, batch


def _infer_gather_nd(a: Attrs, data: Type, indices: Type) -> Type:
    x, places = tensor(data, "data"), integer_tensor(indices, "indices")
    count, batch = _nd_parts(a, x.shape, places.shape)
    check_not_empty(places.shape, x.shape, range(batch, batch + count))
    return TensorType((*places.shape[1:], *x.shape[batch + count :]), x.dtype)


def _gathered_nd(c: Context, *index: Index) -> Operand:
    data, indices = c.args
    count, batch = _nd_parts(c.attrs, data.shape, indices.shape)
    split = len(indices.shape) - 1
    found = [from_end(indices(m, *index[:split]), data.shape[batch + m]) for m in range(count)]
    return data(*index[:batch], *found, *index[split:])


def _reference_gather_nd(a: Attrs, x: Array, places: Array) -> Array:
    count, batch = len(places), a.batch_dims
    result = np.empty(places.shape[1:] + x.shape[batch + count :], x.dtype)
    for b in np.ndindex(places.shape[1 : batch + 1]):
        result[b] = x[b][tuple(reference_from_end(places[(m, *b)], x.shape[batch + m]) for m in range(count))]
    return result


def draw_nd_places(
    rng: np.random.Generator, data: Sequence[int], indices: Sequence[int], batch: int, dtype: str
) -> Array:
    """Random places of `len(indices[0])` dimensions, stacked along the first axis."""
    rows = [draw_places(rng, indices[1:], data[batch + m], dtype) for m in range(indices[0])]
    return np.array(rows, dtype).reshape(tuple(indices))


def _cases_gather_nd(rng: np.random.Generator) -> Case:
    data, dtype = small_shape(rng), str(rng.choice(INDEX_DTYPES))
    batch = int(rng.integers(0, len(data) + 1)) if rng.random() < 0.5 else 0
    count = int(rng.integers(0, len(data) - batch + 1))
    indices = (count, *data[:batch], *small_shape(rng, 0, 3))
    if 0 in data[batch : batch + count]:
        indices = (*indices, 0)
    shapes, attributes = [data, indices], {"batch_dims": batch, "index_rank": count if rng.random() < 0.2 else None}
    values = with_indices(shapes, lambda rng: draw_nd_places(rng, data, indices, batch, dtype), dtype=dtype)
    return Case(shapes, attributes, [None, dtype], values=values)


@operator(
    "gather_nd",
    Fusion.INJECTIVE,
    _infer_gather_nd,
    _reference_gather_nd,
    Map(_gathered_nd),
    cases=_cases_gather_nd,
    dtypes=_DTYPES,
)
def gather_nd(data: ExprLike, indices: ExprLike, batch_dims: int = 0, index_rank: int | None = None) -> Expr:
    """`out[y, ...] = data[indices[0, y], indices[1, y], ..., indices[m-1, y], ...]` for every index `y`.

    Args:
        data: tensor of any shape.
        indices: integer tensor (m, Y...): the first dimension runs over the dimensions of `data` that are addressed.
            Negative places count from the end; places outside are clamped.
        batch_dims: so many leading dimensions of `data` and of Y go together, and are not addressed.
        index_rank: m, where given.

    """
    rank = None if index_rank is None else int(index_rank)
    return call("gather_nd", [data, indices], batch_dims=int(batch_dims), index_rank=rank)


# one_hot


def _infer_one_hot(a: Attrs, indices: Type, on_value: Type, off_value: Type) -> Type:
    places = integer_tensor(indices, "indices")
    for type_, what in ((on_value, "on_value"), (off_value, "off_value")):
        if tensor(type_, what).shape != ():
            raise TypeInferenceError(f"{what} must be a scalar, got {type_}")
    if a.depth < 0:
        raise TypeInferenceError(f"depth must not be negative, got {a.depth}")
    axis = normalize_axis(a.axis, places.ndim + 1)
    return TensorType((*places.shape[:axis], a.depth, *places.shape[axis:]), check_dtype(a.dtype))


def _hot(c: Context, *index: Index) -> Operand:
    indices, on, off = c.args
    axis = normalize_axis(c.attrs.axis, len(index))
    wanted = cast(indices(*index[:axis], *index[axis + 1 :]), "int64")
    hit = apply("eq", wanted, cast(index[axis], "int64"))
    return select(hit, cast(on(), c.dtype), cast(off(), c.dtype))


def _reference_one_hot(a: Attrs, places: Array, on: Array, off: Array) -> Array:
    axis = a.axis % (places.ndim + 1)
    depths = np.arange(a.depth).reshape([-1 if d == axis else 1 for d in range(places.ndim + 1)])
    return np.where(np.expand_dims(places, axis) == depths, on, off).astype(a.dtype)


def _complete_one_hot(a: Attrs, *types: Type | None) -> list[Type | None]:
    scalar = TensorType((), a.dtype)
    return [types[0], *(type_ or scalar for type_ in types[1:])]


def _cases_one_hot(rng: np.random.Generator) -> Case:
    shape, depth = small_shape(rng, 0, 4), int(rng.integers(0, 7))
    out = str(rng.choice(["float32", "float16", "int32", "int8", "bool"]))
    attributes = {"depth": depth, "axis": any_axis(rng, len(shape) + 1), "dtype": out}

    def values(rng: np.random.Generator, tested: str) -> list[Array]:
        scalars = [np.asarray(rng.integers(-3, 4) if out != "bool" else rng.random() < 0.5).astype(out) for _ in "ab"]
        return [draw_places(rng, shape, depth, tested), *scalars]

    return Case([shape, (), ()], attributes, [None, out, out], values=values)


@operator(
    "one_hot",
    Fusion.INJECTIVE,
    _infer_one_hot,
    _reference_one_hot,
    Map(_hot),
    cases=_cases_one_hot,
    dtypes=INDEX_DTYPES,
    complete=_complete_one_hot,
)
def one_hot(
    indices: ExprLike, on_value: ExprLike, off_value: ExprLike, depth: int, axis: int = -1, dtype: str = "float32"
) -> Expr:
    """A new dimension of size `depth`: `on_value` at the place that `indices` says, `off_value` elsewhere.

    Args:
        indices: integer tensor; a place outside of 0..depth-1 gives `off_value` everywhere.
        on_value: a scalar.
        off_value: a scalar.
        depth: size of the new dimension.
        axis: where it goes; -1: behind the last dimension.
        dtype: dtype of the result.

    """
    scalars: list[Any] = [v if isinstance(v, Expr) else const(v, dtype) for v in (on_value, off_value)]
    return call("one_hot", [as_expr(indices), *scalars], depth=int(depth), axis=int(axis), dtype=check_dtype(dtype))
