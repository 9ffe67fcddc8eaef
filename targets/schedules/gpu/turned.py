"""Transposes and changes of layout by tiles in local memory.

    items side by side read what lies side by side, and store it to a tile in local memory;      barrier
    items side by side write what lies side by side, and find what they need in the tile

The tile's rows are one element longer than they need be, so that neither way two items of a warp want the same bank.
The value may be any expression: what runs along the result's last axis is read as it is, and only what runs along
another one goes through tiles.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attrs import frozen

from ....ir.index import Index, IndexVar, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Apply, Buffer, Load, Value, apply
from ...lower import Problem
from ...prelude import width
from ...prove import proven_inside
from ...rewrite import Rewriter, all_values
from ..nest import Nest, hidden, merge_axes, split_axes
from ..space import Config
from ..tiles import Packed
from .items import device_needed, guarded, local_bytes, local_sizes, occupancy, split
from .maps import nests_of

TILE = 32
"""Elements of a tile along either axis, at most."""


@frozen(eq=False)
class Turned:
    """A map, the axis that some loads run along, and these loads."""

    nest: Nest
    along: IndexVar
    loads: tuple[Load, ...]

    @property
    def tile(self) -> tuple[int, int]:
        """The tile's elements along the loads' axis and along the result's last one."""
        return min(TILE, self.along.hi + 1), min(TILE, self.nest.axes[-1].hi + 1)

    def nbytes(self) -> int:
        """Local memory for all tiles."""
        rows, columns = self.tile
        return sum(rows * (columns + 1) * width(load.dtype) for load in self.loads)


def turned_of(problem: Problem) -> Turned | None:
    """A group as a map that turns something, or None."""
    if problem.anchor is not None or len(problem.outputs) != 1 or 0 in problem.outputs[0].shape:
        return None
    nests = nests_of(problem)
    if not nests:
        return None
    nest = merge_axes(split_axes(nests[0]))
    if len(nest.axes) < 2 or nest.out.offset(nest.place).coeff(nest.axes[-1]) != 1:
        return None
    last, found = nest.axes[-1], dict[IndexVar, list[Load]]()
    for load in _loads(nest.value):
        offset = load.buffer.offset(load.index)
        for axis in nest.axes[:-1]:
            if offset.coeff(axis) == 1 and offset.depends_on(last) and not hidden(offset, axis):
                found.setdefault(axis, []).append(load)
    if not found or _guards(nest.value):
        return None
    along, loads = max(found.items(), key=lambda item: (len(item[1]), item[0].hi))
    return Turned(nest, along, tuple(loads)) if all(proven_inside(load) for load in loads) else None


def _loads(value: Value) -> Iterator[Load]:
    return (node for node in all_values([value]) if isinstance(node, Load))


def _guards(value: Value) -> bool:
    """Whether a load may be outside of its buffer where a condition keeps it from being read."""
    guarded_ = any(isinstance(node, Apply) and node.fn == "select" for node in all_values([value]))
    return guarded_ and any(not proven_inside(load) for load in _loads(value))


def check(problem: Problem) -> str | None:
    """Why a group turns nothing, or None."""
    if found := device_needed(problem):
        return found
    turned = turned_of(problem)
    if turned is None:
        return "it is written for maps that read along another axis than they write"
    if min(turned.along.hi, turned.nest.axes[-1].hi) < 3:
        return "an axis has less than 4 elements"
    return None if turned.nbytes() <= local_bytes(problem) else "tiles do not fit into local memory"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: items in a group."""
    sizes = [size for size in local_sizes(problem, 32) if size <= TILE * TILE]
    best = max((size for size in sizes if size <= 256), default=sizes[-1])
    yield from ({"local": size} for size in (best, *(size for size in sizes if size != best)))


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations; a map without tiles reads a line of memory for each element that is turned."""
    turned = turned_of(problem)
    assert turned is not None
    total = math.prod(turned.nest.extents)
    rows, columns = turned.tile
    return total / 4 * (32 / rows + 32 / columns) / 2 / occupancy(total)


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """A group for each tile."""
    b, turned = Builder(), turned_of(problem)
    assert turned is not None
    _write(b, turned, config["local"])
    return problem.kernel(b), {}


def _write(b: Builder, turned: Turned, local: int) -> None:
    nest, (rows, columns) = turned.nest, turned.tile
    last, along = nest.axes[-1], turned.along
    others = [axis for axis in nest.axes if axis not in (last, along)]
    tiles = [-(-(along.hi + 1) // rows), -(-(last.hi + 1) // columns)]
    places = [*(axis.hi + 1 for axis in others), *tiles]
    with b.loop("group", math.prod(places), "workgroup") as group:
        held = [b.alloc(f"tile{k}", (rows, columns + 1), load.dtype, "local") for k, load in enumerate(turned.loads)]
        with b.loop("item", local, "workitem") as item:
            *index, y, x = split(group, places)
            bind = dict(zip(others, index, strict=True))
            first = (y * rows, x * columns)
            _read(b, turned, held, bind, first, item, local)
            b.barrier("local")
            _finish(b, turned, held, bind, first, item, local)


def _read(
    b: Builder, turned: Turned, held: list[Buffer], bind: dict[IndexVar, Index], first: tuple[Index, Index],
    item: Index, local: int,
) -> None:  # fmt: skip
    """What runs along the other axis, into tiles: items side by side along it."""
    (rows, columns), last, along = turned.tile, turned.nest.axes[-1], turned.along
    with b.loop("round", -(-rows * columns // local), "unrolled") as round_:
        flat = round_ * local + item
        with guarded(b, apply("lt", flat, rows * columns)):
            column, row = split(flat, (columns, rows))
            at = Rewriter({**bind, along: first[0] + row, last: first[1] + column})
            with _inside(b, (first[0] + row, along), (first[1] + column, last)):
                for tile, load in zip(held, turned.loads, strict=True):
                    value = at.value(load)
                    assert isinstance(value, Value)
                    b.store(tile, (row, column), value)


def _finish(
    b: Builder, turned: Turned, held: list[Buffer], bind: dict[IndexVar, Index], first: tuple[Index, Index],
    item: Index, local: int,
) -> None:  # fmt: skip
    """The results: items side by side along the last axis."""
    nest, (rows, columns), last, along = turned.nest, turned.tile, turned.nest.axes[-1], turned.along
    with b.loop("round", -(-rows * columns // local), "unrolled") as round_:
        flat = round_ * local + item
        with guarded(b, apply("lt", flat, rows * columns)):
            row, column = split(flat, (rows, columns))
            known = {id(load): b.load(tile, (row, column)) for tile, load in zip(held, turned.loads, strict=True)}
            at = Rewriter({**bind, along: first[0] + row, last: first[1] + column}, known=dict(known))
            with _inside(b, (first[0] + row, along), (first[1] + column, last)):
                value = at.value(nest.value)
                assert isinstance(value, Value)
                b.store(nest.out, [at.index(as_index(i)) for i in nest.place], value)


@contextmanager
def _inside(b: Builder, *places: tuple[Index, IndexVar]) -> Iterator[None]:
    """A block that runs where places on axes are not beyond their ends."""
    with ExitStack() as stack:
        for place, axis in places:
            stack.enter_context(guarded(b, apply("lt", place, axis.hi + 1)))
        yield
