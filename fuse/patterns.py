"""The parts of which patterns are made; `dataflow_pattern` has the functions that users build them with."""

# ruff: noqa: D102 - every `solutions` does what DFPattern.solutions says

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
from attrs import frozen

from ..ir.errors import FusewireError
from ..ir.expr import Call, Constant, Expr, Function, If, Let, Tuple, TupleGetItem, Var
from ..ir.op import Op, freeze, get_op
from ..ir.structural import structural_equal
from ..ir.types import TensorType, Type, check_dtype
from ..ir.visitor import children
from ..ops.spec import OpSpec
from .matcher import Matching, Node, fits_at, partition_matches

_COMMUTATIVE = ("add", "multiply")


class DFPattern:
    """Root of all patterns. Patterns are compared by identity.

    Calling a pattern makes the pattern of a call; `+ - * /` make the pattern of that arithmetic; `a | b` fits what `a`
    or `b` fits, `a` being tried first.
    """

    __slots__ = ()
    inner = False
    embeds = False

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        """Yield once for each way in which the pattern fits `node`; `state` holds what its parts are bound to."""
        raise NotImplementedError(type(self).__name__)

    def __call__(self, *args: "DFPattern | None") -> "CallPattern":
        """The pattern of a call; `pattern(None)` takes any arguments."""
        return CallPattern(self, None if args == (None,) else _patterns(args))

    def __or__(self, other: "DFPattern") -> "AltPattern":
        return AltPattern(self, other)

    def __add__(self, other: "DFPattern") -> "CallPattern":
        return _op("add")(self, other)

    def __sub__(self, other: "DFPattern") -> "CallPattern":
        return _op("subtract")(self, other)

    def __mul__(self, other: "DFPattern") -> "CallPattern":
        return _op("multiply")(self, other)

    def __truediv__(self, other: "DFPattern") -> "CallPattern":
        return _op("divide")(self, other)

    def has_attr(self, attrs: Mapping[str, Any]) -> "AttrPattern":
        """This pattern, where the call (or operator) also has these attributes."""
        return AttrPattern(self, dict(attrs))

    def has_type(self, ttype: Type) -> "TypePattern":
        """This pattern, where the expression has this type."""
        return TypePattern(self, ttype)

    def has_dtype(self, dtype: str) -> "DataTypePattern":
        """This pattern, where the expression is a tensor of this element type."""
        return DataTypePattern(self, check_dtype(dtype))

    def has_shape(self, shape: Sequence[Any]) -> "ShapePattern":
        """This pattern, where the expression is a tensor of this shape."""
        return ShapePattern(self, TensorType(shape).shape)

    def optional(self, option_constructor: Callable[["DFPattern"], "DFPattern"]) -> "AltPattern":
        """This pattern with one more step behind it, or without; with is tried first."""
        return option_constructor(self) | self

    def dominates(self, parent: "DFPattern", path: "DFPattern | None" = None) -> "DominatorPattern":
        """This pattern as the end of all paths from `parent`, every step of which fits `path`."""
        return DominatorPattern(parent, path if path is not None else WildcardPattern(), self)

    def match(self, expr: Expr) -> bool:
        """Whether the pattern fits with `expr` as its last node."""
        return fits_at(self, expr)

    def partition(
        self, expr: Expr, attrs: Mapping[str, Any] | None = None, check: Callable[[Expr], bool] = lambda expr: True
    ) -> Expr:
        """`expr` with every match moved into a function of its own; see the function `partition`."""
        return partition_matches(self, expr, attrs or {}, check)


def _patterns(args: Sequence[Any]) -> tuple[DFPattern, ...]:
    for arg in args:
        if not isinstance(arg, DFPattern):
            raise FusewireError(f"the parts of a pattern are patterns, got {arg!r}; use is_expr() for an expression")
    return tuple(args)


def _op(name: str) -> "ExprPattern":
    return ExprPattern(get_op(name))


@frozen(eq=False)
class WildcardPattern(DFPattern):
    """Anything."""

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        yield


@frozen(eq=False)
class ExprPattern(DFPattern):
    """An operator, or an expression structurally equal to the one given."""

    expr: Node

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        both = isinstance(node, Expr) and isinstance(self.expr, Expr)
        if node is self.expr or (both and structural_equal(node, self.expr)):
            yield


@frozen(eq=False)
class VarPattern(DFPattern):
    """A variable, of a given name unless that is empty."""

    name: str = ""

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, Var) and self.name in ("", node.name_hint):
            yield


@frozen(eq=False)
class ConstantPattern(DFPattern):
    """A constant."""

    embeds = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, Constant):
            yield


def _precision(dtype: Any) -> float:
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


@frozen(eq=False)
class ScalarPattern(DFPattern):
    """A constant without dimensions that is this number, as far as its dtype can tell (give or take one digit)."""

    value: float
    embeds = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, Constant) and node.data.ndim == 0 and node.data.dtype.kind in "fV":
            margin = 2 * _precision(node.data.dtype) * abs(self.value)
            if abs(float(node.data) - self.value) <= margin:
                yield


@frozen(eq=False)
class CallPattern(DFPattern):
    """A call whose operator and arguments fit; `add` and `multiply` fit with their arguments exchanged, too."""

    op: DFPattern
    args: tuple[DFPattern, ...] | None
    inner = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if not isinstance(node, Call) or (self.args is not None and len(self.args) != len(node.args)):
            return
        for _ in state.solve(self.op, node.op):
            if self.args is None:
                yield
                continue
            yield from state.solve_all(list(zip(self.args, node.args, strict=True)))
            if isinstance(node.op, Op) and node.op.name in _COMMUTATIVE:
                yield from state.solve_all(list(zip(self.args, node.args[::-1], strict=True)))


