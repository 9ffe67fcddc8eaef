"""Matrix products with few rows (M <= 8): vectors times matrices, as a language model's step has them.

    right-hand matrix along its terms (dense):     a team of items for a few columns; neighbours have vectors of terms
    right-hand matrix along its columns (matmul):  4 or 8 items have vectors of neighbouring columns, and as many teams,
                                                   which share the terms, stand between each other
    both: sums of an item's share of the terms; exchanges (exchange.py); the first item of a team hands them over

Every element of the right-hand matrix is read once, in whole lines of memory, and serves all rows. 1x1 convolutions of
few pixels are such products, too.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

from attrs import evolve, frozen

from ....ir.index import Index, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Const, Value, apply, constant
from ...lower import Problem
from ...prelude import width
from ..space import Config
from ..tiles import Packed, added
from .exchange import Team, parts_for, put_together, summed
from .gemm_routes import Route
from .items import LANES, guarded, local_sizes, split
from .product import Product
from .reductions import BARRIER, WAIT
from .roofline import Work, time

FEW_ROWS = 8
"""Rows of a product, at most."""

SHORTEST = 32
"""Terms from which on it is worth to share a sum."""

SIDES = (8, 4)
"""Items that have neighbouring columns: their vectors are a line of memory, or half of one."""

ITEMS = (4, 8, 16, 32, 64, 128, 256)
"""Items that share a sum."""

COLUMNS = (1, 2, 4)
"""Columns of a team, where terms lie side by side in memory."""

SUMS = 16
"""Sums of an item, at most, where it has several columns."""

GROUP = 128
"""Items in a group where teams need fewer."""


def few_rows(p: Product) -> Product:
    """The product, or where it has few columns, and no few rows, the transposed one."""
    if p.m <= FEW_ROWS or p.n > FEW_ROWS:
        return p
    return evolve(
        p,
        m=p.n,
        n=p.m,
        left=lambda batch, i, k: p.right(batch, k, i),
        right=lambda batch, k, j: p.left(batch, j, k),
        emit=lambda b, batch, i, j, value: p.emit(b, batch, j, i, value),
        across=not p.down,
        down=not p.across,
    )


@frozen
class Plan:
    """How the items of a group share the work.

    Attributes:
        items: items of a team.
        columns: columns of an item: of several teams, or lanes.
        teams: teams of a group that stand one behind the other.
        apart: teams that stand between each other.
        lanes: elements of a vector.
        across: whether lanes are terms, else columns.
    """

    items: int
    columns: int
    teams: int
    apart: int
    lanes: int
    across: bool

    @staticmethod
    def of(p: Product, config: Config) -> "Plan":
        """The plan of a config."""
        lanes = LANES if (p.k if p.across else p.n) % LANES == 0 else 1
        apart = config["apart"]
        return Plan(config["items"], config["columns"] if p.across else lanes, config["teams"], apart, lanes, p.across)

    def units(self, p: Product) -> int:
        """Steps of a sum that items share: vectors of terms, or terms."""
        return p.k // self.lanes if self.across else p.k

    def blocks(self, p: Product) -> int:
        """Columns by teams: those that stand between each other go together."""
        return -(-p.n // (self.columns * self.apart))

    def groups(self, p: Product) -> int:
        """Work-groups."""
        return -(-p.batch * self.blocks(p) // self.teams)

    @property
    def size(self) -> int:
        """Items of a group."""
        return self.teams * self.items * self.apart


def _found(problem: Problem, route: Route) -> Product | str:
    found = route(problem)
    return found if isinstance(found, str) else few_rows(found[0])


def _known(problem: Problem, route: Route) -> Product:
    found = _found(problem, route)
    assert isinstance(found, Product)
    return found


def check(route: Route) -> Callable[[Problem], str | None]:
    """Why a product is not one of few rows, or None."""

    def reason(problem: Problem) -> str | None:
        p = _found(problem, route)
        if isinstance(p, str):
            return p
        if p.m > FEW_ROWS or p.k < SHORTEST:
            return f"{p.m} rows, {p.k} terms; it takes {FEW_ROWS} rows at most and {SHORTEST} terms"
        return None if next(_every(problem, p), None) else "the device has no groups of 32 items"

    return reason


def _every(problem: Problem, p: Product) -> Iterator[Config]:
    most = local_sizes(problem)[-1]
    choices = product(ITEMS, COLUMNS, (1,)) if p.across else product(ITEMS, (1,), SIDES)
    for items, columns, apart in choices:
        config = {"items": items, "columns": columns, "apart": apart, "teams": 1}
        plan = Plan.of(p, config)
        if plan.size > most or columns * p.m > max(SUMS, p.m) or columns > p.n or 2 * items > max(plan.units(p), 8):
            continue
        if plan.apart > 1 and items > (32 // plan.apart) ** 2:  # what goes through local memory is exchanged in a warp
            continue
        teams = max(1, min(GROUP, most) // plan.size)
        if plan.size * teams >= min(32, most):
            yield {**config, "teams": teams}


def configs(route: Route) -> Callable[[Problem], Iterator[Config]]:
    """The candidate space, the cheapest by prediction first, of equals a warp to a column."""

    def every(problem: Problem) -> Iterator[Config]:
        p = _known(problem, route)
        yield from sorted(_every(problem, p), key=lambda c: (cost(p, c), abs(c["items"].bit_length() - 6)))

    return every


def predict(route: Route) -> Callable[[Problem, Config], float]:
    """The cost in vector operations."""
    return lambda problem, config: cost(_known(problem, route), config)


def cost(p: Product, config: Config) -> float:
    """The cost in vector operations."""
    plan = Plan.of(p, config)
    share = -(-plan.units(p) // plan.items)
    vectors = plan.columns if plan.across else 1
    sums = p.m * plan.columns
    size, groups = width(p.dtype), plan.groups(p)
    right, left, out = p.n * p.k, p.m * p.k, p.m * p.n
    behind = BARRIER + 3 * sums if plan.items * plan.apart > 32 else 0.0
    return time(
        Work(
            groups,
            plan.size,
            sums=share * p.m * vectors * plan.lanes / LANES,
            reads=share * plan.lanes * (vectors + (p.m if plan.across else 0.25 * p.m)),
            other=2.0 * sums * math.log2(plan.items) + behind + WAIT,
            registers=32 + 2 * sums * plan.lanes + plan.lanes * (vectors + p.m),
            near_bytes=size * (p.batch * (right + out) + groups * left),
            far_bytes=size * p.batch * (right + left + out),
        )
    )


def schedule(route: Route) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops of a product with few rows."""

    def kernel(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        b, p = Builder(), _known(problem, route)
        _Writer(b, p, Plan.of(p, config)).write()
        return problem.kernel(b), {}

    return kernel


@frozen(eq=False)
class _Writer:
    b: Builder
    p: Product
    plan: Plan

    def write(self) -> None:
        """One nest of groups."""
        b, p, plan = self.b, self.p, self.plan
        places = (p.batch, plan.blocks(p))
        total, lines = math.prod(places), plan.teams * plan.apart
        with b.loop("group", plan.groups(p), "workgroup") as group:
            sums = range(p.m * plan.columns)
            parts = [parts_for(b, f"part{k}", [p.dtype], lines, plan.items, plan.apart) for k in sums]
            loops = b.loops(("line", "item", "side"), (plan.teams, plan.items, plan.apart), "workitem")
            with loops as (line, item, side):
                row = group * plan.teams + line
                # Beyond the last team's columns there are any other ones, for the items of a group go together.
                inside = row % total if total % plan.teams else row
                values = self.sums(split(inside, places), item, side)
                own = [b.alloc("own", (1,), p.dtype) for _ in sums]
                for number, value in zip(own, values, strict=True):
                    b.store(number, (0,), value)
                team = Team(line * plan.apart + side, lines, item, plan.items, plan.apart)
                put_together(b, team, own, [part for some in parts for part in some], summed(b, own))
                with guarded(b, apply("lt", row, total)), b.when(apply("eq", item, 0)):
                    self.hand_over(split(row, places), side, own)

    def column(self, block: Index, side: Index) -> Index:
        """The first column of an item."""
        return (block * self.plan.apart + side) * self.plan.columns

    def sums(self, at: list[Index], item: Index, side: Index) -> list[Value]:
        """The sums of an item's share of the terms: all columns of the first row, then of the next."""
        b, p, plan, (batch, block) = self.b, self.p, self.plan, at
        first = self.column(block, side)
        if p.n % (plan.columns * plan.apart) and not plan.across:
            first = first % p.n  # of whole vectors
        count = p.m * (plan.columns if plan.across else 1)
        held = b.alloc("held", (count, plan.lanes), p.dtype, "thread")
        with b.loop("v", plan.lanes, "vectorised") as v:
            acc = b.alloc("acc", (count,), p.dtype)
            for number in range(count):
                b.store(acc, (number,), constant(0, p.dtype))
            whole, rest = divmod(plan.units(p), plan.items)
            if whole:
                with b.loop("round", whole) as round_:
                    self.add(acc, (batch, first, round_ * plan.items + item), v)
            if rest:
                with b.when(apply("lt", item, rest)):
                    self.add(acc, (batch, first, item + whole * plan.items), v)
            for number in range(count):
                b.store(held, (number, v), b.load(acc, (number,)))
        if not plan.across:
            return [b.load(held, split(as_index(n), held.shape)) for n in range(count * plan.lanes)]
        return [self.total(held, number) for number in range(count)]

    def total(self, held: Buffer, number: int) -> Value:
        """The lanes of a sum, added."""
        terms = [self.b.load(held, (number, lane)) for lane in range(self.plan.lanes)]
        return sum(terms[1:], start=terms[0])

    def add(self, acc: Buffer, at: tuple[Index, Index, Index], v: Index) -> None:
        """One step of the sums."""
        b, p, plan, (batch, first, unit) = self.b, self.p, self.plan, at
        if not plan.across:
            weight = p.right(batch, unit, first + v)
            for i in range(p.m):
                b.store(acc, (i,), added(weight, p.left(batch, as_index(i), unit), b.load(acc, (i,))))
            return
        k = unit * plan.lanes + v
        whole = p.n % plan.columns == 0
        weights = [p.right(batch, k, first + c if whole else (first + c) % p.n) for c in range(plan.columns)]
        for i in range(p.m):
            value = p.left(batch, as_index(i), k)
            for c, weight in enumerate(weights):
                place = (i * plan.columns + c,)
                b.store(acc, place, added(weight, value, b.load(acc, place)))

    def hand_over(self, at: list[Index], side: Index, own: list[Buffer]) -> None:
        """The results of a team, neighbouring columns as vectors where all are of the result."""
        b, p, plan, (batch, block) = self.b, self.p, self.plan, at
        first = self.column(block, side)
        tile = b.alloc("tile", (p.m, plan.columns), p.dtype, "thread")
        for number, value in enumerate(own):
            b.store(tile, split(as_index(number), tile.shape), b.load(value, (0,)))
        whole = p.n % plan.columns == 0
        within = Const(True, "bool") if p.n % (plan.columns * plan.apart) == 0 else apply("lt", first, p.n)
        lanes = b.loop("c", plan.columns, "vectorised" if whole else "short")
        with guarded(b, within), b.loop("i", p.m, "short") as i, lanes as c:
            inside = Const(True, "bool") if whole else apply("lt", first + c, p.n)
            with guarded(b, inside):
                p.emit(b, batch, i, first + c, b.load(tile, (i, c)))
