"""FuseOps at tuples, branches, bound values and repeated work; what groups take as arguments; and back again."""

from collections.abc import Callable

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.transform import DefuseOps, FuseOps, InferType
from fusewire.ir.structural import assert_structural_equal
from fusewire.testing import evaluate
from tests.fuse.groups import ONE, check, conv, fused, groups, image, order, primitive


class TestTuples:
    def test_items_of_split_join_their_users(self) -> None:
        x, w = fw.var("X", shape=(1, 10)), fw.var("W", shape=(30, 10))

        def tail(p: fw.Expr) -> fw.Expr:
            s = fw.split(p, indices_or_sections=3, axis=1)
            return fw.add(fw.sigmoid(s[0]), fw.multiply(fw.tanh(s[1]), fw.exp(s[2])))

        dense = primitive(fw.nn.dense, x, w)
        check(tail(fw.nn.dense(x, w)), fw.Function([x, w], primitive(tail, dense)))

    def test_item_as_the_root(self) -> None:
        x, w = fw.var("X", shape=(1, 30)), fw.var("W", shape=(10, 10))
        before = fw.nn.dense(fw.split(x, indices_or_sections=3, axis=1)[0], w)
        item = primitive(lambda p: fw.split(p, indices_or_sections=3, axis=1)[0], x)
        check(before, fw.Function([x, w], primitive(fw.nn.dense, item, w)))

    def test_items_that_go_separate_ways_are_taken_outside(self) -> None:
        x = fw.var("x", shape=(4, 6))
        parts = fw.split(x, indices_or_sections=2, axis=1)
        main = fused(fw.Tuple([fw.exp(parts[0]), fw.nn.softmax(parts[1])]))
        for node in order(main):
            if isinstance(node, fw.Function) and "Primitive" in node.attrs:
                assert all(isinstance(p.checked_type, fw.TensorType) for p in node.params)
        assert groups(fw.Tuple([fw.exp(parts[0]), fw.nn.softmax(parts[1])])) == [["split"], ["exp"], ["nn.softmax"]]

    def test_tuple_parameter_is_taken_apart(self) -> None:
        pair = fw.TupleType([fw.TensorType((2, 3)), fw.TensorType((2, 4))])
        t = fw.var("t", pair)
        main = fused(fw.Function([t], fw.nn.relu(fw.concatenate(t, axis=1))))
        call = main.body
        assert isinstance(call, fw.Call) and isinstance(call.op, fw.Function)
        assert [str(p.checked_type) for p in call.op.params] == ["Tensor[(2, 3), float32]", "Tensor[(2, 4), float32]"]

    def test_items_of_an_opaque_operator(self) -> None:
        x = fw.var("x", shape=(4, 6))
        best = fw.topk(x, k=2, axis=1)
        y = fw.add(fw.exp(best[0]), fw.cast(best[1], "float32"))
        assert groups(y) == [["topk"], ["exp", "cast", "add"]]


class TestScopes:
    def test_branches_are_separate(self) -> None:
        x, c = fw.var("x", shape=(4,)), fw.var("c", shape=(), dtype="bool")
        shared = fw.exp(x)
        y = fw.If(c, fw.nn.relu(fw.tanh(shared)), fw.negative(shared))
        # exp would be evaluated in a branch only, if at all; it is used by both.
        assert groups(fw.exp(y)) == [["exp"], ["tanh", "nn.relu"], ["negative"], ["exp"]]

    def test_bound_values_are_stored(self) -> None:
        x, v = fw.var("x", shape=(4,)), fw.var("v", shape=(4,))
        y = fw.Let(v, fw.exp(fw.tanh(x)), fw.nn.relu(fw.add(v, v)))
        assert groups(y) == [["tanh", "exp"], ["add", "nn.relu"]]

    def test_condition(self) -> None:
        x, y = fw.var("x", shape=(), dtype="int64"), fw.var("y", shape=(), dtype="int64")

        def before(greater: Callable[..., fw.Expr]) -> fw.Expr:
            return fw.If(greater(x, y), x, y)

        check(
            fw.Function([x, y], before(fw.greater)),
            fw.Function([x, y], before(lambda a, b: primitive(fw.greater, a, b))),
        )


