"""conv2d by direct convolution in register tiles, for NCHW and for blocked layouts (NCHW16c and the like).

Where there is padding, the input is first copied with a zero border, so that the inner loops have no guards. Then there
are two ways to use vector registers:

    channels in lanes   a tile is OB vectors of output channels times TW pixels; weights are packed so that lanes are
                        contiguous, input elements are broadcast. Any stride will do, and small pictures fill the
                        registers too. With a blocked result a vector is stored as it is; with a plain one the tile
                        goes through a small scratch array, which costs little when the reduction is long.
    pixels in lanes     a tile is OB output channels times TW vectors of neighbouring pixels of a row, for plain NCHW
                        where the reduction is short. Columns of a strided convolution are regrouped by phase in the
                        copy, so that reads stay contiguous.

The epilogue works on finished accumulators, before the only store to the output.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Value, cast
from ...ops.lowering import View
from ...ops.reshape import unravel
from ..lower import Problem
from .conv_shape import NEAR_CACHE, Conv, check, conv_of, streaming
from .space import Config, register_tiles, space
from .tiles import Packed, Packing, Piece, RegisterTile, cut, even, fetch, packed_operand, team_kind

LONG_REDUCTION = 256
"""Terms of the sum from which channels in lanes win over pixels in lanes, for a plain result."""

MOVED = 2
"""Operations that it takes to bring an element from a vector of channels to its place in a plain result."""

WHOLE_BYTES = 512 * 1024
"""Bytes of weights up to which all of them are used for one piece of the picture before the next is begun."""

MANY_VECTORS = 12
"""Vectors of output channels from which on it does not matter that the last tile may have fewer of them."""

SHORT_REDUCTION = 128
"""Terms of the sum up to which a tile takes half of the registers, so that the next one begins while it is stored."""


def channels_in_lanes(conv: Conv) -> bool:
    """Which of the two ways a convolution takes."""
    if _blocked(conv):
        return True
    s = conv.s
    if s.terms >= LONG_REDUCTION:
        return s.co >= conv.problem.isa.vector_bytes // 8
    # Narrow pictures leave most of a vector of pixels empty, few channels most of one of channels.
    width = s.lines[1]
    by_channels = _vectors(s.co, conv.lanes) * s.terms + MOVED * s.co
    return by_channels * width < _vectors(width, conv.lanes) * s.co * s.terms


def _vectors(extent: int, lanes: int) -> int:
    """How many vectors, full ones or not, an axis is cut into."""
    return sum(piece.tiles * piece.blocks for piece in cut(extent, lanes, 1))


def check_plain(problem: Problem) -> str | None:
    """Why the schedule does not fit as one for plain NCHW, or None."""
    if reason := check(problem):
        return reason
    return "the layout has blocks of channels" if _blocked(conv_of(problem, pairs=True)) else None


def check_blocked(problem: Problem) -> str | None:
    """Why the schedule does not fit as one for blocks of channels, or None."""
    if reason := check(problem):
        return reason
    conv = conv_of(problem, pairs=True)
    if not _blocked(conv):
        return "the layout has no blocks of channels"
    if conv.s.ci % conv.data_block:
        return f"blocks of {conv.data_block} channels lie across groups of {conv.s.ci}"
    return None


def _blocked(conv: Conv) -> bool:
    return conv.out_block > 1 or conv.data_block > 1


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: vectors and points of the register tile, what lies in lanes, and what is reused first.

    Knobs: `channels` 1: channels in lanes, 0: pixels; `blocks` and `points`: the register tile, vectors of channels and
    pixels, or with pixels in lanes vectors of pixels and channels; `near` 1: all weights are used for one piece of the
    picture before the next is begun.
    """
    conv = conv_of(problem, pairs=True)
    registers, blocked = problem.isa.registers, _blocked(conv)
    default = default_config(conv, channels_in_lanes(conv))
    tiles = register_tiles(registers)
    widest = max(n for n, _ in tiles if n * conv.lanes <= max(conv.s.co, conv.lanes))

    def fits(config: Config) -> bool:
        blocks, points = config["blocks"], config["points"]
        if not config["channels"]:
            return not blocked and config["near"] == 0 and (blocks, points) in tiles
        return blocks <= widest and any(n == blocks and points in (most, max(1, most // 2)) for n, most in tiles)

    points = sorted({p for _, most in tiles for p in (most, max(1, most // 2))}, reverse=True)
    knobs = {"channels": (1, 0), "blocks": [n for n, _ in tiles], "points": points, "near": (0, 1)}
    return space(default, knobs, fits)


def default_config(conv: Conv, channels: bool) -> Config:
    """The best guess, with channels or pixels in lanes."""
    if not channels:
        points, blocks = pixel_tile(conv)
        return {"channels": 0, "blocks": blocks, "points": points, "near": 0}
    near = int(conv.weight_bytes <= WHOLE_BYTES)
    if _overlaps(conv):
        return {"channels": 1, "blocks": 1, "points": conv.problem.isa.registers // 2 - 1, "near": near}
    blocks, points = default_tile(conv, conv.s.oh * conv.s.ow if conv.s.pointwise else conv.s.ow)
    return {"channels": 1, "blocks": blocks, "points": points, "near": near}


def _overlaps(conv: Conv) -> bool:
    """Whether storing a tile takes so much of its time that two should be under way at once."""
    whole = conv.s.co % conv.lanes == 0 and conv.out_block in (1, conv.lanes)
    return conv.problem.isa.registers >= 32 and whole and conv.s.terms <= SHORT_REDUCTION


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything: multiply-adds, loads that hold them up, and weights
    that come from afar.
    """
    conv = conv_of(problem, pairs=True)
    # A last vector of channels that is not full costs as much as a full one.
    waste = -(-conv.s.co // conv.lanes) * conv.lanes / conv.s.co if config["channels"] else 1.0
    # Two loads can go with two multiply-adds; what lies above half of that costs, unless storing tiles costs more.
    loads = 1.0 if _overlaps(conv) else max(1.0, 1.6 * (1 / config["blocks"] + 1 / config["points"]))
    far = streaming(conv.weight_bytes)
    return conv.s.flops / 2 / conv.lanes * waste * loads + far


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a convolution, and how its weights are packed."""
    tiling = Tiling.start(conv_of(problem, pairs=True), config)
    for piece in tiling.packing.pieces:
        if config["channels"]:
            tiling.channel_tiles(piece)
        else:
            tiling.pixel_tiles(piece)
    return tiling.conv.problem.kernel(tiling.builder), tiling.packed


def pack(problem: Problem, config: Config) -> Packed:
    """How the weights are packed."""
    return Tiling.start(conv_of(problem, pairs=True), config).packed


@frozen(eq=False)
class Tiling:
    """One convolution being written: where its packed weights and its bordered input are, and the loops over tiles."""

    conv: Conv
    config: Config
    builder: Builder
    packing: Packing
    weights: Buffer
    packed: Packed
    first_row: int = 0
    """The row of the packed weights that the first term of the sum meets."""

    @staticmethod
    def start(conv: Conv, config: Config, builder: Builder | None = None) -> "Tiling":
        """Pack the weights and give the input a border, in a kernel of its own or in that of `builder`."""
        s, builder, channels = conv.s, builder or Builder(), bool(config["channels"])
        pieces = channel_pieces(conv, config["blocks"]) if channels else pixel_pieces(conv, config["points"])
        packing = Packing(tuple(pieces), s.terms, s.co)
        block, view, area = conv.data_block, conv.weight, s.kh * s.kw

        def element(g: Index, row: Index, o: Index) -> Value:
            c, k = row // (block * area) * block + row % block, row // block % area
            # A depthwise weight may have the shape (input channels, multiplier, window); in memory that is the same.
            place = (g * s.co + o, c) if view.shape[1] == s.ci else (g, o)
            return view(*place, k // s.kw, k % s.kw)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            parts = conv.taps(array).reshape(s.groups, s.co, s.ci // block, block, area)
            return parts.transpose(0, 2, 4, 3, 1).reshape(s.groups, s.terms, s.co)

        # Weights that are broadcast one by one are converted beforehand; there are few of them.
        unit = "uint32" if conv.pairs else "" if channels else conv.dtype
        weights, problem, packed = packed_operand(conv.problem, packing, builder, s.groups, matrix, element, dtype=unit)
        data = bordered(conv, builder, phases=1 if channels else s.stride[1])
        return Tiling(evolve(conv, problem=problem, data=data), config, builder, packing, weights, packed)

    @contextmanager
    def parallel(self, extents: Sequence[int], points: int) -> Iterator[tuple[Index, ...]]:
        """The parallel loop over tiles of `points` accumulators; serial where it is not worth waking threads."""
        work = math.prod(extents) * self.conv.s.terms * points
        with self.builder.loop("block", math.prod(extents), team_kind(work)) as flat:
            yield unravel(flat, extents)

    @property
    def reduction(self) -> list[tuple[str, int, str]]:
        """The loops of the sum. They are not unrolled: the compiler would run out of registers."""
        s, block = self.conv.s, self.conv.data_block
        extents = {"cb": s.ci // block, "kh": s.kh, "kw": s.kw, "c": block}
        return [(name, extent, "rolled") for name, extent in extents.items()]

    def weight(self, piece: Piece, g: Index, tile: Index, r: Sequence[Index], lane: Index) -> Value:
        """A packed weight: of group `g`, at r = (channel block, row, column, channel)."""
        row = ((r[0] * self.conv.s.kh + r[1]) * self.conv.s.kw + r[2]) * self.conv.data_block + r[3]
        return self.builder.load(self.weights, (g, self.packing.offset(piece, tile, row + self.first_row, lane)))

    def pixel(self, n: Index, g: Index, r: Sequence[Index], y: Index, x: Index) -> Value:
        """The input element under output pixel (y, x) at r."""
        s = self.conv.s
        place = y * s.stride[0] + r[1] * s.dilation[0], x * s.stride[1] + r[2] * s.dilation[1]
        return self.conv.data(n, g * s.ci + r[0] * self.conv.data_block + r[3], *place)

    def place(self, y: Index, x: Index) -> tuple[Index, Index]:
        """The pixel at (y, x) of `lines`."""
        s = self.conv.s
        return (x // s.ow, x % s.ow) if s.pointwise else (y, x)

    def channel_tiles(self, piece: Piece) -> None:
        """Tiles of vectors of output channels times pixels."""
        s = self.conv.s
        rows, columns = s.lines
        near = self.config["near"]
        # A narrower piece, the last one, has room for more points.
        most = self.config["points"] * self.config["blocks"] // piece.blocks
        for start, count, points in even(columns, most):
            extents = (rows, count, piece.tiles) if near else (piece.tiles, rows, count)
            with self.parallel((s.n, s.groups, *extents), points * piece.width) as (n, g, *rest):
                y, q, tile = rest if near else (rest[1], rest[2], rest[0])
                self._channel_tile(piece, (n, g, tile, y), q * points + start, points)

    def channel_row(self, piece: Piece, block: tuple[Index, Index, Index], y: Index) -> None:
        """Row `y` of the result for block = (picture, group, tile of channels), by one thread."""
        s = self.conv.s
        for start, count, points in even(s.ow, self.config["points"]):
            with self.builder.loop("q", count) as q:
                x0 = q * points + start
                line, first = (as_index(0), y * s.ow + x0) if s.pointwise else (y, x0)
                self._channel_tile(piece, (*block, line), first, points)

    def _channel_tile(self, piece: Piece, block: Sequence[Index], x0: Index, points: int) -> None:
        conv, s, b, (n, g, tile, y) = self.conv, self.conv.s, self.builder, block
        direct = conv.out_block % piece.lanes == 0
        # The weights of the next tile come from afar; behind the last one the first is as good as any.
        far, following = self.packing.rows * s.co * 4 > NEAR_CACHE and piece.tiles > 1, (tile + 1) % piece.tiles
        scratch = None if direct else b.alloc("tile", (points, piece.width), conv.dtype, "thread")

        def channel(lane: Index) -> Index:
            return g * s.co + tile * piece.width + lane + piece.start

        with b.loop("v", piece.lanes, "vectorised") as v:

            def finish(o: Index, j: Index, value: Value) -> None:
                if scratch is None:
                    conv.emit(b, (n, channel(o * piece.lanes + v), *self.place(y, x0 + j)), value)
                else:
                    b.store(scratch, (j, o * piece.lanes + v), value)

            def ahead(r: Sequence[Index]) -> None:
                if len(r) == len(self.reduction):
                    fetch(b, [self.weight(piece, g, following, r, o * piece.lanes + v) for o in range(piece.blocks)])

            acc = RegisterTile.start(b, piece.blocks, points, conv.dtype)
            if s.terms:
                acc.accumulate(
                    self.reduction,
                    lambda r, o: self.weight(piece, g, tile, r, o * piece.lanes + v),
                    lambda r, j: self.pixel(n, g, r, *self.place(y, x0 + j)),
                    ahead if far else None,
                )
            acc.each(finish)
        if scratch is not None:
            with b.loop("oc", piece.width) as oc, b.loop("px", points) as j:
                conv.emit(b, (n, channel(oc), *self.place(y, x0 + j)), b.load(scratch, (j, oc)))

    def pixel_tiles(self, piece: Piece) -> None:
        """Tiles of output channels times vectors of pixels, stored as they are."""
        s, b = self.conv.s, self.builder
        rows, width = s.lines
        parts = cut(width, self.conv.lanes, self.config["blocks"])
        if s.pointwise:  # the pixels of a part are used for all channels before the next are read
            for columns in parts:
                extents = s.n, s.groups, columns.tiles, piece.tiles
                with (
                    self.parallel(extents, columns.width * piece.width) as (n, g, q, tile),
                    b.loop("v", columns.lanes, "vectorised") as v,
                ):
                    self._pixel_tile(piece, columns, (n, g, tile, as_index(0)), q * columns.width + v + columns.start)
            return
        with self.parallel((s.n, s.groups, piece.tiles, rows), width * piece.width) as block:
            for columns in parts:
                with b.loop("q", columns.tiles) as q, b.loop("v", columns.lanes, "vectorised") as v:
                    self._pixel_tile(piece, columns, block, q * columns.width + v + columns.start)

    def _pixel_tile(self, piece: Piece, columns: Piece, block: Sequence[Index], x0: Index) -> None:
        conv, b, (n, g, tile, y) = self.conv, self.builder, block
        acc = RegisterTile.start(b, columns.blocks, piece.blocks, conv.dtype)
        if conv.s.terms:
            acc.accumulate(
                self.reduction,
                lambda r, k: self.pixel(n, g, r, *self.place(y, x0 + k * columns.lanes)),
                lambda r, o: self.weight(piece, g, tile, r, o),
            )

        def store(k: Index, o: Index, value: Value) -> None:
            channel = g * conv.s.co + tile * piece.width + o + piece.start
            conv.emit(b, (n, channel, *self.place(y, x0 + k * columns.lanes)), value)

        acc.each(store)


def channel_pieces(conv: Conv, blocks: int) -> list[Piece]:
    """The output channels of a group as tiles of `blocks` vectors; a vector must not leave a block of the result."""
    return cut(conv.s.co, channel_lanes(conv), blocks)


def channel_lanes(conv: Conv) -> int:
    """Output channels of a vector."""
    return min(conv.lanes, conv.out_block) if conv.out_block > 1 else conv.lanes


def default_blocks(conv: Conv) -> int:
    """Vectors of a tile: two, or three where that leaves no rest."""
    vectors = conv.s.co // channel_lanes(conv)
    return 3 if vectors % 2 and vectors % 3 == 0 and conv.problem.isa.registers >= 32 else min(2, max(vectors, 1))


def default_tile(conv: Conv, extent: int) -> tuple[int, int]:
    """Vectors and pixels of a tile where `extent` pixels are there to be cut: of few pixels a tile of two vectors may
    leave many registers idle, where one of three or four fills them.
    """
    blocks = default_blocks(conv)
    if conv.problem.isa.registers < 32 or conv.s.co < MANY_VECTORS * conv.lanes:
        return blocks, default_points(conv, blocks)

    def used(blocks: int) -> float:
        """Accumulators of a tile, on average, if pixels are cut evenly."""
        return blocks * extent / -(-extent // default_points(conv, blocks))

    if used(blocks) < 0.7 * default_points(conv, 1):
        blocks = max((2, 3, 4), key=used)
    return blocks, default_points(conv, blocks)


def default_points(conv: Conv, blocks: int) -> int:
    """Pixels of a tile, so that accumulators, weights and one broadcast value fit into the registers."""
    return (28 if conv.problem.isa.registers >= 32 else 12) // blocks


def pixel_pieces(conv: Conv, channels: int) -> list[Piece]:
    """The output channels of a group as tiles of `channels` where pixels lie in lanes."""
    return [Piece(start, count, size, 1) for start, count, size in even(conv.s.co, channels)]


def pixel_tile(conv: Conv) -> tuple[int, int]:
    """Output channels and vectors of pixels of a tile with pixels in lanes."""
    if conv.problem.isa.registers < 32:
        return 4, 2
    return (8, 2) if conv.s.lines[1] % (2 * conv.lanes) == 0 else (6, 3)


def bordered(conv: Conv, builder: Builder, phases: int = 1) -> View:
    """The input in bordered coordinates: a copy with a zero border, columns regrouped by `phases`; or itself.

    The copy has the channel blocks of the original: [n, block, row, phase, column, channel].
    """
    s, data, block = conv.s, conv.data, conv.data_block
    if not s.padded and phases == 1 and not conv.unready:
        return data
    if conv.depth is not None:
        depth = conv.depth
        planes = evolve(s, n=s.n // depth.out, ci=s.ci // depth.taps * depth.needed, padded=s.padded or depth.padded)
        return depth.windows(bordered(evolve(conv, s=planes, data=depth.planes, depth=None), builder, phases))
    blocks, height = s.groups * s.ci // block, s.rows_needed
    width = -(-s.columns_needed // phases)
    dtype = data(*(0,) * 4).dtype
    copy = builder.alloc("bordered", (s.n, blocks, height, phases, width, block), dtype, "team")
    top, bottom = held(s.pad[0], s.h, height)
    for first, last, inside in ((0, top, False), (top, bottom, True), (bottom, height, False)):
        if first == last:
            continue
        with builder.loop("brow", s.n * blocks * (last - first), "parallel") as flat:
            n, c, row = unravel(flat, (s.n, blocks, last - first))
            for phase in range(phases):
                _border_row(conv, builder, copy, (n, c, row + first), (phase, phases), inside)
    builder.barrier()

    def read(n: Index, c: Index, y: Index, x: Index) -> Value:
        return builder.load(copy, (n, c // block, y, x % phases, x // phases, c % block))

    return View(data.type, read)


def _border_row(
    conv: Conv, b: Builder, copy: Buffer, row: tuple[Index, Index, Index], phase: tuple[int, int], inside: bool
) -> None:
    """One row of one phase: zeros, then the columns that lie inside of the picture, then zeros."""
    s, (n, c, y), (number, phases), block = conv.s, row, phase, conv.data_block
    width = copy.shape[4]
    left, right = held(s.pad[1], s.w, width, number, phases) if inside else (width, width)
    for start, end, copied in ((0, left, False), (left, right, True), (right, width, False)):
        if start == end:
            continue
        columns, lanes = ("serial", "vectorised") if block > 1 else ("vectorised", "serial")
        with b.loop("bx", end - start, columns) as i, b.loop("bc", block, lanes) as lane:
            x = (i + start) * phases + number - s.pad[1]
            value = conv.data(n, c * block + lane, y - s.pad[0], x) if copied else cast(0, copy.dtype)
            b.store(copy, (n, c, y, number, i + start, lane), value)


def held(border: int, size: int, extent: int, phase: int = 0, phases: int = 1) -> tuple[int, int]:
    """The range of bordered positions (of one phase) that hold the `size` positions behind the border."""
    first = min(max(-(-(border - phase) // phases), 0), extent)
    return first, min(max(-(-(size + border - phase) // phases), first), extent)
