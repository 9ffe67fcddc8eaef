"""oneDNN on the CPU (`-libs=onednn`): convolutions and matrix products, called through its C API.

Every rule goes the same way:

    call of an operator -> Description     what to ask oneDNN for (`_convolution`, `_matmul`); needs no library
    Description.check() -> reason or None  asks oneDNN, where it can be loaded, whether it has a fast implementation
    Primitive(Description)                 prepared once for each module, constant weights reordered once
    Primitive.execute(arrays)              at each run

Each rule takes a bare operator, so fusion stops at its border. A description already has `post_ops` and `bias`: a rule
with a longer pattern has to fill them in, and to pass the operands on.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt
from attrs import frozen

from ...fuse.dataflow_pattern import Match, is_op, wildcard
from ...fuse.library import Executable, Library, Region, Rule
from ...ir.errors import RuntimeInputError
from ...ir.expr import Call, Constant
from ...ops import conv
from ...ops.layout import Layout
from ...ops.window import span, static
from ..calls import PRODUCTS, position, product, shown, tensors, why_not_plain
from . import ffi
from .describe import Convolution, Description, MatMul
from .ffi import DTYPES, OneDNNError
from .primitive import Primitive

PRIORITY = 25

Arrays: TypeAlias = Sequence[npt.NDArray[Any]]
Describe: TypeAlias = Callable[[Call, bool, int | None], Description]
"""Makes the description of a call, given whether its weights are constant, and the number of threads."""


def _order(layout: Layout, axes: str) -> tuple[int, ...]:
    """The positions in `axes` of a plain layout's axes, as they are stored."""
    return tuple(axes.index(axis) for axis in layout.axes)


def _convolution(call: Call, constant: bool, threads: int | None) -> Convolution:
    data, weight, _ = tensors(call)
    c, attributes = conv.describe(call.attrs, data, weight), call.attrs
    axes, kernel_axes, rank = "NC" + c.spatial, "OI" + c.spatial, len(c.spatial)
    src, weights, dst = (
        [static(sizes[axis]) for axis in names]
        for sizes, names in ((c.sizes, axes), (c.weights, kernel_axes), (c.out_sizes, axes))
    )
    return Convolution(
        src,
        weights,
        dst,
        strides=attributes.strides,
        dilation=[step - 1 for step in attributes.dilation],
        padding_l=attributes.padding[:rank],
        padding_r=attributes.padding[rank:],
        groups=attributes.groups,
        depthwise=c.multiplier != 0,
        src_order=_order(c.data, axes),
        weights_order=_order(c.kernel, kernel_axes),
        dst_order=_order(c.out, axes),
        dtype=data.dtype,
        constant_weights=constant,
        num_threads=threads,
    )


def _matmul(call: Call, constant: bool, threads: int | None) -> MatMul:
    p, dtype = product(call), tensors(call)[0].dtype
    return MatMul(
        p.a, p.b, p.out, p.trans_a, p.trans_b, dtype=dtype, constant_weights=constant, num_threads=threads
    )  # fmt: skip


def _why_not_convolution(call: Call) -> str | None:
    """Why the layouts or the padding of a convolution do not fit, or None."""
    data, weight, _ = tensors(call)
    c, padding, rank = conv.describe(call.attrs, data, weight), call.attrs.padding, len(call.attrs.strides)
    for name, layout in (("data_layout", c.data), ("kernel_layout", c.kernel), ("out_layout", c.out)):
        if any(part.block for part in layout.parts):  # oneDNN makes blocks itself
            return f"{name} {layout} has blocks, expected whole axes such as {layout.axes}"
    for k, axis in enumerate(c.spatial):
        # Of windows full of zeros there may be millions, and oneDNN then takes minutes to choose an implementation.
        room = static(c.sizes[axis]) + span(c.window[k], call.attrs.dilation[k])
        if max(padding[k], padding[rank + k]) > room:
            return f"padding {padding} exceeds {room}, the sum of data and window on axis {axis}"
    return None


def _why_not(call: Call, describe: Describe) -> str | None:
    """Why oneDNN should not take a call, or None. A build needs no library: oneDNN is asked only where it loads."""
    reason = why_not_plain(call, tuple(DTYPES))
    if reason is None and describe is _convolution:
        reason = _why_not_convolution(call)
    if reason is not None:
        return reason
    try:
        description = describe(call, isinstance(call.args[1], Constant), None)
    except OneDNNError as error:
        return error.problem
    if ffi.probe() is not None or (problem := description.check()) is None:
        return None
    return f"oneDNN {ffi.version()}: {problem}"


@frozen(eq=False)
class _Prepared:
    """The executable of a call.

    Attributes:
        call: the operator call, for errors.
        primitive: what runs it.
        src, weights: which inputs these are; None: the weights are constant and already in the primitive.

    """

    call: Call
    primitive: Primitive
    src: int
    weights: int | None

    def __call__(self, inputs: Arrays, outputs: Arrays) -> None:
        stored = self.primitive.stored
        src, dst = inputs[self.src].reshape(stored("src")), outputs[0].reshape(stored("dst"))
        weights = None if self.weights is None else inputs[self.weights].reshape(stored("weights"))
        try:
            self.primitive.execute(src, dst, weights)
        except OneDNNError as error:
            raise OneDNNError(error.call, error.problem, error.status, where=shown(self.call)) from error
        except RuntimeInputError as error:
            raise RuntimeInputError(f"{shown(self.call)}: {error}") from None


def _implement(region: Region, describe: Describe) -> Executable:
    """Prepare a region's call.

    Raises:
        OneDNNError: oneDNN cannot do it; where it could be asked when the graph was built, `_why_not` has said so.

    """
    call = region.call
    src, weights = (position(region, arg) for arg in call.args)
    constant = region.constants.get(weights)
    threads = region.threads if ffi.load().has_openmp else None
    try:
        primitive = Primitive(describe(call, constant is not None, threads))
        if constant is not None:
            primitive.set_weights(constant.reshape(primitive.stored("weights")))
    except OneDNNError as error:
        raise OneDNNError(error.call, error.problem, error.status, where=shown(call)) from error
    return _Prepared(call, primitive, src, weights if constant is None else None)


def _rule(op: str, describe: Describe) -> Rule:
    def check(match: Match) -> str | None:
        return _why_not(match.calls[0], describe)

    def implement(region: Region) -> Executable:
        return _implement(region, describe)

    pattern = is_op(op)(wildcard(), wildcard())
    return Rule(f"onednn.{op.removeprefix('nn.')}", pattern, check, implement=implement, priority=PRIORITY)


LIBRARY = Library(
    "onednn",
    targets=("cpu",),
    rules=[
        *(_rule(f"nn.conv{rank}d", _convolution) for rank in (1, 2, 3)),
        *(_rule(op, _matmul) for op in PRODUCTS),
    ],
    probe=ffi.probe,
)
