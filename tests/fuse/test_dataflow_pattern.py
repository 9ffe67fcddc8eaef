"""The pattern language: matching, rewriting, partitioning."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.dataflow_pattern import (
    DFPattern,
    DFPatternCallback,
    dominates,
    find,
    has_attr,
    has_dtype,
    has_shape,
    has_type,
    is_constant,
    is_expr,
    is_if,
    is_let,
    is_op,
    is_tuple,
    is_tuple_get_item,
    is_var,
    match,
    partition,
    rewrite,
    wildcard,
)
from fusewire.fuse.patterns import FunctionPattern
from fusewire.ir.structural import assert_structural_equal
from fusewire.ops.spec import Fusion

X, Y = fw.var("x", shape=(2, 3)), fw.var("y", shape=(2, 3))
IMAGE, WEIGHT = fw.var("image", shape=(1, 4, 6, 6)), fw.var("weight", shape=(4, 4, 3, 3))


def conv(data: fw.Expr = IMAGE, **attributes: Any) -> fw.Expr:
    return fw.nn.conv2d(data, WEIGHT, **{"padding": (1, 1), **attributes})


class TestLeaves:
    def test_wildcard(self) -> None:
        for expr in (X, fw.exp(X), fw.const(1.0), fw.Tuple([X])):
            assert wildcard().match(expr)

    def test_variable(self) -> None:
        assert is_var().match(X) and is_var("x").match(X)
        assert not is_var("y").match(X) and not is_var().match(fw.exp(X))

    def test_constant(self) -> None:
        assert is_constant().match(fw.const(1.0))
        assert not is_constant().match(X)

    def test_expression(self) -> None:
        assert is_expr(X).match(X) and not is_expr(X).match(Y)
        assert is_expr(fw.const(2.0)).match(fw.const(2.0))
        assert not is_expr(fw.const(2.0)).match(fw.const(3.0))

    def test_unknown_operator(self) -> None:
        with pytest.raises(fw.FusewireError, match=r"unknown operator 'nn\.conv2'"):
            is_op("nn.conv2")


class TestStructure:
    def test_call(self) -> None:
        assert is_op("exp")(is_var()).match(fw.exp(X))
        assert not is_op("exp")(is_constant()).match(fw.exp(X))
        assert not is_op("exp")(wildcard()).match(fw.tanh(X))
        assert not is_op("exp")(wildcard(), wildcard()).match(fw.exp(X))

    def test_any_arguments(self) -> None:
        assert is_op("add")(None).match(fw.add(X, Y))
        assert wildcard()(wildcard()).match(fw.exp(X))

    def test_commutative(self) -> None:
        for op in (fw.add, fw.multiply):
            pattern = is_op(op.__name__)(is_op("exp")(wildcard()), is_var())
            assert pattern.match(op(fw.exp(X), Y)) and pattern.match(op(Y, fw.exp(X)))
        pattern = is_op("subtract")(is_op("exp")(wildcard()), is_var())
        assert pattern.match(fw.subtract(fw.exp(X), Y)) and not pattern.match(fw.subtract(Y, fw.exp(X)))

    def test_a_later_mismatch_tries_the_other_order(self) -> None:
        # Both orders fit the inner addition; only one of them fits the outer subtraction as well.
        a = wildcard()
        pattern = is_op("subtract")(is_op("add")(a, wildcard()), a)
        assert pattern.match(fw.subtract(fw.add(X, Y), X))
        assert pattern.match(fw.subtract(fw.add(X, Y), Y))
        assert not pattern.match(fw.subtract(fw.add(X, Y), fw.exp(X)))

    def test_operators(self) -> None:
        a, b = is_var("x"), is_var("y")
        assert (a + b).match(fw.add(X, Y)) and (a - b).match(fw.subtract(X, Y))
        assert (a * b).match(fw.multiply(X, Y)) and (a / b).match(fw.divide(X, Y))
        assert not (a / b).match(fw.divide(Y, X))

    def test_alternatives(self) -> None:
        pattern = (is_op("exp") | is_op("tanh"))(is_var("x") | is_constant())
        assert pattern.match(fw.exp(X)) and pattern.match(fw.tanh(fw.const(1.0)))
        assert not pattern.match(fw.tanh(Y)) and not pattern.match(fw.sqrt(X))

    def test_optional(self) -> None:
        pattern = is_op("exp")(wildcard()).optional(is_op("nn.relu")).optional(lambda p: is_op("add")(p, is_var()))
        e = fw.exp(X)
        for expr in (e, fw.nn.relu(e), fw.add(e, Y), fw.add(Y, fw.nn.relu(e))):
            assert pattern.match(expr)
        assert not pattern.match(fw.nn.relu(fw.add(e, Y)))

    def test_tuples(self) -> None:
        both = fw.Tuple([X, fw.exp(Y)])
        assert is_tuple([is_var(), is_op("exp")(wildcard())]).match(both) and is_tuple(None).match(both)
        assert not is_tuple(None).match(X) and not is_tuple_get_item(wildcard()).match(X)
        assert not is_tuple([is_var()]).match(both) and not is_tuple([is_var(), is_var()]).match(both)
        item = fw.split(X, 3, axis=1)[1]
        assert is_tuple_get_item(is_op("split")(wildcard()), 1).match(item)
        assert is_tuple_get_item(wildcard()).match(item) and not is_tuple_get_item(wildcard(), 0).match(item)
        assert is_op("concatenate")(is_tuple([is_var("x"), wildcard()])).match(fw.concatenate((X, Y)))

    def test_control(self) -> None:
        c, v = fw.var("c", shape=(), dtype="bool"), fw.var("v", shape=(2, 3))
        assert is_if(is_var("c"), is_var("x"), wildcard()).match(fw.If(c, X, Y))
        assert not is_if(wildcard(), is_var("y"), wildcard()).match(fw.If(c, X, Y))
        assert is_let(is_var("v"), is_op("exp")(wildcard()), is_var("v")).match(fw.Let(v, fw.exp(X), v))
        f = fw.Function([X], fw.exp(X))
        p = wildcard()
        assert FunctionPattern((p,), is_op("exp")(p)).match(f) and FunctionPattern(None, wildcard()).match(f)
        assert not FunctionPattern((), wildcard()).match(f) and not FunctionPattern(None, wildcard()).match(X)
        assert not is_if(wildcard(), wildcard(), wildcard()).match(X)
        assert not is_let(wildcard(), wildcard(), wildcard()).match(X)

    def test_call_of_a_function(self) -> None:
        f = fw.Function([X], fw.exp(X))
        pattern = FunctionPattern(None, is_op("exp")(wildcard()))(is_var("y"))
        assert pattern.match(fw.Call(f, [Y])) and not pattern.match(fw.Call(f, [X]))

    def test_parts_must_be_patterns(self) -> None:
        with pytest.raises(fw.FusewireError, match="use is_expr"):
            is_op("exp")(X)  # type: ignore[arg-type]

    def test_deep_graph(self) -> None:
        y: fw.Expr = X
        for _ in range(20000):
            y = fw.exp(y)
        assert is_op("exp")(is_op("exp")(wildcard())).match(y)


class TestAttributes:
    def test_of_calls(self) -> None:
        y = conv(channels=4)
        assert is_op("nn.conv2d")(wildcard(), wildcard()).has_attr({"channels": 4, "groups": 1}).match(y)
        assert has_attr({"padding": [1, 1, 1, 1]}).match(y)
        assert not has_attr({"channels": 5}).match(y) and not has_attr({"nothing": 1}).match(y)

    def test_of_operators(self) -> None:
        elementwise = wildcard().has_attr({"TOpPattern": Fusion.ELEMWISE})(wildcard())
        assert elementwise.match(fw.exp(X))
        assert not elementwise.match(fw.transpose(X))

    def test_of_functions(self) -> None:
        f = fw.Function([X], fw.exp(X), None, {"Composite": "lib.exp"})
        assert has_attr({"Composite": "lib.exp"}).match(f) and not has_attr({"Composite": "other"}).match(f)

    def test_types(self) -> None:
        assert has_type(fw.TensorType((2, 3))).match(X) and not has_type(fw.TensorType((3, 2))).match(X)
        assert has_shape((2, 3)).match(X) and not has_shape((2,)).match(X)
        assert has_dtype("float32").match(X) and not has_dtype("float64").match(X)
        assert is_var("x").has_shape((2, 3)).has_dtype("float32").has_type(X.checked_type).match(X)
        assert not has_shape((2, 3), is_var("y")).match(X)


class TestDiamonds:
    start = is_op("nn.conv2d")(wildcard(), wildcard())
    explicit = is_op("add")(is_op("nn.relu")(start), is_op("nn.leaky_relu")(start))
    step = wildcard().has_attr({"TOpPattern": Fusion.ELEMWISE})(wildcard())
    fuzzy = dominates(start, step, is_op("add")(wildcard(), wildcard()))

    def test_same_node_twice(self) -> None:
        c = conv()
        assert self.explicit.match(fw.add(fw.nn.relu(c), fw.nn.leaky_relu(c)))
        assert not self.explicit.match(fw.add(fw.nn.relu(conv()), fw.nn.leaky_relu(conv(fw.exp(IMAGE)))))

    def test_dominator(self) -> None:
        c = conv()
        for left in (fw.nn.relu(c), fw.tanh(fw.nn.relu(fw.exp(c))), c):
            assert self.fuzzy.match(fw.add(left, fw.nn.leaky_relu(c)))

    def test_only_paths_that_fit(self) -> None:
        c = conv()
        assert not self.fuzzy.match(fw.add(fw.nn.relu(c), fw.transpose(c, (0, 1, 3, 2))))
        assert not self.fuzzy.match(fw.add(fw.nn.relu(c), fw.exp(IMAGE)))
        assert not self.fuzzy.match(fw.nn.relu(c))

    def test_at_most_one_parent(self) -> None:
        first = conv()
        second = conv(fw.transpose(first, (0, 1, 3, 2)))
        assert not self.fuzzy.match(fw.add(fw.nn.relu(second), fw.nn.relu(first)))

    def test_constants_and_variables_on_the_way(self) -> None:
        c = conv()
        step = is_op("nn.relu")(wildcard()) | is_op("multiply")(wildcard(), wildcard())
        pattern = is_op("add")(wildcard(), wildcard()).dominates(self.start, step)
        assert pattern.match(fw.add(fw.nn.relu(c), fw.multiply(c, fw.const(2.0))))

    def test_use_outside_of_the_paths(self) -> None:
        c = conv()
        y = fw.add(fw.nn.relu(c), fw.tanh(c))
        assert len(find(self.fuzzy, y)) == 1
        assert find(self.fuzzy, fw.Tuple([y, c])) == []

    def test_path_belongs_to_the_match(self) -> None:
        c = conv()
        (found,) = find(self.fuzzy, fw.add(fw.nn.relu(fw.exp(c)), fw.tanh(c)))
        assert sorted(found.ops) == ["add", "exp", "nn.conv2d", "nn.relu", "tanh"]


class TestFind:
    def test_match_tells_its_parts(self) -> None:
        data, weight = wildcard(), wildcard()
        pattern = is_op("nn.conv2d")(data, weight).optional(is_op("nn.relu"))
        c = conv(fw.exp(IMAGE))
        (found,) = find(pattern, fw.negative(fw.nn.relu(c)))
        assert found.ops == ("nn.conv2d", "nn.relu")
        assert found[weight] is WEIGHT and found.call("nn.conv2d") is c and found.call("exp") is None
        assert found.inputs == (c.args[0], WEIGHT)
        assert found.get(is_var()) is None
        with pytest.raises(KeyError):
            found[is_var()]

    def test_longest_first_and_no_overlap(self) -> None:
        pattern = is_op("exp")(is_op("exp")(wildcard()))
        y: fw.Expr = X
        for _ in range(5):
            y = fw.exp(y)
        assert len(find(pattern, y)) == 2

    def test_inner_node_used_elsewhere(self) -> None:
        pattern = is_op("nn.relu")(is_op("exp")(wildcard()))
        e = fw.exp(X)
        assert len(find(pattern, fw.nn.relu(e))) == 1
        assert find(pattern, fw.add(fw.nn.relu(e), e)) == []

    def test_sealed_functions_are_not_entered(self) -> None:
        f = fw.Function([X], fw.exp(X), None, {"Primitive": 1})
        assert find(is_op("exp")(wildcard()), fw.Call(f, [Y])) == []


class Rule(DFPatternCallback):
    """A callback made of a pattern and a function."""

    def __init__(self, pattern: DFPattern, make: Any, **options: bool) -> None:
        super().__init__(**options)
        self.pattern, self.make, self.calls = pattern, make, 0

    def callback(self, pre: fw.Expr, post: fw.Expr, node_map: Mapping[Any, list[Any]]) -> fw.Expr:
        self.calls += 1
        made: fw.Expr = self.make(pre, post, node_map)
        return made


class TestRewrite:
    def test_replaces_matches(self) -> None:
        a, b = wildcard(), wildcard()
        rule = Rule(a + b, lambda pre, post, m: fw.subtract(m[a][0], m[b][0]))
        got = rewrite(rule, fw.exp(fw.add(X, fw.tanh(Y))))
        assert_structural_equal(got, fw.exp(fw.subtract(X, fw.tanh(Y))))

    def test_nested_matches(self) -> None:
        a, b = wildcard(), wildcard()
        rule = Rule(a + b, lambda pre, post, m: fw.subtract(m[a][0], m[b][0]))
        got = rule.rewrite(fw.add(fw.add(X, Y), fw.exp(fw.add(Y, X))))
        assert_structural_equal(got, fw.subtract(fw.subtract(X, Y), fw.exp(fw.subtract(Y, X))))

    def test_until_nothing_changes(self) -> None:
        x = wildcard()
        rule = Rule(is_op("exp")(is_op("exp")(x)), lambda pre, post, m: fw.exp(m[x][0]))
        y: fw.Expr = X
        for _ in range(9):
            y = fw.exp(y)
        assert_structural_equal(rewrite(rule, y), fw.exp(X))

    def test_once(self) -> None:
        x = wildcard()
        rule = Rule(is_op("exp")(x), lambda pre, post, m: fw.exp(fw.exp(m[x][0])), rewrite_once=True)
        assert_structural_equal(rewrite(rule, fw.exp(X)), fw.exp(fw.exp(X)))

    def test_rule_that_never_settles_ends(self) -> None:
        a, b = wildcard(), wildcard()
        rule = Rule(a - b, lambda pre, post, m: fw.subtract(m[b][0], m[a][0]))
        rewrite(rule, fw.subtract(X, Y))
        assert rule.calls == 100

    def test_several_rules(self) -> None:
        x = wildcard()
        rules = [
            Rule(is_op("exp")(x), lambda pre, post, m: fw.tanh(m[x][0])),
            Rule(is_op("tanh")(x), lambda pre, post, m: fw.sqrt(m[x][0])),
        ]
        assert_structural_equal(rewrite(rules, fw.exp(fw.tanh(X))), fw.sqrt(fw.sqrt(X)))

    def test_keeping_what_was_matched(self) -> None:
        rule = Rule(is_op("exp")(wildcard()), lambda pre, post, m: post)
        y = fw.tanh(fw.exp(X))
        assert rewrite(rule, y) is y
        assert rule.calls == 1

    def test_pre_and_post(self) -> None:
        seen: list[tuple[fw.Expr, fw.Expr]] = []
        x = wildcard()

        def note(pre: fw.Expr, post: fw.Expr, m: Mapping[Any, list[Any]]) -> fw.Expr:
            seen.append((pre, post))
            return post if str(post.op) == "exp" else fw.sqrt(m[x][0])  # type: ignore[attr-defined]

        y = fw.exp(fw.tanh(X))
        rewrite(Rule((is_op("exp") | is_op("tanh"))(x), note, rewrite_once=True), y)
        (_, tanh), (pre, post) = seen
        assert pre is y and tanh is y.args[0]  # type: ignore[attr-defined]
        assert_structural_equal(post, fw.exp(fw.sqrt(X)))

    def test_batch_norm_by_hand(self) -> None:
        """The example that Relay's documentation made well known: batch norm written out, found again."""
        x, var, mean, beta, gamma, eps = (wildcard() for _ in range(6))
        pattern = gamma * (x - mean) / is_op("sqrt")(var + eps) + beta
        v = {n: fw.var(n, shape=(3,)) for n in ("var", "mean", "beta", "gamma")}
        written = v["gamma"] * (X - v["mean"]) / fw.sqrt(v["var"] + fw.const(1e-5)) + v["beta"]

        def norm(pre: fw.Expr, post: fw.Expr, m: Mapping[Any, list[Any]]) -> fw.Expr:
            epsilon = float(m[eps][0].data)
            return fw.nn.batch_norm(m[x][0], m[gamma][0], m[beta][0], m[mean][0], m[var][0], epsilon=epsilon)[0]

        got = rewrite(Rule(pattern, norm), written)
        assert isinstance(got, fw.TupleGetItem)
        call = got.tuple_value
        assert isinstance(call, fw.Call) and str(call.op) == "nn.batch_norm"
        assert call.args == (X, v["gamma"], v["beta"], v["mean"], v["var"])

    def test_rule_without_a_pattern(self) -> None:
        with pytest.raises(fw.FusewireError, match="has no pattern"):
            rewrite(DFPatternCallback(), X)

    def test_callback_must_return_an_expression(self) -> None:
        with pytest.raises(fw.FusewireError, match="must return an expression, got None"):
            rewrite(Rule(is_op("exp")(wildcard()), lambda pre, post, m: None), fw.exp(X))

    def test_required_types(self) -> None:
        w = fw.var("w")
        untyped = fw.Function([X, w], fw.nn.dense(X, w, units=4))
        seen: list[Any] = []

        def note(pre: fw.Expr, post: fw.Expr, m: Mapping[Any, list[Any]]) -> fw.Expr:
            seen.append(post.known_type)
            return post

        rewrite(Rule(is_op("nn.dense")(wildcard(), wildcard()), note, require_type=True), untyped)
        assert seen == [fw.TensorType((2, 4))]


