"""Operators on the elements of one tensor: functions, tests, conversions.

Functions of a real number take floating tensors only; `cast` integers first. The table in the middle declares all that
differ in nothing but the function.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Index
from ..ir.op import Attrs
from ..ir.scalar import Value, apply, bitcast, compute_dtype, constant, highest, is_float, lowest
from ..ir.scalar import cast as convert
from ..ir.types import DTYPES, INTEGERS, TensorType, Type, check_dtype, numpy_dtype
from .lowering import Context, Lowering, Map, pointwise
from .spec import EVERY, INT, NUMERIC, REAL, Array, Case, Cases, Fusion, Infer, operator, tensor

SIGNED = ("int8", "int16", "int32", "int64")
FLOATING = tuple(dtype for dtype in DTYPES if is_float(dtype))
NUMBERS = (*INTEGERS, *FLOATING)


def dtype_among(type_: Type, allowed: tuple[str, ...], what: str = "the argument") -> TensorType:
    """`type_` as a tensor type whose dtype is one of `allowed`, or a TypeInferenceError that says which are."""
    found = tensor(type_, what)
    if found.dtype not in allowed:
        expected = next((name for name, kind in _KINDS.items() if kind == allowed), ", ".join(allowed))
        raise TypeInferenceError(f"{what} has dtype {found.dtype}, expected {expected}")
    return found


_KINDS = {
    "a floating type": FLOATING,
    "a number, not bool": NUMBERS,
    "an integer or bool": ("bool", *INTEGERS),
    "an integer": INTEGERS,
    "bool": ("bool",),
}


def same_type(attrs: Attrs, data: Type) -> TensorType:
    """The result has the type of the argument."""
    return tensor(data)


def same_among(allowed: tuple[str, ...]) -> Infer:
    """The rule that the result has the type of the argument, whose dtype must be one of `allowed`."""

    def rule(attrs: Attrs, data: Type) -> TensorType:
        return dtype_among(data, allowed)

    return rule


def draw_shape(rng: np.random.Generator, low: int = 0, high: int = 5, size: int = 2000) -> tuple[int, ...]:
    """A random shape of `low`..`high` dimensions and at most `size` elements, for test cases.

    Most dimensions are 1..9; now and then one is 17 or 33 (remainders of vector loops), rarely 0.
    """
    shape: list[int] = []
    for _ in range(rng.integers(low, high + 1)):
        odd = rng.choice([0, 17, 33]) if rng.random() < 0.1 else 9
        n = int(odd) if odd != 9 else int(rng.integers(1, 10))
        if n == 0 and rng.random() < 0.7:
            n = 1
        shape.append(n if n * math.prod(shape) <= size else 1)
    return tuple(shape)


def unary_cases(low: float = -2.0, high: float = 2.0, **attributes: Callable[[np.random.Generator], Any]) -> Cases:
    """Cases of one tensor of any shape; attribute values are drawn by the functions given."""

    def cases(rng: np.random.Generator) -> Case:
        shape = draw_shape(rng)
        return Case([shape], {key: draw(rng) for key, draw in attributes.items()}, low=low, high=high)

    return cases


class Unary(Protocol):
    """A builder that takes one tensor."""

    __name__: str
    __doc__: str | None

    def __call__(self, data: ExprLike) -> Expr:
        """A call of the operator on `data`."""
        ...


def _declare(
    name: str,
    reference: Callable[[Array], Array],
    doc: str,
    *,
    fn: str | Lowering = "",
    low: float = -2.0,
    high: float = 2.0,
    rule: Infer | tuple[str, ...] = FLOATING,
    dtypes: tuple[str, ...] = REAL,
) -> Unary:
    """Declare an operator without attributes and give its builder.

    Args:
        name: the operator's name, and the builder's.
        reference: the NumPy function.
        doc: the builder's docstring.
        fn: the scalar function (the operator's name if left out), or a lowering.
        low: the least test value, within the function's domain.
        high: the greatest one.
        rule: the type rule, or the dtypes that the argument may have where the result has the same type.
        dtypes: dtypes to test.

    """
    lowering = pointwise(lambda x: apply(fn or name, x)) if isinstance(fn, str) else fn

    def build(data: ExprLike) -> Expr:
        return call(name, [data])

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc + "\n\n    Args:\n        data: a tensor of any shape.\n\n    "
    declare = operator(
        name,
        Fusion.ELEMWISE,
        same_among(rule) if isinstance(rule, tuple) else rule,
        lambda attrs, x: reference(x),
        lowering,
        cases=unary_cases(low, high),
        dtypes=dtypes,
    )
    return declare(build)


def _rounding(fn: str) -> Map:
    """A function that changes floating values only."""
    return pointwise(lambda x: apply(fn, x) if is_float(x.dtype) else x)


def _test(fn: str, of_integers: bool) -> Map:
    """A test of floating values whose answer for other dtypes is known."""
    return pointwise(lambda x: apply(fn, x) if is_float(x.dtype) else constant(of_integers, "bool"))


def _bool_result(attrs: Attrs, data: Type) -> TensorType:
    return TensorType(tensor(data).shape, "bool")


_erf = np.vectorize(math.erf, otypes=[np.float64])

exp = _declare("exp", np.exp, "e to the power x.")
log = _declare("log", np.log, "The natural logarithm.", low=0.05, high=4)
log2 = _declare("log2", np.log2, "The logarithm to base 2.", low=0.05, high=4)
log10 = _declare("log10", np.log10, "The logarithm to base 10.", low=0.05, high=4)
sqrt = _declare("sqrt", np.sqrt, "The square root; NaN below 0.", low=0, high=4)
rsqrt = _declare("rsqrt", lambda x: 1 / np.sqrt(x), "1 / sqrt(x).", low=0.05, high=4)
sigmoid = _declare("sigmoid", lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), "1 / (1 + exp(-x)).", low=-6, high=6)
erf = _declare("erf", _erf, "The Gauss error function, 2/sqrt(pi) times the integral of exp(-t*t) from 0 to x.")
sin = _declare("sin", np.sin, "The sine of an angle in radians.", low=-7, high=7)
cos = _declare("cos", np.cos, "The cosine of an angle in radians.", low=-7, high=7)
tan = _declare("tan", np.tan, "The tangent of an angle in radians.", low=-1.2, high=1.2)
asin = _declare("asin", np.arcsin, "The angle in -pi/2..pi/2 whose sine is x.", low=-0.95, high=0.95)
acos = _declare("acos", np.arccos, "The angle in 0..pi whose cosine is x.", low=-0.95, high=0.95)
atan = _declare("atan", np.arctan, "The angle in -pi/2..pi/2 whose tangent is x.", low=-5, high=5)
sinh = _declare("sinh", np.sinh, "The hyperbolic sine.")
cosh = _declare("cosh", np.cosh, "The hyperbolic cosine.")
tanh = _declare("tanh", np.tanh, "The hyperbolic tangent.", low=-4, high=4)
asinh = _declare("asinh", np.arcsinh, "The inverse of the hyperbolic sine.", low=-5, high=5)
acosh = _declare("acosh", np.arccosh, "The inverse of the hyperbolic cosine, for x >= 1.", low=1.05, high=5)
atanh = _declare("atanh", np.arctanh, "The inverse of the hyperbolic tangent, for -1 < x < 1.", low=-0.9, high=0.9)

fast_exp = _declare("fast_exp", np.exp, "As `exp`: Relay's faster, less exact form is not needed here.", fn="exp")
fast_tanh = _declare("fast_tanh", np.tanh, "As `tanh`: Relay's faster, less exact form is not needed here.", fn="tanh")
fast_erf = _declare("fast_erf", _erf, "As `erf`: Relay's faster, less exact form is not needed here.", fn="erf")

_numbers: dict[str, Any] = {"low": -5, "high": 5, "rule": NUMBERS, "dtypes": (*NUMERIC, "int8", "uint8")}
_signed: dict[str, Any] = {**_numbers, "dtypes": (*NUMERIC, "int8")}

abs = _declare("abs", np.abs, "The absolute value; the least integer stays negative.", **_signed)
negative = _declare("negative", np.negative, "-x; unsigned integers wrap around.", fn="neg", **_signed)
sign = _declare("sign", np.sign, "-1, 0 or 1 by the sign of x; NaN stays NaN.", **_numbers)
ceil = _declare("ceil", np.ceil, "The least whole number >= x.", fn=_rounding("ceil"), **_numbers)
floor = _declare("floor", np.floor, "The greatest whole number <= x.", fn=_rounding("floor"), **_numbers)
trunc = _declare("trunc", np.trunc, "x without its fraction.", fn=_rounding("trunc"), **_numbers)
round = _declare("round", np.rint, "The nearest whole number; halves go to even.", fn=_rounding("round"), **_numbers)

_tests: dict[str, Any] = {"rule": _bool_result, "dtypes": EVERY}
isnan = _declare("isnan", np.isnan, "Whether x is NaN.", fn=_test("isnan", False), **_tests)
isinf = _declare("isinf", np.isinf, "Whether x is infinite.", fn=_test("isinf", False), **_tests)
isfinite = _declare("isfinite", np.isfinite, "Neither infinite nor NaN.", fn=_test("isfinite", True), **_tests)

logical_not = _declare(
    "logical_not", np.logical_not, "True where x is false; bool tensors.", fn="not", rule=("bool",), dtypes=("bool",)
)
bitwise_not = _declare(
    "bitwise_not",
    np.invert,
    "x with every bit flipped; integer or bool tensors.",
    fn="not",
    rule=("bool", *INTEGERS),
    dtypes=(*INT, "int8", "uint8", "bool"),
    low=-100,
    high=100,
)
copy = _declare("copy", np.copy, "x, in memory of its own.", fn=pointwise(lambda x: x), rule=same_type, dtypes=EVERY)


def _in_range(number: float, dtype: str) -> Value:
    """A bound of `clip` in the compute dtype; integer dtypes truncate it, and cut it off at their own ends."""
    if is_float(dtype):
        return constant(number, compute_dtype(dtype))
    least, most = lowest(dtype).value, highest(dtype).value
    return constant(least if number <= least else most if number >= most else int(number), dtype)


def _clip_element(c: Context, *index: Index) -> Value:
    low, high = (_in_range(bound, c.out.dtype) for bound in (c.attrs.a_min, c.attrs.a_max))
    return apply("min", apply("max", c.args[0](*index), low), high)


def _clip_reference(attrs: Attrs, x: Array) -> Array:
    if x.dtype.kind == "f":
        return np.clip(x, float(attrs.a_min), float(attrs.a_max))
    info = np.iinfo(x.dtype)
    low, high = (int(min(max(bound, info.min), info.max)) for bound in (attrs.a_min, attrs.a_max))
    return np.clip(x, x.dtype.type(low), x.dtype.type(high))


@operator(
    "clip",
    Fusion.ELEMWISE,
    same_among(NUMBERS),
    _clip_reference,
    Map(_clip_element),
    cases=unary_cases(
        -9,
        9,
        a_min=lambda rng: float(rng.choice([-math.inf, -3.5, 0.0, 1.0])),
        a_max=lambda rng: float(rng.choice([math.inf, 6.0, 2.5])),
    ),
    dtypes=(*NUMERIC, "int8", "uint8"),
)
def clip(a: ExprLike, a_min: float, a_max: float) -> Expr:
    """Bring every element into a_min..a_max; NaN stays NaN.

    Args:
        a: a tensor of numbers.
        a_min: the lower bound, converted to the dtype of `a` (integers truncate it); -inf for none.
        a_max: the upper bound likewise; inf for none. It wins where it is below `a_min`.

    Raises:
        TypeInferenceError: a bound is NaN, or `a` is a bool tensor.

    """
    low, high = float(a_min), float(a_max)
    if math.isnan(low) or math.isnan(high):
        raise TypeInferenceError(f"clip: the bounds must be numbers, got a_min={a_min} and a_max={a_max}")
    return call("clip", [a], a_min=low, a_max=high)


def _cast_type(attrs: Attrs, data: Type) -> TensorType:
    return TensorType(tensor(data).shape, attrs.dtype)


def _cast_element(c: Context, *index: Index) -> Value:
    # Rounding to a storage format must not vanish when a consumer is fused behind it.
    return convert(convert(c.args[0](*index), c.dtype), c.out.dtype)


@operator(
    "cast",
    Fusion.ELEMWISE,
    _cast_type,
    lambda attrs, x: x.astype(numpy_dtype(attrs.dtype)),
    Map(_cast_element),
    cases=unary_cases(0, 100, dtype=lambda rng: str(rng.choice([d for d in DTYPES if d != "bfloat16"]))),
    dtypes=(*EVERY, "int8", "uint8"),
)
def cast(data: ExprLike, dtype: str) -> Expr:
    """The tensor converted to another element type.

    Args:
        data: a tensor of any dtype.
        dtype: the new element type. Floats are truncated towards zero on their way to integers (a float that does not
            fit, or NaN, gives an unspecified number); integers wrap around; everything but 0 is True.

    """
    return call("cast", [data], dtype=check_dtype(dtype))


def _reinterpret_type(attrs: Attrs, data: Type) -> TensorType:
    source, result = tensor(data), _cast_type(attrs, data)
    if "bool" in (source.dtype, result.dtype) or source.itemsize != result.itemsize:
        raise TypeInferenceError(
            f"cannot read the bits of {source.dtype} as {result.dtype}: expected two types of the same size, not bool"
        )
    return result


def _reinterpret_reference(attrs: Attrs, x: Array) -> Array:
    target = numpy_dtype(attrs.dtype)
    if x.dtype.kind == "f":
        x = x.astype(f"float{8 * target.itemsize}")
    return x.view(target)


_PAIRS = (("float32", "int32"), ("float32", "uint32"), ("float64", "int64"), ("float16", "uint16"), ("int8", "uint8"))


def _reinterpret_cases(rng: np.random.Generator) -> Case:
    shape = draw_shape(rng)
    first, second = _PAIRS[rng.integers(len(_PAIRS))]

    def values(rng: np.random.Generator, dtype: str) -> list[Array]:
        numbers = np.asarray(rng.integers(-100, 100, shape) / (1 if first == "int8" else 8)).astype(first)
        return [numbers.view(source)]

    source, target = (first, second) if rng.random() < 0.5 else (second, first)
    return Case([shape], {"dtype": target}, dtypes=[source], values=values)


@operator(
    "reinterpret",
    Fusion.ELEMWISE,
    _reinterpret_type,
    _reinterpret_reference,
    Map(lambda c, *index: bitcast(convert(c.args[0](*index), c.args[0].dtype), c.out.dtype)),
    cases=_reinterpret_cases,
    dtypes=("float32",),
)
def reinterpret(data: ExprLike, dtype: str) -> Expr:
    """The bits of every element read as another element type of the same size.

    Args:
        data: a tensor of any dtype but bool.
        dtype: the new element type.

    Raises:
        TypeInferenceError: the sizes differ, or a type is bool.

    """
    return call("reinterpret", [data], dtype=check_dtype(dtype))
