"""The memory plan: one arena in which tensors that are not alive at the same time share bytes."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from .program import BranchStep, CopyStep, Program, Step

ALIGN = 64
"""Every tensor starts at a multiple of this: a cache line, and the widest vector."""


@frozen
class Arena:
    """Offsets in bytes by slot, and the size of the whole."""

    offsets: Mapping[int, int]
    size: int


def touched(step: Step) -> tuple[set[int], set[int]]:
    """The slots that a step reads, and those that it writes."""
    match step:
        case CopyStep(source=source, target=target):
            return {source}, {target}
        case BranchStep(cond=cond, then=then, orelse=orelse):
            reads, writes = {cond}, set[int]()
            for inner in (*then, *orelse):
                r, w = touched(inner)
                reads |= r
                writes |= w
            return reads, writes
        case _:
            return set(step.inputs), set(step.outputs)


def lifetimes(program: Program) -> dict[int, tuple[int, int]]:
    """First and last step at which each intermediate tensor is alive. All of a branch counts as one step."""
    fixed = {s for slots in program.inputs.values() for s in slots} | program.constants.keys() | set(program.outputs)
    alive: dict[int, tuple[int, int]] = {}
    for time, step in enumerate(program.steps):
        reads, writes = touched(step)
        for slot in (reads | writes) - fixed:
            alive[slot] = (alive.get(slot, (time, time))[0], time)
    return alive


def plan(program: Program) -> Arena:
    """Place each intermediate tensor, the largest first, at the lowest offset that is free while it is alive."""
    alive = lifetimes(program)
    sizes = {slot: -(-max(program.slots[slot].nbytes, 1) // ALIGN) * ALIGN for slot in alive}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets: dict[int, int] = {}
    for slot in sorted(alive, key=lambda s: (-sizes[s], s)):
        first, last = alive[slot]
        offset = lowest_gap(sizes[slot], [p for p in placed if p[2] <= last and first <= p[3]])
        offsets[slot] = offset
        placed.append((offset, offset + sizes[slot], first, last))
    return Arena(offsets, max((end for _, end, _, _ in placed), default=0))


def lowest_gap(size: int, busy: Sequence[tuple[int, int, int, int]]) -> int:
    """The lowest offset at which `size` bytes fit between busy ranges."""
    offset = 0
    for start, end, _, _ in sorted(busy):
        if offset + size <= start:
            break
        offset = max(offset, end)
    return offset
