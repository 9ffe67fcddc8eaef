"""Resampling of images along their spatial axes: where each output place lies in the input, and what is read there.

The coordinate of output place x on an input axis is (a*x + b) / d with whole numbers a, b, d that depend on the sizes
only. So the nearest input place and the pair around the coordinate are exact integer arithmetic, which becomes a shift
where the scale is 2, and only interpolation weights, (remainder / d), are floating. The NumPy references here follow
the definitions in fractions instead.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from attrs import frozen

from ..ir.errors import TypeInferenceError
from ..ir.index import INF, Index, as_index, floordiv
from ..ir.scalar import Operand, Value, apply, cast, clamped, constant, select
from .layout import Layout
from .lowering import View
from .spec import Array

METHODS = ("nearest_neighbor", "linear", "cubic")
ROUNDINGS = ("round", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
CROP = "tf_crop_and_resize"
MODES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn", CROP)

Tap = tuple[Index, Value | None]
"""An input place on one axis, and its weight (None: 1, unconverted)."""


@frozen
class Scheme:
    """How to resample.

    Attributes:
        layout: the layout of data and result.
        axes: the letters of the spatial axes, outermost first.
        method: one of `METHODS`.
        mode: how output places map to input coordinates, one of `MODES`.
        rounding: how "nearest_neighbor" rounds a coordinate, one of `ROUNDINGS`; "" for "round" with align_corners and
            "floor" otherwise.
        alpha: the coefficient of the cubic kernel.
        exclude: cubic: give no weight to places outside of the input (else the border is repeated).
        extrapolation: the value where a coordinate in a region of interest is outside of the input.
        roi: for tf_crop_and_resize: all starts, then all ends, as fractions of the input axes.

    """

    layout: Layout
    axes: str
    method: str
    mode: str
    rounding: str = ""
    alpha: float = -0.5
    exclude: bool = False
    extrapolation: float = 0.0
    roi: tuple[float, ...] = ()

    @property
    def rounds(self) -> str:
        """The rounding, with the default filled in."""
        return self.rounding or ("round" if self.mode == "align_corners" else "floor")

    def span(self, axis: str) -> tuple[float, float]:
        """Start and end of the region of interest on an axis."""
        k = self.axes.index(axis)
        return (self.roi[k], self.roi[k + len(self.axes)]) if self.roi else (0.0, 1.0)


@frozen
class Ratio:
    """The input coordinate `(slope * x + offset) / unit` of output place x; unit > 0."""

    slope: int
    offset: int
    unit: int

    def numerator(self, x: Index) -> Index:
        """`unit` times the coordinate."""
        return x * self.slope + self.offset


def ratio(scheme: Scheme, axis: str, size: int, target: int) -> Ratio:
    """Where the places of an axis of `target` elements lie on one of `size` elements, in lowest terms.

    Raises:
        TypeInferenceError: sizes or region of interest are too large for 64-bit arithmetic.

    """
    slope, offset, unit = _ratio(scheme, axis, size, target)
    if abs(slope) * target + abs(offset) + unit * (size + 4) >= INF:
        raise TypeInferenceError(f"cannot resize axis {axis} from {size} to {target}: the coordinates are too large")
    common = math.gcd(slope, offset, unit)
    return Ratio(slope // common, offset // common, unit // common)


def _ratio(scheme: Scheme, axis: str, size: int, target: int) -> tuple[int, int, int]:
    match scheme.mode:
        case "align_corners" | "pytorch_half_pixel" if target == 1:
            return 0, 0, 1
        case "align_corners":
            return size - 1, 0, target - 1
        case "asymmetric":
            return size, 0, target
        case "tf_half_pixel_for_nn":
            return 2 * size, size, 2 * target
        case "tf_crop_and_resize":
            return _crop_ratio(*scheme.span(axis), size, target)
    return 2 * size, size - target, 2 * target


def _crop_ratio(start: float, end: float, size: int, target: int) -> tuple[int, int, int]:
    # Edges are rounded to the finest binary fraction that 64-bit coordinates have room for.
    largest = math.ceil(max(1.0, abs(start), abs(end)))
    unit = 1 << max(0, 59 - (4 * largest * target * (size + 4)).bit_length())
    first, last = round(Fraction(start) * unit), round(Fraction(end) * unit)
    if target == 1:
        return 0, (first + last) * (size - 1), 2 * unit
    return (last - first) * (size - 1), first * (size - 1) * (target - 1), unit * (target - 1)


def _nearest(place: Index, unit: int, rounding: str) -> Index:
    """`place / unit` rounded to a whole number."""
    match rounding:
        case "floor":
            return floordiv(place, unit)
        case "ceil":
            return -floordiv(-place, unit)
        case "round_prefer_floor":
            return -floordiv(unit - place * 2, 2 * unit)
    # Halves below 0 are clamped to place 0 however they are rounded.
    return floordiv(place * 2 + unit, 2 * unit)


def _cubic_weights(t: Value, alpha: float) -> list[Value]:
    """Keys' cubic convolution kernel at distances 1+t, t, 1-t and 2-t (IEEE Trans. ASSP 29(6), 1981)."""
    t2 = t * t
    t3 = t2 * t
    return [
        (t3 - t2 * 2 + t) * alpha,
        t3 * (alpha + 2) - t2 * (alpha + 3) + 1,
        t2 * (2 * alpha + 3) - t3 * (alpha + 2) - t * alpha,
        (t2 - t3) * alpha,
    ]


