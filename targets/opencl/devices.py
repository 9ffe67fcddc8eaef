"""Finding OpenCL devices: those of the system's drivers, and Intel's CPU runtime where pip has installed it.

pip's `intel-opencl-rt` is known to no loader: its .icd file names a folder that is not there. A loader looks into one
folder only, once, so a temporary one is made with links to the system's .icd files and one for Intel's library.
"""

import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from attrs import field, frozen

from ...ir.errors import DeviceNotFound
from ..device import wanted_package
from ..locks import Lock
from ..scratch import scratch_folder

INSTALL = "pip install 'fusewire[opencl]'"
VENDORS, FILENAMES = "OCL_ICD_VENDORS", "OCL_ICD_FILENAMES"
"""What tells loaders where drivers are: a folder of .icd files or one such file, in place of SYSTEM; more libraries.
To a loader an empty variable is like none."""
SYSTEM = "/etc/OpenCL/vendors"
TYPES = ("gpu", "accelerator", "cpu", "custom")
"""Kinds of devices, the preferred ones first."""

_lock = Lock()


@frozen
class OpenclDevice:
    """One device, with what the rest of the house wants to know of it.

    Attributes:
        index: its number among all devices.
        name, platform: what it, and the driver that brings it, call themselves.
        type: "cpu", "gpu", "accelerator" or "custom".
        version, driver: of OpenCL, and of the driver.
        compute_units: processors that run work-groups.
        max_group: work-items in a work-group at most.
        align: at which bytes a part of a buffer may start.
        unified: whether it works in the memory of the host.
        extensions: what it can do beyond the standard.
        raw: pyopencl's device.
        local_bytes: memory that the items of a work-group share; None where that is a part of all memory.
        image: columns and rows that an image may have at most; (0, 0) where it has no images.
    """

    index: int
    name: str
    platform: str
    type: str
    version: str
    driver: str
    compute_units: int
    max_group: int
    align: int
    unified: bool
    extensions: tuple[str, ...]
    raw: Any = field(eq=False, repr=False)
    local_bytes: int | None = None
    image: tuple[int, int] = (0, 0)

    @property
    def identity(self) -> str:
        """Device and driver: what was measured or compiled for one of them is for no other."""
        return f"{self.platform} / {self.name} / {self.version} / {self.driver}"

    def __str__(self) -> str:
        return f"{self.index}: {self.name} ({self.type}, {self.platform})"


def intel_runtime() -> Path | None:
    """The library of Intel's CPU runtime, if pip has installed it."""
    try:
        files = metadata.files("intel-opencl-rt") or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve() for file in files if file.name == "libintelocl.so"]
    return next((path for path in found if path.exists()), None)


@lru_cache(maxsize=1)
def pyopencl() -> Any:
    """The module pyopencl, with all drivers found.

    Raises:
        DeviceNotFound: it is not installed; the message says what installs it.
    """
    with _lock:
        cl = wanted_package("pyopencl", "OpenCL", INSTALL)
        # pyopencl warns whenever a compiler said anything, and some say "succeeded". Errors are errors all the same.
        warnings.filterwarnings("ignore", category=cl.CompilerWarning)
        own = intel_runtime()
        before = os.environ.get(VENDORS)
        if before or own is None:
            _platforms(cl)
            return cl
        with scratch_folder("opencl") as folder:
            _fill(folder, own)
            os.environ[VENDORS] = str(folder)
            try:
                _platforms(cl)  # the loader reads the folder now, and never again
            finally:
                del os.environ[VENDORS]
                if before is not None:
                    os.environ[VENDORS] = before
        return cl


def _fill(folder: Path, own: Path) -> None:
    """Links to the system's .icd files, and one file for Intel's library unless the system has it, too."""
    known = False
    for path in sorted(Path(SYSTEM).glob("*.icd")):
        try:
            known = known or "intelocl" in path.read_text(errors="replace")
        except OSError:
            continue
        (folder / path.name).symlink_to(path)
    if not known:
        (folder / "fusewire-intel.icd").write_text(str(own))


def _platforms(cl: Any) -> list[Any]:
    try:
        return list(cl.get_platforms())
    except cl.Error:  # the loader's way to say that there is none
        return []


