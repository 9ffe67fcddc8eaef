"""How far two results of one computation are apart."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..targets.target import Target

Array = npt.NDArray[Any]

ROUNDING = {"bfloat16": 2.0**-5, "float16": 2.0**-8}
"""How far results may be apart for a target's -precision: 4 units in the last place of the largest element."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


@frozen
class Difference:
    """How an output differs from the reference's.

    Equal NaN places and equal infinities do not differ; a NaN against a number differs by infinity.

    Attributes:
        max_abs: the largest |a - b|.
        max_rel: the largest |a - b| / |b|, b being the reference.
        of_largest: the largest |a - b| / the largest |b|.
        max_ulp: the most representable numbers that lie between a and b; None for integers.
        beyond: how many elements differ by more than atol + rtol * |b|.
        size: how many elements there are.
        argmax_agreement: the share of rows whose largest element is at the same place; None where the output is no
            row or matrix of floating numbers.
    """

    max_abs: float
    max_rel: float
    of_largest: float
    max_ulp: float | None
    beyond: int
    size: int
    argmax_agreement: float | None

    @property
    def within(self) -> bool:
        """Whether all elements are within the tolerance."""
        return self.beyond == 0


def difference(got: Array, reference: Array, rtol: float, atol: float, rounding: float = 0.0) -> Difference:
    """Compare an output with the reference's, of the same shape and dtype.

    `rounding` adds so much of the reference's largest (finite) element to the tolerance: where factors are rounded,
    errors are as large for small sums as for large ones.
    """
    floating = reference.dtype.name in FLOATS
    wide = np.float64 if floating or reference.dtype.kind == "b" else np.longdouble
    a: Array = got.astype(wide)
    b: Array = reference.astype(wide)
    same = (got == reference) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        absolute = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))
        relative = np.where(same, 0.0, np.nan_to_num(absolute / np.abs(b), nan=np.inf, posinf=np.inf))
        sizes = np.where(np.isfinite(b), np.abs(b), 0.0)
        largest = sizes.max(initial=0.0)
        beyond = ~same & ~(absolute <= atol + rtol * sizes + (rounding * largest if floating else 0.0))
    most = float(absolute.max(initial=0.0))
    return Difference(
        most,
        float(relative.max(initial=0.0)),
        most / float(largest) if largest else most and math.inf,
        _max_ulp(got, reference, same) if floating else None,
        int(beyond.sum()),
        int(reference.size),
        _argmax_agreement(got, reference) if floating else None,
    )


def _max_ulp(got: Array, reference: Array, same: Array) -> float:
    """The largest distance in units in the last place; infinite where a NaN meets a number."""
    if np.any(~same & (np.isnan(got) | np.isnan(reference))):
        return float("inf")
    p, q = _ordered(got[~same]), _ordered(reference[~same])
    return float(np.where(p > q, p - q, q - p).max(initial=0))


def _ordered(values: Array) -> Array:
    """Unsigned integers in the order of floating numbers, one apart where those are neighbours; -0 and 0 are one."""
    bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)
    sign = np.uint64(1 << (8 * values.dtype.itemsize - 1))
    return np.where(bits & sign, sign - (bits & ~sign), sign + bits)


def _argmax_agreement(got: Array, reference: Array) -> float | None:
    if reference.ndim not in (1, 2) or reference.shape[-1] < 2 or not reference.size:
        return None
    return float(np.mean(got.argmax(-1) == reference.argmax(-1)))


def rounding_of(targets: Iterable[Target]) -> float:
    """What -precision allows results to be apart, of their largest element, where one of `targets` has it."""
    return max((ROUNDING.get(target.precision or "", 0.0) for target in targets), default=0.0)
