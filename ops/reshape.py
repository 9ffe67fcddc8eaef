"""reshape and reshape_like: the same elements in the same row-major order, under another shape."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_dim, as_index, floordiv, product
from ..ir.op import Attrs
from ..ir.scalar import Operand, compute_dtype, constant
from ..ir.types import TensorType, Type
from .arguments import IntsLike, divisible, shown, static_ints
from .lowering import Context, Map, View
from .spec import EVERY, Array, Case, Fusion, operator, tensor

_DTYPES = (*EVERY, "int8", "uint8")


def ravel(index: Sequence[Dim], shape: Sequence[int]) -> Index:
    """The row-major position of an element."""
    flat = as_index(0)
    for i, n in zip(index, shape, strict=True):
        flat = flat * n + i
    return flat


def unravel(flat: Dim, shape: Sequence[int]) -> tuple[Index, ...]:
    """The index of the element at a row-major position, which the caller guarantees to lie inside; no size is 0."""
    flat, inner = as_index(flat), math.prod(shape)
    leading = next((axis for axis, n in enumerate(shape) if n != 1), -1)
    index = []
    for axis, n in enumerate(shape):
        inner //= n
        place = floordiv(flat, inner) if n != 1 else as_index(0)
        index.append(place if axis <= leading else place % n)
    return tuple(index)


def _groups(a: Sequence[int], b: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Cut two shapes of one (positive) size into the shortest runs with equal products."""
    i = j = 0
    while i < len(a) or j < len(b):
        start, left, right = (i, j), 1, 1
        while (i, j) == start or left != right:
            if i < len(a) and (left <= right or j == len(b)):
                left *= a[i]
                i += 1
            else:
                right *= b[j]
                j += 1
        yield slice(start[0], i), slice(start[1], j)


def reindex(index: Sequence[Dim], shape: Sequence[int], other: Sequence[int]) -> tuple[Index, ...]:
    """The index in shape `other` of the element that has `index` in `shape`; both have the same positive size.

    Runs of dimensions with equal products are converted on their own, so that axes that a reshape leaves alone keep
    their loop counters.
    """
    found: list[Index] = []
    for mine, theirs in _groups(shape, other):
        found += unravel(ravel(index[mine], shape[mine]), other[theirs])
    return tuple(found)


def _element(c: Context, *index: Index) -> Operand:
    return reshaped(c.args[0], c.shape, index)


def reshaped(view: View, shape: Sequence[int], index: Sequence[Dim]) -> Operand:
    """The element at `index` of `view` seen under another shape."""
    if 0 in view.shape:
        return constant(0, compute_dtype(view.dtype))
    return view(*reindex(index, shape, view.shape))


@attrs.define
class _NewShape:
    """Works off the special codes of `newshape` against the dimensions of the input, from left to right."""

    dims: tuple[Dim, ...]
    codes: tuple[int, ...]
    allowzero: bool
    found: list[Dim] = attrs.Factory(list)
    used: int = 0
    unknown: int | None = None

    def resolve(self) -> tuple[Dim, ...]:
        codes = iter(self.codes)
        for code in codes:
            match code:
                case -1:
                    self._leave_open()
                case -2:
                    self.found += self.dims[self.used :]
                    self.used = max(self.used, len(self.dims))
                case -3:
                    self.found.append(as_dim(self._next(code) * self._next(code)))
                case -4:
                    self.found += self._split(self._next(code), next(codes, None), next(codes, None))
                case 0 if not self.allowzero:
                    self.found.append(self._next(code))
                case _ if code >= 0:
                    self.found.append(code)
                    self.used += 1
                case _:
                    raise self._error(f"{code} is no code of reshape (0, -1, -2, -3 and -4 are)")
        if self.unknown is not None:
            self.found[self.unknown] = self._infer(self.unknown)
        return tuple(self.found)

    def _error(self, what: str) -> TypeInferenceError:
        return TypeInferenceError(f"cannot reshape {shown(self.dims)} to newshape={shown(self.codes)}: {what}")

    def _next(self, code: int) -> Dim:
        if self.used >= len(self.dims):
            raise self._error(f"code {code} asks for dimension {self.used} of the input, which has {len(self.dims)}")
        self.used += 1
        return self.dims[self.used - 1]

    def _leave_open(self) -> None:
        if self.unknown is not None:
            raise self._error("only one dimension may be -1")
        self.unknown = len(self.found)
        self.found.append(-1)
        self.used += 1

    def _split(self, dim: Dim, first: int | None, second: int | None) -> tuple[Dim, Dim]:
        if first is None or second is None:
            raise self._error("-4 must be followed by two sizes")
        parts: list[Dim] = [first, second]
        if parts.count(-1) == 1:
            known = max(first, second)
            if known < 1 or not divisible(dim, known):
                raise self._error(f"-4 cannot split {dim} by {known}")
            parts[parts.index(-1)] = as_dim(floordiv(dim, known))
        if min(first, second) < -1 or product(parts) != dim:
            raise self._error(f"-4 cannot split {dim} into {first} and {second}")
        return parts[0], parts[1]

    def _infer(self, place: int) -> Dim:
        have, rest = _cancel(self.dims, self.found[:place] + self.found[place + 1 :])
        total, known = product(have), product(rest)
        if known == 0:
            raise self._error("-1 has no definite value next to a dimension of size 0")
        if isinstance(known, int) and divisible(total, known):
            return as_dim(floordiv(total, known))
        if total == known:
            return 1
        raise self._error(f"-1 has no whole value: {total} elements cannot be divided by {known}")


