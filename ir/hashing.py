"""A hash of programs that agrees with `structural_equal`."""

import hashlib
from collections.abc import Mapping
from typing import Any

from .expr import Call, Constant, Expr, Function, GlobalVar, TupleGetItem, Var
from .index import Index
from .module import IRModule
from .op import Op
from .structural import binders, full_attributes, is_plain, unique_bindings
from .types import FuncType, TensorType, TupleType, Type
from .visitor import children, post_order


def structural_hash(program: Any, map_free_vars: bool = False) -> int:
    """A 64-bit hash that is the same for what `structural_equal` calls equal.

    It is the same in every run of Python, unless there are free variables and `map_free_vars` is off: then each free
    variable counts as the object that it is.
    """
    if isinstance(program, IRModule):
        parts = [f"{n}{structural_hash(f, map_free_vars)}" for n, f in sorted(program.functions.items())]
        return int.from_bytes(_digest("module", *parts), "big")
    if isinstance(program, Type):
        return int.from_bytes(_digest("type", _TypeTexts().type(program)), "big")
    return int.from_bytes(_Hasher(unique_bindings(program), map_free_vars).result, "big")


class _Hasher:
    """Hashes from the leaves up.

    A bound variable is hashed as its place among the variables of its binder and the height of the binder above the
    leaves. Binders around one place have different heights, so these tell all variables in scope apart.
    """

    def __init__(self, expr: Expr, map_free_vars: bool) -> None:
        self.map_free_vars = map_free_vars
        order = post_order(expr)
        heights: dict[int, int] = {}
        self.places: dict[int, str] = {}
        for node in order:
            heights[id(node)] = 1 + max((heights[id(c)] for c in children(node)), default=0)
            for place, var in enumerate(binders(node)):
                self.places[id(var)] = f"{heights[id(node)]}.{place}"
        self.free: dict[int, int] = {}
        self.texts = _TypeTexts()
        self.done: dict[int, bytes] = {}
        for node in order:
            self.done[id(node)] = _digest(*self._head(node), *(self.done[id(c)] for c in children(node)))
        self.result = self.done[id(expr)]

    def _head(self, node: Expr) -> tuple[str | bytes, ...]:
        match node:
            case Var():
                return "var", self._place(node), self.texts.type(node.type_annotation)
            case Constant(data=data):
                return "constant", data.dtype.name, str(data.shape), data.tobytes()
            case GlobalVar(name_hint=name):
                return "global", name
            case Call(op=op):
                name = op.name if isinstance(op, Op) else ""
                return "call", name, self.texts.attributes(full_attributes(node))
            case TupleGetItem(index=index):
                return "item", str(index)
            case Function(attrs=attributes):
                return "function", self.texts.attributes(attributes)
        return (type(node).__name__,)

    def _place(self, var: Var) -> str:
        if id(var) in self.places:
            return self.places[id(var)]
        if not self.map_free_vars:
            return f"free {id(var)}"
        return f"free number {self.free.setdefault(id(var), len(self.free))}"


def _digest(*parts: str | bytes) -> bytes:
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.digest()


class _TypeTexts:
    """Types and attributes as text in which the n-th symbolic dimension to occur by itself is called `?n`."""

    def __init__(self) -> None:
        self.dims: dict[Index, str] = {}

    def type(self, type_: Type | None) -> str:
        """A type, or nothing."""
        match type_:
            case TensorType(shape=shape, dtype=dtype):
                return f"{dtype}{self.value(shape)}"
            case TupleType(fields=fields):
                return f"({', '.join(map(self.type, fields))})"
            case FuncType(arg_types=args, ret_type=result):
                return f"fn ({', '.join(map(self.type, args))}) -> {self.type(result)}"
        return ""

    def attributes(self, attributes: Mapping[str, Any]) -> str:
        """Attributes by name."""
        return ", ".join(f"{key}={self.value(attributes[key])}" for key in sorted(attributes))

    def value(self, value: Any) -> str:
        """A dimension or the value of an attribute."""
        if isinstance(value, tuple):
            return f"[{', '.join(map(self.value, value))}]"
        if isinstance(value, Index):
            return self.dims.setdefault(value, f"?{len(self.dims)}") if is_plain(value) else "?"
        return repr(value)
