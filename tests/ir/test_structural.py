"""Structural equality and hashing: what counts, what does not, and that the cost is linear."""

from collections.abc import Callable

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.analysis import assert_structural_equal, structural_equal, structural_hash, unique_bindings

T = fw.TensorType((2, 3), "float32")
S = fw.TensorType((), "float32")


def lam(body: Callable[..., fw.Expr], count: int = 1, **attributes: object) -> fw.Function:
    params = [fw.var(f"p{i}", T) for i in range(count)]
    return fw.Function(params, body(*params), None, fw.Attrs(attributes))


def agree(a: object, b: object, map_free_vars: bool = False) -> None:
    assert_structural_equal(a, b, map_free_vars)
    assert_structural_equal(b, a, map_free_vars)
    assert structural_hash(a, map_free_vars) == structural_hash(b, map_free_vars)


def differ(a: object, b: object, reason: str, map_free_vars: bool = False) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_structural_equal(a, b, map_free_vars)
    assert reason in str(caught.value).splitlines()[0]
    assert not structural_equal(b, a, map_free_vars)


def test_bound_variables_by_place_not_by_name() -> None:
    agree(lam(lambda x: fw.nn.relu(x)), fw.Function([y := fw.var("other", T)], fw.nn.relu(y)))
    agree(lam(lambda x, y: x - y, 2), lam(lambda a, b: a - b, 2))
    differ(lam(lambda x, y: x - y, 2), lam(lambda x, y: y - x, 2), ".body.args[0]: variables %p0 and %p1, bound in")
    assert structural_hash(lam(lambda x, y: x - y, 2)) != structural_hash(lam(lambda x, y: y - x, 2))


def test_variables_of_enclosing_functions() -> None:
    outer = lam(lambda x: lam(lambda y: x))
    inner = lam(lambda x: lam(lambda y: y))
    differ(outer, inner, ".body.body: variables")
    assert structural_hash(outer) != structural_hash(inner)
    agree(outer, lam(lambda a: lam(lambda b: a)))


def test_lets() -> None:
    def let(use: Callable[[fw.Var, fw.Var], fw.Expr]) -> fw.Expr:
        a, b = fw.var("a", S), fw.var("b", S)
        return fw.Let(a, fw.const(1.0), fw.Let(b, fw.const(2.0), use(a, b)))

    agree(let(lambda a, b: a - b), let(lambda a, b: a - b))
    differ(let(lambda a, b: a - b), let(lambda a, b: b - a), "bound in different places")


def test_free_variables() -> None:
    x, y = fw.var("x", T), fw.var("x", T)
    agree(x + x, x + x)
    differ(x + x, y + y, "different free variables")
    agree(x + x, y + y, map_free_vars=True)
    differ(x + x, x + y, "matched with another before", map_free_vars=True)
    differ(x + y, x + x, "matched with another before", map_free_vars=True)
    differ(x, fw.var("x", S), "types", map_free_vars=True)
    differ(fw.Function([x], y), fw.Function([x], x), "one is bound and one is free", map_free_vars=True)


def test_a_variable_bound_on_one_side_and_free_on_the_other() -> None:
    x, p = fw.var("x", T), fw.var("p", T)
    differ(fw.Function([x], fw.nn.relu(x)), fw.Function([p], fw.nn.relu(x)), "one is bound and one is free")


def test_sharing_does_not_matter() -> None:
    x = fw.var("x", T)
    once = fw.nn.relu(x)
    agree(once + once, fw.nn.relu(x) + fw.nn.relu(x))
    f = lam(lambda v: fw.nn.relu(v))
    agree(f(f(x)), lam(lambda v: fw.nn.relu(v))(lam(lambda v: fw.nn.relu(v))(x)))


