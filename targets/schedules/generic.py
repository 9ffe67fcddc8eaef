"""Schedules that fit every operator: loop nests over maps and reductions, vectorised where the accesses allow it."""

import math
from collections.abc import Callable, Sequence

from attrs import frozen

from ...ir.errors import VerifyError
from ...ir.index import FloorDiv, Index, IndexVar, Mod, as_index, substitute
from ...ir.loops import Builder, Kernel
from ...ir.scalar import Apply, Buffer, Load, Scalar, Value, apply, cast, constant, highest, lowest, select
from ...ops.lowering import Map, Procedure, Reduce, Reduction, Stage
from ..lower import Problem, spec
from ..rewrite import Rewriter, all_values

PARALLEL_WORK = 16384
"""Element operations below which one thread is faster than the team's fork and join."""

CHUNK = 4096
"""Elements of one iteration of a parallel loop over a flat tensor."""

LONG = 1024
"""Terms from which on a sum over several axes is added up by rows: rounding errors grow with the terms in a row."""


def schedule(problem: Problem) -> Kernel:
    """The generic loops of a group."""
    if problem.anchor is None:
        return map_kernel(problem)
    lowering = spec(problem.anchor).lowering
    assert problem.context is not None
    match lowering:
        case Procedure():
            builder = Builder()
            lowering.write(problem.context, builder, problem.outputs)
            return problem.kernel(builder)
        case Reduce():
            return reduce_kernel(problem, lowering.make(problem.context))
        case Map():
            raise VerifyError(f"{spec(problem.anchor).name} needs no anchor")
    raise VerifyError(f"{spec(problem.anchor).name} cannot be lowered")


# Maps


def map_kernel(problem: Problem) -> Kernel:
    """One loop nest for each output of a group without anchor."""
    builder = Builder()
    for view, out in zip(problem.views, problem.outputs, strict=True):
        variables = tuple(IndexVar(f"i{axis}", 0, max(n - 1, 0)) for axis, n in enumerate(out.shape))
        value = cast(view(*map(as_index, variables)), out.dtype) if 0 not in out.shape else constant(0, out.dtype)
        write_map(builder, out, variables, value)
    return problem.kernel(builder)


def write_map(builder: Builder, out: Buffer, variables: Sequence[IndexVar], value: Value) -> None:
    """Loops that store `value`, given over `variables`, to every element of `out`."""
    extents, places = collapse(out, variables, value)
    bind = dict(zip(variables, range(len(variables)), strict=True))

    def body(index: Sequence[Index]) -> None:
        new = {v: places[bind[v]](index) for v in variables}
        rewriter = Rewriter(new)
        result = rewriter.value(value)
        assert isinstance(result, Value)
        builder.store(out, [new[v] for v in variables], result)

    parallel_nest(builder, extents, math.prod(extents), body)


def collapse(out: Buffer, variables: Sequence[IndexVar], value: Value) -> tuple[list[int], list[Callable[..., Index]]]:
    """Merge neighbouring axes that every access runs through in one stride.

    Returns:
        The extents of the merged axes, and for each old axis a function from a merged index to the old one.
    """
    free, offsets = _accesses(value)
    offsets.append(out.offset([as_index(v) for v in variables]))
    groups: list[list[int]] = []
    for axis in range(len(variables)):
        if groups and all(_merges(o, variables[axis - 1], variables[axis], out.shape[axis], free) for o in offsets):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    extents = [math.prod(out.shape[a] for a in group) for group in groups]
    places: list[Callable[..., Index]] = []
    for g, group in enumerate(groups):
        for position in range(len(group)):
            inner = math.prod(out.shape[a] for a in group[position + 1 :])
            places.append(_place(g, inner, out.shape[group[position]], first=position == 0))
    return extents, places


def _place(group: int, inner: int, extent: int, first: bool) -> Callable[..., Index]:
    def place(index: Sequence[Index]) -> Index:
        position = index[group] // max(inner, 1)
        return position if first else position % max(extent, 1)

    return place


