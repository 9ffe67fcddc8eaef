"""Groups without an anchor: every output element is an expression over input elements.

The nest of a group is first made simple (see nest.py): axes taken apart by divisions are split, axes that run on are
merged, and where a comparison of a counter decides what is read (concatenate, pad), the nest is cut into boxes in
which it is decided. What remains is written as

    loops    parallel outside, vector lanes along the last axis
    tiles    where something is read along another axis than the one that is written: squares of lanes x lanes are
             read by rows, transposed in registers, and used by columns
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from ...ir.index import Index, IndexVar, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Apply, Buffer, Load, Value, cast
from ...ops.reshape import unravel
from ..lower import Problem
from ..prelude import width
from ..prove import proven_inside
from ..rewrite import Rewriter, all_values
from .nest import Nest, accesses, axis_of, boxes, counter, cuts, hidden, merge_axes, rewritten, segments, split_axes

PARALLEL_WORK = 16384
"""Element operations below which one thread is faster than the team's fork and join."""

CHUNK = 4096
"""Elements of one iteration of a parallel loop over a flat tensor."""

BOX_BYTES = 4096
"""Bytes behind one step of an axis from which on the parts of a cut axis get nests of their own."""

MAX_PARTS = 64
"""Parts that a nest is cut into, at most."""

TILE = 16
"""The side of the largest square that is transposed in registers: two such squares must fit into the registers."""

BLOCK = 64
"""Elements along the short side of a block of tiles: the cache lines of a block stay near until they are used up."""

RUN_BYTES = 4096
"""Bytes along the long side of a block: a page, so that reading it is a stream that the processor runs ahead of."""

FAR_BYTES = 1 << 22
"""Bytes from which on tensors are taken not to stay in a core's own caches."""

UNITS = 16
"""Iterations that a parallel loop over blocks should have at least."""


def map_kernel(problem: Problem) -> Kernel:
    """The nests of each output of a group without anchor."""
    builder = Builder()
    for view, out in zip(problem.views, problem.outputs, strict=True):
        if 0 in out.shape:
            continue
        axes = tuple(axis_of(f"i{axis}", n) for axis, n in enumerate(out.shape))
        place = tuple(map(counter, axes))
        write_nest(builder, Nest(out, axes, place, cast(view(*place), out.dtype)), problem.isa.vector_bytes)
    return problem.kernel(builder)


def write_nest(builder: Builder, nest: Nest, vector_bytes: int) -> None:
    """Loops that store every element of a nest."""
    nest = merge_axes(split_axes(nest))
    places = cuts(nest.value, nest.axes)
    parts = [segments(axis.hi + 1, places[axis]) for axis in nest.axes]
    apart = [len(p) > 1 and _apart(nest, k) for k, p in enumerate(parts)]
    if math.prod(len(p) for p, far in zip(parts, apart, strict=True) if far) > MAX_PARTS:
        apart = [False] * len(parts)
    for box in boxes(nest, [p if far else [] for p, far in zip(parts, apart, strict=True)]):
        whole = merge_axes(box) if any(apart) else box
        moved = transposed_loads(whole, vector_bytes)
        if moved is not None:
            Tiles(builder, whole, moved[0], moved[1]).write(vector_bytes)
        else:
            _loops(builder, in_read_order(whole))


def _apart(nest: Nest, k: int) -> bool:
    extents = nest.extents
    if k < leading(extents):
        return True
    return math.prod(extents[k + 1 :]) * width(nest.out.dtype) >= BOX_BYTES


def team_kind(work: int) -> str:
    """The kind of an outer loop around so many element operations."""
    return "parallel" if work >= PARALLEL_WORK else "serial"


