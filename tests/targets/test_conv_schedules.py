"""The schedules of conv2d in blocked layouts: numbers against float64, and which schedule is taken when."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.fuse.graph import tensor_type
from fusewire.ops.layout import Layout
from fusewire.targets import implement
from fusewire.targets.schedules.cook_toom import Filter, linear_program, paired_program, winograd
from fusewire.targets.schedules.winograd_plan import plan

Array = npt.NDArray[Any]
DIRECT, DEPTHWISE = "conv2d_nchwc.cpu", "conv2d_depthwise_nchwc.cpu"
WINOGRAD = {m: f"conv2d_winograd{m}_nchwc.cpu" for m in (2, 3, 4)}
ROWS = "conv2d_winograd_rows_nchw.cpu"
PAIRS = "conv2d_winograd_pairs_nchw.cpu"


def layout(block: int) -> str:
    return f"NCHW{block}c" if block > 1 else "NCHW"


def blocked_conv(data: tuple[int, ...], weight: tuple[int, ...], blocks: tuple[int, int], **attrs: Any) -> fw.Function:
    """relu(conv2d(data) + shift), data of plain shape `data` stored in blocks, result in blocks."""
    rng = np.random.default_rng(0)
    stored = Layout.parse(layout(blocks[0])).pack_shape(dict(zip("NCHW", data, strict=True)))
    x = fw.var("x", shape=stored)
    w = fw.const((rng.standard_normal(weight) / np.sqrt(np.prod(weight[1:]))).astype(np.float32))
    conv = fw.nn.conv2d(x, w, data_layout=layout(blocks[0]), out_layout=layout(blocks[1]), **attrs)
    block = blocks[1]
    shape = (weight[0], 1, 1) if block == 1 else (weight[0] // block, 1, 1, block)
    shift = fw.const(rng.standard_normal(shape).astype(np.float32))
    return fw.Function([x], fw.nn.relu(conv + shift))


def check(function: fw.Function, target: str = "cpu -num-cores=2") -> str:
    """Compare with the operators' references in float64; returns who computed the convolution."""
    rng = np.random.default_rng(1)
    (param,) = function.params
    x = rng.standard_normal(tensor_type(param).static_shape).astype(np.float32)
    lib = fw.build(function, target)
    (want,) = fw.testing.evaluate(function, {"x": x.astype(np.float64)})
    got = lib(x=x)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    (choice,) = lib.explain("nn.conv2d").choices
    return choice.chosen


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Leave one implementation of conv2d in the table."""
    table = [entry for entry in implement.TABLE if entry.ops is None or "nn.conv2d" not in entry.ops]
    table += [entry for entry in implement.TABLE if entry.name == name]
    monkeypatch.setattr(implement, "TABLE", tuple(table))


@pytest.mark.parametrize(
    ("data", "weight", "blocks", "attrs"),
    [
        ((1, 32, 9, 7), (48, 32, 1, 1), (16, 16), {}),
        ((2, 16, 5, 11), (24, 16, 1, 1), (16, 8), {}),
        ((1, 3, 15, 14), (32, 3, 3, 3), (1, 16), {"strides": 2, "padding": 1}),
        ((1, 24, 9, 9), (16, 24, 3, 3), (8, 16), {"strides": (2, 1), "padding": (0, 1, 2, 1)}),
        ((1, 32, 9, 8), (64, 16, 3, 3), (16, 16), {"groups": 2, "padding": 1}),
        ((1, 16, 12, 12), (16, 16, 5, 3), (16, 16), {"dilation": 2, "padding": (4, 2)}),
        ((1, 32, 6, 6), (40, 32, 3, 3), (16, 1), {"padding": 1}),
        ((1, 8, 6, 6), (8, 8, 3, 3), (8, 8), {"padding": 4}),
        ((1, 8, 6, 6), (6, 4, 1, 1), (4, 2), {"groups": 2}),  # blocks of the result lie across groups
    ],
)
def test_direct(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    blocks: tuple[int, int],
    attrs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, DIRECT)
    assert check(blocked_conv(data, weight, blocks, **attrs)) == DIRECT


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(
    ("data", "channels", "blocks", "padding", "target"),
    [
        ((1, 16, 8, 8), 32, (16, 16), 1, "cpu -num-cores=2"),
        ((1, 32, 7, 13), 24, (16, 8), 1, "cpu -num-cores=3"),
        ((3, 16, 5, 6), 48, (16, 16), 0, "cpu -num-cores=2"),
        ((1, 16, 9, 9), 16, (8, 16), (2, 0, 1, 1), "cpu -num-cores=1"),
        ((1, 16, 40, 36), 16, (16, 16), 1, "cpu -num-cores=2"),
        ((1, 8, 10, 10), 16, (8, 8), 1, "cpu -mcpu=x86-64-v3 -num-cores=2"),
    ],
)
def test_winograd(
    m: int,
    data: tuple[int, ...],
    channels: int,
    blocks: tuple[int, int],
    padding: Any,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, WINOGRAD[m])
    function = blocked_conv(data, (channels, data[1], 3, 3), blocks, padding=padding)
    assert check(function, target) == WINOGRAD[m]


@pytest.mark.parametrize(
    ("m", "data", "channels", "window", "blocks", "attrs", "target"),
    [
        (4, (1, 32, 17, 23), 32, 3, (16, 16), {"strides": 2, "padding": 1}, "cpu -num-cores=2"),
        (3, (2, 16, 14, 11), 24, 3, (16, 8), {"strides": 2, "padding": (0, 1, 2, 1)}, "cpu -num-cores=3"),
        (2, (1, 8, 13, 13), 16, 3, (8, 8), {"strides": 2, "padding": 1}, "cpu -mcpu=x86-64-v3 -num-cores=2"),
        (2, (1, 16, 9, 10), 16, 5, (16, 16), {"padding": 2}, "cpu -num-cores=2"),
        (3, (1, 16, 12, 12), 16, 4, (16, 16), {"strides": 2, "padding": 1}, "cpu -num-cores=2"),  # no tap is missing
        (2, (1, 16, 16, 16), 16, 5, (16, 16), {"strides": 3, "padding": 2}, "cpu -num-cores=2"),
        (4, (1, 3, 45, 39), 32, 7, (1, 16), {"strides": 2, "padding": 3}, "cpu -num-cores=2"),
        (3, (2, 3, 20, 18), 16, 3, (1, 16), {"padding": 1}, "cpu -num-cores=2"),
        (4, (1, 5, 11, 22), 8, 3, (1, 8), {"strides": 2}, "cpu -mcpu=x86-64-v3 -num-cores=1"),
    ],
)
def test_winograd_by_phases(
    m: int,
    data: tuple[int, ...],
    channels: int,
    window: int,
    blocks: tuple[int, int],
    attrs: dict[str, Any],
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strides, windows other than 3, and a plain input."""
    only(monkeypatch, WINOGRAD[m])
    function = blocked_conv(data, (channels, data[1], window, window), blocks, **attrs)
    assert check(function, target) == WINOGRAD[m]


