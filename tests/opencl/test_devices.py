"""Finding devices, choosing one, testing it; and what is said where there is none."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.opencl import devices, selftest
from fusewire.targets.opencl.devices import OpenclDevice, find, select
from tests.opencl.present import DEVICES, each_device, needs_device


def device(index: int, name: str, kind: str, platform: str = "Some Platform") -> OpenclDevice:
    return OpenclDevice(index, name, platform, kind, "OpenCL 3.0", "1.2", 2, 64, 128, True, (), None)


KNOWN = (device(0, "Big GPU", "gpu", "Vendor"), device(1, "Little CPU", "cpu"), device(2, "Other CPU", "cpu"))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "all_devices", lambda: KNOWN)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [(None, [0, 1, 2]), ("2", [2]), ("cpu", [1, 2]), ("GPU", [0]), ("vendor", [0]), ("little", [1]), ("7", []),
     ("nothing", [])],
)  # fmt: skip
def test_what_a_target_means(wanted: str | None, numbers: list[int]) -> None:
    assert [d.index for d in select(wanted, KNOWN)] == numbers


def test_the_number_counts_among_those(known: None) -> None:
    assert find().index == 0 and find("cpu", 1).index == 2
    with pytest.raises(fw.DeviceNotFound, match=r"-device=cpu means 2 devices, and number 2 .*1: Little CPU \(cpu"):
        find("cpu", 2)
    with pytest.raises(fw.DeviceNotFound, match="-device=nope is not there; there are 0: Big GPU"):
        find("nope")


def test_no_device_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "all_devices", tuple)
    with pytest.raises(fw.DeviceNotFound, match=r"pip install 'fusewire\[opencl\]'"):
        find()


def test_without_pyopencl_there_are_sources_and_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == "pyopencl":
            raise ImportError("No module named 'pyopencl'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    devices.pyopencl.cache_clear()
    devices.all_devices.cache_clear()
    try:
        lib = fw.build(fw.nn.relu(fw.var("x", shape=(3, 5))), "opencl")
        assert "__kernel" in lib.get_source(kind="opencl") and "out" in lib.get_source(kind="loops")
        with pytest.raises(fw.DeviceNotFound, match=r"pyopencl.*pip install 'fusewire\[opencl\]'"):
            lib["default"](fw.device("opencl"))
        with pytest.raises(fw.DeviceNotFound):
            lib(x=np.zeros((3, 5), np.float32))
    finally:
        devices.pyopencl.cache_clear()
        devices.all_devices.cache_clear()


def test_drivers_of_the_system_stay_beside_intels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, folder = tmp_path / "vendors", tmp_path / "ours"
    system.mkdir()
    folder.mkdir()
    (system / "pocl.icd").write_text("libpocl.so.2\n")
    monkeypatch.setattr(devices, "SYSTEM", str(system))
    devices._fill(folder, Path("/somewhere/libintelocl.so"))
    assert {p.name: p.read_text().strip() for p in folder.iterdir()} == {
        "pocl.icd": "libpocl.so.2",
        "fusewire-intel.icd": "/somewhere/libintelocl.so",
    }
    (system / "intel.icd").write_text("/opt/libintelocl.so\n")
    second = tmp_path / "second"
    second.mkdir()
    devices._fill(second, Path("/somewhere/libintelocl.so"))
    assert {p.name for p in second.iterdir()} == {"pocl.icd", "intel.icd"}


@needs_device
def test_looking_leaves_the_environment_alone() -> None:
    assert devices.VENDORS not in os.environ
    assert [d.index for d in devices.all_devices()] == list(range(len(devices.all_devices())))


@each_device
def test_a_wrong_device_is_refused(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that is off by a little more than the tolerance stands for a device that computes wrongly."""
    number = DEVICES[0].index
    assert selftest.run(devices.all_devices()[number]).problem is None
    monkeypatch.setattr(selftest, "evaluate", lambda *given: [r + 1e-3 for r in fw.testing.evaluate(*given)])
    problem = selftest.run(devices.all_devices()[number]).problem
    assert problem is not None and "is wrong by 0.001" in problem
    monkeypatch.setattr(selftest, "tested", lambda index: selftest.SelfTest(problem, 1.0))
    lib = fw.build(fw.nn.relu(fw.var("x", shape=(3, 5))), target)
    with pytest.raises(fw.FusewireError, match=r"failed the self-test and is not used: a result .* wrong by"):
        lib["default"](fw.device("opencl"))