def in_read_order(nest: Nest) -> Nest:
    """A large nest in whose two axes before the last rows are read in another order than they are written: read as they
    lie in memory. Rows that fill cache lines may be written anywhere; reading is what has to run ahead.
    """
    bytes_ = width(nest.out.dtype)
    if len(nest.axes) < 3 or math.prod(nest.extents) * bytes_ < FAR_BYTES or nest.extents[-1] * bytes_ < 128:
        return nest
    *others, x, y, last = nest.axes
    own, offsets = accesses(nest.value)
    crossed = any(0 < o.coeff(x) < o.coeff(y) and not hidden(o, x) and not hidden(o, y) for o in offsets)
    return nest.replaced({}, (*others, y, x, last)) if crossed and not own & {x, y} else nest


def leading(extents: Sequence[int]) -> int:
    """How many of the first axes make enough iterations for a parallel loop."""
    return next((k for k in range(1, len(extents)) if math.prod(extents[:k]) >= 16), max(len(extents) - 1, 0))


def _loops(builder: Builder, nest: Nest) -> None:
    """Parallel outside when there is enough work, vectorised innermost; cut where guards change."""
    extents = nest.extents
    places = cuts(nest.value, nest.axes)
    parts = [segments(axis.hi + 1, places[axis]) for axis in nest.axes]
    if math.prod(map(len, parts)) > MAX_PARTS:
        parts = [[(0, n)] for n in extents]

    def store(index: Sequence[Index]) -> None:
        place, value = nest.bound(dict(zip(nest.axes, index, strict=True)))
        builder.store(nest.out, place, value)

    if math.prod(extents) < PARALLEL_WORK:
        _serial(builder, parts, [], store)
    elif len(extents) == 1:
        for start, size in parts[0]:
            _flat(builder, start, size, store)
    else:
        split = leading(extents)
        with builder.loop("p", math.prod(extents[:split]), "parallel") as p:
            _serial(builder, parts, [*unravel(p, extents[:split])], store)


def _serial(
    builder: Builder,
    parts: Sequence[Sequence[tuple[int, int]]],
    index: list[Index],
    body: Callable[[Sequence[Index]], None],
) -> None:
    axis = len(index)
    if axis == len(parts):
        body(index)
        return
    kind = "vectorised" if axis == len(parts) - 1 else "serial"
    for start, size in parts[axis]:
        with builder.loop(f"i{axis}", size, kind) as i:
            _serial(builder, parts, [*index, i + start], body)


def _flat(builder: Builder, start: int, extent: int, body: Callable[[Sequence[Index]], None]) -> None:
    """A one-dimensional space in chunks, so that threads get whole vectors."""
    whole = extent // CHUNK
    with builder.loop("p", whole, "parallel") as p, builder.loop("i", CHUNK, "vectorised") as i:
        body([p * CHUNK + i + start])
    if extent % CHUNK:
        with builder.loop("tail", extent % CHUNK, "vectorised") as i:
            body([i + whole * CHUNK + start])


# Transposition


def transposed_loads(nest: Nest, vector_bytes: int) -> tuple[IndexVar, list[Load]] | None:
    """The axis that some loads run along in memory while the last axis jumps, and those loads."""
    if len(nest.axes) < 2 or nest.axes[-1].hi < 3:
        return None
    last = nest.axes[-1]
    found: dict[IndexVar, list[Load]] = {}
    for node in all_values([nest.value]):
        if not isinstance(node, Load) or not proven_inside(node):
            continue
        offset = node.buffer.offset(node.index)
        if hidden(offset, last) or abs(offset.coeff(last)) <= 2 or tile_side(node.buffer, vector_bytes) < 4:
            continue
        for axis in nest.axes[:-1]:
            if axis.hi >= 3 and offset.coeff(axis) == 1 and not hidden(offset, axis):
                found.setdefault(axis, []).append(node)
    return max(found.items(), key=lambda item: len(item[1])) if found else None


