"""A one-second test of a device and its driver, and the choice of a device that passed it.

Drivers do compute wrongly now and then. A few small groups, among them what breaks most often (wide vectors, guarded
loads, integer division, several launches with scratch between them), are run and compared with NumPy; the result is
kept by device and driver.
"""

import hashlib
import json
import logging
import time
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ... import ops
from ...fuse.evaluate import evaluate
from ...fuse.transform import FuseOps, Sequential
from ...ir.errors import DeviceError, FusewireError
from ...ir.expr import Expr, Function, Tuple, Var, const
from ...ir.infer import infer_type
from ...ir.module import IRModule
from ...ir.types import TensorType
from ..code import Code
from ..cpuinfo import usable_cores
from ..device import Device
from ..explain import Report
from ..generate import no_decision
from ..kernelcache import fingerprint
from ..memory import plan
from ..objcache import ObjectCache
from ..program import make_program
from ..runnable import Runnable
from ..target import Target
from ..toolchain import cache_dir
from .code import OpenclCode, generate, isa_for
from .devices import OpenclDevice, all_devices, find
from .engine import OpenclEngine

_log = logging.getLogger("fusewire")

TOLERANCE = 1e-4


@frozen
class SelfTest:
    """What a test found: None, or what is wrong; and the seconds it took."""

    problem: str | None
    seconds: float


def _graph() -> tuple[Function, dict[str, npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    x, y = Var("x", TensorType((1, 16, 9, 9), "float32")), Var("y", TensorType((5, 37), "float32"))
    weight = const(rng.uniform(-1, 1, (16, 16, 3, 3)).astype(np.float32))
    conv = ops.nn.relu(ops.nn.conv2d(x, weight, kernel_size=(3, 3), channels=16, padding=(1, 1)))
    whole = ops.cast(ops.multiply(y, const(np.float32(100))), "int32")
    outputs: list[Expr] = [
        conv,
        ops.nn.softmax(ops.tanh(y), axis=-1),
        ops.floor_mod(whole, const(np.int32(7))),
        ops.nn.dense(y, const(rng.uniform(-1, 1, (33, 37)).astype(np.float32)), units=33),
        ops.transpose(ops.exp(y), axes=[1, 0]),
    ]
    inputs = {"x": rng.uniform(-1, 1, (1, 16, 9, 9)), "y": rng.uniform(-1, 1, (5, 37))}
    return Function([x, y], Tuple(outputs)), {k: v.astype(np.float32) for k, v in inputs.items()}


def run(device: OpenclDevice) -> SelfTest:
    """Test a device now."""
    start = time.perf_counter()
    function, inputs = _graph()
    typed = infer_type(function)
    assert isinstance(typed, Function)
    fused = Sequential([FuseOps()])(IRModule({"main": typed}))["main"]
    problem = None
    try:
        program = make_program(fused, "selftest")
        code = generate(program, isa_for(Target("opencl")), usable_cores(), no_decision)
        lib = Runnable(program, code, plan(program, align=OpenclCode.ALIGN), usable_cores(), Report("opencl", (), ()))
        engine = OpenclEngine(lib, Device("opencl", device.index))
        for name, (slot,) in program.inputs.items():
            engine.write(slot, inputs[name])
        for action in engine.compile(program.steps):
            action()
        engine.wait()
        expected = evaluate(function, inputs)
        for slot, wanted in zip(program.outputs, expected, strict=True):
            error = float(np.abs(engine.read(slot).astype(np.float64) - wanted).max())
            if not error <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
                problem = f"a result of type {program.slots[slot]} is wrong by {error:.3g}"
    except FusewireError as error:
        problem = str(error)
    return SelfTest(problem, time.perf_counter() - start)


@lru_cache(maxsize=16)
def tested(index: int) -> SelfTest:
    """The result of a device's test, from the cache if this driver was tested before."""
    device = all_devices()[index]
    key = hashlib.sha256(f"selftest\0{device.identity}\0{fingerprint()}".encode()).hexdigest()
    cache = ObjectCache(cache_dir(), "selftest.json")
    if (data := cache.read(key)) is not None:
        return SelfTest(**json.loads(data))
    found = run(device)
    _log.info("self-test of %s: %s, %.2f s", device, found.problem or "passed", found.seconds)
    try:
        cache.put(key, json.dumps({"problem": found.problem, "seconds": found.seconds}).encode(), {}, {})
    except OSError as error:
        _log.info("the result of the self-test is not kept: %s", error)
    return found


def chosen_device(code: Code, target: Target, device: Device) -> Device:
    """The device that a module for `target` runs on: number `device.index` among those that `-device=` means.

    Raises:
        DeviceNotFound: there is none.
        DeviceError: it computes wrongly.
    """
    found = find(target.device, device.index)
    result = tested(found.index)
    if result.problem:
        raise DeviceError(
            f"{found.name} ({found.platform}, driver {found.driver}) failed the self-test and is not used: "
            f"{result.problem}; update its driver, or take another device with -device="
        )
    return Device("opencl", found.index)