def astray(barren: bool) -> dict[str, str]:
    """Variables of the environment that lead the loader nowhere, each with what is wrong with it.

    Args:
        barren: whether the loader was asked and there is no device at all. Then VENDORS is at fault wherever it is
            set: nothing that is installed elsewhere can be found.
    """
    found: dict[str, str] = {}
    if vendors := os.environ.get(VENDORS):
        path = Path(vendors)
        if not any(place.exists() for place in (path, Path(SYSTEM) / vendors)):
            found[VENDORS] = f"there is no '{vendors}'"
        elif path.is_dir() and not any(path.glob("*.icd")):
            found[VENDORS] = f"there is no .icd file in '{vendors}'"
        elif barren:
            found[VENDORS] = f"'{vendors}' names no driver that loads and has a device"
    names = os.environ.get(FILENAMES, "").split(os.pathsep)
    if missing := [name for name in names if os.sep in name and not Path(name).exists()]:
        found[FILENAMES] = f"there is no {', '.join(map(repr, missing))}"
    return found


def hidden(devices: Sequence[OpenclDevice]) -> str | None:
    """What is wrong with the user's own VENDORS where it keeps the Intel runtime that pip has installed from the
    loader, so that it is not among the devices; else None.
    """
    vendors = os.environ.get(VENDORS)
    if not vendors or intel_runtime() is None:
        return None
    if any(device.type == "cpu" and "intel" in device.platform.lower() for device in devices):
        return None
    return f"hides Intel's CPU runtime, which pip has installed: loaders look for drivers in '{vendors}' only"


def idle_platforms() -> list[str]:
    """The names of platforms that bring no device.

    Raises:
        DeviceNotFound: pyopencl is not installed.
    """
    return [platform.name.strip() for platform in _platforms(pyopencl()) if not _devices(platform)]


def _devices(platform: Any) -> list[Any]:
    try:
        return list(platform.get_devices())
    except pyopencl().Error:  # a driver without devices
        return []


@lru_cache(maxsize=1)
def all_devices() -> tuple[OpenclDevice, ...]:
    """All devices: GPUs first, CPUs last, and of those Intel's runtime before others (it starts kernels faster).

    Raises:
        DeviceNotFound: pyopencl is not installed.
    """
    cl = pyopencl()
    found = [(platform, device) for platform in _platforms(cl) for device in _devices(platform)]
    found.sort(key=lambda pair: (TYPES.index(_type(cl, pair[1])), "intel" not in pair[0].name.lower()))
    return tuple(_device(cl, k, platform, raw) for k, (platform, raw) in enumerate(found))


def _type(cl: Any, raw: Any) -> str:
    return next((name for name in TYPES if raw.type & getattr(cl.device_type, name.upper(), 0)), "custom")


def _device(cl: Any, index: int, platform: Any, raw: Any) -> OpenclDevice:
    kind = _type(cl, raw)
    return OpenclDevice(
        index, raw.name.strip(), platform.name.strip(), kind, raw.version.strip(), raw.driver_version.strip(),
        raw.max_compute_units, raw.max_work_group_size, max(raw.mem_base_addr_align // 8, 1),
        bool(raw.host_unified_memory), tuple(sorted(raw.extensions.split())), raw,
        raw.local_mem_size if raw.local_mem_type == cl.device_local_mem_type.LOCAL else None,
        (raw.image2d_max_width, raw.image2d_max_height) if raw.image_support else (0, 0),
    )  # fmt: skip


def select(wanted: str | None, devices: Sequence[OpenclDevice]) -> list[OpenclDevice]:
    """The devices that `-device=` means: a number, a type, or words out of its name, platform or versions."""
    if wanted is None:
        return list(devices)
    text = wanted.lower()
    if text.isascii() and text.isdigit():
        return [d for d in devices if d.index == int(text)]
    if text in TYPES:
        return [d for d in devices if d.type == text]
    return [d for d in devices if text in d.identity.lower()]


def find(wanted: str | None = None, index: int = 0) -> OpenclDevice:
    """The device number `index` among those that `-device=` means.

    Raises:
        DeviceNotFound: there is none; the message lists those there are, or says what to install or to unset.
    """
    devices = all_devices()
    if not devices:
        raise DeviceNotFound(f"there is no OpenCL device: {_advice()}")
    found = select(wanted, devices)
    if index >= len(found):
        listed = "; ".join(map(str, devices))
        asked = f"-device={wanted}" if wanted is not None else "opencl"
        count = f"means {len(found)} devices, and number {index} was asked for" if found else "is not there"
        hint = f"; {VENDORS} {why} (unset {VENDORS})" if (why := hidden(devices)) else ""
        raise DeviceNotFound(f"{asked} {count}; there are {listed}{hint}")
    return found[index]


def _advice() -> str:
    """What to do where there is no device. Nothing that is installed helps while VENDORS leads elsewhere."""
    wrong = astray(barren=True)
    told = "; ".join(f"{name} leads to none ({problem}): unset {name}" for name, problem in wrong.items())
    if VENDORS in wrong:
        return told
    install = f"install your GPU's driver, or a runtime for CPUs: {INSTALL}"
    return f"{told}; or {install}" if told else install
