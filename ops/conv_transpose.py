"""Transposed convolutions (the gradient of a convolution with respect to its data) in one, two and three dimensions.

Input element x and window element k contribute to output element `x * stride + k * dilation - pad`. Output elements
are computed by gathering: for output y and window element k, the input element is `(y + pad - k * dilation) / stride`
where that is a whole number inside of the input. The window is walked backwards, so that everything that is divided
is a sum of positive terms.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, ParamSpec

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike
from ..ir.index import Dim, Index, as_dim, as_index
from ..ir.op import Attrs
from ..ir.scalar import Value, all_of, apply, cast, inside, select
from ..ir.types import TensorType, Type
from .conv import (
    CONV_DTYPES,
    Convolution,
    channel_block,
    check_conv_attrs,
    check_window,
    conv_call,
    conv_layouts,
)
from .conv_cases import conv_transpose_cases
from .lowering import Context, Reduce, Reduction, total
from .spec import Array, Fusion, operator, tensor
from .window import (
    IntOrInts,
    accumulator,
    divided,
    full_blocks,
    not_negative,
    numeric,
    out_dtype_of,
    shown,
    span,
    static,
)

P = ParamSpec("P")


def _check_attrs(attributes: Attrs, rank: int) -> None:
    check_conv_attrs(attributes, rank)
    extra = not_negative(attributes.output_padding, "output_padding")
    for more, stride, dilation in zip(extra, attributes.strides, attributes.dilation, strict=True):
        if more >= max(stride, dilation):
            raise TypeInferenceError(
                f"output_padding must be smaller than stride or dilation, got {extra} with strides "
                f"{attributes.strides} and dilation {attributes.dilation}"
            )


def describe(attributes: Attrs, data_type: Type, weight_type: Type) -> Convolution:
    """Check a transposed convolution; raises TypeInferenceError."""
    spatial, data, kernel, out = conv_layouts(attributes)
    rank = len(spatial)
    _check_attrs(attributes, rank)
    data_tensor, weight = numeric(tensor(data_type, "data"), "data"), numeric(tensor(weight_type, "weight"), "weight")
    sizes = data.unpack_shape(data_tensor.shape, "data")
    weights = kernel.unpack_shape(weight.shape, "weight")
    check_window(attributes, weights, spatial, weight)
    divided(sizes["C"], attributes.groups, "the number of input channels")
    channels = as_dim(weights["O"] * attributes.groups)
    if weights["I"] != sizes["C"]:
        raise TypeInferenceError(
            f"axis I of kernel_layout {kernel} must be {sizes['C']}, the number of input channels, "
            f"got {weights['I']} in weight {shown(weight.shape)}"
        )
    if attributes.channels is not None and channels != attributes.channels:
        raise TypeInferenceError(
            f"channels is {attributes.channels}, but weight {shown(weight.shape)} with groups={attributes.groups} "
            f"gives {channels}"
        )
    out_sizes: dict[str, Dim] = {"N": sizes["N"], "C": channels}
    for k, axis in enumerate(spatial):
        reach = span(static(weights[axis]), attributes.dilation[k]) + attributes.output_padding[k]
        pads = attributes.padding[k] + attributes.padding[rank + k]
        size = as_dim((sizes[axis] - 1) * attributes.strides[k] + reach - pads)
        if isinstance(size, int) and size < 0:
            raise TypeInferenceError(f"axis {axis} of the result would have {size} elements: {pads} of padding cut off")
        out_sizes[axis] = size
    return Convolution(spatial, data, kernel, out, sizes, weights, 0, channels, out_sizes)


def _infer(attributes: Attrs, data: Type, weight: Type) -> Type:
    conv = describe(attributes, data, weight)
    shape = full_blocks(conv.out, conv.out_sizes, "out_layout")
    return TensorType(shape, out_dtype_of(attributes, tensor(data)))


def _complete(attributes: Attrs, data: Type | None, weight: Type | None) -> list[Type | None]:
    """The weight (input channels, channels per group, window) from `channels` and `kernel_size`."""
    if weight is None and data is not None and attributes.channels is not None and attributes.kernel_size is not None:
        spatial, data_layout, kernel, _ = conv_layouts(attributes)
        _check_attrs(attributes, len(spatial))
        sizes: dict[str, Dim] = dict(zip(spatial, attributes.kernel_size, strict=True))
        sizes["I"] = data_layout.unpack_shape(tensor(data, "data").shape, "data")["C"]
        sizes["O"] = attributes.channels // attributes.groups
        weight = TensorType(full_blocks(kernel, sizes, "kernel_layout"), tensor(data).dtype)
    return [data, weight]


def _reduction(c: Context) -> Reduction:
    data, weight = c.args
    conv = describe(c.attrs, data.type, weight.type)
    groups, strides, dilation = c.attrs.groups, c.attrs.strides, c.attrs.dilation
    depth, width = static(conv.sizes["C"]) // groups, static(conv.weights["O"])
    extents = [static(conv.sizes[axis]) for axis in conv.spatial]
    block = channel_block(conv.data, "C", depth)

    def element(row: Sequence[Index], r: Sequence[Index]) -> Value:
        out = conv.out.unpack(row)
        group = out["C"] // width if groups > 1 else as_index(0)
        i = group * depth + r[0] * block + r[1]
        taps = [n - 1 - k for n, k in zip(conv.window, r[2:], strict=True)]
        spread = [out[axis] + c.attrs.padding[k] - taps[k] * dilation[k] for k, axis in enumerate(conv.spatial)]
        places = [t // s for t, s in zip(spread, strides, strict=True)]
        whole = [apply("eq", t % s, 0) for t, s in zip(spread, strides, strict=True)]
        at = dict(zip(conv.spatial, places, strict=True), N=out["N"], C=i)
        tap = dict(zip(conv.spatial, taps, strict=True), I=i, O=out["C"] % width if groups > 1 else out["C"])
        value = select(all_of([*whole, inside(places, extents)]), data(*conv.data.pack(at)), 0)
        return cast(value, c.dtype) * cast(weight(*conv.kernel.pack(tap)), c.dtype)

    return total(c.shape, "sum", (depth // block, block, *conv.window), element)


def _flops(attributes: Attrs, data: Type, weight: Type) -> int:
    """Every input element meets every tap once (cut-off ones too, as padding counts in a convolution)."""
    conv = describe(attributes, data, weight)
    pairs = math.prod(tensor(data).static_shape) * math.prod(conv.window) * static(conv.weights["O"])
    return 2 * pairs


def _reference(attributes: Attrs, data: Array, weight: Array) -> Array:
    """Every window element adds its product, spread out by the strides, to the result; then the padding is cut off."""
    spatial, data_layout, kernel, out = conv_layouts(attributes)
    rank, groups = len(spatial), attributes.groups
    dtype = accumulator(attributes, data)
    x = data_layout.to_plain(data, "NC" + spatial).astype(dtype)
    w = kernel.to_plain(weight, spatial + "IO").astype(dtype)
    steps = list(zip(x.shape[2:], w.shape[:rank], attributes.strides, attributes.dilation, strict=True))
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in steps]
    full = [n + more for n, more in zip(reach, attributes.output_padding, strict=True)]
    width = w.shape[-1]
    result = np.zeros((x.shape[0], width * groups, *full), dtype)
    by_group: Any = zip(np.split(x, groups, 1), np.split(w, groups, rank), strict=True)
    for g, (part, kernels) in enumerate(by_group):
        channels = slice(g * width, (g + 1) * width)
        for tap in product(*(range(k) for k in w.shape[:rank])):
            at = [slice(t * d, t * d + n * s, s) for t, (n, _, s, d) in zip(tap, steps, strict=True)]
            result[(slice(None), channels, *at)] += np.einsum("ni...,io->no...", part, kernels[tap])
    sides = zip(attributes.padding[:rank], attributes.padding[rank:], full, strict=True)
    result = result[:, :, *(slice(before, n - after) for before, after, n in sides)]
    return out.from_plain(result, "NC" + spatial)


def _transposed(name: str, rank: int) -> Callable[[Callable[P, Expr]], Callable[P, Expr]]:
    """Declare the transposed convolution of `rank` spatial axes."""
    return operator(
        name,
        Fusion.OUT_ELEMWISE_FUSABLE,
        _infer,
        _reference,
        Reduce(_reduction),
        cases=conv_transpose_cases(rank),
        dtypes=CONV_DTYPES,
        complete=_complete,
        flops=_flops,
    )


@_transposed("nn.conv1d_transpose", 1)
def conv1d_transpose(
    data: ExprLike,
    weight: ExprLike,
    strides: IntOrInts = (1,),
    padding: IntOrInts = (0,),
    dilation: IntOrInts = (1,),
    groups: int = 1,
    channels: int | None = None,
    kernel_size: IntOrInts | None = None,
    data_layout: str = "NCW",
    kernel_layout: str = "IOW",
    out_layout: str = "",
    output_padding: IntOrInts = (0,),
    out_dtype: str = "",
) -> Expr:
    """1-D transposed convolution: each axis has (size - 1) * stride + window - padding + output_padding elements.

    Args:
        data: (N, C, W) in the default layout.
        weight: (C, channels / groups, window) in the default layout.
        strides: distance between the windows that input elements spread into.
        padding: elements cut off the result: one number, or (left, right).
        dilation: distance between the elements of a window.
        groups: number of groups of channels; a group of outputs sees only its group of inputs.
        channels: number of output channels; with `kernel_size` it decides the type of an untyped weight.
        kernel_size: extent of the window.
        data_layout: layout of the data, e.g. NCW, NWC or NCW16c.
        kernel_layout: layout of the weight; I are input channels (data), O output channels (result).
        out_layout: layout of the result; empty: that of the data.
        output_padding: elements added at the end of each axis, fewer than the stride (or the dilation).
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    """
    return conv_call("nn.conv1d_transpose", 1, locals())


@_transposed("nn.conv2d_transpose", 2)
def conv2d_transpose(
    data: ExprLike,
    weight: ExprLike,
    strides: IntOrInts = (1, 1),
    padding: IntOrInts = (0, 0),
    dilation: IntOrInts = (1, 1),
    groups: int = 1,
    channels: int | None = None,
    kernel_size: IntOrInts | None = None,
    data_layout: str = "NCHW",
    kernel_layout: str = "IOHW",
    out_layout: str = "",
    output_padding: IntOrInts = (0, 0),
    out_dtype: str = "",
) -> Expr:
    """2-D transposed convolution: each axis has (size - 1) * stride + window - padding + output_padding elements.

    Args:
        data: (N, C, H, W) in the default layout.
        weight: (C, channels / groups, *window) in the default layout.
        strides: distance between the windows that input elements spread into.
        padding: elements cut off the result: one number, one for each axis, or (top, left, bottom, right).
        dilation: distance between the elements of a window.
        groups: number of groups of channels; a group of outputs sees only its group of inputs.
        channels: number of output channels; with `kernel_size` it decides the type of an untyped weight.
        kernel_size: extents of the window.
        data_layout: layout of the data, e.g. NCHW, NHWC or NCHW16c.
        kernel_layout: layout of the weight; I are input channels (data), O output channels (result).
        out_layout: layout of the result; empty: that of the data.
        output_padding: elements added at the end of each axis, fewer than the stride (or the dilation).
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    """
    return conv_call("nn.conv2d_transpose", 2, locals())


@_transposed("nn.conv3d_transpose", 3)
def conv3d_transpose(
    data: ExprLike,
    weight: ExprLike,
    strides: IntOrInts = (1, 1, 1),
    padding: IntOrInts = (0, 0, 0),
    dilation: IntOrInts = (1, 1, 1),
    groups: int = 1,
    channels: int | None = None,
    kernel_size: IntOrInts | None = None,
    data_layout: str = "NCDHW",
    kernel_layout: str = "IODHW",
    out_layout: str = "",
    output_padding: IntOrInts = (0, 0, 0),
    out_dtype: str = "",
) -> Expr:
    """3-D transposed convolution: each axis has (size - 1) * stride + window - padding + output_padding elements.

    Args:
        data: (N, C, D, H, W) in the default layout.
        weight: (C, channels / groups, *window) in the default layout.
        strides: distance between the windows that input elements spread into.
        padding: elements cut off the result: one number, one for each axis, or (front, top, left, back, bottom, right).
        dilation: distance between the elements of a window.
        groups: number of groups of channels; a group of outputs sees only its group of inputs.
        channels: number of output channels; with `kernel_size` it decides the type of an untyped weight.
        kernel_size: extents of the window.
        data_layout: layout of the data, e.g. NCDHW, NDHWC or NCDHW16c.
        kernel_layout: layout of the weight; I are input channels (data), O output channels (result).
        out_layout: layout of the result; empty: that of the data.
        output_padding: elements added at the end of each axis, fewer than the stride (or the dilation).
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    """
    return conv_call("nn.conv3d_transpose", 3, locals())
