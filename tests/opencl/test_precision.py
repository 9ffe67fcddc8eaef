"""-precision=fp16 on opencl: weights are stored as float16, sums are float32."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.testing import evaluate
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


def test_bfloat16_is_for_other_targets() -> None:
    with pytest.raises(fw.TargetError, match="precision"):
        fw.build(network(), "opencl -precision=bf16")
