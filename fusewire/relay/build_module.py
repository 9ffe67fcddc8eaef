"""Relay's `relay.build_module`: `build`, and executors that evaluate a function directly."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from ..ir.errors import FusewireError
from ..ir.expr import Expr, Function
from ..ir.module import IRModule
from ..targets.build import build
from ..targets.device import Device, NDArray, device
from ..targets.target import Target

__all__ = ["build", "create_executor"]


@frozen(eq=False)
class Executor:
    """Evaluates functions on a device; see `create_executor`."""

    mod: IRModule
    device: Device
    target: Target
    params: Mapping[str, Any]

    def evaluate(self, expr: Expr | None = None) -> Callable[..., Any]:
        """A Python function that runs `expr` (or the module's `main`): arguments by position or by name.

        It returns an `NDArray`, or a list of them.
        """
        if expr is None:
            module = self.mod
        else:
            main = expr if isinstance(expr, Function) else Function((), expr)
            module = self.mod.with_functions({"main": main})
        lib = build(module, self.target, self.params)
        names = list(lib.program.inputs)

        def run(*args: Any, **kwargs: Any) -> Any:
            if len(args) > len(names):
                raise FusewireError(f"the function takes {len(names)} arguments, got {len(args)}")
            result = lib(**dict(zip(names, args, strict=False)), **kwargs)
            return [NDArray(r) for r in result] if isinstance(result, list) else NDArray(result)

        return run


def create_executor(
    kind: str = "debug", mod: IRModule | None = None, device: Device | None = None, target: str | Target = "cpu",
    params: dict[str, Any] | None = None,
) -> Executor:  # fmt: skip
    """An executor, as in Relay; `kind` is "graph", "vm", "aot" or "debug", which here are all the same compiled code.

    `params` are arrays for parameters of the function that are constants, by name.

    Raises:
        FusewireError: the kind is unknown.
    """
    if kind not in ("graph", "debug", "vm", "aot"):
        raise FusewireError(f"unknown executor {kind!r}: expected graph, debug, vm or aot")
    return Executor(mod or IRModule(), device or _default(target), Target(target), params or {})


def _default(target: str | Target) -> Device:
    return device(Target(target))
