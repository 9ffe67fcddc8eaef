"""Loops for reductions (see reduction.py for their form), by how their elements lie in memory.

    windows   few elements a row, as in pooling: the reduction is one expression, and the group a map of it
    rows      the elements of a row lie next to each other: vector lanes along the row, several accumulators
    columns   neighbouring rows lie next to each other: lanes across rows, a block of accumulators in the first cache
    plain     anything else: one element after the other

Elements that a later stage or the result needs again (softmax's exponentials) are kept in scratch memory of the thread.
Where there are too few rows for all threads, or rows are very long, each stage is reduced in chunks of a fixed size,
whose partial results are then combined: what comes out does not depend on how many threads there are.
"""

import math
from collections.abc import Sequence

from attrs import evolve, frozen

from ...ir.index import IndexVar, as_index
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Buffer, Scalar, Value, apply
from ...ops.lowering import Reduction
from ...ops.reshape import unravel
from ..lower import Problem
from ..prelude import width
from ..rewrite import Rewriter
from .maps import UNITS, grouped, in_blocks, team_kind, write_nest
from .nest import Nest, accesses, axis_of, hidden, rewritten
from .reduction import Form, form_of, kept_stages, of_the_row, runs_along, simplified, with_known
from .rows import JOIN, KEPT_BYTES, START, extents_of, in_pairs, size_of, with_result
from .seek import SeekWriter
from .windows import separable, write_windows

WINDOW = 32
"""The most elements of a row that are written out as one expression."""

CHUNK = 16384
"""Elements of one chunk: enough to hide the joining, few enough that sums of float32 stay exact to some digits."""

COLUMNS = 1024
"""Columns that are reduced side by side, at most: their accumulators stay in the first cache."""

FAR = 2048
"""Bytes between the elements of a column from which on reading them again is slow."""


def reduce_kernel(problem: Problem, reduction: Reduction) -> Kernel:
    """The loops of a reduction."""
    assert problem.context is not None
    builder = Builder()
    if 0 not in problem.context.outs[0].static_shape:
        form = form_of(problem, reduction)
        writer = _Writer(builder, problem.isa.vector_bytes)
        if 0 in reduction.stages[0].extents:
            writer.nothing(form)
        else:
            writer.write(form)
    return problem.kernel(builder)


def is_window(form: Form) -> bool:
    """Whether rows are so short, and lie so, that a vector of results is best computed as one expression."""
    if form.beside or len(form.finals) > 1 or not form.rows or form.rows[-1].hi < 3:
        return False
    if not 0 < size_of(form.inner) <= WINDOW // len(form.elements) ** 2:
        return False
    offsets = [o for element in form.elements for o in accesses(element)[1]]
    strides = {o.coeff(form.rows[-1]) for o in offsets}
    return bool(strides - {0}) and strides <= {0, 1, 2} and not any(hidden(o, form.rows[-1]) for o in offsets)


def window_nest(form: Form) -> Nest:
    """A reduction over few elements as one expression."""
    known: dict[int, Scalar] = {}
    for combine, element, result in zip(form.combines, form.elements, form.results, strict=True):
        total: Value | None = None
        for flat in range(size_of(form.inner)):
            index = unravel(as_index(flat), extents_of(form.inner))
            term = rewritten(Rewriter(dict(zip(form.inner, index, strict=True)), known=known), element)
            total = term if total is None else apply(JOIN[combine], total, term)
        assert total is not None
        known[id(result)] = total
    ((out, place, value),) = form.finals
    return Nest(out, form.rows, place, rewritten(Rewriter({}, known=known), value))


