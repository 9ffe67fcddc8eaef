"""Reductions in one form, for schedules to write out: expressions over row axes and reduction axes.

    elements[k]   what stage k combines, over `rows`, `inner` and the results of earlier stages
    finals        the stores: buffer, place and value, over `rows`, the results of all stages, and `inner` where the
                  result is spread over the elements of a row (softmax)

Results of stages are placeholders in these expressions, which a schedule replaces by loads from where it keeps them.
argmax is two stages: the greatest element, then the first place that has it.
"""

import math
from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from ...ir.index import Index, IndexVar, as_index
from ...ir.scalar import Apply, Buffer, Const, Load, Scalar, Value, apply, cast, constant, is_float, select
from ...ops.lowering import Reduction, Stage
from ...ops.reshape import ravel, reindex
from ..lower import Problem
from ..prelude import width
from ..prove import proven_inside
from ..rewrite import Rewriter, all_values
from .nest import accesses, axis_of, counter, hidden, merge_bind, mergeable, rewritten

Final = tuple[Buffer, tuple[Index, ...], Value]

COSTLY = ("exp", "log", "tanh", "erf", "sigmoid", "div", "pow", "sqrt", "rsqrt", "sin", "cos", "tan", "atan2", "select")
"""Functions worth keeping the result of."""


@frozen(eq=False)
class Form:
    """A reduction; see the top of the file.

    Attributes:
        rows, inner: the axes.
        combines: how each stage combines its elements.
        elements, finals: the expressions.
        results: the placeholders of the stages' results.
        seekers: the stages that give the first or last place of what the stage before them found.
        spread: whether `finals` run over `inner`, or over the axes `beside` instead (those of another shape).
    """

    rows: tuple[IndexVar, ...]
    inner: tuple[IndexVar, ...]
    combines: tuple[str, ...]
    elements: tuple[Value, ...]
    finals: tuple[Final, ...]
    results: tuple[Load, ...]
    beside: tuple[IndexVar, ...]
    seekers: tuple[int, ...] = ()

    @property
    def spread(self) -> bool:
        """Whether the results run over the elements that were reduced."""
        return bool(self.beside) and self.beside == self.inner

    def bytes_read(self) -> int:
        """The bytes of the tensors that the first stage reads."""
        loads = {n.buffer for n in all_values([self.elements[0]]) if isinstance(n, Load)}
        return sum(math.prod(buffer.shape) * width(buffer.dtype) for buffer in loads)

    def rebuilt(self, rewriter: Rewriter) -> "Form":
        """All expressions rewritten."""
        elements = tuple(rewritten(rewriter, e) for e in self.elements)
        finals = tuple((b, tuple(rewriter.index(i) for i in p), rewritten(rewriter, v)) for b, p, v in self.finals)
        return evolve(self, elements=elements, finals=finals)

    def merged(self, outer: IndexVar, inner: IndexVar) -> "Form":
        """Two neighbouring axes as one."""
        both, bind = merge_bind(outer, inner, inner.name)
        form = self.rebuilt(Rewriter(bind))

        def without(axes: tuple[IndexVar, ...]) -> tuple[IndexVar, ...]:
            return tuple(both if axis is inner else axis for axis in axes if axis is not outer)

        return evolve(form, rows=without(form.rows), inner=without(form.inner), beside=without(form.beside))

    def offsets(self) -> tuple[set[IndexVar], list[Index]]:
        """Variables whose own value matters, and the offsets of all accesses."""
        own, offsets = set[IndexVar](), list[Index]()
        for value in (*self.elements, *(v for _, _, v in self.finals)):
            more, found = accesses(value)
            own |= more
            offsets += found
        return own, offsets + [b.offset(place) for b, place, _ in self.finals]


