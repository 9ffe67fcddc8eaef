"""ONNX Runtime's own quantised operators, against their definition in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", "1.16")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import fusewire as fw  # noqa: E402
from fusewire import frontend  # noqa: E402

Array = npt.NDArray[Any]
SCALES = {"x": 0.05, "y": 0.03, "z": 0.07}
ZEROS = {"x": 120, "y": 131, "z": 110}


def real(name: str, values: Array) -> Array:
    """What stored numbers stand for."""
    return (values.astype(np.float64) - ZEROS[name]) * SCALES[name]


def stored(values: Array) -> Array:
    """Results as they are stored."""
    return np.clip(np.round(values / SCALES["z"]) + ZEROS["z"], 0, 255).astype(np.uint8)


def numbers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def model(kind: str, names: list[str], inputs: dict[str, Array], stores: dict[str, Array], **attributes: Any) -> Any:
    """One node with the output "out"; `stores` are initialisers."""
    own = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    node = helper.make_node(kind, names, ["out"], domain="com.microsoft", **attributes)
    out = helper.make_tensor_value_info("out", TensorProto.UINT8, None)
    tensors = [numpy_helper.from_array(a, n) for n, a in stores.items()]
    graph = helper.make_graph([node], "quantised", own, [out], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def parameters() -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, scale in SCALES.items():
        found[f"{name}_scale"] = np.array(scale, np.float32)
        found[f"{name}_zero"] = np.array(ZEROS[name], np.uint8)
    return found


def run(proto: Any, inputs: dict[str, Array]) -> Array:
    mod, params = frontend.from_onnx(proto)
    result: Array = fw.build(mod, "cpu -num-cores=1", params=params)(**inputs)
    return result


X, Y, Z = (["x", "x_scale", "x_zero"], ["y", "y_scale", "y_zero"], ["z_scale", "z_zero"])
PAIRS: dict[str, tuple[list[str], Callable[[Array, Array], Array], dict[str, Any]]] = {
    "QLinearAdd": ([*X, *Y, *Z], lambda x, y: x + y, {}),
    "QLinearMul": ([*X, *Y, *Z], lambda x, y: x * y, {}),
    "QLinearConcat": ([*Z, *X, *Y], lambda x, y: np.concatenate([x, y], 2), {"axis": -2}),
    "QLinearSigmoid": ([*X, *Z], lambda x, _: 1 / (1 + np.exp(-x)), {}),
    "QLinearLeakyRelu": ([*X, *Z], lambda x, _: np.where(x < 0, 0.1 * x, x), {"alpha": 0.1}),
    "QLinearSoftmax": ([*X, *Z], lambda x, _: np.exp(x) / np.exp(x).sum(-1, keepdims=True), {"axis": -1}),
    "QLinearGlobalAveragePool": ([*X, *Z], lambda x, _: x.mean((2, 3), keepdims=True), {"channels_last": 0}),
    "QLinearAveragePool": (
        [*X, *Z], lambda x, _: x.reshape(1, 3, 2, 2, 3, 2).mean((3, 5)), {"kernel_shape": [2, 2], "strides": [2, 2]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAIRS)
def test_dequantised_computed_and_quantised(kind: str) -> None:
    names, compute, attributes = PAIRS[kind]
    given = {"x": numbers(0, 1, 3, 4, 6), "y": numbers(1, 1, 3, 4, 6)}
    inputs = {name: array for name, array in given.items() if name in names}
    got = run(model(kind, names, inputs, parameters(), **attributes), inputs)
    expected = stored(compute(real("x", given["x"]), real("y", given["y"])))
    assert got.dtype == np.uint8 and got.shape == expected.shape
    # float32 may fall on the other side of a half.
    apart = np.abs(got.astype(int) - expected)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.05
    assert len(np.unique(expected)) >= 3


def test_choice_by_element() -> None:
    inputs = {"c": numbers(2, 4, 5) < 128, "x": numbers(0, 4, 5), "y": numbers(1, 4, 5)}
    got = run(model("QLinearWhere", ["c", *X, *Y, *Z], inputs, parameters()), inputs)
    expected = stored(np.where(inputs["c"], real("x", inputs["x"]), real("y", inputs["y"])))
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("quantised", [True, False])
def test_matrix_product(turned: int, quantised: bool) -> None:
    a, b = numbers(0, *((7, 5) if turned else (5, 7))), numbers(1, 6, 7)
    left, right = (a.T, b.T) if turned else (a, b.T)
    stores = parameters()
    stores["y_scale"] = np.linspace(0.01, 0.03, 6).astype(np.float32)
    stores["y_zero"] = (np.arange(6) + 120).astype(np.uint8)
    bias = np.arange(6, dtype=np.int32) * 100
    stores["bias"] = bias
    names = [*X, *Y, "bias", *(Z if quantised else [])]
    proto = model("QGemm", names, {"x": a, "y": b}, stores, transA=turned, transB=1, alpha=0.5)
    got = run(proto, {"x": a, "y": b})
    sums = (left.astype(int) - ZEROS["x"]) @ (right.astype(int) - stores["y_zero"]) + bias
    value = sums * 0.5 * SCALES["x"] * stores["y_scale"].astype(np.float64)
    if quantised:
        assert got.dtype == np.uint8 and np.abs(got.astype(int) - stored(value)).max() <= 1
    else:
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-4)


def test_zero_points_may_be_left_out() -> None:
    inputs = {"x": numbers(0, 3), "y": numbers(1, 3)}
    got = run(model("QLinearAdd", ["x", "x_scale", "", "y", "y_scale", "", "z_scale"], inputs, parameters()), inputs)
    value = inputs["x"] * SCALES["x"] + inputs["y"] * SCALES["y"]
    assert np.abs(got.astype(int) - np.clip(np.round(value / SCALES["z"]), 0, 255)).max() <= 1


def test_channels_last_is_refused() -> None:
    inputs = {"x": numbers(0, 1, 4, 6, 3)}
    with pytest.raises(fw.FusewireError, match="channels_last=1 is not supported"):
        run(model("QLinearGlobalAveragePool", [*X, *Z], inputs, parameters(), channels_last=1), inputs)


@pytest.mark.parametrize("kind", [*PAIRS, "QGemm", "QLinearWhere"])
def test_nodes_that_make_no_sense(kind: str) -> None:
    good = {"x": numbers(0, 2, 3), "y": numbers(1, 2, 3)}
    for inputs, names in (
        (good, ["x"]),
        (good, []),
        (good, ["x", "x", "x", "y", "y", "y", "x", "x", "y"]),
        ({"x": np.ones((2, 3), np.float32)}, ["x"] * 9),
        ({"x": np.ones((2, 3), bool)}, ["x"] * 9),
    ):
        with pytest.raises(fw.FusewireError):
            frontend.from_onnx(model(kind, names, inputs, {}))
