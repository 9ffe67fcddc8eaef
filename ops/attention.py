"""Scaled dot-product attention as one operator. The pass FuseAttention makes it of products around a softmax."""

from collections.abc import Callable, Sequence

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Index
from ..ir.loops import Builder
from ..ir.op import Attrs
from ..ir.scalar import Value, apply, cast, constant, lowest, select
from ..ir.types import TensorType, Type
from .lowering import Context, Nest, broadcast_read
from .spec import REAL, Array, Case, Fusion, operator, tensor
from .unary import FLOATING, dtype_among


def _infer(a: Attrs, query: Type, key: Type, value: Type, *mask: Type) -> Type:
    q, k, v = (dtype_among(t, FLOATING) for t in (query, key, value))
    for name, type_ in (("query", q), ("key", k), ("value", v)):
        if type_.ndim != 4:
            raise TypeInferenceError(f"{name} must have 4 dimensions, got {type_}")
        if type_.shape[:2] != q.shape[:2] or type_.dtype != q.dtype:
            raise TypeInferenceError(f"{name} {type_} must have the batch, heads and dtype of query {q}")
    batch, heads, rows, size = q.shape
    length, inner = k.shape[:1:-1] if a.key_transposed else k.shape[2:]
    if inner != size or v.shape[2] != length:
        raise TypeInferenceError(f"query {q}, key {k} and value {v} do not fit together")
    if mask:
        _check_mask(tensor(mask[0], "mask"), TensorType((batch, heads, rows, length), q.dtype))
    middle = (rows, heads) if a.swap_heads else (heads, rows)
    return TensorType((batch, *middle, v.shape[3]), q.dtype)


def _check_mask(mask: TensorType, scores: TensorType) -> None:
    fits = mask.ndim <= 4 and mask.dtype == scores.dtype
    tail = scores.shape[4 - mask.ndim :] if fits else ()
    if not fits or any(n not in (1, m) for n, m in zip(mask.shape, tail, strict=True)):
        raise TypeInferenceError(f"mask {mask} does not stretch to the scores {scores}")


def _np_attention(a: Attrs, q: Array, k: Array, v: Array, *mask: Array) -> Array:
    with np.errstate(invalid="ignore"):
        scores = np.matmul(q, k if a.key_transposed else k.swapaxes(2, 3)) * a.scale
        scores = scores + mask[0] if mask else scores
        e = np.exp(scores - scores.max(3, keepdims=True, initial=-np.inf))
        weights = e / e.sum(3, keepdims=True)
        if a.nan_to_zero:
            weights = np.where(np.isnan(weights).any(3, keepdims=True), 0, weights)
        result = np.matmul(weights, v)
    return np.asarray(result.swapaxes(1, 2) if a.swap_heads else result)


def key_element(c: Context, b: Index, h: Index, column: Index, d: Index) -> Value:
    """Element `d` of key number `column`."""
    return c.args[1](b, h, d, column) if c.attrs.key_transposed else c.args[1](b, h, column, d)


def score(c: Context, product: Value, place: Sequence[Index]) -> Value:
    """The score at (batch, head, row, column), from the product of query and key."""
    value = product * constant(c.attrs.scale, c.dtype) if c.attrs.scale != 1 else product
    return value + broadcast_read(c.args[3], place) if len(c.args) > 3 else value


def shares(c: Context, total: Value) -> Value:
    """What to multiply exponentials with, given their sum; NaN, or 0 instead of it if so asked for."""
    if not c.args[2].shape[2]:
        return constant(0, c.dtype)
    inverse = constant(1, c.dtype) / total
    return select(apply("isnan", total), constant(0, c.dtype), inverse) if c.attrs.nan_to_zero else inverse


def weighted(c: Context, share: Value, total: Value) -> Value:
    """An element of the result: the sum of values weighted with exponentials, times the `share` of the row."""
    if not c.attrs.nan_to_zero:
        return total * share
    return select(apply("eq", share, constant(0, c.dtype)), constant(0, c.dtype), total * share)


def place_of(c: Context, b: Index, h: Index, row: Index, column: Index) -> tuple[Index, Index, Index, Index]:
    """Where an element of the result stands."""
    return (b, row, h, column) if c.attrs.swap_heads else (b, h, row, column)


