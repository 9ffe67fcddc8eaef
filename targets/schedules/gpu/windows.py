"""Pooling, and other reductions over windows that overlap: an item computes a block of neighbouring results.

    each item    what lies under its block is read once: by vectors of neighbouring channels in NHWC; in NCHW
                 neighbouring items have neighbouring columns
    lines        of a window are put together once, and serve all results of the block that they belong to

Blocks divide the results, so that there is nothing to guard but borders. What is equal is found by comparing
expressions: the schedule knows no layout, stride or dilation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce

from attrs import frozen

from ....ir.index import Index, IndexVar, as_index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Value, apply
from ...lower import Problem
from ...prelude import width
from ...rewrite import Rewriter
from ..nest import rewritten
from ..reduction import Form, Numbers, runs_along
from ..rows import JOIN, extents_of, size_of
from ..space import Config
from ..tiles import Packed
from .items import LANES, local_sizes, numbered, split
from .reductions import WAIT, bytes_written, operations, reduction_of
from .roofline import Work, time

LARGEST, TERMS = 64, 128
"""Elements of a window, and of the windows of an item, at most."""

USUAL = 128
"""Items of a group, where it makes no difference."""

BLOCKS = (1, 2, 3, 4)
"""Results of an item along an axis."""


@frozen(eq=False)
class Windows:
    """A reduction over windows.

    Attributes:
        form: the reduction.
        axes: the axes of results along which windows overlap.
        lanes: neighbouring results that are computed as a vector.
    """

    form: Form
    axes: tuple[IndexVar, ...]
    lanes: int


def windows_of(problem: Problem) -> Windows | str:
    """The windows of a group; or why it has none."""
    form = reduction_of(problem, 1)
    if isinstance(form, str):
        return form
    one = len(form.elements) == 1 and len(form.finals) == 1 and form.combines[0] in JOIN
    if not one or form.beside or not form.rows or not 1 < size_of(form.inner) <= LARGEST:
        return f"it is written for one stage over windows of {LARGEST} elements at most"
    axes = tuple(axis for axis in form.rows if _overlaps(form, axis))
    if not axes:
        return "neighbouring windows have no terms in common"
    last = form.rows[-1]
    wide = last not in axes and (last.hi + 1) % LANES == 0 and runs_along(form, last)
    ((out, place, _),) = form.finals
    return Windows(form, axes, LANES if wide and out.offset(place).coeff(last) == 1 else 1)


def _overlaps(form: Form, axis: IndexVar) -> bool:
    """Whether neighbours along an axis have elements in common."""
    numbers = Numbers.start()
    own, other = ({numbers.number(e) for e in _terms(form, {axis: as_index(axis) + step})} for step in (0, 1))
    return axis.hi > 0 and bool(own & other)


def _terms(form: Form, at: Mapping[IndexVar, Index]) -> Iterator[Value]:
    """The elements of the window of a result, line by line."""
    for flat in range(size_of(form.inner)):
        index = split(as_index(flat), extents_of(form.inner))
        yield rewritten(Rewriter({**at, **dict(zip(form.inner, index, strict=True))}), form.elements[0])


def check(problem: Problem) -> str | None:
    """Why a group has no windows, or None."""
    found = windows_of(problem)
    return found if isinstance(found, str) else None


def _known(problem: Problem) -> Windows:
    found = windows_of(problem)
    assert isinstance(found, Windows)
    return found


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space, the cheapest by prediction first: results of an item along either axis, items of a group."""
    w, every = _known(problem), list[tuple[float, int, Config]]()
    axes = w.axes[-2:]
    choices = [[n for n in BLOCKS if (axis.hi + 1) % n == 0] for axis in axes]
    sizes = [size for size in local_sizes(problem, 32) if size <= 256]
    for rows in choices[0] if len(axes) > 1 else [1]:
        for columns in choices[-1]:
            if rows * columns * size_of(w.form.inner) > TERMS and rows * columns > 1:
                continue
            for local in sizes:
                config = {"rows": rows, "columns": columns, "local": local}
                every.append((_cost(w, config), abs(local - USUAL), config))
    yield from (config for *_, config in sorted(every, key=lambda entry: entry[:2]))


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    return _cost(_known(problem), config)


