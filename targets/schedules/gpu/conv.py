"""conv2d in output blocks: a work-item computes a few channels of a few pixels, in registers.

Blocks are named as MNN does: c8h4w1 is 8 channels, 4 rows and 1 column. Items with neighbouring numbers have
neighbouring pixels, so that a group reads neighbouring memory, and weights that all of its items share. Channels lie in
vectors of four; weights are packed so that the vectors of a block are contiguous, and padded to whole blocks.

What a block covers beyond the result is computed and not stored. The guards for that, and those for pixels in the
border, are conditions that vanish where the block divides the result or there is no border.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from attrs import evolve, frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Value, all_of, apply
from ...lower import Problem
from .. import conv_shape
from ..conv import bordered
from ..conv_shape import Conv, conv_of
from ..space import Config, space
from ..tiles import Packed, RegisterTile, even
from . import images
from .convs import is_pointwise, packed_blocks, picture
from .images import ImageWeights
from .items import (
    LANES,
    default_local,
    device_needed,
    emit_pixel,
    guarded,
    in_halves,
    local_sizes,
    numbered,
    occupancy,
    or_zero,
    within,
)

SPLIT_ITEMS = 1 << 18
"""Items of one launch from which on the output channels go to several: a display must not wait for one of them."""

UNROLLED = 4
"""Input channels of a block that are copied out; more are a loop."""


@frozen
class Block:
    """What a work-item computes.

    Attributes:
        channels, rows, columns: of the result.
        pointwise: whether it is for 1x1 windows without a border, or for all others.
        image: whether weights are read from an image (images.py).
    """

    channels: int
    rows: int
    columns: int
    pointwise: bool = False
    image: bool = False

    @property
    def name(self) -> str:
        """MNN's name: c8h4w1, or 1x1_c8h1w4; image_c8h4w1."""
        kind = ("image_" if self.image else "") + ("1x1_" if self.pointwise else "")
        return f"{kind}c{self.channels}h{self.rows}w{self.columns}"

    @property
    def points(self) -> int:
        """Pixels."""
        return self.rows * self.columns


def check(block: Block) -> Callable[[Problem], str | None]:
    """Why a block does not fit a group, or None."""

    def reason(problem: Problem) -> str | None:
        if found := device_needed(problem) or conv_shape.check(problem):
            return found
        conv = conv_of(problem)
        if is_pointwise(conv) != block.pointwise:
            return "windows of 1x1 without a border have variants of their own"
        return None if conv.s.co >= LANES else f"fewer than {LANES} output channels in a group"

    def fits(problem: Problem) -> str | None:
        if found := reason(problem):
            return found
        s = conv_of(problem).s
        if s.groups > 1 and s.co % block.channels:
            return f"blocks of {block.channels} channels lie across groups of {s.co}"
        if block.channels > LANES and s.co <= LANES:
            return f"there are no {block.channels} channels"
        return images.check(problem, block.channels) if block.image else None

    return fits


