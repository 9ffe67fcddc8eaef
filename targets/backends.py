"""What each kind of target brings: an instruction set to schedule for, code, and an engine that runs it."""

from collections.abc import Callable

from attrs import frozen

from ..ir.errors import TargetError
from .code import Code
from .cpu import cpu_code
from .cpu import generate as generate_c
from .cpuengine import CpuEngine
from .cpuinfo import Isa, cpu_features, isa_for
from .cuda.device import count as cuda_count
from .cuda.device import cuda_device
from .cuda.dialect import CUDA, CUDA_WIDE
from .cuda.tensor import UNITS
from .device import Device
from .engine import Engine
from .generate import Decide
from .launched.code import LaunchCode
from .launched.device import LaunchDevice
from .launched.engine import LaunchEngine
from .launched.gpu import GpuKind
from .memory import Arena, plan
from .opencl.devices import find
from .opencl.kernels import generate as generate_opencl
from .opencl.kernels import isa_for as opencl_isa_for
from .opencl.queue import opencl_queue
from .opencl.selftest import chosen_device
from .program import Program
from .rocm.device import count as rocm_count
from .rocm.device import rocm_device
from .rocm.dialect import HIP, HIP_WIDE
from .runnable import Runnable
from .target import Target


@frozen(eq=False)
class Backend:
    """A kind of target.

    Attributes:
        kind: its name.
        source: the kind of its sources, as `get_source` calls it.
        isa: what schedules write for.
        generate: makes the code of a program.
        plan: places the tensors of a program.
        check: the device that code for a target is to run on; refuses one that cannot.
        engine: makes what runs a program on a device.
    """

    kind: str
    source: str
    isa: Callable[[Target], Isa]
    generate: Callable[[Program, Isa, int, Decide], Code]
    plan: Callable[[Program, Code], Arena]
    check: Callable[[Code, Target, Device], Device]
    engine: Callable[[Runnable, Device], Engine]


def _plan_cpu(program: Program, code: Code) -> Arena:
    return plan(program, cpu_code(code, "writing over inputs").overwrites())


def _check_cpu(code: Code, target: Target, device: Device) -> Device:
    if missing := cpu_features().missing(code.isa):
        raise TargetError(f"built for '{target}', but this processor lacks {', '.join(missing)}")
    return device


def _opencl_engine(lib: Runnable, device: Device) -> Engine:
    return LaunchEngine(lib, opencl_queue(device.index))


def _plan_launched(program: Program, code: Code) -> Arena:
    # Parts of a buffer start where the device wants it, and a kernel's arguments must not overlap.
    return plan(program, align=LaunchCode.ALIGN)


GPU_KINDS = {
    gpu.kind: gpu
    for gpu in (
        GpuKind("cuda", CUDA, CUDA_WIDE, 48 << 10, UNITS, cuda_count, cuda_device),
        GpuKind("rocm", HIP, HIP_WIDE, 64 << 10, {}, rocm_count, rocm_device),
    )
}


def _gpu(gpu: GpuKind) -> Backend:
    return Backend(gpu.kind, gpu.narrow.name.lower(), gpu.isa_for, gpu.generate, _plan_launched, gpu.check, gpu.engine)


BACKENDS = {
    backend.kind: backend
    for backend in (
        Backend("cpu", "c", isa_for, generate_c, _plan_cpu, _check_cpu, lambda lib, device: CpuEngine(lib)),
        Backend("opencl", "opencl", opencl_isa_for, generate_opencl, _plan_launched, chosen_device, _opencl_engine),
        *map(_gpu, GPU_KINDS.values()),
    )
}


def launch_device(target: Target) -> LaunchDevice:
    """The first device that a target means, of a kind that is given launches.

    Raises:
        DeviceNotFound: it is not there.
    """
    if target.kind == "opencl":
        return opencl_queue(find(target.device).index)
    return GPU_KINDS[target.kind].device(target)


def backend_of(kind: str) -> Backend:
    """The backend of a kind of target.

    Raises:
        TargetError: this version generates no code for it.
    """
    if kind not in BACKENDS:
        raise TargetError(f"this version of fusewire generates code for {' and '.join(BACKENDS)} only, not for {kind}")
    return BACKENDS[kind]
