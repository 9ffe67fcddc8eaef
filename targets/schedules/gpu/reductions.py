"""Reductions for work-groups: the reduction of a group, and what it is expected to cost."""

import math

from ....ir.index import IndexVar
from ....ir.scalar import Apply, Load
from ....ops.lowering import Reduce
from ...lower import Problem, spec
from ...prelude import width
from ...rewrite import all_values
from ..nest import accesses, hidden
from ..reduction import Form, form_of, is_costly
from ..rows import size_of
from .exchange import WARP
from .items import device_needed, local_sizes
from .roofline import Work, time

SECTOR = 32
"""Bytes that are read at once, however few of them are wanted."""

WAIT, BARRIER = 100.0, 25.0
"""Vector operations in the time that an item waits for memory, and at a barrier."""


def reduction_of(problem: Problem, least: int = WARP) -> Form | str:
    """The reduction of a group; or why groups of `least` items cannot share its rows."""
    if found := device_needed(problem):
        return found
    context = problem.context
    lowering = spec(problem.anchor).lowering if problem.anchor is not None else None
    if context is None or not isinstance(lowering, Reduce):
        return "it is written for reductions"
    reduction = lowering.make(context)
    if 0 in context.outs[0].static_shape or 0 in reduction.stages[0].extents:
        return "it is written for reductions of tensors with elements"
    if local_sizes(problem)[-1] < least:
        return f"it takes groups of {least} items"
    return form_of(problem, reduction)


def known_reduction(problem: Problem, least: int = WARP) -> Form:
    """The reduction of a group that a check let pass."""
    form = reduction_of(problem, least)
    assert isinstance(form, Form)
    return form


def cost(
    form: Form, groups: int, items: int, share: int, along: IndexVar | None, passes: int = 1, merge: float = 0.0
) -> float:
    """The cost of a launch in vector operations.

    Args:
        form: the reduction.
        groups: work-groups.
        items: items of a group.
        share: elements of an item.
        along: the axis that neighbouring items go along, if it is one.
        passes: how often the elements are gone through.
        merge: vector operations of an item for putting together what several have.
    """
    loads = [load for element in form.elements for load in all_values([element]) if isinstance(load, Load)]
    near = sum(_bytes(load, along) for load in loads if load.index) / len(form.elements)
    return time(
        Work(
            groups,
            items,
            sums=0.0,
            other=share * passes * operations(form) + merge + WAIT,
            near_bytes=near * size_of(form.rows) * size_of(form.inner) * passes,
            far_bytes=form.bytes_read() * passes + bytes_written(form),
        )
    )


def operations(form: Form) -> float:
    """Vector operations that an element takes, on average of the stages: loads, conditions, arithmetic."""
    total = 0.0
    for element in form.elements:
        steps = [n.fn for n in all_values([element]) if isinstance(n, Apply)]
        # A load takes as long as four multiply-adds; a condition is compared, and branched or selected on.
        total += len(accesses(element)[1]) + 2.0 * steps.count("select") + len(steps) / 4 + 2.0 * is_costly(element)
    return total / len(form.elements)


def bytes_written(form: Form) -> int:
    """The bytes of the results."""
    return sum(math.prod(out.shape) * width(out.dtype) for out, _, _ in form.finals)


def _bytes(load: Load, along: IndexVar | None) -> float:
    """What an item's element takes of what is read for all items of a warp."""
    if along is None:
        return SECTOR
    offset, size = load.buffer.offset(load.index), width(load.dtype)
    if hidden(offset, along):
        return SECTOR
    return min(SECTOR, abs(offset.coeff(along)) * size) or size / WARP
