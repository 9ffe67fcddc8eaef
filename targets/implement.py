"""Which implementation makes a group's kernel: candidates with names and priorities, the highest that fits wins."""

import logging
from collections.abc import Callable, Sequence

from attrs import field, frozen

from ..ir.expr import Function
from ..ir.loops import Kernel
from .lower import Problem, find_anchor, spec
from .prove import verify
from .rewrite import unroll
from .schedules import conv, depthwise, gemm, generic, winograd
from .schedules.tiles import Packed
from .vectorise import vectorise

_log = logging.getLogger("fusewire")


@frozen(eq=False)
class Lowered:
    """A kernel, and how it wants constant inputs to be packed, by position."""

    kernel: Kernel
    packed: Packed = field(factory=dict)


@frozen(eq=False)
class Implementation:
    """One way to make a kernel for an operator.

    Attributes:
        name: what logs and `explain` call it, e.g. "conv2d_nchw.cpu".
        ops: the operators it is for; None: any.
        priority: the highest among those that fit is taken.
        check: why it does not fit a group, or None if it does.
        schedule: writes the loops.
        predict: what it is expected to cost, in vector operations; decides among those of one priority.
    """

    name: str
    ops: tuple[str, ...] | None
    priority: int
    check: Callable[[Problem], str | None]
    schedule: Callable[[Problem], tuple[Kernel, Packed]]
    predict: Callable[[Problem], float] | None = None


@frozen(eq=False)
class Candidate:
    """An implementation as it was considered for one group."""

    name: str
    priority: int
    refusal: str | None = None
    predicted: float | None = None


def _generic(problem: Problem) -> tuple[Kernel, Packed]:
    return generic.schedule(problem), {}


_CONV = ("nn.conv2d", "nn.conv1d")
TABLE = (
    Implementation("conv2d_nchw.cpu", _CONV, 10, conv.check_plain, conv.schedule, conv.predict),
    Implementation("conv2d_nchwc.cpu", _CONV, 10, conv.check_blocked, conv.schedule, conv.predict),
    Implementation("conv2d_depthwise_nchwc.cpu", _CONV, 10, depthwise.check, depthwise.schedule, depthwise.predict),
    Implementation("conv2d_winograd2_nchwc.cpu", _CONV, 10, winograd.check, winograd.schedule(2), winograd.predict(2)),
    Implementation("conv2d_winograd4_nchwc.cpu", _CONV, 10, winograd.check, winograd.schedule(4), winograd.predict(4)),
    Implementation("gemm.cpu", ("nn.dense", "nn.matmul", "nn.batch_matmul"), 10, gemm.check, gemm.schedule),
    Implementation("loops.cpu", None, 1, lambda problem: None, _generic),
)
"""Implementations on `cpu`, the generic one last."""


def operator_name(function: Function) -> str:
    """The operator that a group is about: its anchor, or "injective"."""
    anchor = find_anchor(function)
    return spec(anchor).name if anchor is not None else "injective"


def log_choice(name: str, operator: str, candidates: Sequence[Candidate]) -> None:
    """Say which implementation an operator got."""
    priority = next(c.priority for c in candidates if c.name == name)
    _log.info("Using %s for %s based on highest priority (%d)", name, operator, priority)


def implement(problem: Problem) -> tuple[Lowered, str, list[Candidate]]:
    """Make the kernel of a group.

    Returns:
        The kernel, the name of the implementation that made it, and all that were considered.
    """
    chosen, candidates = choose(problem)
    kernel, packed = chosen.schedule(problem)
    return Lowered(finish(kernel, problem.isa.vector_bytes), packed), chosen.name, candidates


def choose(problem: Problem) -> tuple[Implementation, list[Candidate]]:
    """The implementation for a group, and all that were considered."""
    name = spec(problem.anchor).name if problem.anchor is not None else "injective"
    fitting: list[tuple[int, float, Implementation]] = []
    candidates: list[Candidate] = []
    for entry in TABLE:
        if entry.ops is not None and name not in entry.ops:
            continue
        reason = entry.check(problem)
        predicted = None if reason or not entry.predict else entry.predict(problem)
        candidates.append(Candidate(entry.name, entry.priority, reason, predicted))
        if reason is None:
            fitting.append((-entry.priority, predicted or 0.0, entry))
    _, _, chosen = min(fitting, key=lambda found: found[:2])
    return chosen, candidates


def finish(kernel: Kernel, vector_bytes: int) -> Kernel:
    """The loop passes: vectorise, unroll; verified before and after."""
    verify(kernel)
    kernel = vectorise(kernel, vector_bytes)
    kernel = Kernel(kernel.name, kernel.inputs, kernel.outputs, unroll(kernel.body), kernel.notes)
    verify(kernel)
    return kernel
