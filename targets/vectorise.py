"""Vectorisation: loops of kind "vectorised" become operations on vector lanes.

Code is written for one element. For a loop variable `v` of extent E this pass cuts the loop into chunks of L lanes and
widens each statement: a load whose offset does not depend on v is read once, one with stride 1 becomes a vector load,
register buffers that hold different values for different v become vector registers. What cannot be widened (a
stride other than 1, a load whose guard differs between lanes, a conversion of the index itself, a float64 that becomes
a 16-bit float) is run lane by lane: a whole loop of one statement stays as a serial loop, which the C compiler may
still vectorise in its own ways; one statement among others reads the vector registers through a small scratch array.
The reason is kept as a note.
"""

from collections.abc import Sequence

from attrs import define, evolve, field

from ..ir.errors import VerifyError
from ..ir.index import Index, IndexVar, as_index
from ..ir.loops import Alloc, For, If, Kernel, Prefetch, Stmt, Store
from ..ir.scalar import (
    SHUFFLES,
    SMALL_FLOATS,
    Apply,
    Buffer,
    Const,
    Load,
    Scalar,
    Value,
    apply,
    cast,
    compute_dtype,
    splat,
)
from .prove import proven_inside
from .rewrite import Rewriter, all_values, values_of, walk

_BYTES = {"bool": 4, "float16": 4, "bfloat16": 4, "index": 1}


class _CannotWiden(Exception):
    """Why an expression has no vector form."""


def vectorise(kernel: Kernel, vector_bytes: int) -> Kernel:
    """`kernel` with its vectorised loops widened for registers of `vector_bytes` bytes."""
    notes: list[str] = []
    body = _block(kernel.body, vector_bytes, notes)
    return Kernel(kernel.name, kernel.inputs, kernel.outputs, body, kernel.notes + tuple(dict.fromkeys(notes)))


def _block(body: Sequence[Stmt], vector_bytes: int, notes: list[str]) -> tuple[Stmt, ...]:
    result: list[Stmt] = []
    for stmt in body:
        match stmt:
            case For(kind="vectorised"):
                wide = _loop(stmt, vector_bytes, notes)
                _verify_shuffles(stmt, wide)
                result.extend(wide)
            case For(var=var, extent=extent, body=inner, kind=kind):
                result.append(For(var, extent, _block(inner, vector_bytes, notes), kind))
            case If(cond=cond, then=then, orelse=orelse):
                then, orelse = _block(then, vector_bytes, notes), _block(orelse, vector_bytes, notes)
                result.append(If(cond, then, orelse))
            case _:
                result.append(stmt)
    return tuple(result)


