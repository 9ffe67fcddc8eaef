"""Convolutions and products through local memory on GPUs: what is taken where, and what the sources have in them."""

import re
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.errors import VerifyError
from fusewire.ir.loops import Builder, Kernel, Store
from fusewire.ir.scalar import Buffer, apply
from fusewire.targets.cpuinfo import DeviceProfile, Isa
from fusewire.targets.implement import choose, entries, finish
from fusewire.targets.launched.code import LaunchCode, LaunchStep
from fusewire.targets.launches import plan_launches
from fusewire.targets.lower import Problem, make_problem
from fusewire.targets.rewrite import walk
from fusewire.targets.schedules.gpu.gemm_local import tile_of
from fusewire.targets.schedules.gpu.roofline import Work, resident, time

RNG = np.random.default_rng(5)
LOCAL = ("conv2d_local", "conv2d_depthwise_local", "conv2d_gemm_local", "conv2d_gemm_mma", "gemm_local", "gemm_mma")


def tutorial(layout: str = "NCHW") -> tuple[Any, Any]:
    """The network of the first tutorial: a convolution, batch normalisation and an activation."""
    plain = layout == "NCHW"
    data = fw.var("data", shape=(1, 3, 224, 224) if plain else (1, 224, 224, 3))
    kernel = "OIHW" if plain else "HWIO"
    net = fw.nn.conv2d(
        data,
        fw.var("weight"),
        kernel_size=(3, 3),
        channels=16,
        padding=(1, 1),
        data_layout=layout,
        kernel_layout=kernel,
    )
    gamma, beta, mean, var = (fw.var(name) for name in ("gamma", "beta", "mean", "var"))
    net = fw.nn.relu(fw.nn.batch_norm(net, gamma, beta, mean, var, axis=1 if plain else 3)[0])
    return fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_tutorial_is_one_kernel_with_staging_and_one_store(layout: str) -> None:
    mod, params = tutorial(layout)
    lib = fw.build(mod, "cuda -arch=sm_80", params=params)
    name = "fusewire_default_fused_nn_conv2d_multiply_add_nn_relu"
    assert set(lib.function_metadata) - {"__fusewire_main__"} == {name}
    (step,) = steps_of(lib)
    assert step.implementation == "conv2d_local.cuda" and len(step.calls) == 1
    source = lib.get_source(name)
    assert source.count("__shared__") == 2 and source.count("__syncthreads();") == 1
    assert len(re.findall(r"fw_copy<4>\(&data0|fw_copy<16>\(&weights0", source)) == 2
    assert len(re.findall(r"\bout\[", source)) == 1  # and no access of it but this
    assert "fw_maxc" in source[source.index("&out" if "&out" in source else "out[") :]


def steps_of(lib: fw.CompiledModule) -> list[LaunchStep]:
    assert isinstance(lib.runnable.code, LaunchCode)
    return [*lib.runnable.code.steps.values()]