@frozen(eq=False)
class TuplePattern(DFPattern):
    """A tuple whose fields fit; None: any fields."""

    fields: tuple[DFPattern, ...] | None
    inner = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if not isinstance(node, Tuple):
            return
        if self.fields is None:
            yield
        elif len(self.fields) == len(node.fields):
            yield from state.solve_all(list(zip(self.fields, node.fields, strict=True)))


@frozen(eq=False)
class TupleGetItemPattern(DFPattern):
    """An item of a tuple that fits; any item if no index is given."""

    tuple_value: DFPattern
    index: int | None = None
    inner = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, TupleGetItem) and self.index in (None, node.index):
            yield from state.solve(self.tuple_value, node.tuple_value)


@frozen(eq=False)
class IfPattern(DFPattern):
    """An `If` whose condition and branches fit."""

    cond: DFPattern
    true_branch: DFPattern
    false_branch: DFPattern
    inner = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, If):
            parts = (self.cond, self.true_branch, self.false_branch)
            yield from state.solve_all(list(zip(parts, children(node), strict=True)))


@frozen(eq=False)
class LetPattern(DFPattern):
    """A `Let` whose variable, value and body fit."""

    var: DFPattern
    value: DFPattern
    body: DFPattern
    inner = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, Let):
            parts = (self.var, self.value, self.body)
            yield from state.solve_all(list(zip(parts, children(node), strict=True)))


@frozen(eq=False)
class FunctionPattern(DFPattern):
    """A function whose parameters (None: any) and body fit."""

    params: tuple[DFPattern, ...] | None
    body: DFPattern
    inner = True

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if not isinstance(node, Function):
            return
        if self.params is None:
            yield from state.solve(self.body, node.body)
        elif len(self.params) == len(node.params):
            pairs: list[tuple[DFPattern, Node]] = list(zip(self.params, node.params, strict=True))
            yield from state.solve_all([*pairs, (self.body, node.body)])


@frozen(eq=False)
class AltPattern(DFPattern):
    """Either of two patterns, the left one first."""

    left: DFPattern
    right: DFPattern

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        yield from state.solve(self.left, node)
        yield from state.solve(self.right, node)


@frozen(eq=False)
class AttrPattern(DFPattern):
    """A pattern, and attributes that the call, function or operator has; operators have TOpPattern, their `Fusion`."""

    pattern: DFPattern
    attrs: dict[str, Any]

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        given: Mapping[str, Any] = {}
        if isinstance(node, Call | Function):
            given = node.attrs
        elif isinstance(node, OpSpec):
            given = {"TOpPattern": int(node.fusion)}
        if all(key in given and given[key] == freeze(value) for key, value in self.attrs.items()):
            yield from state.solve(self.pattern, node)


@frozen(eq=False)
class TypePattern(DFPattern):
    """A pattern, and the type of the expression."""

    pattern: DFPattern
    type: Type

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        if isinstance(node, Expr) and node.known_type == self.type:
            yield from state.solve(self.pattern, node)


@frozen(eq=False)
class ShapePattern(DFPattern):
    """A pattern, and the shape of the tensor."""

    pattern: DFPattern
    shape: tuple[Any, ...]

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        type_ = node.known_type if isinstance(node, Expr) else None
        if isinstance(type_, TensorType) and type_.shape == self.shape:
            yield from state.solve(self.pattern, node)


@frozen(eq=False)
class DataTypePattern(DFPattern):
    """A pattern, and the element type of the tensor."""

    pattern: DFPattern
    dtype: str

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        type_ = node.known_type if isinstance(node, Expr) else None
        if isinstance(type_, TensorType) and type_.dtype == self.dtype:
            yield from state.solve(self.pattern, node)


@frozen(eq=False)
class DominatorPattern(DFPattern):
    """`child`, and above it one `parent` from which all paths lead to it, every step on the way fitting `path`.

    Steps between are calls; variables and constants that feed a step are of no concern.
    """

    parent: DFPattern
    path: DFPattern
    child: DFPattern

    def solutions(self, node: Node, state: Matching) -> Iterator[None]:
        for _ in state.solve(self.child, node):
            assert isinstance(node, Expr)
            found = self._climb(node, state)
            if found is None:
                continue
            parent, steps = found
            for _ in state.solve(self.parent, parent):
                # The path is bound to all of its steps at once; what lies inside of it is not bound.
                yield from state.bind_several(_Path(self.path), steps) if steps else iter([None])

    def _climb(self, child: Expr, state: Matching) -> tuple[Expr, list[Expr]] | None:
        """The parent and the steps between, if there is one parent and all paths from it end in `child`."""
        parent: Expr | None = None
        steps: dict[int, Expr] = {}
        pending = [child]
        while pending:
            leads_on = False
            for part in _arguments(pending.pop()):
                if part is parent or id(part) in steps:
                    pass
                elif parent is None and state.fits(self.parent, part):
                    parent = part
                elif isinstance(part, Call) and state.fits(self.path, part):
                    steps[id(part)] = part
                    pending.append(part)
                elif isinstance(part, Var | Constant):
                    continue
                else:
                    return None
                leads_on = True
            if not leads_on:
                return None
        if parent is None:
            return None
        inside = {id(child), *steps}
        closed = all(id(u) in inside for n in (parent, *steps.values()) for u in state.users.get(id(n), ()))
        return (parent, list(steps.values())) if closed else None


@frozen(eq=False)
class _Path(DFPattern):
    """Stands for the steps of a dominator path among the bindings."""

    pattern: DFPattern
    inner = True


def _arguments(node: Expr) -> tuple[Expr, ...]:
    return node.args if isinstance(node, Call) else children(node)
