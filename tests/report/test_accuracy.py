"""Errors against float64."""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusewire as fw
from fusewire.report.accuracy import BINS, accuracy, follow, histogram, reference
from fusewire.report.collect import edges_of
from fusewire.report.data import Accuracy
from tests.random_graphs import random_graph
from tests.report.samples import FUSED, UNFUSED, built, data, network

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


def of(got: Any, wanted: Any, dtype: Any = np.float32, rtol: float = 1e-3, atol: float = 1e-5) -> Accuracy:
    return accuracy(np.asarray(got, dtype), np.asarray(wanted), rtol, atol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_costs_at_most_half_a_unit(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=2000) * 10.0 ** rng.integers(-6, 4, 2000)
    if dtype is np.float64:
        return
    error = accuracy(exact.astype(dtype), exact, 0, 0)
    assert error.max_ulp is not None and 0.4 < error.max_ulp <= 0.5
    assert error.histogram[0] + error.histogram[1] == 2000 == sum(error.histogram)


@given(st.floats(-(2.0**127), 2.0**127, width=32), st.integers(0, 40))
def test_neighbours_are_one_unit_apart(value: float, steps: int) -> None:
    """np.nextafter goes from number to number; units are those of the reference, so binades may change between."""
    start = got = np.float32(value)
    for _ in range(steps):
        got = np.nextafter(got, np.float32(np.inf) if value <= 0 else np.float32(0), dtype=np.float32)
    error = of([got], [float(start)])
    size = abs(np.spacing(start).astype(np.float64)) if start else float(np.finfo(np.float32).smallest_subnormal)
    assert error.max_abs == float(abs(Fraction(float(got)) - Fraction(float(start))))
    assert error.max_ulp == pytest.approx(error.max_abs / size)


def test_figures_of_a_tensor() -> None:
    error = of([[1.0, -2.0], [0.0, 4.5]], [[1.0, -2.5], [0.0, 4.0]])
    assert (error.max_abs, error.max_rel, error.scaled) == (0.5, 0.2, 0.125)
    assert (error.worst, error.value, error.reference) == ((0, 1), -2.0, -2.5)
    assert (error.beyond, error.size, error.histogram[0], error.histogram[-1]) == (2, 4, 2, 2)


def test_what_is_no_number() -> None:
    nan, inf = math.nan, math.inf
    assert of([nan, inf, -inf], [nan, inf, -inf]).max_abs == 0
    assert of([inf], [1e300]).max_abs == 0, "1e300 is infinite in float32"
    for got, wanted in ((nan, 1.0), (1.0, nan), (inf, 1.0), (inf, -inf)):
        error = of([got], [wanted])
        assert error.max_abs == inf and error.beyond == 1 and error.histogram[-1] == 1
    assert accuracy(np.array([1, 4.5], np.float32), np.array([1.2, 4]), 0, 0, 0.125).beyond == 0
    assert of([], []).size == 0 and of(1.5, 1.5).worst == ()


def test_integers_and_booleans() -> None:
    error = accuracy(np.array([1, 2, 2**62], np.int64), np.array([1, 3, 2**62], np.int64), 0, 0)
    assert (error.max_abs, error.max_ulp, error.beyond) == (1, None, 1)
    assert accuracy(np.array([True, False]), np.array([True, True]), 0, 0).beyond == 1


def test_histogram() -> None:
    counts = histogram(np.array([0, 0.1, 0.5, 0.6, 1, 2, 3, math.inf]))
    assert len(counts) == len(BINS) + 1
    assert counts[:6] == (1, 2, 2, 1, 1, 0) and counts[-1] == 1


def test_reference_is_the_model_before_any_pass() -> None:
    function, inputs = random_graph(3)
    results = reference(fw.IRModule.from_expr(function), {}, inputs)
    assert all(r.dtype == np.float64 for r in results)
    given_ = built(function, FUSED)(**inputs)
    for got, wanted in zip(given_ if isinstance(given_, list) else [given_], results, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def nested() -> fw.TupleType:
    return fw.TupleType([fw.TensorType((1,)), fw.TensorType((2,))])


@pytest.mark.parametrize("how", [FUSED, UNFUSED])
def test_every_group_is_followed(how: dict[str, Any]) -> None:
    library = built(network(), how)
    module = fw.GraphModule(library["default"](fw.cpu(0)))
    errors = follow(module, {"data": data()}, 1e-3, 1e-5)
    assert list(errors) == [s.name for s in library.program.leaf_steps()]
    assert all(0 <= e.scaled < 1e-6 and e.beyond == 0 for e in errors.values())
    assert any(e.scaled > 0 for e in errors.values())


def test_a_wrong_kernel_shows_where_it_runs() -> None:
    """The second convolution gets wrong packed weights: its group is wrong, and what comes behind."""
    library = built(network(), FUSED)
    names = [s.name for s in library.program.leaf_steps()]
    wrong = library.code.of(library.program.leaf_steps()[1])  # type: ignore[arg-type]
    slot = next(s for s in wrong.inputs if s in library.code.packed)
    library.code.packed[slot] = library.code.packed[slot] + np.float32(0.01)
    module = fw.GraphModule(library["default"](fw.cpu(0)))
    errors = follow(module, {"data": data()}, 1e-3, 1e-5)
    assert [errors[n].scaled > 1e-4 for n in names] == [False, True, True, True]


def test_branches_tuples_and_copies() -> None:
    x, t = fw.var("x", shape=(3,)), fw.var("t", nested())
    choice = fw.If(fw.less(fw.sum(x), fw.const(0.0)), fw.exp(x), fw.tanh(x))
    function = fw.Function([x, t], fw.Tuple([choice, x, fw.add(t[0], fw.const(1.0)), t[1]]))
    module = fw.GraphModule(built(function, FUSED)["default"](fw.cpu(0)))
    pair = (np.ones(1, "float32"), np.ones(2, "float32"))
    errors = follow(module, {"x": np.full(3, 0.5, "float32"), "t": pair}, 1e-3, 1e-5)
    assert any("tanh" in name for name in errors) and not any("exp" in name for name in errors)
    assert max(e.scaled for e in errors.values()) < 1e-6


def test_tensors_that_are_others_in_another_shape() -> None:
    """A reshape between two groups is no step: the second group reads the memory of the first."""
    x = fw.var("x", shape=(4, 6))
    net = fw.reshape(fw.nn.softmax(x), newshape=(6, 4))
    library = built(fw.Function([x], fw.Tuple([fw.nn.softmax(net), net])), FUSED)
    assert library.program.views and len(library.program.leaf_steps()) == 2
    errors = follow(fw.GraphModule(library["default"](fw.cpu(0))), {"x": data((4, 6))}, 1e-3, 1e-5)
    assert len(errors) == 2 and all(e.scaled < 1e-6 for e in errors.values())
    assert set(edges_of(library.program)) == {
        (("in", 0), ("group", 0)), (("group", 0), ("group", 1)), (("group", 1), ("out", 0)), (("group", 0), ("out", 1)),
    }  # fmt: skip
