"""SimplifyInference, CanonicalizeOps, SimplifyExpr."""

from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.graph import walk
from fusewire.fuse.transform import CanonicalizeOps, InferType, Pass, SimplifyExpr, SimplifyInference
from fusewire.ir.structural import assert_structural_equal
from fusewire.testing import evaluate


def run(step: Pass, expr: fw.Expr) -> fw.Expr:
    return step(fw.IRModule.from_expr(expr))["main"].body


def check(step: Pass, before: fw.Expr, expected: fw.Expr) -> None:
    after = step(fw.IRModule.from_expr(before))
    assert_structural_equal(after, InferType()(fw.IRModule.from_expr(fw.Function(after["main"].params, expected))))


class TestBatchNorm:
    gamma, beta, mean, var = (fw.var(name, shape=(3,)) for name in ("gamma", "beta", "mean", "var"))

    def norm(self, x: fw.Expr, **attributes: Any) -> fw.TupleWrapper:
        return fw.nn.batch_norm(x, self.gamma, self.beta, self.mean, self.var, **attributes)

    @pytest.mark.parametrize(("shape", "axis", "new"), [((2, 3, 4, 5), 1, 2), ((2, 4, 5, 3), 3, 0), ((2, 3), -1, 0)])
    def test_becomes_multiply_and_add(self, shape: tuple[int, ...], axis: int, new: int) -> None:
        x = fw.var("x", shape=shape)

        def stretched(vector: fw.Expr) -> fw.Expr:
            return fw.expand_dims(vector, axis=1, num_newaxis=new) if new else vector

        scale = fw.divide(self.gamma, fw.sqrt(fw.add(self.var, fw.const(1e-3))))
        shift = fw.subtract(self.beta, fw.multiply(self.mean, scale))
        expected = fw.add(fw.multiply(x, stretched(scale)), stretched(shift))
        before = self.norm(x, axis=axis, epsilon=1e-3)[0]
        check(SimplifyInference(), before, expected)

    @pytest.mark.parametrize("center", [True, False])
    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_means_the_same(self, center: bool, scale: bool, dtype: str) -> None:
        rng = np.random.default_rng(1)
        x = fw.var("x", shape=(2, 3, 4), dtype=dtype)
        gamma, beta, mean, var = vectors = [fw.var(name, shape=(3,), dtype=dtype) for name in ("g", "b", "m", "v")]
        norm = fw.nn.batch_norm(x, gamma, beta, mean, var, center=center, scale=scale)
        before = fw.IRModule.from_expr(fw.Function([x, *vectors], norm[0]))
        after = SimplifyInference()(before)
        data = {"x": rng.uniform(0.5, 2, (2, 3, 4)).astype(dtype)}
        data.update({v.name_hint: rng.uniform(0.5, 2, 3).astype(dtype) for v in vectors})
        np.testing.assert_allclose(
            evaluate(after["main"], data)[0], evaluate(before["main"], data)[0], rtol=1e-6, atol=1e-7
        )
        assert "batch_norm" not in str(after)

    def test_statistics_pass_through(self) -> None:
        x = fw.var("x", shape=(2, 3))
        norm = self.norm(x)
        body = run(SimplifyInference(), fw.Tuple([norm[1], norm[2]]))
        assert isinstance(body, fw.Tuple) and body.fields == (self.mean, self.var)

    def test_whole_tuple_as_the_result(self) -> None:
        x = fw.var("x", shape=(2, 3))
        body = run(SimplifyInference(), self.norm(x).astuple())
        assert isinstance(body, fw.Tuple) and len(body.fields) == 3


class TestDropout:
    def test_data_passes(self) -> None:
        x = fw.var("x", shape=(2, 3))
        check(SimplifyInference(), fw.nn.relu(fw.nn.dropout(fw.exp(x))), fw.nn.relu(fw.exp(x)))

    def test_mask_is_ones(self) -> None:
        x = fw.var("x", shape=(2, 3))
        check(SimplifyInference(), fw.nn.dropout_raw(x)[1], fw.ones_like(x))


def test_a_tuple_of_the_user_stays() -> None:
    x = fw.var("x", shape=(2, 3))
    mod = InferType()(fw.IRModule.from_expr(fw.TupleGetItem(fw.Tuple([x, x]), 0)))
    assert SimplifyInference()(mod) is not None
    assert_structural_equal(SimplifyInference()(mod), mod)


