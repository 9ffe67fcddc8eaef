"""What `build` does to a module before the passes: bind parameters and dimensions, inline calls and lets.

Afterwards `main` is one dataflow graph over its inputs.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import define, field

from ..ir.errors import FusewireError, TypeInferenceError
from ..ir.expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var, const
from ..ir.index import Dim, Index, IndexVar, as_dim, substitute
from ..ir.infer import infer_type
from ..ir.module import IRModule
from ..ir.op import Attrs, Op
from ..ir.types import TensorType, TupleType, Type, numpy_dtype
from ..ir.visitor import bind, children, rewrite, with_children


def bind_params(function: Function, params: Mapping[str, Any]) -> Function:
    """`function` with parameters turned into constants.

    Raises:
        FusewireError: a name is not a parameter, or the value has another shape or dtype than the parameter.
    """
    by_name = {p.name_hint: p for p in function.params}
    values: dict[Var, Expr] = {}
    for name, value in params.items():
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FusewireError(f"params has {name!r}, but the parameters are {', '.join(by_name) or 'none'}{hint}")
        param = by_name[name]
        constant = _constant(value, param)
        if param.known_type is not None and constant.checked_type != param.known_type:
            raise FusewireError(f"params[{name!r}] is {constant.checked_type}, but %{name} is {param.known_type}")
        values[param] = constant
    result = bind(function, values)
    assert isinstance(result, Function)
    return result


def _constant(value: Any, param: Var) -> Constant:
    constant = const(value)
    wanted = param.known_type
    if isinstance(value, int | float) and isinstance(wanted, TensorType):
        return const(np.asarray(value, numpy_dtype(wanted.dtype)))
    return constant


def bind_shapes(function: Function, shapes: Mapping[str, Sequence[int]]) -> Function:
    """`function` with the symbolic dimensions of its parameters bound, by giving shapes for parameters.

    Raises:
        FusewireError: a shape contradicts a parameter's type or another shape, or a dimension stays unbound.
    """
    values: dict[IndexVar, int] = {}
    by_name = {p.name_hint: p for p in function.params}
    for name, shape in shapes.items():
        if name not in by_name:
            raise FusewireError(f"shape has {name!r}, but the parameters are {', '.join(by_name) or 'none'}")
        if not isinstance(shape, Sequence) or not all(isinstance(d, int | np.integer) for d in shape):
            raise FusewireError(f"shape[{name!r}] must be a sequence of integers, got {shape!r}")
        _solve(name, by_name[name].known_type, tuple(map(int, shape)), values)
    variables = {v for p in function.params for v in _variables(p.known_type)}
    if unbound := sorted(v.name for v in variables - values.keys()):
        names = ", ".join(f"%{p.name_hint}: {p.known_type}" for p in function.params if _variables(p.known_type))
        raise FusewireError(
            f"symbolic dimensions {', '.join(unbound)} are not bound ({names}); give shape={{name: shape}}"
        )
    return substitute_dims(function, values) if values else function


def _variables(type_: Type | None) -> set[IndexVar]:
    if isinstance(type_, TupleType):
        return {v for f in type_.fields for v in _variables(f)}
    dims = type_.shape if isinstance(type_, TensorType) else ()
    return {v for d in dims if isinstance(d, Index) for v in d.variables}


def _solve(name: str, type_: Type | None, shape: tuple[int, ...], values: dict[IndexVar, int]) -> None:
    if type_ is None:
        return
    if not isinstance(type_, TensorType) or len(type_.shape) != len(shape):
        raise FusewireError(f"shape[{name!r}] is {shape}, but %{name} is {type_}")
    for dim, size in zip(type_.shape, shape, strict=True):
        if isinstance(dim, Index) and len(dim.terms) == 1:
            ((atom, coeff),) = dim.terms
            found, rest = divmod(size - dim.const, coeff)
            if isinstance(atom, IndexVar) and not rest:
                if values.setdefault(atom, found) != found:
                    raise FusewireError(f"dimension {atom.name} is both {values[atom]} and {found}")
                continue
        if substitute(dim, values) != substitute(size, {}):
            raise FusewireError(f"shape[{name!r}] is {shape}, but %{name} is {type_}")


def substitute_dims(function: Function, values: Mapping[IndexVar, int]) -> Function:
    """`function` with symbolic dimensions replaced in types and attributes, typed anew."""

    def dim(d: Dim) -> Dim:
        return as_dim(substitute(d, values)) if isinstance(d, Index) else d

    def type_of(type_: Type | None) -> Type | None:
        if isinstance(type_, TensorType):
            return TensorType(tuple(dim(d) for d in type_.shape), type_.dtype)
        if isinstance(type_, TupleType):
            return TupleType([t for f in type_.fields if (t := type_of(f)) is not None])
        return type_

    def attribute(value: Any) -> Any:
        if isinstance(value, Index):
            return dim(value)
        return tuple(attribute(v) for v in value) if isinstance(value, tuple) else value

    def visit(node: Expr) -> Expr | None:
        match node:
            case Var():
                return Var(node.name_hint, type_of(node.type_annotation))
            case Call(op=op, args=args, attrs=attributes):
                return Call(op, args, Attrs({k: attribute(v) for k, v in attributes.items()}))
            case Function(params=params, body=body, attrs=attributes):
                return Function(params, body, None, attributes)
        return None

    result = rewrite(function, visit)
    assert isinstance(result, Function)
    return result


def inline(mod: IRModule) -> Function:
    """`main` with calls of other functions of the module, and of function values, replaced by their bodies, and every
    `Let` by its value. Everything is pure, so sharing a node is all that a `Let` means.

    Raises:
        TypeInferenceError: functions call each other in a circle, or a call does not fit the function's parameters.
    """
    return _Inliner(mod).function("main")


@define
class _Inliner:
    """Beta reduction: bottom-up, and again while that leads to new calls of functions."""

    mod: IRModule
    done: dict[str, Function] = field(factory=dict)
    path: list[str] = field(factory=list)
    changed: bool = False

    def function(self, name: str) -> Function:
        """The function `name` of the module without calls of functions."""
        if name in self.path:
            raise TypeInferenceError(f"functions call each other in a circle: {' -> '.join((*self.path, name))}")
        if name not in self.done:
            function = self.mod[name]
            self.path.append(name)
            body, self.changed = function.body, True
            while self.changed:
                self.changed = False
                body = self.reduce(body)
            self.path.pop()
            self.done[name] = Function(function.params, body, function.ret_type, function.attrs)
            self.changed = True  # for the function that called this one
        return self.done[name]

    def reduce(self, root: Expr) -> Expr:
        """One walk, parts before wholes, from a stack of our own."""
        lets: dict[int, Expr] = {}
        new: dict[int, Expr] = {}
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in new:
                continue
            parts = _parts(node, lets)
            if not ready:
                stack.append((node, True))
                if isinstance(node, Let):
                    lets[id(node.var)] = node.value
                stack.extend((part, False) for part in reversed(parts))
                continue
            new[id(node)] = self.rebuild(node, [new[id(p)] for p in parts])
        return new[id(root)]

    def rebuild(self, node: Expr, parts: Sequence[Expr]) -> Expr:
        match node:
            case Var():
                return parts[0] if parts else node
            case Let():
                return parts[-1]
            case Function() if _sealed(node):
                return node
            case GlobalVar(name_hint=name):
                return self.function(name)
            case Call() if not isinstance(node.op, Op) and isinstance(parts[0], Function) and not _sealed(parts[0]):
                self.changed = True
                return _apply(parts[0], parts[1:])
            case Call(attrs=attributes) if not isinstance(node.op, Op) and isinstance(parts[0], If):
                self.changed = True
                cond, yes, no = children(parts[0])
                return If(cond, Call(yes, parts[1:], attributes), Call(no, parts[1:], attributes))
            case TupleGetItem(index=index) if isinstance(parts[0], Tuple) and isinstance(
                parts[0].fields[index], Function
            ):
                return parts[0].fields[index]
        return with_children(node, parts)


def _sealed(function: Function) -> bool:
    """Whether a function is one group or library region, which stays as it is."""
    return "Primitive" in function.attrs or "Composite" in function.attrs


def _parts(node: Expr, lets: dict[int, Expr]) -> tuple[Expr, ...]:
    """What a node is rebuilt from: a let-bound variable is its value, a `Let` is its body."""
    match node:
        case Var() if id(node) in lets:
            return (lets[id(node)],)
        case Let(value=value, body=body):
            return (value, body)
        case Function() if _sealed(node):
            return ()
    return children(node)


def _apply(function: Function, args: Sequence[Expr]) -> Expr:
    if len(args) != len(function.params):
        raise TypeInferenceError(
            f"a function of {len(function.params)} parameters is called with {len(args)} arguments:\n{function}"
        )
    for param, arg in zip(function.params, args, strict=True):
        if None not in (param.known_type, arg.known_type) and param.known_type != arg.known_type:
            raise TypeInferenceError(
                f"%{param.name_hint} is {param.known_type}, but is given {arg.known_type}:\n{function}"
            )
    bound = bind(function, dict(zip(function.params, args, strict=True)))
    assert isinstance(bound, Function)
    return bound.body


def typed(function: Function) -> Function:
    """`function` with every type known."""
    result = infer_type(function)
    assert isinstance(result, Function)
    return result
