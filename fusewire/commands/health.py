"""What `fusewire doctor` looks at: versions, processor, C compiler, kernel cache, libraries, OpenCL devices, GPUs."""

import contextlib
import ctypes.util
import glob
import importlib
import importlib.metadata
import os
import platform
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, field, frozen

from .. import __version__
from ..ir.errors import CompileError, DeviceNotFound, FusewireError
from ..ir.expr import Function, const, var
from ..ops import add, multiply, nn
from ..targets.backends import GPU_KINDS
from ..targets.build import build
from ..targets.cpuinfo import cpu_features, isa_for, usable_cores
from ..targets.launched.gpu import GpuKind
from ..targets.libraries import find_library
from ..targets.opencl.devices import INSTALL as OPENCL_INSTALL
from ..targets.opencl.devices import VENDORS, OpenclDevice, all_devices, astray, hidden, idle_platforms
from ..targets.opencl.selftest import tested
from ..targets.peaks import measure as measure_peaks
from ..targets.peaks import stored as stored_peaks
from ..targets.scratch import scratch_folder
from ..targets.target import KINDS, Target, discover_libraries, known_libraries
from ..targets.toolchain import cache_dir, cache_limit, find_compiler

OK, ABSENT, MISSING, BROKEN = "ok", "absent", "missing", "broken"

REQUIRED = ("numpy", "attrs", "networkx", "ml_dtypes", "platformdirs", "tabulate", "click", "rich", "cattrs")
OPTIONAL = {
    "onnx": ("onnx", ("onnx",)),
    "pyopencl": ("opencl", ("pyopencl",)),
    "pillow": ("images", ("pillow",)),
    "ziglang": ("zig", ("ziglang",)),
}
"""Packages that some things need: the extra of fusewire that installs each, and the distributions that may hold it."""

ONLY_GPUS = {"cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")}
"""Packages that nothing misses where there is no such GPU, and the distributions that may hold them."""

SYSTEM = {"clblast": "apt install libclblast1"}
"""Libraries that pip does not bring, and the command that installs them on Debian and Ubuntu."""

RUNTIMES = {"intel(r) opencl": f"{OPENCL_INSTALL} --force-reinstall",
            "portable computing language": "apt install --reinstall pocl-opencl-icd"}  # fmt: skip
"""Platforms that bring a CPU wherever they work, in lower case, and the command that installs each anew."""

NODES = "/dev/dri/renderD*"
"""The files through which drivers of GPUs reach them."""

GPUS = {"cuda": ("cuda", "libcuda"), "rocm": ("amdhip64", "libamdhip64")}
"""Kinds of GPUs: how the system's loader calls the driver that they need, and what people call it."""


@frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what kind of thing it is.
        name: which one.
        state: "ok"; "absent": not there, and nothing needs it; "missing": something cannot be used; "broken": the cpu
            target does not work.
        detail: what was found.
        fix: the command that mends it, if something is to be mended.
        facts: the same as `detail`, in parts, for JSON.
    """

    topic: str
    name: str
    state: str
    detail: str
    fix: str | None = None
    facts: dict[str, Any] = field(factory=dict)


def examine(measure: bool = False) -> Iterator[Finding]:
    """Look at everything, one thing after the other; with `measure`, measure the processor's peaks anew."""
    yield from versions()
    yield processor()
    yield compiler()
    yield kernel()
    yield from peaks(measure)
    yield cache()
    yield from libraries()
    yield from opencl()
    yield from gpus()


def _version(*distributions: str) -> str | None:
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def versions() -> Iterator[Finding]:
    """fusewire, Python, and the packages that fusewire needs or can use."""
    yield _versioned("fusewire", __version__)
    yield _versioned("python", platform.python_version())
    for name in REQUIRED:
        yield _versioned(name, _version(name), BROKEN, f"pip install {name}")
    for name, (extra, distributions) in OPTIONAL.items():
        yield _versioned(name, _version(*distributions), MISSING, f"pip install 'fusewire[{extra}]'")
    for name, several in ONLY_GPUS.items():
        yield _versioned(name, _version(*several), ABSENT)


def _versioned(name: str, version: str | None, otherwise: str = BROKEN, fix: str | None = None) -> Finding:
    """A package; `otherwise` is the state if it is not installed, `fix` what installs it."""
    if version is None:
        return Finding("version", name, otherwise, "not installed", fix, {"version": None})
    return Finding("version", name, OK, version, None, {"version": version})


def processor() -> Finding:
    """The processor, and what fusewire makes of it."""
    cpu, isa, cores = cpu_features(), isa_for(Target("cpu")), usable_cores()
    detail = f"{cpu.name} ({cpu.machine}), {cores} usable cores, {isa.name}: vectors of {isa.vector_bytes} bytes"
    facts = {
        "name": cpu.name,
        "machine": cpu.machine,
        "usable_cores": cores,
        "isa": isa.name,
        "vector_bytes": isa.vector_bytes,
        "features": list(cpu.features),
    }
    return Finding("cpu", "processor", OK, detail, None, facts)


