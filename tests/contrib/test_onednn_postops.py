"""What oneDNN takes behind an operator: one call with post-ops, right, or a reason why not."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.contrib.onednn import LIBRARY
from fusewire.contrib.onednn.describe import Binary, Description, Eltwise
from fusewire.contrib.onednn.primitive import Kernel
from fusewire.fuse.library import Region
from tests.contrib.offload import (
    Build,
    check,
    compare,
    conv2d,
    function_of,
    gelu,
    placed,
    refusals,
    taken,
    uniform,
    values_for,
    var,
)
from tests.contrib.onednn_cases import needs_onednn

Step = Callable[[Any], Any]


def const(value: float) -> fw.Expr:
    return fw.const(value)


def six(x: Any) -> Any:
    return fw.clip(x + const(3.0), 0.0, 6.0)


ROOT = math.sqrt(2 / math.pi)
HALF = math.sqrt(0.5)

ACTIVATIONS: dict[str, Step] = {
    "relu": fw.nn.relu,
    "leaky_relu": lambda x: fw.nn.leaky_relu(x, 0.2),
    "relu6": lambda x: fw.clip(x, 0.0, 6.0),
    "tanh": fw.tanh,
    "sigmoid": fw.sigmoid,
    "exp": fw.exp,
    "abs": fw.abs,
    "sqrt of exp": lambda x: fw.sqrt(fw.exp(x)),
    "log of exp": lambda x: fw.log(fw.exp(x)),
    "gelu": gelu,
    "gelu, as PyTorch exports it": lambda x: x * (fw.erf(x / const(math.sqrt(2))) + const(1.0)) * const(0.5),
    "gelu, halves first": lambda x: (x / const(2.0)) * (const(1.0) + fw.erf(x * const(HALF))),
    "gelu, halved bracket": lambda x: x * ((fw.erf(x * const(HALF)) + const(1.0)) * const(0.5)),
    "gelu, two halves": lambda x: x * (fw.erf(x * const(HALF)) * const(0.5) + const(0.5)),
    "gelu_tanh": lambda x: (
        x * const(0.5) * (const(1.0) + fw.tanh(const(ROOT) * (x + const(0.044715) * x * x * x)))
    ),
    "gelu_tanh, power": lambda x: (
        const(0.5) * x * (const(1.0) + fw.tanh(const(ROOT) * (x + const(0.044715) * fw.power(x, const(3.0)))))
    ),
    "swish": lambda x: x * fw.sigmoid(x),
    "hard_sigmoid": lambda x: six(x) / const(6.0),
    "hard_sigmoid, inside": lambda x: fw.clip(x * const(1 / 6) + const(0.5), 0.0, 1.0),
    "hard_swish": lambda x: x * (six(x) / const(6.0)),
    "hard_swish, last": lambda x: x * six(x) * const(1 / 6),
    "times a number": lambda x: x * const(2.5),
    "divided by a number": lambda x: x / const(3.0),
    "minus a number": lambda x: x - const(3.0),
    "maximum with a number": lambda x: fw.maximum(x, const(0.1)),
    "minimum with a number": lambda x: fw.minimum(x, const(-0.1)),
}  # fmt: skip


def conv(channels: int = 16, **attributes: Any) -> fw.Expr:
    return conv2d((2, 8, 9, 7), (channels, 8, 3, 3), padding=1, **attributes)


def dense() -> fw.Expr:
    return fw.nn.dense(var("data", 4, 7), var("weight", 9, 7))


@needs_onednn
@pytest.mark.parametrize("anchor", [conv, dense], ids=["conv2d", "dense"])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activation(anchor: Build, activation: Step) -> None:
    body = anchor()
    assert isinstance(body, fw.Call)
    lib = check(activation(body), "onednn", [f"onednn.{str(body.op)[3:]}"], ["weight"], against_cpu=False)
    assert len(taken(lib)[0]) > 1


def blocked() -> fw.Expr:
    x = fw.nn.conv2d(var("data", 2, 1, 9, 9, 16), var("weight", 32, 16, 3, 3), data_layout="NCHW16c", padding=1)
    return fw.nn.relu(x * var("s", 1, 2, 1, 1, 16) + var("r", 2, 2, 9, 9, 16))


def nhwc() -> fw.Expr:
    layouts: dict[str, Any] = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    x = fw.nn.conv2d(var("data", 2, 9, 9, 8), var("weight", 3, 3, 8, 16), **layouts)
    return fw.nn.relu(fw.nn.bias_add(x, var("b", 16), axis=3) + var("r", 2, 7, 7, 16))


def batch(x: fw.Expr) -> fw.Expr:
    return fw.nn.relu(x * var("s", 16, 1, 1) + var("t", 16, 1, 1))


CHAINS: dict[str, Build] = {
    "scale, shift, relu": lambda: batch(conv()),
    "bias, scale, shift": lambda: batch(fw.nn.bias_add(conv(), var("b", 16))),
    "scale, shift, residual, relu": lambda: fw.nn.relu(conv() * var("s", 16, 1, 1) + var("t", 16, 1, 1) + residual()),
    "residual first": lambda: fw.nn.relu(residual() + conv()),
    "relu, then residual": lambda: fw.nn.relu(conv()) + residual(),
    "relu, then scale and shift": lambda: fw.nn.relu(conv()) * var("s", 16, 1, 1) + var("t", 16, 1, 1),
    "minus and divided": lambda: (conv() - var("t", 16, 1, 1)) / (const(2.0)),
    "maximum of two tensors": lambda: fw.maximum(conv(), residual()),
    "constant on the left": lambda: var("s", 16, 1, 1) * conv() + const(1.0),
    "gelu behind a bias": lambda: gelu(fw.nn.bias_add(conv(), var("b", 16))),
    "NHWC": nhwc,
    "blocks of 16": blocked,
    "conv1d": lambda: fw.nn.relu(fw.nn.conv1d(var("data", 2, 8, 9), var("weight", 6, 8, 3)) + var("t", 6, 1)),
    "conv3d": lambda: (
        fw.nn.relu(fw.nn.conv3d(var("data", 1, 3, 5, 6, 4), var("weight", 6, 3, 3, 3, 3)) + var("t", 6, 1, 1, 1))
    ),
    "grouped": lambda: batch(conv2d((2, 8, 9, 7), (16, 4, 3, 3), groups=2)),
    "depthwise": lambda: batch(conv2d((2, 16, 9, 7), (16, 1, 3, 3), groups=16)),
    "dilated": lambda: batch(conv2d((2, 8, 9, 9), (16, 8, 3, 3), dilation=2)),
    "conv2d_transpose": lambda: batch(fw.nn.conv2d_transpose(var("data", 2, 8, 5, 6), var("weight", 8, 16, 3, 3))),
    "dense, bias, gelu": lambda: gelu(fw.nn.dense(var("data", 2, 3, 7), var("weight", 9, 7)) + var("b", 9)),
    "dense, bias, residual": lambda: (
        fw.nn.dense(var("data", 2, 3, 7), var("weight", 9, 7)) + var("b", 9) + var("r", 2, 3, 9)
    ),
    "dense, a vector": lambda: fw.nn.relu(fw.nn.dense(var("data", 7), var("weight", 9, 7)) + var("b", 9)),
    "matmul, relu": lambda: fw.nn.relu(fw.nn.matmul(var("data", 4, 7), var("weight", 7, 9))),
    "batch_matmul, scaled and masked": lambda: (
        fw.nn.batch_matmul(var("data", 3, 4, 5), var("weight", 3, 6, 5)) / const(8.0) + var("m", 3, 1, 6)
    ),
    "max_pool2d, scale": lambda: fw.nn.max_pool2d(var("data", 2, 4, 8, 8), 2, 2) * var("s", 4, 1, 1),
    "softmax, scale": lambda: fw.nn.softmax(var("data", 4, 10)) * const(2.0) + var("b", 10),
}  # fmt: skip


def residual() -> fw.Expr:
    return var("r", 2, 16, 9, 7)


@needs_onednn
@pytest.mark.parametrize(
    "constants", [["weight", "s", "t", "b"], ["weight"], ["s", "t", "b"]], ids=["all known", "weights", "others"]
)
@pytest.mark.parametrize("body", CHAINS.values(), ids=CHAINS)
def test_chain(body: Build, constants: list[str]) -> None:
    built = body()
    known = [v.name_hint for v in fw.analysis.free_vars(built) if v.name_hint in constants]
    (region,) = taken(lib := check(built, "onednn", placed_alone(built), known, against_cpu=False))
    assert len(region) > 1 and not refusals(lib)


def placed_alone(body: fw.Expr) -> list[str]:
    """One step, of the operator that stands first."""
    calls: list[str] = []

    def visit(e: fw.Expr) -> None:
        if isinstance(e, fw.Call) and str(e.op).startswith("nn.") and str(e.op) not in ("nn.relu", "nn.bias_add"):
            calls.append(str(e.op)[3:])

    fw.analysis.post_order_visit(body, visit)
    return [f"onednn.{calls[0]}"]


@needs_onednn
def test_addend_may_be_an_input_of_the_convolution() -> None:
    x = var("data", 1, 6, 9, 9)
    y = fw.nn.conv2d(x, var("weight", 6, 6, 3, 3), padding=1)
    check(fw.nn.relu(y + x), "onednn", ["onednn.conv2d"], ["weight"], against_cpu=False)
    a = var("a", 6, 6)
    check(fw.nn.matmul(a, a) + a, "onednn", ["onednn.matmul"], against_cpu=False)
    function = function_of(fw.nn.conv2d(x, var("weight", 6, 6, 1, 1)) + var("r", 1, 6, 9, 9))
    lib, data, weight = fw.build(function, "cpu -libs=onednn"), uniform(1, (1, 6, 9, 9)), uniform(2, (6, 6, 1, 1))
    assert placed(lib) == ["onednn.conv2d"]
    expected = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0].astype(float), data.astype(float)) + data
    compare([lib(data=data, weight=weight, r=data)], [expected])  # one array for both


@needs_onednn
def test_addend_may_be_another_convolution() -> None:
    other = fw.nn.conv2d(var("e", 2, 8, 9, 7), var("f", 6, 8, 3, 3), padding=1)
    lib = check(fw.nn.relu(conv(6) + other), "onednn", ["onednn.conv2d"] * 2, ["weight", "f"], against_cpu=False)
    assert sorted(taken(lib)) == [("nn.conv2d",), ("nn.conv2d", "add", "nn.relu")]


REFUSALS: dict[str, tuple[Build, list[str], str]] = {
    "the result itself": (
        lambda: (lambda y: y + y)(conv()),
        ["onednn.conv2d", "kernel"],
        "the operand of add is a value that the region itself computes",
    ),
    "what was computed on the way": (
        lambda: (lambda y: y * fw.nn.relu(y))(conv()),
        ["onednn.conv2d", "kernel"],
        "the operand of multiply is a value that the region itself computes",
    ),
    "a larger result": (
        lambda: fw.erf(conv2d((1, 8, 9, 9), (16, 8, 3, 3)) + var("r", 2, 16, 7, 7)),
        ["onednn.conv2d", "kernel"],
        "add turns Tensor[(1, 16, 7, 7), float32] into Tensor[(2, 16, 7, 7), float32], "
        "expected the same shape and dtype",
    ),
    "a part of merged rows": (
        lambda: fw.erf(fw.nn.dense(var("data", 2, 3, 7), var("weight", 9, 7)) + var("r", 2, 1, 9)),
        ["onednn.dense", "kernel"],
        "the operand of add has shape (2, 1, 9), which repeats it along a part of an axis of (6, 9)",
    ),
    "one value for each block": (
        lambda: fw.erf(
            fw.nn.conv2d(var("data", 2, 1, 9, 9, 16), var("weight", 32, 16, 3, 3), data_layout="NCHW16c")
            * var("s", 1, 2, 1, 1, 1)
        ),
        ["onednn.conv2d", "kernel"],
        "the operand of multiply has shape (1, 2, 1, 1, 1), "
        "which repeats it along a part of an axis of (2, 2, 7, 7, 16)",
    ),
}


@pytest.mark.parametrize(("body", "steps", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refused(body: Build, steps: list[str], reason: str) -> None:
    lib = fw.build(function_of(body()), "cpu -libs=onednn")
    assert placed(lib) == steps
    assert any(refusal.endswith(f"_onednn.cpu: {reason}") for refusal in refusals(lib))


@needs_onednn
def test_refused_by_the_library() -> None:
    column = conv() + var("r", 9, 1)  # only the reference implementation takes it
    lib = check(fw.erf(column), "onednn", ["onednn.conv2d", "kernel"], against_cpu=False)
    assert any("only the slow reference implementation (ref" in refusal for refusal in refusals(lib))
    lib = check(fw.clip(conv(), 1.0, -1.0), "onednn", ["onednn.conv2d", "kernel"], against_cpu=False)
    assert any("dnnl_post_ops_append_eltwise: invalid arguments" in refusal for refusal in refusals(lib))


@needs_onednn
def test_without_post_ops() -> None:
    check(batch(conv()), "onednn -postops=0", ["onednn.conv2d", "kernel"], ["weight"], against_cpu=False)
    alone = check(fw.nn.relu(dense()), "onednn -postops=0", ["onednn.dense", "kernel"], against_cpu=False)
    assert taken(alone) == [("nn.dense",)] and refusals(alone) == []


def prepared(lib: fw.CompiledModule) -> list[Description]:
    """What oneDNN was asked for, step by step."""
    known, found = lib.program.constants, []
    for step in lib.program.leaf_steps():
        rule = LIBRARY.rule(str(step.function.attrs["Composite"]))
        assert rule is not None
        constants = {k: known[slot] for k, slot in enumerate(step.inputs) if slot in known}
        call: Any = rule.implement(Region(step.function, constants, 1))
        found.append(call.primitive.description)
    return found


@needs_onednn
def test_known_scales_and_shifts_go_into_weights_and_bias() -> None:
    function = function_of(fw.nn.relu(batch(fw.nn.bias_add(conv(), var("b", 16))) / const(3.0) + residual()))
    values = values_for(function)
    scales = {name: values[name] for name in "stb"}
    relu, third, add = Eltwise("relu"), Eltwise("linear", 1 / 3), Binary("add", (2, 16, 9, 7))
    for known, post_ops, bias in (
        (scales, (relu, third, add, relu), True),
        ({"s": values["s"], "t": values["t"]}, 7, False),  # the bias comes first, and is not known
        ({"b": values["b"], "s": values["s"]}, 5, True),
        ({**scales, "s": values["s"] * np.float32(np.inf)}, 6, True),  # only the bias
    ):
        lib = fw.build(function, "cpu -libs=onednn", params={"weight": values["weight"], **known})
        (description,) = prepared(lib)
        assert description.bias == bias
        assert post_ops in (description.post_ops, len(description.post_ops))
    (description,) = prepared(fw.build(function, "cpu -libs=onednn", params=scales))
    assert not description.bias and len(description.post_ops) == 7  # the weights are not known


@needs_onednn
def test_runs_on_other_arrays_and_on_the_same_again() -> None:
    function = function_of(fw.nn.relu(conv(6) + var("r", 2, 6, 9, 7)))
    values = values_for(function)
    weight = values.pop("weight")
    lib = fw.build(function, "cpu -libs=onednn", params={"weight": weight})
    assert placed(lib) == ["onednn.conv2d"]
    module = fw.GraphModule(lib["default"](fw.cpu()))
    for seed in range(3):  # copied into the module's own arrays: the same at each run
        given = {name: uniform(seed, value.shape) for name, value in values.items()}
        module.run(**given)
        compare([module.get_output(0).numpy()], fw.testing.evaluate(function, given | {"weight": weight}))
    for seed in range(3):  # the caller's arrays, each time others, then changed in place
        given = {name: uniform(seed + 7, value.shape) for name, value in values.items()}
        for name, value in given.items():
            module.set_input_zero_copy(name, value)
        for _ in range(2):
            module.run()
            compare([module.get_output(0).numpy()], fw.testing.evaluate(function, given | {"weight": weight}))
            for value in given.values():
                value += 1


@needs_onednn
def test_saved_and_loaded(tmp_path: Path) -> None:
    x: Any = var("data", 1, 16, 8, 8)
    for k in range(2):
        x = fw.nn.relu(fw.nn.conv2d(x, var(f"w{k}", 16, 16, 3, 3), padding=1) * var(f"s{k}", 16, 1, 1))
    function = function_of(x)
    values = values_for(function)
    data = values.pop("data")
    lib = fw.build(function, "cpu -libs=onednn", params=values)
    lib.save(tmp_path / "net.fw")
    again = fw.load(tmp_path / "net.fw")
    assert placed(again) == placed(lib) and placed(lib).count("onednn.conv2d") == 2
    compare([again(data=data)], [lib(data=data)], 0)


@needs_onednn
def test_equal_descriptions_share_what_was_compiled() -> None:
    x, weights = var("x", 2, 6, 8, 8), [fw.const(uniform(seed, (6, 6, 3, 3))) for seed in range(3)]
    for w in weights:
        x = fw.nn.relu(fw.nn.conv2d(x, w, padding=1))  # type: ignore[assignment]
    lib = fw.build(function_of(x), "cpu -libs=onednn")
    assert placed(lib) == ["onednn.conv2d"] * 3
    before = len(Kernel._alive)
    modules = [fw.GraphModule(lib["default"](fw.cpu())) for _ in range(2)]
    assert len(Kernel._alive) == before + 1
    assert len(modules) == 2


OPERANDS = {"add": fw.add, "multiply": fw.multiply, "subtract": fw.subtract, "maximum": fw.maximum}
SHAPES = [(2, 6, 7, 5), (6, 1, 1), (1, 6, 1, 1), (1, 1, 1), ()]


@needs_onednn
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_random_chains(data: st.DataObject) -> None:
    x: Any = conv2d((2, 4, 7, 5), (6, 4, 3, 3), padding=1)
    for k in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from([*OPERANDS, *ACTIVATIONS]))
        if kind in OPERANDS:
            x = OPERANDS[kind](x, var(f"v{k}", *data.draw(st.sampled_from(SHAPES))))
        else:
            x = ACTIVATIONS[kind](fw.tanh(x) if "exp" in kind else x)
    function = function_of(x)
    values = values_for(function)
    inputs = {name: value for name, value in values.items() if name != "weight"}
    lib = fw.build(function, "cpu -libs=onednn", params={"weight": values["weight"]})
    assert placed(lib)[0] == "onednn.conv2d"
    compare([lib(**inputs)], fw.testing.evaluate(function, values), 2e-5)