def form_of(problem: Problem, reduction: Reduction) -> Form:
    """The reduction of a group, its epilogue included, with as few axes as can be."""
    assert problem.context is not None
    real = problem.context.outs[0].static_shape
    shape = reduction.shape or real
    extents = reduction.stages[0].extents
    rows = tuple(axis_of(f"r{k}", n) for k, n in enumerate(reduction.rows))
    inner = tuple(axis_of(f"k{k}", n) for k, n in enumerate(extents))
    beside = inner
    if tuple(shape[axis] for axis in reduction.spread) != extents:
        beside = tuple(axis_of(f"s{axis}", shape[axis]) for axis in reduction.spread)
    row, place = tuple(map(counter, rows)), tuple(map(counter, inner))
    combines, elements, results, seekers, given = _stages(reduction.stages, row, place)
    spread = dict(zip(reduction.spread, map(counter, beside), strict=False))
    rest = iter(row)
    index = tuple(spread[axis] if axis in spread else next(rest) for axis in range(len(shape)))
    value = reduction.result(index, *given)
    value = value if isinstance(value, Value) else cast(value, "int64")
    where = reindex(index, shape, real) if reduction.shape else index
    finals = tuple((b, tuple(p), v) for b, p, v in problem.finish(where, value))
    if not reduction.spread:
        beside = ()
    return simplified(Form(rows, inner, combines, elements, finals, results, beside, seekers))


def _stages(
    stages: Sequence[Stage], row: tuple[Index, ...], place: tuple[Index, ...]
) -> tuple[tuple[str, ...], tuple[Value, ...], tuple[Load, ...], tuple[int, ...], list[Value]]:
    """The stages' combiners, elements and placeholders, which of them seek, and the results that the operator sees."""
    combines: list[str] = []
    elements: list[Value] = []
    results: list[Load] = []
    seekers: list[int] = []
    given: list[Value] = []

    def add(combine: str, element: Value) -> Load:
        combines.append(combine)
        elements.append(element)
        results.append(Load(Buffer(f"stage{len(results)}", (), element.dtype, "register"), ()))
        return results[-1]

    for stage in stages:
        element = element_of(stage, row, place, given)
        if not stage.combine.startswith("arg"):
            given.append(add(stage.combine, element))
            continue
        best = add(stage.combine[3:], element)
        flat = ravel(place, stage.extents)
        dtype = "int32" if flat.bounds[1] < (1 << 31) - 1 else "int64"
        nowhere = constant(-1 if stage.last else (1 << (31 if dtype == "int32" else 63)) - 1, dtype)
        here = apply("eq", element, best)
        if is_float(element.dtype):
            here = apply("or", here, apply("isnan", element))  # where one is NaN, the greatest is NaN and equals none
        found = add("max" if stage.last else "min", select(here, cast(flat, dtype), nowhere))
        seekers.append(len(results) - 1)
        given.append(cast(found, "int64"))
    return tuple(combines), tuple(elements), tuple(results), tuple(seekers), given


def element_of(stage: Stage, row: Sequence[Index], inner: Sequence[Index], earlier: Sequence[Value]) -> Value:
    """One element of a stage as a value."""
    value = stage.element(tuple(row), tuple(inner), *earlier)
    return value if isinstance(value, Value) else cast(value, "int64")


def simplified(form: Form) -> Form:
    """Axes of one step left out, neighbouring axes merged where every access allows it."""
    every = dict.fromkeys((*form.rows, *form.inner, *form.beside))
    single = {axis: as_index(0) for axis in every if axis.hi == 0}
    form = form.rebuilt(Rewriter(single)) if single else form

    def several(axes: tuple[IndexVar, ...]) -> tuple[IndexVar, ...]:
        return tuple(axis for axis in axes if axis.hi)

    form = evolve(form, rows=several(form.rows), inner=several(form.inner), beside=several(form.beside))
    for name in ("rows", "inner"):
        k = len(getattr(form, name)) - 1
        while k > 0:
            outer, inner = getattr(form, name)[k - 1 : k + 1]
            own, offsets = form.offsets()
            if not {outer, inner} & own and all(mergeable(o, outer, inner) for o in offsets):
                form = form.merged(outer, inner)
            k -= 1
    return form


def runs_along(form: Form, axis: IndexVar) -> bool:
    """Whether all elements are read with stride 0 or 1 along an axis, and some with stride 1."""
    some = False
    for element in form.elements:
        own, offsets = accesses(element)
        guarded = any(isinstance(n, Load) and not proven_inside(n) for n in all_values([element]))
        strides = {o.coeff(axis) for o in offsets}
        some = some or 1 in strides
        if (guarded and axis in own) or not strides <= {0, 1} or any(hidden(o, axis) for o in offsets):
            return False
    return some


