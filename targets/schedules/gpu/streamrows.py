"""Reductions along rows in one pass over memory: a row stays in the registers of the items that share it.

    each item    some vectors of the row, read once, kept in registers
    stages       what the items have, put together by exchanges (exchange.py)
    results      from what was kept: softmax, layer norm and the like read and write every element once

Short rows are shared by part of a warp, several of them in a group. Rows that do not fit into registers are read once
for each stage, and softmax goes through them twice: the maximum and the sum of exponentials are found together.
"""

from collections.abc import Callable, Iterator, Sequence

from attrs import define, evolve, field, frozen

from ....ir.index import Index, IndexVar, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Apply, Buffer, Load, Scalar, Value, apply
from ...lower import Problem
from ...rewrite import Rewriter
from ..reduction import Form, Numbers, kept_stages, of_the_row, runs_along, with_known
from ..rows import JOIN, START, extents_of, size_of
from ..space import Config
from ..tiles import Packed
from .exchange import Merge, Team, joined, online, parts_for, put_together, shifted
from .items import LANES, guarded, local_sizes, split
from .reductions import cost, known_reduction, reduction_of

KEPT = 32
"""Elements of a row that an item keeps, at most."""

SHORTEST = 8
"""Elements of a row from which on it is worth several items."""

GROUP = 128
"""Items in a group where rows need fewer."""


def check(problem: Problem) -> str | None:
    """Why rows cannot be shared by items, or None."""
    form = reduction_of(problem)
    if isinstance(form, str):
        return form
    size = size_of(form.inner)
    return None if size >= SHORTEST else f"a row has {size} elements; it takes {SHORTEST}"