def _taps(scheme: Scheme, where: Ratio, x: Index, size: int, dtype: str) -> list[Tap]:
    """The input places on one axis that output place x is made of."""
    place = where.numerator(x)
    if scheme.method == "nearest_neighbor":
        return [(clamped(_nearest(place, where.unit, scheme.rounds), size), None)]
    first = floordiv(place, where.unit)
    t = cast(place % where.unit, dtype) / where.unit
    if scheme.method == "linear":
        return [(clamped(first, size), 1 - t), (clamped(first + 1, size), t)]
    places, weights = [first + k for k in (-1, 0, 1, 2)], _cubic_weights(t, scheme.alpha)
    if scheme.exclude:
        inside = [apply("and", apply("ge", p, 0), apply("lt", p, size)) for p in places]
        weights = [select(ok, w, 0) for ok, w in zip(inside, weights, strict=True)]
        total = weights[0] + weights[1] + weights[2] + weights[3]
        weights = [w / total for w in weights]
    return [(clamped(p, size), w) for p, w in zip(places, weights, strict=True)]


def _weighted(read: Callable[..., Value], taps: Sequence[list[Tap]], dtype: str, *chosen: Index) -> Value:
    """The weighted sum over all combinations of places, the last axis innermost."""
    if not taps:
        return read(*chosen)
    parts = [(_weighted(read, taps[1:], dtype, *chosen, place), weight) for place, weight in taps[0]]
    terms = [value if weight is None else cast(value, dtype) * weight for value, weight in parts]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _weight_dtype(dtype: str) -> str:
    return "float64" if dtype in ("float64", "int32", "int64", "uint32", "uint64") else "float32"


def resample(scheme: Scheme, view: View, shape: Sequence[int], index: Sequence[Index]) -> Operand:
    """The element at `index` of `view` resampled to `shape`."""
    layout, dtype = scheme.layout, _weight_dtype(view.dtype)
    at, sizes, targets = layout.unpack(index), layout.unpack_shape(view.shape), layout.unpack_shape(shape)
    taps: list[list[Tap]] = []
    outside: Value = constant(False, "bool")
    for axis in scheme.axes:
        size, target = int(as_index(sizes[axis]).const), int(as_index(targets[axis]).const)
        where = ratio(scheme, axis, size, target)
        taps.append(_taps(scheme, where, at[axis], size, dtype))
        place = where.numerator(at[axis])
        beyond = apply("or", apply("lt", place, 0), apply("gt", place, (size - 1) * where.unit))
        outside = apply("or", outside, beyond)

    def read(*places: Index) -> Value:
        return view(*layout.pack({**at, **dict(zip(scheme.axes, places, strict=True))}))

    value = _weighted(read, taps, dtype)
    return select(outside, scheme.extrapolation, value) if scheme.mode == CROP else value


