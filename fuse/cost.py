"""What it costs to inline an operator, read off its lowering.

Generated code inlines every producer of a group at each place where it is read. Whether that is wise depends on how
often an operator reads each input per output element (transpose once, bilinear resize four times, y = x + T(x)
twice), and on how much arithmetic an element takes. Both are measured by lowering one element symbolically and looking
at the result, so an operator need not declare them.
"""

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

from attrs import frozen

from ..ir.expr import Call
from ..ir.index import Index, IndexVar, as_index
from ..ir.op import Attrs
from ..ir.scalar import Apply, Buffer, Load, Scalar, Value, cast, compute_dtype, operands_of
from ..ir.types import TensorType, Type, tensors_of
from ..ops.lowering import Context, Map, Reduce, View
from ..ops.spec import OpSpec, spec_of

EXPENSIVE = 4
"""Arithmetic per element from which recomputing an element costs more than reading it back from the cache."""

_WORK = {
    **dict.fromkeys(("div", "floordiv", "mod", "floormod", "sqrt", "rsqrt"), 4),
    **dict.fromkeys(("exp", "log", "log2", "log10", "tanh", "sigmoid", "erf", "pow", "atan2"), 8),
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), 8),
    **dict.fromkeys(("cast", "bitcast", "splat"), 0),
}
"""Rough costs of scalar functions in additions; what is not listed costs 1."""


@frozen
class OpCost:
    """The cost of one output element.

    Attributes:
        reads: for each input tensor (tuples flattened), at how many places it is read; for a reduction, how often each
            input element is read.
        work: arithmetic, in additions.

    """

    reads: tuple[int, ...]
    work: int

    @property
    def expensive(self) -> bool:
        """Whether an element should not be computed more often than needed."""
        return self.work >= EXPENSIVE


def cost_of(call: Call) -> OpCost:
    """The cost of a call of an operator.

    Operators that are no maps or reductions, and calls with symbolic dimensions, count as one read of each input and no
    arithmetic.
    """
    return _cost(spec_of(call), call.attrs, tuple(arg.checked_type for arg in call.args), call.checked_type)


_Reads: TypeAlias = list[set[tuple[Index, ...]]]


@functools.lru_cache(4096)
def _cost(spec: OpSpec, attributes: Attrs, arg_types: tuple[Type, ...], result: Type) -> OpCost:
    inputs = [t for type_ in arg_types for t in tensors_of(type_)]
    outputs = tensors_of(result)
    if not all(t.is_static for t in (*inputs, *outputs)):
        return OpCost((1,) * len(inputs), 0)
    reads: _Reads = [set() for _ in inputs]
    views = tuple(_counting(t, seen) for t, seen in zip(inputs, reads, strict=True))
    values = _values(spec, Context(attributes, views, result), outputs[0])
    return OpCost(tuple(max(1, len(seen)) for seen in reads), _work(values))


def _counting(type_: TensorType, seen: set[tuple[Index, ...]]) -> View:
    buffer = Buffer("input", type_.static_shape, type_.dtype)

    def read(*index: Index) -> Value:
        seen.add(index)
        return cast(Load(buffer, index), compute_dtype(type_.dtype))

    return View(type_, read)


def _values(spec: OpSpec, context: Context, out: TensorType) -> list[Value]:
    """The scalar expressions of one output element."""
    match spec.lowering:
        case Map() as lowering:
            return [lowering.view(context)(*_variables(out.static_shape))]
        case Reduce() as lowering:
            reduction = lowering.make(context)
            row = _variables(reduction.rows)
            stages: list[Value] = []
            for stage in reduction.stages:
                earlier = [Load(Buffer("stage", (), value.dtype), ()) for value in stages]
                value = stage.element(row, _variables(stage.extents), *earlier)
                stages.append(value if isinstance(value, Value) else cast(value, context.dtype))
            return stages
    return []


def _variables(extents: Sequence[int]) -> tuple[Index, ...]:
    return tuple(as_index(IndexVar("i", 0, max(n - 1, 0))) for n in extents)


def _work(values: Sequence[Scalar]) -> int:
    total, seen, pending = 0, set[int](), list(values)
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Apply):
            total += _WORK.get(value.fn, 1)
        pending.extend(operands_of(value))
    return total


def size_ratio(outputs: Sequence[TensorType], inputs: Sequence[TensorType]) -> float:
    """Elements of all `outputs` over elements of all `inputs`; 1 where that is not known or there are none."""
    if not all(t.is_static for t in (*outputs, *inputs)):
        return 1.0
    above, below = (sum(math.prod(t.static_shape) for t in types) for types in (outputs, inputs))
    return above / below if below else 1.0
