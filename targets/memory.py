"""The memory plan: one arena in which tensors that are not alive at the same time share bytes.

A tensor may also take over the memory of one that its step reads for the last time, if the step's kernel reads each
element only to compute the element at the same place (inplace.py): relu, or the sum behind a convolution, then need no
memory of their own. Views (tensors that are another one under another shape) have none either.
"""

from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen

from .program import BranchStep, CopyStep, Program, Step

ALIGN = 64
"""Every tensor starts at a multiple of this: a cache line, and the widest vector."""


@frozen
class Arena:
    """Offsets in bytes by slot, the size of the whole, and which slot takes over the memory of which other one."""

    offsets: Mapping[int, int]
    size: int
    shared: Mapping[int, int] = field(factory=dict)


@frozen
class Block:
    """Memory that is in use from step `first` to step `last`."""

    size: int
    first: int
    last: int


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
    """First and last step at which each intermediate tensor is alive. All of a branch counts as one step.

    Uses of a view are uses of the tensor that it shows.
    """
    fixed = program.fixed
    alive: dict[int, tuple[int, int]] = {}
    for time, step in enumerate(program.steps):
        reads, writes = touched(step)
        for slot in {program.root(slot) for slot in reads | writes} - fixed:
            alive[slot] = (alive.get(slot, (time, time))[0], time)
    return alive


def rounded(nbytes: int, align: int = ALIGN) -> int:
    """Bytes that a tensor takes up."""
    return -(-max(nbytes, 1) // align) * align


def blocks(program: Program, shared: Mapping[int, int], align: int = ALIGN) -> tuple[dict[int, Block], dict[int, int]]:
    """The memory to plan: blocks by the slot that is first to use each, and for every slot the block that it is in."""
    alive = lifetimes(program)
    leader: dict[int, int] = {}
    found: dict[int, Block] = {}
    for slot in sorted(alive, key=lambda s: (alive[s], s)):
        first, last = alive[slot]
        head = leader[slot] = leader[shared[slot]] if slot in shared else slot
        size = rounded(program.slots[slot].nbytes, align)
        old = found.get(head, Block(size, first, last))
        found[head] = Block(max(old.size, size), min(old.first, first), max(old.last, last))
    return found, leader


def largest_live_set(found: Mapping[int, Block]) -> int:
    """The most bytes in use at one step: no plan needs less."""
    times = {b.first for b in found.values()}
    return max((sum(b.size for b in found.values() if b.first <= t <= b.last) for t in times), default=0)


def taken_over(program: Program, overwrites: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """For outputs of steps, the input whose memory they take over: it dies there, and has the same size.

    Args:
        program: the program.
        overwrites: by slot that a kernel writes, the slots that it may write over.
    """
    alive, fixed = lifetimes(program), program.fixed
    shared: dict[int, int] = {}
    for time, step in enumerate(program.steps):
        if isinstance(step, BranchStep | CopyStep):
            continue
        read = [program.root(slot) for slot in step.inputs]
        for out in step.outputs:
            for given in overwrites.get(out, ()) if out not in fixed else ():
                slot = program.root(given)
                same = program.slots[slot].nbytes == program.slots[out].nbytes
                once = read.count(slot) == 1 and slot not in shared.values()
                if same and once and slot not in fixed and alive[slot][1] == time and alive[out][0] == time:
                    shared[out] = slot
                    break
    return shared


_ORDERS: tuple[Callable[[int, Block], tuple[int, ...]], ...] = (
    lambda slot, b: (-b.size, slot),
    lambda slot, b: (-b.size * (b.last - b.first + 1), slot),
    lambda slot, b: (-(b.last - b.first), -b.size, slot),
    lambda slot, b: (b.first, -b.size, slot),
)
"""Orders in which blocks are placed; which one is best differs from network to network."""


def plan(program: Program, overwrites: Mapping[int, Sequence[int]] | None = None, align: int = ALIGN) -> Arena:
    """Place each block at the lowest offset that is free while it is alive, in the best of several orders.

    Args:
        program: the program.
        overwrites: by slot that a kernel writes, the slots that it may write over.
        align: every tensor starts at a multiple of this many bytes.
    """
    shared = taken_over(program, overwrites or {})
    found, leader = blocks(program, shared, align)
    least = largest_live_set(found)
    best: Arena | None = None
    for order in _ORDERS:
        offsets, size = _placed(found, sorted(found, key=lambda s: order(s, found[s])))
        if best is None or size < best.size:
            best = Arena({slot: offsets[head] for slot, head in leader.items()}, size, shared)
        if best.size == least:
            break
    assert best is not None
    return best


def _placed(found: Mapping[int, Block], order: Sequence[int]) -> tuple[dict[int, int], int]:
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets: dict[int, int] = {}
    for slot in order:
        block = found[slot]
        offset = lowest_gap(block.size, [p for p in placed if p[2] <= block.last and block.first <= p[3]])
        offsets[slot] = offset
        placed.append((offset, offset + block.size, block.first, block.last))
    return offsets, max((end for _, end, _, _ in placed), default=0)


def lowest_gap(size: int, busy: Sequence[tuple[int, int, int, int]]) -> int:
    """The lowest offset at which `size` bytes fit between busy ranges."""
    offset = 0
    for start, end, _, _ in sorted(busy):
        if offset + size <= start:
            break
        offset = max(offset, end)
    return offset
