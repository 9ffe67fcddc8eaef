"""dense, matmul and batch_matmul in register tiles: vectors of output columns times a few rows.

The right-hand matrix is packed so that the columns of a tile are contiguous for each term of the sum: when the model is
built if it is constant, else by the kernel's first stage. Each step loads vectors of it and broadcasts elements of the
left-hand matrix. That one stays as it is, unless its rows are a power of two apart, or nearly: the rows of a tile would
then push each other out of the first cache, and are packed as well.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Value, cast
from ...ir.types import numpy_dtype
from ...ops.lowering import View
from ..lower import Problem, spec
from .generic import unravel
from .tiles import Packed, Packing, Piece, RegisterTile, cut, even, packed_operand

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
    if any(v.dtype not in ("float32", "float64") for v in context.args) or context.out.dtype not in (
        "float32",
        "float64",
    ):
        return f"dtype {context.args[0].dtype}; it is written for float32 and float64"
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


def schedule(problem: Problem) -> tuple[Kernel, Packed]:
    """The loops of a matrix product, and the packed matrix."""
    product = _Product.start(problem, shape_of(problem))
    for piece in product.packing.pieces:
        for start, count, points in even(product.s.m, product.most):
            product.tiles(piece, start, count, points)
    return product.problem.kernel(product.builder), product.packed


@frozen(eq=False)
class _Product:
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
    rows_packing: Packing | None
    rows_packed: Buffer | None

    @staticmethod
    def start(problem: Problem, s: Shape) -> "_Product":
        """Pack the right-hand matrix."""
        assert problem.context is not None
        builder, (left, right), dtype = Builder(), problem.context.args, problem.context.dtype
        most = min(14 if problem.isa.registers >= 32 else 6, s.m)
        # Few rows leave registers free: more columns then hide the latency of the multiply-add.
        lanes = problem.isa.vector_bytes // numpy_dtype(dtype).itemsize
        packing = Packing(tuple(cut(s.n, lanes, 2 if most > 4 else 4)), s.k, s.n)
        batch = right.shape[0] if len(right.shape) == 3 else 1

        def element(b: Index, k: Index, n: Index) -> Value:
            place = (n, k) if s.transpose_b else (k, n)
            return right(b, *place) if len(right.shape) == 3 else right(*place)

        def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            whole = array.reshape(batch, *right.shape[-2:])
            return whole.swapaxes(1, 2) if s.transpose_b else whole

        weights, problem, packed = packed_operand(problem, packing, builder, batch, matrix, element)
        rows = problem.context.shape[:-1] if problem.context is not None else ()
        product = _Product(problem, s, builder, packing, weights, packed, left, rows, dtype, most, None, None)
        return product.with_packed_rows() if product.rows_collide() else product

    def rows_collide(self) -> bool:
        """Whether the rows of a tile share so few sets of the first cache that they do not fit in together."""
        nbytes = self.s.k * numpy_dtype(self.left.dtype).itemsize
        if self.s.transpose_a or self.s.n < 4 * self.packing.pieces[0].width or nbytes % LINE:
            return False
        sets = SETS // math.gcd(SETS, nbytes // LINE)
        return self.most > sets * WAYS

    def with_packed_rows(self) -> "_Product":
        """The same with a stage that packs the left-hand matrix."""
        pieces = [Piece(start, count, points, 1) for start, count, points in even(self.s.m, self.most)]
        packing = Packing(tuple(pieces), self.s.k, self.s.m)
        batch = math.prod(self.s.batch)
        target = self.builder.alloc("rows", (batch, self.s.k * self.s.m), self.dtype, "team")

        def element(b: Index, k: Index, i: Index) -> Value:
            return cast(self.left_element(unravel(b, self.s.batch), i, k), self.dtype)

        packing.write(self.builder, target, batch, element)
        return evolve(self, rows_packing=packing, rows_packed=target)

    def left_element(self, batch: Sequence[Index], i: Index, k: Index) -> Value:
        """An element of the left-hand matrix; without batches, its leading axes are counted through as rows."""
        if self.s.batch:
            own = [as_index(0) if n == 1 else place for n, place in zip(self.left.shape, batch, strict=False)]
            return self.left(*own, k, i) if self.s.transpose_a else self.left(*own, i, k)
        return self.left(k, i) if self.s.transpose_a else self.left(*unravel(i, self.left.shape[:-1]), k)

    def tiles(self, piece: Piece, start: int, count: int, points: int) -> None:
        """The parallel loop over batches, column tiles and row tiles of one size."""
        extents = (*self.s.batch, piece.tiles, count)
        work = math.prod(extents) * points * piece.width * self.s.k
        with self.builder.loop("block", math.prod(extents), "parallel" if work >= 65536 else "serial") as flat:
            *batch, tile, q = unravel(flat, extents)
            with self.builder.loop("v", piece.lanes, "vectorised") as v:
                self._tile(piece, batch, tile, q * points + start, points, v)

    def row_element(self, batch: Sequence[Index], i0: Index, points: int, j: Index, k: Index) -> Value:
        """Element `k` of row `j` of a tile of `points` rows, the first of which is `i0`."""
        if self.rows_packing is None or self.rows_packed is None:
            return self.left_element(batch, i0 + j, k)
        piece = next(p for p in self.rows_packing.pieces if p.width == points)
        flat = as_index(0)
        for extent, place in zip(self.s.batch, batch, strict=True):
            flat = flat * extent + place
        offset = self.rows_packing.offset(piece, (i0 - piece.start) // points, k, j)
        return self.builder.load(self.rows_packed, (flat, offset))

    def _tile(self, piece: Piece, batch: list[Index], tile: Index, i0: Index, points: int, v: Index) -> None:
        b = self.builder
        acc = RegisterTile.start(b, piece.blocks, points, self.dtype)
        matrix = batch[0] if self.s.b_batched else as_index(0)
        acc.accumulate(
            [("k", self.s.k, "rolled")],
            lambda r, o: b.load(self.weights, (matrix, self.packing.offset(piece, tile, r[0], o * piece.lanes + v))),
            lambda r, j: self.row_element(batch, i0, points, j, r[0]),
        )

        def store(o: Index, j: Index, value: Value) -> None:
            column = tile * piece.width + o * piece.lanes + v + piece.start
            place = [*batch, i0 + j] if self.s.batch else unravel(i0 + j, self.rows)
            self.problem.emit(b, (*place, column), value)

        acc.each(store)
