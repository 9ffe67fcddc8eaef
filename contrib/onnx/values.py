"""What stands for an ONNX value while a graph is read, and what is known of values before the program runs."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs
import numpy.typing as npt

from ...fuse.fold_constant import evaluate
from ...ir.errors import FusewireError
from ...ir.expr import Call, Constant, Expr, Tuple, TupleGetItem, Var
from ...ir.types import TensorType, tensors_of
from ...ir.visitor import children, post_order
from ...ops.spec import OpSpec

Array = npt.NDArray[Any]


@attrs.frozen(eq=False)
class Sequence:
    """An ONNX sequence: its length and the types of its elements are known while the graph is read."""

    items: tuple["Value", ...]


@attrs.frozen(eq=False)
class Struct:
    """Anything else that only exists while the graph is read: an empty optional."""

    kind: str = "none"


Value: TypeAlias = Expr | Sequence | Struct | None
"""A tensor, a sequence, an empty optional; None is an input or output that was left out."""


class DynamicValueError(FusewireError):
    """A value must be known while the model is read, but depends on inputs of the model.

    Attributes:
        names: those inputs.
    """

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


@attrs.define(eq=False)
class Knowledge:
    """Values of expressions that follow from constants and initialisers.

    Attributes:
        initialisers: arrays of the variables that stand for initialisers, by the id of the variable.
    """

    initialisers: dict[int, Array] = attrs.field(factory=dict)
    _memo: dict[int, tuple[Expr, Expr]] = attrs.field(factory=dict)

    def of(self, expr: Expr) -> Array | None:
        """The array that `expr` always is; None if it depends on an input."""
        found = self._folded(expr)
        return found.data if isinstance(found, Constant) else None

    def inputs_of(self, expr: Expr) -> tuple[str, ...]:
        """The names of the inputs that `expr` depends on."""
        leaves = (n for n in post_order(expr) if isinstance(n, Var) and id(n) not in self.initialisers)
        return tuple(dict.fromkeys(leaf.name_hint for leaf in leaves))

    def _folded(self, expr: Expr) -> Expr | None:
        for node in post_order(expr, done=lambda n: id(n) in self._memo):
            if id(node) not in self._memo:
                folded = self._fold(node)
                if folded is None:
                    return None
                self._memo[id(node)] = (node, folded)  # the node is kept, so that its id stays its own
        return self._memo[id(expr)][1]

    def _fold(self, node: Expr) -> Expr | None:
        if isinstance(node, Constant):
            return node
        if isinstance(node, Var):
            known = self.initialisers.get(id(node))
            return None if known is None else Constant(known)
        parts = [self._memo[id(child)][1] for child in children(node)]
        match node:
            case Tuple():
                return Tuple(parts)
            case TupleGetItem(index=index):
                (whole,) = parts
                return whole.fields[index] if isinstance(whole, Tuple) else None
            case Call(op=OpSpec() as spec) if _storable(node):
                return evaluate(spec, Call(spec, parts, node.attrs))
        return None


LARGEST = 1 << 30
"""Bytes that a value may have that is computed while the graph is read; a hostile model asks for more."""


def _storable(node: Call) -> bool:
    types = tensors_of(node.checked_type)
    return all(t.is_static for t in types) and sum(t.nbytes for t in types) <= LARGEST


SMALL = 1 << 16
"""Bytes of a constant that is computed while the graph is read; larger ones are left to FoldConstant."""


def simplified(value: Value, knowledge: Knowledge) -> Value:
    """A tensor as a constant where it follows from constants (initialisers excepted: they are parameters)."""
    if not isinstance(value, Call | TupleGetItem) or not isinstance(value.known_type, TensorType):
        return value
    type_ = value.known_type
    if not type_.is_static or type_.nbytes > SMALL or any(isinstance(n, Var) for n in post_order(value)):
        return value
    known = knowledge.of(value)
    return value if known is None else Constant(known)


def bound(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """A mapping that may be left out, as a dict."""
    return dict(values or {})
