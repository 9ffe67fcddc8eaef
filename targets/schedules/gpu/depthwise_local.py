"""Depthwise conv2d with the input in local memory and the weights in registers, NCHW.

for pictures, blocks of channels, tiles of rows and columns:      a group
    the items copy the tile's input, border included, to local memory; barrier
    each item sums a few rows of one column of one channel: what it reads of a column serves all rows of the window
"""

from collections.abc import Iterator
from itertools import product

from attrs import frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, all_of, apply, cast, constant, later
from ...lower import Problem
from ...prelude import width
from ..conv_shape import Conv
from ..space import Config
from ..tiles import Packed
from .convs import known_depthwise, plain_depthwise, window_of
from .items import emit_pixel, guarded, local_bytes, or_zero, split, within
from .roofline import Work, time

SPACE = {"channels": (1, 2, 4, 8), "rows": (2, 4, 8, 16, 32), "item_rows": (1, 2, 4, 8), "columns": (8, 16, 32)}
"""The tile of a group, and the rows of an item."""

SHOWN = 24
"""Configs of the space, the best by prediction."""

LARGEST = 49
"""Weights that an item keeps in registers."""


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    conv = plain_depthwise(problem, False)
    if isinstance(conv, str):
        return conv
    if conv.s.kh * conv.s.kw > LARGEST:
        return f"a window of {conv.s.kh} x {conv.s.kw}"
    return None if next(_every(problem, conv), None) else "no tile fits into local memory"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space, the cheapest by prediction first."""
    conv = known_depthwise(problem, False)
    yield from sorted(_every(problem, conv), key=lambda config: _cost(conv, config))[:SHOWN]


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    conv = known_depthwise(problem, False)
    return _cost(conv, config)


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a depthwise convolution."""
    conv = known_depthwise(problem, False)
    b = Builder()
    _Writer(conv, _Tile.of(config), b).write()
    return problem.kernel(b), {}


def _every(problem: Problem, conv: Conv) -> Iterator[Config]:
    s, device = conv.s, problem.isa.device
    assert device is not None
    for values in product(*SPACE.values()):
        config = dict(zip(SPACE, values, strict=True))
        tile = _Tile.of(config)
        large = config["rows"] >= 2 * max(s.oh, 2) or config["columns"] >= 2 * max(s.ow, 8)
        if large or config["channels"] >= 2 * s.groups or config["item_rows"] > config["rows"]:
            continue
        some = min(32, device.max_group) <= tile.items <= min(256, device.max_group)
        if some and tile.nbytes(conv) <= min(local_bytes(problem), 48 << 10):
            yield config


