"""Depthwise conv2d in NHWC: an item computes a block of pixels of four neighbouring channels.

    for pictures, blocks of channels, tiles of rows and columns:          a group
        staged: the items copy the tile's input, border included, to local memory; barrier
        each item, for the pixels of the input under its block: a vector, read once, serves all windows that it is in

Neighbouring items have neighbouring channels, so that a warp reads whole lines of memory; the weights of an item's
channels stay in registers. Staged, no element is read twice from the caches and the sums have no conditions: that pays
where windows are large. Channels that are no whole vectors are computed one by one.
"""

from collections.abc import Callable, Iterator
from itertools import product

from attrs import frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Const, Value, apply, cast, constant, later
from ...lower import Problem
from ...prelude import width
from ..conv_shape import Conv
from ..space import Config
from ..tiles import Packed
from .convs import known_depthwise, plain_depthwise, window_of
from .items import LANES, emit_pixel, guarded, local_bytes, or_zero, split, within
from .reductions import WAIT
from .roofline import Work, rank, time

SPACE = {
    "channels": (8, 16, 32, 4),
    "rows": (1, 2, 4, 8, 16),
    "item_rows": (1, 2, 4),
    "columns": (1, 2, 4, 8, 16),
    "item_columns": (1, 2, 4),
    "staged": (0, 1),
}
"""Vectors of channels and pixels of a group, pixels of an item, and whether the input goes through local memory."""

SHOWN = 12
"""Configs of the space with, and as many without a copy in local memory, the best by prediction."""