def tile_side(buffer: Buffer, vector_bytes: int) -> int:
    """The side of a square of a buffer's elements that is transposed in registers."""
    return min(vector_bytes // (4 if buffer.dtype == "bool" else width(buffer.dtype)), TILE)


def ladder(extent: int, side: int) -> list[tuple[int, int, int]]:
    """An axis in tiles of `side`, then of 4, then of 1: (start, tiles, size)."""
    found: list[tuple[int, int, int]] = []
    start = 0
    for size in dict.fromkeys((side, 4, 1)):
        if tiles := (extent - start) // size:
            found.append((start, tiles, size))
            start += tiles * size
    return found


@frozen(eq=False)
class Tiles:
    """A nest some of whose loads are transposed by tiles, along `axis` and the last axis."""

    builder: Builder
    nest: Nest
    axis: IndexVar
    loads: Sequence[Load]

    def write(self, vector_bytes: int) -> None:
        """Blocks of tiles, in parallel."""
        last = self.nest.axes[-1]
        side = min(tile_side(load.buffer, vector_bytes) for load in self.loads)
        for a in ladder(self.axis.hi + 1, side):
            for b in ladder(last.hi + 1, side):
                self._region(a, b)

    def _region(self, a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
        """All tiles of one size."""
        size = min(a[2], b[2])
        counts = [part[1] * (part[2] // size) for part in (a, b)]
        others = [axis for axis in self.nest.axes[:-1] if axis is not self.axis]
        work = math.prod(axis.hi + 1 for axis in others) * math.prod(counts) * size * size
        wide, near = self._shape_of_blocks(work, size, counts)
        for start_a, blocks_a, tiles_a in in_blocks(counts[0], near[0]):
            pieces = in_blocks(counts[1], near[1])
            outside = math.prod(axis.hi + 1 for axis in others) * blocks_a < UNITS
            for piece in [[part] for part in pieces] if outside else [pieces]:
                shape = [*(axis.hi + 1 for axis in others), blocks_a, piece[0][1] if outside else 1]
                with self.builder.loop("p", math.prod(shape), team_kind(work)) as p:
                    *outer, block, further = unravel(p, shape)
                    bind = dict(zip(others, outer, strict=True))
                    for start_b, blocks_b, tiles_b in piece:
                        with self._blocks_of(1 if outside else blocks_b, tiles_a, tiles_b, wide) as (tb, ia, ib):
                            a0 = (block * tiles_a + ia + start_a) * size + a[0]
                            b0 = ((further + tb) * tiles_b + ib + start_b) * size + b[0]
                            self._tile(bind, a0, b0, size)

    def _shape_of_blocks(self, work: int, size: int, counts: Sequence[int]) -> tuple[bool, tuple[int, int]]:
        """Whether blocks are long along `axis`, where reads lie side by side, and their tiles along either axis.

        Long blocks are read in streams. That pays for what does not stay in the caches, and where the rows written are
        short. Elements narrower than 4 bytes leave cache lines half written: their blocks stay square.
        """
        bytes_, short = width(self.loads[0].buffer.dtype), max(BLOCK // size, 1)
        run = max(RUN_BYTES // bytes_ // size, 1)
        if bytes_ < 4 or (work * bytes_ < FAR_BYTES and min(counts) > 2 * short):
            return False, (short, short)
        return (True, (run, short)) if counts[0] > 2 * short else (False, (counts[0], run))

    @contextmanager
    def _blocks_of(self, blocks: int, tiles_a: int, tiles_b: int, wide: bool) -> Iterator[tuple[Index, Index, Index]]:
        """The loops over the tiles of some blocks: the longer run innermost."""
        order = [("tc", tiles_b), ("ta", tiles_a)] if wide else [("ta", tiles_a), ("tc", tiles_b)]
        with (
            self.builder.loop("tb", blocks) as tb,
            self.builder.loop(*order[0]) as first,
            self.builder.loop(*order[1]) as second,
        ):
            yield (tb, second, first) if wide else (tb, first, second)

    def _tile(self, bind: dict[IndexVar, Index], a0: Index, b0: Index, size: int) -> None:
        last, builder = self.nest.axes[-1], self.builder
        if size == 1:
            place, value = self.nest.bound({**bind, self.axis: a0, last: b0})
            builder.store(self.nest.out, place, value)
            return
        columns = [self._columns(load, {**bind, self.axis: a0}, b0, size) for load in self.loads]
        if len(columns) == 1 and self.nest.value is self.loads[0]:
            for k, column in enumerate(columns[0]):
                place, _ = self.nest.bound({**bind, self.axis: a0 + k, last: b0})
                builder.emit_store(self.nest.out, place, column)
            return
        tiles = [self._kept(load, column, size) for load, column in zip(self.loads, columns, strict=True)]
        with builder.loop("ra", size) as i, builder.loop("rb", size, "vectorised") as j:
            there = {id(load): builder.load(tile, (i, j)) for load, tile in zip(self.loads, tiles, strict=True)}
            place, value = self._using(there, {**bind, self.axis: a0 + i, last: b0 + j})
            builder.store(self.nest.out, place, value)

    def _kept(self, load: Load, columns: Sequence[Value], size: int) -> Buffer:
        tile = self.builder.alloc("tile", (size, size), load.buffer.dtype, "thread")
        for i, column in enumerate(columns):
            self.builder.emit_store(tile, (as_index(i), as_index(0)), column)
        return tile

    def _using(self, there: dict[int, Value], bind: dict[IndexVar, Index]) -> tuple[tuple[Index, ...], Value]:
        rewriter = Rewriter(bind, known=there)
        return tuple(rewriter.index(i) for i in self.nest.place), rewritten(rewriter, self.nest.value)

    def _columns(self, load: Load, bind: dict[IndexVar, Index], b0: Index, size: int) -> list[Value]:
        """A square, read by rows along the axis, as its columns."""
        rows: list[Value] = []
        for r in range(size):
            rewriter = Rewriter({**bind, self.nest.axes[-1]: b0 + r})
            rows.append(Load(load.buffer, tuple(rewriter.index(i) for i in load.index), size))
        return transposed(self.builder, rows)


def transposed(builder: Builder, rows: Sequence[Value]) -> list[Value]:
    """As many vectors as they have lanes, as a matrix transposed: blocks off the diagonal are exchanged, the largest
    first.
    """
    size = len(rows)
    current = _in_register(builder, "row", rows)
    step = size // 2
    while step:
        new: list[Value] = list(current)
        for r in range(size):
            if not r & step:
                pair = current[r], current[r + step]
                for k, half in ((r, "lo"), (r + step, "hi")):
                    new[k] = Apply(f"swap{step}_{half}", pair, rows[0].dtype, size)
        current = _in_register(builder, "part", new)
        step //= 2
    return current


def _in_register(builder: Builder, name: str, values: Sequence[Value]) -> list[Value]:
    """Vectors kept in variables."""
    lanes = values[0].lanes
    buffer = builder.alloc_vectors(name, len(values), values[0].dtype, lanes)
    for k, value in enumerate(values):
        builder.emit_store(buffer, (as_index(k),), value)
    return [Load(buffer, (as_index(k),), lanes) for k in range(len(values))]


def in_blocks(tiles: int, near: int) -> list[tuple[int, int, int]]:
    """Tiles in blocks of `near`: (first tile, blocks, tiles in each), the rest as one smaller block."""
    whole, rest = divmod(tiles, near)
    return [part for part in ((0, whole, near), (whole * near, 1, rest)) if part[1] and part[2]]


def grouped(start: int, count: int, many: int) -> list[tuple[int, int, int]]:
    """Places from `start` on in groups of `many`, the rest one by one: (first place, groups, places of each)."""
    whole, rest = divmod(count, many)
    return [part for part in ((start, whole, many), (start + whole * many, rest, 1)) if part[1]]