def _accesses(value: Scalar) -> tuple[set[IndexVar], list[Index]]:
    """Variables whose own value matters (compared, cast, divided), and the offsets of all loads."""
    own: set[IndexVar] = set()
    offsets: list[Index] = []
    for node in all_values([value]):
        if isinstance(node, Load):
            offsets.append(node.buffer.offset(node.index))
        if isinstance(node, Apply):
            for arg in node.args:
                if isinstance(arg, Index):
                    own |= arg.variables
    for offset in offsets:
        for atom, _ in offset.terms:
            if isinstance(atom, FloorDiv | Mod):
                own |= atom.value.variables
    return own, offsets


def _merges(offset: Index, outer: IndexVar, inner: IndexVar, extent: int, own: set[IndexVar]) -> bool:
    if outer in own or inner in own:
        return False
    return offset.coeff(outer) == offset.coeff(inner) * extent


def parallel_nest(builder: Builder, extents: Sequence[int], work: int, body: Callable[[Sequence[Index]], None]) -> None:
    """Loops over a box: parallel outside when there is enough work, vectorised innermost."""
    extents = list(extents)
    if not extents:
        body([])
    elif work < PARALLEL_WORK:
        _serial_nest(builder, extents, [], body)
    elif len(extents) == 1:
        _flat(builder, extents[0], body)
    else:
        split = next((k for k in range(1, len(extents)) if math.prod(extents[:k]) >= 16), len(extents) - 1)
        with builder.loop("p", math.prod(extents[:split]), "parallel") as p:
            _serial_nest(builder, extents, unravel(p, extents[:split]), body)


def unravel(flat: Index, extents: Sequence[int]) -> list[Index]:
    """The multi-dimensional index of a row-major position."""
    index: list[Index] = []
    for axis in range(len(extents)):
        inner = math.prod(extents[axis + 1 :])
        place = flat // max(inner, 1)
        index.append(place % max(extents[axis], 1) if axis else place)
    return index


def _serial_nest(
    builder: Builder, extents: Sequence[int], index: list[Index], body: Callable[[list[Index]], None]
) -> None:
    axis = len(index)
    if axis == len(extents):
        body(index)
        return
    kind = "vectorised" if axis == len(extents) - 1 else "serial"
    with builder.loop(f"i{axis}", extents[axis], kind) as i:
        _serial_nest(builder, extents, [*index, i], body)


def _flat(builder: Builder, extent: int, body: Callable[[list[Index]], None]) -> None:
    """A one-dimensional space in chunks, so that threads get whole vectors."""
    whole = extent // CHUNK
    with builder.loop("p", whole, "parallel") as p, builder.loop("i", CHUNK, "vectorised") as i:
        body([p * CHUNK + i])
    if extent % CHUNK:
        with builder.loop("tail", extent % CHUNK, "vectorised") as i:
            body([i + whole * CHUNK])


# Reductions


@frozen
class Combiner:
    """How partial results are joined, and the neutral element."""

    fn: str
    start: Callable[[str], Value]


COMBINERS = {
    "sum": Combiner("add", lambda dtype: constant(0, dtype)),
    "prod": Combiner("mul", lambda dtype: constant(1, dtype)),
    "max": Combiner("max", lowest),
    "min": Combiner("min", highest),
    "all": Combiner("and", lambda dtype: constant(True, dtype)),
    "any": Combiner("or", lambda dtype: constant(False, dtype)),
}


def reduce_kernel(problem: Problem, reduction: Reduction) -> Kernel:
    """Loops over rows; in each row the stages one after the other, then the row's outputs.

    Neighbouring rows go into vector lanes where every access allows that, else neighbouring elements of the reduction
    do.
    """
    assert problem.context is not None
    builder = Builder()
    shape = problem.context.outs[0].static_shape
    if 0 in shape:
        return problem.kernel(builder)
    rows = list(reduction.rows)
    work = math.prod(rows) * max(math.prod(s.extents) for s in reduction.stages)
    across_rows = bool(rows) and rows[-1] >= 4 and _strides_fit(reduction, rows, along_rows=True)
    outer = rows[:-1] if across_rows else rows
    kind = "parallel" if work >= PARALLEL_WORK else "serial"
    # A flat loop over rows balances threads best; its index is taken apart again for the accesses.
    with builder.loop("row", math.prod(outer), kind) as flat:
        row = unravel(flat, outer)
        if across_rows:
            with builder.loop("lane", rows[-1], "vectorised") as lane:
                _row(problem, builder, reduction, [*row, lane], None)
        else:
            along = problem.isa.vector_bytes // 4 if _strides_fit(reduction, rows, along_rows=False) else None
            _row(problem, builder, reduction, row, along)
    return problem.kernel(builder)


