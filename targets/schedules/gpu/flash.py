"""Attention by tiles in local memory with an online softmax: no row of scores is ever whole.

    a group      a tile of queries of one head, in local memory
        for tiles of keys and values:
            the items copy them to local memory;                              barrier
            scores of all queries and keys of the tiles, scaled, masked
            the greatest score of each query so far: exchanges between the items that share the query
            exponentials relative to it take the place of the scores;         barrier
            results and sums so far are scaled to the new greatest score, and the tile's share is added

After Dao, Fu, Ermon, Rudra and Re: FlashAttention, 2022. An item has a few queries, a vector of scores of each, and as
many vectors of each result as a row of items does not cover.
"""

from collections.abc import Callable, Iterator, Sequence

from attrs import evolve, field, frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Value, all_of, apply, cast, lowest, select
from ....ops.attention import key_element, place_of, score, shares, weighted
from ....ops.lowering import Context
from ...lower import Problem
from ..space import Config
from ..tiles import Packed
from .exchange import WARP, shifted
from .items import LANES, device_needed, guarded, local_bytes, local_sizes, occupancy, of_shape, or_zero, split

ACROSS = 8
"""Items that share a query."""

KEYS = ACROSS * LANES
"""Keys in a tile."""

SIZES = ((16, 4), (8, 4), (8, 2), (4, 4), (8, 1), (4, 2), (4, 1))
"""Rows of items in a group, and queries of an item."""


