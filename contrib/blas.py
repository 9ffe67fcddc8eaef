"""Products of matrices for BLAS libraries, and the columns in which those of GPUs count.

A matrix in row order is its transpose in column order, so `out = op(a) op(b)` is `out' = op(b)' op(a)'` there: b is the
first factor, and nothing moves.
"""

from collections.abc import Sequence

from attrs import frozen

from ..ir.expr import Call
from .calls import Product, why_not_plain
from .calls import product as described

INT_MAX = 2**31 - 1
"""The largest dimension: their integers have 32 bits."""


@frozen
class Gemm:
    """A product in column order; the first factor is the graph's second operand.

    Attributes:
        m, n, k: the result has m rows and n columns; k is summed over.
        transposed: whether the first and the second factor are.
        widths: leading dimensions of the factors and of the result.
        steps: elements from one matrix of a batch to the next; 0: the same one for all.
        batch: how many products.

    """

    m: int
    n: int
    k: int
    transposed: tuple[bool, bool]
    widths: tuple[int, int, int]
    steps: tuple[int, int, int]
    batch: int

    def operands(self, places: Sequence[int], kind: int) -> list[tuple[int, ...]]:
        """The matrices as functions take them: place, element type, leading dimension and, of a batch, the step."""
        steps = [(step,) if self.batch > 1 else () for step in self.steps]
        return [(place, kind, width, *step) for place, width, step in zip(places, self.widths, steps, strict=True)]


def why_not_product(call: Call, dtypes: Sequence[str]) -> str | None:
    """Why a product is nothing for a BLAS library that counts in 32 bits, or None."""
    if reason := why_not_plain(call, dtypes):
        return reason
    p = described(call)
    size = max(*p.a, *p.b, *p.out)
    return f"a dimension is {size}, expected at most {INT_MAX}" if size > INT_MAX else None


def gemm(p: Product) -> Gemm:
    """A product of the graph in column order."""
    rows, columns = p.out[-2:]
    depth = p.a[-2] if p.trans_a else p.a[-1]
    batch = p.out[0] if len(p.out) == 3 else 1
    steps = [0 if len(shape) == 2 or shape[0] == 1 else shape[-2] * shape[-1] for shape in (p.b, p.a, p.out)]
    return Gemm(
        columns, rows, depth, (p.trans_b, p.trans_a), (p.b[-1], p.a[-1], columns), (steps[0], steps[1], steps[2]), batch
    )
