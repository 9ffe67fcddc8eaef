"""The OpenCL devices of this machine, for tests that need one: each driver's first."""

import pytest

import fusewire as fw
from fusewire.targets.opencl.devices import OpenclDevice, all_devices


def found() -> list[OpenclDevice]:
    """One device of each platform; none where pyopencl or every driver is missing."""
    try:
        devices = all_devices()
    except fw.DeviceNotFound:
        return []
    return list({device.platform: device for device in reversed(devices)}.values())[::-1]


DEVICES = found()
REASON = "there is no OpenCL device: pip install 'fusewire[opencl]'"

needs_device = pytest.mark.skipif(not DEVICES, reason=REASON)
each_device = pytest.mark.parametrize(
    "target",
    [pytest.param(f"opencl -device={d.index}", id=d.platform.split("(")[0].replace(" ", "_")) for d in DEVICES]
    or [pytest.param("opencl", marks=pytest.mark.skip(reason=REASON))],
)
