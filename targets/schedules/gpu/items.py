"""What schedules for work-groups share: numbering work-items, guards that vanish where they are true, local sizes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ....ir.index import Index, as_index
from ....ir.loops import Builder
from ....ir.scalar import Const, Value, apply, cast, inside, select
from ...lower import Problem
from ..conv_shape import Conv

LANES = 4
"""Elements of a vector: the widest load of a work-item."""

RESIDENT = 1 << 14
"""Work-items from which on a device has enough of them to hide its latencies."""


def device_needed(problem: Problem) -> str | None:
    """Why work-groups are not for the target, or None."""
    return None if problem.isa.device else "it is written for devices that run work-groups"


def in_halves(problem: Problem) -> bool:
    """Whether both factors of a product are float16, and the device computes in it."""
    context = problem.context
    return problem.isa.half and context is not None and {view.type.dtype for view in context.args} == {"float16"}


def local_bytes(problem: Problem) -> int:
    """Memory that the items of a group can share."""
    return problem.isa.device.local_bytes if problem.isa.device else 0


def local_sizes(problem: Problem, least: int = 16) -> list[int]:
    """Powers of two that a group may have as its size, the largest last; on a GPU with warps of its own, whole ones."""
    device = problem.isa.device
    most = device.max_group if device else 1
    least = max(least, device.warp) if device and device.exchange else least
    return [size for size in (1 << k for k in range(11)) if least <= size <= most] or [most]


def default_local(problem: Problem, total: int) -> int:
    """The best guess at the size of a group: 64 items, fewer where that leaves most of a group without work."""
    return next((size for size in local_sizes(problem) if size >= min(64, total)), local_sizes(problem)[-1])


def occupancy(items: int) -> float:
    """The share of a device that so many items keep busy."""
    return min(1.0, max(items, 1) / RESIDENT)


@contextmanager
def numbered(b: Builder, extents: Sequence[int], local: int, steps: int = 1) -> Iterator[list[Index]]:
    """A work-item for each place in a box, the last axis first; those beyond the last place do nothing.

    With several `steps` an item has as many places, each a group's size after the one before.
    """
    total = math.prod(extents)
    groups = -(-total // (local * steps))
    with (
        b.loop("group", groups, "workgroup") as group,
        b.loop("item", local, "workitem") as item,
        b.loop("step", steps, "unrolled") as step,
    ):
        flat = (group * steps + step) * local + item
        with guarded(b, apply("lt", flat, total)):
            yield split(flat, extents)


def split(flat: Index, extents: Sequence[int]) -> list[Index]:
    """The multi-dimensional index of a row-major position, which must be inside."""
    index: list[Index] = []
    for axis, extent in enumerate(extents):
        place = flat // max(math.prod(extents[axis + 1 :]), 1)
        outermost = math.prod(extents[:axis]) <= 1
        index.append(as_index(0) if extent == 1 else place if outermost else place % max(extent, 1))
    return index


def of_shape(index: Sequence[Index], shape: Sequence[int]) -> tuple[Index, ...]:
    """An index that is inside of a box: 0 along axes of one element, which those that broadcast it count on."""
    return tuple(as_index(0) if n == 1 else i for i, n in zip(index, shape, strict=True))


def emit_pixel(conv: Conv, b: Builder, at: tuple[Index, Index, Index, Index], value: Value) -> None:
    """Run the epilogue of a convolution for the element (n, c, y, x)."""
    s = conv.s
    n, c, y, x = of_shape(at, (s.n, s.groups * s.co, s.oh, s.ow))
    conv.emit(b, (n, c, y, x), value)


@contextmanager
def guarded(b: Builder, cond: Value) -> Iterator[None]:
    """A block that runs where `cond` holds; no branch where it is known to."""
    if isinstance(cond, Const) and cond.value:
        yield
        return
    with b.when(cond):
        yield


def or_zero(cond: Value, value: Value, dtype: str) -> Value:
    """`value` as a `dtype` where `cond` holds, else 0."""
    value = cast(value, dtype)
    return value if isinstance(cond, Const) and cond.value else select(cond, value, Const(0.0, dtype))


def within(index: Sequence[Index], shape: Sequence[int]) -> Value:
    """Whether an index lies inside of a box; `True` where that is certain."""
    return inside(index, shape)
