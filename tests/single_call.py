"""Single operator calls for tests: their type, what their lowering gives, and what their reference gives."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusewire.ir.expr import Call, TupleGetItem, var
from fusewire.ir.index import Dim
from fusewire.ir.tuple_wrapper import TupleWrapper
from fusewire.ir.types import TensorType, Type
from fusewire.ops.spec import spec_of
from tests.interpret import interpret_call

Array = npt.NDArray[Any]
Builder = Callable[..., Any]
Shape = tuple[Dim, ...]


def call_of(built: Any) -> Call:
    call = built.astuple() if isinstance(built, TupleWrapper) else built
    call = call.tuple_value if isinstance(call, TupleGetItem) else call
    assert isinstance(call, Call)
    return call


def type_of(op: Builder, shapes: Sequence[Shape], dtype: str = "float32", **attributes: Any) -> Type:
    built = op(*(var(f"x{k}", TensorType(s, dtype)) for k, s in enumerate(shapes)), **attributes)
    return call_of(built).checked_type


def run(op: Builder, *arrays: Array, **attributes: Any) -> Array:
    """The result of an operator by interpreting its lowering."""
    types = [TensorType(a.shape, a.dtype.name) for a in arrays]
    call = call_of(op(*(var(f"x{k}", t) for k, t in enumerate(types)), **attributes))
    (result,) = interpret_call(spec_of(call), call.attrs, arrays, types)
    return result


def reference(op: Builder, *arrays: Array, **attributes: Any) -> Array:
    types = [TensorType(a.shape, a.dtype.name) for a in arrays]
    call = call_of(op(*(var(f"x{k}", t) for k, t in enumerate(types)), **attributes))
    return np.asarray(spec_of(call).reference(call.attrs, *(a.astype(np.float64) for a in arrays)))


def both(op: Builder, *arrays: Array, **attributes: Any) -> list[Array]:
    """What the lowering gives, and what the reference gives."""
    return [run(op, *arrays, **attributes), reference(op, *arrays, **attributes)]
