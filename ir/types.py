"""Types of expressions: tensors, tuples and functions."""

from collections.abc import Iterable
from typing import Any

import attrs
import ml_dtypes
import numpy as np

from .errors import TypeInferenceError
from .index import INF, Dim, Index, as_dim, product

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = ("bool", *INTEGERS, *FLOATS)
"""Every element type a tensor may have."""

MOST_DIMENSIONS = 32
"""What every version of NumPy can hold."""


def check_dtype(dtype: Any) -> str:
    """The canonical name of an element type given as a name, a NumPy dtype or a Python type.

    Raises:
        TypeInferenceError: the type is not one of `DTYPES`.

    """
    try:
        name = dtype if isinstance(dtype, str) or dtype is None else np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise TypeInferenceError(f"unknown dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    return name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype for an element type (bfloat16 comes from ml_dtypes)."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _check_shape(shape: Any) -> tuple[Dim, ...]:
    try:
        dims = tuple(as_dim(d) if isinstance(d, Index) else int(d.__index__()) for d in shape)
    except (TypeError, AttributeError):
        raise TypeInferenceError(f"a shape is a sequence of integers or symbolic dimensions, got {shape!r}") from None
    if len(dims) > MOST_DIMENSIONS:
        raise TypeInferenceError(f"a tensor has at most {MOST_DIMENSIONS} dimensions, got {len(dims)}")
    for dim in dims:
        if isinstance(dim, int) and not 0 <= dim < INF:
            raise TypeInferenceError(f"dimensions lie in 0..2**62-1, got {dim} in shape {dims}")
    return dims


class Type:
    """Root of all types."""

    __slots__ = ()


@attrs.frozen(cache_hash=True, repr=False)
class TensorType(Type):
    """A dense tensor: `shape` (integers or symbolic dimensions) and `dtype` (one of `DTYPES`)."""

    shape: tuple[Dim, ...] = attrs.field(default=(), converter=_check_shape)
    dtype: str = attrs.field(default="float32", converter=check_dtype)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a known integer."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as plain integers.

        Raises:
            TypeInferenceError: a dimension is still symbolic.

        """
        if not self.is_static:
            raise TypeInferenceError(f"{self} has symbolic dimensions: bind them with shape= when building")
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor (static shapes only)."""
        size = product(self.static_shape)
        assert isinstance(size, int)
        return size * self.itemsize

    def __str__(self) -> str:
        if not self.shape:
            return self.dtype
        comma = "," if len(self.shape) == 1 else ""
        return f"Tensor[({', '.join(map(str, self.shape))}{comma}), {self.dtype}]"

    __repr__ = __str__


def _types(items: Iterable[Type]) -> tuple[Type, ...]:
    return tuple(items)


def scalar_type(dtype: str) -> TensorType:
    """The type of a scalar: a tensor without dimensions."""
    return TensorType((), dtype)


@attrs.frozen(cache_hash=True, repr=False)
class TupleType(Type):
    """A tuple of types."""

    fields: tuple[Type, ...] = attrs.field(converter=_types)

    def __str__(self) -> str:
        comma = "," if len(self.fields) == 1 else ""
        return f"({', '.join(map(str, self.fields))}{comma})"

    __repr__ = __str__


@attrs.frozen(cache_hash=True, repr=False)
class FuncType(Type):
    """The type of a function."""

    arg_types: tuple[Type, ...] = attrs.field(converter=_types)
    ret_type: Type

    def __str__(self) -> str:
        return f"fn ({', '.join(map(str, self.arg_types))}) -> {self.ret_type}"

    __repr__ = __str__


def tensors_of(type_: Type) -> list[TensorType]:
    """The tensors of a type from left to right, tuples flattened."""
    found: list[TensorType] = []
    pending: list[Type] = [type_]
    while pending:
        match pending.pop():
            case TensorType() as tensor:
                found.append(tensor)
            case TupleType(fields=fields):
                pending.extend(reversed(fields))
            case other:
                raise TypeInferenceError(f"expected tensors, got {other}")
    return found


def nbytes(types: Iterable[Type]) -> int:
    """Bytes of all tensors in `types`."""
    return sum(tensor.nbytes for type_ in types for tensor in tensors_of(type_))
