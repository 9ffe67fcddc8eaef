"""Random shapes, axes and index arrays: what the sample uses (`cases`) of operators are drawn from."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.types import numpy_dtype
from .spec import Array

_SIZES = (1, 2, 3, 4, 5, 7, 9, 0)
_CHANCES = (0.15, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)


def small_shape(rng: np.random.Generator, low: int = 0, high: int = 5) -> tuple[int, ...]:
    """A random shape of `low`..`high - 1` dimensions, most of them small, rarely one of size 0 or 17."""
    shape = [int(n) for n in rng.choice(_SIZES, rng.integers(low, high), p=_CHANCES)]
    if shape and rng.random() < 0.1:
        shape[rng.integers(len(shape))] = 17
    return tuple(shape)


def any_axis(rng: np.random.Generator, ndim: int) -> int:
    """A random axis of `ndim`, negative half of the time."""
    return int(rng.integers(-ndim, ndim))


def uniform(rng: np.random.Generator, shape: Sequence[int], dtype: str, low: float = -4, high: float = 4) -> Array:
    """Random numbers of any dtype in low..high (0..high for unsigned types)."""
    kind = numpy_dtype(dtype).kind
    if kind == "b":
        return np.asarray(rng.random(tuple(shape)) < 0.5)
    if kind in "iu":
        return np.asarray(rng.integers(int(low) if kind == "i" else 0, int(high) + 1, tuple(shape))).astype(dtype)
    return np.asarray(rng.uniform(low, high, tuple(shape))).astype(numpy_dtype(dtype))


def with_indices(
    shapes: Sequence[Sequence[int]], indices: Callable[[np.random.Generator], Any], at: int = 1, dtype: str = "int32"
) -> Callable[[np.random.Generator, str], list[Array]]:
    """A `Case.values` that makes argument `at` with `indices` (as `dtype`) and draws the others."""

    def values(rng: np.random.Generator, tested: str) -> list[Array]:
        return [
            np.asarray(indices(rng)).astype(dtype) if k == at else uniform(rng, shape, tested)
            for k, shape in enumerate(shapes)
        ]

    return values
