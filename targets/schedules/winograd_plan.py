"""How Winograd's algorithm is laid out for a window and a stride: phases, frequencies, and the transformed weights.

A convolution with stride s is a sum of s * s convolutions with stride 1: *phase* (p, q) sees the pixels whose
coordinates leave the remainders p and q by s, and the window elements that meet them. The phases are further input
channels of one convolution with a window of ceil(k / s), transformed and multiplied as usual, and added up before the
output transform. Where k is no multiple of s some phases have a tap less. Their last tap is 0, and so is their product
at the point at infinity, which is left out. For 3x3 with stride 2 and F(4, 2), which has 5 frequencies along an axis:

               columns 0 1 2 3   4             a *band* is a rectangle of frequencies that the same phases take part in
    rows 0..3  ee eo oe oo   | ee oe
    row  4     ee eo         | ee              (e: even, 3 taps give 2; o: odd, 1 tap)

81 products instead of 144 for each 4x4 tile and pair of channels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

from .cook_toom import POINTS, Filter, winograd


@frozen
class Phase:
    """The pixels that lie at (y, x) modulo the stride, with the filters that their window elements take."""

    y: int
    x: int
    rows: Filter
    columns: Filter


@frozen
class Band:
    """Frequencies `ys` x `xs`, the phases that they add up, and the first row of their weights."""

    ys: range
    xs: range
    phases: tuple[int, ...]
    first_row: int


@frozen
class Plan:
    """Winograd's algorithm for one shape.

    Attributes:
        f: the filter F(m, r) along an axis.
        stride, ci: of the convolution.
        phases, bands: how products are grouped.
        rows: products for each tile and output channel.
    """

    f: Filter
    stride: int
    ci: int
    phases: tuple[Phase, ...]
    bands: tuple[Band, ...]
    rows: int

    @property
    def reach(self) -> int:
        """Input pixels under a tile, along an axis."""
        return max(p.y + (p.rows.n - 1) * self.stride for p in self.phases) + 1


def fits(m: int, window: int, stride: int) -> bool:
    """Whether there are points for F(m, ceil(window / stride)), and it saves something."""
    taps = -(-window // stride)
    return taps > 1 and m + taps - 2 in POINTS


def plan(m: int, window: int, stride: int, ci: int) -> Plan:
    """The plan of F(m x m) for a square window."""
    taps = [-(-(window - p) // stride) for p in range(min(stride, window))]
    whole = winograd(m, taps[0])
    filters = [whole if t == taps[0] else whole.finite() for t in taps]
    places = [(p, q) for p in range(len(taps)) for q in range(len(taps))]
    phases = tuple(Phase(p, q, filters[p], filters[q]) for p, q in places)
    n = whole.n
    cuts = [range(n)] if filters[-1] is whole else [range(n - 1), range(n - 1, n)]
    bands: list[Band] = []
    row = 0
    for ys in cuts:
        for xs in cuts:
            taking = tuple(k for k, p in enumerate(phases) if ys[-1] < p.rows.n and xs[-1] < p.columns.n)
            bands.append(Band(ys, xs, taking, row))
            row += len(ys) * len(xs) * len(taking) * ci
    return Plan(whole, stride, ci, phases, tuple(bands), row)


def transformed(weight: npt.NDArray[np.generic], plan: Plan) -> npt.NDArray[np.generic]:
    """G g G^T of the phases of a weight (O, I, k, k), in float64, as an array (1, rows, O) of the weight's dtype."""
    out, s = weight.shape[0], plan.stride
    result = np.empty((plan.rows, out), weight.dtype)
    both = [np.kron(p.rows.weights, p.columns.weights) for p in plan.phases]
    for first in range(0, out, 32):  # a part at a time: float64 copies of everything would be large
        part = weight[first : first + 32].transpose(2, 3, 1, 0).astype(np.float64)
        images = []
        for p, matrix in zip(plan.phases, both, strict=True):
            taps = np.ascontiguousarray(part[p.y :: s, p.x :: s]).reshape(matrix.shape[1], -1)
            images.append((matrix @ taps).reshape(p.rows.n, p.columns.n, *part.shape[2:]))
        for band in plan.bands:
            stacked = np.stack([images[k][band.ys.start : band.ys.stop, band.xs.start : band.xs.stop]
                                for k in band.phases], 2)  # fmt: skip
            rows = stacked.reshape(-1, stacked.shape[-1])
            result[band.first_row : band.first_row + len(rows), first : first + 32] = rows
    return result[None]


def taps_of(phases: Sequence[Phase]) -> int:
    """Elements that the input transforms of one channel read."""
    return sum(p.rows.n * p.columns.n for p in phases)