class TestRepeatedWork:
    def test_read_at_two_places_stops_growth(self) -> None:
        x = fw.var("x", shape=(6, 6))
        y: fw.Expr = x
        for _ in range(6):
            y = fw.add(y, fw.transpose(y))
        # An addition may be written out twice, but not four times.
        assert [g.count("add") for g in groups(y)] == [2, 2, 2]

    def test_expensive_operator_is_not_computed_twice(self) -> None:
        x = fw.var("x", shape=(6, 6))
        e = fw.tanh(x)
        assert groups(fw.add(e, fw.transpose(e))) == [["tanh"], ["transpose", "add"]]
        cheap = fw.nn.relu(x)
        assert groups(fw.add(cheap, fw.transpose(cheap))) == [["nn.relu", "transpose", "add"]]

    def test_expensive_operator_is_not_stretched(self) -> None:
        x, v = fw.var("x", shape=(64, 32)), fw.var("v", shape=(32,))
        assert groups(fw.multiply(x, fw.exp(v))) == [["exp"], ["multiply"]]
        assert groups(fw.multiply(x, fw.negative(v))) == [["negative", "multiply"]]

    def test_expensive_operator_is_not_upsampled(self) -> None:
        x = image()
        assert groups(fw.nn.upsampling(fw.exp(x), 2, 2)) == [["exp"], ["nn.upsampling"]]
        assert groups(fw.nn.upsampling(fw.nn.relu(x), 2, 2)) == [["nn.relu", "nn.upsampling"]]
        smooth = fw.image.resize2d(fw.nn.relu(x), (16, 16), method="linear")
        assert groups(smooth) == [["nn.relu"], ["image.resize2d"]]

    def test_elementwise_readers_share_one_access(self) -> None:
        e = fw.exp(fw.var("x", shape=(4, 5)))
        y = fw.add(fw.nn.leaky_relu(e, 0.1), fw.multiply(fw.clip(e, 0.0, 1.0), e))
        assert groups(fw.transpose(y)) == [["exp", "nn.leaky_relu", "clip", "multiply", "add", "transpose"]]

    def test_expensive_operator_joined_twice(self) -> None:
        e = fw.tanh(fw.var("x", shape=(4, 5)))
        assert groups(fw.concatenate((e, e), axis=0)) == [["tanh"], ["concatenate"]]

    @pytest.mark.parametrize(("places", "count"), [(16, 1), (17, 2)])
    def test_code_size_is_bounded(self, places: int, count: int) -> None:
        moved = fw.transpose(fw.var("x", shape=(40, 4)))
        y: fw.Expr = fw.strided_slice(moved, begin=[0, 0], end=[4, 20])
        for k in range(1, places):
            y = fw.add(y, fw.strided_slice(moved, begin=[0, k], end=[4, 20 + k]))
        assert len(groups(y)) == count

    def test_pieces_do_not_count_as_repetition(self) -> None:
        x = fw.var("x", shape=(4, 12))
        parts = fw.split(fw.exp(x), indices_or_sections=3, axis=1)
        y = fw.add(parts[0], fw.multiply(parts[1], parts[2]))
        assert groups(y) == [["exp", "split", "multiply", "add"]]

    def test_symbolic_shapes_are_fused(self) -> None:
        n = fw.size_var("n")
        x = fw.var("x", shape=(n, 4))
        assert groups(fw.nn.relu(fw.transpose(fw.add(x, ONE)))) == [["add", "transpose", "nn.relu"]]


class TestArguments:
    def test_scalar_constants_stay_inside(self) -> None:
        x = fw.var("x", shape=(3,))
        vector = fw.const(np.ones(3, "float32"))
        call = fused(fw.add(fw.multiply(x, fw.const(2.0)), vector)).body
        assert isinstance(call, fw.Call)
        assert call.args == (x, vector)

    def test_an_argument_used_twice_is_one_parameter(self) -> None:
        x = fw.var("x", shape=(3,))
        call = fused(fw.add(fw.exp(x), x)).body
        assert isinstance(call, fw.Call) and call.args == (x,)

    def test_parameters_are_numbered_in_order_of_use(self) -> None:
        x, y, z = (fw.var(n, shape=(3,)) for n in "xyz")
        call = fused(fw.Function([z, y, x], fw.add(fw.multiply(x, y), z))).body
        assert isinstance(call, fw.Call) and isinstance(call.op, fw.Function)
        assert call.args == (x, y, z)
        assert [p.name_hint for p in call.op.params] == ["p0", "p1", "p2"]


def test_defuse_undoes_fusion() -> None:
    x = image(channels=3)
    y = fw.nn.relu(fw.add(conv(fw.exp(x), "w"), ONE))
    before = InferType()(fw.IRModule.from_expr(y))
    after = DefuseOps()(FuseOps(2)(before))
    assert_structural_equal(after, before)


def test_fusion_keeps_the_meaning() -> None:
    x = fw.var("x", shape=(6, 6))
    y: fw.Expr = x
    for _ in range(4):
        y = fw.add(y, fw.transpose(fw.tanh(y)))
    before = fw.IRModule.from_expr(fw.sum(y, axis=1))
    after = DefuseOps()(FuseOps(2)(before))
    data = {"x": np.random.default_rng(0).uniform(-1, 1, (6, 6)).astype("float32")}
    np.testing.assert_array_equal(evaluate(after["main"], data)[0], evaluate(before["main"], data)[0])
