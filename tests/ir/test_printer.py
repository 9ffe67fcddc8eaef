"""What programs look like as text."""

import re

import numpy as np
import pytest

import fusewire as fw

X = fw.TensorType((2, 3), "float32")


def body_of(text: str) -> str:
    """The text without type comments."""
    return re.sub(r" /\*.*?\*/", "", text)


def test_function_in_a_module() -> None:
    x, w = fw.var("x", shape=(1, 3, 8, 8)), fw.var("w", shape=(4, 3, 3, 3))
    net = fw.nn.relu(fw.nn.conv2d(x, w, kernel_size=(3, 3), channels=4, padding=(1, 1)))
    mod = fw.IRModule.from_expr(fw.Function([x, w], net))
    tensor = "Tensor[(1, 3, 8, 8), float32]"
    kernel = "Tensor[(4, 3, 3, 3), float32]"
    out = "Tensor[(1, 4, 8, 8), float32]"
    assert str(mod) == (
        '#[version = "0.0.5"]\n'
        f"def @main(%x: {tensor} /* ty={tensor} */, %w: {kernel} /* ty={kernel} */) -> {out} {{\n"
        f"  %0 = nn.conv2d(%x, %w, padding=[1, 1, 1, 1], channels=4, kernel_size=[3, 3]) /* ty={out} */;\n"
        f"  nn.relu(%0) /* ty={out} */\n"
        "}\n"
    )
    assert mod.astext() == str(mod)


def test_version_line() -> None:
    x = fw.var("x", X)
    assert not str(x).startswith("#")
    assert x.astext().startswith('#[version = "0.0.5"]\n')


def test_shared_nodes_are_numbered_and_single_ones_at_the_end_are_not() -> None:
    x = fw.var("x", X)
    y = fw.nn.relu(x)
    assert body_of(str(fw.Function([x], y + y))).splitlines()[1:-1] == ["  %0 = nn.relu(%x);", "  add(%0, %0)"]


def test_arguments_come_before_the_function_called() -> None:
    x, y = fw.var("x"), fw.var("y")
    program = fw.Call(fw.Function([x], x), [fw.Call(fw.Function([y], y), [fw.const(1)])])
    assert body_of(str(program)) == ("%0 = fn (%y) {\n  %y\n};\n%1 = %0(1);\n%2 = fn (%x) {\n  %x\n};\n%2(%1)")


def test_let_and_tuples() -> None:
    pair = fw.Tuple([fw.const(0), fw.const(0)])
    x = fw.var("x")
    zero = "0 /* ty=int32 */"
    both = f"({zero}, {zero}) /* ty=(int32, int32) */"
    assert str(fw.Let(x, pair, pair)) == f"%0 = {both};\nlet %x = %0;\n%0"
    assert str(fw.Let(x, pair, x)) == f"let %x = {both};\n%x"
    assert str(fw.Let(x, pair, x[1])) == f"let %x = {both};\n%x.1"
    assert str(fw.Tuple([fw.Tuple([]), x])) == "free_var %x;\n%0 = () /* ty=() */;\n(%0, %x)"
    assert str(fw.Tuple([x])) == "free_var %x;\n(%x,)"


def test_let_as_an_argument() -> None:
    y, v = fw.var("y", X), fw.var("v")
    inner = fw.Let(v, y, v)
    text = body_of(str(fw.Function([y], fw.Tuple([inner, inner]))))
    assert text.splitlines()[1:-1] == ["  %0 = (", "    let %v = %y;", "    %v", "  );", "  (%0, %0)"]


def test_what_both_branches_use_is_computed_before_them() -> None:
    cond, x = fw.var("cond", shape=(), dtype="bool"), fw.var("x", X)
    shared, own = fw.nn.relu(x), fw.tanh(x)
    choice = fw.If(cond, fw.exp(shared), fw.add(shared, fw.exp(own)))
    lines = [line.strip() for line in body_of(str(fw.Function([cond, x], choice))).splitlines()]
    assert lines[1:] == [
        "%0 = nn.relu(%x);", "if (%cond) {", "exp(%0)", "} else {", "%1 = tanh(%x);", "%2 = exp(%1);", "add(%0, %2)",
        "}", "}",
    ]  # fmt: skip


def test_what_a_let_needs_comes_before_and_what_needs_it_after() -> None:
    x, v = fw.var("x", X), fw.var("v", X)
    shared = fw.nn.relu(x)
    after = fw.exp(v)
    lines = body_of(str(fw.Function([x], fw.Let(v, fw.tanh(shared), after + after + shared)))).splitlines()[1:-1]
    assert lines == [
        "  %0 = nn.relu(%x);", "  let %v: Tensor[(2, 3), float32] = tanh(%0);", "  %1 = exp(%v);",
        "  %2 = add(%1, %1);", "  add(%2, %0)",
    ]  # fmt: skip


