"""The scalar half of the loop IR: what one element of a result is computed from.

A value is a constant, an integer `Index`, a load from a buffer, or a function applied to values. Operators in `ops` are
written with these as ordinary Python expressions: `exp(x - m) / s`. Values have a dtype and a number of lanes; code
is written for one lane, and the vectoriser widens it. float16 and bfloat16 are storage formats: arithmetic on them is
done in float32 (`compute_dtype`). Nodes are compared by identity; sharing a node means computing it once.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from attrs import field, frozen

from .errors import VerifyError
from .index import Dim, Index, ValueAtom, as_index


@frozen(eq=False)
class Buffer:
    """Memory that kernels read and write: a dense row-major array.

    `scope` is "param" (given by the caller), "register" (one thread, stays in registers), "thread" (private scratch),
    "team" (scratch shared by all threads of one inference), "local" (shared by a work-group) or "image" (given by the
    caller, only read, of float32 and shape (rows, columns, 4): a device may have a cache of its own for such).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scope: str = "param"
    lanes: int = 1
    """Lanes of one element: more than 1 only for vector registers."""
    source: "Buffer | None" = None
    """The buffer whose memory this is, where it is another one read as another type (see `in_pairs`)."""

    def offset(self, index: Sequence[Dim]) -> Index:
        """The row-major element offset of a multi-dimensional index."""
        total = as_index(0)
        for dim, i in zip(self.shape, index, strict=True):
            total = total * dim + i
        return total


class Value:
    """Root of scalar values other than `Index`; arithmetic operators build `Apply` nodes."""

    __slots__ = ()
    dtype: str
    lanes: int

    def __add__(self, other: "Operand") -> "Value":
        return apply("add", self, other)

    def __radd__(self, other: "Operand") -> "Value":
        return apply("add", other, self)

    def __sub__(self, other: "Operand") -> "Value":
        return apply("sub", self, other)

    def __rsub__(self, other: "Operand") -> "Value":
        return apply("sub", other, self)

    def __mul__(self, other: "Operand") -> "Value":
        return apply("mul", self, other)

    def __rmul__(self, other: "Operand") -> "Value":
        return apply("mul", other, self)

    def __truediv__(self, other: "Operand") -> "Value":
        return apply("div", self, other)

    def __rtruediv__(self, other: "Operand") -> "Value":
        return apply("div", other, self)

    def __neg__(self) -> "Value":
        return apply("neg", self)


@frozen(eq=False)
class Const(Value):
    """A number."""

    value: Any
    dtype: str
    lanes: int = 1


@frozen(eq=False)
class Load(Value):
    """`lanes` consecutive elements of a buffer, the first at `index`."""

    buffer: Buffer
    index: tuple[Index, ...]
    lanes: int = 1
    dtype: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        if len(self.index) != len(self.buffer.shape):
            raise VerifyError(f"load of {self.buffer.name}{list(self.buffer.shape)} with {len(self.index)} indices")
        object.__setattr__(self, "dtype", self.buffer.dtype)


@frozen(eq=False)
class Apply(Value):
    """A function of values; which functions there are, and their result types, is in `SIGNATURES`."""

    fn: str
    args: tuple["Scalar", ...]
    dtype: str
    lanes: int = 1


Scalar: TypeAlias = Value | Index
Operand: TypeAlias = Value | Index | int | float | bool

_SAME = "same"  # operands agree, and the result has their dtype
_TEST = "bool"  # operands agree, and the result is bool
SIGNATURES: dict[str, str] = {
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "floordiv", "mod", "floormod", "pow", "max", "min", "and", "or", "xor"), _SAME
    ),
    **dict.fromkeys(("max_else", "min_else", "async"), _SAME),
    **dict.fromkeys(("shl", "shr", "atan2", "fma", "neg", "not", "abs", "sign"), _SAME),
    **dict.fromkeys(
        ("exp", "log", "log2", "log10", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "ceil", "floor", "round"), _SAME
    ),
    **dict.fromkeys(
        ("trunc", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), _SAME
    ),
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne", "isnan", "isinf", "isfinite"), _TEST),
}
"""Every function of the scalar language but `select`, `cast`, `bitcast`, `splat`, `dot2`, `pair`, and `iota` (0, 1, 2,
... in lanes).

`div` and `mod` truncate for integers (division by zero gives 0), `floordiv` and `floormod` round down; `max` and `min`
give NaN where an operand is NaN, `max_else` and `min_else` (of floats) their second operand; `round` rounds halves to
even; `and`, `or`, `xor`, `not` are logical on bool and bitwise on integers. `async` is its
operand; a store of it to a local array need not be done before the next barrier.
"""

