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

A group of two convolutions, one behind the other (`fuse/fuse_stages.py`), is two such problems: the result of the
first one, the *stage*, is a buffer that the kernel has to itself, and the data of the second one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from ..ir.errors import VerifyError
from ..ir.expr import Call, Constant, Expr, Function, Tuple, TupleGetItem, Var
from ..ir.index import Index
from ..ir.loops import Builder, Kernel
from ..ir.scalar import Buffer, Load, Value, cast, compute_dtype, constant
from ..ir.types import TensorType, tensors_of
from ..ir.visitor import children, post_order, with_children
from ..ops.lowering import Context, Map, View
from ..ops.spec import OpSpec
from .cpuinfo import Isa
from .program import item_range
from .scales import absorbed

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
        scales: weights that the kernel reads times a scale: the position of the input, and that of the scale.
        before: what comes first in a group of two stages; its output is the buffer that the anchor's data is read from.
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
    scales: Mapping[int, int]
    before: "Problem | None" = None

    def parameter(self, position: int) -> Buffer | None:
        """The buffer behind argument `position` of the anchor if the argument is a parameter as it is, else None."""
        assert self.anchor is not None
        arg = self.anchor.args[position]
        return self.direct.get(id(arg))

    def kernel(self, builder: Builder, *notes: str) -> Kernel:
        """The finished kernel."""
        taken = ["the scale behind the convolution is in its weights"] if self.scales else []
        return Kernel(self.name, self.inputs, self.outputs, builder.finish(), (*notes, *taken))

    def emit(self, builder: Builder, index: Sequence[Index], value: Value) -> None:
        """Run the epilogue on one value of the anchor and store what comes out."""
        for buffer, place, result in self.finish(index, value):
            builder.store(buffer, place, result)


def spec(call: Call) -> OpSpec:
    """The operator of a call inside a group."""
    if not isinstance(call.op, OpSpec):
        raise VerifyError(f"a fused group may only call operators, got {call.op!r}")
    return call.op


def anchors(function: Function) -> list[Call]:
    """The calls of a group that need loops of their own, first to last: none, one, or those of two stages.

    Raises:
        VerifyError: there are more, or they do not follow each other (fusion made an impossible group).
    """
    calls = [e for e in post_order(function.body) if isinstance(e, Call)]
    found = [c for c in calls if not isinstance(spec(c).lowering, Map)]
    for call in found:
        if spec(call).lowering is None:
            raise VerifyError(f"{spec(call).name} has no code of its own: run fw.transform.SimplifyInference() first")
    follow = len(found) == 2 and any(node is found[0] for node in post_order(found[1].args[0]))
    if len(found) > 1 and not follow:
        raise VerifyError(f"a group with several anchors: {', '.join(spec(c).name for c in found)}")
    return found


def find_anchor(function: Function) -> Call | None:
    """The call of a group that needs a schedule, the last one in a group of two stages."""
    return next(reversed(anchors(function)), None)


def make_problem(function: Function, name: str, isa: Isa, threads: int, constants: Collection[int] = ()) -> Problem:
    """Set up the views of a group; `constants` are the positions of known parameters (tuples flattened)."""
    if len(found := anchors(function)) < 2:
        return _Group(function, constants).problem(name, isa, threads)
    first, last = _stages(function, found[1])
    before = _Group(first, constants).problem(name, isa, threads)
    (out,) = before.outputs
    between = Buffer("stage", out.shape, out.dtype, "team")
    before = attrs.evolve(before, outputs=(between,), finish=redirected(before, lambda place: (between, place)))
    given = (*before.inputs, between)
    problem = _Group(last, constants, given).problem(name, isa, threads)
    scales = {**before.scales, **problem.scales}
    return attrs.evolve(problem, inputs=before.inputs, scales=scales, before=before)


def redirected(
    problem: Problem, to: Callable[[tuple[Index, ...]], tuple[Buffer, tuple[Index, ...]]]
) -> Callable[[Sequence[Index], Value], Stores]:
    """The epilogue of a group with one result, which is stored elsewhere: `to(place) -> buffer and place`."""

    def finish(index: Sequence[Index], value: Value) -> Stores:
        return [(*to(place), result) for _, place, result in problem.finish(index, value)]

    return finish


def _stages(function: Function, anchor: Call) -> tuple[Function, Function]:
    """A group of two stages as two groups: the second one has the result of the first as its last parameter."""
    data = anchor.args[0]
    stage = Var("stage", data.checked_type)
    new: dict[int, Expr] = {id(data): stage}
    for node in post_order(function.body):
        if id(node) not in new:
            new[id(node)] = with_children(node, [new[id(child)] for child in children(node)])
    last = Function([*function.params, stage], new[id(function.body)])
    return Function(function.params, data), last


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

    def __init__(self, function: Function, constants: Collection[int], given: Sequence[Buffer] = ()) -> None:
        self.function = function
        self.given = given
        """The buffers of the parameters, where they are there already."""
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
        self.known = frozenset(self.inputs[k] for k in constants)
        known = {key for key, buffer in self.direct.items() if buffer in self.known}
        self.absorbed = absorbed(function, self.anchor, known)
        for node in post_order(function.body):
            if id(node) not in self.views:
                self.views[id(node)] = self._views(node)

    def _input(self, type_: TensorType) -> View:
        place = len(self.inputs)
        buffer = self.given[place] if self.given else Buffer(f"p{place}", type_.static_shape, type_.dtype)
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
                if self.absorbed is not None and node is self.absorbed.call:
                    return self.views[id(self.anchor)]
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

    def _scales(self) -> dict[int, int]:
        if self.absorbed is None:
            return {}
        weight, scale = (self.direct[id(v)] for v in (self.absorbed.weight, self.absorbed.scale))
        return {self.inputs.index(weight): self.inputs.index(scale)}

    def problem(self, name: str, isa: Isa, threads: int) -> Problem:
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
            self.known,
            self.direct,
            self._scales(),
        )
