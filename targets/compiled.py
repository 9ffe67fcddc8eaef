"""What `fw.build` makes: code, constants and memory plan, with the graph and the reasons that they come from."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy.typing as npt
from attrs import define, field, frozen

from ..ir.deferred import Deferred, force
from ..ir.errors import FusewireError, RuntimeInputError, TargetError
from ..ir.expr import Function
from ..ir.module import IRModule
from ..ir.types import nbytes
from .artifact.write import save
from .backends import backend_of
from .cpu import CpuCode, cpu_code
from .device import Device, device
from .executor import GraphModule
from .explain import Explanation
from .export.folder import export_c
from .libraries import require
from .locks import Lock
from .memory import Arena
from .program import KernelStep, LibraryStep, Program
from .runnable import Factory, Runnable
from .target import Target

Array = npt.NDArray[Any]


@frozen(eq=False)
class FunctionInfo:
    """What is known of one generated function; sizes in bytes by target.

    Attributes:
        workspace_sizes: scratch memory while it runs (for the whole program: the arena and the kernels' scratch).
        io_sizes: results (for the whole program: inputs and results).
        constant_sizes: constants that it holds.
        relay_function: the graph that it computes.
        loop_ir, source: its code; empty for the whole program and for library calls.
    """

    workspace_sizes: dict[Target, int]
    io_sizes: dict[Target, int]
    constant_sizes: dict[Target, int]
    relay_function: Function = field(repr=False)
    loop_ir: str = field(default="", repr=False)
    source: str = field(default="", repr=False)


@define(eq=False, repr=False)
class CompiledModule:
    """The result of `fw.build`: code, constants and memory plan, for any number of `GraphModule`s.

    Attributes:
        target: the target it was built for.
        ir_mod: the module before fusion.
        fused_mod: the module after fusion, of which the program was made.
        params: the constants, by name.
    """

    target: Target
    _ir_mod: IRModule | Deferred[IRModule]
    _fused_mod: IRModule | Deferred[IRModule]
    params: dict[str, Array]
    runnable: Runnable
    name: str = "default"
    _module: GraphModule | None = field(default=None)
    _lock: Lock = field(factory=Lock)

    def __repr__(self) -> str:
        return f"<CompiledModule {self.name!r} for '{self.target}': {len(self.program.leaf_steps())} steps>"

    def __getitem__(self, name: str) -> Any:
        """`lib["default"](dev)` gives what `GraphModule` is made from.

        Raises:
            FusewireError: there is no module of this name.
        """
        if name != self.name:
            raise FusewireError(f"the library holds a module called {self.name!r}, not {name!r}")
        return self._create

    def _create(self, dev: Device | str) -> Factory:
        dev = device(dev) if isinstance(dev, str) else dev
        if not isinstance(dev, Device):
            raise TargetError(f"expected a device, such as fw.cpu(0), got a {type(dev).__name__}")
        if dev.kind != self.target.kind:
            raise TargetError(f"built for target '{self.target}', which cannot run on {dev}")
        dev = backend_of(dev.kind).check(self.runnable.code, self.target, dev)
        require(self.runnable.report.used(self.program))
        return Factory(self.runnable, dev)

    def __call__(self, /, **inputs: Any) -> Any:
        """Run on inputs given by name; returns a new array, or a list of arrays for several results.

        Raises:
            RuntimeInputError: a name, shape or dtype does not fit, or an input is missing.
        """
        with self._lock:
            if self._module is None:
                self._module = GraphModule(self._create(Device(self.target.kind)))
            module = self._module
            if missing := [n for n in self.program.inputs if n not in inputs]:
                raise RuntimeInputError(f"inputs not given: {', '.join(map(module._feed.describe, missing))}")
            for name, value in inputs.items():
                module.set_input_zero_copy(name, value)
            module.run()
            results = [module.get_output(k).numpy() for k in range(module.get_num_outputs())]
        return results[0] if len(results) == 1 else results

    def save(self, path: str | PathLike[str]) -> None:
        """Write the module to a file that `load` reads, with its weights and its compiled code.

        The file appears in one piece or not at all, and the same module always gives the same bytes.

        Raises:
            ArtifactError: the file cannot be written, or the module holds something that text cannot.
            CompileError: the C compiler failed.
        """
        save(self.runnable, self.target, self.name, self.ir_mod, self.fused_mod, path)

    def export_c(self, folder: str | PathLike[str], overwrite: bool = False) -> Path:
        """Write the module as a C project of its own, to be compiled without fusewire, here or for another machine.

        The folder gets a header, the generated sources, the thread team, the weights, a small main program, a
        CMakeLists.txt, and a README.md with the commands. The C names begin with the module's name.

        Args:
            folder: where to; is made if need be. What an earlier export wrote there is replaced.
            overwrite: put the project into the folder even if it holds something else.

        Returns:
            The folder.

        Raises:
            FusewireError: the module has library steps, or the folder is in the way or cannot be written.
        """
        return export_c(self.runnable, self.target, self.name, folder, overwrite)

    @property
    def ir_mod(self) -> IRModule:
        """The module before fusion."""
        return force(self._ir_mod)

    @property
    def fused_mod(self) -> IRModule:
        """The module after fusion, of which the program was made."""
        return force(self._fused_mod)

    @property
    def program(self) -> Program:
        """The steps, and the tensors they work on."""
        return self.runnable.program

    @property
    def code(self) -> CpuCode:
        """The generated code of a module for `cpu`.

        Raises:
            FusewireError: it is for another target.
        """
        return cpu_code(self.runnable.code, "CompiledModule.code")

    @property
    def arena(self) -> Arena:
        """Where intermediate tensors lie."""
        return self.runnable.arena

    @property
    def threads(self) -> int:
        """How many threads a module runs on."""
        return self.runnable.threads

    @property
    def function_metadata(self) -> dict[str, FunctionInfo]:
        """Sizes, graph, loop IR and source of every generated function, and of the program as "__fusewire_main__"."""
        main = self.fused_mod["main"]
        inputs = [p.checked_type for p in main.params]
        workspace = self.arena.size + self.runnable.code.workspace(self.threads)
        constants = sum(a.nbytes for a in self.program.constants.values())
        info = {
            "__fusewire_main__": FunctionInfo(
                {self.target: workspace},
                {self.target: nbytes([*inputs, main.body.checked_type])},
                {self.target: constants},
                main,
            )
        }
        for step in self.program.leaf_steps():
            info[step.name] = self._function_info(step)
        return info

    def _function_info(self, step: KernelStep | LibraryStep) -> FunctionInfo:
        io = {self.target: nbytes([step.function.body.checked_type])}
        if isinstance(step, LibraryStep):
            return FunctionInfo({self.target: 0}, io, {self.target: 0}, step.function)
        compiled, workspace = self.runnable.code.of(step), self.runnable.code.workspace(self.threads, step)
        about = step.function, compiled.loop_ir, compiled.source
        return FunctionInfo({self.target: workspace}, io, {self.target: 0}, *about)

    def get_source(self, name: str | None = None, kind: str | None = None) -> str:
        """The generated source: of one function, or of the whole module.

        Args:
            name: which function.
            kind: the target's own language ("c" for cpu, "opencl", "cuda", or "hip" for rocm), which is meant if it is
                left out, or "loops" (the loop IR).

        Raises:
            FusewireError: the kind or the name is unknown.
        """
        own = backend_of(self.target.kind).source
        kind = own if kind is None else kind
        if kind not in (own, "loops"):
            raise FusewireError(f"target '{self.target}' has source of kind {own!r} and 'loops', not {kind!r}")
        info = {k: v for k, v in self.function_metadata.items() if v.source}
        if name is None:
            if kind == own:
                return "\n".join(text for _, text in self.runnable.code.files)
            return "\n\n".join(v.loop_ir for v in info.values())
        if name not in info:
            raise FusewireError(f"no generated function {name!r}; there are {', '.join(info) or 'none'}")
        return info[name].source if kind == own else info[name].loop_ir

    def explain(self, op: str | None = None) -> Explanation:
        """Why each step runs where it runs; `op` keeps the steps that have this operator or name."""
        return Explanation(tuple(c for c in self.runnable.choices if op is None or op == c.step or op in c.ops))


def params_of(program: Program) -> dict[str, Array]:
    """The constants of a program by name, as `CompiledModule.params` has them."""
    return {f"p{k}": array for k, array in enumerate(program.constants.values())}
