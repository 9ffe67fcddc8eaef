"""Modules as text with their constants beside it."""

from ...ir.deferred import force
from ...ir.errors import ArtifactError, FusewireError
from ...ir.expr import Expr, Function, Var
from ...ir.module import IRModule
from ...ir.parser import parse
from ...ir.printer import to_text_and_constants
from ...ir.structural import first_difference
from ...ir.visitor import rewrite
from .manifest import LARGEST, ModuleText


def module_to_text(mod: IRModule) -> ModuleText:
    """A module as text that `module_from_text` makes the same module of.

    Raises:
        ArtifactError: no text does, for example because an attribute is no plain data.

    """
    text, constants = to_text_and_constants(mod)
    if len(text) > LARGEST:
        raise ArtifactError(f"the module's text has {len(text)} characters, more than {LARGEST}")
    made = ModuleText(text, tuple(c.data for c in constants), tuple(p.name_hint for p in mod["main"].params))
    try:
        difference = first_difference(mod, module_from_text(made))
    except FusewireError as error:
        raise ArtifactError(f"the module cannot be written as text: {error}") from None
    if difference is not None:
        raise ArtifactError(f"the module cannot be written as text: {difference}")
    return made


def module_from_text(stored: ModuleText) -> IRModule:
    """The module that a text stands for.

    Raises:
        FusewireError: the text is damaged.

    """
    text = force(stored.text)
    if len(text) > LARGEST:
        raise ArtifactError(f"a module's text has {len(text)} characters, expected at most {LARGEST}")
    mod = parse(text, stored.constants)
    return mod.with_functions({"main": _with_names(mod["main"], stored.params)})


def _with_names(function: Function, names: tuple[str, ...]) -> Function:
    """`function` with its parameters called as they were."""
    if len(names) != len(function.params):
        raise ArtifactError(f"main has {len(function.params)} parameters, expected {len(names)}: {', '.join(names)}")
    new: dict[int, Expr] = {
        id(p): Var(name, p.type_annotation)
        for p, name in zip(function.params, names, strict=True)
        if p.name_hint != name
    }
    result = rewrite(function, lambda e: new.get(id(e))) if new else function
    assert isinstance(result, Function)
    return result
