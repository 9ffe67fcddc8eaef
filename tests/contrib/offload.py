"""For tests of libraries: where each part of a compiled graph runs, and whether its results are right."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fusewire as fw
from fusewire.ir.types import numpy_dtype
from fusewire.targets.program import LibraryStep
from fusewire.testing import evaluate

Array = NDArray[Any]
Build = Callable[[], fw.Expr]


def var(name: str, *shape: Any, dtype: str = "float32") -> fw.Var:
    return fw.var(name, shape=shape, dtype=dtype)


def conv2d(data: tuple[Any, ...], weight: tuple[Any, ...], dtype: str = "float32", **attributes: Any) -> fw.Expr:
    return fw.nn.conv2d(var("data", *data, dtype=dtype), var("weight", *weight, dtype=dtype), **attributes)


def unfit_convolutions(implementation: str) -> dict[str, tuple[Build, str]]:
    """What libraries of convolutions in NCHW refuse, and what is shown of it."""
    return {
        "layout": (
            lambda: conv2d((1, 5, 5, 4), (3, 3, 4, 2), data_layout="NHWC", kernel_layout="HWIO"),
            f"{implementation}: layouts are NHWC, HWIO, NHWC (data, kernel, out), expected NCHW, OIHW, NCHW",
        ),
        "padding": (
            lambda: conv2d((1, 4, 5, 5), (4, 4, 3, 3), padding=(0, 1, 1, 1)),
            f"{implementation}: padding is (0, 1, 1, 1), expected as much below as above, and as much right as left",
        ),
    }


def tutorial_net() -> fw.Function:
    net = fw.nn.conv2d(var("data", 1, 3, 224, 224), fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1))
    net = fw.nn.batch_norm(net, fw.var("gamma"), fw.var("beta"), fw.var("mean"), fw.var("var"))[0]
    return function_of(fw.nn.relu(net))


def placed(lib: fw.CompiledModule) -> list[str]:
    """For each step the rule of the library that runs it, such as "onednn.conv2d", or "kernel"."""
    return [step.composite if isinstance(step, LibraryStep) else "kernel" for step in lib.program.leaf_steps()]


def refusals(lib: fw.CompiledModule) -> list[str]:
    """The reasons of libraries that are shown with generated kernels, each with the name of the implementation."""
    candidates = [c for choice in lib.explain().choices for c in choice.candidates]
    return [f"{c.name}: {c.refusal}" for c in candidates if c.refusal is not None]


def taken(lib: fw.CompiledModule) -> list[tuple[str, ...]]:
    """The operators of each step that a library runs."""
    return [
        c.ops
        for c, s in zip(lib.explain().choices, lib.program.leaf_steps(), strict=True)
        if isinstance(s, LibraryStep)
    ]


def gelu(x: fw.Expr) -> fw.Expr:
    """As it is written out in graphs."""
    return x * fw.const(0.5) * (fw.erf(x * fw.const(math.sqrt(0.5))) + fw.const(1.0))


def uniform(seed: int, shape: Sequence[int], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, tuple(shape)).astype(dtype)


def function_of(body: fw.Expr) -> fw.Function:
    """A function of the free variables of an expression."""
    return fw.Function(fw.analysis.free_vars(body), body)


def values_for(function: fw.Function) -> dict[str, Array]:
    """Random values for all parameters."""
    values = {}
    for seed, param in enumerate(function.params):
        type_ = param.checked_type
        assert isinstance(type_, fw.TensorType)
        values[param.name_hint] = uniform(seed, type_.static_shape, numpy_dtype(type_.dtype))
    return values


def run_on_device(body: fw.Expr, target: str, constants: Sequence[str] = (), times: int = 2) -> fw.CompiledModule:
    """Build for a GPU, run several times, and compare with NumPy in float64; `constants` are known when building."""
    function = function_of(body)
    values = values_for(function)
    params = {name: values[name] for name in constants}
    lib = fw.build(function, target, params=params)
    module = fw.GraphModule(lib["default"](fw.device(target.partition(" ")[0])))
    for _ in range(times):
        module.run(**{name: value for name, value in values.items() if name not in params})
        compare([module.get_output(0).numpy()], evaluate(function, values))
    return lib


def check(
    body: fw.Expr, libs: str, expected: Sequence[str], constants: Sequence[str] = (), rtol: float = 1e-5,
    *, against_cpu: bool = True,
) -> fw.CompiledModule:  # fmt: skip
    """Build for `libs`, assert where each step runs, and compare with target "cpu" and with NumPy in float64.

    Args:
        body: the graph.
        libs: what stands behind `-libs=`.
        expected: what `placed` should give.
        constants: names of parameters that are known when building.
        rtol: tolerance, also relative to the largest value.
        against_cpu: whether to build for "cpu", too, which takes a C compiler's time.

    """
    function = function_of(body)
    values = values_for(function)
    params = {name: values[name] for name in constants}
    inputs = {name: value for name, value in values.items() if name not in params}
    lib = fw.build(function, f"cpu -libs={libs}", params=params)
    assert placed(lib) == list(expected)
    results = _run(lib, inputs)
    if against_cpu:
        compare(results, _run(fw.build(function, "cpu", params=params), inputs), rtol)
    compare(results, evaluate(function, values), rtol)
    compare(_run(lib, inputs), results, 0)
    return lib


def _run(lib: fw.CompiledModule, inputs: Mapping[str, Array]) -> list[Array]:
    results = lib(**inputs)
    return results if isinstance(results, list) else [results]


def compare(got: Sequence[Array], expected: Sequence[Array], rtol: float = 1e-5) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        wide = b.astype(np.float64)
        scale = max(1.0, float(np.abs(wide).max(initial=0)))
        np.testing.assert_allclose(a.astype(np.float64), wide, rtol=rtol, atol=rtol * scale)