@frozen(eq=False)
class _Writer(SeekWriter):
    # Which loops

    def write(self, form: Form) -> None:
        """All loops of a reduction."""
        if is_window(form):
            apart = separable(form)
            self.window(form) if apart is None else write_windows(self.builder, apart, self.lanes(apart.element.dtype))
        elif len(form.rows) and runs_along(form, form.rows[-1]) and form.rows[-1].hi >= 3:
            self.columns_or_chunks(form)
        elif self.in_lanes(form) and self.in_chunks(form, size_of(form.rows)):
            self.chunks(form, along_rows=False)
        else:
            self.rows(form)

    def in_lanes(self, form: Form) -> bool:
        """Whether the elements of a row fill vectors."""
        return bool(form.inner) and form.inner[-1].hi >= 15 and runs_along(form, form.inner[-1])

    def in_chunks(self, form: Form, units: int) -> bool:
        """Whether to cut rows into chunks."""
        inner = size_of(form.inner)
        return inner >= 2 * CHUNK and (units < UNITS or inner >= 16 * CHUNK)

    def columns_or_chunks(self, form: Form) -> None:
        """Columns side by side; in chunks of rows where that leaves threads idle, or strides through memory."""
        outer, work = size_of(form.rows[:-1]), size_of(form.rows) * size_of(form.inner)
        if outer < UNITS and not form.beside and size_of(form.inner) >= 64 and work >= 8 * CHUNK:
            self.chunks(form, along_rows=True)
        else:
            self.columns(form)

    def nothing(self, form: Form) -> None:
        """The results of reductions over no elements."""
        starts = {id(r): START[c](r.dtype) for r, c in zip(form.results, form.combines, strict=True)}
        self.results(form.rebuilt(Rewriter({}, known=starts)))

    def results(self, form: Form) -> None:
        """The stores of a reduction whose stages are done, as maps; the axis that is next in memory last."""
        for buffer, place, value in form.finals:
            offset = buffer.offset(place)
            order = sorted((*form.rows, *form.beside), key=lambda axis: -offset.coeff(axis))
            write_nest(self.builder, Nest(buffer, tuple(order), place, value), self.vector_bytes)

    # Windows

    def window(self, form: Form) -> None:
        """The reduction as one expression."""
        write_nest(self.builder, window_nest(form), self.vector_bytes)

    # Columns

    def columns(self, form: Form) -> None:
        """Blocks of neighbouring rows side by side."""
        *outer, last = form.rows
        extent, lanes = last.hi + 1, self.lanes(form.elements[0].dtype)
        offsets = [o for e in form.elements for o in accesses(e)[1]]
        stride = max((o.coeff(axis) for axis in form.inner[-1:] for o in offsets), default=0)
        kept = kept_stages(form, far=stride * 4 >= FAR)
        held = sum(width(form.elements[k].dtype) for k in kept) * size_of(form.inner)
        if held * lanes > KEPT_BYTES:
            kept, held = [], 0
        block = min(COLUMNS, extent, max(KEPT_BYTES // 2 // max(held, 1) // lanes, 1) * lanes)
        few = max(math.prod(extents_of(outer)) * extent // UNITS // lanes, 4) * lanes
        block = min(block, few)
        kind = team_kind(size_of(form.rows) * size_of(form.inner))
        for start, blocks, size in in_blocks(extent, block):
            extents = [*extents_of(outer), blocks]
            with self.builder.loop("block", math.prod(extents), kind) as flat:
                *place, number = unravel(flat, extents)
                lane = axis_of("lane", size)
                bind = {**dict(zip(outer, place, strict=True)), last: number * size + start + as_index(lane)}
                self.column_block(form.rebuilt(Rewriter(bind)), lane, kept)

    def column_block(self, form: Form, lane: IndexVar, kept: Sequence[int]) -> None:
        """All stages of a block of columns; `lane` counts through them."""
        b, width_ = self.builder, lane.hi + 1
        inner = [as_index(axis) for axis in form.inner]
        for k, element in enumerate(form.elements):
            acc = b.alloc("acc", (width_,), element.dtype, "thread")
            keep = (
                b.alloc(f"kept{k}", (*extents_of(form.inner), width_), element.dtype, "thread") if k in kept else None
            )
            self.store_lanes(lane, acc, START[form.combines[k]](acc.dtype))
            self.column_stage(form, k, lane, acc, keep)
            form = with_result(form, k, b.load(acc, (as_index(lane),)))
            if keep is not None:
                form = with_known(form, {k: b.load(keep, (*inner, as_index(lane)))}, k)
        parts = of_the_row(form)
        own = [b.alloc("own", (width_,), value.dtype, "thread") for value in parts]
        for value, buffer in zip(parts, own, strict=True):
            self.store_lanes(lane, buffer, value)
        known = {id(v): b.load(buffer, (as_index(lane),)) for v, buffer in zip(parts, own, strict=True)}
        form = form.rebuilt(Rewriter({}, known=known))
        with b.loops([f"s{axis}" for axis in range(len(form.beside))], extents_of(form.beside)) as place:
            at = form.rebuilt(Rewriter(dict(zip(form.beside, place, strict=True)))) if form.beside else form
            for buffer, where, value in at.finals:
                with b.loop("lane", width_, "vectorised") as i:
                    rewriter = Rewriter({lane: i})
                    b.store(buffer, [rewriter.index(w) for w in where], rewritten(rewriter, value))

    def store_lanes(self, lane: IndexVar, buffer: Buffer, value: Value) -> None:
        """A value of every column into scratch."""
        with self.builder.loop("lane", lane.hi + 1, "vectorised") as i:
            self.builder.store(buffer, (i,), rewritten(Rewriter({lane: i}), value))

    def column_stage(self, form: Form, k: int, lane: IndexVar, acc: Buffer, keep: Buffer | None) -> None:
        """One stage: a few elements of every column at a time."""
        b, extents = self.builder, extents_of(form.inner)
        count = extents[-1] if extents else 1
        groups = grouped(0, count, 4 if count >= 4 else 1)
        with b.loops([f"k{axis}" for axis in range(len(extents) - 1)], extents[:-1]) as outer:
            for start, steps, size in groups:
                with b.loop("kr" if start else "k", steps) as step, b.loop("lane", lane.hi + 1, "vectorised") as i:
                    at = form.rebuilt(Rewriter({lane: i}))
                    terms: list[Value] = []
                    for u in range(size):
                        place = (*outer, step * size + u + start)[-len(extents) :] if extents else ()
                        held = self.variable("term", self.element(at, k, place))
                        terms.append(b.load(held, (0,)))
                        if keep is not None:
                            b.store(keep, (*place, i), terms[-1])
                    self.join(form, k, acc, (i,), in_pairs(JOIN[form.combines[k]], terms))

    # Chunks

    def chunks(self, form: Form, along_rows: bool) -> None:
        """Each stage in two steps: chunks by themselves, then their partial results; at last the results."""
        rows = form.rows
        for k in range(len(form.elements)):
            dtype = form.elements[k].dtype
            total = self.builder.alloc(f"whole{k}", [*extents_of(rows), 1], dtype, "team")
            self.one_stage(form, k, total, along_rows)
            here = [as_index(axis) for axis in rows]
            form = with_result(form, k, self.builder.load(total, (*here, 0)))
        self.results(form)

    def one_stage(self, form: Form, k: int, total: Buffer, along_rows: bool) -> None:
        """The result of stage `k` for every row, into `total[*rows, 0]`."""
        first, *others = form.inner
        behind = size_of(others) * (form.rows[-1].hi + 1 if along_rows else 1)
        chunk = max(CHUNK * (4 if along_rows else 1) // behind, 1)
        pieces = in_blocks(first.hi + 1, chunk)
        count = sum(chunks for _, chunks, _ in pieces)
        at = len(form.rows) - along_rows  # the chunk's number stands before the axis that lanes run along
        shape = [*extents_of(form.rows[:at]), count, *extents_of(form.rows[at:])]
        partial = self.builder.alloc(f"partial{k}", shape, total.dtype, "team")
        result = form.results[k]
        for start, chunks, size in pieces:
            number, inside = axis_of("chunk", chunks), axis_of("k", size)
            bind = {first: as_index(number) * chunk + as_index(inside) + start}
            rows = (*form.rows[:at], number, *form.rows[at:])
            place = tuple(as_index(axis) + (start // chunk if axis is number else 0) for axis in rows)
            part = Form(rows, (inside, *others), (form.combines[k],), (form.elements[k],), (), (result,), ())
            part = evolve(part.rebuilt(Rewriter(bind)), finals=((partial, place, result),))
            part = simplified(part)
            (self.columns if along_rows else self.rows)(part)
        self.builder.barrier()
        number = axis_of("part", count)
        here = [as_index(axis) for axis in form.rows]
        read = self.builder.load(partial, (*here[:at], as_index(number), *here[at:]))
        finals = ((total, (*here, as_index(0)), result),)
        joined = Form(form.rows, (number,), (form.combines[k],), (read,), finals, (result,), ())
        (self.columns if along_rows else self.rows)(simplified(joined))
        self.builder.barrier()
