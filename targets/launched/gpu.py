"""A kind of GPU that is programmed in C++: what schedules write for, its code, the choice of a device, its engine."""

import re
from collections.abc import Callable, Mapping

from attrs import frozen

from ...ir.errors import DeviceError, DeviceNotFound
from ..code import Code
from ..cpuinfo import DeviceProfile, Isa
from ..device import Device
from ..dialects import Dialect
from ..engine import Engine
from ..generate import Decide
from ..program import Program
from ..runnable import Runnable
from ..target import Target, warp_sizes
from .code import LaunchCode, generate_launches
from .device import GpuDevice, LaunchDevice
from .engine import LaunchEngine
from .selftest import SelfTest, run, tested

WORKERS = 4096
"""Work-items that schedules find work for, if they must choose: what keeps a large GPU busy."""


@frozen(eq=False)
class GpuKind:
    """A kind of target.

    Attributes:
        kind: its name.
        narrow, wide: the language, with positions in 32 bits, and for kernels to which that is not enough.
        local_bytes: what the items of a work-group may share.
        units: the types that units for matrices multiply, each with the first architecture (sm_NN) that has them.
        count: how many devices there are; raises DeviceNotFound where there is none, or nothing to run it with.
        open: the device of a number.
    """

    kind: str
    narrow: Dialect
    wide: Dialect
    local_bytes: int
    units: Mapping[str, int]
    count: Callable[[], int]
    open: Callable[[int], GpuDevice]

    def isa_for(self, target: Target) -> Isa:
        """What schedules write for: 16 bytes are what one access moves, and 32 of them half of the registers."""
        most, warp = target.max_num_threads or 256, target.thread_warp_size or 32
        units = self.matrix_types(target)
        profile = DeviceProfile("gpu", self.local_bytes, most, warp, exchange=True, matrix=units, plain=True)
        return Isa(f"{self.kind} {target.arch or ''}".strip(), 16, 32, (), ("f16c",), profile)

    def matrix_types(self, target: Target) -> tuple[str, ...]:
        """The types in which units for matrices may take factors, as a target's -precision= allows and its -arch= has.

        Without -arch= all are taken to be there: the dialect's functions have plain statements for older devices.
        """
        dtype = "float32" if target.precision == "tf32" else target.precision or ""
        least, digits = self.units.get(dtype), re.sub(r"\D", "", target.arch or "")
        if target.precision in (None, "float32") or least is None or (digits and int(digits) < least):
            return ()
        return (dtype,)

    def generate(self, program: Program, isa: Isa, threads: int, decide: Decide) -> LaunchCode:
        """The code of a program; nothing is compiled yet."""
        return generate_launches(program, isa, WORKERS, decide, (self.narrow, self.wide), self.kind)

    def check(self, code: Code, target: Target, device: Device) -> Device:
        """The device that code for a target runs on: number `device.index` of those that `-device=` means.

        Raises:
            DeviceNotFound: there is none.
            DeviceError: the code is for another architecture, or the device computes wrongly.
        """
        found = self.device(target, device.index)
        found.arch_for(arch_of(code.isa))
        self._check_warp(code.isa, found)
        self.tested(found.index).require(found.name)
        return Device(self.kind, found.index)

    def _check_warp(self, isa: Isa, found: LaunchDevice) -> None:
        """Items of a warp exchange values: how many there are is a part of the code."""
        fitting = warp_sizes(self.kind, found.arch) if found.arch else ()
        if isa.device and fitting and isa.device.warp not in fitting:
            raise DeviceError(
                f"the code was made for {isa.device.warp} items in lockstep, and {found.name} ({found.arch}) has "
                f"{fitting[0]}: build for -arch={found.arch}"
            )

    def device(self, target: Target, index: int = 0) -> GpuDevice:
        """Number `index` of the devices that a target's `-device=` means.

        Raises:
            DeviceNotFound: there is none.
        """
        wanted, devices = target.device, [self.open(k) for k in range(self.count())]
        fitting = [d for d in devices if wanted is None or wanted == str(d.index) or wanted.lower() in d.name.lower()]
        if index >= len(fitting):
            listed = "; ".join(f"{d.index}: {d.name} ({d.arch})" for d in devices)
            asked = f"-device={wanted}" if wanted else self.kind
            raise DeviceNotFound(
                f"{asked} means {len(fitting)} devices, number {index} was asked for; there are {listed}"
            )
        return fitting[index]

    def tested(self, index: int) -> SelfTest:
        """The result of a device's self-test, from the cache if it was tested before."""
        device = self.open(index)
        isa = self.isa_for(Target({"kind": self.kind, "arch": device.arch or None}))
        return tested(
            device.name, device.identity, lambda: run(isa, self.generate, lambda lib: LaunchEngine(lib, device))
        )

    def engine(self, lib: Runnable, device: Device) -> Engine:
        """What runs a program on a device."""
        return LaunchEngine(lib, self.open(device.index), arch_of(lib.code.isa))


def arch_of(isa: Isa) -> str | None:
    """The architecture that a target named."""
    return isa.name.partition(" ")[2] or None