def test_function_attributes() -> None:
    p = fw.var("p0", X)
    f = fw.Function([p], fw.nn.relu(p), None, fw.Attrs({"Primitive": 1, "Composite": "dnnl.relu", "w x": None}))
    tensor = "Tensor[(2, 3), float32]"
    head = f'fn (%p0: {tensor} /* ty={tensor} */, Primitive=1, Composite="dnnl.relu", "w x"=None) -> {tensor} {{'
    assert str(f).splitlines()[0] == head
    assert str(f).splitlines()[-1] == f"}} /* ty=fn ({tensor}) -> {tensor} */"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1.0"), (1e-5, "1e-05"), (True, "True"), (None, "None"), ("NHWC", '"NHWC"'),
        ([1, (2, 3)], "[1, [2, 3]]"), (float("inf"), "inf"), (-float("inf"), "-inf"), (float("nan"), "nan"),
        ('"\\\n', '"\\"\\\\\\n"'), ({"a": [1]}, '{"a": [1]}'), (np.float32(0.5), "0.5"), (np.int64(7), "7"),
    ],
)  # fmt: skip
def test_attribute_values(value: object, text: str) -> None:
    f = fw.Function([], fw.const(1), None, fw.Attrs({"a": value}))
    assert str(f).splitlines()[0] == f"fn (a={text}) -> int32 {{"
    back = fw.parse_expr(str(f))
    assert isinstance(back, fw.Function) and repr(back.attrs) == repr(f.attrs)


def test_a_value_without_text_form_is_shown_and_cannot_be_read() -> None:
    f = fw.Function([], fw.const(1), None, fw.Attrs({"a": X}))
    assert "a=<Tensor[(2, 3), float32]>" in str(f)
    with pytest.raises(fw.ParseError, match="value of an attribute"):
        fw.parse_expr(str(f))


def test_defaults_are_left_out() -> None:
    x = fw.var("x", X)
    assert "nn.softmax(%x)" in str(fw.nn.softmax(x))
    assert "nn.softmax(%x, axis=0)" in str(fw.nn.softmax(x, axis=0))


def test_names_are_unique_and_valid() -> None:
    names = ["x", "x", "1", "a b", "layer.0.weight", "block.0", "base/x", "x1", "", "%y"]
    params = [fw.var(name, X) for name in names]
    f = fw.Function(params, fw.Tuple(params))
    back = fw.parse_expr(str(f))
    assert isinstance(back, fw.Function)
    hints = [p.name_hint for p in back.params]
    assert hints == ["x", "x1", "v1", "a_b", "layer.0.weight", "block_0", "base/x", "x11", "v", "_y"]
    fw.analysis.assert_structural_equal(f, back)
    assert str(back) == str(f)


def test_the_same_name_in_separate_functions_is_kept() -> None:
    def primitive() -> fw.Function:
        p = fw.var("p0", X)
        return fw.Function([p], fw.nn.relu(p), None, fw.Attrs({"Primitive": 1}))

    x = fw.var("x", X)
    text = str(fw.Function([x], primitive()(primitive()(x))))
    assert text.count("fn (%p0: ") == 2


def test_invalid_names_of_functions_are_changed_where_they_are_called_too() -> None:
    x = fw.var("x", X)
    mod = fw.IRModule({"my f": fw.Function([x], x), "my_f": fw.Function([x], x)})
    y = fw.var("y", X)
    mod["main"] = fw.Function([y], fw.GlobalVar("my_f")(fw.GlobalVar("my f")(y)))
    back = fw.parse(str(mod))
    assert list(back) == ["my_f", "my_f1", "main"]
    assert "%0 = @my_f(%y)" in str(back) and "@my_f1(%0)" in str(back)


def test_constants_in_the_metadata() -> None:
    c = fw.const(np.arange(3, dtype="int16"))
    e = fw.Tuple([c, c, fw.const([1.0])])
    text = e.astext()
    assert text.count("meta[relay.Constant][0]") == 2 and text.count("meta[relay.Constant][1]") == 1
    assert '{"dtype": "int16", "shape": [3], "data": "AAABAAIA"}' in text
    back = fw.parse_expr(text)
    fw.analysis.assert_structural_equal(e, back)
    assert isinstance(back, fw.Tuple) and back.fields[0] is back.fields[1]
    short = e.astext(show_meta_data=False)
    assert "#[metadata]" not in short and "left out" in short
    with pytest.raises(fw.ParseError, match="printed without metadata"):
        fw.parse_expr(short)


def test_symbolic_dimensions() -> None:
    n, m, other_n = fw.size_var("n"), fw.size_var("m"), fw.size_var("n")
    x = fw.var("x", shape=(n, 2 * n + 1, (n - 1) // 2 + 1, n * m, n % 4, other_n, 3 * (n // 3)))
    text = str(fw.Function([x], x))
    assert "%x: Tensor[(n, 2*n + 1, (n + 1) // 2, m * n, n % 4, n1, 3*(n // 3)), float32]" in text
    fw.analysis.assert_structural_equal(fw.parse_expr(text), fw.Function([x], x))


def test_a_dimension_whose_name_is_no_identifier() -> None:
    x = fw.var("x", shape=(fw.size_var("batch size"), fw.size_var("inff")))
    f = fw.Function([x], x)
    assert "Tensor[(batch_size, inff_), float32]" in str(f)
    fw.analysis.assert_structural_equal(fw.parse_expr(str(f)), f)


def test_free_variables_are_declared() -> None:
    x, w = fw.var("x", X), fw.var("w")
    tensor = "Tensor[(2, 3), float32]"
    assert str(fw.Tuple([x, w])) == f"free_var %x: {tensor} /* ty={tensor} */;\nfree_var %w;\n(%x, %w)"
    mod = fw.IRModule({"main": fw.Function([], x)})
    assert f"  free_var %x: {tensor}" in str(mod)
