"""The schedule of transposed convolutions: numbers against float64, phases, refusals, and its blocked layout."""

from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.graph import tensor_type
from fusewire.targets.schedules.conv_transpose import phases

NAME = "conv2d_transpose.cpu"


def network(data: tuple[int, ...], weight: tuple[int, ...], **attrs: Any) -> fw.Function:
    rng = np.random.default_rng(0)
    x = fw.var("x", shape=data)
    w = fw.const((rng.standard_normal(weight) / np.sqrt(np.prod(weight) / weight[1])).astype(np.float32))
    build = fw.nn.conv2d_transpose if len(data) == 4 else fw.nn.conv1d_transpose
    net = build(x, w, **attrs)
    channels = tensor_type(net).static_shape[1]
    shift = fw.const(rng.standard_normal((channels, *(1,) * (len(data) - 2))).astype(np.float32))
    return fw.Function([x], fw.nn.relu(net + shift))


def check(function: fw.Function, target: str) -> str:
    """Compare with the operators' references in float64; returns who computed the convolution."""
    (param,) = function.params
    x = np.random.default_rng(1).standard_normal(tensor_type(param).static_shape).astype(np.float32)
    lib = fw.build(function, target)
    (want,) = fw.testing.evaluate(function, {"x": x.astype(np.float64)})
    got = lib(x=x)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    (choice,) = lib.explain().choices if len(lib.explain().choices) == 1 else lib.explain("nn.conv2d_transpose").choices
    return choice.chosen


@pytest.mark.parametrize(
    ("data", "weight", "attrs"),
    [
        ((1, 16, 7, 9), (16, 32, 2, 2), {"strides": 2}),
        ((1, 32, 6, 5), (32, 16, 4, 4), {"strides": 2, "padding": 1}),
        ((2, 8, 5, 6), (8, 20, 3, 3), {"strides": 2, "padding": 1, "output_padding": 1}),
        ((1, 8, 5, 6), (8, 3, 5, 4), {"strides": (3, 2), "padding": (1, 2, 0, 1)}),  # few channels: lanes of pixels
        ((1, 8, 5, 6), (8, 6, 3, 3), {"strides": 4, "groups": 2}),  # pixels that no window element meets
        ((1, 8, 5, 6), (8, 16, 3, 3), {"strides": 3, "dilation": 2, "padding": 1}),
        ((1, 8, 5, 6), (8, 16, 3, 3), {"padding": 1}),
        ((1, 8, 9), (8, 24, 4), {"strides": 2, "padding": 1}),
    ],
)
def test_numbers(data: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any]) -> None:
    assert check(network(data, weight, **attrs), "cpu -num-cores=2") == NAME


def test_other_vectors() -> None:
    function = network((1, 8, 5, 6), (8, 40, 3, 3), strides=2, padding=1)
    assert check(function, "cpu -mcpu=x86-64-v3 -num-cores=2") == NAME


def test_between_convolutions_channels_stay_in_blocks() -> None:
    rng = np.random.default_rng(3)
    x, w = fw.var("x", shape=(1, 32, 8, 8)), [rng.standard_normal(s).astype(np.float32) for s in
                                              ((32, 32, 3, 3), (32, 16, 2, 2), (16, 16, 3, 3))]  # fmt: skip
    net = fw.nn.conv2d(x, fw.const(w[0] / 10), padding=1)
    net = fw.nn.conv2d_transpose(net, fw.const(w[1] / 6), strides=2)
    net = fw.nn.conv2d(fw.nn.relu(net), fw.const(w[2] / 10), padding=1)
    function = fw.Function([x], net)
    target = "cpu -mcpu=x86-64-v3"
    text = str(fw.build(function, target).ir_mod)
    assert 'data_layout="NCHW8c"' in next(line for line in text.splitlines() if "conv2d_transpose" in line)
    assert text.count("layout_transform") == 2
    assert check(function, target) == NAME


def test_every_window_element_belongs_to_one_phase() -> None:
    for window, stride, dilation, pad in [(4, 2, 1, 1), (3, 2, 1, 0), (5, 3, 2, 2), (2, 4, 1, 0), (3, 2, 2, 1)]:
        size = 20
        met = {
            (p.start + stride * i, p.first + t * p.step + i, k)
            for p in phases(size, window, stride, dilation, pad)
            for i in range(p.size)
            for t, k in enumerate(p.taps)
        }
        assert met == {
            (x * stride + k * dilation - pad, x, k)
            for x in range(-40, 40)
            for k in range(window)
            if 0 <= x * stride + k * dilation - pad < size
        }


def test_a_weight_that_is_not_known_is_refused() -> None:
    x, w = fw.var("x", shape=(1, 8, 4, 4)), fw.var("w", shape=(8, 8, 2, 2))
    lib = fw.build(fw.Function([x, w], fw.nn.conv2d_transpose(x, w, strides=2)))
    (choice,) = lib.explain("nn.conv2d_transpose").choices
    assert choice.chosen == "loops.cpu"
    assert choice.candidates[0].refusal == "the weight is not known at build time"
