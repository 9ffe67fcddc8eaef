"""Graphs of 50,000 nodes in a row: nothing may recurse along them, and nothing may take quadratic time."""

import pytest

import fusewire as fw
from fusewire.ir.analysis import assert_structural_equal, structural_equal, structural_hash, well_formed
from fusewire.ir.infer import infer_module, infer_type
from fusewire.ir.verify import verify
from fusewire.ir.visitor import bind, free_vars, post_order, rewrite

LENGTH = 50_000
T = fw.TensorType((2,), "float32")


def calls(length: int) -> fw.Function:
    """relu(relu(... relu(x)))"""
    x = fw.var("x", T)
    y: fw.Expr = x
    for _ in range(length):
        y = fw.nn.relu(y)
    return fw.Function([x], y)


def lets(length: int, kind: fw.Type | None) -> fw.Function:
    """let v = relu(x); let v = relu(v); ..."""
    x = fw.var("x", T)
    bound: list[tuple[fw.Var, fw.Expr]] = []
    last = x
    for _ in range(length):
        v = fw.var("v", kind)
        bound.append((v, fw.nn.relu(last)))
        last = v
    body: fw.Expr = last
    for v, value in reversed(bound):
        body = fw.Let(v, value, body)
    return fw.Function([x], body)


def shared(length: int) -> fw.Function:
    """Each node is used twice: 2**length paths."""
    x = fw.var("x", T)
    y: fw.Expr = x
    for _ in range(length):
        y = fw.add(y, y)
    return fw.Function([x], y)


@pytest.fixture(scope="module", params=["calls", "lets", "shared"])
def chain(request: pytest.FixtureRequest) -> fw.Function:
    return {"calls": calls(LENGTH), "lets": lets(LENGTH, T), "shared": shared(LENGTH)}[request.param]


def test_text_and_equality(chain: fw.Function) -> None:
    text = str(chain)
    assert text.count("\n") >= LENGTH
    back = fw.parse_expr(text)
    assert_structural_equal(back, chain)
    assert structural_hash(back) == structural_hash(chain)


def test_a_difference_at_the_far_end(chain: fw.Function) -> None:
    (x,) = chain.params
    changed = fw.Function([x], rewrite(chain.body, lambda e: fw.const([1.0, 1.0]) if e is x else None))
    assert not structural_equal(chain, changed)


def test_walks(chain: fw.Function) -> None:
    assert len(post_order(chain)) > LENGTH
    assert free_vars(chain.body) == list(chain.params)
    assert fw.ExprMutator().visit(chain) is chain
    fw.ExprVisitor().visit(chain)
    bound = bind(chain, {chain.params[0]: fw.const([1.0, 1.0])})
    assert isinstance(bound, fw.Function) and not bound.params
    (name,) = fw.analysis.list_op_freqs(chain)
    assert fw.analysis.list_op_freqs(chain)[name] == LENGTH


def test_checks(chain: fw.Function) -> None:
    assert well_formed(chain)
    verify(chain)
    assert infer_type(chain) is chain


def test_types_of_many_lets() -> None:
    typed = infer_type(lets(LENGTH, None))
    assert typed.checked_type == fw.FuncType([T], T)


def test_types_backwards_along_a_chain() -> None:
    """Nothing is typed before inference finds the first weight; it decides the last one."""
    y: fw.Expr = fw.nn.dense(fw.var("data", shape=(3, 4)), fw.var("first"), units=5)
    for _ in range(LENGTH):
        y = fw.nn.relu(y)
    y = fw.nn.dense(y, fw.var("last"), units=7)
    assert y.known_type is None
    typed = infer_type(fw.Function(free_vars(y), y))
    shapes = [(3, 4), (5, 4), (7, 5)]
    assert typed.checked_type == fw.FuncType([fw.TensorType(s) for s in shapes], fw.TensorType((3, 7)))


def test_many_functions() -> None:
    x = fw.var("x", T)
    count = 3000
    mod = fw.IRModule({"f0": fw.Function([x], fw.nn.relu(x))})
    for i in range(1, count):
        p = fw.var("p", T)
        mod[f"f{i}"] = fw.Function([p], fw.GlobalVar(f"f{i - 1}", mod["f0"].known_type)(p))
    verify(mod)
    back = fw.parse(str(mod))
    verify(back)
    assert_structural_equal(back, mod)
    assert_structural_equal(infer_module(back), mod)
