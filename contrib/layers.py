"""What cuDNN, MIOpen and CLBlast ask of layers in NCHW (convolutions, pools, softmax), and why they cannot take some.

They describe these in the same words; the descriptions here know none of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from ..fuse.chain import Link
from ..fuse.library import Executable, Region
from ..ir.expr import Call
from ..ir.types import TensorType
from ..ops.window import span
from .calls import position, tensors, why_not_plain
from .vendor import Handle, Vendor, scalar

LIMIT = 2**31 - 1
"""Elements of a tensor: the libraries count in 32 bits."""

POOLS = ("nn.max_pool2d", "nn.avg_pool2d", "nn.global_max_pool2d", "nn.global_avg_pool2d")
"""The operators that `pool` describes."""

SOFTMAX = ("nn.softmax", "nn.log_softmax")

Shape = tuple[int, ...]


@frozen
class Convolution:
    """A 2-D convolution, as networks have it (a cross-correlation).

    Attributes:
        data: the shape (N, C, H, W).
        weights: the shape (O, C / groups, KH, KW).
        out: the shape (N, O, OH, OW).
        padding: zeros on both sides, (height, width).
        strides: between windows, (height, width).
        dilation: between the elements of a window, (height, width).
        groups: how many groups of channels there are.
        dtype: of all three.

    """

    data: Shape
    weights: Shape
    out: Shape
    padding: Shape
    strides: Shape
    dilation: Shape
    groups: int
    dtype: str

    def __str__(self) -> str:
        more = [f"{name} {value}" for name, value, usual in (
            ("padding", self.padding, (0, 0)), ("strides", self.strides, (1, 1)),
            ("dilation", self.dilation, (1, 1)), ("groups", self.groups, 1)) if value != usual]  # fmt: skip
        return ", ".join([f"{self.dtype} {self.data} * {self.weights}", *more])


def why_not_convolution(call: Call, dtypes: Sequence[str]) -> str | None:
    """Why an nn.conv2d is nothing for a library of NCHW convolutions, or None."""
    a = call.attrs
    if reason := why_not_plain(call, dtypes) or _why_not_counted(call):
        return reason
    layouts = a.data_layout, a.kernel_layout, a.out_layout or a.data_layout
    if layouts != ("NCHW", "OIHW", "NCHW"):
        return f"layouts are {', '.join(layouts)} (data, kernel, out), expected NCHW, OIHW, NCHW"
    return _why_not_even(a.padding)


def _why_not_even(padding: Sequence[int]) -> str | None:
    top, left, bottom, right = padding
    if (top, left) != (bottom, right):
        return f"padding is {tuple(padding)}, expected as much below as above, and as much right as left"
    return None


def _why_not_counted(call: Call) -> str | None:
    for type_ in tensors(call):
        if math.prod(type_.static_shape) > LIMIT:
            return f"{type_} has more than {LIMIT} elements"
    return None


def convolution(call: Call) -> Convolution:
    """The description of a convolution that `why_not_convolution` has nothing against."""
    data, weight, out = (type_.static_shape for type_ in tensors(call))
    a = call.attrs
    return Convolution(
        data, (out[1], data[1] // a.groups, *weight[2:]), out, tuple(a.padding[:2]), tuple(a.strides),
        tuple(a.dilation), a.groups, tensors(call)[0].dtype,
    )  # fmt: skip


@frozen
class Pool:
    """A pool over windows of height and width.

    Attributes:
        kind: "max", "average" (of all that the window covers, zeros of the padding too), or "average of data".
        data, out: the shapes (N, C, H, W).
        window, padding, strides: (height, width).
        dtype: of both.

    """

    kind: str
    data: Shape
    out: Shape
    window: Shape
    padding: Shape
    strides: Shape
    dtype: str


def why_not_pool(call: Call, dtypes: Sequence[str]) -> str | None:
    """Why a pool is nothing for a library of NCHW pools, or None."""
    a = call.attrs
    if reason := why_not_plain(call, dtypes) or _why_not_counted(call):
        return reason
    if (a.layout, a.get("out_layout") or a.layout) != ("NCHW", "NCHW"):
        return f"layout is {a.layout}, expected NCHW"
    if "pool_size" not in a:
        return None
    if tuple(a.dilation) != (1, 1):
        return f"dilation is {tuple(a.dilation)}, expected (1, 1)"
    if reason := _why_not_even(a.padding):
        return reason
    data, out = (type_.static_shape for type_ in tensors(call))
    for k in range(2):
        if a.padding[k] >= a.pool_size[k]:
            return f"padding {tuple(a.padding)} makes windows without elements: they reach over {a.pool_size[k]}"
        if (out[2 + k] - 1) * a.strides[k] + span(a.pool_size[k], 1) > data[2 + k] + 2 * a.padding[k]:
            return "ceil_mode makes windows that reach beyond the padding"
    return None


def pool(call: Call) -> Pool:
    """The description of a pool that `why_not_pool` has nothing against."""
    a, (data, out) = call.attrs, (type_.static_shape for type_ in tensors(call))
    dtype = tensors(call)[0].dtype
    if "pool_size" not in a:
        kind, none = "max" if "max" in str(call.op) else "average", (0, 0)
        return Pool(kind, data, out, data[2:], none, (1, 1), dtype)
    kind = "max" if "max" in str(call.op) else "average" if a.count_include_pad else "average of data"
    return Pool(kind, data, out, tuple(a.pool_size), tuple(a.padding[:2]), tuple(a.strides), dtype)


def why_not_softmax(call: Call, dtypes: Sequence[str]) -> str | None:
    """Why an nn.softmax or nn.log_softmax is nothing for such a library, or None."""
    return why_not_plain(call, dtypes) or _why_not_counted(call)


def softmax_shape(call: Call) -> Shape:
    """The data of a softmax as a tensor (N, C, H, 1) that is normalised along C."""
    data = tensors(call)[0]
    axis = call.attrs.axis % data.ndim
    shape = data.static_shape
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), 1


def caller(
    vendor: Vendor,
    name: str,
    region: Region,
    x: Handle,
    y: Handle,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
) -> Executable:
    """An executable that calls a function of a pool or a softmax: (handle, ..., 1, x, input, 0, y, output, ...).

    Args:
        vendor: the library.
        name: the function.
        region: a call of one operator, with one input.
        x: the descriptor of the input.
        y: that of the result.
        before: the function's other arguments, up to the first factor...
        after: ...and behind the result.

    """
    queue, place = region.queue, position(region, region.call.args[0])

    def run(inputs: Sequence[int], outputs: Sequence[int]) -> None:
        with vendor.session(queue) as handle:
            vendor.call(name, handle, *before, scalar(1.0), x, inputs[place], scalar(0.0), y, outputs[0], *after)

    return run


def addend(link: Link, axis: int) -> str | None:
    """What a step `add` or `bias_add` adds: "bias" (a vector along an axis), "residual" (a whole tensor), or None."""
    assert link.operand is not None
    value, operand = link.value.checked_type, link.operand.checked_type
    if not (
        isinstance(value, TensorType) and isinstance(operand, TensorType) and value.is_static and operand.is_static
    ):
        return None
    if operand.dtype != value.dtype or link.result.checked_type != value:
        return None
    whole, shape = value.static_shape, operand.static_shape
    if link.post_op.name == "bias_add":
        return "bias" if link.call.attrs.axis % value.ndim == axis % value.ndim else None
    full = (1,) * (len(whole) - len(shape)) + shape
    vector = tuple(n if k == axis % value.ndim else 1 for k, n in enumerate(whole))
    if full == vector:
        return "bias"
    return "residual" if shape == whole else None