def _strides_fit(reduction: Reduction, rows: Sequence[int], along_rows: bool) -> bool:
    """Whether the elements of all stages are read with stride 0 or 1 along the last row or reduction axis."""
    row = [IndexVar(f"r{k}", 0, max(n - 1, 0)) for k, n in enumerate(rows)]
    some = False
    earlier: list[Value] = []
    for stage in reduction.stages:
        inner = [IndexVar(f"k{k}", 0, max(n - 1, 0)) for k, n in enumerate(stage.extents)]
        value = element_of(stage, list(map(as_index, row)), list(map(as_index, inner)), earlier)
        earlier.append(constant(0, "int64" if stage.combine.startswith("arg") else value.dtype))
        if not along_rows and (stage.combine.startswith("arg") or not inner):
            return False
        var = row[-1] if along_rows else inner[-1]
        own, offsets = _accesses(value)
        strides = {o.coeff(var) for o in offsets}
        some = some or 1 in strides
        if var in own or not strides <= {0, 1} or any(_hidden(o, var) for o in offsets):
            return False
    return some


def _hidden(offset: Index, var: IndexVar) -> bool:
    linear = substitute(offset, {var: 0}) + as_index(var) * offset.coeff(var)
    reads = [node for v in offset.values for node in all_values([v])]
    return linear != offset or any(isinstance(n, Index) and n.depends_on(var) for n in reads)


def element_of(stage: Stage, row: Sequence[Index], inner: Sequence[Index], earlier: Sequence[Value]) -> Value:
    """One element of a stage as a value."""
    value = stage.element(tuple(row), tuple(inner), *earlier)
    return value if isinstance(value, Value) else cast(value, "int64")


def _row(problem: Problem, builder: Builder, reduction: Reduction, row: list[Index], along: int | None) -> None:
    results: list[Value] = []
    for number, stage in enumerate(reduction.stages):
        if stage.combine.startswith("arg"):
            results.append(_arg_stage(builder, stage, row, results, number))
        elif along and stage.extents[-1] >= 2 * along:
            results.append(_lane_stage(builder, stage, row, results, number, along))
        else:
            results.append(_plain_stage(builder, stage, row, results, number))
    assert problem.context is not None
    shape = problem.context.outs[0].static_shape

    def spread(axes: Sequence[int], index: dict[int, Index]) -> None:
        if axes:
            kind = "vectorised" if along and len(axes) == 1 else "serial"
            with builder.loop(f"s{axes[0]}", shape[axes[0]], kind) as i:
                spread(axes[1:], {**index, axes[0]: i})
            return
        place = [index[a] for a in range(len(shape))]
        value = reduction.result(tuple(place), *results)
        problem.emit(builder, place, value if isinstance(value, Value) else cast(value, "int64"))

    kept = [axis for axis in range(len(shape)) if axis not in reduction.spread]
    spread(sorted(reduction.spread), dict(zip(kept, row, strict=True)))


def _accumulator(builder: Builder, name: str, value: Value) -> Buffer:
    buffer = builder.alloc(name, (1,), value.dtype)
    builder.store(buffer, (0,), value)
    return buffer


def _plain_stage(builder: Builder, stage: Stage, row: list[Index], earlier: list[Value], number: int) -> Value:
    combiner = COMBINERS[stage.combine]
    dtype = _stage_dtype(stage, row, earlier)
    acc = _accumulator(builder, f"acc{number}", combiner.start(dtype))
    _update(builder, acc, combiner, stage, row, earlier, stage.extents, lambda r: r, number)
    return builder.load(acc, (0,))


