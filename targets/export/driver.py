"""The C text that runs an exported model: the table of tensors, the weights, and the steps."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..cpu import CpuCode, cpu_code
from ..memory import ALIGN
from ..program import BranchStep, CopyStep, KernelStep, Program, Step, flatten
from ..runnable import Runnable
from .interface import Interface


@frozen
class Weights:
    """The constants of a program, one behind the other.

    Attributes:
        arrays: the contents by slot.
        offsets: where each begins, in bytes; a multiple of `ALIGN`.
        size: bytes of the whole.
    """

    arrays: Mapping[int, npt.NDArray[Any]]
    offsets: Mapping[int, int]
    size: int

    def pieces(self) -> Iterator[bytes]:
        """The contents of the file, piece by piece, gaps included."""
        at = 0
        for slot, offset in self.offsets.items():
            data = np.ascontiguousarray(self.arrays[slot]).tobytes()
            yield bytes(offset - at)
            yield data
            at = offset + len(data)

    def digest(self) -> str:
        """SHA-256 of the contents."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


def code_of(runnable: Runnable) -> CpuCode:
    """The code of a program, which is for `cpu`.

    Raises:
        FusewireError: it is for another target.
    """
    return cpu_code(runnable.code, "export as a C project")


def lay_out(runnable: Runnable) -> Weights:
    """The constants that some step reads (not those that only served to make packed ones), placed."""
    program, used = runnable.program, set[int]()
    for step in flatten(program.steps):
        match step:
            case KernelStep():
                used.update(program.root(slot) for slot in runnable.code.of(step).inputs)
            case CopyStep(source=source):
                used.add(program.root(source))
            case BranchStep(cond=cond):
                used.add(program.root(cond))
    known = {**program.constants, **runnable.code.packed}
    arrays = {slot: array for slot, array in known.items() if slot in used and array.nbytes}
    offsets: dict[int, int] = {}
    end = 0
    for slot, array in arrays.items():
        offsets[slot] = -(-end // ALIGN) * ALIGN
        end = offsets[slot] + array.nbytes
    return Weights(arrays, offsets, end)


def table(runnable: Runnable, weights: Weights, name: str) -> str:
    """The initial value of the table of tensors; those without elements point to where nothing is read."""
    places = {slot: f"arena + {offset}" for slot, offset in runnable.arena.offsets.items()}
    constants = {**runnable.program.constants, **runnable.code.packed}
    places |= {slot: "arena" for slot, array in constants.items() if not array.nbytes}
    places |= {slot: f"(void *)({name}_weights + {offset})" for slot, offset in weights.offsets.items()}
    places |= {view: places[shown] for view, shown in runnable.program.views.items() if shown in places}
    return "".join(f"    [{slot}] = {place},\n" for slot, place in sorted(places.items()))


def steps_text(runnable: Runnable) -> str:
    """The steps as C statements: a call for each run of kernels, memcpy for copies, if for branches."""
    firsts = {id(run[0]): k for k, run in enumerate(code_of(runnable).segments)}
    return "".join(f"  {line}\n" for line in _statements(runnable.program, runnable.program.steps, firsts))


def _statements(program: Program, steps: Sequence[Step], firsts: Mapping[int, int]) -> list[str]:
    lines: list[str] = []
    for step in steps:
        match step:
            case KernelStep() if id(step) in firsts:
                lines.append(f"region(fw_segment_{firsts[id(step)]});")
            case CopyStep(source=source, target=target):
                if size := program.slots[target].nbytes:
                    lines.append(f"memcpy(slots[{target}], slots[{source}], {size});")
            case BranchStep(cond=cond, then=then, orelse=orelse):
                lines.append(f"if (*(const uint8_t *)slots[{cond}]) {{")
                lines += ["  " + line for line in _statements(program, then, firsts)]
                if orelse:
                    lines.append("} else {")
                    lines += ["  " + line for line in _statements(program, orelse, firsts)]
                lines.append("}")
    return lines


def checks_text(face: Interface) -> str:
    """Statements that refuse pointers that cannot be used."""
    tests = [f"!usable({port.name}, {port.width})" for port in face.ports if port.elements]
    return f"  if ({' || '.join(tests)})\n    return {face.upper}_ERROR_POINTER;\n" if tests else ""
