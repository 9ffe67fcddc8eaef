"""A one-second test of a device and its driver.

Drivers do compute wrongly now and then. A few small groups, among them what breaks most often (wide vectors, guarded
loads, integer division, several launches with scratch between them), are run and compared with NumPy; the result is
kept by device and driver.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from typing import TypeAlias

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
from ..cpuinfo import Isa, usable_cores
from ..engine import Engine
from ..explain import Report
from ..generate import Decide, no_decision
from ..kernelcache import fingerprint
from ..memory import plan
from ..objcache import ObjectCache
from ..program import Program, make_program
from ..runnable import Runnable
from ..toolchain import cache_dir
from .code import LaunchCode

_log = logging.getLogger("fusewire")

Generate: TypeAlias = Callable[[Program, Isa, int, Decide], LaunchCode]

TOLERANCE = 1e-4


@frozen
class SelfTest:
    """What a test found: None, or what is wrong; the seconds it took; and whether it came to an end, with results."""

    problem: str | None
    seconds: float
    ended: bool = True

    def require(self, device: str) -> None:
        """Refuse a device that failed.

        Raises:
            DeviceError: it computes wrongly.
        """
        if self.problem:
            raise DeviceError(
                f"{device} failed the self-test and is not used: {self.problem}; update its driver, or take another "
                "device with -device="
            )


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


def run(isa: Isa, generate: Generate, engine: Callable[[Runnable], Engine]) -> SelfTest:
    """Test a device now: `generate` makes code for it from what schedules write for, `engine` runs it there."""
    start = time.perf_counter()
    function, inputs = _graph()
    typed = infer_type(function)
    assert isinstance(typed, Function)
    fused = Sequential([FuseOps()])(IRModule({"main": typed}))["main"]
    problem, ended = None, True
    try:
        program = make_program(fused, "selftest")
        code = generate(program, isa, usable_cores(), no_decision)
        lib = Runnable(program, code, plan(program, align=LaunchCode.ALIGN), usable_cores(), Report("", (), ()))
        runner = engine(lib)
        for name, (slot,) in program.inputs.items():
            runner.write(slot, inputs[name])
        for action in runner.compile(program.steps):
            action()
        runner.wait()
        expected = evaluate(function, inputs)
        for slot, wanted in zip(program.outputs, expected, strict=True):
            error = float(np.abs(runner.read(slot).astype(np.float64) - wanted).max())
            if not error <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
                problem = f"a result of type {program.slots[slot]} is wrong by {error:.3g}"
    except FusewireError as error:
        problem, ended = str(error), False
    return SelfTest(problem, time.perf_counter() - start, ended)


def tested(device: object, identity: str, test: Callable[[], SelfTest]) -> SelfTest:
    """The result of a device's `test`, from the cache if device and driver, its `identity`, were tested before."""
    key = hashlib.sha256(f"selftest\0{identity}\0{fingerprint()}".encode()).hexdigest()
    cache = ObjectCache(cache_dir(), "selftest.json")
    if (data := cache.read(key)) is not None:
        return SelfTest(**json.loads(data))
    found = test()
    _log.info("self-test of %s: %s, %.2f s", device, found.problem or "passed", found.seconds)
    if not found.ended:  # too little memory, or no compiler: it may be otherwise the next time
        return found
    try:
        cache.put(key, json.dumps({"problem": found.problem, "seconds": found.seconds}).encode(), {}, {})
    except OSError as error:
        _log.info("the result of the self-test is not kept: %s", error)
    return found