def vectors(form: Form) -> int:
    """Elements of an item side by side: 4 where the elements of a row lie so."""
    last = form.inner[-1]
    return LANES if (last.hi + 1) % LANES == 0 and runs_along(form, last) else 1


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: items that share a row, and rows in a group."""
    form = known_reduction(problem)
    units, most = size_of(form.inner) // vectors(form), local_sizes(problem)[-1]
    sizes = [1 << k for k in range(2, most.bit_length()) if 1 << k <= most]
    best = next((size for size in sizes if size * 2 >= units), most)
    if units > best * KEPT // vectors(form):
        best = most
    for items in (best, *(size for size in sizes if size != best and units >= size // 2 and size * 64 >= units)):
        yield {"items": items, "rows": max(min(GROUP, most) // items, 1)}


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    form = known_reduction(problem)
    items = config["items"]
    share = -(-size_of(form.inner) // items)
    passes = 1 if share <= KEPT else len(form.elements) - (1 if is_softmax(form) else 0)
    exchanges = len(form.elements) * items.bit_length() * (2.0 if exchanges_well(problem) else 8.0)
    groups, items = -(-size_of(form.rows) // config["rows"]), items * config["rows"]
    return cost(form, groups, items, share, form.inner[-1], passes, exchanges)


def exchanges_well(problem: Problem) -> bool:
    """Whether items exchange values without memory."""
    return problem.isa.device is not None and problem.isa.device.exchange


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """A few rows for each group."""
    b, form = Builder(), known_reduction(problem)
    write_rows(b, form, config["rows"], config["items"])
    return problem.kernel(b), {}


def write_rows(b: Builder, form: Form, lines: int, items: int) -> None:
    """All rows of a reduction, `lines` of them in a group, each shared by `items`."""
    total = size_of(form.rows)
    with b.loop("group", -(-total // lines), "workgroup") as group:
        parts = [parts_for(b, f"part{k}", [e.dtype], lines, items) for k, e in enumerate(form.elements)]
        with b.loops(("line", "item"), (lines, items), "workitem") as (line, item):
            row = group * lines + line
            team = Team(line, lines, item, items)
            # Beyond the last row there is any other one, for the items of a group go together.
            inside = row % total if total % lines else row
            extents = extents_of(form.rows)
            here = Where(split(inside, extents), split(row, extents), apply("lt", row, total), item, items)
            RowWriter(
                b, form, here, vectors(form), parts, lambda own, part, merge: put_together(b, team, own, part, merge)
            ).write()


def is_softmax(form: Form) -> bool:
    """Whether the first two stages are a maximum and the sum of exponentials relative to it."""
    if len(form.elements) < 2 or form.combines[0] not in ("max", "top") or form.combines[1] != "sum":
        return False
    first, second = form.elements[:2]
    if not isinstance(second, Apply) or second.fn != "exp" or first.dtype != second.dtype:
        return False
    (inside,) = second.args
    numbers = Numbers.start()
    return (
        isinstance(inside, Apply)
        and inside.fn == "sub"
        and inside.args[1] is form.results[0]
        and isinstance(inside.args[0], Value)
        and numbers.number(inside.args[0]) == numbers.number(first)
    )


@frozen(eq=False)
class _Kept:
    """The elements of a stage in registers, and the placeholder that stands for one of them in expressions."""

    values: Buffer
    placeholder: Load


@frozen(eq=False)
class Where:
    """The row of an item, and its share of it.

    Attributes:
        inside: the index of a row that there is, for reading.
        row: that of the item's own row.
        valid: whether there is such a row.
        item, items: its number among those that share the row.
    """

    inside: Sequence[Index]
    row: Sequence[Index]
    valid: Value
    item: Index
    items: int


@define(eq=False)
class RowWriter:
    """Writes the stages and the results of one row; `together` merges what the items that share it have."""

    b: Builder
    form: Form
    where: Where
    lanes: int
    parts: list[list[Buffer]]
    together: Callable[[Sequence[Buffer], Sequence[Buffer], Merge], None]
    kept: list[_Kept] = field(factory=list)

    @property
    def units(self) -> int:
        """Vectors of a row."""
        return size_of(self.form.inner) // self.lanes

    @property
    def in_registers(self) -> bool:
        """Whether an item can keep its share."""
        return -(-self.units // self.where.items) * self.lanes <= KEPT

    def write(self) -> None:
        """All stages, then the results."""
        keep = kept_stages(self.form, far=True) if self.in_registers else []
        k = 0
        if not self.in_registers and is_softmax(self.form):
            self.two_stages()
            k = 2
        for stage in range(k, len(self.form.elements)):
            self.stage(stage, stage in keep)
        self.results()

    # Where

    def bound(self, expression: Value, place: Sequence[Index], at: tuple[Index, Index], store: bool = False) -> Value:
        """An expression at a place of the row; `at` is where kept elements lie."""
        new = self._rewriter(self.form.inner, place, at, store).value(expression)
        assert isinstance(new, Value)
        return new

    def _rewriter(
        self, axes: Sequence[IndexVar], place: Sequence[Index], at: tuple[Index, Index] | None, store: bool
    ) -> Rewriter:
        row = self.where.row if store else self.where.inside
        bind = dict(zip((*self.form.rows, *axes), (*row, *place), strict=True))
        known: dict[int, Scalar] = {}
        if at is not None:
            known = {id(kept.placeholder): self.b.load(kept.values, at) for kept in self.kept}
        return Rewriter(bind, known=known)

    def place(self, unit: Index, lane: Index) -> list[Index]:
        """The place in a row of a lane of a vector."""
        *outer, last = extents_of(self.form.inner)
        *index, end = split(unit, [*outer, last // self.lanes])
        return [*index, end * self.lanes + lane]

    def each_unit(self, action: Callable[[Index, Index], None]) -> None:
        """`action(number, vector)` for the vectors of an item: copied out where they are kept, else in a loop."""
        b, items = self.b, self.where.items
        whole, rest = divmod(self.units, items)
        if self.in_registers:
            with b.loop("round", whole + bool(rest), "unrolled") as round_:
                unit = round_ * items + self.where.item
                with guarded(b, apply("lt", unit, self.units)):
                    action(round_, unit)
            return
        with b.loop("round", whole, "rolled") as round_:
            action(as_index(0), round_ * items + self.where.item)
        if rest:
            with b.when(apply("lt", self.where.item, rest)):
                action(as_index(0), self.where.item + whole * items)

    # Stages

    def stage(self, k: int, keep: bool) -> None:
        """One stage."""
        b, element, fn = self.b, self.form.elements[k], JOIN[self.form.combines[k]]
        acc = b.alloc("acc", (1,), element.dtype)
        b.store(acc, (0,), START[self.form.combines[k]](element.dtype))
        rounds = -(-self.units // self.where.items)
        held = b.alloc(f"kept{k}", (rounds, self.lanes), element.dtype, "thread") if keep else None

        terms = held
        if terms is None and self.lanes > 1:
            terms = b.alloc("terms", (1, self.lanes), element.dtype, "thread")

        def add(number: Index, unit: Index) -> None:
            for value in self.terms(k, number, unit, terms):
                b.store(acc, (0,), apply(fn, b.load(acc, (0,)), value))

        self.each_unit(add)
        self.together([acc], self.parts[k], joined(b, acc, fn))
        self.form = self.form.rebuilt(Rewriter({}, known={id(self.form.results[k]): b.load(acc, (0,))}))
        if held is not None:
            axes = self.form.inner
            stand_in = Load(Buffer(f"held{k}", tuple(extents_of(axes)), element.dtype), tuple(map(as_index, axes)))
            finals = self.form.finals
            self.form = with_known(self.form, {k: stand_in}, k)
            if not self.form.spread:
                self.form = evolve(self.form, finals=finals)
            self.kept.append(_Kept(held, stand_in))

    def terms(self, k: int, number: Index, unit: Index, values: Buffer | None) -> Iterator[Value]:
        """The elements of a vector, by way of an array of the item if there is one."""
        b, element = self.b, self.form.elements[k]
        if values is None:
            yield self.bound(element, self.place(unit, as_index(0)), (number, as_index(0)))
            return
        first = number if values.shape[0] > 1 else as_index(0)
        with b.loop("v", self.lanes, "vectorised") as v:
            b.store(values, (first, v), self.bound(element, self.place(unit, v), (number, v)))
        for lane in range(self.lanes):
            yield b.load(values, (first, lane))

    def two_stages(self) -> None:
        """The maximum and the sum of exponentials in one pass."""
        b, element = self.b, self.form.elements[0]
        top, total = b.alloc("top", (1,), element.dtype), b.alloc("total", (1,), element.dtype)
        b.store(top, (0,), START["max"](element.dtype))
        b.store(total, (0,), 0)
        terms = b.alloc("terms", (1, self.lanes), element.dtype, "thread")

        def add(number: Index, unit: Index) -> None:
            values = list(self.terms(0, number, unit, terms))
            best = b.alloc("best", (1,), element.dtype)
            b.store(best, (0,), b.load(top, (0,)))
            for value in values:
                b.store(best, (0,), apply("max_else", b.load(best, (0,)), value))
            b.store(total, (0,), b.load(total, (0,)) * shifted(b.load(top, (0,)), b.load(best, (0,))))
            for value in values:
                b.store(total, (0,), b.load(total, (0,)) + shifted(value, b.load(best, (0,))))
            b.store(top, (0,), b.load(best, (0,)))

        self.each_unit(add)
        self.together([top, total], [p for parts in self.parts[:2] for p in parts], online(b, top, total))
        known = {id(r): b.load(x, (0,)) for r, x in zip(self.form.results[:2], (top, total), strict=True)}
        self.form = self.form.rebuilt(Rewriter({}, known=known))

    # Results

    def results(self) -> None:
        """The stores of a row."""
        b = self.b
        for value in of_the_row(self.form):
            own = b.alloc("own", (1,), value.dtype)
            new = self._rewriter((), (), None, False).value(value)
            assert isinstance(new, Value)
            b.store(own, (0,), new)
            self.form = self.form.rebuilt(Rewriter({}, known={id(value): Load(own, (as_index(0),))}))
        with guarded(b, self.where.valid):
            if self.form.spread:
                self.each_unit(self.spread)
            elif self.form.beside:
                self.beside()
            else:
                with b.when(apply("eq", self.where.item, 0)):
                    self.store((), (), None)

    def store(self, axes: Sequence[IndexVar], place: Sequence[Index], at: tuple[Index, Index] | None) -> None:
        """The stores of one place."""
        for buffer, index, value in self.form.finals:
            rewriter = self._rewriter(axes, place, at, True)
            new = rewriter.value(value)
            assert isinstance(new, Value)
            self.b.store(buffer, [rewriter.index(i) for i in index], new)

    def spread(self, number: Index, unit: Index) -> None:
        """The results of one vector."""
        for k in range(len(self.form.finals)):
            with self.b.loop("v", self.lanes, "vectorised") as v:
                one = evolve(self.form, finals=(self.form.finals[k],))
                whole, self.form = self.form, one
                self.store(one.inner, self.place(unit, v), (number, v))
                self.form = whole

    def beside(self) -> None:
        """Results that run over axes of their own."""
        axes, items = self.form.beside, self.where.items
        total = size_of(axes)
        with self.b.loop("round", -(-total // items), "rolled") as round_:
            flat = round_ * items + self.where.item
            with guarded(self.b, apply("lt", flat, total)):
                self.store(axes, split(flat, extents_of(axes)), None)
