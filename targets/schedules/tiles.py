"""What convolutions and matrix products share: cutting an axis into tiles, packing weights, and the register tile.

The register tile keeps `blocks` vectors times `points` accumulators in registers. In each step of the reduction it
loads `blocks` vectors, and `points` scalars that it broadcasts, and does `blocks * points` multiply-adds: the more of
them for each load, the closer to the arithmetic peak.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Dim, Index
from ...ir.loops import Builder, If, Prefetch
from ...ir.scalar import Buffer, Load, Value, apply, cast, constant, dot2
from ...ir.types import numpy_dtype
from ..lower import Problem

PACKED_ROWS = 16
"""Rows of a matrix that are packed together, at most."""

PARALLEL_PRODUCTS = 1 << 16
"""Multiply-adds below which one thread does everything."""

PART = 1024
"""Terms of a sum that are added up in a row; the parts of longer ones are added apart."""


HALF_PART = 32
"""Terms that are added up in float16, which has 11 bits: what is lost stays near what rounding the factors costs."""


@frozen
class Piece:
    """A part of an axis: `tiles` tiles, each of `blocks` vectors of `lanes`, the first at `start`."""

    start: int
    tiles: int
    blocks: int
    lanes: int

    @property
    def width(self) -> int:
        """Elements of one tile."""
        return self.blocks * self.lanes

    @property
    def size(self) -> int:
        """Elements of all tiles."""
        return self.tiles * self.width


def cut(extent: int, lanes: int, blocks: int) -> list[Piece]:
    """An axis as pieces that cover it exactly: as many full tiles as fit, then ever smaller ones."""
    pieces: list[Piece] = []
    start = 0
    while start < extent:
        rest = extent - start
        wide = min(lanes, 1 << (rest.bit_length() - 1))
        many = min(blocks, rest // wide)
        tiles = rest // (wide * many)
        pieces.append(Piece(start, tiles, many, wide))
        start += pieces[-1].size
    return pieces


def even(extent: int, most: int) -> list[tuple[int, int, int]]:
    """An axis in tiles of at most `most`, as even as can be: (start, tiles, size) once or twice (49 by 14:
    1x13, 3x12).
    """
    if extent == 0:
        return []
    count = -(-extent // most)
    size, larger = divmod(extent, count)
    parts = [(0, larger, size + 1), (larger * (size + 1), count - larger, size)]
    return [p for p in parts if p[1]]


@frozen
class Packing:
    """A weight matrix [rows][axis] stored tile by tile of the axis: [tile][rows][width], without padding.

    Attributes:
        pieces: how the axis is cut.
        rows: the size of the reduction.
        extent: the size of the axis.
    """

    pieces: tuple[Piece, ...]
    rows: int
    extent: int

    def offset(self, piece: Piece, tile: Dim, row: Dim, lane: Dim) -> Index:
        """Where an element lies in the packed array."""
        return (
            (Index() + tile) * (self.rows * piece.width)
            + (Index() + row) * piece.width
            + lane
            + piece.start * self.rows
        )

    def pack(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A NumPy array of shape (..., rows, extent) packed along its last two axes, which become one."""
        batch = matrix.shape[:-2]
        packed = np.empty((*batch, self.rows * self.extent), matrix.dtype)
        for p in self.pieces:
            end = p.start + p.size
            part = matrix[..., p.start : end].reshape(*batch, self.rows, p.tiles, p.width)
            # Both reshapes split an axis, which never copies: what is copied is copied once, into its place.
            target = packed[..., p.start * self.rows : end * self.rows].reshape(*batch, p.tiles, self.rows, p.width)
            target[...] = np.moveaxis(part, -2, -3)
        return packed

    def write(
        self,
        builder: Builder,
        target: Buffer,
        batch: int,
        element: Callable[[Index, Index, Index], Value],
        across: bool = False,
        barrier: bool = True,
    ) -> None:
        """A stage that packs at run time: `element(batch, row, position on the axis)`; `barrier` ends it.

        What is read one after the other should lie on few pages: a few rows of all tiles at a time. If the axis goes
        `across` memory and the rows run along it, then tile by tile, each place of the axis for a few rows.
        """

        def store(p: Piece, b: Index, tile: Index, row: Index, lane: Index) -> None:
            value = element(b, row, tile * p.width + lane + p.start)
            builder.store(target, (b, self.offset(p, tile, row, lane)), value)

        def tiles(start: int, blocks: int, size: int) -> None:
            for p in self.pieces:
                with (
                    builder.loop("pack", batch * p.tiles, "parallel") as flat,
                    builder.loop("pblock", blocks) as block,
                    builder.loop("plane", p.width) as lane,
                    builder.loop("prow", size) as row,
                ):
                    store(p, flat // p.tiles, flat % p.tiles, block * size + row + start, lane)

        def rows(start: int, blocks: int, size: int) -> None:
            with builder.loop("pack", batch * blocks, "parallel") as flat:
                for p in self.pieces:
                    with (
                        builder.loop("ptile", p.tiles) as tile,
                        builder.loop("prow", size) as row,
                        builder.loop("plane", p.width, "vectorised") as lane,
                    ):
                        store(p, flat // blocks, tile, flat % blocks * size + row + start, lane)

        for part in even(self.rows, PACKED_ROWS):
            (tiles if across else rows)(*part)
        if barrier:
            builder.barrier()


@frozen(eq=False)
class RegisterTile:
    """Accumulators for one tile, used inside a vectorised loop over `lane`."""

    builder: Builder
    acc: Buffer
    blocks: int
    points: int

    @staticmethod
    def start(builder: Builder, blocks: int, points: int, dtype: str) -> "RegisterTile":
        """Accumulators, set to zero."""
        acc = builder.alloc("acc", (blocks, points), dtype)
        tile = RegisterTile(builder, acc, blocks, points)
        tile.each(lambda o, j, value: builder.store(acc, (o, j), 0))
        return tile

    def put(self, o: Index, j: Index, value: Value) -> None:
        """Set one accumulator."""
        self.builder.store(self.acc, (o, j), value)

    def each(self, action: Callable[[Index, Index, Value], None]) -> None:
        """`action(block, point, accumulator)` for every accumulator."""
        with (
            # Points outside: a broadcast value is used up at once, and only the vectors of one step stay in registers.
            self.builder.loop("j", self.points, "unrolled") as j,
            self.builder.loop("o", self.blocks, "unrolled") as o,
        ):
            action(o, j, self.builder.load(self.acc, (o, j)))

    def accumulate(
        self,
        loops: Sequence[tuple[str, int, str]],
        vector: Callable[[Sequence[Index], Index], Value],
        scalar: Callable[[Sequence[Index], Index], Value],
        ahead: Callable[[Sequence[Index]], None] | None = None,
    ) -> None:
        """Run the reduction: `acc[o, j] += vector(r, o) * scalar(r, j)` for every r in the loops (name,
        extent, kind); each iteration of each loop begins with `ahead(counters so far)`, which may prefetch. Values of
        type uint32 are pairs of bfloat16, each of which adds two products.
        """

        (name, extent, kind), *inner = loops
        most = max(1, PART // math.prod(n for _, n, _ in inner))

        def nest(rest: Sequence[tuple[str, int, str]], r: list[Index]) -> None:
            if rest:
                name, extent, kind = rest[0]
                with self.builder.loop(name, extent, kind) as i:
                    step(rest[1:], [*r, i])
                return
            self.each(lambda o, j, old: self.put(o, j, added(vector(r, o), scalar(r, j), old)))

        def step(rest: Sequence[tuple[str, int, str]], r: list[Index]) -> None:
            if ahead is not None:
                ahead(r)
            nest(rest, r)

        if extent < 2 * most:
            nest(loops, [])
            return
        total = self.builder.alloc("total", self.acc.shape, self.acc.dtype)
        self.each(lambda o, j, value: self.builder.store(total, (o, j), value))
        for start, count, size in even(extent, most):
            with self.builder.loop("part", count, "rolled") as part:
                self.each(lambda o, j, value: self.put(o, j, constant(0, self.acc.dtype)))
                with self.builder.loop(name, size, kind) as i:
                    step(inner, [part * size + i + start])
                self.each(
                    lambda o, j, value: self.builder.store(total, (o, j), self.builder.load(total, (o, j)) + value)
                )
        self.each(lambda o, j, value: self.put(o, j, self.builder.load(total, (o, j))))

    def accumulate_halves(
        self,
        loops: Sequence[tuple[str, int, str]],
        vector: Callable[[Sequence[Index], Index], Value],
        scalar: Callable[[Sequence[Index], Index], Value],
    ) -> None:
        """The same for values of float16: products, and the sums of short parts, are float16, too."""
        (name, extent, kind), *inner = loops
        terms = math.prod(n for _, n, _ in inner)
        if terms > HALF_PART:
            with self.builder.loop(name, extent, kind) as i:
                self.accumulate_halves(inner, lambda r, o: vector([i, *r], o), lambda r, j: scalar([i, *r], j))
            return

        def part(first: Index, size: int) -> None:
            half = RegisterTile.start(self.builder, self.blocks, self.points, "float16")
            half.accumulate(
                [(name, size, kind), *inner],
                lambda r, o: vector([first + r[0], *r[1:]], o),
                lambda r, j: scalar([first + r[0], *r[1:]], j),
            )
            half.each(
                lambda o, j, value: self.put(o, j, self.builder.load(self.acc, (o, j)) + cast(value, self.acc.dtype))
            )

        for start, count, size in even(extent, max(1, HALF_PART // terms)):
            with self.builder.loop("part", count, "rolled") as number:
                part(number * size + start, size)


def team_kind(products: int) -> str:
    """The kind of an outer loop around so many multiply-adds."""
    return "parallel" if products >= PARALLEL_PRODUCTS else "serial"


def either(builder: Builder, plain: Value, write: Callable[[Builder, bool], None]) -> None:
    """What `write` writes, twice: without tests where `plain` holds, with them where it does not."""
    arms = []
    for tested in (False, True):
        branch = Builder()
        write(branch, tested)
        arms.append(branch.finish())
    builder.emit(If(plain, *arms))


def fetch(builder: Builder, loads: Iterable[Value]) -> None:
    """Prefetch what loads will read."""
    for load in loads:
        assert isinstance(load, Load)
        builder.emit(Prefetch(load.buffer, load.index))


def added(a: Value, b: Value, total: Value) -> Value:
    """`total + a * b`, or for pairs of bfloat16 the sum of both products."""
    if a.dtype == b.dtype == "uint32":
        return dot2(a, b, total)
    return apply("fma", cast(a, total.dtype), cast(b, total.dtype), total)


def paired(matrix: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """A bfloat16 array as uint32 with neighbours along `axis` side by side; the last stands beside 0 if it is alone."""
    bits = np.moveaxis(matrix.view(np.uint16), axis, 0)
    result = np.empty((-(-len(bits) // 2), *bits.shape[1:]), np.uint32)
    result[...] = bits[::2]
    result[: len(bits) // 2] |= bits[1::2].astype(np.uint32) << 16
    return np.moveaxis(result, 0, axis)


Pack = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Brings a constant into the form that a kernel wants."""

Packed = Mapping[int, Pack]
"""For inputs of a kernel, by position, how a constant is to be packed."""


def packed_operand(
    problem: Problem,
    packing: Packing,
    builder: Builder,
    batch: int,
    matrix: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    element: Callable[[Index, Index, Index], Value] | None = None,
    across: bool = False,
    dtype: str = "",
) -> tuple[Buffer, Problem, Packed]:
    """The anchor's second argument as a packed matrix of shape (batch, rows * extent).

    Args:
        problem: the group; the argument is one of its parameters.
        packing: how to pack.
        builder: gets a first stage that packs, where the argument is not a constant.
        batch: how many matrices there are.
        matrix: a constant argument as an array (batch, rows, extent).
        element: (batch, row, column) -> value, for packing at run time; None: the argument is a constant.
        across: whether the argument runs along its rows in memory.
        dtype: of the packed matrix; empty: that of the argument.

    Returns:
        The buffer to read, the problem with that buffer as input where it is one, and how to pack the constant.

    """
    given = problem.parameter(1)
    assert given is not None
    shape = (batch, packing.rows * packing.extent)
    if given not in problem.constants:
        assert element is not None
        scratch = builder.alloc("packed", shape, dtype or given.dtype, "team")
        packing.write(builder, scratch, batch, element, across)
        return scratch, problem, {}
    buffer = Buffer(given.name, shape, dtype or given.dtype)
    inputs = tuple(buffer if b is given else b for b in problem.inputs)
    pack = {
        problem.inputs.index(given): lambda array: packing.pack(matrix(array)).astype(
            numpy_dtype(buffer.dtype), copy=False
        )
    }
    return buffer, evolve(problem, inputs=inputs), pack
