"""Libraries that are wrong on purpose: they compute in NumPy what they should, plus an error in one operator."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import fusewire as fw
from fusewire.fuse.dataflow_pattern import DFPattern, is_op, wildcard
from fusewire.fuse.library import Executable, Library, Region, Rule
from fusewire.ir.types import numpy_dtype, tensors_of
from fusewire.ir.visitor import post_order, rewrite

Array = npt.NDArray[Any]
Planted = Callable[[fw.Call], bool]
ERROR = 1e-2


def with_error(function: fw.Function, planted: Planted) -> fw.Function:
    """A region whose planted operator gives 0.01 too much."""

    def wrong(node: fw.Expr) -> fw.Expr | None:
        return fw.add(node, fw.const(np.float32(ERROR))) if isinstance(node, fw.Call) and planted(node) else None

    return fw.Function(function.params, rewrite(function.body, wrong))


def runner(planted: Planted) -> Callable[[Region], Executable]:
    """The `implement` of a rule."""

    def implement(region: Region) -> Executable:
        function = with_error(region.function, planted)
        types = tensors_of(region.function.body.checked_type)

        def run(inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
            names = [p.name_hint for p in function.params]
            results = fw.testing.evaluate(function, dict(zip(names, inputs, strict=True)))
            for out, result, type_ in zip(outputs, results, types, strict=True):
                out[...] = result.astype(numpy_dtype(type_.dtype))

        return run

    return implement


def unary(op: str) -> DFPattern:
    return is_op(op)(wildcard())


def faulty(patterns: dict[str, DFPattern], planted: Planted) -> Library:
    """A library that takes what matches, and is wrong in the planted operator."""
    rules = [Rule(f"faulty.{name}", pattern, implement=runner(planted)) for name, pattern in patterns.items()]
    return Library("faulty", ("cpu",), rules, lambda: None)


def calls(function: fw.Function) -> list[fw.Call]:
    """The operator calls of a graph."""
    return [node for node in post_order(function.body) if isinstance(node, fw.Call)]
