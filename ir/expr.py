"""Expressions: the nodes of the typed dataflow graph.

Nodes are immutable and compared by identity (`analysis.structural_equal` compares what they mean). Sharing a node
means computing it once. A node knows its type from construction on if the types of its parts are known;
otherwise `InferType` finds it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias, Union

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from .errors import FusewireError, TypeInferenceError, shortened
from .op import Attrs, Op, get_op
from .types import FuncType, TensorType, TupleType, Type, check_dtype, numpy_dtype

ExprLike: TypeAlias = Union["Expr", int, float, bool, npt.NDArray[Any]]
"""What a builder function takes as a tensor: an expression, or a number or array to become a constant."""

Printer: TypeAlias = Callable[[Any, bool, bool], str]
"""`printer(expression or module, show_meta_data, show_version) -> text`."""

_printers: list[Printer] = []


def use_printer(printer: Printer) -> None:
    """Install the function behind `str(expr)` (ir/printer.py, which imports this module, does so)."""
    _printers.append(printer)


class Expr:
    """Root of all expressions. Arithmetic on expressions builds calls: `a + b` is `fw.add(a, b)`."""

    __slots__ = ()
    __array_ufunc__ = None  # so that NumPy leaves `array + expr` to us
    _type: Type | None

    @property
    def checked_type(self) -> Type:
        """The type.

        Raises:
            TypeInferenceError: it is not known yet; run `fw.transform.InferType()`.

        """
        if self._type is None:
            raise TypeInferenceError(f"the type is not known yet; run fw.transform.InferType() first. In:\n{self}")
        return self._type

    @property
    def known_type(self) -> Type | None:
        """The type if it is known, else None."""
        return self._type

    def astext(self, show_meta_data: bool = True) -> str:
        """The expression in Relay's text format; with `show_meta_data`, the values of its constants at the end."""
        return _printers[-1](self, show_meta_data, True)

    def __str__(self) -> str:
        return _printers[-1](self, False, False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}>"

    def __call__(self, *args: "Expr") -> "Call":
        """Call this function value."""
        return Call(self, args)

    def __bool__(self) -> NoReturn:
        raise FusewireError("an expression has no truth value while the graph is built; use fw.If or fw.where")

    __hash__ = object.__hash__

    def __neg__(self) -> "Expr":
        return _apply("negative", self)

    def __add__(self, other: Any) -> "Expr":
        return _apply("add", self, other)

    def __radd__(self, other: Any) -> "Expr":
        return _apply("add", other, self)

    def __sub__(self, other: Any) -> "Expr":
        return _apply("subtract", self, other)

    def __rsub__(self, other: Any) -> "Expr":
        return _apply("subtract", other, self)

    def __mul__(self, other: Any) -> "Expr":
        return _apply("multiply", self, other)

    def __rmul__(self, other: Any) -> "Expr":
        return _apply("multiply", other, self)

    def __truediv__(self, other: Any) -> "Expr":
        return _apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> "Expr":
        return _apply("divide", other, self)

    def __floordiv__(self, other: Any) -> "Expr":
        return _apply("floor_divide", self, other)

    def __mod__(self, other: Any) -> "Expr":
        return _apply("floor_mod", self, other)

    def __pow__(self, other: Any) -> "Expr":
        return _apply("power", self, other)

    def __lt__(self, other: Any) -> "Expr":
        return _apply("less", self, other)

    def __gt__(self, other: Any) -> "Expr":
        return _apply("greater", self, other)

    def __le__(self, other: Any) -> "Expr":
        return _apply("less_equal", self, other)

    def __ge__(self, other: Any) -> "Expr":
        return _apply("greater_equal", self, other)

    def __getitem__(self, index: int) -> "Expr":
        return TupleGetItem(self, index)

    def __iter__(self) -> NoReturn:
        # Without this, Python would call __getitem__ for ever.
        raise TypeError("an expression cannot be iterated; use fw.TupleWrapper(expr, size)")

    def astype(self, dtype: str) -> "Expr":
        """This tensor converted to another element type."""
        built: Expr = get_op("cast").build(self, dtype=dtype)
        return built


def _apply(name: str, *operands: Any) -> Expr:
    like = next(e for e in operands if isinstance(e, Expr))
    built: Expr = get_op(name).build(*(as_expr(e, like) for e in operands))
    return built


def as_expr(value: Any, like: Expr | None = None) -> Expr:
    """`value` as an expression; a Python number takes the dtype of `like` where that is known.

    Raises:
        TypeInferenceError: `value` is neither an expression nor a number or array.

    """
    if isinstance(value, Expr):
        return value
    if isinstance(value, list | tuple) and any(isinstance(v, Expr) for v in value):
        return Tuple([as_expr(v) for v in value])
    dtype = None
    if like is not None and isinstance(value, int | float) and isinstance(like.known_type, TensorType):
        # A fraction beside an integer tensor stays a float, so that the operator can complain.
        whole = isinstance(value, int) or value.is_integer() or "float" in like.known_type.dtype
        dtype = like.known_type.dtype if whole else None
    return const(value, dtype)


