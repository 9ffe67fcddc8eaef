"""Kernels that stream as CUDA C++: what a GPU gets is taken, and computes on the host what NumPy does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.testing import evaluate
from tests.cuda.double import Double, install
from tests.cuda.host import needs_compiler

RNG = np.random.default_rng(5)
CASES: dict[str, tuple[str, tuple[tuple[int, ...], ...], Callable[..., Any]]] = {
    "softmax": ("rows_once", ((5, 257),), lambda x: fw.nn.softmax(x)),
    "vectors": ("rows_once", ((9, 1024),), lambda x: fw.nn.log_softmax(x)),
    "columns": ("columns_once", ((2, 100, 600),), lambda x: fw.nn.softmax(x, axis=1)),
    "chunks": ("reduce_chunks", ((300, 200),), lambda x: fw.max(x)),
    "turned": ("maps_turned", ((2, 40, 37),), lambda x: fw.exp(fw.transpose(x, (0, 2, 1)))),
    "few rows": ("gemm_few_rows", ((2, 512), (300, 512)), lambda x, w: fw.nn.relu(fw.nn.dense(x, w))),
    "few rows, columns side by side": ("gemm_few_rows", ((1, 768), (768, 768)), lambda x, w: fw.nn.matmul(x, w)),
    "windows": (
        "windows_items",
        ((1, 33, 40, 64),),
        lambda x: fw.nn.avg_pool2d(x, (3, 3), (2, 2), padding=(1, 1), layout="NHWC"),
    ),
    "depthwise": (
        "conv2d_depthwise_last",
        ((1, 16, 15, 32), (3, 3, 32, 1)),
        lambda x, w: fw.nn.conv2d(
            x, w, (1, 1), (1, 1), groups=32, channels=32, kernel_size=(3, 3), data_layout="NHWC", kernel_layout="HWOI"
        ),
    ),
    "attention": (
        "attention_flash",
        ((1, 2, 20, 16), (1, 2, 40, 16), (1, 2, 40, 8), (20, 40)),
        lambda *given: fw.nn.attention(given[0], given[1], given[2], given[3], scale=0.25),
    ),
}


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_streams_are_taken_and_agree_with_numpy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Double())
    wanted, shapes, make = CASES[name]
    inputs = [fw.var(f"x{k}", shape=shape) for k, shape in enumerate(shapes)]
    function = fw.Function(inputs, make(*inputs))
    lib = fw.build(function, "cuda")
    code: Any = lib.runnable.code
    assert [step.implementation for step in code.steps.values()] == [f"{wanted}.cuda"]
    feed = {f"x{k}": RNG.uniform(-2, 2, shape).astype(np.float32) for k, shape in enumerate(shapes)}
    module = fw.GraphModule(lib["default"](fw.device("cuda")))
    module.run(**feed)
    for k, expected in enumerate(evaluate(function, feed)):
        np.testing.assert_allclose(module.get_output(k).numpy(), expected, rtol=1e-5, atol=2e-5)


def test_rows_are_read_once_in_vectors_and_joined_by_shuffles() -> None:
    x = fw.var("x", shape=(64, 1000))
    lib = fw.build(fw.Function([x], fw.nn.softmax(x)), "cuda")
    code: Any = lib.runnable.code
    (step,) = code.steps.values()
    body = step.source[step.source.index("__global__") :]
    assert body.count("fw_load<v4f32, 16>(&p0[") == 2 and body.count("p0[") == 2  # 1000 elements, 128 items
    assert "fw_item_xor16_f32(" in body and body.count("__syncthreads") == 2
