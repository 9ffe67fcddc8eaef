"""Running a compiled program: set inputs, run, get outputs, take times; the device's part is an `Engine`."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.errors import RuntimeInputError
from ..ir.types import TupleType
from .backends import backend_of
from .device import Device, NDArray
from .feed import Feed
from .locks import Lock
from .peaks import known_peaks, second_look
from .program import BranchStep, Step, flatten
from .runnable import Factory
from .timing import BenchmarkResult, Profile, profiled, seconds
from .work import Work, work_of_step

Array = npt.NDArray[Any]


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
        self._lock = Lock()
        self._engine = backend_of(self.device.kind).engine(self.lib, self.device)
        self._feed = Feed(self.lib.program, self._engine)
        self._given: set[str] = set()
        self._ran = False
        self._actions = self._engine.compile(self.lib.program.steps)

    # Running

    def run(self, /, **inputs: Any) -> None:
        """Run once, after setting the inputs given by name.

        Raises:
            RuntimeInputError: an input was never set, or does not fit.
            LibraryCallError: a library failed. There are no outputs then; the module can run again.
        """
        for name, value in inputs.items():
            self.set_input(name, value)
        with self._lock:
            self._ready()
            self._ran = False
            for action in self._actions:
                action()
            self._engine.wait()
            self._ran = True

    def run_step(self, step: Step) -> None:
        """Run one step by itself, as it was compiled, on what its tensors hold (see `tensor`). Outputs are lost."""
        with self._lock:
            self._ran = False
            self._engine.action(step)()

    def _ready(self) -> None:
        inputs = self.lib.program.inputs
        if len(self._given) < len(inputs):
            missing = [n for n in inputs if n not in self._given]
            raise RuntimeInputError(f"inputs not set: {', '.join(map(self._feed.describe, missing))}")

    # Inputs and outputs

    def set_input(self, /, key: str | int | None = None, value: Any = None, **params: Any) -> None:
        """Copy arrays into inputs: `set_input("data", x)`, `set_input(0, x)` or `set_input(data=x, ...)`.

        Raises:
            RuntimeInputError: the name is unknown, or shape or dtype do not fit; the message gives the expected ones.
        """
        if key is not None:
            params = {self._feed.name(key): value, **params}
        for given, item in params.items():
            name = self._feed.name(given)
            with self._lock:
                for slot, array in self._feed.fitting(name, item):
                    self._engine.write(slot, array)
                self._given.add(name)

    def set_input_zero_copy(self, key: str | int, value: Any) -> None:
        """Let an input share memory with `value`, a C-contiguous array that stays unchanged while the module runs."""
        name = self._feed.name(key)
        with self._lock:
            for slot, array in self._feed.fitting(name, value):
                self._engine.share(slot, array)
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
        name = self._feed.name(key)
        if isinstance(self.lib.program.types[name], TupleType):
            raise RuntimeInputError(f"input {self._feed.describe(name)} is a tuple, not one tensor")
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
        return self._deliver(self._output(index), out)

    def get_output_array(self, index: int = 0) -> Any:
        """An output of the last run where it lies: on cuda an array of CuPy, which the next run overwrites.

        Raises:
            RuntimeInputError: there is no such output.
        """
        return self._engine.array(self._output(index))

    def _output(self, index: int) -> int:
        """The slot of an output."""
        outputs = self.lib.program.outputs
        if not isinstance(index, int | np.integer) or not 0 <= index < len(outputs):
            raise RuntimeInputError(
                f"there is no output {index!r}; the module has {len(outputs)} (0..{len(outputs) - 1})"
            )
        if not self._ran:
            raise RuntimeInputError("there are no outputs: call run() first, and it must succeed")
        return outputs[index]

    def _deliver(self, slot: int, out: NDArray | None) -> NDArray:
        array = self._engine.read(slot)
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

    def walk(self, visit: Callable[[Step, float], None]) -> None:
        """Run every step once, one after the other as in a run; `visit` gets each with the seconds that it took."""

        with self._lock:
            self._ready()
            leaves = [s for s in flatten(self.lib.program.steps) if not isinstance(s, BranchStep)]
            actions = {id(step): self._engine.action(step) for step in leaves}
            for step in self._taken(self.lib.program.steps):
                visit(step, seconds(actions[id(step)], 1))

    def _taken(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Steps and those of the branches taken, one by one: each must have run before the next is asked for."""
        for step in steps:
            if isinstance(step, BranchStep):
                yield from self._taken(step.then if self._engine.read(step.cond).item() else step.orelse)
            else:
                yield step

    def tensor(self, slot: int) -> Array:
        """The memory of a slot of the program, as it is just now: later steps may have overwritten it."""
        return self._engine.read(slot)

    def profile(self, repeat: int = 20, peaks: bool = True, **inputs: Any) -> Profile:
        """Time every step by itself (the median of `repeat` times), and compare it with what this machine can do.

        Steps of untaken branches are left out. The first profile on a machine measures its peaks (about a second),
        unless `peaks` is False.
        """
        self.run(**inputs)
        times: list[tuple[str, str, float, Work | None]] = []
        with self._lock:
            for step in self._taken(self.lib.program.steps):
                taken = self._engine.seconds(step, repeat)
                times.append((*self.lib.label(step), taken, work_of_step(step, self.lib.program)))
        if not peaks or self.device.kind != "cpu":
            return profiled(times, None)
        machine = self.lib.code.isa, self.lib.threads
        found = profiled(times, known_peaks(*machine))
        return found if found.plausible else profiled(times, second_look(*machine))
