"""Finding devices, choosing one, testing it; and what is said where there is none."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.targets.launched import selftest as shared
from fusewire.targets.opencl import devices, kernels, selftest
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


@pytest.mark.parametrize(
    ("target", "there", "expected"),
    [
        ("opencl", True, ("gpu", 65536, 64)),
        ("opencl -max_num_threads=32", True, ("gpu", 65536, 32)),
        ("opencl -device=cpu", True, ("cpu", 32768, 64)),
        ("opencl -device=gpu", False, ("gpu", 32768, 256)),
        ("opencl -device=nope -max_num_threads=128", True, ("cpu", 32768, 128)),
        ("opencl", False, ("cpu", 32768, 256)),
    ],
)
def test_schedules_write_for_the_device_that_is_there(
    target: str, there: bool, expected: tuple[str, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU has 64 KiB of its own for a group of 64; what CPUs call local is a part of all memory."""
    facts = (evolve(KNOWN[0], local_bytes=65536), *KNOWN[1:])
    monkeypatch.setattr(kernels, "all_devices", lambda: facts if there else ())
    profile = kernels.isa_for(fw.Target(target)).device
    assert profile is not None
    assert (profile.kind, profile.local_bytes, profile.max_group) == expected


def test_no_device_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "all_devices", tuple)
    for variable in (devices.VENDORS, devices.FILENAMES):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(fw.DeviceNotFound, match=r"no OpenCL device: install .* pip install 'fusewire\[opencl\]'$"):
        find()
    monkeypatch.setenv(devices.FILENAMES, str(tmp_path / "gone.so"))
    with pytest.raises(fw.DeviceNotFound, match=r"gone.so'\): unset OCL_ICD_FILENAMES; or install .* pip install"):
        find()
    monkeypatch.setenv(devices.VENDORS, str(tmp_path))
    expected = (
        r"device: OCL_ICD_VENDORS leads to none \(there is no .icd file in .*: unset OCL_ICD_VENDORS; OCL_ICD_FIL"
    )
    with pytest.raises(fw.DeviceNotFound, match=expected) as caught:
        find()
    assert "install" not in str(caught.value)


def test_a_device_that_the_users_own_variable_hides(
    known: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "intel_runtime", lambda: tmp_path / "libintelocl.so")
    monkeypatch.setenv(devices.VENDORS, str(tmp_path))
    with pytest.raises(fw.DeviceNotFound, match=r"Other CPU .*hides Intel's CPU runtime.*\(unset OCL_ICD_VENDORS\)$"):
        find("intel")
    monkeypatch.delenv(devices.VENDORS)
    with pytest.raises(fw.DeviceNotFound) as caught:
        find("intel")
    assert "hides" not in str(caught.value)


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
    monkeypatch.setattr(shared, "evaluate", lambda *given: [r + 1e-3 for r in fw.testing.evaluate(*given)])
    problem = selftest.run(devices.all_devices()[number]).problem
    assert problem is not None and "is wrong by 0.001" in problem
    monkeypatch.setattr(selftest, "tested", lambda index: shared.SelfTest(problem, 1.0))
    lib = fw.build(fw.nn.relu(fw.var("x", shape=(3, 5))), target)
    with pytest.raises(fw.FusewireError, match=r"failed the self-test and is not used: a result .* wrong by"):
        lib["default"](fw.device("opencl"))


def test_a_test_that_did_not_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory, or a compiler that is missing, may be otherwise the next time."""
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path))
    results = [
        shared.SelfTest("no memory", 0.1, ended=False),
        shared.SelfTest("wrong", 0.1),
        shared.SelfTest(None, 0.1),
    ]
    found = [shared.tested("a device", "identity", lambda: results.pop(0)).problem for _ in range(3)]
    assert found == ["no memory", "wrong", "wrong"]


@pytest.mark.parametrize("number", [-1, 1.5, "a", True])
def test_a_number_that_no_device_has(number: object) -> None:
    with pytest.raises(fw.DeviceNotFound, match="a device has a number from 0 on, got"):
        fw.device("opencl", number)  # type: ignore[arg-type]
