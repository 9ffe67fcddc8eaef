"""Operators on the elements of two tensors (three for `where`), broadcast against each other as in NumPy.

Both operands must have one dtype; `cast` first where they differ. Integer arithmetic wraps around, and dividing an
integer by zero gives 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, as_expr, call
from ..ir.index import Dim
from ..ir.op import Attrs
from ..ir.scalar import Value, apply, select
from ..ir.types import DTYPES, INTEGERS, TensorType, Type
from .arguments import shown
from .lowering import pointwise
from .spec import EVERY, INT, NUMERIC, Array, Case, Cases, Fusion, operator, tensor
from .unary import NUMBERS, draw_shape, dtype_among


def broadcast_shape(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The shape that tensors have together: aligned at the last axis, sizes of 1 stretched.

    A symbolic dimension fits itself and 1.

    Raises:
        TypeInferenceError: two sizes differ and neither is 1.

    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, rank - len(shape)):
            if result[axis] == 1:
                result[axis] = dim
            elif dim not in (1, result[axis]):
                listed = " and ".join(map(shown, shapes))
                raise TypeInferenceError(
                    f"cannot broadcast shapes {listed}: axis {axis - rank} has sizes {result[axis]} and {dim}, "
                    "expected equal sizes or 1"
                )
    return tuple(result)


def broadcast_type(*operands: TensorType) -> TensorType:
    """The type of an elementwise result, in the operands' common dtype.

    Raises:
        TypeInferenceError: the dtypes differ, or the shapes do not fit.

    """
    if len({operand.dtype for operand in operands}) != 1:
        got = " and ".join(operand.dtype for operand in operands)
        raise TypeInferenceError(f"the operands have dtypes {got}, expected one dtype; use cast")
    return TensorType(broadcast_shape(*(operand.shape for operand in operands)), operands[0].dtype)


def draw_broadcast(rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
    """Random shapes that broadcast against each other, for test cases; each may be the smaller one."""
    whole = draw_shape(rng)
    shapes = []
    for _ in range(count):
        shape = whole[rng.integers(len(whole) + 1) if rng.random() < 0.3 else 0 :]
        shapes.append(tuple(1 if rng.random() < 0.2 else n for n in shape))
    return shapes


_Draw = Callable[[np.random.Generator, Sequence[int], str], Array]
"""Draws the values of one operand: `(rng, shape, dtype) -> array`."""


def _among(low: int, high: int) -> _Draw:
    """Whole numbers between two bounds, so that some are equal, zero or negative."""

    def draw(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
        first = max(low, 0) if dtype.startswith("u") or dtype == "bool" else low
        return np.asarray(rng.integers(first, min(high, 1) + 1 if dtype == "bool" else high + 1, shape)).astype(dtype)

    return draw


def _real(low: float, high: float, ints: _Draw) -> _Draw:
    """Uniform floats, and for integer dtypes what `ints` draws."""

    def draw(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
        if not dtype.startswith("float"):
            return ints(rng, shape, dtype)
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype)

    return draw


_ANY = _real(-2, 2, _among(-5, 5))
_SIZED = _real(0.3, 3, _among(-4, 4))
"""Divisors: floats away from zero, integers of both signs and zero."""


def _cases(left: _Draw, right: _Draw) -> Cases:
    def cases(rng: np.random.Generator) -> Case:
        shapes = draw_broadcast(rng, 2)

        def values(rng: np.random.Generator, dtype: str) -> list[Array]:
            return [draw(rng, shape, dtype) for draw, shape in zip((left, right), shapes, strict=True)]

        return Case(shapes, values=values)

    return cases


class Binary(Protocol):
    """A builder that takes two tensors."""

    __name__: str
    __doc__: str | None

    def __call__(self, lhs: ExprLike, rhs: ExprLike) -> Expr:
        """A call of the operator on `lhs` and `rhs`."""
        ...


def _declare(
    name: str,
    fn: str,
    reference: Callable[[Array, Array], Array],
    doc: str,
    allowed: tuple[str, ...] = NUMBERS,
    dtypes: tuple[str, ...] = (*NUMERIC, "int8", "uint8"),
    *,
    test: bool = False,
    left: _Draw = _ANY,
    right: _Draw = _ANY,
) -> Binary:
    """Declare an operator of two tensors and give its builder.

    Args:
        name: the operator's name, and the builder's.
        fn: the scalar function.
        reference: the NumPy function.
        doc: the builder's docstring.
        allowed: the dtypes that the operands may have.
        dtypes: dtypes to test.
        test: whether the result is bool, and not of the operands' dtype.
        left: draws test values of the first operand.
        right: draws those of the second.

    """

    def rule(attrs: Attrs, lhs: Type, rhs: Type) -> TensorType:
        operands = [dtype_among(t, allowed, what) for t, what in ((lhs, "the left side"), (rhs, "the right side"))]
        result = broadcast_type(*operands)
        return TensorType(result.shape, "bool") if test else result

    def compute(attrs: Attrs, lhs: Array, rhs: Array) -> Array:
        with np.errstate(all="ignore"):
            return reference(lhs, rhs)

    def build(lhs: ExprLike, rhs: ExprLike) -> Expr:
        return call(name, [lhs, rhs])

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f"{doc}\n\n    Args:\n        lhs: the left tensor.\n        rhs: the right tensor, of the same dtype; "
        "the shapes are broadcast.\n\n    "
    )
    lowering = pointwise(lambda x, y: apply(fn, x, y))
    declare = operator(name, Fusion.BROADCAST, rule, compute, lowering, cases=_cases(left, right), dtypes=dtypes)
    return declare(build)


def _by_kind(on_floats: Callable[..., Array], on_ints: Callable[..., Array]) -> Callable[[Array, Array], Array]:
    return lambda x, y: on_floats(x, y) if x.dtype.kind == "f" else on_ints(x, y)


def _truncated(x: Array, y: Array) -> Array:
    """The quotient rounded towards zero; taking the remainder off first makes the division exact."""
    return np.asarray(np.floor_divide(x - np.fmod(x, y), y))


def _power(x: Array, y: Array) -> Array:
    """Powers of integers; a negative exponent gives the real power truncated, and 0 where that is infinite."""
    real = np.trunc(np.power(x.astype(np.float64), np.minimum(y, 0).astype(np.float64)))
    whole = np.power(x, np.maximum(y, 0).astype(x.dtype))
    return np.where(y < 0, np.where(x == 0, 0, real).astype(x.dtype), whole)


add = _declare("add", "add", np.add, "lhs + rhs.")
subtract = _declare("subtract", "sub", np.subtract, "lhs - rhs.")
multiply = _declare("multiply", "mul", np.multiply, "lhs * rhs.")
divide = _declare(
    "divide", "div", _by_kind(np.divide, _truncated), "lhs / rhs; integers are rounded towards zero.", right=_SIZED
)
floor_divide = _declare(
    "floor_divide",
    "floordiv",
    _by_kind(lambda x, y: np.floor(x / y), np.floor_divide),
    "The greatest whole number <= lhs / rhs.",
    right=_SIZED,
)
mod = _declare("mod", "mod", np.fmod, "The remainder with the sign of lhs, as C's % and fmod.", right=_SIZED)
floor_mod = _declare("floor_mod", "floormod", np.mod, "The remainder with the sign of rhs, as Python.", right=_SIZED)
power = _declare(
    "power",
    "pow",
    _by_kind(np.power, _power),
    "lhs to the power rhs; with integers, a negative exponent gives the power rounded towards zero.",
    left=_real(0.2, 2, _among(-3, 3)),
    right=_real(-2, 2, _among(-2, 4)),
)
maximum = _declare("maximum", "max", np.maximum, "The greater of the two; NaN if either is.", right=_among(-2, 2))
minimum = _declare("minimum", "min", np.minimum, "The lesser of the two; NaN if either is.", right=_among(-2, 2))

trunc_divide = _declare(
    "trunc_divide",
    "div",
    _truncated,
    "lhs / rhs rounded towards zero; integer tensors.",
    INTEGERS,
    (*INT, "int8", "uint8"),
    right=_SIZED,
)
trunc_mod = _declare(
    "trunc_mod",
    "mod",
    np.fmod,
    "What `trunc_divide` leaves, with the sign of lhs; integer tensors.",
    INTEGERS,
    (*INT, "int8", "uint8"),
    right=_SIZED,
)

_few: dict[str, Any] = {"left": _among(-2, 2), "right": _among(-2, 2)}
_test: dict[str, Any] = {"allowed": DTYPES, "dtypes": EVERY, "test": True, **_few}
equal = _declare("equal", "eq", np.equal, "Whether lhs == rhs; NaN equals nothing.", **_test)
not_equal = _declare("not_equal", "ne", np.not_equal, "Whether lhs != rhs; NaN differs from everything.", **_test)
less = _declare("less", "lt", np.less, "Whether lhs < rhs.", **_test)
less_equal = _declare("less_equal", "le", np.less_equal, "Whether lhs <= rhs.", **_test)
greater = _declare("greater", "gt", np.greater, "Whether lhs > rhs.", **_test)
greater_equal = _declare("greater_equal", "ge", np.greater_equal, "Whether lhs >= rhs.", **_test)

_bools: dict[str, Any] = {"allowed": ("bool",), "dtypes": ("bool",), **_few}
logical_and = _declare("logical_and", "and", np.logical_and, "True where both are; bool tensors.", **_bools)
logical_or = _declare("logical_or", "or", np.logical_or, "True where either is; bool tensors.", **_bools)
logical_xor = _declare("logical_xor", "xor", np.logical_xor, "True where just one is; bool tensors.", **_bools)

_bits: dict[str, Any] = {
    "allowed": ("bool", *INTEGERS),
    "dtypes": (*INT, "int8", "uint8", "bool"),
    "left": _among(-100, 100),
    "right": _among(-100, 100),
}
bitwise_and = _declare("bitwise_and", "and", np.bitwise_and, "Bits set in both; integer or bool tensors.", **_bits)
bitwise_or = _declare("bitwise_or", "or", np.bitwise_or, "Bits set in either; integer or bool tensors.", **_bits)
bitwise_xor = _declare("bitwise_xor", "xor", np.bitwise_xor, "Bits set in just one; integer or bool tensors.", **_bits)

_shifts: dict[str, Any] = {**_bits, "allowed": INTEGERS, "dtypes": (*INT, "int8", "uint8"), "right": _among(0, 7)}
left_shift = _declare(
    "left_shift", "shl", np.left_shift, "lhs times 2 to the power rhs, wrapped around; integer tensors.", **_shifts
)
right_shift = _declare(
    "right_shift", "shr", np.right_shift, "lhs divided by 2 to the power rhs, rounded down; integer tensors.", **_shifts
)


def _where_type(attrs: Attrs, condition: Type, x: Type, y: Type) -> TensorType:
    chosen = broadcast_type(tensor(x, "x"), tensor(y, "y"))
    return TensorType(broadcast_shape(tensor(condition, "the condition").shape, chosen.shape), chosen.dtype)


def _where_element(condition: Value, x: Value, y: Value) -> Value:
    return select(condition if condition.dtype == "bool" else apply("ne", condition, 0), x, y)


def _where_cases(rng: np.random.Generator) -> Case:
    shapes = draw_broadcast(rng, 3)
    kind = str(rng.choice(["bool", "bool", "int32", "float32"]))

    def values(rng: np.random.Generator, dtype: str) -> list[Array]:
        draws = (_among(-1, 1), _ANY, _ANY)
        dtypes = (kind, dtype, dtype)
        return [draw(rng, shape, d) for draw, shape, d in zip(draws, shapes, dtypes, strict=True)]

    return Case(shapes, dtypes=[kind, None, None], values=values)


@operator(
    "where",
    Fusion.BROADCAST,
    _where_type,
    lambda attrs, condition, x, y: np.where(condition != 0, x, y),
    pointwise(_where_element),
    cases=_where_cases,
    dtypes=(*EVERY, "int8"),
)
def where(condition: ExprLike, x: ExprLike, y: ExprLike) -> Expr:
    """Take x where the condition holds, else y, element by element; the three shapes are broadcast.

    Args:
        condition: a bool tensor, or one of numbers, of which all but 0 hold.
        x: the values where it holds.
        y: the values where it does not, of the dtype of `x`.

    """
    like = next((e for e in (x, y) if isinstance(e, Expr)), None)
    return call("where", [as_expr(condition), as_expr(x, like), as_expr(y, like)])
