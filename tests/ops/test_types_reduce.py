"""Type rules, builders and corner values of reductions and scans."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Call, Expr, var
from fusewire.ir.index import size_var
from fusewire.ir.tuple_wrapper import TupleWrapper
from fusewire.ir.types import TensorType
from fusewire.ops import reduce, scan, statistics
from fusewire.ops.spec import OpSpec, all_specs, spec_of
from tests.check import check_lowering
from tests.interpret import interpret_call

N = size_var("n")
SPECS = [spec for spec in all_specs() if spec.builder.__module__ in {m.__name__ for m in (reduce, scan, statistics)}]


def x(*shape: object, dtype: str = "float32") -> Expr:
    return var("x", shape=shape, dtype=dtype)


def run(call: Expr, array: object) -> Any:
    assert isinstance(call, Call)
    (result,) = interpret_call(spec_of(call), call.attrs, [np.asarray(array)], [arg.checked_type for arg in call.args])
    return result


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_lowering_agrees_with_the_reference(spec: OpSpec) -> None:
    rng = np.random.default_rng(sum(map(ord, spec.name)))
    for dtype in spec.dtypes:
        for _ in range(6):
            call = check_lowering(spec, dtype, rng)
            again = spec.build(*call.args, **call.attrs)
            assert again.attrs == call.attrs


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_builder_is_a_documented_module_attribute(spec: OpSpec) -> None:
    assert getattr(inspect.getmodule(spec.builder), spec.name) is spec.builder
    assert spec.doc and all(name + ":" in (spec.builder.__doc__ or "") for name in spec.signature.parameters)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (reduce.sum(x(2, 3)), TensorType(())),
        (reduce.sum(x(2, 3), keepdims=True), TensorType((1, 1))),
        (reduce.sum(x(2, 3), axis=1), TensorType((2,))),
        (reduce.sum(x(2, 3, 4), axis=[-1, 0]), TensorType((3,))),
        (reduce.sum(x(2, 3, 4), axis=(0, -1), keepdims=True), TensorType((1, 3, 1))),
        (reduce.sum(x(2, 3, 4), axis=1, exclude=True), TensorType((3,))),
        (reduce.sum(x(2, 3, 4), axis=[-1], keepdims=True, exclude=True), TensorType((1, 1, 4))),
        (reduce.sum(x(2, 3), axis=[0, 1], exclude=True), TensorType((2, 3))),
        (reduce.sum(x(2, 3), axis=[]), TensorType(())),
        (reduce.sum(x()), TensorType(())),
        (reduce.mean(x(N, 3), axis=1), TensorType((N,))),
        (reduce.mean(x(2, dtype="int8")), TensorType((), "int8")),
        (reduce.max(x(2, dtype="bool")), TensorType((), "bool")),
        (reduce.argmax(x(2, N), axis=0), TensorType((N,), "int32")),
        (reduce.argmin(x(2, dtype="int64"), keepdims=True), TensorType((1,), "int32")),
        (statistics.variance(x(2, 3), axis=0), TensorType((3,))),
        (statistics.variance(x(2, 3), axis=0, unbiased=True, with_mean=x(1, 3)), TensorType((3,))),
        (statistics.std(x(2, 3), axis=0, keepdims=True), TensorType((1, 3))),
        (statistics.logsumexp(x(2, 3), axis=-1), TensorType((2,))),
        (scan.cumsum(x(2, N), axis=1), TensorType((2, N))),
        (scan.cumsum(x(2, 3)), TensorType((6,))),
        (scan.cumsum(x(2, N)), TensorType((2 * N,))),
        (scan.cumsum(x(2, dtype="bool"), 0, "int32"), TensorType((2,), "int32")),
        (scan.cumprod(x(dtype="int8")), TensorType((1,), "int8")),
    ],
)
def test_result_types(call: Expr, expected: TensorType) -> None:
    assert call.checked_type == expected


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: reduce.sum(x(2, 3), axis=2), "axis 2 is out of range for a tensor of 2 dimensions"),
        (lambda: reduce.sum(x(), axis=0), "axis 0 is out of range"),
        (lambda: reduce.sum(x(2, 3), axis=[1, -1]), r"axis \[1, -1\] names an axis of a tensor of 2 dimensions twice"),
        (lambda: reduce.sum(x(2, 3), exclude=True), "exclude=True needs the axes to keep"),
        (lambda: reduce.sum(x(2, dtype="bool")), "has dtype bool, expected a number"),
        (lambda: reduce.all(x(2)), "has dtype float32, expected bool"),
        (lambda: reduce.argmax(x(2, 0), axis=1), "no place to name among no elements"),
        (lambda: statistics.variance(x(2, dtype="int32")), "has dtype int32, expected a floating type"),
        (lambda: statistics.variance(x(N), unbiased=True, with_mean=x(1)), "need a static shape"),
        (lambda: statistics.logsumexp(x(2, dtype="int32")), "expected a floating type"),
        (lambda: scan.cumsum(x(2, 3), axis=2), "axis 2 is out of range"),
        (lambda: scan.cumsum(x(2, dtype="bool")), "cannot accumulate in bool"),
        (lambda: scan.cumprod(x(2), dtype="int7"), "unknown dtype"),
    ],
)
def test_errors(build: Callable[[], Expr], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (reduce.sum, 0),
        (reduce.prod, 1),
        (reduce.max, -math.inf),
        (reduce.min, math.inf),
        (reduce.mean, math.nan),
        (statistics.variance, math.nan),
        (statistics.logsumexp, -math.inf),
    ],
)
def test_a_reduction_of_nothing_gives_what_it_starts_from(build: Callable[..., Expr], expected: float) -> None:
    np.testing.assert_array_equal(run(build(x(2, 0), axis=1), np.zeros((2, 0))), [expected] * 2)


@pytest.mark.parametrize("build", [reduce.argmax, reduce.argmin])
def test_places_of_nan_and_of_equal_elements(build: Callable[..., Expr]) -> None:
    assert run(build(x(4)), [1, math.nan, math.nan, 0]) == 1
    assert run(build(x(4), select_last_index=True), [1, math.nan, math.nan, 0]) == 2
    assert run(build(x(3)), [2, 2, 2]) == 0
    assert run(build(x(3), select_last_index=True), [2, 2, 2]) == 2


def test_places_are_counted_over_the_axes_in_ascending_order() -> None:
    values = np.random.default_rng(0).permutation(24).reshape(2, 3, 4).astype(np.float32)
    expected = values.transpose(1, 0, 2).reshape(3, 8).argmax(1)
    np.testing.assert_array_equal(run(reduce.argmax(x(2, 3, 4), axis=[2, 0]), values), expected)


def test_nan_wins_in_max_and_min() -> None:
    for build in (reduce.max, reduce.min):
        assert np.isnan(run(build(x(3)), [1, math.nan, 2]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1000.0, 1000.0], 1000 + math.log(2)),
        ([-1000.0, -1000.0], -1000 + math.log(2)),
        ([-math.inf, -math.inf], -math.inf),
        ([-math.inf, 3.0], 3.0),
        ([math.inf, 3.0], math.inf),
        ([math.nan, 3.0], math.nan),
    ],
)
def test_logsumexp_neither_overflows_nor_invents_nan(values: list[float], expected: float) -> None:
    np.testing.assert_allclose(run(statistics.logsumexp(x(2)), values), expected, rtol=1e-6)


def test_variance_does_not_cancel_digits_of_a_large_mean() -> None:
    values = np.float32(10_000) + np.array([1, 2, 3, 4], np.float32)
    np.testing.assert_allclose(run(statistics.variance(x(4)), values), 1.25)
    np.testing.assert_allclose(run(statistics.variance(x(4), unbiased=True), values), 5 / 3, rtol=1e-6)


def test_the_mean_of_integers_is_rounded_towards_zero_and_does_not_wrap() -> None:
    assert run(reduce.mean(x(2, dtype="int32")), [-2, -1]) == -1
    assert run(reduce.mean(x(3, dtype="int8")), [120, 120, 121]) == 120


def test_float16_is_summed_in_float32() -> None:
    assert run(reduce.sum(x(3000, dtype="float16")), np.ones(3000)) == 3000


def test_mean_variance_and_mean_std_give_two_results() -> None:
    for pair in (statistics.mean_variance(x(2, 3), 1), statistics.mean_std(x(2, 3), 1)):
        assert isinstance(pair, TupleWrapper)
        first, second = pair
        assert first.checked_type == second.checked_type == TensorType((2,))


def test_an_exclusive_scan_leaves_out_its_own_element() -> None:
    np.testing.assert_array_equal(run(scan.cumsum(x(4), exclusive=True), [1, 2, 3, 4]), [0, 1, 3, 6])
    np.testing.assert_array_equal(run(scan.cumprod(x(4), exclusive=True), [1, 2, 3, 4]), [1, 1, 2, 6])