@frozen
class _Tile:
    channels: int
    rows: int
    item_rows: int
    columns: int

    @staticmethod
    def of(config: Config) -> "_Tile":
        return _Tile(*(config[name] for name in ("channels", "rows", "item_rows", "columns")))

    @property
    def sides(self) -> tuple[int, int, int]:
        """Items along channels, rows and columns."""
        return self.channels, self.rows // self.item_rows, self.columns

    @property
    def items(self) -> int:
        a, b, c = self.sides
        return a * b * c

    def window(self, conv: Conv) -> tuple[int, int]:
        """Rows and columns of the input that a tile reads."""
        return window_of(conv, self.rows, self.columns)

    def nbytes(self, conv: Conv) -> int:
        rows, columns = self.window(conv)
        return self.channels * rows * columns * width(conv.dtype)

    def grid(self, conv: Conv) -> tuple[int, ...]:
        """The groups: pictures, blocks of channels, tiles of rows and of columns."""
        s = conv.s
        return s.n, -(-s.groups // self.channels), -(-s.oh // self.rows), -(-s.ow // self.columns)


def _cost(conv: Conv, config: Config) -> float:
    s, tile = conv.s, _Tile.of(config)
    n, blocks, down, across = tile.grid(conv)
    groups, area, size = n * blocks * down * across, s.kh * s.kw, width(conv.dtype)
    column = min((tile.item_rows - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0] + 1, tile.item_rows * s.kh)
    staged = tile.nbytes(conv) / size / tile.items
    out = s.n * s.groups * s.oh * s.ow * size
    return time(
        Work(
            groups,
            tile.items,
            sums=area * tile.item_rows / 4,
            reads=s.kw * column + area,
            other=4 * staged + 4 * tile.item_rows + 100.0,
            local_bytes=tile.nbytes(conv),
            registers=32 + tile.item_rows + column + area,
            near_bytes=groups * tile.nbytes(conv) + out,
            far_bytes=s.n * s.groups * s.h * s.w * size + out,
        )
    )


@frozen(eq=False)
class _Writer:
    conv: Conv
    tile: _Tile
    b: Builder

    def write(self) -> None:
        """One nest of groups."""
        b, t, grid = self.b, self.tile, self.tile.grid(self.conv)
        with b.loops(("n", "block", "top", "left"), grid, "workgroup") as places:
            n, block, top, left = (as_index(0) if k == 1 else i for i, k in zip(places, grid, strict=True))
            rows, columns = t.window(self.conv)
            data = b.alloc("data", (t.channels, rows, columns), self.conv.dtype, "local")
            with b.loop("item", t.items, "workitem") as item:
                corner = (n, block * t.channels, top * t.rows, left * t.columns)
                self.stage(data, corner, item)
                b.barrier("local")
                self.sums(data, corner, item)

    def stage(self, data: Buffer, corner: tuple[Index, ...], item: Index) -> None:
        """The input of the tile, zeros beyond the picture."""
        b, s, (n, c0, y0, x0) = self.b, self.conv.s, corner
        size, pad = data.shape[0] * data.shape[1] * data.shape[2], s.pad if s.padded else (0, 0)
        with b.loop("round", -(-size // self.tile.items)) as round_:
            number = round_ * self.tile.items + item
            with guarded(b, apply("lt", number, size)):
                c, r, q = split(number, data.shape)
                y, x = y0 * s.stride[0] + r - pad[0], x0 * s.stride[1] + q - pad[1]
                cond = within((c0 + c, y, x), (s.groups, s.h, s.w))
                b.store(data, (c, r, q), later(or_zero(cond, self.conv.data(n, c0 + c, y, x), self.conv.dtype)))

    def sums(self, data: Buffer, corner: tuple[Index, ...], item: Index) -> None:
        """The rows of an item, and their stores."""
        b, s, t, dtype, (n, c0, y0, x0) = self.b, self.conv.s, self.tile, self.conv.dtype, corner
        c, y, x = split(item, t.sides)
        acc = b.alloc("acc", (t.item_rows,), dtype)
        for j in range(t.item_rows):
            b.store(acc, (j,), constant(0, dtype))
        # Beyond the last channel any weight will do: nothing of it is stored.
        channel = c0 + c if s.groups % t.channels == 0 else (c0 + c) % s.groups
        down = s.stride[0], s.dilation[0]
        needed = sorted({j * down[0] + i * down[1] for j in range(t.item_rows) for i in range(s.kh)})
        for kw in range(s.kw):
            column = b.alloc("x", (len(needed),), dtype)
            for k, r in enumerate(needed):
                place = (c, y * (t.item_rows * down[0]) + r, x * s.stride[1] + kw * s.dilation[1])
                b.store(column, (k,), b.load(data, place))
            for i in range(s.kh):
                w = b.alloc("w", (1,), dtype)
                b.store(w, (0,), cast(self.conv.weight(channel, as_index(0), as_index(i), as_index(kw)), dtype))
                for j in range(t.item_rows):
                    value = b.load(column, (needed.index(j * down[0] + i * down[1]),))
                    b.store(acc, (j,), apply("fma", value, b.load(w, (0,)), b.load(acc, (j,))))
        scratch = b.alloc("tile", (t.item_rows,), dtype, "thread")
        for j in range(t.item_rows):
            b.store(scratch, (j,), b.load(acc, (j,)))
        with b.loop("j", t.item_rows, "short") as row:
            own_y, own_x = y0 + y * t.item_rows + row, x0 + x
            with guarded(b, all_of([within((c0 + c, own_y, own_x), (s.groups, s.oh, s.ow))])):
                emit_pixel(self.conv, b, (n, c0 + c, own_y, own_x), b.load(scratch, (row,)))
