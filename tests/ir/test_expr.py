"""Building expressions: constants, variables, operators on expressions, types checked at once."""

import ml_dtypes
import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.op import Attrs, all_ops, get_op
from fusewire.ir.types import DTYPES, nbytes, tensors_of

T = fw.TensorType((2, 3), "float32")
S = fw.TensorType((), "float32")


def test_variables() -> None:
    assert fw.var("x", (1, 3)).checked_type == fw.TensorType((1, 3), "float32")
    assert fw.var("x", shape=(1,), dtype="int8").checked_type == fw.TensorType((1,), "int8")
    assert fw.var("x", T).checked_type == T
    assert fw.var("x").known_type is None
    with pytest.raises(fw.FusewireError, match="either a type or a shape"):
        fw.var("x", T, shape=(1,))
    with pytest.raises(fw.TypeInferenceError, match="type is not known yet"):
        _ = fw.var("x").checked_type


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, None, "int32"), (1.0, None, "float32"), (True, None, "bool"), ([1, 2], None, "int32"),
        ([1.0], None, "float32"), (np.ones(2), None, "float64"), (np.int64(3), None, "int64"),
        (1, "float16", "float16"), (1.5, "bfloat16", "bfloat16"), (np.ones(2, ml_dtypes.bfloat16), None, "bfloat16"),
    ],
)  # fmt: skip
def test_constants(value: object, dtype: str | None, expected: str) -> None:
    constant = fw.const(value, dtype)
    assert isinstance(constant.checked_type, fw.TensorType) and constant.checked_type.dtype == expected
    assert not constant.data.flags.writeable


def test_a_constant_owns_its_values() -> None:
    array = np.zeros(3, "float32")
    constant = fw.const(array)
    direct = fw.Constant(array)
    array[0] = 1
    assert constant.data[0] == 0 and direct.data[0] == 0


def test_what_is_no_constant() -> None:
    with pytest.raises(fw.TypeInferenceError, match="cannot make a constant"):
        fw.const("text")
    with pytest.raises(fw.TypeInferenceError, match="unknown dtype 'float8'"):
        fw.const(1, "float8")


def test_operators_on_expressions() -> None:
    x, y = fw.var("x", T), fw.var("y", T)
    pairs = {
        "add": x + y, "subtract": x - y, "multiply": x * y, "divide": x / y, "floor_divide": x // y, "floor_mod": x % y,
        "power": x**y, "less": x < y, "greater": x > y, "less_equal": x <= y, "greater_equal": x >= y, "negative": -x,
    }  # fmt: skip
    for name, built in pairs.items():
        assert isinstance(built, fw.Call) and str(built.op) == name
    difference = 2 - x
    assert isinstance(difference, fw.Call) and [type(a) for a in difference.args] == [fw.Constant, fw.Var]
    assert difference.args[0].checked_type == S
    assert (x.astype("int8")).checked_type == fw.TensorType((2, 3), "int8")


def test_expressions_are_not_numbers() -> None:
    x = fw.var("x", T)
    with pytest.raises(fw.FusewireError, match="no truth value"):
        bool(x < x)
    with pytest.raises(TypeError, match="cannot be iterated"):
        list(x)


def test_types_are_checked_at_once() -> None:
    x, y = fw.var("x", T), fw.var("y", shape=(4,), dtype="float32")
    with pytest.raises(fw.TypeInferenceError, match="add"):
        fw.add(x, y)
    with pytest.raises(fw.TypeInferenceError, match="not a tuple"):
        _ = x[0]
    with pytest.raises(fw.TypeInferenceError, match="out of range"):
        _ = fw.Tuple([x])[1]
    with pytest.raises(fw.TypeInferenceError, match="scalar bool"):
        fw.If(x, x, x)
    with pytest.raises(fw.TypeInferenceError, match="different types"):
        fw.If(fw.const(True), x, y)
    with pytest.raises(fw.TypeInferenceError, match="declared to return"):
        fw.Function([x], x, S)
    with pytest.raises(fw.TypeInferenceError, match="declared as"):
        fw.Let(y, x, y)
    with pytest.raises(fw.TypeInferenceError, match="got arguments"):
        fw.Function([x], x)(y)
    with pytest.raises(fw.TypeInferenceError, match="only operators and functions"):
        x(y)


