"""Kernels from the cache: nothing is scheduled again, and constants are packed as the schedule would have it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.loops import Kernel
from fusewire.targets import implement
from fusewire.targets.cpuinfo import isa_for
from fusewire.targets.generate import Kernels, no_decision
from fusewire.targets.implement import entries
from fusewire.targets.implementation import Implementation
from fusewire.targets.lower import Problem, make_problem
from fusewire.targets.program import KernelStep, make_program
from fusewire.targets.schedules.space import Config
from fusewire.targets.schedules.tiles import Packed
from fusewire.targets.target import Target

RNG = np.random.default_rng(0)


def weight(*shape: int) -> fw.Expr:
    return fw.const(RNG.standard_normal(shape).astype(np.float32))


def conv(data: tuple[int, ...], shape: tuple[int, ...], layout: str = "NCHW16c", **attrs: Any) -> fw.Expr:
    return fw.nn.conv2d(fw.var("x", shape=data), weight(*shape), padding=1, data_layout=layout, **attrs)


NETS: dict[str, Callable[[], fw.Expr]] = {
    "plain": lambda: conv((1, 3, 20, 36), (8, 3, 3, 3), "NCHW"),
    "blocked": lambda: conv((1, 2, 9, 9, 16), (32, 32, 3, 3)),
    "depthwise": lambda: conv((1, 2, 9, 9, 16), (32, 1, 3, 3), groups=32),
    "volume": lambda: fw.nn.conv3d(fw.var("x", shape=(1, 4, 3, 9, 9)), weight(6, 4, 2, 3, 3)),
    "transposed": lambda: fw.nn.conv2d_transpose(fw.var("x", shape=(1, 4, 9, 9)), weight(4, 6, 3, 3), strides=2),
    "dense": lambda: fw.nn.dense(fw.var("x", shape=(5, 40)), weight(20, 40)),
}
ISA = isa_for(Target("cpu -mcpu=x86-64-v4"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "cache"))


def problem_of(net: fw.Expr) -> tuple[Problem, dict[int, Any]]:
    program = make_program(fw.build(fw.Function(fw.analysis.free_vars(net), net), "cpu").fused_mod["main"])
    (step,) = [s for s in program.leaf_steps() if isinstance(s, KernelStep)]
    known = {k: program.constants[slot] for k, slot in enumerate(step.inputs) if slot in program.constants}
    return make_problem(step.function, "KERNEL", ISA, 2, set(known)), known


@pytest.mark.parametrize("name", NETS)
def test_packing_without_a_schedule_is_that_of_the_schedule(name: str) -> None:
    problem, known = problem_of(NETS[name]())
    compared = 0
    for entry in entries(problem):
        if entry.pack is None or entry.check(problem) is not None:
            continue
        for config in [*entry.configs(problem)][:3]:
            scheduled, packed = entry.schedule(problem, config)[1], entry.pack(problem, config)
            assert packed.keys() == scheduled.keys() and packed
            for position, pack in packed.items():
                assert np.array_equal(pack(known[position]), scheduled[position](known[position]))
                compared += 1
    assert compared or name == "transposed"


@pytest.mark.parametrize("name", NETS)
def test_a_kernel_from_the_cache_is_not_scheduled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETS[name]()
    function, x = fw.Function(fw.analysis.free_vars(net), net), {}
    for param in function.params:
        x[param.name_hint] = RNG.standard_normal(param.checked_type.static_shape).astype(np.float32)  # type: ignore[attr-defined]
    first = fw.build(function, "cpu")
    want = first(**x)
    calls: list[str] = []

    def counted(entry: Implementation) -> Implementation:
        def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
            calls.append(entry.name)
            return entry.schedule(problem, config)

        schedule.__module__, schedule.__qualname__ = entry.schedule.__module__, entry.schedule.__qualname__
        return Implementation(
            entry.name, entry.ops, entry.priority, entry.check, schedule, entry.predict, entry.configs, entry.pack
        )

    monkeypatch.setattr(implement, "TABLE", tuple(map(counted, implement.TABLE)))
    again = fw.build(function, "cpu")
    assert again.code.files == first.code.files and np.array_equal(again(**x), want)
    assert calls == (["conv2d_transpose.cpu"] if name == "transposed" else [])  # which has no packing apart
    name = again.program.leaf_steps()[0].name
    assert "p0[" in again.get_source(name, "loops") and len(calls) == 1  # its loops are written when asked for


def test_a_kernel_that_reads_nothing_packed_needs_no_schedule_either() -> None:
    x = fw.var("x", shape=(4, 5))
    function = fw.Function([x], fw.nn.softmax(x + fw.const(1.0)))
    program = make_program(fw.build(function, "cpu").fused_mod["main"])

    def never(kernel: Kernel, group: int) -> Any:
        raise AssertionError("it was in the cache")

    kernels = Kernels(program, isa_for(Target("cpu")), fw.build(function, "cpu").threads, no_decision, never)
    assert kernels.of(program.leaf_steps()[0]).packed == {}  # type: ignore[arg-type]