SHUFFLES = tuple(
    [f"swap{step}_{half}" for step in (1, 2, 4, 8, 16, 32) for half in ("lo", "hi")]
    + [f"rotate{step}" for step in (1, 2, 4, 8, 16, 32)]
    + ["every2", "reverse", "zip_lo", "zip_hi"]
)
SIGNATURES.update(dict.fromkeys(SHUFFLES, _SAME))

EXCHANGES = {f"item_xor{step}": step for step in (1, 2, 4, 8, 16)}
"""What the work-item whose number differs in one bit has for the operand: `item_xor4` gives item 5 the value of item 1.

All items of a group must come to it together, as to a barrier, and it stands in a store only: as the value, or as an
operand of it. Items up to 32, counted through, are close enough on every GPU to do it without memory (a warp).
"""
SIGNATURES.update(dict.fromkeys(EXCHANGES, _SAME))


def shuffle_places(fn: str, lanes: int) -> tuple[int, ...]:
    """For each lane of a shuffle's result, which lane of its operands, one behind the other, it takes.

    swapN_lo, swapN_hi  (a, b): exchange the blocks of N lanes off the diagonal; with N = 1, 2, 4, ... between vectors
                        whose numbers differ by N, this transposes a square matrix (Eklundh: A fast computer method
                        for matrix transposing, 1972)
    rotateN             (a, a): N lanes further, cyclically
    every2              (a, b): the even lanes of a, then the odd ones of b
    reverse             (a, a): last lane first
    zip_lo, zip_hi      (a, b): the lanes of the lower or upper halves of a and b in turn
    """
    if fn.startswith("zip"):
        half = lanes // 2 if fn == "zip_hi" else 0
        return tuple(i // 2 + half + (lanes if i % 2 else 0) for i in range(lanes))
    if fn == "every2":
        half = lanes // 2
        return tuple(2 * i if i < half else lanes + 2 * (i - half) + 1 for i in range(lanes))
    if fn == "reverse":
        return tuple(range(lanes - 1, -1, -1))
    if fn.startswith("rotate"):
        return tuple((i + int(fn[6:])) % lanes for i in range(lanes))
    step, _, half_name = fn[4:].partition("_")
    n = int(step)
    if half_name == "lo":
        return tuple(lanes + i - n if i & n else i for i in range(lanes))
    return tuple(lanes + i if i & n else i + n for i in range(lanes))


_COMPARE = {"lt": lambda lo, hi: _decide(hi < 0, lo >= 0), "ge": lambda lo, hi: _decide(lo >= 0, hi < 0),
            "le": lambda lo, hi: _decide(hi <= 0, lo > 0), "gt": lambda lo, hi: _decide(lo > 0, hi <= 0),
            "eq": lambda lo, hi: _decide(lo == hi == 0, lo > 0 or hi < 0),
            "ne": lambda lo, hi: _decide(lo > 0 or hi < 0, lo == hi == 0)}  # fmt: skip


def _decide(yes: bool, no: bool) -> bool | None:
    return True if yes else False if no else None


SMALL_FLOATS = ("float16", "bfloat16")
"""Storage formats: arithmetic on them is done in float32."""


def compute_dtype(dtype: str) -> str:
    """The dtype that arithmetic on `dtype` is done in."""
    return "float32" if dtype in SMALL_FLOATS else dtype


def is_float(dtype: str) -> bool:
    """Whether `dtype` is a floating type."""
    return dtype.startswith(("float", "bfloat"))


def constant(value: Any, dtype: str) -> Const:
    """A number of type `dtype`; integers wrap around as in C."""
    if dtype == "bool":
        return Const(bool(value), dtype)
    if is_float(dtype):
        return Const(float(value), dtype)
    bits = int(dtype.lstrip("uint"))
    number = int(value) & ((1 << bits) - 1)
    return Const(number - (1 << bits) if dtype[0] == "i" and number >> (bits - 1) else number, dtype)


def _operands(args: Sequence[Operand]) -> list[Scalar]:
    """Python numbers take the dtype of the other operands; an index meets only indices and integers."""
    typed = [a for a in args if isinstance(a, Value)]
    if not typed:
        if any(isinstance(a, float) and not a.is_integer() for a in args):
            raise VerifyError(f"{args} have no dtype: give one with constant(value, dtype)")
        return [as_index(int(a)) if not isinstance(a, Index) else a for a in args]  # type: ignore[arg-type]
    dtype = typed[0].dtype
    return [a if isinstance(a, Value) else cast(a, dtype) if isinstance(a, Index) else constant(a, dtype) for a in args]


def apply(fn: str, *args: Operand) -> Value:
    """`fn(*args)`, with constants folded where that is exact."""
    values = _operands(args)
    kinds = {v.dtype for v in values}
    if len(kinds) != 1:
        raise VerifyError(f"{fn} of different types: {', '.join(v.dtype for v in values)}")
    dtype = kinds.pop()
    if dtype == "index":
        return _compare_indices(fn, values)
    lanes = max(v.lanes for v in values)
    if fn in ("and", "or") and dtype == "bool":
        for a, b in (values, values[::-1]):
            if isinstance(a, Const) and isinstance(b, Value):
                return b if a.value == (fn == "and") else a
    return Apply(fn, tuple(values), "bool" if SIGNATURES[fn] == _TEST else dtype, lanes)


def _compare_indices(fn: str, values: list[Scalar]) -> Value:
    if fn not in _COMPARE:
        raise VerifyError(f"{fn} is not defined on indices; cast them to a value first")
    a, b = values
    assert isinstance(a, Index) and isinstance(b, Index)
    decided = _COMPARE[fn](*(a - b).bounds)
    return Const(decided, "bool") if decided is not None else Apply(fn, (a, b), "bool")


def cast(value: Operand, dtype: str) -> Value:
    """`value` converted to another dtype; float to integer truncates towards zero."""
    if isinstance(value, Index) and value.is_const:
        return constant(value.const, dtype)
    if not isinstance(value, Value | Index):
        return constant(value, dtype)
    if isinstance(value, Value) and value.dtype == dtype:
        return value
    if isinstance(value, Apply) and value.fn == "cast" and (value.dtype, value.args[0].dtype) == ("float32", dtype):
        inner = value.args[0]
        if dtype in SMALL_FLOATS and isinstance(inner, Value):
            return inner  # what was widened is narrowed again
    if (
        isinstance(value, Const)
        and value.dtype != "bool"
        and math.isfinite(value.value)
        and dtype in ("float32", "float64")
    ):
        return Const(float(value.value), dtype)
    if dtype == "bool" and value.dtype != "index":
        return apply("ne", value, 0)
    if isinstance(value, Apply) and value.fn == "cast" and value.dtype == compute_dtype(dtype) != dtype:
        (source,) = value.args
        if isinstance(source, Value) and source.dtype == dtype:  # to the wider type and back
            return source
    return Apply("cast", (value,), dtype, value.lanes)


def later(value: Value) -> Value:
    """`value`, which, stored to a local array, need not be there before the next barrier of the work-group."""
    return Apply("async", (value,), value.dtype, value.lanes)


def bitcast(value: Value, dtype: str) -> Value:
    """The same bits read as another dtype of the same size."""
    return Apply("bitcast", (value,), dtype, value.lanes)


def pair(first: Value, second: Value) -> Value:
    """Two float32 values rounded to bfloat16, side by side in the bits of a uint32: the first in the lower half."""
    return Apply("pair", (first, second), "uint32", max(first.lanes, second.lanes))


def dot2(a: Value, b: Value, acc: Value) -> Value:
    """`acc + a[0] * b[0] + a[1] * b[1]` in float32, for pairs of bfloat16 in the bits of a uint32.

    It is one instruction on some processors; whether denormal numbers count as 0, and how the sum is rounded, is left
    to it.
    """
    if (a.dtype, b.dtype, acc.dtype) != ("uint32", "uint32", "float32"):
        raise VerifyError(f"dot2 takes two uint32 and a float32, got {a.dtype}, {b.dtype} and {acc.dtype}")
    return Apply("dot2", (a, b, acc), "float32", max(a.lanes, b.lanes, acc.lanes))


def in_pairs(buffer: Buffer) -> Buffer:
    """A bfloat16 buffer whose last axis is even, read as pairs of neighbours."""
    *outer, last = buffer.shape
    if buffer.dtype != "bfloat16" or last % 2:
        raise VerifyError(f"{buffer.name}: {buffer.dtype}{list(buffer.shape)} does not consist of pairs of bfloat16")
    return Buffer(f"{buffer.name}_pairs", (*outer, last // 2), "uint32", buffer.scope, source=buffer)


def splat(value: Value, lanes: int) -> Value:
    """`value` in every lane."""
    if isinstance(value, Const):
        return Const(value.value, value.dtype, lanes)
    return value if value.lanes == lanes else Apply("splat", (value,), value.dtype, lanes)


def select(cond: Operand, yes: Operand, no: Operand) -> Value:
    """`yes` where `cond` holds, else `no`; the arm not taken is not evaluated, so a load there may be out of bounds."""
    if isinstance(cond, bool):
        cond = Const(cond, "bool")
    yes_, no_ = _operands((yes, no))
    if not isinstance(cond, Value) or cond.dtype != "bool" or yes_.dtype != no_.dtype:
        raise VerifyError(f"select needs a bool and two values of one type, got {cond}, {yes_.dtype} and {no_.dtype}")
    if isinstance(cond, Const):
        chosen = yes_ if cond.value else no_
        return chosen if isinstance(chosen, Value) else cast(chosen, "int64")
    if isinstance(yes_, Index):
        yes_, no_ = cast(yes_, "int64"), cast(no_, "int64")
    return Apply("select", (cond, yes_, no_), yes_.dtype, max(cond.lanes, yes_.lanes, no_.lanes))


def all_of(conds: Sequence[Value]) -> Value:
    """Logical and of any number of conditions."""
    result: Value = Const(True, "bool")
    for cond in conds:
        result = apply("and", result, cond)
    return result


def inside(index: Sequence[Dim], shape: Sequence[int]) -> Value:
    """Whether a multi-dimensional index lies within `shape`; parts that are always true vanish."""
    tests = [test for i, n in zip(index, shape, strict=True) for test in (apply("ge", i, 0), apply("lt", i, n))]
    return all_of(tests)


def as_position(value: Scalar, lo: int, hi: int) -> Index:
    """An integer value as an index; the caller guarantees (by clamping) that it lies in `lo..hi`."""
    if isinstance(value, Index):
        return value
    if isinstance(value, Const):
        return as_index(int(value.value))
    return Index(frozenset([(ValueAtom(value, lo, hi), 1)]))


def clamped(value: Scalar, extent: int) -> Index:
    """An integer value clamped to 0..extent-1, as an index: no load through it can leave the buffer."""
    if isinstance(value, Index) and value.bounds[0] >= 0 and value.bounds[1] < extent:
        return value
    wide = cast(value, "int64")
    return as_position(apply("min", apply("max", wide, 0), max(extent - 1, 0)), 0, max(extent - 1, 0))


def lowest(dtype: str) -> Const:
    """The least value of a dtype (-inf for floats)."""
    if dtype == "bool" or is_float(dtype):
        return constant(False if dtype == "bool" else -math.inf, dtype)
    return constant(-(1 << (int(dtype[3:]) - 1)) if dtype[0] == "i" else 0, dtype)


def highest(dtype: str) -> Const:
    """The greatest value of a dtype (+inf for floats)."""
    if dtype == "bool" or is_float(dtype):
        return constant(True if dtype == "bool" else math.inf, dtype)
    return constant((1 << (int(dtype[3:]) - 1)) - 1 if dtype[0] == "i" else (1 << int(dtype[4:])) - 1, dtype)


def operands_of(value: Scalar) -> tuple[Scalar, ...]:
    """The direct operands of a value, index expressions of loads and values inside indices included."""
    match value:
        case Apply(args=args):
            return args
        case Load(index=index):
            return index
        case Index():
            return value.values
    return ()
