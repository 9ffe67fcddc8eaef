r"""From the kernel of a team to launches of a device.

A schedule for `cpu` is written for a team of threads: parallel loops, barriers between them, scratch that all share. A
device has no team that could wait for each other, but it runs one launch after the other:

    parallel loop      a launch with a work-item for each iteration; on a CPU, with a few that take shares of them
    team barrier       the end of a launch; loops without a barrier between them share a launch, one behind the other
    work-groups        a launch of their own, in groups of the size that the loops over work-items have
    other statements   one work-item of such a launch
    team scratch       a global buffer
    thread scratch     private memory of a work-item; where it is large, launches with fewer work-items, each of which
                       has its own part of a global buffer and does a share of the iterations
    lockstep loop      its iterations are independent but for team scratch, so all are done at once, each with scratch
                       of its own; where that would be too much memory, a run of its launches for each iteration

A `Plan` is what comes out. It knows no language; `csource.py` prints it.
"""

import math
from collections.abc import Iterator, Sequence

from attrs import define, evolve, field, frozen

from ..ir.errors import VerifyError
from ..ir.index import Index, IndexVar, as_index
from ..ir.loops import Alloc, Barrier, For, Kernel, Prefetch, Stmt, Store
from ..ir.scalar import Buffer, Load, Scalar
from .groups import GroupNest, group_nest
from .prelude import width
from .rewrite import Rewriter, all_values, values_of, walk

PRIVATE_BYTES = 8192
"""Thread scratch up to which it is a private array."""

EXPANDED_BYTES = 64 << 20
"""Team scratch up to which the iterations of a lockstep loop are done at once."""

ALIGN = 512
"""Team scratch starts at a multiple of this: what devices want of a buffer that is a part of another one."""


@frozen(eq=False)
class Launch:
    """Loops that run at the same time.

    Attributes:
        loops: of kind "workitem", their iterations numbered through; or "parallel" where work-items take shares.
        variables: the counters of loops around it, given with each call.
        nest: in their place, work-groups.
    """

    loops: tuple[For, ...]
    variables: tuple[IndexVar, ...]
    nest: GroupNest | None = None

    @property
    def group(self) -> int:
        """Work-items in a group; 0: any number will do."""
        return self.nest.size if self.nest else 0

    @property
    def body(self) -> tuple[Stmt, ...]:
        """Its loops, and the statements of work-groups."""
        return self.nest.body if self.nest else self.loops

    @property
    def shared(self) -> bool:
        """Whether any number of work-items may run it, each with scratch of its own."""
        return self.nest is None and self.loops[0].kind == "parallel"

    @property
    def items(self) -> int:
        """Work-items: as many as it needs, or where shared as many as it can use."""
        if self.nest:
            return self.nest.count * self.nest.size
        extents = [loop.extent for loop in self.loops]
        return max(extents) if self.shared else sum(extents)


@frozen(eq=False)
class Plan:
    """A kernel as launches.

    Attributes:
        kernel: what it was made of.
        launches: the different ones.
        calls: which one to run, with the values of its variables, in order.
        team: global scratch with its offsets in bytes.
        team_bytes: the size of the whole.
    """

    kernel: Kernel
    launches: tuple[Launch, ...]
    calls: tuple[tuple[int, tuple[int, ...]], ...]
    team: dict[Buffer, int]
    team_bytes: int


