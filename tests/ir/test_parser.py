"""Reading program text: what is accepted beyond what is printed, and what is refused, with the place."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.analysis import assert_structural_equal
from fusewire.ir.type_parser import MAX_DEPTH

X, Y, ANY = fw.var("x"), fw.var("y"), fw.var("_")
UNIT = fw.Tuple([])
INT = fw.TensorType((), "int32")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("// a comment\n()", UNIT),
        ("/* one /* inside */ another */ ()", UNIT),
        ('#[version = "0.0.5"]\n()', UNIT),
        ("(0,)", fw.Tuple([fw.const(0)])),
        ("(0, 1,)", fw.Tuple([fw.const(0), fw.const(1)])),
        ("(5)", fw.const(5)),
        ("--10", fw.const(10)),
        ("- 05", fw.const(-5)),
        ("1 + 2 * 3", fw.const(1) + fw.const(2) * fw.const(3)),
        ("1 - 2 - 3", (fw.const(1) - fw.const(2)) - fw.const(3)),
        ("(1 + 2) * 3 < 4", (fw.const(1) + fw.const(2)) * fw.const(3) < fw.const(4)),
        ("let %x = 1; ()", fw.Let(X, fw.const(1), UNIT)),
        ("let %_ : _ = (); ()", fw.Let(ANY, UNIT, UNIT)),
        ("let %_: (int32,) = (0,); ()", fw.Let(fw.Var("_", fw.TupleType([INT])), fw.Tuple([fw.const(0)]), UNIT)),
        ("(); ()", fw.Let(ANY, UNIT, UNIT)),
        ("%0 = (); %1 = 1; (%0, %0, %1)", fw.Tuple([UNIT, UNIT, fw.const(1)])),
        ("fn () { 0 }", fw.Function([], fw.const(0))),
        ("fn (%x) { %x }", fw.Function([X], X)),
        ("fn (%x: Tensor[(), int32]) -> int32 { %x }", fw.Function([v := fw.Var("x", INT)], v)),
        ("fn (%x, %y) { %x + %y }", fw.Function([X, Y], fw.add(X, Y))),
        ("(fn (%x) { %x })(0)", fw.Function([X], X)(fw.const(0))),
        ("if (True) { 0 } else { 1 }", fw.If(fw.const(True), fw.const(0), fw.const(1))),
        ("abs(1)", fw.abs(fw.const(1))),
        ("((0, 1).1, 2).0", fw.Tuple([fw.Tuple([fw.const(0), fw.const(1)])[1], fw.const(2)])[0]),
        (
            "let %f = fn (%x) { fn (%y) { (%x, %y) } }; %f(0)(1)",
            fw.Let(ANY, fw.Function([X], fw.Function([Y], fw.Tuple([X, Y]))), fw.Call(ANY, [fw.const(0)])(fw.const(1))),
        ),
    ],
)
def test_accepted(text: str, expected: fw.Expr) -> None:
    parsed = fw.parse_expr(text)
    assert_structural_equal(parsed, expected)
    assert_structural_equal(fw.parse_expr(parsed.astext()), expected)


def test_types() -> None:
    text = """fn (%a: float32, %b: Tensor[(1), int8], %c: Tensor[(), bool], %d: fn (int32, (int32,)) -> (),
                  %e: (float16), %f: _, %g) { () }"""
    function = fw.parse_expr(text)
    assert isinstance(function, fw.Function)
    assert [p.type_annotation for p in function.params] == [
        fw.TensorType((), "float32"), fw.TensorType((1,), "int8"), fw.TensorType((), "bool"),
        fw.FuncType([INT, fw.TupleType([INT])], fw.TupleType([])), fw.TensorType((), "float16"), None, None,
    ]  # fmt: skip


def test_symbolic_dimensions_are_shared_by_name() -> None:
    function = fw.parse_expr("fn (%x: Tensor[(n, 4), float32], %y: Tensor[(n, 1), float32]) { add(%x, %y) }")
    assert isinstance(function, fw.Function)
    x, y = function.params
    assert isinstance(x.checked_type, fw.TensorType) and isinstance(y.checked_type, fw.TensorType)
    assert x.checked_type.shape[0] == y.checked_type.shape[0]
    assert function.checked_type == fw.FuncType([x.checked_type, y.checked_type], x.checked_type)


def test_unknown_dimensions_differ() -> None:
    with pytest.raises(fw.ParseError, match="any"):
        fw.parse_expr("fn (%x: Tensor[(?,), float32], %y: Tensor[(?,), float32]) { add(%x, %y) }")


def test_free_variables() -> None:
    parsed = fw.parse_expr("free_var %x: Tensor[(2,), float32];\nfree_var %w;\nnn.relu(%x)")
    assert [v.name_hint for v in fw.analysis.free_vars(parsed)] == ["x"]
    assert parsed.checked_type == fw.TensorType((2,))


def test_relay_text_with_spans_and_suffixes() -> None:
    parsed = fw.parse_expr(
        """free_var %x: Tensor[(1, 3, 8, 8), float32] /* span=from_string:2:1 */;
        %0 = nn.leaky_relu(%x, alpha=0.1f) /* ty=Tensor[(1, 3, 8, 8), float32] span=net:1:2 */;
        nn.max_pool2d(%0, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0]) /* ty=Tensor[(1, 3, 4, 4), float32] */
        """
    )
    x = fw.var("x", shape=(1, 3, 8, 8))
    expected = fw.nn.max_pool2d(fw.nn.leaky_relu(x, 0.1), pool_size=(2, 2), strides=(2, 2))
    assert_structural_equal(parsed, expected, map_free_vars=True)


def test_attributes_are_brought_into_the_form_that_the_builder_stores() -> None:
    head = "free_var %x: Tensor[(1, 3, 8, 8), float32]; free_var %w: Tensor[(4, 3, 3, 3), float32]; "
    short = fw.parse_expr(head + "nn.conv2d(%x, %w, padding=[1, 1], kernel_size=[3, 3])")
    long = fw.parse_expr(head + "nn.conv2d(%x, %w, strides=[1, 1], padding=[1, 1, 1, 1], kernel_size=[3, 3])")
    assert_structural_equal(short, long, map_free_vars=True)


def test_results_in_a_tuple_are_the_plain_call() -> None:
    parsed = fw.parse_expr("free_var %x: Tensor[(4, 2), float32]; split(%x, indices_or_sections=2)")
    assert isinstance(parsed, fw.Call) and isinstance(parsed.checked_type, fw.TupleType)


def test_an_operator_whose_arguments_and_attributes_alternate() -> None:
    text = "free_var %x: Tensor[(2,), float32]; nn.pad(%x, 1f, pad_width=[[1, 2]])"
    expected = fw.nn.pad(fw.var("x", shape=(2,)), [(1, 2)], 1.0)
    assert_structural_equal(fw.parse_expr(text), expected, map_free_vars=True)


def test_module_with_calls_in_any_order() -> None:
    text = """
    def @main(%x: float32) -> float32 { @twice(@twice(%x)) }
    def @unused() { () }
    def @twice(%x: float32) { add(%x, %x) }
    """
    mod = fw.parse(text)
    assert list(mod) == ["main", "unused", "twice"]
    scalar = fw.TensorType((), "float32")
    assert mod["main"].checked_type == fw.FuncType([scalar], scalar)
    assert_structural_equal(fw.parse(str(mod)), mod)
    assert_structural_equal(fw.parse(fw.IRModule({}).astext()), fw.IRModule({}))


def refused(text: str, message: str, line: int = 1, column: int | None = None, whole: bool = False) -> None:
    with pytest.raises(fw.ParseError) as caught:
        (fw.parse if whole else fw.parse_expr)(text)
    shown = str(caught.value)
    assert message in shown
    assert f"line {line}, column {'' if column is None else column}" in shown
    if column is not None:
        assert shown.splitlines()[-1] == " " * (column + 1) + "^"


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("%x", "%x is not defined here", 1, 1),
        ("fn (%x) {\n  nn.relu(%y)\n}", "%y is not defined here", 2, 11),
        ("%0 = %0; %0", "%0 is not defined here", 1, 6),
        ("%0 = 1; %0 = 2; %0", "%0 is already defined", 1, 9),
        ("if (True) { let %x = 1; %x } else { %x }", "%x is not defined here", 1, 37),
        ("fn (%x, %x) { %x }", "parameter %x occurs twice", 1, 9),
        ("let %x = 1;", "expected an expression, got 'end of text'", 1, 12),
        ("let x = 1; x", "expected a variable, got 'x'", 1, 5),
        ("let @x = 1; ()", "expected a variable", 1, 5),
        ("nn.reluu(1f)", "did you mean nn.relu", 1, 1),
        ("nn.relu", "expected '(' after the operator 'nn.relu'", 1, 8),
        ("nn.relu(1f", "expected ',' or ')', got 'end of text'", 1, 11),
        ("(1 2)", "expected ',' or ')', got '2'", 1, 4),
        ("1 2", "expected an operator or the end of the text", 1, 3),
        ("1 $ 2", "unexpected character '$'", 1, 3),
        ('fn (a="x) { 1 }', "this string has no end", 1, 7),
        ("/* a /* b */", "this comment has no end", 1, 1),
        ('#[version = "0.0.4"]\n()', "unknown text format '0.0.4', expected 0.0.5", 1, 1),
        ("2147483648i32", "does not fit int32", 1, 1),
        ("fn (%x: Tensor[(2,), float33]) { 1 }", "unknown type 'float33'", 1, 22),
        ("fn (%x: Tensor[(-2,), float32]) { 1 }", "dimensions lie in", 1, 15),
        ("fn (%x: Tensor[(n // 0,), float32]) { 1 }", "the divisor must be positive", 1, 19),
        ("fn (%x: (int32, _)) { 1 }", "a type must be written out here", 1, 17),
        ("fn [A](%x: A) { %x }", "expected '(', got '['", 1, 4),
        ("fn (a=) { 1 }", "expected the value of an attribute, got ')'", 1, 7),
        ("fn (a=1, a=2) { 1 }", "attribute 'a' is given twice", 1, 10),
        ("meta[relay.Constant][0]", "printed without metadata", 1, 1),
        ("meta[tir.SizeVar][0]", "expected relay.Constant, got 'tir.SizeVar'", 1, 6),
        ('()\n#[metadata]\n{"relay', "the metadata is not valid JSON", 2, 12),
        ('meta[relay.Constant][1]\n#[metadata]\n{"relay.Constant": []}', "missing or damaged", 1, 1),
    ],
)
def test_malformed_text(text: str, message: str, line: int, column: int) -> None:
    refused(text, message, line, column)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("nn.relu(1f, 2f)", "got 2 arguments, expected 1", 1),
        ("nn.relu(1f, axis=1)", "nn.relu has no attribute 'axis'", 1),
        ("nn.softmax(1f, axes=1)", "its attributes are: axis", 1),
        ('nn.softmax(1f, axis="a")', "nn.softmax cannot take these arguments", 1),
        ("reshape(1f)", "reshape needs the attribute 'newshape'", 1),
        ("let %x = 1; add(%x, 1)", "", None),
        ("nn.bias_add(1, 2f)", "nn.bias_add(int32, float32)", 1),
        ("(1).0", "cannot take item 0 of a value of type int32", 4),
        ("(1, 2).5", "tuple index 5 is out of range", 7),
        ("1(2)", "only operators and functions can be called", 1),
        ("if (1) { 1 } else { 2 }", "must be a scalar bool, got int32", 1),
        ("if (True) { 1 } else { 2f }", "int32 and float32", 1),
        ("fn (%x: int32) -> float32 { %x }", "declared to return float32, but its body has type int32", 1),
        ("let %x: int32 = 1f; %x", "%x is declared as int32, but its value has type float32", 5),
        ("(fn (%x: int32) { %x })(1f)", "got arguments (float32)", 1),
    ],
)
def test_ill_typed_text(text: str, message: str, column: int | None) -> None:
    if column is None:
        assert fw.parse_expr(text).known_type is None  # the type of %x is left to inference
        return
    with pytest.raises(fw.ParseError) as caught:
        fw.parse_expr(text)
    assert message in str(caught.value)
    assert f"line 1, column {column}: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("def @main() { @f() } def @f() { @main() }", "recursion is not supported: @main calls @f calls @main", 1),
        ("def @main() { @main() }", "recursion is not supported: @main calls @main", 1),
        ("def @main() { @g() }", "function @g is not defined", 15),
        ("def @f() { 1 } def @f() { 2 }", "function @f is defined twice", 20),
        ("fn () { 1 }", "parse_expr reads a single expression", 1),
        ("def main() { 1 }", "expected the name of a function, got 'main'", 5),
        ("def", "expected the name of a function, got 'end of text'", 4),
        ("def @f() { 1 } 2", "expected 'def' or the end of the text, got '2'", 16),
        ("def @f(%x: int8) { %x } def @g() { @f(1) }", "got arguments (int32)", 36),
    ],
)
def test_refused_modules(text: str, message: str, column: int) -> None:
    refused(text, message, 1, column, whole=True)


def nested_texts(depth: int) -> list[str]:
    n = depth
    return [
        "(" * n + "1" + ")" * n,
        "negative(" * n + "1" + ")" * n,
        "if (True) {" * n + "1" + "} else { 1 }" * n,
        "fn () {" * n + "1" + "}" * n,
        "(let %x = 1; " * n + "1" + ")" * n,
        "fn (%x: " + "(" * n + "int8" + ",)" * n + ") { 1 }",
        "fn (%x: " + "fn () -> " * n + "int8) { 1 }",
        "fn (a=" + "[" * n + "]" * n + ") { 1 }",
        "fn (%x: Tensor[(" + "(" * n + "2" + ")" * n + ",), int8]) { 1 }",
    ]


@pytest.mark.parametrize("kind", range(len(nested_texts(1))))
def test_nesting(kind: int) -> None:
    parsed = fw.parse_expr(nested_texts(MAX_DEPTH - 5)[kind])
    assert_structural_equal(fw.parse_expr(parsed.astext()), parsed)
    for depth in (MAX_DEPTH + 1, 20_000):
        with pytest.raises(fw.ParseError, match=f"more than {MAX_DEPTH} levels deep"):
            fw.parse_expr(nested_texts(depth)[kind])


def test_long_rows_are_not_nesting() -> None:
    n = 5000
    assert_structural_equal(fw.parse_expr("-" * n + "1"), fw.const(1))
    assert fw.parse_expr("1" + " + 1" * n).checked_type == INT
    assert fw.parse_expr("1; " * n + "1").checked_type == INT
    row = fw.parse_expr(f"({'1, ' * n})")
    assert isinstance(row, fw.Tuple) and len(row.fields) == n


def test_a_little_stack_left_is_an_error_not_a_crash() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            fw.parse_expr(nested_texts(MAX_DEPTH)[3])

    with pytest.raises(fw.ParseError, match="too deeply for the stack that is left"):
        deep(600)


def test_shared_constants_stay_shared_and_read_only() -> None:
    c = fw.const(np.ones((2, 2), "float32"))
    back = fw.parse_expr(fw.Tuple([c, c]).astext())
    assert isinstance(back, fw.Tuple) and back.fields[0] is back.fields[1]
    constant = back.fields[0]
    assert isinstance(constant, fw.Constant) and not constant.data.flags.writeable
