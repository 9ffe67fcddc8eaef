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
from .sizes import Sizes, of_shape

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


CONSTANT, STORED, DYNAMIC = range(3)
"""What an expression depends on at most: constants, initialisers, inputs."""


@attrs.define(eq=False)
class Knowledge:
    """Values of expressions that follow from constants and initialisers.

    Every node is looked at once, however often it is asked for. Memos hold the node, so that its id stays its own.

    Attributes:
        initialisers: arrays of the variables that stand for initialisers, by the id of the variable.
        sizes: what is known of values that follow from shapes with symbolic dimensions.
    """

    initialisers: dict[int, Array] = attrs.field(factory=dict)
    sizes: Sizes = attrs.field(factory=Sizes)
    _memo: dict[int, tuple[Expr, Expr | None]] = attrs.field(factory=dict)
    _sources: dict[int, tuple[Expr, int]] = attrs.field(factory=dict)

    def of(self, expr: Expr) -> Array | None:
        """The array that `expr` always is; None if it depends on an input."""
        found = None if self.source(expr) == DYNAMIC else self._folded(expr)
        return found.data if isinstance(found, Constant) else None

    def dynamic(self, expr: Expr, what: str) -> DynamicValueError:
        """The error that `expr`, which is `what`, is not known."""
        leaves = [n for n in post_order(expr, done=of_shape) if isinstance(n, Var) and id(n) not in self.initialisers]
        names = tuple(dict.fromkeys(leaf.name_hint for leaf in leaves))
        reason = f"the inputs {', '.join(names)}; give their values with constants="
        if not names:
            reason = "the shapes of inputs; give their symbolic dimensions with shape="
        return DynamicValueError(f"{what} must be known when the model is imported, but depends on {reason}", names)

    def source(self, expr: Expr) -> int:
        """CONSTANT, STORED or DYNAMIC."""
        for node in post_order(expr, done=lambda n: id(n) in self._sources):
            own = CONSTANT if not isinstance(node, Var) else STORED if id(node) in self.initialisers else DYNAMIC
            self._sources[id(node)] = (node, max((self._sources[id(c)][1] for c in children(node)), default=own))
        return self._sources[id(expr)][1]

    def _folded(self, expr: Expr) -> Expr | None:
        for node in post_order(expr, done=lambda n: id(n) in self._memo):
            self._memo[id(node)] = (node, self._fold(node))
        return self._memo[id(expr)][1]

    def _fold(self, node: Expr) -> Expr | None:
        if isinstance(node, Constant):
            return node
        if isinstance(node, Var):
            known = self.initialisers.get(id(node))
            return None if known is None else Constant(known)
        parts = [part for child in children(node) if (part := self._memo[id(child)][1]) is not None]
        if len(parts) < len(children(node)):
            return None
        match node:
            case Tuple():
                return Tuple(parts)
            case TupleGetItem(index=index):
                (whole,) = parts
                return whole.fields[index] if isinstance(whole, Tuple) else None
            case Call(op=OpSpec() as spec) if _storable(node):
                return evaluate(spec, Call(spec, parts, node.attrs))
        return None


LARGEST = 64 << 20
"""Bytes that a value may have that is computed while the graph is read; a hostile model asks for more."""


def limited(count: int, what: str) -> int:
    """`count`, the elements of a table that is about to be made while the graph is read.

    Raises:
        FusewireError: it is negative, or the table would be larger than `LARGEST`.
    """
    if not 0 <= count <= LARGEST // 8:
        raise FusewireError(f"{what} would have {count} elements, expected 0 to {LARGEST // 8}")
    return count


def _storable(node: Call) -> bool:
    types = tensors_of(node.checked_type)
    return all(t.is_static for t in types) and sum(t.nbytes for t in types) <= LARGEST


LARGEST_TENSOR = 1 << 40
"""Bytes that any tensor of a model may have. Those who made the model had to hold it in memory."""


def check_size(value: Value, what: str) -> None:
    """Refuse a tensor that no machine can hold: fused into the next operator, it would be endless work instead.

    Raises:
        FusewireError: it has more than `LARGEST_TENSOR` bytes.
    """
    type_ = value.known_type if isinstance(value, Expr) else None
    if isinstance(type_, TensorType) and type_.is_static and type_.nbytes > LARGEST_TENSOR:
        raise FusewireError(f"{what} is {type_}, which is {type_.nbytes} bytes; expected at most {LARGEST_TENSOR}")


SMALL = 1 << 16
"""Bytes of a constant that is computed while the graph is read; larger ones are left to FoldConstant."""


def simplified(value: Value, knowledge: Knowledge) -> Value:
    """A tensor as a constant where it follows from constants (initialisers excepted: they are parameters)."""
    if not isinstance(value, Call | TupleGetItem) or not isinstance(value.known_type, TensorType):
        return value
    type_ = value.known_type
    source = knowledge.source(value)
    if not type_.is_static or type_.nbytes > SMALL or source == STORED:
        return value
    known = knowledge.of(value) if source == CONSTANT else knowledge.sizes.numbers(value)
    return value if known is None else Constant(known)


def bound(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """A mapping that may be left out, as a dict."""
    return dict(values or {})
