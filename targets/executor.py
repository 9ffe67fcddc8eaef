"""Running a compiled program: memory, inputs and outputs, one call into C for each run of generated steps."""

import ctypes
import math
import os
import resource
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..fuse.library import Executable, Region
from ..ir.errors import FusewireError, RuntimeInputError
from ..ir.types import TensorType, TupleType, Type, numpy_dtype
from .cpu import Call, CpuCode
from .device import Device, NDArray, as_numpy
from .explain import Report
from .memory import ALIGN, Arena
from .program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step
from .team import ThreadTeam
from .timing import BenchmarkResult, Profile, StepTime, seconds

Array = npt.NDArray[Any]


@frozen(eq=False, repr=False)
class Runnable:
    """What running needs of a compiled module: steps, code, memory plan, and who implements the library steps."""

    program: Program
    code: CpuCode
    arena: Arena
    threads: int
    report: Report

    def library_call(self, step: LibraryStep) -> Executable:
        """The executable of a library step, with memory of its own."""
        known = {k: self.program.constants[s] for k, s in enumerate(step.inputs) if s in self.program.constants}
        return self.report.rule(step).implement(Region(step.function, known, self.threads))

    def label(self, step: Step) -> tuple[str, str]:
        """A step's name, and who runs it."""
        match step:
            case KernelStep(name=name):
                return name, self.code.of(step).implementation
            case LibraryStep(name=name):
                return name, self.report.rule(step).implementation(self.report.kind)
            case CopyStep():
                return "copy", "numpy"
            case BranchStep():
                return "if", "host"


@frozen(eq=False)
class Factory:
    """`lib["default"](dev)`: what a GraphModule is made from."""

    lib: Runnable
    device: Device


