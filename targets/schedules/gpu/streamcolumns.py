"""Reductions down columns, and reductions of so many elements that one group would take too long.

columns    neighbouring items have neighbouring columns, so a warp reads whole lines; several items share a column,
           and put together what they have through local memory
chunks     each stage in two launches: chunks of a row by groups of their own, then their partial results
"""

from collections.abc import Iterator, Sequence

from attrs import evolve

from ....ir.index import as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Buffer, apply
from ...lower import Problem
from ...prelude import width
from ...rewrite import Rewriter
from ..nest import Nest, axis_of, merge_axes
from ..reduction import Form, runs_along, simplified
from ..rows import extents_of, size_of
from ..space import Config
from ..tiles import Packed
from .exchange import WARP, Merge
from .items import LANES, local_bytes, local_sizes, split
from .maps import write_map
from .reductions import BARRIER, WAIT, cost, known_reduction, reduction_of
from .roofline import LAUNCH, Work, time
from .streamrows import KEPT, RowWriter, Where, is_softmax, write_rows

CHUNK = 8192
"""Elements of a chunk, at least."""

CHUNKS = 256
"""Chunks of a row, at most."""

FEW = 128
"""Rows up to which a device is not kept busy by a group for each."""


def along_columns(form: Form) -> bool:
    """Whether neighbouring rows are neighbours in memory, and elements of a row are not."""
    return bool(form.rows) and form.rows[-1].hi >= 7 and runs_along(form, form.rows[-1])


