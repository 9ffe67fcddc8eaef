"""What exporters write, in small: shapes computed in the graph, batches of unknown size.

The networks themselves are in benchmarks/exported, which needs PyTorch and ONNX Runtime.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", "1.16")

from onnx import helper, numpy_helper, parser  # noqa: E402

import fusewire as fw  # noqa: E402
from fusewire import frontend  # noqa: E402
from fusewire.contrib.onnx import DynamicValueError  # noqa: E402
from fusewire.contrib.onnx.sizes import Sizes, reshape_codes  # noqa: E402
from fusewire.ir.index import Index, size_var  # noqa: E402

Array = npt.NDArray[Any]


def model(text: str, constants: dict[str, Any] | None = None, opset: int = 17) -> Any:
    """A model from ONNX's text form of a graph; whole numbers become int64 initialisers."""
    graph = parser.parse_graph(text)
    arrays = {name: np.asarray(value) for name, value in (constants or {}).items()}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# As the TorchScript exporter writes ShuffleNet with a batch of unknown size.
SHUFFLE = """net (float[batch,4,2,3] x) => (float[batch,4,2,3] y) {
    shape0 = Shape(x)
    batch = Gather<axis = 0>(shape0, zero)
    shape1 = Shape(x)
    channels = Gather<axis = 0>(shape1, one)
    half = Div(channels, two)
    batch1 = Unsqueeze(batch, axes)
    half1 = Unsqueeze(half, axes)
    rows = Slice(shape1, first, last, axes)
    target = Concat<axis = 0>(batch1, groups, half1, rows)
    grouped = Reshape(x, target)
    swapped = Transpose<perm = [0, 2, 1, 3, 4]>(grouped)
    joined = Reshape(swapped, shape1)
    left, right = Split<axis = 1>(joined)
    y = Concat<axis = 1>(right, left)
}"""
SHUFFLE_CONSTANTS = {"zero": 0, "one": 1, "two": 2, "axes": [0], "first": [2], "last": [4], "groups": [2]}


def shuffled(x: Array) -> Array:
    mixed = x.reshape(-1, 2, 2, 2, 3).swapaxes(1, 2).reshape(x.shape)
    return np.concatenate([mixed[:, 2:], mixed[:, :2]], 1)


def test_a_batch_of_unknown_size() -> None:
    mod, params = frontend.from_onnx(model(SHUFFLE, SHUFFLE_CONSTANTS))
    type_ = mod["main"].params[0].checked_type
    assert isinstance(type_, fw.TensorType)
    (batch, *rest) = type_.shape
    assert isinstance(batch, Index) and mod["main"].body.checked_type == fw.TensorType((batch, *rest), "float32")
    assert not params and "shape_of" not in str(mod)
    for size in (1, 3):
        x = numbers(size, 4, 2, 3)
        lib = fw.build(mod, "cpu -num-cores=1", shape={"x": x.shape})
        np.testing.assert_array_equal(lib(x=x), shuffled(x))


def test_what_follows_from_the_known_part_of_a_shape_is_known() -> None:
    text = """net (float[batch,3,5] x) => (float[batch,5,1] y) {
        shape = Shape(x)
        width = Gather<axis = 0>(shape, two)
        places = Range(zero, width, one)
        floats = Cast<to = 1>(places)
        ramp = Unsqueeze(floats, axes)
        flipped = Transpose<perm = [0, 2, 1]>(x)
        picked = Slice(flipped, first, second, two)
        column = Transpose<perm = [1, 0]>(ramp)
        y = Mul(picked, column)
    }"""
    constants = {"zero": 0, "one": 1, "two": [2], "axes": [0], "first": [0], "second": [1]}
    proto = model(text.replace("Gather<axis = 0>(shape, two)", "Gather<axis = 0>(shape, scalar)"), constants)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(2), "scalar"))
    mod, _ = frontend.from_onnx(proto)
    x = numbers(2, 3, 5)
    got = fw.build(mod, "cpu -num-cores=1", shape={"x": x.shape})(x=x)
    np.testing.assert_array_equal(got, x[:, :1].swapaxes(1, 2) * np.arange(5, dtype=np.float32)[:, None])


