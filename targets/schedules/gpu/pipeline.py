"""Parts of a sum that go through local memory: with two buffers, the next part is copied while one is being added."""

from collections.abc import Callable, Sequence

from ....ir.index import Index, as_index
from ....ir.loops import Builder
from ....ir.scalar import Buffer, apply
from .items import guarded

Buffers = Sequence[Buffer]
"""The local arrays of one part."""


def through_local(
    b: Builder,
    parts: int,
    buffers: Sequence[Buffers],
    stage: Callable[[Buffers, Index], None],
    add: Callable[[Buffers, Index], None],
) -> None:
    """Add up parts, inside a loop of work-items.

    Args:
        b: where the statements go.
        parts: how many there are.
        buffers: for each stage (one or two) what it is copied to.
        stage: (buffers, part): the copy.
        add: (buffers, part): the sums.
    """
    if len(buffers) == 1 or parts == 1:
        with b.loop("part", parts, "rolled") as part:
            stage(buffers[0], part)
            b.barrier("local")
            add(buffers[0], part)
            if parts > 1:
                b.barrier("local")
        return
    first, second = buffers
    stage(first, as_index(0))
    b.barrier("local")
    with b.loop("pair", parts // 2, "rolled") as pair:
        stage(second, pair * 2 + 1)
        add(first, pair * 2)
        b.barrier("local")
        with guarded(b, apply("lt", pair * 2 + 2, parts)):
            stage(first, pair * 2 + 2)
        add(second, pair * 2 + 1)
        b.barrier("local")
    if parts % 2:
        add(first, as_index(parts - 1))
