"""What a bisection found, and how far apart is too far."""

import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from ..commands.differences import Difference, difference
from ..ir.expr import Function
from .alone import How
from .reproducer import write

Array = npt.NDArray[Any]

BY_DTYPE = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}
"""Where no tolerance is given: rtol, and atol in units of the largest value of the reference. Integers are exact."""


@frozen
class Tolerance:
    """Elements may differ by `atol + rtol * |reference|`; what is None follows from the dtype (`BY_DTYPE`)."""

    rtol: float | None = None
    atol: float | None = None

    def limits(self, expected: Array, factor: float = 1.0) -> tuple[float, float]:
        """`rtol` and `atol` for a result; `factor` widens what follows from the dtype."""
        own = BY_DTYPE.get(expected.dtype.name, 0.0) * factor
        rtol = own if self.rtol is None else self.rtol
        return rtol, own * largest(expected) if self.atol is None else self.atol

    def difference(self, got: Array, expected: Array, factor: float = 1.0) -> Difference:
        """How far a result is from the reference."""
        return difference(got, expected, *self.limits(expected, factor))


def largest(array: Array) -> float:
    """The largest finite magnitude."""
    wide = np.abs(array.astype(np.float64))
    return float(np.max(wide, initial=0.0, where=np.isfinite(wide)))


@frozen
class Probe:
    """A prefix of a group that was compiled by itself and compared.

    Attributes:
        op: the operator it ends in.
        implementations: who ran it.
        parts: whether its result differs from the reference.
        max_abs: the largest difference.
    """

    op: str
    implementations: tuple[str, ...]
    parts: bool
    max_abs: float


@frozen(eq=False)
class Mismatch:
    """The first group of a module whose result differs from its float64 reference, and the operator where it begins.

    Attributes:
        target: the module's target.
        group: the step: the name of the generated function or library call.
        ops: the operators of the group, first to last.
        implementation: who runs the group.
        op: the first operator whose operands are right and whose result is not.
        call: the operator's call as text.
        inputs, output: the types of its operands and of its result.
        difference: how far the operator's result is from the reference: max_abs, max_rel, beyond, size, ...
        group_difference: the same for the group's result.
        narrowed: whether the operator was found; False: no prefix of the group differs when it is compiled by itself,
            and `op` and `call` are the group's last.
        alone: whether the operator is wrong without its neighbours, too; None: it has none, or could not be compiled.
        probes: the prefixes that were looked at.
        function, arrays, known, expected: the group up to the operator, its inputs, which of these are constants, and
            what it should give.
        how: how it was compiled.
        limits: the rtol and atol that the operator's result was measured by.
    """

    target: str
    group: str
    ops: tuple[str, ...]
    implementation: str
    op: str
    call: str
    inputs: tuple[str, ...]
    output: str
    difference: Difference
    group_difference: Difference
    narrowed: bool
    alone: bool | None
    probes: tuple[Probe, ...] = field(repr=False)
    function: Function = field(repr=False)
    arrays: tuple[Array, ...] = field(repr=False)
    known: tuple[int, ...] = field(repr=False)
    expected: tuple[Array, ...] = field(repr=False)
    how: How = field(repr=False)
    limits: tuple[float, float] = field(repr=False)

    @property
    def max_abs(self) -> float:
        """The largest |result - reference| of the operator."""
        return self.difference.max_abs

    @property
    def max_rel(self) -> float:
        """The largest |result - reference| / |reference| of the operator."""
        return self.difference.max_rel

    def write_reproducer(self, folder: str | PathLike[str]) -> Path:
        """Write `reproduce.py` and `tensors.npz` into a folder, which is made if need be.

        The script needs NumPy, fusewire and, where a library ran the group, that library; it exits with status 1 where
        the difference is there, and with 0 where it is gone.

        Returns:
            The script.

        Raises:
            FusewireError: the files cannot be written.
        """
        return write(self, Path(folder))

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "target": self.target,
            "group": self.group,
            "ops": list(self.ops),
            "implementation": self.implementation,
            "op": self.op,
            "call": self.call,
            "inputs": list(self.inputs),
            "output": self.output,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "beyond": self.difference.beyond,
            "size": self.difference.size,
            "group_max_abs": self.group_difference.max_abs,
            "narrowed": self.narrowed,
            "alone": self.alone,
        }

    def __str__(self) -> str:
        d = self.difference
        lines = [
            f"target          {self.target}",
            f"group           {self.group} ({' + '.join(self.ops)})",
            f"implementation  {self.implementation}",
            f"operator        {self.op}" if self.narrowed else "operator        not found: no prefix differs by itself",
            f"call            {self.call}",
            f"operands        {', '.join(self.inputs)}",
            f"result          {self.output}",
            f"difference      max abs {d.max_abs:.3g}, max rel {d.max_rel:.3g}, {d.beyond} of {d.size} elements",
        ]
        if self.alone is not None:
            lines.append(f"by itself       {'wrong, too' if self.alone else 'right: only wrong among its neighbours'}")
        return "\n".join(lines)


@frozen(eq=False)
class Bisection:
    """Whether and where two compiled modules, or one and its float64 reference, part.

    Attributes:
        verdict: "agree"; "operator": a group differs from what it should compute (see `mismatches`); "passes": every
            group computes what it should, but the graphs after the passes do not mean the same; "together": every step
            is right by itself, and wrong when the module runs as a whole; "rounding": no step is wrong, small
            differences of all add up.
        message: the verdict in a sentence.
        targets: what was compared; the last may be "reference".
        outputs: how far apart the results are, for each output; the second of `targets` is the reference.
        mismatches: for each module that has one the first group that differs, in the order of `targets`.
        parted: all groups that differ, by target.
        groups: how many groups of each module were compared.
        worst: the group with the largest difference, in units of the largest value of its reference, and that number.
    """

    verdict: str
    message: str
    targets: tuple[str, ...]
    outputs: tuple[Difference, ...]
    mismatches: tuple[Mismatch, ...]
    parted: dict[str, tuple[str, ...]]
    groups: tuple[int, ...]
    worst: tuple[str, float] | None

    @property
    def agree(self) -> bool:
        """Whether no difference was found."""
        return self.verdict == "agree"

    @property
    def mismatch(self) -> Mismatch | None:
        """The first mismatch, if a group differs."""
        return self.mismatches[0] if self.mismatches else None

    def write_reproducer(self, folder: str | PathLike[str]) -> list[Path]:
        """Write a reproducer for each mismatch: into the folder itself, where there is one, else below it.

        Returns:
            The scripts.

        Raises:
            FusewireError: the files cannot be written.
        """
        if len(self.mismatches) == 1:
            return [self.mismatches[0].write_reproducer(folder)]
        return [m.write_reproducer(Path(folder) / f"{k}_{_plain(m.op)}") for k, m in enumerate(self.mismatches)]

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "verdict": self.verdict,
            "message": self.message,
            "targets": list(self.targets),
            "outputs": [{"max_abs": d.max_abs, "max_rel": d.max_rel, "beyond": d.beyond} for d in self.outputs],
            "groups": list(self.groups),
            "worst": list(self.worst) if self.worst else None,
            "parted": {target: list(names) for target, names in self.parted.items()},
            "mismatches": [m.to_dict() for m in self.mismatches],
        }

    def __str__(self) -> str:
        return "\n\n".join([self.message, *map(str, self.mismatches)])


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)
