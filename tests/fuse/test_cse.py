"""EliminateCommonSubexpr."""

import numpy as np

import fusewire as fw
from fusewire.fuse.transform import EliminateCommonSubexpr


def body(expr: fw.Expr, **options: object) -> fw.Expr:
    return EliminateCommonSubexpr(**options)(fw.IRModule.from_expr(expr))["main"].body  # type: ignore[arg-type]


def nodes(expr: fw.Expr) -> list[fw.Expr]:
    found: list[fw.Expr] = []
    fw.analysis.post_order_visit(expr, found.append)
    return found


def calls(expr: fw.Expr, name: str) -> int:
    """How many different nodes call this operator (equal texts may be shared nodes, so structure does not tell)."""
    return sum(isinstance(n, fw.Call) and str(n.op) == name for n in nodes(expr))


X = fw.var("x", shape=(2, 3))


def test_equal_calls_are_shared() -> None:
    y = fw.add(fw.exp(fw.nn.relu(X)), fw.exp(fw.nn.relu(X)))
    assert calls(y, "exp") == 2
    after = body(y)
    assert calls(after, "exp") == calls(after, "nn.relu") == 1
    assert isinstance(after, fw.Call) and after.args[0] is after.args[1]


def test_attributes_matter() -> None:
    y = fw.add(fw.sum(X, axis=0), fw.add(fw.sum(X, axis=0), fw.max(fw.sum(X, axis=1))))
    assert calls(body(y), "sum") == 2


def test_order_of_arguments_matters() -> None:
    z = fw.var("z", shape=(2, 3))
    y = fw.multiply(fw.subtract(X, z), fw.subtract(z, X))
    assert calls(body(y), "subtract") == 2


def test_equal_small_constants_are_one() -> None:
    one = [fw.add(X, fw.const(1.0)) for _ in range(2)]
    assert calls(body(fw.multiply(*one)), "add") == 1
    mixed = fw.multiply(fw.add(X, fw.const(1.0)), fw.add(X, fw.const(2.0)))
    assert calls(body(mixed), "add") == 2


def test_large_constants_are_compared_by_identity() -> None:
    x = fw.var("x", shape=(50, 50))
    one, two = (fw.const(np.ones((50, 50), "float32")) for _ in range(2))
    assert calls(body(fw.multiply(fw.add(x, one), fw.add(x, two))), "add") == 2
    assert calls(body(fw.multiply(fw.add(x, one), fw.add(x, one))), "add") == 1


def test_constants_of_equal_bytes_and_other_type() -> None:
    zeros = [fw.const(np.zeros(3, dtype)) for dtype in ("int32", "float32")]
    y = fw.add(fw.cast(zeros[0], "float32"), fw.cast(zeros[1], "float32"))
    assert calls(body(y), "cast") == 2


def test_tuple_items() -> None:
    parts = [fw.split(X, 3, axis=1)[0] for _ in range(2)]
    after = body(fw.add(*parts))
    assert calls(after, "split") == 1
    assert sum(isinstance(n, fw.TupleGetItem) for n in nodes(after)) == 1


def test_skip() -> None:
    y = fw.add(fw.exp(X), fw.exp(X))
    assert calls(body(y, fskip=lambda e: isinstance(e, fw.Call) and str(e.op) == "exp"), "exp") == 2


def test_bodies_of_functions_are_left_alone() -> None:
    # The exp inside of the function must not become the one outside, which the function could not see.
    p = fw.var("p", shape=(2, 3))
    inner = fw.Function([p], fw.add(p, fw.exp(X)))
    y = fw.add(fw.Call(inner, [X]), fw.exp(X))
    assert calls(body(y), "exp") == 2


def test_nothing_to_do_changes_nothing() -> None:
    mod = fw.transform.InferType()(fw.IRModule.from_expr(fw.exp(X)))
    assert EliminateCommonSubexpr()(mod)["main"] is mod["main"]
