"""Reductions by a whole work-group: each item combines its share, then partial results meet as a tree in local memory.

    each item: a share of the row, every `local`-th element, into local memory
    half of the items add what the other half has, then half of those, ...: log2(local) steps with barriers between
    all read the result from place 0

It serves rows (softmax, layer norm, sums), and a convolution of 1x1 over many channels with a picture of few pixels,
where a group makes four neighbouring results.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from attrs import frozen

from ....ir.index import Index, IndexVar, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, Load, Value, apply, constant
from ...lower import Problem
from ...prelude import width
from ...rewrite import Rewriter
from .. import conv_shape
from ..conv_shape import conv_of
from ..reduction import Form, of_the_row
from ..rows import JOIN, START, extents_of, size_of
from ..space import Config
from ..tiles import Packed, added
from .convs import is_pointwise, packed_blocks
from .items import LANES, device_needed, emit_pixel, guarded, local_bytes, local_sizes, occupancy, split
from .reductions import BARRIER, cost, known_reduction, reduction_of

CHANNELS, OUTPUTS = 128, 64
"""Input channels that a 1x1 convolution has at least, and elements of its result at most, for a group to share one."""


def largest_local(problem: Problem, work: int) -> int:
    """The largest power of two up to `work`, and to 256 or what a group may have."""
    most = min(256, local_sizes(problem)[-1], max(work, 1))
    return 1 << (most.bit_length() - 1)


def tree(b: Builder, parts: Sequence[tuple[Buffer, str]], item: Index, size: int, lanes: int = 1) -> None:
    """Combine what the items have stored in local arrays of shape (size, lanes); the results lie at 0, for all."""
    half = size // 2
    while half:
        b.barrier("local")
        with b.when(apply("lt", item, half)):
            for part, fn in parts:
                with b.loop("v", lanes, "vectorised") as v:
                    b.store(part, (item, v), apply(fn, b.load(part, (item, v)), b.load(part, (item + half, v))))
        half //= 2
    b.barrier("local")


# Rows of a reduction


def check(problem: Problem) -> str | None:
    """Why the rows of a reduction are not worth a group each, or None."""
    form = reduction_of(problem, 1)
    if isinstance(form, str):
        return form
    if (size := size_of(form.inner)) < 32:
        return f"a row has {size} elements; it takes 32"
    needed = sum(width(e.dtype) for e in form.elements) * 16
    return None if needed <= local_bytes(problem) else "partial results do not fit into local memory"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: items in a group."""
    form = known_reduction(problem, 1)
    room = local_bytes(problem) // sum(width(e.dtype) for e in form.elements)
    default = min(largest_local(problem, size_of(form.inner)), 1 << (room.bit_length() - 1))
    yield {"local": default}
    yield from ({"local": size} for size in local_sizes(problem) if size != default and size <= room)


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    form = known_reduction(problem, 1)
    local, stages = config["local"], len(form.elements)
    merge = stages * local.bit_length() * (BARRIER + 3)  # a barrier, two reads and a write for each halving
    return cost(form, size_of(form.rows), local, -(-size_of(form.inner) // local), form.inner[-1], stages, merge)


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """A group for each row."""
    b, form, local = Builder(), known_reduction(problem, 1), config["local"]
    rows = extents_of(form.rows)
    with b.loop("row", math.prod(rows), "workgroup") as row:
        parts = [b.alloc(f"part{k}", (local, 1), e.dtype, "local") for k, e in enumerate(form.elements)]
        with b.loop("item", local, "workitem") as item:
            form = form.rebuilt(Rewriter(dict(zip(form.rows, split(row, rows), strict=True))))
            for k, part in enumerate(parts):
                _stage(b, form, k, part, (item, local))
                form = form.rebuilt(Rewriter({}, known={id(form.results[k]): b.load(part, (0, 0))}))
            _results(b, form, item, local)
    return problem.kernel(b), {}


def _stage(b: Builder, form: Form, k: int, part: Buffer, at: tuple[Index, int]) -> None:
    """One stage: shares, then the tree."""
    (item, local), fn, dtype = at, JOIN[form.combines[k]], form.elements[k].dtype
    acc = b.alloc("acc", (1,), dtype)
    b.store(acc, (0,), START[form.combines[k]](dtype))

    def add(place: Sequence[Index]) -> None:
        element = Rewriter(dict(zip(form.inner, place, strict=True))).value(form.elements[k])
        assert isinstance(element, Value)
        b.store(acc, (0,), apply(fn, b.load(acc, (0,)), element))

    _shares(b, form.inner, at, add)
    b.store(part, (item, 0), b.load(acc, (0,)))
    tree(b, [(part, fn)], item, local)


def _shares(b: Builder, axes: Sequence[IndexVar], at: tuple[Index, int], action: Callable[[list[Index]], None]) -> None:
    """`action(place)` for every `local`-th place of a box of axes, beginning with the number of the item."""
    (item, local), total = at, size_of(axes)
    with b.loop("round", -(-total // local), "rolled") as round_:
        flat = round_ * local + item
        with guarded(b, apply("lt", flat, total)):
            action(split(flat, extents_of(axes)))


def _results(b: Builder, form: Form, item: Index, local: int) -> None:
    """The stores of a row: by all items where there is one for each element, else by the first."""
    known: dict[int, Load] = {}
    for value in of_the_row(form):
        own = b.alloc("own", (1,), value.dtype)
        b.store(own, (0,), value)
        known[id(value)] = Load(own, (as_index(0),))
    form = form.rebuilt(Rewriter({}, known=known))

    def store(place: Sequence[Index]) -> None:
        for buffer, index, value in form.rebuilt(Rewriter(dict(zip(form.beside, place, strict=True)))).finals:
            b.store(buffer, index, value)

    if form.beside:
        _shares(b, form.beside, (item, local), store)
    else:
        with b.when(apply("eq", item, 0)):
            store([])


# Sums of products with few results


@frozen(eq=False)
class Sums:
    """`emit(index, lane, sum over k of terms(index, k, lane))` for each place of a box and four lanes.

    Attributes:
        extents: the box.
        terms: terms of a sum.
        factors: (index, term, lane) -> the two factors.
        emit: hands a result over, if it is one: (index, lane, value).
    """

    extents: tuple[int, ...]
    terms: int
    factors: Callable[[Sequence[Index], Index, Index], tuple[Value, Value]]
    emit: Callable[[Builder, Sequence[Index], Index, Value], None]
    dtype: str


def write_sums(b: Builder, sums: Sums, local: int) -> None:
    """A group for each place."""
    with b.loop("place", math.prod(sums.extents), "workgroup") as place:
        part = b.alloc("part", (local, LANES), sums.dtype, "local")
        with b.loop("item", local, "workitem") as item:
            index = split(place, sums.extents)
            with b.loop("v", LANES, "vectorised") as v:
                acc = b.alloc("acc", (1,), sums.dtype)
                b.store(acc, (0,), constant(0, sums.dtype))
                whole, rest = divmod(sums.terms, local)

                def add(k: Index) -> None:
                    b.store(acc, (0,), added(*sums.factors(index, k, v), b.load(acc, (0,))))

                with b.loop("round", whole, "rolled") as round_:
                    if whole:
                        add(round_ * local + item)
                if rest:
                    with b.when(apply("lt", item, rest)):
                        add(item + whole * local)
                b.store(part, (item, v), b.load(acc, (0,)))
            tree(b, [(part, "add")], item, local, LANES)
            with b.when(apply("lt", item, LANES)):
                sums.emit(b, index, item, b.load(part, (0, item)))


def check_local(problem: Problem) -> str | None:
    """Why a convolution is not summed by groups, or None."""
    if found := device_needed(problem) or conv_shape.check(problem):
        return found
    conv = conv_of(problem)
    outputs = conv.s.n * conv.s.groups * conv.s.co * conv.s.oh * conv.s.ow
    if not is_pointwise(conv):
        return "the window is not 1x1, or there is a border"
    if conv.s.ci < CHANNELS or outputs > OUTPUTS:
        return f"{conv.s.ci} channels and {outputs} results; it takes {CHANNELS} and {OUTPUTS} at most"
    return f"groups of {conv.s.co} channels" if conv.s.groups > 1 and conv.s.co % LANES else None


def local_configs(problem: Problem) -> Iterator[Config]:
    """The largest power of two up to a quarter of the channels and 256, as MNN has it; then others."""
    default = largest_local(problem, -(-conv_of(problem).s.ci // LANES))
    yield {"local": default}
    yield from ({"local": size} for size in local_sizes(problem) if size < default)


def predict_local(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    s = conv_of(problem).s
    groups = s.n * s.groups * -(-s.co // LANES) * s.oh * s.ow
    return groups * (s.ci + config["local"] * 4) / occupancy(groups * config["local"])


def schedule_local(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """The loops of a 1x1 convolution summed by groups."""
    b = Builder()
    conv, weights, packing, packed = packed_blocks(conv_of(problem), b, LANES)
    s, (piece,) = conv.s, packing.pieces

    def factors(at: Sequence[Index], k: Index, lane: Index) -> tuple[Value, Value]:
        n, g, tile, y, x = at
        weight = b.load(weights, (g, packing.offset(piece, tile, k, lane)))
        return weight, conv.data(n, g * s.ci + k, y * s.stride[0], x * s.stride[1])

    def emit(b: Builder, at: Sequence[Index], lane: Index, value: Value) -> None:
        n, g, tile, y, x = at
        with guarded(b, apply("lt", tile * LANES + lane, s.co)):
            emit_pixel(conv, b, (n, g * s.co + tile * LANES + lane, y, x), value)

    extents = (s.n, s.groups, piece.tiles, s.oh, s.ow)
    write_sums(b, Sums(extents, s.ci, factors, emit, conv.dtype), config["local"])
    return conv.problem.kernel(b), packed
