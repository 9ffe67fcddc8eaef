"""conv2d by Winograd's F(m x m, r x r), with stride 1 or more, in blocked layouts.

    input tiles  --B^T d B-->  V[f][tile][term]        every thread a share of (channel block, tile)
    barrier
    for each tile of output channels, for each of the n*n frequencies f:
        M[f] = U[f] V[f]                                the matrix products, in register tiles
        A^T M A, epilogue, store                        while M is still in the cache
    barrier, and the next block of tiles

U is the transformed weight, G g G^T, computed in float64 when the model is built. For weights of 16 bits it is
stored as float16, whatever they are: the transforms would amplify the rounding errors of bfloat16. Terms are the input
channels, and with a stride those of every phase (winograd_plan.py). Tiles run over all pictures; a block of them is as
large as keeps M in the near cache. A plain NCHW input, that of a network's first layer, has tiles in its lanes instead
of channels. (A. Lavin and S. Gray, arXiv:1509.09308; cook_toom.py has the matrices.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import SMALL_FLOATS, Buffer, Value, all_of, apply, cast, constant, inside, select
from ...ops.reshape import unravel
from ..lower import Problem
from . import conv_shape
from .conv import bordered, channel_pieces, default_tile
from .conv_shape import NEAR_CACHE, Conv, Written, conv_of, with_weights
from .cook_toom import Step, linear_program, paired_program
from .space import Config, register_tiles, space
from .tiles import Packed, Packing, Piece, RegisterTile, either, even, fetch
from .winograd_plan import Band, Phase, Plan, fits, plan, transformed

TILES = 64
"""Tiles of a block: with two vectors of output channels, M of F(4x4) then takes 295 KB."""
V_BYTES = 2 << 20
"""Bytes that V may take; it is read from the second-level cache or the next one, once for each tile of channels."""
SHORT = 64
"""Terms of a product up to which blocks are smaller: transforms then weigh more, and M should lie in a near cache."""


def check(m: int) -> Callable[[Problem], str | None]:
    """Why F(m x m) does not fit, or None."""
    return lambda problem: _refusal(problem, m)


def _refusal(problem: Problem, m: int) -> str | None:
    if reason := conv_shape.check(problem):
        return reason
    conv = conv_of(problem)
    if conv.weight.dtype in SMALL_FLOATS and not problem.isa.float16_loads:
        return f"transformed weights of {conv.weight.dtype} are stored as float16, which is slow to read here"
    s = conv.s
    if s.kh != s.kw or s.stride[0] != s.stride[1] or s.dilation != (1, 1) or s.groups != 1:
        return "not a square window, dilation 1 and one group"
    if not fits(m, s.kh, s.stride[0]):
        return f"there is no F({m}) for a window of {s.kh} and a stride of {s.stride[0]}"
    if min(s.oh, s.ow) < 2:
        return "the result is one pixel high or wide"
    if conv.out_block < 4 or 1 < conv.data_block < 4:
        return "the layout has no blocks of channels"
    if problem.parameter(1) not in problem.constants:
        return "the weight is not known at build time"
    return None


def configs(m: int) -> Callable[[Problem], Iterator[Config]]:
    """The candidate space: vectors of channels in a register tile, its points, and the tiles of a block."""
    return lambda problem: _configs(problem, m)


def _configs(problem: Problem, m: int) -> Iterator[Config]:
    conv = conv_of(problem)
    near = TILES if conv.s.ci * conv.s.stride[0] ** 2 > SHORT else TILES // 2
    blocks, points = default_tile(conv, min(near, conv.s.n * -(-conv.s.oh // m) * -(-conv.s.ow // m)))
    default = {"blocks": blocks, "points": points, "tiles": near}
    shapes = register_tiles(problem.isa.registers, (1, 2, 3, 4))
    widest = max(1, conv.s.co // conv.lanes)

    def fits(config: Config) -> bool:
        return config["blocks"] <= widest and (config["blocks"], config["points"]) in shapes

    knobs = {"blocks": [n for n, _ in shapes], "points": [p for _, p in shapes], "tiles": (16, 32, 48, 64, 96, 128)}
    return space(default, knobs, fits)


def schedule(m: int) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops of F(m x m), and how its weights are packed."""
    return lambda problem, config: _Winograd.start(conv_of(problem), m, config).kernel()


