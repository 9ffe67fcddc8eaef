"""Walking and rewriting graphs."""

import pytest

import fusewire as fw
from fusewire.ir.visitor import bind, children, free_vars, post_order, rewrite, with_children

T = fw.TensorType((2, 3), "float32")


def program() -> tuple[fw.Function, dict[str, fw.Expr]]:
    """One node of each kind, by name."""
    x, y, v, p = (fw.var(name, T) for name in "xyvp")
    nodes: dict[str, fw.Expr] = {"x": x, "y": y, "v": v, "p": p}
    nodes["relu"] = fw.nn.relu(x)
    nodes["inner"] = fw.Function([p], fw.tanh(p))
    nodes["call"] = fw.Call(nodes["inner"], [nodes["relu"]])
    nodes["global"] = fw.GlobalVar("g", fw.FuncType([T], T))
    nodes["tuple"] = fw.Tuple([nodes["call"], nodes["relu"]])
    nodes["item"] = fw.TupleGetItem(nodes["tuple"], 1)
    nodes["cond"] = fw.const(True)
    nodes["if"] = fw.If(nodes["cond"], nodes["item"], fw.Call(nodes["global"], [v]))
    nodes["let"] = fw.Let(v, y, nodes["if"])
    return fw.Function([x, y], nodes["let"]), nodes


def test_children_and_back() -> None:
    function, nodes = program()
    assert children(nodes["call"]) == (nodes["inner"], nodes["relu"])
    assert children(nodes["let"]) == (nodes["v"], nodes["y"], nodes["if"])
    assert children(function) == (nodes["x"], nodes["y"], nodes["let"])
    for node in post_order(function):
        assert with_children(node, children(node)) is node
        if children(node):
            parts = [fw.Var(c.name_hint, c.type_annotation) if isinstance(c, fw.Var) else c for c in children(node)]
            if any(a is not b for a, b in zip(parts, children(node), strict=True)):
                rebuilt = with_children(node, parts)
                assert type(rebuilt) is type(node) and all(
                    a is b for a, b in zip(children(rebuilt), parts, strict=True)
                )


def test_post_order() -> None:
    function, nodes = program()
    order = post_order(function)
    place = {id(node): i for i, node in enumerate(order)}
    assert len(place) == len(order) and order[-1] is function
    assert all(place[id(part)] < place[id(node)] for node in order for part in children(node))
    assert all(id(node) in place for node in nodes.values())
    outside = post_order(function, enter_functions=False)
    assert nodes["inner"] in outside and nodes["p"] not in outside
    pruned = post_order(function, done=lambda e: e is nodes["call"])
    assert nodes["call"] not in pruned and nodes["inner"] not in pruned and nodes["relu"] in pruned


def test_free_variables_in_the_order_of_use() -> None:
    function, nodes = program()
    assert free_vars(function) == []
    assert free_vars(nodes["let"]) == [nodes["y"], nodes["x"]]
    assert free_vars(nodes["inner"]) == []


class Counter(fw.ExprVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}

    def visit_call(self, call: fw.Call) -> None:
        self.count["call"] = self.count.get("call", 0) + 1
        super().visit_call(call)

    def visit_var(self, var: fw.Var) -> str:
        self.count[var.name_hint] = self.count.get(var.name_hint, 0) + 1
        return var.name_hint


def test_visitor_sees_each_node_once() -> None:
    function, nodes = program()
    counter = Counter()
    assert counter.visit(function) is None
    assert counter.count == {"x": 1, "y": 1, "v": 1, "p": 1, "call": 4}
    assert counter.visit(nodes["x"]) == "x"
    assert counter.count["x"] == 1


@pytest.mark.parametrize(
    "kind", ["var", "constant", "global_var", "call", "tuple", "tuple_getitem", "let", "if", "function"]
)
def test_each_kind_has_its_method(kind: str) -> None:
    function, _ = program()
    visitor = fw.ExprVisitor()
    seen: list[fw.Expr] = []
    setattr(visitor, f"visit_{kind}", seen.append)
    visitor.visit(function)
    assert seen and {type(e).__name__.lower() for e in seen} == {kind.replace("_", "")}


class ReluToTanh(fw.ExprMutator):
    def visit_call(self, call: fw.Call) -> fw.Expr:
        rebuilt = super().visit_call(call)
        assert isinstance(rebuilt, fw.Call)
        return fw.tanh(rebuilt.args[0]) if str(call.op) == "nn.relu" else rebuilt


def test_mutator_rebuilds_what_changed_and_keeps_the_rest() -> None:
    function, nodes = program()
    changed = ReluToTanh().visit(function)
    assert fw.analysis.list_op_freqs(changed) == {"tanh": 2}
    after = post_order(changed)
    assert nodes["inner"] in after and nodes["relu"] not in after
    assert changed.checked_type == function.checked_type
    assert len([e for e in after if isinstance(e, fw.Tuple)]) == 1  # shared nodes stay shared
    assert ReluToTanh().visit(changed) is changed


def test_rewrite() -> None:
    function, nodes = program()
    wrapped = rewrite(function, lambda e: fw.exp(nodes["x"]) if e is nodes["relu"] else None)
    assert fw.analysis.list_op_freqs(wrapped) == {"exp": 1, "tanh": 1}
    assert rewrite(function, lambda e: None) is function


def test_bind() -> None:
    x, y = fw.var("x", T), fw.var("y", T)
    value = fw.const(1.0)
    bound = bind(fw.Function([x, y], x + y), {x: fw.nn.relu(y)})
    assert isinstance(bound, fw.Function) and bound.params == (y,)
    fw.analysis.assert_structural_equal(bound, fw.Function([y], fw.nn.relu(y) + y))
    fw.analysis.assert_structural_equal(bind(fw.Tuple([x, y]), {x: value}), fw.Tuple([value, y]))
