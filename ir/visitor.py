"""Walking and rewriting expressions without recursion, so that a chain of 50,000 nodes is no problem.

Everything rests on two functions: `children` takes a node apart, `with_children` puts it together again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var
from .op import Op


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct parts of `expr`, in the order of evaluation."""
    match expr:
        case Call(op=op, args=args):
            return args if isinstance(op, Op) else (op, *args)
        case Tuple(fields=fields):
            return fields
        case TupleGetItem(tuple_value=value):
            return (value,)
        case Let(var=var, value=value, body=body):
            return (var, value, body)
        case If(cond=cond, true_branch=yes, false_branch=no):
            return (cond, yes, no)
        case Function(params=params, body=body):
            return (*params, body)
    return ()


def with_children(expr: Expr, parts: Sequence[Expr]) -> Expr:
    """`expr` made of other parts; the same object when none of them changed."""
    if all(a is b for a, b in zip(children(expr), parts, strict=True)):
        return expr
    match expr:
        case Call(op=op, attrs=attributes):
            return Call(op, parts, attributes) if isinstance(op, Op) else Call(parts[0], parts[1:], attributes)
        case Tuple():
            return Tuple(parts)
        case TupleGetItem(index=index):
            return TupleGetItem(parts[0], index)
        case Let():
            var, value, body = parts
            assert isinstance(var, Var)
            return Let(var, value, body)
        case If():
            return If(*parts)
        case Function(ret_type=ret_type, attrs=attributes):
            params = [p for p in parts[:-1] if isinstance(p, Var)]
            return Function(params, parts[-1], ret_type, attributes)
    return expr


def post_order(expr: Expr, enter_functions: bool = True, done: Callable[[Expr], bool] | None = None) -> list[Expr]:
    """Every node once, parts before wholes.

    Args:
        expr: where to start.
        enter_functions: whether to walk into the bodies of functions below `expr`.
        done: nodes for which this holds are left out, with everything below them.

    """
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
            continue
        if id(node) in seen or (done is not None and done(node)):
            continue
        seen.add(id(node))
        stack.append((node, True))
        if enter_functions or node is expr or not isinstance(node, Function):
            stack.extend((child, False) for child in reversed(children(node)))
    return order


def post_order_visit(expr: Expr, visit: Callable[[Expr], None]) -> None:
    """Call `visit` on every node once, parts before wholes."""
    for node in post_order(expr):
        visit(node)


def rewrite(expr: Expr, replace: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild `expr` from its leaves up; `replace` gets each node with its parts already rebuilt.

    `replace` returns the node to put in its place, or None to keep it. Shared nodes stay shared.
    """
    new: dict[int, Expr] = {}
    for node in post_order(expr):
        rebuilt = with_children(node, [new[id(child)] for child in children(node)])
        replaced = replace(rebuilt)
        new[id(node)] = rebuilt if replaced is None else replaced
    return new[id(expr)]


def free_vars(expr: Expr) -> list[Var]:
    """Variables that `expr` uses but does not bind, in the order of first use."""
    bound: set[int] = set()
    used: list[Var] = []
    for node in post_order(expr):
        if isinstance(node, Var):
            used.append(node)
        elif isinstance(node, Function):
            bound.update(id(p) for p in node.params)
        elif isinstance(node, Let):
            bound.add(id(node.var))
    return [v for v in used if id(v) not in bound]


def bind(expr: Expr, values: Mapping[Var, Expr]) -> Expr:
    """`expr` with variables replaced; a bound parameter of an outermost function is dropped from its list."""
    new = {id(v): e for v, e in values.items()}
    if isinstance(expr, Function):
        params = [p for p in expr.params if id(p) not in new]
        return Function(params, rewrite(expr.body, lambda e: new.get(id(e))), expr.ret_type, expr.attrs)
    return rewrite(expr, lambda e: new.get(id(e)))


class ExprVisitor:
    """Visit every node once. Override `visit_call` etc.; call `super().visit_call(call)` to go on below it.

    The walk is driven from a list, parts first, so that a deep graph does not overflow the stack.
    """

    def __init__(self) -> None:
        self.memo_map: dict[Expr, Any] = {}

    def visit(self, expr: Expr) -> Any:
        """Visit `expr` and everything below it; returns what its `visit_*` method returned."""
        for node in post_order(expr, done=self.memo_map.__contains__):
            if node not in self.memo_map:
                method = getattr(self, _METHODS[type(node)])
                self.memo_map[node] = method(node)
        return self.memo_map[expr]

    # The parameter is Any so that an override may name the kind of node that it gets.
    def _visit_parts(self, expr: Any) -> Any:
        for child in children(expr):
            self.visit(child)

    visit_call = visit_tuple = visit_tuple_getitem = visit_let = visit_if = visit_function = _visit_parts
    visit_var = visit_constant = visit_global_var = _visit_parts


class ExprMutator(ExprVisitor):
    """Rebuild a graph. Override `visit_call` etc. to return another expression; the default rebuilds from the parts."""

    def _visit_parts(self, expr: Any) -> Any:
        return with_children(expr, [self.visit(child) for child in children(expr)])

    visit_call = visit_tuple = visit_tuple_getitem = visit_let = visit_if = visit_function = _visit_parts
    visit_var = visit_constant = visit_global_var = _visit_parts


_METHODS: dict[type[Expr], str] = {
    Call: "visit_call", Tuple: "visit_tuple", TupleGetItem: "visit_tuple_getitem", Let: "visit_let", If: "visit_if",
    Function: "visit_function", Var: "visit_var", Constant: "visit_constant", GlobalVar: "visit_global_var",
}  # fmt: skip
