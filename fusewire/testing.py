"""Helpers for tests and tutorials: random parameters, comparisons, an operator against its reference."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .bisection import Bisection, Mismatch, bisect_mismatch, reproduce
from .fuse.evaluate import evaluate, wide
from .ir.errors import FusewireError
from .ir.expr import Call, Expr, Function, Tuple, Var
from .ir.infer import infer_type
from .ir.module import IRModule
from .ir.types import TensorType, numpy_dtype, tensors_of
from .ops.spec import Array, Case, OpSpec
from .targets.build import build
from .targets.device import NDArray, array, as_numpy

__all__ = [
    "assert_allclose", "Bisection", "bisect_mismatch", "check_operator", "create_workload", "evaluate", "Mismatch",
    "reference", "reproduce", "sample_arguments", "TOLERANCE", "xavier",
]  # fmt: skip

Initializer = Callable[[str, npt.NDArray[Any], np.random.Generator], None]


def xavier(name: str, values: npt.NDArray[Any], rng: np.random.Generator) -> None:
    """Fill `values` in place: Xavier-uniform weights (Glorot and Bengio 2010), ones for gamma and var, else zeros.

    Weights are what is called so, and other arrays of two or more dimensions.
    """
    kind = name.rsplit("_", 1)[-1]
    if kind in ("gamma", "var"):
        values[...] = 1
    elif kind in ("bias", "beta", "mean") or values.ndim < 2:
        values[...] = 0
    else:
        receptive = int(np.prod(values.shape[2:]))
        fan = (values.shape[0] + values.shape[1]) * receptive / 2
        values[...] = rng.uniform(-1, 1, values.shape) * np.sqrt(3 / max(fan, 1))


def create_workload(
    net: Expr | IRModule, initializer: Initializer = xavier, seed: int = 0
) -> tuple[IRModule, dict[str, NDArray]]:
    """A typed module, and random values for all of its parameters but "data".

    Args:
        net: a function, an expression, or a module.
        initializer: fills an array, given the parameter's name; Xavier if left out.
        seed: of the random numbers.
    """
    mod = net if isinstance(net, IRModule) else IRModule.from_expr(net)
    main = infer_type(mod["main"])
    assert isinstance(main, Function)
    rng = np.random.default_rng(seed)
    params: dict[str, NDArray] = {}
    for param in main.params:
        if param.name_hint != "data":
            type_ = param.checked_type
            assert isinstance(type_, TensorType)
            values = np.zeros(type_.static_shape, numpy_dtype(type_.dtype))
            initializer(param.name_hint, values, rng)
            params[param.name_hint] = array(values)
    return mod.with_functions({"main": main}), params


def assert_allclose(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 1e-6) -> None:
    """Raise AssertionError where two arrays differ by more than `atol + rtol * |desired|`.

    `atol` is what float32 sums of a few dozen terms of size 1 may lose to rounding, whatever they cancel to.
    """
    np.testing.assert_allclose(as_numpy(actual), as_numpy(desired), rtol=rtol, atol=atol, verbose=True)


TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Relative to the largest magnitude in the result: how far compiled code may be from the float64 reference."""


def sample_arguments(spec: OpSpec, case: Case, dtype: str, rng: np.random.Generator) -> list[Any]:
    """Random argument arrays for a case; a tuple argument is a list of arrays."""
    if case.values is not None:
        return list(case.values(rng, dtype))

    def draw(shape: Any, own: str | None) -> Any:
        if isinstance(shape, list):
            return [draw(s, own) for s in shape]
        name = own or dtype
        if name == "bool":
            return rng.integers(0, 2, shape).astype(bool)
        if name.startswith(("int", "uint")):
            low = max(int(np.ceil(case.low)), 0 if name[0] == "u" else -128)
            return rng.integers(low, max(int(case.high), low) + 1, shape).astype(name)
        return rng.uniform(case.low, case.high, shape).astype(numpy_dtype(name))

    dtypes = case.dtypes or [None] * len(case.shapes)
    return [draw(shape, own) for shape, own in zip(case.shapes, dtypes, strict=True)]


