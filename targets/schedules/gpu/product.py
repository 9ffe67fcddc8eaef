"""Matrix products by tiles in local memory.

    for tiles of rows and columns of the result:                    a group
        for parts of the sum, `depth` terms each:
            the items copy a strip of either matrix to local memory; barrier
            each item adds to its block of the tile, in registers;          barrier
        each item hands its block over

An item's vectors lie apart by the width of all items, so that neighbours read neighbouring local memory. The strips are
read along the axis that runs through memory. What tiles cover beyond the matrices is read as 0 and not handed over.

conv2d takes this route, too: the weights are one matrix, the other one has a column for each pixel of the result, and a
row for each term of the sum. This matrix is either written to memory first (`copied`), or its elements are found in
the picture, or its border, as the strips are read. For a plain result pixels lie in lanes and for one in blocks
channels do, so that results need no transposition.
"""

import math
from collections.abc import Callable, Iterator

from attrs import evolve, frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Const, Load, Value, all_of, apply, cast, splat
from ...lower import Problem
from ...prelude import width
from .. import conv_shape, gemm
from ..conv_shape import Conv, conv_of
from ..space import Config
from ..tiles import Packed
from .items import (
    LANES,
    device_needed,
    emit_pixel,
    guarded,
    local_bytes,
    numbered,
    occupancy,
    of_shape,
    or_zero,
    split,
    within,
)
from .roofline import Work, time

LEAST_WORK = 1 << 18
"""Multiply-adds from which on a convolution is worth the way through matrices."""

LEAST_SIDE = 16
"""Rows, columns and terms that matrices have at least; shorter ones are mostly the rest of a tile."""


