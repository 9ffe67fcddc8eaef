"""The same tensors in differently compiled versions of one network, found by what they hold.

Passes change layouts, split and join operators, and name nothing. But all versions compute the same values: a tensor is
known by its size, mean, deviation and extremes, which no transposition or blocking changes. With random inputs, two
tensors that agree in all of them to four digits are the same tensor, or as good as that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ..compiled import CompiledModule
from ..executor import GraphModule
from ..program import CopyStep, KernelStep, LibraryStep, Step

Signature: TypeAlias = tuple[float, ...]
CLOSE = 2e-3
"""How far statistics of one tensor may be apart, relative to its largest value: rounding, and other algorithms."""
WALKS = 8


@frozen(eq=False)
class Observed:
    """A step as it ran: its slots, what its results looked like, and the fastest time."""

    step: Step
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signatures: tuple[Signature, ...]
    seconds: float


def signature(array: npt.NDArray[Any]) -> Signature:
    """What a tensor is known by: size, mean, standard deviation, least and greatest element."""
    if array.size == 0:
        return (0.0,)
    wide = array.astype(np.float64).ravel()
    wide = wide[np.isfinite(wide)]
    if wide.size == 0:
        return (float(array.size),)
    return float(array.size), float(wide.mean()), float(wide.std()), float(wide.min()), float(wide.max())


def alike(one: Signature, other: Signature) -> bool:
    """Whether two signatures are of one tensor."""
    if len(one) != len(other) or one[0] != other[0]:
        return False
    scale = max(map(abs, one[1:]), default=0.0) or 1.0
    return all(abs(a - b) <= CLOSE * scale for a, b in zip(one[1:], other[1:], strict=True))


def observe(lib: CompiledModule, inputs: Mapping[str, Any]) -> list[Observed]:
    """Run a network step by step, several times."""
    module = GraphModule(lib["default"](lib.target.kind))
    module.run(**inputs)
    found: dict[int, Observed] = {}

    def look(step: Step, seconds: float) -> None:
        slots = _slots(step)
        if id(step) in found:
            known = found[id(step)]
            found[id(step)] = evolve(known, seconds=min(known.seconds, seconds))
        elif slots is not None:
            signatures = tuple(signature(module.tensor(slot)) for slot in slots[1])
            found[id(step)] = Observed(step, *slots, signatures, seconds)

    for _ in range(WALKS):
        module.walk(look)
    return list(found.values())


def _slots(step: Step) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    match step:
        case KernelStep() | LibraryStep():
            return step.inputs, step.outputs
        case CopyStep(source=source, target=target):
            return (source,), (target,)
    return None


def common(versions: Sequence[Sequence[Observed]]) -> list[Signature]:
    """The tensors that all versions have."""
    first, *others = [[s for step in version for s in step.signatures] for version in versions]
    distinct: list[Signature] = []
    for candidate in first:
        if not any(alike(candidate, known) for known in distinct):
            distinct.append(candidate)
    return [s for s in distinct if all(any(alike(s, other) for other in version) for version in others)]


def cells_of(steps: Sequence[Observed], boundaries: Sequence[Signature]) -> dict[int, list[Observed]]:
    """The steps behind each boundary, by its number: those that lead to it from the boundaries before.

    A step that leads to several belongs to the first. A step that changes the layout only has the same boundary on both
    sides, and belongs to it.
    """
    pending: dict[int, list[Observed]] = {}
    cells: dict[int, list[Observed]] = {}
    assigned: set[int] = set()
    for step in steps:
        members = [step]
        for slot in step.inputs:
            members = pending.get(slot, []) + members
        for slot, seen in zip(step.outputs, step.signatures, strict=True):
            number = next((k for k, boundary in enumerate(boundaries) if alike(seen, boundary)), None)
            if number is None:
                pending[slot] = members
                continue
            own = [m for m in members if id(m) not in assigned]
            assigned.update(map(id, own))
            cells.setdefault(number, []).extend(own)
    return cells