class TestCanonicalize:
    @pytest.mark.parametrize(("shape", "axis", "new"), [((2, 3, 4, 5), 1, 2), ((2, 3), -1, 0), ((3, 4), 0, 1)])
    def test_bias_add(self, shape: tuple[int, ...], axis: int, new: int) -> None:
        x, b = fw.var("x", shape=shape), fw.var("b", shape=(3,))
        stretched = fw.expand_dims(b, axis=1, num_newaxis=new) if new else b
        check(CanonicalizeOps(), fw.nn.bias_add(x, b, axis=axis), fw.add(x, stretched))

    def test_nothing_to_do_changes_nothing(self) -> None:
        mod = InferType()(fw.IRModule.from_expr(fw.exp(fw.var("x", shape=(3,)))))
        assert CanonicalizeOps()(mod)["main"] is mod["main"]


class TestSimplifyExpr:
    x = fw.var("x", shape=(2, 3, 4))

    @pytest.mark.parametrize(
        ("first", "second"), [((1, 2, 0), (2, 0, 1)), ((0, 2, 1), (0, 2, 1)), (None, None), ((-1, 0, 1), (1, 2, 0))]
    )
    def test_transposes_that_cancel(self, first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> None:
        before = fw.nn.relu(fw.transpose(fw.transpose(fw.exp(self.x), first), second))
        check(SimplifyExpr(), before, fw.nn.relu(fw.exp(self.x)))

    @pytest.mark.parametrize("first", [(1, 2, 0), (0, 2, 1), None])
    @pytest.mark.parametrize("second", [(1, 2, 0), (2, 1, 0), (1, 0, 2)])
    def test_transposes_are_composed(self, first: tuple[int, ...] | None, second: tuple[int, ...]) -> None:
        mod = fw.IRModule.from_expr(fw.transpose(fw.transpose(self.x, first), second))
        after = SimplifyExpr()(mod)
        data = {"x": np.arange(24, dtype="float32").reshape(2, 3, 4)}
        np.testing.assert_array_equal(evaluate(after["main"], data)[0], evaluate(mod["main"], data)[0])
        assert str(after).count("transpose(") <= 1

    def test_reshapes(self) -> None:
        before = fw.expand_dims(fw.reshape(fw.reshape(self.x, (6, 4)), (-1,)), axis=0)
        check(SimplifyExpr(), before, fw.reshape(self.x, (1, 24)))
        check(SimplifyExpr(), fw.nn.relu(fw.reshape(fw.reshape(self.x, (24,)), (2, 3, 4))), fw.nn.relu(self.x))
        check(SimplifyExpr(), fw.nn.relu(fw.squeeze(self.x)), fw.nn.relu(self.x))

    def test_reshapes_that_stay(self) -> None:
        empty, symbolic = fw.var("x", shape=(0, 3)), fw.var("x", shape=(fw.size_var("n"), 4))
        before = fw.reshape(fw.reshape(empty, (3, 0), allowzero=True), (0, 5, 0), allowzero=True)
        check(SimplifyExpr(), before, before)
        before = fw.reshape(fw.reshape(symbolic, (0, 2, 2)), (-1, 1, 4))
        check(SimplifyExpr(), before, before)

    def test_cast(self) -> None:
        check(SimplifyExpr(), fw.nn.relu(fw.cast(self.x, "float32")), fw.nn.relu(self.x))
        both = fw.cast(fw.cast(self.x, "int32"), "float32")
        check(SimplifyExpr(), both, both)


class TestTransposedOperands:
    a, b = fw.var("a", shape=(2, 3, 4)), fw.var("b", shape=(2, 4, 5))
    row, matrix = fw.var("row", shape=(3, 4)), fw.var("matrix", shape=(4, 5))

    def test_dense_of_a_transpose_is_matmul(self) -> None:
        check(SimplifyExpr(), fw.nn.dense(self.row, fw.transpose(self.matrix)), fw.nn.matmul(self.row, self.matrix))

    def test_matmul(self) -> None:
        other = fw.var("other", shape=(5, 4))
        check(SimplifyExpr(), fw.nn.matmul(self.row, fw.transpose(other)), fw.nn.dense(self.row, other))

    def test_batch_matmul(self) -> None:
        before = fw.nn.batch_matmul(self.a, fw.transpose(self.b, axes=(0, 2, 1)))
        check(SimplifyExpr(), before, fw.nn.batch_matmul(self.a, self.b, transpose_b=False))
        before = fw.nn.batch_matmul(self.a, fw.transpose(fw.var("c", shape=(2, 5, 4)), (0, -1, 1)), transpose_b=False)
        assert not find_calls(run(SimplifyExpr(), before), "transpose")

    def test_other_transposes_stay(self) -> None:
        turned = fw.transpose(fw.var("c", shape=(5, 2, 4)), axes=(1, 0, 2))
        before = fw.nn.batch_matmul(self.a, turned)
        check(SimplifyExpr(), before, before)


def find_calls(expr: fw.Expr, name: str) -> list[fw.Expr]:
    return [e for e in walk(expr) if isinstance(e, fw.Call) and str(e.op) == name]
