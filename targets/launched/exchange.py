"""Exchanges between work-items for languages without them: through local memory.

    acc = acc + item_xor4(acc)     becomes     exchange[item] = acc
                                               barrier
                                               acc = acc + exchange[item with bit 4 changed]
                                               barrier

The first barrier makes the values visible; the second keeps the next exchange from overwriting them. So the loop IR
that a GPU runs with shuffles runs anywhere, slower.
"""

from collections.abc import Sequence

from attrs import evolve

from ...ir.index import Index, as_index
from ...ir.loops import Alloc, Barrier, For, If, Kernel, Stmt, Store
from ...ir.scalar import EXCHANGES, Apply, Buffer, Load, Value
from ..groups import group_nest, has_exchange
from ..rewrite import Rewriter, all_values


def through_memory(kernel: Kernel) -> Kernel:
    """The same kernel with exchanges by way of local arrays."""
    if not has_exchange(kernel.body):
        return kernel
    return evolve(kernel, body=_outer(kernel.body))


def _outer(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    result: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, For) and stmt.kind == "workgroup" and has_exchange([stmt]):
            stmt = _group(stmt)
        elif isinstance(stmt, For) and stmt.kind == "lockstep":
            stmt = evolve(stmt, body=_outer(stmt.body))
        result.append(stmt)
    return tuple(result)


def _group(loop: For) -> For:
    """One nest of work-groups; its arrays stand in front of its items."""
    nest = group_nest(loop)
    item, size = as_index(0), 1
    for axis in reversed(nest.items):
        item, size = item + as_index(axis.var) * size, size * axis.extent
    maker = _Maker(item, size)
    body = maker.block(nest.body)
    for axis in reversed(nest.items):
        body = (evolve(axis, body=body),)
    body = (*(Alloc(buffer) for buffer in (*nest.local, *maker.arrays.values())), *body)
    for axis in reversed(nest.groups):
        body = (evolve(axis, body=body),)
    (whole,) = body
    assert isinstance(whole, For)
    return whole


class _Maker:
    """Rewrites the statements of an item; `arrays` are those that values go through, by dtype."""

    def __init__(self, item: Index, size: int) -> None:
        self.item, self.size = item, size
        self.arrays: dict[str, Buffer] = {}

    def block(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        return tuple(new for stmt in body for new in self.stmt(stmt))

    def stmt(self, stmt: Stmt) -> tuple[Stmt, ...]:
        match stmt:
            case For(body=body):
                return (evolve(stmt, body=self.block(body)),)
            case If(then=then, orelse=orelse):
                return (evolve(stmt, then=self.block(then), orelse=self.block(orelse)),)
            case Store(value=value):
                found = [v for v in all_values([value]) if isinstance(v, Apply) and v.fn in EXCHANGES]
                return self.store(stmt, found) if found else (stmt,)
        return (stmt,)

    def store(self, stmt: Store, found: Sequence[Apply]) -> tuple[Stmt, ...]:
        """A store of a value that holds one exchange, or several of different dtypes."""
        before: list[Stmt] = []
        known: dict[int, Value] = {}
        for node in found:
            (own,) = node.args
            assert isinstance(own, Value)
            buffer = self.arrays.setdefault(
                node.dtype, Buffer(f"exchange_{node.dtype}", (self.size,), node.dtype, "local")
            )
            before.append(Store(buffer, (self.item,), own))
            known[id(node)] = Load(buffer, (self.partner(EXCHANGES[node.fn]),))
        value = Rewriter({}, known=known).value(stmt.value)
        assert isinstance(value, Value)
        wait = Barrier("local")
        return (*before, wait, evolve(stmt, value=value), wait)

    def partner(self, bit: int) -> Index:
        """The number of the other item, in a form whose bounds are seen: rows of 2 * bit items, turned half around."""
        return self.item // (2 * bit) * (2 * bit) + (self.item + bit) % (2 * bit)
