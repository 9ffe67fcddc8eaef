"""Matrix products, and the addition of a bias."""

from collections.abc import Sequence

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.op import Attrs
from ..ir.scalar import Value, cast
from ..ir.types import TensorType, Type
from .lowering import Context, Map, Reduce, Reduction, total
from .spec import NUMERIC, Array, Case, Fusion, normalize_axis, operator, tensor
from .window import accumulator, numeric, out_dtype_of, shown

PRODUCT_DTYPES = ("float32", "float64", "float16", "int32")


def _transposes(attributes: Attrs) -> tuple[bool, bool]:
    """Whether the operands are transposed; dense is a matmul whose second operand is."""
    return attributes.get("transpose_a", False), attributes.get("transpose_b", True)


def _left(type_: Type, transposed: bool, what: str) -> tuple[TensorType, Dim, tuple[Dim, ...]]:
    """The left operand, its length of sums, and the leading dimensions of the result."""
    a = numeric(tensor(type_, what), what)
    least = 2 if transposed else 1
    if a.ndim < least:
        raise TypeInferenceError(f"{what} must have at least {least} dimensions, got {a}")
    return (a, a.shape[-2], (*a.shape[:-2], a.shape[-1])) if transposed else (a, a.shape[-1], a.shape[:-1])


def _names(attributes: Attrs) -> tuple[str, str]:
    return ("tensor_a", "tensor_b") if "transpose_a" in attributes else ("data", "weight")


def _infer_product(attributes: Attrs, left: Type, right: Type) -> Type:
    name_a, name_b = _names(attributes)
    transpose_a, transpose_b = _transposes(attributes)
    a, length, leading = _left(left, transpose_a, name_a)
    b = numeric(tensor(right, name_b), name_b)
    if b.ndim != 2:
        raise TypeInferenceError(f"{name_b} must have 2 dimensions, got {b}")
    units, inner = b.shape if transpose_b else b.shape[::-1]
    if inner != length:
        raise TypeInferenceError(
            f"the sums run over {length} elements of {name_a} {a}, but over {inner} of {name_b} {b}"
        )
    if attributes.units is not None and units != attributes.units:
        raise TypeInferenceError(f"units is {attributes.units}, but {name_b} {shown(b.shape)} gives {units}")
    return TensorType((*leading, units), out_dtype_of(attributes, a))


def _complete_product(attributes: Attrs, left: Type | None, right: Type | None) -> list[Type | None]:
    """The second operand, from `units`."""
    if right is None and left is not None and attributes.units is not None:
        transpose_a, transpose_b = _transposes(attributes)
        a, length, _ = _left(left, transpose_a, _names(attributes)[0])
        shape = (attributes.units, length) if transpose_b else (length, attributes.units)
        right = TensorType(shape, a.dtype)
    return [left, right]


def _product(c: Context) -> Reduction:
    a, b = c.args
    transpose_a, transpose_b = _transposes(c.attrs)
    length = b.shape[1 if transpose_b else 0]

    def element(row: Sequence[Index], r: Sequence[Index]) -> Value:
        *leading, unit = row
        x = a(*leading[:-1], r[0], leading[-1]) if transpose_a else a(*leading, r[0])
        y = b(unit, r[0]) if transpose_b else b(r[0], unit)
        return cast(x, c.dtype) * cast(y, c.dtype)

    return total(c.shape, "sum", (length,), element)


def _np_product(attributes: Attrs, a: Array, b: Array) -> Array:
    transpose_a, transpose_b = _transposes(attributes)
    dtype = accumulator(attributes, a)
    a, b = a.astype(dtype), b.astype(dtype)
    result: Array = np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.T if transpose_b else b)
    return result


def _product_dtypes(rng: np.random.Generator) -> tuple[list[str | None] | None, str, tuple[float, float]]:
    """Now and then: 8-bit operands, accumulated in int32; argument dtypes, out_dtype, range of values."""
    if rng.random() < 0.8:
        return None, "", (-2.0, 2.0)
    first = str(rng.choice(["int8", "uint8"]))
    return [first, "int8"], "int32", (0 if first == "uint8" else -100, 100)


def _extent(rng: np.random.Generator) -> int:
    return int(rng.choice([1, 2, 3, 5, 8, 9, 16, 17, 33]))


def _dense_case(rng: np.random.Generator) -> Case:
    units, length = _extent(rng), _extent(rng) if rng.random() < 0.95 else 0
    leading = [int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 6, rng.integers(0, 4))]
    dtypes, out_dtype, (low, high) = _product_dtypes(rng)
    attributes: dict[str, object] = {"units": units} if rng.random() < 0.5 else {}
    attributes["out_dtype"] = out_dtype
    return Case([(*leading, length), (units, length)], attributes, dtypes, low, high)


