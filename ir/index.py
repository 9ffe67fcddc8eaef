"""Integer expressions in one canonical form: symbolic dimensions of tensors and indices of loops.

Both need the same thing: sums of integer multiples of atoms that compare equal when they mean the same, and that know
their own bounds. An `Index` is `const + sum(coeff * atom)`. An atom is a variable (a loop counter or a symbolic
dimension), a floor-division, a remainder, a product, or an integer read from memory. Floor-division and remainder look
at the bounds, so that `(16*c + v) // 16` is `c` where `v` is known to lie in 0..15, and `i//b*b + i%b` is `i` again;
that is what lets layout changes and reshapes vanish from generated code.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Union

import attrs

INF = 1 << 62
"""Stands for "no upper bound known"; larger than every real extent."""

Dim = Union[int, "Index"]
"""A dimension: a plain integer, or an `Index` over symbolic variables."""


@attrs.frozen(eq=False, repr=False)
class IndexVar:
    """An integer variable with inclusive bounds `lo..hi`; two variables are the same only if they are one object."""

    name: str
    lo: int = 0
    hi: int = INF

    @property
    def bounds(self) -> tuple[int, int]:
        """Inclusive bounds."""
        return self.lo, self.hi

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


@attrs.frozen(cache_hash=True)
class FloorDiv:
    """The atom `value // divisor` (divisor > 0, rounding down)."""

    value: "Index"
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Inclusive bounds."""
        lo, hi = self.value.bounds
        return lo // self.divisor, hi if hi >= INF else hi // self.divisor

    def __str__(self) -> str:
        return f"{self.value.operand_text()} // {self.divisor}"


@attrs.frozen(cache_hash=True)
class Mod:
    """The atom `value % divisor` (divisor > 0, result in 0..divisor-1)."""

    value: "Index"
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Inclusive bounds."""
        return 0, self.divisor - 1

    def __str__(self) -> str:
        return f"{self.value.operand_text()} % {self.divisor}"


@attrs.frozen(cache_hash=True)
class Product:
    """The atom `a * b` where neither factor is constant (symbolic dimensions only)."""

    a: "Index"
    b: "Index"

    @property
    def bounds(self) -> tuple[int, int]:
        """Inclusive bounds."""
        corners = [x * y for x in self.a.bounds for y in self.b.bounds]
        return max(min(corners), -INF), min(max(corners), INF)

    def __str__(self) -> str:
        return f"{self.a.operand_text()} * {self.b.operand_text()}"


@attrs.frozen(cache_hash=True)
class ValueAtom:
    """An integer that a scalar expression computes (an index read from a tensor), kept within `lo..hi` by its maker."""

    value: Any
    lo: int
    hi: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Inclusive bounds."""
        return self.lo, self.hi

    def __str__(self) -> str:
        return f"[{self.value}]"


Atom = IndexVar | FloorDiv | Mod | Product | ValueAtom


