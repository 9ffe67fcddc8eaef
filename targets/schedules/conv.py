"""conv2d in NCHW by direct convolution in register tiles.

The input is first copied with a zero border where there is padding, so that the inner loops have no guards. Then there
are two ways to use vector registers:

    pixels in lanes     a tile is OB output channels times TW vectors of neighbouring pixels of a row. Columns of a
    strided
                        convolution are regrouped by phase in the copy, so that reads stay contiguous. Stores are
                        contiguous
                        too: best where the reduction is short, as in first layers, and for depthwise convolution.
    channels in lanes   a tile is OB vectors of output channels times TW pixels; weights are packed so that lanes are
                        contiguous. Any stride will do, and small pictures fill the registers too. The tile goes through
                        a small scratch array to the output, which costs little when the reduction is long.

The epilogue works on finished accumulators, before the only store to the output.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
from attrs import frozen

from ...ir.index import Index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Value, cast
from ...ir.types import numpy_dtype
from ...ops.lowering import View
from ..lower import Problem
from .generic import unravel
from .tiles import Packed, Packing, Piece, RegisterTile, cut, even, packed_operand

LONG_REDUCTION = 256
"""Terms of the sum from which channels in lanes win over pixels in lanes."""


@frozen
class Shape:
    """The numbers of a convolution. Sizes are per group where marked."""

    n: int
    groups: int
    ci: int  # per group
    co: int  # per group
    h: int
    w: int
    oh: int
    ow: int
    kh: int
    kw: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]  # top, left
    padded: bool

    @property
    def rows_needed(self) -> int:
        """Input rows that the outputs read, border included."""
        return (self.oh - 1) * self.stride[0] + (self.kh - 1) * self.dilation[0] + 1

    @property
    def columns_needed(self) -> int:
        """Input columns that the outputs read, border included."""
        return (self.ow - 1) * self.stride[1] + (self.kw - 1) * self.dilation[1] + 1

    @property
    def terms(self) -> int:
        """Terms of the sum behind one output element."""
        return self.ci * self.kh * self.kw


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    context = problem.context
    assert context is not None
    a = context.attrs
    if a.data_layout != "NCHW" or a.kernel_layout != "OIHW" or a.out_layout not in ("", "NCHW"):
        return f"layout {a.data_layout}/{a.kernel_layout}; it is written for NCHW/OIHW"
    if context.args[0].dtype not in ("float32", "float64") or context.out.dtype not in ("float32", "float64"):
        return f"dtype {context.args[0].dtype}; it is written for float32 and float64"
    if 0 in context.shape or 0 in context.args[0].shape or 0 in context.args[1].shape:
        return "empty tensor"
    if problem.parameter(1) is None:
        return "the weight is computed inside the group"
    return None


def shape_of(problem: Problem) -> Shape:
    """The numbers of the convolution at hand."""
    context = problem.context
    assert context is not None
    (n, c, h, w), (_, _, kh, kw) = context.args[0].shape, context.args[1].shape
    _, o, oh, ow = context.shape
    a = context.attrs
    top, left, bottom, right = a.padding
    padded = any((top, left, bottom, right))
    ci, co = c // a.groups, o // a.groups
    return Shape(n, a.groups, ci, co, h, w, oh, ow, kh, kw, a.strides, a.dilation, (top, left), padded)


def schedule(problem: Problem) -> tuple[Kernel, Packed]:
    """The loops of a convolution, and its packed weights."""
    s = shape_of(problem)
    long = s.terms >= LONG_REDUCTION and s.co >= problem.isa.vector_bytes // 8
    tiling = _Tiling.start(problem, s, channels_in_lanes=long)
    for piece in tiling.packing.pieces:
        if long:
            tiling.channels_in_lanes(piece)
        else:
            tiling.pixels_in_lanes(piece)
    return tiling.problem.kernel(tiling.builder), tiling.packed


@frozen(eq=False)
class _Tiling:
    """One convolution being written: where its packed weights and its bordered input are, and the loops over tiles."""

    problem: Problem
    s: Shape
    builder: Builder
    packing: Packing
    weights: Buffer
    packed: Packed
    data: View
    dtype: str
    lanes: int

    @staticmethod
    def start(problem: Problem, s: Shape, channels_in_lanes: bool) -> "_Tiling":
        """Pack the weights and give the input a border."""
        assert problem.context is not None
        builder, data, dtype = Builder(), problem.context.args[0], problem.context.dtype
        lanes = problem.isa.vector_bytes // numpy_dtype(dtype).itemsize
        if channels_in_lanes:
            pieces = cut(s.co, lanes, 2)
        else:
            pieces = [
                Piece(start, count, size, 1) for start, count, size in even(s.co, _pixel_tile(problem, s, lanes)[0])
            ]
        packing = Packing(tuple(pieces), s.terms, s.co)
        view, area = problem.context.args[1], s.kh * s.kw

        def element(g: Index, row: Index, o: Index) -> Value:
            # A depthwise weight may have the shape (input channels, multiplier, window); in memory that is the same.
            channel = (g * s.co + o, row // area) if view.shape[1] == s.ci else (g, o)
            return view(*channel, row // s.kw % s.kh, row % s.kw)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return array.reshape(s.groups, s.co, s.terms).swapaxes(1, 2)

        weights, problem, packed = packed_operand(problem, packing, builder, s.groups, matrix, element)
        data = _bordered(data, s, builder, phases=1 if channels_in_lanes else s.stride[1])
        return _Tiling(problem, s, builder, packing, weights, packed, data, dtype, lanes)

    @contextmanager
    def blocks(self, piece: Piece, rows: int, columns: int) -> Iterator[list[Index]]:
        """The parallel loop over pictures, groups, channel tiles and rows."""
        s = self.s
        extents = (s.n, s.groups, piece.tiles, rows)
        work = math.prod(extents) * s.terms * columns * piece.width
        with self.builder.loop("block", math.prod(extents), "parallel" if work >= 65536 else "serial") as flat:
            yield unravel(flat, extents)

    def weight(self, piece: Piece, g: Index, tile: Index, r: Sequence[Index], lane: Index) -> Value:
        """A packed weight: of group `g`, at kernel position r = (input channel, row, column)."""
        row = (r[0] * self.s.kh + r[1]) * self.s.kw + r[2]
        return self.builder.load(self.weights, (g, self.packing.offset(piece, tile, row, lane)))

    def pixel(self, n: Index, g: Index, r: Sequence[Index], y: Index, x: Index) -> Value:
        """The input element under output pixel (y, x) at kernel position r."""
        s = self.s
        place = y * s.stride[0] + r[1] * s.dilation[0], x * s.stride[1] + r[2] * s.dilation[1]
        return self.data(n, g * s.ci + r[0], *place)

    @property
    def reduction(self) -> list[tuple[str, int, str]]:
        """The loops of the sum. They are not unrolled: the compiler would run out of registers."""
        return [("c", self.s.ci, "rolled"), ("kh", self.s.kh, "rolled"), ("kw", self.s.kw, "rolled")]

    def channels_in_lanes(self, piece: Piece) -> None:
        """Tiles of vectors of output channels times pixels, which go to the output through a scratch array."""
        s, b = self.s, self.builder
        # A 1x1 convolution sees pixels only: rows need not end where the picture's do.
        flat = s.kh == s.kw == 1 and s.stride == (1, 1) and not s.padded
        rows, columns = (1, s.oh * s.ow) if flat else (s.oh, s.ow)
        most = 14 if self.problem.isa.registers >= 32 else 6
        with self.blocks(piece, rows, columns) as (n, g, tile, y):
            scratch = b.alloc("tile", (most, piece.width), self.dtype, "thread")
            for start, count, points in even(columns, most):
                with b.loop("q", count) as q:
                    self._channel_tile(piece, (n, g, tile, y), q * points + start, points, scratch, flat)

    def _channel_tile(
        self, piece: Piece, block: Sequence[Index], x0: Index, points: int, scratch: Buffer, flat: bool
    ) -> None:
        s, b, (n, g, tile, y) = self.s, self.builder, block

        def place(j: Index) -> tuple[Index, Index]:
            return ((x0 + j) // s.ow, (x0 + j) % s.ow) if flat else (y, x0 + j)

        with b.loop("v", piece.lanes, "vectorised") as v:
            acc = RegisterTile.start(b, piece.blocks, points, self.dtype)
            acc.accumulate(
                self.reduction,
                lambda r, o: self.weight(piece, g, tile, r, o * piece.lanes + v),
                lambda r, j: self.pixel(n, g, r, *place(j)),
            )
            acc.each(lambda o, j, value: b.store(scratch, (j, o * piece.lanes + v), value))
        with b.loop("oc", piece.width) as oc, b.loop("px", points) as j:
            channel = g * s.co + tile * piece.width + oc + piece.start
            self.problem.emit(b, (n, channel, *place(j)), b.load(scratch, (j, oc)))

    def pixels_in_lanes(self, piece: Piece) -> None:
        """Tiles of output channels times vectors of pixels, stored as they are."""
        s, b = self.s, self.builder
        vectors = _pixel_tile(self.problem, s, self.lanes)[1]
        with self.blocks(piece, s.oh, s.ow) as block:
            for columns in cut(s.ow, self.lanes, vectors):
                with b.loop("q", columns.tiles) as q, b.loop("v", columns.lanes, "vectorised") as v:
                    self._pixel_tile(piece, columns, block, q * columns.width + v + columns.start)

    def _pixel_tile(self, piece: Piece, columns: Piece, block: Sequence[Index], x0: Index) -> None:
        s, b, (n, g, tile, y) = self.s, self.builder, block
        acc = RegisterTile.start(b, columns.blocks, piece.blocks, self.dtype)
        acc.accumulate(
            self.reduction,
            lambda r, k: self.pixel(n, g, r, y, x0 + k * columns.lanes),
            lambda r, o: self.weight(piece, g, tile, r, o),
        )

        def store(k: Index, o: Index, value: Value) -> None:
            channel = g * s.co + tile * piece.width + o + piece.start
            self.problem.emit(b, (n, channel, y, x0 + k * columns.lanes), value)

        acc.each(store)


def _pixel_tile(problem: Problem, s: Shape, lanes: int) -> tuple[int, int]:
    """Output channels and vectors of pixels of a tile with pixels in lanes."""
    if problem.isa.registers < 32:
        return 4, 2
    return (8, 2) if s.ow % (2 * lanes) == 0 else (6, 3)


def _bordered(data: View, s: Shape, builder: Builder, phases: int) -> View:
    """The input in bordered coordinates: a copy with a zero border, columns regrouped by `phases`; or itself."""
    if not s.padded and phases == 1:
        return data
    channels, height = s.groups * s.ci, s.rows_needed
    width = -(-s.columns_needed // phases)
    dtype = data(*(0,) * 4).dtype
    copy = builder.alloc("bordered", (s.n, channels, height, phases, width), dtype, "team")
    top, left = s.pad
    inner_rows = _inside(top, s.h, height)
    for first, last, inside in ((0, inner_rows[0], False), (*inner_rows, True), (inner_rows[1], height, False)):
        if first == last:
            continue
        with builder.loop("brow", s.n * channels * (last - first), "parallel") as flat:
            n, c, row = unravel(flat, (s.n, channels, last - first))
            y = row + first
            for phase in range(phases):
                # Columns of this phase that lie inside of the picture; what is outside on either side is zero.
                left_end, right_start = _inside(left, s.w, width, phase, phases) if inside else (width, width)
                for start, end, copied in (
                    (0, left_end, False),
                    (left_end, right_start, True),
                    (right_start, width, False),
                ):
                    if start == end:
                        continue
                    with builder.loop("bx", end - start, "vectorised") as i:
                        x = (i + start) * phases + phase - left
                        value = data(n, c, y - top, x) if copied else cast(0, dtype)
                        builder.store(copy, (n, c, y, phase, i + start), value)
    builder.barrier()
    return View(data.type, lambda n, c, y, x: builder.load(copy, (n, c, y, x % phases, x // phases)))


def _inside(border: int, size: int, extent: int, phase: int = 0, phases: int = 1) -> tuple[int, int]:
    """The range of bordered positions (of one phase) that hold the `size` positions behind the border."""
    first = min(max(-(-(border - phase) // phases), 0), extent)
    return first, min(max(-(-(size + border - phase) // phases), first), extent)
