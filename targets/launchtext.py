"""What a printed launch is, and the lines at the head of one: the numbers of groups and items, and local arrays."""

import math
from collections.abc import Iterator

from attrs import frozen

from ..ir.index import IndexVar
from ..ir.loops import For
from ..ir.scalar import Buffer
from .dialects import Dialect
from .groups import GroupNest
from .prelude import Prelude


@frozen(eq=False)
class LaunchHead:
    """A printed launch: its text; which buffers and variables it takes, in this order, with the scratch of work-items
    between them if it has any; and the bytes of that for one work-item.
    """

    text: str
    buffers: tuple[Buffer, ...]
    variables: tuple[IndexVar, ...]
    thread_bytes: int


def counter_line(dialect: Dialect, loop: For, value: str) -> str:
    """The counter of a loop whose iterations are work-items or groups."""
    return dialect.launch["counter"].format(v=loop.var.name, value=value)


def group_lines(nest: GroupNest, prelude: Prelude) -> Iterator[str]:
    """Local arrays, and the counters: digits of the number of the group, and of that of the item in it."""
    for buffer in nest.local:
        facts = {"t": prelude.type(buffer.dtype, storage=True), "n": max(math.prod(buffer.shape), 1)}
        yield prelude.dialect.launch["local"].format(name=buffer.name, **facts)
    for loops, number in ((nest.groups, "fw_group"), (nest.items, "fw_local_item")):
        below = math.prod(loop.extent for loop in loops)
        for loop in loops:
            value = f"{number} % {below}" if loop is not loops[0] else number
            below //= max(loop.extent, 1)
            value = f"{value} / {below}" if below > 1 else value
            yield counter_line(prelude.dialect, loop, "0" if loop.extent == 1 else value)
