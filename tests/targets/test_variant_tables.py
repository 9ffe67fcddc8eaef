"""The tables of variants for work-groups, without a device: what fits what, what is preferred where, and a text."""

from collections.abc import Callable
from typing import Any

import pytest

import fusewire as fw
from fusewire.targets.cpuinfo import DeviceProfile, Isa
from fusewire.targets.csource import Emitter
from fusewire.targets.implement import Chosen, choose, entries, finish
from fusewire.targets.implementation import Implementation
from fusewire.targets.launches import plan_launches
from fusewire.targets.lower import Problem, make_problem
from fusewire.targets.opencl.dialect import OPENCL
from fusewire.targets.prelude import Prelude
from fusewire.targets.schedules.gpu.table import GENERAL_BLOCKS, ON_GPU, POINTWISE_BLOCKS, TABLE, TILES
from fusewire.targets.schedules.space import Config

CPU = Isa("sse", 16, 16, ())
GPU = Isa("opencl-gpu", 16, 32, (), (), DeviceProfile("gpu"))
NEAR = Isa("opencl16", 16, 16, (), (), DeviceProfile())
VARIANTS = {entry.name for entry in TABLE}


def problem_of(net: Any, isa: Isa = GPU) -> Problem:
    """A network as one group; its weights are inputs."""
    return make_problem(fw.Function(fw.analysis.free_vars(net), net), "KERNEL", isa, 1)


