"""What a kernel for work-groups is expected to cost: its arithmetic, local memory, memory, and how busy a GPU is.

Costs are in vector operations (four multiply-adds of an item), as those of all schedules. A unit of a usual GPU does
128 multiply-adds in the time in which it reads 128 bytes of local memory, and memory gives 0.4 bytes for each vector
operation of the whole: what is the dearest of these is what the time goes by (Williams et al.: Roofline, 2009).
"""

import math

from attrs import evolve, frozen

UNITS = 96
"""Multiprocessors (compute units) that a GPU is taken to have."""

REGISTERS, LOCAL, MOST_ITEMS, MOST_GROUPS = 1 << 16, 96 << 10, 1536, 16
"""Registers, bytes of local memory, items and groups that a unit has room for (of NVIDIA's, the least of sm_80 on)."""

GRAIN, MOST_REGISTERS = 8, 255
"""An item gets registers in pieces of so many, and has no more than that; others are kept in memory."""

HIDING = 384
"""Items of a unit that hide its latencies; each has work that does not wait."""

PER_BYTE, PER_NEAR_BYTE = 2.5, 0.6
"""Vector operations in the time of a byte from memory, and of one from the cache that all units share."""

LAUNCH = 5e6
"""Vector operations in the time that one more launch takes."""


@frozen
class Work:
    """What a launch does.

    Attributes:
        groups, items: work-groups, and items of each.
        sums: vector operations of an item.
        reads: reads of local memory by an item: one is a number or a vector that the items of a warp share, four are a
            vector that each has for itself.
        other: further instructions of an item, in vector operations: indices, copies.
        local_bytes, registers: of a group, and of an item.
        near_bytes, far_bytes: what is read and written, and what of that is not read twice.
    """

    groups: int
    items: int
    sums: float
    reads: float = 0.0
    other: float = 0.0
    local_bytes: int = 0
    registers: int = 40
    near_bytes: float = 0.0
    far_bytes: float = 0.0


def resident(work: Work) -> int:
    """How many groups of a launch a unit works on at the same time; at least one, for then registers are saved."""
    registers = min(-(-work.registers // GRAIN) * GRAIN, MOST_REGISTERS + 1)
    room = min(
        MOST_GROUPS,
        MOST_ITEMS // work.items,
        REGISTERS // (work.items * registers),
        LOCAL // max(work.local_bytes, 1),
    )
    return max(1, min(room, -(-work.groups // UNITS)))


def time(work: Work) -> float:
    """The cost of a launch."""
    hidden = min(1.0, resident(work) * work.items / HIDING)
    busy = work.groups / UNITS / math.ceil(work.groups / UNITS)
    arithmetic = max(work.sums, work.reads) + 0.25 * min(work.sums, work.reads) + work.other
    # What an item lacks in registers it reads from memory again and again.
    arithmetic *= max(1.0, work.registers / min(MOST_REGISTERS, REGISTERS / work.items))
    near = work.near_bytes * PER_NEAR_BYTE
    return max(work.groups * work.items * arithmetic / (hidden * busy), near / busy, work.far_bytes * PER_BYTE)


def rank(work: Work) -> tuple[float, float]:
    """The cost of a launch, and for those that cost the same, as memory is what they wait for, what it hides."""
    return time(work), time(evolve(work, near_bytes=0.0, far_bytes=0.0))
