"""Matrices of Winograd's minimal filtering F(m, r), made by the Toom-Cook construction in exact rationals.

A polynomial product is evaluated at n = m + r - 1 points, multiplied point by point, and interpolated; transposing that
algorithm gives m outputs of an FIR filter with r taps from n inputs d:

    y = A^T ((G g) * (B^T d))

With M_i(x) the product of (x - a) over the finite points a other than a_i, row i of B^T holds the coefficients of
M_i, row i of G the powers of a_i divided by M_i(a_i), and row j of A^T the j-th powers of all points. (S. Winograd,
Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, arXiv:1509.09308.)

The points decide the rounding error. Pairs +-p let rows share their even and their odd halves.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
from attrs import frozen

Row = tuple[Fraction, ...]
Matrix = tuple[Row, ...]

_HALVES = {
    2: ("1",),
    3: ("0", "1"),
    4: ("1/2", "5/4"),
    5: ("0", "3/4", "3/2"),
    6: ("1/3", "4/5", "3/2"),
}
POINTS = {
    count: tuple(Fraction(sign) * Fraction(half) for half in halves for sign in ((1,) if half == "0" else (1, -1)))
    for count, halves in _HALVES.items()
}
"""Finite points by their number, found by search: 0, 3/4, -3/4, 3/2, -3/2 give F(4, 3) a fifth of the error of the
usual 0, 1, -1, 2, -2."""


@frozen
class Filter:
    """F(m, r): `at` has shape (m, n), `g` (n, r), `bt` (n, n), with n = m + r - 1."""

    m: int
    r: int
    at: Matrix
    g: Matrix
    bt: Matrix

    @property
    def n(self) -> int:
        """Inputs that give m outputs."""
        return self.m + self.r - 1

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """G in floating point."""
        return np.array(self.g, np.float64)

    def finite(self) -> "Filter":
        """The same without the point at infinity, for a filter whose last tap is 0: one product less."""
        bt = _frozen([row[:-1] for row in self.bt[:-1]])
        return Filter(
            self.m, self.r - 1, _frozen([row[:-1] for row in self.at]), _frozen([row[:-1] for row in self.g[:-1]]), bt
        )


@cache
def winograd(m: int, r: int = 3) -> Filter:
    """F(m, r) from m + r - 2 points of `POINTS` and infinity."""
    n = m + r - 1
    points = POINTS[n - 1]
    at = [[a**j for a in points] + [Fraction(int(j == m - 1))] for j in range(m)]
    g, bt = [], []
    for k, a in enumerate(points):
        others = _product([p for i, p in enumerate(points) if i != k])
        if a < 0 and 0 not in points:  # so that the rows of a and -a mirror each other
            others = [-c for c in others]
        scale = sum(c * a**e for e, c in enumerate(others))
        g.append([a**j / scale for j in range(r)])
        bt.append([*others, Fraction(0)])
    g.append([Fraction(int(j == r - 1)) for j in range(r)])
    bt.append(_product(points))
    return Filter(m, r, _frozen(at), _frozen(g), _frozen(bt))


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), the constant one first."""
    result = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *result]
        result = [s - root * c for s, c in zip(shifted, [*result, Fraction(0)], strict=True)]
    return result


def _frozen(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


@frozen
class Step:
    """`out = sum of coefficient * source` over (source, coefficient) terms; sources are inputs or earlier steps."""

    terms: tuple[tuple[int, Fraction], ...]


def linear_program(matrix: Matrix) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """How to multiply a vector by `matrix` with the halves of +-p pairs shared.

    Returns:
        Steps, numbered on from the inputs (the columns), and for each row the number of its step.
    """
    columns = len(matrix[0])
    steps: list[Step] = []

    def add(terms: Sequence[tuple[int, Fraction]]) -> int:
        steps.append(Step(tuple((s, c) for s, c in terms if c)))
        return columns + len(steps) - 1

    rows: list[int | None] = [None] * len(matrix)
    for k, row in enumerate(matrix):
        if rows[k] is not None:
            continue
        mirror = tuple(-c if e % 2 else c for e, c in enumerate(row))
        twin = next((j for j in range(k + 1, len(matrix)) if matrix[j] == mirror), None)
        if twin is None or mirror == row:
            rows[k] = add(list(enumerate(row)))
            continue
        even = add([(e, c) for e, c in enumerate(row) if e % 2 == 0])
        odd = add([(e, c) for e, c in enumerate(row) if e % 2])
        rows[k] = add([(even, Fraction(1)), (odd, Fraction(1))])
        rows[twin] = add([(even, Fraction(1)), (odd, Fraction(-1))])
    return tuple(steps), tuple(r for r in rows if r is not None)


def paired_program(matrix: Matrix) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """The same where the +-p pairs are columns: sums and differences of the two inputs are shared by the rows."""
    columns = list(zip(*matrix, strict=True))
    steps: list[Step] = []
    terms: list[list[tuple[int, Fraction]]] = [[] for _ in matrix]
    done: set[int] = set()
    for k, column in enumerate(columns):
        if k in done:
            continue
        mirror = tuple(-c if e % 2 else c for e, c in enumerate(column))
        twin = next((j for j in range(k + 1, len(columns)) if columns[j] == mirror), None)
        if twin is None or mirror == column:
            for row, c in enumerate(column):
                terms[row].append((k, c))
            continue
        done.add(twin)
        for parity, sign in ((0, 1), (1, -1)):
            steps.append(Step(((k, Fraction(1)), (twin, Fraction(sign)))))
            for row in range(parity, len(matrix), 2):
                terms[row].append((len(columns) + len(steps) - 1, column[row]))
    rows = []
    for parts in terms:
        steps.append(Step(tuple((s, c) for s, c in parts if c)))
        rows.append(len(columns) + len(steps) - 1)
    return tuple(steps), tuple(rows)