@attrs.frozen(cache_hash=True, repr=False, order=False)
class Index:
    """`const + sum(coeff * atom for atom, coeff in terms)` in canonical form; made by arithmetic operators."""

    terms: frozenset[tuple[Atom, int]] = frozenset()
    const: int = 0

    dtype = "index"
    lanes = 1

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """Inclusive bounds, by interval arithmetic over the atoms."""
        lo = hi = self.const
        for atom, coeff in self.terms:
            a, b = atom.bounds
            low, high = (a * coeff, b * coeff) if coeff > 0 else (b * coeff, a * coeff)
            lo, hi = lo + low, hi + high
        return max(lo, -INF), min(hi, INF)

    @property
    def is_const(self) -> bool:
        """Whether the value is a known integer."""
        return not self.terms

    def sorted_terms(self) -> list[tuple[Atom, int]]:
        """Terms by falling coefficient, then by text: the order of printing and of generated code."""
        return sorted(self.terms, key=lambda term: (-abs(term[1]), -term[1], str(term[0])))

    def coeff(self, var: IndexVar) -> int:
        """The coefficient of `var` as a plain linear term (0 where it is absent)."""
        return next((c for atom, c in self.terms if atom is var), 0)

    def depends_on(self, var: IndexVar) -> bool:
        """Whether `var` occurs anywhere, also inside divisions and remainders."""
        return var in self.variables

    @cached_property
    def variables(self) -> frozenset[IndexVar]:
        """Every variable that occurs."""
        found: set[IndexVar] = set()
        for atom, _ in self.terms:
            match atom:
                case IndexVar():
                    found.add(atom)
                case FloorDiv(value=value) | Mod(value=value):
                    found |= value.variables
                case Product(a=a, b=b):
                    found |= a.variables | b.variables
        return frozenset(found)

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """The scalar expressions that occur as `ValueAtom`s, also inside divisions and remainders."""
        found: list[Any] = []
        for atom, _ in self.sorted_terms():
            match atom:
                case ValueAtom(value=value):
                    found.append(value)
                case FloorDiv(value=inner) | Mod(value=inner):
                    found.extend(inner.values)
        return tuple(found)

    def __add__(self, other: Dim) -> "Index":
        other = as_index(other)
        if not other.terms:
            return Index(self.terms, self.const + other.const) if other.const else self
        if not self.terms:
            return Index(other.terms, self.const + other.const)
        sums: dict[Atom, int] = dict(self.terms)
        for atom, coeff in other.terms:
            sums[atom] = sums.get(atom, 0) + coeff
        return _recombine(sums, self.const + other.const)

    __radd__ = __add__

    def __neg__(self) -> "Index":
        return self * -1

    def __sub__(self, other: Dim) -> "Index":
        return self + as_index(other) * -1

    def __rsub__(self, other: Dim) -> "Index":
        return self * -1 + other

    def __mul__(self, other: Dim) -> "Index":
        other = as_index(other)
        if other.is_const:
            factor = other.const
            if factor == 1:
                return self
            return Index(
                frozenset((a, c * factor) for a, c in self.terms) if factor else frozenset(), self.const * factor
            )
        if self.is_const:
            return other * self.const
        first, second = sorted((self, other), key=str)
        return Index(frozenset([(Product(first, second), 1)]))

    __rmul__ = __mul__

    def __floordiv__(self, divisor: Dim) -> "Index":
        return floordiv(self, divisor)

    def __mod__(self, divisor: Dim) -> "Index":
        divisor = as_index(divisor)
        return self - floordiv(self, divisor) * divisor if not divisor.is_const else _mod(self, divisor.const)

    def __str__(self) -> str:
        parts = []
        for atom, coeff in self.sorted_terms():
            text = str(atom)
            if coeff != 1 and not isinstance(atom, IndexVar | ValueAtom):
                text = f"({text})"
            parts.append(text if coeff == 1 else f"{coeff}*{text}")
        if self.const or not parts:
            parts.append(str(self.const))
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__

    @property
    def is_var(self) -> bool:
        """Whether this is one variable and nothing else."""
        return (
            not self.const and len(self.terms) == 1 and all(isinstance(a, IndexVar) and c == 1 for a, c in self.terms)
        )

    def operand_text(self) -> str:
        """As text that any operator can stand beside."""
        return str(self) if self.is_var or (self.is_const and self.const >= 0) else f"({self})"


def as_index(value: Dim | IndexVar) -> Index:
    """`value` as an `Index`."""
    if isinstance(value, Index):
        return value
    if isinstance(value, IndexVar):
        return Index(frozenset([(value, 1)]))
    return Index(const=int(value))


def as_dim(value: Dim) -> Dim:
    """A plain int where the value is known, else the `Index` itself."""
    return value.const if isinstance(value, Index) and value.is_const else value


def size_var(name: str) -> Index:
    """A symbolic dimension (at least 1), to be bound to a number when the program is built."""
    return as_index(IndexVar(name, 1, INF))


