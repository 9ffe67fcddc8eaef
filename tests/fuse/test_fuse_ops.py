"""FuseOps: what becomes one kernel, shown as graphs before and after."""

from collections.abc import Callable

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.transform import FuseOps, PassContext
from fusewire.ir.structural import assert_structural_equal
from tests.fuse.groups import ONE, check, conv, fused, groups, image, order, primitive


class TestChains:
    def test_elementwise_chain_is_one_group(self) -> None:
        x = fw.var("x", shape=(10, 20))

        def chain(p: fw.Expr) -> fw.Expr:
            return fw.squeeze(fw.exp(fw.add(p, ONE)))

        check(chain(x), primitive(chain, x))

    def test_module_given_is_not_changed(self) -> None:
        x = fw.var("x", shape=(10, 20))
        before = fw.IRModule.from_expr(fw.exp(fw.add(x, ONE)))
        main = before["main"]
        FuseOps(2)(before)
        assert before["main"] is main

    @pytest.mark.parametrize(("length", "limit", "sizes"), [(300, 256, [256, 44]), (7, 3, [3, 3, 1]), (3, 3, [3])])
    def test_group_size_is_limited(self, length: int, limit: int, sizes: list[int]) -> None:
        x = fw.var("x", shape=(4,))
        y: fw.Expr = x
        for _ in range(length):
            y = fw.exp(y)
        with PassContext(config={"relay.FuseOps.max_depth": limit}):
            assert [len(g) for g in groups(y)] == sizes

    def test_limit_counts_all_branches(self) -> None:
        x = fw.var("x", shape=(4,))
        a = fw.exp(x)
        y = fw.add(fw.tanh(a), fw.nn.relu(a))
        with PassContext(config={"relay.FuseOps.max_depth": 3}):
            assert max(len(g) for g in groups(y)) <= 3
        assert [len(g) for g in groups(y)] == [4]

    def test_long_graph_needs_no_deep_stack(self) -> None:
        x = fw.var("x", shape=(2,))
        y: fw.Expr = x
        for k in range(5000):
            y = fw.add(y, x) if k % 2 else fw.nn.relu(y)
        assert sum(len(g) for g in groups(y)) == 5000

    def test_opaque_operator_ends_a_group(self) -> None:
        x = fw.var("x", shape=(4, 5))
        y = fw.exp(fw.cumsum(fw.add(x, ONE), axis=1))
        assert groups(y) == [["add"], ["cumsum"], ["exp"]]

    def test_library_function_is_left_alone(self) -> None:
        x = fw.var("x", shape=(4,))
        p = fw.var("p", shape=(4,))
        inner = fw.Function([p], fw.exp(fw.exp(p)), None, {"Compiler": "lib", "Composite": "lib.exp", "Primitive": 1})
        main = fused(fw.nn.relu(fw.Call(inner, [fw.add(x, ONE)])))
        calls = [n.op for n in order(main) if isinstance(n, fw.Call) and isinstance(n.op, fw.Function)]
        assert inner in calls
        assert [f.attrs.get("Compiler") for f in calls] == [None, "lib", None]


class TestLevelZero:
    def test_every_operator_is_a_group(self) -> None:
        x = fw.var("x", shape=(10, 20))
        y = fw.squeeze(fw.exp(fw.add(x, ONE)))
        assert groups(y, 0) == [["add"], ["exp"], ["squeeze"]]

    def test_level_of_the_context_counts(self) -> None:
        x = fw.var("x", shape=(10, 20))
        mod = fw.IRModule.from_expr(fw.exp(fw.add(x, ONE)))
        with PassContext(opt_level=0):
            assert_structural_equal(FuseOps()(mod)["main"], fused(mod["main"], 0))
        with PassContext(opt_level=1):
            assert_structural_equal(FuseOps()(mod)["main"], fused(mod["main"], 2))