def test_one_variable_bound_in_two_places() -> None:
    x = fw.var("x", T)
    twice = fw.Function([x], fw.nn.relu(x))(fw.Function([x], fw.tanh(x))(x))
    apart = unique_bindings(twice)
    assert fw.analysis.well_formed(apart) and not fw.analysis.well_formed(fw.Function([x], twice))
    agree(twice, fw.Function([y := fw.var("y", T)], fw.nn.relu(y))(fw.Function([z := fw.var("z", T)], fw.tanh(z))(x)))
    inner = fw.Function([x], fw.Function([x], x))
    agree(inner, lam(lambda a: lam(lambda b: b)))
    differ(inner, lam(lambda a: lam(lambda b: a)), "bound in different places")
    let = fw.Let(x, fw.nn.relu(x), fw.Let(x, fw.tanh(x), x))
    a, b = fw.var("a", T), fw.var("b", T)
    agree(let, fw.Let(a, fw.nn.relu(x), fw.Let(b, fw.tanh(a), b)))


def test_no_variable_bound_twice_is_left_alone() -> None:
    f = lam(lambda x: x)
    assert unique_bindings(f) is f


def test_constants_bit_by_bit() -> None:
    agree(fw.const([1.0, float("nan")]), fw.const([1.0, float("nan")]))
    differ(fw.const([0.0]), fw.const([-0.0]), "different values")
    differ(fw.const([1.0]), fw.const([1]), "constants of type Tensor[(1,), float32] and Tensor[(1,), int32]")
    differ(fw.const([1.0]), fw.const(1.0), "constants of type")
    assert structural_hash(fw.const(0.0)) != structural_hash(fw.const(-0.0))


def test_attributes_with_defaults_filled_in() -> None:
    x = fw.var("x", T)
    u = fw.var("u")  # untyped, so that no type rule asks for the attribute that is left out
    full = fw.nn.softmax(u)
    assert isinstance(full, fw.Call) and full.attrs.axis == -1
    agree(full, fw.Call(full.op, [u]))
    differ(fw.Call(full.op, [u]), fw.nn.softmax(u, axis=1), "attribute axis is -1 and 1")
    differ(fw.nn.softmax(x), fw.nn.softmax(x, axis=1), "attribute axis is -1 and 1")
    differ(lam(lambda v: v, tag=1), lam(lambda v: v, tag=1.0), "attribute tag is 1 and 1.0")
    differ(lam(lambda v: v, tag=1), lam(lambda v: v, tag=True), "attribute tag is 1 and True")
    differ(lam(lambda v: v, tag=1), lam(lambda v: v), "attribute tag is only on the left")
    agree(lam(lambda v: v, tag=[1, (2,)]), lam(lambda v: v, tag=((1, [2]))))
    agree(lam(lambda v: v, tag=float("nan")), lam(lambda v: v, tag=float("nan")))


def test_kinds_of_nodes() -> None:
    x = fw.var("x", T)
    cond = fw.const(True)
    differ(fw.nn.relu(x), fw.tanh(x), "a call of nn.relu and a call of tanh")
    differ(fw.nn.relu(x), x, "a call of nn.relu and a Var")
    differ(fw.Tuple([x]), fw.Tuple([x, x]), "tuples of 1 and of 2 values")
    differ(fw.Tuple([x, x])[0], fw.Tuple([x, x])[1], "tuple indices 0 and 1")
    differ(fw.If(cond, x, fw.nn.relu(x)), fw.If(cond, x, fw.tanh(x)), ".false_branch: ")
    differ(fw.GlobalVar("f")(x), fw.GlobalVar("g")(x), ".op: functions @f and @g")
    differ(fw.GlobalVar("f")(x), fw.GlobalVar("f")(x, x), "calls with 1 and with 2 arguments")
    differ(lam(lambda v: v), lam(lambda v, w: v, 2), "functions of 1 and of 2 parameters")
    differ(fw.Function([], x), fw.Function([], x + x), ".body: a Var and a call of add")
    differ(x, fw.IRModule({}), "a Var and a IRModule")


def test_declared_types() -> None:
    differ(fw.Function([x := fw.var("x")], x), fw.Function([y := fw.var("x", T)], y), "types None and Tensor")
    x = fw.var("x")
    declared, open_ = fw.Function([x], x, T), fw.Function([x], x)
    agree(declared, open_)
    differ(declared, fw.Function([x], x, S), "functions that return")