class TestPartition:
    def test_match_becomes_a_function(self) -> None:
        pattern = is_op("nn.relu")(is_op("add")(wildcard(), wildcard()))
        got = pattern.partition(fw.exp(fw.nn.relu(fw.add(X, Y))))
        p, q = fw.var("p", shape=(2, 3)), fw.var("q", shape=(2, 3))
        inner = fw.Function([p, q], fw.nn.relu(fw.add(p, q)), None, {"PartitionedFromPattern": "add_nn.relu_"})
        assert_structural_equal(got, fw.exp(fw.Call(inner, [X, Y])))

    def test_attributes_and_check(self) -> None:
        pattern = is_op("exp")(wildcard())
        y = fw.add(fw.exp(X), fw.exp(fw.tanh(Y)))
        got = partition(pattern, y, {"Composite": "a.b"}, lambda e: isinstance(e, fw.Call) and e.args[0] is X)
        assert isinstance(got, fw.Call)
        first, second = got.args
        assert isinstance(first, fw.Call) and isinstance(first.op, fw.Function)
        assert first.op.attrs.Composite == "a.b"
        assert second is y.args[1]  # type: ignore[attr-defined]

    def test_constants(self) -> None:
        c = fw.const(np.ones((2, 3), "float32"))
        spelled = is_op("add")(wildcard(), is_constant()).partition(fw.add(X, c))
        assert isinstance(spelled, fw.Call) and spelled.args == (X,)
        wild = is_op("add")(wildcard(), wildcard()).partition(fw.add(X, c))
        assert isinstance(wild, fw.Call) and wild.args == (X, c)

    def test_inner_value_used_elsewhere(self) -> None:
        e = fw.exp(X)
        y = fw.add(fw.nn.relu(e), e)
        assert is_op("nn.relu")(is_op("exp")(wildcard())).partition(y) is y

    @pytest.mark.parametrize("pattern", [is_var("x"), wildcard(), is_if(wildcard(), wildcard(), wildcard())])
    def test_nothing_to_move(self, pattern: DFPattern) -> None:
        y = fw.If(fw.var("c", shape=(), dtype="bool"), X, Y)
        assert pattern.partition(y) is y

    def test_overlap(self) -> None:
        pattern = is_op("exp")(is_op("exp")(wildcard()))
        y = fw.exp(fw.exp(fw.exp(X)))
        got = pattern.partition(y)
        assert isinstance(got, fw.Call) and isinstance(got.op, fw.Function)
        assert isinstance(got.args[0], fw.Call) and str(got.args[0].op) == "exp"


def test_match_function() -> None:
    assert match(is_var("x"), X) and not match(is_var("y"), X)
