"""conv3d by the direct schedule of conv2d, and pixels that are counted through: numbers against float64."""

from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.cpuinfo import isa_for
from fusewire.targets.implement import choose
from fusewire.targets.lower import make_problem
from fusewire.targets.program import as_group
from fusewire.targets.target import Target

RNG = np.random.default_rng(0)
VOLUMES = "conv3d_ncdhw.cpu"


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def check(function: fw.Function, target: str, name: str) -> str:
    """Compare with the operators' references in float64; returns who computed the operator."""
    values = {p.name_hint: random(*p.checked_type.static_shape) for p in function.params}  # type: ignore[attr-defined]
    lib = fw.build(function, target)
    (want,) = fw.testing.evaluate(function, {k: v.astype(np.float64) for k, v in values.items()})
    got = lib(**values)
    assert got.shape == want.shape and np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    (choice,) = lib.explain(name).choices
    return choice.chosen


@pytest.mark.parametrize("target", ["cpu -num-cores=2", "cpu -mcpu=x86-64-v3 -num-cores=1"])
@pytest.mark.parametrize(
    ("data", "weight", "attrs"),
    [
        ((1, 3, 5, 9, 20), (8, 3, 3, 3, 3), {"padding": 1}),  # pixels in lanes
        ((2, 20, 4, 6, 7), (24, 20, 3, 3, 3), {"padding": (1, 0, 2, 0, 1, 1)}),  # channels in lanes
        ((1, 4, 7, 9, 11), (6, 4, 3, 2, 3), {"strides": (2, 1, 3), "padding": (2, 1, 0)}),
        ((1, 12, 9, 8, 8), (20, 6, 2, 3, 3), {"groups": 2, "dilation": (3, 1, 2), "padding": (1, 1, 2)}),
        ((2, 6, 4, 5, 6), (6, 1, 3, 3, 3), {"groups": 6, "padding": 1}),
        ((2, 24, 3, 5, 7), (40, 24, 1, 1, 1), {}),  # planes one below the other
        ((1, 24, 4, 5, 5), (16, 24, 3, 1, 1), {"padding": (1, 0, 0)}),  # along the depth only
        ((1, 8, 6, 5, 5), (8, 8, 2, 1, 1), {"strides": (2, 1, 1)}),
        ((1, 3, 3, 4, 4), (4, 3, 3, 3, 3), {"padding": 3}),  # whole planes outside of the picture
    ],
)
def test_conv3d(data: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any], target: str) -> None:
    x, w, shift = fw.var("x", shape=data), fw.const(random(*weight)), fw.const(random(weight[0], 1, 1, 1))
    function = fw.Function([x], fw.nn.relu(fw.nn.conv3d(x, w, **attrs) + shift))
    assert check(function, target, "nn.conv3d") == VOLUMES


def test_conv3d_with_a_weight_that_is_an_input_and_a_producer_in_front() -> None:
    x, w = fw.var("x", shape=(1, 5, 4, 6, 9)), fw.var("w", shape=(7, 5, 3, 3, 3))
    function = fw.Function([x, w], fw.nn.conv3d(fw.nn.relu(x), w, padding=1))
    assert check(function, "cpu -num-cores=2", "nn.conv3d") == VOLUMES


def test_conv3d_in_other_layouts_is_left_to_plain_loops() -> None:
    x, w = fw.var("x", shape=(1, 4, 5, 6, 3)), fw.const(random(2, 3, 2, 2, 2))
    function = fw.Function([x], fw.nn.conv3d(x, w, data_layout="NDHWC"))
    assert check(function, "cpu -num-cores=1", "nn.conv3d") == "loops.cpu"


@pytest.mark.parametrize("other", [(1, 10, 1, 1), (1, 10, 7, 9), (1, 1, 1, 9), (1, 1, 7, 1)])
def test_pixels_are_counted_through(other: tuple[int, ...]) -> None:
    """A vector of pixels spans rows; what is added may be as large as the result, or lie along one of its axes."""
    x, y = fw.var("x", shape=(2, 12, 7, 9)), fw.var("y", shape=other)
    conv = fw.nn.conv2d(fw.transpose(x, (0, 1, 2, 3)) * fw.const(2.0), fw.const(random(10, 6, 1, 1)), groups=2)
    function = fw.Function([x, y], fw.nn.relu(conv + y))
    assert check(function, "cpu -num-cores=2", "nn.conv2d") == "conv2d_nchw.cpu"


@pytest.mark.parametrize(
    ("data", "weight", "attrs", "channels"),
    [
        ((1, 512, 14, 14), (512, 16, 3, 3), {"groups": 32, "padding": 1}, 1),
        ((1, 128, 56, 56), (128, 4, 3, 3), {"groups": 32, "padding": 1}, 0),
        ((1, 240, 28, 28), (60, 80, 1, 1), {"groups": 3}, 0),
        ((1, 128, 7, 7), (64, 128, 1, 1), {}, 1),
        ((1, 64, 13, 13), (64, 64, 3, 3), {"padding": 1}, 1),
    ],
)
def test_lanes_are_what_fills_them(
    data: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any], channels: int
) -> None:
    call = fw.nn.conv2d(fw.var("x", shape=data), fw.var("w", shape=weight), **attrs)
    assert isinstance(call, fw.Call)
    problem = make_problem(as_group(call), "KERNEL", isa_for(Target("cpu -mcpu=x86-64-v4")), 1, {1})
    (found,) = [c for c in choose(problem)[1] if c.name == "conv2d_nchw.cpu"]
    assert found.refusal is None and found.config["channels"] == channels
