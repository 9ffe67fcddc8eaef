"""conv2d 3x3, stride 1, by Winograd's F(2x2, 3x3) and F(4x4, 3x3), in blocked layouts.

    input tiles  --B^T d B-->  V[f][tile][channel]     every thread a share of (channel block, tile)
    barrier
    for each tile of output channels, for each of the n*n frequencies f:
        M[f] = U[f] V[f]                                the matrix products, in register tiles
        A^T M A, epilogue, store                        while M is still in the cache
    barrier, and the next block of tiles

U is the transformed weight, G g G^T, computed in float64 when the model is built. Tiles run over all pictures; a block
of them is as large as keeps M in the near cache. (A. Lavin and S. Gray, arXiv:1509.09308; cook_toom.py has the
matrices.)
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index
from ...ir.loops import Builder, If, Kernel
from ...ir.scalar import Buffer, Value, all_of, apply, cast, constant, inside, select
from ..lower import Problem
from . import conv_shape
from .conv import channel_pieces, most_points
from .conv_shape import Conv, conv_of
from .cook_toom import Filter, Step, linear_program, paired_program, winograd
from .generic import unravel
from .tiles import Packed, Packing, Piece, RegisterTile, even, packed_operand

TILES = 64
"""Tiles of a block: with two vectors of output channels, M of F(4x4) then takes 295 KB."""
V_BYTES = 2 << 20
"""Bytes that V may take; it is read from the second-level cache or the next one, once for each tile of channels."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if reason := conv_shape.check(problem):
        return reason
    conv = conv_of(problem)
    s = conv.s
    if (s.kh, s.kw, s.stride, s.dilation, s.groups) != (3, 3, (1, 1), (1, 1), 1):
        return "not a 3x3 convolution with stride 1, dilation 1 and one group"
    if min(s.oh, s.ow) < 2:
        return "the result is one pixel high or wide"
    if min(conv.data_block, conv.out_block) < 4:
        return "the layout has no blocks of channels"
    if problem.parameter(1) not in problem.constants:
        return "the weight is not known at build time"
    return None


def schedule(m: int) -> Callable[[Problem], tuple[Kernel, Packed]]:
    """The loops of F(m x m, 3x3), and how its weights are packed."""
    return lambda problem: _Winograd.start(conv_of(problem), winograd(m)).kernel()


def predict(m: int) -> Callable[[Problem], float]:
    """The cost of F(m x m, 3x3) in vector operations, if one thread does everything."""
    return lambda problem: _cost(conv_of(problem), m)