def configs(block: Block) -> Callable[[Problem], Iterator[Config]]:
    """The candidate space: items in a group, launches that share the output channels, and a copy with a border."""

    def every(problem: Problem) -> Iterator[Config]:
        conv = conv_of(problem)
        tiles = -(-conv.s.co // block.channels)
        default = {
            "local": default_local(problem, math.prod(_extents(conv, block))),
            "split": default_split(conv, block),
            "border": 0,
        }
        knobs = {
            "local": local_sizes(problem),
            "split": [n for n in (1, 2, 4, 8) if n <= tiles],
            "border": (0, 1) if conv.s.padded else (0,),
        }
        return space(default, knobs)

    return every


def default_split(conv: Conv, block: Block) -> int:
    """Launches that share the output channels: as few as leave none with too many items."""
    items, tiles = math.prod(_extents(conv, block)), -(-conv.s.co // block.channels)
    return next((n for n in (1, 2, 4) if items <= n * SPLIT_ITEMS), 8) if tiles >= 8 else 1


def predict(block: Block) -> Callable[[Problem, Config], float]:
    """The cost in vector operations: multiply-adds, loads that hold them up, and items that a device lacks.

    That of an image is the same: whether its cache helps, only measuring on the device tells. Of equal predictions the
    first in the table is taken, and that is a buffer.
    """

    def cost(problem: Problem, config: Config) -> float:
        conv = conv_of(problem)
        items = math.prod(_extents(conv, block))
        steps = items * conv.s.terms * block.points * block.channels / LANES
        loads = max(1.0, 2.0 * (1 / block.points + LANES / block.channels / 2))
        if problem.isa.gpu:  # both come from the cache, not from local memory, and pixels are found and have conditions
            loads = 1.0 + (2.0 if block.pointwise else 3.5) * LANES / block.channels + 1 / block.points
        return steps * loads / occupancy(items)

    return cost


def schedule(block: Block) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops of a convolution in blocks, and how its weights are packed."""
    return lambda problem, config: _Blocks.start(conv_of(problem), block, config).kernel(config)


def _extents(conv: Conv, block: Block) -> tuple[int, ...]:
    """The blocks: pictures, groups, blocks of channels, of rows and of columns."""
    rows, columns = picture(conv)
    return (
        conv.s.n,
        conv.s.groups,
        -(-conv.s.co // block.channels),
        -(-rows // block.rows),
        -(-columns // block.columns),
    )


Weight = Callable[[tuple[Index, Index], Sequence[Index], Index, Index], Value]
"""(group, block of channels), a term as (block of input channels, row, column, channel in it), vector, lane."""


def _weights(conv: Conv, b: Builder, block: Block) -> tuple[Conv, Weight, Packed]:
    """Weights in a buffer or an image, and how they are packed."""
    s, size = conv.s, conv.data_block
    if block.image:
        texels = ImageWeights.of(conv, block.channels)
        return (
            texels.conv,
            lambda at, r, o, v: texels.load(b, at, (r[1], r[2], r[0] * size + r[3]), o, v),
            texels.packed,
        )
    conv, weights, packing, packed = packed_blocks(conv, b, block.channels)
    (piece,) = packing.pieces

    def weight(at: tuple[Index, Index], r: Sequence[Index], o: Index, v: Index) -> Value:
        row = ((r[0] * s.kh + r[1]) * s.kw + r[2]) * size + r[3]
        return b.load(weights, (at[0], packing.offset(piece, at[1], row, o * LANES + v)))

    return conv, weight, packed


@frozen(eq=False)
class _Blocks:
    conv: Conv
    block: Block
    b: Builder
    weight: Weight
    packed: Packed
    border: bool

    @staticmethod
    def start(conv: Conv, block: Block, config: Config) -> "_Blocks":
        """Pack the weights, and give the input a border if the config says so."""
        b = Builder()
        conv, weight, packed = _weights(conv, b, block)
        if config["border"]:
            rows, columns = (
                -(-n // step) * step for n, step in zip(picture(conv), (block.rows, block.columns), strict=True)
            )
            conv = evolve(conv, data=bordered(evolve(conv, s=evolve(conv.s, oh=rows, ow=columns)), b))
        return _Blocks(conv, block, b, weight, packed, bool(config["border"]))

    def kernel(self, config: Config) -> tuple[Kernel, Packed]:
        """The launches: one, or several that share the output channels."""
        n, groups, tiles, rows, columns = _extents(self.conv, self.block)
        for start, parts, count in even(tiles, -(-tiles // config["split"])):
            for part in range(parts):
                extents = (n, groups, count, rows, columns)
                with numbered(self.b, extents, config["local"]) as (picture_, g, tile, y, x):
                    first = start + part * count
                    self.item((picture_, g, tile + first), y * self.block.rows, x * self.block.columns)
        return self.conv.problem.kernel(self.b), self.packed

    @property
    def dtype(self) -> str:
        """What is multiplied: float16 where both factors are, and the device computes in it."""
        return "float16" if in_halves(self.conv.problem) and not self.block.image else self.conv.dtype

    @property
    def direct(self) -> bool:
        """Whether the vectors of a block lie in the result as they are."""
        return self.conv.out_block % LANES == 0 and self.conv.s.co % LANES == 0

    def item(self, at: tuple[Index, Index, Index], y0: Index, x0: Index) -> None:
        """One block."""
        b, block, (n, g, tile) = self.b, self.block, at
        shape = (block.points, block.channels)
        scratch = None if self.direct else b.alloc("tile", shape, self.conv.dtype, "thread")
        with b.loop("v", LANES, "vectorised") as v:
            acc = RegisterTile.start(b, block.channels // LANES, block.points, self.conv.dtype)
            self.accumulate(acc, at, y0, x0, v)

            def finish(o: Index, j: Index, value: Value) -> None:
                if scratch is None:
                    self.store((n, g, tile), o * LANES, v, (y0, x0, j), value)
                else:
                    b.store(scratch, (j, o * LANES + v), value)

            acc.each(finish)
        if scratch is not None:
            with b.loop("o", block.channels, "unrolled") as o, b.loop("j", block.points, "unrolled") as j:
                self.store((n, g, tile), o, as_index(0), (y0, x0, j), b.load(scratch, (j, o)))

    def store(
        self, at: tuple[Index, Index, Index], o: Index, lane: Index, point: tuple[Index, Index, Index], value: Value
    ) -> None:
        """Hand over a finished element, if it is one of the result; `o` is the first channel of its vector."""
        (n, g, tile), (y0, x0, j), s = at, point, self.conv.s
        rows, columns = picture(self.conv)
        y, x = y0 + j // self.block.columns, x0 + j % self.block.columns
        channel = tile * self.block.channels + o
        # Whether a block of channels is whole is known for all but the last: blocks are padded.
        conds = [within((y, x), (rows, columns))]
        if s.co % self.block.channels:
            conds.append(apply("lt", channel, s.co))
        place = (x // s.ow, x % s.ow) if s.pointwise else (y, x)
        with guarded(self.b, all_of(conds)):
            emit_pixel(self.conv, self.b, (n, g * s.co + channel + lane, *place), value)

    def accumulate(self, acc: RegisterTile, at: tuple[Index, Index, Index], y0: Index, x0: Index, v: Index) -> None:
        """The sums of one block."""
        s, block, (n, g, tile) = self.conv.s, self.conv.data_block, at
        kind = "unrolled" if block <= UNROLLED else "rolled"
        loops = [("cb", s.ci // block, "rolled"), ("kh", s.kh, "rolled"), ("kw", s.kw, "rolled"), ("c", block, kind)]

        def pixel(r: Sequence[Index], j: Index) -> Value:
            y, x = y0 + j // self.block.columns, x0 + j % self.block.columns
            return self.pixel(n, g * s.ci + r[0] * block + r[3], (y, x), r)

        accumulate = acc.accumulate_halves if self.dtype == "float16" else acc.accumulate
        accumulate(loops, lambda r, o: self.weight((g, tile), r, o, v), pixel)

    def pixel(self, n: Index, c: Index, at: tuple[Index, Index], r: Sequence[Index]) -> Value:
        """The input under a pixel of the result, 0 outside of the picture; behind the last pixel it is any number."""
        conv, s, (y, x) = self.conv, self.conv.s, at
        if s.pointwise:
            cond = within((x,), (s.h * s.w,))
            return or_zero(cond, conv.data(n, c, x // s.w, x % s.w), self.dtype)
        if self.border:
            return conv.data(n, c, y * s.stride[0] + r[1] * s.dilation[0], x * s.stride[1] + r[2] * s.dilation[1])
        top, left = s.pad if s.padded else (0, 0)
        row = y * s.stride[0] + r[1] * s.dilation[0] - top
        column = x * s.stride[1] + r[2] * s.dilation[1] - left
        return or_zero(within((row, column), (s.h, s.w)), conv.data(n, c, row, column), self.dtype)