def lanes_for(body: Sequence[Stmt], vector_bytes: int) -> int:
    """How many lanes of the widest type in `body` fill a register."""
    values = all_values([v for stmt in walk(body) for v in values_of(stmt)])
    stored = [s.buffer.dtype for s in walk(body) if isinstance(s, Store)]
    widest = max((_width(d) for d in [*stored, *(v.dtype for v in values)]), default=4)
    return max(vector_bytes // max(widest, 4), 1)


def _width(dtype: str) -> int:
    return _BYTES.get(dtype) or int(compute_dtype(dtype).lstrip("uintfloa")) // 8


def _loop(loop: For, vector_bytes: int, notes: list[str]) -> list[Stmt]:
    most = lanes_for(loop.body, vector_bytes)
    serial = For(loop.var, loop.extent, loop.body, "serial")
    if most < 2 or loop.extent < 2:
        return [serial]
    only = len(loop.body) == 1 and isinstance(loop.body[0], Store)
    result: list[Stmt] = []
    start = 0
    while start < loop.extent:
        lanes = min(most, 1 << ((loop.extent - start).bit_length() - 1))
        if lanes < 4 and start:
            lanes = 1
        count = (loop.extent - start) // lanes if lanes > 1 else loop.extent - start
        chunk = IndexVar(f"{loop.var.name}{'v' if lanes > 1 else 't'}{start or ''}", 0, count - 1)
        base = as_index(chunk) * lanes + start if count > 1 else as_index(start)
        if lanes > 1:
            widener = _Widener(loop.var, base, lanes, allow_lanewise=not only)
            try:
                inner = widener.block(loop.body)
            except _CannotWiden as reason:
                notes.append(f"loop {loop.var.name} is not widened: {reason}")
                return [serial]
            notes.extend(f"one statement in loop {loop.var.name} runs lane by lane: {r}" for r in widener.reasons)
        else:
            inner = Rewriter({loop.var: base}).stmts(loop.body)
        # A loop of one iteration gives the registers that are allocated inside a scope of their own.
        alone = count == 1 and not any(isinstance(stmt, Alloc) for stmt in inner)
        result.extend(inner if alone else [For(chunk, count, inner)])
        start += count * lanes
    return result


def _verify_shuffles(loop: For, wide: Sequence[Stmt]) -> None:
    """A schedule that moves values between lanes means all lanes of its loop: they must be one vector.

    Raises:
        VerifyError: the loop was cut into several chunks, or not widened.
    """
    shuffled = [v for v in all_values([v for s in walk(loop.body) for v in values_of(s)]) if _is_shuffle(v)]
    if not shuffled:
        return
    made = [v for v in all_values([v for s in walk(wide) for v in values_of(s)]) if _is_shuffle(v)]
    if any(v.lanes != loop.extent for v in made if isinstance(v, Apply)):
        raise VerifyError(f"loop {loop.var.name} of {loop.extent} moves values between lanes, but is not one vector")


def _is_shuffle(value: Scalar) -> bool:
    return isinstance(value, Apply) and value.fn in SHUFFLES


@define
class _Widener:
    """Widens the body of one loop for one chunk of `lanes` iterations, the first at `base`."""

    var: IndexVar
    base: Index
    lanes: int
    allow_lanewise: bool
    reasons: list[str] = field(factory=list)
    registers: dict[Buffer, Buffer] = field(factory=dict)
    _memo: dict[int, tuple[Scalar, Scalar]] = field(factory=dict)

    def block(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        return tuple(new for stmt in body for new in self.stmt(stmt))

    def stmt(self, stmt: Stmt) -> tuple[Stmt, ...]:
        match stmt:
            case Alloc(buffer=buffer):
                if buffer.scope != "register":
                    raise _CannotWiden(f"scratch {buffer.name} inside the loop")
                wide = Buffer(buffer.name, buffer.shape, buffer.dtype, "register", self.lanes)
                self.registers[buffer] = wide
                return (Alloc(wide),)
            case For(var=var, extent=extent, body=body, kind=kind):
                return (For(var, extent, self.block(body), kind),)
            case If(cond=cond, then=then, orelse=orelse):
                test = self.uniform(cond)
                return (If(test, self.block(then), self.block(orelse)),)
            case Prefetch(index=index):
                return (evolve(stmt, index=tuple(Rewriter({self.var: self.base}).index(i) for i in index)),)
            case Store():
                self._memo.clear()
                try:
                    return (self.store(stmt),)
                except _CannotWiden as reason:
                    if not self.allow_lanewise:
                        raise
                    self.reasons.append(str(reason))
                    return self.lane_by_lane(stmt)
        raise _CannotWiden(f"a {type(stmt).__name__.lower()} inside the loop")

    def store(self, stmt: Store) -> Store:
        value = self.value(stmt.value)
        assert isinstance(value, Value)
        if stmt.buffer in self.registers:
            index = tuple(self.plain_index(i) for i in stmt.index)
            return Store(self.registers[stmt.buffer], index, splat(value, self.lanes))
        offset = stmt.buffer.offset(stmt.index)
        if self.stride(offset) != 1:
            raise _CannotWiden(f"store to {stmt.buffer.name} with stride {self.stride(offset)}")
        index = tuple(Rewriter({self.var: self.base}).index(i) for i in stmt.index)
        return Store(stmt.buffer, index, splat(value, self.lanes))

    def lane_by_lane(self, stmt: Store) -> tuple[Stmt, ...]:
        """Spill the vector registers that the statement reads, then run it once for each lane."""
        lane = IndexVar(f"{self.var.name}_lane", 0, self.lanes - 1)
        spills: list[Stmt] = []
        copies: dict[tuple[Buffer, tuple[Index, ...]], Buffer] = {}

        def from_copy(load: Load) -> Value | None:
            if load.buffer not in self.registers:
                return None
            key = (load.buffer, load.index)
            if key not in copies:
                name = f"{load.buffer.name}_spill{len(copies)}"
                copies[key] = Buffer(name, (self.lanes,), load.buffer.dtype, "thread")
                whole = Load(self.registers[load.buffer], load.index, self.lanes)
                spills.extend([Alloc(copies[key]), Store(copies[key], (as_index(0),), whole)])
            return Load(copies[key], (as_index(lane),))

        if stmt.buffer in self.registers:
            raise _CannotWiden(f"a value kept in {stmt.buffer.name} has no vector form: {self.reasons[-1]}")
        body = Rewriter({self.var: self.base + as_index(lane)}, load=from_copy).stmt(stmt)
        if not spills:
            return (For(lane, self.lanes, body),)
        # A scope of its own: the statement may be copied out, and then its arrays must not meet.
        return (For(IndexVar(f"{self.var.name}_once", 0, 0), 1, (*spills, For(lane, self.lanes, body))),)

    def stride(self, offset: Index) -> int | None:
        """How far apart in memory neighbouring lanes are; None where it is not one number."""
        if any(self.depends(v) for v in offset.values):
            return None
        coeff = offset.coeff(self.var)
        rest = offset - as_index(self.var) * coeff
        return None if rest.depends_on(self.var) else coeff

    def plain_index(self, index: Index) -> Index:
        if index.depends_on(self.var) or any(self.depends(v) for v in index.values):
            raise _CannotWiden("a register is chosen by the lane")
        return index

    def depends(self, value: Scalar) -> bool:
        """Whether a value differs between lanes."""
        for node in all_values([value]):
            if isinstance(node, Index) and node.depends_on(self.var):
                return True
            if isinstance(node, Load) and node.buffer in self.registers:
                return True
        return False

    def uniform(self, value: Value) -> Value:
        if self.depends(value):
            raise _CannotWiden("a condition differs between lanes")
        return value

    def value(self, value: Scalar) -> Scalar:
        for node in all_values([value]):
            if id(node) not in self._memo and not (isinstance(node, Index)):
                self._memo[id(node)] = (node, self.widen(node))
        return self._memo[id(value)][1]

    def widen(self, node: Value) -> Value:
        """The vector form of a node, or the node itself where all lanes agree."""
        match node:
            case Load(buffer=buffer, index=index):
                return self.load(node, buffer, index)
            case Apply(args=args):
                if any(isinstance(a, Index) for a in args):
                    return self.counters(node) if any(self.depends(a) for a in args) else node
                parts = [self._memo[id(a)][1] for a in args]
                if all(p.lanes == 1 for p in parts):
                    return node
                return self.wide_apply(node, [p for p in parts if isinstance(p, Value)])
        return node

    def counters(self, node: Apply) -> Value:
        """A function of loop counters whose value differs between lanes."""
        a = node.args[0]
        if node.fn == "cast":
            assert isinstance(a, Index)
            return self.counted(a, node.dtype)
        if len(node.args) != 2 or node.dtype != "bool":
            raise _CannotWiden(f"{node.fn} of the loop counter")
        b = node.args[1]
        assert isinstance(a, Index) and isinstance(b, Index)
        return Apply(node.fn, (self.counted(a - b, "int32"), Const(0, "int32", self.lanes)), "bool", self.lanes)

    def counted(self, index: Index, dtype: str) -> Value:
        """An index as a number in every lane."""
        stride, (lo, hi) = self.stride(index), index.bounds
        if stride is None or max(-lo, hi) >= 1 << 31 or dtype not in ("int32", "int64", "float32", "float64"):
            raise _CannotWiden("a loop counter as a number")
        whole = dtype if dtype.startswith("int") else "int32"
        steps: Value = Apply("iota", (), whole, self.lanes)
        if stride != 1:
            steps = apply("mul", steps, Const(stride, whole, self.lanes))
        start = Rewriter({self.var: self.base}).index(index)
        total = apply("add", splat(cast(start, whole), self.lanes), steps)
        return total if whole == dtype else Apply("cast", (total,), dtype, self.lanes)

    def load(self, node: Load, buffer: Buffer, index: tuple[Index, ...]) -> Value:
        if buffer in self.registers:
            return Load(self.registers[buffer], tuple(self.plain_index(i) for i in index), self.lanes)
        offset = buffer.offset(index)
        stride = self.stride(offset)
        if stride == 0:
            return node
        if stride not in (1, 2, -1) or (stride == 2 and self.lanes < 4):
            raise _CannotWiden(f"load of {buffer.name} with stride {stride if stride else 'unknown'}")
        if stride != 1 and buffer.dtype in (*SMALL_FLOATS, "bool"):
            raise _CannotWiden(f"load of {buffer.dtype}")
        place = tuple(Rewriter({self.var: self.base}).index(i) for i in index)

        def further(by: int) -> Load:
            return Load(buffer, (*place[:-1], place[-1] + by), self.lanes)

        if stride == 1:
            return further(0)
        if stride == -1:
            back = further(1 - self.lanes)
            return Apply("reverse", (back, back), buffer.dtype, self.lanes)
        # The second vector begins one element early, so that no element behind the last one is read.
        return Apply("every2", (further(0), further(self.lanes - 1)), buffer.dtype, self.lanes)

    def wide_apply(self, node: Apply, parts: list[Value]) -> Value:
        if node.fn == "cast":
            ends = {node.dtype, parts[0].dtype}
            if not ends.isdisjoint(SMALL_FLOATS) and "float32" not in ends:  # by way of float32 it would round twice
                raise _CannotWiden(f"conversion of {parts[0].dtype} to {node.dtype}")
        if node.fn == "select":
            unsafe = [v for v in all_values(list(node.args)) if isinstance(v, Load) and not proven_inside(v)]
            if unsafe and parts[0].lanes > 1:
                raise _CannotWiden(f"guarded load of {unsafe[0].buffer.name}")
            if unsafe:  # all lanes agree on the guard, which stays a branch
                return Apply("select", (parts[0], *(splat(p, self.lanes) for p in parts[1:])), node.dtype, self.lanes)
        wide = [splat(p, self.lanes) for p in parts]
        return Apply(node.fn, tuple(wide), node.dtype, self.lanes)
