"""sort, argsort and topk: stable in both directions, NaN last."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from attrs import frozen

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.loops import Builder
from ..ir.op import Attrs
from ..ir.scalar import Buffer, Value, clamped
from ..ir.tuple_wrapper import TupleWrapper
from ..ir.types import TensorType, TupleType, Type, check_dtype, numpy_dtype
from .arguments import one_of, static_ints
from .draw import any_axis, small_shape
from .lowering import Context, Procedure, View
from .radix import sorted_places
from .reshape import unravel
from .spec import EVERY, Array, Case, Fusion, normalize_axis, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8", "int16", "uint32")


@frozen
class _Row:
    """One row of a tensor being sorted: `places` holds the order, `at(i)` is the index of its element `i`."""

    places: Buffer
    at: Callable[[Dim], tuple[Index, ...]]


@contextmanager
def _sorted_rows(b: Builder, data: View, axis: int, ascending: bool) -> Iterator[_Row]:
    """A parallel loop over the rows along `axis`, with each row sorted; `data` is not empty."""
    others = data.shape[:axis] + data.shape[axis + 1 :]
    with b.loop("row", prod(others), "parallel") as row:
        place = unravel(row, others)

        def at(i: Dim) -> tuple[Index, ...]:
            return (*place[:axis], as_index(i), *place[axis:])

        yield _Row(sorted_places(b, data.shape[axis], lambda i: data(*at(i)), ascending), at)


def _place(b: Builder, places: Buffer, i: Index) -> Value:
    return b.load(places, (i,))


def _order(x: Array, axis: int, ascending: bool) -> Array:
    """The reference: `np.argsort` for numbers; going down, by a stable sort of ranks turned around, NaN still last."""
    if ascending:
        return np.argsort(x, axis, kind="stable")
    ranks = np.unique(x, return_inverse=True, equal_nan=True)[1].reshape(x.shape).astype(np.int64)
    missing = np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
    return np.argsort(np.where(missing, 1, -ranks), axis, kind="stable")


def draw_ties(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    """Random numbers among which many are equal; floats include NaN, infinities and both zeros."""
    kind, size = numpy_dtype(dtype).kind, tuple(shape)
    if kind == "b":
        return rng.random(size) < 0.5
    if kind in "iu":
        info = np.iinfo(dtype)
        few = np.array([info.min, info.max, 0, 1, 2, 3, 100], dtype)
        return np.where(rng.random(size) < 0.7, rng.choice(few, size), rng.integers(info.min, info.max, size, dtype))
    few = np.array([0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, -np.nan, 6e-8])
    return np.where(rng.random(size) < 0.6, rng.choice(few, size), rng.normal(size=size)).astype(numpy_dtype(dtype))


def _sample(rng: np.random.Generator, attributes: dict[str, Any]) -> Case:
    shape = list(small_shape(rng, 1, 4))
    axis = attributes["axis"] = any_axis(rng, len(shape))
    if rng.random() < 0.3:
        shape = [min(n, 2) for n in shape]
        shape[axis] = int(rng.choice([31, 64, 65, 150]))
    return Case([tuple(shape)], attributes, values=lambda rng, dtype: [draw_ties(rng, shape, dtype)])


# sort and argsort


def _infer_sort(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    normalize_axis(a.axis, x.ndim)
    return x


def _write_sort(c: Context, b: Builder, outs: Sequence[Buffer]) -> None:
    (data,), (out,) = c.args, outs
    axis = normalize_axis(c.attrs.axis, len(data.shape))
    if 0 in data.shape:
        return
    with _sorted_rows(b, data, axis, bool(c.attrs.is_ascend)) as row, b.loop("i", data.shape[axis]) as i:
        b.store(out, row.at(i), data(*row.at(clamped(_place(b, row.places, i), data.shape[axis]))))


def _reference_sort(a: Attrs, x: Array) -> Array:
    return np.take_along_axis(x, _order(x, a.axis, bool(a.is_ascend)), a.axis)


def _cases_sort(rng: np.random.Generator) -> Case:
    return _sample(rng, {"is_ascend": int(rng.integers(2))})


@operator(
    "sort",
    Fusion.OPAQUE,
    _infer_sort,
    _reference_sort,
    Procedure(_write_sort),
    cases=_cases_sort,
    dtypes=_DTYPES,
)
def sort(data: ExprLike, axis: int = -1, is_ascend: bool | int = 1) -> Expr:
    """The elements along an axis in order; NaN comes last in both directions.

    Args:
        data: tensor with at least one dimension.
        axis: the dimension to sort along; negative counts from the end.
        is_ascend: from the least to the greatest, or the other way round.

    """
    return call("sort", [data], axis=int(axis), is_ascend=bool(is_ascend))


def _infer_argsort(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    normalize_axis(a.axis, x.ndim)
    return TensorType(x.shape, check_dtype(a.dtype))


def _write_argsort(c: Context, b: Builder, outs: Sequence[Buffer]) -> None:
    (data,), (out,) = c.args, outs
    axis = normalize_axis(c.attrs.axis, len(data.shape))
    if 0 in data.shape:
        return
    with _sorted_rows(b, data, axis, bool(c.attrs.is_ascend)) as row, b.loop("i", data.shape[axis]) as i:
        b.store(out, row.at(i), _place(b, row.places, i))


def _cases_argsort(rng: np.random.Generator) -> Case:
    dtype = str(rng.choice(["int32", "int64", "float32"]))
    return _sample(rng, {"is_ascend": int(rng.integers(2)), "dtype": dtype})


@operator(
    "argsort",
    Fusion.OPAQUE,
    _infer_argsort,
    lambda a, x: _order(x, a.axis, bool(a.is_ascend)).astype(a.dtype),
    Procedure(_write_argsort),
    cases=_cases_argsort,
    dtypes=_DTYPES,
)
def argsort(data: ExprLike, axis: int = -1, is_ascend: bool | int = 1, dtype: str = "int32") -> Expr:
    """The places of the elements along an axis in the order of the elements; equal elements keep their order.

    Args:
        data: tensor with at least one dimension.
        axis: the dimension to sort along; negative counts from the end.
        is_ascend: from the least to the greatest, or the other way round; NaN comes last in both directions.
        dtype: dtype of the result.

    """
    return call("argsort", [data], axis=int(axis), is_ascend=bool(is_ascend), dtype=check_dtype(dtype))


# topk


def _count(a: Attrs, size: Dim) -> Dim:
    """How many elements topk gives of a dimension."""
    if isinstance(size, int) and a.k > size:
        raise TypeInferenceError(f"k={a.k} is more than the {size} elements there are along axis {a.axis}")
    return int(a.k) if a.k >= 1 else size


def _infer_topk(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    axis = normalize_axis(a.axis, x.ndim)
    shape = (*x.shape[:axis], _count(a, x.shape[axis]), *x.shape[axis + 1 :])
    values, indices = TensorType(shape, x.dtype), TensorType(shape, check_dtype(a.dtype))
    ret_type = one_of(a.ret_type, ("both", "values", "indices"), "ret_type")
    return TupleType([values, indices]) if ret_type == "both" else values if ret_type == "values" else indices


def _write_topk(c: Context, b: Builder, outs: Sequence[Buffer]) -> None:
    (data,), ret_type = c.args, c.attrs.ret_type
    axis = normalize_axis(c.attrs.axis, len(data.shape))
    if 0 in data.shape:
        return
    n = data.shape[axis]
    count = outs[0].shape[axis]
    with _sorted_rows(b, data, axis, bool(c.attrs.is_ascend)) as row, b.loop("i", count) as i:
        place = _place(b, row.places, i)
        if ret_type != "indices":
            b.store(outs[0], row.at(i), data(*row.at(clamped(place, n))))
        if ret_type != "values":
            b.store(outs[-1], row.at(i), place)


def _reference_topk(a: Attrs, x: Array) -> list[Array] | Array:
    count = a.k if a.k >= 1 else x.shape[a.axis]
    order = np.take(_order(x, a.axis, bool(a.is_ascend)), range(count), a.axis)
    values, indices = np.take_along_axis(x, order, a.axis), order.astype(a.dtype)
    return [values, indices] if a.ret_type == "both" else values if a.ret_type == "values" else indices


def _cases_topk(rng: np.random.Generator) -> Case:
    ret_type, dtype = str(rng.choice(["both", "values", "indices"])), str(rng.choice(["int32", "int64", "float32"]))
    case = _sample(rng, {"ret_type": ret_type, "is_ascend": bool(rng.integers(2)), "dtype": dtype})
    case.attributes["k"] = int(rng.integers(0, case.shapes[0][case.attributes["axis"]] + 1))
    return case


@operator(
    "topk",
    Fusion.OPAQUE,
    _infer_topk,
    _reference_topk,
    Procedure(_write_topk),
    cases=_cases_topk,
    dtypes=_DTYPES,
)
def topk(
    data: ExprLike, k: int = 1, axis: int = -1, ret_type: str = "both", is_ascend: bool = False, dtype: str = "int32"
) -> TupleWrapper | Expr:
    """The first `k` elements along an axis when sorted, and their places; by default the greatest ones.

    Args:
        data: tensor with at least one dimension.
        k: how many; below 1: all.
        axis: the dimension to sort along; negative counts from the end.
        ret_type: "both" for a tuple (values, indices), "values", or "indices".
        is_ascend: the least ones instead of the greatest; NaN comes last in both directions.
        dtype: dtype of the indices.

    """
    (count,) = static_ints(k, "k")
    found = call(
        "topk", [data], k=count, axis=int(axis), ret_type=str(ret_type), is_ascend=bool(is_ascend),
        dtype=check_dtype(dtype),
    )  # fmt: skip
    return TupleWrapper(found, 2) if ret_type == "both" else found
