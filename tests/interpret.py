"""A slow interpreter of the loop IR, one element at a time, in plain Python and NumPy.

It is the yardstick for lowerings and schedules that does not share code with either: values are evaluated as NumPy
scalars of their own dtype, every load and store is checked against the bounds of its buffer, every index against the
bounds it claims, parallel loops run backwards (their iterations must not depend on their order), and scratch memory
starts as garbage. `interpret_call` runs an operator's lowering over small arrays:

    spec = spec_of("softmax")
    from tests.interpret import interpret_call
    (y,) = interpret_call(spec, Attrs({"axis": -1}), [x], [TensorType(x.shape, "float32")])
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from fusewire.ir.index import FloorDiv, Index, IndexVar, Mod, Product, ValueAtom, as_index
from fusewire.ir.loops import Alloc, Barrier, Builder, For, If, Prefetch, Stmt, Store
from fusewire.ir.op import Attrs
from fusewire.ir.scalar import (
    SHUFFLES,
    Apply,
    Buffer,
    Const,
    Load,
    Operand,
    Scalar,
    Value,
    compute_dtype,
    shuffle_places,
)
from fusewire.ir.scalar import cast as cast_value
from fusewire.ir.types import TensorType, Type, numpy_dtype, tensors_of
from fusewire.ops.lowering import Context, Map, Nest, Procedure, Reduce, Stage, View
from fusewire.ops.spec import OpSpec

Array: TypeAlias = npt.NDArray[Any]
Env: TypeAlias = Mapping[IndexVar, int]
Memory: TypeAlias = dict[Buffer, Array]


def evaluate(value: Scalar, env: Env, memory: Memory, lane: int = 0) -> Any:
    """One lane of a value as a NumPy scalar of the value's dtype; an `Index` gives a Python int.

    Args:
        value: what to evaluate.
        env: the loop counters.
        memory: the contents of every buffer that is read.
        lane: which lane of a vector.

    Raises:
        AssertionError: a load or an index leaves its bounds, or the expression breaks a rule of the language.

    """
    with np.errstate(all="ignore"):
        return _Evaluation(env, memory, lane).value(value)


class _Evaluation:
    """One evaluation; a node that is shared is computed once."""

    def __init__(self, env: Env, memory: Memory, lane: int) -> None:
        self.env, self.memory, self.lane = env, memory, lane
        self._done: dict[int, Any] = {}

    def value(self, value: Scalar) -> Any:
        if isinstance(value, Index):
            return self.index(value)
        if id(value) not in self._done:
            result = self._compute(value)
            expected = numpy_dtype(value.dtype)
            assert result.dtype == expected, f"{value} gave {result!r}, expected {expected}"
            self._done[id(value)] = result
        return self._done[id(value)]

    def _compute(self, value: Value) -> Any:
        match value:
            case Const(value=number, dtype=dtype):
                return numpy_dtype(dtype).type(number)
            case Load(buffer=buffer, index=index, lanes=lanes):
                offset = flat_offset(buffer, [self.index(i) for i in index], self.lane if lanes > 1 else 0)
                return self.memory[buffer].reshape(-1)[offset]
            case Apply(fn="select", args=(cond, yes, no)):
                return self.value(yes if self.value(cond) else no)
            case Apply(fn="iota", dtype=dtype):
                return numpy_dtype(dtype).type(self.lane)
            case Apply(fn=fn, args=args, lanes=lanes) if fn in SHUFFLES:
                place = shuffle_places(fn, lanes)[self.lane]
                return _Evaluation(self.env, self.memory, place % lanes).value(args[place // lanes])
            case Apply(fn="splat", args=(inner,)):
                return self.value(inner)
            case Apply(fn="cast", args=(inner,), dtype=dtype):
                return convert(self.value(inner), dtype)
            case Apply(fn="bitcast", args=(inner,), dtype=dtype):
                bits = np.asarray(self.value(inner))
                assert bits.itemsize == numpy_dtype(dtype).itemsize, f"bitcast of {bits.dtype} to {dtype}"
                return bits.view(numpy_dtype(dtype))[()]
            case Apply(fn=fn, args=args, dtype=dtype):
                for arg in args:
                    assert compute_dtype(arg.dtype) == arg.dtype, f"{fn} works on {arg.dtype}, a storage format"
                result = FUNCTIONS[fn](*(self.value(arg) for arg in args))
                return numpy_dtype(dtype).type(result)
        raise AssertionError(f"unknown value {value!r}")

    def index(self, index: Index) -> int:
        return index.const + sum(coeff * self._atom(atom) for atom, coeff in index.terms)

    def _atom(self, atom: Any) -> int:
        match atom:
            case IndexVar():
                result = self.env[atom]
            case FloorDiv(value=value, divisor=divisor):
                result = self.index(value) // divisor
            case Mod(value=value, divisor=divisor):
                result = self.index(value) % divisor
            case Product(a=a, b=b):
                result = self.index(a) * self.index(b)
            case ValueAtom(value=value):
                result = int(self.value(value))
            case _:
                raise AssertionError(f"unknown part of an index: {atom!r}")
        lo, hi = atom.bounds
        assert lo <= result <= hi, f"{atom} is {result}, outside of its bounds {lo}..{hi}"
        return result


def flat_offset(buffer: Buffer, index: Sequence[int], lane: int = 0) -> int:
    """The row-major offset of an element, each index checked against its own axis."""
    where = f"{buffer.name}{list(buffer.shape)} at {list(index)}"
    offset = 0
    for i, n in zip(index, buffer.shape, strict=True):
        assert 0 <= i < n, f"out of bounds: {where}"
        offset = offset * n + i
    offset = offset * buffer.lanes + lane
    assert offset < math.prod(buffer.shape) * buffer.lanes, f"out of bounds: {where}, lane {lane}"
    return offset


def convert(number: Any, dtype: str) -> Any:
    """A NumPy scalar or a Python int as a NumPy scalar of `dtype`; float to integer truncates towards zero."""
    return np.asarray(number).astype(numpy_dtype(dtype))[()]


def _is_int(number: Any) -> bool:
    return bool(np.issubdtype(np.asarray(number).dtype, np.integer))


def _wrapped(exact: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    """Integer arithmetic done exactly, then wrapped around to the operands' dtype."""

    def run(a: Any, b: Any) -> Any:
        bits = 8 * a.dtype.itemsize
        raw = exact(int(a), int(b)) & ((1 << bits) - 1)
        signed = a.dtype.kind == "i" and raw >> (bits - 1)
        return a.dtype.type(raw - (1 << bits) if signed else raw)

    return run


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b) if b else 0
    return quotient if (a < 0) == (b < 0) else -quotient


