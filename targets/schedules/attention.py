"""nn.attention: a few rows of scores at a time, in scratch memory of the thread, softmax in their place.

    for every batch and head, for every tile of rows:      in parallel
        scores = rows of the query @ key^T                 register tiles, as in gemm.py
        scores = exp(scores - the row's maximum)           in vectors along the row; their sums are kept
        out    = scores @ value * (1 / sums)               register tiles

Keys and values are copied first, so that tiles read them in one stream, whatever lies in front of them (heads taken out
of one matrix, transposes, slices). With few rows that copy would cost as much as the products: then keys are read
where they are, each multiplied with the query element by element (`dots`).
"""

import math
from collections.abc import Callable, Iterator

from attrs import frozen

from ...ir.index import Index, IndexVar, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Load, Value, apply, cast, lowest, select
from ...ir.types import numpy_dtype
from ...ops.attention import key_element, place_of, score, shares, weighted
from ...ops.lowering import Context
from ...ops.reshape import unravel
from ..lower import Problem
from ..rewrite import all_values
from .space import Config, register_tiles, space
from .tiles import Packed, Packing, Piece, RegisterTile, cut, even

Heads = tuple[Index, Index]


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    context = problem.context
    assert context is not None
    if context.out.dtype not in ("float32", "float64"):
        return f"dtype {context.out.dtype}; it is written for float32 and float64"
    return "empty tensor" if any(0 in view.shape for view in context.args) else None


