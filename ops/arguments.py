"""Helpers of builder functions and type rules: arguments that must be known when the graph is built, and tuples."""

from collections.abc import Sequence
from typing import Any, TypeAlias, Union

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Constant, Expr, ExprLike, Tuple, as_expr
from ..ir.index import Dim, as_dim, as_index
from ..ir.tuple_wrapper import TupleWrapper
from ..ir.types import INTEGERS, TensorType, TupleType, Type
from .spec import tensor

IntsLike: TypeAlias = Union[int, Sequence[int], Constant, "np.ndarray[Any, Any]"]
"""What a builder takes for a few integers: a number, a sequence, an array, or a constant."""

TupleLike: TypeAlias = Expr | TupleWrapper | Sequence[ExprLike]
"""What a builder takes for a tuple argument: an expression of tuple type, or a sequence of tensors."""


def static_ints(value: Any, what: str) -> tuple[int, ...]:
    """Integers given as a number, a sequence, an array or a constant, as a tuple.

    Raises:
        TypeInferenceError: `value` is computed by the graph, or does not consist of integers.

    """
    if isinstance(value, Constant):
        value = value.data
    if isinstance(value, Expr):
        given = f"an expression of type {value.known_type}" if value.known_type else "an expression"
        raise TypeInferenceError(f"{what} must be integers known when the graph is built, got {given}")
    items = np.asarray(value if value is not None else "None")
    if (items.size and items.dtype.kind not in "iu") or items.ndim > 1:
        raise TypeInferenceError(f"{what} must be an integer or a sequence of integers, got {value!r}")
    return tuple(int(i) for i in items.reshape(-1))


def tuple_argument(data: TupleLike) -> Expr:
    """A tuple argument as one expression; numbers and arrays in a sequence become constants."""
    if isinstance(data, TupleWrapper):
        return data.astuple()
    if isinstance(data, Expr):
        return data
    parts = list(data)
    like = next((p for p in parts if isinstance(p, Expr)), None)
    return Tuple([as_expr(p, like) for p in parts])


def tuple_size(data: Expr, operator: str) -> int:
    """How many values an expression of tuple type has."""
    if isinstance(data, Tuple):
        return len(data.fields)
    if isinstance(data.known_type, TupleType):
        return len(data.known_type.fields)
    raise TypeInferenceError(
        f"{operator} must know how many tensors it gets: pass a list of tensors, "
        f"or a tuple whose type is known (got one of type {data.known_type})"
    )


def integer_tensor(type_: Type, what: str) -> TensorType:
    """`type_` as the type of a tensor of integers, or a TypeInferenceError."""
    found = tensor(type_, what)
    if found.dtype not in INTEGERS:
        raise TypeInferenceError(f"{what} must have an integer dtype, got {found}")
    return found


def one_of(value: Any, known: Sequence[str], what: str) -> str:
    """`value` if it is one of the known words, or a TypeInferenceError that lists them."""
    if value not in known:
        raise TypeInferenceError(f"{what} must be one of {', '.join(known)}, got {value!r}")
    return str(value)


def divisible(size: Dim, parts: int) -> bool:
    """Whether `size` surely is a multiple of `parts` (at least 1)."""
    return as_dim(as_index(size) % parts) == 0


def shown(shape: Sequence[Any]) -> str:
    """A shape as error messages print it: (1, 3, n)."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
