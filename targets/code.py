"""Generated code as the rest of the house sees it, whatever the target: `CpuCode`, `LaunchCode`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt
from attrs import frozen

from ..ir.deferred import Deferred, force
from .cpuinfo import Isa
from .implement import Candidate
from .program import KernelStep


@frozen(eq=False)
class StepCode:
    """The code of one step, as far as all targets have the same.

    Attributes:
        step: the step.
        symbol: what the kernel is called in the files: the first step that has it gives the name.
        implementation: who made it.
        candidates: all that were considered.
        inputs: the slots that it reads, packed constants among them.
    """

    step: KernelStep
    _loop_ir: str | Deferred[str]
    _source: str | Deferred[str]
    symbol: str
    implementation: str
    candidates: tuple[Candidate, ...]
    inputs: tuple[int, ...]

    @property
    def loop_ir(self) -> str:
        """The kernel as loop IR; for launches, before it was cut into them."""
        return force(self._loop_ir)

    @property
    def source(self) -> str:
        """The kernel as text."""
        return force(self._source)


class Code(Protocol):
    """All generated code of a program."""

    @property
    def packed(self) -> Mapping[int, npt.NDArray[Any]]:
        """Tensors that hold constants in the form that a kernel wants, by slot (numbers beyond the program's)."""
        ...

    @property
    def isa(self) -> Isa:
        """What schedules wrote for."""
        ...

    @property
    def files(self) -> Sequence[tuple[str, str]]:
        """The sources as (name, text)."""
        ...

    def of(self, step: KernelStep) -> StepCode:
        """The code of a step."""
        ...

    def workspace(self, threads: int, step: KernelStep | None = None) -> int:
        """Bytes of scratch that a step needs, or the whole program."""
        ...
