"""What rules of several libraries ask of an operator call: plain tensors, which input is which, matrix products.

A rule's `check` collects reasons not to take a call; `why_not_plain` gives the common ones. `rules_for` makes rules
that take single calls. `product` brings nn.dense, nn.matmul and nn.batch_matmul to the one form that libraries know:
matrices, or batches of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from ..fuse.dataflow_pattern import is_op
from ..fuse.library import Executable, Region, Rule
from ..ir.expr import Call, Expr, TupleGetItem
from ..ir.types import TensorType
from ..ops.spec import spec_of

PRODUCTS = ("nn.dense", "nn.matmul", "nn.batch_matmul")
"""The operators that `product` describes."""


def rules_for(
    library: str,
    ops: Sequence[str],
    dtypes: Sequence[str],
    why_not: Callable[[Call, Sequence[str]], str | None],
    implement: Callable[[Region], Executable],
    **settings: Any,
) -> list[Rule]:
    """Rules that take single calls, such as "cudnn.softmax" for nn.softmax.

    Args:
        library: its name.
        ops: the operators, each of which gets a rule.
        dtypes: the element types that the library takes.
        why_not: given a call and `dtypes`, why the library cannot take it, or None.
        implement: see `Rule.implement`.
        settings: the other attributes of `Rule`.

    """
    return [
        Rule(
            f"{library}.{op.removeprefix('nn.')}", is_op(op)(None), lambda match: why_not(match.calls[0], dtypes),
            implement=implement, **settings,
        )
        for op in ops
    ]  # fmt: skip


def tensors(call: Call, result: Expr | None = None) -> list[TensorType]:
    """The types of the arguments and, last, of the result of a call between tensors.

    Args:
        call: the call.
        result: what is used of its result, where that is a tuple.

    Raises:
        TypeError: one of them is not a tensor.

    """
    types = [*(arg.checked_type for arg in call.args), (call if result is None else result).checked_type]
    found = [type_ for type_ in types if isinstance(type_, TensorType)]
    if len(found) < len(types):
        raise TypeError(f"expected tensors only: {call}")
    return found


def why_not_plain(call: Call, dtypes: Sequence[str], result: Expr | None = None) -> str | None:
    """Why a library of plain kernels cannot take a call, or None: sizes are known and not 0, and all have one dtype.

    Args:
        call: a call between tensors.
        dtypes: the element types that the library takes.
        result: see `tensors`.

    """
    *args, out = tensors(call, result)
    named = dict(zip(spec_of(call).signature.parameters, args, strict=False))
    for name, type_ in {**named, "the result": out}.items():
        if not type_.is_static:
            return f"{name} has symbolic dimensions: {type_}"
        if 0 in type_.shape:
            return f"{name} has no elements: {type_}"
    first, dtype = next((name, type_.dtype) for name, type_ in named.items())
    if dtype not in dtypes:
        expected = " or ".join([", ".join(dtypes[:-1]), dtypes[-1]] if dtypes[1:] else dtypes)
        return f"{first} is {dtype}, expected {expected}"
    for name, type_ in named.items():
        if type_.dtype != dtype:
            return f"{name} is {type_.dtype}, expected {dtype} as {first} is"
    if out.dtype != dtype:
        return f"out_dtype is {out.dtype}, expected {dtype} as {first} is"
    return None


def position(region: Region, arg: Expr) -> int:
    """Which input of a region an argument of its call is; two arguments may be one and the same input."""
    return next(k for k, param in enumerate(region.function.params) if param is arg)


def anchor_call(anchor: Expr) -> Call:
    """The call that the anchor of a chain is, or of which it takes one result."""
    call = anchor.tuple_value if isinstance(anchor, TupleGetItem) else anchor
    assert isinstance(call, Call)
    return call


def shown(call: Call) -> str:
    """A call as errors show it: "nn.dense(Tensor[(2, 3), float32], Tensor[(4, 3), float32])"."""
    return f"{call.op}({', '.join(str(arg.checked_type) for arg in call.args)})"


@frozen
class Product:
    """A product of matrices or, with three dimensions, of batches of them; a batch of 1 is repeated.

    Attributes:
        a, b, out: the shapes of the arrays, all of two or all of three dimensions. The arrays of the graph are seen in
            these shapes; no data moves.
        trans_a, trans_b: whether the matrices of a and b are stored transposed.

    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    out: tuple[int, ...]
    trans_a: bool
    trans_b: bool


def product(call: Call) -> Product:
    """A call of one of `PRODUCTS` with static shapes as a product of matrices or of batches.

    Leading dimensions of the first operand of dense and matmul count as further rows; where it is transposed they
    cannot, and are the batch.
    """
    a, b, out = (type_.static_shape for type_ in tensors(call))
    trans_a, trans_b = call.attrs.get("transpose_a", False), call.attrs.get("transpose_b", True)
    if len(a) == len(b):
        return Product(a, b, out, trans_a, trans_b)
    if not trans_a:
        rows = math.prod(a[:-1])
        return Product((rows, a[-1]), b, (rows, out[-1]), False, trans_b)
    batch = math.prod(a[:-2])
    return Product((batch, *a[-2:]), (1, *b), (batch, *out[-2:]), True, trans_b)
