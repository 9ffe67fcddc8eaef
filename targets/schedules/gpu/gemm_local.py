"""Matrix products by tiles in local memory for GPUs: two buffers, parts of a sum in groups of their own, tensor cores.

    for products, parts of the sum, tiles of rows and columns:      a group
        for terms of the part, `depth` at a time:
            the items copy a strip of either matrix to local memory, beside the sums of the one before
            each item adds to its block, in registers; or each warp to its tiles of 16 x 8, by loops of kind "mma"
        each item hands its block over, or where the sum has parts, stores it for a second launch that adds them

Strips are read along the axis that runs through memory, by vectors where it holds whole ones, and stored along the axis
that what reads them wants: that of the rows or columns for registers, that of the terms for the fragments of tensor
cores, with some room between, so that the items of a warp read different banks.

conv2d takes this route, too (implicit GEMM): a matrix element is found in the picture as it is copied.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

from attrs import frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder
from ....ir.scalar import Buffer, Const, Load, Value, all_of, apply, cast, later, splat
from ...lower import Problem
from ...matrixtext import TERMS
from ...prelude import width
from ..space import Config
from .items import LANES, guarded, local_bytes, or_zero, split, within
from .pipeline import Buffers, through_local
from .product import Product
from .roofline import LAUNCH, Work, time

SHAPES = (
    (128, 128, 8, 8, 8), (128, 64, 16, 8, 4), (64, 128, 16, 4, 8), (64, 64, 16, 8, 4), (64, 64, 16, 4, 4),
    (32, 128, 16, 4, 8), (32, 64, 16, 4, 4), (32, 32, 16, 2, 4), (16, 64, 16, 2, 4), (16, 128, 16, 2, 8),
    (64, 32, 16, 4, 4), (128, 32, 16, 8, 4), (128, 16, 16, 4, 4), (32, 32, 16, 4, 4), (16, 32, 16, 2, 4),
)  # fmt: skip
"""Rows, columns and depth of a group's tile; rows and columns of an item's block."""

WARPS = (
    (128, 128, 64, 32), (128, 64, 32, 32), (64, 128, 32, 32), (64, 64, 32, 32), (64, 64, 32, 16), (32, 128, 32, 32),
    (32, 64, 16, 32), (32, 32, 16, 16), (16, 64, 16, 16), (64, 32, 32, 16), (16, 128, 16, 32),
)  # fmt: skip
"""Rows and columns of a group's tile, and of a warp's, on tensor cores."""

SPLITS = (1, 2, 4, 8, 16)
"""Groups that share the terms of a sum."""

SHOWN = 16
"""Configs of the space, the best by prediction."""


@frozen
class Tile:
    """What a group computes at a time, and what an item, or a warp on tensor cores, does of it."""

    rows: int
    columns: int
    depth: int
    own_rows: int
    own_columns: int
    matrix: str = ""
    """The type of the factors on tensor cores; empty: registers."""

    @property
    def sides(self) -> tuple[int, int]:
        """Items, or warps, along rows and columns."""
        return self.rows // self.own_rows, self.columns // self.own_columns

    @property
    def items(self) -> int:
        """Items in a group."""
        return math.prod(self.sides) * (32 if self.matrix else 1)

    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The local arrays of a strip of either matrix."""
        if not self.matrix:
            return (self.depth, self.rows + LANES), (self.depth, self.columns + LANES)
        if self.matrix == "float32":
            return (self.rows, self.depth + 4), (self.depth, self.columns + 8)
        return (self.rows, self.depth + 8), (self.columns, self.depth + 8)

    def nbytes(self, dtype: str) -> int:
        """Local memory of one stage."""
        return sum(map(math.prod, self.shapes())) * width(self.matrix or dtype)


def tiles(matrix: str) -> Iterator[Tile]:
    """The tiles there are, for registers or for tensor cores."""
    if not matrix:
        yield from (Tile(*shape) for shape in SHAPES)
        return
    for rows, columns, own_rows, own_columns in WARPS:
        for steps in (2, 4):
            yield Tile(rows, columns, steps * TERMS[matrix], own_rows, own_columns, matrix)


def tile_of(config: Config, matrix: str) -> Tile:
    """The tile of a config."""
    rows, columns, depth = config["rows"], config["columns"], config["depth"]
    return Tile(rows, columns, depth, config["own_rows"], config["own_columns"], matrix)


