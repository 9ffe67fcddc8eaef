"""conv2d with the input and the weights in local memory: NCHW, and NHWC with weights HWIO.

    for pictures, groups, blocks of channels, tiles of rows and columns:         a group
        for parts of the input channels:
            the items copy the tile's input, border included, and its weights to local memory; barrier
            each item adds to its block, channels x rows of one column, in registers
        each item hands its block over

Neighbouring items have neighbouring columns: they read neighbouring input, and weights that all of them share. What an
item reads of one column of the input serves all rows of the window. Borders are zeros that the copy writes, so that the
sums have no conditions. With two stages the copies of a part go on beside the sums of the one before.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from attrs import frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Const, Load, all_of, apply, later, splat
from ...lower import Problem
from ...prelude import width
from ..conv_shape import Conv
from ..space import Config
from ..tiles import Packed, Packing
from .convs import packed_blocks, plain_conv, runs_along_channels, window_of
from .items import LANES, emit_pixel, guarded, local_bytes, or_zero, split, within
from .pipeline import Buffers, through_local
from .roofline import Work, time

SPACE = {
    "channels": (16, 32, 64),
    "item_channels": (4, 8),
    "rows": (4, 8, 16),
    "item_rows": (1, 2, 4),
    "columns": (8, 16, 32),
    "stages": (1, 2),
}
"""The tile of a group, the block of an item, and buffers of a part."""

SHOWN = 24
"""Configs of the space, the best by prediction."""

UNROLLED = 9
"""Places of a window up to which the sums of one channel are copied out."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    conv = plain_conv(problem)
    if isinstance(conv, str):
        return conv
    if conv.s.co < LANES or (conv.s.groups > 1 and conv.s.co % LANES):
        return f"{conv.s.co} output channels in a group; it takes {LANES}, or multiples of them"
    if conv.s.kh * conv.s.kw > 64:
        return f"a window of {conv.s.kh} x {conv.s.kw}"
    return None if next(_every(problem, conv), None) else "no tile fits into local memory"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space, the cheapest by prediction first."""
    conv = plain_conv(problem)
    assert isinstance(conv, Conv)
    yield from sorted(_every(problem, conv), key=lambda config: _cost(conv, config))[:SHOWN]


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    conv = plain_conv(problem)
    assert isinstance(conv, Conv)
    return _cost(conv, config)


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a convolution, and how its weights are packed."""
    conv = plain_conv(problem)
    assert isinstance(conv, Conv)
    return _Local.start(conv, config).kernel()


def _every(problem: Problem, conv: Conv) -> Iterator[Config]:
    s, device = conv.s, problem.isa.device
    assert device is not None
    for values in product(*SPACE.values()):
        config = dict(zip(SPACE, values, strict=True))
        tile = _Tile.of(conv, config)
        wide = config["channels"] >= 2 * max(s.co, 8) or config["item_channels"] > s.co
        wide = wide or (s.groups > 1 and s.co % config["channels"] > 0)
        high = config["rows"] >= 2 * max(s.oh, 4) or config["columns"] >= 2 * max(s.ow, 8)
        if wide or high or config["item_rows"] > config["rows"] or (config["stages"] > 1 and tile.parts(conv) == 1):
            continue
        some = min(64, device.max_group) <= tile.items <= min(256, device.max_group)
        if some and tile.nbytes(conv) * config["stages"] <= min(local_bytes(problem), 48 << 10):
            yield config


