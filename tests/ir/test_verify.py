"""The verifier finds what a faulty pass could leave behind, and names the pass."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.verify import verify

T = fw.TensorType((2, 3), "float32")
S = fw.TensorType((), "float32")


def function(body: fw.Expr, *params: fw.Var, **attributes: object) -> fw.Function:
    return fw.Function(params, body, None, fw.Attrs(attributes))


def refused(program: fw.IRModule | fw.Function, message: str) -> None:
    with pytest.raises(fw.VerifyError) as caught:
        verify(program, "FaultyPass")
    assert str(caught.value).startswith("after FaultyPass: ")
    assert message in str(caught.value)


def forge(node: fw.Expr, **fields: object) -> None:
    """Change a node that cannot be changed."""
    for name, value in fields.items():
        object.__setattr__(node, name, value)


def test_good_programs() -> None:
    x, y, v = fw.var("x", T), fw.var("y", T), fw.var("v", T)
    f = function(fw.Let(v, fw.nn.relu(x), fw.If(fw.const(True), v, v + v)), x)
    verify(f)
    g = function(fw.GlobalVar("f", f.checked_type)(y), y)
    verify(fw.IRModule({"f": f, "main": g}), "GoodPass")


def test_without_a_pass_there_is_no_name() -> None:
    x = fw.var("x")
    with pytest.raises(fw.VerifyError, match=r"^the type of a Var is not known"):
        verify(function(x, x))


def test_missing_types() -> None:
    x = fw.var("x")
    refused(function(fw.nn.relu(x), x), "the type of a Var is not known")
    y = fw.var("y", T)
    refused(fw.IRModule({"f": function(y, y), "main": function(fw.GlobalVar("f"), y)}), "type of a GlobalVar is not")


def test_stale_types() -> None:
    x = fw.var("x", T)
    y = fw.nn.relu(x)
    forge(y, _type=S)
    refused(function(fw.tanh(y), x), "the recorded type is float32, but the parts give Tensor[(2, 3), float32]")
    z = fw.add(x, x)
    forge(z, args=(x, fw.const(1)))
    refused(function(z, x), "ill-typed: add(")
    f = function(x, x)
    forge(f, _type=fw.FuncType([S], S))
    refused(f, "the recorded type is fn (float32) -> float32")


def test_scopes() -> None:
    x, y = fw.var("x", T), fw.var("y", T)
    refused(function(x, x, x), "variable %x is bound twice")
    refused(function(fw.Tuple([fw.Let(y, x, y), y]), x), "variable %y is used where it is not in scope")
    refused(fw.IRModule({"main": function(x + y, x)}), "variable %y is not bound in @main")
    verify(function(x + y, x))  # a function by itself may be part of another


def test_calls_between_functions() -> None:
    x, y = fw.var("x", T), fw.var("y", T)
    kind = fw.FuncType([T], T)
    refused(fw.IRModule({"main": function(fw.GlobalVar("f", kind)(x), x)}), "@main refers to @f, which the module does")
    circle = fw.IRModule(
        {"f": function(fw.GlobalVar("g", kind)(x), x), "g": function(fw.GlobalVar("f", kind)(y), y)}
    )  # fmt: skip
    refused(circle, "in a circle: @")
    s = fw.var("s", S)
    refused(
        fw.IRModule({"f": function(s, s), "main": function(fw.GlobalVar("f", kind)(x), x)}),
        "@f has type fn (float32) -> float32, but is used as fn (Tensor[(2, 3), float32])",
    )


def test_lets_and_tuples() -> None:
    x, v = fw.var("x", T), fw.var("v", T)
    let = fw.Let(v, x, v)
    forge(let, value=fw.const(1.0))
    refused(function(let, x), "%v has type Tensor[(2, 3), float32], but its value has float32")
    item = fw.Tuple([x])[0]
    forge(item, index=1)
    refused(function(item, x), "index 1 is out of range for a value of type (Tensor[(2, 3), float32],)")


def test_primitive_functions() -> None:
    x, p, q = fw.var("x", T), fw.var("p", T), fw.var("q", T)
    verify(function(function(fw.nn.relu(p), p, Primitive=1)(x), x))
    nested = function(function(q, q)(p), p, Primitive=1)
    refused(function(nested(x), x), "a Primitive function holds another function")


def test_constants_are_read_only() -> None:
    c = fw.const(np.ones(3))
    forge(c, data=np.ones(3))
    refused(function(c), "a constant can be written to")


def test_long_programs_are_shortened_in_the_message() -> None:
    x = fw.var("x", T)
    y = fw.nn.relu(x)
    for _ in range(500):
        y = fw.nn.relu(y)
    with pytest.raises(fw.VerifyError) as caught:
        verify(function(y, x, x))
    assert len(str(caught.value)) < 3000 and "more characters" in str(caught.value)