def _expr(item: Expr) -> Expr:
    if not isinstance(item, Expr):
        raise TypeInferenceError(f"expected an expression, got {item!r}; fw.const makes one of a number or an array")
    return item


def _exprs(items: Iterable[Expr]) -> tuple[Expr, ...]:
    return tuple(map(_expr, items))


def _name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeInferenceError(f"a name must be a string, got {name!r}")
    return name


@frozen(eq=False, repr=False, str=False)
class Var(Expr):
    """A variable: a parameter of a function, or bound by `Let`. `name_hint` need not be unique."""

    name_hint: str = field(converter=_name)
    type_annotation: Type | None = None

    @property
    def _type(self) -> Type | None:  # type: ignore[override]
        return self.type_annotation


@frozen(eq=False, repr=False, str=False)
class GlobalVar(Expr):
    """The name of a function in a module."""

    name_hint: str = field(converter=_name)
    type_annotation: Type | None = None

    @property
    def _type(self) -> Type | None:  # type: ignore[override]
        return self.type_annotation


@frozen(eq=False, repr=False, str=False)
class Constant(Expr):
    """A tensor known when the graph is built. `data` is a read-only array of its own, plain in memory.

    Plain means C-contiguous, aligned, and in the machine's byte order, as kernels and libraries read it.
    """

    data: npt.NDArray[Any]
    _type: Type = field(init=False)

    def __attrs_post_init__(self) -> None:
        array = np.require(self.data, self.data.dtype.newbyteorder("="), ["C", "A"])
        if np.may_share_memory(array, self.data):  # it was plain already
            array = self.data.copy() if self.data.flags.writeable else self.data
        array.setflags(write=False)
        object.__setattr__(self, "data", array)
        object.__setattr__(self, "_type", TensorType(array.shape, array.dtype.name))


def _vars(items: Iterable["Var"]) -> tuple["Var", ...]:
    return tuple(items)


def _attrs(items: Mapping[str, Any] | None) -> Attrs:
    return items if isinstance(items, Attrs) else Attrs(items or {})


@frozen(eq=False, repr=False, str=False)
class Call(Expr):
    """An operator, or a function, applied to arguments; the type is checked at once if the arguments are typed."""

    op: Op | Expr
    args: tuple[Expr, ...] = field(converter=_exprs)
    attrs: Attrs = field(factory=Attrs)
    _type: Type | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_type", self._infer())

    def _infer(self) -> Type | None:
        types = [arg.known_type for arg in self.args]
        known = [t for t in types if t is not None]
        if isinstance(self.op, Op):
            if len(known) < len(types):
                return None
            try:
                return self.op.infer(known, self.attrs)
            except (TypeInferenceError, TypeError, ValueError, OverflowError) as error:
                shown = ", ".join(map(str, known))
                message = f"{self.op.name}({shown}): {error}\nattributes: {dict(self.attrs)}"
                raise TypeInferenceError(shortened(message)) from None
        callee = self.op.known_type
        if callee is None or len(known) < len(types):
            return None
        if not isinstance(callee, FuncType):
            raise TypeInferenceError(f"only operators and functions can be called, got a value of type {callee}")
        if tuple(known) != callee.arg_types:
            raise TypeInferenceError(f"a function of type {callee} got arguments ({', '.join(map(str, known))})")
        return callee.ret_type


@frozen(eq=False, repr=False, str=False)
class Tuple(Expr):
    """Several values as one."""

    fields: tuple[Expr, ...] = field(converter=_exprs)
    _type: Type | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        known = [t for f in self.fields if (t := f.known_type) is not None]
        if len(known) == len(self.fields):
            object.__setattr__(self, "_type", TupleType(known))


@frozen(eq=False, repr=False, str=False)
class TupleGetItem(Expr):
    """One value out of a tuple, counted from 0."""

    tuple_value: Expr = field(converter=_expr)
    index: int
    _type: Type | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        whole = self.tuple_value.known_type
        if whole is None:
            return
        if not isinstance(whole, TupleType):
            raise TypeInferenceError(f"cannot take item {self.index} of a value of type {whole}: it is not a tuple")
        if not 0 <= self.index < len(whole.fields):
            raise TypeInferenceError(f"tuple index {self.index} is out of range for {whole}")
        object.__setattr__(self, "_type", whole.fields[self.index])


@frozen(eq=False, repr=False, str=False)
class Let(Expr):
    """`let var = value; body`."""

    var: Var
    value: Expr
    body: Expr
    _type: Type | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        declared, given = self.var.known_type, self.value.known_type
        if declared is not None and given is not None and declared != given:
            raise TypeInferenceError(f"%{self.var.name_hint} is declared as {declared}, but its value has type {given}")
        # Kept, not asked of the body each time: a long chain of lets would ask through all of it.
        object.__setattr__(self, "_type", self.body.known_type)


