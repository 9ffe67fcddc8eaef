"""The code of a program as OpenCL C, and what schedules write for."""

from ...ir.errors import DeviceNotFound
from ..cpuinfo import DeviceProfile, Isa
from ..cpuinfo import isa_for as cpu_isa_for
from ..generate import Decide
from ..launched.code import LaunchCode, generate_launches
from ..program import Program
from ..target import Target
from .devices import OpenclDevice, all_devices, select
from .dialect import OPENCL

HALF = "cl_khr_fp16"
"""The extension for arithmetic in float16."""


def isa_for(target: Target) -> Isa:
    """What schedules write for: four lanes for a GPU, else vectors and registers of this machine, a CPU device.

    A target is for a GPU if its items run in lockstep (`-thread_warp_size=`), or `-device=` means one. A CPU, too, runs
    what was written for a GPU, if more slowly. Where the device is there, groups and their memory keep to its limits.
    With -precision=fp16, kernels for a GPU compute in float16 if the device that is there has cl_khr_fp16.
    """
    device = _meant(target.device)
    least, warp = DeviceProfile(), target.thread_warp_size or 1
    local_bytes = (device and device.local_bytes) or least.local_bytes
    image = device.image if device and OPENCL.image else least.image
    most = min(target.max_num_threads or least.max_group, device.max_group if device else least.max_group)
    if warp > 1 or target.device == "gpu" or (device and device.type == "gpu"):
        half = target.precision == "float16" and device is not None and HALF in device.extensions
        profile = DeviceProfile("gpu", local_bytes, most, max(warp, 32), image=image, half=half)
        return Isa("opencl-gpu", 16, 32, (), ("f16c",), profile)
    own = cpu_isa_for(Target("cpu"))
    profile = DeviceProfile(local_bytes=local_bytes, max_group=most, image=image)
    return Isa(f"opencl{own.vector_bytes}", own.vector_bytes, own.registers, (), ("f16c",), profile)


def _meant(wanted: str | None) -> OpenclDevice | None:
    """The device that a target means, if it is there."""
    try:
        return next(iter(select(wanted, all_devices())), None)
    except DeviceNotFound:
        return None


def generate(program: Program, isa: Isa, threads: int, decide: Decide) -> LaunchCode:
    """The kernels of a program; nothing is compiled yet."""
    return generate_launches(program, isa, threads, decide, (OPENCL, OPENCL), "opencl")
