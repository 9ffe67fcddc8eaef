"""Descriptions of oneDNN convolutions for tests, and what they mean in NumPy."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusewire.contrib.onednn import ffi
from fusewire.contrib.onednn.convolution import Convolution

Array = NDArray[Any]

MISSING = ffi.probe() or ""
needs_onednn = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def uniform(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def close(got: Array, expected: Array, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=rtol, atol=atol)


def describe(
    src: tuple[int, ...],
    filters: int,
    kernel: tuple[int, ...],
    stride: int = 1,
    dilation: int = 0,
    low: int = 0,
    high: int = 0,
    groups: int = 1,
    **rest: Any,
) -> Convolution:
    rank = len(kernel)
    out = ((n + low + high - (k - 1) * (dilation + 1) - 1) // stride + 1 for n, k in zip(src[2:], kernel, strict=True))
    strides, gaps, before, after = ((value,) * rank for value in (stride, dilation, low, high))
    weights, dst = (filters, src[1] // groups, *kernel), (src[0], filters, *out)
    return Convolution(src, weights, dst, strides, gaps, before, after, groups, **rest)


def reference_convolution(c: Convolution, src: Array, weights: Array) -> Array:
    """Slide a window over the padded data in float64, group by group."""
    rank = len(c.strides)
    pads = [(0, 0), (0, 0), *zip(c.padding_l, c.padding_r, strict=True)]
    padded = np.pad(src.astype(np.float64), pads)
    reach = tuple((k - 1) * (d + 1) + 1 for k, d in zip(c.weights_shape[2:], c.dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    every = (slice(None), slice(None))
    steps, gaps = (slice(None, None, s) for s in c.strides), (slice(None, None, d + 1) for d in c.dilation)
    windows = windows[(*every, *steps, *gaps)]
    where, inside = "xyz"[:rank], "ijk"[:rank]
    pattern = f"nc{where}{inside},oc{inside}->no{where}"
    pairs = zip(np.split(windows, c.groups, axis=1), np.split(weights.astype(np.float64), c.groups), strict=True)
    return np.concatenate([np.einsum(pattern, data, part, optimize=True) for data, part in pairs], axis=1)
