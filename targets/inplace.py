"""Which inputs a kernel may write its outputs over.

An output may lie where an input lies if every element of the input is read only by the statement that stores the
output's element at the same place, and every element of the output is stored just once. The first is seen from the
offsets; the second follows from counting: a kernel stores to every element, so if it has no more stores than there are
elements, it stores to each once. The C text declares its pointers `restrict`; what that allows a compiler to reorder
are accesses to different elements, since the store needs the value that was loaded.
"""

import math
from collections.abc import Sequence

from ..ir.loops import For, If, Kernel, Stmt, Store
from ..ir.scalar import Buffer, Load
from .rewrite import all_values, values_of


def overwritable(kernel: Kernel) -> tuple[tuple[int, int], ...]:
    """Pairs (output, input) of positions, such that the output may take the memory of the input."""
    seen = _Accesses()
    seen.block(kernel.body, 1)
    return tuple(
        (o, i)
        for o, out in enumerate(kernel.outputs)
        for i, given in enumerate(kernel.inputs)
        if out.dtype == given.dtype and math.prod(out.shape) == math.prod(given.shape) == seen.stores.get(out)
        if seen.read_by.get(given) == {out} and given not in seen.elsewhere and out not in seen.loaded
    )


class _Accesses:
    """Counts of stores by buffer, and who reads what."""

    def __init__(self) -> None:
        self.stores: dict[Buffer, int] = {}
        self.read_by: dict[Buffer, set[Buffer]] = {}
        self.elsewhere: set[Buffer] = set()
        self.loaded: set[Buffer] = set()

    def block(self, body: Sequence[Stmt], times: int) -> None:
        for stmt in body:
            for node in all_values(values_of(stmt)):
                if isinstance(node, Load) and node.buffer.scope == "param":
                    self._load(stmt, node)
            match stmt:
                case For(extent=extent, body=inner):
                    self.block(inner, times * extent)
                case If(then=then, orelse=orelse):
                    self.block(then, times)
                    self.block(orelse, times)
                case Store(buffer=buffer, value=value):
                    self.stores[buffer] = self.stores.get(buffer, 0) + times * value.lanes

    def _load(self, stmt: Stmt, load: Load) -> None:
        self.loaded.add(load.buffer)
        if isinstance(stmt, Store) and stmt.buffer.scope == "param" and _same_place(stmt, load):
            self.read_by.setdefault(load.buffer, set()).add(stmt.buffer)
        else:
            self.elsewhere.add(load.buffer)


def _same_place(store: Store, load: Load) -> bool:
    same = store.buffer.offset(store.index) == load.buffer.offset(load.index)
    return same and store.value.lanes == load.lanes
