"""Depthwise conv2d in blocked layouts: channels in lanes, a few pixels of a row at a time.

Each channel has a filter of its own, so there is nothing to broadcast: a vector of inputs meets a vector of weights.
An input is loaded once for all taps of its row that use it. Tiles whose windows stick out of the picture to the left or
right are written apart, with just the taps inside; rows outside are skipped. So there is no bordered copy, and inner
loops have no guards.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
from attrs import frozen

from ...ir.index import Index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Const, Value, inside, select
from ...ops.reshape import unravel
from ..lower import Problem
from . import conv_shape
from .conv_shape import Conv, Written, conv_of, with_weights
from .space import Config, space
from .tiles import Packed, Packing, added, cut, even, team_kind

WIDEST = 11
"""The widest window that is unrolled."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if reason := conv_shape.check(problem):
        return reason
    conv = conv_of(problem)
    if conv.s.ci != 1 or conv.s.co != 1:
        return "not depthwise: a group has more than one channel"
    if conv.data_block != conv.out_block or conv.data_block == 1:
        return "input and result do not have the same blocks of channels"
    if conv.s.kw > WIDEST:
        return f"the window is more than {WIDEST} wide"
    return None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: how many pixels of a row are computed at a time."""
    points = 14 if conv_of(problem).s.stride[1] == 1 else 8
    default = {"points": points if problem.isa.registers >= 32 else 6}
    return space(default, {"points": (2, 4, 6, 8, 12, 14)}, lambda c: c["points"] <= problem.isa.registers // 2)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything; a quarter is for loads and edges."""
    conv = conv_of(problem)
    return conv.s.flops / 2 / min(conv.lanes, conv.data_block) * 1.25


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a depthwise convolution, and how its weights are packed."""
    return Depthwise.start(conv_of(problem)).kernel(config["points"])


def pack(problem: Problem, config: Config) -> Packed:
    """How the weights are packed."""
    return Depthwise.start(conv_of(problem)).packed


@frozen(eq=False)
class Depthwise(Written):
    """A depthwise convolution being written."""

    @staticmethod
    def start(conv: Conv, builder: Builder | None = None) -> "Depthwise":
        """Pack the weights: for each block of channels, window positions, then channels."""
        s, b, view = conv.s, builder or Builder(), conv.weight
        packing = Packing(tuple(cut(s.groups, conv.data_block, 1)), s.kh * s.kw, s.groups)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return array.reshape(1, s.groups, -1).swapaxes(1, 2)

        def element(batch: Index, row: Index, c: Index) -> Value:
            return view(c, 0, row // s.kw, row % s.kw)

        return Depthwise(*with_weights(conv, b, packing, matrix, element))

    def kernel(self, most: int) -> tuple[Kernel, Packed]:
        """Rows of blocks of channels in parallel, at most `most` pixels at a time."""
        s, b, block = self.conv.s, self.b, self.conv.data_block
        extents = (s.n, s.groups // block, s.oh)
        kind = team_kind(s.flops // 2)
        with b.loop("row", math.prod(extents), kind) as flat:
            n, cb, y = unravel(flat, extents)
            self.row((n, cb, y), most)
        return self.conv.problem.kernel(b), self.packed

    def row(self, row: tuple[Index, Index, Index], most: int) -> None:
        """One row of one block of channels, at most `most` pixels at a time."""
        for start, count, points in self.tiles(most):
            with self.b.loop("q", count) as q:
                self.tile(row, q * points + start, points)

    def tiles(self, most: int) -> Iterator[tuple[int, int, int]]:
        """A row in tiles, (start, how many, points); those that need a test for columns outside come one by one."""
        s = self.conv.s
        left, right = s.pad[1], s.w + s.pad[1] - (s.kw - 1) * s.dilation[1]
        for start, count, points in even(s.ow, most):
            first = min(-(-max(-(-left // s.stride[1]) - start, 0) // points), count)
            # The last window of tile k begins at column ((k + 1) * points + start - 1) * stride of the bordered row.
            end = max(first, min(((right - 1) // s.stride[1] + 1 - start) // points, count))
            yield from ((start + k * points, 1, points) for k in range(first))
            if end > first:
                yield start + first * points, end - first, points
            yield from ((start + k * points, 1, points) for k in range(end, count))

    def tile(self, row: tuple[Index, Index, Index], x0: Index, points: int) -> None:
        """`points` neighbouring outputs of one row and block."""
        s, b, conv, (n, cb, y) = self.conv.s, self.b, self.conv, row
        with b.loop("v", conv.data_block, "vectorised") as lane:
            channel = cb * conv.data_block + lane
            acc = b.alloc("acc", (points,), conv.dtype)
            for j in range(points):
                b.store(acc, (j,), 0)
            with b.loop("kh", s.kh, "rolled") as kh:
                above = y * s.stride[0] + kh * s.dilation[0] - s.pad[0]
                with b.when(inside((above,), (s.h,))):
                    self._row_of_taps(acc, (n, channel, above), kh, x0, points)
            for j in range(points):
                conv.emit(b, (n, channel, y, x0 + j), b.load(acc, (j,)))

    def _row_of_taps(self, acc: Buffer, line: tuple[Index, Index, Index], kh: Index, x0: Index, points: int) -> None:
        s, b, conv, (n, channel, above) = self.conv.s, self.b, self.conv, line
        (piece,), block = self.packing.pieces, conv.data_block

        def weight(kw: int) -> Value:
            offset = self.packing.offset(piece, channel // block, kh * s.kw + kw, channel % block)
            return b.load(self.weights, (0, offset))

        for column in range((points - 1) * s.stride[1] + (s.kw - 1) * s.dilation[1] + 1):
            x = x0 * s.stride[1] + column - s.pad[1]
            test = inside((x,), (s.w,))
            if isinstance(test, Const) and not test.value:
                continue
            value = select(test, conv.data(n, channel, above, x), 0)
            for kw in range(s.kw):
                j, rest = divmod(column - kw * s.dilation[1], s.stride[1])
                if rest == 0 and 0 <= j < points:
                    b.store(acc, (j,), added(weight(kw), value, b.load(acc, (j,))))