def _update(
    builder: Builder,
    acc: Buffer,
    combiner: Combiner,
    stage: Stage,
    row: list[Index],
    earlier: list[Value],
    extents: Sequence[int],
    place: Callable[[tuple[Index, ...]], tuple[Index, ...]],
    number: int,
) -> None:
    names = [f"k{number}_{axis}" for axis in range(len(extents))]

    def join(into: Buffer, value: Value) -> None:
        builder.store(into, (0,), apply(combiner.fn, builder.load(into, (0,)), value))

    if combiner.fn != "add" or len(extents) < 2 or math.prod(extents) < LONG:
        with builder.loops(names, extents) as inner:
            join(acc, element_of(stage, row, place(inner), earlier))
        return
    with builder.loops(names[:-1], extents[:-1]) as outer:
        part = _accumulator(builder, f"sum{number}", combiner.start(acc.dtype))
        with builder.loop(names[-1], extents[-1]) as last:
            join(part, element_of(stage, row, place((*outer, last)), earlier))
        join(acc, builder.load(part, (0,)))


def _stage_dtype(stage: Stage, row: list[Index], earlier: list[Value]) -> str:
    inner = [as_index(IndexVar("k", 0, max(n - 1, 0))) for n in stage.extents]
    return element_of(stage, row, inner, earlier).dtype


def _lane_stage(
    builder: Builder, stage: Stage, row: list[Index], earlier: list[Value], number: int, lanes: int
) -> Value:
    """Partial results in vector lanes along the last reduction axis, then the lanes joined, then the rest."""
    combiner = COMBINERS[stage.combine]
    dtype = _stage_dtype(stage, row, earlier)
    *outer, last = stage.extents
    parts = builder.alloc(f"parts{number}", (lanes,), dtype, "thread")
    with builder.loop(f"lane{number}", lanes, "vectorised") as lane:
        acc = _accumulator(builder, f"part{number}", combiner.start(dtype))
        _update(builder, acc, combiner, stage, row, earlier, [*outer, last // lanes],
                lambda r: (*r[:-1], r[-1] * lanes + lane), number)  # fmt: skip
        builder.store(parts, (lane,), builder.load(acc, (0,)))
    total = _accumulator(builder, f"acc{number}", combiner.start(dtype))
    with builder.loop(f"join{number}", lanes) as lane:
        builder.store(total, (0,), apply(combiner.fn, builder.load(total, (0,)), builder.load(parts, (lane,))))
    if rest := last % lanes:
        _update(builder, total, combiner, stage, row, earlier, [*outer, rest],
                lambda r: (*r[:-1], r[-1] + (last - rest)), number)  # fmt: skip
    return builder.load(total, (0,))


def _arg_stage(builder: Builder, stage: Stage, row: list[Index], earlier: list[Value], number: int) -> Value:
    """The place of the greatest or least element; NaN counts as beyond every number, as in NumPy."""
    dtype = _stage_dtype(stage, row, earlier)
    greatest = stage.combine == "argmax"
    best = _accumulator(builder, f"best{number}", lowest(dtype) if greatest else highest(dtype))
    place = _accumulator(builder, f"place{number}", constant(-1, "int64"))
    with builder.loops([f"k{number}_{axis}" for axis in range(len(stage.extents))], stage.extents) as inner:
        value = element_of(stage, row, inner, earlier)
        flat = Buffer("", tuple(stage.extents), "int64").offset(inner)
        old = builder.load(best, (0,))
        better = apply(("ge" if stage.last else "gt") if greatest else ("le" if stage.last else "lt"), value, old)
        first = apply("lt", builder.load(place, (0,)), 0)
        nan = apply("isnan", value)
        if not stage.last:
            nan = apply("and", nan, apply("not", apply("isnan", old)))
        keep = apply("and", apply("isnan", old), apply("not", apply("isnan", value)))
        take = apply("or", first, apply("or", nan, apply("and", better, apply("not", keep))))
        chosen = builder.alloc(f"take{number}", (1,), "bool")
        builder.store(chosen, (0,), take)
        flag = builder.load(chosen, (0,))
        builder.store(best, (0,), select(flag, value, old))
        builder.store(place, (0,), select(flag, cast(flat, "int64"), builder.load(place, (0,))))
    return builder.load(place, (0,))