@pytest.mark.parametrize(
    ("name", "data", "weight", "padding"),
    [
        (ROWS, (1, 3, 21, 37), (20, 3, 3, 3), 1),
        (ROWS, (2, 4, 9, 16), (6, 4, 3, 5), (0, 2)),
        (ROWS, (1, 1, 18, 33), (8, 1, 2, 3), 0),
        (ROWS, (1, 3, 20, 40), (5, 3, 3, 3), (2, 0, 1, 3)),
        (ROWS, (1, 2, 5, 40), (3, 2, 3, 3), 4),  # whole bands of rows outside of the picture
        (PAIRS, (1, 3, 20, 64), (16, 3, 3, 3), 1),
        (PAIRS, (2, 3, 21, 49), (20, 3, 3, 3), 1),  # an odd width, and a strip of every size
        (PAIRS, (1, 2, 9, 54), (7, 2, 3, 3), (0, 2, 1, 1)),  # the last strip begins before the one in front ends
        (PAIRS, (1, 8, 6, 33), (5, 8, 3, 3), (2, 0, 1, 3)),
        (PAIRS, (1, 1, 18, 39), (1, 1, 2, 3), 0),
        (PAIRS, (1, 2, 5, 40), (3, 2, 4, 3), 4),  # whole bands of rows outside of the picture
    ],
)
@pytest.mark.parametrize("target", ["cpu -num-cores=2", "cpu -mcpu=x86-64-v3"])
def test_winograd_in_plain_layouts(
    name: str,
    data: tuple[int, ...],
    weight: tuple[int, ...],
    padding: Any,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, name)
    assert check(blocked_conv(data, weight, (1, 1), padding=padding), target) == name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pairs_take_part_in_what_stands_around(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer in front, a residual behind, and one whose elements lie across the lanes."""
    only(monkeypatch, PAIRS)
    rng = np.random.default_rng(0)
    x, y, z = fw.var("x", shape=(1, 3, 10, 44), dtype=dtype), fw.var("y", shape=(1, 6, 10, 44), dtype=dtype), None
    z = fw.var("z", shape=(44, 10, 6, 1), dtype=dtype)
    w = fw.const(rng.standard_normal((6, 3, 3, 3)).astype(dtype))
    net = fw.nn.relu(fw.nn.conv2d(x * fw.const(2.0, dtype), w, padding=1) + y) - fw.transpose(z)
    function = fw.Function([x, y, z], net)
    values = {p.name_hint: rng.standard_normal(tensor_type(p).static_shape).astype(dtype) for p in function.params}
    lib = fw.build(function, "cpu -num-cores=2")
    (want,) = fw.testing.evaluate(function, {k: v.astype(np.float64) for k, v in values.items()})
    error = np.abs(lib(**values) - want).max() / np.abs(want).max()
    assert error <= {"float32": 1e-6, "float64": 1e-14}[dtype]
    assert PAIRS in [choice.chosen for choice in lib.explain("nn.conv2d").choices]


def test_pairs_refuse_an_epilogue_of_wider_types() -> None:
    x, w = fw.var("x", shape=(1, 3, 12, 48)), fw.const(np.ones((4, 3, 3, 3), np.float32))
    net = fw.cast(fw.nn.conv2d(x, w, padding=1), "float64") * fw.const(2.0, "float64")
    lib = fw.build(fw.Function([x], net), "cpu -num-cores=1")
    value = np.random.default_rng(0).standard_normal((1, 3, 12, 48)).astype(np.float32)
    (want,) = fw.testing.evaluate(fw.Function([x], net), {"x": value})
    assert np.abs(lib(x=value) - want).max() <= 1e-5 * np.abs(want).max()
    (choice,) = lib.explain("nn.conv2d").choices
    (refusal,) = [c.refusal for c in choice.candidates if c.name == PAIRS]
    assert refusal == "the operators behind it compute in wider types"


def test_a_stride_leaves_few_products() -> None:
    """3x3 with stride 2: 81 products for a 4x4 tile instead of 144 (winograd_plan.py); 7x7: 169 instead of 784."""
    assert [plan(4, 3, 2, 1).rows, plan(4, 3, 1, 1).rows, plan(4, 7, 2, 1).rows] == [81, 36, 169]


@pytest.mark.parametrize(
    ("size", "channels", "window", "attrs"),
    [
        ((9, 12), 32, (3, 3), {"padding": 1}),
        ((9, 13), 16, (3, 3), {"padding": 1, "strides": 2}),
        ((11, 7), 24, (5, 5), {"padding": 2}),
        ((6, 6), 16, (7, 3), {"padding": (3, 1), "strides": (1, 2)}),
        ((12, 12), 16, (3, 3), {"dilation": 2}),
        ((1, 1), 16, (3, 3), {"padding": 1}),
        ((5, 40), 16, (1, 1), {}),
        ((4, 4), 16, (3, 3), {"padding": 5}),
        ((4, 61), 16, (3, 3), {"padding": 1}),
        ((5, 61), 16, (3, 3), {"padding": 1, "strides": 2}),
        ((6, 47), 16, (3, 5), {"padding": (2, 7), "dilation": (2, 3)}),
    ],
)
def test_depthwise(size: tuple[int, int], channels: int, window: tuple[int, int], attrs: dict[str, Any]) -> None:
    block = 16 if channels % 16 == 0 else 8
    function = blocked_conv((2, channels, *size), (channels, 1, *window), (block, block), groups=channels, **attrs)
    assert check(function) == DEPTHWISE


@pytest.mark.parametrize(
    ("data", "weight", "attrs"),
    [
        ((1, 1, 200), (32, 1, 16), {"strides": 8}),
        ((2, 48, 33), (20, 48, 1), {}),
        ((1, 16, 40), (16, 1, 3), {"groups": 16, "dilation": 4, "padding": 4}),
        ((1, 24, 17), (24, 12, 5), {"groups": 2, "padding": (1, 3)}),
    ],
)
def test_one_dimension(data: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, w = fw.var("x", shape=data), fw.const(rng.standard_normal(weight).astype(np.float32))
    function = fw.Function([x], fw.nn.relu(fw.nn.conv1d(x, w, **attrs) + fw.const(1.0)))
    lib = fw.build(function, "cpu -num-cores=2")
    value = rng.standard_normal(data).astype(np.float32)
    (want,) = fw.testing.evaluate(function, {"x": value})
    assert np.abs(lib(x=value) - want).max() <= 1e-5 * np.abs(want).max()
    (choice,) = lib.explain("nn.conv1d").choices
    assert choice.chosen == "conv2d_nchw.cpu"


def test_the_cost_model_chooses() -> None:
    def chosen(channels: int, side: int, **attrs: Any) -> str:
        window = attrs.pop("window", 3)
        function = blocked_conv(
            (1, channels, side, side), (channels, channels, window, window), (16, 16), padding=window // 2, **attrs
        )
        (choice,) = fw.build(function, "cpu -mcpu=x86-64-v4 -num-cores=2").explain("nn.conv2d").choices
        return choice.chosen

    assert chosen(64, 56) == WINOGRAD[4]
    assert chosen(512, 7) == WINOGRAD[2]  # four large tiles, and weights that come from memory
    assert chosen(64, 56, strides=2) == WINOGRAD[4]
    assert chosen(512, 14, strides=2) == DIRECT
    assert chosen(64, 56, window=1) == DIRECT


def test_few_channels_in_plain_layout() -> None:
    """Pairs of columns want many registers, and strips that fill their vectors."""

    def chosen(channels: int, width: int, level: int, **attrs: Any) -> str:
        function = blocked_conv((1, channels, 60, width), (32, channels, 3, 3), (1, 1), padding=1, **attrs)
        (choice,) = fw.build(function, f"cpu -mcpu=x86-64-v{level} -num-cores=1").explain("nn.conv2d").choices
        return choice.chosen

    assert chosen(3, 64, 4) == PAIRS
    assert chosen(8, 60, 4) == ROWS
    assert chosen(3, 64, 3) == ROWS
    assert chosen(3, 64, 4, strides=2) == "conv2d_nchw.cpu"


def test_a_weight_that_is_not_known_rules_winograd_out() -> None:
    x, w = fw.var("x", shape=(1, 1, 8, 8, 16)), fw.var("w", shape=(16, 16, 3, 3))
    net = fw.nn.conv2d(x, w, padding=1, data_layout="NCHW16c")
    (choice,) = fw.build(fw.Function([x, w], net)).explain("nn.conv2d").choices
    assert choice.chosen == DIRECT
    refusals = {c.name: c.refusal for c in choice.candidates}
    assert refusals[WINOGRAD[4]] == "the weight is not known at build time"
    assert refusals[DEPTHWISE] == "not depthwise: a group has more than one channel"


@pytest.mark.parametrize("size", [(1, 16), (16, 1)])
def test_a_result_of_one_row_is_no_case_for_winograd(size: tuple[int, int]) -> None:
    """What is broadcast behind it would read row 0 for all rows of a tile."""
    x = fw.var("x", shape=(1, 24, *size))
    rng = np.random.default_rng(3)
    weights = [fw.const(rng.standard_normal((24, 24, 3, 3)).astype(np.float32)) for _ in range(2)]
    first = fw.nn.conv2d(x, weights[0], padding=1)
    function = fw.Function([x], fw.nn.relu(first + fw.nn.conv2d(first, weights[1], padding=1)))
    value = rng.standard_normal((1, 24, *size)).astype(np.float32)
    (want,) = fw.testing.evaluate(function, {"x": value})
    assert np.abs(fw.build(function)(x=value) - want).max() <= 1e-5 * np.abs(want).max()


def test_blocks_across_groups_are_refused() -> None:
    """Also with the weight in the form (input channels, multiplier, window)."""
    for data, weight, groups in (((1, 8, 5, 5), (8, 4, 3, 3), 2), ((1, 4, 5, 5), (4, 2, 1, 1), 4)):
        block = data[1]
        function = blocked_conv(data, weight, (block, weight[0]), groups=groups) if groups == 2 else None
        if function is None:
            x, w = fw.var("x", shape=(1, 1, 5, 5, 4)), fw.const(np.ones(weight, np.float32))
            function = fw.Function([x], fw.nn.conv2d(x, w, groups=4, data_layout="NCHW4c", out_layout="NCHW8c"))
        assert check(function) == "loops.cpu"
        (choice,) = fw.build(function).explain("nn.conv2d").choices
        refusal = next(c.refusal for c in choice.candidates if c.name == DIRECT)
        assert refusal is not None and "across groups" in refusal


@pytest.mark.parametrize(("m", "r"), [(2, 2), (4, 2), (2, 3), (3, 3), (4, 3), (3, 4), (4, 4), (2, 5)])
def test_matrices_are_exact(m: int, r: int) -> None:
    for f in (winograd(m, r), winograd(m, r).finite()):
        exact(f, np.random.default_rng(m))


def exact(f: Filter, rng: np.random.Generator) -> None:
    """The algorithm gives what the definition gives, in exact numbers; so do the programs that share halves."""
    m = f.m
    d, g = rng.integers(-9, 9, f.n).tolist(), rng.integers(-9, 9, f.r).tolist()

    def times(matrix: Any, vector: Any) -> list[Any]:
        return [sum(c * v for c, v in zip(row, vector, strict=True)) for row in matrix]

    products = [a * b for a, b in zip(times(f.g, g), times(f.bt, d), strict=True)]
    assert times(f.at, products) == [sum(g[k] * d[j + k] for k in range(f.r)) for j in range(m)]
    for program, matrix in ((linear_program(f.bt), f.bt), (paired_program(f.at), f.at)):
        values = [*(d if len(matrix[0]) == len(d) else d[: len(matrix[0])])]
        steps, rows = program
        for step in steps:
            values.append(sum(c * values[source] for source, c in step.terms))
        assert [values[row] for row in rows] == times(matrix, d)


def test_sharing_halves_saves_multiplications() -> None:
    steps, _ = linear_program(winograd(4).bt)
    factors = [c for step in steps for _, c in step.terms]
    assert sum(abs(c) != 1 for c in factors) < sum(abs(c) not in (0, 1) for row in winograd(4).bt for c in row)
