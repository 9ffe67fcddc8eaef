"""dense, matmul and batch_matmul in register tiles: vectors of output columns times a few rows.

The right-hand matrix is packed so that the columns of a tile are contiguous for each term of the sum: when the model is
built if it is constant, else by the kernel's first stage. Each step loads vectors of it and broadcasts elements of the
left-hand matrix.

    for blocks of rows, panels of columns:             in parallel
        for tiles of rows in the block:                the panel stays in the second cache, and the block, if it fits
            accumulate the tile                        meanwhile the next panel is fetched, a line every few terms

The left-hand matrix stays as it is, unless its rows are a power of two apart, or nearly: the rows of a tile would then
push each other out of the first cache, and are copied a line further apart.

Operands of 16 bits are widened to float32: vectors of the right-hand matrix as they are loaded, the left-hand matrix by
copying it. Two of bfloat16, on processors that have an instruction for it, stay as they are: a step then works on pairs
of terms, and what is called a term below is a pair.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index, as_index
from ...ir.loops import Builder, Kernel, Prefetch
from ...ir.scalar import SMALL_FLOATS, Buffer, Load, Value, cast, constant, in_pairs, inside, is_float, pair, select
from ...ir.types import TensorType, numpy_dtype
from ...ops.lowering import View
from ...ops.reshape import unravel
from ..lower import Problem, spec
from .space import Config, register_tiles, space
from .tiles import Packed, Packing, Piece, RegisterTile, cut, even, packed_operand, paired, team_kind

NEAR = 512 * 1024
"""Bytes that stay in the second cache beside what streams through it."""

LINE, SETS, WAYS = 64, 64, 8
"""A first-level cache: bytes of a line, sets, lines in each set (32 KiB; those of 48 KiB have more ways)."""


@frozen
class Shape:
    """`out[*batch, m, n] = sum over k of a[*batch, m, k] * b[*batch, k, n]`, before transposition of the operands."""

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    b_batched: bool
    """Whether the right-hand side has batches of its own (more than one)."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    context = problem.context
    assert context is not None
    if other := [d for d in (*(v.dtype for v in context.args), context.out.dtype) if not is_float(d)]:
        return f"dtype {other[0]}; it is written for floating types"
    if 0 in context.shape or 0 in context.args[0].shape or 0 in context.args[1].shape:
        return "empty tensor"
    if problem.parameter(1) is None:
        return "the right-hand matrix is computed inside the group"
    return None