@frozen
class Tile:
    """What a group computes, and what an item does of it.

    Attributes:
        rows, columns: of the group's tile.
        depth: terms of the sum that are in local memory at a time.
        item_rows, item_columns: of an item's block; columns are whole vectors.
    """

    rows: int
    columns: int
    depth: int
    item_rows: int
    item_columns: int

    @property
    def name(self) -> str:
        """64x64x16 by 4x4."""
        return f"{self.rows}x{self.columns}x{self.depth}_{self.item_rows}x{self.item_columns}"

    @property
    def items(self) -> int:
        """Items in a group."""
        return (self.rows // self.item_rows) * (self.columns // self.item_columns)

    def nbytes(self, itemsize: int) -> int:
        """Local memory that it takes."""
        return self.depth * (self.rows + 1 + self.columns) * itemsize


@frozen(eq=False)
class Product:
    """`emit(batch, i, j, sum over k of left(batch, i, k) * right(batch, k, j))` for all i < m, j < n.

    Attributes:
        across: whether the right-hand matrix runs along its terms in memory.
        down: whether the left-hand matrix runs along its rows' numbers in memory.
        alone: whether each product of a batch has a result of its own, not a part of one (a group of channels).
    """

    batch: int
    m: int
    n: int
    k: int
    left: Callable[[Index, Index, Index], Value]
    right: Callable[[Index, Index, Index], Value]
    emit: Callable[[Builder, Index, Index, Index, Value], None]
    dtype: str
    across: bool = False
    down: bool = False
    alone: bool = True

    @property
    def work(self) -> int:
        """Multiply-adds."""
        return self.batch * self.m * self.n * self.k


def fits(problem: Problem, tile: Tile, dtype: str) -> str | None:
    """Why a device cannot run a tile, or None."""
    device = problem.isa.device
    if device is None:
        return device_needed(problem)
    if tile.items > device.max_group:
        return f"groups of {tile.items} items; the device has {device.max_group}"
    if (needed := tile.nbytes(width(dtype))) > local_bytes(problem):
        return f"{needed} bytes of local memory; the device has {local_bytes(problem)}"
    return None


def cost(product: Product, tile: Tile, gpu: bool = False) -> float:
    """The cost in vector operations: whole tiles, what registers save of loads, and items that a device lacks."""
    groups = product.batch * -(-product.m // tile.rows) * -(-product.n // tile.columns)
    if gpu:
        return _gpu_cost(product, tile, groups)
    steps = groups * tile.rows * tile.columns * product.k / LANES
    loads = max(1.0, 2.0 * (1 / tile.item_rows + 1 / tile.item_columns))
    return steps * loads / occupancy(groups * tile.items)


def _gpu_cost(product: Product, tile: Tile, groups: int) -> float:
    rounds, size = -(-product.k // tile.depth), width(product.dtype)
    copied = (tile.rows + tile.columns) * tile.depth
    block = tile.item_rows * tile.item_columns
    return time(
        Work(
            groups,
            tile.items,
            sums=rounds * tile.depth * block / LANES,
            reads=rounds * tile.depth * (tile.item_rows + tile.item_columns / LANES * 2.0),
            other=rounds * (4.0 * copied / tile.items + 100.0) + block,
            local_bytes=tile.nbytes(size),
            registers=40 + block + tile.item_columns,
            near_bytes=groups * rounds * copied * size + product.batch * product.m * product.n * size,
        )
    )


def write(b: Builder, product: Product, tile: Tile) -> None:
    """The loops of a product."""
    _Writer(b, product, tile).write()


@frozen(eq=False)
class _Writer:
    b: Builder
    p: Product
    t: Tile

    def write(self) -> None:
        """One nest of groups."""
        b, p, t = self.b, self.p, self.t
        tiles = (p.batch, -(-p.m // t.rows), -(-p.n // t.columns))
        sides = (t.rows // t.item_rows, t.columns // t.item_columns)
        with b.loops(("batch", "rows", "columns"), tiles, "workgroup") as places:
            batch, rows, columns = (as_index(0) if n == 1 else i for i, n in zip(places, tiles, strict=True))
            left = b.alloc("left", (t.depth, t.rows + 1), p.dtype, "local")
            right = b.alloc("right", (t.depth, t.columns), p.dtype, "local")
            with b.loops(("y", "x"), sides, "workitem") as (y, x):
                count = t.item_rows * t.item_columns // LANES
                acc = b.alloc_vectors("acc", count, p.dtype, LANES)
                for i in range(count):
                    b.emit_store(acc, (i,), Const(0.0, p.dtype, LANES))
                item = y * sides[1] + x
                with b.loop("part", -(-p.k // t.depth), "rolled") as part:
                    self.stage_left(left, batch, rows * t.rows, part * t.depth, item)
                    self.stage_right(right, batch, columns * t.columns, part * t.depth, item)
                    b.barrier("local")
                    with b.loop("k", t.depth) as k:
                        self.step(left, right, acc, k, (y, x))
                    b.barrier("local")
                self.hand_over(acc, batch, (rows * t.rows + y * t.item_rows, columns * t.columns), x)

    # Strips

    def strip(self, size: int, item: Index, store: Callable[[Index], None]) -> None:
        """Each element of a strip by one item: `store(number)`."""
        rounds = -(-size // self.t.items)
        with self.b.loop("round", rounds) as round_:
            number = round_ * self.t.items + item
            with guarded(self.b, apply("lt", number, size)):
                store(number)

    def stage_left(self, target: Buffer, batch: Index, i0: Index, k0: Index, item: Index) -> None:
        """A strip of the left-hand matrix, transposed."""
        b, p, t = self.b, self.p, self.t

        def store(number: Index) -> None:
            i, k = (number % t.rows, number // t.rows) if p.down else (number // t.depth, number % t.depth)
            value = or_zero(within((i0 + i, k0 + k), (p.m, p.k)), p.left(batch, i0 + i, k0 + k), p.dtype)
            b.store(target, (k, i), value)

        self.strip(t.depth * t.rows, item, store)

    def stage_right(self, target: Buffer, batch: Index, j0: Index, k0: Index, item: Index) -> None:
        """A strip of the right-hand matrix; by vectors where its rows run through memory and hold whole ones."""
        b, p, t = self.b, self.p, self.t

        def put(k: Index, j: Index, lane: Index) -> None:
            value = or_zero(within((k0 + k, j0 + j), (p.k, p.n)), p.right(batch, k0 + k, j0 + j + lane), p.dtype)
            b.store(target, (k, j + lane), value)

        if p.across:
            self.strip(t.depth * t.columns, item, lambda e: put(e % t.depth, e // t.depth, as_index(0)))
        elif p.n % LANES:
            self.strip(t.depth * t.columns, item, lambda e: put(e // t.columns, e % t.columns, as_index(0)))
        else:
            vectors = t.columns // LANES

            def wide(number: Index) -> None:
                with b.loop("v", LANES, "vectorised") as v:
                    put(number // vectors, number % vectors * LANES, v)

            self.strip(t.depth * vectors, item, wide)

    # Sums

    def column(self, x: Index, o: int) -> Index:
        """The first column of vector `o` of an item, in its group's tile."""
        return (x + o * (self.t.columns // self.t.item_columns)) * LANES

    def step(self, left: Buffer, right: Buffer, acc: Buffer, k: Index, at: tuple[Index, Index]) -> None:
        """One term of the sums of an item."""
        b, t, vectors = self.b, self.t, self.t.item_columns // LANES
        own = b.alloc_vectors("w", vectors, self.p.dtype, LANES)
        for o in range(vectors):
            b.emit_store(own, (o,), Load(right, (k, self.column(at[1], o)), LANES))
        for i in range(t.item_rows):
            value = splat(b.load(left, (k, at[0] * t.item_rows + i)), LANES)
            for o in range(vectors):
                place = (as_index(i * vectors + o),)
                term = apply("fma", value, Load(own, (as_index(o),), LANES), Load(acc, place, LANES))
                b.emit_store(acc, place, term)

    def hand_over(self, acc: Buffer, batch: Index, first: tuple[Index, Index], x: Index) -> None:
        """The block of an item; vectors that go beyond the last column one by one."""
        b, p, t, vectors = self.b, self.p, self.t, self.t.item_columns // LANES
        scratch = b.alloc("tile", (t.item_rows, vectors, LANES), p.dtype, "thread")
        for number in range(t.item_rows * vectors):
            b.emit_store(scratch, (number // vectors, number % vectors, 0), Load(acc, (as_index(number),), LANES))
        with b.loop("i", t.item_rows, "unrolled") as i, b.loop("o", vectors, "unrolled") as o:
            row, column = first[0] + i, first[1] + (x + o * (t.columns // t.item_columns)) * LANES
            with guarded(b, all_of([within((row,), (p.m,)), within((column,), (p.n,))])):
                self.hand_over_vector(batch, row, column, scratch, (i, o))

    def hand_over_vector(
        self, batch: Index, row: Index, column: Index, scratch: Buffer, at: tuple[Index, Index]
    ) -> None:
        """Neighbouring elements of a row, of which the first is one of the result."""
        b, p = self.b, self.p
        with b.loop("v", LANES, "unrolled" if p.n % LANES else "vectorised") as v:
            inside = within((column + v,), (p.n,)) if p.n % LANES else Const(True, "bool")
            with guarded(b, inside):
                p.emit(b, batch, row, column + v, b.load(scratch, (*at, v)))


# dense, matmul, batch_matmul


def product_of(problem: Problem) -> Product:
    """The product of a group that `gemm.check` let pass."""
    context = problem.context
    assert context is not None
    s, (a, c) = gemm.shape_of(problem), context.args
    rows = context.shape[:-1]

    def left(batch: Index, i: Index, k: Index) -> Value:
        if not s.batch:
            return a(k, i) if s.transpose_a else a(*split(i, a.shape[:-1]), k)
        own = [as_index(0) if n == 1 else place for n, place in zip(a.shape, split(batch, s.batch), strict=False)]
        return a(*own, k, i) if s.transpose_a else a(*own, i, k)

    def right(batch: Index, k: Index, j: Index) -> Value:
        place = (j, k) if s.transpose_b else (k, j)
        if len(c.shape) != 3:
            return c(*place)
        return c(split(batch, s.batch)[0] if s.b_batched else as_index(0), *place)

    def emit(b: Builder, batch: Index, i: Index, j: Index, value: Value) -> None:
        place = [*split(batch, s.batch), i] if s.batch else split(i, rows)
        problem.emit(b, of_shape((*place, j), (*rows, s.n)), value)

    count = math.prod(s.batch)
    return Product(count, s.m, s.n, s.k, left, right, emit, context.dtype, s.transpose_b, s.transpose_a)


def check(tile: Tile) -> Callable[[Problem], str | None]:
    """Why a tile does not fit a matrix product, or None."""

    def reason(problem: Problem) -> str | None:
        if found := device_needed(problem) or gemm.check(problem):
            return found
        p = product_of(problem)
        return fits(problem, tile, p.dtype)

    return reason


def schedule(tile: Tile) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops of a matrix product in tiles."""

    def kernel(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        b = Builder()
        write(b, product_of(problem), tile)
        return problem.kernel(b), {}

    return kernel


def predict(tile: Tile) -> Callable[[Problem, Config], float]:
    """The cost of a matrix product in vector operations."""
    return lambda problem, config: cost(product_of(problem), tile, problem.isa.gpu)


# conv2d


def check_conv(tile: Tile) -> Callable[[Problem], str | None]:
    """Why a convolution does not take the route through matrices, or None."""

    def reason(problem: Problem) -> str | None:
        if found := device_needed(problem) or conv_shape.check(problem):
            return found
        p = conv_product(conv_of(problem))
        if p.work < LEAST_WORK:
            return f"{p.work} multiply-adds are too few; it takes {LEAST_WORK}"
        if min(p.m, p.n, p.k) < LEAST_SIDE:
            return f"a matrix of {p.m} x {p.n} x {p.k}; each side should be {LEAST_SIDE} at least"
        if conv_of(problem).out_block > 1 and p.n % LANES:
            return f"groups of {p.n} channels are not whole vectors"
        return fits(problem, tile, p.dtype)

    return reason


def conv_configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: whether the matrix of the picture is written to memory."""
    yield {"copied": 0}
    if not conv_of(problem).s.pointwise:
        yield {"copied": 1}


def predict_conv(tile: Tile) -> Callable[[Problem, Config], float]:
    """The cost in vector operations; finding a pixel costs where the matrix is not in memory."""

    def found(problem: Problem, config: Config) -> float:
        conv = conv_of(problem)
        p = conv_product(conv)
        copy = p.batch * p.k * conv.s.oh * conv.s.ow / LANES * (4 if config["copied"] else 0)
        return cost(p, tile, problem.isa.gpu) * (1 if conv.s.pointwise or config["copied"] else 1.2) + copy

    return found


def schedule_conv(tile: Tile) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops of a convolution as a product."""

    def kernel(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        b, conv = Builder(), conv_of(problem)
        p = conv_product(conv)
        write(b, _copied(b, conv, p) if config["copied"] else p, tile)
        return problem.kernel(b), {}

    return kernel


def conv_product(conv: Conv) -> Product:
    """A convolution as a product: channels times pixels, or where channels lie in blocks pixels times channels."""
    s, pixels, count = conv.s, conv.s.oh * conv.s.ow, conv.s.n * conv.s.groups
    area = s.kh * s.kw

    def weight(batch: Index, o: Index, k: Index) -> Value:
        g, c, tap = batch % s.groups, k // area, k % area
        place = (g * s.co + o, c) if conv.weight.shape[1] == s.ci else (g, o)
        return conv.weight(*place, tap // s.kw, tap % s.kw)

    def pixel(batch: Index, k: Index, at: Index) -> Value:
        return _pixel(conv, batch, k, at)

    def emit(b: Builder, batch: Index, o: Index, at: Index, value: Value) -> None:
        n, channel = batch // s.groups, batch % s.groups * s.co + o
        emit_pixel(conv, b, (n, channel, *pixel_of(s.oh, s.ow, at)), value)

    if conv.out_block == 1:
        return Product(count, s.co, pixels, s.terms, weight, pixel, emit, conv.dtype, alone=s.groups == 1)
    return Product(
        count, pixels, s.co, s.terms, lambda n, i, k: pixel(n, k, i), lambda n, k, j: weight(n, j, k),
        lambda b, n, i, j, value: emit(b, n, j, i, value), conv.dtype, across=True, down=True,
    )  # fmt: skip


def pixel_of(rows: int, columns: int, at: Index) -> tuple[Index, Index]:
    """The row and column of a pixel that is one of the picture."""
    return (as_index(0), at) if rows == 1 else (at // columns, at % columns)


def _pixel(conv: Conv, batch: Index, k: Index, at: Index) -> Value:
    """Term `k` under pixel `at`; 0 in the border."""
    s, area = conv.s, conv.s.kh * conv.s.kw
    n, g = batch // s.groups, batch % s.groups
    channel, tap = g * s.ci + k // area, k % area
    if s.pointwise:
        return conv.data(n, channel, at // s.ow, at % s.ow)
    top, left = s.pad if s.padded else (0, 0)
    row = at // s.ow * s.stride[0] + tap // s.kw * s.dilation[0] - top
    column = at % s.ow * s.stride[1] + tap % s.kw * s.dilation[1] - left
    return or_zero(within((row, column), (s.h, s.w)), conv.data(n, channel, row, column), conv.dtype)


def _copied(b: Builder, conv: Conv, p: Product) -> Product:
    """The same with the matrix of the picture in memory, a launch before: transposed and padded with zeros."""
    pixels = conv.s.oh * conv.s.ow
    matrix = b.alloc("columns", (p.batch, p.k, pixels), p.dtype, "team")
    with numbered(b, matrix.shape, 64) as (batch, k, at):
        b.store(matrix, (batch, k, at), cast(_pixel(conv, batch, k, at), p.dtype))
    b.barrier()
    if conv.out_block == 1:
        return evolve(p, right=lambda batch, k, at: b.load(matrix, (batch, k, at)))
    return evolve(p, left=lambda batch, at, k: b.load(matrix, (batch, k, at)))
