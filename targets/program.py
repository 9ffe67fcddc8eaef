"""From a fused function to a list of steps over numbered tensors (slots)."""

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt
from attrs import define, field, frozen

from ..fuse.fuse_ops import RESHAPE_ONLY
from ..ir.deferred import Deferred, force
from ..ir.errors import FusewireError
from ..ir.expr import Call, Constant, Expr, Function, If, Let, Tuple, TupleGetItem, Var
from ..ir.index import INF
from ..ir.op import Attrs, Op
from ..ir.types import TensorType, TupleType, Type, tensors_of
from ..ir.visitor import children


@frozen(eq=False)
class KernelStep:
    """A generated kernel: reads `inputs`, writes `outputs`."""

    name: str
    _function: Function | Deferred[Function]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def function(self) -> Function:
        """The group that it computes."""
        return force(self._function)


@frozen(eq=False)
class LibraryStep:
    """A region handed to an external library."""

    name: str
    _function: Function | Deferred[Function]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def function(self) -> Function:
        """The region."""
        return force(self._function)

    @property
    def composite(self) -> str:
        """The rule that took the region, e.g. "onednn.conv2d"."""
        return str(self.function.attrs["Composite"])


@frozen(eq=False)
class CopyStep:
    """Copies a tensor: a result that is an input, a constant, or given twice; and the result of a branch."""

    source: int
    target: int


@frozen(eq=False)
class BranchStep:
    """Runs one of two step lists."""

    cond: int
    then: tuple["Step", ...]
    orelse: tuple["Step", ...]


Step: TypeAlias = KernelStep | LibraryStep | CopyStep | BranchStep


@frozen(eq=False)
class Program:
    """A function ready to be given memory.

    Attributes:
        slots: the type of every tensor.
        inputs: slots by parameter name, in the order of the parameters (a tuple parameter has several).
        constants: contents by slot.
        outputs: the slots of the results.
        steps: what runs, in order.
        function: the fused function that it was made from.
        types: the type of each parameter, by name.
        views: slots that are the memory of another slot under another shape, with that slot (which is no view).
    """

    slots: tuple[TensorType, ...]
    inputs: dict[str, tuple[int, ...]]
    constants: dict[int, npt.NDArray[Any]]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    _function: Function | Deferred[Function]
    types: dict[str, Type] = field(factory=dict)
    views: dict[int, int] = field(factory=dict)

    @property
    def function(self) -> Function:
        """The fused function that it was made from."""
        return force(self._function)

    def root(self, slot: int) -> int:
        """The slot whose memory this one is: itself, unless it is a view."""
        return self.views.get(slot, slot)

    @property
    def fixed(self) -> set[int]:
        """The slots (no views) whose memory is not planned: inputs, constants and results."""
        given = {slot for slots in self.inputs.values() for slot in slots}
        return given | self.constants.keys() | {self.root(slot) for slot in self.outputs}

    def leaf_steps(self) -> list[KernelStep | LibraryStep]:
        """Kernel and library steps, those of branches included."""
        return [s for s in flatten(self.steps) if isinstance(s, KernelStep | LibraryStep)]


def flatten(steps: Iterable[Step]) -> list[Step]:
    """All steps, branches opened."""
    found: list[Step] = []
    for step in steps:
        found.append(step)
        if isinstance(step, BranchStep):
            found.extend(flatten(step.then))
            found.extend(flatten(step.orelse))
    return found


def make_program(function: Function, mod_name: str = "default") -> Program:
    """Number the tensors of a fused function and list its steps.

    Raises:
        FusewireError: two parameters have one name.
    """
    return _Maker(f"fusewire_{identifier(mod_name)}").make(function)


@define
class _Scope:
    """Where expressions have been put so far; a branch sees what lies outside of it."""

    steps: list[Step] = field(factory=list)
    places: dict[int, tuple[int, ...]] = field(factory=dict)
    parent: "_Scope | None" = None

    def find(self, expr: Expr) -> tuple[int, ...] | None:
        scope: _Scope | None = self
        while scope is not None:
            if id(expr) in scope.places:
                return scope.places[id(expr)]
            scope = scope.parent
        return None


