"""Kernels written for work-groups: their form, and why no two of their work-items get into each other's way.

    for gx in 0..5: workgroup          groups: they run in any order, and know nothing of each other
      local tile[16, 16]               what the items of one group share
      for lx in 0..15: workitem        items: a group's run side by side
        ...                            statements of one item, with local barriers among them

Loops of groups stand in each other, so do loops of items; there may be several of these nests in a kernel, one behind
the other. Local barriers stand where all items of a group come, or none.

`check_races` proves that no place is written by one item while another one reads or writes it. Between two barriers,
two accesses of a buffer are harmless if their places differ for all items, or if the same place means the same item:
if the index is injective. An index that merely depends on the number of an item is not (two items meet at `l // 8`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from attrs import define, evolve, field, frozen

from ..ir.errors import VerifyError
from ..ir.index import Atom, FloorDiv, Index, IndexVar, Mod, as_index, rebuild, substitute
from ..ir.loops import Alloc, Barrier, For, If, Kernel, Stmt, Store
from ..ir.scalar import EXCHANGES, Apply, Buffer, Load, Value
from .rewrite import all_values, values_of, walk


@frozen(eq=False)
class GroupNest:
    """A nest of loops over work-groups and work-items.

    Attributes:
        groups, items: the loops, outer ones first.
        local: what the items of a group share.
        body: the statements of one item.
    """

    groups: tuple[For, ...]
    items: tuple[For, ...]
    local: tuple[Buffer, ...]
    body: tuple[Stmt, ...]

    @property
    def count(self) -> int:
        """How many groups there are."""
        return math.prod(loop.extent for loop in self.groups)

    @property
    def size(self) -> int:
        """How many items a group has."""
        return math.prod(loop.extent for loop in self.items)


def group_nest(loop: For) -> GroupNest:
    """The nest that a loop of kind "workgroup" begins.

    Raises:
        VerifyError: it has another form.
    """
    loops: dict[str, list[For]] = {"workgroup": [], "workitem": []}
    local: list[Buffer] = []
    body: tuple[Stmt, ...] = (loop,)
    while len(body) == 1 and isinstance(body[0], For) and body[0].kind in loops:
        if body[0].kind == "workgroup" and loops["workitem"]:
            raise VerifyError("a loop of work-groups stands inside one of work-items")
        loops[body[0].kind].append(body[0])
        body = body[0].body
        while not loops["workitem"] and body and isinstance(body[0], Alloc) and body[0].buffer.scope == "local":
            local.append(body[0].buffer)
            body = body[1:]
    if not loops["workitem"]:
        raise VerifyError("work-groups without work-items: beside local arrays there must be one loop of work-items")
    if any(isinstance(s, For) and s.kind in (*loops, "parallel", "lockstep") for s in walk(body)):
        raise VerifyError("a loop over threads or work-items stands between statements of a work-item")
    return GroupNest(tuple(loops["workgroup"]), tuple(loops["workitem"]), tuple(local), body)


def nests(body: Sequence[Stmt]) -> Iterator[For]:
    """The outermost loops of kind "workgroup"."""
    for stmt in body:
        if isinstance(stmt, For):
            yield from [stmt] if stmt.kind == "workgroup" else nests(stmt.body)


def has_barrier(body: Sequence[Stmt]) -> bool:
    """Whether there is a barrier of a work-group."""
    return any(isinstance(stmt, Barrier) and stmt.scope == "local" for stmt in walk(body))


def has_exchange(body: Sequence[Stmt]) -> bool:
    """Whether work-items exchange values, for which they must come together as to a barrier."""
    values = all_values([v for stmt in walk(body) for v in values_of(stmt)])
    return any(isinstance(v, Apply) and v.fn in EXCHANGES for v in values)


def uniform(cond: Value, items: Iterable[IndexVar]) -> bool:
    """Whether a condition is surely the same for all items of a group."""
    of_items = set(items)
    nodes = all_values([cond])
    return not any(isinstance(n, Load) or (isinstance(n, Index) and (n.variables & of_items)) for n in nodes)


# Races


def check_races(kernel: Kernel) -> None:
    """Check the nests of a kernel whose loops are as its schedule wrote them.

    Raises:
        VerifyError: it cannot be proven that two work-items do not meet.
    """
    for loop in nests(kernel.body):
        nest = group_nest(loop)
        items = frozenset(item.var for item in nest.items)
        groups = frozenset(group.var for group in nest.groups)
        try:
            _Watch(frozenset({"local"}), items).run(nest.body)
            _Watch(frozenset({"team", "param"}), items | groups).run(nest.body)
        except VerifyError as error:
            raise VerifyError(f"kernel {kernel.name}: {error}") from None


@frozen(eq=False)
class _Access:
    """A place that is read or written, with what differs between items at that time.

    Attributes:
        items: the variables by which items are told apart.
        free: other variables that need not be the same for two items.
        same: what is known to be the same number for all items that come here.
        below: sums that a condition bounds, each with a variable of these bounds that stands for it.
    """

    buffer: Buffer
    index: tuple[Index, ...]
    write: bool
    items: frozenset[IndexVar]
    free: frozenset[IndexVar]
    same: tuple[Index, ...]
    below: tuple[tuple[Index, IndexVar], ...]


@frozen(eq=False)
class _Context:
    items: frozenset[IndexVar]
    free: frozenset[IndexVar] = frozenset()
    bind: dict[IndexVar, Index] = field(factory=dict)
    same: tuple[Index, ...] = ()
    below: tuple[tuple[Index, IndexVar], ...] = ()


@define
class _Watch:
    """Collects the accesses between two barriers."""

    scopes: frozenset[str]
    items: frozenset[IndexVar]
    region: list[_Access] = field(factory=list)
    written: set[Buffer] = field(factory=set)

    def run(self, body: Sequence[Stmt]) -> None:
        self.written = {s.buffer for s in walk(body) if isinstance(s, Store) and s.buffer.scope in self.scopes}
        self.block(body, _Context(self.items))
        self.close()

    def block(self, body: Sequence[Stmt], at: _Context) -> None:
        for stmt in body:
            self.accesses(stmt, at)
            match stmt:
                case For(var=var, body=inner, extent=extent):
                    # The end of an iteration meets the start of the next one, which every item is at if all wait.
                    again = has_barrier(inner) and "local" in self.scopes
                    for _ in range(min(extent, 2) if again else 1):
                        own = IndexVar(var.name, var.lo, var.hi)
                        free = at.free if again else at.free | {own}
                        self.block(inner, evolve(at, free=free, bind={**at.bind, var: as_index(own)}))
                case If(cond=cond, then=then, orelse=orelse):
                    self.block(then, _narrowed(cond, at))
                    self.block(orelse, at)
                case Barrier(scope="local") if "local" in self.scopes:
                    self.close()

    def accesses(self, stmt: Stmt, at: _Context) -> None:
        places = [(v.buffer, v.index, False) for v in all_values(list(values_of(stmt))) if isinstance(v, Load)]
        if isinstance(stmt, Store):
            places.append((stmt.buffer, stmt.index, True))
        for buffer, index, write in places:
            if buffer in self.written:
                bound = tuple(substitute(i, at.bind) for i in index)
                self.region.append(_Access(buffer, bound, write, at.items, at.free, at.same, at.below))

    def close(self) -> None:
        for k, one in enumerate(self.region):
            for other in self.region[k:]:
                if one.buffer is other.buffer and (one.write or other.write) and not _harmless(one, other):
                    where = " and ".join(dict.fromkeys(str(list(a.index)) for a in (one, other)))
                    raise VerifyError(
                        f"work-items may meet in {one.buffer.name} at {where} without a barrier between them"
                    )
        self.region.clear()


def _narrowed(cond: Value, at: _Context) -> _Context:
    """What a condition says: an index that is one number, or a smaller range of a variable."""
    if not isinstance(cond, Apply):
        return at
    if cond.fn == "and":
        for part in cond.args:
            at = _narrowed(part, at) if isinstance(part, Value) else at
        return at
    a, b = cond.args if len(cond.args) == 2 else (None, None)
    if not isinstance(a, Index) or not isinstance(b, Index):
        return at
    difference = substitute(a - b, at.bind)
    if cond.fn == "eq":
        return evolve(at, same=(*at.same, difference))
    if cond.fn != "lt":
        return at
    if len(difference.terms) > 1 or not all(isinstance(atom, IndexVar) for atom, _ in difference.terms):
        total = difference - difference.const
        stand_in = IndexVar("below", total.bounds[0], -difference.const - 1)
        return evolve(at, below=(*at.below, (total, stand_in)))
    return _smaller(difference, at)


def _smaller(difference: Index, at: _Context) -> _Context:
    """The same where `difference`, a variable less a number, is below 0: another variable stands for it."""
    var = next(iter(difference.variables)) if len(difference.variables) == 1 else None
    if var is None or var not in at.items | at.free or difference != as_index(var) + difference.const:
        return at
    own = IndexVar(var.name, var.lo, min(var.hi, -difference.const - 1))
    new = {var: as_index(own)}
    bind = {**{v: substitute(i, new) for v, i in at.bind.items()}, **new}
    items = at.items - {var} | {own} if var in at.items else at.items
    free = at.free - {var} | {own} if var in at.free else at.free
    below = tuple((substitute(total, new), v) for total, v in at.below)
    return _Context(items, free, bind, tuple(substitute(i, new) for i in at.same), below)


def _harmless(one: _Access, other: _Access) -> bool:
    if one.index == other.index and one.items == other.items and _injective(one):
        return True
    return one is not other and _apart(one, other)


def _apart(one: _Access, other: _Access) -> bool:
    """Whether two accesses never mean one place, whichever items make them."""
    fresh = {v: as_index(IndexVar(v.name, v.lo, v.hi)) for v in other.items | other.free}
    for a, b in zip(one.index, other.index, strict=True):
        difference = a - substitute(b, fresh)
        lo, hi = difference.bounds
        step = math.gcd(*(c for _, c in difference.terms))
        if lo > 0 or hi < 0 or (step and difference.const % step):
            return True
    return False


def _injective(access: _Access) -> bool:
    """Whether equal places mean equal items.

    Each axis of the index is a sum of multiples of atoms (variables, quotients, remainders). Two items with equal sums
    have equal atoms if the sum is a number in mixed radix: each coefficient exceeds what all smaller terms can make up.
    A remainder and a quotient that are known give what was divided, which is one more sum. A part of a sum that a
    condition bounds is a digit, too.
    """
    varying = access.items | access.free | {v for _, v in access.below}
    known: set[Atom] = set()
    sums = [*access.index, *access.same]
    sums += [short for total in sums if (short := _shortened(total)) != total]
    sums += [with_it for total in sums for bounded in access.below for with_it in _with_stand_in(total, *bounded)]

    def settled(atom: Atom) -> bool:
        if isinstance(atom, IndexVar):
            return atom.lo == atom.hi or atom not in varying or atom in known
        if atom in known:
            return True
        return isinstance(atom, FloorDiv | Mod) and all(settled(inner) for inner, _ in atom.value.terms)

    progress = True
    while progress:
        progress = False
        for total in list(sums):
            open_ = sorted(((abs(c), a) for a, c in total.terms if not settled(a)), key=lambda term: term[0])
            if open_ and _mixed_radix(open_, access.below):
                known |= {same for _, atom in open_ for same in (atom, *_shorter(atom))}
                progress = True
        for total, stand_in in access.below:
            if settled(stand_in) and total not in sums:
                sums.append(total)
                progress = True
        for atom in [a for a in known if isinstance(a, Mod)]:
            settles = any(all(settled(a) for a, _ in quotient.terms) for quotient in _quotients(atom))
            if settles and atom.value not in sums:
                sums.append(atom.value)
                progress = True
    return all(settled(item) for item in access.items)


def _shortened(total: Index) -> Index:
    """A sum without what makes no difference to its quotients: (16 * a + b) // 64 is a // 4 where b is below 16."""
    return rebuild(total, lambda atom: _quotient(atom) if isinstance(atom, FloorDiv) else None)


