"""Types found backwards, through lets, calls and functions, with symbolic dimensions; and what cannot be found."""

import pytest

import fusewire as fw
from fusewire.ir.infer import infer_module, infer_type
from fusewire.ir.verify import verify


def tensor(*shape: object, dtype: str = "float32") -> fw.TensorType:
    return fw.TensorType(shape, dtype)


def params_of(expr: fw.Expr) -> dict[str, fw.Type]:
    """The types of the free variables of `expr` after inference."""
    typed = infer_type(fw.Function(fw.analysis.free_vars(expr), expr))
    assert isinstance(typed, fw.Function)
    verify(typed)
    return {p.name_hint: p.checked_type for p in typed.params}


def test_a_typed_expression_is_returned_as_it_is() -> None:
    x = fw.var("x", shape=(2,))
    function = fw.Function([x], fw.nn.relu(x))
    assert infer_type(function) is function


def test_weights_of_convolutions() -> None:
    data = fw.var("data", shape=(1, 8, 16, 16))
    net = fw.nn.conv2d(data, fw.var("w"), kernel_size=(3, 5), channels=12, groups=4)
    net = fw.nn.bias_add(net, fw.var("b"))
    net = fw.nn.conv2d_transpose(net, fw.var("wt"), kernel_size=(2, 2), channels=6)
    found = params_of(net)
    assert found["w"] == tensor(12, 2, 3, 5)
    assert found["b"] == tensor(12)
    assert found["wt"] == tensor(12, 6, 2, 2)


def test_weights_of_dense_and_batch_norm() -> None:
    data = fw.var("data", shape=(4, 10))
    net = fw.nn.dense(data, fw.var("w"), units=3)
    net = fw.nn.batch_norm(net, fw.var("gamma"), fw.var("beta"), fw.var("mean"), fw.var("variance"))[0]
    found = params_of(net)
    assert found["w"] == tensor(3, 10)
    assert all(found[name] == tensor(3) for name in ("gamma", "beta", "mean", "variance"))


def test_types_go_through_later_nodes() -> None:
    """The second weight is decided only after the first is."""
    data = fw.var("data", shape=(1, 3, 8, 8), dtype="float16")
    net = fw.nn.conv2d(data, fw.var("w1"), kernel_size=(3, 3), channels=4, padding=1)
    net = fw.nn.relu(net) + net
    found = params_of(fw.nn.conv2d(net, fw.var("w2"), kernel_size=(1, 1), channels=5))
    assert found["w2"] == tensor(5, 4, 1, 1, dtype="float16")


def test_symbolic_dimensions() -> None:
    n, h = fw.size_var("n"), fw.size_var("h")
    data = fw.var("data", shape=(n, 3, h, 8))
    net = fw.nn.conv2d(data, fw.var("w"), kernel_size=(3, 3), channels=4, strides=2)
    typed = infer_type(fw.Function(fw.analysis.free_vars(net), net))
    assert typed.checked_type.ret_type == tensor(n, 4, (h - 3) // 2 + 1, 3)  # type: ignore[attr-defined]
    batch = fw.nn.batch_flatten(fw.var("x", shape=(n, 2, 3)))
    assert batch.checked_type == tensor(n, 6)
    assert fw.concatenate([fw.var("a", shape=(n, 2)), fw.var("b", shape=(2 * n, 2))], 0).checked_type == tensor(
        3 * n, 2
    )
    with pytest.raises(fw.TypeInferenceError, match="n"):
        fw.add(fw.var("a", shape=(n,)), fw.var("b", shape=(fw.size_var("n"),)))


def test_lets_and_branches() -> None:
    x, v, w = fw.var("x", shape=(2,)), fw.var("v"), fw.var("w")
    body = fw.If(fw.const(True), fw.Let(w, fw.exp(v), w + v), v)
    typed = infer_type(fw.Function([x], fw.Let(v, fw.nn.relu(x), body)))
    verify(typed)  # type: ignore[arg-type]
    assert typed.checked_type == fw.FuncType([tensor(2)], tensor(2))


def test_functions_in_expressions() -> None:
    x = fw.var("x", shape=(2,))
    f = fw.var("f")
    p = fw.var("p", shape=(2,))
    typed = infer_type(fw.Let(f, fw.Function([p], fw.exp(p)), f(f(x))))
    assert typed.checked_type == tensor(2)


def test_modules() -> None:
    x, y = fw.var("x", shape=(2,)), fw.var("y", shape=(2,))
    v = fw.var("v")
    mod = fw.IRModule(
        {
            "main": fw.Function([x], fw.GlobalVar("f")(fw.GlobalVar("g")(x))),
            "f": fw.Function([y], fw.Let(v, fw.exp(y), fw.Tuple([v, v]))),
            "g": fw.Function([z := fw.var("z", shape=(2,))], fw.nn.relu(z)),
        }
    )
    typed = infer_module(mod)
    verify(typed)
    assert list(typed) == ["main", "f", "g"]
    assert typed["main"].checked_type == fw.FuncType([tensor(2)], fw.TupleType([tensor(2), tensor(2)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fn (%x) { nn.relu(%x) }", "type of %x is neither given nor decided"),
        ("free_var %a; free_var %b; add(%a, %b)", "type of %a, %b is neither"),
        ("fn (%x: float32) { let %v = (%x, 1); add(%v.0, %v.1) }", "int32"),
        ("fn (%x: float32) { let %v = 1; if (True) { %x } else { %v } }", "different types"),
        ("fn (%x: float32) -> int32 { let %v = %x; %v }", "declared to return int32"),
        ("fn (%x: float32) { let %f = fn (%p: int8) { %p }; %f(%x) }", "got arguments (float32)"),
    ],
)
def test_ill_typed(text: str, message: str) -> None:
    with pytest.raises(fw.TypeInferenceError) as caught:
        infer_type(fw.parse_expr(text))
    assert message in str(caught.value)


def test_ill_typed_modules() -> None:
    x = fw.var("x", shape=(2,))
    f, g = fw.GlobalVar("f"), fw.GlobalVar("g")
    with pytest.raises(fw.TypeInferenceError, match="in a circle"):
        infer_module(fw.IRModule({"f": fw.Function([x], g(x)), "g": fw.Function([x], f(x))}))
    with pytest.raises(fw.TypeInferenceError, match="@f calls itself"):
        infer_module(fw.IRModule({"f": fw.Function([x], f(x))}))
    with pytest.raises(fw.TypeInferenceError, match="@g, which the module does not have"):
        infer_module(fw.IRModule({"f": fw.Function([x], g(x))}))
