"""Operators that write into a copy of a tensor at places that another tensor holds.

Updates of one element are made one after the other, in row-major order of the indices, so that the result is the same
on every run even where places repeat. Elements that no update can share are spread over threads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.loops import Builder
from ..ir.op import Attrs
from ..ir.scalar import Buffer, Const, Operand, Value, apply, cast, compute_dtype, inside
from ..ir.types import TensorType, Type
from .arguments import integer_tensor, one_of, shown
from .draw import any_axis, small_shape, uniform
from .gather import INDEX_DTYPES, check_not_empty, draw_nd_places, draw_places, from_end, reference_from_end
from .lowering import Context, Procedure
from .reshape import unravel
from .spec import EVERY, Array, Case, Fusion, normalize_axis, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8")
_BLOCK = 64
"""Elements of a slice that a thread works on at a time: a few cache lines."""

_COMBINE: dict[str, Callable[[Value, Value], Operand]] = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "mean": lambda old, new: (old + new) / 2,
    "min": lambda old, new: apply("min", old, new),
    "max": lambda old, new: apply("max", old, new),
}
_REFERENCE: dict[str, Callable[[Any, Any], Any]] = {
    "update": lambda old, new: new,
    "add": np.add,
    "mul": np.multiply,
    "mean": lambda old, new: np.trunc((old + new) / 2) if old.dtype.kind in "iu" else (old + new) / 2,
    "min": np.minimum,
    "max": np.maximum,
}


def _check_reduction(reduction: str, known: Sequence[str], x: TensorType, what: str) -> None:
    one_of(reduction, known, what)
    if x.dtype == "bool" and reduction != "update":
        raise TypeInferenceError(f"{what}={reduction!r} is not defined on bool; only 'update' is")


@contextmanager
def _when(b: Builder, condition: Value) -> Iterator[None]:
    """A block under a condition, without one where it always holds."""
    if isinstance(condition, Const) and condition.value:
        yield
    else:
        with b.when(condition):
            yield


def _update(b: Builder, out: Buffer, at: Sequence[Dim], new: Value, reduction: str) -> None:
    old = cast(b.load(out, at), compute_dtype(out.dtype))
    b.store(out, at, _COMBINE[reduction](old, new))


def _complete(a: Attrs, data: Type | None, indices: Type | None, updates: Type | None) -> list[Type | None]:
    """scatter_elements: updates have the shape of the indices and the dtype of the data."""
    if updates is None and isinstance(data, TensorType) and isinstance(indices, TensorType):
        updates = TensorType(indices.shape, data.dtype)
    return [data, indices, updates]


# scatter_elements


_REDUCTIONS = ("update", "add", "mul", "mean", "min", "max")


def _infer_elements(a: Attrs, data: Type, indices: Type, updates: Type) -> Type:
    x, places, new = tensor(data, "data"), integer_tensor(indices, "indices"), tensor(updates, "updates")
    _check_reduction(a.reduction, _REDUCTIONS, x, "reduction")
    axis = normalize_axis(a.axis, x.ndim)
    if places.ndim != x.ndim:
        raise TypeInferenceError(f"indices must have as many dimensions as data: got {places} and {x}")
    if new != TensorType(places.shape, x.dtype):
        raise TypeInferenceError(f"updates must be {TensorType(places.shape, x.dtype)} to fit indices, got {new}")
    for d, (n, m) in enumerate(zip(x.shape, places.shape, strict=True)):
        fits = m <= n if isinstance(n, int) and isinstance(m, int) else m == n
        if d != axis and not fits:
            raise TypeInferenceError(f"dimension {d} of indices is {m}, expected at most {n} as in data")
    check_not_empty(places.shape, x.shape, (axis,))
    return x


def _write_elements(c: Context, b: Builder, outs: Sequence[Buffer]) -> None:
    data, indices, updates = c.args
    (out,) = outs
    axis = normalize_axis(c.attrs.axis, len(data.shape))
    others, index_others = (s[:axis] + s[axis + 1 :] for s in (data.shape, indices.shape))
    if 0 in data.shape:
        return
    with b.loop("row", prod(others), "parallel") as row:
        place = unravel(row, others)

        def at(i: Dim) -> tuple[Index, ...]:
            return (*place[:axis], as_index(i), *place[axis:])

        with b.loop("i", data.shape[axis]) as i:
            b.store(out, at(i), data(*at(i)))
        if 0 not in indices.shape:
            with _when(b, inside(place, index_others)), b.loop("j", indices.shape[axis]) as j:
                found = from_end(indices(*at(j)), data.shape[axis])
                _update(b, out, at(found), updates(*at(j)), c.attrs.reduction)


def _reference_elements(a: Attrs, x: Array, places: Array, updates: Array) -> Array:
    result, combine = np.array(x), _REFERENCE[a.reduction]
    axis = a.axis % x.ndim
    places = reference_from_end(places, x.shape[axis])
    for where in np.ndindex(places.shape):
        at = (*where[:axis], places[where], *where[axis + 1 :])
        result[at] = combine(result[at], updates[where])
    return result


def _cases_elements(rng: np.random.Generator) -> Case:
    data, dtype = small_shape(rng, 1, 4), str(rng.choice(INDEX_DTYPES))
    axis = any_axis(rng, len(data))
    indices = list(data) if rng.random() < 0.5 else [int(rng.integers(0, n + 1)) for n in data]
    indices[axis] = int(rng.integers(0, 8)) if data[axis] else 0
    reduction = str(rng.choice(_REDUCTIONS))

    def values(rng: np.random.Generator, tested: str) -> list[Array]:
        places = draw_places(rng, indices, data[axis], dtype)
        return [uniform(rng, data, tested, -2, 2), places, uniform(rng, indices, tested, -2, 2)]

    return Case(
        [data, tuple(indices), tuple(indices)],
        {"axis": axis, "reduction": reduction},
        [None, dtype, None],
        values=values,
    )


@operator(
    "scatter_elements",
    Fusion.OPAQUE,
    _infer_elements,
    _reference_elements,
    Procedure(_write_elements),
    cases=_cases_elements,
    dtypes=("float32", "float64", "float16", "int32", "int64", "int8"),
    complete=_complete,
)
def scatter_elements(
    data: ExprLike, indices: ExprLike, updates: ExprLike, axis: int = 0, reduction: str = "update"
) -> Expr:
    """A copy of `data` in which `out[i, indices[i, j, k], k]` was combined with `updates[i, j, k]` (for axis 1).

    Args:
        data: tensor with at least one dimension.
        indices: integer tensor of the rank of `data`, no larger than it in the other dimensions. Negative places count
            from the end; places outside are clamped.
        updates: tensor of the shape of `indices` and the dtype of `data`.
        axis: the dimension that `indices` point into.
        reduction: "update" (the last one counts), "add", "mul", "min", "max", or "mean" (of what is there and the
            update, one update after the other; on integers it truncates towards zero).

    """
    return call("scatter_elements", [data, indices, updates], axis=int(axis), reduction=str(reduction))


# scatter_nd


_MODES = ("update", "add", "mul", "min", "max")


def _infer_nd(a: Attrs, data: Type, indices: Type, updates: Type) -> Type:
    x, places, new = tensor(data, "data"), integer_tensor(indices, "indices"), tensor(updates, "updates")
    _check_reduction(a.mode, _MODES, x, "mode")
    if not places.shape or not isinstance(places.shape[0], int) or places.shape[0] > x.ndim:
        raise TypeInferenceError(
            f"the first dimension of indices says how many dimensions of data are addressed, at most {x.ndim}; "
            f"indices have shape {shown(places.shape)}"
        )
    count = places.shape[0]
    expected = TensorType((*places.shape[1:], *x.shape[count:]), x.dtype)
    if new != expected:
        raise TypeInferenceError(f"updates must be {expected} to fit data and indices, got {new}")
    check_not_empty(places.shape[1:], x.shape, range(count))
    return x


def _write_nd(c: Context, b: Builder, outs: Sequence[Buffer]) -> None:
    data, indices, updates = c.args
    (out,) = outs
    count, where = indices.shape[0], indices.shape[1:]
    below = data.shape[count:]
    if 0 in data.shape:
        return
    with b.loop("e", prod(data.shape), "parallel") as e:
        at = unravel(e, data.shape)
        b.store(out, at, data(*at))
    if 0 in where:
        return
    b.barrier()
    size = prod(below)
    block = next(n for n in range(min(_BLOCK, size), 0, -1) if size % n == 0)
    with b.loop("part", size // block, "parallel") as part, b.loop("u", prod(where)) as u:
        y = unravel(u, where)
        found = [from_end(indices(m, *y), data.shape[m]) for m in range(count)]
        with b.loop("k", block) as k:
            rest = unravel(part * block + k, below)
            _update(b, out, (*found, *rest), updates(*y, *rest), c.attrs.mode)


def _reference_nd(a: Attrs, x: Array, places: Array, updates: Array) -> Array:
    result, combine = np.array(x), _REFERENCE[a.mode]
    count = len(places)
    fixed = [reference_from_end(places[m], x.shape[m]) for m in range(count)]
    for y in np.ndindex(places.shape[1:]):
        at = tuple(f[y] for f in fixed)
        result[at] = combine(result[at], updates[y])
    return result


def _cases_nd(rng: np.random.Generator) -> Case:
    data, dtype = small_shape(rng, 0, 4), str(rng.choice(INDEX_DTYPES))
    count = int(rng.integers(0, len(data) + 1))
    where = small_shape(rng, 0, 3) if 0 not in data[:count] else (0,)
    shapes = [data, (count, *where), (*where, *data[count:])]

    def values(rng: np.random.Generator, tested: str) -> list[Array]:
        places = draw_nd_places(rng, data, shapes[1], 0, dtype)
        return [uniform(rng, data, tested, -2, 2), places, uniform(rng, shapes[2], tested, -1.2, 1.2)]

    return Case(shapes, {"mode": str(rng.choice(_MODES))}, [None, dtype, None], values=values)


@operator(
    "scatter_nd",
    Fusion.OPAQUE,
    _infer_nd,
    _reference_nd,
    Procedure(_write_nd),
    cases=_cases_nd,
    dtypes=("float32", "float64", "float16", "int32", "int64", "int8"),
)
def scatter_nd(data: ExprLike, indices: ExprLike, updates: ExprLike, mode: str = "update") -> Expr:
    """A copy of `data` in which `out[indices[0, y], ..., indices[m-1, y], ...]` was combined with `updates[y, ...]`.

    Args:
        data: tensor of any shape.
        indices: integer tensor (m, Y...): the first dimension runs over the dimensions of `data` that are addressed.
            Negative places count from the end; places outside are clamped.
        updates: tensor (Y..., sizes of the dimensions that are not addressed...) of the dtype of `data`.
        mode: "update" (the last one counts), "add", "mul", "min" or "max".

    """
    return call("scatter_nd", [data, indices, updates], mode=str(mode))
