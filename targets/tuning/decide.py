"""From records to a build: the key of a group, and what a store decided for it."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from functools import cache
from itertools import islice
from pathlib import Path

from attrs import evolve, frozen

from ...ir.errors import DeviceError, DeviceNotFound, FusewireError
from ...ir.expr import Call, Function
from ...ir.hashing import structural_hash
from ...ir.types import TensorType, Type, tensors_of
from ...ir.visitor import post_order
from ..backends import GPU_KINDS
from ..compiled import CompiledModule
from ..cpuinfo import Isa, cpu_features
from ..explain import operators
from ..generate import Decide
from ..implement import Decision, choose, entries, follows
from ..launched.device import GpuDevice
from ..launched.gpu import arch_of
from ..lower import Problem, make_problem
from ..opencl.devices import OpenclDevice, find
from ..program import KernelStep
from ..schedules.space import GROUP
from ..target import Target
from ..toolchain import find_compiler
from .store import Key, TuningStore, decision_line

_log = logging.getLogger("fusewire")


@frozen
class Place:
    """Where measurements hold: a kind of target, a device, who makes code for it, and for how many threads."""

    target: str
    device: str
    driver: str
    isa: Isa
    threads: int

    def key(self, function: Function, constants: Collection[int]) -> Key:
        """The key under which a group is remembered; `constants` are the positions of known inputs."""
        group = json.dumps([str(function), structural_hash(function), sorted(constants), str(self.isa)])
        digest = hashlib.sha256(group.encode()).hexdigest()[:20]
        return Key(self.target, self.device, self.driver, self.threads, work_of(function), digest)


def place_of(target: Target, isa: Isa, threads: int) -> Place:
    """Where a module for a target runs.

    Raises:
        DeviceNotFound: it runs on a device that is not there.
        DeviceError: it does not run on the device that is there.
    """
    if target.kind == "cpu":
        compiler = find_compiler()
        driver = f"{compiler.family}: {compiler.version}, {isa.name}"
        return Place("cpu", cpu_features().name, driver, isa, threads)
    if target.kind == "opencl":
        return opencl_place(find(target.device), isa, threads)
    gpu = GPU_KINDS[target.kind].device(target)
    return gpu_place(gpu, target.kind, isa)


def gpu_place(device: GpuDevice, kind: str, isa: Isa) -> Place:
    """A GPU with its driver. `-arch=` makes no other place than the kind alone, where the device's architecture is what
    its code is compiled for either way.

    Raises:
        DeviceError: code for that architecture does not run there.
    """
    compiled = device.arch_for(arch_of(isa))
    same = evolve(isa, name=kind if compiled == device.arch else f"{kind} {compiled}")
    return Place(kind, device.name, f"{device.software}, {same.name}", same, 0)


def opencl_place(device: OpenclDevice, isa: Isa, threads: int) -> Place:
    """A device of OpenCL with its driver."""
    driver = f"{device.platform}: {device.version}, driver {device.driver}, {isa.name}"
    return Place("opencl", device.name, driver, isa, threads)


def work_of(function: Function) -> str:
    """What a group computes, to be read: operators, the numbers of convolutions in MNN's order, and types."""
    shapes = [_numbers(e) for e in post_order(function.body) if isinstance(e, Call) and "conv2d" in str(e.op)]
    types = [str(t) for param in function.params for t in tensors_of(param.checked_type)]
    return " ".join(["+".join(operators(function)), *shapes, *types])


def _numbers(conv: Call) -> str:
    """Cin_Cout_KH_KW_SH_SW_DH_DW of a convolution in two dimensions."""
    attrs = conv.attrs
    layout = str(attrs["data_layout"])
    data, weight = (_extents(arg.checked_type, str(attrs[key])) for arg, key in
                    zip(conv.args, ("data_layout", "kernel_layout"), strict=True))  # fmt: skip
    out = _extents(conv.checked_type, str(attrs.get("out_layout") or layout))
    return "_".join(map(str, [data["C"], out["C"], weight["H"], weight["W"], *attrs["strides"], *attrs["dilation"]]))


