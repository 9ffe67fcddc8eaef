"""Maps: each work-item makes a vector of neighbouring results, or one.

Groups without an anchor are maps, and so are reductions over a few elements (pooling), which are one expression.
"""

import math
from collections.abc import Iterator

from ....ir.index import IndexVar
from ....ir.loops import Builder, Kernel
from ....ir.scalar import cast
from ...lower import Problem
from ..nest import Nest, accesses, axis_of, counter, hidden, merge_axes, split_axes
from ..reduce import is_window, window_nest
from ..reduction import Form
from ..rows import size_of
from ..space import Config
from ..tiles import Packed
from .items import LANES, default_local, device_needed, local_sizes, numbered, occupancy
from .reductions import cost, known_reduction, reduction_of

MANY = 1 << 22
"""Elements from which on the items of a GPU make two vectors each: more loads are on their way at a time."""

FAR, FAR_COST = 8, 4
"""Elements between neighbours from which on they are read one by one, and how much longer that takes."""


def nests_of(problem: Problem) -> list[Nest] | None:
    """The maps of a group; None where it is none."""
    if problem.anchor is None:
        nests = []
        for view, out in zip(problem.views, problem.outputs, strict=True):
            axes = tuple(axis_of(f"i{axis}", n) for axis, n in enumerate(out.shape))
            place = tuple(map(counter, axes))
            nests.append(Nest(out, axes, place, cast(view(*place), out.dtype)))
        return nests
    form = reduction_of(problem, 1)
    return [window_nest(form)] if isinstance(form, Form) and is_window(form) else None


def check(problem: Problem) -> str | None:
    """Why a group is no map, or None."""
    if found := device_needed(problem):
        return found
    if any(0 in out.shape for out in problem.outputs):
        return "empty tensor"
    return "it is written for maps and short reductions" if nests_of(problem) is None else None


def configs(problem: Problem) -> Iterator[Config]:
    """The candidate space: elements of an item, items in a group."""
    total = max(math.prod(out.shape) for out in problem.outputs)
    steps = 2 if problem.isa.gpu and total >= MANY else 1
    default = {"lanes": LANES, "local": default_local(problem, -(-total // LANES)), "steps": steps}
    yield default
    for lanes, steps in ((LANES, 1), (LANES, 2), (LANES, 4), (1, 1)):
        for size in local_sizes(problem):
            if (config := {"lanes": lanes, "local": size, "steps": steps}) != default:
                yield config


def predict(problem: Problem, config: Config) -> float:
    """The cost in vector operations."""
    items = sum(-(-math.prod(out.shape) // config["lanes"]) for out in problem.outputs)
    alive = occupancy(items // config["steps"])
    if problem.anchor is None:
        nests = [merge_axes(split_axes(nest)) for nest in nests_of(problem) or ()]
        return items * (FAR_COST if any(map(_strides, nests)) else 1) / alive
    form = known_reduction(problem, 1)
    # Each term is found, has conditions, and is read on its own.
    share = config["lanes"] * size_of(form.inner) * config["steps"]
    return cost(form, -(-items // config["steps"] // config["local"]), config["local"], share, form.rows[-1])


def _strides(nest: Nest) -> bool:
    """Whether neighbouring elements are made of what lies far apart, so that each reads a line of memory."""
    return bool(nest.axes) and any(abs(offset.coeff(nest.axes[-1])) >= FAR for offset in accesses(nest.value)[1])


def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    """A launch for each result."""
    b = Builder()
    for nest in nests_of(problem) or ():
        write_map(b, merge_axes(split_axes(nest)), config)
    return problem.kernel(b), {}


def write_map(b: Builder, nest: Nest, config: Config) -> None:
    """One map."""
    extents = nest.extents
    wide = bool(extents) and extents[-1] % config["lanes"] == 0 and _in_vectors(nest)
    lanes = config["lanes"] if wide else 1
    outer = [*extents[:-1], extents[-1] // lanes] if extents else [1]
    with numbered(b, outer, config["local"], config["steps"]) as index, b.loop("v", lanes, "vectorised") as v:
        if extents:
            index = [*index[:-1], index[-1] * lanes + v]
        place, value = nest.bound(dict(zip(nest.axes, index, strict=False)))
        b.store(nest.out, place, value)


def _in_vectors(nest: Nest) -> bool:
    """Whether vectors can be written along the last axis, and read or shared."""
    last: IndexVar = nest.axes[-1]
    own, offsets = accesses(nest.value)
    offsets = [*offsets, nest.out.offset(nest.place)]
    if last in own or any(hidden(offset, last) for offset in offsets):
        return False
    return offsets[-1].coeff(last) == 1 and all(offset.coeff(last) in (0, 1) for offset in offsets)
