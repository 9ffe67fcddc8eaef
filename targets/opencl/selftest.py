"""The choice of a device that passed the test of ../launched/selftest.py."""

from functools import lru_cache

from ...ir.errors import DeviceError
from ..code import Code
from ..device import Device
from ..launched import selftest
from ..launched.engine import LaunchEngine
from ..launched.selftest import SelfTest
from ..target import Target
from .devices import OpenclDevice, all_devices, find
from .kernels import HALF, generate, isa_for
from .queue import opencl_queue


def run(device: OpenclDevice) -> SelfTest:
    """Test a device now."""
    return selftest.run(isa_for(Target("opencl")), generate, lambda lib: LaunchEngine(lib, opencl_queue(device.index)))


@lru_cache(maxsize=16)
def tested(index: int) -> SelfTest:
    """The result of a device's test, from the cache if this driver was tested before."""
    device = all_devices()[index]
    return selftest.tested(device, device.identity, lambda: run(device))


def chosen_device(code: Code, target: Target, device: Device) -> Device:
    """The device that a module for `target` runs on: number `device.index` among those that `-device=` means.

    Raises:
        DeviceNotFound: there is none.
        DeviceError: it computes wrongly, or not in float16 where the code does.
    """
    found = find(target.device, device.index)
    if code.isa.half and HALF not in found.extensions:
        raise DeviceError(f"built for a device that computes in float16; {found.name} lacks {HALF}: build for it")
    tested(found.index).require(f"{found.name} ({found.platform}, driver {found.driver})")
    return Device("opencl", found.index)