@frozen(eq=False)
class Shape:
    """The sizes of a problem: `size` elements of a query or key, `width` of a value."""

    batch: int
    heads: int
    rows: int
    length: int
    size: int
    width: int

    @staticmethod
    def of(c: Context) -> "Shape":
        """The sizes of attention."""
        (batch, heads, rows, size), (*_, length, width) = c.args[0].shape, c.args[2].shape
        return Shape(batch, heads, rows, length, size, width)

    @property
    def blocks(self) -> int:
        """Vectors that an item has of each result."""
        return -(-self.width // KEYS)

    def nbytes(self, down: int, queries: int) -> int:
        """Local memory, of four bytes an element, for `down` rows of items with a few `queries` each."""
        tile = down * queries
        return 4 * (tile * (self.size + LANES + KEYS + 1) + self.size * (KEYS + LANES) + KEYS * self.blocks * KEYS)


def check(problem: Problem) -> str | None:
    """Why the schedule does not fit, or None."""
    if found := device_needed(problem):
        return found
    c = problem.context
    assert c is not None
    if c.dtype != "float32":
        return f"it computes in {c.dtype}; it is written for float32"
    if any(0 in view.shape for view in c.args):
        return "empty tensor"
    if Shape.of(c).blocks > 8:
        return f"values have {Shape.of(c).width} elements; it takes {8 * KEYS} at most"
    return None if next(configs(problem), None) else "a tile does not fit into local memory or a group"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: rows of items, queries of an item."""
    assert problem.context is not None
    s, most = Shape.of(problem.context), local_sizes(problem)[-1]
    fitting = [
        (down, queries)
        for down, queries in SIZES
        if WARP <= down * ACROSS <= most and s.nbytes(down, queries) <= local_bytes(problem)
    ]
    # The smallest tile that has all queries, else the largest.
    best = [x for x in fitting if x[0] * x[1] >= s.rows][-1:] or fitting[:1]
    for down, queries in dict.fromkeys((*best, *fitting)):
        yield {"down": down, "queries": queries}


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    assert problem.context is not None
    s, tile = Shape.of(problem.context), config["down"] * config["queries"]
    tiles = s.batch * s.heads * -(-s.rows // tile)
    work = tiles * tile * -(-s.length // KEYS) * KEYS * (s.size + s.blocks * KEYS)
    return work * (1 + 1 / config["queries"]) / LANES / occupancy(tiles * config["down"] * ACROSS)


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """A tile of queries for each group."""
    b, c = Builder(), problem.context
    assert c is not None
    s, down, queries = Shape.of(c), config["down"], config["queries"]
    tile = down * queries
    tiles = -(-s.rows // tile)
    with b.loop("group", s.batch * s.heads * tiles, "workgroup") as group:
        query = b.alloc("query", (tile, s.size + LANES), c.dtype, "local")
        key = b.alloc("key", (s.size, KEYS + LANES), c.dtype, "local")
        value = b.alloc("value", (KEYS, s.blocks * KEYS), c.dtype, "local")
        share = b.alloc("share", (tile, KEYS + 1), c.dtype, "local")
        with b.loops(("down", "across"), (down, ACROSS), "workitem") as (y, x):
            n, h, t = split(group, (s.batch, s.heads, tiles))
            at, sizes = (y, x), (down, queries)
            _Tile(problem, c, b, s, (n, h), t * tile, at, sizes, query, key, value, share).write()
    return problem.kernel(b), {}


@frozen(eq=False)
class _State:
    """What an item has of its queries: greatest scores, its part of the sums, results, the factor of old results."""

    top: Buffer
    total: Buffer
    result: Buffer
    factor: Buffer


@frozen(eq=False)
class _Tile:
    """A tile of queries."""

    problem: Problem
    c: Context
    b: Builder
    s: Shape
    head: tuple[Index, Index]
    first: Index
    at: tuple[Index, Index]
    sizes: tuple[int, int]
    query: Buffer
    key: Buffer
    value: Buffer
    share: Buffer
    state: _State | None = field(default=None)

    @property
    def queries(self) -> int:
        return self.sizes[1]

    def row(self, r: Index) -> Index:
        """The row in the tile of query `r` of an item."""
        return self.at[0] * self.queries + r

    def write(self) -> None:
        """All of a tile."""
        b, s = self.b, self.s
        self.copy(self.query.shape[0], s.size, self.read_query, lambda r, d: (self.query, (r, d)))
        state = _State(
            b.alloc("top", (self.queries,), self.c.dtype),
            b.alloc("total", (self.queries,), self.c.dtype),
            b.alloc("result", (self.queries, s.blocks, LANES), self.c.dtype, "thread"),
            b.alloc("factor", (self.queries,), self.c.dtype),
        )
        with b.loop("q", self.queries, "unrolled") as r:
            b.store(state.top, (r,), lowest(self.c.dtype))
            b.store(state.total, (r,), 0)
            with b.loop("w", s.blocks, "unrolled") as w, b.loop("v", LANES, "vectorised") as v:
                b.store(state.result, (r, w, v), 0)
        with b.loop("tile", -(-s.length // KEYS), "rolled") as tile:
            evolve(self, state=state).tile(tile * KEYS)
        evolve(self, state=state).results()

    # Copies

    def read_query(self, r: Index, d: Index) -> Value:
        """An element of a query; 0 beyond the last one."""
        row = self.first + r
        return or_zero(apply("lt", row, self.s.rows), self.c.args[0](*self.head, row, d), self.c.dtype)

    def copy(
        self,
        rows: int,
        columns: int,
        read: Callable[[Index, Index], Value],
        where: Callable[[Index, Index], tuple[Buffer, Sequence[Index]]],
    ) -> None:
        """Copy a box to local memory, its last axis side by side."""
        b, items = self.b, self.sizes[0] * ACROSS
        lanes = LANES if columns % LANES == 0 else 1
        units, item = rows * columns // lanes, self.at[0] * ACROSS + self.at[1]
        with b.loop("copy", -(-units // items), "rolled") as round_:
            flat = round_ * items + item
            with guarded(b, apply("lt", flat, units)), b.loop("v", lanes, "vectorised") as v:
                r, column = split(flat, (rows, columns // lanes))
                column = column * lanes + v
                buffer, place = where(r, column)
                b.store(buffer, place, read(r, column))

    def keys_and_values(self, start: Index) -> None:
        """Copy a tile of keys, turned, and one of values."""
        s, c = self.s, self.c

        def there(k: Index) -> Value:
            return apply("lt", start + k, s.length)

        def read_key(k: Index, d: Index) -> Value:
            return or_zero(there(k), key_element(c, *self.head, start + k, d), c.dtype)

        def read_value(k: Index, w: Index) -> Value:
            known = all_of([there(k), apply("lt", w, s.width)])
            return or_zero(known, c.args[2](*self.head, start + k, w), c.dtype)

        if c.attrs.key_transposed:
            self.copy(s.size, KEYS, lambda d, k: read_key(k, d), lambda d, k: (self.key, (d, k)))
        else:
            self.copy(KEYS, s.size, read_key, lambda k, d: (self.key, (d, k)))
        self.copy(KEYS, s.blocks * KEYS, read_value, lambda k, w: (self.value, (k, w)))

    # A tile of keys

    def tile(self, start: Index) -> None:
        """One tile of keys and values."""
        self.b.barrier("local")
        self.keys_and_values(start)
        self.b.barrier("local")
        # By way of an array of the item's own: as it is copied out, its elements are registers.
        own = self.b.alloc("own", (self.queries, LANES), self.c.dtype, "thread")
        self.products(own)
        self.exponentials(start, own)
        self.b.barrier("local")
        self.weigh()

    def products(self, own: Buffer) -> None:
        """Products of queries and keys."""
        b, x = self.b, self.at[1]
        with b.loop("v", LANES, "vectorised") as v:
            acc = b.alloc("acc", (self.queries,), self.c.dtype)
            with b.loop("q", self.queries, "unrolled") as r:
                b.store(acc, (r,), 0)
            with b.loop("d", self.s.size, "serial") as d, b.loop("q", self.queries, "unrolled") as r:
                query, key = b.load(self.query, (self.row(r), d)), b.load(self.key, (d, x * LANES + v))
                b.store(acc, (r,), apply("fma", query, key, b.load(acc, (r,))))
            with b.loop("q", self.queries, "unrolled") as r:
                b.store(own, (r, v), b.load(acc, (r,)))

    def exponentials(self, start: Index, own: Buffer) -> None:
        """Exponentials in place of the products, and the factors by which all from before shrinks."""
        b, c, x, state = self.b, self.c, self.at[1], self._state()
        best, other = b.alloc("best", (self.queries,), c.dtype), b.alloc("other", (self.queries,), c.dtype)
        with b.loop("q", self.queries, "unrolled") as r:
            b.store(best, (r,), b.load(state.top, (r,)))
            with b.loop("k", LANES, "unrolled") as k:
                b.store(own, (r, k), self.score(r, start + x * LANES + k, b.load(own, (r, k))))
                b.store(best, (r,), apply("max_else", b.load(best, (r,)), b.load(own, (r, k))))
        bit = ACROSS // 2
        while bit:
            with b.loop("q", self.queries, "unrolled") as r:
                b.store(other, (r,), apply(f"item_xor{bit}", b.load(best, (r,))))
                b.store(best, (r,), apply("max_else", b.load(best, (r,)), b.load(other, (r,))))
            bit //= 2
        with b.loop("q", self.queries, "unrolled") as r:
            b.store(state.factor, (r,), shifted(b.load(state.top, (r,)), b.load(best, (r,))))
            b.store(state.top, (r,), b.load(best, (r,)))
            b.store(state.total, (r,), b.load(state.total, (r,)) * b.load(state.factor, (r,)))
            with b.loop("k", LANES, "unrolled") as k:
                b.store(own, (r, k), shifted(b.load(own, (r, k)), b.load(best, (r,))))
                b.store(state.total, (r,), b.load(state.total, (r,)) + b.load(own, (r, k)))
                b.store(self.share, (self.row(r), x * LANES + k), b.load(own, (r, k)))

    def score(self, r: Index, column: Index, product: Value) -> Value:
        """The score of a query and a key; -inf beyond the last key."""
        row = self.first + self.row(r)
        known = all_of([apply("lt", row, self.s.rows), apply("lt", column, self.s.length)])
        return select(known, score(self.c, product, (*self.head, row, column)), lowest(self.c.dtype))

    def weigh(self) -> None:
        """Add the values of the tile, weighted with exponentials, to the results."""
        b, x, state = self.b, self.at[1], self._state()
        shape = (self.queries, self.s.blocks)
        with b.loop("v", LANES, "vectorised") as v:
            acc = b.alloc("acc", shape, self.c.dtype)
            with b.loops(("q", "w"), shape, "unrolled") as (r, w):
                b.store(acc, (r, w), b.load(state.result, (r, w, v)) * b.load(state.factor, (r,)))
            with b.loop("k", KEYS, "serial") as k, b.loops(("q", "w"), shape, "unrolled") as (r, w):
                value = b.load(self.value, (k, (w * ACROSS + x) * LANES + v))
                b.store(acc, (r, w), apply("fma", b.load(self.share, (self.row(r), k)), value, b.load(acc, (r, w))))
            with b.loops(("q", "w"), shape, "unrolled") as (r, w):
                b.store(state.result, (r, w, v), b.load(acc, (r, w)))

    def _state(self) -> _State:
        assert self.state is not None
        return self.state

    # Results

    def results(self) -> None:
        """Sums put together, results finished and handed over."""
        b, c, x, state, s = self.b, self.c, self.at[1], self._state(), self.s
        other = b.alloc("other", (self.queries,), c.dtype)
        bit = ACROSS // 2
        while bit:
            with b.loop("q", self.queries, "unrolled") as r:
                b.store(other, (r,), apply(f"item_xor{bit}", b.load(state.total, (r,))))
                b.store(state.total, (r,), b.load(state.total, (r,)) + b.load(other, (r,)))
            bit //= 2
        with b.loop("q", self.queries, "unrolled") as r:
            row, top = self.first + self.row(r), b.load(state.top, (r,))
            # A row of nothing but -inf has no softmax: its sum is NaN, as the difference is.
            b.store(state.factor, (r,), shares(c, b.load(state.total, (r,)) + (top - top)))
            with (
                guarded(b, apply("lt", row, s.rows)),
                b.loop("w", s.blocks, "unrolled") as w,
                guarded(b, apply("lt", (w * ACROSS + x) * LANES, s.width)),
            ):
                self.store(r, row, w)

    def store(self, r: Index, row: Index, w: Index) -> None:
        """Hand a vector of a result over, as far as it is one."""
        b, c, state = self.b, self.c, self._state()
        lanes = LANES if self.s.width % LANES == 0 else 1
        for start in range(0, LANES, lanes):
            with b.loop("v", lanes, "vectorised") as v:
                at = (w * ACROSS + self.at[1]) * LANES + start + v
                with guarded(b, apply("lt", at, self.s.width) if lanes == 1 else apply("lt", as_index(0), 1)):
                    total = cast(b.load(state.result, (r, w, v + start)), c.dtype)
                    value = weighted(c, b.load(state.factor, (r,)), total)
                    sizes = (self.s.batch, self.s.heads, self.s.rows, self.s.width)
                    self.problem.emit(b, place_of(c, *of_shape((*self.head, row, at), sizes)), value)