def test_symbolic_dimensions_up_to_renaming() -> None:
    def f(make: Callable[[fw.ir.index.Index, fw.ir.index.Index], list[object]]) -> fw.Function:
        n, m = fw.size_var("n"), fw.size_var("m")
        params = [fw.var("x", shape=shape) for shape in make(n, m)]
        return fw.Function(params, params[0])

    agree(f(lambda n, m: [(n, m)]), f(lambda n, m: [(m, n)]))
    agree(f(lambda n, m: [(2 * n + 1, n)]), f(lambda n, m: [(2 * m + 1, m)]))
    agree(f(lambda n, m: [(2 * n + m, n, m)]), f(lambda n, m: [(2 * m + n, m, n)]))
    agree(f(lambda n, m: [(n // 2,), (n * m,)]), f(lambda n, m: [(n // 2,), (n * m,)]))
    differ(f(lambda n, m: [(n, m)]), f(lambda n, m: [(n, n)]), "dimensions m and n")
    differ(f(lambda n, m: [(n,), (m,)]), f(lambda n, m: [(n,), (n,)]), "dimensions")
    differ(f(lambda n, m: [(2 * n + m, n, m)]), f(lambda n, m: [(2 * n + m, m, n)]), "dimensions")
    differ(f(lambda n, m: [(n,)]), f(lambda n, m: [(3,)]), "types")
    differ(f(lambda n, m: [(2 * n,)]), f(lambda n, m: [(3 * n,)]), "dimensions")
    assert structural_hash(f(lambda n, m: [(n, m)])) != structural_hash(f(lambda n, m: [(n, n)]))


def test_types() -> None:
    n, m = fw.size_var("n"), fw.size_var("m")
    agree(fw.TensorType((n, 2)), fw.TensorType((m, 2)))
    differ(fw.TensorType((2,)), fw.TensorType((3,)), "types")
    differ(fw.TupleType([T]), fw.TupleType([T, T]), "types")
    agree(fw.FuncType([T], S), fw.FuncType([T], S))
    differ(fw.FuncType([T], S), fw.FuncType([T], T), "types")


def test_modules() -> None:
    one = fw.IRModule({"f": lam(lambda x: x), "g": lam(lambda x: fw.nn.relu(x))})
    other = fw.IRModule({"g": lam(lambda y: fw.nn.relu(y)), "f": lam(lambda y: y)})
    agree(one, other)
    differ(one, one.with_functions({"g": lam(lambda x: fw.tanh(x))}), "@g.body: a call of nn.relu and a call of tanh")
    differ(one, fw.IRModule({"f": lam(lambda x: x)}), "the modules have different functions: f, g and f")


def doubled(levels: int, leaf: fw.Expr) -> fw.Expr:
    for _ in range(levels):
        leaf = fw.add(leaf, leaf)
    return leaf


def test_a_graph_that_is_huge_as_a_tree() -> None:
    one, other = lam(lambda x: doubled(200, x)), lam(lambda x: doubled(200, x))
    agree(one, other)
    differ(one, lam(lambda x: doubled(200, fw.nn.relu(x))), "")
    assert_structural_equal(fw.parse_expr(str(one)), one)


def test_functions_nested_twice_over_are_huge_as_a_tree_too() -> None:
    def nested(levels: int) -> fw.Expr:
        f = lam(lambda x: fw.nn.relu(x))
        for _ in range(levels):
            g, p, q = f, fw.var("p", T), fw.var("q", T)
            once, again = fw.Function([p], g(p)), fw.Function([q], fw.tanh(g(q)))
            f = lam(lambda x, a=once, b=again: a(b(x)))
        return f

    agree(nested(60), nested(60))
    differ(nested(60), nested(61), "")


def test_the_hash_is_the_same_in_every_run() -> None:
    assert structural_hash(lam(lambda x: x + fw.const(np.ones((2, 3), "float32")), tag="a")) == HASH


HASH = 9359310250279081051