def pack(m: int) -> Callable[[Problem, Config], Packed]:
    """How the weights of F(m x m) are packed."""
    return lambda problem, config: _Winograd.start(conv_of(problem), m, config).packed


def predict(m: int) -> Callable[[Problem, Config], float]:
    """The cost of F(m x m) in vector operations, if one thread does everything."""
    return lambda problem, config: _cost(conv_of(problem), m, config)


def _cost(conv: Conv, m: int, config: Config) -> float:
    """Products, loads that hold them up, transforms, and weights that come from afar."""
    s = conv.s
    p = plan(m, s.kh, s.stride[0], s.ci)
    tiles = s.n * -(-s.oh // m) * -(-s.ow // m)
    loads = max(1.0, 1.6 * (1 / config["blocks"] + 1 / config["points"]))
    products = tiles * p.rows * s.co / conv.lanes * loads
    into = 3.5 * s.ci * sum(phase.rows.n * phase.columns.n for phase in p.phases)
    transforms = tiles * (into + s.co * (6 * p.f.n**2 + 2 * m * p.f.n)) / conv.lanes
    # Also for weights of 16 bits: who asks for them wants them small.
    return products + transforms + conv_shape.streaming(4 * p.rows * s.co)


@frozen(eq=False)
class _Winograd(Written):
    plan: Plan
    rows: int
    columns: int
    config: Config

    @staticmethod
    def start(conv: Conv, m: int, config: Config) -> "_Winograd":
        """Transform the weights, and cut the picture into tiles."""
        s, b, p = conv.s, Builder(), plan(m, conv.s.kh, conv.s.stride[0], conv.s.ci)
        packing = Packing(tuple(channel_pieces(conv, config["blocks"])), p.rows, s.co)
        unit = "float16" if conv.weight.dtype in SMALL_FLOATS else ""

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return transformed(array.astype(np.float32) if unit else array, p)

        rows, columns = -(-s.oh // m), -(-s.ow // m)
        started = _Winograd(*with_weights(conv, b, packing, matrix, dtype=unit), p, rows, columns, config)
        if conv.data_block > 1:
            return started
        # Tiles lie in lanes: the columns of one kind lie together, without guards.
        covered = evolve(started.conv, s=evolve(s, oh=rows * m, ow=columns * m))
        return evolve(started, conv=evolve(started.conv, data=bordered(covered, b, phases=m * p.stride)))

    def kernel(self) -> tuple[Kernel, Packed]:
        """All blocks of tiles, one after the other."""
        s, b = self.conv.s, self.b
        unit = self.columns if self.conv.data_block == 1 else 1
        most = max(1, min(self.config["tiles"], V_BYTES // (4 * self.plan.rows)) // unit)
        groups = even(s.n * self.rows * self.columns // unit, most)
        v = self._images(max(size for _, _, size in groups) * unit)
        for start, count, size in groups:
            with b.loop("tiles", count, "lockstep") as block:
                first = (block * size + start) * unit
                self.transform_input(v, first, size * unit)
                b.barrier()
                self.products(v, first, size * unit)
                b.barrier()
        return self.conv.problem.kernel(b), self.packed

    def _images(self, tiles: int) -> list[Buffer]:
        """V, a buffer for each band: (row, column, tile, term), or with terms before tiles where tiles are lanes."""
        found = []
        for band in self.plan.bands:
            terms = len(band.phases) * self.conv.s.ci
            inner = (terms, tiles) if self.conv.data_block == 1 else (tiles, terms)
            found.append(self.b.alloc("V", (len(band.ys), len(band.xs), *inner), self.conv.dtype, "team"))
        return found

    def _image(self, row: Index, column: Index, tile: Index, term: Index) -> tuple[Index, ...]:
        return (row, column, term, tile) if self.conv.data_block == 1 else (row, column, tile, term)

    def place(self, tile: Index) -> tuple[Index, ...]:
        """Picture, row and column of a tile."""
        return unravel(tile, (self.conv.s.n, self.rows, self.columns))

    # B^T d B

    def transform_input(self, v: Sequence[Buffer], first: Index, size: int) -> None:
        """Fill V for a block of tiles."""
        s, block, b = self.conv.s, self.conv.data_block, self.b
        m, stride = self.plan.f.m, self.plan.stride
        if block == 1:
            rows = size // self.columns
            with b.loop("input", s.ci * rows, "parallel") as flat:
                c, line = unravel(flat, (s.ci, rows))
                picture, row, _ = self.place(first + line * self.columns)
                # A loop for each phase, and whole vectors, the last of which may do some tiles again: less code.
                for number in range(len(self.plan.phases)):
                    for start, count, lanes in _whole_vectors(self.columns, self.conv.lanes):
                        with b.loop("x", count) as x, b.loop("v", lanes, "vectorised") as lane:
                            column = x * lanes + lane + start
                            at = picture, c, row * m * stride, column * (m * stride)
                            self._input_tile(v, at, line * self.columns + column, [number])
            return
        with b.loop("input", s.ci // block * size, "parallel") as flat:
            cb, t = unravel(flat, (s.ci // block, size))
            picture, row, column = self.place(first + t)
            y0, x0 = row * (m * stride) - s.pad[0], column * (m * stride) - s.pad[1]
            with b.loop("v", block, "vectorised") as lane:
                self._input_tile(v, (picture, cb * block + lane, y0, x0), t, range(len(self.plan.phases)))

    def _input_tile(
        self, v: Sequence[Buffer], at: tuple[Index, Index, Index, Index], t: Index, numbers: Sequence[int]
    ) -> None:
        """The phases `numbers` of a tile."""
        pictures = {}
        for number in numbers:
            phase = self.plan.phases[number]
            pictures[number] = self.b.alloc("d", (phase.rows.n, phase.columns.n), self.conv.dtype)
        self._read(pictures, at)
        for number, d in pictures.items():
            self._phase_tile(v, number, self.plan.phases[number], d, at[1], t)

    def _phase_tile(self, v: Sequence[Buffer], number: int, phase: Phase, d: Buffer, channel: Index, t: Index) -> None:
        b, high, wide = self.b, phase.rows.n, phase.columns.n
        half = b.alloc("half", (high, wide), self.conv.dtype)
        steps = linear_program(phase.rows.bt)
        for j in range(wide):
            for i, value in enumerate(multiply(steps, [b.load(d, (i, j)) for i in range(high)])):
                b.store(half, (i, j), value)
        steps = linear_program(phase.columns.bt)
        for i in range(high):
            for j, value in enumerate(multiply(steps, [b.load(half, (i, j)) for j in range(wide)])):
                band, buffer = next(x for x in zip(self.plan.bands, v, strict=True) if i in x[0].ys and j in x[0].xs)
                term = channel + band.phases.index(number) * self.conv.s.ci
                row, column = as_index(i - band.ys.start), as_index(j - band.xs.start)
                b.store(buffer, self._image(row, column, t, term), value)

    def _read(self, pictures: Mapping[int, Buffer], at: tuple[Index, Index, Index, Index]) -> None:
        """The pixels under a tile; tiles that stick out of the picture test every pixel, the others none."""
        s, b, (_, _, y0, x0), last = self.conv.s, self.b, at, self.plan.reach - 1
        if self.conv.data_block == 1:
            self._read_pixels(b, pictures, at, tested=False)
            return
        whole = all_of([inside((y0, x0), (s.h, s.w)), inside((y0 + last, x0 + last), (s.h, s.w))])
        either(b, whole, lambda branch, tested: self._read_pixels(branch, pictures, at, tested))

    def _read_pixels(
        self, b: Builder, pictures: Mapping[int, Buffer], at: tuple[Index, Index, Index, Index], tested: bool
    ) -> None:
        conv, step, (picture, channel, y0, x0) = self.conv, self.plan.stride, at
        for number, d in pictures.items():
            phase = self.plan.phases[number]
            for i in range(phase.rows.n):
                for j in range(phase.columns.n):
                    place = picture, channel, y0 + (phase.y + i * step), x0 + (phase.x + j * step)
                    value = _padded(conv, place) if tested else conv.data(*place)
                    b.store(d, (i, j), cast(value, conv.dtype))

    # U V, A^T M A

    def products(self, v: Sequence[Buffer], first: Index, size: int) -> None:
        """All output channels of a block of tiles."""
        threads = self.conv.problem.threads
        for piece in self.packing.pieces:
            parts = next((p for p in (1, 2, 3, 4) if piece.tiles * p % threads == 0), 1)
            for start, count, points in even(size, -(-size // parts)):
                with self.b.loop("product", piece.tiles * count, "parallel") as flat:
                    tile, part = unravel(flat, (piece.tiles, count))
                    self._product((piece, tile), v, first, part * points + start, points)

    def _product(self, panel: tuple[Piece, Index], v: Sequence[Buffer], first: Index, t0: Index, size: int) -> None:
        b, n, conv, (piece, tile) = self.b, self.plan.f.n, self.conv, panel
        m = b.alloc("M", (n, n, piece.blocks, size, piece.lanes), conv.dtype, "thread")
        most = self.config["points"] * self.config["blocks"] // piece.blocks
        for band, image in zip(self.plan.bands, v, strict=True):
            with b.loop("fy", len(band.ys)) as fy, b.loop("fx", len(band.xs)) as fx:
                for start, count, points in even(size, most):
                    with b.loop("q", count) as q, b.loop("v", piece.lanes, "vectorised") as lane:
                        at = t0, q * points + start, points
                        self._register_tile(panel, (band, image, fy, fx), m, at, lane)
        with b.loop("o", piece.blocks) as o, b.loop("t", size) as t, b.loop("v", piece.lanes, "vectorised") as lane:
            channel = tile * piece.width + o * piece.lanes + lane + piece.start
            values = [b.load(m, (i, j, o, t, lane)) for i in range(n) for j in range(n)]
            self._output_tile(values, first + t0 + t, channel)

    def _register_tile(
        self,
        panel: tuple[Piece, Index],
        frequency: tuple[Band, Buffer, Index, Index],
        m: Buffer,
        at: tuple[Index, Index, int],
        lane: Index,
    ) -> None:
        b, (piece, tile), (band, image, fy, fx), (t0, t, points) = self.b, panel, frequency, at
        terms = len(band.phases) * self.conv.s.ci
        acc = RegisterTile.start(b, piece.blocks, points, self.conv.dtype)

        def weight(r: Sequence[Index], o: Index, ahead: int = 0) -> Value:
            place = fy * len(band.xs) + fx
            if ahead:
                place = (place + ahead) % (len(band.ys) * len(band.xs))
            row = place * terms + r[0] + band.first_row
            return b.load(self.weights, (0, self.packing.offset(piece, tile, row, o * piece.lanes + lane)))

        def pixel(r: Sequence[Index], j: Index) -> Value:
            return b.load(image, self._image(fy, fx, t0 + t + j, r[0]))

        far = 4 * self.plan.rows * self.conv.s.co > NEAR_CACHE

        def ahead(r: Sequence[Index]) -> None:
            fetch(b, [weight(r, as_index(o), ahead=1) for o in range(piece.blocks)])

        acc.accumulate([("c", terms, "rolled")], weight, pixel, ahead if far else None)
        place = fy + band.ys.start, fx + band.xs.start
        acc.each(lambda o, j, value: b.store(m, (*place, o, t + j, lane), value))

    def _output_tile(self, values: Sequence[Value], tile: Index, channel: Index) -> None:
        n, m, b, s = self.plan.f.n, self.plan.f.m, self.b, self.conv.s
        picture, row, column = self.place(tile)
        steps = paired_program(self.plan.f.at)
        half = b.alloc("half", (m, n), self.conv.dtype)
        for j in range(n):
            for i, value in enumerate(multiply(steps, [values[i * n + j] for i in range(n)])):
                b.store(half, (i, j), value)
        for i in range(m):
            for j, value in enumerate(multiply(steps, [b.load(half, (i, j)) for j in range(n)])):
                y, x = row * m + i, column * m + j
                with b.when(inside((y, x), (s.oh, s.ow))):
                    self.conv.emit(b, (picture, channel, y, x), value)


def _whole_vectors(extent: int, lanes: int) -> list[tuple[int, int, int]]:
    """An axis in vectors, the last of which may begin before the one in front ends: (start, count, lanes)."""
    if extent < lanes:
        return [(0, 1, extent)]
    parts = [(0, extent // lanes, lanes)]
    return parts + [(extent - lanes, 1, lanes)] * (extent % lanes != 0)


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