def shape_of(problem: Problem) -> Shape:
    """The numbers of the product at hand."""
    context = problem.context
    assert context is not None and problem.anchor is not None
    a, b = context.args[0].shape, context.args[1].shape
    name = spec(problem.anchor).name
    transpose_a = name != "nn.dense" and bool(context.attrs.transpose_a)
    transpose_b = name == "nn.dense" or bool(context.attrs.transpose_b)
    k = a[-2] if transpose_a else a[-1]
    *batch, m, n = context.shape if len(context.shape) > 1 else (1, *context.shape)
    if len(b) == 2 and not transpose_a:
        batch, m = [], math.prod([*batch, m])
    return Shape(tuple(batch), m, n, k, transpose_a, transpose_b, len(b) == 3 and b[0] > 1)


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: vectors of columns and rows of the register tile, whether rows are copied, and whether the
    next panel is fetched ahead.
    """
    s = shape_of(problem)
    most = min(14 if problem.isa.registers >= 32 else 6, s.m)
    # Few rows leave registers free: more columns then hide the latency of the multiply-add.
    default = {"blocks": 2 if most > 4 else 4, "points": most, "copy_rows": -1, "fetch": 1}
    shapes = register_tiles(problem.isa.registers)

    def fits(config: Config) -> bool:
        blocks, points = config["blocks"], config["points"]
        return any(n == blocks and points == min(s.m, rows) for n, rows in shapes)

    points = sorted({min(s.m, rows) for _, rows in shapes}, reverse=True)
    copies = (0,) if s.transpose_a or s.m < 4 else (0, 1)
    fetch = (1,) if s.m < 4 else (0, 1)
    tiles = {"blocks": [n for n, _ in shapes], "points": points}
    return space(default, {**tiles, "copy_rows": copies, "fetch": fetch}, fits)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything: multiply-adds, and loads that hold them up."""
    s = shape_of(problem)
    lanes = problem.isa.vector_bytes // 4
    loads = max(1.0, 1.6 * (1 / config["blocks"] + 1 / config["points"]))
    steps = -(-s.k // 2) if in_pairs_of_terms(problem) else s.k
    return math.prod(s.batch) * s.m * steps * -(-s.n // lanes) * loads


def in_pairs_of_terms(problem: Problem) -> bool:
    """Whether both operands are bfloat16, and the processor multiplies pairs of them."""
    context = problem.context
    assert context is not None
    return problem.isa.bfloat16_dot and all(v.dtype == "bfloat16" for v in context.args) and context.dtype == "float32"


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a matrix product, and the packed matrix."""
    product = TiledProduct.start(problem, shape_of(problem), config)
    for piece in product.packing.pieces:
        rows = block_rows(product.s, piece.tiles, product.itemsize, product.most, problem.threads)
        for start, count, size in even(product.s.m, rows):
            product.panels(piece, start, count, size)
    return product.problem.kernel(product.builder), product.packed


def pack(problem: Problem, config: Config) -> Packed:
    """How a constant matrix is packed."""
    return TiledProduct.start(problem, shape_of(problem), config).packed


def block_rows(s: Shape, panels: int, itemsize: int, most: int, threads: int) -> int:
    """Rows of a block: all, unless a part that fits into the cache saves reading, or threads want more blocks."""
    left, right, blocks = s.m * s.k * itemsize, s.k * s.n * itemsize, 1
    if left > NEAR:
        several = -(-left // NEAR)
        if panels * left > 1.5 * (several * right + left):
            blocks = several
    tasks = math.prod(s.batch) * panels
    while blocks * most < s.m and -(-blocks * tasks // threads) * threads > 1.1 * blocks * tasks:
        blocks += 1
    return -(-s.m // blocks)


@frozen(eq=False)
class TiledProduct:
    """One matrix product being written: where its packed matrix is, and the loops over tiles."""

    problem: Problem
    s: Shape
    builder: Builder
    packing: Packing
    weights: Buffer
    packed: Packed
    left: View
    rows: tuple[int, ...]
    dtype: str
    most: int
    """Rows of a tile."""
    fetch: int
    """Whether the next panel is fetched ahead."""
    copied: Buffer | None
    """The left-hand matrix, where it is copied."""
    hand_over: Callable[[Sequence[Index], Index, Index, Value], None] | None = None
    """Takes finished elements (batch, row, column, value) in the group's place."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def weight_bytes(self) -> int:
        """Bytes of an element of the packed matrix."""
        return numpy_dtype(self.weights.dtype).itemsize

    @staticmethod
    def start(problem: Problem, s: Shape, config: Config) -> "TiledProduct":
        """Pack the right-hand matrix, and copy rows where they would collide (copy_rows -1) or the config says so."""
        assert problem.context is not None
        builder, (left, right), dtype = Builder(), problem.context.args, problem.context.dtype
        rows = problem.context.shape[:-1]
        lanes = problem.isa.vector_bytes // numpy_dtype(dtype).itemsize
        pairs, terms = in_pairs_of_terms(problem), s.k
        s = evolve(s, k=-(-s.k // 2)) if pairs else s
        packing = Packing(tuple(cut(s.n, lanes, config["blocks"])), s.k, s.n)
        batch = right.shape[0] if len(right.shape) == 3 else 1

        def term(b: Index, k: Index, n: Index) -> Value:
            place = (n, k) if s.transpose_b else (k, n)
            return right(b, *place) if len(right.shape) == 3 else right(*place)

        def element(b: Index, k: Index, n: Index) -> Value:
            return _pair(lambda at: term(b, at, n), k, terms) if pairs else term(b, k, n)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            whole = array.reshape(batch, *right.shape[-2:])
            plain = whole.swapaxes(1, 2) if s.transpose_b else whole
            return paired(plain, 1) if pairs else plain

        unit = "uint32" if pairs else ""
        ready = left.dtype not in SMALL_FLOATS
        if pairs:
            ready = problem.parameter(0) is not None and not s.transpose_a and terms % 2 == 0
            left = _left_pairs(problem, left, s, terms)
        across = s.transpose_b
        weights, problem, packed = packed_operand(problem, packing, builder, batch, matrix, element, across, unit)
        most, fetch = config["points"], config["fetch"]
        product = TiledProduct(problem, s, builder, packing, weights, packed, left, rows, dtype, most, fetch, None)
        copy = (not ready or product.rows_collide()) if config["copy_rows"] < 0 else config["copy_rows"]
        return product.with_copied_rows() if copy else product

    def rows_collide(self) -> bool:
        """Whether the rows of a tile share so few sets of the first cache that they do not fit in together."""
        nbytes = self.s.k * self.itemsize
        if self.s.transpose_a or self.s.n < 4 * self.packing.pieces[0].width or nbytes % LINE:
            return False
        sets = SETS // math.gcd(SETS, nbytes // LINE)
        return self.most > sets * WAYS

    def with_copied_rows(self) -> "TiledProduct":
        """The same with a stage that copies the left-hand matrix, with a cache line of space between rows."""
        batch, s = math.prod(self.s.batch), self.s
        dtype = "uint32" if self.left.dtype == "uint32" else self.dtype
        target = self.builder.alloc("rows", (batch, s.m, s.k + LINE // self.itemsize), dtype, "team")
        with self.builder.loop("copy", batch * s.m, "parallel") as flat:
            b, i = flat // s.m, flat % s.m
            with self.builder.loop("ck", s.k, "vectorised") as k:
                self.builder.store(target, (b, i, k), cast(self.left_element(unravel(b, s.batch), i, k), dtype))
        self.builder.barrier()
        return evolve(self, copied=target)

    def left_element(self, batch: Sequence[Index], i: Index, k: Index) -> Value:
        """An element of the left-hand matrix; without batches, its leading axes are counted through as rows."""
        if self.s.batch:
            own = [as_index(0) if n == 1 else place for n, place in zip(self.left.shape, batch, strict=False)]
            return self.left(*own, k, i) if self.s.transpose_a else self.left(*own, i, k)
        return self.left(k, i) if self.s.transpose_a else self.left(*unravel(i, self.left.shape[:-1]), k)

    def panels(self, piece: Piece, start: int, blocks: int, size: int) -> None:
        """The parallel loop over batches, blocks of `size` rows and panels of columns."""
        extents = (*self.s.batch, blocks, piece.tiles)
        work = math.prod(extents) * size * piece.width * self.s.k
        with self.builder.loop("block", math.prod(extents), team_kind(work)) as flat:
            *batch, block, tile = unravel(flat, extents)
            Panel(self, piece, batch, tile, block * size + start, size).write()

    def row_element(self, batch: Sequence[Index], i: Index, k: Index) -> Value:
        """Element `k` of row `i` of the left-hand matrix, or of its copy."""
        if self.copied is None:
            return self.left_element(batch, i, k)
        flat = as_index(0)
        for extent, place in zip(self.s.batch, batch, strict=True):
            flat = flat * extent + place
        return self.builder.load(self.copied, (flat, i, k))


@frozen(eq=False)
class Panel:
    """One panel of columns for one block of rows, the first of which is `first`."""

    product: TiledProduct
    piece: Piece
    batch: list[Index]
    tile: Index
    first: Index
    size: int

    def write(self) -> None:
        """The loops over tiles of rows; a panel too large for the cache goes in parts, whose sums wait in scratch."""
        p, b = self.product, self.product.builder
        wide = self.piece.width * p.weight_bytes
        parts = even(p.s.k, max(NEAR // 4 // wide, 64))
        if 2 * p.s.k * wide <= NEAR or self.size <= p.most:
            self.tiles(as_index(0), p.s.k, None)
            return
        sums = b.alloc("sums", (self.size, self.piece.width), p.dtype, "thread")
        with b.loop("r", self.size) as r, b.loop("v", self.piece.width, "vectorised") as v:
            b.store(sums, (r, v), 0)
        for start, count, terms in parts:
            with b.loop("part", count) as part:
                self.tiles(part * terms + start, terms, sums)
        with b.loop("r", self.size) as r, b.loop("v", self.piece.width, "vectorised") as v:
            self.emit(r, v, b.load(sums, (r, v)))

    def emit(self, row: Index, column: Index, value: Value) -> None:
        """Hand over a finished element."""
        p, i = self.product, self.first + row
        column = self.tile * self.piece.width + self.piece.start + column
        if p.hand_over:
            p.hand_over(self.batch, i, column, value)
            return
        place = [*self.batch, i] if p.s.batch else unravel(i, p.rows)
        p.problem.emit(p.builder, (*place, column), value)

    def tiles(self, k0: Index, terms: int, sums: Buffer | None) -> None:
        """All tiles of rows, for the `terms` from `k0` on: added to `sums`, or handed over."""
        parts, before, b = even(self.size, self.product.most), 0, self.product.builder
        step = self.terms_per_line(sum(count for _, count, _ in parts), terms)
        for offset, count, points in parts:
            with b.loop("q", count) as q, b.loop("v", self.piece.lanes, "vectorised") as v:
                acc = RegisterTile.start(b, self.piece.blocks, points, self.product.dtype)
                row = q * points + offset
                if sums is not None:
                    self.resume(acc, sums, row, v)
                self.accumulate(acc, v, row, k0, terms, step, q + before)
                self.put_away(acc, sums, row, v)
            before += count

    def resume(self, acc: RegisterTile, sums: Buffer, row: Index, v: Index) -> None:
        """Go on from what waits in `sums`."""
        b = self.product.builder
        acc.each(lambda o, j, _: acc.put(o, j, b.load(sums, (row + j, o * self.piece.lanes + v))))

    def put_away(self, acc: RegisterTile, sums: Buffer | None, row: Index, v: Index) -> None:
        """Let the accumulators wait in `sums`, or hand them over."""
        b = self.product.builder

        def keep(o: Index, j: Index, value: Value) -> None:
            column = o * self.piece.lanes + v
            if sums is None:
                self.emit(row + j, column, value)
            else:
                b.store(sums, (row + j, column), value)

        acc.each(keep)

    def accumulate(
        self, acc: RegisterTile, v: Index, row: Index, k0: Index, terms: int, step: int, turn: Index
    ) -> None:
        """The sums of one tile; every `step` terms a line of what comes next is fetched, as tile number `turn`."""
        p, b = self.product, self.product.builder
        matrix = self.batch[0] if p.s.b_batched else as_index(0)

        def fetch(r: Sequence[Index]) -> None:
            if len(r) == 1:  # once for each round of `step` terms
                place = (turn * (terms // step) + r[0]) * (LINE // p.weight_bytes)
                b.emit(Prefetch(p.weights, (matrix, p.packing.offset(self.piece, self.tile, k0 + terms, place)), 2))

        def run(first: int, loops: list[tuple[str, int, str]], fetch: Callable[[Sequence[Index]], None] | None) -> None:
            def term(r: Sequence[Index]) -> Index:
                return (r[0] * loops[1][1] + r[1] if len(r) > 1 else r[0]) + k0 + first

            def weight(r: Sequence[Index], o: Index) -> Value:
                return b.load(
                    p.weights, (matrix, p.packing.offset(self.piece, self.tile, term(r), o * self.piece.lanes + v))
                )

            acc.accumulate(loops, weight, lambda r, j: p.row_element(self.batch, self.first + row + j, term(r)), fetch)

        if step and terms >= step:
            run(0, [("k", terms // step, "rolled"), ("kk", step, "unrolled")], fetch)
            if terms % step:
                run(terms // step * step, [("k", terms % step, "rolled")], None)
        else:
            run(0, [("k", terms, "rolled")], None)

    def terms_per_line(self, tiles: int, terms: int) -> int:
        """After how many terms a tile fetches a line, if all tiles together fetch as much as they read; 0: never."""
        wide = self.piece.width * self.product.weight_bytes
        if not self.product.fetch or wide % LINE or 2 * terms * wide > NEAR:
            return 0
        step = tiles * LINE // wide
        return min(1 << (step.bit_length() - 1), 8) if step else 0


def _left_pairs(problem: Problem, left: View, s: Shape, terms: int) -> View:
    """The left-hand matrix as pairs of terms: in memory as they are, or made when they are read."""
    axis = len(left.shape) - (2 if s.transpose_a else 1)
    type_ = TensorType((*left.shape[:axis], s.k, *left.shape[axis + 1 :]), "uint32")
    buffer = problem.parameter(0)
    if buffer is not None and not s.transpose_a and terms % 2 == 0:
        pairs = in_pairs(buffer)
        return View(type_, lambda *index: Load(pairs, tuple(index)))
    return View(type_, lambda *at: _pair(lambda k: left(*at[:axis], k, *at[axis + 1 :]), at[axis], terms))


def _pair(term: Callable[[Index], Value], k: Index, terms: int) -> Value:
    """Terms 2 k and 2 k + 1; where there is no such term any more, it is 0."""
    second = 2 * k + 1
    if second.bounds[1] < terms:
        return pair(term(2 * k), term(second))
    zero = constant(0, "float32")
    return pair(term(2 * k), select(inside((second,), (terms,)), term(second), zero))
