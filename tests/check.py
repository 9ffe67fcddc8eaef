"""One check of a lowering without a compiler: interpret random uses of an operator and compare with its reference."""

import numpy as np

from fusewire import testing
from fusewire.ir.expr import Call, Expr, Tuple, Var
from fusewire.ir.types import TensorType
from fusewire.ops.spec import Array, OpSpec
from tests.interpret import interpret_call

SIZE = 1500
"""Uses with more input elements are drawn again: the interpreter is slow."""


def check_lowering(spec: OpSpec, dtype: str, rng: np.random.Generator) -> Call:
    """Draw a use of an operator, interpret its lowering, and compare with the NumPy reference.

    Returns:
        The call that was compared.

    Raises:
        AssertionError: a result differs, or the lowering breaks a rule (see `interpret_call`).

    """
    assert spec.cases is not None, f"{spec.name} has no cases"
    arrays: list[Array | list[Array]] = [np.empty(SIZE + 1)]
    while sum(np.size(a) for part in arrays for a in _parts(part)) > SIZE:
        case = spec.cases(rng)
        arrays = testing.sample_arguments(spec, case, dtype, rng)
    built = spec.build(*map(_variable, arrays), **case.attributes)
    call = built if isinstance(built, Expr) else built.astuple()
    assert isinstance(call, Call) and call.op is spec
    inputs = [a for part in arrays for a in _parts(part)]
    results = interpret_call(spec, call.attrs, inputs, [arg.checked_type for arg in call.args])
    for result, expected in zip(results, testing.reference(spec, call, arrays), strict=True):
        where = f"{spec.name}({', '.join(str(arg.checked_type) for arg in call.args)}) with {dict(call.attrs)}"
        assert result.shape == expected.shape and result.dtype == expected.dtype, where
        limit = testing.TOLERANCE.get(result.dtype.name, 0) * spec.tolerance
        wide = expected.astype(np.float64)
        scale = np.max(np.abs(wide), initial=1, where=np.isfinite(wide))
        np.testing.assert_allclose(result.astype(np.float64), wide, rtol=0, atol=limit * scale, err_msg=where)
    return call


def _parts(argument: Array | list[Array]) -> list[Array]:
    return argument if isinstance(argument, list) else [argument]


def _variable(argument: Array | list[Array]) -> Expr:
    if isinstance(argument, list):
        return Tuple([_variable(a) for a in argument])
    return Var("x", TensorType(argument.shape, argument.dtype.name))
