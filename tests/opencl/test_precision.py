"""-precision=fp16 on opencl: weights are float16; for GPUs that can, products and short sums are float16, too."""

from functools import partial
from itertools import islice

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.backends import backend_of
from fusewire.targets.implement import Decision, entries
from fusewire.targets.opencl.devices import all_devices, find
from fusewire.targets.opencl.kernels import HALF
from fusewire.testing import evaluate
from tests.opencl.forced import problems, run_as
from tests.opencl.present import each_device
from tests.targets.stored import draw


def network() -> fw.Function:
    """A convolution for Winograd, one with strides, and a product."""
    x = fw.var("x", shape=(1, 16, 14, 14))
    net = fw.nn.relu(fw.nn.conv2d(x, fw.const(draw(1, 32, 16, 3, 3)), padding=(1, 1)))
    net = fw.nn.conv2d(net, fw.const(draw(2, 8, 32, 3, 3)), strides=(2, 2))
    return fw.Function([x], fw.nn.dense(fw.nn.batch_flatten(net), fw.const(draw(3, 10, 8 * 36))))


def stored(lib: fw.CompiledModule) -> set[str]:
    """The dtypes of the tensors that kernels get for weights."""
    arrays = {**lib.program.constants, **lib.runnable.code.packed}
    slots = {slot for step in lib.program.leaf_steps() for slot in lib.runnable.code.of(step).inputs}  # type: ignore[arg-type]
    return {array.dtype.name for slot, array in arrays.items() if slot in slots and array.ndim > 1}


@each_device
def test_half_the_bytes(target: str) -> None:
    function, data = network(), draw(4, 1, 16, 14, 14)
    (wanted,) = evaluate(function, {"x": data})
    plain, half = fw.build(function, target), fw.build(function, f"{target} -precision=fp16")
    assert stored(plain) == {"float32"} and stored(half) == {"float16"}
    scale = np.abs(wanted).max()
    exact, rounded = (np.abs(lib(x=data).astype(np.float64) - wanted).max() / scale for lib in (plain, half))
    assert exact < 1e-5 and 1e-5 < rounded < 4e-3


def convolution(cin: int, cout: int, k: int, stride: int, side: int) -> fw.Function:
    x, weight = fw.var("x", shape=(1, cin, side, side)), fw.const(draw(1, cout, cin, k, k))
    return fw.Function([x], fw.nn.relu(fw.nn.conv2d(x, weight, strides=stride, padding=k // 2)))


def product(rows: int, columns: int, terms: int) -> fw.Function:
    x = fw.var("x", shape=(rows, terms))
    return fw.Function([x], fw.nn.dense(x, fw.const(draw(3, columns, terms))))


CASES = {
    "conv2d_c8h4w1": convolution(64, 64, 3, 1, 9),
    "conv2d_gemm_local": convolution(19, 37, 3, 2, 15),
    "conv2d_1x1_c8h1w4": convolution(130, 24, 1, 1, 6),
    "gemm_local": product(33, 70, 300),
}
"""One of the implementations that must be tried, and what for."""


def always(decision: Decision, *given: object) -> Decision:
    return decision


@each_device
@pytest.mark.parametrize("name", CASES)
def test_arithmetic_in_halves(name: str, target: str) -> None:
    """Of every variant that has it: the device has the extension, or nothing computes in float16."""
    function, able = CASES[name], HALF in find(fw.Target(target).device).extensions
    lib = fw.build(function, f"{target} -thread_warp_size=32 -precision=fp16")
    isa = lib.runnable.code.isa
    assert isa.half == able
    (slot,) = lib.program.inputs["x"]
    x = draw(4, *lib.program.slots[slot].static_shape)
    (wanted,) = evaluate(function, {"x": x})
    (group,) = [p for p in problems(lib) if p.context is not None and p.anchor is not None and len(p.context.args) == 2]
    in_tiles = ("conv2d_c", "conv2d_1x1_c", "conv2d_gemm_local", "gemm_local")
    tried = [e for e in entries(group) if e.check(group) is None and e.name.startswith(in_tiles)]
    assert name in {e.name.partition(".")[0] for e in tried}
    for entry in tried:
        for config in islice(entry.configs(group), 2):
            decision = Decision(entry.name, config)
            code = backend_of("opencl").generate(lib.program, isa, 1, partial(always, decision))
            assert any("as_half" in text for _, text in code.files) == able, decision
            (got,) = run_as(lib, decision, {"x": x})
            assert np.abs(got - wanted).max() / np.abs(wanted).max() < 4e-3, (entry.name, config)


@each_device
def test_sums_in_halves_are_short(target: str) -> None:
    """Ones: 2048 and more of them cannot be added up in float16."""
    function = fw.Function(
        [x := fw.var("x", shape=(16, 8192))], fw.nn.dense(x, fw.const(np.ones((16, 8192), np.float32)))
    )
    lib = fw.build(function, f"{target} -thread_warp_size=32 -precision=fp16")
    np.testing.assert_array_equal(lib(x=np.ones((16, 8192), np.float32)), np.full((16, 16), 8192.0))


def test_a_device_that_cannot_compute_in_halves() -> None:
    able = [HALF in device.extensions for device in all_devices()]
    if not able or not able[0] or all(able):
        pytest.skip("it takes a first device with cl_khr_fp16, and another one without")
    lib = fw.build(product(4, 16, 64), "opencl -thread_warp_size=32 -precision=fp16")
    with pytest.raises(fw.FusewireError, match=f"computes in float16; .* lacks {HALF}: build for it"):
        lib["default"](fw.device("opencl", able.index(False)))


def test_bfloat16_is_for_other_targets() -> None:
    with pytest.raises(fw.TargetError, match="precision"):
        fw.build(network(), "opencl -precision=bf16")
