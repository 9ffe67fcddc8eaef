"""Building lets and ifs in the order of evaluation."""

import pytest

import fusewire as fw

T = fw.TensorType((2, 3), "float32")


def test_nested_scopes() -> None:
    x, cond = fw.var("x", T), fw.var("cond", shape=(), dtype="bool")
    sb = fw.ScopeBuilder()
    a = sb.let("a", fw.nn.relu(x))
    with sb.if_scope(cond):
        b = sb.let(("b", T), a + a)
        sb.ret(b * b)
    with sb.else_scope():
        c = sb.let(fw.var("c", T), fw.tanh(a))
        with sb.if_scope(cond):
            sb.ret(c)
        with sb.else_scope():
            sb.ret(a)
    assert a.checked_type == T
    function = fw.Function([x, cond], sb.get())
    expected = fw.Let(
        a, fw.nn.relu(x), fw.If(cond, fw.Let(b, a + a, b * b), fw.Let(c, fw.tanh(a), fw.If(cond, c, a)))
    )  # fmt: skip
    fw.analysis.assert_structural_equal(function, fw.Function([x, cond], expected))
    assert function.checked_type.ret_type == T  # type: ignore[attr-defined]


def test_values_are_converted() -> None:
    sb = fw.ScopeBuilder()
    one = sb.let("one", 1.0)
    parts = sb.let("parts", fw.split(fw.var("x", shape=(4,)), 2))
    sb.ret([one, parts])
    result = sb.get()
    assert str(result.checked_type) == "(float32, (Tensor[(2,), float32], Tensor[(2,), float32]))"


def test_a_scope_without_a_result() -> None:
    sb = fw.ScopeBuilder()
    with pytest.raises(fw.FusewireError, match="needs a result"), sb.if_scope(fw.const(True)):
        pass
    with pytest.raises(fw.FusewireError, match="needs a result"):
        fw.ScopeBuilder().get()


def test_if_without_else() -> None:
    sb = fw.ScopeBuilder()
    with sb.if_scope(fw.const(True)):
        sb.ret(fw.const(1))
    for use in (
        sb.get,
        lambda: sb.ret(fw.const(1)),
        lambda: sb.let("x", 1),
        lambda: sb.if_scope(fw.const(1)).__enter__(),
    ):
        with pytest.raises(fw.FusewireError, match="must be followed by an else_scope"):
            use()


def test_else_without_if() -> None:
    with pytest.raises(fw.FusewireError, match="must follow an if_scope"), fw.ScopeBuilder().else_scope():
        pass


def test_nothing_follows_the_result() -> None:
    sb = fw.ScopeBuilder()
    sb.ret(fw.const(1))
    with pytest.raises(fw.FusewireError, match="has its result already"):
        sb.let("x", 1)
    with pytest.raises(fw.FusewireError, match="has its result already"):
        sb.ret(2)


def test_get_inside_a_scope() -> None:
    sb = fw.ScopeBuilder()
    with pytest.raises(fw.FusewireError, match="after the outermost scope"), sb.if_scope(fw.const(True)):
        sb.get()


def test_an_error_in_a_scope_is_passed_on() -> None:
    sb = fw.ScopeBuilder()
    with pytest.raises(ZeroDivisionError), sb.if_scope(fw.const(True)):
        raise ZeroDivisionError
    sb.ret(fw.const(1))
    fw.analysis.assert_structural_equal(sb.get(), fw.const(1))


def test_tuple_wrapper() -> None:
    x = fw.var("x", shape=(6,))
    parts = fw.split(x, 3)
    a, b, c = parts
    assert len(parts) == 3 and isinstance(parts, fw.TupleWrapper)
    assert [p.index for p in (a, b, c, parts[-1])] == [0, 1, 2, 2]  # type: ignore[attr-defined]
    assert parts.astuple() is a.tuple_value  # type: ignore[attr-defined]
    assert parts.astext() == parts.astuple().astext() and str(parts) == str(parts.astuple())
    with pytest.raises(IndexError, match="tuple index 3 is out of range for 3 values"):
        parts[3]
