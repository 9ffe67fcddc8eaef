"""How many operations and bytes groups are said to take."""

from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.work import Work, flops_of, flops_of_program, work_of, work_of_step


def var(*shape: int, dtype: str = "float32", name: str = "x") -> fw.Var:
    return fw.var(name, shape=shape, dtype=dtype)


def work(expr: fw.Expr) -> Work:
    return work_of(fw.Function(fw.analysis.free_vars(expr), expr))


def flops(expr: Any) -> int:
    assert isinstance(expr, fw.Call)
    return flops_of(expr)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolutions(layout: str) -> None:
    shape = (1, 8, 10, 12) if layout == "NCHW" else (1, 10, 12, 8)
    pixels = 10 * 12
    for groups, dilation, padding in ((1, 1, 1), (2, 1, 1), (8, 1, 1), (1, 2, 2)):
        weight = var(16, 8 // groups, 3, 3, name="w")
        kernel: dict[str, Any] = {"data_layout": layout, "kernel_layout": "OIHW", "groups": groups}
        kernel["dilation"] = (dilation, dilation)
        call = fw.nn.conv2d(var(*shape), weight, kernel_size=(3, 3), channels=16, padding=(padding, padding), **kernel)
        assert flops(call) == 2 * pixels * 16 * (8 // groups) * 9
    strided = fw.nn.conv2d(var(1, 8, 10, 12), var(16, 8, 1, 1, name="w"), kernel_size=(1, 1), strides=(2, 2))
    assert flops(strided) == 2 * 30 * 16 * 8


def test_a_transposed_convolution_counts_no_zeros() -> None:
    call = fw.nn.conv2d_transpose(
        var(1, 4, 8, 8), var(4, 6, 2, 2, name="w"), kernel_size=(2, 2), channels=6, strides=(2, 2)
    )
    assert flops(call) == 2 * 4 * 64 * 6 * 4


def test_blocks_of_channels_do_not_change_the_count() -> None:
    data = var(1, 24, 10, 10, name="data")
    net = fw.nn.conv2d(data, fw.var("w1"), kernel_size=(3, 3), channels=40, padding=(1, 1))
    net = fw.nn.conv2d(net, fw.var("w2"), kernel_size=(3, 3), channels=24, padding=(1, 1))
    mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))
    lib = fw.build(mod, params=params)
    assert flops_of_program(lib.program) == 2 * (2 * 24 * 40 * 9 * 100)


def test_products() -> None:
    assert flops(fw.nn.dense(var(5, 7), var(3, 7, name="w"))) == 2 * 5 * 7 * 3
    assert flops(fw.nn.batch_matmul(var(4, 5, 7), var(1, 3, 7, name="w"))) == 2 * 4 * 5 * 7 * 3


def test_elementwise_and_reductions() -> None:
    x = var(6, 50)
    assert flops(fw.nn.relu(x)) == flops(fw.exp(x)) == flops(fw.add(x, x)) == 300
    assert flops(fw.transpose(x)) == flops(fw.cast(x, "int32")) == flops(fw.where(fw.cast(x, "bool"), x, x)) == 0
    assert flops(fw.sum(x, axis=1)) == flops(fw.max(x, axis=1)) == 300
    assert flops(fw.mean(x, axis=1)) == 306
    assert flops(fw.nn.max_pool2d(var(1, 3, 8, 8), pool_size=(2, 2), strides=(2, 2))) == 3 * 16 * 4
    padded = fw.nn.max_pool2d(var(1, 3, 8, 8), pool_size=(3, 3), strides=(2, 2), padding=(1, 1))
    assert flops(padded) == 3 * 16 * 9
    # the maximum, the difference, the exponential and the sum for each element; and again with 1 / sum and a product
    assert flops(fw.nn.softmax(x)) == 300 * 8
    assert flops(fw.argsort(x)) == 0


def test_a_group_counts_every_operator_once() -> None:
    x = var(6, 50)
    twice = fw.nn.relu(x)
    assert work(fw.transpose(twice) + fw.transpose(fw.exp(twice))) == Work(900, (1200,), 1200, "float32")


def test_bytes() -> None:
    x = var(64, 1000)
    assert work(fw.nn.relu(x)) == Work(64000, (256000,), 256000, "float32")
    assert work(fw.strided_slice(x, begin=[0, 0], end=[4, 10])).read == (160,)
    assert work(fw.take(x, var(3, dtype="int32", name="i"), axis=0)).read == (12000, 12)
    assert work(fw.nn.relu(fw.strided_slice(fw.exp(x), begin=[0, 0], end=[4, 10]))).read == (160,)
    both = fw.split(x, 2, axis=1)
    assert work(both[1]) == Work(0, (128000,), 128000, "float32")
    assert work(fw.concatenate([both[0], x], axis=1)).read == (256000,)
    assert work(var(5, dtype="float64") * 2.0).dtype == "float64"
    assert work(fw.nn.relu(var(0, 3))) == Work(0, (0,), 0, "float32")


def test_a_long_concatenation() -> None:
    x = var(2, 3)
    assert work(fw.concatenate([x] * 2000, axis=0)).nbytes == 24 + 48000


def test_steps_of_all_kinds() -> None:
    pytest.importorskip("scipy_openblas32")
    x = var(8, 8)
    cube = fw.reshape(x, (1, 8, 8))
    net = fw.nn.dense(x, fw.const(np.ones((8, 8), np.float32)))
    lib = fw.build(fw.Function([x], fw.Tuple([fw.nn.batch_matmul(cube, cube), net, x])),
                   "cpu -libs=openblas")  # fmt: skip
    found = {type(step).__name__: work_of_step(step, lib.program) for step in lib.program.steps}
    assert found["CopyStep"] == Work(0, (256,), 256, "float32")
    assert found["LibraryStep"] is not None and found["LibraryStep"].flops == 1024
    assert flops_of_program(lib.program) == 2 * 1024
    # the same tensor given twice is read once
    product = fw.build(fw.Function([x], fw.nn.matmul(x, x)), "cpu")
    (step,) = product.program.steps
    assert work_of_step(step, product.program) == Work(1024, (256,), 256, "float32")


def test_branches() -> None:
    x = var(8, 8)
    lib = fw.build(fw.Function([x], fw.If(fw.sum(x) > 0.0, fw.exp(x), x + fw.sum(x))))
    assert flops_of_program(lib.program) is None