@frozen(eq=False, repr=False, str=False)
class If(Expr):
    """`true_branch` where the scalar boolean `cond` holds, else `false_branch`; only one of them is evaluated."""

    cond: Expr
    true_branch: Expr
    false_branch: Expr
    _type: Type | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        cond, yes, no = (e.known_type for e in (self.cond, self.true_branch, self.false_branch))
        if cond is not None and cond != TensorType((), "bool"):
            raise TypeInferenceError(f"the condition of If must be a scalar bool, got {cond}")
        if yes is not None and no is not None:
            if yes != no:
                raise TypeInferenceError(f"the branches of If have different types: {yes} and {no}")
            object.__setattr__(self, "_type", yes)


@frozen(eq=False, repr=False, str=False)
class Function(Expr):
    """Parameters and a body. `attrs` marks fused (`Primitive`) and library (`Compiler`, `Composite`) functions."""

    params: tuple[Var, ...] = field(converter=_vars)
    body: Expr = field(converter=_expr)
    ret_type: Type | None = None
    attrs: Attrs = field(factory=Attrs, converter=_attrs)
    _type: Type | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        known = [t for p in self.params if (t := p.known_type) is not None]
        result = self.body.known_type
        if self.ret_type is not None and result is not None and result != self.ret_type:
            raise TypeInferenceError(
                f"the function is declared to return {self.ret_type}, but its body has type {result}"
            )
        if len(known) == len(self.params) and result is not None:
            object.__setattr__(self, "_type", FuncType(known, result))

    def with_attr(self, key: str | Mapping[str, Any], value: Any = None) -> "Function":
        """This function with an attribute (or a mapping of attributes) set."""
        changes = dict(key) if isinstance(key, Mapping) else {key: value}
        return Function(self.params, self.body, self.ret_type, self.attrs.replace(**changes))


def var(
    name_hint: str, type_annotation: Type | str | Sequence[int] | None = None, shape: Any = None, dtype: str = "float32"
) -> Var:
    """A variable, e.g. `var("x", shape=(1, 3), dtype="float32")`, or `var("x")` with its type left to inference.

    Args:
        name_hint: the name shown in printed programs.
        type_annotation: a type, a shape, or a dtype (of a scalar).
        shape: the shape of a tensor, where `type_annotation` is absent.
        dtype: the element type that goes with a shape.

    """
    if type_annotation is not None and shape is not None:
        raise FusewireError(f"variable {name_hint!r}: give either a type or a shape, not both")
    if isinstance(type_annotation, str):
        return Var(name_hint, TensorType((), type_annotation))
    if type_annotation is not None and not isinstance(type_annotation, Type):
        shape, type_annotation = type_annotation, None
    return Var(name_hint, TensorType(shape, dtype) if shape is not None else type_annotation)


def const(value: Any, dtype: str | None = None) -> Constant:
    """A constant from a number, a list or an array.

    Python floats and lists of them become float32, ints int32, unless `dtype` says otherwise; arrays keep their dtype.
    """
    if isinstance(value, Constant):
        return value
    if hasattr(value, "numpy"):
        value = value.numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeInferenceError(f"cannot make a constant of {value!r}: {error}") from None
    if dtype is None and not isinstance(value, np.ndarray | np.generic):
        dtype = _default_dtype(array)
    if array.dtype.kind not in "biufV" or (array.dtype.kind == "V" and array.dtype.name != "bfloat16"):
        raise TypeInferenceError(f"cannot make a constant of {value!r}: expected numbers")
    if dtype is None:
        return Constant(array)
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(numpy_dtype(check_dtype(dtype)))
    if not isinstance(value, np.ndarray | np.generic) and array.dtype.kind in "iuf" and not _holds(array, result):
        raise TypeInferenceError(f"{value!r} does not fit {dtype}")
    return Constant(result)


def _default_dtype(array: npt.NDArray[Any]) -> str | None:
    """The dtype of a constant from Python numbers: float32 and int32, or int64 where int32 is too small."""
    if array.dtype.name == "int64":
        limits = np.iinfo(np.int32)
        return "int32" if not array.size or limits.min <= array.min() <= array.max() <= limits.max else "int64"
    return {"float64": "float32"}.get(array.dtype.name)


def _holds(given: npt.NDArray[Any], result: npt.NDArray[Any]) -> bool:
    """Whether numbers survived a conversion: exactly in integers, within the range in floating types."""
    if result.dtype.kind in "iu":
        return bool(np.all(result == given))
    finite = np.isfinite(given)
    return bool(np.all(np.isfinite(result.astype(np.float64)) == finite)) if result.dtype.kind != "b" else True


def call(op: str, args: Iterable[Any], **attributes: Any) -> Call:
    """A call of the operator named `op`; arguments may be expressions, numbers, arrays, or lists of expressions."""
    given = list(args)
    like = next((a for a in given if isinstance(a, Expr)), None)
    return Call(get_op(op), [as_expr(a, like) for a in given], Attrs(attributes))