def space(problem: Problem, p: Product, matrix: str = "", find: float = 0.0) -> list[Config]:
    """The configs that a device can run, the cheapest by prediction first."""
    device = problem.isa.device
    assert device is not None
    found: list[tuple[float, Config]] = []
    for tile, stages, parts in product(tiles(matrix), (2, 1), SPLITS):
        room = min(local_bytes(problem), 48 << 10)
        if tile.items > device.max_group or tile.nbytes(p.dtype) * stages > room:
            continue
        rounds = -(-p.k // tile.depth)
        if rounds < stages or (parts > 1 and (rounds < 4 * parts or not p.alone)):
            continue
        config = {
            "rows": tile.rows, "columns": tile.columns, "depth": tile.depth, "own_rows": tile.own_rows,
            "own_columns": tile.own_columns, "stages": stages, "split": parts,
        }  # fmt: skip
        found.append((cost(p, config, matrix, find), config))
    found.sort(key=lambda entry: entry[0])
    return [config for _, config in found[:SHOWN]]


def cost(p: Product, config: Config, matrix: str = "", find: float = 0.0) -> float:
    """The cost in vector operations; `find` is what it takes to find an element that is copied."""
    t, parts = tile_of(config, matrix), config["split"]
    blocks = -(-p.m // t.rows), -(-p.n // t.columns)
    groups = p.batch * math.prod(blocks) * parts
    rounds = math.ceil(-(-p.k // t.depth) / parts)
    size = width(p.dtype)
    if matrix:
        down, right, steps = t.own_rows // 16, t.own_columns // 8, t.depth // TERMS[matrix]
        sums, reads = steps * down * right * 1.0, steps * (4.0 * down + 2.0 * right)
        registers = 40 + down * right * 4 + 4 * down + 2 * right
    else:
        sums = t.depth * t.own_rows * t.own_columns / LANES
        reads = t.depth * (t.own_rows / LANES + t.own_columns / LANES * 2.0)
        registers = 40 + t.own_rows * t.own_columns + t.own_rows + t.own_columns
    copied = (t.rows + t.columns) * t.depth / t.items
    waits = 0.0 if config["stages"] > 1 else 100.0
    shared = (p.m + p.n) * p.k * p.batch * size + p.batch * p.m * p.n * size
    main = Work(
        groups,
        t.items,
        sums=rounds * sums,
        reads=rounds * reads,
        other=rounds * (copied * (1.5 + find) + waits) + t.rows * t.columns / t.items,
        local_bytes=t.nbytes(p.dtype) * config["stages"],
        registers=registers,
        near_bytes=groups * rounds * (t.rows + t.columns) * t.depth * size + p.batch * p.m * p.n * size,
        far_bytes=shared,
    )
    if parts == 1:
        return time(main)
    total = p.batch * p.m * p.n
    again = Work(-(-total // 256), 256, parts, near_bytes=2 * total * parts * size, far_bytes=total * size)
    return time(main) + time(again) + LAUNCH


def write(
    b: Builder,
    p: Product,
    config: Config,
    matrix: str = "",
    wide: tuple[bool, bool] = (True, True),
    half: bool = False,
) -> None:
    """The loops of a product; `wide` says of either matrix whether its neighbours are neighbours in memory, `half`
    whether factors are float16, and the sums of a strip, too.
    """
    parts, tile = config["split"], tile_of(config, matrix)
    factors = matrix or ("float16" if half else p.dtype)
    if parts == 1:
        _Writer(b, p, tile, factors, config["stages"], 1, wide, p.emit).write()
        return
    partial = b.alloc("partial", (parts, p.batch, p.m, p.n), p.dtype, "team")

    def keep(b: Builder, batch: Index, i: Index, j: Index, value: Value) -> None:
        b.store(partial, (batch // p.batch, batch % p.batch, i, j), value)

    _Writer(b, p, tile, factors, config["stages"], parts, wide, keep).write()
    b.barrier()
    size = min(256, 1 << max(5, (p.n - 1).bit_length()))
    grid = (p.batch, p.m, -(-p.n // size))
    with b.loops(("batch", "i", "block"), grid, "workgroup") as places, b.loop("item", size, "workitem") as item:
        batch, i, block = (as_index(0) if n == 1 else at for at, n in zip(places, grid, strict=True))
        with guarded(b, within((block * size + item,), (p.n,))):
            _added(b, p, partial, (batch, i, block * size + item))


def _added(b: Builder, p: Product, partial: Buffer, at: tuple[Index, Index, Index]) -> None:
    """An element whose sum has parts."""
    batch, i, j = at
    total = b.alloc("total", (1,), p.dtype)
    b.store(total, (0,), b.load(partial, (0, batch, i, j)))
    with b.loop("more", partial.shape[0] - 1, "short") as more:
        b.store(total, (0,), b.load(total, (0,)) + b.load(partial, (more + 1, batch, i, j)))
    p.emit(b, batch, i, j, b.load(total, (0,)))


Emit = Callable[[Builder, Index, Index, Index, Value], None]


@frozen(eq=False)
class _Writer:
    b: Builder
    p: Product
    t: Tile
    factors: str
    """The type of what lies in local memory."""
    stages: int
    parts: int
    wide: tuple[bool, bool]
    emit: Emit
    """(part * batch + batch, row, column, sum)."""

    def write(self) -> None:
        """One nest of groups."""
        b, p, t = self.b, self.p, self.t
        grid = (self.parts, p.batch, -(-p.m // t.rows), -(-p.n // t.columns))
        with b.loops(("part", "batch", "rows", "columns"), grid, "workgroup") as places:
            part, batch, rows, columns = (as_index(0) if n == 1 else i for i, n in zip(places, grid, strict=True))
            buffers = [
                tuple(
                    b.alloc(f"{n}{k}", shape, self.factors, "local")
                    for n, shape in zip(("l", "r"), t.shapes(), strict=True)
                )
                for k in range(self.stages)
            ]
            rounds = math.ceil(-(-p.k // t.depth) / self.parts)
            first = (rows * t.rows, columns * t.columns)
            with b.loop("item", t.items, "workitem") as item:
                acc = self.start()
                through_local(
                    b,
                    rounds,
                    buffers,
                    lambda strips, r: self.stage(strips, batch, first, (part * rounds + r) * t.depth, item),
                    lambda strips, r: self.add(strips, acc, item),
                )
                self.hand_over(acc, part * p.batch + batch, first, item)

    # Strips

    def stage(self, strips: Buffers, batch: Index, first: tuple[Index, Index], k0: Index, item: Index) -> None:
        """A strip of either matrix."""
        p, t = self.p, self.t

        def left(i: Index, k: Index, lane: tuple[Index, Index]) -> Value:
            i, k = first[0] + i, k0 + k
            cond = within((i, k), (p.m, p.k))
            return or_zero(cond, p.left(batch, i + lane[0], k + lane[1]), strips[0].dtype)

        def right(j: Index, k: Index, lane: tuple[Index, Index]) -> Value:
            j, k = first[1] + j, k0 + k
            cond = within((k, j), (p.k, p.n))
            return or_zero(cond, p.right(batch, k + lane[1], j + lane[0]), strips[1].dtype)

        by_terms = bool(t.matrix), t.matrix in ("float16", "bfloat16")
        lengths = (p.m if p.down else p.k), (p.k if p.across else p.n)
        wide = [w and n % LANES == 0 for w, n in zip(self.wide, lengths, strict=True)]
        self.strip(strips[0], t.rows, (by_terms[0], not p.down), wide[0], left, item)
        self.strip(strips[1], t.columns, (by_terms[1], p.across), wide[1], right, item)

    def strip(
        self,
        target: Buffer,
        size: int,
        along: tuple[bool, bool],
        wide: bool,
        value: Callable[[Index, Index, tuple[Index, Index]], Value],
        item: Index,
    ) -> None:
        """Copy `size` places times `depth` terms; `along`: whether terms run through the target, and the source."""
        b, depth = self.b, self.t.depth
        lanes = LANES if wide and along[0] == along[1] else 1
        shape = (size, depth // lanes) if along[1] else (depth, size // lanes)
        total = math.prod(shape)
        with b.loop("round", -(-total // self.t.items)) as round_:
            number = round_ * self.t.items + item
            with guarded(b, apply("lt", number, total)), b.loop("v", lanes, "vectorised") as v:
                outer, inner = split(number, shape)
                i, k = (outer, inner * lanes) if along[1] else (inner * lanes, outer)
                lane = (as_index(0), v) if along[1] else (v, as_index(0))
                place = (i + lane[0], k + lane[1]) if along[0] else (k + lane[1], i + lane[0])
                b.store(target, place, later(value(i, k, lane)))

    # Sums

    def start(self) -> Buffer:
        """Sums of nothing."""
        b, p, t = self.b, self.p, self.t
        if t.matrix:
            count = t.own_rows * t.own_columns // 32
            acc = b.alloc("acc", (count,), p.dtype)
            for i in range(count):
                b.store(acc, (i,), 0)
            return acc
        return self.zeros("acc", p.dtype)

    def zeros(self, name: str, dtype: str) -> Buffer:
        """A sum for each element of an item, in registers."""
        count = self.t.own_rows * self.t.own_columns // LANES
        acc = self.b.alloc_vectors(name, count, dtype, LANES)
        for i in range(count):
            self.b.emit_store(acc, (i,), Const(0.0, dtype, LANES))
        return acc

    def add(self, strips: Buffers, acc: Buffer, item: Index) -> None:
        """The sums of a strip; those of smaller factors are of their type, too, and then added."""
        if self.t.matrix:
            self.add_matrices(strips, acc, item)
            return
        if self.factors == acc.dtype:
            self.add_vectors(strips, acc, item)
            return
        part = self.zeros("part", self.factors)
        self.add_vectors(strips, part, item)
        for i in range(math.prod(acc.shape)):
            place = (as_index(i),)
            term = cast(Load(part, place, LANES), acc.dtype)
            self.b.emit_store(acc, place, Load(acc, place, LANES) + term)

    def add_vectors(self, strips: Buffers, acc: Buffer, item: Index) -> None:
        """The sums of a strip in vectors."""
        b, t, vectors = self.b, self.t, self.t.own_columns // LANES
        (y, x), (left, right) = split(item, t.sides), strips
        with b.loop("k", t.depth, "short") as k:
            own = b.alloc_vectors("w", vectors, self.factors, LANES)
            for o in range(vectors):
                b.emit_store(own, (o,), Load(right, (k, self.column(x, as_index(o))), LANES))
            for i in range(t.own_rows):
                value = splat(b.load(left, (k, y * t.own_rows + i)), LANES)
                for o in range(vectors):
                    place = (as_index(i * vectors + o),)
                    term = apply("fma", value, Load(own, (as_index(o),), LANES), Load(acc, place, LANES))
                    b.emit_store(acc, place, term)

    def column(self, x: Index, o: Index) -> Index:
        """The first column of vector `o` of an item: vectors lie apart, so that neighbours read neighbouring memory."""
        return (x + o * self.t.sides[1]) * LANES

    def warp(self, item: Index) -> tuple[Index, Index, Index, Index]:
        """The first row and column of a warp in its group's tile, and the digits of an item in its warp."""
        down, right = split(item // 32, self.t.sides)
        return down * self.t.own_rows, right * self.t.own_columns, item // 4 % 8, item % 4

    def add_matrices(self, strips: Buffers, acc: Buffer, item: Index) -> None:
        """The sums of a strip by tiles of 16 x 8."""
        b, t, (left, right) = self.b, self.t, strips
        top, side, g, two = self.warp(item)
        width_ = t.own_columns // 8
        terms = TERMS[t.matrix]
        for k0, i, j in product(range(0, t.depth, terms), range(t.own_rows // 16), range(width_)):
            with b.loop("k", terms, "mma") as k:
                for s in range(4):
                    row, column = top + i * 16 + g + s // 2 * 8, side + j * 8 + two * 2 + s % 2
                    place = (k0 + k, column) if t.matrix == "float32" else (column, k0 + k)
                    a, c = b.load(left, (row, k0 + k)), b.load(right, place)
                    own = ((i * width_ + j) * 4 + s,)
                    b.store(acc, own, apply("fma", cast(a, acc.dtype), cast(c, acc.dtype), b.load(acc, own)))

    # Results

    def hand_over(self, acc: Buffer, batch: Index, first: tuple[Index, Index], item: Index) -> None:
        """The block of an item; the compiler copies its loops out."""
        b, t, count = self.b, self.t, self.t.own_rows * self.t.own_columns
        if t.matrix:
            scratch = b.alloc("tile", (t.own_rows // 16, t.own_columns // 8, 2, 2), self.p.dtype, "thread")
            for number in range(count // 32):
                b.store(scratch, split(as_index(number), scratch.shape), b.load(acc, (number,)))
            top, side, g, two = self.warp(item)
            loops = b.loops(("i", "h", "j"), (t.own_rows // 16, 2, t.own_columns // 8), "short")
            with loops as (i, h, j):
                row, column = first[0] + top + i * 16 + h * 8 + g, first[1] + side + j * 8 + two * 2
                self.neighbours(batch, row, column, 2, lambda v: b.load(scratch, (i, j, h, v)))
            return
        scratch = b.alloc("tile", (t.own_rows, t.own_columns // LANES, LANES), self.p.dtype, "thread")
        for number in range(count // LANES):
            place = split(as_index(number * LANES), scratch.shape)
            b.emit_store(scratch, place, Load(acc, (as_index(number),), LANES))
        y, x = split(item, t.sides)
        with b.loops(("i", "o"), (t.own_rows, t.own_columns // LANES), "short") as (i, o):
            row, column = first[0] + y * t.own_rows + i, first[1] + self.column(x, o)
            self.neighbours(batch, row, column, LANES, lambda v: b.load(scratch, (i, o, v)))

    def neighbours(self, batch: Index, row: Index, column: Index, count: int, value: Callable[[Index], Value]) -> None:
        """Hand over neighbouring elements of a row, as far as they are of the result."""
        b, p = self.b, self.p
        whole = p.n % count == 0
        first = all_of([within((row,), (p.m,)), within((column,), (p.n,))])
        with guarded(b, first), b.loop("v", count, "vectorised" if whole else "short") as v:
            inside = Const(True, "bool") if whole else within((column + v,), (p.n,))
            with guarded(b, inside):
                self.emit(b, batch, row, column + v, value(v))