def _quotient(atom: FloorDiv) -> Index | None:
    for _, unit in atom.value.terms:
        if unit < 2 or atom.divisor % unit:
            continue
        whole = Index(frozenset((a, c // unit) for a, c in atom.value.terms if c % unit == 0))
        lo, hi = (atom.value - whole * unit).bounds
        if lo // unit == hi // unit:
            return (whole + lo // unit) // (atom.divisor // unit)
    return None


def _with_stand_in(total: Index, part: Index, stand_in: IndexVar) -> Iterator[Index]:
    """A sum that holds a multiple of another one, with a variable in its place."""
    coeffs, (atom, unit) = dict(total.terms), next(iter(part.terms))
    factor = coeffs.get(atom, 0) // unit
    rest = total - part * factor
    if factor and not {a for a, _ in rest.terms} & {a for a, _ in part.terms}:
        yield rest + as_index(stand_in) * factor


def _shorter(atom: Atom) -> Iterator[Atom]:
    """The same quotient of less: `(c*x + y) // (c*d)` is `x // d` where y is one of 0..c-1."""
    if not isinstance(atom, FloorDiv):
        return
    for _, c in atom.value.terms:
        if c > 1 and atom.divisor % c == 0:
            whole = atom.value - atom.value % c
            quotient = whole // atom.divisor
            if whole.const % c == 0 and all(k % c == 0 for _, k in whole.terms) and len(quotient.terms) == 1:
                yield from (a for a, _ in quotient.terms)


def _quotients(atom: Mod) -> Iterator[Index]:
    """What belongs to a remainder: `value // divisor`, and with `value == x + y // d` the same as one division."""
    value, divisor = atom.value, atom.divisor
    yield value // divisor
    for part, coeff in value.terms:
        if isinstance(part, FloorDiv) and coeff == 1:
            rest = value - Index(frozenset([(part, 1)]))
            yield (rest * part.divisor + part.value) // (divisor * part.divisor)


def _mixed_radix(terms: Sequence[tuple[int, Atom]], below: Sequence[tuple[Index, IndexVar]]) -> bool:
    """Whether terms (coefficient, atom), by rising coefficient, are the digits of their sum."""
    reach = 0
    for coeff, atom in terms:
        if coeff <= reach:
            return False
        lo, hi = _bounds(atom, below)
        reach += coeff * (hi - lo)
    return True


def _bounds(atom: Atom, below: Sequence[tuple[Index, IndexVar]]) -> tuple[int, int]:
    """The bounds of an atom; those of the quotient of a sum that a condition bounds are smaller."""
    lo, hi = atom.bounds
    if isinstance(atom, FloorDiv):
        hi = min([hi, *(bound.hi // atom.divisor for total, bound in below if total == atom.value)])
    return lo, hi
