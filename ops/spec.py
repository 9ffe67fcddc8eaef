"""An operator, declared once.

`OpSpec` holds all that the rest of the compiler needs of an operator: its builder function (whose signature gives the
attributes, their types and defaults, and whose docstring gives the documentation), the type rule, the NumPy reference
that tests compare with, the fusion kind, and how it becomes loops. The parser, the printer, the operator table in the
documentation, the generated tests and the code generator all read it from here.

    @operator("nn.relu", Fusion.ELEMWISE, same_type, np_relu, pointwise(lambda x: maximum(x, 0)), cases=unary_cases())
    def relu(data: ExprLike) -> Expr:
        '''max(x, 0), element by element; NaN stays NaN.'''
        return call("nn.relu", [data])
"""

import enum
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import index as operator_index
from typing import Any, ParamSpec, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from ..ir.errors import FusewireError, TypeInferenceError
from ..ir.expr import Call, Expr
from ..ir.op import Attrs, Op, all_ops, freeze, get_op, register
from ..ir.types import TensorType, TupleType, Type
from .lowering import Lowering

P = ParamSpec("P")
R = TypeVar("R")
Array = npt.NDArray[Any]
Infer = Callable[..., Type]
Reference = Callable[..., Array | Sequence[Array]]


class Fusion(enum.IntEnum):
    """How an operator may be fused with others (TVM's kinds); a group has the largest of its kinds."""

    ELEMWISE = 0
    """Output element i reads input elements i."""
    BROADCAST = 1
    """The same, with size-1 axes of the inputs stretched."""
    INJECTIVE = 2
    """Each output element reads at known places; no reduction."""
    COMM_REDUCE = 3
    """A commutative reduction over axes."""
    OUT_ELEMWISE_FUSABLE = 4
    """An anchor, such as conv2d: elementwise consumers can work on its accumulators."""
    TUPLE = 7
    """A tuple of values."""
    OPAQUE = 8
    """Never fused."""


@attrs.frozen
class Case:
    """One sample use of an operator, from which tests make graphs.

    Attributes:
        shapes: the shape of each argument; a list of shapes stands for a tuple argument.
        attributes: keyword arguments of the builder.
        dtypes: the dtype of each argument where it is not the dtype under test (None: the dtype under test).
        low, high: the range that random argument values are drawn from (an int range for integer dtypes).
        values: makes the argument values instead of the uniform draw: `values(rng, dtype) -> list of arrays`.

    """

    shapes: Sequence[Any]
    attributes: dict[str, Any] = attrs.field(factory=dict)
    dtypes: Sequence[str | None] | None = None
    low: float = -2.0
    high: float = 2.0
    values: Callable[[np.random.Generator, str], list[Array]] | None = None


Cases = Callable[[np.random.Generator], Case]
"""Draws a random `Case` (shapes, attributes) from a generator."""

REAL = ("float32", "float64", "float16")
INT = ("int32", "int64")
NUMERIC = (*REAL, *INT)
EVERY = (*NUMERIC, "bool")