class TestAnchors:
    def test_convolution_takes_in_what_follows(self) -> None:
        x = image()
        y = conv(fw.add(x, ONE), "w1")
        y = fw.add(y, fw.add(ONE, y))
        z = fw.add(conv(y, "w2", 1), conv(y, "w3"))

        w1, w2, w3 = (fw.var(f"w{k}", shape=(16, 16, s, s)) for k, s in ((1, 3), (2, 1), (3, 3)))
        a = primitive(lambda p: fw.add(p, ONE), x)

        def first(p: fw.Expr, w: fw.Expr) -> fw.Expr:
            c = fw.nn.conv2d(p, w, kernel_size=(3, 3), padding=(1, 1), channels=16)
            return fw.add(c, fw.add(ONE, c))

        def alone(p: fw.Expr, w: fw.Expr) -> fw.Expr:
            return fw.nn.conv2d(p, w, kernel_size=(3, 3), padding=(1, 1), channels=16)

        def residual(p: fw.Expr, w: fw.Expr, other: fw.Expr) -> fw.Expr:
            return fw.add(fw.nn.conv2d(p, w, kernel_size=(1, 1), padding=(0, 0), channels=16), other)

        b = primitive(first, a, w1)
        c = primitive(alone, b, w3)
        expected = fw.Function([x, w1, w2, w3], primitive(residual, b, w2, c))
        check(z, expected)

    def test_batch_norm_and_relu(self) -> None:
        x = image(channels=3)
        scale, shift = (fw.const(np.full((16, 1, 1), v, "float32")) for v in (2.0, 3.0))
        y = fw.nn.relu(fw.add(fw.multiply(conv(x, "w"), scale), shift))
        assert groups(y) == [["nn.conv2d", "multiply", "add", "nn.relu"]]
        args = fused(y).body.args  # type: ignore[attr-defined]
        assert args[2:] == (scale, shift), "constants that are no scalars are arguments"

    def test_nothing_is_fused_in_front_of_an_anchor(self) -> None:
        x, w = fw.var("x", shape=(4, 8)), fw.var("w", shape=(5, 8))
        assert groups(fw.nn.dense(fw.exp(x), fw.transpose(fw.transpose(w)))) == [
            ["exp"],
            ["transpose", "transpose"],
            ["nn.dense"],
        ]

    def test_result_must_keep_the_shape(self) -> None:
        x = fw.var("x", shape=(1, 4))
        y = fw.add(fw.nn.dense(x, fw.var("w", shape=(8, 4))), fw.var("wide", shape=(3, 8)))
        assert groups(y) == [["nn.dense"], ["add"]]

    def test_injective_operator_behind_an_anchor(self) -> None:
        y = fw.transpose(fw.nn.relu(conv(image(), "w")), (0, 2, 3, 1))
        assert groups(y) == [["nn.conv2d", "nn.relu"], ["transpose"]]

    def test_value_used_by_a_second_anchor_is_stored(self) -> None:
        a = fw.nn.relu(conv(image(), "w1"))
        y = fw.add(conv(a, "w2"), a)
        assert groups(y) == [["nn.conv2d", "nn.relu"], ["nn.conv2d", "add"]]

    def test_residual_block(self) -> None:
        x = image()
        y = fw.nn.relu(fw.add(conv(fw.nn.relu(conv(x, "w1")), "w2"), x))
        assert groups(y) == [["nn.conv2d", "nn.relu"], ["nn.conv2d", "add", "nn.relu"]]

    def test_diamond_behind_an_anchor(self) -> None:
        a = conv(image(), "w")
        y = fw.add(fw.tanh(a), fw.nn.relu(a))
        assert groups(y) == [["nn.conv2d", "tanh", "nn.relu", "add"]]

    def test_diamond_with_a_broken_path(self) -> None:
        a = conv(image(), "w")
        y = fw.add(fw.tanh(a), fw.transpose(a, (0, 1, 3, 2)))
        assert groups(y) == [["nn.conv2d"], ["tanh", "transpose", "add"]]

    def test_used_twice_means_stored(self) -> None:
        a = conv(image(), "w")
        assert groups(fw.Tuple([fw.nn.relu(a), a])) == [["nn.conv2d"], ["nn.relu"]]

    def test_inception(self) -> None:
        def branch(data: fw.Expr, name: str) -> fw.Expr:
            return fw.nn.relu(conv(data, name))

        one = fw.concatenate((branch(image(), "a"), branch(image(), "b")), axis=1)
        two = fw.concatenate((branch(one, "c"), branch(one, "d")), axis=1)
        block = [["nn.conv2d", "nn.relu"]] * 2 + [["concatenate"]]
        assert groups(two) == block + block

    @pytest.mark.parametrize("swap", [False, True])
    def test_operand_read_twice_in_the_epilogue(self, swap: bool) -> None:
        c, s = conv(image(), "w"), fw.negative(image("y"))
        y = fw.add(fw.add(s, c) if swap else fw.add(c, s), s)
        assert [sorted(g) for g in groups(y)] == [["add", "add", "negative", "nn.conv2d"]]

    def test_moved_operand_of_the_epilogue_is_stored(self) -> None:
        y = fw.add(conv(image(), "w"), fw.transpose(image("y"), (0, 1, 3, 2)))
        assert groups(y) == [["transpose"], ["nn.conv2d", "add"]]

    def test_anchor_is_not_read_through_a_transpose(self) -> None:
        # relu is met first, and binds the two additions and the transposes together before the convolution is seen.
        r = fw.nn.relu(image())
        inner = fw.add(r, conv(image("y"), "w"))
        y = fw.add(fw.transpose(inner, (0, 1, 3, 2)), fw.transpose(r, (0, 1, 3, 2)))
        assert groups(y) == [["nn.conv2d"], ["nn.relu", "add", "transpose", "transpose", "add"]]

    def test_pool_takes_in_elementwise_operators(self) -> None:
        y = fw.add(fw.nn.max_pool2d(image(), pool_size=(2, 2), strides=(2, 2)), ONE)
        assert groups(y) == [["nn.max_pool2d", "add"]]


