"""Calls of external libraries: whatever goes wrong in one becomes an error that says which operator, on what, and why.

Libraries of other packages may raise anything; nothing of that is a reason for a module to become unusable.
"""

from collections.abc import Sequence
from typing import Any

from ..fuse.library import Executable, Region, Rule
from ..ir.errors import FusewireError, LibraryCallError, LibraryNotFound
from ..ir.expr import Function
from .explain import operators


def prepared(rule: Rule, region: Region, step: str) -> Executable:
    """The executable of a region; if it fails, that names the region and says why.

    Args:
        rule: the rule that took the region.
        region: what to compute.
        step: the step's name, for errors.

    Raises:
        LibraryNotFound: the library is not there.
        LibraryCallError: the library cannot prepare the region.
    """
    try:
        executable = rule.implement(region)
    except LibraryNotFound:
        raise
    except Exception as error:
        raise LibraryCallError(_told("cannot prepare", rule, region.function, step, error)) from error

    def run(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        try:
            executable(inputs, outputs)
        except Exception as error:
            raise LibraryCallError(_told("failed to run", rule, region.function, step, error)) from error

    return run


def _told(what: str, rule: Rule, function: Function, step: str, error: Exception) -> str:
    ops = " + ".join(operators(function))
    types = ", ".join(str(param.checked_type) for param in function.params)
    reason = str(error) if isinstance(error, FusewireError) else f"{type(error).__name__}: {error}"
    return f"{rule.name} {what} {ops}({types}) -> {function.body.checked_type} (step {step}): {reason}"