@attrs.frozen(eq=False, repr=False, slots=False)
class OpSpec(Op):
    """Everything about one operator.

    Attributes:
        name: Relay's name, e.g. "nn.conv2d".
        builder: the public function that builds a call.
        fusion: how it may be fused.
        infer_rule: `(attrs, *argument types) -> result type`; raises TypeInferenceError.
        reference: `(attrs, *arrays) -> array or list of arrays`; arrays are float64 for floating types.
        lowering: how it becomes loops; None for what a pass must remove first (dropout, batch_norm).
        cases: draws sample uses for the oracle test.
        dtypes: element types that the oracle test covers.
        complete_rule: `(attrs, *types or None) -> types`, fills in unknown argument types; None: nothing to fill in.
        tolerance: factor on the oracle test's tolerance.
        flops: `(attrs, *argument types) -> operations`, where counting them in the lowering (targets/work.py) would
            give something else than the definition takes.

    """

    builder: Callable[..., Any]
    fusion: Fusion
    infer_rule: Infer
    reference: Reference
    lowering: Lowering | None
    cases: Cases | None
    dtypes: tuple[str, ...]
    complete_rule: Callable[..., Sequence[Type | None]] | None = None
    tolerance: float = 1.0
    flops: Callable[..., int] | None = None

    def infer(self, args: Sequence[Type], attributes: Attrs) -> Type:
        """The type of the result; a wrong number or kind of argument is a TypeInferenceError."""
        try:
            self._rule_signature.bind(attributes, *args)
        except TypeError:
            expected = len(self._rule_signature.parameters) - 1
            raise TypeInferenceError(f"got {len(args)} arguments, expected {expected}") from None
        return self.infer_rule(attributes, *args)

    def complete(self, args: Sequence[Type | None], attributes: Attrs) -> Sequence[Type | None]:
        """`args` with unknown types filled in where the known ones and the attributes decide them."""
        return self.complete_rule(attributes, *args) if self.complete_rule else args

    def build(self, *args: Any, **attributes: Any) -> Any:
        """Call the public builder function; `args` fill the parameters that `attributes` leaves, in order.

        So `gather`, whose builder takes an attribute between two tensors, can be called as any other operator.
        """
        return self.builder(**self._by_name(args, attributes))

    def _by_name(self, args: Sequence[Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
        free = [name for name in self.signature.parameters if name not in attributes]
        if len(args) > len(free):
            raise TypeError(f"{self.name} takes {len(free)} arguments beside its attributes, got {len(args)}")
        return {**dict(zip(free, args, strict=False)), **attributes}

    def defaults(self) -> Mapping[str, Any]:
        """The builder's defaults, without those of tensor arguments."""
        return self._defaults

    def full_attributes(self, args: Sequence[Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes that the builder stores when it is called with `args` and `given`.

        Where it builds something else than one call on `args`, they are `given` and the defaults.

        Raises:
            FusewireError: an attribute is unknown or missing.

        """
        parameters = self.signature.parameters
        if unknown := given.keys() - parameters.keys():
            known = ", ".join(name for name in parameters if name in self._attribute_names) or "none"
            raise FusewireError(f"{self.name} has no attribute {sorted(unknown)[0]!r}; its attributes are: {known}")
        if missing := self._attribute_names - given.keys() - self._defaults.keys():
            raise FusewireError(f"{self.name} needs the attribute {sorted(missing)[0]!r}")
        direct = {**self._defaults, **given}
        direct = {name: direct[name] for name in parameters if name in direct}  # in one order, whatever was given
        try:
            self.signature.bind(**self._by_name(args, given))
        except TypeError:
            return direct  # a wrong number of arguments, of which the type rule says more
        built = self.build(*args, **given)
        if not isinstance(built, Expr):  # a TupleWrapper
            built = built.astuple()
        if isinstance(built, Call) and built.op is self and list(map(id, built.args)) == list(map(id, args)):
            return built.attrs
        return direct

    @cached_property
    def _attribute_names(self) -> set[str]:
        # A parameter whose annotation mentions expressions is a tensor argument.
        return {n for n, p in self.signature.parameters.items() if "Expr" not in str(p.annotation)}

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        parameters = {name: self.signature.parameters[name] for name in sorted(self._attribute_names)}
        return {name: freeze(p.default) for name, p in parameters.items() if p.default is not p.empty}

    @cached_property
    def _rule_signature(self) -> inspect.Signature:
        return inspect.signature(self.infer_rule)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The builder's signature: arguments, attributes and defaults."""
        return inspect.signature(self.builder)

    @property
    def doc(self) -> str:
        """The first line of the builder's docstring."""
        return (self.builder.__doc__ or "").strip().split("\n")[0]


def operator(
    name: str,
    fusion: Fusion,
    infer: Infer,
    reference: Reference,
    lowering: Lowering | None,
    *,
    cases: Cases | None = None,
    dtypes: tuple[str, ...] = NUMERIC,
    complete: Callable[..., Sequence[Type | None]] | None = None,
    tolerance: float = 1.0,
    flops: Callable[..., int] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare an operator; the decorated function is its public builder."""

    def declare(builder: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(builder)
        def checked(*args: P.args, **attributes: P.kwargs) -> R:
            try:
                return builder(*args, **attributes)
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                raise TypeInferenceError(f"{name} cannot take these arguments: {error}") from error

        register(OpSpec(name, checked, fusion, infer, reference, lowering, cases, dtypes, complete, tolerance, flops))
        return checked

    return declare


def spec_of(op: Op | str | Call) -> OpSpec:
    """The full declaration behind an operator, its name, or a call of it."""
    found = op.op if isinstance(op, Call) else get_op(op) if isinstance(op, str) else op
    if not isinstance(found, OpSpec):
        raise TypeError(f"{found!r} is not an operator")
    return found


def all_specs() -> list[OpSpec]:
    """Every declared operator, by name."""
    return [op for _, op in sorted(all_ops().items()) if isinstance(op, OpSpec)]


def tensor(type_: Type, what: str = "the argument") -> TensorType:
    """`type_` as a tensor type, or a TypeInferenceError."""
    if not isinstance(type_, TensorType):
        raise TypeInferenceError(f"{what} must be a tensor, got {type_}")
    return type_


def fields(type_: Type, what: str = "the argument") -> list[TensorType]:
    """The tensor types of a tuple argument, or a TypeInferenceError."""
    if not isinstance(type_, TupleType):
        raise TypeInferenceError(f"{what} must be a tuple of tensors, got {type_}")
    return [tensor(field, what) for field in type_.fields]


def normalize_axis(axis: int, ndim: int) -> int:
    """A possibly negative axis as 0..ndim-1, or a TypeInferenceError."""
    if not -ndim <= axis < ndim:
        raise TypeInferenceError(f"axis {axis} is out of range for a tensor of {ndim} dimensions")
    return axis % ndim


def ints(value: Any, count: int | None = None, what: str = "value") -> tuple[int, ...]:
    """An int or a sequence of ints as a tuple; one int is repeated `count` times."""
    items = (value,) * (count or 1) if isinstance(value, int | np.integer) else tuple(value)
    if count is not None and len(items) != count:
        raise TypeInferenceError(f"{what} must have {count} entries, got {value!r}")
    return tuple(operator_index(i) for i in items)


def as_list(value: Expr | Sequence[Expr]) -> list[Expr] | Expr:
    """A sequence of expressions as a list (a tuple argument), an expression as itself."""
    return value if isinstance(value, Expr) else list(value)
