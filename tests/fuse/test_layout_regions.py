"""Regions of libraries among blocked layouts."""

import math

import pytest

import fusewire as fw
from fusewire.fuse.chain import Chain
from fusewire.fuse.graph import walk
from fusewire.fuse.library import Library, Rule
from fusewire.fuse.partition import partition_for_libraries
from fusewire.fuse.postops import ADD, BIAS, MULTIPLY, RELU
from fusewire.fuse.transform import AlterLayout, InferType
from tests.contrib.offload import check, placed, var
from tests.contrib.onednn_cases import needs_onednn

CONV = Chain("nn.conv2d", [[MULTIPLY], [ADD, BIAS], [ADD], [RELU]])


def library(agrees: bool | None) -> Library:
    """A library of convolutions that knows blocks, refuses them, or has never heard of them."""

    def implement(region: object) -> None:
        raise AssertionError

    def blocked(region: fw.Function) -> str | None:
        return None if agrees else "no blocks here"

    rule = Rule("lib.conv2d", CONV, implement=implement, blocked=None if agrees is None else blocked)  # type: ignore[arg-type]
    return Library("lib", ("cpu",), [rule], probe=lambda: None)


def layer(x: fw.Expr, name: str, channels: int, addend: fw.Expr | None = None, groups: int = 1) -> fw.Expr:
    type_ = x.checked_type
    assert isinstance(type_, fw.TensorType)
    weight = var(f"w{name}", channels, type_.static_shape[1] // groups, 3, 3)
    x = fw.nn.conv2d(x, weight, padding=(1, 1), groups=groups)
    x = fw.nn.bias_add(x * var(f"s{name}", channels, 1, 1), var(f"b{name}", channels))
    return fw.nn.relu(x if addend is None else x + addend)


def calls(body: fw.Expr, agrees: bool | None, vector_bytes: int = 64) -> list[str]:
    """The calls of the graph after the pass: layout_transform, others, and regions with their data and result."""
    library_ = library(agrees)
    mod = InferType()(fw.IRModule.from_expr(fw.Function(fw.analysis.free_vars(body), body)))
    mod, _ = partition_for_libraries(mod, [library_])
    after = AlterLayout(vector_bytes, [library_])(InferType()(mod))
    found: list[str] = []

    for node in walk(after["main"]):
        if isinstance(node, fw.Call) and isinstance(node.op, fw.Function):
            ranks = [
                len(t.shape) for t in (node.args[0].checked_type, node.checked_type) if isinstance(t, fw.TensorType)
            ]
            found.append("lib " + " to ".join({4: "plain", 5: "blocks"}[rank] for rank in ranks))
        elif isinstance(node, fw.Call) and str(node.op) not in ("reshape", "expand_dims"):
            found.append(str(node.op))
    return found


X = var("x", 1, 16, 12, 12)
TWO = layer(layer(X, "1", 32), "2", 16)
BLOCKED = ["lib blocks to blocks", "lib blocks to blocks"]


def test_two_in_a_row() -> None:
    assert calls(TWO, True) == ["layout_transform", *BLOCKED, "layout_transform"]
    assert calls(TWO, True, 32) == ["layout_transform", *BLOCKED, "layout_transform"]
    assert calls(TWO, True, 0) == calls(TWO, False) == calls(TWO, None) == ["lib plain to plain"] * 2


def test_one_alone_gains_nothing() -> None:
    assert calls(layer(X, "1", 32), True) == ["lib plain to plain"]


def test_image_first_and_addends() -> None:
    first = layer(var("x", 1, 3, 12, 12), "1", 16)
    body = layer(layer(first, "2", 16), "3", 16, first)
    assert calls(body, True) == ["lib plain to blocks", *BLOCKED, "layout_transform"]


def test_generated_operators_between() -> None:
    body = layer(fw.exp(fw.nn.max_pool2d(layer(X, "1", 32), 2, 2)), "2", 16)
    assert calls(body, True) == ["layout_transform", BLOCKED[0], "nn.max_pool2d", "exp", BLOCKED[1], "layout_transform"]


@pytest.mark.parametrize("channels", [24, 20, 6])
def test_channels_that_do_not_fill_blocks(channels: int) -> None:
    found = calls(layer(layer(X, "1", 16), "2", channels, var("r", 1, channels, 12, 12)), True)
    assert ("lib blocks to blocks" in found) == (channels == 24)  # blocks of 8


@needs_onednn
@pytest.mark.parametrize("channels", [16, 24, 48])
def test_through_onednn(channels: int) -> None:
    y = layer(var("x", 2, 3, 9, 9), "1", 32)
    z = layer(layer(y, "2", channels), "3", 32, y)
    z = fw.nn.avg_pool2d(z, 2, 2)
    body = layer(z, "4", 32, groups=32)
    names = [v.name_hint for v in fw.analysis.free_vars(body) if v.name_hint != "x"]
    between = ["kernel"] if channels == 24 else []  # from blocks of 16 to blocks of 8, which the addend must have, too
    steps = [
        "onednn.conv2d",
        "onednn.conv2d",
        *between,
        "onednn.conv2d",
        "onednn.avg_pool2d",
        "onednn.conv2d",
        "kernel",
    ]
    lib = check(body, "onednn", steps, names)
    functions = [step.function for step in lib.program.leaf_steps()]
    shapes = [f.body.checked_type.static_shape for f in functions if isinstance(f.body.checked_type, fw.TensorType)]
    assert {len(shape) for shape in shapes[:-1]} == {5} and shapes[-1] == (2, 32, 4, 4)
    assert shapes[1][-1] == (8 if channels == 24 else 16) and math.prod(shapes[1]) == 2 * channels * 81


@needs_onednn
def test_weights_that_are_not_known() -> None:
    lib = check(TWO, "onednn", ["kernel", "onednn.conv2d", "onednn.conv2d", "kernel"], ["s1", "b1", "s2", "b2"])
    assert placed(lib).count("onednn.conv2d") == 2
