r"""A convolution and the depthwise one behind it as one kernel, in blocked layouts: what lies between is never stored.

A depthwise convolution sees each channel by itself, so a block of channels of the first result is all that a block of
the second one needs, and of that the few rows under its window:

    for every band of rows, every block of channels:       in parallel
        for every row of the band:
            new rows of the first convolution -> ring      register tiles, as in conv.py, with their epilogue
            ring -> a row of the second convolution        as in depthwise.py

The ring is scratch memory of the thread: as many rows of a block as the window is high; of a few blocks, where tiles
have as many vectors. Rows that two bands need are computed for each of them. The tensor between the two is wide where
networks expand their channels (MobileNetV2: 96 for 16), and would else be written to memory and read again.
"""

import math
from collections.abc import Iterator
from functools import partial

from attrs import evolve, frozen

from ...ir.expr import Function
from ...ir.index import Index, as_index
from ...ir.loops import Alloc, Builder, Kernel
from ...ir.scalar import Buffer, Value, inside
from ...ops.lowering import View
from ...ops.reshape import unravel
from ..cpuinfo import Isa
from ..lower import Problem, anchors, make_problem, redirected, spec
from . import conv, depthwise
from .conv_shape import Conv, conv_of
from .depthwise import Depthwise
from .space import Config, register_tiles, space
from .tiles import Packed, Piece

SHORT_SUM = 64
"""Terms of a sum up to which a window of the first convolution is summed directly; for longer ones there is Winograd.
"""

MOST_BANDS = 8
"""Bands that a picture is cut into, at most."""


def joins(function: Function, isa: Isa) -> bool:
    """Whether there is a kernel for a group that was made of two."""
    if isa.device is not None or [spec(call).name for call in anchors(function)] != ["nn.conv2d"] * 2:
        return False
    return check(make_problem(function, "joined", isa, 1)) is None


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    before = problem.before
    assert before is not None
    if problem.isa.device is not None:
        return "rows in scratch memory of a thread; a device has too little of it for each work-item"
    if reason := conv.check_blocked(before):
        return f"the first convolution: {reason}"
    if reason := depthwise.check(problem):
        return f"the second convolution: {reason}"
    one, two = conv_of(before).s, conv_of(problem).s
    if one.groups > 1:
        return "the first convolution has groups"
    if one.kh * one.kw > 1 and one.terms > SHORT_SUM:
        return f"the first convolution is no pointwise one, and its sums have more than {SHORT_SUM} terms"
    if not _fits(problem, 1):
        return "vectors lie across blocks of channels"
    if two.dilation != (1, 1) or two.kh < two.stride[0]:
        return "the rows under a window are no neighbours of those under the next one"
    return None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space.

    Knobs: `blocks` and `points`: vectors of channels and pixels of a tile of the first convolution; `columns`: pixels
    of the second one at a time; `rows` of its result in a band.
    """
    s, registers = conv_of(problem).s, problem.isa.registers
    rows = list(dict.fromkeys(-(-s.oh // bands) for bands in range(1, MOST_BANDS + 1)))
    columns = 14 if registers >= 32 else 8
    tiles = {n: most for n, most in register_tiles(registers) if _fits(problem, n)}
    # With few registers, a broadcast pixel must serve two vectors to keep up with the multiply-adds.
    blocks = 2 if registers < 32 and 2 in tiles else 1
    points = registers // 2 - 1 if registers >= 32 else tiles[blocks]
    busiest = partial(_longest, problem, blocks)
    default = {"blocks": blocks, "points": points, "columns": columns, "rows": min(rows, key=busiest)}

    def fits(config: Config) -> bool:
        most = tiles[config["blocks"]]
        return config["points"] in (most, most // 2, default["points"]) and config["points"] <= most

    sizes = sorted({size for most in tiles.values() for size in (most, most // 2)} | {points})
    knobs = {"blocks": tiles, "points": sizes, "columns": (14, 8, 4), "rows": rows}
    return space(default, knobs, fits)


def _fits(problem: Problem, blocks: int) -> bool:
    """Whether tiles of so many vectors, and whole blocks, cover the channels."""
    assert problem.before is not None
    one = conv_of(problem.before, pairs=True)
    pieces = conv.channel_pieces(one, blocks)
    if len(pieces) > 1 or one.s.co % _channels(one, pieces[0]):
        return False
    return max(one.out_block, pieces[0].width) % min(one.out_block, pieces[0].width) == 0


def _channels(one: Conv, piece: Piece) -> int:
    """The channels that are computed together: a tile, or a block of several tiles."""
    return max(one.out_block, piece.width)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations, if one thread does everything: that of both, and rows that two bands compute."""
    assert problem.before is not None
    s = conv_of(problem).s
    again = 1 + (s.kh - s.stride[0]) / (config["rows"] * s.stride[0])
    first, second = _parts(config)
    return conv.predict(problem.before, first) * again + depthwise.predict(problem, second)


