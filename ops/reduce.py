"""Reductions over axes of one tensor.

Every builder takes Relay's three arguments: `axis` (None: all axes), `keepdims` (a reduced axis stays, with size 1) and
`exclude` (reduce the axes that are not in `axis`). Sums of float16 are accumulated in float32, sums of integers wrap
around. A reduction over no elements gives what it starts from: 0, 1, True, False, or the least or greatest number.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.op import Attrs
from ..ir.scalar import Operand, Value, is_float
from ..ir.scalar import cast as convert
from ..ir.types import DTYPES, TensorType, Type
from .lowering import Context, Reduce, Reduction, Stage
from .spec import EVERY, NUMERIC, Array, Case, Cases, Fusion, ints, normalize_axis, operator, tensor
from .unary import NUMBERS, draw_shape, dtype_among

Axes: TypeAlias = int | Sequence[int] | None
"""What a builder takes for the axes to reduce."""


def reduced_axes(attrs: Attrs, ndim: int) -> tuple[int, ...]:
    """The axes that a reduction goes over, ascending, as its attributes say.

    Raises:
        TypeInferenceError: an axis is out of range or given twice, or `exclude` comes without axes.

    """
    if attrs.axis is None:
        if attrs.get("exclude"):
            raise TypeInferenceError("exclude=True needs the axes to keep, got axis=None")
        return tuple(range(ndim))
    given = [normalize_axis(axis, ndim) for axis in attrs.axis]
    if len(set(given)) != len(given):
        raise TypeInferenceError(f"axis {list(attrs.axis)} names an axis of a tensor of {ndim} dimensions twice")
    if not given:
        return tuple(range(ndim))
    return tuple(axis for axis in range(ndim) if (axis in given) != bool(attrs.get("exclude")))


def result_shape(attrs: Attrs, data: TensorType) -> tuple[Dim, ...]:
    """The shape of the result of a reduction of `data`."""
    axes = reduced_axes(attrs, data.ndim)
    if attrs.keepdims:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(data.shape))
    return tuple(dim for axis, dim in enumerate(data.shape) if axis not in axes)


def extents_of(c: Context) -> tuple[int, ...]:
    """The sizes of the reduced axes."""
    shape = c.args[0].shape
    return tuple(shape[axis] for axis in reduced_axes(c.attrs, len(shape)))


def read_element(c: Context, row: Sequence[Index], place: Sequence[Index]) -> Value:
    """The input element of a row (the output's index) at a place in the box of reduced axes."""
    data = c.args[0]
    ndim = len(data.shape)
    axes = reduced_axes(c.attrs, ndim)
    inner = dict(zip(axes, place, strict=True))
    kept = [axis for axis in range(ndim) if c.attrs.keepdims or axis not in axes]
    outer = dict(zip(kept, row, strict=True))
    return data(*(inner.get(axis, outer.get(axis, as_index(0))) for axis in range(ndim)))


def _simple(combine: str, of: Callable[[Value], Value] = lambda x: x) -> Reduce:
    """One stage whose result is the output element."""

    def make(c: Context) -> Reduction:
        stage = Stage(combine, extents_of(c), lambda row, place: of(read_element(c, row, place)))
        return Reduction(c.shape, (stage,), lambda index, total: total)

    return Reduce(make)


def _extreme(combine: str, on_bools: str) -> Reduce:
    """Maximum and minimum; on bools they are `any` and `all`."""
    numbers, bools = _simple(combine), _simple(on_bools)
    return Reduce(lambda c: (bools if c.dtype == "bool" else numbers).make(c))


_Rule: TypeAlias = Callable[[Attrs, Type], TensorType]


def same_dtype_rule(allowed: tuple[str, ...]) -> _Rule:
    """The result has the dtype of the argument, which must be one of `allowed`."""

    def rule(attrs: Attrs, data: Type) -> TensorType:
        found = dtype_among(data, allowed)
        return TensorType(result_shape(attrs, found), found.dtype)

    return rule


def _numpy(attrs: Attrs, x: Array) -> dict[str, Any]:
    """The arguments of a NumPy reduction."""
    return {"axis": reduced_axes(attrs, x.ndim), "keepdims": attrs.keepdims}


def flattened(attrs: Attrs, x: Array) -> Array:
    """`x` with the reduced axes as one last axis."""
    axes = reduced_axes(attrs, x.ndim)
    rows = [axis for axis in range(x.ndim) if axis not in axes]
    size = math.prod(x.shape[axis] for axis in axes)
    return x.transpose(*rows, *axes).reshape(*(x.shape[axis] for axis in rows), size)


def folded(attrs: Attrs, x: Array, result: Array) -> Array:
    """The result of a reduction over the last axis of `flattened(attrs, x)` in its final shape."""
    shape = result_shape(attrs, TensorType(x.shape))
    return np.asarray(result).reshape([dim for dim in shape if isinstance(dim, int)])


def reduce_cases(
    low: float = -2, high: float = 2, *, exclude: bool = True, filled: bool = False, size: int = 2000, **more: Any
) -> Cases:
    """Cases of all axes, one axis, some axes, and all but some.

    Args:
        low: the least test value.
        high: the greatest one.
        exclude: whether the builder takes `exclude`.
        filled: whether every axis must have elements.
        size: the greatest number of elements.
        more: further attributes, true or false at random.

    """

    def cases(rng: np.random.Generator) -> Case:
        shape = tuple(dim or int(filled) for dim in draw_shape(rng, size=size))
        ndim = len(shape)
        some = [int(axis) for axis in rng.permutation(ndim)[: rng.integers(ndim + 1)]]
        axis = [axis - ndim if rng.random() < 0.4 else axis for axis in some]
        ways: list[Any] = [None, axis, tuple(axis), axis[0] if axis else None]
        attributes: dict[str, Any] = {"axis": ways[rng.integers(4)], "keepdims": bool(rng.random() < 0.5)}
        if exclude and attributes["axis"] is not None:
            attributes["exclude"] = bool(rng.random() < 0.4)
        attributes |= {key: bool(rng.random() < 0.5) for key in more}
        return Case([shape], attributes, low=low, high=high)

    return cases


def axis_attribute(axis: Axes) -> tuple[int, ...] | None:
    """The attribute `axis`: a tuple, or None for all axes."""
    return None if axis is None else ints(axis, what="axis")


class Reducer(Protocol):
    """A builder that reduces a tensor over axes."""

    __name__: str
    __doc__: str | None

    def __call__(self, data: ExprLike, axis: Axes = None, keepdims: bool = False, exclude: bool = False) -> Expr:
        """A call of the operator on `data`."""
        ...


_ARGUMENTS = """

    Args:
        data: the tensor.
        axis: the axis or axes to reduce; None or an empty list for all.
        keepdims: whether a reduced axis stays, with size 1.
        exclude: whether to reduce the axes that are not in `axis` instead.

    """


def _declare(
    name: str,
    reference: Callable[[Attrs, Array], Array],
    lowering: Reduce,
    doc: str,
    *,
    allowed: tuple[str, ...] = NUMBERS,
    dtypes: tuple[str, ...] = (*NUMERIC, "int8"),
    low: float = -2,
    high: float = 2,
    size: int = 2000,
) -> Reducer:
    """Declare a reduction of a tensor to one of the same dtype, and give its builder."""

    def build(data: ExprLike, axis: Axes = None, keepdims: bool = False, exclude: bool = False) -> Expr:
        return call(name, [data], axis=axis_attribute(axis), keepdims=bool(keepdims), exclude=bool(exclude))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc + _ARGUMENTS
    cases = reduce_cases(low, high, size=size)
    declare = operator(
        name, Fusion.COMM_REDUCE, same_dtype_rule(allowed), reference, lowering, cases=cases, dtypes=dtypes
    )
    return declare(build)


def _end(x: Array, greatest: bool) -> Any:
    if x.dtype.kind == "b":
        return greatest
    if x.dtype.kind == "f":
        return math.inf if greatest else -math.inf
    return np.iinfo(x.dtype).max if greatest else np.iinfo(x.dtype).min


def _mean(c: Context) -> Reduction:
    """Integers are summed exactly, in 64 bits; the quotient is then rounded towards zero."""
    extents = extents_of(c)
    wide = c.dtype if is_float(c.dtype) else "int64"
    stage = Stage("sum", extents, lambda row, place: convert(read_element(c, row, place), wide))
    return Reduction(c.shape, (stage,), lambda index, total: convert(total / math.prod(extents), c.dtype))


def _mean_reference(attrs: Attrs, x: Array) -> Array:
    flat = flattened(attrs, x)
    count = flat.shape[-1]
    if x.dtype.kind == "f":
        total = flat.sum(axis=-1)
        return folded(attrs, x, total / count if count else np.full_like(total, math.nan))
    total = flat.sum(axis=-1, dtype=np.int64)
    return folded(attrs, x, np.sign(total) * (np.abs(total) // (count or 1))).astype(x.dtype)


sum = _declare(
    "sum", lambda attrs, x: np.sum(x, dtype=x.dtype, **_numpy(attrs, x)), _simple("sum"), "The sum over axes."
)
prod = _declare(
    "prod",
    lambda attrs, x: np.prod(x, dtype=x.dtype, **_numpy(attrs, x)),
    _simple("prod"),
    "The product over axes.",
    low=0.8,
    high=1.25,
    size=200,
)
max = _declare(
    "max",
    lambda attrs, x: np.max(x, initial=_end(x, False), **_numpy(attrs, x)),
    _extreme("max", "any"),
    "The greatest element over axes; NaN if there is one.",
    allowed=DTYPES,
    dtypes=(*EVERY, "int8", "uint8"),
)
min = _declare(
    "min",
    lambda attrs, x: np.min(x, initial=_end(x, True), **_numpy(attrs, x)),
    _extreme("min", "all"),
    "The least element over axes; NaN if there is one.",
    allowed=DTYPES,
    dtypes=(*EVERY, "int8", "uint8"),
)
all = _declare(
    "all",
    lambda attrs, x: np.asarray(np.all(x, **_numpy(attrs, x))),
    _simple("all"),
    "Whether every element over axes is True; bool tensors.",
    allowed=("bool",),
    dtypes=("bool",),
)
any = _declare(
    "any",
    lambda attrs, x: np.asarray(np.any(x, **_numpy(attrs, x))),
    _simple("any"),
    "Whether some element over axes is True; bool tensors.",
    allowed=("bool",),
    dtypes=("bool",),
)
mean = _declare(
    "mean", _mean_reference, Reduce(_mean), "The mean over axes; integers are rounded towards zero, NaN for none."
)


def _arg_type(attrs: Attrs, data: Type) -> TensorType:
    found = tensor(data)
    axes = reduced_axes(attrs, found.ndim)
    if 0 in [found.shape[axis] for axis in axes]:
        raise TypeInferenceError(f"there is no place to name among no elements: {found} over axes {list(axes)}")
    return TensorType(result_shape(attrs, found), "int32")


def _arg(combine: str) -> Reduce:
    def make(c: Context) -> Reduction:
        def element(row: Sequence[Index], place: Sequence[Index]) -> Operand:
            value = read_element(c, row, place)
            return convert(value, "int32") if value.dtype == "bool" else value

        stage = Stage(combine, extents_of(c), element, last=c.attrs.select_last_index)
        return Reduction(c.shape, (stage,), lambda index, place: place)

    return Reduce(make)


def _arg_reference(find: Callable[..., Array]) -> Callable[[Attrs, Array], Array]:
    def reference(attrs: Attrs, x: Array) -> Array:
        flat = flattened(attrs, x)
        place = flat.shape[-1] - 1 - find(flat[..., ::-1], axis=-1) if attrs.select_last_index else find(flat, axis=-1)
        return folded(attrs, x, place).astype(np.int32)

    return reference


class ArgReducer(Protocol):
    """A builder that finds a place in a tensor over axes."""

    __name__: str
    __doc__: str | None

    def __call__(
        self,
        data: ExprLike,
        axis: Axes = None,
        keepdims: bool = False,
        exclude: bool = False,
        select_last_index: bool = False,
    ) -> Expr:
        """A call of the operator on `data`."""
        ...


_ARG_ARGUMENTS = (
    """

    Places are counted from 0 in row-major order over the reduced axes, taken in ascending order. The first NaN
    counts before every number."""
    + _ARGUMENTS.rstrip()
    + """
        select_last_index: whether to take the last place among equal elements instead of the first.

    Raises:
        TypeInferenceError: a reduced axis has size 0.

    """
)


def _declare_arg(name: str, find: Callable[..., Array], doc: str) -> ArgReducer:
    """Declare `argmax` or `argmin`, and give its builder."""

    def build(
        data: ExprLike,
        axis: Axes = None,
        keepdims: bool = False,
        exclude: bool = False,
        select_last_index: bool = False,
    ) -> Expr:
        flags = {"keepdims": keepdims, "exclude": exclude, "select_last_index": select_last_index}
        return call(name, [data], axis=axis_attribute(axis), **{key: bool(flag) for key, flag in flags.items()})

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc + _ARG_ARGUMENTS
    declare = operator(
        name,
        Fusion.COMM_REDUCE,
        _arg_type,
        _arg_reference(find),
        _arg(name),
        cases=reduce_cases(-3, 3, filled=True, select_last_index=True),
        dtypes=(*EVERY, "int8"),
    )
    return declare(build)


argmax = _declare_arg("argmax", np.argmax, "The place of the greatest element over axes, as int32.")
argmin = _declare_arg("argmin", np.argmin, "The place of the least element over axes, as int32.")
