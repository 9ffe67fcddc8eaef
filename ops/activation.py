"""Activations: relu and its kin, softmax and its kin, dropout."""

from collections.abc import Callable

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Index
from ..ir.op import Attrs
from ..ir.scalar import Operand, Value, apply, select
from ..ir.tuple_wrapper import TupleWrapper
from ..ir.types import TensorType, TupleType, Type
from .lowering import Context, Map, Reduce, Reduction, Stage, pointwise, pointwise_attrs
from .spec import INT, REAL, Array, Case, Fusion, normalize_axis, operator
from .unary import FLOATING, NUMBERS, draw_shape, dtype_among, same_among, same_type, unary_cases


def vector_like(data: Type, axis: int, what: str = "data") -> TensorType:
    """The type of a vector with one value for each place on an axis of `data`, which must be floating."""
    x = dtype_among(data, FLOATING, what)
    return TensorType((x.shape[normalize_axis(axis, x.ndim)],), x.dtype)


def check_vector(got: Type, data: Type, axis: int, what: str) -> None:
    """Raise a TypeInferenceError unless `got` is `vector_like(data, axis)`."""
    expected = vector_like(data, axis)
    if got != expected:
        raise TypeInferenceError(f"{what} must be {expected}, one value for each place on axis {axis}, got {got}")


def along(vector: Array, axis: int, ndim: int) -> Array:
    """A vector as an array that broadcasts along one axis of an array of `ndim` dimensions."""
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)


@operator(
    "nn.relu",
    Fusion.ELEMWISE,
    same_among(NUMBERS),
    lambda a, x: np.maximum(x, np.zeros((), x.dtype)),
    pointwise(lambda x: apply("max", x, 0)),
    cases=unary_cases(-5, 5),
    dtypes=(*REAL, *INT, "int8", "uint8"),
)
def relu(data: ExprLike) -> Expr:
    """max(x, 0), element by element; NaN stays NaN.

    Args:
        data: tensor of any shape and any dtype but bool.

    """
    return call("nn.relu", [data])


def _slope(x: Value, alpha: Operand) -> Value:
    return select(apply("gt", x, 0), x, x * alpha)


@operator(
    "nn.leaky_relu",
    Fusion.ELEMWISE,
    same_among(FLOATING),
    lambda a, x: np.where(x > 0, x, a.alpha * x),
    pointwise_attrs(lambda a, x: _slope(x, a.alpha)),
    cases=unary_cases(alpha=lambda rng: float(rng.choice([0.0, 0.01, 0.25, 1.0, -0.5]))),
    dtypes=REAL,
)
def leaky_relu(data: ExprLike, alpha: float = 0.01) -> Expr:
    """Leaky relu: x where x > 0, else alpha * x.

    Args:
        data: floating tensor of any shape.
        alpha: slope for negative elements.

    """
    return call("nn.leaky_relu", [data], alpha=float(alpha))


def _infer_prelu(a: Attrs, data: Type, alpha: Type) -> Type:
    check_vector(alpha, data, a.axis, "alpha")
    return data


def _prelu(c: Context, *index: Index) -> Operand:
    data, alpha = c.args
    return _slope(data(*index), alpha(index[normalize_axis(c.attrs.axis, len(index))]))


def _cases_prelu(rng: np.random.Generator) -> Case:
    shape = draw_shape(rng, 1)
    axis = int(rng.integers(-len(shape), len(shape)))
    return Case([shape, (shape[axis],)], {"axis": axis})


@operator(
    "nn.prelu",
    Fusion.BROADCAST,
    _infer_prelu,
    lambda a, x, alpha: np.where(x > 0, x, along(alpha, a.axis, x.ndim) * x),
    Map(_prelu),
    cases=_cases_prelu,
    dtypes=REAL,
    complete=lambda a, data, alpha: (data, vector_like(data, a.axis) if data else alpha),
)
def prelu(data: ExprLike, alpha: ExprLike, axis: int = 1) -> Expr:
    """Leaky relu with a slope for each channel: x where x > 0, else alpha * x.

    Args:
        data: floating tensor.
        alpha: the slopes, a vector as long as the channel axis.
        axis: the channel axis; negative counts from the end.

    """
    return call("nn.prelu", [data, alpha], axis=int(axis))


def _infer_softmax(a: Attrs, data: Type) -> Type:
    x = dtype_among(data, FLOATING)
    normalize_axis(a.axis, x.ndim)
    return x


