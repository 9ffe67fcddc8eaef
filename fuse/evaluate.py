"""The plain meaning of a graph in NumPy: what compiled results are compared with."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.errors import FusewireError
from ..ir.expr import Call, Constant, Expr, Function, If, Tuple, TupleGetItem
from ..ir.types import TensorType, TupleType, Type, numpy_dtype
from ..ir.visitor import children
from ..ops.spec import Array, OpSpec


def wide(value: Any) -> Any:
    """An array, or a list of arrays, with floating types as float64."""
    if isinstance(value, list):
        return [wide(v) for v in value]
    return value.astype(np.float64) if value.dtype.kind == "f" or value.dtype.name == "bfloat16" else value


def _given(value: Any, type_: Type | None) -> Any:
    """What is given for a parameter; a sequence of arrays for a tuple."""
    if isinstance(type_, TupleType):
        return tuple(_given(v, t) for v, t in zip(value, type_.fields, strict=True))
    return wide(np.asarray(value))


def evaluate(function: Function, inputs: Mapping[str, Any], stepwise: bool = False) -> list[Array]:
    """What a function gives in NumPy, operator by operator through their references, floating types as float64.

    The slow, plain meaning of a graph: what compiled results are compared with.

    Args:
        function: a function whose types are known.
        inputs: arrays for the parameters, by name; a sequence of arrays for a tuple.
        stepwise: round what each operator gives to the dtype it should have, to see how much rounding matters.
    """
    values: dict[int, Any] = {id(p): _given(inputs[p.name_hint], p.known_type) for p in function.params}
    stack: list[tuple[Expr, bool]] = [(function.body, False)]
    while stack:
        node, ready = stack.pop()
        if id(node) in values:
            continue
        if isinstance(node, If) and not ready:
            stack.extend([(node, True), (node.cond, False)])
        elif isinstance(node, If):
            arm = node.true_branch if bool(values[id(node.cond)]) else node.false_branch
            if id(arm) in values:
                values[id(node)] = values[id(arm)]
            else:
                stack.extend([(node, True), (arm, False)])
        elif not ready:
            stack.append((node, True))
            stack.extend((child, False) for child in children(node))
        else:
            value = _evaluate_node(node, [values[id(c)] for c in children(node)])
            values[id(node)] = _rounded(value, node.checked_type) if stepwise and isinstance(node, Call) else value
    result = values[id(function.body)]
    return list(result) if isinstance(result, tuple) else [result]


def _rounded(value: Any, type_: Type) -> Any:
    """Arrays as the dtypes of a type can hold them, floating types still as float64."""
    if isinstance(type_, TupleType):
        return tuple(_rounded(v, t) for v, t in zip(value, type_.fields, strict=True))
    assert isinstance(type_, TensorType)
    with np.errstate(over="ignore", invalid="ignore"):
        return wide(value.astype(numpy_dtype(type_.dtype)))


def _evaluate_node(node: Expr, parts: list[Any]) -> Any:
    match node:
        case Constant(data=data):
            return wide(data)
        case Tuple():
            return tuple(parts)
        case TupleGetItem(index=index):
            return parts[0][index]
        case Call(op=OpSpec() as spec, attrs=attributes):
            arguments = [list(p) if isinstance(p, tuple) else p for p in parts]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                result = spec.reference(attributes, *arguments)
            several = isinstance(node.checked_type, TupleType)
            return tuple(map(np.asarray, result)) if several else np.asarray(result)
    raise FusewireError(f"evaluate does not know {type(node).__name__}")
