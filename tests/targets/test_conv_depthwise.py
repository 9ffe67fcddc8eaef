"""A convolution and the depthwise one behind it in one kernel: numbers against float64, and when there is one."""

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.graph import tensor_type
from fusewire.ir.loops import Alloc, For, Kernel
from fusewire.ops.layout import Layout
from fusewire.targets import implement
from fusewire.targets.compiled import CompiledModule
from fusewire.targets.lower import Problem
from fusewire.targets.schedules.space import Config
from fusewire.targets.schedules.tiles import Packed

JOINED = "conv2d_with_depthwise_nchwc.cpu"
ALWAYS = {"fusewire.FuseStages.min_bytes": 0}
CPU = "cpu -num-cores=2"
POINTWISE: dict[str, Any] = {}


def layout(block: int) -> str:
    return f"NCHW{block}c" if block > 1 else "NCHW"


def pair(
    data: tuple[int, ...],
    channels: int,
    blocks: tuple[int, int],
    window: tuple[int, int],
    second: dict[str, Any],
    first: dict[str, Any] = POINTWISE,
    size: int = 1,
    dtype: str = "float32",
    constant: bool = True,
) -> fw.Function:
    """Two convolutions, with scale, shift and clip behind each; `size` is the window's of the first one."""
    rng = np.random.default_rng(0)
    stored = Layout.parse(layout(blocks[0])).pack_shape(dict(zip("NCHW", data, strict=True)))
    x = fw.var("x", shape=stored, dtype=dtype)
    params, block = [x], blocks[1]

    def tensor(shape: tuple[int, ...], scale: float) -> fw.Expr:
        if constant:
            return fw.const((rng.standard_normal(shape) * scale).astype(dtype))
        params.append(fw.var(f"w{len(params)}", shape=shape, dtype=dtype))
        return params[-1]

    def finished(conv: fw.Expr) -> fw.Expr:
        each = (channels // block, 1, 1, block)
        return fw.clip(fw.add(fw.multiply(conv, tensor(each, 1.0)), tensor(each, 0.5)), -1.0, 2.0)

    weight = tensor((channels, data[1], size, size), 1 / np.sqrt(data[1] * size * size))
    layouts: dict[str, Any] = {"data_layout": layout(blocks[0]), "out_layout": layout(block)}
    net = finished(fw.nn.conv2d(x, weight, **layouts, **first))
    taps = tensor((channels, 1, *window), 1 / np.sqrt(window[0] * window[1]))
    net = finished(fw.nn.conv2d(net, taps, groups=channels, data_layout=layout(block), **second))
    return fw.Function(params, net)


def joined(function: fw.Function, target: str = CPU) -> CompiledModule:
    with fw.PassContext(config=ALWAYS):
        return fw.build(function, target)


def check(lib: CompiledModule, function: fw.Function) -> None:
    """Compare with the operators' references in float64."""
    rng = np.random.default_rng(1)
    types = {p.name_hint: tensor_type(p) for p in function.params}
    given = {n: rng.standard_normal(t.static_shape).astype(t.dtype) for n, t in types.items()}
    (want,) = fw.testing.evaluate(function, {n: a.astype(np.float64) for n, a in given.items()})
    got = lib(**given)
    assert got.shape == want.shape and np.ptp(want) > 1
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def chosen(lib: CompiledModule) -> list[str]:
    return [choice.chosen for choice in lib.explain("nn.conv2d").choices]


SAME = {"padding": 1}
CASES: list[tuple[Any, ...]] = [
    ((1, 16, 9, 11), 32, (16, 16), (3, 3), SAME),
    ((2, 16, 13, 30), 48, (16, 16), (3, 3), {"padding": 1, "strides": 2}),
    ((1, 8, 7, 5), 24, (8, 8), (3, 3), {"padding": (0, 0, 1, 1), "strides": 2}),  # channels that fill half of a vector
    ((1, 24, 10, 9), 32, (8, 16), (5, 5), {"padding": 2, "strides": (2, 1)}),
    ((1, 16, 2, 17), 16, (16, 16), (5, 3), {"padding": (2, 1)}),  # a window higher than the picture
    ((1, 16, 8, 8), 32, (16, 16), (2, 2), {"strides": 2}),  # no row is needed twice
    ((1, 16, 6, 7), 16, (16, 16), (1, 1), {}),
    ((1, 16, 1, 19), 32, (16, 16), (3, 3), SAME),  # one row
    ((1, 16, 1, 19), 32, (16, 16), (3, 3), {"padding": (2, 1)}),
    ((1, 16, 7, 7), 32, (16, 16), (7, 7), {}),  # and one pixel
    ((1, 3, 19, 18), 32, (1, 16), (3, 3), SAME, {"padding": 1, "strides": 2}, 3),  # the first layer of a network
    ((1, 16, 9, 9), 16, (16, 16), (3, 3), SAME, {"strides": 2}),
]


@pytest.mark.parametrize("case", CASES)
def test_numbers(case: tuple[Any, ...]) -> None:
    function = pair(*case)
    lib = joined(function)
    assert chosen(lib) == [JOINED] and len(lib.program.leaf_steps()) == 1
    check(lib, function)


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("cpu -num-cores=1", {}),
        ("cpu -num-cores=2 -mcpu=haswell", {}),  # blocks of two vectors, and tiles as well
        ("cpu -num-cores=2 -mcpu=haswell", {"block": 8}),  # tiles of two blocks
        ("cpu -num-cores=3", {"dtype": "float64", "block": 8}),
        ("cpu -num-cores=2 -precision=bfloat16", {}),
        (CPU, {"constant": False}),  # weights are packed in the kernel
    ],
)
def test_targets(target: str, changes: dict[str, Any]) -> None:
    block = changes.get("block", 16)
    rest = {name: value for name, value in changes.items() if name != "block"}
    function = pair((1, 16, 12, 13), 32, (block, block), (3, 3), {"padding": 1, "strides": 2}, **rest)
    lib = joined(function, target)
    assert chosen(lib) == [JOINED]
    if "precision" not in target:
        check(lib, function)
        return
    plain, x = fw.build(function, "cpu -num-cores=1"), np.random.default_rng(1).random((1, 1, 12, 13, 16), np.float32)
    assert 0 < np.abs(lib(x=x) - plain(x=x)).max() < 0.05


