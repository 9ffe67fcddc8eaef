"""Checks that a program keeps the invariants of the IR; run after each pass, it names the pass that broke one."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import attrs

from .analysis import malformed
from .errors import FusewireError, VerifyError
from .expr import Constant, Expr, Function, GlobalVar, Let, TupleGetItem, Var
from .module import IRModule
from .types import TupleType
from .visitor import children, free_vars, post_order

_SHOWN = 2000  # characters of an expression in a message


def verify(program: IRModule | Function, after: str = "") -> None:
    """Check a typed program: every node is typed, and as its parts say; variables are bound once and in scope; calls
    of module functions resolve and do not go in a circle; `Primitive` functions hold no other function; constants
    are read-only.

    Args:
        program: a module, or a function by itself.
        after: the name of the pass that made it, for the message.

    Raises:
        VerifyError: an invariant is broken; the message names the pass, the function and the expression.

    """
    functions = program.functions if isinstance(program, IRModule) else {"": program}
    try:
        if isinstance(program, IRModule):
            _check_calls(functions)
        for name, function in functions.items():
            where = f" in @{name}" if name else ""
            _check_function(function, functions if isinstance(program, IRModule) else None, where)
    except VerifyError as error:
        raise VerifyError(f"after {after}: {error}" if after else str(error)) from None


def _check_calls(functions: Mapping[str, Function]) -> None:
    """Calls between functions end at functions that are there, and do not come back."""
    calls = {name: {e.name_hint for e in post_order(f) if isinstance(e, GlobalVar)} for name, f in functions.items()}
    for name, called in calls.items():
        if missing := called - functions.keys():
            raise VerifyError(f"@{name} refers to @{min(missing)}, which the module does not have")
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        circle = " calls ".join(f"@{name}" for name in reversed(error.args[1]))
        raise VerifyError(f"functions call each other in a circle: {circle}") from None


def _check_function(function: Function, functions: Mapping[str, Function] | None, where: str) -> None:
    why = malformed(function)
    if why is not None:
        raise VerifyError(f"{why}{where}. In:\n{_shown(function)}")
    if functions is not None and (free := free_vars(function)):
        raise VerifyError(f"variable %{free[0].name_hint} is not bound{where}. In:\n{_shown(function)}")
    for node in post_order(function):
        reason = _wrong(node, functions)
        if reason is not None:
            raise VerifyError(f"{reason}{where}. In:\n{_shown(node)}")


def _wrong(node: Expr, functions: Mapping[str, Function] | None) -> str | None:
    """What is wrong with one node, given that its parts are right."""
    if node.known_type is None:
        return f"the type of a {type(node).__name__} is not known"
    match node:
        case Constant(data=data):
            return "a constant can be written to" if data.flags.writeable else None
        case GlobalVar(name_hint=name):
            if functions is not None and functions[name].known_type != node.known_type:
                return f"@{name} has type {functions[name].known_type}, but is used as {node.known_type}"
            return None
        case Var():
            return None
        case Let(var=var, value=value) if var.known_type != value.known_type:
            return f"%{var.name_hint} has type {var.known_type}, but its value has {value.known_type}"
        case TupleGetItem(tuple_value=whole, index=index):
            fields = whole.known_type.fields if isinstance(whole.known_type, TupleType) else ()
            if not 0 <= index < len(fields):
                return f"index {index} is out of range for a value of type {whole.known_type}"
        case Function() if node.attrs.get("Primitive"):
            if any(isinstance(e, Function) for e in post_order(node)[:-1]):
                return "a Primitive function holds another function"
    return _stale(node)


def _stale(node: Expr) -> str | None:
    """Whether the type of a node is still the one that its parts give it."""
    parts = children(node)
    if not parts:
        return None
    try:
        again: Expr = attrs.evolve(node)  # type: ignore[misc]  # every node is an attrs class
    except FusewireError as error:
        return f"ill-typed: {error}"
    if again.known_type != node.known_type:
        return f"the recorded type is {node.known_type}, but the parts give {again.known_type}"
    return None


def _shown(node: Expr) -> str:
    text = str(node)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n... ({len(text) - _SHOWN} more characters)"
