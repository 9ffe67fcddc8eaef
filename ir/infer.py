"""Type inference: types flow forwards through operators and, to variables without a type, backwards.

Forwards happens when nodes are built (`Call` asks its operator). What remains for `infer_type` is to find the types
that were left out, as Relay does: `conv2d(data, var("weight"), kernel_size=(3, 3), channels=16)` decides the shape of
the weight. Rounds over the graph fill in one variable after the other until nothing changes.
"""

from graphlib import CycleError, TopologicalSorter

from .errors import TypeInferenceError
from .expr import Call, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var
from .module import IRModule
from .op import Op
from .types import FuncType, TupleType, Type
from .visitor import children, post_order, rewrite, with_children

_Known = dict[int, Type]


def infer_type(expr: Expr) -> Expr:
    """`expr` with the type of every node known.

    Raises:
        TypeInferenceError: the expression is ill-typed, or a type is neither given nor decided by its use.

    """
    if expr.known_type is not None and not isinstance(expr, Let) and _all_typed(expr):
        return expr
    order = post_order(expr)
    known: _Known = {}
    bound: dict[int, list[Var]] = {}
    for node in order:
        if isinstance(node, Let):
            bound.setdefault(id(node.value), []).append(node.var)
    for _ in range(len(order) + 1):
        if not _round(order, known, bound):
            break
    unknown = [v for v in order if isinstance(v, Var) and id(v) not in known]
    if unknown:
        names = ", ".join(f"%{v.name_hint}" for v in unknown)
        raise TypeInferenceError(f"the type of {names} is neither given nor decided by its use. In:\n{expr}")
    typed = {id(v): Var(v.name_hint, known[id(v)]) for v in order if isinstance(v, Var) and v.type_annotation is None}
    result = _substitute(expr, typed)
    for node in post_order(result):
        if node.known_type is None and not isinstance(node, GlobalVar):
            raise TypeInferenceError(f"the type of this expression could not be found:\n{node}")
    return result


def infer_module(mod: IRModule) -> IRModule:
    """`mod` with every function typed; calls between its functions get the type of the function that they name."""
    calls = {name: _called(function) for name, function in mod.functions.items()}
    for name, called in calls.items():
        if name in called:
            raise TypeInferenceError(f"function @{name} calls itself; recursion is not supported")
        if missing := called - calls.keys():
            raise TypeInferenceError(f"function @{name} calls @{min(missing)}, which the module does not have")
    done: dict[str, Function] = {}
    try:
        for name in TopologicalSorter(calls).static_order():
            typed = infer_type(_with_callees(mod[name], done) if calls[name] else mod[name])
            assert isinstance(typed, Function)
            done[name] = typed
    except CycleError as error:
        circle = " calls ".join(f"@{name}" for name in reversed(error.args[1]))
        raise TypeInferenceError(f"functions call each other in a circle: {circle}") from None
    return IRModule({name: done[name] for name in mod.functions})


def _called(function: Function) -> set[str]:
    return {e.name_hint for e in post_order(function) if isinstance(e, GlobalVar)}


def _with_callees(function: Function, done: dict[str, Function]) -> Function:
    def typed(expr: Expr) -> Expr | None:
        return GlobalVar(expr.name_hint, done[expr.name_hint].known_type) if isinstance(expr, GlobalVar) else None

    result = rewrite(function, typed)
    assert isinstance(result, Function)
    return result


def _all_typed(expr: Expr) -> bool:
    return all(e.known_type is not None for e in post_order(expr))


def _substitute(expr: Expr, new_vars: dict[int, Var]) -> Expr:
    """Rebuild every node (so that its type is computed), with new variables."""
    new: dict[int, Expr] = {}
    for node in post_order(expr):
        var = new_vars.get(id(node))
        new[id(node)] = var if var is not None else with_children(node, [new[id(c)] for c in children(node)])
    return new[id(expr)]


def _round(order: list[Expr], known: _Known, bound: dict[int, list[Var]]) -> bool:
    """One walk over the graph; says whether a new type was found. `bound` has the variables let to be each value."""
    before = len(known)
    for node in order:
        if id(node) not in known:
            found = node.known_type or _type_of(node, known)
            if found is not None:
                known[id(node)] = found
        if id(node) in known:
            # At once, not at the Let: that comes after its body in `order`, where the variable is used.
            for var in bound.get(id(node), ()):
                known.setdefault(id(var), known[id(node)])
        if isinstance(node, Call) and isinstance(node.op, Op):
            _backwards(node, node.op, known)
    return len(known) > before


def _backwards(call: Call, op: Op, known: _Known) -> None:
    types = [known.get(id(arg)) for arg in call.args]
    if None not in types:
        return
    for arg, old, found in zip(call.args, types, op.complete(types, call.attrs), strict=True):
        if old is None and found is not None:
            _assign(arg, found, known)


def _assign(arg: Expr, found: Type, known: _Known) -> None:
    if isinstance(arg, Var):
        known[id(arg)] = found
    elif isinstance(arg, Tuple) and isinstance(found, TupleType):
        for part, type_ in zip(arg.fields, found.fields, strict=True):
            _assign(part, type_, known)


def _type_of(node: Expr, known: _Known) -> Type | None:
    """The type of a node from the types of its parts, computed on stand-ins so that the rules live in one place."""
    parts = children(node)
    types = [known.get(id(p)) for p in parts]
    match node:
        case Let(body=body):
            return known.get(id(body))
        case Function():
            arg_types = [t for t in types[:-1] if t is not None]
            return FuncType(arg_types, types[-1]) if types[-1] and len(arg_types) == len(node.params) else None
        case Call() | Tuple() | TupleGetItem() | If() if None not in types:
            stand_ins = [Var("x", t) for t in types]
            return with_children(node, stand_ins).known_type
    return None
