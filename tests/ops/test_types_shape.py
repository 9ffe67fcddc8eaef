"""Type rules, builders and corner values of reshape, transpose, slices, concatenate and their kin."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewire import ops
from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Call, Expr, Tuple, TupleGetItem, const, var
from fusewire.ir.index import size_var
from fusewire.ir.tuple_wrapper import TupleWrapper
from fusewire.ir.types import TensorType, TupleType
from fusewire.ops.reshape import reindex
from fusewire.ops.spec import OpSpec, all_specs, spec_of
from tests.check import check_lowering
from tests.interpret import interpret_call

N, M = size_var("n"), size_var("m")
MODULES = {"fusewire.ops.reshape", "fusewire.ops.shape", "fusewire.ops.join", "fusewire.ops.slicing"}
SPECS = [spec for spec in all_specs() if spec.builder.__module__ in MODULES]


def x(*dims: object, dtype: str = "float32") -> Any:
    return var("x", shape=dims, dtype=dtype)


def type_of(built: Any) -> Any:
    return (built if isinstance(built, Expr) else built.astuple()).checked_type


def run(built: Any, *arrays: Any) -> list[Any]:
    call = built if isinstance(built, Expr) else built.astuple()
    assert isinstance(call, Call)
    return interpret_call(spec_of(call), call.attrs, arrays, [arg.checked_type for arg in call.args])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_lowering_agrees_with_the_reference(spec: OpSpec) -> None:
    rng = np.random.default_rng(sum(map(ord, spec.name)))
    for dtype in spec.dtypes:
        for _ in range(3):
            call = check_lowering(spec, dtype, rng)
            again = spec.build(*call.args, **call.attrs)
            again = again.astuple() if isinstance(again, TupleWrapper) else again
            assert isinstance(again, Call) and again.attrs == call.attrs


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_builder_is_documented_and_annotated(spec: OpSpec) -> None:
    assert spec.builder.__name__ == spec.name
    assert spec.doc
    assert all(p.annotation is not inspect.Parameter.empty for p in spec.signature.parameters.values())


@pytest.mark.parametrize(
    ("dims", "newshape", "expected"),
    [
        ((2, 3, 4), (4, 0, 2), (4, 3, 2)),
        ((2, 3, 4), (2, 0, 0), (2, 3, 4)),
        ((2, 3, 4), (6, 1, -1), (6, 1, 4)),
        ((2, 3, 4), (3, -1, 8), (3, 1, 8)),
        ((2, 3, 4), (-1,), (24,)),
        ((2, 3, 4), (-2,), (2, 3, 4)),
        ((2, 3, 4), (2, -2), (2, 3, 4)),
        ((2, 3, 4), (-2, 1, 1), (2, 3, 4, 1, 1)),
        ((2, 3, 4), (-3, 4), (6, 4)),
        ((2, 3, 4, 5), (-3, -3), (6, 20)),
        ((2, 3, 4), (0, -3), (2, 12)),
        ((2, 3, 4), (-3, -2), (6, 4)),
        ((2, 3, 4), (-4, 1, 2, -2), (1, 2, 3, 4)),
        ((2, 3, 4), (2, -4, -1, 3, -2), (2, 1, 3, 4)),
        ((1, 3, 4), (0, -1), (1, 12)),
        ((), (1, 1), (1, 1)),
        ((1, 1), (), ()),
        ((0, 3), (3, -1), (3, 0)),
        ((N, 3, 4), (-1, 12), (N, 12)),
        ((N, 3, 4), (0, -1), (N, 12)),
        ((N, 3, 4), (-1,), (12 * N,)),
        ((N, 3, M, 2), (0, -1, 6), (N, M, 6)),
        ((N, M, 4), (0, 0, -1), (N, M, 4)),
        ((6 * N, 4), (-4, -1, 3, 0), (2 * N, 3, 4)),
        ((N, 4), (-3,), (4 * N,)),
        ((N, M), (-1, 0), (N, M)),
    ],
)
def test_reshape_codes(dims: Any, newshape: Any, expected: Any) -> None:
    assert ops.reshape(x(*dims), newshape).checked_type == TensorType(expected)


def test_reshape_takes_every_form_of_newshape() -> None:
    for newshape in (24, [24], (24,), np.array([24]), const([24], "int64")):
        assert ops.reshape(x(2, 3, 4), newshape).checked_type == TensorType((24,))
    assert ops.reshape(x(0, 3), (3, 0), allowzero=True).checked_type == TensorType((3, 0))


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (lambda: ops.reshape_like(x(2, 6), x(3, 4)), TensorType((3, 4))),
        (lambda: ops.reshape_like(x(2, 6, 4), x(5, 3, 2), 1, 2, 1), TensorType((2, 3, 2, 4))),
        (lambda: ops.reshape_like(x(N, 6), x(N, 2, 3)), TensorType((N, 2, 3))),
        (lambda: ops.transpose(x(2, 3, N)), TensorType((N, 3, 2))),
        (lambda: ops.transpose(x(2, 3, N), (0, -1, 1)), TensorType((2, N, 3))),
        (lambda: ops.expand_dims(x(2, 3), -1, 2), TensorType((2, 3, 1, 1))),
        (lambda: ops.expand_dims(x(2, N), 1), TensorType((2, 1, N))),
        (lambda: ops.expand_dims(x(), 0, 0), TensorType(())),
        (lambda: ops.squeeze(x(1, N, 1)), TensorType((N,))),
        (lambda: ops.squeeze(x(1, 3, 1), [-1]), TensorType((1, 3))),
        (lambda: ops.squeeze(x(1, 3, 1), 0), TensorType((3, 1))),
        (lambda: ops.layout_transform(x(N, 32, 7, 7), "NCHW", "NCHW16c"), TensorType((N, 2, 7, 7, 16))),
        (lambda: ops.layout_transform(x(N, 2, 7, 7, 16), "NCHW16c", "NHWC"), TensorType((N, 7, 7, 32))),
        (lambda: ops.layout_transform(x(16, 8, 3, 3), "OIHW", "OIHW4i8o"), TensorType((2, 2, 3, 3, 4, 8))),
        (lambda: ops.broadcast_to(x(3, 1, dtype="bool"), (2, 3, 4)), TensorType((2, 3, 4), "bool")),
        (lambda: ops.broadcast_to_like(x(N, 1), x(2, N, 5)), TensorType((2, N, 5))),
        (lambda: ops.shape_of(x(N, 3)), TensorType((2,), "int32")),
        (lambda: ops.ndarray_size(x(N, 3), "int64"), TensorType((), "int64")),
        (lambda: ops.concatenate([x(N, 2), x(3, 2)]), TensorType((N + 3, 2))),
        (lambda: ops.concatenate([x(2, N), x(2, N)], -1), TensorType((2, 2 * N))),
        (lambda: ops.concatenate((x(2), np.zeros(3, "float32"))), TensorType((5,))),
        (lambda: ops.stack([x(2, N)] * 3, -1), TensorType((2, N, 3))),
        (lambda: ops.stack([x()], 0), TensorType((1,))),
        (lambda: ops.split(x(6, 2), 3), TupleType([TensorType((2, 2))] * 3)),
        (lambda: ops.split(x(2, 7), (2, 2, 5), -1), TupleType([TensorType((2, n)) for n in (2, 0, 3, 2)])),
        (lambda: ops.split(x(4 * N), 2), TupleType([TensorType((2 * N,))] * 2)),
        (lambda: ops.meshgrid([x(2), x(), x(N)]), TupleType([TensorType((2, 1, N))] * 3)),
        (lambda: ops.meshgrid([x(2), x(3)], "xy"), TupleType([TensorType((3, 2))] * 2)),
        (lambda: ops.tile(x(2, N), (3, 1, 2)), TensorType((3, 2, 2 * N))),
        (lambda: ops.tile(x(2, 3), 2), TensorType((2, 6))),
        (lambda: ops.repeat(x(2, N), 3, -1), TensorType((2, 3 * N))),
        (lambda: ops.repeat(x(2, N), 3), TensorType((6 * N,))),
        (lambda: ops.strided_slice(x(10, N), [1], [2**31 - 1], [3]), TensorType((3, N))),
        (lambda: ops.strided_slice(x(10, 4), [-1, 3], [-100, 0], [-1, -2]), TensorType((10, 2))),
        (lambda: ops.strided_slice(x(N, 4), [0, 1], [2**31 - 1, 3]), TensorType((N, 2))),
        (lambda: ops.strided_slice(x(N, 4), [0, 1], [-1, 9], slice_mode="size"), TensorType((N, 3))),
        (lambda: ops.strided_slice(x(5, 4, 3), [1, 2], [3, 3], axes=[-1, 0]), TensorType((1, 4, 2))),
        (lambda: ops.strided_slice(x(5), const([4]), const([1]), const([1])), TensorType((0,))),
        (lambda: ops.strided_set(x(5), x(2), [1], [4], [2]), TensorType((5,))),
        (lambda: ops.slice_like(x(5, N), x(3, N)), TensorType((3, N))),
        (lambda: ops.slice_like(x(5, 6, 7), x(1, 2, 3), (-1, 0)), TensorType((1, 6, 3))),
        (lambda: ops.slice_like(x(5, 6), x(4)), TensorType((4, 6))),
        (lambda: ops.reverse(x(2, N, dtype="int8"), -1), TensorType((2, N), "int8")),
        (lambda: ops.reverse_sequence(x(2, N), x(2, dtype="int64")), TensorType((2, N))),
    ],
)
def test_result_types(built: Callable[[], Any], expected: Any) -> None:
    assert type_of(built()) == expected


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ops.reshape(x(2, 3), (4,)), r"\(2, 3\) \(6 elements\).*\(4,\) \(4 elements\)"),
        (lambda: ops.reshape(x(2, 3), (-1, 4)), "cannot be divided by 4"),
        (lambda: ops.reshape(x(2, 3), (-1, -1)), "only one dimension may be -1"),
        (lambda: ops.reshape(x(2, 3), (6, 0, 0)), "code 0 asks for dimension 2"),
        (lambda: ops.reshape(x(2, 3), (0, -3)), "code -3 asks for dimension 2"),
        (lambda: ops.reshape(x(4, 3), (-4, 3, -1, 0)), "cannot split 4 by 3"),
        (lambda: ops.reshape(x(4, 3), (-4, 2, 3, 0)), "cannot split 4 into 2 and 3"),
        (lambda: ops.reshape(x(4, 3), (-4, -1, -1, 0)), "cannot split 4"),
        (lambda: ops.reshape(x(4, 3), (-4, 2)), "followed by two sizes"),
        (lambda: ops.reshape(x(4, 3), (-5, 3)), "-5 is no code"),
        (lambda: ops.reshape(x(0, 3), (0, -1)), "no definite value"),
        (lambda: ops.reshape(x(N, 3), (-1, 2)), "cannot be divided by 2"),
        (lambda: ops.reshape(x(N, 3), (M.const + 3,)), "elements"),
        (lambda: ops.reshape(x(2), x(1, dtype="int32")), "known when the graph is built"),
        (lambda: ops.reshape(x(2), np.array([2.0])), "integer"),
        (lambda: ops.reshape_like(x(2, 3), x(7)), "numbers of elements differ"),
        (lambda: ops.reshape_like(x(2, 3), x(6), 3), "lhs_begin=3"),
        (lambda: ops.reshape_like(x(2, 3), x(6), 0, 2, 1, 0), "rhs_begin=1"),
        (lambda: ops.transpose(x(2, 3), (0, 0)), "each of the 2 dimensions once"),
        (lambda: ops.transpose(x(2, 3), (0,)), "each of the 2 dimensions once"),
        (lambda: ops.transpose(x(2, 3), (0, 2)), "axis 2 is out of range"),
        (lambda: ops.expand_dims(x(2, 3), 3), "axis 3 is out of range"),
        (lambda: ops.expand_dims(x(2, 3), 0, -1), "num_newaxis is -1, expected 0 to"),
        (lambda: ops.squeeze(x(2, 1), [0]), "expected size 1"),
        (lambda: ops.squeeze(x(N, 1), [0]), "expected size 1"),
        (lambda: ops.squeeze(x(1, 1), [0, -2]), "twice"),
        (lambda: ops.layout_transform(x(1, 30, 7, 7), "NCHW", "NCHW16c"), "size 30 cannot be cut into blocks of 16"),
        (lambda: ops.layout_transform(x(1, 3, 7, 7), "NCHW", "NHW"), "different axes"),
        (lambda: ops.layout_transform(x(1, 3, 7), "NCHW", "NHWC"), "layout NCHW has 4"),
        (lambda: ops.layout_transform(x(1, 2, 3, 4, 8), "NCHW16c", "NCHW"), "must be 16"),
        (lambda: ops.layout_transform(x(1, 3, 7, 7), "NC?W", "NHWC"), "malformed"),
        (lambda: ops.broadcast_to(x(2, 3), (3, 2)), "cannot be broadcast"),
        (lambda: ops.broadcast_to(x(2, 3), (3,)), "cannot be broadcast"),
        (lambda: ops.broadcast_to_like(x(N), x(M)), "cannot be broadcast"),
        (lambda: ops.concatenate([]), "empty tuple"),
        (lambda: ops.concatenate([x(2), x(2, 3)]), "tensor 1"),
        (lambda: ops.concatenate([x(2), x(2, dtype="int32")]), "tensor 1"),
        (lambda: ops.concatenate([x(2, 3), x(2, 4)]), "dimension 1 of tensor 1 is 4, expected 3"),
        (lambda: ops.concatenate([x(2, 3)], 2), "axis 2 is out of range"),
        (lambda: ops.concatenate([x()]), "axis 0 is out of range"),
        (lambda: ops.concatenate(x(2, 3)), "must be a tuple"),
        (lambda: ops.stack([x(2), x(3)]), "dimension 0 of tensor 1 is 3, expected 2"),
        (lambda: ops.split(x(5), 2), "into 2 equal parts"),
        (lambda: ops.split(x(5), 0), "into 0 equal parts"),
        (lambda: ops.split(x(5), (3, 2)), "must be sorted"),
        (lambda: ops.split(x(5), (6,)), "must be sorted"),
        (lambda: ops.split(x(N), (2,)), "only be split into equal parts"),
        (lambda: ops.meshgrid([x(2, 3)]), "scalars and vectors"),
        (lambda: ops.meshgrid([]), "empty tuple"),
        (lambda: ops.meshgrid([x(2)], "ji"), "ij, xy"),
        (lambda: ops.meshgrid(var("t")), "how many tensors"),
        (lambda: ops.tile(x(2), (0,)), "must be positive"),
        (lambda: ops.repeat(x(2), 0, 0), "must be positive"),
        (lambda: ops.repeat(x(2), 2, 1), "axis 1 is out of range"),
        (lambda: ops.strided_slice(x(5), [0], [5], [0]), "stride of 0"),
        (lambda: ops.strided_slice(x(5), [0, 0], [5, 5]), "longer than the shape"),
        (lambda: ops.strided_slice(x(5, 5), [0], [5, 5]), "one entry for each"),
        (lambda: ops.strided_slice(x(5, 5), [0, 0], [5, 5], axes=[0]), "one entry for each"),
        (lambda: ops.strided_slice(x(5, 5), [0, 0], [5, 5], axes=[0, -2]), "one entry for each"),
        (lambda: ops.strided_slice(x(5), [0], [-2], slice_mode="size"), "sizes, or -1"),
        (lambda: ops.strided_slice(x(5), [0], [2], slice_mode="length"), "end, size"),
        (lambda: ops.strided_slice(x(N), [1], [3]), "symbolic size"),
        (lambda: ops.strided_slice(x(5), x(1, dtype="int32"), [3]), "known when the graph is built"),
        (lambda: ops.strided_set(x(5), x(3), [1], [4], [2]), r"expected Tensor\[\(2,\)"),
        (lambda: ops.slice_like(x(5), x(6)), "cannot be sliced to 6"),
        (lambda: ops.slice_like(x(5), x(2, 3)), "more dimensions"),
        (lambda: ops.reverse(x(), 0), "axis 0 is out of range"),
        (lambda: ops.reverse_sequence(x(2, 3), x(3, dtype="int32")), "vector of 2 lengths"),
        (lambda: ops.reverse_sequence(x(2, 3), x(2)), "integer dtype"),
        (lambda: ops.reverse_sequence(x(2, 3), x(3, dtype="int32"), 1, -1), "must differ"),
        (lambda: ops.shape_of(x(2), "int33"), "unknown dtype"),
        (lambda: ops.transpose(Tuple([x(2)])), "must be a tensor"),
    ],
)
def test_errors(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        build()


def test_tuple_wrapper_behaves_like_a_tuple() -> None:
    parts = ops.split(x(6), 3)
    assert isinstance(parts, TupleWrapper)
    first, *others = parts
    assert len(parts) == 3 and len(others) == 2
    assert isinstance(first, TupleGetItem) and first.checked_type == TensorType((2,))
    assert isinstance(parts[-1], TupleGetItem) and parts[-1].index == 2
    assert parts.astuple() is parts[0].tuple_value  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        parts[3]
    joined = ops.concatenate(parts)
    assert isinstance(joined, Call) and joined.args[0] is parts.astuple()


def test_tuples_of_known_type_need_no_list() -> None:
    both = var("t", TupleType([TensorType((2,)), TensorType((3,))]))
    assert ops.concatenate(both).checked_type == TensorType((5,))
    assert len(ops.meshgrid(both)) == 2


def test_numbers_in_a_tuple_argument_take_its_dtype() -> None:
    assert ops.stack([x(dtype="float64"), 1]).checked_type == TensorType((2,), "float64")


def test_reindex_keeps_the_counters_of_axes_that_a_reshape_leaves_alone() -> None:
    from fusewire.ir.index import IndexVar, as_index

    n, c, h = (as_index(IndexVar(name, 0, hi)) for name, hi in (("n", 1), ("c", 2), ("h", 19)))
    found = reindex((n, c, h), (2, 3, 20), (2, 3, 4, 5))
    assert found[:2] == (n, c)
    assert reindex(found, (2, 3, 4, 5), (2, 3, 20)) == (n, c, h)


def test_concatenate_skips_empty_parts() -> None:
    a, b = np.zeros((0, 2), "float32"), np.ones((1, 2), "float32")
    (result,) = run(ops.concatenate([x(0, 2), x(1, 2), x(0, 2)]), a, b, a)
    np.testing.assert_array_equal(result, b)


def test_layout_transform_places_blocks_where_the_layout_says() -> None:
    data = np.arange(1 * 8 * 1 * 2, dtype="float32").reshape(1, 8, 1, 2)
    (result,) = run(ops.layout_transform(x(1, 8, 1, 2), "NCHW", "NCHW4c"), data)
    assert result[0, 1, 0, 1, 2] == data[0, 6, 0, 1]


def test_shape_of_and_size_do_not_read_their_argument() -> None:
    data = np.zeros((3, 0, 5), "float32")
    np.testing.assert_array_equal(run(ops.shape_of(x(3, 0, 5)), data)[0], [3, 0, 5])
    assert run(ops.ndarray_size(x(3, 0, 5), "int64"), data)[0] == 0
