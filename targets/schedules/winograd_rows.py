"""conv2d of few channels in plain NCHW by Winograd's F(m, r) along columns only, with the pixels of a row in lanes.

    for each band of m output rows (in parallel):
        V[f][c][x]  = B^T of m + r - 1 input rows       rows are combined with rows: lanes stay where they are
        for each tile of output channels and vectors of pixels:
            M[f] = sum over c, kw of U[f][c][kw] V[f][c][x + kw]
            A^T M, epilogue, store

F(4, 3) has 6 products where the definition has 12. Winograd along both axes would have fewer still, but then pixels
must be shuffled between lanes, and with few channels the transforms would weigh more than the products. V stays in the
first cache; there is no bordered copy of the input.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ...ir.index import Index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import SMALL_FLOATS, Buffer, Value, all_of, cast, constant, inside, select
from ...ops.reshape import unravel
from ..lower import Problem
from . import conv_shape
from .conv import pixel_pieces, pixel_tile
from .conv_shape import Conv, Written, conv_of, with_weights
from .cook_toom import POINTS, Filter, linear_program, paired_program, winograd
from .space import Config, register_tiles, space
from .tiles import Packed, Packing, Piece, RegisterTile, cut, either, team_kind
from .winograd import multiply

M = 4
"""Output rows of a band."""
V_BYTES = 1 << 17
"""Bytes that V may take: it is read again for each tile of output channels."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if reason := conv_shape.check(problem):
        return reason
    conv = conv_of(problem)
    s = conv.s
    if conv.weight.dtype in SMALL_FLOATS:
        return f"weights of {conv.weight.dtype}; here they are broadcast one by one"
    if conv.out_block > 1 or conv.data_block > 1:
        return "the layout has blocks of channels"
    if (s.stride, s.dilation, s.groups) != ((1, 1), (1, 1), 1):
        return "not stride 1, dilation 1 and one group"
    if s.kh == 1 or M + s.kh - 2 not in POINTS:
        return f"there is no F({M}) for a window {s.kh} high"
    if s.ow < conv.lanes or s.oh < M:
        return "the result is smaller than a vector wide or a band high"
    if 4 * (M + s.kh - 1) * s.ci * s.columns_needed > V_BYTES:
        return f"a band of transformed rows takes more than {V_BYTES >> 10} KiB"
    if problem.parameter(1) not in problem.constants:
        return "the weight is not known at build time"
    return None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: vectors of pixels (`blocks`) and output channels (`points`) of the register tile."""
    conv = conv_of(problem)
    points, blocks = pixel_tile(conv)
    shapes = register_tiles(problem.isa.registers, (1, 2, 3, 4))
    most = [(n, p) for n, limit in shapes for p in (limit, limit // 2) if 0 < p <= conv.s.co]
    knobs = {"blocks": sorted({n for n, _ in most}), "points": sorted({p for _, p in most})}
    return space({"blocks": blocks, "points": points}, knobs, lambda c: (c["blocks"], c["points"]) in most)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything."""
    conv = conv_of(problem)
    s, n = conv.s, M + conv.s.kh - 1
    vectors = s.n * -(-s.oh // M) * -(-s.ow // conv.lanes)
    loads = max(1.0, 1.6 * (1 / config["blocks"] + 1 / config["points"]))
    return float(vectors * (s.co * n * (s.ci * s.kw * loads + 3) + s.ci * n * 4))


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of the convolution, and how its weights are packed."""
    return _Rows.start(conv_of(problem), config).kernel()


def pack(problem: Problem, config: Config) -> Packed:
    """How the weights are packed."""
    return _Rows.start(conv_of(problem), config).packed


@frozen(eq=False)
class _Rows(Written):
    f: Filter
    config: Config

    @staticmethod
    def start(conv: Conv, config: Config) -> "_Rows":
        """Transform the weights: G g along columns, as rows (frequency, channel, kw)."""
        s, b, f = conv.s, Builder(), winograd(M, conv.s.kh)
        packing = Packing(tuple(pixel_pieces(conv, config["points"])), f.n * s.ci * s.kw, s.co)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            taps: npt.NDArray[Any] = np.einsum("fk,ockx->fcxo", f.weights, array.astype(np.float64))
            return taps.reshape(1, -1, s.co).astype(array.dtype, copy=False)

        return _Rows(*with_weights(conv, b, packing, matrix), f, config)

    def kernel(self) -> tuple[Kernel, Packed]:
        """Bands of rows in parallel."""
        s, b = self.conv.s, self.b
        bands = -(-s.oh // M)
        kind = team_kind(s.flops // 2)
        with b.loop("band", s.n * bands, kind) as flat:
            picture, band = unravel(flat, (s.n, bands))
            v = b.alloc("V", (self.f.n, s.ci, s.columns_needed), self.conv.dtype, "thread")
            self._transform(v, picture, band * M)
            for columns in cut(s.ow, self.conv.lanes, self.config["blocks"]):
                for piece in self.packing.pieces:
                    self._tiles(v, (picture, band * M), columns, piece)
        return self.conv.problem.kernel(b), self.packed

    def _transform(self, v: Buffer, picture: Index, y0: Index) -> None:
        """Fill V with the rows under a band, zeros left and right of the picture."""
        s, b, n, left = self.conv.s, self.b, self.f.n, self.conv.s.pad[1]
        right = min(left + s.w, s.columns_needed)
        for start, end in ((0, left), (right, s.columns_needed)):
            if start < end:
                with b.loops(("f", "c", "x"), (n, s.ci, end - start)) as (f, c, x):
                    b.store(v, (f, c, x + start), 0)
        top = y0 - s.pad[0]
        whole = all_of([inside((top,), (s.h,)), inside((top + n - 1,), (s.h,))])
        with b.loop("c", s.ci) as c:

            def columns(branch: Builder, tested: bool) -> None:
                with branch.loop("x", right - left, "vectorised") as x:
                    self._column(branch, v, (picture, c, top, x), tested)

            either(b, whole, columns)

    def _column(self, b: Builder, v: Buffer, at: tuple[Index, Index, Index, Index], tested: bool) -> None:
        conv, (picture, c, top, x) = self.conv, at
        values = []
        for i in range(self.f.n):
            value = cast(conv.data(picture, c, top + i, x), conv.dtype)
            values.append(select(inside((top + i,), (conv.s.h,)), value, constant(0, conv.dtype)) if tested else value)
        for f, value in enumerate(multiply(linear_program(self.f.bt), values)):
            b.store(v, (f, c, x + conv.s.pad[1]), value)

    def _tiles(self, v: Buffer, at: tuple[Index, Index], columns: Piece, piece: Piece) -> None:
        b, dtype = self.b, self.conv.dtype
        with b.loop("q", columns.tiles) as q, b.loop("tile", piece.tiles) as tile:
            x0 = q * columns.width + columns.start
            m = b.alloc("M", (self.f.n, piece.blocks, columns.blocks, columns.lanes), dtype, "thread")
            with b.loop("f", self.f.n) as f, b.loop("v", columns.lanes, "vectorised") as lane:
                self._product(v, m, (columns, piece), (f, tile, x0), lane)
            with (
                b.loop("o", piece.blocks) as o,
                b.loop("k", columns.blocks) as k,
                b.loop("v", columns.lanes, "vectorised") as lane,
            ):
                values = [b.load(m, (i, o, k, lane)) for i in range(self.f.n)]
                self._outputs(values, (*at, tile * piece.width + piece.start + o, x0 + k * columns.lanes + lane))

    def _product(
        self, v: Buffer, m: Buffer, pieces: tuple[Piece, Piece], at: tuple[Index, Index, Index], lane: Index
    ) -> None:
        b, s, (columns, piece), (f, tile, x0) = self.b, self.conv.s, pieces, at
        acc = RegisterTile.start(b, columns.blocks, piece.blocks, self.conv.dtype)

        def weight(r: Sequence[Index], o: Index) -> Value:
            row = (f * s.ci + r[0]) * s.kw + r[1]
            return b.load(self.weights, (0, self.packing.offset(piece, tile, row, o)))

        acc.accumulate(
            [("c", s.ci, "rolled"), ("kw", s.kw, "rolled")],
            lambda r, k: b.load(v, (f, r[0], x0 + k * columns.lanes + lane + r[1])),
            weight,
        )
        acc.each(lambda k, o, value: b.store(m, (f, o, k, lane), value))

    def _outputs(self, values: Sequence[Value], at: tuple[Index, Index, Index, Index]) -> None:
        picture, y0, channel, x = at
        for i, value in enumerate(multiply(paired_program(self.f.at), values)):
            with self.b.when(inside((y0 + i,), (self.conv.s.oh,))):
                self.conv.emit(self.b, (picture, channel, y0 + i, x), value)