def test_functions_and_attributes() -> None:
    x = fw.var("x", T)
    f = fw.Function([x], x).with_attr("Primitive", 1).with_attr({"Compiler": "onednn", "sizes": [1, 2]})
    assert dict(f.attrs) == {"Primitive": 1, "Compiler": "onednn", "sizes": (1, 2)}
    assert f.checked_type == fw.FuncType([T], T)
    assert f(x).checked_type == T


def test_attrs() -> None:
    a = Attrs({"axis": 1, "sizes": [1, (2, np.int32(3))], "none": None})
    assert a.axis == a["axis"] == 1 and a.sizes == (1, (2, 3)) and type(a.sizes[1][1]) is int
    assert a == Attrs(dict(reversed(list(a.items())))) and hash(a) == hash(Attrs(dict(a)))
    assert a != a.replace(axis=1.0) and a.replace(axis=2).axis == 2
    with pytest.raises(AttributeError, match="no attribute 'axes'; there are axis"):
        _ = a.axes
    with pytest.raises(AttributeError, match="cannot be changed"):
        a.axis = 2


def test_unknown_operator() -> None:
    with pytest.raises(fw.FusewireError, match=r"unknown operator 'nn\.conv2'; did you mean .*nn\.conv2d"):
        get_op("nn.conv2")
    assert all_ops()["nn.relu"] is get_op("nn.relu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_types(dtype: str) -> None:
    kind = fw.TensorType((2, 3), dtype)
    assert str(kind) == f"Tensor[(2, 3), {dtype}]" and kind == fw.TensorType([2, 3], dtype)
    assert kind.nbytes == 6 * kind.itemsize and kind.ndim == 2 and kind.static_shape == (2, 3)
    assert str(fw.TensorType((), dtype)) == dtype and str(fw.TensorType((4,), dtype)) == f"Tensor[(4,), {dtype}]"


def test_other_types() -> None:
    pair = fw.TupleType([T, fw.TupleType([S])])
    assert str(pair) == "(Tensor[(2, 3), float32], (float32,))" and str(fw.TupleType([])) == "()"
    assert str(fw.FuncType([T, S], pair)) == f"fn ({T}, {S}) -> {pair}"
    assert tensors_of(pair) == [T, S] and nbytes([pair]) == 28
    n = fw.size_var("n")
    assert not fw.TensorType((n, 3)).is_static and fw.TensorType((n - n + 3,)) == fw.TensorType((3,))
    with pytest.raises(fw.TypeInferenceError, match="symbolic"):
        _ = fw.TensorType((n,)).static_shape
    with pytest.raises(fw.TypeInferenceError, match="expected tensors"):
        tensors_of(fw.FuncType([], T))


@pytest.mark.parametrize("shape", [(-1,), (1.5,), 3, ("a",), (1 << 62,)])
def test_bad_shapes(shape: object) -> None:
    with pytest.raises(fw.TypeInferenceError):
        fw.TensorType(shape)


def test_modules() -> None:
    x = fw.var("x", T)
    mod = fw.IRModule.from_expr(fw.nn.relu(x))
    assert list(mod) == ["main"] and mod["main"].params == (x,) and "main" in mod
    g = mod.get_global_var("main")
    assert g.checked_type == fw.FuncType([T], T) and mod[g] is mod["main"]
    mod[fw.GlobalVar("f")] = mod["main"]
    assert [v.name_hint for v in mod.get_global_vars()] == ["main", "f"]
    with pytest.raises(fw.FusewireError, match="no function 'h' in the module; there are main, f"):
        _ = mod["h"]
