"""What the items of a group have found, each for itself, put together: by exchanges, then once through local memory.

    items of a warp      log2(32) exchanges, without barriers
    warps of a group     the first item of each stores what it has; after one barrier every item takes one of these
                         numbers, and exchanges follow as before

All items end with the result. What is put together may be several numbers: the greatest element and the sum of
exponentials relative to it (Milakov and Gimelshein: Online normalizer calculation for softmax, 2018).
"""

from collections.abc import Callable, Sequence

from attrs import frozen

from ....ir.index import Index
from ....ir.loops import Builder
from ....ir.scalar import Buffer, Value, apply, constant, lowest, select

WARP = 32
"""Items that exchange values: a warp, or half of a wavefront of 64."""

Merge = Callable[[Sequence[Value]], None]
"""Puts another item's numbers to one's own."""


@frozen(eq=False)
class Team:
    """The items that share a row: number `item` of `items`, in line number `line` of `lines`; powers of two.

    They stand `apart` in the group: 1 where a line's items are neighbours, and else the number of lines whose items
    stand between each other; at most a warp.
    """

    line: Index
    lines: int
    item: Index
    items: int
    apart: int = 1

    @property
    def near(self) -> int:
        """Items of a line in one warp."""
        return min(self.items, WARP // self.apart)

    @property
    def warps(self) -> int:
        """Numbers that go through local memory for each line, or 0."""
        return self.items // self.near if self.items > self.near else 0


def parts_for(b: Builder, name: str, dtypes: Sequence[str], lines: int, items: int, apart: int = 1) -> list[Buffer]:
    """The local arrays that `put_together` needs; they stand in front of the loops over items."""
    near = WARP // apart
    return [b.alloc(name, (lines, items // near), dtype, "local") for dtype in dtypes] if items > near else []


def put_together(b: Builder, team: Team, own: Sequence[Buffer], parts: Sequence[Buffer], merge: Merge) -> None:
    """Merge the numbers `own` (registers of shape (1,)) of all items of a line; every item has the result."""
    _exchanges(b, own, team.near, team.apart, merge)
    if not team.warps:
        return
    with b.when(apply("eq", team.item % team.near, 0)):
        for part, number in zip(parts, own, strict=True):
            b.store(part, (team.line, team.item // team.near), b.load(number, (0,)))
    b.barrier("local")
    for part, number in zip(parts, own, strict=True):
        b.store(number, (0,), b.load(part, (team.line, team.item % team.warps)))
    _exchanges(b, own, team.warps, team.apart, merge)


def _exchanges(b: Builder, own: Sequence[Buffer], items: int, apart: int, merge: Merge) -> None:
    bit = items // 2
    while bit:
        others = [b.alloc("other", (1,), number.dtype) for number in own]
        for number, other in zip(own, others, strict=True):
            b.store(other, (0,), apply(f"item_xor{bit * apart}", b.load(number, (0,))))
        merge([b.load(other, (0,)) for other in others])
        bit //= 2


def summed(b: Builder, own: Sequence[Buffer]) -> Merge:
    """Merges sums."""

    def merge(others: Sequence[Value]) -> None:
        for number, other in zip(own, others, strict=True):
            b.store(number, (0,), b.load(number, (0,)) + other)

    return merge


def joined(b: Builder, acc: Buffer, fn: str) -> Merge:
    """Merges one number by a function."""

    def merge(others: Sequence[Value]) -> None:
        b.store(acc, (0,), apply(fn, b.load(acc, (0,)), others[0]))

    return merge


def online(b: Builder, top: Buffer, total: Buffer) -> Merge:
    """Merges a greatest element and the sum of exponentials less it.

    Where both are -inf, sums are 0: there is nothing yet. A NaN may be lost in the maximum; the sum has it.
    """

    def merge(others: Sequence[Value]) -> None:
        best = b.alloc("best", (1,), top.dtype)
        b.store(best, (0,), apply("max_else", b.load(top, (0,)), others[0]))
        scaled = b.load(total, (0,)) * shifted(b.load(top, (0,)), b.load(best, (0,)))
        b.store(total, (0,), scaled + others[1] * shifted(others[0], b.load(best, (0,))))
        b.store(top, (0,), b.load(best, (0,)))

    return merge


def shifted(value: Value, top: Value) -> Value:
    """exp(value - top), with 0 for -inf even where the greatest element is that, too."""
    nothing = apply("eq", top, lowest(top.dtype))
    return apply("exp", value - select(nothing, constant(0, top.dtype), top))
