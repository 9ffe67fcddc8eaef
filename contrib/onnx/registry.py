"""The table of translations: which function reads which ONNX operator, and since which opset."""

import bisect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ...ir.expr import Expr
from .node import Node
from .values import Value

Translation: TypeAlias = Callable[[Node], Value | Sequence[Value]]
"""Reads a node: gives its output, or its outputs in order."""

_TABLE: dict[tuple[str, str], list[tuple[int, Translation]]] = {}


def translate(*names: str, since: int = 1, domain: str = "") -> Callable[[Translation], Translation]:
    """Declare the function that reads the operators `names` from opset `since` on, until a later declaration."""

    def declare(function: Translation) -> Translation:
        for name in names:
            bisect.insort(_TABLE.setdefault((domain, name), []), (since, function), key=lambda entry: entry[0])
        return function

    return declare


def plain(rows: dict[str, Callable[..., Any]]) -> None:
    """Declare operators that are a fusewire operator on the same arguments."""
    for name, builder in rows.items():
        translate(name)(_plain(builder))


def _plain(builder: Callable[..., Any]) -> Translation:
    def read(node: Node) -> Expr:
        built: Expr = builder(*(node[k] for k in range(len(node.inputs))))
        return built

    return read


def find(domain: str, name: str, opset: int) -> Translation | None:
    """The function that reads an operator of an opset; None if there is none."""
    entries = _TABLE.get((domain, name), [])
    fitting = [function for since, function in entries if since <= opset]
    return fitting[-1] if fitting else None


def known() -> list[tuple[str, str]]:
    """The (domain, name) of every operator with a translation."""
    return sorted(_TABLE)