LARGEST, UNROLLED = 49, 256
"""Weights that an item keeps in registers, and multiply-adds that are copied out, at most."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    conv = plain_depthwise(problem, True)
    if isinstance(conv, str):
        return conv
    if conv.s.kh * conv.s.kw > LARGEST:
        return f"a window of {conv.s.kh} x {conv.s.kw}"
    return None if next(_every(problem, conv), None) else "no tile fits the device"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space, the cheapest by prediction first."""
    conv = known_depthwise(problem, True)
    every = sorted(_every(problem, conv), key=lambda config: rank(_work(conv, config)))
    shown = [config for staged in (0, 1) for config in [c for c in every if c["staged"] == staged][:SHOWN]]
    yield from (config for config in every if config in shown)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    return time(_work(known_depthwise(problem, True), config))


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a depthwise convolution."""
    b, conv = Builder(), known_depthwise(problem, True)
    _Writer(conv, _Tile.of(conv, config), b).write()
    return problem.kernel(b), {}


def _every(problem: Problem, conv: Conv) -> Iterator[Config]:
    s, device = conv.s, problem.isa.device
    assert device is not None
    for values in product(*SPACE.values()):
        config = dict(zip(SPACE, values, strict=True))
        tile = _Tile.of(conv, config)
        large = tile.rows >= 2 * s.oh or tile.columns >= 2 * s.ow or tile.channels >= 2 * max(tile.vectors(conv), 4)
        if large or tile.item_rows > tile.rows or tile.item_columns > tile.columns:
            continue
        if s.kh * s.kw * tile.item_rows * tile.item_columns > UNROLLED:
            continue
        fits = not tile.staged or tile.nbytes(conv) <= min(local_bytes(problem), 48 << 10)
        if fits and min(32, device.max_group) <= tile.items <= min(256, device.max_group):
            yield config


@frozen
class _Tile:
    lanes: int
    channels: int
    rows: int
    item_rows: int
    columns: int
    item_columns: int
    staged: bool

    @staticmethod
    def of(conv: Conv, config: Config) -> "_Tile":
        lanes = LANES if conv.s.groups % LANES == 0 else 1
        channels, rows, item_rows, columns, item_columns, staged = (config[name] for name in SPACE)
        return _Tile(lanes, channels, rows, item_rows, columns, item_columns, bool(staged))

    @property
    def sides(self) -> tuple[int, int, int]:
        """Items along rows, columns and channels."""
        return self.rows // self.item_rows, self.columns // self.item_columns, self.channels

    @property
    def items(self) -> int:
        a, b, c = self.sides
        return a * b * c

    def vectors(self, conv: Conv) -> int:
        """Vectors of channels of the picture."""
        return conv.s.groups // self.lanes

    def nbytes(self, conv: Conv) -> int:
        """The input under a tile."""
        rows, columns = window_of(conv, self.rows, self.columns)
        return rows * columns * self.channels * self.lanes * width(conv.dtype)

    def grid(self, conv: Conv) -> tuple[int, ...]:
        """The groups: pictures, tiles of rows and of columns, blocks of channels."""
        s = conv.s
        return s.n, -(-s.oh // self.rows), -(-s.ow // self.columns), -(-self.vectors(conv) // self.channels)


def _work(conv: Conv, config: Config) -> Work:
    s, tile = conv.s, _Tile.of(conv, config)
    n, down, across, blocks = tile.grid(conv)
    groups, area, size = n * down * across * blocks, s.kh * s.kw, width(conv.dtype)
    rows, columns = window_of(conv, tile.item_rows, tile.item_columns)
    read = min(rows * columns, area * tile.item_rows * tile.item_columns)
    points, lanes = tile.item_rows * tile.item_columns, tile.lanes
    out = s.n * s.groups * s.oh * s.ow * size
    staged = tile.nbytes(conv) / size / lanes / tile.items
    # Reading by vectors takes a warp's line for each lane; a condition is found for each pixel.
    found = staged * (lanes + 4.0) + WAIT if tile.staged else read * (3.0 if s.padded else 1.0)
    return Work(
        groups,
        tile.items,
        sums=area * points * lanes / LANES,
        reads=lanes * (read + area),
        other=found + 4.0 * points + WAIT,
        local_bytes=tile.nbytes(conv) if tile.staged else 0,
        registers=32 + lanes * (points + area + 2),
        near_bytes=groups * tile.nbytes(conv) + out,
        far_bytes=s.n * s.groups * s.h * s.w * size + out,
    )


@frozen(eq=False)
class _Writer:
    conv: Conv
    tile: _Tile
    b: Builder

    def write(self) -> None:
        """One nest of groups."""
        b, t, grid = self.b, self.tile, self.tile.grid(self.conv)
        with b.loops(("n", "top", "left", "block"), grid, "workgroup") as places:
            n, top, left, block = (as_index(0) if k == 1 else i for i, k in zip(places, grid, strict=True))
            shape = (*window_of(self.conv, t.rows, t.columns), t.channels * t.lanes)
            data = b.alloc("data", shape, self.conv.dtype, "local") if t.staged else None
            with b.loop("item", t.items, "workitem") as item:
                corner = (n, top * t.rows, left * t.columns, block * t.channels)
                if data is not None:
                    self.stage(data, corner, item)
                    b.barrier("local")
                *own, vector = split(item, t.sides)
                vectors = t.vectors(self.conv)
                whole = Const(True, "bool") if vectors % t.channels == 0 else within((corner[3] + vector,), (vectors,))
                with guarded(b, whole):
                    self.block(data, corner, (own[0], own[1], vector))

    def stage(self, data: Buffer, corner: tuple[Index, ...], item: Index) -> None:
        """The input of the tile, zeros beyond the picture."""
        b, t, (n, y0, x0, c0) = self.b, self.tile, corner
        rows, columns, _ = data.shape
        shape = (rows, columns, t.channels)
        size = rows * columns * t.channels
        with b.loop("round", -(-size // t.items)) as round_:
            number = round_ * t.items + item
            with guarded(b, apply("lt", number, size)), b.loop("v", t.lanes, "vectorised") as v:
                r, q, c = split(number, shape)
                y, x = self.above(y0, 0) + r, self.above(x0, 1) + q
                value = self.pixel(n, (y, x), c0 + c, v, beyond=True)
                b.store(data, (r, q, c * t.lanes + v), later(value))

    def above(self, at: Index, axis: int) -> Index:
        """The first row or column of the input under one of the result."""
        s = self.conv.s
        return at * s.stride[axis] - (s.pad[axis] if s.padded else 0)

    def pixel(self, n: Index, at: tuple[Index, Index], vector: Index, v: Index, beyond: bool) -> Value:
        """A lane of the input; 0 outside of the picture, and of channels `beyond` the last."""
        s, t = self.conv.s, self.tile
        cond = within((*at, vector), (s.h, s.w, t.vectors(self.conv))) if beyond else within(at, (s.h, s.w))
        return or_zero(cond, self.conv.data(n, vector * t.lanes + v, *at), self.conv.dtype)

    def block(self, data: Buffer | None, corner: tuple[Index, ...], own: tuple[Index, Index, Index]) -> None:
        """The pixels of an item, and their stores."""
        b, s, t, (n, y0, x0, c0) = self.b, self.conv.s, self.tile, corner
        first = y0 + own[0] * t.item_rows, x0 + own[1] * t.item_columns
        held = b.alloc("tile", (t.item_rows, t.item_columns, t.lanes), self.conv.dtype, "thread")
        with b.loop("v", t.lanes, "vectorised") as v:

            def read(r: int, q: int) -> Value:
                if data is None:
                    at = self.above(first[0], 0) + r, self.above(first[1], 1) + q
                    return self.pixel(n, at, c0 + own[2], v, beyond=False)
                y, x = own[0] * (t.item_rows * s.stride[0]) + r, own[1] * (t.item_columns * s.stride[1]) + q
                return b.load(data, (y, x, own[2] * t.lanes + v))

            self.sums(held, read, (c0 + own[2]) * t.lanes + v, v)
        with b.loops(("j", "i"), (t.item_rows, t.item_columns), "short") as (j, i):
            y, x = first[0] + j, first[1] + i
            with guarded(b, within((y, x), (s.oh, s.ow))), b.loop("v", t.lanes, "vectorised") as v:
                emit_pixel(self.conv, b, (n, (c0 + own[2]) * t.lanes + v, y, x), b.load(held, (j, i, v)))

    def sums(self, held: Buffer, read: Callable[[int, int], Value], channel: Index, v: Index) -> None:
        """The sums of one lane: each pixel of the input is read once, and added to all sums that it belongs to."""
        b, s, t, dtype = self.b, self.conv.s, self.tile, self.conv.dtype
        acc = b.alloc("acc", (t.item_rows, t.item_columns), dtype)
        weights = b.alloc("w", (s.kh, s.kw), dtype)
        for place in product(range(t.item_rows), range(t.item_columns)):
            b.store(acc, place, constant(0, dtype))
        for place in product(range(s.kh), range(s.kw)):
            b.store(weights, place, cast(self.conv.weight(channel, as_index(0), *map(as_index, place)), dtype))
        down = _users(t.item_rows, s.kh, s.stride[0], s.dilation[0])
        across = _users(t.item_columns, s.kw, s.stride[1], s.dilation[1])
        for (r, rows), (q, columns) in product(down.items(), across.items()):
            x = b.alloc("x", (1,), dtype)
            b.store(x, (0,), read(r, q))
            for (j, kh), (i, kw) in product(rows, columns):
                term = apply("fma", b.load(x, (0,)), b.load(weights, (kh, kw)), b.load(acc, (j, i)))
                b.store(acc, (j, i), term)
        for place in product(range(t.item_rows), range(t.item_columns)):
            b.store(held, (*place, v), b.load(acc, place))


def _users(results: int, window: int, stride: int, dilation: int) -> dict[int, list[tuple[int, int]]]:
    """For each place of the input under a few results along an axis: which results it belongs to, by which weight."""
    found: dict[int, list[tuple[int, int]]] = {}
    for j, k in product(range(results), range(window)):
        found.setdefault(j * stride + k * dilation, []).append((j, k))
    return dict(sorted(found.items()))
