"""A module: named functions, of which `main` is the entry."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from .errors import FusewireError
from .expr import Expr, Function, GlobalVar, _printers
from .visitor import free_vars


def _functions(items: Mapping[Any, Function]) -> dict[str, Function]:
    return {str_name(name): function for name, function in items.items()}


@attrs.define(eq=False, repr=False, str=False)
class IRModule:
    """Functions by name. Passes make new modules; `mod["f"] = function` adds or replaces one in place."""

    functions: dict[str, Function] = attrs.field(factory=dict, converter=_functions)

    @staticmethod
    def from_expr(expr: Expr, functions: Mapping[str, Function] | None = None) -> "IRModule":
        """A module whose `main` is `expr`; free variables of a plain expression become its parameters."""
        main = expr if isinstance(expr, Function) else Function(free_vars(expr), expr)
        return IRModule({**(functions or {}), "main": main})

    def __getitem__(self, name: "str | GlobalVar") -> Function:
        try:
            return self.functions[str_name(name)]
        except KeyError:
            raise FusewireError(
                f"no function {str_name(name)!r} in the module; there are {', '.join(self.functions)}"
            ) from None

    def __setitem__(self, name: "str | GlobalVar", function: Function) -> None:
        self.functions[str_name(name)] = function

    def __contains__(self, name: object) -> bool:
        return name in self.functions

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    def get_global_var(self, name: str) -> GlobalVar:
        """The name of a function, as an expression."""
        return GlobalVar(name, self[name].known_type)

    def get_global_vars(self) -> list[GlobalVar]:
        """The names of all functions."""
        return [self.get_global_var(name) for name in self.functions]

    def with_functions(self, functions: Mapping[str, Function]) -> "IRModule":
        """A copy with some functions replaced or added."""
        return IRModule({**self.functions, **functions})

    def astext(self, show_meta_data: bool = True) -> str:
        """The module in Relay's text format; with `show_meta_data`, the values of its constants at the end."""
        return _printers[-1](self, show_meta_data, True)

    def __str__(self) -> str:
        return self.astext(show_meta_data=False)


def str_name(name: Any) -> str:
    """A function's name, given as text or as a `GlobalVar`."""
    return name.name_hint if isinstance(name, GlobalVar) else str(name)