def reference(spec: OpSpec, call: Call, arrays: Sequence[Any]) -> list[Array]:
    """The NumPy reference's results: float64 arithmetic for floating types, then rounded to the result's dtype."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = spec.reference(call.attrs, *map(wide, arrays))
        results = list(result) if isinstance(result, list | tuple) else [result]
        types = tensors_of(call.checked_type)
        return [np.asarray(r).astype(numpy_dtype(t.dtype)) for r, t in zip(results, types, strict=True)]


def check_operator(
    spec: OpSpec, dtype: str | Sequence[str], rng: np.random.Generator, count: int = 4, target: str = "cpu"
) -> int:
    """Compile `count` random uses of an operator as one module, and compare each with the NumPy reference.

    Args:
        spec: the operator.
        dtype: of its arguments; several make one module with `count` uses for each.
        rng: draws shapes, attributes and values.
        count: how many uses.
        target: what to compile for.

    Returns:
        How many uses were compared.

    Raises:
        AssertionError: a result differs; the message holds the call.
    """
    function, feed, uses = sample_uses(spec, dtype, rng, count)
    results = build(function, target)(**feed)
    flat = results if isinstance(results, list) else [results]
    position = 0
    for call, arrays in uses:
        for expected in reference(spec, call, arrays):
            _compare(flat[position], expected, spec, call)
            position += 1
    return len(uses)


def sample_uses(
    spec: OpSpec, dtype: str | Sequence[str], rng: np.random.Generator, count: int
) -> tuple[Function, dict[str, Array], list[tuple[Call, list[Any]]]]:
    """A function whose results are `count` random uses of an operator on each dtype; its inputs; and the uses."""
    inputs: list[Var] = []
    feed: dict[str, Array] = {}
    dtypes = [dtype] if isinstance(dtype, str) else dtype
    uses = [_use(spec, name, rng, f"{name}_{number}", inputs, feed) for name in dtypes for number in range(count)]
    return Function(inputs, Tuple([call for call, _ in uses])), feed, uses


def _use(
    spec: OpSpec, dtype: str, rng: np.random.Generator, name: str, inputs: list[Var], feed: dict[str, Array]
) -> tuple[Call, list[Any]]:
    """A random call, and its arguments, which become inputs that are called after `name`."""
    assert spec.cases is not None
    case = spec.cases(rng)
    arrays = sample_arguments(spec, case, dtype, rng)
    args = [_variable(a, f"x_{name}_{k}", inputs, feed) for k, a in enumerate(arrays)]
    built = spec.build(*args, **case.attributes)
    call = built.astuple() if hasattr(built, "astuple") else built
    if not isinstance(call, Call):
        raise FusewireError(f"the builder of {spec.name} gave a {type(call).__name__}")
    return call, arrays


def _variable(value: Any, name: str, inputs: list[Var], feed: dict[str, Array]) -> Expr:
    if isinstance(value, list):
        return Tuple([_variable(v, f"{name}_{k}", inputs, feed) for k, v in enumerate(value)])
    inputs.append(Var(name, TensorType(value.shape, value.dtype.name)))
    feed[name] = value
    return inputs[-1]


def _compare(actual: Array, expected: Array, spec: OpSpec, call: Call) -> None:
    shapes = ", ".join(str(arg.checked_type) for arg in call.args)
    where = f"{spec.name}({shapes}) with {dict(call.attrs)}"
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, where
    if expected.dtype.kind not in "f" and expected.dtype.name != "bfloat16":
        np.testing.assert_array_equal(actual, expected, err_msg=where)
        return
    wide = expected.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    limit = TOLERANCE[expected.dtype.name] * spec.tolerance * scale
    np.testing.assert_allclose(actual.astype(np.float64), wide, rtol=0, atol=limit, err_msg=where)