def _power(a: int, b: int) -> int:
    return a**b if b >= 0 else {1: 1, -1: -1 if b % 2 else 1}.get(a, 0)


def _by_kind(on_floats: Callable[[Any, Any], Any], on_ints: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    wrapped = _wrapped(on_ints)
    return lambda a, b: wrapped(a, b) if _is_int(a) else on_floats(a, b)


def _logical(on_bools: Callable[..., Any], on_ints: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: on_bools(*args) if isinstance(args[0], np.bool_) else on_ints(*args)


def _erf(x: Any) -> Any:
    return math.erf(float(x)) if not np.isnan(x) else x


def _fma(a: Any, b: Any, c: Any) -> Any:
    return a.dtype.type(np.float64(a) * np.float64(b) + np.float64(c)) if not _is_int(a) else a * b + c


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _by_kind(np.divide, _truncated),
    "floordiv": _by_kind(lambda a, b: np.floor(np.divide(a, b)), lambda a, b: a // b if b else 0),
    "mod": _by_kind(np.fmod, lambda a, b: a - b * _truncated(a, b) if b else 0),
    "floormod": _by_kind(np.mod, lambda a, b: a % b if b else 0),
    "pow": _by_kind(np.power, _power),
    "max": np.maximum,
    "min": np.minimum,
    "and": _logical(np.logical_and, np.bitwise_and),
    "or": _logical(np.logical_or, np.bitwise_or),
    "xor": _logical(np.logical_xor, np.bitwise_xor),
    "not": _logical(np.logical_not, np.invert),
    "shl": np.left_shift,
    "shr": np.right_shift,
    "atan2": np.arctan2,
    "fma": _fma,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": _erf,
    "round": np.rint,
    "lt": lambda a, b: np.bool_(a < b),
    "le": lambda a, b: np.bool_(a <= b),
    "gt": lambda a, b: np.bool_(a > b),
    "ge": lambda a, b: np.bool_(a >= b),
    "eq": lambda a, b: np.bool_(a == b),
    "ne": lambda a, b: np.bool_(a != b),
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    **{
        name: getattr(np, name)
        for name in (
            *("abs", "sign", "exp", "log", "log2", "log10", "sqrt", "tanh", "ceil", "floor", "trunc", "sin", "cos"),
            *("tan", "sinh", "cosh", "isnan", "isinf", "isfinite"),
        )
    },
}
"""What each function of the scalar language does; integers wrap around, and dividing one by zero gives zero."""


def run_statements(stmts: Sequence[Stmt], memory: Memory, env: Env | None = None, garbage: int = 0x55) -> None:
    """Execute statements on `memory`; `garbage` is the byte that fresh scratch memory is filled with.

    Raises:
        AssertionError: an access leaves its buffer, or a store has another dtype than its buffer.
        NotImplementedError: a barrier between work-items, which takes more than one thread to run.

    """
    env = dict(env or {})
    for stmt in stmts:
        match stmt:
            case For(var=var, extent=extent, body=body, kind=kind):
                for i in range(extent) if kind != "parallel" else reversed(range(extent)):
                    run_statements(body, memory, {**env, var: i}, garbage)
            case If(cond=cond, then=then, orelse=orelse):
                run_statements(then if evaluate(cond, env, memory) else orelse, memory, env, garbage)
            case Alloc(buffer=buffer):
                memory[buffer] = filled((*buffer.shape, buffer.lanes), buffer.dtype, garbage)
            case Store():
                _store(stmt, memory, env)
            case Barrier(scope="local"):
                raise NotImplementedError("a barrier between work-items cannot be run by one thread")
            case Barrier() | Prefetch():
                pass


def _store(stmt: Store, memory: Memory, env: Env) -> None:
    buffer, value = stmt.buffer, stmt.value
    assert value.dtype == buffer.dtype, f"store of {value.dtype} into {buffer.name}, which holds {buffer.dtype}"
    index = [cast(int, evaluate(i, env, memory)) for i in stmt.index]
    results = [evaluate(value, env, memory, lane) for lane in range(value.lanes)]
    for lane, result in enumerate(results):
        memory[buffer].reshape(-1)[flat_offset(buffer, index, lane)] = result


def filled(shape: Sequence[int], dtype: str, garbage: int) -> Array:
    """An array whose every byte is `garbage` (a bool is its last bit)."""
    if dtype == "bool":
        return np.full(shape, bool(garbage & 1))
    array = np.empty(tuple(shape), numpy_dtype(dtype))
    array.reshape(-1).view(np.uint8).fill(garbage)
    return array


def interpret_call(
    spec: OpSpec, attrs: Mapping[str, Any], arrays: Sequence[Array], arg_types: Sequence[Type]
) -> list[Array]:
    """The outputs of an operator, by interpreting its lowering.

    Args:
        spec: the operator.
        attrs: its attributes, as a call has them.
        arrays: the inputs, tuples flattened; they are converted to the dtypes of `arg_types`.
        arg_types: the types of the arguments.

    Raises:
        AssertionError: the lowering leaves a buffer, reads memory before it is written, leaves an element of the
            result unwritten, or breaks a rule of the scalar language.

    """
    attrs = attrs if isinstance(attrs, Attrs) else Attrs(attrs)
    types = [t for arg in arg_types for t in tensors_of(arg)]
    memory: Memory = {}
    views = []
    for k, (array, type_) in enumerate(zip(arrays, types, strict=True)):
        assert array.shape == type_.static_shape, f"argument {k} has shape {array.shape}, its type is {type_}"
        buffer = Buffer(f"in{k}", type_.static_shape, type_.dtype)
        memory[buffer] = np.array(array, numpy_dtype(type_.dtype))
        views.append(_view(buffer, type_))
    context = Context(attrs, tuple(views), spec.infer(arg_types, attrs))
    match spec.lowering:
        case Map() as lowering:
            return [_map(lowering, context, k, memory) for k in range(len(context.outs))]
        case Reduce() as lowering:
            return [_reduce(lowering, context, memory)]
        case Nest(write=write):
            return _procedure(Procedure(lambda c, b, outs: write(c, b, _storing(b, outs))), context, memory)
        case Procedure() as lowering:
            return _procedure(lowering, context, memory)
    raise AssertionError(f"{spec.name} has no lowering")


def _view(buffer: Buffer, type_: TensorType) -> View:
    compute = compute_dtype(type_.dtype)
    return View(type_, lambda *index: cast_value(Load(buffer, tuple(index)), compute))


def _axes(shape: Sequence[int]) -> tuple[Index, ...]:
    """One counter for each axis; an axis of one element needs none, as in `Builder.loop`."""
    return tuple(as_index(0 if n == 1 else IndexVar(f"i{k}", 0, max(n - 1, 0))) for k, n in enumerate(shape))


def _bound(axes: Sequence[Index], place: Sequence[int]) -> dict[IndexVar, int]:
    return {next(iter(axis.variables)): i for axis, i in zip(axes, place, strict=True) if axis.variables}


def _places(shape: Sequence[int]) -> "itertools.product[tuple[int, ...]]":
    return itertools.product(*(range(n) for n in shape))


def _map(lowering: Map, context: Context, k: int, memory: Memory) -> Array:
    out = context.outs[k]
    axes = _axes(out.static_shape)
    value = lowering.view(context, k)(*axes)
    result = np.empty(out.static_shape, numpy_dtype(out.dtype))
    for place in _places(out.static_shape):
        result[place] = convert(evaluate(value, _bound(axes, place), memory), out.dtype)
    return result


def _reduce(lowering: Reduce, context: Context, memory: Memory) -> Array:
    reduction = lowering.make(context)
    out = context.out
    shape = reduction.shape or out.static_shape
    assert math.prod(shape) == math.prod(out.static_shape)
    rows = [n for axis, n in enumerate(shape) if axis not in reduction.spread]
    assert tuple(rows) == reduction.rows, f"{reduction.rows} rows for an output of shape {shape}"
    assert len({stage.extents for stage in reduction.stages}) == 1
    axes = _axes(shape)
    row_axes = reduction.row_of(axes)
    memory = dict(memory)
    stages: list[tuple[Stage, Value, tuple[Index, ...], Buffer]] = []
    loads: list[Value] = []
    for k, stage in enumerate(reduction.stages):
        over = _axes(stage.extents)
        value = _value(stage.element(row_axes, over, *loads))
        dtype = "int64" if stage.combine.startswith("arg") else value.dtype
        buffer = Buffer(f"stage{k}", (), dtype, "register")
        stages.append((stage, value, over, buffer))
        loads.append(Load(buffer, ()))
    result = np.empty(shape, numpy_dtype(out.dtype))
    final = cast_value(cast_value(reduction.result(axes, *loads), context.dtype), out.dtype)
    spread_shape = [shape[axis] for axis in reduction.spread]
    spread_axes = [axes[axis] for axis in reduction.spread]
    for row in _places(reduction.rows):
        env = _bound(row_axes, row)
        for stage, value, over, buffer in stages:
            terms = [evaluate(value, {**env, **_bound(over, r)}, memory) for r in _places(stage.extents)]
            memory[buffer] = np.asarray(combine(stage, terms, value.dtype))
            assert memory[buffer].dtype == numpy_dtype(buffer.dtype)
        for place in _places(spread_shape):
            at = list(row)
            for axis, i in sorted(zip(reduction.spread, place, strict=True)):
                at.insert(axis, i)
            result[tuple(at)] = evaluate(final, {**env, **_bound(spread_axes, place)}, memory)
    return result.reshape(out.static_shape)


def _value(operand: Operand) -> Value:
    """What a stage reduces over: a value with a dtype (an index counts as int64)."""
    if isinstance(operand, Index):
        return cast_value(operand, "int64")
    assert isinstance(operand, Value), f"the element of a stage must have a dtype, got {operand!r}"
    return operand


def combine(stage: Stage, terms: Sequence[Any], dtype: str) -> Any:
    """The reduction of `terms` (in row-major order) as a NumPy scalar; sums are accumulated in `dtype`."""
    type_ = numpy_dtype(dtype).type
    array = np.asarray(terms, numpy_dtype(dtype))
    integer = array.dtype.kind in "iu"
    match stage.combine:
        case "sum":
            return array.sum(dtype=array.dtype)
        case "prod":
            return array.prod(dtype=array.dtype)
        case "max" | "min" | "top" if not len(array):
            largest = stage.combine == "min"
            if not integer:
                return type_(largest) if dtype == "bool" else type_(math.inf if largest else -math.inf)
            return type_(np.iinfo(array.dtype).max if largest else np.iinfo(array.dtype).min)
        case "max":
            return array.max()
        case "top":  # NaN may be overlooked; -inf is the least that it can be
            return np.fmax.reduce(array)
        case "min":
            return array.min()
        case "all" | "any":
            assert dtype == "bool", f"{stage.combine} of {dtype}"
            return np.bool_(array.all() if stage.combine == "all" else array.any())
        case "argmax" | "argmin" if not len(array):
            return np.int64(0)
        case "argmax" | "argmin":
            place = np.argmax if stage.combine == "argmax" else np.argmin
            return np.int64(len(array) - 1 - place(array[::-1]) if stage.last else place(array))
    raise AssertionError(f"unknown reduction {stage.combine!r}")


def _storing(builder: Builder, outputs: Sequence[Buffer]) -> Callable[[Sequence[Index], Value], None]:
    (out,) = outputs
    return lambda index, value: builder.store(out, index, value)


def _procedure(lowering: Procedure, context: Context, memory: Memory) -> list[Array]:
    """Run twice with different garbage in fresh memory: what is never written, or read too early, differs."""
    runs = []
    for garbage in (0x55, 0x2A):
        outputs = [Buffer(f"out{k}", t.static_shape, t.dtype) for k, t in enumerate(context.outs)]
        builder = Builder()
        lowering.write(context, builder, outputs)
        state = {**memory, **{b: filled(b.shape, b.dtype, garbage) for b in outputs}}
        run_statements(builder.finish(), state, garbage=garbage)
        runs.append([state[b] for b in outputs])
    for k, (first, second) in enumerate(zip(*runs, strict=True)):
        assert first.tobytes() == second.tobytes(), f"output {k} depends on memory that was never written"
    return runs[0]
