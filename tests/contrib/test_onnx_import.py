"""`from_onnx`: names, parameters, shapes, functions, external data, errors."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", "1.16")

from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402

import fusewire as fw  # noqa: E402
from fusewire import frontend  # noqa: E402
from fusewire.contrib.onnx import DynamicValueError  # noqa: E402
from fusewire.fuse.dataflow_pattern import is_op, wildcard  # noqa: E402
from fusewire.testing import evaluate  # noqa: E402

Array = npt.NDArray[Any]


def model(text: str, weights: dict[str, Array] | None = None, opset: int = 17) -> Any:
    """A model from ONNX's text form of a graph."""
    graph = parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in (weights or {}).items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


BLOCK = """net (float[1,3,8,8] data) => (float[1,5] out) {
    conv = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(data, w)
    norm = BatchNormalization(conv, gamma, beta, mean, var)
    act = Clip(norm, low, high)
    pooled = GlobalAveragePool(act)
    flat = Flatten(pooled)
    out = Gemm<transB=1>(flat, fc, bias)
}"""


def block() -> tuple[Any, dict[str, Array]]:
    weights: dict[str, Array] = {
        "w": random(0, 4, 3, 3, 3),
        "gamma": random(1, 4),
        "beta": random(2, 4),
        "mean": random(3, 4),
        "var": np.abs(random(4, 4)) + np.float32(0.5),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
        "fc": random(5, 5, 4),
        "bias": random(6, 5),
    }
    return model(BLOCK, weights), weights


def expected_of_block(x: Array, w: dict[str, Array]) -> Array:
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    conv = np.einsum("nchwij,ocij->nohw", windows, w["w"])

    def channel(name: str) -> Array:
        return w[name].reshape(1, -1, 1, 1)

    norm = (conv - channel("mean")) / np.sqrt(channel("var") + 1e-5) * channel("gamma") + channel("beta")
    return np.asarray(norm.clip(0, 6).mean((2, 3)) @ w["fc"].T + w["bias"])


def test_weights_are_parameters_by_name() -> None:
    proto, weights = block()
    mod, params = frontend.from_onnx(proto)
    assert [p.name_hint for p in mod["main"].params] == ["data", "w", "gamma", "beta", "mean", "var", "fc", "bias"]
    assert set(params) == set(weights) - {"low", "high"}  # the bounds became attributes of clip
    x = random(9, 1, 3, 8, 8)
    got = fw.build(mod, "cpu -num-cores=1", params=params)(data=x)
    np.testing.assert_allclose(got, expected_of_block(x, weights), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["path", "text path", "bytes"])
def test_paths_and_bytes(form: str, tmp_path: Path) -> None:
    proto, weights = block()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    given: Any = {"path": path, "text path": str(path), "bytes": path.read_bytes()}[form]
    mod, params = frontend.from_onnx(given)
    x = random(9, 1, 3, 8, 8)
    (got,) = evaluate(mod["main"], {"data": x, **params})
    np.testing.assert_allclose(got, expected_of_block(x, weights), rtol=1e-4, atol=1e-5)


def test_external_data(tmp_path: Path) -> None:
    proto, weights = block()
    path = tmp_path / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    _, params = frontend.from_onnx(path)
    np.testing.assert_array_equal(params["w"], weights["w"])
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(fw.FusewireError):
        frontend.from_onnx(path)


SHAPES = """net (float[batch,2,3] x) => (float[batch,6] y) {
    whole = Shape(x)
    zero = Constant<value = int64 {0}>()
    rows = Gather(whole, zero)
    axes = Constant<value = int64[1] {0}>()
    rows1 = Unsqueeze(rows, axes)
    minus = Constant<value = int64[1] {-1}>()
    target = Concat<axis=0>(rows1, minus)
    y = Reshape(x, target)
}"""


@pytest.mark.parametrize("shape", [{"batch": 4}, {"x": (4, 2, 3)}])
def test_arithmetic_on_shapes_becomes_numbers(shape: Any) -> None:
    mod, params = frontend.from_onnx(model(SHAPES), shape=shape)
    assert not params
    body = mod["main"].body
    assert isinstance(body, fw.Call) and body.args == (mod["main"].params[0],)
    assert body.checked_type == fw.TensorType((4, 6), "float32")


def test_symbolic_dimensions_stay() -> None:
    mod, _ = frontend.from_onnx(model("net (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"))
    x = random(0, 3, 4)
    np.testing.assert_array_equal(fw.build(mod, "cpu", shape={"x": (3, 4)})(x=x), np.maximum(x, 0))


def test_what_must_be_known_can_be_given() -> None:
    proto = model("net (float[2,3] x, int64[1] s) => (float[n] y) { y = Reshape(x, s) }")
    with pytest.raises(DynamicValueError, match=r"the new shape must be known.* s; give their values with constants="):
        frontend.from_onnx(proto)
    mod, _ = frontend.from_onnx(proto, constants={"s": np.array([-1])})
    assert mod["main"].body.checked_type == fw.TensorType((6,), "float32")


def test_inputs_may_arrive_in_another_dtype() -> None:
    mod, _ = frontend.from_onnx(model("net (float[3] x) => (float[3] y) { y = Neg(x) }"), dtype="uint8")
    (got,) = evaluate(mod["main"], {"x": np.array([1, 2, 3], np.uint8)})
    np.testing.assert_array_equal(got, [-1, -2, -3])


