"""Constant scales behind a convolution go into the kernel's weights, where nothing else changes by that."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw

Array = npt.NDArray[Any]


def constant(rng: np.random.Generator, *shape: int) -> fw.Constant:
    return fw.const(rng.normal(size=shape).astype(np.float32))


def graph(kind: str) -> fw.Expr:
    """Convolutions with a multiplication behind them."""
    rng = np.random.default_rng(5)
    x = fw.var("x", shape=(1, 16, 9, 9))
    weight, scale, shift = constant(rng, 16, 16, 3, 3), constant(rng, 16, 1, 1), constant(rng, 16, 1, 1)
    conv = fw.nn.conv2d(x, weight, padding=(1, 1))
    match kind:
        case "channels":
            return fw.nn.relu(conv * scale + shift)
        case "scale_first":
            return scale * conv
        case "one_factor":
            return conv * constant(rng, 1, 1, 1) + shift
        case "depthwise":
            return fw.nn.conv2d(x, constant(rng, 16, 1, 3, 3), groups=16, padding=(1, 1)) * scale
        case "rows":
            return conv * constant(rng, 9, 1)
        case "columns":
            return conv * constant(rng, 9)
        case "used_twice":
            return conv * scale + fw.nn.relu(conv)
        case "squared":
            return conv * conv
        case "variable":
            return conv * fw.var("s", shape=(16, 1, 1))
        case "variable_weight":
            return fw.nn.conv2d(x, fw.var("w", shape=(16, 16, 3, 3)), padding=(1, 1)) * scale
        case "behind_shift":
            return (conv + shift) * scale
    raise AssertionError(kind)


def built(net: fw.Expr) -> tuple[fw.CompiledModule, dict[str, Array], Array]:
    """A network, inputs for it, and what it gives in float64."""
    function = fw.Function(fw.analysis.free_vars(net), net)
    rng = np.random.default_rng(6)
    shapes = {"x": (1, 16, 9, 9), "s": (16, 1, 1), "w": (16, 16, 3, 3)}
    inputs = {v.name_hint: rng.normal(size=shapes[v.name_hint]).astype(np.float32) for v in function.params}
    lib = fw.build(fw.IRModule.from_expr(function), "cpu -num-cores=2")
    (want,) = fw.testing.evaluate(function, inputs)
    return lib, inputs, want


NOTE = "the scale behind the convolution is in its weights"
TAKEN = ("channels", "scale_first", "one_factor", "depthwise")
LEFT = ("rows", "columns", "used_twice", "squared", "variable", "variable_weight", "behind_shift")


@pytest.mark.parametrize("kind", [*TAKEN, *LEFT])
def test_scale(kind: str) -> None:
    lib, inputs, want = built(graph(kind))
    shown = [lib.get_source(name, kind="loops") for name in lib.function_metadata if "conv2d" in name]
    assert any(NOTE in text for text in shown) == (kind in TAKEN)
    fw.testing.assert_allclose(lib(**inputs), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_weights_that_are_shared_are_packed_for_each_scale() -> None:
    """Two convolutions with the same weights, one kernel, and different scales behind them."""
    rng = np.random.default_rng(7)
    weight, first, second = constant(rng, 16, 16, 3, 3), constant(rng, 16, 1, 1), constant(rng, 16, 1, 1)
    net = fw.nn.conv2d(fw.var("x", shape=(1, 16, 9, 9)), weight, padding=(1, 1)) * first
    net = fw.nn.conv2d(fw.tanh(net), weight, padding=(1, 1)) * second
    lib, inputs, want = built(net)
    fw.testing.assert_allclose(lib(**inputs), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_packed_weights_start_at_cache_lines() -> None:
    """Also where several share a large page, and after a copy there."""
    rng = np.random.default_rng(8)
    net: fw.Expr = fw.var("x", shape=(1, 16, 9, 9))
    for before, channels in ((16, 16), (16, 200), (200, 24)):
        net = fw.nn.conv2d(net, constant(rng, channels, before, 3, 3), padding=(1, 1))
    lib, inputs, want = built(net)
    packed = lib.code.packed.values()
    assert len(packed) == 3 and all(array.ctypes.data % 64 == 0 for array in packed)
    assert sum(array.nbytes >= 1 << 16 for array in packed) >= 2
    fw.testing.assert_allclose(lib(**inputs), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
