"""Whether two programs mean the same up to the names of bound variables.

Sharing does not matter: a node used twice equals two equal nodes. The time is linear in the size of the graphs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var
from .index import Index, IndexVar, as_index, substitute
from .module import IRModule
from .op import Op
from .types import FuncType, TensorType, TupleType, Type
from .visitor import children, post_order, with_children

Path = tuple[Any, ...]  # (path of the whole, name of the part), or () at the root


def structural_equal(lhs: Any, rhs: Any, map_free_vars: bool = False) -> bool:
    """Whether two expressions, modules or types are the same up to the names of bound variables and dimensions.

    Constants are compared bit by bit. Attributes that a call leaves out count with their defaults. A return type that
    a function leaves out counts as the same.

    Args:
        lhs: an expression, a module or a type.
        rhs: what to compare it with.
        map_free_vars: whether free variables, too, are matched one to one; else each equals only itself.

    """
    return first_difference(lhs, rhs, map_free_vars) is None


def assert_structural_equal(lhs: Any, rhs: Any, map_free_vars: bool = False) -> None:
    """Check `structural_equal`.

    Raises:
        AssertionError: they differ; the message says where they do first.

    """
    found = first_difference(lhs, rhs, map_free_vars)
    if found is not None:
        raise AssertionError(f"{found}\n--- left ---\n{_shortened(lhs)}\n--- right ---\n{_shortened(rhs)}")


def first_difference(lhs: Any, rhs: Any, map_free_vars: bool = False) -> str | None:
    """Where and how two programs differ first, or None where `structural_equal` holds."""
    if isinstance(lhs, IRModule) and isinstance(rhs, IRModule):
        if lhs.functions.keys() != rhs.functions.keys():
            return f"the modules have different functions: {', '.join(lhs)} and {', '.join(rhs)}"
        pairs = ((name, f, rhs.functions[name]) for name, f in lhs.functions.items())
        found = ((name, first_difference(f, g, map_free_vars)) for name, f, g in pairs)
        return next((f"@{name}{text}" for name, text in found if text is not None), None)
    if isinstance(lhs, Type) and isinstance(rhs, Type):
        matcher = _Matcher(map_free_vars)
        same = matcher.same_type(lhs, rhs, ()) and matcher.different_dims() is None
        return None if same else f"types {lhs} and {rhs}"
    if isinstance(lhs, Expr) and isinstance(rhs, Expr):
        return _Matcher(map_free_vars).match(unique_bindings(lhs), unique_bindings(rhs))
    return f"a {type(lhs).__name__} and a {type(rhs).__name__}"


def _shortened(program: Any) -> str:
    text = str(program)
    return text if len(text) < 4000 else text[:2000] + "\n...\n" + text[-2000:]


def binders(node: Expr) -> tuple[Var, ...]:
    """The variables that `node` binds."""
    return node.params if isinstance(node, Function) else (node.var,) if isinstance(node, Let) else ()


def unique_bindings(expr: Expr) -> Expr:
    """`expr` with variables renamed apart where one variable is bound in several places; the same object if none is."""
    seen: set[int] = set()
    twice: set[int] = set()
    for var in (v for node in post_order(expr) for v in binders(node)):
        (twice if id(var) in seen else seen).add(id(var))
    return _renamed_apart(expr, twice) if twice else expr


_Env = dict[int, Var]


def _renamed_apart(expr: Expr, twice: set[int]) -> Expr:
    """A rewrite whose memo also has the bindings that a node is under."""
    outermost: _Env = {}
    kept = [outermost]  # so that ids of environments stay theirs
    new: dict[tuple[int, int], Expr] = {}
    inner: dict[tuple[int, int], _Env] = {}
    stack: list[tuple[Expr, _Env, bool]] = [(expr, outermost, False)]
    while stack:
        node, env, ready = stack.pop()
        key = id(node), id(env)
        if key in new:
            continue
        if isinstance(node, Var):
            new[key] = env.get(id(node), node)
            continue
        bound = [v for v in binders(node) if id(v) in twice]
        if bound and key not in inner:
            inner[key] = {**env, **{id(v): Var(v.name_hint, v.type_annotation) for v in bound}}
            kept.append(inner[key])
        below = inner.get(key, env)
        value = node.value if isinstance(node, Let) else None
        parts = [(part, env if part is value else below) for part in children(node)]
        if ready:
            new[key] = with_children(node, [new[id(p), id(e)] for p, e in parts])
        else:
            stack.append((node, env, True))
            stack.extend((p, e, False) for p, e in parts)
    return new[id(expr), id(outermost)]


class _Matcher:
    """Compares two expressions: nodes found side by side are put in one class, and each class is looked into once.

    That is sound because a class that held a node and a part of it would have to hold ever smaller parts. So two
    variables that are in scope together, whose binders lie one inside the other, never fall into one class, either.
    """

    def __init__(self, map_free_vars: bool) -> None:
        self.map_free_vars = map_free_vars
        self.classes: dict[tuple[bool, int], tuple[bool, int]] = {}
        self.bound: tuple[set[int], set[int]] = (set(), set())
        self.free: dict[Var, Var] = {}
        self.freed: dict[Var, Var] = {}
        self.dims: list[tuple[Index, Index, Path]] = []

    def match(self, lhs: Expr, rhs: Expr) -> str | None:
        """Where and how the expressions differ first."""
        for expr, bound in zip((lhs, rhs), self.bound, strict=True):
            bound.update(id(v) for node in post_order(expr) for v in binders(node))
        stack: list[tuple[Expr, Expr, Path]] = [(lhs, rhs, ())]
        while stack:
            a, b, path = stack.pop()
            if isinstance(a, Var) and isinstance(b, Var):
                reason = self._vars(a, b, path)
            elif self._union(a, b):
                continue
            else:
                reason = self._heads(a, b, path)
            if reason is not None:
                return f"{_shown(path)}: {reason}"
            stack.extend(reversed(list(_pairs(a, b, path))))
        return self.different_dims()

    def _find(self, key: tuple[bool, int]) -> tuple[bool, int]:
        while (parent := self.classes.get(key, key)) != key:
            self.classes[key] = key = self.classes.get(parent, parent)
        return key

    def _union(self, a: Expr, b: Expr) -> bool:
        """Put both in one class; whether they were before."""
        left, right = self._find((False, id(a))), self._find((True, id(b)))
        self.classes[left] = right
        return left == right

    def _vars(self, a: Var, b: Var, path: Path) -> str | None:
        names = f"%{a.name_hint} and %{b.name_hint}"
        in_a, in_b = id(a) in self.bound[0], id(b) in self.bound[1]
        if in_a != in_b:
            return f"variables {names}, of which one is bound and one is free"
        if in_a:
            same = self._find((False, id(a))) == self._find((True, id(b)))
            return None if same else f"variables {names}, bound in different places"
        if not self.map_free_vars:
            return None if a is b else f"different free variables {names}"
        if self.free.setdefault(a, b) is not b or self.freed.setdefault(b, a) is not a:
            return f"free variables {names}, of which one was matched with another before"
        return self._annotations(a, b, path)

    def _annotations(self, a: Var, b: Var, path: Path) -> str | None:
        left, right = a.type_annotation, b.type_annotation
        if left is None or right is None:
            return None if left is right else f"variables of types {left} and {right}"
        return None if self.same_type(left, right, path) else f"variables of types {left} and {right}"

    def _heads(self, a: Expr, b: Expr, path: Path) -> str | None:
        """How two nodes differ, apart from their parts."""
        match a, b:
            case Constant(), Constant():
                return _different_arrays(a, b)
            case GlobalVar(), GlobalVar():
                same = a.name_hint == b.name_hint
                return None if same else f"functions @{a.name_hint} and @{b.name_hint}"
            case Call(), Call():
                return self._calls(a, b, path)
            case Tuple(), Tuple():
                count = len(a.fields), len(b.fields)
                return None if count[0] == count[1] else f"tuples of {count[0]} and of {count[1]} values"
            case TupleGetItem(), TupleGetItem():
                return None if a.index == b.index else f"tuple indices {a.index} and {b.index}"
            case (Let(), Let()) | (Function(), Function()):
                return self._binding(a, b, path)
            case If(), If():
                return None
        return f"{_kind(a)} and {_kind(b)}"

    def _calls(self, a: Call, b: Call, path: Path) -> str | None:
        if isinstance(a.op, Op) or isinstance(b.op, Op):
            if a.op is not b.op:
                return f"{_kind(a)} and {_kind(b)}"
            if len(a.args) != len(b.args):
                return f"{_kind(a)} with {len(a.args)} and with {len(b.args)} arguments"
        elif len(a.args) != len(b.args):
            return f"calls with {len(a.args)} and with {len(b.args)} arguments"
        return self._attributes(full_attributes(a), full_attributes(b), path)

    def _binding(self, a: Expr, b: Expr, path: Path) -> str | None:
        left, right = binders(a), binders(b)
        if len(left) != len(right):
            return f"functions of {len(left)} and of {len(right)} parameters"
        for v, w in zip(left, right, strict=True):
            reason = self._annotations(v, w, path)
            if reason is not None:
                return reason
            self._union(v, w)
        if isinstance(a, Function) and isinstance(b, Function):
            results = _result_type(a), _result_type(b)
            if results[0] and results[1] and not self.same_type(results[0], results[1], path):
                return f"functions that return {results[0]} and {results[1]}"
            return self._attributes(a.attrs, b.attrs, path)
        return None

    def _attributes(self, a: Mapping[str, Any], b: Mapping[str, Any], path: Path) -> str | None:
        for key in sorted(a.keys() | b.keys()):
            if key not in a or key not in b:
                return f"attribute {key} is only on the {'left' if key in a else 'right'}"
            if not self._values(a[key], b[key], path):
                return f"attribute {key} is {a[key]!r} and {b[key]!r}"
        return None

    def _values(self, a: Any, b: Any, path: Path) -> bool:
        if isinstance(a, tuple) and isinstance(b, tuple):
            return len(a) == len(b) and all(self._values(x, y, path) for x, y in zip(a, b, strict=True))
        if isinstance(a, Index) and isinstance(b, Index):
            self.dims.append((a, b, path))
            return True
        return type(a) is type(b) and repr(a) == repr(b)

    def same_type(self, a: Type, b: Type, path: Path) -> bool:
        """Whether types are equal, provided that the symbolic dimensions noted down turn out to be."""
        match a, b:
            case TensorType(), TensorType():
                if a.dtype != b.dtype or a.ndim != b.ndim:
                    return False
                return all(
                    self._values(x, y, path) if isinstance(x, Index) else type(y) is int and x == y
                    for x, y in zip(a.shape, b.shape, strict=True)
                )
            case (TupleType(fields=left), TupleType(fields=right)) if len(left) == len(right):
                return all(self.same_type(x, y, path) for x, y in zip(left, right, strict=True))
            case (FuncType(), FuncType()) if len(a.arg_types) == len(b.arg_types):
                parts = zip((*a.arg_types, a.ret_type), (*b.arg_types, b.ret_type), strict=True)
                return all(self.same_type(x, y, path) for x, y in parts)
        return False

    def different_dims(self) -> str | None:
        """The first pair of dimensions noted down that no one-to-one renaming of variables makes equal."""
        forth: dict[IndexVar, Index] = {}
        back: dict[IndexVar, IndexVar] = {}
        # Plain variables first: they decide most of the renaming.
        for a, b, path in sorted(self.dims, key=lambda pair: not is_plain(pair[0])):
            new = sorted(a.variables - forth.keys(), key=str), sorted(b.variables - back.keys(), key=str)
            if len(new[0]) == len(new[1]):
                forth.update((v, as_index(w)) for v, w in zip(*new, strict=True) if v.bounds == w.bounds)
                back.update((w, v) for v, w in zip(*new, strict=True) if v.bounds == w.bounds)
            known = a.variables <= forth.keys() and b.variables <= back.keys()
            if not known or substitute(a, forth) != b:
                return f"{_shown(path)}: dimensions {a} and {b}"
        return None


def is_plain(dim: Index) -> bool:
    """Whether a dimension is a variable by itself."""
    return not dim.const and len(dim.terms) == 1 and all(isinstance(a, IndexVar) and c == 1 for a, c in dim.terms)


def _different_arrays(a: Constant, b: Constant) -> str | None:
    x, y = a.data, b.data
    if x.dtype != y.dtype or x.shape != y.shape:
        return f"constants of type {a.checked_type} and {b.checked_type}"
    if x is y or x.tobytes() == y.tobytes():
        return None
    return f"constants with different values {x} and {y}" if x.size <= 16 else "constants with different values"


def _result_type(function: Function) -> Type | None:
    known = function.known_type
    return function.ret_type or (known.ret_type if isinstance(known, FuncType) else None)


def full_attributes(call: Call) -> Mapping[str, Any]:
    """The attributes of a call, defaults included."""
    return {**call.op.defaults(), **call.attrs} if isinstance(call.op, Op) else call.attrs


def _pairs(a: Expr, b: Expr, path: Path) -> Iterator[tuple[Expr, Expr, Path]]:
    names = _part_names(a)
    bound = len(binders(a))
    parts = zip(names[bound:], children(a)[bound:], children(b)[bound:], strict=True)
    return ((x, y, (path, name)) for name, x, y in parts)


def _part_names(node: Expr) -> list[str]:
    match node:
        case Call(op=op, args=args):
            return ([] if isinstance(op, Op) else [".op"]) + [f".args[{i}]" for i in range(len(args))]
        case Tuple(fields=fields):
            return [f".fields[{i}]" for i in range(len(fields))]
        case TupleGetItem():
            return [".tuple_value"]
        case Let():
            return [".var", ".value", ".body"]
        case If():
            return [".cond", ".true_branch", ".false_branch"]
        case Function(params=params):
            return [f".params[{i}]" for i in range(len(params))] + [".body"]
    return []


def _kind(node: Expr) -> str:
    if isinstance(node, Call):
        return f"a call of {node.op.name}" if isinstance(node.op, Op) else "a call of a function"
    return f"a {type(node).__name__}"


def _shown(path: Path) -> str:
    names: list[str] = []
    while path:
        path, name = path
        names.append(name)
    names.reverse()
    return "".join(names) if len(names) <= 20 else "".join(names[:5]) + " ... " + "".join(names[-15:])
