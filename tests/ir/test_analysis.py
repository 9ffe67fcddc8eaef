"""Questions about expressions: variables, element types, operator counts, being well formed."""

import fusewire as fw
from fusewire.ir import analysis

T = fw.TensorType((2, 3), "float32")


def names(variables: list[fw.Var]) -> list[str]:
    return [v.name_hint for v in variables]


def test_variables() -> None:
    a, b, p, v = (fw.var(name, T) for name in "abpv")
    expr = fw.Let(v, fw.Function([p], p + b)(a), v + a)
    assert names(analysis.free_vars(expr)) == ["b", "a"]
    assert names(analysis.bound_vars(expr)) == ["v", "p"]
    assert set(names(analysis.all_vars(expr))) == set("abpv")
    assert len(analysis.all_vars(expr)) == 4


def test_element_types() -> None:
    x = fw.var("x", shape=(2,), dtype="int8")
    pair = fw.Tuple([fw.cast(x, "float16"), fw.const(True)])
    assert analysis.all_dtypes(fw.Function([x], pair)) == {"int8", "float16", "bool"}
    assert analysis.all_dtypes(fw.var("x")) == set()


def test_operator_counts() -> None:
    x = fw.var("x", T)
    y = fw.nn.relu(x)
    expr = fw.add(fw.nn.relu(y + y), y)
    assert analysis.list_op_freqs(expr) == {"nn.relu": 2, "add": 2}
    mod = fw.IRModule({"f": fw.Function([x], expr), "g": fw.Function([x], y)})
    assert analysis.list_op_freqs(mod) == {"nn.relu": 2, "add": 2}  # the function g shares its call with f
    assert analysis.count_layers(expr, ["nn.relu"]) == 2
    assert analysis.count_layers(expr, ["nn.relu", "add"]) == 4
    assert analysis.count_layers(x, ["add"]) == 0


def test_constants() -> None:
    assert analysis.check_constant(fw.Tuple([fw.const(1), fw.Tuple([fw.const(2.0)])]))
    assert not analysis.check_constant(fw.Tuple([fw.const(1), fw.var("x")]))
    assert not analysis.check_constant(fw.const(1) + fw.const(1))


def test_well_formed() -> None:
    x, y, v = fw.var("x", T), fw.var("y", T), fw.var("v", T)
    assert analysis.well_formed(fw.Function([x], x + y))  # a free variable is fine
    assert analysis.well_formed(fw.Let(v, x, v + v))
    inner = fw.Function([y], x + y)
    assert analysis.well_formed(fw.Function([x], inner(inner(x))))
    assert analysis.well_formed(fw.IRModule({"f": fw.Function([x], x), "g": fw.Function([x], x + x)}))


def test_malformed() -> None:
    x, y, v = fw.var("x", T), fw.var("y", T), fw.var("v", T)
    twice = "variable %x is bound twice"
    assert analysis.malformed(fw.Function([x, x], x)) == twice
    assert analysis.malformed(fw.Function([x], fw.Let(x, fw.const(1.0, "float32") + x, x))) == twice
    assert analysis.malformed(fw.Tuple([fw.Function([x], x), fw.Function([x], x)])) == twice
    outside = "variable %v is used where it is not in scope"
    assert analysis.malformed(fw.Let(v, v, v)) == outside
    assert analysis.malformed(fw.Tuple([fw.Let(v, x, v), v])) == outside
    leaked = fw.nn.relu(v)
    assert analysis.malformed(fw.Tuple([fw.Function([v], leaked), leaked])) == outside
    cond = fw.const(True)
    assert analysis.malformed(fw.If(cond, fw.Let(v, x, v), fw.Let(y, x, y + v))) == outside
    mod = fw.IRModule({"f": fw.Function([x], x), "g": fw.Function([x, x], x)})
    assert analysis.malformed(mod) == f"in @g: {twice}"
    assert not analysis.well_formed(mod)


def test_post_order_visit() -> None:
    x = fw.var("x", T)
    seen: list[fw.Expr] = []
    y = x + x
    analysis.post_order_visit(y, seen.append)
    assert seen == [x, y]
