"""Whether the positions of a kernel's accesses, and all on the way to them, fit into 32 bits."""

from collections.abc import Iterator

from ...ir.index import FloorDiv, Index, Mod
from ...ir.loops import For, Prefetch, Stmt, Store
from ...ir.scalar import Load
from ..launches import Launch, Plan
from ..rewrite import all_values, values_of, walk

_LIMIT = (1 << 31) - (1 << 16)
"""Less than 2**31 by what rounding up to whole work-groups may add."""


def fits_int32(plan: Plan) -> bool:
    """Whether no launch of a kernel computes an index that needs more than 32 bits, in whatever order it adds."""
    return all(
        launch.items < _LIMIT and all(_magnitude(i) < _LIMIT for i in _indices(launch)) for launch in plan.launches
    )


def _indices(launch: Launch) -> Iterator[Index]:
    """All indices of a launch, those of accesses as offsets of elements."""
    for stmt in walk(launch.body):
        yield from _own(stmt)
        for node in all_values(values_of(stmt)):
            if isinstance(node, Index):
                yield node
            elif isinstance(node, Load):
                yield node.buffer.offset(node.index)


def _own(stmt: Stmt) -> Iterator[Index]:
    match stmt:
        case For(extent=extent):
            yield Index(const=extent)
        case Store(buffer=buffer, index=index) | Prefetch(buffer=buffer, index=index):
            yield buffer.offset(index)


def _magnitude(index: Index) -> int:
    """The largest absolute value of an index, of any of its parts, and of any sum of some of its terms."""
    total, inner = abs(index.const), 0
    for atom, coeff in index.terms:
        total += abs(coeff) * max(map(abs, atom.bounds))
        if isinstance(atom, FloorDiv | Mod):
            inner = max(inner, _magnitude(atom.value))
    return max(total, inner)
