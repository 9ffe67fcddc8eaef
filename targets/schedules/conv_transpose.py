"""conv2d_transpose as direct convolutions, one for each phase of the result.

Input pixel x meets window element k at result pixel x * stride + k * dilation - pad. Result pixels whose coordinates
leave the same remainder by the stride, a *phase*, are met by the same window elements, and each of them is an ordinary
convolution with stride 1 over the input:

    result columns   0  1  2  3  4  5      (window 4, stride 2, pad 1)
    phase 0          *     *     *         window elements 3, 1
    phase 1             *     *     *      window elements 2, 0

So nothing is multiplied by the zeros between the pixels, and nothing is added up in memory: the phases share the tiles
of conv.py, the bordered copy of the input, and one array of packed weights.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index
from ...ir.loops import Builder, Kernel
from ...ops.lowering import View
from ..lower import Problem
from . import conv_shape
from .conv import Tiling, bordered, channel_pieces, default_config, pixel_pieces
from .conv_shape import Conv, conv_of
from .space import Config, register_tiles, space
from .tiles import Packed, Packing, packed_operand


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if reason := conv_shape.check(problem, "IO"):
        return reason
    conv = conv_of(problem)
    if problem.parameter(1) not in problem.constants:
        return "the weight is not known at build time"
    if conv.s.ci % conv.data_block:
        return f"blocks of {conv.data_block} channels lie across groups of {conv.s.ci}"
    return None


@frozen
class Phase:
    """Along one axis, the result pixels `i * stride + start` and the window elements that they meet.

    Pixel i meets, with window element `taps[t]`, input pixel `i + first + t * step`.
    """

    start: int
    size: int
    taps: tuple[int, ...]
    first: int
    step: int

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last input pixel that are met, inside of the picture or not; (0, 0) if there are none."""
        if not self.taps or not self.size:
            return 0, 0
        return self.first, self.first + (len(self.taps) - 1) * self.step + self.size - 1


def phases(size: int, window: int, stride: int, dilation: int, pad: int) -> list[Phase]:
    """The phases of an axis whose result has `size` pixels."""
    found = []
    for start in range(min(stride, size)):
        taps = [k for k in reversed(range(window)) if (start + pad - k * dilation) % stride == 0]
        first = (start + pad - taps[0] * dilation) // stride if taps else 0
        step = dilation // math.gcd(dilation, stride)
        found.append(Phase(start, -(-(size - start) // stride), tuple(taps), first, step))
    return found


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: vectors and points of the register tile, and what is reused first (see conv.py)."""
    conv = conv_of(problem)
    default = default_config(conv, _channels_in_lanes(conv))
    tiles = register_tiles(problem.isa.registers)
    knobs = {"blocks": [n for n, _ in tiles], "points": [p for _, p in tiles]}
    return space(default, knobs, lambda config: (config["blocks"], config["points"]) in tiles)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything: a product for each tap and input pixel."""
    conv = conv_of(problem)
    s = conv.s
    products = s.n * s.groups * s.h * s.w * s.terms * s.co / conv.lanes
    return products * max(1.0, 1.6 * (1 / config["blocks"] + 1 / config["points"]))


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a transposed convolution, and how its weights are packed."""
    conv, b = conv_of(problem), Builder()
    s, channels = conv.s, config["channels"]
    rows = phases(s.oh, s.kh, s.stride[0], s.dilation[0], s.pad[0])
    columns = phases(s.ow, s.kw, s.stride[1], s.dilation[1], s.pad[1])
    pairs = [(row, column) for row in rows for column in columns]
    pieces = channel_pieces(conv, config["blocks"]) if channels else pixel_pieces(conv, config["points"])
    terms = sum(s.ci * len(row.taps) * len(column.taps) for row, column in pairs)
    packing = Packing(tuple(pieces), terms, s.co)

    def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([_phase_matrix(array, conv, row, column) for row, column in pairs], 1)

    weights, problem, packed = packed_operand(problem, packing, b, s.groups, matrix)
    conv = evolve(conv, problem=problem)
    data, origin = _surrounded(conv, b, rows, columns)
    first_row = 0
    for row, column in pairs:
        part = _phase_conv(conv, data, (row, column), origin)
        tiling = Tiling(part, config, b, packing, weights, packed, first_row)
        for piece in pieces:
            if channels:
                tiling.channel_tiles(piece)
            else:
                tiling.pixel_tiles(piece)
        first_row += part.s.terms
    return problem.kernel(b), packed


def _channels_in_lanes(conv: Conv) -> bool:
    """Neighbouring pixels of a phase are `stride` apart: lanes of pixels only pay where there are few channels."""
    return conv.out_block > 1 or conv.data_block > 1 or conv.s.co >= conv.lanes // 2


def _phase_matrix(array: npt.NDArray[Any], conv: Conv, row: Phase, column: Phase) -> npt.NDArray[Any]:
    """The weights of a phase as (group, terms, channel): terms are (channel block, row, column, channel)."""
    s, block = conv.s, conv.data_block
    parts = array.reshape(s.groups, s.ci // block, block, s.co, s.kh, s.kw)
    parts = parts[..., list(row.taps), :][..., list(column.taps)]
    return parts.transpose(0, 1, 4, 5, 2, 3).reshape(s.groups, -1, s.co)


def _surrounded(
    conv: Conv, b: Builder, rows: Sequence[Phase], columns: Sequence[Phase]
) -> tuple[View, tuple[int, int]]:
    """The input, with a border where windows stick out of the picture, and where in it the picture begins."""
    top, bottom = _border(rows, conv.s.h)
    left, right = _border(columns, conv.s.w)
    around = evolve(
        conv.s,
        oh=conv.s.h + top + bottom,
        ow=conv.s.w + left + right,
        kh=1,
        kw=1,
        stride=(1, 1),
        dilation=(1, 1),
        pad=(top, left),
        padded=bool(top or bottom or left or right),
    )
    return bordered(evolve(conv, s=around), b), (top, left)


def _border(found: Sequence[Phase], size: int) -> tuple[int, int]:
    reaches = [p.reach for p in found]
    return max(0, -min(lo for lo, _ in reaches)), max(0, max(hi for _, hi in reaches) - (size - 1))


def _phase_conv(conv: Conv, data: View, phase: tuple[Phase, Phase], origin: tuple[int, int]) -> Conv:
    """A phase as a convolution with stride 1."""
    row, column = phase
    stride = conv.s.stride
    top, left = row.first + origin[0], column.first + origin[1]
    s = evolve(
        conv.s,
        oh=row.size,
        ow=column.size,
        kh=len(row.taps),
        kw=len(column.taps),
        stride=(1, 1),
        dilation=(row.step, column.step),
        pad=(0, 0),
        padded=True,  # rows of the phase are not rows of the input: pixels must not be counted through
    )
    view = View(data.type, lambda n, c, y, x: data(n, c, y + top, x + left))

    def place(y: Index, x: Index) -> tuple[Index, Index]:
        return y * stride[0] + row.start, x * stride[1] + column.start

    return evolve(conv, s=s, data=view, place=place)
