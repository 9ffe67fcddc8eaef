"""What runs a program on a device: the part of a module that differs from target to target.

`GraphModule` has one for each module; targets/backends.py knows which target has which.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy.typing as npt

from .program import KernelStep, Step

Array = npt.NDArray[Any]
Action = Callable[[], None]


def in_runs(
    steps: Sequence[Step], several: Callable[[list[KernelStep]], Action], single: Callable[[Step], Action]
) -> list[Action]:
    """Steps as functions: one for each run of consecutive kernel steps, one for every other step."""
    actions: list[Action] = []
    for kernels, found in groupby(steps, lambda step: isinstance(step, KernelStep)):
        if kernels:
            actions.append(several([step for step in found if isinstance(step, KernelStep)]))
        else:
            actions += map(single, found)
    return actions


class Engine(Protocol):
    """Memory for the tensors of a program, and steps as functions to call."""

    def adopted(self, value: Any) -> Any | None:
        """An array of another kind than NumPy's as one that `write` and `share` take, with a shape and a dtype."""
        ...

    def write(self, slot: int, array: Any) -> None:
        """Copy an array of the right shape and dtype into an input."""
        ...

    def share(self, slot: int, array: Any) -> None:
        """Let an input be an array, which stays unchanged while the program runs; copy it where that cannot be."""
        ...

    def read(self, slot: int) -> Array:
        """A tensor as it is just now: where it lies, or a copy where this process cannot see it."""
        ...

    def array(self, slot: int) -> Any:
        """A tensor where it lies, as an array of the package that users of the device have; NumPy's on the host."""
        ...

    def compile(self, steps: Sequence[Step]) -> list[Action]:
        """Steps as functions to call one after the other."""
        ...

    def action(self, step: Step) -> Action:
        """One step; when it returns the results are there."""
        ...

    def seconds(self, step: Step, repeat: int) -> float:
        """How long one step takes: the median of `repeat` times."""
        ...

    def wait(self) -> None:
        """Wait until all that was called is done."""
        ...