def plan_launches(kernel: Kernel, shares: bool = False) -> Plan:
    """Cut a kernel, whose loops are vectorised and unrolled, into launches.

    With `shares`, work-items take shares of all parallel loops: for devices with few work-items at a time, where each
    costs something.
    """
    maker = _Maker(shares)
    maker.block(expanded(kernel.body), ())
    offsets: dict[Buffer, int] = {}
    end = 0
    used = {b for launch in maker.launches for stmt in launch.body for b in _written(stmt) | _read(stmt)}
    for buffer in [b for b in maker.team if b in used]:
        offsets[buffer] = end
        end += -(-nbytes(buffer) // ALIGN) * ALIGN
    return Plan(kernel, tuple(maker.launches), tuple(maker.calls), offsets, end)


def nbytes(buffer: Buffer) -> int:
    """The size of a buffer in bytes."""
    return max(math.prod(buffer.shape), 1) * width(buffer.dtype)


@define
class _Maker:
    shares: bool
    launches: list[Launch] = field(factory=list)
    calls: list[tuple[int, tuple[int, ...]]] = field(factory=list)
    team: list[Buffer] = field(factory=list)

    def block(self, body: Sequence[Stmt], variables: tuple[IndexVar, ...]) -> None:
        """Launches for a block that all threads run."""
        loops: list[For] = []
        alone: list[Stmt] = []

        def close() -> None:
            if alone:
                loops.append(For(IndexVar("alone", 0, 0), 1, tuple(alone), "parallel"))
            if loops:
                self.launch(loops, variables)
            loops.clear()
            alone.clear()

        for stmt in body:
            match stmt:
                case Alloc(buffer=buffer) if buffer.scope == "team":
                    self.team.append(buffer)
                case Barrier():
                    close()
                case For(kind="parallel", extent=extent):
                    loops.extend([stmt] if extent else [])
                case For(kind="workgroup"):
                    close()
                    self.groups(stmt, variables)
                case For(kind="lockstep"):
                    close()
                    self.repeated(stmt, variables)
                case _:
                    alone.append(stmt)
        close()

    def launch(self, loops: Sequence[For], variables: tuple[IndexVar, ...]) -> None:
        shared = self.shares or any(large(stmt) for loop in loops for stmt in walk(loop.body))
        kind = "parallel" if shared else "workitem"
        self.calls.append((len(self.launches), ()))
        self.launches.append(Launch(tuple(For(x.var, x.extent, x.body, kind) for x in loops), variables))

    def groups(self, loop: For, variables: tuple[IndexVar, ...]) -> None:
        nest = group_nest(loop)
        if own := next((s.buffer for s in walk(nest.body) if large(s) and isinstance(s, Alloc)), None):
            raise VerifyError(
                f"the private array {own.name} has {nbytes(own)} bytes; work-items may have {PRIVATE_BYTES}"
            )
        if nest.count:
            self.calls.append((len(self.launches), ()))
            self.launches.append(Launch((), variables, nest))

    def repeated(self, loop: For, variables: tuple[IndexVar, ...]) -> None:
        first = len(self.calls)
        self.block(loop.body, (*variables, loop.var))
        inner = self.calls[first:]
        self.calls[first:] = [(k, (i, *values)) for i in range(loop.extent) for k, values in inner]


def large(stmt: Stmt) -> bool:
    """Whether a statement allocates thread scratch that does not go into private memory."""
    return isinstance(stmt, Alloc) and stmt.buffer.scope == "thread" and nbytes(stmt.buffer) > PRIVATE_BYTES


# Lockstep loops


def expanded(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """The outermost block of a kernel without those lockstep loops that can be done at once."""
    result: list[Stmt] = []
    for position, stmt in enumerate(body):
        others = [s for k, s in enumerate(body) if k != position]
        if isinstance(stmt, For) and _independent(stmt, others):
            result.extend(_at_once(stmt, _written(stmt)))
        else:
            result.append(stmt)
    return tuple(result)


def _independent(loop: For, others: Sequence[Stmt]) -> bool:
    """Whether the iterations of a loop can be done at once, beside the other statements of the kernel."""
    if loop.kind != "lockstep" or not all(
        isinstance(s, Barrier | Alloc) or (isinstance(s, For) and s.kind == "parallel") for s in loop.body
    ):
        return False
    written = _written(loop)
    size = loop.extent * sum(map(nbytes, written))
    return size <= EXPANDED_BYTES and not any(written & _read(other) - _written(other) for other in others)


def _written(stmt: Stmt) -> set[Buffer]:
    """Team scratch that a statement stores to."""
    return {s.buffer for s in walk([stmt]) if isinstance(s, Store) and s.buffer.scope == "team"}


def _read(stmt: Stmt) -> set[Buffer]:
    values = all_values([v for s in walk([stmt]) for v in values_of(s)])
    return {v.buffer for v in values if isinstance(v, Load) and v.buffer.scope == "team"}


def _at_once(loop: For, written: set[Buffer]) -> Iterator[Stmt]:
    """The statements of a lockstep loop, each for all iterations, with a copy of the scratch `written` for each."""
    wide = {
        b: Buffer(f"{b.name}_{loop.var.name}", (loop.extent, *b.shape), b.dtype, b.scope)
        for b in sorted(written, key=lambda b: b.name)
    }
    yield from (Alloc(buffer) for buffer in wide.values())
    yield Barrier()
    for stmt in loop.body:
        if not isinstance(stmt, For):
            yield from [stmt] if isinstance(stmt, Barrier) else []
            continue
        total = loop.extent * stmt.extent
        flat = IndexVar(f"{loop.var.name}_{stmt.var.name}", 0, max(total - 1, 0))
        number = as_index(flat) // max(stmt.extent, 1)
        bind = {loop.var: number, stmt.var: as_index(flat) % max(stmt.extent, 1)}
        yield For(flat, total, _Widener(bind, wide, number).stmts(stmt.body), "parallel")
    yield Barrier()


class _Widener(Rewriter):
    """Binds variables, and lets accesses to scratch go to the copy of iteration `number`."""

    def __init__(self, bind: dict[IndexVar, Index], wide: dict[Buffer, Buffer], number: Index) -> None:
        super().__init__(bind)
        self.wide, self.number = wide, number

    def _place(self, buffer: Buffer, index: Sequence[Index]) -> tuple[Index, ...]:
        own = tuple(self.index(i) for i in index)
        return (self.number, *own) if buffer in self.wide else own

    def _rebuild(self, node: Scalar) -> Scalar:
        if isinstance(node, Load):
            return Load(self.wide.get(node.buffer, node.buffer), self._place(node.buffer, node.index), node.lanes)
        return super()._rebuild(node)

    def stmt(self, stmt: Stmt) -> tuple[Stmt, ...]:
        """A statement."""
        match stmt:
            case Store(buffer=buffer, index=index):
                (new,) = super().stmt(stmt)
                assert isinstance(new, Store)
                return (Store(self.wide.get(buffer, buffer), self._place(buffer, index), new.value),)
            case Prefetch(buffer=buffer, index=index):
                return (evolve(stmt, buffer=self.wide.get(buffer, buffer), index=self._place(buffer, index)),)
        return super().stmt(stmt)
