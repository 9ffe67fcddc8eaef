"""The OpenCL devices of this machine, for tests that need one: each driver's first."""

import os
from typing import Any

import pytest

import fusewire as fw
from fusewire.targets.opencl.devices import OpenclDevice, all_devices

EXPECTED = {
    "Intel(R) OpenCL": "pip install 'fusewire[opencl]'",
    "Portable Computing Language": "apt install pocl-opencl-icd",
}
"""The platforms that the tests are for, and what installs them; tests are skipped, and say so, where one is missing."""


def found() -> list[OpenclDevice]:
    """One device of each platform; none where pyopencl or every driver is missing."""
    try:
        devices = all_devices()
    except fw.DeviceNotFound:
        return []
    return list({device.platform: device for device in reversed(devices)}.values())[::-1]


def _name(platform: str) -> str:
    return platform.split("(")[0].replace(" ", "_")


def _missing(platform: str, install: str) -> Any:
    skip = pytest.mark.skip(reason=f"there is no OpenCL device of {platform}: {install}")
    return pytest.param("opencl", marks=skip, id=_name(platform))


DEVICES = found()
REASON = "there is no OpenCL device: pip install 'fusewire[opencl]'"

needs_device = pytest.mark.skipif(not DEVICES, reason=REASON)
_PLACES = [pytest.param(f"opencl -device={d.index}", id=_name(d.platform)) for d in DEVICES]
_PLACES += [_missing(*known) for known in EXPECTED.items() if known[0] not in [d.platform for d in DEVICES]]
each_device = pytest.mark.parametrize("target", _PLACES)
"""For what drivers may do differently."""

_ALL = os.environ.get("FUSEWIRE_TEST_VARIANTS") == "all"
one_device = pytest.mark.parametrize("target", _PLACES if _ALL else _PLACES[:1])
"""For texts that all drivers get alike, whose kernels take long to compile: one driver, unless all are asked for."""
