"""`ScopeBuilder`: build nested lets and ifs in the order in which they are evaluated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from .errors import FusewireError
from .expr import Expr, ExprLike, If, Let, Tuple, Var, as_expr, var
from .tuple_wrapper import TupleWrapper
from .types import Type


@attrs.define
class _Scope:
    """What was said so far about one block."""

    lets: list[tuple[Var, Expr]] = attrs.field(factory=list)
    result: Expr | None = None
    pending_if: tuple[Expr, Expr] | None = None  # condition and true branch, until the else comes

    def expr(self) -> Expr:
        """The block as an expression."""
        if self.pending_if:
            raise FusewireError("an if_scope must be followed by an else_scope")
        if self.result is None:
            raise FusewireError("a scope needs a result: call ret(value) in it")
        expr = self.result
        for variable, value in reversed(self.lets):
            expr = Let(variable, value, expr)
        return expr


class ScopeBuilder:
    """Relay's builder of lets and ifs.

    sb = fw.ScopeBuilder()
    with sb.if_scope(cond):
        t = sb.let("t", x + 1.0)
        sb.ret(t * t)
    with sb.else_scope():
        sb.ret(x)
    func = fw.Function([cond, x], sb.get())
    """

    def __init__(self) -> None:
        self._scopes = [_Scope()]

    def let(self, variable: "str | tuple[str, Type] | Var", value: "ExprLike | Sequence[Any] | TupleWrapper") -> Var:
        """Bind `value` to a variable from here on.

        Args:
            variable: a name, a name with a type, or a variable. A name by itself gets the type of the value.
            value: an expression, a number or an array, or several of them as a tuple.

        Returns:
            the variable.

        """
        bound = _expr(value)
        if isinstance(variable, str):
            variable = var(variable, bound.known_type)
        elif not isinstance(variable, Var):
            variable = var(*variable)
        self._open_scope().lets.append((variable, bound))
        return variable

    @contextmanager
    def if_scope(self, cond: Expr) -> Iterator[None]:
        """A `with` block that builds what is computed where the scalar bool `cond` holds; an else_scope must follow."""
        outer = self._open_scope()
        inner = _Scope()
        self._scopes.append(inner)
        try:
            yield
        finally:
            self._scopes.pop()
        outer.pending_if = cond, inner.expr()

    @contextmanager
    def else_scope(self) -> Iterator[None]:
        """A `with` block that builds what is computed otherwise; the result is that of the scope around both."""
        outer = self._scopes[-1]
        if not outer.pending_if:
            raise FusewireError("an else_scope must follow an if_scope")
        inner = _Scope()
        self._scopes.append(inner)
        try:
            yield
        finally:
            self._scopes.pop()
        cond, yes = outer.pending_if
        outer.pending_if = None
        outer.result = If(cond, yes, inner.expr())

    def ret(self, value: "ExprLike | Sequence[Any] | TupleWrapper") -> None:
        """Set the result of this scope."""
        self._open_scope().result = _expr(value)

    def get(self) -> Expr:
        """The finished expression.

        Raises:
            FusewireError: a scope has no result or is still open.

        """
        if len(self._scopes) > 1:
            raise FusewireError("get() belongs after the outermost scope, not in an if_scope or else_scope")
        return self._scopes[0].expr()

    def _open_scope(self) -> _Scope:
        """The innermost scope, which must have no result yet."""
        scope = self._scopes[-1]
        if scope.pending_if:
            raise FusewireError("an if_scope must be followed by an else_scope")
        if scope.result is not None:
            raise FusewireError("this scope has its result already: nothing can follow ret() or an if")
        return scope


def _expr(value: Any) -> Expr:
    if isinstance(value, TupleWrapper):
        return value.astuple()
    return Tuple(map(_expr, value)) if isinstance(value, list | tuple) else as_expr(value)
