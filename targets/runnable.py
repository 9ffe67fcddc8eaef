"""What running needs of a compiled module."""

from typing import Any

from attrs import frozen

from ..fuse.library import Executable, Region
from .code import Code
from .device import Device
from .explain import Choice, Report
from .librarycall import prepared
from .memory import Arena
from .program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step


@frozen(eq=False, repr=False)
class Runnable:
    """What running needs of a compiled module: steps, code, memory plan, and who implements the library steps."""

    program: Program
    code: Code
    arena: Arena
    threads: int
    report: Report

    def library_call(self, step: LibraryStep, queue: Any = None) -> Executable:
        """The executable of a library step, with memory of its own; `queue`: see `Region`.

        Raises:
            LibraryNotFound: the library is not there.
            LibraryCallError: the library cannot prepare it.
        """
        known = {k: self.program.constants[s] for k, s in enumerate(step.inputs) if s in self.program.constants}
        region = Region(step.function, known, self.threads, queue, self.report.precision)
        return prepared(self.report.rule(step), region, step.name)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Who runs each step, and why."""
        return tuple(self.report.choice(step, self.code) for step in self.program.leaf_steps())

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
