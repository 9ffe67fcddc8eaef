"""Operators that read, or overwrite, a regular part of a tensor: slices and reversals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.op import Attrs
from ..ir.scalar import Operand, all_of, apply, cast, clamped, select
from ..ir.types import TensorType, Type
from .arguments import IntsLike, integer_tensor, one_of, shown, static_ints
from .draw import any_axis, small_shape, with_indices
from .lowering import Context, Map
from .spec import EVERY, Array, Case, Fusion, normalize_axis, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8")
_TO_THE_END = 2**31 - 1
"""An end at or above this (and, going down, at or below its negative) means: up to the end, whatever the size."""


@frozen
class Range:
    """What a slice takes of one dimension: `size` elements from `start` on in steps of `step`."""

    start: int
    step: int
    size: Dim


# strided_slice


def _whole(begin: int, end: int, step: int, mode: str) -> bool:
    """Whether a slice surely takes a whole dimension of unknown size in ascending order."""
    return begin == 0 and (end == -1 if mode == "size" else end >= _TO_THE_END and step == 1)


def _range(begin: int, end: int, step: int, mode: str, size: Dim) -> Range:
    if step == 0 and mode == "end":
        raise TypeInferenceError("a stride of 0 is not possible")
    if not isinstance(size, int):
        if not _whole(begin, end, step, mode):
            raise TypeInferenceError(f"only the whole of a dimension of symbolic size {size} can be sliced")
        return Range(0, 1, size)
    if mode == "size":
        if end < -1:
            raise TypeInferenceError(f"with slice_mode='size', end holds sizes, or -1 for all that is left; got {end}")
        start = slice(begin, None).indices(size)[0]
        return Range(start, 1, size - start if end == -1 else min(end, size - start))
    taken = range(*slice(begin, end, step).indices(size))
    return Range(taken.start, step, len(taken))


def _ranges(a: Attrs, shape: Sequence[Dim]) -> list[Range]:
    """What a slice takes of each dimension."""
    mode = one_of(a.get("slice_mode", "end"), ("end", "size"), "slice_mode")
    given = a.get("axes")
    if given is None and len(a.begin) > len(shape):
        raise TypeInferenceError(f"begin={shown(a.begin)} is longer than the shape {shown(shape)}")
    axes = tuple(range(len(a.begin))) if given is None else tuple(normalize_axis(axis, len(shape)) for axis in given)
    strides = a.strides + (1,) * (len(a.begin) - len(a.strides))
    if not len(axes) == len(a.begin) == len(a.end) == len(strides) or len(set(axes)) != len(axes):
        raise TypeInferenceError(
            f"begin={shown(a.begin)}, end={shown(a.end)}, strides={shown(a.strides)} and axes={shown(axes)} "
            "must have one entry for each dimension that is sliced"
        )
    found = [Range(0, 1, size) for size in shape]
    for axis, begin, end, step in zip(axes, a.begin, a.end, strides, strict=True):
        found[axis] = _range(begin, end, step, mode, shape[axis])
    return found


def _infer_slice(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    return TensorType([r.size for r in _ranges(a, x.shape)], x.dtype)


def _sliced(c: Context, *index: Index) -> Operand:
    ranges = _ranges(c.attrs, c.args[0].shape)
    return c.args[0](*(i * r.step + r.start for i, r in zip(index, ranges, strict=True)))


def _slices(a: Attrs, x: Array) -> tuple[slice, ...]:
    slices = [slice(None)] * x.ndim
    axes = range(len(a.begin)) if a.get("axes") is None else a.axes
    for k, axis in enumerate(axes):
        step = a.strides[k] if k < len(a.strides) else 1
        slices[axis] = slice(a.begin[k], a.end[k], step)
        if a.get("slice_mode", "end") == "size":
            begin = a.begin[k] if a.begin[k] >= 0 else max(a.begin[k] + x.shape[axis], 0)
            slices[axis] = slice(begin, None if a.end[k] == -1 else begin + a.end[k])
    return tuple(slices)


def _bounds(rng: np.random.Generator, shape: Sequence[int]) -> dict[str, Any]:
    """Random begin, end and strides for the leading dimensions, inside and beyond the ends."""
    count = int(rng.integers(0, len(shape) + 1))
    begin = [int(rng.integers(-n - 2, n + 3)) for n in shape[:count]]
    ends = [int(rng.integers(-n - 2, n + 3)) for n in shape[:count]]
    end = [int(rng.choice([n, n, 2**31 - 1, -(2**31) + 1])) for n in ends]
    strides = [int(rng.choice([-3, -2, -1, 1, 1, 1, 2, 3])) for _ in range(count)]
    return {"begin": begin, "end": end, "strides": strides}


def _cases_slice(rng: np.random.Generator) -> Case:
    shape = small_shape(rng, 0, 6)
    attributes = _bounds(rng, shape)
    begin, kind = attributes["begin"], rng.random()
    if kind < 0.25:
        count = len(begin)
        axes = [int(k) for k in rng.permutation(len(shape))[:count]]
        # Bounds were drawn for other dimensions: some now lie further outside, which is welcome.
        attributes["axes"] = [k - len(shape) * int(rng.integers(2)) for k in axes]
    elif kind < 0.5:
        attributes["slice_mode"] = "size"
        attributes["end"] = [int(rng.integers(-1, n + 2)) for n in shape[: len(begin)]]
    elif kind < 0.65:
        attributes["strides"] = None if rng.random() < 0.5 else attributes["strides"][:1]
    return Case([shape], attributes)


@operator(
    "strided_slice",
    Fusion.INJECTIVE,
    _infer_slice,
    lambda a, x: x[_slices(a, x)],
    Map(_sliced),
    cases=_cases_slice,
    dtypes=_DTYPES,
)
def strided_slice(
    data: ExprLike,
    begin: IntsLike,
    end: IntsLike,
    strides: IntsLike | None = None,
    axes: Sequence[int] | None = None,
    slice_mode: str = "end",
) -> Expr:
    """`data[begin[0]:end[0]:strides[0], begin[1]:end[1]:strides[1], ...]` with Python's rules for slices.

    Args:
        data: tensor of any shape. A dimension of symbolic size can only be taken as a whole.
        begin: where each slice begins; negative counts from the end, numbers beyond the ends are clamped.
        end: where each slice ends (not included); 2**31-1 always means the end.
        strides: steps, none of them 0, filled up with ones; None: all 1.
        axes: the dimensions that are sliced; None: the first ones.
        slice_mode: "size": `end` holds the sizes of the slices, -1 meaning all that is left, and `strides` is ignored.

    """
    begins = static_ints(begin, "begin")
    attributes: dict[str, Any] = {
        "begin": begins,
        "end": static_ints(end, "end"),
        "strides": (1,) * len(begins) if strides is None else static_ints(strides, "strides"),
        "slice_mode": str(slice_mode),
        "axes": None if axes is None else static_ints(axes, "axes"),
    }
    return call("strided_slice", [data], **attributes)


# strided_set


def _infer_set(a: Attrs, data: Type, v: Type) -> Type:
    x, values = tensor(data, "data"), tensor(v, "v")
    part = TensorType([r.size for r in _ranges(a, x.shape)], x.dtype)
    if values != part:
        raise TypeInferenceError(f"v must have the type of the slice that it replaces: expected {part}, got {values}")
    return x


def _hits(i: Index, r: Range) -> tuple[Index, list[Any]]:
    """The place within a slice of place `i` of the dimension, and the conditions for there being one."""
    ahead = i - r.start if r.step > 0 else as_index(r.start) - i
    step = abs(r.step)
    place = ahead // step
    return place, [apply("ge", ahead, 0), apply("eq", ahead % step, 0), apply("lt", place, r.size)]


def _with_set(c: Context, *index: Index) -> Operand:
    if 0 in c.args[1].shape:
        return c.args[0](*index)
    hits = [_hits(i, r) for i, r in zip(index, _ranges(c.attrs, c.shape), strict=True)]
    condition = all_of([test for _, tests in hits for test in tests])
    return select(condition, c.args[1](*(place for place, _ in hits)), c.args[0](*index))


def _reference_set(a: Attrs, x: Array, v: Array) -> Array:
    result = np.array(x)
    result[_slices(a, x)] = v
    return result


def _cases_set(rng: np.random.Generator) -> Case:
    shape = small_shape(rng)
    attributes = _bounds(rng, shape)
    slices = map(slice, attributes["begin"], attributes["end"], attributes["strides"])
    sizes = [len(range(*s.indices(n))) for s, n in zip(slices, shape, strict=False)]
    return Case([shape, (*sizes, *shape[len(sizes) :])], attributes)


@operator(
    "strided_set",
    Fusion.INJECTIVE,
    _infer_set,
    _reference_set,
    Map(_with_set),
    cases=_cases_set,
    dtypes=_DTYPES,
)
def strided_set(data: ExprLike, v: ExprLike, begin: IntsLike, end: IntsLike, strides: IntsLike | None = None) -> Expr:
    """`data` with the slice `begin:end:strides` replaced by `v`.

    Args:
        data: tensor of any shape.
        v: tensor of the dtype of `data` and the shape of the slice.
        begin: as for `strided_slice`, known when the graph is built.
        end: as for `strided_slice`.
        strides: as for `strided_slice`.

    """
    begins = static_ints(begin, "begin")
    steps = (1,) * len(begins) if strides is None else static_ints(strides, "strides")
    bounds = {"begin": begins, "end": static_ints(end, "end"), "strides": steps}
    return call("strided_set", [data, v], **bounds)


# slice_like


def _infer_slice_like(a: Attrs, data: Type, shape_like: Type) -> Type:
    x, like = tensor(data, "data"), tensor(shape_like, "shape_like")
    shape = list(x.shape)
    if a.axes is None and like.ndim > x.ndim:
        raise TypeInferenceError(f"shape_like has more dimensions than data: {like} and {x}")
    for axis in range(like.ndim) if a.axes is None else a.axes:
        k, source = normalize_axis(axis, x.ndim), normalize_axis(axis, like.ndim)
        have, want = shape[k], like.shape[source]
        if isinstance(have, int) and isinstance(want, int) and want > have:
            raise TypeInferenceError(f"dimension {k} of {x} cannot be sliced to {want}, its size in shape_like")
        shape[k] = want
    return TensorType(shape, x.dtype)


def _reference_slice_like(a: Attrs, x: Array, like: Array) -> Array:
    for axis in range(like.ndim) if a.axes is None else a.axes:
        x = np.take(x, np.arange(like.shape[axis]), axis)
    return x


def _cases_slice_like(rng: np.random.Generator) -> Case:
    shape = small_shape(rng)
    like = tuple(int(rng.integers(0, n + 1)) for n in shape)
    if rng.random() < 0.3:
        return Case([shape, like[: rng.integers(0, len(like) + 1)]])
    axes = [k - len(shape) * int(rng.integers(2)) for k in range(len(shape)) if rng.random() < 0.5]
    return Case([shape, like], {"axes": axes if rng.random() < 0.7 else None})


@operator(
    "slice_like",
    Fusion.INJECTIVE,
    _infer_slice_like,
    _reference_slice_like,
    Map(lambda c, *index: c.args[0](*index)),
    cases=_cases_slice_like,
    dtypes=_DTYPES,
)
def slice_like(data: ExprLike, shape_like: ExprLike, axes: Sequence[int] | None = None) -> Expr:
    """The leading part of `data`, as large as another tensor.

    Args:
        data: tensor of any shape.
        shape_like: tensor of whose type only the shape is used; nowhere larger than `data`.
        axes: the dimensions that are cut; negative ones count from the end of each tensor. None: all of `shape_like`.

    """
    return call("slice_like", [data, shape_like], axes=None if axes is None else static_ints(axes, "axes"))


# reverse and reverse_sequence


def _infer_reverse(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    normalize_axis(a.axis, x.ndim)
    return x


def _reversed(c: Context, *index: Index) -> Operand:
    axis = normalize_axis(c.attrs.axis, len(index))
    return c.args[0](*index[:axis], c.shape[axis] - 1 - index[axis], *index[axis + 1 :])


def _cases_reverse(rng: np.random.Generator) -> Case:
    shape = small_shape(rng, 1)
    return Case([shape], {"axis": any_axis(rng, len(shape))})


@operator(
    "reverse",
    Fusion.INJECTIVE,
    _infer_reverse,
    lambda a, x: np.flip(x, a.axis),
    Map(_reversed),
    cases=_cases_reverse,
    dtypes=_DTYPES,
)
def reverse(data: ExprLike, axis: int) -> Expr:
    """The elements along dimension `axis` in reverse order.

    Args:
        data: tensor with at least one dimension.
        axis: the dimension; negative counts from the end.

    """
    return call("reverse", [data], axis=int(axis))


def _sequence_axes(a: Attrs, ndim: int) -> tuple[int, int]:
    axes = normalize_axis(a.seq_axis, ndim), normalize_axis(a.batch_axis, ndim)
    if axes[0] == axes[1]:
        raise TypeInferenceError(f"seq_axis={a.seq_axis} and batch_axis={a.batch_axis} must differ")
    return axes


def _infer_sequence(a: Attrs, data: Type, seq_lengths: Type) -> Type:
    x, lengths = tensor(data, "data"), integer_tensor(seq_lengths, "seq_lengths")
    _, batch = _sequence_axes(a, x.ndim)
    if lengths.shape != (x.shape[batch],):
        raise TypeInferenceError(f"seq_lengths must be a vector of {x.shape[batch]} lengths, got {lengths}")
    return x


def _reversed_sequence(c: Context, *index: Index) -> Operand:
    seq, batch = _sequence_axes(c.attrs, len(index))
    place, n = cast(index[seq], "int64"), c.shape[seq]
    length = apply("min", cast(c.args[1](index[batch]), "int64"), n)
    source = select(apply("lt", place, length), length - 1 - place, place)
    return c.args[0](*index[:seq], clamped(source, n), *index[seq + 1 :])


def _reference_sequence(a: Attrs, x: Array, lengths: Array) -> Array:
    result = np.moveaxis(x.copy(), (a.batch_axis, a.seq_axis), (0, 1))
    for row, length in zip(result, lengths, strict=True):
        n = min(max(int(length), 0), len(row))
        row[:n] = row[:n][::-1].copy()
    return np.moveaxis(result, (0, 1), (a.batch_axis, a.seq_axis))


def _cases_sequence(rng: np.random.Generator) -> Case:
    shape = small_shape(rng, 2)
    seq, batch = (int(k) - len(shape) * int(rng.integers(2)) for k in rng.permutation(len(shape))[:2])
    shapes, dtype = [shape, (shape[batch],)], str(rng.choice(["int32", "int64"]))
    values = with_indices(shapes, lambda rng: rng.integers(-1, shape[seq] + 3, shape[batch]), dtype=dtype)
    return Case(shapes, {"seq_axis": seq, "batch_axis": batch}, [None, dtype], values=values)


@operator(
    "reverse_sequence",
    Fusion.INJECTIVE,
    _infer_sequence,
    _reference_sequence,
    Map(_reversed_sequence),
    cases=_cases_sequence,
    dtypes=_DTYPES,
)
def reverse_sequence(data: ExprLike, seq_lengths: ExprLike, seq_axis: int = 1, batch_axis: int = 0) -> Expr:
    """The first `seq_lengths[b]` elements along `seq_axis` in reverse order, for each `b` along `batch_axis`.

    Args:
        data: tensor with at least two dimensions.
        seq_lengths: integer vector with a length for each `b`; lengths are clamped to the size of the dimension.
        seq_axis: the dimension that is reversed.
        batch_axis: the dimension that the lengths belong to.

    """
    return call("reverse_sequence", [data, seq_lengths], seq_axis=int(seq_axis), batch_axis=int(batch_axis))
