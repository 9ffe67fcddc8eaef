"""Type rules, builders and corner values of the elementwise operators and of those that make tensors."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Call, Constant, Expr, const, var
from fusewire.ir.index import as_index, size_var
from fusewire.ir.types import TensorType
from fusewire.ops import binary, create, unary
from fusewire.ops.spec import OpSpec, all_specs, spec_of
from tests.check import check_lowering
from tests.interpret import interpret_call

N = size_var("n")
SPECS = [spec for spec in all_specs() if spec.builder.__module__ in {m.__name__ for m in (unary, binary, create)}]


def x(*shape: object, dtype: str = "float32") -> Any:
    return var("x", shape=shape, dtype=dtype)


def run(call: Expr, *arrays: object) -> Any:
    """The result of a call with one output, interpreted; its constants are inputs too."""
    assert isinstance(call, Call)
    given = iter(arrays)
    inputs = [arg.data if isinstance(arg, Constant) else np.asarray(next(given)) for arg in call.args]
    (result,) = interpret_call(spec_of(call), call.attrs, inputs, [arg.checked_type for arg in call.args])
    return result


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_lowering_agrees_with_the_reference(spec: OpSpec) -> None:
    rng = np.random.default_rng(sum(map(ord, spec.name)))
    for dtype in spec.dtypes:
        for _ in range(3):
            call = check_lowering(spec, dtype, rng)
            again = spec.build(*call.args, **call.attrs)
            assert again.attrs == call.attrs


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_builder_is_a_documented_module_attribute(spec: OpSpec) -> None:
    module = inspect.getmodule(spec.builder)
    assert getattr(module, spec.name) is spec.builder
    assert spec.builder.__name__ == spec.name
    assert spec.doc and "Args:" in (spec.builder.__doc__ or "")
    assert all(p.annotation is not inspect.Parameter.empty for p in spec.signature.parameters.values())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (unary.exp(x(2, 3)), TensorType((2, 3), "float32")),
        (unary.exp(x(N, dtype="bfloat16")), TensorType((N,), "bfloat16")),
        (unary.floor(x(4, dtype="int64")), TensorType((4,), "int64")),
        (unary.isnan(x(2, dtype="int32")), TensorType((2,), "bool")),
        (unary.cast(x(N, 2), "int8"), TensorType((N, 2), "int8")),
        (unary.reinterpret(x(2), "uint32"), TensorType((2,), "uint32")),
        (unary.clip(x(2, dtype="uint8"), 0, 6), TensorType((2,), "uint8")),
        (unary.copy(x(dtype="bool")), TensorType((), "bool")),
        (binary.add(x(2, 1, 4), x(3, 1)), TensorType((2, 3, 4))),
        (binary.add(x(N, 1), x(1, 3)), TensorType((N, 3))),
        (binary.add(x(N), x(N)), TensorType((N,))),
        (binary.add(x(0), x(1)), TensorType((0,))),
        (binary.add(x(2, dtype="int32"), 1), TensorType((2,), "int32")),
        (binary.less(x(2), x()), TensorType((2,), "bool")),
        (binary.bitwise_and(x(2, dtype="bool"), x(2, dtype="bool")), TensorType((2,), "bool")),
        (binary.where(x(3, 1, dtype="bool"), x(2), x()), TensorType((3, 2))),
        (binary.where(x(2, dtype="int32"), x(2), x(2)), TensorType((2,))),
        (create.zeros((2, N), "int32"), TensorType((2, N), "int32")),
        (create.zeros(N + 1, "int32"), TensorType((N + 1,), "int32")),
        (create.ones(3, "bool"), TensorType((3,), "bool")),
        (create.ones(const([2, 3], "int64"), "float16"), TensorType((2, 3), "float16")),
        (create.zeros_like(x(2, dtype="bool")), TensorType((2,), "bool")),
        (create.full(2), TensorType((), "int32")),
        (create.full(const(2.0), (2, 2)), TensorType((2, 2), "float32")),
        (create.full(2, (2, N), "float64"), TensorType((2, N), "float64")),
        (create.full_like(x(2), const(3)), TensorType((2,), "float32")),
        (create.arange(5), TensorType((5,), "float32")),
        (create.arange(1, 2, 0.25), TensorType((4,), "float32")),
        (create.arange(const(7), const(0), const(-2), dtype="int64"), TensorType((4,), "int64")),
        (create.arange(3, 3, dtype="int8"), TensorType((0,), "int8")),
        (create.arange(3, 0), TensorType((0,), "float32")),
    ],
)
def test_result_types(call: Expr, expected: TensorType) -> None:
    assert call.checked_type == expected


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: unary.exp(x(2, dtype="int32")), "has dtype int32, expected a floating type"),
        (lambda: unary.negative(x(2, dtype="bool")), "has dtype bool, expected a number"),
        (lambda: unary.logical_not(x(2)), "has dtype float32, expected bool"),
        (lambda: unary.bitwise_not(x(2)), "expected an integer or bool"),
        (lambda: unary.clip(x(2), math.nan, 1), "the bounds must be numbers"),
        (lambda: unary.cast(x(2), "int7"), "unknown dtype 'int7'"),
        (lambda: unary.reinterpret(x(2), "float64"), "two types of the same size"),
        (lambda: unary.reinterpret(x(2, dtype="uint8"), "bool"), "not bool"),
        (lambda: binary.add(x(2), x(3)), r"cannot broadcast shapes \(2,\) and \(3,\): axis -1 has sizes 2 and 3"),
        (lambda: binary.add(x(N), x(3)), "axis -1 has sizes n and 3"),
        (lambda: binary.add(x(N), x(size_var("m"))), "axis -1 has sizes n and m"),
        (lambda: binary.add(x(2), x(2, dtype="float64")), "dtypes float32 and float64, expected one dtype; use cast"),
        (lambda: binary.add(x(2, dtype="bool"), x(2, dtype="bool")), "the left side has dtype bool"),
        (lambda: binary.logical_and(x(2), x(2)), "expected bool"),
        (lambda: binary.left_shift(x(2), x(2)), "expected an integer"),
        (lambda: binary.trunc_divide(x(2), x(2)), "expected an integer"),
        (lambda: binary.where(x(2, dtype="bool"), x(2), x(2, dtype="int8")), "dtypes float32 and int8"),
        (lambda: binary.where(x(3, dtype="bool"), x(2), x(2)), r"cannot broadcast shapes \(3,\) and \(2,\)"),
        (lambda: create.zeros((2, -1), "float32"), "dimensions lie in"),
        (lambda: create.zeros(x(2, dtype="int64"), "float32"), "known when the graph is built"),
        (lambda: create.ones((2,), "float33"), "unknown dtype"),
        (lambda: create.full(x(2), (3,)), "fill_value must be a scalar"),
        (lambda: create.full_like(x(2), x(1)), "fill_value must be a scalar"),
        (lambda: create.arange(0, 4, 0), "step must not be 0"),
        (lambda: create.arange(0, 4, 0.0), "step must not be 0"),
        (lambda: create.arange(x()), "known when the graph is built"),
        (lambda: create.arange(math.inf), "must be a finite number"),
        (lambda: create.arange(0, 2, 0.5, dtype="int32"), "must be a whole number where dtype is int32"),
        (lambda: create.arange(4, dtype="bool"), "dtype must be a number type"),
    ],
)
def test_errors(build: Callable[[], Expr], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        build()


SPECIAL = np.array([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e30, -1e30], np.float32)


OF_FLOATS = [s.name for s in SPECS if s.builder.__module__ == unary.__name__ and "float32" in s.dtypes]


@pytest.mark.parametrize("name", [name for name in OF_FLOATS if name != "reinterpret"])
def test_nan_and_infinity_are_as_in_numpy(name: str) -> None:
    spec = spec_of(name)
    given: dict[str, dict[str, Any]] = {"cast": {"dtype": "float64"}, "clip": {"a_min": -2.0, "a_max": 2.0}}
    attributes = given.get(name, {})
    call = spec.build(x(len(SPECIAL)), **attributes)
    with np.errstate(all="ignore"):
        expected = np.asarray(spec.reference(call.attrs, SPECIAL.astype(np.float64)))
        expected = expected.astype(call.checked_type.dtype)
    np.testing.assert_allclose(run(call, SPECIAL), expected, rtol=2e-5)


@pytest.mark.parametrize("name", ["maximum", "minimum", "equal", "not_equal", "less", "greater_equal", "divide", "add"])
def test_pairs_with_nan_and_infinity_are_as_in_numpy(name: str) -> None:
    lhs, rhs = np.meshgrid(SPECIAL, SPECIAL)
    spec = spec_of(name)
    with np.errstate(all="ignore"):
        expected = np.asarray(spec.reference({}, lhs, rhs))
    np.testing.assert_array_equal(run(spec.build(x(*lhs.shape), x(*lhs.shape)), lhs, rhs), expected)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("divide", lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)),
        ("floor_divide", lambda a, b: a // b),
        ("mod", math.fmod),
        ("floor_mod", lambda a, b: a % b),
    ],
)
def test_integer_division_rounds_as_relay_does(name: str, rule: Callable[[int, int], float], dtype: str) -> None:
    lhs, rhs = np.meshgrid(np.arange(-7, 8, dtype=dtype), np.array([-4, -1, 0, 1, 3], dtype))
    built = spec_of(name).build(x(*lhs.shape, dtype=dtype), x(*lhs.shape, dtype=dtype))
    result = run(built, lhs, rhs)
    for a, b, c in zip(lhs.flat, rhs.flat, result.flat, strict=True):
        assert c == (rule(int(a), int(b)) if b else 0)


def test_dividing_the_least_integer_by_minus_one_wraps_around() -> None:
    least = np.array([np.iinfo(np.int32).min], np.int32)
    built = binary.divide(x(1, dtype="int32"), x(1, dtype="int32"))
    assert run(built, least, np.array([-1], np.int32)) == least


def test_a_number_takes_the_dtype_of_the_values_not_of_the_condition() -> None:
    call = binary.where(x(2, dtype="bool"), 1.5, x(2, dtype="float64"))
    assert call.checked_type == TensorType((2,), "float64")


def test_bounds_of_clip_are_cut_to_the_range_of_an_integer_dtype() -> None:
    values = np.array([0, 100, 255], np.uint8)
    np.testing.assert_array_equal(run(unary.clip(x(3, dtype="uint8"), -5, 1e9), values), values)
    np.testing.assert_array_equal(run(unary.clip(x(3, dtype="uint8"), 1.9, math.inf), values), [1, 100, 255])


def test_cast_to_a_storage_format_rounds_even_where_a_consumer_reads_the_value_directly() -> None:
    from fusewire.ir.op import Attrs
    from fusewire.ir.scalar import Const
    from fusewire.ops.lowering import Context, Map, View
    from tests.interpret import evaluate

    lowering = spec_of("cast").lowering
    assert isinstance(lowering, Map)
    third = View(TensorType((1,)), lambda i: Const(1 / 3, "float32"))
    context = Context(Attrs({"dtype": "float16"}), (third,), TensorType((1,), "float16"))
    assert evaluate(lowering.view(context)(as_index(0)), {}, {}) == np.float32(np.float16(1 / 3))


def test_arange_counts_in_whole_steps() -> None:
    np.testing.assert_array_equal(run(create.arange(10, 0, -3, dtype="int32")), [10, 7, 4, 1])
    np.testing.assert_allclose(run(create.arange(0.5, 2, 0.5)), [0.5, 1.0, 1.5])