class TestReductions:
    def test_producers_and_epilogue(self) -> None:
        x = fw.var("x", shape=(8, 9))
        y = fw.sqrt(fw.sum(fw.multiply(x, x), axis=1))
        assert groups(y) == [["multiply", "sum", "sqrt"]]

    def test_injective_producer(self) -> None:
        x = fw.var("x", shape=(8, 9))
        assert groups(fw.max(fw.transpose(fw.exp(x)), axis=0)) == [["exp", "transpose", "max"]]

    def test_concatenation_of_producers(self) -> None:
        x, y = fw.var("x", shape=(8, 9)), fw.var("y", shape=(8, 3))
        joined = fw.sum(fw.concatenate((fw.exp(x), fw.nn.relu(y)), axis=1), axis=1)
        assert groups(joined) == [["exp", "nn.relu", "concatenate", "sum"]]

    def test_operand_of_both_reduction_and_epilogue(self) -> None:
        x = fw.nn.relu(fw.var("x", shape=(8, 1)))
        assert groups(fw.add(fw.sum(x, axis=1, keepdims=True), x)) == [["nn.relu"], ["sum", "add"]]

    def test_two_reductions_are_two_groups(self) -> None:
        x = fw.var("x", shape=(4, 5, 6))
        y = fw.sum(fw.exp(fw.sum(fw.exp(x), axis=2)), axis=1)
        assert groups(y) == [["exp", "sum", "exp"], ["sum"]]

    def test_sum_of_two_reductions(self) -> None:
        x, y = fw.var("x", shape=(8, 9)), fw.var("y", shape=(8, 7))
        assert groups(fw.add(fw.sum(x, axis=1), fw.max(y, axis=1))) == [["max"], ["sum", "add"]]

    def test_reduction_is_not_read_through_a_transpose(self) -> None:
        r = fw.nn.relu(fw.var("x", shape=(8, 9)))
        inner = fw.add(r, fw.sum(fw.var("y", shape=(8, 9, 7)), axis=2))
        y = fw.add(fw.transpose(inner), fw.transpose(r))
        assert groups(y) == [["sum"], ["nn.relu", "add", "transpose", "transpose", "add"]]

    def test_softmax_written_out(self) -> None:
        x = fw.var("x", shape=(8, 9))
        e = fw.exp(fw.subtract(x, fw.max(x, axis=1, keepdims=True)))
        y = fw.divide(e, fw.sum(e, axis=1, keepdims=True))
        assert groups(y) == [["max"], ["subtract", "exp"], ["sum"], ["divide"]]

    def test_softmax_takes_in_what_follows(self) -> None:
        x = fw.var("x", shape=(8, 9))
        assert groups(fw.multiply(fw.nn.softmax(fw.exp(x)), fw.const(2.0))) == [["exp"], ["nn.softmax", "multiply"]]


