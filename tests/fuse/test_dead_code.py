"""DeadCodeElimination and ToGraphNormalForm."""

import fusewire as fw
from fusewire.fuse.transform import DeadCodeElimination, InferType, ToGraphNormalForm
from fusewire.ir.structural import assert_structural_equal

X = fw.var("x", shape=(3,))


def bound(*names: str) -> list[fw.Var]:
    return [fw.var(name, shape=(3,)) for name in names]


def check(before: fw.Expr, expected: fw.Expr, inline_once: bool = False) -> None:
    run = DeadCodeElimination(inline_once=inline_once)
    after = run(fw.IRModule.from_expr(fw.Function([X], before)))
    assert_structural_equal(after, InferType()(fw.IRModule.from_expr(fw.Function([X], expected))))


def test_unused_binding() -> None:
    (a,) = bound("a")
    check(fw.Let(a, fw.exp(X), fw.nn.relu(X)), fw.nn.relu(X))


def test_chain_of_unused_bindings() -> None:
    a, b, c = bound("a", "b", "c")
    body = fw.Let(a, fw.exp(X), fw.Let(b, fw.tanh(a), fw.Let(c, fw.add(a, b), fw.nn.relu(X))))
    check(body, fw.nn.relu(X))


def test_used_bindings_stay() -> None:
    a, b = bound("a", "b")
    body = fw.Let(a, fw.exp(X), fw.Let(b, fw.tanh(a), fw.add(b, a)))
    check(body, body)


def test_only_what_is_unused_goes() -> None:
    a, b, c = bound("a", "b", "c")
    body = fw.Let(a, fw.exp(X), fw.Let(b, fw.tanh(a), fw.Let(c, fw.negative(a), fw.nn.relu(c))))
    check(body, fw.Let(a, fw.exp(X), fw.Let(c, fw.negative(a), fw.nn.relu(c))))


def test_inline_once() -> None:
    a, b = bound("a", "b")
    body = fw.Let(a, fw.exp(X), fw.Let(b, fw.tanh(a), fw.add(b, b)))
    check(body, fw.Let(b, fw.tanh(fw.exp(X)), fw.add(b, b)), inline_once=True)


def test_binding_inside_of_a_branch() -> None:
    a, b = bound("a", "b")
    cond = fw.const(True)
    body = fw.If(cond, fw.Let(a, fw.exp(X), X), fw.Let(b, fw.exp(X), b))
    check(body, fw.If(cond, X, fw.Let(b, fw.exp(X), b)))


def test_long_chain_needs_no_deep_stack() -> None:
    variables = bound(*(f"v{k}" for k in range(20000)))
    body: fw.Expr = X
    for v in reversed(variables):
        body = fw.Let(v, fw.exp(X), body)
    after = DeadCodeElimination()(fw.IRModule.from_expr(fw.Function([X], body)))
    assert after["main"].body is X


def test_unused_functions() -> None:
    p, q = fw.var("p", shape=(3,)), fw.var("q", shape=(3,))
    leaf = fw.Function([p], fw.exp(p))
    middle = fw.Function([q], fw.Call(fw.GlobalVar("leaf"), [q]))
    main = fw.Function([X], fw.Call(fw.GlobalVar("middle"), [X]))
    mod = fw.IRModule({"main": main, "leaf": leaf, "middle": middle, "unused": leaf})
    assert list(DeadCodeElimination()(mod)) == ["main", "leaf", "middle"]
    assert list(DeadCodeElimination()(fw.IRModule({"leaf": leaf, "unused": leaf}))) == ["leaf", "unused"]


def test_nothing_to_do_changes_nothing() -> None:
    mod = InferType()(fw.IRModule.from_expr(fw.exp(X)))
    assert DeadCodeElimination()(mod) is mod


def test_graph_normal_form() -> None:
    a, b = bound("a", "b")
    body = fw.Let(a, fw.exp(X), fw.Let(b, fw.tanh(a), fw.add(b, a)))
    after = ToGraphNormalForm()(fw.IRModule.from_expr(fw.Function([X], body)))["main"].body
    shared = fw.exp(X)
    expected = InferType()(fw.IRModule.from_expr(fw.Function([X], fw.add(fw.tanh(shared), shared))))["main"].body
    assert_structural_equal(after, expected, map_free_vars=True)
    assert isinstance(after, fw.Call) and isinstance(after.args[0], fw.Call)
    assert after.args[0].args[0] is after.args[1], "a variable used twice is one node"