# Equal expressions


@frozen(eq=False)
class Numbers:
    """Numbers for values, equal for equal expressions."""

    table: dict[object, int]
    of: dict[int, int]
    alive: list[Scalar]

    @staticmethod
    def start() -> "Numbers":
        """None yet."""
        return Numbers({}, {}, [])

    def number(self, root: Scalar) -> int:
        """The number of a value."""
        for node in all_values([root]):
            if id(node) not in self.of:
                self.alive.append(node)
                self.of[id(node)] = self.table.setdefault(self._key(node), len(self.table))
        return self.of[id(root)]

    def _key(self, node: Scalar) -> object:
        match node:
            case Index():
                return node
            case Const(value=value, dtype=dtype):
                return "const", repr(value), dtype
            case Load(buffer=buffer, index=index):
                return "load", id(buffer), tuple(self.of[id(i)] for i in index)
            case Apply(fn=fn, args=args, dtype=dtype):
                return fn, dtype, tuple(self.of[id(a)] for a in args)
        return id(node)


def kept_stages(form: Form, far: bool) -> list[int]:
    """The stages whose elements a later stage or the result computes again, and that are worth keeping.

    Args:
        form: the reduction.
        far: whether reading an element again is slow in itself.
    """
    numbers = Numbers.start()
    own = [numbers.number(element) for element in form.elements]
    later = [{numbers.of[id(n)] for n in all_values([e])} for e in form.elements]
    final: set[int] = set()
    for _, _, value in form.finals if form.spread else ():
        numbers.number(value)
        final |= {numbers.of[id(n)] for n in all_values([value])}
    found = []
    for k, number in enumerate(own):
        again = number in final or any(number in found_in for found_in in later[k + 1 :])
        if again and number not in own[:k] and (worth_keeping(form.elements[k]) or far):
            found.append(k)
    return found


def worth_keeping(value: Value) -> bool:
    """Whether a value costs more than storing and loading it."""
    return is_costly(value) or len(_applied(value)) >= 4


def is_costly(value: Value) -> bool:
    """Whether a value takes a function that costs much."""
    return any(n.fn in COSTLY for n in _applied(value))


def with_known(form: Form, known: Mapping[int, Value], skip: int) -> Form:
    """Every expression equal to the element of stage `k` replaced by `known[k]`, but for the elements up to `skip`."""
    numbers = Numbers.start()
    wanted = {numbers.number(form.elements[k]): value for k, value in known.items()}
    found: dict[int, Scalar] = {}
    roots = [*form.elements[skip + 1 :], *(v for _, _, v in form.finals)]
    for root in roots:
        numbers.number(root)
        for node in all_values([root]):
            if isinstance(node, Value) and numbers.of[id(node)] in wanted:
                found[id(node)] = wanted[numbers.of[id(node)]]
    rewriter = Rewriter({}, known=found)
    elements = (*form.elements[: skip + 1], *(rewritten(rewriter, e) for e in form.elements[skip + 1 :]))
    finals = tuple((b, p, rewritten(rewriter, v)) for b, p, v in form.finals)
    return evolve(form, elements=elements, finals=finals)


def of_the_row(form: Form) -> list[Value]:
    """The largest parts of the results that are the same for a whole row and worth computing once."""
    if not form.beside:
        return []
    axes = set(form.beside)
    depends: dict[int, bool] = {}
    found: dict[int, Value] = {}
    for _, _, value in form.finals:
        for node in all_values([value]):
            parts = node.args if isinstance(node, Apply) else node.index if isinstance(node, Load) else ()
            mine = bool(node.variables & axes) if isinstance(node, Index) else False
            depends[id(node)] = mine or any(depends[id(p)] for p in parts)
            if isinstance(node, Apply) and depends[id(node)]:
                found |= {id(p): p for p in parts if isinstance(p, Apply) and not depends[id(p)]}
    return [value for value in found.values() if is_costly(value)]


def _applied(value: Value) -> list[Apply]:
    return [n for n in all_values([value]) if isinstance(n, Apply)]
