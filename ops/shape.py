"""Operators that see the same elements under another shape or order of axes, and those that ask for a shape."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_dim, as_index, product
from ..ir.op import Attrs
from ..ir.scalar import Operand, apply, constant, select
from ..ir.types import INTEGERS, MOST_DIMENSIONS, TensorType, Type, check_dtype
from .arguments import IntsLike, divisible, shown, static_ints
from .draw import any_axis, small_shape
from .layout import Layout
from .lowering import Context, Map, broadcast_read
from .spec import EVERY, Array, Case, Fusion, normalize_axis, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8")


# transpose


def _order(a: Attrs, ndim: int) -> tuple[int, ...]:
    if a.axes is None:
        return tuple(reversed(range(ndim)))
    order = tuple(normalize_axis(axis, ndim) for axis in a.axes)
    if sorted(order) != list(range(ndim)):
        raise TypeInferenceError(f"axes={shown(a.axes)} must name each of the {ndim} dimensions once")
    return order


def _infer_transpose(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    return TensorType([x.shape[axis] for axis in _order(a, x.ndim)], x.dtype)


def _transposed(c: Context, *index: Index) -> Operand:
    order = _order(c.attrs, len(index))
    return c.args[0](*(index[order.index(axis)] for axis in range(len(index))))


def _cases_transpose(rng: np.random.Generator) -> Case:
    shape = small_shape(rng, 0, 6)
    axes: list[int] | None = [int(p) - len(shape) * int(rng.integers(2)) for p in rng.permutation(len(shape))]
    return Case([shape], {"axes": axes if rng.random() < 0.8 else None})


@operator(
    "transpose",
    Fusion.INJECTIVE,
    _infer_transpose,
    lambda a, x: np.transpose(x, a.axes),
    Map(_transposed),
    cases=_cases_transpose,
    dtypes=_DTYPES,
)
def transpose(data: ExprLike, axes: Sequence[int] | None = None) -> Expr:
    """The dimensions in another order: dimension `k` of the result is dimension `axes[k]` of `data`.

    Args:
        data: tensor of any shape.
        axes: a permutation of the dimensions, negative ones counted from the end; None: reversed.

    """
    return call("transpose", [data], axes=None if axes is None else static_ints(axes, "axes"))


# expand_dims and squeeze


def _infer_expand(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    if not 0 <= a.num_newaxis <= MOST_DIMENSIONS:
        raise TypeInferenceError(f"num_newaxis is {a.num_newaxis}, expected 0 to {MOST_DIMENSIONS}")
    place = normalize_axis(a.axis, x.ndim + 1)
    return TensorType(x.shape[:place] + (1,) * a.num_newaxis + x.shape[place:], x.dtype)


def _expanded(c: Context, *index: Index) -> Operand:
    place = normalize_axis(c.attrs.axis, len(c.args[0].shape) + 1)
    return c.args[0](*index[:place], *index[place + c.attrs.num_newaxis :])


def _reference_expand(a: Attrs, x: Array) -> Array:
    place = a.axis if a.axis >= 0 else a.axis + x.ndim + 1
    return np.expand_dims(x, tuple(range(place, place + a.num_newaxis)))


def _cases_expand(rng: np.random.Generator) -> Case:
    shape = small_shape(rng)
    return Case([shape], {"axis": any_axis(rng, len(shape) + 1), "num_newaxis": int(rng.integers(0, 3))})


@operator(
    "expand_dims",
    Fusion.BROADCAST,
    _infer_expand,
    _reference_expand,
    Map(_expanded),
    cases=_cases_expand,
    dtypes=_DTYPES,
)
def expand_dims(data: ExprLike, axis: int, num_newaxis: int = 1) -> Expr:
    """`num_newaxis` new dimensions of size 1 in front of dimension `axis`.

    Args:
        data: tensor of any shape with n dimensions.
        axis: -n-1..n; a negative place counts from the end, -1 being behind the last dimension.
        num_newaxis: how many dimensions to insert; 0 gives `data` unchanged.

    """
    return call("expand_dims", [data], axis=int(axis), num_newaxis=int(num_newaxis))


def _dropped(a: Attrs, shape: Sequence[Dim]) -> set[int]:
    if a.axis is None:
        return {k for k, dim in enumerate(shape) if dim == 1}
    dropped = [normalize_axis(axis, len(shape)) for axis in a.axis]
    if len(set(dropped)) != len(dropped):
        raise TypeInferenceError(f"axis={shown(a.axis)} names a dimension twice")
    for k in dropped:
        if shape[k] != 1:
            raise TypeInferenceError(f"dimension {k} of {shown(shape)} cannot be squeezed: expected size 1")
    return set(dropped)


def _infer_squeeze(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    dropped = _dropped(a, x.shape)
    return TensorType([dim for k, dim in enumerate(x.shape) if k not in dropped], x.dtype)


def _squeezed(c: Context, *index: Index) -> Operand:
    dropped, rest = _dropped(c.attrs, c.args[0].shape), iter(index)
    return c.args[0](*(as_index(0) if k in dropped else next(rest) for k in range(len(c.args[0].shape))))


def _cases_squeeze(rng: np.random.Generator) -> Case:
    shape = tuple(int(n) for n in rng.choice([1, 1, 2, 5], rng.integers(0, 6)))
    ones = [k - len(shape) * int(rng.integers(2)) for k, n in enumerate(shape) if n == 1]
    axis: Any = [k for k in ones if rng.random() < 0.6]
    return Case([shape], {"axis": None if rng.random() < 0.3 else axis[0] if len(axis) == 1 else axis})


@operator(
    "squeeze",
    Fusion.INJECTIVE,
    _infer_squeeze,
    lambda a, x: np.squeeze(x, a.axis),
    Map(_squeezed),
    cases=_cases_squeeze,
    dtypes=_DTYPES,
)
def squeeze(data: ExprLike, axis: int | Sequence[int] | None = None) -> Expr:
    """Without dimensions of size 1.

    Args:
        data: tensor of any shape.
        axis: the dimensions to drop, each of size 1; None: every dimension known to have size 1.

    """
    return call("squeeze", [data], axis=None if axis is None else static_ints(axis, "axis"))


# layout_transform


def _layouts(a: Attrs) -> tuple[Layout, Layout]:
    src, dst = Layout.parse(a.src_layout), Layout.parse(a.dst_layout)
    if not src.same_axes(dst):
        raise TypeInferenceError(f"layouts {src} and {dst} name different axes")
    return src, dst


def _infer_layout(a: Attrs, data: Type) -> Type:
    x, (src, dst) = tensor(data, "data"), _layouts(a)
    sizes = src.unpack_shape(x.shape)
    for axis, size in sizes.items():
        if not divisible(size, dst.block(axis)):
            raise TypeInferenceError(
                f"axis {axis} of size {size} cannot be cut into blocks of {dst.block(axis)} as layout {dst} says"
            )
    return TensorType(dst.pack_shape(sizes), x.dtype)


def _relaid(c: Context, *index: Index) -> Operand:
    src, dst = _layouts(c.attrs)
    return c.args[0](*src.pack(dst.unpack(index)))


def _places(layout: Layout) -> list[int]:
    """The dimensions of a layout by axis (in the alphabet's order), and within an axis from the most significant."""
    return sorted(range(layout.ndim), key=lambda k: (layout.parts[k].axis, -layout.parts[k].stride, k))


def _reference_layout(a: Attrs, x: Array) -> Array:
    src, dst = _layouts(a)
    whole, by_axis = src.unpack_shape(x.shape), _places(dst)
    packed = dst.pack_shape(whole)
    apart = x.transpose(_places(src)).reshape([int(str(packed[k])) for k in by_axis])
    return apart.transpose(np.argsort(by_axis))


_LAYOUTS = (
    ("NCHW", "NHWC", (2, 3, 4, 5)),
    ("NHWC", "NCHW", (2, 4, 5, 3)),
    ("NCHW", "NCHW4c", (2, 8, 3, 5)),
    ("NCHW16c", "NCHW", (1, 2, 3, 2, 16)),
    ("NCHW4c", "NCHW8c", (2, 4, 3, 1, 4)),
    ("NCHW8c", "NHWC", (2, 2, 3, 4, 8)),
    ("OIHW", "OIHW4i8o", (16, 8, 3, 3)),
    ("OIHW8i16o", "HWIO", (1, 2, 3, 2, 8, 16)),
    ("OIHW", "OIHW4i4o2i", (8, 16, 1, 3)),
    ("NCHW", "CN2cHW", (3, 6, 1, 2)),
    ("NW", "WN", (0, 3)),
    ("C", "C", (5,)),
    ("NCDHW", "NDHWC", (2, 3, 2, 1, 4)),
)


def _cases_layout(rng: np.random.Generator) -> Case:
    src, dst, shape = _LAYOUTS[rng.integers(len(_LAYOUTS))]
    return Case([shape], {"src_layout": src, "dst_layout": dst})


@operator(
    "layout_transform",
    Fusion.INJECTIVE,
    _infer_layout,
    _reference_layout,
    Map(_relaid),
    cases=_cases_layout,
    dtypes=_DTYPES,
)
def layout_transform(data: ExprLike, src_layout: str, dst_layout: str) -> Expr:
    """The same tensor in another layout, e.g. from "NCHW" to "NCHW16c".

    Args:
        data: tensor in layout `src_layout`.
        src_layout: capital letters name axes, a number with a small letter a block split off that axis.
        dst_layout: the same axes, in another order or with other blocks.

    Raises:
        TypeInferenceError: a layout is malformed, the axes differ, or a block does not divide its axis (nothing is
            padded).

    """
    return call("layout_transform", [data], src_layout=str(src_layout), dst_layout=str(dst_layout))


# broadcast_to and broadcast_to_like


def _broadcast(x: TensorType, shape: Sequence[Dim]) -> TensorType:
    tail = tuple(shape)[len(shape) - x.ndim :]
    if x.ndim > len(shape) or any(d not in (1, t) for d, t in zip(x.shape, tail, strict=True)):
        raise TypeInferenceError(f"shape {shown(x.shape)} cannot be broadcast to {shown(shape)}")
    return TensorType(shape, x.dtype)


def _reference_broadcast(a: Attrs, x: Array, like: Array | None = None) -> Array:
    return np.broadcast_to(x, a.shape if like is None else like.shape)


def _cases_broadcast(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    to = small_shape(rng)
    return to, tuple(n if rng.random() < 0.6 else 1 for n in to[rng.integers(0, len(to) + 1) :])


def _case_broadcast_to(rng: np.random.Generator) -> Case:
    to, shape = _cases_broadcast(rng)
    return Case([shape], {"shape": to})


@operator(
    "broadcast_to",
    Fusion.BROADCAST,
    lambda a, data: _broadcast(tensor(data, "data"), a.shape),
    _reference_broadcast,
    Map(lambda c, *index: broadcast_read(c.args[0], index)),
    cases=_case_broadcast_to,
    dtypes=_DTYPES,
)
def broadcast_to(data: ExprLike, shape: IntsLike) -> Expr:
    """`data` stretched to a shape: new dimensions in front, and dimensions of size 1 repeated.

    Args:
        data: tensor whose shape broadcasts to `shape` under NumPy's rules.
        shape: sizes of the result, known when the graph is built.

    """
    return call("broadcast_to", [data], shape=static_ints(shape, "shape"))


def _infer_broadcast_like(a: Attrs, data: Type, broadcast_type: Type) -> Type:
    return _broadcast(tensor(data, "data"), tensor(broadcast_type, "broadcast_type").shape)


def _case_broadcast_like(rng: np.random.Generator) -> Case:
    to, shape = _cases_broadcast(rng)
    return Case([shape, to])


@operator(
    "broadcast_to_like",
    Fusion.BROADCAST,
    _infer_broadcast_like,
    _reference_broadcast,
    Map(lambda c, *index: broadcast_read(c.args[0], index)),
    cases=_case_broadcast_like,
    dtypes=_DTYPES,
)
def broadcast_to_like(data: ExprLike, broadcast_type: ExprLike) -> Expr:
    """`data` stretched to the shape of another tensor.

    Args:
        data: tensor whose shape broadcasts to that of `broadcast_type`.
        broadcast_type: tensor of whose type only the shape is used.

    """
    return call("broadcast_to_like", [data, broadcast_type])


# shape_of and ndarray_size


def _countable(sizes: Iterable[Dim], dtype: str) -> None:
    """Refuse known sizes that do not fit an integer dtype."""
    for size in sizes if dtype in INTEGERS else ():
        if isinstance(size, int) and size > np.iinfo(dtype).max:
            raise TypeInferenceError(f"the size {size} does not fit {dtype}, which ends at {np.iinfo(dtype).max}")


def _infer_shape_of(a: Attrs, data: Type) -> Type:
    _countable(tensor(data, "data").shape, a.dtype)
    return TensorType((tensor(data, "data").ndim,), check_dtype(a.dtype))


def _shape_element(c: Context, index: Index) -> Operand:
    found: Operand = constant(0, c.dtype)
    for k, n in enumerate(c.args[0].shape):
        found = select(apply("eq", index, k), constant(n, c.dtype), found)
    return found


def _case_any(rng: np.random.Generator) -> Case:
    return Case([small_shape(rng)], {"dtype": str(rng.choice(["int32", "int64", "float32"]))})


@operator(
    "shape_of",
    Fusion.OPAQUE,
    _infer_shape_of,
    lambda a, x: np.array(x.shape, a.dtype),
    Map(_shape_element),
    cases=_case_any,
    dtypes=_DTYPES,
)
def shape_of(data: ExprLike, dtype: str = "int32") -> Expr:
    """The shape of a tensor as a vector.

    Args:
        data: tensor of any shape.
        dtype: dtype of the result, a vector with one number for each dimension of `data`.

    """
    return call("shape_of", [data], dtype=check_dtype(dtype))


def _infer_size(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    _countable([math.prod(x.static_shape)] if x.is_static else [], a.dtype)
    return TensorType((), check_dtype(a.dtype))


def _size_element(c: Context) -> Operand:
    size = as_dim(product(c.args[0].shape))
    return constant(size, c.dtype)


@operator(
    "ndarray_size",
    Fusion.OPAQUE,
    _infer_size,
    lambda a, x: np.array(x.size, a.dtype),
    Map(_size_element),
    cases=_case_any,
    dtypes=_DTYPES,
)
def ndarray_size(data: ExprLike, dtype: str = "int32") -> Expr:
    """The number of elements of a tensor, as a scalar of type `dtype`."""
    return call("ndarray_size", [data], dtype=check_dtype(dtype))