def compiler() -> Finding:
    """The C compiler."""
    try:
        found = find_compiler()
    except CompileError as error:
        fix = "unset CC" if os.environ.get("CC") else "pip install 'fusewire[zig]'"
        return Finding("compiler", "C compiler", BROKEN, str(error), fix, {"command": None, "version": None})
    command = " ".join(found.command)
    facts = {"command": command, "version": found.version}
    return Finding("compiler", "C compiler", OK, f"{command}: {found.version}", None, facts)


def kernel() -> Finding:
    """Whether a small kernel can be compiled, runs, and is right.

    It is compiled in a cache of its own, so that nothing is found ready-made there.
    """
    x = var("x", shape=(7, 33))
    net = Function([x], nn.relu(add(multiply(x, const(2.0)), const(-1.0))))
    data = np.random.default_rng(0).uniform(-1, 1, (7, 33)).astype(np.float32)
    try:
        with _own_cache():
            got = build(net, "cpu")(x=data)
    except (FusewireError, OSError) as error:
        fix = "pip install 'fusewire[zig]' && export CC='python -m ziglang cc'"
        return Finding("compiler", "test kernel", BROKEN, f"does not run: {error}", fix, {"works": False})
    right = np.allclose(got, np.maximum(data * 2 - 1, 0), rtol=1e-6, atol=1e-6)
    if not right:
        fix = "pip install 'fusewire[zig]' && export CC='python -m ziglang cc'"
        return Finding("compiler", "test kernel", BROKEN, "gives wrong results", fix, {"works": False})
    return Finding("compiler", "test kernel", OK, "compiles, runs and is right", None, {"works": True})