class TestInjective:
    def test_concatenate(self) -> None:
        x = image()
        pooled = fw.nn.max_pool2d(x, pool_size=(2, 2), strides=(2, 2), padding=(0, 0))
        up = fw.nn.upsampling(pooled, scale_h=2, scale_w=2, layout="NCHW")
        out = fw.add(fw.concatenate((up, x), axis=1), ONE)

        def head(p: fw.Expr) -> fw.Expr:
            return fw.nn.max_pool2d(p, pool_size=(2, 2), strides=(2, 2), padding=(0, 0))

        def tail(p: fw.Expr, q: fw.Expr) -> fw.Expr:
            up = fw.nn.upsampling(p, scale_h=2, scale_w=2, layout="NCHW")
            return fw.add(fw.concatenate((up, q), axis=1), ONE)

        check(out, primitive(tail, primitive(head, x), x))

    def test_tuple_as_the_result_stays_outside(self) -> None:
        x = image()
        pooled = fw.nn.max_pool2d(x, pool_size=(2, 2), strides=(2, 2))
        before = fw.Tuple([fw.nn.relu(pooled), x])

        def head(p: fw.Expr) -> fw.Expr:
            return fw.nn.relu(fw.nn.max_pool2d(p, pool_size=(2, 2), strides=(2, 2)))

        check(before, fw.Tuple([primitive(head, x), x]))

    def test_tuple_in_the_middle(self) -> None:
        x = image()
        inj = fw.squeeze(x)
        y1, y3 = fw.add(inj, ONE), fw.add(inj, ONE)
        y2 = fw.add(fw.add(fw.squeeze(inj), ONE), ONE)
        out = fw.add(fw.squeeze(fw.concatenate((y1, y2, y3), axis=1)), ONE)
        assert len(groups(out)) == 1

    def test_nested_concatenations(self) -> None:
        def triple(x: fw.Expr) -> fw.Expr:
            return fw.add(fw.concatenate([fw.add(x, ONE) for _ in range(3)], axis=1), ONE)

        x = image()
        joined = fw.concatenate([triple(x) for _ in range(3)], axis=1)
        pooled = fw.nn.max_pool2d(joined, pool_size=(2, 2), strides=(2, 2))
        out = fw.add(pooled, ONE)
        both = fw.Tuple([out, fw.add(out, ONE)])
        assert [len(g) for g in groups(both)] == [16, 2, 1]

    def test_operator_before_concatenate_of_a_stored_value(self) -> None:
        # relu is in the convolution's group; the concatenation must not pull it out of there.
        a, b = fw.nn.relu(conv(image(), "w")), fw.exp(image("y"))
        assert groups(fw.concatenate((a, b), axis=1)) == [["nn.conv2d", "nn.relu"], ["exp", "concatenate"]]

    def test_parallel_branches(self) -> None:
        x = fw.var("x", shape=(10, 20), dtype="int32")

        def both(p: fw.Expr) -> fw.Expr:
            y = fw.add(p, fw.const(1))
            return fw.left_shift(fw.squeeze(y), fw.transpose(y, axes=[0, 1]))

        check(both(x), primitive(both, x))

    def test_strided_slices(self) -> None:
        x = fw.var("x", shape=(8, 10))
        a = fw.nn.relu(x)
        left = fw.strided_slice(a, begin=[0, 0], end=[8, 5], strides=[1, 1])
        right = fw.strided_slice(a, begin=[0, 5], end=[8, 10], strides=[1, 1])
        assert groups(fw.add(left, right)) == [["nn.relu", "strided_slice", "strided_slice", "add"]]

    def test_take(self) -> None:
        x, i = fw.var("x", shape=(8, 10)), fw.var("i", shape=(3,), dtype="int32")
        y = fw.nn.relu(fw.take(fw.multiply(x, x), i, axis=1))
        assert groups(y) == [["multiply", "take", "nn.relu"]]

    @pytest.mark.parametrize(
        ("flatten", "marked"),
        [
            (lambda x: fw.reshape(x, (1, 1024)), True),
            (lambda x: fw.nn.batch_flatten(x), True),
            (lambda x: fw.expand_dims(fw.reshape(fw.squeeze(x), (1024,)), axis=0), True),
            (lambda x: fw.nn.batch_flatten(fw.nn.relu(x)), False),
            (lambda x: fw.nn.batch_flatten(fw.transpose(x, (0, 2, 3, 1))), False),
        ],
    )
    def test_reshape_alone_is_marked(self, flatten: Callable[[fw.Expr], fw.Expr], marked: bool) -> None:
        main = fused(fw.nn.dense(flatten(image()), fw.var("w", shape=(3, 1024))))
        callees = [n.op for n in order(main) if isinstance(n, fw.Call) and isinstance(n.op, fw.Function)]
        assert ["relay.reshape_only" in f.attrs for f in callees] == [marked, False]
