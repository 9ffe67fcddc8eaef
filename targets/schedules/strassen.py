"""dense and matmul by Strassen's algorithm in Winograd's form: 7 products of blocks of half the size in place of 8.

    T = sums of blocks of the right-hand matrix     when the model is built if it is constant, else by a first stage
    for blocks of rows of a quarter of the result:              in parallel
        S[q] = sums of blocks of the left-hand matrix           q: the 7 products; 49 where it is done twice
        P[q] = S[q] T[q]                                        in register tiles, panel by panel (gemm.py)
        results = sums of P, epilogue, store

S and P are scratch of a thread and stay in a near cache; no sum goes to memory but T. (V. Strassen: Gaussian
Elimination is not Optimal, 1969; the form with 15 additions is S. Winograd's. That sums are made where they are used,
and not before, is what Huang et al.: Strassen's Algorithm Reloaded, SC 2016, found to pay.)

Accuracy: the error of an element is bounded by the largest elements of whole matrices, not by those of its own row and
column as with plain products, and the constant of the bound grows by 18 a level, where doubling the size of plain
products makes it 4 times as large (N. Higham: Accuracy and Stability of Numerical Algorithms, 23.2.2). On 2048 x 2048
numbers between -1 and 1, and between 0 and 1, the largest error against float64 was 2.9 and 2.4 times that of plain
products, with two levels 5.8 and 3.9 times. Rows or columns that are much smaller than others lose digits. So nothing
takes this schedule unasked: it is a candidate for tuning, which compares it with plain loops as any other.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Value
from ...ops.lowering import View
from ...ops.reshape import unravel
from ..lower import Problem
from . import gemm
from .gemm import LINE, Panel, Shape, TiledProduct
from .space import Config, space
from .tiles import Packed, Packing, cut, even, packed_operand

LEAST = 512
"""Rows, columns and terms from which on it is worth a try: shorter matrices are bound by their transforms."""

ROWS = (64, 128, 256)
"""Rows of a block, at most: S[q] is to stay in the second cache."""


CAUTION = (
    "every element of the result depends on all rows and columns: an infinity or NaN in one spreads to others, "
    "elements beside much larger ones lose digits, and numbers near the largest of float32 overflow"
)
"""What follows from the bound above, in words."""


class _Number(Protocol):
    def __add__(self, other: Self, /) -> Self: ...

    def __sub__(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=_Number)


@frozen
class Sums:
    """Sums and differences of a few inputs.

    Attributes:
        inputs: how many.
        steps: (a, sign, b): a + b or a - b; inputs and steps are numbered through.
        results: the numbers of those that are wanted.
    """

    inputs: int
    steps: tuple[tuple[int, int, int], ...]
    results: tuple[int, ...]

    def of(self, values: Sequence[T]) -> list[T]:
        """The results for some inputs."""
        known = list(values)
        for a, sign, b in self.steps:
            known.append(known[a] + known[b] if sign > 0 else known[a] - known[b])
        return [known[number] for number in self.results]

    def nested(self, values: Sequence[T], depth: int) -> list[T]:
        """The same of blocks of blocks: inputs are numbered with the outer block first, and so are results."""
        if not depth:
            return list(values)
        size = len(values) // self.inputs
        parts = [self.nested(values[k * size : (k + 1) * size], depth - 1) for k in range(self.inputs)]
        columns = [self.of(column) for column in zip(*parts, strict=True)]
        return [column[k] for k in range(len(self.results)) for column in columns]


PRODUCTS = 7
LEFT = Sums(4, ((2, 1, 3), (4, -1, 0), (0, -1, 2), (1, -1, 5)), (0, 1, 7, 3, 4, 5, 6))
"""Of A11, A12, A21, A22: A11, A12, S4, A22, S1 = A21 + A22, S2 = S1 - A11, S3 = A11 - A21, with S4 = A12 - S2."""
RIGHT = Sums(4, ((1, -1, 0), (3, -1, 4), (3, -1, 1), (5, -1, 2)), (0, 2, 3, 7, 4, 5, 6))
"""Of B11, B12, B21, B22: B11, B21, B22, T4, T1 = B12 - B11, T2 = B22 - T1, T3 = B22 - B12, with T4 = T2 - B21."""
RESULT = Sums(7, ((0, 1, 1), (0, 1, 5), (8, 1, 6), (8, 1, 4), (10, 1, 2), (9, -1, 3), (9, 1, 4)), (7, 11, 12, 13))
"""Of the products: C11, C12, C21, C22."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if problem.isa.device is None or problem.isa.gpu:
        return "it is written for the processors of OpenCL devices of kind cpu"
    if reason := gemm.check(problem):
        return reason
    context, s = problem.context, gemm.shape_of(problem)
    assert context is not None
    if other := [d for d in (*(v.dtype for v in context.args), context.dtype) if d != "float32"]:
        return f"dtype {other[0]}; it is written for float32"
    if s.batch:
        return "a batch of products"
    if min(s.m, s.n, s.k) < LEAST:
        return f"matrices of {s.m} x {s.n} x {s.k}; each side should be {LEAST} at least"
    if any(size % 2 for size in (s.m, s.n, s.k)):
        return f"matrices of {s.m} x {s.n} x {s.k}; it takes even sizes"
    return None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: how often matrices are halved, rows of a block, and whether a panel is fetched ahead."""
    s = gemm.shape_of(problem)
    plain = next(gemm.configs(problem))
    default = {"depth": 1, "rows": ROWS[-1], "blocks": plain["blocks"], "points": plain["points"], "fetch": 0}
    deep = [depth for depth in (1, 2) if not any(size % 2**depth for size in (s.m, s.n, s.k))]
    return space(default, {"depth": deep, "rows": ROWS, "fetch": (0, 1)})


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything: products, and sums by what they read and write."""
    s, depth = gemm.shape_of(problem), config["depth"]
    lanes = problem.isa.vector_bytes // 4
    moved: int = 4**depth + PRODUCTS**depth
    sums = moved * (s.m * s.k + s.m * s.n) / (1 << 2 * depth) / lanes
    if problem.parameter(1) not in problem.constants:
        sums += moved * s.k * s.n / (1 << 2 * depth) / lanes
    share = math.pow(PRODUCTS / 8, depth)
    return gemm.predict(problem, config) * share + 2 * sums


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops, and how the right-hand matrix is packed."""
    return _Strassen.start(problem, config).kernel()


def pack(problem: Problem, config: Config) -> Packed:
    """How a constant right-hand matrix is packed."""
    return _Strassen.start(problem, config).product.packed


@frozen(eq=False)
class _Strassen:
    """A product being written; `product` is that of the blocks, as a batch of 7 (or 49)."""

    product: TiledProduct
    depth: int
    most: int

    @staticmethod
    def start(problem: Problem, config: Config) -> "_Strassen":
        """Make the sums of the right-hand matrix."""
        assert problem.context is not None
        whole, depth, b = gemm.shape_of(problem), config["depth"], Builder()
        left, right = problem.context.args
        m, n, k = (size >> depth for size in (whole.m, whole.n, whole.k))
        s = Shape((PRODUCTS**depth,), m, n, k, whole.transpose_a, whole.transpose_b, b_batched=True)
        packing = Packing(tuple(cut(n, problem.isa.vector_bytes // 4, config["blocks"])), k, n)
        weights, problem, packed = _sums_of_right(problem, b, right, s, packing, depth)
        assert problem.context is not None
        rows = problem.context.shape[:-1]
        product = TiledProduct(
            problem, s, b, packing, weights, packed, left, rows, "float32", config["points"], config["fetch"], None
        )
        return _Strassen(product, depth, config["rows"])

    def kernel(self) -> tuple[Kernel, Packed]:
        """Blocks of rows in parallel, as many for each thread."""
        p, b = self.product, self.product.builder
        threads = p.problem.threads
        count = -(-p.s.m // min(self.most, p.s.m))
        for start, blocks, size in even(p.s.m, -(-p.s.m // (-(-count // threads) * threads))):
            with b.loop("block", blocks, "parallel") as block:
                self.block(block * size + start, size)
        return p.problem.kernel(b), p.packed

    def block(self, first: Index, size: int) -> None:
        """`size` rows of each block of the result."""
        p, b, (count,) = self.product, self.product.builder, self.product.s.batch
        sums = b.alloc("S", (count, size, p.s.k + LINE // 4), "float32", "thread")
        with b.loop("r", size) as r, b.loop("ck", p.s.k, "vectorised") as k:
            values = [self.left(first + r + i * p.s.m, k + j * p.s.k) for i, j in map(self.place, range(4**self.depth))]
            for number, value in enumerate(LEFT.nested(values, self.depth)):
                b.store(sums, (number, r, k), value)
        products = b.alloc("P", (count, size, p.s.n), "float32", "thread")

        def keep(batch: Sequence[Index], i: Index, j: Index, value: Value) -> None:
            b.store(products, (batch[0], i, j), value)

        inner = evolve(p, s=evolve(p.s, m=size), copied=sums, hand_over=keep)
        with b.loop("q", count, "rolled") as q:
            for piece in p.packing.pieces:
                with b.loop("panel", piece.tiles, "rolled") as tile:
                    Panel(inner, piece, [q], tile, Index(), size).write()
        with b.loop("r", size) as r, b.loop("c", p.s.n, "vectorised") as c:
            self.results([b.load(products, (q, r, c)) for q in range(count)], first + r, c)

    def place(self, number: int) -> tuple[int, int]:
        """Row and column of a block among the blocks of a matrix."""
        return place(number, self.depth)

    def left(self, i: Index, k: Index) -> Value:
        """An element of the whole left-hand matrix."""
        p = self.product
        if p.s.transpose_a:
            return p.left(k, i)
        return p.left(*unravel(i, p.left.shape[:-1]), k)

    def results(self, products: Sequence[Value], row: Index, column: Index) -> None:
        """Hand over an element of each block of the result."""
        p = self.product
        for number, value in enumerate(RESULT.nested(products, self.depth)):
            i, j = self.place(number)
            p.problem.emit(p.builder, (*unravel(row + i * p.s.m, p.rows), column + j * p.s.n), value)


def place(number: int, depth: int) -> tuple[int, int]:
    """Row and column of a block among 2**depth x 2**depth ones; numbers have the outer block first."""
    digits = [number >> 2 * level & 3 for level in reversed(range(depth))]
    row = column = 0
    for digit in digits:
        row, column = 2 * row + digit // 2, 2 * column + digit % 2
    return row, column


def _sums_of_right(
    problem: Problem, b: Builder, right: View, s: Shape, packing: Packing, depth: int
) -> tuple[Buffer, Problem, Packed]:
    """T, packed: of a constant in float64 and rounded once, else by a stage of its own."""
    places = [place(number, depth) for number in range(4**depth)]

    def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        whole = (array.T if s.transpose_b else array).astype(np.float64)
        blocks = [whole[i * s.k : (i + 1) * s.k, j * s.n : (j + 1) * s.n] for i, j in places]
        return np.stack([sum_.astype(np.float32) for sum_ in RIGHT.nested(blocks, depth)])

    def never(batch: Index, row: Index, column: Index) -> Value:
        raise AssertionError("what is not constant has a stage of its own")

    if problem.parameter(1) in problem.constants:
        return packed_operand(problem, packing, b, s.batch[0], matrix, never)
    packed = b.alloc("packed", (s.batch[0], packing.rows * packing.extent), "float32", "team")

    def element(row: Index, column: Index) -> Value:
        return right(column, row) if s.transpose_b else right(row, column)

    for start, blocks, size in even(packing.rows, 16):
        with b.loop("pack", blocks, "parallel") as block:
            for piece in packing.pieces:
                with (
                    b.loop("ptile", piece.tiles) as tile,
                    b.loop("prow", size) as inner,
                    b.loop("plane", piece.width, "vectorised") as lane,
                ):
                    row, column = block * size + inner + start, tile * piece.width + lane + piece.start
                    values = [element(row + i * s.k, column + j * s.n) for i, j in places]
                    for number, value in enumerate(RIGHT.nested(values, depth)):
                        b.store(packed, (number, packing.offset(piece, tile, row, lane)), value)
    b.barrier()
    return packed, problem, {}
