"""Which implementation makes a group's kernel: candidates with names and priorities, the highest that fits wins."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
from attrs import field, frozen

from ..ir.loops import Kernel
from .lower import Problem, spec
from .prove import verify
from .rewrite import unroll
from .schedules import conv, gemm, generic
from .vectorise import vectorise

_log = logging.getLogger("fusewire")


@frozen(eq=False)
class Lowered:
    """A kernel, and the inputs that it wants in another form than the graph has them (packed weights), by position."""

    kernel: Kernel
    packed: Mapping[int, npt.NDArray[Any]] = field(factory=dict)


@frozen(eq=False)
class Implementation:
    """One way to make a kernel for an operator.

    Attributes:
        name: what logs and `explain` call it, e.g. "conv2d_nchw.cpu".
        ops: the operators it is for; None: any.
        priority: the highest among those that fit is taken.
        check: why it does not fit a group, or None if it does.
        schedule: writes the loops.
    """

    name: str
    ops: tuple[str, ...] | None
    priority: int
    check: Callable[[Problem], str | None]
    schedule: Callable[[Problem], tuple[Kernel, Mapping[int, npt.NDArray[Any]]]]


@frozen(eq=False)
class Candidate:
    """An implementation as it was considered for one group."""

    name: str
    priority: int
    refusal: str | None = None


def _generic(problem: Problem) -> tuple[Kernel, Mapping[int, npt.NDArray[Any]]]:
    return generic.schedule(problem), {}


TABLE = (
    Implementation("conv2d_nchw.cpu", ("nn.conv2d",), 10, conv.check, conv.schedule),
    Implementation("gemm.cpu", ("nn.dense", "nn.matmul", "nn.batch_matmul"), 10, gemm.check, gemm.schedule),
    Implementation("loops.cpu", None, 1, lambda problem: None, _generic),
)
"""Implementations on `cpu`, the generic one last."""


def operator_name(problem: Problem) -> str:
    """The operator that a group is about: its anchor, or "injective"."""
    return spec(problem.anchor).name if problem.anchor is not None else "injective"


def implement(problem: Problem) -> tuple[Lowered, str, list[Candidate]]:
    """Make the kernel of a group.

    Returns:
        The kernel, the name of the implementation that made it, and all that were considered.
    """
    name = operator_name(problem)
    fitting: list[Implementation] = []
    candidates: list[Candidate] = []
    for entry in TABLE:
        if entry.ops is not None and name not in entry.ops:
            continue
        reason = entry.check(problem)
        candidates.append(Candidate(entry.name, entry.priority, reason))
        if reason is None:
            fitting.append(entry)
    chosen = max(fitting, key=lambda entry: entry.priority)
    _log.info("Using %s for %s based on highest priority (%d)", chosen.name, name, chosen.priority)
    kernel, packed = chosen.schedule(problem)
    return Lowered(finish(kernel, problem.isa.vector_bytes), packed), chosen.name, candidates


def finish(kernel: Kernel, vector_bytes: int) -> Kernel:
    """The loop passes: vectorise, unroll; verified before and after."""
    verify(kernel)
    kernel = vectorise(kernel, vector_bytes)
    kernel = Kernel(kernel.name, kernel.inputs, kernel.outputs, unroll(kernel.body), kernel.notes)
    verify(kernel)
    return kernel
