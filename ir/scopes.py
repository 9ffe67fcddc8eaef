"""Where in a program each node of a graph is computed.

Program text (and any code that computes nodes one after the other) has scopes: the body of a function, a branch of an
`If`, what follows a `let`. A node belongs to the innermost scope that all its uses share; computing it there computes
it once, after the variables that it needs are bound, and only if it is needed.
"""

from collections.abc import Iterator

from .expr import Call, Expr, Function, If, Let
from .op import Op
from .visitor import children


class Scope:
    """A part of a program, within `parent`.

    Attributes:
        parent: the scope around this one; None for the outermost.
        depth: how many scopes are around it.
        block: the innermost scope around it that is written in braces, perhaps itself; what follows a `let` is written
            in the braces of the `let`.

    """

    __slots__ = ("_jump", "block", "depth", "parent")

    def __init__(self, parent: "Scope | None" = None, braces: bool = True) -> None:
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.block: Scope = self if braces or parent is None else parent.block
        # Some scope further out, chosen so that any scope is reached in a logarithmic number of steps:
        # Myers, "An applicative random-access stack" (1983).
        self._jump: Scope = self
        if parent:
            far = parent._jump
            self._jump = far._jump if parent.depth - far.depth == far.depth - far._jump.depth else parent

    def _at_depth(self, depth: int) -> "Scope":
        scope = self
        while scope.depth > depth:
            assert scope.parent is not None
            scope = scope._jump if scope._jump.depth >= depth else scope.parent
        return scope

    def common(self, other: "Scope") -> "Scope":
        """The innermost scope around both."""
        depth = min(self.depth, other.depth)
        a, b = self._at_depth(depth), other._at_depth(depth)
        while a is not b:
            if a._jump is not b._jump:
                a, b = a._jump, b._jump
            else:
                assert a.parent is not None and b.parent is not None
                a, b = a.parent, b.parent
        return a

    def within(self, outer: "Scope") -> bool:
        """Whether this scope is `outer`, or lies in it."""
        return self.common(outer) is outer


class ScopeMap:
    """The scopes of an expression.

    Attributes:
        order: every node once, parts before wholes, arguments before the function that they are given to.
        uses: how often a node is used, by its id.
        at_end: ids of nodes whose value, once at least, is that of a whole scope or of a `let`.

    """

    def __init__(self, expr: Expr) -> None:
        self.root = Scope()
        self.order = _post_order(expr)
        self.uses: dict[int, int] = {id(expr): 1}
        self.at_end: set[int] = {id(expr)}
        self._of: dict[int, Scope] = {id(expr): self.root}
        self._inner: dict[int, tuple[Scope, ...]] = {}
        self._binders: dict[int, list[Scope]] = {}
        for node in reversed(self.order):
            for part, scope, at_end in self._edges(node):
                before = self._of.get(id(part))
                self._of[id(part)] = before.common(scope) if before else scope
                self.uses[id(part)] = self.uses.get(id(part), 0) + 1
                if at_end:
                    self.at_end.add(id(part))

    def of(self, node: Expr) -> Scope:
        """The scope that `node` belongs to; of a variable, the innermost one with all its uses."""
        return self._of[id(node)]

    def inner(self, node: Expr) -> tuple[Scope, ...]:
        """The scopes that `node` opens: the body of a function or of a `let`, the branches of an `If`."""
        return self._inner.get(id(node), ())

    def binders(self, var: Expr) -> list[Scope]:
        """The scopes for which `var` is bound: one, or none where it is free, in a well-formed program."""
        return self._binders.get(id(var), [])

    def _edges(self, node: Expr) -> Iterator[tuple[Expr, Scope, bool]]:
        """What `node` uses, in which scope, and whether as the end of it."""
        here = self._of[id(node)]
        match node:
            case Function(params=params, body=body):
                (scope,) = self._inner[id(node)] = (Scope(here),)
                for param in params:
                    self._binders.setdefault(id(param), []).append(scope)
                yield body, scope, True
            case Let(var=var, value=value, body=body):
                (scope,) = self._inner[id(node)] = (Scope(here, braces=False),)
                self._binders.setdefault(id(var), []).append(scope)
                yield value, here, not isinstance(value, Let)
                yield body, scope, True
            case If(cond=cond, true_branch=yes, false_branch=no):
                then, orelse = self._inner[id(node)] = (Scope(here), Scope(here))
                yield cond, here, False
                yield yes, then, True
                yield no, orelse, True
            case _:
                for part in children(node):
                    yield part, here, False


def _parts(node: Expr) -> tuple[Expr, ...]:
    match node:
        case Call(op=op, args=args) if not isinstance(op, Op):
            return (*args, op)
        case Function(body=body):
            return (body,)
        case Let(value=value, body=body):
            return (value, body)
    return children(node)


def _post_order(expr: Expr) -> list[Expr]:
    """Like `visitor.post_order`, without variables where they are bound, and with arguments before callees."""
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((part, False) for part in reversed(_parts(node)))
    return order