def floordiv(value: Dim, divisor: Dim) -> Index:
    """`value // divisor`, rounding down, for a positive divisor."""
    value, divisor = as_index(value), as_index(divisor)
    if not divisor.is_const:
        if value == divisor:
            return as_index(1)
        raise ValueError(f"cannot divide {value} by the symbolic {divisor}")
    d = divisor.const
    if d <= 0:
        raise ValueError(f"cannot divide {value} by {d}: the divisor must be positive")
    if d == 1:
        return value
    quotient, rest = _split(value, d)
    lo, hi = rest.bounds
    if lo // d == hi // d:
        return quotient + lo // d
    # (g*a + c) // (g*d) is (a + c//g) // d, and (a // x) // y is a // (x*y).
    common = math.gcd(d, *(c for _, c in rest.terms))
    if common > 1:
        scaled = Index(frozenset((a, c // common) for a, c in rest.terms), rest.const // common)
        return quotient + floordiv(scaled, d // common)
    if len(rest.terms) == 1 and not rest.const:
        ((atom, coeff),) = rest.terms
        if coeff == 1 and isinstance(atom, FloorDiv):
            return quotient + floordiv(atom.value, atom.divisor * d)
    return quotient + Index(frozenset([(FloorDiv(rest, d), 1)]))


def ceildiv(value: Dim, divisor: int) -> Index:
    """`value // divisor`, rounding up."""
    return floordiv(as_index(value) + (divisor - 1), divisor)


def _mod(value: Index, d: int) -> Index:
    _, rest = _split(value, d)
    lo, hi = rest.bounds
    if lo // d == hi // d:
        return rest - lo // d * d
    common = math.gcd(d, *(c for _, c in rest.terms))
    if common > 1:
        scaled = Index(frozenset((a, c // common) for a, c in rest.terms), rest.const // common)
        return _mod(scaled, d // common) * common + rest.const % common
    return Index(frozenset([(Mod(rest, d), 1)]))


def _split(value: Index, d: int) -> tuple[Index, Index]:
    """`(q, r)` with `value == q * d + r`, where q takes every term that d divides."""
    whole = frozenset((a, c // d) for a, c in value.terms if c % d == 0)
    rest = frozenset((a, c) for a, c in value.terms if c % d != 0)
    return Index(whole, value.const // d), Index(rest, value.const % d)


def _recombine(sums: dict[Atom, int], const: int) -> Index:
    """Drop zero terms and turn `c*d*(e // d) + c*(e % d)` back into `c*e`."""
    for atom in [a for a in sums if isinstance(a, Mod)]:
        coeff = sums.get(atom, 0)
        if not coeff or not isinstance(atom, Mod):
            continue
        quotient = floordiv(atom.value, atom.divisor)
        if len(quotient.terms) != 1 or quotient.const:
            continue
        ((partner, one),) = quotient.terms
        if one == 1 and sums.get(partner) == coeff * atom.divisor:
            del sums[atom], sums[partner]
            return Index(frozenset((a, c) for a, c in sums.items() if c), const) + atom.value * coeff
    return Index(frozenset((a, c) for a, c in sums.items() if c), const)


def substitute(value: Dim, bind: Mapping[IndexVar, Dim]) -> Index:
    """`value` with every variable of `bind` replaced."""
    value = as_index(value)
    if not (value.variables & bind.keys()):
        return value
    return rebuild(value, lambda atom: as_index(bind[atom]) if isinstance(atom, IndexVar) and atom in bind else None)


def rebuild(value: Index, leaf: Callable[[Atom], Index | None]) -> Index:
    """`value` with each atom for which `leaf` gives an index replaced by that index, simplified again."""
    total = as_index(value.const)
    for atom, coeff in value.sorted_terms():
        new = leaf(atom)
        if new is None:
            match atom:
                case FloorDiv(value=inner, divisor=d):
                    new = floordiv(rebuild(inner, leaf), d)
                case Mod(value=inner, divisor=d):
                    new = rebuild(inner, leaf) % d
                case Product(a=a, b=b):
                    new = rebuild(a, leaf) * rebuild(b, leaf)
                case _:
                    new = Index(frozenset([(atom, 1)]))
        total = total + new * coeff
    return total


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions: an int where all are known."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return as_dim(total)