def conv2d(n: int, ci: int, size: int, co: int, window: int, groups: int = 1, stride: int = 1) -> Any:
    data = fw.var("data", shape=(n, ci, size, size))
    weight = fw.const(RNG.uniform(-1, 1, (co, ci // groups, window, window)).astype(np.float32))
    pad = (window // 2, window // 2)
    return fw.nn.conv2d(
        data, weight, kernel_size=(window, window), channels=co, padding=pad, groups=groups, strides=(stride, stride)
    )


def taken(net: Any, target: str) -> str:
    lib = fw.build(fw.Function(fw.analysis.free_vars(net), net), target)
    names = [s.implementation for s in steps_of(lib) if not s.implementation.startswith("maps")]
    name = names[0] if names else ""
    assert len(names) < 2
    return str(name).rpartition(".")[0]


@pytest.mark.parametrize("kind", ["cuda -arch=sm_80", "rocm -arch=gfx90a"])
def test_what_is_taken_in_float32(kind: str) -> None:
    assert taken(conv2d(1, 3, 224, 16, 3), kind) == "conv2d_local"
    assert taken(conv2d(1, 64, 56, 256, 1), kind) == "conv2d_gemm_local"
    assert taken(conv2d(1, 256, 14, 256, 3), kind) == "conv2d_gemm_local"
    assert taken(conv2d(1, 96, 112, 96, 3, groups=96), kind) == "conv2d_depthwise_local"
    assert taken(channels_last(96, 112, 96, 3, groups=96), kind) == "conv2d_depthwise_last"
    x, w = fw.var("x", shape=(512, 512)), fw.var("w", shape=(512, 512))
    assert taken(fw.nn.dense(x, w), kind) == "gemm_local"


def channels_last(ci: int, size: int, co: int, window: int, groups: int = 1) -> Any:
    data = fw.var("data", shape=(1, size, size, ci))
    weight = fw.const(RNG.uniform(-1, 1, (window, window, ci // groups, co)).astype(np.float32))
    return fw.nn.conv2d(
        data, weight, kernel_size=(window, window), channels=co, padding=(window // 2, window // 2), groups=groups,
        data_layout="NHWC", kernel_layout="HWIO",
    )  # fmt: skip


@pytest.mark.parametrize("size", [24, 56, 224])
def test_a_convolution_is_no_stream(size: int) -> None:
    """What an element of the result reads others read, too: going through it once for each is slow."""
    for net in (conv2d(1, 3, size, 16, 3), channels_last(3, size, 16, 3), channels_last(64, size // 4, 64, 3)):
        assert taken(net, "cuda -arch=sm_80").startswith("conv2d_")


@pytest.mark.parametrize("kind", ["cuda -arch=sm_80", "rocm -arch=gfx90a"])
def test_few_rows_are_summed_by_warps(kind: str) -> None:
    """GPT-2's step: each weight is read once, and what the items of a warp have is exchanged."""
    x, w, v = fw.var("x", shape=(1, 768)), fw.var("w", shape=(2304, 768)), fw.var("v", shape=(768, 3072))
    assert taken(fw.nn.relu(fw.nn.dense(x, w)), kind) == "gemm_few_rows"
    assert taken(fw.nn.matmul(x, v), kind) == "gemm_few_rows"
    assert taken(fw.nn.dense(x, fw.var("u", shape=(50257, 768))), kind) == "gemm_few_rows"
    assert taken(fw.nn.dense(fw.var("x", shape=(8, 768)), w), kind) == "gemm_few_rows"
    assert taken(fw.nn.dense(fw.var("x", shape=(64, 768)), w), kind) == "gemm_local"
    assert taken(conv2d(1, 512, 1, 1000, 1), kind) == "conv2d_few_rows"
    net = fw.nn.relu(fw.nn.dense(x, w))
    lib = fw.build(fw.Function(fw.analysis.free_vars(net), net), kind)
    (step,) = steps_of(lib)
    body = step.source[step.source.index('extern "C"') :]
    assert "fw_item_xor16_f32(" in body and "barrier" not in body and "__syncthreads" not in body
    if kind.startswith("cuda"):
        assert body.count("fw_load<v4f32, 16>(") == 2


@pytest.mark.parametrize("kind", ["cuda -arch=sm_80", "rocm -arch=gfx90a"])
def test_pooling(kind: str) -> None:
    first, last = fw.var("x", shape=(1, 64, 112, 112)), fw.var("x", shape=(1, 112, 112, 64))
    for pool in (fw.nn.max_pool2d, fw.nn.avg_pool2d):
        for data, layout in ((first, "NCHW"), (last, "NHWC")):
            net = pool(data, (3, 3), (2, 2), padding=(1, 1), layout=layout)
            assert taken(net, kind) == "windows_items"
    assert taken(fw.nn.max_pool2d(first, (2, 2), (2, 2)), kind) == ""  # windows that do not overlap are a map
    assert taken(fw.nn.global_avg_pool2d(fw.var("x", shape=(1, 2048, 7, 7))), kind) == "rows_once"
    wide = fw.nn.global_avg_pool2d(fw.var("x", shape=(1, 7, 7, 2048)), layout="NHWC")
    assert taken(wide, kind) == "columns_once"


def test_depthwise_windows_in_local_memory() -> None:
    """Half of the space goes through local memory, and is proven like the rest."""
    data, weight = fw.var("data", shape=(1, 30, 30, 24)), fw.var("weight", shape=(5, 5, 1, 24))
    net = fw.nn.conv2d(
        data, weight, kernel_size=(5, 5), channels=24, padding=(2, 2), groups=24, data_layout="NHWC",
        kernel_layout="HWIO",
    )  # fmt: skip
    problem = problem_of(net, gpu())
    (entry,) = [e for e in entries(problem) if e.name == "conv2d_depthwise_last.cpu"]
    configs = list(entry.configs(problem))
    assert {config["staged"] for config in configs} == {0, 1}
    for config in configs[:: len(configs) - 1]:
        assert plan_launches(finish(entry.schedule(problem, config)[0], 16)).launches[-1].group >= 32


def test_an_element_of_a_picture_is_read_once_for_a_block() -> None:
    net = fw.nn.max_pool2d(fw.var("x", shape=(1, 112, 112, 64)), (3, 3), (2, 2), padding=(1, 1), layout="NHWC")
    problem = problem_of(net, gpu())
    (entry,) = [e for e in entries(problem) if e.name == "windows_items.cpu"]
    kernel, _ = entry.schedule(problem, {"rows": 1, "columns": 2, "local": 128})
    loads = [s for s in walk(finish(kernel, 16).body) if isinstance(s, Store) and s.buffer.name.startswith("x")]
    assert len(loads) == 3 * 5 and all(s.value.lanes == 4 for s in loads)


def test_tensor_cores_are_for_targets_that_allow_them() -> None:
    net = conv2d(1, 256, 14, 256, 3)
    for precision in ("tf32", "fp16", "bf16"):
        assert taken(net, f"cuda -arch=sm_80 -precision={precision}") == "conv2d_gemm_mma"
    assert taken(net, "cuda -arch=sm_75 -precision=fp16") == "conv2d_gemm_mma"
    assert taken(net, "cuda -arch=sm_75 -precision=tf32") != "conv2d_gemm_mma"
    assert taken(net, "rocm -arch=gfx90a -precision=fp16") != "conv2d_gemm_mma"
    assert taken(net, "cuda -arch=sm_80") != "conv2d_gemm_mma"


def test_why_tensor_cores_are_refused() -> None:
    net = conv2d(1, 256, 14, 256, 3)
    lib = fw.build(fw.Function(fw.analysis.free_vars(net), net), "rocm -arch=gfx90a")
    (step,) = steps_of(lib)
    (found,) = [c for c in step.candidates if c.name == "conv2d_gemm_mma.rocm"]
    assert found.refusal is not None and "-precision=" in found.refusal


def test_copies_and_products_of_matrices_are_in_the_text_of_cuda_alone() -> None:
    net = conv2d(1, 256, 14, 256, 3)
    function = fw.Function(fw.analysis.free_vars(net), net)
    cuda = fw.build(function, "cuda -arch=sm_80 -precision=tf32").get_source()
    assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in cuda and "cp.async.wait_all" in cuda
    hip = fw.build(function, "rocm -arch=gfx90a").get_source()
    assert "fw_copy" not in hip and "mma" not in hip and "__builtin_amdgcn_s_barrier" in hip


def gpu(*matrix: str) -> Isa:
    return Isa("cuda", 16, 32, (), ("f16c",), DeviceProfile("gpu", 48 << 10, 256, 32, matrix=matrix, plain=True))


def problem_of(net: Any, isa: Isa) -> Problem:
    return make_problem(fw.Function(fw.analysis.free_vars(net), net), "KERNEL", isa, 1)


SHAPES = [
    (2, 24, 7, 20, 3, 1, 1), (1, 8, 1, 12, 1, 1, 1), (3, 6, 9, 64, 5, 1, 2), (1, 32, 17, 32, 3, 2, 1),
    (1, 17, 28, 17, 3, 17, 2), (2, 64, 5, 33, 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_of_odd_shapes_are_proven(shape: tuple[int, ...]) -> None:
    """In bounds, and no two items meet: the first and the last config of all that fit."""
    n, ci, size, co, window, groups, stride = shape
    data, weight = fw.var("data", shape=(n, ci, size, size)), fw.var("weight", shape=(co, ci // groups, window, window))
    net = fw.nn.conv2d(
        data, weight, kernel_size=(window, window), channels=co, padding=(window // 2, window // 2), groups=groups,
        strides=(stride, stride),
    )  # fmt: skip
    problem = problem_of(net, gpu("float32"))
    fitting = [e for e in entries(problem) if e.name[:-4] in LOCAL and e.check(problem) is None]
    assert fitting or (ci, size) == (8, 1)
    for entry in fitting:
        configs = list(entry.configs(problem))
        for config in (configs[0], configs[-1]):
            kernel, _ = entry.schedule(problem, config)
            assert plan_launches(finish(kernel, 16)).launches[-1].group > 0


def test_configs_come_by_cost_and_the_first_is_what_is_taken() -> None:
    x, w = fw.var("x", shape=(64, 4096)), fw.var("w", shape=(128, 4096))
    problem = problem_of(fw.nn.dense(x, w), gpu())
    chosen, candidates = choose(problem)
    assert chosen.entry.name == "gemm_local.cpu" and chosen.config["split"] > 1  # few tiles, long sums
    assert chosen.entry.predict is not None
    costs = [chosen.entry.predict(problem, config) for config in chosen.entry.configs(problem)]
    assert costs == sorted(costs) and len(costs) > 4
    assert min(c.predicted for c in candidates if c.predicted is not None and c.priority == 20) == costs[0]


def test_a_small_device_gets_small_tiles() -> None:
    small = Isa("opencl-gpu", 16, 32, (), (), DeviceProfile("gpu", local_bytes=8192, max_group=64))
    x, w = fw.var("x", shape=(256, 256)), fw.var("w", shape=(256, 256))
    problem = problem_of(fw.nn.dense(x, w), small)
    (entry,) = [e for e in entries(problem) if e.name == "gemm_local.cpu"]
    tiles = [(tile_of(config, ""), config["stages"]) for config in entry.configs(problem)]
    assert tiles and all(t.items <= 64 and t.nbytes("float32") * stages <= 8192 for t, stages in tiles)


def test_groups_of_a_unit_are_limited_by_each_resource() -> None:
    many = 960 * 20
    assert resident(Work(many, 32, 1.0)) == 16 and resident(Work(many, 512, 1.0)) == 3
    assert resident(Work(many, 256, 1.0, registers=80)) == 3
    assert resident(Work(many, 256, 1.0, registers=82)) == 2  # they are given by eights
    assert resident(Work(many, 64, 1.0, local_bytes=20 << 10)) == 4 and resident(Work(100, 64, 1.0)) == 2
    assert resident(Work(many, 512, 1.0, registers=168)) == 1  # the compiler keeps what there is no room for in memory
    cheap, dear = (time(Work(many, 512, 1.0, registers=n)) for n in (128, 168))
    assert dear == pytest.approx(cheap * 168 / 128)


def test_the_roofline() -> None:
    compute = Work(groups=960, items=256, sums=1000.0)
    assert time(compute) == 960 * 256 * 1000.0
    assert time(Work(groups=960, items=256, sums=10.0, far_bytes=1e9)) == 2.5e9
    assert time(Work(groups=193, items=256, sums=1000.0)) == pytest.approx(288 * 256 * 1000.0)  # two rounds, and one
    alone = time(Work(groups=960, items=32, sums=1000.0, local_bytes=96 << 10))  # one group on a unit, not ten
    assert alone == pytest.approx(10 * time(Work(groups=960, items=32, sums=1000.0)))


def test_a_branch_that_leaves_one_remainder_settles_it() -> None:
    """`item % 8 < 1` means that items differ by their quotient: the verifier takes it, and nothing weaker."""
    for limit, fine in ((1, True), (2, False)):
        out, b = Buffer("out", (8,), "float32"), Builder()
        with b.loop("g", 1, "workgroup"), b.loop("item", 64, "workitem") as item, b.when(apply("lt", item % 8, limit)):
            b.store(out, (item // 8,), 1.0)
        kernel = Kernel("k", (), (out,), b.finish())
        if fine:
            finish(kernel, 16)
        else:
            with pytest.raises(VerifyError, match="may meet in out"):
                finish(kernel, 16)