def test_all_unsupported_operators_in_one_error() -> None:
    nodes = [
        helper.make_node("NoSuch", ["x"], ["a"], name="first", domain="my.own"),
        helper.make_node("NoSuch", ["a"], ["b"], name="second", domain="my.own"),
        helper.make_node("Multinomial", ["b"], ["y"], name="third", dtype=TensorProto.INT32),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net", [value("x", TensorProto.FLOAT, [1, 2])], [value("y", TensorProto.INT32, [1, 1])]
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("my.own", 3)]
    with pytest.raises(fw.FusewireError) as caught:
        frontend.from_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    message = str(caught.value)
    assert "2 operators" in message
    assert "my.own.NoSuch (opset 3) in first, second" in message and "Multinomial (opset 15) in third" in message


def test_functions_of_the_model() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    net (float[3] x) => (float[3] y) { y = local.scaled<factor=2.0>(x) }
    <domain: "local", opset_import: ["" : 17]>
    scaled<factor>(v) => (w) {
        f = Constant<value_float: float = @factor>()
        w = Mul(v, f)
    }"""
    mod, _ = frontend.from_onnx(parser.parse_model(text))
    (got,) = evaluate(mod["main"], {"x": np.array([1, 2, 3], np.float32)})
    np.testing.assert_array_equal(got, [2, 4, 6])


@pytest.mark.parametrize("branch", [True, False])
def test_if_with_a_condition_that_is_known(branch: bool) -> None:
    text = """net (float[2] x) => (float[2] y) {
        y = If(c)<then_branch = yes () => (float[2] a) { a = Neg(x) },
                   else_branch = no () => (float[2] b) { b = Abs(x) }>
    }"""
    mod, _ = frontend.from_onnx(model(text, {"c": np.array(branch)}))
    body = mod["main"].body
    assert is_op("negative" if branch else "abs")(wildcard()).match(body)


def test_if_with_a_condition_that_is_computed() -> None:
    text = """net (float[2] x, bool c) => (float[2] y) {
        y = If(c)<then_branch = yes () => (float[2] a) { a = Neg(x) },
                   else_branch = no () => (float[2] b) { b = Abs(x) }>
    }"""
    lib = fw.build(frontend.from_onnx(model(text))[0], "cpu -num-cores=1")
    x = np.array([-1, 2], np.float32)
    np.testing.assert_array_equal(lib(x=x, c=np.array(True)), -x)
    np.testing.assert_array_equal(lib(x=x, c=np.array(False)), np.abs(x))


BROKEN: dict[str, str | bytes] = {
    "not a model": b"this is no protobuf",
    "nothing": b"",
    "a missing input": "net (float[2] x) => (float[2] y) { y = Add(x, nowhere) }",
    "a cycle": "net (float[2] x) => (float[2] y) { a = Add(x, y) y = Neg(a) }",
    "a name twice": "net (float[2] x) => (float[2] y) { y = Neg(x) y = Abs(x) }",
    "shapes that do not fit": "net (float[2] x, float[3] z) => (float[2] y) { y = Add(x, z) }",
    "a bad axis": "net (float[2] x) => (float[2] y) { y = Softmax<axis=7>(x) }",
    "a missing attribute": "net (float[2] x) => (float[2] y) { y = Concat(x, x) }",
    "a range without end": """net (float[2] x) => (float[n] y) {
        zero = Constant<value = float {0}>()
        tiny = Constant<value = float {1e-30}>()
        much = Constant<value = float {1e30}>()
        y = Range(zero, much, tiny)
    }""",
    "text": "net (string[2] x) => (string[2] y) { y = Identity(x) }",
}


@pytest.mark.parametrize("what", BROKEN)
def test_malformed_models(what: str) -> None:
    given = BROKEN[what]
    with pytest.raises(fw.FusewireError):
        frontend.from_onnx(given if isinstance(given, bytes) else model(given))


def test_weights_of_impossible_sizes() -> None:
    proto, _ = block()
    proto.graph.initializer[0].dims[0] = 2**40
    with pytest.raises(fw.FusewireError):
        frontend.from_onnx(proto)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(fw.FusewireError, match="cannot read"):
        frontend.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(fw.FusewireError, match="got a int"):
        frontend.from_onnx(3)  # type: ignore[arg-type]


def test_without_the_onnx_package() -> None:
    program = """
import sys
sys.modules["onnx"] = None
import fusewire as fw
from fusewire import frontend
try:
    frontend.from_onnx("model.onnx")
except fw.FusewireError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "pip install 'fusewire[onnx]'" in done.stdout, done.stderr


def test_all_unknown_operators_in_one_error() -> None:
    """Those that the onnx package itself does not know among them."""
    text = """<ir_version: 9, opset_import: ["": 17, "com.acme": 1]>
        g (float[2,3] x) => (float[2,3] y) { a = Foo(x) c = com.acme.Bar(a) y = Zup(c) }"""
    with pytest.raises(fw.FusewireError) as caught:
        fw.frontend.from_onnx(onnx.parser.parse_model(text))
    for part in ("3 operators", "Foo (opset 17) in a", "Zup (opset 17) in y", "com.acme.Bar (opset 1) in c"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shape": {"zz": (2, 3)}}, "no input 'zz', which shape= names"),
        ({"dtype": {"x": "float32", "q": "int8"}}, "no input 'q', which dtype= names"),
        ({"opset": "z"}, "opset must be a whole number"),
    ],
)
def test_options_that_fit_nothing_are_errors(options: dict[str, Any], reason: str) -> None:
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[b,3] x) => (float[b,3] y) { y = Relu(x) }"""
    with pytest.raises(fw.FusewireError, match=reason):
        fw.frontend.from_onnx(onnx.parser.parse_model(text), **options)
