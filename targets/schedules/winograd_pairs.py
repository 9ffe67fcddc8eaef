"""conv2d of few channels in plain NCHW by Winograd's F(4, r) along columns and F(2, 3) along rows, tiles in lanes.

A lane is a tile of 4 x 2 pixels, so that a vector is a strip of 4 rows, two vectors of pixels wide:

    for each band of 4 output rows (in parallel):
        T[f][c][parity][t]  = B^T of n = r + 3 input rows, even and odd columns apart
        for each strip and each tile of output channels:
            for each of the n frequencies along columns:
                d = T[f][c][even][t], T[f][c][odd][t], T[f][c][even][t + 1], T[f][c][odd][t + 1]
                four accumulators for each channel, over c:  U[f][g][c] (B^T d)[g]
                M[f] = A^T of the four
            A^T of the n vectors M, even and odd columns interleaved, epilogue, store

F(4, 3) x F(2, 3) has 24 products for 8 outputs, where the definition has 72, and F(4, 3) along columns alone 36. The
transforms along rows consist of additions only, which have pipes of their own beside those of multiply-adds: V is
transformed again for each tile of channels, instead of being stored. F(4, 3) x F(4, 3) would have 18 products. But a
512-bit store holds up three-operand instructions (measured on Zen 4: 1.7 multiply-adds each), so that it would gain
nothing, at twice the width.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ...ir.index import Index, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, all_of, apply, cast, constant, inside, select
from ...ops.reshape import unravel
from ..lower import Problem
from ..vectorise import lanes_for
from . import winograd_rows
from .conv import held
from .conv_shape import Conv, Written, conv_of, with_weights
from .cook_toom import Filter, linear_program, paired_program, winograd
from .space import Config, space
from .tiles import Packed, Packing, Piece, added, cut, either, even, team_kind
from .winograd import multiply
from .winograd_rows import M

PAIR = 2
"""Output columns of a tile."""
WINDOW = 3
"""Columns of the window."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if reason := winograd_rows.check(problem):
        return reason
    conv = conv_of(problem)
    if conv.s.kw != WINDOW:
        return f"the window is not {WINDOW} wide"
    if conv.lanes < 4:
        return "vectors have fewer than 4 lanes"
    if conv.s.ow < PAIR * conv.lanes:
        return "the result is less than two vectors wide"
    epilogue = Builder()
    with epilogue.loop("x", conv.lanes) as x:
        conv.emit(epilogue, (as_index(0), as_index(0), as_index(0), x), constant(0, conv.dtype))
    if lanes_for(epilogue.finish(), problem.isa.vector_bytes) < conv.lanes:
        return "the operators behind it compute in wider types"
    return None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: the output channels of a register tile (`points`)."""
    most, channels = 4 if problem.isa.registers >= 32 else 2, conv_of(problem).s.co
    default = {"points": min(most, channels)}
    return space(default, {"points": range(1, 1 + most + most // 2)}, lambda c: c["points"] <= channels)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything: products and the loads that hold them up, what is
    done for each output, and B^T along columns. A strip of fewer lanes takes three quarters of the time of a full one.
    """
    conv = conv_of(problem)
    s, n = conv.s, M + conv.s.kh - 1
    row = strips(s.ow, conv.lanes)
    vectors = s.n * -(-s.oh // M) * sum(piece.tiles * (1.0 if piece.lanes == conv.lanes else 0.75) for piece in row)
    products = n * (PAIR + WINDOW - 1) * s.ci * max(1.0, 3 / config["points"] + 0.25)
    # With few registers more goes to memory and back.
    outputs = PAIR * (n + 3.5 * M) * (1.0 if problem.isa.registers >= 32 else 1.5)
    return float(vectors * (s.co * (products + outputs) + s.ci * PAIR * n * 4))


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of the convolution, and how its weights are packed."""
    return _Pairs.start(conv_of(problem), config).kernel()


def pack(problem: Problem, config: Config) -> Packed:
    """How the weights are packed."""
    return _Pairs.start(conv_of(problem), config).packed


@frozen(eq=False)
class _Pairs(Written):
    rows: Filter
    columns: Filter

    @staticmethod
    def start(conv: Conv, config: Config) -> "_Pairs":
        """Transform the weights, G g G^T, as rows (frequency, channel, frequency along the row)."""
        s, b, rows, columns = conv.s, Builder(), winograd(M, conv.s.kh), winograd(PAIR, WINDOW)
        pieces = [Piece(start, count, size, 1) for start, count, size in even(s.co, config["points"])]
        packing = Packing(tuple(pieces), rows.n * s.ci * columns.n, s.co)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            taps: npt.NDArray[Any] = np.einsum(
                "fk,gl,ockl->fcgo", rows.weights, columns.weights, array.astype(np.float64)
            )
            return taps.reshape(1, -1, s.co).astype(array.dtype, copy=False)

        return _Pairs(*with_weights(conv, b, packing, matrix), rows, columns)

    @property
    def tiles(self) -> int:
        """Tiles of a band; the last may stick out of the picture by a column."""
        return -(-self.conv.s.ow // PAIR)

    def inside(self, parity: int) -> tuple[int, int]:
        """The range of the columns of one parity that hold pixels of the picture."""
        return held(self.conv.s.pad[1], self.conv.s.w, self.tiles + 1, parity, PAIR)

    def place(self, parity: int, t: Index) -> Index:
        """Where in T a column lies: the first one with pixels begins a vector."""
        return t + (-self.inside(parity)[0]) % self.conv.lanes

    def kernel(self) -> tuple[Kernel, Packed]:
        """Bands of rows in parallel."""
        s, b, lanes = self.conv.s, self.b, self.conv.lanes
        bands = -(-s.oh // M)
        kind = team_kind(s.flops // 2)
        width = -(-(self.tiles + lanes) // lanes) * lanes
        with b.loop("band", s.n * bands, kind) as flat:
            picture, band = unravel(flat, (s.n, bands))
            t = b.alloc("T", (self.rows.n, s.ci, PAIR, width), self.conv.dtype, "thread")
            for parity in range(PAIR):
                self._transform(t, picture, band * M, parity)
            for strip in strips(s.ow, lanes):
                with b.loop("q", strip.tiles) as q:
                    for piece in self.packing.pieces:
                        with b.loop("tile", piece.tiles) as tile:
                            self._strip(t, (picture, band * M), (strip, q * strip.width + strip.start), (piece, tile))
        return self.conv.problem.kernel(b), self.packed

    # B^T along columns

    def _transform(self, t: Buffer, picture: Index, y0: Index, parity: int) -> None:
        """Fill the columns of one parity of T with the rows under a band, zeros left and right of the picture."""
        s, b, n, (first, end) = self.conv.s, self.b, self.rows.n, self.inside(parity)
        for start, stop in ((0, first), (end, self.tiles + 1)):
            if start < stop:
                with b.loops(("f", "c", "t"), (n, s.ci, stop - start)) as (f, c, x):
                    b.store(t, (f, c, parity, self.place(parity, x + start)), 0)
        top = y0 - s.pad[0]
        whole = all_of([inside((top,), (s.h,)), inside((top + n - 1,), (s.h,))])
        with b.loop("c", s.ci) as c:

            def columns(branch: Builder, tested: bool) -> None:
                with branch.loop("t", end - first, "vectorised") as x:
                    self._column(branch, t, (picture, c, top, x + first), parity, tested)

            either(b, whole, columns)

    def _column(self, b: Builder, t: Buffer, at: tuple[Index, Index, Index, Index], parity: int, tested: bool) -> None:
        conv, (picture, c, top, x) = self.conv, at
        d = b.alloc("d", (self.rows.n,), conv.dtype)
        for i in range(self.rows.n):
            value = cast(conv.data(picture, c, top + i, x * PAIR + (parity - conv.s.pad[1])), conv.dtype)
            test = inside((top + i,), (conv.s.h,))
            b.store(d, (i,), select(test, value, constant(0, conv.dtype)) if tested else value)
        values = [b.load(d, (i,)) for i in range(self.rows.n)]
        for f, value in enumerate(multiply(linear_program(self.rows.bt), values)):
            b.store(t, (f, c, parity, self.place(parity, x)), value)

    # U (B^T d), A^T

    def _strip(
        self, t: Buffer, at: tuple[Index, Index], strip: tuple[Piece, Index], panel: tuple[Piece, Index]
    ) -> None:
        """A vector of tiles for a tile of output channels."""
        b, (columns, t0), (piece, tile) = self.b, strip, panel
        m = b.alloc("M", (self.rows.n, piece.blocks, PAIR, columns.lanes), self.conv.dtype, "thread")
        with b.loop("f", self.rows.n, "rolled") as f, b.loop("v", columns.lanes, "vectorised") as lane:
            acc = b.alloc("acc", (self.columns.n, piece.blocks), self.conv.dtype)
            self._products(t, acc, f, t0 + lane, panel)
            for o in range(piece.blocks):
                values = [b.load(acc, (g, o)) for g in range(self.columns.n)]
                for j, value in enumerate(multiply(paired_program(self.columns.at), values)):
                    b.store(m, (f, o, j, lane), value)
        with b.loop("o", piece.blocks, "rolled") as block:
            self._outputs(m, (*at, tile * piece.width + piece.start + block, t0), block, columns.lanes)

    def _products(self, t: Buffer, acc: Buffer, f: Index, t0: Index, panel: tuple[Piece, Index]) -> None:
        b, s, n, (piece, tile) = self.b, self.conv.s, self.columns.n, panel
        places = [(g, o) for g in range(n) for o in range(piece.blocks)]
        for place in places:
            b.store(acc, place, 0)
        with b.loop("c", s.ci, "rolled") as c:
            image = b.alloc("image", (n,), self.conv.dtype)
            pixels = [b.load(t, (f, c, i % PAIR, self.place(i % PAIR, t0 + i // PAIR))) for i in range(n)]
            for g, value in enumerate(multiply(linear_program(self.columns.bt), pixels)):
                b.store(image, (g,), value)
            for g, o in places:
                row = (f * s.ci + c) * n + g
                weight = b.load(self.weights, (0, self.packing.offset(piece, tile, row, o)))
                b.store(acc, (g, o), added(b.load(image, (g,)), weight, b.load(acc, (g, o))))

    def _outputs(self, m: Buffer, at: tuple[Index, Index, Index, Index], o: Index, lanes: int) -> None:
        """The pixels of one channel: with tiles in lanes even and odd columns are interleaved."""
        b, s, (picture, y0, channel, t0), steps = self.b, self.conv.s, at, paired_program(self.rows.at)
        with b.loop("v", lanes, "vectorised") as lane:
            columns = b.alloc("columns", (PAIR, M), self.conv.dtype)
            for j in range(PAIR):
                for i, value in enumerate(multiply(steps, [b.load(m, (f, o, j, lane)) for f in range(self.rows.n)])):
                    b.store(columns, (j, i), value)
            pixels = b.alloc("pixels", (PAIR,), self.conv.dtype)
            for i in range(M):
                pair = [b.load(columns, (j, i)) for j in range(PAIR)]
                for k, zipped in enumerate(("zip_lo", "zip_hi")):
                    b.store(pixels, (k,), pair[k] if lanes == 1 else apply(zipped, *pair))
                for k in range(PAIR):
                    y, x = y0 + i, t0 * PAIR + k * lanes + lane
                    with b.when(inside((y, x), (s.oh, s.ow)) if lanes == 1 else inside((y,), (s.oh,))):
                        self.conv.emit(b, (picture, channel, y, x), b.load(pixels, (k,)))


def strips(width: int, lanes: int) -> list[Piece]:
    """A row of `width` pixels as vectors of tiles, the last of which may begin before the one in front ends; of an odd
    width the last tile stands alone.
    """
    tiles = width // PAIR
    parts = [piece for piece in cut(tiles, lanes, 1) if piece.lanes >= 4]
    if rest := tiles - sum(piece.size for piece in parts):
        assert rest < 4 <= tiles
        parts.append(Piece(tiles - 4, 1, 1, 4))
    return parts + [Piece(tiles, 1, 1, 1)] * (width % PAIR)
