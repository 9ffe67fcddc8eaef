"""Generated code as the rest of the house sees it, whatever the target: `CpuCode`, `LaunchCode`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from .cpuinfo import Isa
from .implement import Candidate
from .program import KernelStep


class StepCode(Protocol):
    """The code of one step."""

    @property
    def step(self) -> KernelStep:
        """The step."""
        ...

    @property
    def loop_ir(self) -> str:
        """The kernel as loop IR."""
        ...

    @property
    def source(self) -> str:
        """The kernel as text."""
        ...

    @property
    def symbol(self) -> str:
        """What the kernel is called in the files: the first step that has it gives the name."""
        ...

    @property
    def implementation(self) -> str:
        """Who made it."""
        ...

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that were considered."""
        ...

    @property
    def inputs(self) -> tuple[int, ...]:
        """The slots that it reads, packed constants among them."""
        ...


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
