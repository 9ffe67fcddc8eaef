"""What `fusewire doctor` says of OpenCL drivers that are not found, or bring no device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusewire.commands import health
from fusewire.targets.opencl import devices
from fusewire.targets.opencl.devices import FILENAMES, VENDORS
from tests.opencl.present import needs_device


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without devices and without anything said in its environment."""
    for variable in (VENDORS, FILENAMES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(health, "all_devices", list)
    monkeypatch.setattr(health, "idle_platforms", list)


def device(platform: str, kind: str) -> devices.OpenclDevice:
    return devices.OpenclDevice(0, "A device", platform, kind, "OpenCL 3.0", "1.2", 2, 64, 128, True, (), None)


def findings() -> dict[str, health.Finding]:
    return {finding.name: finding for finding in health.opencl()}


@pytest.mark.usefixtures("nothing")
def test_variables_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (nobody,) = findings().values()
    assert nobody.state == "missing" and "no device" in nobody.detail
    good, missing = tmp_path / "driver.so", tmp_path / "gone.so"
    good.touch()
    monkeypatch.setenv(VENDORS, str(tmp_path / "nowhere"))
    monkeypatch.setenv(FILENAMES, f"{good}{os.pathsep}{missing}{os.pathsep}libfound_by_name.so")
    found = findings()
    assert set(found) == {VENDORS, FILENAMES} and {f.state for f in found.values()} == {"missing"}
    assert found[VENDORS].detail == f"leads to no driver: there is no '{tmp_path / 'nowhere'}'"
    assert found[FILENAMES].detail == f"leads to no driver: there is no '{missing}'"
    assert [found[name].fix for name in (VENDORS, FILENAMES)] == [f"unset {VENDORS}", f"unset {FILENAMES}"]
    monkeypatch.setenv(VENDORS, str(tmp_path))
    assert f"there is no .icd file in '{tmp_path}'" in findings()[VENDORS].detail


@pytest.mark.usefixtures("nothing")
def test_variables_that_lead_somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "driver.icd"
    driver.touch()
    for vendors in (tmp_path, driver):
        monkeypatch.setenv(VENDORS, str(vendors))
        monkeypatch.setenv(FILENAMES, str(driver))
        assert devices.astray(barren=False) == {}
        problem = f"'{vendors}' names no driver that loads and has a device"
        assert devices.astray(barren=True) == {VENDORS: problem}
        (nobody,) = findings().values()
        assert (nobody.name, nobody.fix) == (VENDORS, f"unset {VENDORS}") and nobody.detail.endswith(problem)


@pytest.mark.usefixtures("nothing")
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VENDORS, "")
    monkeypatch.setattr(devices, "intel_runtime", lambda: Path("/somewhere/libintelocl.so"))
    assert devices.astray(barren=True) == {} and devices.hidden([]) is None
    (nobody,) = findings().values()
    assert nobody.name == "devices" and nobody.fix == devices.INSTALL


