"""argmax and argmin along rows: the second look at a row goes to a few vectors only.

    first stage     for every group of vectors: their best, joined to the best so far, and where that changed the
                    group's number                                     in vector lanes, as all below
    between         the best of all lanes; of the groups of the lanes that have it, the first (or the last)
    second stage    the places of that group that have the best, the first (or the last) of them

Where an element is NaN it is the best, and so is its group.
"""

from collections.abc import Sequence

from attrs import field, frozen

from ...ir.index import Index, IndexVar, as_index
from ...ir.scalar import Buffer, Load, Value, apply, as_position, cast, constant, is_float, select
from .maps import FAR_BYTES
from .reduction import Form
from .rows import JOIN, START, RowWriter, in_pairs

GROUP = 8
"""Vectors of a group, at most."""


@frozen(eq=False)
class SeekWriter(RowWriter):
    """Writes rows; those of stages that seek as above."""

    groups: dict[int, Buffer] = field(factory=dict)

    def lane_stage(self, form: Form, k: int, row: IndexVar, totals: Buffer, keep: Buffer | None) -> None:
        """As for other rows, but for what is sought and what seeks."""
        if k in self.groups:
            self._second(form, k, row, totals)
            del self.groups[k]
        elif k + 1 in form.seekers and self._fits(form, totals.dtype):
            self._first(form, k, row, totals)
        else:
            super().lane_stage(form, k, row, totals, keep)

    def _fits(self, form: Form, dtype: str) -> bool:
        """Whether rows are one axis of whole groups, and near: over far memory two plain streams are faster."""
        far = form.bytes_read() >= FAR_BYTES
        return len(form.inner) == 1 and not far and self._size(form, dtype)[0] > 0

    def _size(self, form: Form, dtype: str) -> tuple[int, int]:
        """How many groups there are, and the vectors of each: 0 groups where they do not divide a row."""
        vectors = (form.inner[-1].hi + 1) // self.lanes(dtype)
        many = next((n for n in (GROUP, GROUP // 2) if vectors % n == 0), 1)
        return (vectors // many if many > 1 and self.lanes(dtype) == self.lanes("int32") else 0), many

    def _first(self, form: Form, k: int, row: IndexVar, totals: Buffer) -> None:
        b, dtype, fn, lanes = self.builder, totals.dtype, JOIN[form.combines[k]], self.lanes(totals.dtype)
        shape = (row.hi + 1, lanes)
        best, parts = b.alloc("best", shape, dtype, "thread"), b.alloc("parts", shape, dtype, "thread")
        groups = self.groups[k + 1] = b.alloc("groups", shape, "int32", "thread")
        with self.each(row, form) as (r, at):
            self._lanes_of_groups(at, k, r, (best, parts, groups))
        with b.loop("r", row.hi + 1) as r:
            self.across(parts, r, fn, lanes)
            b.store(totals, (r,), b.load(parts, (r, 0)))
        if rest := form.inner[-1].hi + 1 - self._size(form, dtype)[0] * self._size(form, dtype)[1] * lanes:
            with self.each(row, form) as (r, at), b.loop("kt", rest) as t:
                self.term(at, k, totals, r, (t + form.inner[-1].hi + 1 - rest,), r, None)
        nowhere = START[form.combines[k + 1]]("int32")
        with b.loop("r", row.hi + 1) as r:
            with b.loop("lane", lanes, "vectorised") as lane:
                has = _has(b.load(best, (r, lane)), b.load(totals, (r,)))
                b.store(groups, (r, lane), select(has, b.load(groups, (r, lane)), nowhere))
            self.across(groups, r, JOIN[form.combines[k + 1]], lanes)

    def _lanes_of_groups(self, form: Form, k: int, row: Index, into: Sequence[Buffer]) -> None:
        b, fn, dtype = self.builder, JOIN[form.combines[k]], into[0].dtype
        lanes, (count, many) = self.lanes(dtype), self._size(form, dtype)
        with b.loop("lane", lanes, "vectorised") as lane:
            top, group = (
                self.variable("top", START[form.combines[k]](dtype)),
                self.variable("group", constant(0, "int32")),
            )
            with b.loop("g", count) as g:
                terms = [self.element(form, k, ((g * many + u) * lanes + lane,)) for u in range(many)]
                here = b.load(self.variable("here", in_pairs(fn, terms)), (0,))
                old = b.load(top, (0,))
                new = b.load(self.variable("new", apply(fn, old, here)), (0,))
                first = form.combines[k + 1] == "min"
                better = _and_ordered(apply("ne", new, old), old) if first else _has(here, new)
                b.store(group, (0,), select(better, cast(g, "int32"), b.load(group, (0,))))
                b.store(top, (0,), new)
            for buffer, value in zip(into, (top, top, group), strict=True):
                b.store(buffer, (row, lane), b.load(value, (0,)))

    def _number(self, groups: Buffer, row: Index, count: int) -> Index:
        """The group of a row; any one where the best is in none, but in the rest behind them."""
        value = apply("min", apply("max", Load(groups, (row, as_index(0))), 0), count - 1)
        return as_position(value, 0, count - 1)

    def _second(self, form: Form, k: int, row: IndexVar, totals: Buffer) -> None:
        b, groups, combine = self.builder, self.groups[k], form.combines[k]
        lanes, (count, many) = groups.shape[1], self._size(form, groups.dtype)
        places = b.alloc("places", groups.shape, totals.dtype, "thread")
        with self.each(row, form) as (r, at):
            first = self._number(groups, r, count) * (many * lanes)
            with b.loop("lane", lanes, "vectorised") as lane:
                acc = self.variable("acc", START[combine](totals.dtype))
                for u in range(many):
                    self.join(at, k, acc, (0,), self.element(at, k, (first + u * lanes + lane,)))
                b.store(places, (r, lane), b.load(acc, (0,)))
        with b.loop("r", row.hi + 1) as r:
            self.across(places, r, JOIN[combine], lanes)
            b.store(totals, (r,), b.load(places, (r, 0)))
        if rest := form.inner[-1].hi + 1 - count * many * lanes:
            with self.each(row, form) as (r, at), b.loop("kt", rest) as t:
                self.term(at, k, totals, r, (t + form.inner[-1].hi + 1 - rest,), r, None)


def _has(value: Value, best: Value) -> Value:
    """Whether a value is the best: NaN is, but equals nothing."""
    same = apply("eq", value, best)
    return apply("or", same, apply("isnan", value)) if is_float(value.dtype) else same


def _and_ordered(test: Value, value: Value) -> Value:
    return apply("and", test, apply("eq", value, value)) if is_float(value.dtype) else test