def _matmul_case(rng: np.random.Generator) -> Case:
    case = _dense_case(rng)
    transpose_a = bool(rng.random() < 0.6)
    transpose_b = transpose_a and bool(rng.random() < 0.5)  # only b transposed is nn.dense
    (*leading, length), (units, _) = case.shapes
    if transpose_a:
        leading = leading or [3]
        left = (*leading[:-1], length, leading[-1])
    else:
        left = (*leading, length)
    right = (units, length) if transpose_b else (length, units)
    attributes = {**case.attributes, "transpose_a": transpose_a, "transpose_b": transpose_b}
    return Case([left, right], attributes, case.dtypes, case.low, case.high)


@operator(
    "nn.dense",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_product,
    _np_product,
    Reduce(_product),
    cases=_dense_case,
    dtypes=PRODUCT_DTYPES,
    complete=_complete_product,
)
def dense(data: ExprLike, weight: ExprLike, units: int | None = None, out_dtype: str = "") -> Expr:
    """Fully connected layer: data times the transposed weight.

    Args:
        data: (..., in), at least one dimension.
        weight: (units, in).
        units: number of outputs; decides the type of an untyped weight.
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    Returns: (..., units).

    """
    return call("nn.dense", [data, weight], units=None if units is None else int(units), out_dtype=out_dtype)


@operator(
    "nn.matmul",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_product,
    _np_product,
    Reduce(_product),
    cases=_matmul_case,
    dtypes=PRODUCT_DTYPES,
    complete=_complete_product,
)
def matmul(
    tensor_a: ExprLike,
    tensor_b: ExprLike,
    units: int | None = None,
    out_dtype: str = "",
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> Expr:
    """Product of a tensor with a matrix; with only `transpose_b` set it is `dense`, as in Relay.

    Args:
        tensor_a: (..., m, k), or (..., k, m) if `transpose_a`; without it, a vector (k,) is allowed too.
        tensor_b: (k, units), or (units, k) if `transpose_b`.
        units: number of columns of the result; decides the type of an untyped `tensor_b`.
        out_dtype: dtype of the sums and of the result; empty: that of `tensor_a`.
        transpose_a: swap the last two axes of `tensor_a` first.
        transpose_b: swap the axes of `tensor_b` first.

    Returns: (..., m, units).

    """
    if transpose_b and not transpose_a:
        return dense(tensor_a, tensor_b, units, out_dtype)
    return call(
        "nn.matmul",
        [tensor_a, tensor_b],
        units=None if units is None else int(units),
        out_dtype=out_dtype,
        transpose_a=bool(transpose_a),
        transpose_b=bool(transpose_b),
    )


def _infer_batch(attributes: Attrs, left: Type, right: Type) -> Type:
    a, b = numeric(tensor(left, "tensor_a"), "tensor_a"), numeric(tensor(right, "tensor_b"), "tensor_b")
    for name, type_ in (("tensor_a", a), ("tensor_b", b)):
        if type_.ndim != 3:
            raise TypeInferenceError(f"{name} must have 3 dimensions, got {type_}")
    m, k = a.shape[:0:-1] if attributes.transpose_a else a.shape[1:]
    n, inner = b.shape[1:] if attributes.transpose_b else b.shape[:0:-1]
    if k != inner:
        raise TypeInferenceError(f"the sums run over {k} elements of tensor_a {a}, and {inner} of tensor_b {b}")
    if a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0]):
        raise TypeInferenceError(f"the batches must be equal or 1, got {a.shape[0]} in {a} and {b.shape[0]} in {b}")
    batch = b.shape[0] if a.shape[0] == 1 else a.shape[0]
    return TensorType((batch, m, n), out_dtype_of(attributes, a))


def _batch_product(c: Context) -> Reduction:
    a, b = c.args
    length = b.shape[2 if c.attrs.transpose_b else 1]

    def element(row: Sequence[Index], r: Sequence[Index]) -> Value:
        batch, i, j = row
        at_a = batch if a.shape[0] != 1 else as_index(0)
        at_b = batch if b.shape[0] != 1 else as_index(0)
        x = a(at_a, r[0], i) if c.attrs.transpose_a else a(at_a, i, r[0])
        y = b(at_b, j, r[0]) if c.attrs.transpose_b else b(at_b, r[0], j)
        return cast(x, c.dtype) * cast(y, c.dtype)

    return total(c.shape, "sum", (length,), element)


