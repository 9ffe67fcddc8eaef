"""What convolutions and matrix products share: cutting an axis into tiles, packing weights, and the register tile.

The register tile keeps `blocks` vectors times `points` accumulators in registers. In each step of the reduction it
loads `blocks` vectors, and `points` scalars that it broadcasts, and does `blocks * points` multiply-adds: the more of
them for each load, the closer to the arithmetic peak.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Dim, Index
from ...ir.loops import Builder
from ...ir.scalar import Buffer, Operand, Value, apply, cast
from ..lower import Problem


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
        self, builder: Builder, target: Buffer, batch: int, element: Callable[[Index, Index, Index], Value]
    ) -> None:
        """A stage that packs at run time: `element(batch, row, position on the axis)`."""
        for p in self.pieces:
            with builder.loop("pack", batch * p.tiles, "parallel") as flat:
                b, tile = flat // p.tiles, flat % p.tiles
                with builder.loop("prow", self.rows) as row, builder.loop("plane", p.width, "vectorised") as lane:
                    value = element(b, row, tile * p.width + lane + p.start)
                    builder.store(target, (b, self.offset(p, tile, row, lane)), value)
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
        vector: Callable[[Sequence[Index], Index], Operand],
        scalar: Callable[[Sequence[Index], Index], Operand],
    ) -> None:
        """Run the reduction: `acc[o, j] += vector(r, o) * scalar(r, j)` for every r in the loops (name,
        extent, kind).
        """

        def nest(rest: Sequence[tuple[str, int, str]], r: list[Index]) -> None:
            if rest:
                name, extent, kind = rest[0]
                with self.builder.loop(name, extent, kind) as i:
                    nest(rest[1:], [*r, i])
                return
            dtype = self.acc.dtype
            self.each(
                lambda o, j, old: self.builder.store(
                    self.acc, (o, j), apply("fma", cast(vector(r, o), dtype), cast(scalar(r, j), dtype), old)
                )
            )

        nest(loops, [])


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
    element: Callable[[Index, Index, Index], Value],
) -> tuple[Buffer, Problem, Packed]:
    """The anchor's second argument as a packed matrix of shape (batch, rows * extent).

    Args:
        problem: the group; the argument is one of its parameters.
        packing: how to pack.
        builder: gets a first stage that packs, where the argument is not a constant.
        batch: how many matrices there are.
        matrix: a constant argument as an array (batch, rows, extent).
        element: (batch, row, column) -> value, for packing at run time.

    Returns:
        The buffer to read, the problem with that buffer as input where it is one, and how to pack the constant.

    """
    given = problem.parameter(1)
    assert given is not None
    shape = (batch, packing.rows * packing.extent)
    if given not in problem.constants:
        scratch = builder.alloc("packed", shape, given.dtype, "team")
        packing.write(builder, scratch, batch, element)
        return scratch, problem, {}
    buffer = Buffer(given.name, shape, given.dtype)
    inputs = tuple(buffer if b is given else b for b in problem.inputs)
    pack = {problem.inputs.index(given): lambda array: packing.pack(matrix(array))}
    return buffer, evolve(problem, inputs=inputs), pack
