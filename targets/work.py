"""How much work a group is: the arithmetic that its definition takes, and the bytes it must at least move.

Both are read off the operators' lowerings, so no operator declares them but those whose lowering is no measure
(`OpSpec.flops`): a transposed convolution is lowered as sums over all taps, most of which are zero.

What counts as one operation: an arithmetic function of elements (add, max, exp, ...; fma is two). Selecting, comparing
places, converting and copying are free. So a multiply-add is two operations, and a convolution takes twice its
multiplications. It is the definition that counts, not what a schedule makes of it: Winograd's convolution does fewer
operations than this and then seems to be faster than the processor; repeated work of fused producers counts once.

Bytes: each input (constants too) and each result once, but of an input no more elements than can be read: a `take` of
three rows does not read the whole table.
"""

import functools
import math
from collections.abc import Sequence

from attrs import evolve, frozen

from ..fuse.cost import cost_of
from ..ir.expr import Call, Expr, Function, Tuple, TupleGetItem
from ..ir.index import Index, IndexVar, as_index
from ..ir.op import Attrs
from ..ir.scalar import Apply, Buffer, Load, Value, operands_of
from ..ir.types import TensorType, Type, numpy_dtype, tensors_of
from ..ir.visitor import post_order
from ..ops.lowering import Context, Map, Reduce
from ..ops.spec import OpSpec, spec_of
from .lower import load_view
from .program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step, item_range

_FREE = ("cast", "bitcast", "splat", "select")


@frozen
class Work:
    """What a group does.

    Attributes:
        flops: operations of its definition.
        read: bytes of each parameter that are read, tuples flattened.
        written: bytes of the results.
        dtype: the widest floating dtype that is computed in, "float32" where there is none.
    """

    flops: int
    read: tuple[int, ...]
    written: int
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""
        return sum(self.read) + self.written


def work_of(function: Function) -> Work:
    """The work of a group (a function without symbolic dimensions that calls operators only)."""
    order = post_order(function.body)
    calls = [node for node in order if isinstance(node, Call)]
    results = tensors_of(function.body.checked_type)
    types = [*results, *(t for p in function.params for t in tensors_of(p.checked_type))]
    wide = any(t.dtype == "float64" for t in types)
    return Work(
        sum(map(flops_of, calls)),
        _read(function, order),
        sum(t.nbytes for t in results),
        "float64" if wide else "float32",
    )


def flops_of(call: Call) -> int:
    """The operations that a call's definition takes; 0 for procedures (sorting, scattering), which only move data."""
    return _flops(spec_of(call), call.attrs, tuple(arg.checked_type for arg in call.args), call.checked_type)


@functools.lru_cache(4096)
def _flops(spec: OpSpec, attributes: Attrs, arg_types: tuple[Type, ...], result: Type) -> int:
    if spec.flops is not None:
        return spec.flops(attributes, *arg_types)
    outputs = tensors_of(result)
    inputs = [t for type_ in arg_types for t in tensors_of(type_)]
    context = Context(attributes, tuple(load_view(Buffer("input", t.static_shape, t.dtype), t) for t in inputs), result)
    match spec.lowering:
        case Map() as lowering:
            counts = [(t, lowering.view(context, k)) for k, t in enumerate(outputs)]
            return sum(_size(t) * operations([v(*_places(t.static_shape))]) for t, v in counts if _size(t))
        case Reduce() as lowering:
            return _reduction(lowering, context)
    return 0


def _reduction(lowering: Reduce, context: Context) -> int:
    reduction = lowering.make(context)
    if not _size(context.out):
        return 0
    row, total = _places(reduction.rows), 0
    loads: list[Value] = []
    for stage in reduction.stages:
        element = stage.element(row, _places(stage.extents), *loads)
        # One more for the combination with what was found before.
        total += math.prod(reduction.rows) * math.prod(stage.extents) * (operations([element]) + 1)
        dtype = "int64" if stage.combine.startswith("arg") else getattr(element, "dtype", context.dtype)
        loads.append(Load(Buffer("stage", (), dtype), ()))
    final = reduction.result(_places(context.shape), *loads)
    return total + _size(context.out) * (operations([final]) if isinstance(final, Value) else 0)