def _cancel(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[list[Dim], list[Dim]]:
    """Both lists without the symbolic dimensions that they share."""
    common = Counter(d for d in a if isinstance(d, Index)) & Counter(d for d in b if isinstance(d, Index))

    def rest(dims: Sequence[Dim]) -> list[Dim]:
        left, kept = Counter(common), []
        for dim in dims:
            if isinstance(dim, Index) and left[dim]:
                left[dim] -= 1
            else:
                kept.append(dim)
        return kept

    return rest(a), rest(b)


def same_size(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether two shapes surely have equally many elements."""
    left, right = _cancel(a, b)
    return product(left) == product(right)


def _infer_reshape(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    shape = _NewShape(x.shape, a.newshape, bool(a.get("allowzero", False))).resolve()
    if not same_size(x.shape, shape):
        raise TypeInferenceError(
            f"cannot reshape {shown(x.shape)} ({product(x.shape)} elements) to newshape={shown(a.newshape)}, "
            f"which is {shown(shape)} ({product(shape)} elements)"
        )
    return TensorType(shape, x.dtype)


def _reference_reshape(a: Attrs, x: Array) -> Array:
    shape = _NewShape(x.shape, a.newshape, bool(a.allowzero)).resolve()
    return x.reshape([int(d) for d in shape if isinstance(d, int)])


_RESHAPES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3, 4), (4, 0, 2)),
    ((2, 3, 4), (6, 1, -1)),
    ((2, 3, 4), (-1,)),
    ((2, 3, 4), (-2, 1, 1)),
    ((2, 3, 4, 5), (-3, -3)),
    ((2, 3, 4), (0, -3)),
    ((2, 3, 4), (-4, 1, 2, -2)),
    ((2, 3, 4), (2, -4, -1, 3, -2)),
    ((2, 6, 4), (0, -4, 2, -1, 0)),
    ((1, 9), (3, 3)),
    ((), (1, 1)),
    ((1,), ()),
    ((0, 3), (-1, 6)),
    ((0, 3), (3, 0, 5)),
)


def _cases_reshape(rng: np.random.Generator) -> Case:
    shape, newshape = _RESHAPES[rng.integers(len(_RESHAPES))]
    if rng.random() < 0.5:
        factors = [int(n) for n in rng.choice([1, 2, 3, 4], rng.integers(1, 6))]
        cuts = sorted(int(c) for c in rng.integers(0, len(factors) + 1, rng.integers(0, 3)))
        newshape = tuple(int(np.prod(part)) for part in np.split(factors, cuts))
        shape = tuple(factors)
    zero = 0 in newshape and 0 in shape
    return Case([shape], {"newshape": newshape, "allowzero": zero})


@operator(
    "reshape",
    Fusion.INJECTIVE,
    _infer_reshape,
    _reference_reshape,
    Map(_element),
    cases=_cases_reshape,
    dtypes=_DTYPES,
)
def reshape(data: ExprLike, newshape: IntsLike, allowzero: bool = False) -> Expr:
    """The same elements in row-major order under another shape.

    A positive number in `newshape` is a size; the others are codes, worked off from left to right:

        0    the size of the input at this place (with `allowzero`, the size 0)
        -1   whatever makes the number of elements agree; at most once
        -2   all remaining sizes of the input
        -3   the product of the next two sizes of the input
        -4   the next size of the input, split into the two numbers that follow, one of which may be -1

    Args:
        data: tensor of any shape.
        newshape: sizes and codes, known when the graph is built.
        allowzero: 0 means a dimension of size 0, not a copy.

    Raises:
        TypeInferenceError: the shapes have different numbers of elements, or the codes do not fit the input.

    """
    return call("reshape", [data], newshape=static_ints(newshape, "newshape"), allowzero=bool(allowzero))


def _span(begin: int, end: int | None, ndim: int, what: str) -> slice:
    """The dimensions begin..end-1 of `ndim`, negative numbers counted from the end, None meaning the end."""
    start, stop, _ = slice(begin, end).indices(ndim)
    in_range = -ndim <= begin <= ndim and (end is None or -ndim <= end <= ndim)
    if not in_range or start > stop:
        raise TypeInferenceError(f"{what}_begin={begin}, {what}_end={end} is no range of {ndim} dimensions")
    return slice(start, stop)


def _like_shape(a: Attrs, data: Sequence[Dim], like: Sequence[Dim]) -> tuple[Dim, ...]:
    mine = _span(a.lhs_begin, a.lhs_end, len(data), "lhs")
    theirs = _span(a.rhs_begin, a.rhs_end, len(like), "rhs")
    return (*data[: mine.start], *like[theirs], *data[mine.stop :])


def _infer_like(a: Attrs, data: Type, shape_like: Type) -> Type:
    x, like = tensor(data, "data"), tensor(shape_like, "shape_like")
    shape = _like_shape(a, x.shape, like.shape)
    if not same_size(x.shape, shape):
        raise TypeInferenceError(
            f"cannot reshape {shown(x.shape)} to {shown(shape)} like {like}: the numbers of elements differ"
        )
    return TensorType(shape, x.dtype)


def _cases_like(rng: np.random.Generator) -> Case:
    known: list[tuple[list[tuple[int, ...]], dict[str, int]]] = [
        ([(2, 3, 4), (4, 6)], {}),
        ([(0, 3), (7, 0)], {}),
        ([(2, 6, 4), (5, 3, 2)], {"lhs_begin": 1, "lhs_end": 2, "rhs_begin": 1}),
        ([(4, 3, 2), (6, 4)], {"lhs_begin": 1, "rhs_begin": 0, "rhs_end": -1}),
        ([(12,), (3, 4, 9)], {"rhs_end": 2}),
    ]
    shapes, attributes = known[rng.integers(len(known))]
    return Case(shapes, attributes)


@operator(
    "reshape_like",
    Fusion.INJECTIVE,
    _infer_like,
    lambda a, x, like: x.reshape(_like_shape(a, x.shape, like.shape)),
    Map(_element),
    cases=_cases_like,
    dtypes=_DTYPES,
)
def reshape_like(
    data: ExprLike,
    shape_like: ExprLike,
    lhs_begin: int = 0,
    lhs_end: int | None = None,
    rhs_begin: int = 0,
    rhs_end: int | None = None,
) -> Expr:
    """`data` with its dimensions lhs_begin..lhs_end-1 replaced by dimensions rhs_begin..rhs_end-1 of `shape_like`.

    Args:
        data: tensor of any shape.
        shape_like: tensor of whose type only the shape is used.
        lhs_begin: first dimension of `data` to replace; negative counts from the end.
        lhs_end: where they end; None: all.
        rhs_begin: first dimension of `shape_like` to take.
        rhs_end: where they end; None: all.

    """
    spans: dict[str, Any] = {"lhs_begin": lhs_begin, "lhs_end": lhs_end, "rhs_begin": rhs_begin, "rhs_end": rhs_end}
    return call("reshape_like", [data, shape_like], **spans)
