"""Mistakes that users made, and graphs that were too much, each once."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw

X = fw.var("x", shape=(6, 10))


MISTAKES: dict[str, Callable[[], Any]] = {
    "integer beyond 64 bits": lambda: fw.const(2**70),
    "fraction as integer": lambda: fw.const(1.5, "int32"),
    "NaN as integer": lambda: fw.const(float("nan"), "int32"),
    "number too large for the tensor": lambda: fw.var("i", shape=(2,), dtype="int8") + 300,
    "no strides": lambda: fw.nn.conv2d(X, X, strides=None),  # type: ignore[arg-type]
    "fraction as stride": lambda: fw.nn.conv2d(X, X, strides=(2.9, 2.9)),  # type: ignore[arg-type]
    "fraction as axis": lambda: fw.sum(X, axis=1.5),  # type: ignore[arg-type]
    "None as axis": lambda: fw.nn.softmax(X, axis=None),  # type: ignore[arg-type]
    "number in a tuple": lambda: fw.Tuple([1]),  # type: ignore[list-item]
    "function of nothing": lambda: fw.Function([], None),  # type: ignore[arg-type]
    "number as a name": lambda: fw.var(3, shape=(2,)),  # type: ignore[arg-type]
    "not an instrument": lambda: fw.transform.PassContext(instruments=[object()]),  # type: ignore[list-item]
    "level as text": lambda: fw.transform.PassContext(opt_level="3"),  # type: ignore[arg-type]
    "library for a module": lambda: fw.GraphModule(fw.build(fw.exp(X), "cpu")),  # type: ignore[arg-type]
    "precision that is not there": lambda: fw.build(fw.exp(X), "cpu -precision=float8"),
    "precision that the processor lacks": lambda: fw.build(fw.exp(X), "cpu -mcpu=k8 -precision=float16"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    with pytest.raises(fw.FusewireError):
        MISTAKES[mistake]()


def test_outputs_before_the_first_run() -> None:
    module = fw.GraphModule(fw.build(fw.exp(X), "cpu")["default"](fw.cpu()))
    with pytest.raises(fw.RuntimeInputError, match=r"call run\(\) first"):
        module.get_output(0)


def test_long_chain_of_data_movement() -> None:
    """Reshapes between shapes that do not divide double the index at each step: fusion has to stop in time."""
    expr: fw.Expr = X
    value = expected = np.random.default_rng(0).random((6, 10), dtype=np.float32)
    for k in range(24):
        shape = (10, 6) if k % 2 else (15, 4)
        expr = fw.transpose(fw.reshape(expr, shape))
        expected = expected.reshape(shape).T
    np.testing.assert_array_equal(fw.build(fw.Function([X], expr), "cpu")(x=value), expected)


def test_many_tensors_concatenated() -> None:
    parts = [fw.var(f"x{k}", shape=(4,)) for k in range(400)]
    lib = fw.build(fw.Function(parts, fw.concatenate(parts, axis=0)), "cpu")
    values = {f"x{k}": np.full(4, k, np.float32) for k in range(400)}
    np.testing.assert_array_equal(lib(**values), np.repeat(np.arange(400), 4))


def test_fused_module_builds_again() -> None:
    lib = fw.build(fw.Function([X], fw.nn.softmax(fw.exp(X) + 1.0)), "cpu")
    value = np.random.default_rng(0).random((6, 10), dtype=np.float32)
    for module in (lib.fused_mod, fw.parse(lib.fused_mod.astext())):
        np.testing.assert_array_equal(fw.build(module, "cpu")(x=value), lib(x=value))


def test_failed_context_is_not_left_open() -> None:
    class Failing(fw.transform.PassInstrument):
        def enter_pass_ctx(self) -> None:
            raise RuntimeError("no")

    before = fw.transform.PassContext.current()
    with pytest.raises(RuntimeError), fw.transform.PassContext(instruments=[Failing()]):
        pass
    assert fw.transform.PassContext.current() is before


def test_graphs_can_be_copied_and_pickled() -> None:
    function = fw.Function([X], fw.nn.softmax(X, axis=0))
    for other in (copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        assert fw.analysis.structural_equal(function, other)


def test_numpy_leaves_arithmetic_to_expressions() -> None:
    assert isinstance(np.ones((6, 10), np.float32) + X, fw.Expr)
    assert fw.const(2**40).checked_type == fw.TensorType((), "int64")
