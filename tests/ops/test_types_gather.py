"""Type rules, builders and corner values of gather, scatter and sort."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewire import ops
from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Call, Constant, Expr, Function, var
from fusewire.ir.index import size_var
from fusewire.ir.infer import infer_type
from fusewire.ir.tuple_wrapper import TupleWrapper
from fusewire.ir.types import TensorType, TupleType
from fusewire.ops.radix import SHORT
from fusewire.ops.spec import OpSpec, all_specs, spec_of
from tests.check import check_lowering
from tests.interpret import interpret_call

N = size_var("n")
MODULES = {"fusewire.ops.gather", "fusewire.ops.scatter", "fusewire.ops.sort"}
SPECS = [spec for spec in all_specs() if spec.builder.__module__ in MODULES]


def x(*dims: object, dtype: str = "float32") -> Any:
    return var("x", shape=dims, dtype=dtype)


def at(*dims: object, dtype: str = "int32") -> Any:
    return var("indices", shape=dims, dtype=dtype)


def type_of(built: Any) -> Any:
    return (built if isinstance(built, Expr) else built.astuple()).checked_type


def run(built: Any, *arrays: Any) -> list[Any]:
    """The results of a call, interpreted; its constants are inputs too."""
    call = built if isinstance(built, Expr) else built.astuple()
    assert isinstance(call, Call)
    given = iter(arrays)
    inputs = [arg.data if isinstance(arg, Constant) else np.asarray(next(given)) for arg in call.args]
    return interpret_call(spec_of(call), call.attrs, inputs, [arg.checked_type for arg in call.args])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_lowering_agrees_with_the_reference(spec: OpSpec) -> None:
    rng = np.random.default_rng(sum(map(ord, spec.name)))
    for dtype in spec.dtypes:
        for _ in range(2):
            call = check_lowering(spec, dtype, rng)
            again = spec.build(*call.args, **call.attrs)
            again = again.astuple() if isinstance(again, TupleWrapper) else again
            assert isinstance(again, Call) and again.attrs == call.attrs


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_builder_is_documented_and_annotated(spec: OpSpec) -> None:
    assert spec.builder.__name__ == spec.name
    assert spec.doc and "Args:" in (spec.builder.__doc__ or "")
    assert all(p.annotation is not inspect.Parameter.empty for p in spec.signature.parameters.values())


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (lambda: ops.take(x(5, N), at(2, 3), 0), TensorType((2, 3, N))),
        (lambda: ops.take(x(5, N), at(2, 3), -1), TensorType((5, 2, 3))),
        (lambda: ops.take(x(5, 4), at(2, 3)), TensorType((2, 3))),
        (lambda: ops.take(x(5, 4), at(), 1), TensorType((5,))),
        (lambda: ops.take(x(N, 7, 2), at(N, 3), 1, 1), TensorType((N, 3, 2))),
        (lambda: ops.take(x(4, 7), at(4, 3), 1, -1, "wrap"), TensorType((4, 3))),
        (lambda: ops.take(x(0, 4), at(0), 0), TensorType((0, 4))),
        (lambda: ops.gather(x(5, 4), 1, at(5, 9)), TensorType((5, 9))),
        (lambda: ops.gather(x(5, N), 0, at(2, N, dtype="uint8")), TensorType((2, N))),
        (lambda: ops.gather_nd(x(5, N), at(1, 3)), TensorType((3, N))),
        (lambda: ops.gather_nd(x(5, 6), at(2, 3, 4)), TensorType((3, 4))),
        (lambda: ops.gather_nd(x(5, 6, 7), at(1, 5, 4), 1), TensorType((5, 4, 7))),
        (lambda: ops.gather_nd(x(5, 6), at(0, 3)), TensorType((3, 5, 6))),
        (lambda: ops.one_hot(at(N), 1.0, 0.0, 4), TensorType((N, 4))),
        (lambda: ops.one_hot(at(2, 3), 1, 0, 4, 0, "int8"), TensorType((4, 2, 3), "int8")),
        (lambda: ops.scatter_elements(x(5, N), at(2, N), x(2, N)), TensorType((5, N))),
        (lambda: ops.scatter_nd(x(5, N), at(1, 3), x(3, N)), TensorType((5, N))),
        (lambda: ops.scatter_nd(x(5, 6), at(2, 3), x(3), "add"), TensorType((5, 6))),
        (lambda: ops.sort(x(2, N)), TensorType((2, N))),
        (lambda: ops.argsort(x(2, N), 0, 0, "int64"), TensorType((2, N), "int64")),
        (lambda: ops.topk(x(2, 9), 3), TupleType([TensorType((2, 3)), TensorType((2, 3), "int32")])),
        (lambda: ops.topk(x(2, 9), 0, 0, "values"), TensorType((2, 9))),
        (lambda: ops.topk(x(2, N), 3, ret_type="indices", dtype="int64"), TensorType((2, 3), "int64")),
    ],
)
def test_result_types(built: Callable[[], Any], expected: Any) -> None:
    assert type_of(built()) == expected


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ops.take(x(5), x(2)), "integer dtype"),
        (lambda: ops.take(x(5), at(2, dtype="bool")), "integer dtype"),
        (lambda: ops.take(x(5), at(2), 1), "axis 1 is out of range"),
        (lambda: ops.take(x(5), at(2), 0, 0, "raise"), "clip, wrap, fast"),
        (lambda: ops.take(x(5), at(2), None, 1), "needs an axis"),
        (lambda: ops.take(x(5, 4), at(5, 2), 0, 1), "exceed neither axis"),
        (lambda: ops.take(x(5, 4), at(4, 2), 1, 1), "must agree"),
        (lambda: ops.take(x(0, 4), at(2), 0), "empty dimension"),
        (lambda: ops.take(x(0, 4), at(2)), "empty dimension"),
        (lambda: ops.gather(x(5, 4), 0, at(5)), "as many dimensions"),
        (lambda: ops.gather(x(5, 4), 0, at(5, 5)), "dimension 1 of indices is 5, expected at most 4"),
        (lambda: ops.gather(x(0), 0, at(2)), "empty dimension"),
        (lambda: ops.gather(x(5), 0, x(5)), "integer dtype"),
        (lambda: ops.gather_nd(x(5, 4), at(3, 2)), "address 3 dimensions"),
        (lambda: ops.gather_nd(x(5, 4), at()), "known first dimension"),
        (lambda: ops.gather_nd(x(5, 4), at(N, 2)), "known first dimension"),
        (lambda: ops.gather_nd(x(5, 4), at(1, 3), 1), "must agree"),
        (lambda: ops.gather_nd(x(5, 4), at(1, 3), 0, 2), "index_rank=2"),
        (lambda: ops.gather_nd(x(0, 4), at(1, 3)), "empty dimension"),
        (lambda: ops.one_hot(at(2), 1, 0, -1), "depth must not be negative"),
        (lambda: ops.one_hot(x(2), 1, 0, 3), "integer dtype"),
        (lambda: ops.one_hot(at(2), x(2), x(), 3), "on_value must be a scalar"),
        (lambda: ops.one_hot(at(2), 1, 0, 3, 2), "axis 2 is out of range"),
        (lambda: ops.scatter_elements(x(5), at(2), x(3)), "updates must be"),
        (lambda: ops.scatter_elements(x(5), at(2), x(2, dtype="int32")), "updates must be"),
        (lambda: ops.scatter_elements(x(5), at(2, 2), x(2, 2)), "as many dimensions"),
        (lambda: ops.scatter_elements(x(5, 2), at(2, 3), x(2, 3)), "expected at most 2"),
        (lambda: ops.scatter_elements(x(5), at(2), x(2), 0, "sum"), "update, add, mul, mean, min, max"),
        (lambda: ops.scatter_elements(x(0), at(2), x(2)), "empty dimension"),
        (
            lambda: ops.scatter_elements(x(5, dtype="bool"), at(2), x(2, dtype="bool"), 0, "add"),
            "not defined on bool",
        ),
        (lambda: ops.scatter_nd(x(5, 4), at(1, 3), x(3, 5)), r"updates must be Tensor\[\(3, 4\)"),
        (lambda: ops.scatter_nd(x(5, 4), at(3, 3), x(3)), "at most 2"),
        (lambda: ops.scatter_nd(x(5), at(1, 3), x(3), "mean"), "update, add, mul, min, max"),
        (lambda: ops.scatter_nd(x(0, 4), at(1, 3), x(3, 4)), "empty dimension"),
        (lambda: ops.sort(x()), "axis -1 is out of range"),
        (lambda: ops.argsort(x(3), 1), "axis 1 is out of range"),
        (lambda: ops.argsort(x(3), dtype="int3"), "unknown dtype"),
        (lambda: ops.topk(x(3), 4), "k=4 is more than the 3 elements"),
        (lambda: ops.topk(x(3), 1, ret_type="all"), "both, values, indices"),
        (lambda: ops.topk(x(3), at()), "known when the graph is built"),
    ],
)
def test_errors(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        build()


def test_unknown_updates_and_scalars_are_inferred() -> None:
    data, indices, updates, on = x(5, 4), at(2, 4), var("updates"), var("on")
    typed = infer_type(Function([data, indices, updates], ops.scatter_elements(data, indices, updates)))
    assert isinstance(typed, Function) and typed.params[2].checked_type == TensorType((2, 4))
    typed = infer_type(Function([indices, on], ops.one_hot(indices, on, 0, 3, dtype="float16")))
    assert isinstance(typed, Function) and typed.params[1].checked_type == TensorType((), "float16")


@pytest.mark.parametrize(("mode", "expected"), [("clip", [0, 0, 2, 2]), ("fast", [0, 0, 2, 2]), ("wrap", [1, 2, 2, 1])])
def test_take_outside_of_the_dimension(mode: str, expected: list[int]) -> None:
    places = np.array([-2, -1, 2, 4])
    (result,) = run(ops.take(x(3), at(4, dtype="int64"), 0, 0, mode), np.arange(3), places)
    np.testing.assert_array_equal(result, expected)


WILD = np.array([-(2**63), -4, -3, -1, 0, 2, 3, 2**63 - 1])
"""Places in a dimension of size 3, some very far outside."""
FOUND = [0, 0, 0, 2, 0, 2, 2, 2]


def test_wild_places_never_leave_the_data() -> None:
    places, data = at(8, dtype="int64"), np.arange(3)
    np.testing.assert_array_equal(run(ops.gather(x(3), 0, places), data, WILD)[0], FOUND)
    (result,) = run(ops.gather_nd(x(3), at(1, 8, dtype="int64")), data, WILD[None])
    np.testing.assert_array_equal(result, FOUND)
    ones, counts = np.ones(8), np.bincount(FOUND, minlength=3)
    zeros = np.zeros(3)
    np.testing.assert_array_equal(run(ops.scatter_elements(x(3), places, x(8), 0, "add"), zeros, WILD, ones)[0], counts)
    np.testing.assert_array_equal(
        run(ops.scatter_nd(x(3), at(1, 8, dtype="int64"), x(8), "add"), zeros, WILD[None], ones)[0], counts
    )
    (hot,) = run(ops.one_hot(places, 1, 0, 3), WILD)
    np.testing.assert_array_equal(hot.sum(1), [0, 0, 0, 0, 1, 1, 0, 0])


def test_the_last_update_of_an_element_counts() -> None:
    places, updates = np.array([1, 0, 1]), np.array([5, 6, 7], "float32")
    (result,) = run(ops.scatter_elements(x(3), at(3, dtype="int64"), x(3)), np.zeros(3), places, updates)
    np.testing.assert_array_equal(result, [6, 7, 0])
    (result,) = run(ops.scatter_nd(x(3), at(1, 3, dtype="int64"), x(3)), np.zeros(3), places[None], updates)
    np.testing.assert_array_equal(result, [6, 7, 0])


def test_scatter_of_bool() -> None:
    data, new = np.zeros(3, bool), np.array([True, True])
    call = ops.scatter_elements(x(3, dtype="bool"), at(2), x(2, dtype="bool"))
    np.testing.assert_array_equal(run(call, data, np.array([0, 2]), new)[0], [True, False, True])


SPECIAL = np.array([np.nan, 1, -0.0, np.inf, 0.0, -np.inf, -np.nan, -1, 1, 0.0], "float32")
UP, DOWN = [5, 7, 2, 4, 9, 1, 8, 3, 0, 6], [3, 1, 8, 2, 4, 9, 7, 5, 0, 6]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("copies", [1, 8], ids=["counting", "bytes"])
def test_sorting_is_stable_with_nan_last(dtype: str, copies: int) -> None:
    data = np.repeat(SPECIAL, copies).astype(dtype)
    assert (len(data) > SHORT) == (copies > 1)
    for order, ascending in ((UP, True), (DOWN, False)):
        expected = np.concatenate([np.arange(copies) + copies * i for i in order])
        if copies > 1:  # equal elements of SPECIAL are not neighbours, so their copies interleave by place
            keys = np.where(np.isnan(data), np.inf, data if ascending else -data).astype("float64")
            expected = np.lexsort((np.arange(len(data)), keys, np.isnan(data)))
        (places,) = run(ops.argsort(x(len(data), dtype=dtype), is_ascend=ascending), data)
        np.testing.assert_array_equal(places, expected)
        (values,) = run(ops.sort(x(len(data), dtype=dtype), is_ascend=ascending), data)
        np.testing.assert_array_equal(values, data[expected])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("n", [20, 90])
def test_sorting_reaches_the_ends_of_the_integers(dtype: str, n: int) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(n)
    ends = np.array([info.min, info.max], dtype)
    data = np.concatenate([ends, rng.integers(info.min, info.max, n - 2, dtype)])
    np.testing.assert_array_equal(run(ops.sort(x(n, dtype=dtype)), data)[0], np.sort(data))
    np.testing.assert_array_equal(run(ops.sort(x(n, dtype=dtype), is_ascend=0), data)[0], np.sort(data)[::-1])


@pytest.mark.parametrize("n", [0, 1])
def test_sorting_nothing_and_one(n: int) -> None:
    data = np.ones((2, n), "float32")
    assert run(ops.sort(x(2, n)), data)[0].shape == (2, n)
    np.testing.assert_array_equal(run(ops.argsort(x(2, n)), data)[0], np.zeros((2, n)))
    values, places = run(ops.topk(x(2, n), n), data)
    assert values.shape == places.shape == (2, n)


def test_topk_ties_go_to_the_first_place() -> None:
    values, places = run(ops.topk(x(6), 3), np.array([1, 3, np.nan, 3, 2, 3], "float32"))
    np.testing.assert_array_equal(values, [3, 3, 3])
    np.testing.assert_array_equal(places, [1, 3, 5])