def peaks(measure: bool) -> Iterator[Finding]:
    """What the processor can do at most, on one thread and on all cores, and when that was measured."""
    isa = isa_for(Target("cpu"))
    for threads in sorted({1, usable_cores()}):
        name = f"peaks on {threads} thread{'s' * (threads > 1)}"
        try:
            found = measure_peaks(isa, threads, anew=True) if measure else stored_peaks(isa, threads)
        except CompileError as error:
            yield Finding("peaks", name, ABSENT, f"cannot be measured: {error}", None, {"threads": threads})
            continue
        if found is None:
            detail = "not measured yet; fusewire doctor --peaks does, or the first profile"
            yield Finding("peaks", name, ABSENT, detail, None, {"threads": threads})
        else:
            yield Finding("peaks", name, OK, found.summary(), None, asdict(found))


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    before = os.environ.get("FUSEWIRE_CACHE_DIR")
    with scratch_folder("doctor") as folder:
        os.environ["FUSEWIRE_CACHE_DIR"] = str(folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ["FUSEWIRE_CACHE_DIR"]
            else:
                os.environ["FUSEWIRE_CACHE_DIR"] = before


def cache() -> Finding:
    """The folder of compiled kernels."""
    folder = cache_dir()
    facts: dict[str, Any] = {"path": str(folder), "bytes": _size(folder), "writable": False}
    try:
        facts["limit"] = cache_limit()
    except CompileError as error:
        return Finding("cache", "kernel cache", BROKEN, str(error), "unset FUSEWIRE_CACHE_SIZE", facts)
    size = f"{facts['bytes'] / 2**20:.1f} of {facts['limit'] / 2**20:.0f} MiB"
    if reason := _why_not_writable(folder):
        fix = "export FUSEWIRE_CACHE_DIR=$(mktemp -d)"
        detail = f"{folder} cannot be written ({reason}): every process compiles anew"
        return Finding("cache", "kernel cache", MISSING, detail, fix, facts)
    return Finding("cache", "kernel cache", OK, f"{folder}, {size}", None, {**facts, "writable": True})


def _size(folder: Path) -> int:
    """Bytes in the files below a folder; what cannot be read counts nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def _why_not_writable(folder: Path) -> str | None:
    """Why nothing can be written to a folder, which need not exist yet; None if it can. Leaves nothing behind."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        probe = existing / f".fusewire-{secrets.token_hex(6)}"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None


def libraries() -> Iterator[Finding]:
    """Every library that `-libs=` can name; those of GPUs are wanted where there is one."""
    discover_libraries()
    kinds = {name: kind for kind in reversed(tuple(KINDS)) for name in known_libraries(kind)}
    for name in dict.fromkeys(name for kind in KINDS for name in known_libraries(kind)):
        fix = f"pip install 'fusewire[{name}]'" if name in _extras() else SYSTEM.get(name)
        facts: dict[str, Any] = {"found": False, "version": None, "file": None}
        if (gpu := GPU_KINDS.get(kinds[name])) and not _any(gpu):
            yield Finding("library", name, ABSENT, f"is for {gpu.kind}, of which there is no device", None, facts)
            continue
        try:
            reason = find_library(name).probe()
        except FusewireError as error:
            reason = str(error)
        if reason:
            yield Finding("library", name, MISSING, reason, fix, facts)
            continue
        version, file = _about(name)
        detail = " ".join(part for part in (version, f"in {file}" if file else None) if part) or "found"
        yield Finding("library", name, OK, detail, None, {"found": True, "version": version, "file": file})


def _any(gpu: GpuKind) -> bool:
    """Whether there is a device of a kind."""
    try:
        return gpu.count() > 0
    except DeviceNotFound:
        return False


def _extras() -> list[str]:
    try:
        return importlib.metadata.metadata("fusewire").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _about(name: str) -> tuple[str | None, str | None]:
    """Version and file of a library that ships with fusewire and can be loaded."""
    if name == "onednn":
        ffi = importlib.import_module("..contrib.onednn.ffi", __package__)
        return ffi.version(), os.path.realpath(ffi.load().dll._name)
    if name == "openblas":
        ffi = importlib.import_module("..contrib.openblas.ffi", __package__)
        return ffi.config().removeprefix("OpenBLAS").split()[0], ffi.library_path()
    if name == "clblast":
        return None, importlib.import_module("..contrib.clblast.ffi", __package__).CLBLAST.load()._name
    return None, None


def opencl() -> Iterator[Finding]:
    """Every OpenCL device, tested; or what is missing for there to be one; and drivers that bring none."""
    try:
        devices = all_devices()
    except FusewireError:
        yield from _astray(astray(barren=False))
        yield Finding("opencl", "devices", ABSENT, "pyopencl is not installed", OPENCL_INSTALL, {"present": False})
        return
    wrong = astray(barren=not devices)
    yield from _astray(wrong)
    if VENDORS not in wrong and (why := hidden(devices)):
        facts = {"present": True, "value": os.environ[VENDORS]}
        yield Finding("opencl", VENDORS, MISSING, why, f"unset {VENDORS}", facts)
    if not devices and VENDORS not in wrong:
        detail = "pyopencl finds no device: neither a GPU's driver nor a runtime for CPUs is installed"
        yield Finding("opencl", "devices", MISSING, detail, OPENCL_INSTALL, {"present": False})
    yield from map(_idle, idle_platforms())
    yield from map(_opencl_device, devices)


def _astray(wrong: dict[str, str]) -> Iterator[Finding]:
    for variable, problem in wrong.items():
        facts = {"present": False, "value": os.environ[variable]}
        yield Finding("opencl", variable, MISSING, f"leads to no driver: {problem}", f"unset {variable}", facts)


def _idle(name: str) -> Finding:
    """A driver without a device: one of GPUs that may not be opened, or whose GPU is not there; or a broken runtime."""
    facts = {"present": False, "platform": name}
    barred = [node for node in glob.glob(NODES) if not os.access(node, os.R_OK | os.W_OK)]
    if fix := RUNTIMES.get(name.lower()):
        return Finding("opencl", f"opencl: {name}", MISSING, "brings no device, not even the CPU", fix, facts)
    if barred:
        detail = f"brings no device; you may not open {', '.join(barred)} (log in again afterwards)"
        return Finding("opencl", f"opencl: {name}", MISSING, detail, "sudo usermod -a -G render,video $USER", facts)
    return Finding("opencl", f"opencl: {name}", ABSENT, "brings no device: there is none for this driver", None, facts)


def _opencl_device(device: OpenclDevice) -> Finding:
    facts = {
        "present": True,
        **{name: getattr(device, name) for name in ("index", "platform", "type", "version", "driver", "compute_units")},
        "extensions": list(device.extensions),
    }
    about = (
        f"{device.type}, {device.platform}, {device.version}, driver {device.driver}, "
        f"{device.compute_units} compute units, {len(device.extensions)} extensions"
    )
    name = f"opencl {device.index}: {device.name}"
    result = tested(device.index)
    if result.problem:
        detail = f"{about}; fails the self-test: {result.problem}"
        fix = f"{OPENCL_INSTALL} --upgrade" if device.type == "cpu" else f"install a newer driver for {device.name}"
        return Finding("opencl", name, MISSING, detail, fix, {**facts, "works": False, "problem": result.problem})
    detail = f"{about}; passes the self-test ({result.seconds:.1f} s)"
    return Finding("opencl", name, OK, detail, None, {**facts, "works": True})


def gpus() -> Iterator[Finding]:
    """The GPUs of CUDA and ROCm; or what is missing for there to be one."""
    for kind, (library, shown) in GPUS.items():
        gpu = GPU_KINDS[kind]
        try:
            devices = [gpu.open(number) for number in range(gpu.count())]
        except DeviceNotFound as error:
            present = bool(ctypes.util.find_library(library))
            detail = f"{shown} is {'there' if present else 'not there'}; {error}"
            yield Finding("gpu", kind, ABSENT, detail, None, {"present": present, "devices": []})
            continue
        for device in devices:
            result = gpu.tested(device.index)
            facts = {"present": True, "name": device.name, "arch": device.arch, "works": not result.problem}
            detail = f"{device.name} ({device.arch}): {result.problem or 'passes the self-test'}"
            yield Finding("gpu", f"{kind} {device.index}", MISSING if result.problem else OK, detail, None, facts)
