"""What GPUs do in one instruction and loop IR says in plain statements: copies to local memory that go on beside other
work, and products of small matrices by a warp.

A loop of kind "mma" has as its body what one item does, four sums of a 16 x 8 tile:

    for k in 0..K-1:
      acc0 += a[row, k] * b[k, column]           row = m0 + g, column = n0 + 2 t   for item 4 g + t of the warp
      acc1 += a[row, k] * b[k, column + 1]
      acc2 += a[row + 8, k] * b[k, column]
      acc3 += a[row + 8, k] * b[k, column + 1]

That is its meaning in every language; the items' sums are a tile as PTX's mma.m16n8 has it (PTX ISA, section "Matrix
fragments for mma"). Where a dialect has a function for it, the places of the factors and how they lie in memory are
read off the body.
"""

import math
from collections.abc import Callable

from attrs import frozen

from ..ir.errors import VerifyError
from ..ir.index import Index, substitute
from ..ir.loops import For, Store
from ..ir.scalar import Apply, Buffer, Const, Load, Scalar, Value
from .prelude import Prelude, width
from .prove import alignment

TERMS = {"float32": 8, "float16": 16, "bfloat16": 16}
"""Terms that a loop of kind "mma" has, by the type of the factors."""

COPIED = (4, 8, 16)
"""Bytes that can be copied at once to local memory beside other work."""


@frozen(eq=False)
class Copy:
    """`ends[0] = ends[1] if cond else 0`, of `nbytes` at either end, which are a multiple of as many."""

    ends: tuple[tuple[Buffer, tuple[Index, ...]], tuple[Buffer, tuple[Index, ...]]]
    cond: Value
    nbytes: int


def async_copy(stmt: object) -> Copy | None:
    """A store to local memory that may be late, if it is a plain copy of memory, or of zeros."""
    if not isinstance(stmt, Store) or stmt.buffer.scope != "local":
        return None
    if not isinstance(stmt.value, Apply) or stmt.value.fn != "async":
        return None
    load: Scalar = stmt.value.args[0]
    cond: Scalar = Const(True, "bool")
    if isinstance(load, Apply) and load.fn == "select":
        cond, load, zero = load.args
        if not isinstance(_plain(zero), Const) or _plain(zero).value != 0:  # type: ignore[union-attr]
            return None
    if not isinstance(load, Load) or load.buffer.scope != "param" or load.buffer.source or not isinstance(cond, Value):
        return None
    nbytes = load.lanes * width(load.dtype)
    ends = (stmt.buffer, stmt.index), (load.buffer, load.index)
    if nbytes not in COPIED or load.dtype == "bool" or any(alignment(b, i, load.lanes) < nbytes for b, i in ends):
        return None
    return Copy(ends, cond, nbytes)


def _plain(value: Scalar) -> Scalar:
    """What is in every lane, or converted."""
    while isinstance(value, Apply) and value.fn in ("splat", "cast"):
        (value,) = value.args
    return value


@frozen(eq=False)
class MatrixProduct:
    """A loop of kind "mma".

    Attributes:
        dtype: of the factors.
        sums: the registers that are added to.
        a, b: the item's first place in either factor.
        strides: elements between rows of a, its terms, terms of b, and its columns.
    """

    dtype: str
    sums: tuple[tuple[Buffer, int], ...]
    a: tuple[Buffer, Index]
    b: tuple[Buffer, Index]
    strides: tuple[int, int, int, int]


def matrix_product(loop: For) -> MatrixProduct:
    """The product that a loop of kind "mma" is.

    Raises:
        VerifyError: its body is not of that form.
    """
    found = [_term(stmt) for stmt in loop.body]
    if len(found) != 4 or loop.extent != TERMS.get(found[0][1].dtype):
        raise VerifyError(f"loop {loop.var.name} of kind mma is not a product of 16 x 8 sums")
    first, second, third, fourth = found
    places = [(a.buffer.offset(a.index), b.buffer.offset(b.index)) for _, a, b in found]
    down, right = places[2][0] - places[0][0], places[1][1] - places[0][1]
    across = places[0][0].coeff(loop.var), places[0][1].coeff(loop.var)
    same = places[1][0] == places[0][0] and places[3] == (places[2][0], places[1][1]) and places[2][1] == places[0][1]
    one = len({(a.buffer, b.buffer, a.dtype, b.dtype) for _, a, b in found}) == 1 and first[1].dtype == first[2].dtype
    if not (same and one and down.is_const and right.is_const and down.const % 8 == 0):
        raise VerifyError(f"the factors of loop {loop.var.name} of kind mma do not lie as those of a matrix product")
    start = {loop.var: Index()}
    ends = [substitute(i, start) for i in places[0]]
    sums = tuple((acc, place.const) for (acc, place), _, _ in (first, second, third, fourth))
    a, b = first[1].buffer, first[2].buffer
    for buffer, place, step in ((a, ends[0], across[0]), (b, ends[1], across[1])):
        if width(buffer.dtype) == 2 and step == 1 and _aligned(place) % 2:
            raise VerifyError(f"pairs of terms in {buffer.name} do not lie at even places")
    return MatrixProduct(
        first[1].dtype, sums, (a, ends[0]), (b, ends[1]), (down.const // 8, across[0], across[1], right.const)
    )


def _aligned(offset: Index) -> int:
    """Of how many elements an offset is a multiple."""
    return math.gcd(offset.const, *(coeff for _, coeff in offset.terms))


def _term(stmt: object) -> tuple[tuple[Buffer, Index], Load, Load]:
    """The register that a statement adds a product to, and the factors."""
    if isinstance(stmt, Store) and isinstance(stmt.value, Apply) and stmt.value.fn == "fma":
        a, b, old = stmt.value.args
        a, b = (v.args[0] if isinstance(v, Apply) and v.fn == "cast" else v for v in (a, b))
        place = stmt.buffer.offset(stmt.index)
        if not (isinstance(a, Load) and isinstance(b, Load) and isinstance(old, Load)):
            raise VerifyError("a loop of kind mma multiplies what it loads")
        if place.is_const and old.buffer is stmt.buffer and old.buffer.offset(old.index) == place:
            return (stmt.buffer, place), a, b
    raise VerifyError("a loop of kind mma adds products of two loads to registers, and does nothing else")


def product_call(product: MatrixProduct, prelude: Prelude, index: Callable[[Index], str]) -> str:
    """The statement that computes a product by the dialect's function."""
    name = f"fw_mma_{product.dtype}"
    prelude.helper(name, prelude.dialect.matrix[product.dtype])
    sums = [f"{acc.name}_{place}" for acc, place in product.sums]
    ends = [f"&{buffer.name}[{index(place)}]" for buffer, place in (product.a, product.b)]
    return f"{name}<{', '.join(map(str, product.strides))}>({', '.join([*sums, *ends])});"
