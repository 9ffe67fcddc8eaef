"""Sampling at computed places: image.grid_sample, and image.affine_grid, which computes such places.

After Jaderberg, Simonyan, Zisserman and Kavukcuoglu: Spatial transformer networks, 2015.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Index
from ..ir.op import Attrs
from ..ir.scalar import Operand, Value, all_of, apply, cast, clamped, select
from ..ir.types import TensorType, Type
from .arguments import IntsLike, one_of, shown, static_ints
from .lowering import Context, Map
from .spec import REAL, Array, Case, Fusion, operator
from .unary import FLOATING, dtype_among

METHODS = ("nearest", "bilinear", "bicubic")
PADDINGS = ("zeros", "border", "reflection")
_CUBIC = -0.75


def _infer_grid_sample(a: Attrs, data: Type, grid: Type) -> Type:
    x, g = dtype_among(data, FLOATING, "data"), dtype_among(grid, FLOATING, "grid")
    rank = x.ndim - 2
    if rank not in (2, 3) or a.layout != ("NCHW" if rank == 2 else "NCDHW"):
        raise TypeInferenceError(f"data must have layout NCHW or NCDHW, got layout {a.layout} and {x}")
    one_of(a.method, METHODS if rank == 2 else METHODS[:2], "method")
    one_of(a.padding_mode, PADDINGS, "padding_mode")
    if g.ndim != x.ndim or g.shape[0] != x.shape[0] or g.shape[1] != rank:
        raise TypeInferenceError(f"grid must have shape ({x.shape[0]}, {rank}, {rank} output sizes), got {g}")
    if 0 in x.shape[2:]:
        raise TypeInferenceError(f"cannot sample images without pixels: {x}")
    return TensorType((*x.shape[:2], *g.shape[2:]), x.dtype)


def _pixel(a: Attrs, place: Value, size: int) -> Value:
    """A normalised coordinate (-1 and 1 are the corners) as a pixel coordinate."""
    return (place + 1) * ((size - 1) / 2) if a.align_corners else ((place + 1) * size - 1) / 2


def _clip(value: Value, size: int) -> Value:
    return apply("min", apply("max", value, 0), size - 1)


def _reflected(a: Attrs, value: Value, size: int) -> Value:
    """A pixel coordinate mirrored at the borders until it is inside: at pixel centres, or at pixel edges."""
    low, length = (0.0, size - 1) if a.align_corners else (-0.5, size)
    if not length:
        return value * 0
    distance = apply("abs", value - low)
    turns = apply("floor", distance / length)
    rest = distance - turns * length
    odd = apply("gt", turns / 2, apply("floor", turns / 2))
    return _clip(select(odd, length - rest, rest) + low, size)


def _moved_inside(a: Attrs, value: Value, size: int) -> Value:
    if a.padding_mode == "reflection":
        return _reflected(a, value, size)
    return _clip(value, size) if a.padding_mode == "border" else value


def _cubic_weights(t: Value) -> list[Value]:
    def near(s: Value) -> Value:
        return ((_CUBIC + 2) * s - (_CUBIC + 3)) * s * s + 1

    def far(s: Value) -> Value:
        return ((_CUBIC * s - 5 * _CUBIC) * s + 8 * _CUBIC) * s - 4 * _CUBIC

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _taps(a: Attrs, place: Value, size: int) -> list[tuple[Value, Value | None]]:
    """Places on one axis (whole numbers as floats) and their weights (None: 1)."""
    pixel = _pixel(a, place, size)
    if a.method == "bicubic":
        first = apply("floor", pixel)
        weights = _cubic_weights(pixel - first)
        return [(_moved_inside(a, first + k, size), w) for k, w in zip((-1, 0, 1, 2), weights, strict=True)]
    pixel = _moved_inside(a, pixel, size)
    if a.method == "nearest":
        away = select(apply("gt", pixel, 0), apply("floor", pixel + 0.5), apply("ceil", pixel - 0.5))
        return [(away, None)]
    first = apply("floor", pixel)
    return [(first, 1 - (pixel - first)), (first + 1, pixel - first)]


def _weighted(read: Callable[..., Value], taps: Sequence[list[tuple[Value, Value | None]]], *chosen: Value) -> Value:
    """The weighted sum over all combinations of places, the last axis innermost."""
    if not taps:
        return read(*chosen)
    terms = []
    for place, weight in taps[0]:
        value = _weighted(read, taps[1:], *chosen, place)
        terms.append(value if weight is None else value * weight)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _sampled(c: Context, n: Index, channel: Index, *out: Index) -> Operand:
    data, grid = c.args
    dtype = "float64" if "float64" in (data.dtype, grid.dtype) else "float32"
    sizes = data.shape[2:]
    # The grid holds x first, the axes of an image end with it.
    places = [cast(grid(n, len(sizes) - 1 - k, *out), dtype) for k in range(len(sizes))]

    def read(*at: Value) -> Value:
        inside = [
            test for p, size in zip(at, sizes, strict=True) for test in (apply("ge", p, 0), apply("le", p, size - 1))
        ]
        # Clamped before it is converted: a float beyond the range of integers has no defined conversion.
        where = [clamped(cast(_clip(p, size), "int64"), size) for p, size in zip(at, sizes, strict=True)]
        return select(all_of(inside), cast(data(n, channel, *where), dtype), 0)

    return _weighted(read, [_taps(c.attrs, p, size) for p, size in zip(places, sizes, strict=True)])


# The reference


def _np_inside(a: Attrs, value: Array, size: int) -> Array:
    if a.padding_mode == "zeros":
        return value
    if a.padding_mode == "reflection" and (size > 1 or not a.align_corners):
        low, length = (0, size - 1) if a.align_corners else (-0.5, size)
        # A triangle wave of period 2 * length.
        value = low + length - np.abs(np.mod(value - low, 2 * length) - length)
    return np.asarray(np.clip(value, 0, size - 1))


def _np_weight(method: str, s: Array) -> Array:
    if method == "bilinear":
        return 1 - s
    near = (_CUBIC + 2) * s**3 - (_CUBIC + 3) * s**2 + 1
    return np.where(s <= 1, near, _CUBIC * (s**3 - 5 * s**2 + 8 * s - 4))


def _np_taps(a: Attrs, place: Array, size: int) -> list[tuple[Array, Any]]:
    pixel = (place + 1) * (size - 1) / 2 if a.align_corners else (place + 1) * size / 2 - 0.5
    cubic = a.method == "bicubic"
    moved = pixel if cubic else _np_inside(a, pixel, size)
    if a.method == "nearest":
        return [(np.trunc(moved + np.copysign(0.5, moved)), 1)]
    steps = [np.floor(moved) + k for k in (range(-1, 3) if cubic else range(2))]
    return [(_np_inside(a, s, size) if cubic else s, _np_weight(a.method, np.abs(moved - s))) for s in steps]


def _np_grid_sample(a: Attrs, x: Array, grid: Array) -> Array:
    sizes = x.shape[2:]
    taps = [_np_taps(a, grid[:, len(sizes) - 1 - k], size) for k, size in enumerate(sizes)]
    batch = np.arange(x.shape[0]).reshape(-1, *[1] * len(sizes))
    result = np.zeros((x.shape[0], *grid.shape[2:], x.shape[1]))
    for combination in itertools.product(*taps):
        at = [p for p, _ in combination]
        inside = np.logical_and.reduce([(p >= 0) & (p < size) for p, size in zip(at, sizes, strict=True)])
        where = [p.clip(0, size - 1).astype(np.int64) for p, size in zip(at, sizes, strict=True)]
        pixels = np.moveaxis(x, 1, -1)[(batch, *where)] * inside[..., None]
        result += pixels * math.prod((w for _, w in combination), start=np.ones(inside.shape))[..., None]
    return np.moveaxis(result, -1, 1)


def _cases_grid_sample(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(2, 4))
    n, channels = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    sizes, out = ([int(k) for k in rng.integers(1, 6, rank)] for _ in range(2))
    attributes = {
        "method": str(rng.choice(METHODS if rank == 2 else METHODS[:2])),
        "layout": "NCHW" if rank == 2 else "NCDHW",
        "padding_mode": str(rng.choice(PADDINGS)),
        "align_corners": bool(rng.integers(2)),
    }
    shapes = [(n, channels, *sizes), (n, rank, *out)]

    def values(rng: np.random.Generator, dtype: str) -> list[Array]:
        # Near pixel centres, where rounding to the nearest is not a matter of the last bit.
        extents = np.array(sizes[::-1]).reshape(-1, *[1] * rank)
        pixel = rng.integers(-3, extents + 3, shapes[1]) + rng.uniform(-0.4, 0.4, shapes[1])
        corner = np.maximum(extents - 1, 0.5) if attributes["align_corners"] else extents
        place = 2 * pixel / corner - 1 if attributes["align_corners"] else (2 * pixel + 1) / corner - 1
        return [rng.uniform(-2, 2, shapes[0]).astype(dtype), place.astype(dtype)]

    return Case(shapes, attributes, values=values)


@operator(
    "image.grid_sample",
    Fusion.INJECTIVE,
    _infer_grid_sample,
    _np_grid_sample,
    Map(_sampled),
    cases=_cases_grid_sample,
    dtypes=REAL,
    tolerance=20,
)
def grid_sample(
    data: ExprLike,
    grid: ExprLike,
    method: str = "bilinear",
    layout: str = "NCHW",
    padding_mode: str = "zeros",
    align_corners: bool = True,
) -> Expr:
    """Images sampled at places that a tensor holds.

    Args:
        data: floating tensor (batch, channels, height, width), or with depth before the height.
        grid: floating tensor (batch, 2, output height, output width) of x and y coordinates, in which -1 and 1 are the
            corners of the image; or (batch, 3, depth, height, width) of x, y and z.
        method: "nearest", "bilinear" (trilinear in 3-D), or "bicubic" (2-D only; coefficient -0.75).
        layout: "NCHW" or "NCDHW".
        padding_mode: what is outside of the image: "zeros", "border" (the nearest pixel), or "reflection".
        align_corners: whether -1 and 1 are the centres of the corner pixels, or their outer edges.

    """
    return call(
        "image.grid_sample", [data, grid], method=method, layout=layout, padding_mode=padding_mode,
        align_corners=bool(align_corners),
    )  # fmt: skip


def _infer_affine_grid(a: Attrs, data: Type) -> Type:
    x = dtype_among(data, FLOATING, "data")
    if x.ndim != 3 or x.shape[1:] != (2, 3):
        raise TypeInferenceError(f"data must have shape (batch, 2, 3), got {x}")
    if len(a.target_shape) != 2 or min(a.target_shape) < 2:
        raise TypeInferenceError(f"target_shape must be two sizes of at least 2, got {shown(a.target_shape)}")
    return TensorType((x.shape[0], 2, *a.target_shape), x.dtype)


def _affine_grid(c: Context, n: Index, row: Index, y: Index, x: Index) -> Operand:
    (matrix,) = c.args
    # -1 + 2 * i / (size - 1), with the whole numbers first, so that both ends are exact.
    height, width = c.attrs.target_shape
    v: Value = cast(y * 2 - (height - 1), c.dtype) / (height - 1)
    u: Value = cast(x * 2 - (width - 1), c.dtype) / (width - 1)
    return matrix(n, row, 0) * u + matrix(n, row, 1) * v + matrix(n, row, 2)


def _np_affine_grid(a: Attrs, x: Array) -> Array:
    v, u = np.meshgrid(*(np.linspace(-1, 1, size) for size in a.target_shape), indexing="ij")
    return np.asarray(np.einsum("nrk,kyx->nryx", x, np.stack([u, v, np.ones_like(u)])))


@operator(
    "image.affine_grid",
    Fusion.INJECTIVE,
    _infer_affine_grid,
    _np_affine_grid,
    Map(_affine_grid),
    cases=lambda rng: Case(
        [(int(rng.integers(0, 4)), 2, 3)], {"target_shape": [int(n) for n in rng.integers(2, 9, 2)]}
    ),
    dtypes=REAL,
)
def affine_grid(data: ExprLike, target_shape: IntsLike) -> Expr:
    """The places at which `grid_sample` has to sample images to transform them by 2-by-3 matrices.

    Args:
        data: floating tensor (batch, 2, 3): for each image the matrix that takes (x, y, 1) of the result to (x, y) of
            the image, with -1 and 1 at the corners.
        target_shape: (height, width) of the result, at least 2 each.

    """
    return call("image.affine_grid", [data], target_shape=static_ints(target_shape, "target_shape"))
