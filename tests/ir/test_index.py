"""Integer expressions against Python's integers: values, bounds, canonical forms."""

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.ir.index import (
    INF,
    Dim,
    Index,
    IndexVar,
    as_dim,
    as_index,
    ceildiv,
    floordiv,
    product,
    rebuild,
    size_var,
    substitute,
)

Env = dict[IndexVar, int]
Pair = tuple[Index, Callable[[Env], int]]
"""An index, and what Python computes for it."""

VARS = [IndexVar("i", 0, 15), IndexVar("j", -7, 7), IndexVar("k", 0, 31), IndexVar("n", 1, INF)]


def leaf() -> st.SearchStrategy[Pair]:
    constant = st.integers(-20, 20).map(lambda c: (as_index(c), lambda env: c))
    variable = st.sampled_from(VARS).map(lambda v: (as_index(v), lambda env: env[v]))
    return st.one_of(constant, variable, variable)


def larger(smaller: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    divisors = st.sampled_from([1, 2, 3, 4, 8, 16])
    factors = st.integers(-16, 16)
    return st.one_of(
        st.tuples(smaller, smaller).map(lambda p: (p[0][0] + p[1][0], lambda e: p[0][1](e) + p[1][1](e))),
        st.tuples(smaller, smaller).map(lambda p: (p[0][0] - p[1][0], lambda e: p[0][1](e) - p[1][1](e))),
        st.tuples(smaller, smaller).map(lambda p: (p[0][0] * p[1][0], lambda e: p[0][1](e) * p[1][1](e))),
        st.tuples(smaller, factors).map(lambda p: (p[0][0] * p[1], lambda e: p[0][1](e) * p[1])),
        st.tuples(smaller, divisors).map(lambda p: (p[0][0] // p[1], lambda e: p[0][1](e) // p[1])),
        st.tuples(smaller, divisors).map(lambda p: (p[0][0] % p[1], lambda e: p[0][1](e) % p[1])),
        st.tuples(smaller, divisors).map(lambda p: (ceildiv(p[0][0], p[1]), lambda e: -(-p[0][1](e) // p[1]))),
    )


PAIRS = st.recursive(leaf(), larger, max_leaves=8)
ENVS = st.fixed_dictionaries({v: st.integers(v.lo, min(v.hi, 100)) for v in VARS})


def value_of(index: Dim, env: Env) -> int:
    found = as_dim(substitute(index, env))
    assert isinstance(found, int)
    return found


@given(PAIRS, ENVS)
@settings(max_examples=500, deadline=None)
def test_values_and_bounds(pair: Pair, env: Env) -> None:
    index, expected = pair
    value = expected(env)
    assert value_of(index, env) == value
    lo, hi = index.bounds
    assert lo <= value <= hi


@given(PAIRS, ENVS, st.sampled_from(VARS))
@settings(max_examples=200, deadline=None)
def test_substitution_in_two_steps(pair: Pair, env: Env, first: IndexVar) -> None:
    index, expected = pair
    assert value_of(substitute(index, {first: env[first]}), env) == expected(env)


@given(PAIRS)
@settings(max_examples=300, deadline=None)
def test_rebuilding_changes_nothing(pair: Pair) -> None:
    index, _ = pair
    assert rebuild(index, lambda atom: None) == index


@given(PAIRS, PAIRS, PAIRS)
@settings(max_examples=200, deadline=None)
def test_sums_are_canonical(a: Pair, b: Pair, c: Pair) -> None:
    x, y, z = a[0], b[0], c[0]
    assert x - x == 0 * x == as_index(0)
    assert x + x == 2 * x
    assert x + y == y + x and hash(x + y) == hash(y + x)
    # Quotients and remainders that belong together are merged in the order in which they meet, so that a sum of more
    # than two is compared by value only (see test_values_and_bounds).
    assume(not any(type(atom).__name__ == "Mod" for v in (x, y, z) for atom, _ in v.terms))
    assert (x + y) + z == x + (y + z)
    assert (x - y) + y == x


@given(PAIRS, st.sampled_from([1, 2, 3, 4, 8, 16]))
@settings(max_examples=300, deadline=None)
def test_quotient_and_remainder_make_the_whole(pair: Pair, divisor: int) -> None:
    index, _ = pair
    whole = index // divisor * divisor + index % divisor
    assert whole == index


SIZES = [IndexVar("n", 1, INF), IndexVar("m", 1, INF)]


def size_pairs() -> st.SearchStrategy[Index]:
    base = st.one_of(st.sampled_from(SIZES).map(as_index), st.integers(-9, 9).map(as_index))
    return st.recursive(
        base,
        lambda s: st.one_of(
            st.tuples(s, s).map(lambda p: p[0] + p[1]),
            st.tuples(s, s).map(lambda p: p[0] * p[1]),
            st.tuples(s, st.integers(1, 9)).map(lambda p: p[0] // p[1]),
            st.tuples(s, st.integers(1, 9)).map(lambda p: p[0] % p[1]),
        ),
        max_leaves=6,
    )


@given(size_pairs())
@settings(max_examples=300, deadline=None)
def test_dimensions_as_text(dim: Index) -> None:
    assume(not dim.is_const)
    plain = [as_index(v) for v in sorted(dim.variables, key=str)]
    x = fw.var("x", shape=(*plain, dim))
    function = fw.Function([x], x)
    fw.analysis.assert_structural_equal(fw.parse_expr(str(function)), function)


def test_what_layouts_need_vanishes() -> None:
    c, v = IndexVar("c", 0, 7), IndexVar("v", 0, 15)
    flat = as_index(c) * 16 + as_index(v)
    assert flat // 16 == as_index(c) and flat % 16 == as_index(v)
    i = as_index(IndexVar("i", 0, 99))
    assert i // 4 // 8 == i // 32 and (4 * i) // 8 == i // 2
    assert (i // 5) * 5 + i % 5 == i and (8 * i + 3) // 4 == 2 * i


def test_text() -> None:
    n, m = size_var("n"), size_var("m")
    assert str(2 * n + 1) == "2*n + 1" and str(n - 1) == "n - 1" and str(as_index(0)) == "0"
    assert str((n - 1) // 2 + 1) == "(n + 1) // 2" and str(n * m) == "m * n"
    assert str(3 * ((n + 1) % 4) - m) == "3*((n + 1) % 4) - 1*m"


def test_known_values_are_integers() -> None:
    n = size_var("n")
    assert as_dim(n - n + 3) == 3 and isinstance(as_dim(n - n + 3), int)
    assert as_dim(n) is n
    assert product([2, 3]) == 6 and product([]) == 1 and product([2, n, 3]) == 6 * n
    assert floordiv(n, n) == as_index(1)


@pytest.mark.parametrize("divisor", [0, -2])
def test_bad_divisors(divisor: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        _ = size_var("n") // divisor
    with pytest.raises(ValueError, match="cannot divide"):
        _ = size_var("n") // size_var("m")


def test_variables_are_the_same_only_as_one_object() -> None:
    n, other = size_var("n"), size_var("n")
    assert n != other and n - other != as_index(0)
    (var,) = n.variables
    assert (2 * n + 1).coeff(var) == 2 and (n // 2).coeff(var) == 0
    assert (n // 2).depends_on(var) and not other.depends_on(var)