@pytest.mark.usefixtures("nothing")
def test_a_missing_library_is_not_why_there_is_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FILENAMES adds to what a loader finds, and hides nothing: something has to be installed all the same."""
    monkeypatch.setenv(FILENAMES, str(tmp_path / "gone.so"))
    assert {name: f.fix for name, f in findings().items()} == {
        FILENAMES: f"unset {FILENAMES}",
        "devices": devices.INSTALL,
    }


@pytest.mark.usefixtures("nothing")
def test_a_variable_that_hides_intels_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.icd").touch()
    other = device("Portable Computing Language", "cpu")
    monkeypatch.setattr(health, "_opencl_device", lambda d: health.Finding("opencl", d.platform, health.OK, ""))
    for there, runtime, expected in [
        (other, Path("/somewhere/libintelocl.so"), True),
        (device("Intel(R) OpenCL Graphics", "gpu"), Path("/somewhere/libintelocl.so"), True),
        (device("Intel(R) OpenCL", "cpu"), Path("/somewhere/libintelocl.so"), False),
        (other, None, False),
    ]:
        monkeypatch.setattr(health, "all_devices", lambda there=there: (there,))
        monkeypatch.setattr(devices, "intel_runtime", lambda runtime=runtime: runtime)
        monkeypatch.setenv(VENDORS, str(tmp_path))
        found = findings()
        assert (VENDORS in found) is expected and there.platform in found
        if expected:
            assert (found[VENDORS].state, found[VENDORS].fix) == ("missing", f"unset {VENDORS}")
            assert f"hides Intel's CPU runtime, which pip has installed: loaders look for drivers in '{tmp_path}'" in (
                found[VENDORS].detail
            )
        monkeypatch.delenv(VENDORS)
        assert VENDORS not in findings()


@pytest.mark.usefixtures("nothing")
def test_platforms_without_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(health, "idle_platforms", lambda: ["Portable Computing Language", "Some GPUs"])
    monkeypatch.setattr(health, "NODES", str(tmp_path / "renderD*"))
    found = findings()
    runtime, gpu = found["opencl: Portable Computing Language"], found["opencl: Some GPUs"]
    assert runtime.state == "missing" and runtime.fix == "apt install --reinstall pocl-opencl-icd"
    assert gpu.state == "absent" and gpu.fix is None and "there is none for this driver" in gpu.detail
    (tmp_path / "renderD128").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    barred = findings()["opencl: Some GPUs"]
    assert barred.state == "missing" and barred.fix == "sudo usermod -a -G render,video $USER"
    assert str(tmp_path / "renderD128") in barred.detail


def test_idle_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    class Platform:
        def __init__(self, name: str, count: int) -> None:
            self.name, self.count = name, count

        def get_devices(self) -> list[object]:
            return [object()] * self.count

    monkeypatch.setattr(devices, "pyopencl", lambda: None)
    monkeypatch.setattr(devices, "_platforms", lambda cl: [Platform("full ", 2), Platform("empty ", 0)])
    assert devices.idle_platforms() == ["empty"]


PROGRAM = """
import json
import os
import fusewire as fw
from fusewire.commands import health
from fusewire.targets.opencl.devices import all_devices
try:
    error = str(fw.build(fw.nn.relu(fw.var("x", shape=(3, 5))), "opencl")["default"](fw.device("opencl")) and "")
except fw.DeviceNotFound as found:
    error = str(found)
platforms = [device.platform for device in all_devices()]
print(json.dumps([[(f.name, f.fix) for f in health.opencl()], error, platforms, os.environ.get("OCL_ICD_VENDORS")]))
"""


def told(vendors: str, cache: Path) -> Any:
    """What doctor finds, a module's error, the platforms, and the variable afterwards.

    In a process of its own: a loader looks for drivers once.
    """
    environment = {**os.environ, VENDORS: vendors, "FUSEWIRE_CACHE_DIR": str(cache)}
    environment.pop(FILENAMES, None)
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    return json.loads(run.stdout)


@needs_device
@pytest.mark.parametrize("case", ["no folder", "no library", "no driver"])
def test_everybody_names_the_variable(case: str, tmp_path: Path) -> None:
    vendors = tmp_path / "vendors"
    if case == "no library":
        vendors.mkdir()
        (vendors / "some.icd").write_text("/gone/libsome.so\n")
    elif case == "no driver":
        vendors.write_text("this is no library\n")
    found, error, platforms, left = told(str(vendors), tmp_path / "cache")
    assert found == [[VENDORS, f"unset {VENDORS}"]] and platforms == [] and left == str(vendors)
    assert error.endswith(f": unset {VENDORS}") and f"{VENDORS} leads to none (" in error and str(vendors) in error
    assert "install" not in error


@needs_device
def test_an_empty_variable_hides_nothing(tmp_path: Path) -> None:
    found, error, platforms, left = told("", tmp_path)
    assert set(platforms) == {device.platform for device in devices.all_devices()}
    assert error == "" and left == "" and VENDORS not in dict(found)
