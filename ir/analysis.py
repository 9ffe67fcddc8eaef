"""Questions about expressions and modules (`fw.analysis`)."""

from collections import Counter
from collections.abc import Sequence

from .expr import Call, Constant, Expr, Tuple, Var
from .hashing import structural_hash
from .module import IRModule
from .op import Op
from .scopes import ScopeMap
from .structural import (
    assert_structural_equal,
    binders,
    first_difference,
    structural_equal,
    unique_bindings,
)
from .types import FuncType, TensorType, TupleType, Type
from .visitor import children, free_vars, post_order, post_order_visit

__all__ = [
    "all_dtypes",
    "all_vars",
    "assert_structural_equal",
    "bound_vars",
    "check_constant",
    "count_layers",
    "first_difference",
    "free_vars",
    "list_op_freqs",
    "malformed",
    "post_order_visit",
    "structural_equal",
    "structural_hash",
    "unique_bindings",
    "well_formed",
]


def all_vars(expr: Expr) -> list[Var]:
    """Every variable of `expr`, bound or free, in the order of first occurrence."""
    return [node for node in post_order(expr) if isinstance(node, Var)]


def bound_vars(expr: Expr) -> list[Var]:
    """The variables that functions and lets in `expr` bind, in the order of first occurrence."""
    bound = {id(var) for node in post_order(expr) for var in binders(node)}
    return [var for var in all_vars(expr) if id(var) in bound]


def all_dtypes(expr: Expr) -> set[str]:
    """The element types of all values in `expr`; untyped nodes add nothing."""
    found: set[str] = set()
    pending: list[Type] = list({node.known_type for node in post_order(expr) if node.known_type is not None})
    while pending:
        match pending.pop():
            case TensorType(dtype=dtype):
                found.add(dtype)
            case TupleType(fields=fields):
                pending.extend(fields)
            case FuncType(arg_types=arg_types, ret_type=ret_type):
                pending.extend((*arg_types, ret_type))
    return found


def list_op_freqs(mod: IRModule | Expr) -> dict[str, int]:
    """How many calls of each operator there are, by name; a shared call counts once."""
    roots = mod.functions.values() if isinstance(mod, IRModule) else [mod]
    names = {id(node): _op_name(node) for root in roots for node in post_order(root)}
    return dict(Counter(name for name in names.values() if name))


def _op_name(node: Expr) -> str:
    return node.op.name if isinstance(node, Call) and isinstance(node.op, Op) else ""


def count_layers(expr: Expr, valid_ops: Sequence[str]) -> int:
    """The largest number of calls of `valid_ops` (names) on one path through the graph, e.g. its depth in conv2d."""
    depth: dict[int, int] = {}
    for node in post_order(expr):
        counts = _op_name(node) in valid_ops
        depth[id(node)] = counts + max((depth[id(c)] for c in children(node)), default=0)
    return depth[id(expr)]


def check_constant(expr: Expr) -> bool:
    """Whether `expr` is a constant, or a tuple of constants."""
    return all(isinstance(node, Constant | Tuple) for node in post_order(expr))


def well_formed(program: Expr | IRModule) -> bool:
    """Whether each variable is bound once and used only where it is in scope. Free variables are allowed."""
    return malformed(program) is None


def malformed(program: Expr | IRModule) -> str | None:
    """Why `program` is not `well_formed`, or None if it is."""
    if isinstance(program, IRModule):
        found = ((name, malformed(function)) for name, function in program.functions.items())
        return next((f"in @{name}: {why}" for name, why in found if why is not None), None)
    seen: set[int] = set()
    scopes = ScopeMap(program)
    for var in (v for node in scopes.order for v in binders(node)):
        if id(var) in seen:
            return f"variable %{var.name_hint} is bound twice"
        seen.add(id(var))
    for node in scopes.order:
        if isinstance(node, Var) and not all(scopes.of(node).within(scope) for scope in scopes.binders(node)):
            return f"variable %{node.name_hint} is used where it is not in scope"
    return None
