"""The statement half of the loop IR: loops, stores, scratch memory and barriers, and the kernels made of them.

A dozen node types, with no knowledge of C, OpenCL or CUDA: the emitter (targets/csource.py) prints them in a dialect.
Indices stay multi-dimensional until then. Loop kinds say how a loop may run:

    serial       one iteration after the other
    rolled       serial, and the compiler must not unroll it
    unrolled     copied out by the unroller (extent known and small)
    short        serial, and the compiler is to unroll it, so that the text stays small
    mma          terms of a sum of products of matrices, which the items of a warp may add at once: its body adds to
                 four registers of each item, which lie as PTX's mma.m16n8 has them (targets/matrixtext.py)
    vectorised   iterations become lanes where every access allows it, else it stays serial
    parallel     iterations are split among the threads of the team; they are independent
    lockstep     all threads of the team run all iterations; parallel loops and barriers may stand inside
    workgroup, workitem   the two levels of a GPU launch
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from attrs import field, frozen

from .errors import VerifyError
from .index import Dim, Index, IndexVar, as_index
from .scalar import Buffer, Load, Operand, Value, cast

KINDS = (
    "serial", "rolled", "unrolled", "short", "mma", "vectorised", "parallel", "lockstep", "workgroup", "workitem",
)  # fmt: skip


@frozen(eq=False)
class For:
    """`for var in 0 .. extent-1: body`."""

    var: IndexVar
    extent: int
    body: tuple["Stmt", ...]
    kind: str = "serial"


@frozen(eq=False)
class Store:
    """Write `value` (all its lanes, to consecutive elements) at `index`; the dtypes agree."""

    buffer: Buffer
    index: tuple[Index, ...]
    value: Value


@frozen(eq=False)
class Alloc:
    """Memory that lives until the end of the enclosing block."""

    buffer: Buffer


@frozen(eq=False)
class If:
    """`then` where `cond` holds, else `orelse`."""

    cond: Value
    then: tuple["Stmt", ...]
    orelse: tuple["Stmt", ...] = ()


@frozen(eq=False)
class Barrier:
    """All threads of the scope ("team" or "local") have come here, and see each other's stores."""

    scope: str = "team"


@frozen(eq=False)
class Prefetch:
    """Fetch the cache line of an element into the first cache, or only the second one; no access: it may be outside."""

    buffer: Buffer
    index: tuple[Index, ...]
    level: int = 1
    write: bool = False
    """Whether it is fetched to be written."""


Stmt: TypeAlias = For | Store | Alloc | If | Barrier | Prefetch


@frozen(eq=False)
class Kernel:
    """A function over buffers: it reads `inputs`, writes every element of `outputs`, and returns nothing."""

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    notes: tuple[str, ...] = field(default=())
    """Remarks of the schedule, shown by `explain` (for example why a loop was not vectorised)."""

    @property
    def params(self) -> tuple[Buffer, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs


class Builder:
    """Collects statements; `loop` and `when` open nested blocks.

    with b.loop("i", 10, "parallel") as i:
        b.store(y, (i,), b.load(x, (i,)) + 1)
    """

    def __init__(self) -> None:
        self._blocks: list[list[Stmt]] = [[]]
        self._names: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """`name`, with a number behind it from its second use on."""
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def emit(self, stmt: Stmt) -> None:
        """Append a statement to the open block."""
        self._blocks[-1].append(stmt)

    @contextmanager
    def loop(self, name: str, extent: int, kind: str = "serial") -> Iterator[Index]:
        """Open a loop and give its counter as an index; a loop of one iteration leaves no trace."""
        if kind not in KINDS:
            raise VerifyError(f"unknown loop kind {kind!r}: expected one of {', '.join(KINDS)}")
        if extent == 1 and kind not in ("workgroup", "workitem"):
            yield as_index(0)
            return
        var = IndexVar(self.unique(name), 0, max(extent - 1, 0))
        self._blocks.append([])
        yield as_index(var)
        body = tuple(self._blocks.pop())
        self.emit(For(var, extent, body, kind))

    @contextmanager
    def loops(self, names: Sequence[str], extents: Sequence[int], kind: str = "serial") -> Iterator[tuple[Index, ...]]:
        """A perfect nest of loops, the first outermost."""
        if not extents:
            yield ()
            return
        with self.loop(names[0], extents[0], kind) as first, self.loops(names[1:], extents[1:], kind) as rest:
            yield (first, *rest)

    @contextmanager
    def when(self, cond: Value) -> Iterator[None]:
        """Open a block that runs where `cond` holds."""
        self._blocks.append([])
        yield
        self.emit(If(cond, tuple(self._blocks.pop())))

    def alloc(self, name: str, shape: Sequence[int], dtype: str, scope: str = "register") -> Buffer:
        """Scratch memory for the rest of the open block."""
        buffer = Buffer(self.unique(name), tuple(shape), dtype, scope)
        self.emit(Alloc(buffer))
        return buffer

    def load(self, buffer: Buffer, index: Sequence[Dim]) -> Value:
        """One element."""
        return Load(buffer, tuple(as_index(i) for i in index))

    def store(self, buffer: Buffer, index: Sequence[Dim], value: Operand) -> None:
        """Write one element, converted to the buffer's dtype."""
        self.emit(Store(buffer, tuple(as_index(i) for i in index), cast(value, buffer.dtype)))

    def alloc_vectors(self, name: str, count: int, dtype: str, lanes: int) -> Buffer:
        """`count` vector registers for the rest of the open block."""
        buffer = Buffer(self.unique(name), (count,), dtype, "register", lanes)
        self.emit(Alloc(buffer))
        return buffer

    def emit_store(self, buffer: Buffer, index: Sequence[Dim], value: Value) -> None:
        """Write all lanes of a value of the buffer's dtype, to consecutive elements."""
        self.emit(Store(buffer, tuple(as_index(i) for i in index), value))

    def barrier(self, scope: str = "team") -> None:
        """Wait for all threads of the scope."""
        self.emit(Barrier(scope))

    def finish(self) -> tuple[Stmt, ...]:
        """The statements of the outermost block."""
        assert len(self._blocks) == 1, "a loop is still open"
        return tuple(self._blocks[0])