@define
class _Maker:
    prefix: str
    slots: list[TensorType] = field(factory=list)
    constants: dict[int, npt.NDArray[Any]] = field(factory=dict)
    names: dict[str, int] = field(factory=dict)
    constant_slots: dict[int, int] = field(factory=dict)
    views: dict[int, int] = field(factory=dict)

    def make(self, function: Function) -> Program:
        scope = _Scope()
        inputs: dict[str, tuple[int, ...]] = {}
        for param in function.params:
            if param.name_hint in inputs:
                raise FusewireError(
                    f"two parameters are called {param.name_hint!r}; inputs are set by name, so rename one"
                )
            inputs[param.name_hint] = scope.places[id(param)] = self.new(tensors_of(param.checked_type))
        results = self.evaluate(function.body, scope)
        outputs: list[int] = []
        taken = {slot for slots in inputs.values() for slot in slots} | self.constants.keys()
        for slot in results:
            if self.views.get(slot, slot) in taken:
                (target,) = self.new([self.slots[slot]])
                scope.steps.append(CopyStep(slot, target))
                slot = target
            taken.add(self.views.get(slot, slot))
            outputs.append(slot)
        types = {param.name_hint: param.checked_type for param in function.params}
        steps = tuple(scope.steps)
        return Program(tuple(self.slots), inputs, self.constants, tuple(outputs), steps, function, types, self.views)

    def new(self, types: Sequence[TensorType]) -> tuple[int, ...]:
        for type_ in types:
            if type_.nbytes >= INF:
                raise FusewireError(f"a tensor {type_} of {type_.nbytes} bytes is larger than any memory")
        first = len(self.slots)
        self.slots.extend(types)
        return tuple(range(first, len(self.slots)))

    def evaluate(self, root: Expr, scope: _Scope) -> tuple[int, ...]:
        """Steps for everything below `root` that has no place yet, operands first."""
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if scope.find(node) is not None:
                continue
            if ready:
                scope.places[id(node)] = self.place(node, scope)
                continue
            stack.append((node, True))
            match node:
                case If(cond=cond):
                    stack.append((cond, False))
                case Call(op=op, args=args) if isinstance(op, Op | Function):
                    stack.extend((arg, False) for arg in reversed(args))
                case _:
                    stack.extend((child, False) for child in reversed(children(node)))
        found = scope.find(root)
        assert found is not None
        return found

    def place(self, node: Expr, scope: _Scope) -> tuple[int, ...]:
        match node:
            case Constant(data=data):
                return (self.constant(data),)
            case Tuple(fields=fields):
                return tuple(slot for f in fields for slot in scope.find(f) or ())
            case TupleGetItem(tuple_value=value):
                return (scope.find(value) or ())[item_range(node)]
            case Call():
                return self.call(node, scope)
            case If():
                return self.branch(node, scope)
            case Var():
                raise FusewireError(f"%{node.name_hint} is used but is not a parameter of the function")
            case Let():
                raise FusewireError("Let must be inlined before steps are made")
        raise FusewireError(f"cannot run a {type(node).__name__}:\n{node}")

    def constant(self, data: npt.NDArray[Any]) -> int:
        if id(data) not in self.constant_slots:
            (slot,) = self.new([TensorType(data.shape, data.dtype.name)])
            self.constants[slot] = data
            self.constant_slots[id(data)] = slot
        return self.constant_slots[id(data)]

    def call(self, node: Call, scope: _Scope) -> tuple[int, ...]:
        inputs = tuple(slot for arg in node.args for slot in scope.find(arg) or ())
        outputs = self.new(tensors_of(node.checked_type))
        function = node.op if isinstance(node.op, Function) else as_group(node)
        if RESHAPE_ONLY in function.attrs and len(inputs) == len(outputs) == 1:
            self.views[outputs[0]] = self.views.get(inputs[0], inputs[0])
            return outputs
        if "Composite" in function.attrs:
            name = self.unique(f"{self.prefix}_{identifier(str(function.attrs['Composite']))}")
            scope.steps.append(LibraryStep(name, function, inputs, outputs))
        else:
            name = self.unique(f"{self.prefix}_fused_{group_name(function)}")
            scope.steps.append(KernelStep(name, function, inputs, outputs))
        return outputs

    def branch(self, node: If, scope: _Scope) -> tuple[int, ...]:
        (cond,) = self.evaluate(node.cond, scope)
        outputs = self.new(tensors_of(node.checked_type))
        arms: list[tuple[Step, ...]] = []
        for arm in (node.true_branch, node.false_branch):
            inner = _Scope(parent=scope)
            results = self.evaluate(arm, inner)
            inner.steps.extend(CopyStep(s, t) for s, t in zip(results, outputs, strict=True))
            arms.append(tuple(inner.steps))
        scope.steps.append(BranchStep(cond, arms[0], arms[1]))
        return outputs

    def unique(self, name: str) -> str:
        count = self.names[name] = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count - 1}"


def item_range(item: TupleGetItem) -> slice:
    """Where the tensors of a tuple's item stand among all tensors of the tuple."""
    whole = item.tuple_value.checked_type
    assert isinstance(whole, TupleType)
    before = sum(len(tensors_of(t)) for t in whole.fields[: item.index])
    return slice(before, before + len(tensors_of(item.checked_type)))


def as_group(call: Call) -> Function:
    """A call of a bare operator as a group of its own."""
    params = [Var(f"p{k}", arg.checked_type) for k, arg in enumerate(call.args)]
    return Function(params, Call(call.op, params, call.attrs), None, Attrs({"Primitive": 1}))


def group_name(function: Function, limit: int = 80) -> str:
    """The operators of a group in the order of their evaluation, as an identifier of bounded length."""
    names: list[str] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(function.body, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            assert isinstance(node, Call)
            names.append(identifier(str(node.op)))
        elif id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, Call):
                stack.append((node, True))
            stack.extend((child, False) for child in reversed(children(node)))
    name = "_".join(names) or "copy"
    return name if len(name) <= limit else f"{name[: limit - 9].rstrip('_')}_{_digest(name)}"


def identifier(text: str) -> str:
    """`text` with everything that C does not allow in a name turned into `_`."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def _digest(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
