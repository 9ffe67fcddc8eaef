"""FoldConstant: what depends on constants only is computed when the graph is built.

Operators are evaluated by their NumPy reference, floating types in float64, and each result is rounded to its dtype
once. Those that only move elements work on the elements as they are: weights are large, and such a result may be a
view of them.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..ir.expr import Call, Constant, Expr, If, Tuple, TupleGetItem
from ..ir.scalar import is_float
from ..ir.types import TensorType, nbytes, numpy_dtype, tensors_of
from ..ops.spec import Array, OpSpec
from .graph import rewrite_function, tensor_type
from .infra import Pass, over_functions

MOVES = frozenset((
    "broadcast_to", "concatenate", "copy", "expand_dims", "layout_transform", "nn.batch_flatten", "repeat", "reshape",
    "reverse", "slice_like", "split", "squeeze", "stack", "strided_slice", "tile", "transpose",
))  # fmt: skip
"""Operators whose results consist of elements of their inputs (or zeros)."""

LARGEST = 64 << 20
"""Bytes that a folded result may have, unless it is a rearrangement of weights that are as large themselves."""

GROWTH = 4
"""How many times larger than its inputs a folded result may be..."""

SMALL = 16 << 10
"""...unless it is below this many bytes: `zeros((1000, 1000))` is better made when the program runs."""


def fold_constant() -> Pass:
    """The pass FoldConstant."""
    return over_functions("FoldConstant", 2, lambda f, mod, context: rewrite_function(f, _folded))


def _folded(old: Expr, new: Expr) -> Expr | None:
    match new:
        case TupleGetItem(tuple_value=Tuple(fields=fields), index=index):
            return fields[index]
        case If(cond=Constant(data=data)):
            return new.true_branch if data else new.false_branch
        case Call(op=OpSpec() as spec) if spec.name in ("shape_of", "ndarray_size"):
            return _shape(spec, new)
        case Call(op=OpSpec() as spec, args=args) if all(map(_is_constant, args)) and _reasonable(new):
            return evaluate(spec, new)
    return None


def _is_constant(arg: Expr) -> bool:
    return isinstance(arg, Constant) or (isinstance(arg, Tuple) and all(map(_is_constant, arg.fields)))


def _reasonable(call: Call) -> bool:
    """Whether the result is not too large to be stored."""
    results = tensors_of(call.checked_type)
    if not all(t.is_static for t in results):
        return False
    size = nbytes(results)
    inputs = nbytes([arg.checked_type for arg in call.args])
    if size > LARGEST:
        return str(call.op) in MOVES and size <= inputs
    return size <= SMALL or size <= GROWTH * inputs


def evaluate(spec: OpSpec, call: Call) -> Expr:
    """The result of an operator on constants (and tuples of them): a constant, or a tuple of constants."""
    plain = spec.name in MOVES
    with np.errstate(all="ignore"):
        result = spec.reference(call.attrs, *(_value(arg, plain) for arg in call.args))
    if isinstance(call.checked_type, TensorType):
        return _constant(result, call.checked_type)
    types = tensors_of(call.checked_type)
    return Tuple([_constant(array, type_) for array, type_ in zip(result, types, strict=True)])


def _value(arg: Expr, plain: bool) -> Any:
    if isinstance(arg, Tuple):
        return [_value(field, plain) for field in arg.fields]
    assert isinstance(arg, Constant)
    return arg.data if plain else widened(arg)


def widened(constant: Constant) -> Array:
    """The value of a constant, floating types as float64."""
    return constant.data.astype(np.float64) if is_float(tensor_type(constant).dtype) else constant.data


def _constant(value: object, type_: TensorType) -> Constant:
    with np.errstate(over="ignore"):
        array = np.asarray(value).astype(numpy_dtype(type_.dtype), copy=False).reshape(type_.static_shape)
    base = array.base
    if isinstance(base, np.ndarray) and base.nbytes > array.nbytes:
        array = array.copy()  # a part, which would keep the whole in memory
    array.setflags(write=False)  # nobody else has it, or it is a view of a constant: Constant need not copy it
    return Constant(array)


def _shape(spec: OpSpec, call: Call) -> Expr | None:
    """What is known of a tensor without its elements."""
    type_ = tensor_type(call.args[0])
    if not type_.is_static:
        return None
    shape = type_.static_shape
    stand_in = SimpleNamespace(shape=shape, size=math.prod(shape))  # no array has so many elements as a type may have
    return _constant(spec.reference(call.attrs, stand_in), tensor_type(call))
