"""Depthwise conv2d: a work-item computes neighbouring pixels of four channels, or of one where the layout is plain."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy.typing as npt
from attrs import evolve, frozen

from ....ir.index import Index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Value, constant
from ...lower import Problem
from .. import conv_shape
from ..conv_shape import Conv, conv_of
from ..space import Config, space
from ..tiles import Packed, Packing, added, cut, packed_operand
from .items import (
    LANES,
    default_local,
    device_needed,
    emit_pixel,
    guarded,
    local_sizes,
    numbered,
    occupancy,
    or_zero,
    within,
)


@frozen
class Pixels:
    """The pixels of a work-item."""

    rows: int
    columns: int

    @property
    def name(self) -> str:
        """h1w4."""
        return f"h{self.rows}w{self.columns}"


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if found := device_needed(problem) or conv_shape.check(problem):
        return found
    conv = conv_of(problem)
    if conv.s.ci != 1 or conv.s.co != 1:
        return "not depthwise: a group has more than one channel"
    if conv.data_block != conv.out_block:
        return "input and result do not have the same blocks of channels"
    return None


def lanes_of(conv: Conv) -> int:
    """Channels of a work-item."""
    return LANES if conv.out_block % LANES == 0 else 1


def _extents(conv: Conv, pixels: Pixels) -> tuple[int, ...]:
    s = conv.s
    return s.n, s.groups // lanes_of(conv), -(-s.oh // pixels.rows), -(-s.ow // pixels.columns)


def configs(pixels: Pixels) -> Callable[[Problem], Iterator[Config]]:
    """The candidate space: items in a group."""

    def every(problem: Problem) -> Iterator[Config]:
        total = math.prod(_extents(conv_of(problem), pixels))
        return space({"local": default_local(problem, total)}, {"local": local_sizes(problem)})

    return every


def predict(pixels: Pixels) -> Callable[[Problem, Config], float]:
    """The cost in vector operations: weights that several pixels share are loaded once."""

    def cost(problem: Problem, config: Config) -> float:
        conv = conv_of(problem)
        items, points = math.prod(_extents(conv, pixels)), pixels.rows * pixels.columns
        return items * conv.s.terms * (points + 1) * (LANES / lanes_of(conv)) / occupancy(items)

    return cost


def schedule(pixels: Pixels) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops of a depthwise convolution, and how its weights are packed."""

    def kernel(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        b, conv = Builder(), conv_of(problem)
        s, lanes, view = conv.s, lanes_of(conv), conv.weight
        packing = Packing(tuple(cut(s.groups, lanes, 1)), s.kh * s.kw, s.groups)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return array.reshape(1, s.groups, -1).swapaxes(1, 2)

        def element(batch: Index, row: Index, c: Index) -> Value:
            return view(c, 0, row // s.kw, row % s.kw)

        weights, problem, packed = packed_operand(problem, packing, b, 1, matrix, element)
        conv = evolve(conv, problem=problem)
        with numbered(b, _extents(conv, pixels), config["local"]) as (n, block, y, x):
            _Item(conv, b, weights, packing, pixels).write(n, block, (y * pixels.rows, x * pixels.columns))
        return problem.kernel(b), packed

    return kernel


@frozen(eq=False)
class _Item:
    conv: Conv
    b: Builder
    weights: Buffer
    packing: Packing
    pixels: Pixels

    def write(self, n: Index, block: Index, first: tuple[Index, Index]) -> None:
        """The sums of a work-item, and their stores."""
        b, s, lanes, points = self.b, self.conv.s, lanes_of(self.conv), self.pixels.rows * self.pixels.columns
        (piece,) = self.packing.pieces

        def at(j: Index) -> tuple[Index, Index]:
            return first[0] + j // self.pixels.columns, first[1] + j % self.pixels.columns

        with b.loop("v", lanes, "vectorised") as v:
            channel = block * lanes + v
            acc = b.alloc("acc", (points,), self.conv.dtype)
            with b.loop("j", points, "unrolled") as j:
                b.store(acc, (j,), constant(0, self.conv.dtype))
            taps = b.loops(("kh", "kw"), (s.kh, s.kw), "rolled")
            with taps as tap, b.loop("j", points, "unrolled") as j:
                row = tap[0] * s.kw + tap[1]
                weight = b.load(self.weights, (0, self.packing.offset(piece, block, row, v)))
                b.store(acc, (j,), added(weight, self.pixel((n, channel), at(j), tap), b.load(acc, (j,))))
            with b.loop("j", points, "unrolled") as j, guarded(b, within(at(j), (s.oh, s.ow))):
                emit_pixel(self.conv, b, (n, channel, *at(j)), b.load(acc, (j,)))

    def pixel(self, place: Sequence[Index], at: tuple[Index, Index], tap: Sequence[Index]) -> Value:
        """The input under a pixel of the result; 0 in the border."""
        conv, s = self.conv, self.conv.s
        top, left = s.pad if s.padded else (0, 0)
        row = at[0] * s.stride[0] + tap[0] * s.dilation[0] - top
        column = at[1] * s.stride[1] + tap[1] * s.dilation[1] - left
        return or_zero(within((row, column), (s.h, s.w)), conv.data(*place, row, column), conv.dtype)