@pytest.mark.parametrize(
    "config",
    [{"rows": 1, "blocks": 2}, {"rows": 3, "points": 4, "columns": 5}, {"rows": 5, "points": 29, "columns": 2}],
)
def test_every_way_to_cut(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    own = next(entry for entry in implement.TABLE if entry.name == JOINED)
    space: list[Config] = []

    def configs(problem: Problem) -> list[Config]:
        space.extend(own.configs(problem))
        return [{**space[0], **config}]

    table = [attrs.evolve(entry, configs=configs) if entry is own else entry for entry in implement.TABLE]
    monkeypatch.setattr(implement, "TABLE", tuple(table))
    function = pair((1, 16, 17, 18), 32, (16, 16), (3, 3), {"padding": 1, "strides": 2})
    lib = joined(function)
    assert chosen(lib) == [JOINED] and space[0].keys() == {"rows", "blocks", "points", "columns"}
    check(lib, function)


def test_generic_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tuning compares with: the first result in memory of the kernel's own."""
    monkeypatch.setattr(implement, "TABLE", tuple(e for e in implement.TABLE if e.name != JOINED))
    function = pair((1, 16, 9, 8), 32, (16, 16), (3, 3), SAME)
    lib = joined(function)
    assert chosen(lib) == ["loops.cpu"] and len(lib.program.leaf_steps()) == 1
    check(lib, function)


def test_only_a_few_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own, kernels = next(entry for entry in implement.TABLE if entry.name == JOINED), []

    def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        kernel, packed = own.schedule(problem, config)
        kernels.append(kernel)
        return kernel, packed

    table = [attrs.evolve(entry, schedule=schedule) if entry is own else entry for entry in implement.TABLE]
    monkeypatch.setattr(implement, "TABLE", tuple(table))
    lib = joined(pair((1, 16, 20, 21), 32, (16, 16), (3, 3), SAME))
    assert chosen(lib) == [JOINED]
    (kernel,) = kernels
    (loop,) = kernel.body
    assert isinstance(loop, For) and loop.kind == "parallel" and isinstance(loop.body[0], Alloc)
    ring = loop.body[0].buffer
    assert (ring.shape, ring.scope) == ((1, 3, 21, 16), "thread")
    assert (
        kernel.notes[0] == "[1, 2, 20, 21, 16] between the convolutions is not stored: [1, 3, 21, 16] of it at a time"
    )
    assert lib.arena.size == 0  # beside input and result there is no tensor


def test_only_what_is_large_is_joined() -> None:
    small = fw.build(pair((1, 16, 64, 64), 48, (16, 16), (3, 3), SAME), CPU)
    large = fw.build(pair((1, 16, 64, 64), 64, (16, 16), (3, 3), SAME), CPU)
    assert chosen(small) == ["conv2d_nchwc.cpu", "conv2d_depthwise_nchwc.cpu"] and chosen(large) == [JOINED]
    (choice,) = large.explain("nn.conv2d").choices
    assert choice.between == 1 << 20 and all(c.between == 0 for c in small.explain().choices)
    assert "two groups with 1.05 MB between them" in str(large.explain())
    assert large.explain().to_dict()[0]["between"] == 1 << 20
    with fw.PassContext(config=ALWAYS, disabled_pass=["FuseStages"]):
        assert len(chosen(fw.build(pair((1, 16, 9, 9), 32, (16, 16), (3, 3), SAME), CPU))) == 2


@pytest.mark.parametrize(
    ("case", "target"),
    [
        (((1, 16, 9, 9), 32, (16, 16), (3, 3), SAME, {"padding": 1}, 3), CPU),  # Winograd is better
        (((1, 32, 9, 9), 32, (16, 16), (3, 3), {"padding": 2, "dilation": 2}), CPU),
        (((1, 16, 9, 9), 32, (16, 16), (2, 2), {"strides": 3}), CPU),  # rows between windows
        (((1, 16, 9, 9), 32, (16, 16), (3, 3), SAME), "opencl"),
        (((1, 16, 14, 14), 32, (16, 16), (3, 3), SAME), "cuda"),
    ],
)
def test_what_stays_apart(case: tuple[Any, ...], target: str) -> None:
    assert len(joined(pair(*case), target).program.leaf_steps()) == 2


def test_saved_and_loaded(tmp_path: Path) -> None:
    function = pair((1, 16, 9, 11), 32, (16, 16), (3, 3), SAME)
    lib = joined(function)
    lib.save(tmp_path / "pair.fw")
    loaded = fw.load(tmp_path / "pair.fw")
    assert chosen(loaded) == [JOINED] and loaded.explain().choices[0].between == 4 * 32 * 9 * 11
    check(loaded, function)


@pytest.mark.parametrize("stage", [0, 1])
def test_bisection_finds_the_operator(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that is wrong in the first or in the second convolution."""
    own = next(entry for entry in implement.TABLE if entry.name == JOINED)
    direct = next(entry for entry in implement.TABLE if entry.name == "conv2d_nchwc.cpu")

    def off(problem: Problem) -> Problem:
        right = problem.finish
        return attrs.evolve(problem, finish=lambda index, value: right(index, value + 0.25))

    def both(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        if stage == 0 and problem.before is not None:
            return own.schedule(attrs.evolve(problem, before=off(problem.before)), config)
        return own.schedule(off(problem), config)

    def first(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        return direct.schedule(off(problem) if stage == 0 else problem, config)

    changed = {own.name: both, direct.name: first}
    table = [attrs.evolve(e, schedule=changed.get(e.name, e.schedule)) for e in implement.TABLE]
    monkeypatch.setattr(implement, "TABLE", tuple(table))
    lib = joined(pair((1, 16, 9, 11), 32, (16, 16), (3, 3), SAME), "cpu -num-cores=1")
    x = np.random.default_rng(1).random((1, 1, 9, 11, 16), np.float32)
    (found,) = fw.testing.bisect_mismatch(lib, None, {"x": x}).mismatches
    assert found.op == "nn.conv2d" and ("groups=32" in found.call) == (stage == 1)
    assert found.ops == ("nn.conv2d", "multiply", "add", "clip") * 2
