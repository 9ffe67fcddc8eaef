"""Loop nests as values: axes, an element as an expression over them, and where it goes; and how axes can be changed.

split    an axis that is read only through i // 16 and i % 16 becomes two axes: divisions vanish
merge    neighbouring axes that every access runs through in one stride become one
cuts     places where a comparison of an axis with a constant changes its mind: between them guards are decided
"""

from collections.abc import Callable, Sequence

from attrs import frozen

from ...ir.index import FloorDiv, Index, IndexVar, Mod, as_index, substitute
from ...ir.scalar import Apply, Buffer, Load, Scalar, Value
from ..rewrite import Rewriter, all_values


@frozen(eq=False)
class Nest:
    """`out[place] = value` for every index in the box of `axes`; both are expressions over the axes."""

    out: Buffer
    axes: tuple[IndexVar, ...]
    place: tuple[Index, ...]
    value: Value

    @property
    def extents(self) -> list[int]:
        """The sizes of the axes."""
        return [axis.hi + 1 for axis in self.axes]

    def bound(self, bind: dict[IndexVar, Index]) -> tuple[tuple[Index, ...], Value]:
        """Place and value with axes replaced."""
        rewriter = Rewriter(bind)
        return tuple(rewriter.index(i) for i in self.place), rewritten(rewriter, self.value)

    def replaced(self, bind: dict[IndexVar, Index], axes: Sequence[IndexVar]) -> "Nest":
        """The same over other axes."""
        place, value = self.bound(bind)
        return Nest(self.out, tuple(axes), place, value)


def rewritten(rewriter: Rewriter, value: Value) -> Value:
    """A value rewritten."""
    new = rewriter.value(value)
    assert isinstance(new, Value)
    return new


def axis_of(name: str, extent: int) -> IndexVar:
    """The counter of a loop."""
    return IndexVar(name, 0, max(extent - 1, 0))


def counter(axis: IndexVar) -> Index:
    """The counter of an axis as an index; an axis of one element has none, as in `Builder.loop`."""
    return as_index(axis) if axis.hi else as_index(0)


def accesses(value: Scalar) -> tuple[set[IndexVar], list[Index]]:
    """Variables whose own value matters (compared, cast, divided), and the offsets of all loads."""
    own: set[IndexVar] = set()
    offsets: list[Index] = []
    for node in all_values([value]):
        if isinstance(node, Load):
            offsets.append(node.buffer.offset(node.index))
        if isinstance(node, Apply):
            for arg in node.args:
                if isinstance(arg, Index):
                    own |= arg.variables
    for offset in offsets:
        own |= divided(offset)
    return own, offsets


def divided(offset: Index) -> set[IndexVar]:
    """The variables inside divisions and remainders."""
    return {v for atom, _ in offset.terms if isinstance(atom, FloorDiv | Mod) for v in atom.value.variables}


def hidden(offset: Index, var: IndexVar) -> bool:
    """Whether an offset depends on a variable otherwise than by a constant stride."""
    linear = substitute(offset, {var: 0}) + as_index(var) * offset.coeff(var)
    reads = [node for v in offset.values for node in all_values([v])]
    return linear != offset or any(isinstance(n, Index) and n.depends_on(var) for n in reads)


def mergeable(offset: Index, outer: IndexVar, inner: IndexVar) -> bool:
    """Whether going on from the end of `inner` to the next `outer` is one more step of the same stride."""
    return offset.coeff(outer) == offset.coeff(inner) * (inner.hi + 1)