def _cost(conv: Conv, m: int) -> float:
    """Products, transforms, and weights that come from afar."""
    s, n = conv.s, m + 2
    tiles = s.n * -(-s.oh // m) * -(-s.ow // m)
    products = tiles * n * n * s.ci * s.co / conv.lanes
    transforms = tiles * (s.ci + s.co) / conv.lanes * (4.5 * n * n + 2 * m * n)
    return products + transforms + conv_shape.streaming(4 * n * n * s.ci * s.co)


@frozen(eq=False)
class _Winograd:
    conv: Conv
    f: Filter
    b: Builder
    packing: Packing
    weights: Buffer
    packed: Packed
    rows: int
    columns: int

    @staticmethod
    def start(conv: Conv, f: Filter) -> "_Winograd":
        """Transform the weights, and cut the picture into tiles."""
        s, b = conv.s, Builder()
        packing = Packing(tuple(channel_pieces(conv)), f.n * f.n * s.ci, s.co)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return transformed(array, f)

        def element(batch: Index, row: Index, o: Index) -> Value:
            raise AssertionError("check wants a constant weight")

        weights, problem, packed = packed_operand(conv.problem, packing, b, 1, matrix, element)
        conv = evolve(conv, problem=problem)
        return _Winograd(conv, f, b, packing, weights, packed, -(-s.oh // f.m), -(-s.ow // f.m))

    def kernel(self) -> tuple[Kernel, Packed]:
        """All blocks of tiles, one after the other."""
        s, f, b = self.conv.s, self.f, self.b
        tiles = s.n * self.rows * self.columns
        most = max(1, min(TILES, V_BYTES // (4 * f.n * f.n * s.ci)))
        groups = even(tiles, most)
        v = b.alloc("V", (f.n * f.n, max(size for _, _, size in groups), s.ci), self.conv.dtype, "team")
        for start, count, size in groups:
            with b.loop("tiles", count, "lockstep") as block:
                first = block * size + start
                self.transform_input(v, first, size)
                b.barrier()
                self.products(v, first, size)
                b.barrier()
        return self.conv.problem.kernel(b), self.packed

    def place(self, tile: Index) -> list[Index]:
        """Picture, row and column of a tile."""
        return unravel(tile, (self.conv.s.n, self.rows, self.columns))

    # B^T d B

    def transform_input(self, v: Buffer, first: Index, size: int) -> None:
        """Fill V for a block of tiles."""
        s, block, b = self.conv.s, self.conv.data_block, self.b
        with b.loop("input", s.ci // block * size, "parallel") as flat:
            cb, t = unravel(flat, (s.ci // block, size))
            picture, row, column = self.place(first + t)
            y0, x0 = row * self.f.m - s.pad[0], column * self.f.m - s.pad[1]
            with b.loop("v", block, "vectorised") as lane:
                self._input_tile(v, (picture, cb * block + lane, y0, x0), t)

    def _input_tile(self, v: Buffer, at: tuple[Index, Index, Index, Index], t: Index) -> None:
        n, b, dtype = self.f.n, self.b, self.conv.dtype
        d = b.alloc("d", (n, n), dtype)
        half = b.alloc("half", (n, n), dtype)
        self._read(d, at)
        steps = linear_program(self.f.bt)
        for j in range(n):
            column = multiply(steps, [b.load(d, (i, j)) for i in range(n)])
            for i in range(n):
                b.store(half, (i, j), column[i])
        for i in range(n):
            row = multiply(steps, [b.load(half, (i, j)) for j in range(n)])
            for j in range(n):
                b.store(v, (i * n + j, t, at[1]), row[j])

    def _read(self, d: Buffer, at: tuple[Index, Index, Index, Index]) -> None:
        """The pixels under a tile; tiles that stick out of the picture test every pixel, the others none."""
        s, n, b, (picture, channel, y0, x0) = self.conv.s, self.f.n, self.b, at
        whole = all_of([inside((y0, x0), (s.h, s.w)), inside((y0 + n - 1, x0 + n - 1), (s.h, s.w))])

        def read(tested: bool) -> tuple[Any, ...]:
            branch = Builder()
            for i in range(n):
                for j in range(n):
                    y, x = y0 + i, x0 + j
                    if tested:
                        value = _padded(self.conv, (picture, channel, y, x))
                    else:
                        value = self.conv.data(picture, channel, y, x)
                    branch.store(d, (i, j), cast(value, self.conv.dtype))
            return branch.finish()

        b.emit(If(whole, read(False), read(True)))

    # U V, A^T M A

    def products(self, v: Buffer, first: Index, size: int) -> None:
        """All output channels of a block of tiles."""
        threads = self.conv.problem.threads
        for piece in self.packing.pieces:
            parts = next((p for p in (1, 2, 3, 4) if piece.tiles * p % threads == 0), 1)
            for start, count, points in even(size, -(-size // parts)):
                with self.b.loop("product", piece.tiles * count, "parallel") as flat:
                    tile, part = unravel(flat, (piece.tiles, count))
                    self._product(piece, tile, v, first, part * points + start, points)

    def _product(self, piece: Piece, tile: Index, v: Buffer, first: Index, t0: Index, size: int) -> None:
        b, f, conv = self.b, self.f, self.conv
        m = b.alloc("M", (f.n * f.n, piece.blocks, size, piece.lanes), conv.dtype, "thread")
        with b.loop("f", f.n * f.n) as frequency:
            for start, count, points in even(size, most_points(conv, piece)):
                with b.loop("q", count) as q, b.loop("v", piece.lanes, "vectorised") as lane:
                    self._register_tile(piece, tile, v, m, frequency, (t0, q * points + start), points, lane)
        with b.loop("o", piece.blocks) as o, b.loop("t", size) as t, b.loop("v", piece.lanes, "vectorised") as lane:
            channel = tile * piece.width + o * piece.lanes + lane + piece.start
            self._output_tile([b.load(m, (k, o, t, lane)) for k in range(f.n * f.n)], first + t0 + t, channel)

    def _register_tile(
        self,
        piece: Piece,
        tile: Index,
        v: Buffer,
        m: Buffer,
        frequency: Index,
        at: tuple[Index, Index],
        points: int,
        lane: Index,
    ) -> None:
        b, ci = self.b, self.conv.s.ci
        acc = RegisterTile.start(b, piece.blocks, points, self.conv.dtype)

        def weight(r: Sequence[Index], o: Index) -> Value:
            offset = self.packing.offset(piece, tile, frequency * ci + r[0], o * piece.lanes + lane)
            return b.load(self.weights, (0, offset))

        acc.accumulate([("c", ci, "rolled")], weight, lambda r, j: b.load(v, (frequency, at[0] + at[1] + j, r[0])))
        acc.each(lambda o, j, value: b.store(m, (frequency, o, at[1] + j, lane), value))

    def _output_tile(self, values: Sequence[Value], tile: Index, channel: Index) -> None:
        n, m, b, s = self.f.n, self.f.m, self.b, self.conv.s
        picture, row, column = self.place(tile)
        steps = paired_program(self.f.at)
        half = b.alloc("half", (m, n), self.conv.dtype)
        for j in range(n):
            for i, value in enumerate(multiply(steps, [values[i * n + j] for i in range(n)])):
                b.store(half, (i, j), value)
        for i in range(m):
            for j, value in enumerate(multiply(steps, [b.load(half, (i, j)) for j in range(n)])):
                y, x = row * m + i, column * m + j
                with b.when(inside((y, x), (s.oh, s.ow))):
                    self.conv.emit(b, (picture, channel, y, x), value)


def transformed(weight: npt.NDArray[Any], f: Filter) -> npt.NDArray[Any]:
    """G g G^T of a weight (O, I, 3, 3), in float64, as an array (1, n * n * I, O) of the weight's dtype."""
    g = np.array([[float(c) for c in row] for row in f.g])
    both = np.einsum("pi,qj->pqij", g, g).reshape(f.n * f.n, -1)
    out, into = weight.shape[:2]
    result = np.empty((f.n * f.n, into, out), weight.dtype)
    for first in range(0, out, 32):  # a part at a time: float64 copies of everything would be large
        part = weight[first : first + 32].reshape(-1, into, f.r * f.r)
        taps = np.ascontiguousarray(part.transpose(2, 1, 0), np.float64)
        result[:, :, first : first + 32] = np.tensordot(both, taps, 1)
    return result.reshape(1, -1, out)


def _padded(conv: Conv, at: tuple[Index, Index, Index, Index]) -> Value:
    """The input at (n, c, y, x), 0 outside of the picture."""
    value = conv.data(*at)
    return select(inside(at[2:], (conv.s.h, conv.s.w)), value, constant(0, value.dtype))


def multiply(program: tuple[tuple[Step, ...], tuple[int, ...]], values: Sequence[Value]) -> list[Value]:
    """The rows of a matrix times a vector of values, by the steps of cook_toom.py."""
    steps, rows = program
    known = list(values)
    for step in steps:
        known.append(_combine([(known[source], c) for source, c in step.terms]))
    return [known[row] for row in rows]


def _combine(terms: Sequence[tuple[Value, Fraction]]) -> Value:
    """A sum of multiples; the terms with factor 1 or -1 need no product."""
    ordered = sorted(terms, key=lambda term: (term[1] != 1, abs(term[1]) != 1))
    total: Value | None = None
    for value, c in ordered:
        if total is None:
            total = value if c == 1 else value * float(c)
        elif abs(c) == 1:
            total = total + value if c == 1 else total - value
        else:
            total = apply("fma", value, constant(float(c), value.dtype), total)
    assert total is not None
    return total
