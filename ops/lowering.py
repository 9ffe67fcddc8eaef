"""How an operator becomes loops: five ways to say it, none of which knows a target.

    Map        every output element is an expression over input elements:   Map(lambda c, i, j: c.args[0](j, i))
    Reduce     output elements are reductions, in one or several stages:    sum, pooling, conv2d, softmax, layer_norm
    Nest       loops that hand over finished output elements:               attention
    Procedure  statements written out for what is neither:                  sort, cumsum, scatter
    (None)     a pass removes the operator before code is generated:        dropout

A lowering sees its call through a `Context`. Inputs are `View`s, functions from an index to a value, so that a
producer fused in front is nothing but another view, and a consumer fused behind another function of the result.
Schedules (targets/schedules) turn `Map` and `Reduce` into loops for a machine, and may replace the generic form by a
faster one, as for conv2d.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from attrs import frozen

from ..ir.index import Dim, Index, as_index
from ..ir.loops import Builder
from ..ir.op import Attrs
from ..ir.scalar import Buffer, Const, Operand, Value, apply, cast, compute_dtype, constant, inside, select
from ..ir.types import TensorType, Type, tensors_of


@frozen(eq=False)
class View:
    """A tensor as a function: `view(i, j)` is the value of one element, in the tensor's compute dtype."""

    type: TensorType
    read: Callable[..., Value]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.type.static_shape

    @property
    def dtype(self) -> str:
        """The dtype in memory; values that are read have `compute_dtype(dtype)`."""
        return self.type.dtype

    def __call__(self, *index: Dim) -> Value:
        """The element at `index`."""
        return self.read(*(as_index(i) for i in index))

    def padded(self, *index: Dim, fill: Operand = 0) -> Value:
        """The element at `index`, or `fill` where the index is outside of the tensor."""
        ok = inside(index, self.shape)
        if isinstance(ok, Const) and not ok.value:
            return (
                constant(fill, compute_dtype(self.dtype))
                if not isinstance(fill, Value | Index)
                else cast(fill, compute_dtype(self.dtype))
            )
        return select(ok, self(*index), fill)


@frozen(eq=False)
class Context:
    """A call as its lowering sees it: attributes, inputs (tuples flattened) and outputs."""

    attrs: Attrs
    args: tuple[View, ...]
    result: Type

    @property
    def outs(self) -> list[TensorType]:
        """The output tensors, a tuple flattened."""
        return tensors_of(self.result)

    @property
    def out(self) -> TensorType:
        """The only output."""
        (out,) = self.outs
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the only output."""
        return self.out.static_shape

    @property
    def dtype(self) -> str:
        """The dtype that the only output is computed in."""
        return compute_dtype(self.out.dtype)


@frozen(eq=False)
class Map:
    """`element(context, *index)` is the output element at `index`.

    With several outputs, `element` gets the number of the output first: `element(context, k, *index)`.
    """

    element: Callable[..., Operand]
    several: bool = False

    def view(self, context: Context, k: int = 0) -> View:
        """Output `k` as a view."""
        out = context.outs[k]
        dtype = compute_dtype(out.dtype)

        def read(*index: Index) -> Value:
            value = self.element(context, k, *index) if self.several else self.element(context, *index)
            return cast(value, dtype)

        return View(out, read)


@frozen(eq=False)
class Stage:
    """One reduction: `combine` over `element(row, r, *results of earlier stages)` for r in the box `extents`.

    Attributes:
        combine: "sum", "prod", "max", "min", "all", "any", "top" (max of floats that may overlook a NaN, for where a
            later stage meets it again), or "argmax" / "argmin" (the first place, as int64, in row-major order over
            `extents`).
        extents: the sizes of the reduction axes.
        element: `(row index, reduction index, *earlier results) -> value`.
        last: for argmax and argmin: give the last place instead of the first.

    """

    combine: str
    extents: tuple[int, ...]
    element: Callable[..., Operand]
    last: bool = False


@frozen(eq=False)
class Reduction:
    """Stages of reductions for every row, then the output elements.

    Attributes:
        rows: the shape of the space of rows; one set of stage results exists for each row.
        stages: the reductions, in order; each may use the results of the earlier ones.
        result: `(output index, *stage results) -> value`.
        spread: output axes that run over the elements of one row (softmax: its axis); the other output axes, in order,
            are the row index.
        shape: the shape that the output is seen under, where that is not its own: `spread` and `result` go by it. It
            has as many elements, in the same order.

    All stages go over boxes of one size.

    """

    rows: tuple[int, ...]
    stages: tuple[Stage, ...]
    result: Callable[..., Operand]
    spread: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None

    def row_of(self, index: Sequence[Index]) -> tuple[Index, ...]:
        """The row of an output element."""
        return tuple(i for axis, i in enumerate(index) if axis not in self.spread)


def total(
    rows: Sequence[int],
    combine: str,
    extents: Sequence[int],
    element: Callable[..., Operand],
    result: Callable[..., Operand] = lambda index, acc: acc,
    *,
    last: bool = False,
) -> Reduction:
    """A reduction of one stage whose rows are the output elements."""
    return Reduction(tuple(rows), (Stage(combine, tuple(extents), element, last),), result)


@frozen(eq=False)
class Reduce:
    """`make(context)` describes the reduction."""

    make: Callable[[Context], Reduction]


@frozen(eq=False)
class Procedure:
    """`write(context, builder, outputs)` writes statements that store every element of the output buffers.

    Scratch comes from `builder.alloc(..., scope="thread")` inside a parallel loop, or `scope="team"` at the outermost
    level with `builder.barrier()` between the stages. Loops over independent rows have kind "parallel"; statements
    outside of any parallel loop run on one thread.
    """

    write: Callable[[Context, Builder, Sequence[Buffer]], None]


@frozen(eq=False)
class Nest:
    """`write(context, builder, emit)` writes loops that call `emit(index, value)` for each finished output element.

    Inputs are read through the context's views and results go through `emit`, so producers and elementwise consumers
    can be fused, as with `Reduce`. Scratch and parallel loops are as in a `Procedure`.
    """

    write: Callable[[Context, Builder, Callable[[Sequence[Index], Value], None]], None]


Lowering: TypeAlias = Map | Reduce | Nest | Procedure


def broadcast_read(view: View, index: Sequence[Index]) -> Value:
    """Read `view` at an output index under NumPy's broadcasting rules."""
    tail = index[len(index) - len(view.shape) :]
    return view(*(as_index(0) if n == 1 else i for i, n in zip(tail, view.shape, strict=True)))


def pointwise(fn: Callable[..., Operand]) -> Map:
    """`fn(*values)` on elements of the inputs, broadcast against each other."""
    return Map(lambda c, *index: fn(*(broadcast_read(view, index) for view in c.args)))


def pointwise_attrs(fn: Callable[..., Operand]) -> Map:
    """`fn(attrs, *values)` on elements of the inputs, broadcast against each other."""
    return Map(lambda c, *index: fn(c.attrs, *(broadcast_read(view, index) for view in c.args)))


def unary(name: str) -> Map:
    """The scalar function `name` on every element."""
    return pointwise(lambda *values: apply(name, *values))
