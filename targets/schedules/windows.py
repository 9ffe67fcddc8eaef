"""Reductions over small windows that overlap, as pooling has them: one axis of the window after the other.

    rows      for every place along the last axis: the window's rows combined                    lanes along the axis
    results   for every result: its places combined                    lanes along the results, at the stride of places

The places of a row stand in scratch memory of the thread with what lies outside of the input around them, so that the
second step knows no borders; the first one is cut where they begin. A vector of results of a 3 x 3 window costs 4 to 6
operations and 3 shuffles instead of 8 and 9.
"""

import math
from collections.abc import Sequence

from attrs import frozen

from ...ir.index import Index, IndexVar, as_index
from ...ir.loops import Builder, Prefetch
from ...ir.scalar import Buffer, Load, Value, apply
from ...ops.reshape import unravel
from ..prelude import width
from ..rewrite import Rewriter, all_values
from .maps import FAR_BYTES, MAX_PARTS, UNITS, grouped, team_kind
from .nest import accesses, axis_of, cuts, hidden, rewritten, segments
from .reduction import Form
from .rows import JOIN, extents_of, size_of

TOGETHER = 4
"""Lines of results that are written together."""

AHEAD = 2
"""Rows of a window, the last ones, that are fetched for the next line: this one reads the others."""

PLACES_BYTES = 1 << 12
"""Bytes of the places of a row, at most."""


@frozen(eq=False)
class Separable:
    """A window reduction whose last axis goes over places.

    Attributes:
        form: the reduction, of one stage.
        place: the axis of places, in the place of the last row axis and the last window axis.
        element: what is combined, over the place and the other axes.
        stride: how far apart in places neighbouring results are; the elements of a window are neighbours.
    """

    form: Form
    place: IndexVar
    element: Value
    stride: int


def separable(form: Form) -> Separable | None:
    """A window as one axis after the other, or None where that is not the same or no gain."""
    if len(form.elements) != 1 or len(form.inner) < 2 or len(form.rows) < 2 or len(form.finals) != 1 or form.beside:
        return None
    if not form.elements[0].dtype.startswith(("float", "int32")):
        return None
    last, across = form.rows[-1], form.inner[-1]
    offsets = accesses(form.elements[0])[1]
    steps = {(o.coeff(last), o.coeff(across)) for o in offsets if o.depends_on(last) or o.depends_on(across)}
    if len(steps) != 1 or any(hidden(o, last) or hidden(o, across) for o in offsets):
        return None
    ((stride, dilation),) = steps
    if dilation != 1 or stride not in (1, 2) or size_of(form.inner[:-1]) < 2 or stride > across.hi:
        return None
    extent = last.hi * stride + across.hi + 1
    place = axis_of("place", extent)
    start = {across: as_index(place) - as_index(last) * stride}
    element = rewritten(Rewriter(start), form.elements[0])
    nodes = [n for n in all_values([element]) if isinstance(n, Index)]
    if any(n.depends_on(last) for n in nodes) or extent * width(element.dtype) > PLACES_BYTES:
        return None
    return Separable(form, place, element, stride)


def write_windows(b: Builder, window: Separable, lanes: int) -> None:
    """All rows of windows: cut where borders begin, in parallel."""
    form = window.form
    outer, line = form.rows[:-2], form.rows[-2]
    terms = [at_window(window, flat) for flat in range(size_of(form.inner[:-1]))]
    found = [cuts(term, [line, window.place]) for term in terms]
    parts = segments(line.hi + 1, sorted({at for cut in found for at in cut[line]}))
    across = segments(window.place.hi + 1, sorted({at for cut in found for at in cut[window.place]}))
    if len(parts) * len(across) > MAX_PARTS:
        parts, across = [(0, line.hi + 1)], [(0, window.place.hi + 1)]
    writer = _Rows(b, window, terms, across, lanes)
    kind = team_kind(size_of(form.rows) * size_of(form.inner))
    pieces = [piece for start, count in parts for piece in grouped(start, count, 1 if is_far(window) else TOGETHER)]
    if size_of(outer) >= UNITS:
        with b.loop("p", size_of(outer), kind) as p:
            for start, groups, many in pieces:
                with b.loop("lines", groups) as at:
                    writer.write(unravel(p, extents_of(outer)), at * many + start, many)
        return
    for start, groups, many in pieces:
        extents = [*extents_of(outer), groups]
        with b.loop("p", math.prod(extents), kind) as p:
            *index, at = unravel(p, extents)
            writer.write(index, at * many + start, many)