def _np_batch(attributes: Attrs, a: Array, b: Array) -> Array:
    dtype = accumulator(attributes, a)
    a, b = a.astype(dtype), b.astype(dtype)
    a, b = a.swapaxes(1, 2) if attributes.transpose_a else a, b.swapaxes(1, 2) if attributes.transpose_b else b
    result: Array = np.matmul(a, b)
    return result


def _batch_case(rng: np.random.Generator) -> Case:
    m, n, k = (_extent(rng) for _ in range(3))
    k = 0 if rng.random() < 0.03 else k
    batch = int(rng.integers(0 if rng.random() < 0.1 else 1, 5))
    batches = [(batch, batch), (1, batch), (batch, 1)][rng.choice(3, p=(0.6, 0.2, 0.2))]
    attributes = {"transpose_a": bool(rng.random() < 0.5), "transpose_b": bool(rng.random() < 0.5)}
    left = (batches[0], k, m) if attributes["transpose_a"] else (batches[0], m, k)
    right = (batches[1], n, k) if attributes["transpose_b"] else (batches[1], k, n)
    dtypes, out_dtype, (low, high) = _product_dtypes(rng)
    return Case([left, right], {**attributes, "out_dtype": out_dtype}, dtypes, low, high)


@operator(
    "nn.batch_matmul",
    Fusion.OUT_ELEMWISE_FUSABLE,
    _infer_batch,
    _np_batch,
    Reduce(_batch_product),
    cases=_batch_case,
    dtypes=PRODUCT_DTYPES,
)
def batch_matmul(
    tensor_a: ExprLike,
    tensor_b: ExprLike,
    out_dtype: str = "",
    transpose_a: bool = False,
    transpose_b: bool = True,
) -> Expr:
    """Products of matrices, one for each element of the batch; note that `tensor_b` is transposed by default.

    Args:
        tensor_a: (batch, m, k), or (batch, k, m) if `transpose_a`.
        tensor_b: (batch, n, k), or (batch, k, n) if not `transpose_b`. A batch of 1 is stretched to the other's.
        out_dtype: dtype of the sums and of the result; empty: that of `tensor_a`.
        transpose_a: swap the last two axes of `tensor_a` first.
        transpose_b: swap the last two axes of `tensor_b` first.

    Returns: (batch, m, n).

    """
    return call(
        "nn.batch_matmul",
        [tensor_a, tensor_b],
        out_dtype=out_dtype,
        transpose_a=bool(transpose_a),
        transpose_b=bool(transpose_b),
    )


def _infer_bias(attributes: Attrs, data: Type, bias: Type) -> Type:
    x, b = numeric(tensor(data, "data"), "data"), tensor(bias, "bias")
    size = x.shape[normalize_axis(attributes.axis, x.ndim)]
    if b.shape != (size,) or b.dtype != x.dtype:
        raise TypeInferenceError(
            f"bias for axis {attributes.axis} of {x} must be {TensorType((size,), x.dtype)}, got {b}"
        )
    return x


def _complete_bias(attributes: Attrs, data: Type | None, bias: Type | None) -> list[Type | None]:
    if bias is None and data is not None:
        x = tensor(data, "data")
        bias = TensorType((x.shape[normalize_axis(attributes.axis, x.ndim)],), x.dtype)
    return [data, bias]


def _bias_element(c: Context, *index: Index) -> Value:
    data, bias = c.args
    return data(*index) + bias(index[normalize_axis(c.attrs.axis, len(index))])


def _np_bias(attributes: Attrs, data: Array, bias: Array) -> Array:
    return np.moveaxis(np.moveaxis(data, attributes.axis, -1) + bias, -1, attributes.axis)


def _bias_case(rng: np.random.Generator) -> Case:
    shape = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 7, rng.integers(1, 6)))
    axis = int(rng.integers(-len(shape), len(shape)))
    return Case([shape, (shape[axis],)], {} if axis == 1 else {"axis": axis})


@operator(
    "nn.bias_add",
    Fusion.BROADCAST,
    _infer_bias,
    _np_bias,
    Map(_bias_element),
    cases=_bias_case,
    dtypes=NUMERIC,
    complete=_complete_bias,
)
def bias_add(data: ExprLike, bias: ExprLike, axis: int = 1) -> Expr:
    """Adds a vector along one axis.

    Args:
        data: any tensor with that axis.
        bias: (size of the axis,), of the data's dtype; its type is found from the data where it is not given.
        axis: the axis; negative counts from the end.

    """
    return call("nn.bias_add", [data, bias], axis=int(axis))