# The reference, after the definitions of ONNX Resize and Relay


def _np_coordinate(scheme: Scheme, axis: str, x: int, size: int, target: int) -> Fraction:
    scale = Fraction(size, target)
    match scheme.mode:
        case "half_pixel":
            return (x + Fraction(1, 2)) * scale - Fraction(1, 2)
        case "pytorch_half_pixel":
            return (x + Fraction(1, 2)) * scale - Fraction(1, 2) if target > 1 else Fraction(0)
        case "align_corners":
            return x * Fraction(size - 1, target - 1) if target > 1 else Fraction(0)
        case "asymmetric":
            return x * scale
        case "tf_half_pixel_for_nn":
            return (x + Fraction(1, 2)) * scale
    start, end = map(Fraction, scheme.span(axis))
    if target == 1:
        return (start + end) / 2 * (size - 1)
    return start * (size - 1) + x * (end - start) * (size - 1) / (target - 1)


def _np_round(value: Fraction, rounding: str) -> int:
    half = Fraction(1, 2)
    match rounding:
        case "floor":
            return math.floor(value)
        case "ceil":
            return math.ceil(value)
        case "round_prefer_floor":
            return math.ceil(value - half)
    return math.floor(value + half)


def _np_kernel(distance: float, alpha: float) -> float:
    s = abs(distance)
    if s <= 1:
        return (alpha + 2) * s**3 - (alpha + 3) * s**2 + 1
    return alpha * s**3 - 5 * alpha * s**2 + 8 * alpha * s - 4 * alpha


def _np_axis(scheme: Scheme, image: Array, dim: int, where: Sequence[Fraction]) -> Array:
    """One axis resampled at the given coordinates."""
    size = image.shape[dim]
    if scheme.method == "nearest_neighbor":
        nearest = [min(max(_np_round(c, scheme.rounds), 0), size - 1) for c in where]
        return image.take(nearest, dim)
    reach = range(2) if scheme.method == "linear" else range(-1, 3)
    places = np.array([[math.floor(c) + k for k in reach] for c in where])
    distances = np.array([[float(c - math.floor(c) - k) for k in reach] for c in where])
    if scheme.method == "linear":
        weights = 1 - np.abs(distances)
    else:
        weights = np.array([[_np_kernel(s, scheme.alpha) for s in row] for row in distances])
        if scheme.exclude:
            weights = np.where((places >= 0) & (places < size), weights, 0)
            with np.errstate(invalid="ignore"):
                weights = weights / weights.sum(1, keepdims=True)
    picked = image.take(places.clip(0, size - 1), dim)
    shape = [1] * picked.ndim
    shape[dim : dim + 2] = weights.shape
    return np.asarray((picked * weights.reshape(shape)).sum(dim + 1))


def np_resample(scheme: Scheme, x: Array, sizes: Sequence[int], dtype: np.dtype[np.generic]) -> Array:
    """The reference: `x` resampled to the spatial sizes `sizes`, as `dtype`."""
    image = scheme.layout.to_plain(x, "NC" + scheme.axes)
    outside = np.zeros([1] * image.ndim, bool)
    for k in reversed(range(len(sizes))):
        dim, size = 2 + k, image.shape[2 + k]
        where = [_np_coordinate(scheme, scheme.axes[k], place, size, sizes[k]) for place in range(sizes[k])]
        image = _np_axis(scheme, image, dim, where)
        beyond = np.array([not 0 <= c <= size - 1 for c in where])
        outside = outside | np.expand_dims(beyond, [d for d in range(outside.ndim) if d != dim])
    if scheme.mode == CROP:
        image = np.where(outside, scheme.extrapolation, image)
    if dtype.kind in "iu":
        image = np.trunc(image)
    return scheme.layout.from_plain(image.astype(dtype), "NC" + scheme.axes)
