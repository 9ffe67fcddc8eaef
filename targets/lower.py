r"""From a fused group to a kernel.

A group is a Primitive function: a small graph of operator calls. Every expression in it is seen as a `View`, a function
from an index to a value. Elementwise and injective operators are views over views, so they vanish into whatever reads
them. At most one call in the group is an anchor (a reduction, a convolution, a procedure): a schedule writes its loops
and hands each finished value to `Problem.finish`, which continues through the rest of the group: the epilogue.

                       p0   p1                    inputs: views that load
                        \   /
    anchor ->         nn.conv2d    p2             the schedule makes loops and accumulates
                          \       /
    epilogue ->            multiply   p3          finish(index, acc): views over the accumulator
                                \    /
                                 add
                                  |
                               nn.relu -> out     the only store
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from ..ir.errors import VerifyError
from ..ir.expr import Call, Constant, Expr, Function, Tuple, TupleGetItem, Var
from ..ir.index import Index
from ..ir.loops import Builder, Kernel
from ..ir.scalar import Buffer, Load, Value, cast, compute_dtype, constant
from ..ir.types import TensorType, tensors_of
from ..ir.visitor import post_order
from ..ops.lowering import Context, Map, View
from ..ops.spec import OpSpec
from .cpuinfo import Isa
from .program import item_range

Stores = list[tuple[Buffer, tuple[Index, ...], Value]]


@attrs.frozen(eq=False)
class Problem:
    """What a schedule works on: one group.

    Attributes:
        name: the kernel's name.
        anchor: the call whose loops are to be written; None for a group of injective operators only.
        context: the anchor's attributes, input views and output types.
        inputs, outputs: the kernel's buffers.
        finish: `(output index, anchor's value there) -> stores`: runs the epilogue.
        views: the group's outputs as views, where there is no anchor.
        isa: the instruction set to write for.
        threads: how many threads will run the kernel, as far as is known: a stored one may meet another number.
        constants: the inputs that are known at build time (their contents do not matter to the code).
        direct: the buffers of tensor parameters, by identity of the parameter.
    """

    name: str
    anchor: Call | None
    context: Context | None
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    finish: Callable[[Sequence[Index], Value], Stores]
    views: tuple[View, ...]
    isa: Isa
    threads: int
    constants: frozenset[Buffer]
    direct: Mapping[int, Buffer]

    def parameter(self, position: int) -> Buffer | None:
        """The buffer behind argument `position` of the anchor if the argument is a parameter as it is, else None."""
        assert self.anchor is not None
        arg = self.anchor.args[position]
        return self.direct.get(id(arg))

    def kernel(self, builder: Builder, *notes: str) -> Kernel:
        """The finished kernel."""
        return Kernel(self.name, self.inputs, self.outputs, builder.finish(), tuple(notes))

    def emit(self, builder: Builder, index: Sequence[Index], value: Value) -> None:
        """Run the epilogue on one value of the anchor and store what comes out."""
        for buffer, place, result in self.finish(index, value):
            builder.store(buffer, place, result)


def spec(call: Call) -> OpSpec:
    """The operator of a call inside a group."""
    if not isinstance(call.op, OpSpec):
        raise VerifyError(f"a fused group may only call operators, got {call.op!r}")
    return call.op


def find_anchor(function: Function) -> Call | None:
    """The one call of a group that needs a schedule.

    Raises:
        VerifyError: there are several (fusion made an impossible group).
    """
    calls = [e for e in post_order(function.body) if isinstance(e, Call)]
    anchors = [c for c in calls if not isinstance(spec(c).lowering, Map)]
    for call in anchors:
        if spec(call).lowering is None:
            raise VerifyError(f"{spec(call).name} has no code of its own: run fw.transform.SimplifyInference() first")
    if len(anchors) > 1:
        raise VerifyError(f"a group with several anchors: {', '.join(spec(c).name for c in anchors)}")
    return anchors[0] if anchors else None


def make_problem(function: Function, name: str, isa: Isa, threads: int, constants: Collection[int] = ()) -> Problem:
    """Set up the views of a group; `constants` are the positions of known parameters (tuples flattened)."""
    return _Group(function).problem(name, isa, threads, constants)


def load_view(buffer: Buffer, type_: TensorType) -> View:
    """A tensor in memory as a view."""
    return View(type_, lambda *index: cast(Load(buffer, tuple(index)), compute_dtype(type_.dtype)))


Memo = dict[tuple[Index, ...], Value]


class _Deeper(Exception):
    """Raised by a read that is nested too deeply: whoever reads from outside does this one first."""


class _Reader:
    """Reads views so that the same index gives the same node (what is shared stays shared), however long the chain.

    A view reads other views, so reading nests as deeply as the group is long. At `DEEPEST` the read is given up, done
    by itself from the outside, and then the outer one is tried again, which finds the result and gets further.
    """

    DEEPEST = 30

    def __init__(self) -> None:
        self.memos: list[Memo] = []
        self.depth = 0

    def memoised(self, view: View) -> View:
        """The same view, read through this reader."""
        seen: Memo = {}
        self.memos.append(seen)

        def read(*index: Index) -> Value:
            if index not in seen:
                if self.depth == 0:
                    self._from_outside(lambda: enter(*index))
                elif self.depth >= self.DEEPEST:
                    raise _Deeper(lambda: enter(*index))
                else:
                    enter(*index)
            return seen[index]

        def enter(*index: Index) -> None:
            self.depth += 1
            try:
                seen[index] = view.read(*index)
            finally:
                self.depth -= 1

        return View(view.type, read)

    def _from_outside(self, enter: Callable[[], None]) -> None:
        pending = [enter]
        while pending:
            try:
                pending[-1]()
                pending.pop()
            except _Deeper as deeper:
                pending.append(deeper.args[0])


class _Group:
    """The views of one group, by expression."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.anchor = find_anchor(function)
        self.context: Context | None = None
        self.inputs: list[Buffer] = []
        self.direct: dict[int, Buffer] = {}
        self.views: dict[int, list[View]] = {}
        self._current: tuple[tuple[Index, ...], Value] | None = None
        self._reader = _Reader()
        for param in function.params:
            self.views[id(param)] = [self._input(t) for t in tensors_of(param.checked_type)]
            if isinstance(param.checked_type, TensorType):
                self.direct[id(param)] = self.inputs[-1]
        for node in post_order(function.body):
            if id(node) not in self.views:
                self.views[id(node)] = self._views(node)

    def _input(self, type_: TensorType) -> View:
        buffer = Buffer(f"p{len(self.inputs)}", type_.static_shape, type_.dtype)
        self.inputs.append(buffer)
        return self._reader.memoised(load_view(buffer, type_))

    def _forget(self) -> None:
        """Start a new element: what depends on the old accumulator must not be reused."""
        for memo in self._reader.memos:
            memo.clear()

    def _views(self, node: Expr) -> list[View]:
        match node:
            case Constant(data=data):
                type_ = node.checked_type
                assert isinstance(type_, TensorType) and data.size == 1
                number = constant(
                    data.reshape(()).astype(compute_dtype(type_.dtype)).item(), compute_dtype(type_.dtype)
                )
                return [View(type_, lambda *index: number)]
            case Tuple(fields=fields):
                return [view for field in fields for view in self.views[id(field)]]
            case TupleGetItem(tuple_value=value):
                return self.views[id(value)][item_range(node)]
            case Call(args=args, attrs=attributes):
                views = tuple(view for arg in args for view in self.views[id(arg)])
                context = Context(attributes, views, node.checked_type)
                if node is self.anchor:
                    self.context = context
                    return [View(t, self._read_anchor) for t in context.outs]
                lowering = spec(node).lowering
                assert isinstance(lowering, Map)
                return [self._reader.memoised(lowering.view(context, k)) for k in range(len(context.outs))]
            case Var():
                raise VerifyError(f"the group uses %{node.name_hint}, which is not one of its parameters")
        raise VerifyError(f"a fused group cannot contain a {type(node).__name__}")

    def _read_anchor(self, *index: Index) -> Value:
        if self._current is None or self._current[0] != index:
            at = self._current[0] if self._current else "no element"
            raise VerifyError(f"the epilogue reads the anchor at {index}, but the element at hand is {at}")
        return self._current[1]

    def problem(self, name: str, isa: Isa, threads: int, constants: Collection[int]) -> Problem:
        types = tensors_of(self.function.body.checked_type)
        outputs = tuple(
            Buffer("out" if len(types) == 1 else f"out{k}", t.static_shape, t.dtype) for k, t in enumerate(types)
        )

        views = tuple(self.views[id(self.function.body)])

        def finish(index: Sequence[Index], value: Value) -> Stores:
            place = tuple(index)
            self._current = (place, value)
            self._forget()
            return [(b, place, cast(v(*place), b.dtype)) for b, v in zip(outputs, views, strict=True)]

        known = frozenset(self.inputs[k] for k in constants)
        return Problem(
            name,
            self.anchor,
            self.context,
            tuple(self.inputs),
            outputs,
            finish,
            views,
            isa,
            threads,
            known,
            self.direct,
        )