def check_dots(problem: Problem) -> str | None:
    """Why keys and values cannot be read where they are, or None."""
    if reason := check(problem):
        return reason
    c, size = problem.context, _size(problem)
    assert c is not None
    if size % _lanes(problem):
        return f"{size} elements of a key do not fill vectors"
    if not _in_line(c, lambda *at: key_element(c, *at)) or not _in_line(c, lambda *at: c.args[2](*at)):
        return "the elements of a key or value do not lie side by side"
    return None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: vectors and rows of the register tiles."""
    assert problem.context is not None
    rows, shapes = problem.context.args[0].shape[2], register_tiles(problem.isa.registers)
    most = min(14 if problem.isa.registers >= 32 else 6, rows)
    points = sorted({min(rows, many) for _, many in shapes}, reverse=True)
    return space(
        {"blocks": 2 if most > 4 else 4, "points": most},
        {"blocks": [n for n, _ in shapes], "points": points},
        lambda c: any(n == c["blocks"] and c["points"] == min(rows, many) for n, many in shapes),
    )


def predict(problem: Problem, config: Config) -> float:
    """Vector operations with copied keys: a scalar read and write for each element that is transposed."""
    c = problem.context
    assert c is not None
    (batch, heads, rows, size), (*_, length, width) = c.args[0].shape, c.args[2].shape
    lanes = _lanes(problem)
    copied = length * (size if _in_line(c, lambda *at: key_element(c, *at)) else size / lanes) + length * width / lanes
    return batch * heads * (copied + rows * length * (size + width) / lanes)


def predict_dots(problem: Problem, config: Config) -> float:
    """Vector operations with keys where they are; adding up the lanes of a product costs about eight."""
    c = problem.context
    assert c is not None
    (batch, heads, rows, size), (*_, length, width) = c.args[0].shape, c.args[2].shape
    # A row at a time uses few accumulators, and reads keys and values anew.
    return batch * heads * rows * length * (2 * (size + width) / _lanes(problem) + 8)


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops, with copies of keys and values."""
    s = _Attention.start(problem)
    blocks, most = config["blocks"], config["points"]
    c, (batch, heads), length, size, width = s.context, s.extents, s.length, s.size, s.width
    columns = Packing(tuple(cut(length, s.lanes, blocks)), size, length)
    places = Packing(tuple(cut(width, s.lanes, blocks)), length, width)
    keys = s.builder.alloc("keys", (batch * heads, size * length), s.dtype, "team")
    values = s.builder.alloc("values", (batch * heads, length * width), s.dtype, "team")

    def key(n: Index, d: Index, column: Index) -> Value:
        return key_element(c, n // heads, n % heads, column, d)

    # One barrier for both copies.
    columns.write(s.builder, keys, batch * heads, key, not c.attrs.key_transposed, barrier=False)
    places.write(s.builder, values, batch * heads, lambda n, k, place: c.args[2](n // heads, n % heads, k, place))
    for start, count, points in even(s.rows, most):
        extents = (batch, heads, count)
        with s.builder.loop("block", math.prod(extents), "parallel") as flat:
            b, h, q = unravel(flat, extents)
            tile = _Rows.start(s, (b, h), q * points + start, points)
            tile.score_tiles(columns, keys)
            tile.softmax()

            def value(k: Index, p: Piece, t: Index, v: Index, n: Index = b * heads + h) -> Value:
                return s.builder.load(values, (n, places.offset(p, t, k, v)))

            tile.results(places, value)
    return problem.kernel(s.builder), {}


def schedule_dots(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops, without copies: row by row."""
    s = _Attention.start(problem)
    c, (batch, heads) = s.context, s.extents
    places = Packing(tuple(cut(s.width, s.lanes, 4)), s.length, s.width)
    with s.builder.loop("block", batch * heads * s.rows, "parallel") as flat:
        b, h, row = unravel(flat, (batch, heads, s.rows))
        tile = _Rows.start(s, (b, h), row, 1)
        tile.score_dots()
        tile.softmax()
        tile.results(places, lambda k, p, t, v: c.args[2](b, h, k, t * p.width + p.start + v))
    return problem.kernel(s.builder), {}


def _lanes(problem: Problem) -> int:
    assert problem.context is not None
    return problem.isa.vector_bytes // numpy_dtype(problem.context.dtype).itemsize


def _size(problem: Problem) -> int:
    assert problem.context is not None
    return problem.context.args[0].shape[3]


def _in_line(c: Context, read: Callable[..., Value]) -> bool:
    """Whether `read(batch, head, position, element)` moves by one in memory with `element`."""
    axes = [as_index(IndexVar(f"x{k}", 0, 1 << 20)) for k in range(3)]
    var = IndexVar("x", 0, 1 << 20)
    loads = [n for n in all_values([read(*axes, as_index(var))]) if isinstance(n, Load)]
    offsets = [load.buffer.offset(load.index) for load in loads]
    moving = [o for o in offsets if o.depends_on(var)]
    return bool(moving) and all(o.coeff(var) == 1 and not (o - as_index(var)).depends_on(var) for o in moving)


@frozen(eq=False)
class _Attention:
    """The numbers of one problem, and the builder."""

    problem: Problem
    context: Context
    builder: Builder
    extents: tuple[int, int]
    rows: int
    length: int
    size: int
    width: int
    dtype: str
    lanes: int

    @staticmethod
    def start(problem: Problem) -> "_Attention":
        c = problem.context
        assert c is not None
        (batch, heads, rows, size), (*_, length, width) = c.args[0].shape, c.args[2].shape
        return _Attention(problem, c, Builder(), (batch, heads), rows, length, size, width, c.dtype, _lanes(problem))


@frozen(eq=False)
class _Rows:
    """A tile of rows of one head: its scores, which become exponentials, and the shares of the rows."""

    s: _Attention
    head: Heads
    first: Index
    points: int
    scores: Buffer
    share: Buffer
    query: Buffer

    @staticmethod
    def start(s: _Attention, head: Heads, first: Index, points: int) -> "_Rows":
        """Scratch memory: a copy of the query's rows, and rows of scores, filled up at their ends to whole vectors."""
        b, padded = s.builder, -(-s.length // s.lanes) * s.lanes
        scores = b.alloc("scores", (points, padded), s.dtype, "thread")
        share = b.alloc("share", (points,), s.dtype, "thread")
        query = b.alloc("query", (points, s.size), s.dtype, "thread")
        with b.loop("qr", points) as r:
            with b.loop("qd", s.size, "vectorised") as d:
                b.store(query, (r, d), s.context.args[0](*head, first + r, d))
            if padded > s.length:
                with b.loop("end", padded - s.length) as e:
                    b.store(scores, (r, e + s.length), lowest(s.dtype))
        return _Rows(s, head, first, points, scores, share, query)

    def keep(self, r: Index, column: Index, product: Value) -> None:
        """Store one score."""
        place = (*self.head, self.first + r, column)
        self.s.builder.store(self.scores, (r, column), score(self.s.context, product, place))

    def score_tiles(self, columns: Packing, keys: Buffer) -> None:
        """All scores, from copied keys."""
        b, head = self.s.builder, self.head[0] * self.s.extents[1] + self.head[1]
        for piece in columns.pieces:
            with b.loop("tile", piece.tiles) as tile, b.loop("v", piece.lanes, "vectorised") as v:
                self._score_tile(columns, piece, tile, v, lambda place: b.load(keys, (head, place)))

    def _score_tile(self, columns: Packing, piece: Piece, tile: Index, v: Index, key: Callable[[Index], Value]) -> None:
        s, b = self.s, self.s.builder
        acc = RegisterTile.start(b, piece.blocks, self.points, s.dtype)
        acc.accumulate(
            [("d", s.size, "rolled")],
            lambda r, o: key(columns.offset(piece, tile, r[0], o * piece.lanes + v)),
            lambda r, j: b.load(self.query, (j, r[0])),
        )
        first = tile * piece.width + piece.start + v
        acc.each(lambda o, j, value: self.keep(j, first + o * piece.lanes, value))

    def score_dots(self) -> None:
        """All scores of one row: for as many keys as a vector has lanes, products side by side, then their sums."""
        lanes, whole = self.s.lanes, self.s.length // self.s.lanes
        if whole:
            with self.s.builder.loop("some", whole) as some:
                self._some_dots(some * lanes, lanes)
        if rest := self.s.length % lanes:
            self._some_dots(as_index(whole * lanes), rest)

    def _some_dots(self, start: Index, many: int) -> None:
        s, b, zero = self.s, self.s.builder, as_index(0)
        parts = b.alloc("parts", (many, s.lanes), s.dtype, "thread")
        with b.loop("i", many) as i, b.loop("v", s.lanes, "vectorised") as v:
            total = b.alloc("total", (1,), s.dtype)
            b.store(total, (0,), 0)
            with b.loop("d", s.size // s.lanes) as d:
                at = d * s.lanes + v
                key = cast(key_element(s.context, *self.head, start + i, at), s.dtype)
                b.store(total, (0,), apply("fma", b.load(self.query, (zero, at)), key, b.load(total, (0,))))
            b.store(parts, (i, v), b.load(total, (0,)))
        with b.loop("j", many) as i:
            _join(b, parts, (i,), s.lanes, "add")
            self.keep(zero, start + i, b.load(parts, (i, 0)))

    def softmax(self) -> None:
        """Exponentials in place of the scores, and what each row is to be multiplied with.

        Each stage goes through all rows before the next begins, so that the processor works on several rows at a time.
        A NaN among the scores may be lost in the maximum: it is found again in the sum.
        """
        s, b = self.s, self.s.builder
        chunks = self.scores.shape[1] // s.lanes
        tops = b.alloc("tops", (self.points, s.lanes), s.dtype, "thread")
        sums = b.alloc("sums", (self.points, s.lanes), s.dtype, "thread")
        with b.loop("r", self.points) as r, b.loop("v", s.lanes, "vectorised") as v:
            top = b.alloc("top", (1,), s.dtype)
            b.store(top, (0,), lowest(s.dtype))
            with b.loop("c", chunks) as c:
                new, old = b.load(self.scores, (r, c * s.lanes + v)), b.load(top, (0,))
                b.store(top, (0,), select(apply("lt", old, new), new, old))
            b.store(tops, (r, v), b.load(top, (0,)))
        with b.loop("r", self.points) as r:
            _join(b, tops, (r,), s.lanes, "max")
        with b.loop("r", self.points) as r, b.loop("v", s.lanes, "vectorised") as v:
            total, e = b.alloc("total", (1,), s.dtype), b.alloc("e", (1,), s.dtype)
            b.store(total, (0,), 0)
            with b.loop("c", chunks) as c:
                place = (r, c * s.lanes + v)
                b.store(e, (0,), apply("exp", b.load(self.scores, place) - b.load(tops, (r, 0))))
                b.store(self.scores, place, b.load(e, (0,)))
                b.store(total, (0,), b.load(total, (0,)) + b.load(e, (0,)))
            b.store(sums, (r, v), b.load(total, (0,)))
        with b.loop("r", self.points) as r:
            _join(b, sums, (r,), s.lanes, "add")
            b.store(self.share, (r,), shares(s.context, b.load(sums, (r, 0))))

    def results(self, places: Packing, value: Callable[[Index, Piece, Index, Index], Value]) -> None:
        """The products of exponentials and values, finished and handed over."""
        b = self.s.builder
        for piece in places.pieces:
            with b.loop("tile", piece.tiles) as tile, b.loop("v", piece.lanes, "vectorised") as v:
                self._result_tile(piece, tile, v, value)

    def _result_tile(
        self, piece: Piece, tile: Index, v: Index, value: Callable[[Index, Piece, Index, Index], Value]
    ) -> None:
        s, b = self.s, self.s.builder
        acc = RegisterTile.start(b, piece.blocks, self.points, s.dtype)
        acc.accumulate(
            [("k", s.length, "rolled")],
            lambda r, o: value(r[0], piece, tile, o * piece.lanes + v),
            lambda r, j: b.load(self.scores, (j, r[0])),
        )
        first = tile * piece.width + piece.start + v

        def store(o: Index, j: Index, total: Value) -> None:
            place = place_of(s.context, *self.head, self.first + j, first + o * piece.lanes)
            s.problem.emit(b, place, weighted(s.context, b.load(self.share, (j,)), total))

        acc.each(store)


def _join(b: Builder, parts: Buffer, row: tuple[Index, ...], lanes: int, fn: str) -> None:
    """Combine the last axis of `parts` into its first element, by halves."""
    while lanes > 1:
        lanes //= 2
        with b.loop("half", lanes, "vectorised") as v:
            b.store(parts, (*row, v), apply(fn, b.load(parts, (*row, v)), b.load(parts, (*row, v + lanes))))