def _write(c: Context, b: Builder, emit: Callable[[Sequence[Index], Value], None]) -> None:
    """Row by row: scores, exponentials in their place, sums of values."""
    (batch, heads, rows, size), (_, _, length, width) = c.args[0].shape, c.args[2].shape
    with b.loop("flat", batch * heads * rows, "parallel") as flat:
        n, h, row = flat // (heads * rows), flat // max(rows, 1) % max(heads, 1), flat % max(rows, 1)
        scores = b.alloc("scores", (length,), c.dtype, "thread")
        state = b.alloc("state", (3,), c.dtype, "thread")  # largest score, sum of exponentials, sum at hand
        b.store(state, (0,), lowest(c.dtype))
        b.store(state, (1,), 0)
        with b.loop("column", length) as column:
            b.store(state, (2,), 0)
            with b.loop("d", size) as d:
                term = cast(c.args[0](n, h, row, d), c.dtype) * cast(key_element(c, n, h, column, d), c.dtype)
                b.store(state, (2,), b.load(state, (2,)) + term)
            b.store(scores, (column,), score(c, b.load(state, (2,)), (n, h, row, column)))
            b.store(state, (0,), apply("max", b.load(state, (0,)), b.load(scores, (column,))))
        with b.loop("again", length) as column:
            b.store(scores, (column,), apply("exp", b.load(scores, (column,)) - b.load(state, (0,))))
            b.store(state, (1,), b.load(state, (1,)) + b.load(scores, (column,)))
        b.store(state, (1,), shares(c, b.load(state, (1,))))
        with b.loop("w", width) as place:
            b.store(state, (2,), 0)
            with b.loop("k", length) as k:
                term = b.load(scores, (k,)) * cast(c.args[2](n, h, k, place), c.dtype)
                b.store(state, (2,), b.load(state, (2,)) + term)
            emit(place_of(c, n, h, row, place), weighted(c, b.load(state, (1,)), b.load(state, (2,))))


def _cases(rng: np.random.Generator) -> Case:
    batch, heads = (int(n) for n in rng.integers(1, 4, 2))
    rows, length, size, width = (int(rng.choice([1, 2, 3, 5, 8, 16, 17, 32, 33])) for _ in range(4))
    turned = bool(rng.random() < 0.5)
    key = (size, length) if turned else (length, size)
    shapes: list[tuple[int, ...]] = [(batch, heads, rows, size), (batch, heads, *key), (batch, heads, length, width)]
    if rng.random() < 0.5:
        shapes.append(tuple(1 if rng.random() < 0.4 else n for n in (batch, heads, rows, length))[rng.integers(3) :])
    attributes = {
        "scale": float(rng.choice([1.0, 0.125, 0.3])),
        "key_transposed": turned,
        "swap_heads": bool(rng.random() < 0.5),
        "nan_to_zero": bool(rng.random() < 0.3),
    }
    return Case(shapes, attributes)


@operator(
    "nn.attention",
    Fusion.COMM_REDUCE,
    _infer,
    _np_attention,
    Nest(_write),
    cases=_cases,
    dtypes=REAL,
    tolerance=10,
)
def attention(
    query: ExprLike,
    key: ExprLike,
    value: ExprLike,
    mask: ExprLike | None = None,
    scale: float = 1.0,
    key_transposed: bool = False,
    swap_heads: bool = False,
    nan_to_zero: bool = False,
) -> Expr:
    """softmax(query times key, scaled, plus mask) times value, for every head: scaled dot-product attention.

    After Vaswani et al., Attention is all you need, 2017. No matrix of all scores is made, only a few rows at a time.

    Args:
        query: (batch, heads, rows, size), floating.
        key: (batch, heads, length, size).
        value: (batch, heads, length, width).
        mask: added to the scores; stretches to (batch, heads, rows, length).
        scale: what products of query and key are multiplied with.
        key_transposed: the key is (batch, heads, size, length).
        swap_heads: the result is (batch, rows, heads, width).
        nan_to_zero: rows whose softmax is NaN (all scores -inf, say) give 0.

    Returns: (batch, heads, rows, width).

    """
    args = [query, key, value] if mask is None else [query, key, value, mask]
    return call(
        "nn.attention",
        args,
        scale=float(scale),
        key_transposed=bool(key_transposed),
        swap_heads=bool(swap_heads),
        nan_to_zero=bool(nan_to_zero),
    )