def _block(w: Windows, config: Config) -> dict[IndexVar, int]:
    """Results of an item along axes."""
    axes = w.axes[-2:]
    return dict(zip(axes, (config["rows"], config["columns"])[-len(axes) :], strict=True))


def _places(first: Mapping[IndexVar, Index], block: Mapping[IndexVar, int]) -> list[dict[IndexVar, Index]]:
    """The results of an item whose first one is given."""
    extents = list(block.values())
    steps = (split(as_index(flat), extents) for flat in range(math.prod(extents)))
    return [{**first, **{axis: first[axis] + i for axis, i in zip(block, step, strict=True)}} for step in steps]


def _cost(w: Windows, config: Config) -> float:
    form, block = w.form, _block(w, config)
    numbers = Numbers.start()
    places = _places({axis: as_index(axis) for axis in block}, block)
    count, terms = len(places), {numbers.number(term) for place in places for term in _terms(form, place)}
    items = size_of(form.rows) // count // w.lanes
    groups, size = -(-items // config["local"]), width(form.elements[0].dtype)
    written = bytes_written(form)
    stride = 1 if w.lanes > 1 else block.get(form.rows[-1], 1)
    return time(
        Work(
            groups,
            config["local"],
            sums=count * size_of(form.inner) * w.lanes / 4,
            other=len(terms) * (operations(form) + w.lanes - 1) + count * w.lanes * stride + WAIT,
            registers=32 + w.lanes * (count + len(terms)),
            near_bytes=groups * config["local"] * w.lanes * len(terms) * size / 4 + written,
            far_bytes=form.bytes_read() + written,
        )
    )


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """An item for each block."""
    b, w = Builder(), _known(problem)
    block, form = _block(w, config), w.form
    extents = [(axis.hi + 1) // block.get(axis, 1) for axis in form.rows]
    extents[-1] //= w.lanes
    with numbered(b, extents, config["local"]) as index, b.loop("v", w.lanes, "vectorised") as v:
        first = {axis: i * block.get(axis, 1) for axis, i in zip(form.rows, index, strict=True)}
        first[form.rows[-1]] = first[form.rows[-1]] * w.lanes + v
        _write(b, form, _places(first, block))
    return problem.kernel(b), {}


def _write(b: Builder, form: Form, results: Sequence[Mapping[IndexVar, Index]]) -> None:
    """The results of an item; each element is read, and each line of windows put together, once."""
    numbers, dtype, fn = Numbers.start(), form.elements[0].dtype, JOIN[form.combines[0]]
    known: dict[object, Value] = {}

    def once(key: object, name: str, value: Callable[[], Value]) -> Value:
        if key not in known:
            register = b.alloc(name, (1,), dtype)
            b.store(register, (0,), value())
            known[key] = b.load(register, (0,))
        return known[key]

    def joined(values: Sequence[Value]) -> Value:
        return reduce(lambda total, value: apply(fn, total, value), values)

    def element(key: int, term: Value) -> Value:
        return once(key, "x", lambda: term)

    def line(terms: Sequence[Value]) -> Value:
        keys = tuple(map(numbers.number, terms))
        return once(keys, "line", lambda: joined(list(map(element, keys, terms))))

    def window(at: Mapping[IndexVar, Index]) -> Value:
        terms, length = list(_terms(form, at)), form.inner[-1].hi + 1
        lines = [line(terms[start : start + length]) for start in range(0, len(terms), length)]
        return once(id(at), "total", lambda: joined(lines))

    # All first: a store keeps the compiler from moving loads ahead of it.
    totals = [window(at) for at in results]
    ((out, place, value),) = form.finals
    for at, total in zip(results, totals, strict=True):
        rewriter = Rewriter(dict(at), known={id(form.results[0]): total})
        b.store(out, [rewriter.index(i) for i in place], rewritten(rewriter, value))
