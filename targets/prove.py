"""What can be proven of the loop IR before it is compiled: accesses in bounds, barriers and loop kinds in their places.

`verify` refuses a kernel when a store, or a load that no `select` or `If` guards, is not provably inside of its buffer.
Bounds come from interval arithmetic on index expressions. A guarded access is trusted: its guard is what makes it
valid, and proving that is left to tests. Wrong code that stays in bounds passes; only numeric tests find it.
"""

import math
from collections.abc import Collection, Sequence

from ..ir.errors import VerifyError
from ..ir.index import Index
from ..ir.loops import Alloc, Barrier, For, If, Kernel, Prefetch, Stmt, Store
from ..ir.scalar import EXCHANGES, Apply, Buffer, Load, Scalar, Value, operands_of
from .groups import GroupNest, group_nest, has_barrier, has_exchange, uniform
from .prelude import width
from .rewrite import values_of

ALIGNED = 16
"""Bytes of which the start of every buffer is a multiple."""


def inside(buffer: Buffer, index: Sequence[object], lanes: int = 1) -> bool:
    """Whether `lanes` elements from `index` on are provably inside of the buffer."""
    offset = buffer.offset(index)  # type: ignore[arg-type]
    elements = 1
    for dim in buffer.shape:
        elements *= dim
    extra = lanes - 1 if buffer.lanes == 1 else 0
    if extra == 0:
        each = (i.bounds for i in index)  # type: ignore[attr-defined]
        return all(lo >= 0 and hi < dim for (lo, hi), dim in zip(each, buffer.shape, strict=True))
    return offset.bounds[0] >= 0 and offset.bounds[1] + extra < elements


def proven_inside(load: Load) -> bool:
    """Whether a load is provably inside of its buffer."""
    return inside(load.buffer, load.index, load.lanes)


def alignment(buffer: Buffer, index: Sequence[Index], lanes: int) -> int:
    """Of how many bytes the place of `lanes` elements is provably a multiple: a power of two, no more than they take.

    Every buffer starts at a multiple of 16 bytes: the executors see to it, and declarations of arrays.
    """
    offset = buffer.offset(index)
    size = width(buffer.dtype)
    steps = math.gcd(offset.const, *(coeff for _, coeff in offset.terms)) * size
    return math.gcd(ALIGNED, lanes * size, steps)


def verify(kernel: Kernel) -> None:
    """Check a kernel.

    Raises:
        VerifyError: an access may be out of bounds, an undeclared buffer is used, an input is written, types of a store
            disagree, or a barrier, a local array or a loop over threads or work-items stands where it must not.
    """
    try:
        _Verifier(kernel).block(kernel.body, top=True)
    except VerifyError as error:
        raise VerifyError(f"kernel {kernel.name}: {error}") from None


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.known = set(kernel.params)
        self.inputs = set(kernel.inputs)
        self.checked: set[tuple[int, bool]] = set()
        self.nest: GroupNest | None = None
        """The work-items that are being looked at."""

    def block(self, body: Sequence[Stmt], top: bool = False, guarded: bool = False) -> None:
        outside = set(self.known)
        for stmt in body:
            self.checked.clear()  # what was allocated then may be gone now
            together = _exchanged(stmt)
            if together and self.nest is None:
                raise VerifyError("an exchange between work-items stands outside of work-items")
            for value in values_of(stmt):
                self.value(value, guarded, together)
            match stmt:
                case Alloc(buffer=buffer):
                    self.alloc(buffer)
                case For(kind="workgroup") if top:
                    self.groups(stmt, guarded)
                case For(body=inner, kind=kind, extent=extent):
                    if kind in ("workgroup", "workitem"):
                        raise VerifyError(f"a {kind} loop stands inside another statement")
                    if kind == "parallel" and not top:
                        raise VerifyError("a parallel loop stands inside another statement")
                    if kind == "lockstep" and not top:
                        raise VerifyError("a lockstep loop stands inside another statement")
                    if extent:
                        self.block(inner, top=kind == "lockstep", guarded=guarded)
                case If(cond=cond, then=then, orelse=orelse):
                    self.branches(cond, then, orelse)
                case Barrier(scope="team") if not top:
                    raise VerifyError("a team barrier stands inside another statement")
                case Barrier(scope="local") if self.nest is None:
                    raise VerifyError("a local barrier stands outside of work-items")
                case Store():
                    self.store(stmt, guarded)
                case Prefetch(buffer=buffer):
                    self.use(buffer)
        self.known = outside

    def groups(self, loop: For, guarded: bool) -> None:
        """A nest of work-groups."""
        outside = set(self.known)
        self.nest = group_nest(loop)
        self.known |= {*self.nest.local}
        self.block(self.nest.body, guarded=guarded)
        self.nest, self.known = None, outside

    def alloc(self, buffer: Buffer) -> None:
        if buffer.scope == "local":
            raise VerifyError(f"the local array {buffer.name} is not allocated between work-groups and work-items")
        self.known.add(buffer)

    def branches(self, cond: Value, then: Sequence[Stmt], orelse: Sequence[Stmt]) -> None:
        items = [loop.var for loop in self.nest.items] if self.nest else []
        body = [*then, *orelse]
        if (has_barrier(body) or has_exchange(body)) and not uniform(cond, items):
            raise VerifyError("a local barrier or an exchange stands in a branch that not all work-items may take")
        self.block(then, guarded=True)
        self.block(orelse, guarded=True)

    def store(self, stmt: Store, guarded: bool) -> None:
        self.use(stmt.buffer)
        if stmt.buffer in self.inputs:
            raise VerifyError(f"writes its input {stmt.buffer.name}")
        if stmt.value.dtype != stmt.buffer.dtype:
            raise VerifyError(f"stores {stmt.value.dtype} into {stmt.buffer.name} of {stmt.buffer.dtype}")
        if not guarded and not inside(stmt.buffer, stmt.index, stmt.value.lanes):
            where = ", ".join(map(str, stmt.index))
            raise VerifyError(f"store to {stmt.buffer.name}{list(stmt.buffer.shape)}[{where}] may be out of bounds")

    def use(self, buffer: Buffer) -> None:
        if (buffer.source or buffer) not in self.known:
            raise VerifyError(f"uses {buffer.name} ({buffer.scope}) before it is allocated")

    def value(self, root: Scalar, guarded: bool, together: Collection[int] = ()) -> None:
        stack = [(root, guarded)]
        while stack:
            node, free = stack.pop()
            if (id(node), free) in self.checked:
                continue
            self.checked.add((id(node), free))
            if isinstance(node, Load):
                self.use(node.buffer)
                if not free and not proven_inside(node):
                    where = ", ".join(map(str, node.index))
                    raise VerifyError(
                        f"load of {node.buffer.name}{list(node.buffer.shape)}[{where}] may be out of bounds"
                    )
            if isinstance(node, Apply) and node.fn in EXCHANGES and id(node) not in together:
                raise VerifyError("an exchange between work-items stands inside another value than that of a store")
            if isinstance(node, Apply) and node.fn == "select":
                stack.append((node.args[0], free))
                stack.extend((arm, True) for arm in node.args[1:])
            else:
                stack.extend((part, free) for part in operands_of(node))


def _exchanged(stmt: Stmt) -> set[int]:
    """The exchanges of a statement that all items come to: the value of a store, or an operand of it."""
    if not isinstance(stmt, Store):
        return set()
    value = stmt.value
    operands = operands_of(value) if isinstance(value, Apply) and value.fn != "select" else ()
    return {id(v) for v in (value, *operands) if isinstance(v, Apply) and v.fn in EXCHANGES}
