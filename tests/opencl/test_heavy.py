"""The level "heavy" explores every variant of the tables: counted against them, on a bench whose times are made up."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from attrs import define, field, frozen

import fusewire as fw
from fusewire.ir.expr import Function
from fusewire.targets import implement
from fusewire.targets.lower import make_problem
from fusewire.targets.program import KernelStep
from fusewire.targets.runnable import Runnable
from fusewire.targets.schedules.gpu import table
from fusewire.targets.schedules.space import GROUP, Config
from fusewire.targets.target import Target
from fusewire.targets.tuning import judge, tune
from fusewire.targets.tuning.bench import MakeBench, constants_of
from fusewire.targets.tuning.search import Option, Trial
from tests.opencl.present import DEVICES, needs_device

Array = npt.NDArray[Any]

REFERENCE = "loops"
Variant = tuple[str, tuple[tuple[str, int], ...]]


def network() -> tuple[fw.IRModule, dict[str, fw.NDArray]]:
    """Three convolutions of different tables: 3x3, depthwise, and 1x1 with many channels at few places."""
    net: fw.Expr = fw.var("data", shape=(1, 16, 8, 8))
    net = fw.nn.relu(fw.nn.conv2d(net, fw.var("w1"), kernel_size=(3, 3), channels=32, padding=(1, 1)))
    net = fw.nn.relu(fw.nn.conv2d(net, fw.var("w2"), kernel_size=(3, 3), channels=32, groups=32))
    net = fw.nn.conv2d(net, fw.var("w3"), kernel_size=(1, 1), channels=16)
    return fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))


def variant(name: str, config: Config) -> Variant:
    return name.rpartition(".")[0], tuple(sorted((knob, n) for knob, n in config.items() if knob != GROUP))


def by_the_tables(lib: fw.CompiledModule) -> dict[str, set[Variant]]:
    """For each step all rows of both tables that are for its operator and fit it, with all of their configs."""
    found: dict[str, set[Variant]] = {}
    for step in lib.program.leaf_steps():
        assert isinstance(step, KernelStep)
        constants = tuple(constants_of(lib.program, step))
        problem = make_problem(step.function, "KERNEL", lib.runnable.code.isa, lib.threads, constants)
        operator = implement.operator_name(step.function)
        rows = [row for row in (*table.TABLE, *implement.TABLE) if row.ops is None or operator in row.ops]
        fitting = [row for row in rows if row.check(problem) is None]
        found[step.name] = {variant(row.name, config) for row in fitting for config in row.configs(problem)}
    return found


@frozen
class Slower:
    """A candidate; the later it was made, the slower it is, so that all but the first few are far behind."""

    number: int

    def seconds(self) -> float:
        return float(self.number)


@define
class Counting:
    """Makes nothing, and counts."""

    options: Sequence[Option]
    made: list[Option] = field(factory=list)

    def make(self, options: Sequence[Option]) -> Sequence[Trial | str]:
        start = len(self.made) + 1
        self.made += options
        return [Slower(start + k) for k in range(len(options))]

    def resized(self, option: Option) -> Sequence[Option]:
        return [Option(option.implementation, {**option.config, GROUP: 2})]


@needs_device
def test_heavy_tries_every_row_and_config_of_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benches: list[Counting] = []

    @contextlib.contextmanager
    def counting(lib: Runnable, where: Target) -> Iterator[MakeBench]:
        def make(function: Function, constants: Mapping[int, Array], options: Sequence[Option]) -> Counting:
            benches.append(Counting(options))
            return benches[-1]

        yield make

    monkeypatch.setattr(tune, "BENCHES", {"opencl": counting})
    monkeypatch.setattr(judge, "compare", lambda one, other: (1.0, 1.0))
    mod, params = network()
    target = f"opencl -device={DEVICES[0].index}"
    lib = fw.build(mod, target, params)
    found = fw.tune(mod, target, params, level="heavy", records=tmp_path / "r.jsonl")
    expected = by_the_tables(lib)
    assert {name for group in found.groups for name in group.steps} == set(expected)
    for group in found.groups:
        assert group.outcome is not None
        tried = [variant(t.implementation, t.config) for t in group.outcome.timings if GROUP not in t.config]
        assert len(tried) == len(set(tried))
        reference = {v for v in expected[group.steps[0]] if v[0] == REFERENCE}  # what the others are compared with
        assert set(tried) | reference == expected[group.steps[0]]
        assert any(GROUP in t.config for t in group.outcome.timings)
    everything = set[Variant]().union(*expected.values())
    assert {block.name for block in table.GENERAL_BLOCKS} <= {name.removeprefix("conv2d_") for name, _ in everything}
    assert len(everything) > 300 and sum(len(bench.made) for bench in benches) > 300
