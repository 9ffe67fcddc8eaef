"""DeadCodeElimination: let-bindings and functions that nothing uses are removed. No expression has side effects."""

from collections import Counter
from collections.abc import Collection

from ..ir.expr import Expr, Function, GlobalVar, Let, Var
from ..ir.module import IRModule
from ..ir.visitor import children, post_order, with_children
from .graph import is_sealed, walk
from .infra import Pass, PassContext, over_functions

ENTRY = "main"


def dead_code_elimination(inline_once: bool = False) -> Pass:
    """The pass DeadCodeElimination.

    Args:
        inline_once: whether a variable that is used once is replaced by its value, which fusion can then see.

    """

    def run(mod: IRModule, context: PassContext) -> IRModule:
        kept = {name: mod[name] for name in _reachable(mod)}
        new = {n: f if is_sealed(f) else eliminate(f, inline_once) for n, f in kept.items()}
        same = len(new) == len(mod.functions) and all(new[n] is mod[n] for n in new)
        return mod if same else IRModule(new)

    return Pass("DeadCodeElimination", 1, run)


def to_graph_normal_form() -> Pass:
    """The pass ToGraphNormalForm: every let-bound variable is replaced by its value, which becomes a shared node."""

    def run(function: Function, mod: IRModule, context: PassContext) -> Function:
        return inline_lets(function, {id(n.var) for n in walk(function) if isinstance(n, Let)})

    return over_functions("ToGraphNormalForm", 1, run)


def _reachable(mod: IRModule) -> list[str]:
    """The functions that `main` needs, in the module's order; all of them where there is no `main`."""
    if ENTRY not in mod:
        return list(mod.functions)
    seen, pending = {ENTRY}, [ENTRY]
    while pending:
        called = {n.name_hint for n in post_order(mod[pending.pop()]) if isinstance(n, GlobalVar)}
        pending.extend(called - seen)
        seen |= called
    return [name for name in mod.functions if name in seen]


def eliminate(function: Function, inline_once: bool = False) -> Function:
    """`function` without the bindings whose variables are not used."""
    values = {id(n.var): n.value for n in walk(function) if isinstance(n, Let)}
    if not values:
        return function
    # A binding is alive if its variable is reached from the result, so chains of unused bindings go at once.
    uses: Counter[int] = Counter()
    seen: set[int] = set()
    pending: list[Expr] = [function]
    while pending:
        node = pending.pop()
        if isinstance(node, Var):
            uses[id(node)] += 1
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Let):
            pending.append(node.body)
        elif isinstance(node, Var):
            pending.extend([values[id(node)]] if id(node) in values else [])
        elif not is_sealed(node):
            pending.extend(children(node))
    return inline_lets(function, {var for var in values if uses[var] <= int(inline_once)})


def inline_lets(function: Function, variables: Collection[int]) -> Function:
    """`function` with the let-bound variables whose ids are given replaced by their values.

    A value that is used nowhere is thereby dropped.
    """
    if not variables:
        return function
    nodes = walk(function)
    values = {id(n.var): n.value for n in nodes if isinstance(n, Let) and id(n.var) in variables}
    new: dict[int, Expr] = {}
    pending: list[tuple[Expr, bool]] = [(function, False)]
    while pending:
        node, ready = pending.pop()
        if id(node) in new:
            continue
        parts = _parts(node, values)
        if not ready:
            pending.append((node, True))
            pending.extend((part, False) for part in reversed(parts))
        elif id(node) in values or (isinstance(node, Let) and id(node.var) in values):
            new[id(node)] = new[id(parts[0])]
        else:
            new[id(node)] = node if is_sealed(node) else with_children(node, [new[id(part)] for part in parts])
    result = new[id(function)]
    assert isinstance(result, Function)
    return result


def _parts(node: Expr, values: dict[int, Expr]) -> tuple[Expr, ...]:
    """The parts of a node, where an inlined variable has its value for its only part."""
    if id(node) in values:
        return (values[id(node)],)
    if isinstance(node, Let) and id(node.var) in values:
        return (node.body,)
    return () if is_sealed(node) else children(node)
