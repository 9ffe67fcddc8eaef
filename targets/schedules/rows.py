"""Reductions whose elements lie next to each other along a row: vector lanes along the row, several accumulators.

A few rows are written together: each stage goes through all of them before the next begins, so that the processor has
other rows to work on while the lanes of one are joined.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from ...ir.index import Index, IndexVar, as_index
from ...ir.loops import Builder, Prefetch
from ...ir.scalar import Apply, Buffer, Load, Value, apply, constant, highest, lowest
from ...ops.reshape import unravel
from ..prelude import width
from ..rewrite import Rewriter, all_values
from .maps import FAR_BYTES, UNITS, grouped, team_kind
from .nest import axis_of, counter, rewritten
from .reduction import Form, is_costly, kept_stages, of_the_row, runs_along, with_known

KEPT_BYTES = 1 << 17
"""Scratch for kept elements, at most."""

TOGETHER = 4
"""Rows that are written together, at most."""

NEAR_BYTES = 1 << 14
"""Bytes of rows that are written together, at most: they stay in the first cache between the stages."""

START: dict[str, Callable[[str], Value]] = {
    "sum": lambda dtype: constant(0, dtype),
    "prod": lambda dtype: constant(1, dtype),
    "max": lowest,
    "top": lowest,
    "min": highest,
    "all": lambda dtype: constant(True, dtype),
    "any": lambda dtype: constant(False, dtype),
}
JOIN = {"sum": "add", "prod": "mul", "max": "max", "top": "max_else", "min": "min", "all": "and", "any": "or"}


def extents_of(axes: Sequence[IndexVar]) -> list[int]:
    """The sizes of axes."""
    return [axis.hi + 1 for axis in axes]


def size_of(axes: Sequence[IndexVar]) -> int:
    """The elements of the box of axes."""
    return math.prod(extents_of(axes))


@frozen(eq=False)
class RowWriter:
    """Writes rows into `builder`, for registers of `vector_bytes`."""

    builder: Builder
    vector_bytes: int

    def lanes(self, dtype: str) -> int:
        """Elements of a vector register."""
        return self.vector_bytes // max(4, width(dtype))

    def rows(self, form: Form) -> None:
        """A few rows, then the next ones."""
        b, extents = self.builder, extents_of(form.rows)
        work = math.prod(extents) * max(size_of(form.inner), 1)
        lanes = runs_along(form, form.inner[-1]) if form.inner else False
        kept = self.kept(form)
        many = self.together(form) if lanes and not form.beside else 1
        with b.loop("row", math.prod(extents) // many, team_kind(work)) as flat:
            row = axis_of("r", many)
            form = form.rebuilt(
                Rewriter(dict(zip(form.rows, unravel(flat * many + counter(row), extents), strict=True)))
            )
            for k, element in enumerate(form.elements):
                keep = None
                if k in kept:
                    keep = b.alloc(f"kept{k}", (many, *extents_of(form.inner)), element.dtype, "thread")
                wide = lanes and form.inner[-1].hi + 1 >= 2 * self.lanes(element.dtype)
                totals = b.alloc("totals", (many,), element.dtype, "thread" if many > 1 else "register")
                (self.lane_stage if wide else self.plain_stage)(form, k, row, totals, keep)
                form = with_result(form, k, b.load(totals, (counter(row),)))
                if keep is not None:
                    index = [counter(row), *(as_index(axis) for axis in form.inner)]
                    form = with_known(form, {k: b.load(keep, index)}, k)
            self.row_results(form, row, lanes)

    def kept(self, form: Form) -> list[int]:
        """The stages whose elements are kept."""
        kept = kept_stages(form, False)
        room = size_of(form.inner) * sum(width(form.elements[k].dtype) for k in kept)
        return kept if room <= KEPT_BYTES else []

    def together(self, form: Form) -> int:
        """How many rows are written together: one where memory is far, whose stream should not pause."""
        bytes_ = size_of(form.inner) * width(form.elements[0].dtype)
        rows, many = size_of(form.rows), TOGETHER if form.bytes_read() < FAR_BYTES else 1
        while many > 1 and (rows % many or rows // many < UNITS or many * bytes_ > NEAR_BYTES):
            many //= 2
        return many

    @contextmanager
    def each(self, row: IndexVar, form: Form) -> Iterator[tuple[Index, Form]]:
        """A loop over the rows that are written together."""
        with self.builder.loop("r", row.hi + 1) as r:
            yield r, form.rebuilt(Rewriter({row: r})) if row.hi else form

    def row_results(self, form: Form, row: IndexVar, lanes: bool) -> None:
        """The stores of some rows."""
        parts, many = of_the_row(form), row.hi + 1
        known: dict[int, Value] = {}
        for value in parts:
            own = self.builder.alloc("own", (many,), value.dtype, "thread" if row.hi else "register")
            known[id(value)] = self.builder.load(own, (counter(row),))
            with self.builder.loop("r", many) as r:
                self.builder.store(own, (r,), rewritten(Rewriter({row: r}), value))
        form = form.rebuilt(Rewriter({}, known=known))
        with self.each(row, form) as (_, at):
            self._spread(at, at.beside, {}, lanes)

    def _spread(self, form: Form, axes: Sequence[IndexVar], bind: dict[IndexVar, Index], lanes: bool) -> None:
        if axes:
            kind = "vectorised" if len(axes) == 1 else "serial"
            with self.builder.loop(f"s{len(bind)}", axes[0].hi + 1, kind) as i:
                self._spread(form, axes[1:], {**bind, axes[0]: i}, lanes)
            return
        for buffer, place, value in form.rebuilt(Rewriter(bind)).finals if bind else form.finals:
            self.builder.store(buffer, place, value)

    def variable(self, name: str, value: Value) -> Buffer:
        """A value in a variable."""
        buffer = self.builder.alloc(name, (1,), value.dtype)
        self.builder.store(buffer, (0,), value)
        return buffer

    def element(self, form: Form, k: int, inner: Sequence[Index]) -> Value:
        """The element of stage `k` at a place."""
        return rewritten(Rewriter(dict(zip(form.inner, inner, strict=True))), form.elements[k])

    def join(self, form: Form, k: int, acc: Buffer, at: Sequence[Index | int], value: Value) -> None:
        """`acc[at]` combined with a value."""
        self.builder.store(acc, at, apply(JOIN[form.combines[k]], self.builder.load(acc, at), value))

    def plain_stage(self, form: Form, k: int, row: IndexVar, totals: Buffer, keep: Buffer | None) -> None:
        """One element after the other; long sums by parts, so that rounding errors do not grow with the terms."""
        with self.each(row, form) as (r, at):
            self._plain_row(at, k, totals, r, keep)

    def _plain_row(self, form: Form, k: int, totals: Buffer, row: Index, keep: Buffer | None) -> None:
        self.builder.store(totals, (row,), START[form.combines[k]](totals.dtype))
        names = [f"k{axis}" for axis in range(len(form.inner))]
        with self.builder.loops(names[:-1], extents_of(form.inner[:-1])) as outer:
            part, at = totals, row
            long = len(form.inner) > 1 and form.combines[k] == "sum" and size_of(form.inner) >= 1024
            if long:
                part, at = self.variable("part", START["sum"](totals.dtype)), as_index(0)
            with self.builder.loop("k", form.inner[-1].hi + 1 if form.inner else 1) as last:
                self.term(form, k, part, at, (*outer, last)[-len(form.inner) :] if form.inner else (), row, keep)
            if long:
                self.join(form, k, totals, (row,), self.builder.load(part, (0,)))

    def term(
        self, form: Form, k: int, acc: Buffer, at: Index | int, inner: Sequence[Index], row: Index, keep: Buffer | None
    ) -> None:
        """One element combined, and kept if need be."""
        value = self.element(form, k, inner)
        if keep is not None:
            held = self.variable("term", value)
            value = self.builder.load(held, (0,))
            self.builder.store(keep, (row, *inner), value)
        self.join(form, k, acc, (at,), value)

    def lane_stage(self, form: Form, k: int, row: IndexVar, totals: Buffer, keep: Buffer | None) -> None:
        """Partial results in vector lanes along the last axis, then the lanes joined, then the rest."""
        b, dtype, extent = self.builder, totals.dtype, form.inner[-1].hi + 1
        lanes = self.lanes(dtype)
        parts = b.alloc("parts", (row.hi + 1, lanes), dtype, "thread")
        with self.each(row, form) as (r, at):
            self._lane_row(at, k, parts, r, keep)
        with b.loop("r", row.hi + 1) as r:
            self.across(parts, r, JOIN[form.combines[k]], lanes)
            b.store(totals, (r,), b.load(parts, (r, 0)))
        if extent % lanes:
            with (
                self.each(row, form) as (r, at),
                b.loops([f"k{axis}" for axis in range(len(form.inner) - 1)], extents_of(form.inner[:-1])) as outer,
                b.loop("kt", extent % lanes) as t,
            ):
                self.term(at, k, totals, r, (*outer, t + extent // lanes * lanes), r, keep)

    def _lane_row(self, form: Form, k: int, parts: Buffer, row: Index, keep: Buffer | None) -> None:
        """The lanes of one row."""
        b, combine, lanes = self.builder, form.combines[k], parts.shape[1]
        vectors = (form.inner[-1].hi + 1) // lanes
        unroll = _accumulators(form, k, vectors)
        with b.loop("lane", lanes, "vectorised") as lane:
            acc = b.alloc("acc", (unroll,), parts.dtype)
            for u in range(unroll):
                b.store(acc, (u,), START[combine](parts.dtype))
            with b.loops([f"k{axis}" for axis in range(len(form.inner) - 1)], extents_of(form.inner[:-1])) as outer:
                for start, steps, size in grouped(0, vectors, unroll):
                    with b.loop("kr" if start else "kv", steps) as v:
                        for u in range(size):
                            place = (*outer, (v * size + u + start) * lanes + lane)
                            if form.spread and k == len(form.elements) - 1 and is_costly(form.elements[k]):
                                self.fetch_results(form, place)
                            self.term(form, k, acc, u, place, row, keep)
            step = unroll // 2
            while step:
                for u in range(step):
                    self.join(form, k, acc, (u,), b.load(acc, (u + step,)))
                step //= 2
            b.store(parts, (row, lane), b.load(acc, (0,)))

    def fetch_results(self, form: Form, inner: Sequence[Index]) -> None:
        """Fetch where the results at a place are to be written, while there is still something to compute."""
        rewriter = Rewriter(dict(zip(form.inner, inner, strict=True)))
        for buffer, place, _ in form.finals:
            offset = buffer.offset(place)
            if offset.coeff(form.inner[-1]) == 1:
                self.builder.emit(Prefetch(buffer, tuple(rewriter.index(i) for i in place), write=True))

    def across(self, parts: Buffer, row: Index, fn: str, lanes: int) -> None:
        """The lanes of a vector combined into its first."""
        value: Value = Load(parts, (row, as_index(0)), lanes)
        step = lanes // 2
        while step:
            turned = Apply(f"rotate{step}", (value, value), parts.dtype, lanes)
            value = apply(fn, value, turned)
            step //= 2
        self.builder.emit_store(parts, (row, as_index(0)), value)


def with_result(form: Form, k: int, value: Value) -> Form:
    """The result of stage `k` in the place of its placeholder."""
    return form.rebuilt(Rewriter({}, known={id(form.results[k]): value}))


def in_pairs(fn: str, terms: Sequence[Value]) -> Value:
    """Terms combined in pairs, then the results of that, and so on."""
    while len(terms) > 1:
        pairs = [apply(fn, a, b) for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = [*pairs, *terms[len(pairs) * 2 :]]
    return terms[0]


def _accumulators(form: Form, k: int, vectors: int) -> int:
    """How many accumulators hide the latency of combining: fewer where the elements take longer themselves."""
    work = sum(isinstance(n, Apply) for n in all_values([form.elements[k]]))
    most = 2 if work > 6 else 8 if form.combines[k] in ("max", "min", "top") else 4
    while most > 1 and vectors < 2 * most:
        most //= 2
    return most