def memory_limits() -> dict[str, int]:
    """How many bytes this process can have at most: by the machine, by its container, by its own limits."""
    found = {}
    with suppress(ValueError, OSError, AttributeError):
        found["this machine has"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1 of Linux's control groups
        with suppress(ValueError, OSError):
            found["its container may have"] = int(Path("/sys/fs/cgroup", group).read_text())
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            found["this process may have (ulimit)"] = soft
    return found


def check_memory(nbytes: int) -> None:
    """Refuse to allocate what the machine cannot hold, before trying.

    Raises:
        FusewireError: `nbytes` is more than the memory there is for this process.
    """
    for who, limit in memory_limits().items():
        if nbytes > limit:
            raise FusewireError(f"the module needs {nbytes} bytes for its tensors; {who} {limit} bytes of memory")


def aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised bytes that start at a multiple of `ALIGN`.

    Raises:
        FusewireError: the system does not have that much memory.
    """
    try:
        raw = np.empty(nbytes + ALIGN, np.uint8)
    except (MemoryError, ValueError) as error:
        raise FusewireError(f"cannot allocate {nbytes} bytes for the tensors of the module: {error}") from None
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + nbytes]


class GraphModule:
    """A compiled module on a device, with memory of its own: set inputs, run, get outputs.

    A module is used by one thread at a time (calls take turns); make one for each thread to run in parallel.

    Args:
        lib: what `lib["default"](dev)` returned, or another GraphModule (whose code is shared).
    """

    def __init__(self, lib: "GraphModule | Factory") -> None:
        if not isinstance(lib, GraphModule | Factory):
            raise RuntimeInputError(f'GraphModule takes what lib["default"](dev) returns, got a {type(lib).__name__}')
        source: Factory = lib.factory if isinstance(lib, GraphModule) else lib
        self.factory: Factory = source
        self.lib = source.lib
        self.device = source.device
        self._lock = threading.Lock()
        program, code = self.lib.program, self.lib.code
        arena = self.lib.arena
        fixed = {*program.outputs, *(s for slots in program.inputs.values() for s in slots)}
        scratch = code.thread_bytes * self.lib.threads + code.team_bytes
        check_memory(arena.size + scratch + sum(program.slots[s].nbytes for s in fixed))
        self._arena = aligned(arena.size)
        self._arrays: list[Array] = [np.empty(0)] * (len(program.slots) + len(code.packed))
        for slot, offset in arena.offsets.items():
            self._arrays[slot] = _view(self._arena, offset, program.slots[slot])
        for slot, array in {**program.constants, **code.packed}.items():
            self._arrays[slot] = array
        for slot in fixed:
            type_ = program.slots[slot]
            self._arrays[slot] = _view(aligned(type_.nbytes), 0, type_)
        self._own = {s: self._arrays[s] for slots in program.inputs.values() for s in slots}
        self._given: set[str] = set()
        self._ran = False
        self._types = program.types
        self._scratch = aligned(scratch)
        self._table = (ctypes.c_void_p * len(self._arrays))()
        for slot in range(len(self._arrays)):
            self._point(slot)
        base = self._scratch.ctypes.data
        self._call = Call(
            ctypes.addressof(self._table), base, code.thread_bytes, base + code.thread_bytes * self.lib.threads
        )
        self._team = ThreadTeam(self.lib.threads, code.runtime()) if code.steps else None
        self._libraries = {
            id(s): source.lib.library_call(s) for s in program.leaf_steps() if isinstance(s, LibraryStep)
        }
        self._actions = self._compile(program.steps)

    def _point(self, slot: int) -> None:
        array = self._arrays[slot]
        self._table[slot] = array.ctypes.data

    # Running

    def _compile(self, steps: Sequence[Step]) -> list[Callable[[], None]]:
        """The step list as functions to call one after the other."""
        actions: list[Callable[[], None]] = []
        run: list[KernelStep] = []

        def close() -> None:
            if run:
                actions.append(self._segment(run[0]))
                run.clear()

        for step in steps:
            if isinstance(step, KernelStep):
                run.append(step)
                continue
            close()
            actions.append(self._action(step))
        close()
        return actions

    def _segment(self, first: KernelStep) -> Callable[[], None]:
        number = next(k for k, run in enumerate(self.lib.code.segments) if run[0] is first)
        return self._region(f"fw_segment_{number}")

    def _region(self, symbol: str) -> Callable[[], None]:
        address, call, team = self.lib.code.function(symbol), ctypes.addressof(self._call), self._team
        assert team is not None
        return lambda: team.run(address, call)

    def _action(self, step: Step) -> Callable[[], None]:
        arrays = self._arrays
        match step:
            case LibraryStep(inputs=inputs, outputs=outputs):
                library = self._libraries[id(step)]
                return lambda: library([arrays[s] for s in inputs], [arrays[s] for s in outputs])
            case CopyStep(source=source, target=target):
                return lambda: np.copyto(arrays[target], arrays[source])
            case BranchStep(cond=cond, then=then, orelse=orelse):
                yes, no = self._compile(then), self._compile(orelse)

                def branch() -> None:
                    for action in yes if arrays[cond].item() else no:
                        action()

                return branch
            case KernelStep():
                return self._region(f"fw_step_{step.name}")

    def run(self, /, **inputs: Any) -> None:
        """Run once, after setting the inputs given by name.

        Raises:
            RuntimeInputError: an input was never set, or does not fit.
        """
        for name, value in inputs.items():
            self.set_input(name, value)
        with self._lock:
            self._ready()
            for action in self._actions:
                action()
            self._ran = True

    def _ready(self) -> None:
        missing = [n for n in self.lib.program.inputs if n not in self._given]
        if missing:
            raise RuntimeInputError(f"inputs not set: {', '.join(map(self._describe, missing))}")

    # Inputs and outputs

    def _describe(self, name: str) -> str:
        types = [str(self.lib.program.slots[s]) for s in self.lib.program.inputs[name]]
        return f"{name!r}: {types[0] if len(types) == 1 else '(' + ', '.join(types) + ')'}"

    def _name(self, key: str | int) -> str:
        names = list(self.lib.program.inputs)
        if isinstance(key, int) and 0 <= key < len(names):
            return names[key]
        if not isinstance(key, str) or key not in names:
            expected = ", ".join(map(self._describe, names)) or "none"
            raise RuntimeInputError(f"there is no input {key!r}; the inputs are {expected}")
        return key

    def _fitting(self, name: str, value: Any) -> list[tuple[int, Array]]:
        slots = self.lib.program.inputs[name]
        values = _leaves(value, self._types[name])
        if values is None or len(values) != len(slots):
            got = f"{len(value)} values" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
            raise RuntimeInputError(f"input {self._describe(name)} takes a tuple of {len(slots)} arrays, got {got}")
        fitting = []
        for slot, item in zip(slots, values, strict=True):
            type_ = self.lib.program.slots[slot]
            try:
                array = _as_array(item, type_)
            except (TypeError, ValueError, OverflowError, RuntimeError, BufferError) as error:
                raise RuntimeInputError(
                    f"input {self._describe(name)} was given a {type(item).__name__}: {error}"
                ) from None
            if array.shape != type_.shape or array.dtype != numpy_dtype(type_.dtype):
                raise RuntimeInputError(
                    f"input {self._describe(name)} was given {array.dtype.name} of shape {array.shape}"
                )
            fitting.append((slot, array))
        return fitting

    def set_input(self, /, key: str | int | None = None, value: Any = None, **params: Any) -> None:
        """Copy arrays into inputs: `set_input("data", x)`, `set_input(0, x)` or `set_input(data=x, ...)`.

        Raises:
            RuntimeInputError: the name is unknown, or shape or dtype do not fit; the message gives the expected ones.
        """
        if key is not None:
            params = {self._name(key): value, **params}
        for given, item in params.items():
            name = self._name(given)
            with self._lock:
                for slot, array in self._fitting(name, item):
                    own = self._own[slot]
                    own[...] = array
                    self._arrays[slot] = own
                    self._point(slot)
                self._given.add(name)

    def set_input_zero_copy(self, key: str | int, value: Any) -> None:
        """Let an input share memory with `value`, a C-contiguous array that stays unchanged while the module runs."""
        name = self._name(key)
        with self._lock:
            for slot, array in self._fitting(name, value):
                self._arrays[slot] = np.require(array, requirements=["C", "A"]).reshape(array.shape)
                self._point(slot)
            self._given.add(name)

    def get_num_inputs(self) -> int:
        """The number of inputs."""
        return len(self.lib.program.inputs)

    def get_num_outputs(self) -> int:
        """The number of output tensors."""
        return len(self.lib.program.outputs)

    def get_input(self, key: str | int, out: NDArray | None = None) -> NDArray:
        """The tensor that an input holds; like an output, it shares the module's memory unless `out` is given.

        Raises:
            RuntimeInputError: there is no such input, it is a tuple, or `out` does not fit.
        """
        name = self._name(key)
        if isinstance(self._types[name], TupleType):
            raise RuntimeInputError(f"input {self._describe(name)} is a tuple, not one tensor")
        return self._deliver(self.lib.program.inputs[name][0], out)

    def get_input_info(self) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
        """Shapes and dtypes of the inputs by name."""
        program = self.lib.program
        types = {name: program.slots[slots[0]] for name, slots in program.inputs.items()}
        return {n: t.static_shape for n, t in types.items()}, {n: t.dtype for n, t in types.items()}

    def get_output(self, index: int = 0, out: NDArray | None = None) -> NDArray:
        """An output of the last run. It shares the module's memory, which the next run overwrites.

        Args:
            index: which output.
            out: an array to copy it into and to return.

        Raises:
            RuntimeInputError: there is no such output, or `out` does not fit.
        """
        outputs = self.lib.program.outputs
        if not isinstance(index, int | np.integer) or not 0 <= index < len(outputs):
            raise RuntimeInputError(
                f"there is no output {index!r}; the module has {len(outputs)} (0..{len(outputs) - 1})"
            )
        if not self._ran:
            raise RuntimeInputError("there are no outputs yet: call run() first")
        return self._deliver(outputs[index], out)

    def _deliver(self, slot: int, out: NDArray | None) -> NDArray:
        array = self._arrays[slot]
        if out is None:
            return NDArray(array, self.device)
        if not isinstance(out, NDArray):
            raise RuntimeInputError(f"out must be an NDArray (fw.nd.empty makes one), got a {type(out).__name__}")
        return out.copyfrom(array)

    # Timing

    def benchmark(
        self,
        device: Device | None = None,
        func_name: str = "run",
        repeat: int = 5,
        number: int = 5,
        min_repeat_ms: float = 0,
        end_to_end: bool = False,
        **inputs: Any,
    ) -> BenchmarkResult:
        """Time runs: `repeat` times the mean of `number` runs (more where `min_repeat_ms` asks for it), after a
        warm-up.

        With `end_to_end`, setting the inputs given and fetching the outputs are part of each run.
        """
        if func_name != "run":
            raise RuntimeInputError(f"only 'run' can be benchmarked, got {func_name!r}")
        if repeat < 1 or number < 1:
            raise RuntimeInputError(f"repeat and number must be at least 1, got {repeat} and {number}")

        def once() -> None:
            self.run(**(inputs if end_to_end else {}))
            if end_to_end:
                for k in range(self.get_num_outputs()):
                    self.get_output(k).numpy()

        self.run(**inputs)
        if min_repeat_ms:
            number = max(number, math.ceil(min_repeat_ms / 1e3 / max(seconds(once, 1), 1e-9)))
        return BenchmarkResult(tuple(seconds(once, number) for _ in range(repeat)))

    def profile(self, repeat: int = 20, **inputs: Any) -> Profile:
        """Time every step by itself (the median of `repeat` runs); steps of untaken branches are left out."""
        self.run(**inputs)
        times: list[tuple[str, str, float]] = []

        def visit(steps: Sequence[Step]) -> None:
            for step in steps:
                if isinstance(step, BranchStep):
                    visit(step.then if self._arrays[step.cond].item() else step.orelse)
                    continue
                action = self._action(step)
                taken = float(np.median([seconds(action, 1) for _ in range(repeat)]))
                times.append((*self.lib.label(step), taken))

        with self._lock:
            visit(self.lib.program.steps)
        whole = sum(t for _, _, t in times) or 1.0
        return Profile(tuple(StepTime(name, by, t, t / whole) for name, by, t in times))


def _view(memory: npt.NDArray[np.uint8], offset: int, type_: TensorType) -> Array:
    return memory[offset : offset + type_.nbytes].view(numpy_dtype(type_.dtype)).reshape(type_.static_shape)


def _leaves(value: Any, type_: Type) -> list[Any] | None:
    """What is given for each tensor of a type, tuples flattened; None where `value` has another structure."""
    if not isinstance(type_, TupleType):
        return [value]
    if not isinstance(value, list | tuple) or len(value) != len(type_.fields):
        return None
    parts = [_leaves(v, t) for v, t in zip(value, type_.fields, strict=True)]
    return [leaf for part in parts for leaf in part or ()] if None not in parts else None


def _as_array(value: Any, type_: TensorType) -> Array:
    """`value` as an array. Python numbers, and lists of them, have no dtype of their own: they take that of `type_`."""
    array = as_numpy(value)
    wanted = numpy_dtype(type_.dtype)
    if (
        isinstance(value, int | float | list | tuple)
        and not isinstance(value, np.generic)
        and array.dtype.kind in "biuf"
    ):
        kinds = "biuf" if wanted.kind in "fV" else "b" if wanted.kind == "b" else "biu"
        return np.asarray(value, wanted) if array.dtype.kind in kinds else array
    return array