def conv2d(shape: tuple[int, ...], out: int, window: int, pad: int = 0, groups: int = 1, isa: Isa = GPU) -> Problem:
    data = fw.var("data", shape=shape)
    weight = fw.var("weight", shape=(out, shape[1] // groups, window, window))
    net = fw.nn.conv2d(
        data, weight, kernel_size=(window, window), channels=out, padding=(pad, pad), groups=groups
    )  # fmt: skip
    return problem_of(net, isa)


def dense(m: int, n: int, k: int, isa: Isa = GPU) -> Problem:
    return problem_of(fw.nn.dense(fw.var("x", shape=(m, k)), fw.var("w", shape=(n, k))), isa)


def named(name: str) -> Implementation:
    (entry,) = [entry for entry in TABLE if entry.name == f"{name}.cpu"]
    return entry


def fitting(problem: Problem) -> set[str]:
    return {e.name.removesuffix(".cpu") for e in entries(problem) if e.name in VARIANTS and e.check(problem) is None}


def chosen(problem: Problem) -> str:
    return choose(problem)[0].entry.name.removesuffix(".cpu")


def test_the_blocks_of_mnn() -> None:
    assert [b.name for b in GENERAL_BLOCKS] == ["c4h1w1", "c4h1w2", "c4h4w1", "c4h1w4", "c8h2w1", "c8h4w1", "c8h1w4"]
    assert [b.name for b in POINTWISE_BLOCKS] == [
        f"1x1_{n}" for n in ("c4h1w4", "c4h1w2", "c4h1w1", "c8h1w4", "c8h1w2")
    ]


def test_tiles_fit_common_devices() -> None:
    assert all(tile.items <= 256 and tile.nbytes(4) <= 32768 for tile in TILES)
    assert all(tile.item_columns % 4 == 0 and tile.rows % tile.item_rows == 0 for tile in TILES)


def test_a_gpu_prefers_variants_and_a_cpu_does_not_have_them() -> None:
    for near, gpu, cpu in (
        [conv2d((1, 16, 32, 32), 32, 3, 1, isa=isa) for isa in (NEAR, GPU, CPU)],
        [dense(64, 64, 64, isa) for isa in (NEAR, GPU, CPU)],
    ):
        assert f"{chosen(gpu)}.cpu" in VARIANTS
        assert f"{chosen(near)}.cpu" not in VARIANTS and fitting(near)
        assert not {e.name for e in entries(cpu)} & VARIANTS
    assert {e.priority for e in entries(dense(8, 8, 8)) if e.name in VARIANTS} == {ON_GPU}


def test_windows_of_1x1_have_a_table_of_their_own() -> None:
    blocks = {b.name for b in GENERAL_BLOCKS}, {b.name for b in POINTWISE_BLOCKS}
    found = [
        {n.removeprefix("conv2d_") for n in fitting(conv2d((1, 8, 9, 9), 16, window, pad))}
        for window, pad in ((3, 1), (1, 0), (1, 1))
    ]
    assert [(f & blocks[0], f & blocks[1]) for f in found] == [
        (blocks[0], set()),
        (set(), blocks[1]),
        (blocks[0], set()),
    ]


@pytest.mark.parametrize(
    "channels, out, size, fits", [(128, 16, 2, True), (128, 17, 2, False), (127, 16, 2, False), (256, 64, 1, True)]
)
def test_when_groups_sum_a_convolution(channels: int, out: int, size: int, fits: bool) -> None:
    assert ("conv2d_1x1_local" in fitting(conv2d((1, channels, size, size), out, 1))) is fits


@pytest.mark.parametrize("channels, local", [(128, 32), (512, 128), (1000, 128), (1030, 256), (4096, 256)])
def test_the_local_size_is_the_largest_power_of_two_up_to_a_quarter_of_the_channels(channels: int, local: int) -> None:
    (first, *_) = named("conv2d_1x1_local").configs(conv2d((1, channels, 1, 1), 16, 1))
    assert first == {"local": local}


def test_when_a_convolution_becomes_a_product() -> None:
    def products(problem: Problem) -> bool:
        return any(name.removeprefix("conv2d_gemm_")[:1].isdigit() for name in fitting(problem))

    assert products(conv2d((1, 32, 16, 16), 32, 3, 1))
    assert not products(conv2d((1, 32, 4, 4), 32, 3, 1))  # too little work
    assert not products(conv2d((1, 1, 200, 200), 16, 3, 1))  # 9 terms
    assert not products(conv2d((1, 512, 32, 32), 8, 3, 1))  # 8 channels


def test_local_memory_and_group_size_of_the_device_limit_tiles() -> None:
    small = Isa("opencl-gpu", 16, 32, (), (), DeviceProfile("gpu", local_bytes=8192, max_group=64))
    assert {n for n in fitting(dense(64, 64, 64, small)) if n.startswith("gemm_")} == {
        "gemm_16x32x32_2x4",
        "gemm_local",
    }
    configs = named("conv2d_c4h1w1").configs(conv2d((1, 4, 9, 9), 8, 3, isa=small))
    assert {config["local"] for config in configs} == {16, 32, 64}


def test_channels_are_split_over_more_launches_the_more_items_there_are() -> None:
    entry = named("conv2d_c4h1w1")
    splits = [next(iter(entry.configs(conv2d((1, 4, n, n), 32, 3, 1))))["split"] for n in (16, 256, 300, 600)]
    assert splits == [1, 2, 4, 8]


def test_a_launch_for_each_part_of_the_channels() -> None:
    problem = conv2d((1, 4, 8, 8), 32, 3, 1)
    for split in (1, 2, 8):
        kernel, _ = named("conv2d_c4h1w2").schedule(problem, {"local": 64, "split": split, "border": 0})
        launches = plan_launches(finish(kernel, 16)).launches
        assert len([x for x in launches if x.group == 64]) == split


def text_of(problem: Problem, entry: Implementation, config: Config) -> str:
    kernel, _ = Chosen(entry, config).schedule(problem)
    plan = plan_launches(finish(kernel, 16))
    emitter = Emitter(Prelude(OPENCL))
    buffers = [*plan.kernel.params, *plan.team]
    texts = [emitter.launch(f"k{n}", x, kernel.inputs, buffers).text for n, x in enumerate(plan.launches)]
    return emitter.prelude.text(texts) + "\n".join(texts)


@pytest.mark.parametrize("size, guards", [(8, False), (7, True)])
def test_guards_are_compiled_in_only_where_a_block_does_not_divide(size: int, guards: bool) -> None:
    problem = conv2d((1, 8, size + 2, size + 2), 8, 3)
    text = text_of(problem, named("conv2d_c8h4w1"), {"local": 16, "split": 1, "border": 0})
    body = text[text.rindex("fw_local_item = ") :]
    assert ("if (" in body) is guards


def test_golden(golden: Callable[[str, str], None]) -> None:
    conv = conv2d((1, 4, 6, 7), 8, 3, 1)
    golden("conv2d_c4h1w2.cl", text_of(conv, named("conv2d_c4h1w2"), {"local": 32, "split": 1, "border": 0}))
    golden("gemm_16x32x32.cl", text_of(dense(20, 36, 40), named("gemm_16x32x32_2x4"), {}))