def merge_bind(outer: IndexVar, inner: IndexVar, name: str) -> tuple[IndexVar, dict[IndexVar, Index]]:
    """One axis in place of two."""
    extent = inner.hi + 1
    both = axis_of(name, (outer.hi + 1) * extent)
    return both, {outer: as_index(both) // extent, inner: as_index(both) % extent}


def split_axes(nest: Nest) -> Nest:
    """Axes that are taken apart by divisions become several axes."""
    while True:
        found = _divisor(nest)
        if found is None:
            return nest
        axis, divisor = found
        outer = axis_of(f"{axis.name}o", (axis.hi + 1) // divisor)
        inner = axis_of(f"{axis.name}i", divisor)
        k = nest.axes.index(axis)
        bind = {axis: as_index(outer) * divisor + as_index(inner)}
        nest = nest.replaced(bind, (*nest.axes[:k], outer, inner, *nest.axes[k + 1 :]))


def _divisor(nest: Nest) -> tuple[IndexVar, int] | None:
    """An axis, and the largest number that it is divided by and that divides its extent."""
    found: dict[IndexVar, int] = {}
    nodes = [n for n in all_values([nest.value]) if isinstance(n, Index)]
    pending = [*nodes, *(n.buffer.offset(n.index) for n in all_values([nest.value]) if isinstance(n, Load))]
    while pending:
        for atom, _ in pending.pop().terms:
            if isinstance(atom, FloorDiv | Mod):
                pending.append(atom.value)
                var = next(iter(atom.value.variables)) if atom.value.is_var else None
                if var in nest.axes and (var.hi + 1) % atom.divisor == 0 and 1 < atom.divisor <= var.hi:
                    found[var] = max(found.get(var, 0), atom.divisor)
    return next(iter(found.items()), None)


def merge_axes(nest: Nest) -> Nest:
    """Neighbouring axes that every access runs through in one stride become one; axes of one step vanish."""
    single = {axis: as_index(0) for axis in nest.axes if axis.hi == 0}
    if single:
        nest = nest.replaced(single, [axis for axis in nest.axes if axis.hi])
    k = len(nest.axes) - 1
    while k > 0:
        outer, inner = nest.axes[k - 1], nest.axes[k]
        own, offsets = accesses(nest.value)
        own |= {v for i in nest.place for v in divided(i)}
        offsets.append(nest.out.offset(nest.place))
        if not {outer, inner} & own and all(mergeable(o, outer, inner) for o in offsets):
            both, bind = merge_bind(outer, inner, inner.name)
            nest = nest.replaced(bind, (*nest.axes[: k - 1], both, *nest.axes[k + 1 :]))
        k -= 1
    return nest


_TRUTH: dict[str, Callable[[int], bool]] = {
    "lt": lambda d: d < 0, "le": lambda d: d <= 0, "gt": lambda d: d > 0, "ge": lambda d: d >= 0,
    "eq": lambda d: d == 0, "ne": lambda d: d != 0,
}  # fmt: skip


def cuts(value: Scalar, axes: Sequence[IndexVar]) -> dict[IndexVar, list[int]]:
    """For each axis, where comparisons of it with constants change, ascending."""
    found: dict[IndexVar, set[int]] = {axis: set() for axis in axes}
    for node in all_values([value]):
        if not isinstance(node, Apply) or node.fn not in _TRUTH:
            continue
        a, b = node.args
        if not isinstance(a, Index) or not isinstance(b, Index):
            continue
        difference = a - b
        var = next(iter(difference.variables)) if len(difference.variables) == 1 else None
        if var not in found or hidden(difference, var) or difference.values:
            continue
        step, truth = difference.coeff(var), _TRUTH[node.fn]
        near = -difference.const // step
        for at in range(near - 1, near + 4):
            if 0 < at <= var.hi and truth(step * at + difference.const) != truth(step * (at - 1) + difference.const):
                found[var].add(at)
    return {axis: sorted(places) for axis, places in found.items()}


def segments(extent: int, places: Sequence[int]) -> list[tuple[int, int]]:
    """An axis cut at places: (start, size) of each part."""
    ends = [*places, extent]
    return [(start, end - start) for start, end in zip([0, *places], ends, strict=True) if end > start]


def boxes(nest: Nest, parts: Sequence[Sequence[tuple[int, int]]]) -> list[Nest]:
    """The nest cut into boxes by segments of its axes."""
    found = [nest]
    for k, axis in enumerate(nest.axes):
        if len(parts[k]) > 1:
            found = [piece for box in found for piece in _cut(box, k, axis, parts[k])]
    return found


def _cut(nest: Nest, k: int, axis: IndexVar, parts: Sequence[tuple[int, int]]) -> list[Nest]:
    pieces: list[Nest] = []
    for start, size in parts:
        own = axis_of(axis.name, size)
        bind = {axis: as_index(own) + start}
        pieces.append(nest.replaced(bind, (*nest.axes[:k], own, *nest.axes[k + 1 :])))
    return pieces