def _extents(type_: Type, layout: str) -> dict[str, int]:
    """The extents of the axes of a tensor such as NCHW16c; blocks count with their axis."""
    assert isinstance(type_, TensorType)
    found: dict[str, int] = {}
    for axis, extent in zip(filter(str.isalpha, layout), type_.static_shape, strict=True):
        found[axis.upper()] = found.get(axis.upper(), 1) * extent
    return found


def decide_by(records: TuningStore, target: Target, isa: Isa, threads: int) -> Decide:
    """The decisions of a store for the groups of a program.

    Raises:
        FusewireError: the store is locked, and a group that leaves a choice has no decision in it, or one that cannot
            be followed; or the device is not there, so that nobody knows what was decided for it.
    """

    @cache
    def place() -> Place | None:
        try:
            return place_of(target, isa, threads)
        except (DeviceNotFound, DeviceError) as error:
            if records.locked:
                raise
            _log.info("building for '%s' without tuning records: %s", target, error)
            return None

    def decide(problem: Problem, function: Function) -> Decision | None:
        # Without an anchor there is one way to write a kernel; launches still have their sizes.
        if (problem.anchor is None and target.kind == "cpu") or (len(records) == 0 and not records.locked):
            return None
        where = place()
        if where is None:
            return None
        key = where.key(function, [k for k, buffer in enumerate(problem.inputs) if buffer in problem.constants])
        decision = records.decision(key)
        if records.locked and (not follows(problem, decision) if decision else several(problem)):
            what = f"says {_told(problem, decision)}" if decision else "lacks"
            raise FusewireError(f"'{records.path}' {what}: {key.work} on {key.device}, {key.driver}, "
                                f"{key.threads} threads; `fusewire lock` writes a complete one")  # fmt: skip
        return decision

    return decide


def _told(problem: Problem, decision: Decision) -> str:
    """A decision that cannot be followed."""
    device, group = problem.isa.device, decision.config.get(GROUP)
    why = "which is not there"
    if device is not None and group is not None and not problem.isa.takes_groups(group):
        step = device.warp if problem.isa.gpu else 1
        why = f"but work-groups have {step} to {device.max_group} items{f', a multiple of {step}' * (step > 1)}"
    return f"{decision.implementation} {dict(decision.config)}, {why}"


def several(problem: Problem) -> bool:
    """Whether there is anything to choose for a group."""
    entry, _ = choose(problem)
    fitting = [e for e in entries(problem) if e.priority >= entry.entry.priority and e.check(problem) is None]
    return len(fitting) > 1 or len(list(islice(entry.entry.configs(problem), 2))) > 1


def freeze(lib: CompiledModule, asked: Mapping[Key, Decision | None], path: Path) -> int:
    """Write what a build decided as a file of decisions, one JSON object a line, in order of their keys.

    Args:
        lib: the module as it was built.
        asked: what the build asked of the records; regions of libraries among it.
        path: the file; is replaced.

    Returns:
        The number of decisions.

    Raises:
        FusewireError: the file cannot be written.
    """
    lines: set[str] = set()
    code = lib.runnable.code
    place = place_of(lib.target, code.isa, lib.threads)
    for step in lib.program.leaf_steps():
        if isinstance(step, KernelStep):
            known = {k for k, slot in enumerate(step.inputs) if slot in lib.program.constants}
            key = place.key(step.function, known)
            if asked.get(key) or several(make_problem(step.function, "KERNEL", code.isa, lib.threads, known)):
                compiled = code.of(step)
                config = next(c.config for c in compiled.candidates if c.name == compiled.implementation)
                lines.add(decision_line(key, compiled.implementation, config, "normal"))
    names = {library.name for library in lib.runnable.report.libraries}
    for key, decision in asked.items():
        if decision is not None and key.driver in names:
            lines.add(decision_line(key, decision.implementation, decision.config, "normal"))
    try:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)))
    except OSError as error:
        raise FusewireError(f"cannot write '{path}': {error.strerror or error}") from None
    return len(lines)