def check(problem: Problem) -> str | None:
    """Why the rows of a reduction are no columns, or None."""
    form = reduction_of(problem)
    if isinstance(form, str):
        return form
    if not form.inner:
        return "a row has one element"
    if not along_columns(form):
        return "rows do not lie side by side in memory"
    needed = sum(width(e.dtype) for e in form.elements) * local_sizes(problem)[-1]
    return None if needed <= local_bytes(problem) else "partial results do not fit into local memory"


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: items that share a column, and columns side by side in a group."""
    form = known_reduction(problem)
    most, size = local_sizes(problem)[-1], size_of(form.inner)
    choices = [(n, columns) for columns in (WARP, 2 * WARP) for n in (8, 4, 16, 2, 1) if n * columns <= most]
    fitting = [c for c in choices if c[0] <= size] or choices[-1:]
    for shared, columns in fitting:
        yield {"items": shared, "columns": columns}


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    form = known_reduction(problem)
    items, columns = config["items"], config["columns"]
    share = -(-size_of(form.inner) // items)
    passes = 1 if share <= KEPT else len(form.elements) - (1 if is_softmax(form) else 0)
    groups = size_of(form.rows[:-1]) * -(-(form.rows[-1].hi + 1) // columns)
    return cost(form, groups, items * columns, share, form.rows[-1], passes, _merge(form, items))


def _merge(form: Form, items: int) -> float:
    """Vector operations of an item for putting together what `items` have: by way of local memory, behind a barrier."""
    return len(form.elements) * (BARRIER + 2 * items) if items > 1 else 0.0


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """A few columns for each group."""
    b, form = Builder(), known_reduction(problem)
    write_columns(b, form, config["columns"], config["items"])
    return problem.kernel(b), {}


def write_columns(b: Builder, form: Form, columns: int, items: int) -> None:
    """All columns of a reduction, `columns` of them side by side in a group, each shared by `items`."""
    *outer, last = extents_of(form.rows)
    blocks = -(-last // columns)
    places = [*outer, blocks]
    with b.loop("group", size_of(form.rows[:-1]) * blocks, "workgroup") as group:
        parts = [
            [b.alloc(f"part{k}", (items, columns), e.dtype, "local")] if items > 1 else []
            for k, e in enumerate(form.elements)
        ]
        with b.loops(("item", "column"), (items, columns), "workitem") as (item, column):
            *index, block = split(group, places)
            own = block * columns + column
            near = own % last if last % columns else own

            def together(numbers: Sequence[Buffer], part: Sequence[Buffer], merge: Merge) -> None:
                if items == 1:
                    return
                for number, array in zip(numbers, part, strict=True):
                    b.store(array, (item, column), b.load(number, (0,)))
                b.barrier("local")
                for number, array in zip(numbers, part, strict=True):
                    b.store(number, (0,), b.load(array, (0, column)))
                for other in range(1, items):
                    merge([b.load(array, (other, column)) for array in part])

            here = Where([*index, near], [*index, own], apply("lt", own, last), item, items)
            RowWriter(b, form, here, 1, parts, together).write()


# Chunks


def check_chunks(problem: Problem) -> str | None:
    """Why rows are not worth being cut, or None."""
    form = reduction_of(problem)
    if isinstance(form, str):
        return form
    rows, size = size_of(form.rows), size_of(form.inner)
    if rows // (WARP if along_columns(form) else 1) > FEW or size < 2 * _least(form):
        return f"{rows} rows of {size} elements keep a device busy without being cut"
    return None


def _least(form: Form) -> int:
    """Elements of a chunk, at least."""
    return CHUNK // WARP if along_columns(form) else CHUNK


def chunk_configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: chunks of a row, about."""
    form = known_reduction(problem)
    most = min(CHUNKS, size_of(form.inner) // _least(form))
    yield from ({"chunks": n} for n in sorted({most, max(most // 2, 2), max(most // 4, 2)}, reverse=True))


def predict_chunks(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    form = known_reduction(problem)
    items, stages = min(local_sizes(problem)[-1], 256), len(form.elements)
    if columns := along_columns(form):
        blocks = size_of(form.rows[:-1]) * -(-(form.rows[-1].hi + 1) // WARP)
        shared, axis, merge = items // WARP, form.rows[-1], _merge(form, items // WARP) / stages
    else:
        blocks, shared, axis, merge = size_of(form.rows), items, form.inner[-1], BARRIER
    chunk = -(-size_of(form.inner) // config["chunks"])
    parts = cost(form, blocks * config["chunks"], items, -(-chunk // shared), axis, 1, merge)
    joined = time(Work(blocks, items, sums=0.0, other=WAIT + merge + columns * config["chunks"] / shared))
    return stages * (parts + joined + LAUNCH) + (stages - 1 + bool(form.beside)) * LAUNCH


def schedule_chunks(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """Two launches for each stage, and one for results that run over more than the rows."""
    b, form = Builder(), known_reduction(problem)
    most = local_sizes(problem)[-1]
    for k, element in enumerate(form.elements):
        done = k == len(form.elements) - 1 and not form.beside
        here = tuple(map(as_index, form.rows))
        total = None if done else b.alloc(f"whole{k}", (*extents_of(form.rows), 1), element.dtype, "team")
        finals = form.finals if total is None else ((total, (*here, as_index(0)), form.results[k]),)
        _stage(b, form, k, (config["chunks"], most), finals)
        if total is not None:
            form = form.rebuilt(Rewriter({}, known={id(form.results[k]): b.load(total, (*here, 0))}))
            b.barrier()
    if form.beside:
        for buffer, place, value in form.finals:
            order = sorted((*form.rows, *form.beside), key=lambda axis: -buffer.offset(place).coeff(axis))
            write_map(
                b,
                merge_axes(Nest(buffer, tuple(order), place, value)),
                {"lanes": LANES, "local": min(most, 128), "steps": 1},
            )
    return problem.kernel(b), {}


def _stage(b: Builder, form: Form, k: int, sizes: tuple[int, int], finals: tuple[object, ...]) -> None:
    """Stage `k` by chunks, then `finals`, which use its result."""
    (first, *others), (wanted, most) = form.inner, sizes
    columns, result = along_columns(form), form.results[k]
    chunk = max(-(-(first.hi + 1) // wanted), 1)
    whole, rest = divmod(first.hi + 1, chunk)
    at = len(form.rows) - columns  # the number of the chunk stands before the axis that lies in memory in one line
    shape = [*extents_of(form.rows[:at]), whole + bool(rest), *extents_of(form.rows[at:])]
    partial = b.alloc(f"partial{k}", shape, form.elements[k].dtype, "team")
    for start, chunks, size in ((0, whole, chunk), (whole, 1, rest)):
        if not chunks or not size:
            continue
        number, inside = axis_of("chunk", chunks), axis_of("k", size)
        rows = (*form.rows[:at], number, *form.rows[at:])
        place = tuple(as_index(axis) + (start if axis is number else 0) for axis in rows)
        part = Form(rows, (inside, *others), (form.combines[k],), (form.elements[k],), (), (result,), ())
        bind = {first: (as_index(number) + start) * chunk + as_index(inside)}
        part = evolve(part.rebuilt(Rewriter(bind)), finals=((partial, place, result),))
        _write(b, simplified(part), most, columns)
    b.barrier()
    number = axis_of("part", whole + bool(rest))
    own = [as_index(axis) for axis in form.rows]
    read = b.load(partial, (*own[:at], as_index(number), *own[at:]))
    join = Form(form.rows, (number,), (form.combines[k],), (read,), finals, (result,), ())  # type: ignore[arg-type]
    _write(b, simplified(join), most, columns)


def _write(b: Builder, form: Form, most: int, columns: bool) -> None:
    if columns and form.rows:
        write_columns(b, form, WARP, min(8, most // WARP))
    else:
        write_rows(b, form, 1, min(most, 256))
