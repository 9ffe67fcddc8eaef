"""What `fusewire doctor` says of OpenCL drivers that are not found, or bring no device."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
        assert devices.astray() == {}


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


@needs_device
def test_the_command(tmp_path: Path) -> None:
    """In a process of its own: a loader looks for drivers once."""
    environment = {**os.environ, VENDORS: str(tmp_path / "nowhere"), "FUSEWIRE_CACHE_DIR": str(tmp_path)}
    program = """import json; from fusewire.commands import health
print(json.dumps([(f.name, f.fix) for f in health.opencl()]))"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert [VENDORS, f"unset {VENDORS}"] in json.loads(run.stdout)