def _longest(problem: Problem, blocks: int, rows: int) -> int:
    """What the busiest thread does, in rows of the first convolution."""
    assert problem.before is not None
    s, one = conv_of(problem).s, conv_of(problem.before, pairs=True)
    units = s.n * -(-s.oh // rows) * (s.groups // _channels(one, conv.channel_pieces(one, blocks)[0]))
    return -(-units // problem.threads) * (rows * s.stride[0] + s.kh - s.stride[0])


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops, and how the weights of both are packed."""
    both = _Both.start(problem, config)
    both.write()
    between = problem.before.outputs[0].shape if problem.before else ()
    note = f"{list(between)} between the convolutions is not stored: {list(both.ring.shape)} of it at a time"
    return both.second.conv.problem.kernel(both.builder, note), both.packed


def pack(problem: Problem, config: Config) -> Packed:
    """How the weights are packed."""
    return _Both.start(problem, config).packed


def _parts(config: Config) -> tuple[Config, Config]:
    """The configs of the two schedules."""
    first = {"channels": 1, "blocks": config["blocks"], "points": config["points"], "near": 1}
    return first, {"points": config["columns"]}


@frozen(eq=False)
class _Both:
    """The two convolutions being written, and the rows between them."""

    config: Config
    builder: Builder
    ring: Buffer
    first: conv.Tiling
    second: Depthwise

    @staticmethod
    def start(problem: Problem, config: Config) -> "_Both":
        """Pack the weights, and give the first input a border."""
        builder, before, two = Builder(), problem.before, conv_of(problem)
        assert before is not None
        (between,), s, block = before.outputs, two.s, two.data_block
        (piece,) = conv.channel_pieces(conv_of(before, pairs=True), config["blocks"])
        many = max(1, piece.width // block)
        ring = Buffer("ring", (many, s.kh, s.w, block), between.dtype, "thread")

        def place(cb: Index, y: Index, x: Index, lane: Index) -> tuple[Index, ...]:
            # The border counts, so that no row has a negative number.
            return cb % many, (y + s.pad[0]) % s.kh, x, lane

        def kept(at: tuple[Index, ...]) -> tuple[Buffer, tuple[Index, ...]]:
            return ring, place(*at[1:])

        def row(n: Index, c: Index, y: Index, x: Index) -> Value:
            return builder.load(ring, place(c // block, y, x, c % block))

        one = conv_of(evolve(before, finish=redirected(before, kept)), pairs=True)
        first = conv.Tiling.start(one, _parts(config)[0], builder)
        given = evolve(problem, inputs=first.conv.problem.inputs)
        second = Depthwise.start(evolve(two, problem=given, data=View(two.data.type, row)), builder)
        return _Both(config, builder, ring, first, second)

    @property
    def packed(self) -> Packed:
        """How the weights of both are packed."""
        return {**self.first.packed, **self.second.packed}

    def write(self) -> None:
        """Bands of rows of some channels, in parallel."""
        b, s, many = self.builder, self.second.conv.s, self.ring.shape[0]
        extents = (s.n, -(-s.oh // self.config["rows"]), s.groups // self.second.conv.data_block // many)
        with b.loop("unit", math.prod(extents), "parallel") as flat:
            n, band, some = unravel(flat, extents)
            b.emit(Alloc(self.ring))
            self._band(n, some, band * self.config["rows"])

    def _band(self, n: Index, some: Index, top: Index) -> None:
        """The rows from `top` on. A few steps before the first one fill the ring."""
        b, s, rows = self.builder, self.second.conv.s, self.config["rows"]
        early = s.kh - s.stride[0]
        lead = -(-early // s.stride[0])
        with b.loop("step", rows + lead) as step:
            y = top + step - lead
            with b.when(inside((y + lead,), (s.oh + lead,))):
                with b.loop("new", s.stride[0]) as k:
                    count = step * s.stride[0] + k - (lead * s.stride[0] - early)
                    row = top * s.stride[0] - s.pad[0] + count
                    with b.when(inside((row, count), (s.h, rows * s.stride[0] + early))):
                        self._first_row((n, some), row if s.h > 1 else as_index(0))
                with b.when(inside((step - lead,), (rows,))):
                    self._second_row((n, some), y if s.oh > 1 else as_index(0))

    def _first_row(self, at: tuple[Index, Index], y: Index) -> None:
        """A row of the first convolution; a block may have several tiles."""
        (piece,), (n, some) = self.first.packing.pieces, at
        tiles = max(1, self.second.conv.data_block // piece.width)
        with self.builder.loop("tile", tiles) as tile:
            self.first.channel_row(piece, (n, as_index(0), some * tiles + tile), y)

    def _second_row(self, at: tuple[Index, Index], y: Index) -> None:
        """A row of the second convolution."""
        (n, some), many = at, self.ring.shape[0]
        with self.builder.loop("of", many) as k:
            self.second.row((n, some * many + k, y), _parts(self.config)[1]["points"])