def test_what_must_be_known_and_follows_from_shapes() -> None:
    text = "net (float[batch,2] x) => (float[batch,2] y) { s = Shape(x) z = ConstantOfShape(s) y = Add(x, z) }"
    with pytest.raises(DynamicValueError, match=r"symbolic dimensions with shape=$"):
        frontend.from_onnx(model(text))
    mod, _ = frontend.from_onnx(model(text), shape={"batch": 3})
    assert mod["main"].body.checked_type == fw.TensorType((3, 2), "float32")


def test_sizes_as_formulas() -> None:
    n = size_var("n")
    x, m = fw.var("x", shape=(n, 6)), fw.var("m", shape=(2,), dtype="int64")
    whole, sizes = fw.shape_of(x, "int64"), Sizes()
    (rows, columns) = sizes.of(whole)  # type: ignore[misc]
    assert rows == n and columns == 6 and sizes.numbers(whole) is None
    doubled = fw.multiply(whole, fw.const([2, 2], "int64"))
    assert list(sizes.of(doubled)) == [n * 2, 12]  # type: ignore[arg-type]
    halves = fw.divide(doubled, fw.const(4, "int64"))
    assert list(sizes.of(halves)) == [n * 2 // 4, 3]  # type: ignore[arg-type]
    left, right = fw.split(whole, 2)
    assert sizes.numbers(left) is None and sizes.numbers(right) == np.array([6])
    minus = fw.equal(whole, fw.const(-1, "int64"))
    assert sizes.numbers(minus).tolist() == [False, False]  # type: ignore[union-attr]
    chosen = fw.where(minus, fw.const([1, 1], "int64"), whole)
    assert list(sizes.of(chosen)) == [n, 6]  # type: ignore[arg-type]
    product = fw.multiply(fw.take(whole, fw.const(0), 0), fw.ndarray_size(x, "int64"))
    assert sizes.of(product)[()] == n * (n * 6)  # type: ignore[index]
    # Unknown until the dimension is bound, or not about shapes at all:
    for unknown in (
        fw.equal(whole, fw.const(4, "int64")),
        fw.add(whole, m),
        fw.divide(fw.const([1, 1], "int64"), whole),
    ):
        assert sizes.of(unknown) is None
    assert sizes.of(fw.divide(fw.subtract(whole, fw.const(9, "int64")), fw.const(2, "int64"))) is None


def test_reshapes_to_symbolic_sizes() -> None:
    n, m = size_var("n"), size_var("m")
    assert reshape_codes((n, 4, m), (n, 2, 2, m)) == (0, 2, 2, -1)
    with pytest.raises(fw.FusewireError, match=r"bound; give them with shape="):
        reshape_codes((n, 4, m), (m, 4, n))


def test_inputs_and_outputs_without_shapes() -> None:
    proto = model("net (float[3] x) => (float[3] y) { y = Neg(x) }")
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.ClearField("shape")
    with pytest.raises(fw.FusewireError, match="'x' has no shape in the model: give one with shape="):
        frontend.from_onnx(proto)
    mod, _ = frontend.from_onnx(proto, shape={"x": (2, 3)})
    assert mod["main"].body.checked_type == fw.TensorType((2, 3), "float32")


def test_weights_that_are_inputs_as_well() -> None:
    """Files of IR version 3 list every initialiser among the inputs."""
    text = "net (float[2,3] x, float[3,4] w, int64[1] shape) => (float[8] y) { p = MatMul(x, w) y = Reshape(p, shape) }"
    w, x = numbers(3, 4), numbers(2, 3)
    proto = model(text, {"w": w, "shape": [-1]}, opset=8)
    proto.ir_version = 3
    mod, params = frontend.from_onnx(proto)
    assert [p.name_hint for p in mod["main"].params] == ["x", "w"] and set(params) == {"w"}
    got = fw.build(mod, "cpu -num-cores=1", params=params)(x=x)
    np.testing.assert_allclose(got, (x @ w).reshape(-1), rtol=1e-5, atol=1e-6)
