"""FoldConstant."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse import fold_constant
from fusewire.fuse.transform import FoldConstant, InferType
from fusewire.ir.structural import assert_structural_equal


def fold(expr: fw.Expr) -> fw.Expr:
    return FoldConstant()(fw.IRModule.from_expr(expr))["main"].body


def value(expr: fw.Expr) -> np.ndarray:
    body = fold(expr)
    assert isinstance(body, fw.Constant), str(body)
    return body.data


C = fw.const(np.array([[1.0, 2.0], [3.0, 4.0]], "float32"))


class TestFolded:
    def test_chain(self) -> None:
        got = value(fw.transpose(fw.exp(fw.add(C, fw.const(1.0)))))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.exp(C.data.astype("float64") + 1).T.astype("float32"))

    def test_only_what_is_constant(self) -> None:
        x = fw.var("x", shape=(2, 2))
        body = fold(fw.add(fw.multiply(x, fw.const(3.0)), fw.multiply(C, fw.const(2.0))))
        doubled = fw.const(np.array([[2, 4], [6, 8]], "float32"))
        expected = InferType()(fw.IRModule.from_expr(fw.add(fw.multiply(x, fw.const(3.0)), doubled)))["main"].body
        assert_structural_equal(body, expected)

    def test_tuples(self) -> None:
        np.testing.assert_array_equal(value(fw.concatenate((C, C), axis=1)), np.concatenate((C.data, C.data), 1))
        parts = fw.split(C, 2, axis=0)
        np.testing.assert_array_equal(value(fw.subtract(parts[1], parts[0])), [[2, 2]])
        body = fold(parts.astuple())
        assert isinstance(body, fw.Tuple) and all(isinstance(f, fw.Constant) for f in body.fields)

    def test_item_of_a_tuple(self) -> None:
        x = fw.var("x", shape=(2,))
        assert fold(fw.Function([x], fw.TupleGetItem(fw.Tuple([C, x]), 1))) is x

    def test_constant_condition(self) -> None:
        x, y = fw.var("x", shape=(2,)), fw.var("y", shape=(2,))
        yes = fw.greater(fw.const(2.0), fw.const(1.0))
        assert fold(fw.Function([x, y], fw.If(yes, x, y))) is x
        assert fold(fw.Function([x, y], fw.If(fw.logical_not(yes), x, y))) is y

    def test_shape_of_a_variable(self) -> None:
        x = fw.var("x", shape=(2, 3))
        got = value(fw.Function([x], fw.shape_of(fw.exp(x))))
        np.testing.assert_array_equal(got, [2, 3])
        assert got.dtype == np.int32
        assert value(fw.Function([x], fw.ndarray_size(x, dtype="int64"))) == 6

    def test_symbolic_shape_stays(self) -> None:
        x = fw.var("x", shape=(fw.size_var("n"), 3))
        assert isinstance(fold(fw.Function([x], fw.shape_of(x))), fw.Call)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int32", "int8", "bool"])
    def test_dtype_is_kept(self, dtype: str) -> None:
        got = value(fw.cast(C, dtype))
        assert got.dtype.name == dtype

    def test_one_rounding_for_each_operator(self) -> None:
        # Summed in float32 one after the other, every 1 would be lost next to 2**24.
        big = fw.const(np.array([2.0**24] + [1.0] * 8, "float32"))
        assert value(fw.sum(big)) == 2.0**24 + 8


class TestNotFolded:
    def test_large_results_from_nothing(self) -> None:
        assert isinstance(fold(fw.zeros((1000, 1000), "float32")), fw.Call)
        assert isinstance(fold(fw.broadcast_to(C, (3000, 2, 2))), fw.Call)
        assert isinstance(fold(fw.full(fw.const(1.0), (1000, 1000), "float32")), fw.Call)

    def test_results_much_larger_than_the_inputs(self) -> None:
        large = fw.const(np.ones((100, 100), "float32"))
        assert isinstance(fold(fw.exp(large)), fw.Constant)
        assert isinstance(fold(fw.tile(large, (4, 1))), fw.Constant)
        assert isinstance(fold(fw.tile(large, (5, 1))), fw.Call)

    def test_tuple_with_a_variable(self) -> None:
        x = fw.var("x", shape=(2, 2))
        body = fold(fw.concatenate((fw.exp(C), x), axis=0))
        assert isinstance(body, fw.Call) and isinstance(body.args[0], fw.Tuple)
        assert isinstance(body.args[0].fields[0], fw.Constant)

    def test_symbolic_shape_of_the_result(self) -> None:
        assert isinstance(fold(fw.zeros((fw.size_var("n"), 2), "float32")), fw.Call)

    def test_small_results_from_nothing(self) -> None:
        np.testing.assert_array_equal(value(fw.zeros((3, 4), "float32")), np.zeros((3, 4)))
        np.testing.assert_array_equal(value(fw.arange(0, 4, 1, "int32")), [0, 1, 2, 3])

    def test_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fold_constant, "LARGEST", 15)
        assert isinstance(fold(fw.exp(C)), fw.Call)
        monkeypatch.setattr(fold_constant, "LARGEST", 16)
        assert isinstance(fold(fw.exp(C)), fw.Constant)

    def test_fused_functions_are_not_entered(self) -> None:
        x, p = fw.var("x", shape=(2, 2)), fw.var("p", shape=(2, 2))
        sealed = fw.Function([p], fw.add(p, fw.exp(C)), None, {"Primitive": 1})
        mod = InferType()(fw.IRModule.from_expr(fw.Call(sealed, [x])))
        assert FoldConstant()(mod)["main"] is mod["main"]