@frozen
class _Tile:
    """What a group computes: its channels, rows and columns; of an item; and input channels of a part."""

    channels: int
    item_channels: int
    rows: int
    item_rows: int
    columns: int
    depth: int

    @staticmethod
    def of(conv: Conv, config: Config) -> "_Tile":
        ci = conv.s.ci
        most = 8 if conv.s.kh * conv.s.kw <= 9 else 2
        depth = next((d for d in range(min(most, ci), most // 2, -1) if ci % d == 0), min(most, ci))
        block = config["channels"], config["item_channels"]
        return _Tile(*block, config["rows"], config["item_rows"], config["columns"], depth)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Items along channels, rows and columns."""
        return self.channels // self.item_channels, self.rows // self.item_rows, self.columns

    @property
    def items(self) -> int:
        a, b, c = self.sides
        return a * b * c

    def window(self, conv: Conv) -> tuple[int, int]:
        """Rows and columns of the input that a tile reads."""
        return window_of(conv, self.rows, self.columns)

    def parts(self, conv: Conv) -> int:
        return -(-conv.s.ci // self.depth)

    def nbytes(self, conv: Conv) -> int:
        """Local memory of one stage."""
        rows, columns = self.window(conv)
        return self.depth * (rows * columns + 1 + conv.s.kh * conv.s.kw * self.channels) * width(conv.dtype)

    def grid(self, conv: Conv) -> tuple[int, ...]:
        """The groups: pictures, groups of channels, blocks of channels, tiles of rows and of columns."""
        s = conv.s
        return s.n, s.groups, -(-s.co // self.channels), -(-s.oh // self.rows), -(-s.ow // self.columns)


def _cost(conv: Conv, config: Config) -> float:
    s, tile = conv.s, _Tile.of(conv, config)
    groups = int(np.prod(tile.grid(conv)))
    area, vectors, size = s.kh * s.kw, tile.item_channels // LANES, width(conv.dtype)
    terms = tile.parts(conv) * tile.depth
    column = (tile.item_rows - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0] + 1
    staged = tile.nbytes(conv) / size / tile.items * tile.parts(conv)
    waits = 0.0 if config["stages"] > 1 else 100.0
    out = s.n * s.groups * s.co * s.oh * s.ow * size
    return time(
        Work(
            groups,
            tile.items,
            sums=terms * area * tile.item_rows * vectors,
            reads=terms * (s.kw * min(column, tile.item_rows * s.kh) + area * vectors),
            other=4 * staged + tile.item_rows * vectors * 4 + waits * tile.parts(conv),
            local_bytes=tile.nbytes(conv) * config["stages"],
            registers=32 + tile.item_rows * tile.item_channels + column + tile.item_channels,
            near_bytes=groups * tile.parts(conv) * tile.nbytes(conv) + out,
            far_bytes=s.n * s.groups * s.ci * s.h * s.w * size + conv.weight_bytes + out,
        )
    )


@frozen(eq=False)
class _Local:
    conv: Conv
    tile: _Tile
    stages: int
    b: Builder
    weights: Buffer
    packing: Packing
    packed: Packed

    @staticmethod
    def start(conv: Conv, config: Config) -> "_Local":
        b = Builder()
        conv, weights, packing, packed = packed_blocks(conv, b, config["channels"])
        return _Local(conv, _Tile.of(conv, config), config["stages"], b, weights, packing, packed)

    def kernel(self) -> tuple[Kernel, Packed]:
        """One nest of groups."""
        b, t, grid = self.b, self.tile, self.tile.grid(self.conv)
        with b.loops(("n", "g", "block", "top", "left"), grid, "workgroup") as places:
            at = [as_index(0) if n == 1 else i for i, n in zip(places, grid, strict=True)]
            buffers = [self.arrays(k) for k in range(self.stages)]
            with b.loop("item", t.items, "workitem") as item:
                own = split(item, t.sides)
                count = t.item_rows * t.item_channels // LANES
                acc = b.alloc_vectors("acc", count, self.conv.dtype, LANES)
                for i in range(count):
                    b.emit_store(acc, (i,), Const(0.0, self.conv.dtype, LANES))
                through_local(
                    b,
                    t.parts(self.conv),
                    buffers,
                    lambda arrays, part: self.stage(arrays, at, part * t.depth, item),
                    lambda arrays, part: self.add(arrays, acc, own),
                )
                self.hand_over(acc, at, own)
        return self.conv.problem.kernel(b), self.packed

    def arrays(self, stage: int) -> Buffers:
        """The local memory of one stage: the input, by channels of an odd size, and the weights."""
        rows, columns = self.tile.window(self.conv)
        plane, area = rows * columns | 1, self.conv.s.kh * self.conv.s.kw
        return (
            self.b.alloc(f"data{stage}", (self.tile.depth, plane), self.conv.dtype, "local"),
            self.b.alloc(f"weights{stage}", (self.tile.depth * area, self.tile.channels), self.conv.dtype, "local"),
        )

    # Copies

    def share(self, size: int, item: Index, copy: Any) -> None:
        """`copy(number)` for each of `size` pieces, by one item."""
        with self.b.loop("round", -(-size // self.tile.items)) as round_:
            number = round_ * self.tile.items + item
            with guarded(self.b, apply("lt", number, size)):
                copy(number)

    def stage(self, arrays: Buffers, at: Sequence[Index], c0: Index, item: Index) -> None:
        """A part of the input and of the weights, zeros beyond either."""
        b, s, t, (data, weights), (n, g, block, top, left) = self.b, self.conv.s, self.tile, arrays, at
        rows, columns = t.window(self.conv)
        order = (rows, columns, t.depth) if runs_along_channels(self.conv) else (t.depth, rows, columns)
        pad = s.pad if s.padded else (0, 0)

        def pixel(number: Index) -> None:
            place = split(number, order)
            c, r, q = (place[2], *place[:2]) if runs_along_channels(self.conv) else place
            y, x = top * (t.rows * s.stride[0]) + r - pad[0], left * (t.columns * s.stride[1]) + q - pad[1]
            value = or_zero(
                within((c0 + c, y, x), (s.ci, s.h, s.w)), self.conv.data(n, g * s.ci + c0 + c, y, x), self.conv.dtype
            )
            b.store(data, (c, r * columns + q), later(value))

        self.share(t.depth * rows * columns, item, pixel)
        area, vectors, (piece,) = s.kh * s.kw, t.channels // LANES, self.packing.pieces

        def vector(number: Index) -> None:
            row, o = number // vectors, number % vectors * LANES
            with b.loop("v", LANES, "vectorised") as v:
                value = b.load(self.weights, (g, self.packing.offset(piece, block, c0 * area + row, o + v)))
                b.store(weights, (row, o + v), later(or_zero(apply("lt", c0 * area + row, s.terms), value, data.dtype)))

        self.share(t.depth * area * vectors, item, vector)

    # Sums

    def add(self, arrays: Buffers, acc: Buffer, own: Sequence[Index]) -> None:
        """The sums of a part."""
        b, s, t = self.b, self.conv.s, self.tile
        with b.loop("c", t.depth, "rolled") as c:
            if s.kh * s.kw <= UNROLLED:
                for place in range(s.kw):
                    self.column(arrays, acc, own, c, as_index(place))
                return
            with b.loop("kw", s.kw, "rolled") as kw:
                self.column(arrays, acc, own, c, kw)

    def column(self, arrays: Buffers, acc: Buffer, own: Sequence[Index], c: Index, kw: Index) -> None:
        """The sums of one channel over a column of the window."""
        b, s, t, (data, weights) = self.b, self.conv.s, self.tile, arrays
        _, columns = t.window(self.conv)
        area, vectors, down = s.kh * s.kw, t.item_channels // LANES, (s.stride[0], s.dilation[0])
        needed = sorted({j * down[0] + i * down[1] for j in range(t.item_rows) for i in range(s.kh)})
        inputs = b.alloc("x", (len(needed),), self.conv.dtype)
        x = own[2] * s.stride[1] + kw * s.dilation[1]
        for k, r in enumerate(needed):
            row = own[1] * (t.item_rows * down[0]) + r
            b.store(inputs, (k,), b.load(data, (c, row * columns + x)))
        for i in range(s.kh):
            w = b.alloc_vectors("w", vectors, self.conv.dtype, LANES)
            for o in range(vectors):
                place = (c * area + kw + i * s.kw, own[0] * t.item_channels + o * LANES)
                b.emit_store(w, (o,), Load(weights, place, LANES))
            for j in range(t.item_rows):
                value = splat(b.load(inputs, (needed.index(j * down[0] + i * down[1]),)), LANES)
                for o in range(vectors):
                    own_sum = (as_index(j * vectors + o),)
                    term = apply("fma", value, Load(w, (as_index(o),), LANES), Load(acc, own_sum, LANES))
                    b.emit_store(acc, own_sum, term)

    # Results

    def hand_over(self, acc: Buffer, at: Sequence[Index], own: Sequence[Index]) -> None:
        """The block of an item; the compiler copies its loops out, so the text has one store."""
        b, s, t, vectors, (n, g, block, top, left) = (
            self.b,
            self.conv.s,
            self.tile,
            self.tile.item_channels // LANES,
            at,
        )
        scratch = b.alloc("tile", (t.item_rows, t.item_channels), self.conv.dtype, "thread")
        for k in range(t.item_rows * vectors):
            b.emit_store(scratch, (k // vectors, k % vectors * LANES), Load(acc, (as_index(k),), LANES))
        wide = runs_along_channels(self.conv) and s.co % LANES == 0
        x, lanes = left * t.columns + own[2], LANES if wide else 1
        with b.loop("j", t.item_rows, "short") as j, b.loop("i", t.item_channels // lanes, "short") as i:
            y, o = top * t.rows + own[1] * t.item_rows + j, i * lanes
            channel = block * t.channels + own[0] * t.item_channels + o
            cond = all_of([within((y, x), (s.oh, s.ow)), within((channel,), (s.co,))])
            with guarded(b, cond), b.loop("v", lanes, "vectorised") as v:
                emit_pixel(self.conv, b, (n, g * s.co + channel + v, y, x), b.load(scratch, (j, o + v)))