def _softmax(result: Callable[[Value, Value], Operand]) -> Reduce:
    """`result(x - max, sum of exp(x - max))` for every element, max and sum taken along the axis.

    Subtracting the maximum keeps exp from overflowing (Blanchard, Higham, Higham: Accurately computing the log-sum-exp
    and softmax functions, 2021).
    """

    def make(c: Context) -> Reduction:
        (x,) = c.args
        axis = normalize_axis(c.attrs.axis, len(c.shape))
        rows, extent = c.shape[:axis] + c.shape[axis + 1 :], (c.shape[axis],)

        def at(row: tuple[Index, ...], place: tuple[Index, ...]) -> Value:
            return x(*row[:axis], *place, *row[axis:])

        largest = Stage("top", extent, at)
        total = Stage("sum", extent, lambda row, place, top: apply("exp", at(row, place) - top))
        return Reduction(rows, (largest, total), lambda index, top, s: result(x(*index) - top, s), spread=(axis,))

    return Reduce(make)


def _shifted(x: Array, axis: int) -> Array:
    return np.asarray(x - np.max(x, axis, keepdims=True, initial=-np.inf))


def _np_softmax(a: Attrs, x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        e = np.exp(_shifted(x, a.axis))
        return np.asarray(e / e.sum(a.axis, keepdims=True))


def _np_log_softmax(a: Attrs, x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        total = np.logaddexp.reduce(x, a.axis, keepdims=True)
        return np.asarray(x - np.where(total == np.inf, np.nan, total))


def _cases_softmax(rng: np.random.Generator) -> Case:
    shape = draw_shape(rng, 1)
    return Case([shape], {"axis": int(rng.integers(-len(shape), len(shape)))}, low=-9, high=9)


@operator(
    "nn.softmax",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_softmax,
    _np_softmax,
    _softmax(lambda x, total: apply("exp", x) * apply("div", 1.0, total)),
    cases=_cases_softmax,
    dtypes=REAL,
)
def softmax(data: ExprLike, axis: int = -1) -> Expr:
    """exp(x) divided by its sum along an axis.

    A row that holds NaN or inf, or nothing but -inf, gives NaN.

    Args:
        data: floating tensor of at least one dimension.
        axis: the axis along which the results add up to 1; negative counts from the end.

    """
    return call("nn.softmax", [data], axis=int(axis))


@operator(
    "nn.fast_softmax",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_softmax,
    _np_softmax,
    _softmax(lambda x, total: apply("exp", x) * apply("div", 1.0, total)),
    cases=_cases_softmax,
    dtypes=REAL,
)
def fast_softmax(data: ExprLike, axis: int = -1) -> Expr:
    """As `softmax`: Relay's faster, less exact form is not needed here.

    Args:
        data: floating tensor of at least one dimension.
        axis: the axis along which the results add up to 1; negative counts from the end.

    """
    return call("nn.fast_softmax", [data], axis=int(axis))


@operator(
    "nn.log_softmax",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_softmax,
    _np_log_softmax,
    _softmax(lambda x, total: x - apply("log", total)),
    cases=_cases_softmax,
    dtypes=REAL,
)
def log_softmax(data: ExprLike, axis: int = -1) -> Expr:
    """The logarithm of softmax: x minus the logarithm of the sum of exp(x) along an axis.

    A row that holds NaN or inf, or nothing but -inf, gives NaN.

    Args:
        data: floating tensor of at least one dimension.
        axis: the axis that the sum is taken along; negative counts from the end.

    """
    return call("nn.log_softmax", [data], axis=int(axis))


def _infer_dropout(a: Attrs, data: Type) -> Type:
    x = same_type(a, dtype_among(data, FLOATING))
    if not 0 <= a.rate <= 1:
        raise TypeInferenceError(f"rate must lie in 0..1, got {a.rate}")
    return TupleType([x, x])


@operator(
    "nn.dropout",
    Fusion.OPAQUE,
    _infer_dropout,
    lambda a, x: [x, np.ones_like(x)],
    None,
    cases=unary_cases(rate=lambda rng: float(rng.choice([0.0, 0.3, 0.5]))),
    dtypes=REAL,
)
def dropout_raw(data: ExprLike, rate: float = 0.5) -> Expr:
    """Dropout as a tuple (data, mask); for inference data passes unchanged, and the mask is all ones.

    Args:
        data: floating tensor.
        rate: the probability in training that an element becomes 0.

    """
    return call("nn.dropout", [data], rate=float(rate))


def dropout(data: ExprLike, rate: float = 0.5) -> Expr:
    """In training, elements set to 0 at random; for inference the tensor unchanged (SimplifyInference removes it).

    Args:
        data: floating tensor.
        rate: the probability in training that an element becomes 0.

    """
    return TupleWrapper(dropout_raw(data, rate), 2)[0]
