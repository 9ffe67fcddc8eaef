"""oneDNN as a library: what it takes and what not, the results, failures, threads."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.contrib.onednn import ffi
from fusewire.contrib.onednn.primitive import Step
from fusewire.targets.program import KernelStep, LibraryStep
from fusewire.testing import create_workload, evaluate
from tests.contrib.offload import (
    Build,
    check,
    compare,
    conv2d,
    function_of,
    placed,
    refusals,
    tutorial_net,
    uniform,
    values_for,
    var,
)
from tests.contrib.onednn_cases import needs_onednn


@needs_onednn
@pytest.mark.parametrize("post_ops", [True, False])
def test_tutorial_net_is_one_call_or_two_steps(caplog: pytest.LogCaptureFixture, post_ops: bool) -> None:
    mod, params = create_workload(tutorial_net())
    values = {name: param.numpy() for name, param in params.items()}
    values |= {"gamma": uniform(1, (16,)) + 1, "beta": uniform(2, (16,)), "mean": uniform(3, (16,))}
    with caplog.at_level(logging.INFO, logger="fusewire"):
        lib = fw.build(mod, f"cpu -libs=onednn{'' if post_ops else ' -postops=0'}", params=values)
    assert "Using conv2d_onednn.cpu for nn.conv2d based on highest priority (25)" in caplog.messages
    first, *others = lib.program.leaf_steps()
    assert isinstance(first, LibraryStep)
    assert first.composite == "onednn.conv2d"
    chosen = [(choice.chosen, choice.ops) for choice in lib.explain().choices]
    if post_ops:
        assert chosen == [("conv2d_onednn.cpu", ("nn.conv2d", "multiply", "add", "nn.relu"))]
    else:
        (second,) = others
        assert isinstance(second, KernelStep) and second.name.endswith("fused_multiply_add_nn_relu")
        assert chosen == [("conv2d_onednn.cpu", ("nn.conv2d",)), ("loops.cpu", ("multiply", "add", "nn.relu"))]

    data = uniform(4, (1, 3, 224, 224))
    module = fw.GraphModule(lib["default"](fw.device("cpu", 0)))
    module.set_input("data", data)
    module.run()
    got = module.get_output(0).numpy()
    compare([got], [fw.build(mod, "cpu", params=values)(data=data)])
    main = mod["main"]
    assert isinstance(main, fw.Function)
    compare([got], evaluate(main, {"data": data, **values}))


CONVOLUTIONS: dict[str, Build] = {
    "3x3": lambda: conv2d((2, 16, 9, 11), (32, 16, 3, 3), padding=(1, 1)),
    "odd channels": lambda: conv2d((1, 5, 8, 8), (7, 5, 3, 3)),
    "1x1": lambda: conv2d((1, 32, 7, 7), (64, 32, 1, 1)),
    "strides": lambda: conv2d((1, 8, 14, 13), (8, 8, 3, 3), strides=(2, 3), padding=1),
    "dilation": lambda: conv2d((1, 8, 14, 13), (8, 8, 3, 3), dilation=(2, 3)),
    "asymmetric padding": lambda: conv2d((1, 8, 9, 9), (8, 8, 3, 3), padding=(0, 2, 1, 0)),
    "groups": lambda: conv2d((1, 12, 9, 9), (8, 3, 3, 3), groups=4),
    "depthwise": lambda: conv2d((2, 24, 9, 9), (24, 1, 3, 3), groups=24, padding=1),
    "depthwise, 1 to 3": lambda: conv2d((2, 4, 9, 9), (12, 1, 3, 3), groups=4),
    "depthwise, multiplier": lambda: conv2d((2, 4, 9, 9), (4, 3, 3, 3), groups=4),
    "depthwise, multiplier, HWOI": lambda: conv2d((2, 4, 9, 9), (3, 3, 4, 3), groups=4, kernel_layout="HWOI"),
    "depthwise, multiplier, HWIO": lambda: conv2d((2, 4, 9, 9), (3, 3, 3, 4), groups=4, kernel_layout="HWIO"),
    "NHWC, HWIO": lambda: conv2d((2, 9, 11, 6), (3, 3, 6, 10), data_layout="NHWC", kernel_layout="HWIO", padding=1),
    "NHWC, OHWI": lambda: conv2d((2, 9, 11, 6), (10, 3, 3, 6), data_layout="NHWC", kernel_layout="OHWI"),
    "NHWC, groups": lambda: conv2d((2, 9, 9, 6), (3, 3, 2, 9), groups=3, data_layout="NHWC", kernel_layout="HWIO"),
    "NCHW to NHWC": lambda: conv2d((2, 6, 9, 11), (10, 6, 3, 3), out_layout="NHWC"),
    "1-D": lambda: fw.nn.conv1d(var("data", 2, 8, 30), var("weight", 12, 8, 5), strides=2, padding=(1, 3)),
    "3-D": lambda: fw.nn.conv3d(var("data", 1, 8, 5, 6, 7), var("weight", 8, 8, 3, 3, 3), padding=1),
}


@needs_onednn
@pytest.mark.parametrize("constants", [["weight"], []], ids=["constant", "variable"])
@pytest.mark.parametrize("body", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(body: Build, constants: list[str]) -> None:
    built = body()
    assert isinstance(built, fw.Call)
    check(built, "onednn", [f"onednn.{str(built.op).removeprefix('nn.')}"], constants)


def products() -> dict[str, Build]:
    def pair(op: Callable[..., fw.Expr], a: tuple[int, ...], b: tuple[int, ...], **attributes: Any) -> Build:
        return lambda: op(var("a", *a), var("b", *b), **attributes)

    dense, matmul, batch = fw.nn.dense, fw.nn.matmul, fw.nn.batch_matmul
    return {
        "dense": pair(dense, (5, 7), (9, 7)),
        "dense, a vector": pair(dense, (7,), (9, 7)),
        "dense, 4-D": pair(dense, (2, 3, 5, 7), (9, 7)),
        "matmul": pair(matmul, (5, 7), (7, 9)),
        "matmul, a transposed": pair(matmul, (7, 5), (7, 9), transpose_a=True),
        "matmul, both transposed": pair(matmul, (7, 5), (9, 7), transpose_a=True, transpose_b=True),
        "matmul, 3-D": pair(matmul, (3, 5, 7), (7, 9)),
        "matmul, 4-D, a transposed": pair(matmul, (2, 3, 7, 5), (7, 9), transpose_a=True),
        "batch_matmul": pair(batch, (3, 5, 7), (3, 9, 7)),
        "batch_matmul, plain": pair(batch, (3, 5, 7), (3, 7, 9), transpose_b=False),
        "batch_matmul, both transposed": pair(batch, (3, 7, 5), (3, 9, 7), transpose_a=True),
        "batch_matmul, one a": pair(batch, (1, 5, 7), (3, 9, 7)),
        "batch_matmul, one b": pair(batch, (3, 5, 7), (1, 9, 7)),
    }


@needs_onednn
@pytest.mark.parametrize("constants", [["b"], ["a"], []], ids=["constant b", "constant a", "variable"])
@pytest.mark.parametrize("body", products().values(), ids=products())
def test_product(body: Build, constants: list[str]) -> None:
    built = body()
    assert isinstance(built, fw.Call)
    check(built, "onednn", [f"onednn.{str(built.op).removeprefix('nn.')}"], constants)


@needs_onednn
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_random_convolutions(data: st.DataObject) -> None:
    size = st.integers(1, 12)
    groups, inputs, outputs = (data.draw(st.integers(1, 4)) for _ in range(3))
    window, strides, dilation = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    space = [data.draw(st.integers(max(r - 2, 1), r + 12)) for r in reach]
    padding = (max(padding[0], reach[0] - space[0]), max(padding[1], reach[1] - space[1]), *padding[2:])
    body = conv2d(
        (data.draw(size), groups * inputs, *space), (groups * outputs, inputs, *window),
        strides=strides, dilation=dilation, padding=padding, groups=groups,
    )  # fmt: skip
    check(body, "onednn", ["onednn.conv2d"], data.draw(st.sampled_from([[], ["weight"]])))


@needs_onednn
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=4, max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_random_products(sizes: list[int], trans_a: bool, trans_b: bool, constant: bool) -> None:
    batch, m, n, k = sizes
    a, b = (batch, k, m) if trans_a else (batch, m, k), (batch, n, k) if trans_b else (batch, k, n)
    body = fw.nn.batch_matmul(var("a", *a), var("b", *b), transpose_a=trans_a, transpose_b=trans_b)
    check(body, "onednn", ["onednn.batch_matmul"], ["b"] if constant else [])


@needs_onednn
def test_bfloat16_is_right_or_refused_by_the_library() -> None:
    body = fw.nn.dense(var("a", 16, 32, dtype="bfloat16"), var("b", 8, 32, dtype="bfloat16"))
    lib = fw.build(function_of(body), "cpu -libs=onednn")
    if placed(lib) == ["kernel"]:  # CPUs differ
        assert refusals(lib)[0].startswith(f"dense_onednn.cpu: oneDNN {ffi.version()}: not implemented")
    else:
        check(body, "onednn", ["onednn.dense"], ["b"], rtol=2.0**-7)


# Around the call


@needs_onednn
def test_result_is_used_twice() -> None:
    y = conv2d((1, 8, 9, 9), (8, 8, 3, 3), padding=1)
    check(fw.add(fw.nn.relu(y), y), "onednn", ["onednn.conv2d", "kernel"], ["weight"])
    check(fw.Tuple([y, fw.tanh(y), y]), "onednn", ["onednn.conv2d", "onednn.tanh"], ["weight"])


@needs_onednn
def test_residual_block() -> None:
    x = var("x", 1, 6, 9, 9)
    y = fw.nn.relu(fw.nn.conv2d(x, var("w1", 6, 6, 3, 3), padding=1))
    y = fw.nn.relu(fw.nn.conv2d(y, var("w2", 6, 6, 3, 3), padding=1) + x)
    check(y, "onednn", ["onednn.conv2d"] * 2, ["w1", "w2"])
    check(y, "onednn -postops=0", ["onednn.conv2d", "kernel"] * 2, ["w1", "w2"])


@needs_onednn
def test_same_input_twice() -> None:
    a = var("a", 6, 6)
    check(fw.nn.matmul(a, a), "onednn", ["onednn.matmul"])
    check(fw.nn.dense(a, fw.nn.relu(a)), "onednn", ["onednn.relu", "onednn.dense"])
    function = function_of(fw.nn.dense(var("a", 6, 6), var("b", 6, 6)))
    lib, x = fw.build(function, "cpu -libs=onednn"), uniform(1, (6, 6))
    assert placed(lib) == ["onednn.dense"]
    compare([lib(a=x, b=x)], [x.astype(np.float64) @ x.T.astype(np.float64)])


@needs_onednn
def test_same_constant_twice() -> None:
    w = fw.const(uniform(1, (6, 6)))
    x = var("x", 4, 6)
    check(fw.nn.dense(fw.nn.dense(x, w), w), "onednn", ["onednn.dense"] * 2)


@needs_onednn
def test_in_a_branch() -> None:
    x, w = var("x", 4, 6), fw.const(uniform(1, (6, 6)))
    body = fw.If(var("flag", dtype="bool"), fw.nn.dense(x, w), fw.nn.relu(x))
    lib = fw.build(fw.Function(fw.analysis.free_vars(body), body), "cpu -libs=onednn")
    assert sorted(placed(lib)) == ["onednn.dense", "onednn.relu"]
    value = uniform(2, (4, 6))
    compare([lib(x=value, flag=np.array(True))], [value.astype(np.float64) @ w.data.T.astype(np.float64)])
    compare([lib(x=value, flag=np.array(False))], [np.maximum(value, 0)])


@needs_onednn
def test_modules_run_in_several_threads() -> None:
    body = fw.nn.relu(conv2d((2, 16, 12, 12), (16, 16, 3, 3), padding=1))
    function = function_of(body)
    values = values_for(function)
    lib = fw.build(function, "cpu -libs=onednn -num-cores=2", params={"weight": values["weight"]})
    assert placed(lib) == ["onednn.conv2d"]

    def work(seed: int) -> None:
        module = fw.GraphModule(lib["default"](fw.cpu()))
        data = uniform(seed, (2, 16, 12, 12))
        expected = evaluate(function, {"data": data, "weight": values["weight"]})
        for _ in range(20):
            module.run(data=data)
            compare([module.get_output(0).numpy()], expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@needs_onednn
@pytest.mark.parametrize("cores", [1, 3])
def test_number_of_threads_is_the_targets(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    seen: list[int] = []
    run = Step.run

    def watched(self: Step, stream: Any) -> None:
        seen.append(ffi.load().dll.omp_get_max_threads())
        run(self, stream)

    monkeypatch.setattr(Step, "run", watched)
    function = function_of(conv2d((1, 8, 9, 9), (8, 8, 3, 3)))
    lib = fw.build(function, f"cpu -libs=onednn -num-cores={cores}")
    assert placed(lib) == ["onednn.conv2d"]
    lib(**values_for(function))
    assert seen and set(seen) == {cores}


# Failures


@needs_onednn
def test_failure_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    function = function_of(fw.nn.relu(conv2d((1, 3, 8, 8), (4, 3, 3, 3))))
    values = values_for(function)
    lib = fw.build(function, "cpu -libs=onednn", params={"weight": values["weight"]})
    assert placed(lib) == ["onednn.conv2d"]
    module = fw.GraphModule(lib["default"](fw.cpu()))
    module.set_input("data", values["data"])

    def without_arguments(self: Step, stream: Any) -> None:
        self._api.dll.dnnl_primitive_execute(self._primitive, stream, 0, self._arguments)

    call = r"nn\.conv2d\(Tensor\[\(1, 3, 8, 8\), float32\], Tensor\[\(4, 3, 3, 3\), float32\]\) \+ relu"
    with monkeypatch.context() as patch:
        patch.setattr(Step, "run", without_arguments)
        with pytest.raises(
            fw.FusewireError, match=rf"dnnl_primitive_execute: invalid arguments \(status 2\), in {call}"
        ):
            module.run()
    module.run()
    compare([module.get_output(0).numpy()], evaluate(function, values))


@needs_onednn
def test_failure_when_the_module_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = fw.build(function_of(conv2d((1, 3, 8, 8), (4, 3, 3, 3))), "cpu -libs=onednn")
    assert placed(lib) == ["onednn.conv2d"]
    with monkeypatch.context() as patch:  # as on a processor that has no implementation
        patch.setattr(ffi, "implementation_name", lambda api, described: "ref:any")
        with pytest.raises(fw.FusewireError, match=r"slow reference implementation \(ref:any\).*, in nn\.conv2d\("):
            fw.GraphModule(lib["default"](fw.cpu()))
    fw.GraphModule(lib["default"](fw.cpu()))