def at_window(window: Separable, flat: int) -> Value:
    """The element at a number of the window's axes but the last."""
    inner = window.form.inner[:-1]
    bind = dict(zip(inner, unravel(as_index(flat), extents_of(inner)), strict=True))
    return rewritten(Rewriter(bind), window.element)


def is_far(window: Separable) -> bool:
    """Whether the input does not stay in the caches: then lines are fetched one by one."""
    return window.form.bytes_read() >= FAR_BYTES


@frozen(eq=False)
class _Rows:
    """Writes rows of windows: `terms` combined for each place of the parts `across`, the longest of which is kept where
    a vector of `lanes` begins.
    """

    builder: Builder
    window: Separable
    terms: Sequence[Value]
    across: Sequence[tuple[int, int]]
    lanes: int

    @property
    def shift(self) -> int:
        """Where the first place is kept."""
        return -max(self.across, key=lambda part: part[1])[0] % self.lanes

    def write(self, index: Sequence[Index], first: Index, many: int) -> None:
        """Some lines; the places of all, then the results of all, which need not wait for the stores just made."""
        b, window = self.builder, self.window
        # Whole vectors, so that the next line begins with one too.
        shape = (many, -(-(self.shift + window.place.hi + 1) // self.lanes) * self.lanes)
        places = b.alloc("places", shape, window.element.dtype, "thread")
        with b.loop("line", many) as line:
            self._places([*index, first + line], places, line)
        with b.loop("line", many) as line:
            self._results([*index, first + line], places, line)

    def _places(self, index: Sequence[Index], places: Buffer, line: Index) -> None:
        bind = dict(zip(self.window.form.rows[:-1], index, strict=True))
        for start, count in self.across:
            with self.builder.loop("place", count, "vectorised") as at:
                here = {**bind, self.window.place: at + start}
                total = self._joined([rewritten(Rewriter(here), term) for term in self.terms])
                self.builder.store(places, (line, at + start + self.shift), total)
                if is_far(self.window):
                    self._fetch(Rewriter({**here, self.window.form.rows[-2]: index[-1] + 1}))

    def _fetch(self, ahead: Rewriter) -> None:
        """Fetch what the next line reads: the results of this one keep the processor from running ahead to it."""
        for term in self.terms[-AHEAD:]:
            for load in all_values([term]):
                if isinstance(load, Load):
                    self.builder.emit(Prefetch(load.buffer, tuple(ahead.index(i) for i in load.index)))

    def _results(self, index: Sequence[Index], places: Buffer, line: Index) -> None:
        form, b = self.window.form, self.builder
        with b.loop("result", form.rows[-1].hi + 1, "vectorised") as at:
            steps = range(form.inner[-1].hi + 1)
            total = self._joined([b.load(places, (line, at * self.window.stride + k + self.shift)) for k in steps])
            ((out, place, value),) = form.finals
            bind = {**dict(zip(form.rows[:-1], index, strict=True)), form.rows[-1]: at}
            rewriter = Rewriter(bind, known={id(form.results[0]): total})
            b.store(out, tuple(rewriter.index(i) for i in place), rewritten(rewriter, value))

    def _joined(self, terms: Sequence[Value]) -> Value:
        total = terms[0]
        for term in terms[1:]:
            total = apply(JOIN[self.window.form.combines[0]], total, term)
        return total