def operations(values: Sequence[object]) -> int:
    """The operations in scalar expressions; shared values count once, and arithmetic on places not at all."""
    data: dict[int, bool] = {}  # whether a value depends on elements, and not on places only
    total = 0
    pending = [(value, False) for value in values if isinstance(value, Value)]
    while pending:
        value, ready = pending.pop()
        if id(value) in data:
            continue
        inner = [a for a in operands_of(value) if isinstance(a, Value)]
        if not ready:
            pending += [(value, True), *((a, False) for a in inner)]
            continue
        data[id(value)] = isinstance(value, Load) or any(data[id(a)] for a in inner)
        if isinstance(value, Apply) and data[id(value)] and value.fn not in _FREE:
            total += 2 if value.fn == "fma" else 1
    return total


def _places(extents: Sequence[int]) -> tuple[Index, ...]:
    return tuple(as_index(IndexVar("i", 0, max(n - 1, 0))) for n in extents)


def _size(type_: TensorType) -> int:
    return math.prod(type_.static_shape)


def _read(function: Function, order: Sequence[Expr]) -> tuple[int, ...]:
    """Bytes read of each parameter: how many elements of every value are needed, from the results backwards."""
    wanted: dict[int, list[int]] = {}

    def want(node: Expr, elements: Sequence[int]) -> None:
        sizes = [_size(t) for t in tensors_of(node.checked_type)]
        known = wanted.get(id(node), [0] * len(sizes))
        wanted[id(node)] = [min(n, a + b) for n, a, b in zip(sizes, known, elements, strict=True)]

    want(function.body, [_size(t) for t in tensors_of(function.body.checked_type)])
    for node in reversed(order):
        elements = wanted.get(id(node), [])
        match node:
            case Tuple(fields=fields):
                for f in fields:
                    count = len(tensors_of(f.checked_type))
                    want(f, elements[:count])
                    elements = elements[count:]
            case TupleGetItem(tuple_value=value):
                whole = [0] * len(tensors_of(value.checked_type))
                whole[item_range(node)] = elements
                want(value, whole)
            case Call():
                for arg, needed in zip(node.args, _needed(node, sum(elements)), strict=True):
                    want(arg, needed)
    found: list[int] = []
    for param in function.params:
        types = tensors_of(param.checked_type)
        counts = wanted.get(id(param), [0] * len(types))
        found += [n * numpy_dtype(t.dtype).itemsize for n, t in zip(counts, types, strict=True)]
    return tuple(found)


def _needed(call: Call, elements: int) -> list[list[int]]:
    """For each argument: how many elements of its tensors `elements` of the result may read, at most."""
    types = [tensors_of(arg.checked_type) for arg in call.args]
    if not isinstance(spec_of(call).lowering, Map):
        return [[_size(t) for t in group] for group in types]
    reads = list(cost_of(call).reads)
    needed = []
    for group in types:
        counts, reads = reads[: len(group)], reads[len(group) :]
        needed.append([count * elements for count in counts])
    return needed


def work_of_step(step: Step, program: Program) -> Work | None:
    """The work of a step; a tensor that is given to it twice is read once. None for branches."""
    match step:
        case CopyStep(source=source):
            nbytes = program.slots[source].nbytes
            return Work(0, (nbytes,), nbytes, "float32")
        case KernelStep(inputs=inputs) | LibraryStep(inputs=inputs):
            work = work_of(step.function)
            once = dict(sorted(zip(inputs, work.read, strict=True), key=lambda p: p[1]))
            return evolve(work, read=tuple(once.values()))
    return None


def flops_of_program(program: Program) -> int | None:
    """The operations of one run; None where branches decide them."""
    if any(isinstance(step, BranchStep) for step in program.steps):
        return None
    return sum(work_of(step.function).flops for step in program.leaf_steps())
