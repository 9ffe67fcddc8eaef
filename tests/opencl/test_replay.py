"""Launches that are recorded once and replayed, and what happens where that cannot be."""

from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.errors import DeviceError
from fusewire.targets.opencl import queue as queues
from fusewire.targets.opencl import replay
from fusewire.targets.opencl.devices import OpenclDevice, find
from fusewire.targets.target import Target
from tests.opencl.present import each_device

SHAPE = (8, 24)


def two_steps() -> fw.Expr:
    """Two launches at least: a softmax is never part of what comes before it here."""
    x = fw.var("x", shape=SHAPE)
    return fw.nn.softmax(fw.cumsum(x, axis=1))


def expected(x: Any) -> Any:
    sums = np.exp(np.cumsum(x.astype(np.float64), axis=1))
    return sums / sums.sum(axis=1, keepdims=True)


def module_for(target: str) -> fw.GraphModule:
    return fw.GraphModule(fw.build(two_steps(), target)["default"](fw.device("opencl")))


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with recordings from now on."""
    calls: list[str] = []

    class Counted(replay.Recording):
        def __attrs_post_init__(self) -> None:
            calls.append("record")
            super().__attrs_post_init__()

        def __call__(self) -> None:
            calls.append("replay")
            super().__call__()

    monkeypatch.setattr(queues, "Recording", Counted)
    return calls


def needs_extension(target: str) -> OpenclDevice:
    device = find(Target(target).device)
    if not replay.available(device):
        pytest.skip(f"{device} has no {replay.EXTENSION}")
    return device


@each_device
def test_the_second_run_is_recorded_and_later_ones_replay_it(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_extension(target)
    calls = count_calls(monkeypatch)
    module, rng = module_for(target), np.random.default_rng(0)
    for _ in range(4):
        x = rng.uniform(-1, 1, SHAPE).astype(np.float32)
        module.run(x=x)
        np.testing.assert_allclose(module.get_output(0).numpy(), expected(x), rtol=1e-5)
    assert calls == ["record", "replay", "replay", "replay"]


@each_device
def test_another_input_is_recorded_anew(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording holds the memory that its kernels had."""
    needs_extension(target)
    array = pytest.importorskip("pyopencl.array")
    calls, module = count_calls(monkeypatch), module_for(target)
    queue = module._engine.device.queue  # type: ignore[attr-defined]
    rng = np.random.default_rng(1)
    for _ in range(2):
        x = rng.uniform(-1, 1, SHAPE).astype(np.float32)
        module.set_input_zero_copy("x", array.to_device(queue, x))
        for _ in range(3):
            module.run()
            np.testing.assert_allclose(module.get_output(0).numpy(), expected(x), rtol=1e-5)
    assert calls == ["record", "replay", "replay"] * 2


@each_device
def test_without_the_extension_launches_go_one_by_one(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "available", lambda device: False)
    calls, module = count_calls(monkeypatch), module_for(target)
    x = np.random.default_rng(2).uniform(-1, 1, SHAPE).astype(np.float32)
    for _ in range(3):
        module.run(x=x)
    np.testing.assert_allclose(module.get_output(0).numpy(), expected(x), rtol=1e-5)
    assert calls == []


@each_device
@pytest.mark.parametrize("name", ["clCommandNDRangeKernelKHR", "clEnqueueCommandBufferKHR"])
def test_what_the_driver_refuses_is_told_with_the_kernel(
    target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = needs_extension(target)
    real = replay.functions(device.raw.platform.int_ptr) or {}
    monkeypatch.setattr(replay, "functions", lambda platform: {**real, name: lambda *args: -5})
    module = module_for(target)
    x = np.zeros(SHAPE, np.float32)
    module.run(x=x)
    with pytest.raises(DeviceError, match=r"kernels? fusewire_default_\w+.*OUT_OF_RESOURCES"):
        module.run(x=x)
    monkeypatch.undo()
    fresh = module_for(target)
    fresh.run(x=x)
    fresh.run(x=x)
    np.testing.assert_allclose(fresh.get_output(0).numpy(), expected(x), rtol=1e-5)
