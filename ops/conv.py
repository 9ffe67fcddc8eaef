"""Convolutions in one, two and three dimensions: any layout, grouped, dilated, with accumulation in another dtype.

One description serves every rank and layout. A logical output element (n, o, y...) is

    sum over i, k...  of  data[n, group(o) * I + i, y * stride + k * dilation - pad, ...] * weight[o, i, k, ...]

and the layouts only say where logical elements lie in memory. With `groups`, output channels fall into groups that
see disjoint input channels; a depthwise convolution has as many groups as input channels. Its weight may be given
either as (channels, 1, k...) or, as Relay allows, as (input channels, multiplier, k...), in the letters of the kernel
layout; output channel `c * multiplier + m` then uses `weight[c, m]`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import numpy as np
from attrs import frozen
from numpy.lib.stride_tricks import sliding_window_view

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.op import Attrs
from ..ir.scalar import Value, cast, inside, select
from ..ir.types import TensorType, Type
from .conv_cases import conv_cases
from .layout import Layout
from .lowering import Context, Reduce, Reduction, total
from .spec import Array, Fusion, ints, operator, tensor
from .window import (
    IntOrInts,
    accumulator,
    divided,
    full_blocks,
    not_negative,
    numeric,
    out_dtype_of,
    pad_tuple,
    position,
    positive,
    shown,
    span,
    spatial_axes,
    static,
    tensor_layout,
    window_count,
)

P = ParamSpec("P")
CONV_DTYPES = ("float32", "float64", "float16", "int32")


@frozen
class Convolution:
    """A convolution whose attributes and types have been checked against each other.

    Attributes:
        spatial: the spatial axes, e.g. "HW".
        data, kernel, out: the layouts.
        sizes: the extent of each axis of the data.
        weights: the extent of each axis of the weight; the spatial ones are plain ints.
        multiplier: output channels per input channel if the weight has the depthwise form (input channels, multiplier),
            else 0.
        channels: the number of output channels.
        out_sizes: the extent of each axis of the result.

    """

    spatial: str
    data: Layout
    kernel: Layout
    out: Layout
    sizes: dict[str, Dim]
    weights: dict[str, Dim]
    multiplier: Dim
    channels: Dim
    out_sizes: dict[str, Dim]

    @property
    def window(self) -> tuple[int, ...]:
        """The spatial extents of the weight."""
        return tuple(static(self.weights[axis]) for axis in self.spatial)


def conv_layouts(attributes: Attrs) -> tuple[str, Layout, Layout, Layout]:
    """The spatial axes and the layouts of data, weight and result of a (transposed) convolution."""
    spatial = spatial_axes(len(attributes.strides))
    data = tensor_layout(attributes.data_layout, "NC" + spatial, "data_layout")
    kernel = tensor_layout(attributes.kernel_layout, "OI" + spatial, "kernel_layout")
    return spatial, data, kernel, tensor_layout(attributes.out_layout or data, "NC" + spatial, "out_layout")


def check_conv_attrs(attributes: Attrs, rank: int) -> None:
    """Raise TypeInferenceError for attributes of a (transposed) convolution that no tensors could fit."""
    positive(attributes.strides, rank, "strides")
    positive(attributes.dilation, rank, "dilation")
    positive((attributes.groups,), 1, "groups")
    not_negative(attributes.padding, "padding")
    if attributes.kernel_size is not None:
        positive(attributes.kernel_size, rank, "kernel_size")
    if attributes.channels is not None:
        divided(positive((attributes.channels,), 1, "channels")[0], attributes.groups, "channels")


def check_window(attributes: Attrs, weights: dict[str, Dim], spatial: str, type_: TensorType) -> None:
    """Raise TypeInferenceError if the weight's spatial extents are symbolic, zero, or not `kernel_size`."""
    found = tuple(weights[axis] for axis in spatial)
    if not all(isinstance(d, int) and d >= 1 for d in found):
        raise TypeInferenceError(f"the window of the weight must have known sizes of at least 1, got {type_}")
    if attributes.kernel_size is not None and found != attributes.kernel_size:
        raise TypeInferenceError(
            f"kernel_size is {attributes.kernel_size}, but the weight {shown(type_.shape)} in layout "
            f"{attributes.kernel_layout} has {found}"
        )


def describe(attributes: Attrs, data_type: Type, weight_type: Type) -> Convolution:
    """Check a convolution.

    Raises:
        TypeInferenceError: attributes and types do not fit each other.

    """
    spatial, data, kernel, out = conv_layouts(attributes)
    check_conv_attrs(attributes, len(spatial))
    data_tensor, weight = numeric(tensor(data_type, "data"), "data"), numeric(tensor(weight_type, "weight"), "weight")
    sizes = data.unpack_shape(data_tensor.shape, "data")
    weights = kernel.unpack_shape(weight.shape, "weight")
    check_window(attributes, weights, spatial, weight)
    multiplier, channels = _channels(attributes, sizes["C"], weights, weight)
    out_sizes: dict[str, Dim] = {"N": sizes["N"], "C": channels}
    rank = len(spatial)
    for k, axis in enumerate(spatial):
        pads = attributes.padding[k] + attributes.padding[rank + k]
        reach = span(static(weights[axis]), attributes.dilation[k])
        out_sizes[axis] = window_count(sizes[axis], pads, reach, attributes.strides[k], axis)
    return Convolution(spatial, data, kernel, out, sizes, weights, multiplier, channels, out_sizes)


def _channels(attributes: Attrs, inputs: Dim, weights: dict[str, Dim], weight: TensorType) -> tuple[Dim, Dim]:
    """The depthwise multiplier (0: the plain form) and the number of output channels."""
    groups = attributes.groups
    per_group = divided(inputs, groups, "the number of input channels")
    where = f"for {inputs} input channels and groups={groups}, got weight {shown(weight.shape)}"
    multiplier: Dim = 0
    channels = weights["O"]
    if groups > 1 and weights["O"] == groups == inputs and weights["I"] != 1:
        multiplier, channels = weights["I"], weights["I"] * groups
    elif weights["I"] != per_group:
        raise TypeInferenceError(
            f"axis I of kernel_layout {attributes.kernel_layout} must be {per_group} {where}: {weights['I']}"
        )
    divided(channels, groups, "the number of output channels")
    if attributes.channels is not None and channels != attributes.channels:
        raise TypeInferenceError(f"channels is {attributes.channels}, but the weight gives {channels} {where}")
    return multiplier, channels


def _infer(attributes: Attrs, data: Type, weight: Type) -> Type:
    conv = describe(attributes, data, weight)
    shape = full_blocks(conv.out, conv.out_sizes, "out_layout")
    return TensorType(shape, out_dtype_of(attributes, tensor(data)))


def _complete(attributes: Attrs, data: Type | None, weight: Type | None) -> list[Type | None]:
    """The weight, in the plain form (channels, input channels per group, window), from `channels` and `kernel_size`."""
    if weight is None and data is not None and attributes.channels is not None and attributes.kernel_size is not None:
        spatial, data_layout, kernel, _ = conv_layouts(attributes)
        check_conv_attrs(attributes, len(spatial))
        inputs = data_layout.unpack_shape(tensor(data, "data").shape, "data")["C"]
        sizes: dict[str, Dim] = dict(zip(spatial, attributes.kernel_size, strict=True))
        sizes["O"] = attributes.channels
        sizes["I"] = divided(inputs, attributes.groups, "the number of input channels")
        weight = TensorType(full_blocks(kernel, sizes, "kernel_layout"), tensor(data).dtype)
    return [data, weight]


def channel_block(layout: Layout, axis: str, extent: int) -> int:
    """The block that a loop over an axis is split by, so that indices of a packed tensor stay plain sums."""
    block = layout.block(axis)
    return block if extent % block == 0 else 1


def _reduction(c: Context) -> Reduction:
    data, weight = c.args
    conv = describe(c.attrs, data.type, weight.type)
    channels, inputs, multiplier = static(conv.channels), static(conv.sizes["C"]), static(conv.multiplier)
    extents = [static(conv.sizes[axis]) for axis in conv.spatial]
    groups = c.attrs.groups
    depth = inputs // groups
    block = channel_block(conv.data, "C", depth)

    def element(row: Sequence[Index], r: Sequence[Index]) -> Value:
        out = conv.out.unpack(row)
        o, i, window = out["C"], r[0] * block + r[1], r[2:]
        group = o // (channels // groups) if groups > 1 else as_index(0)
        places = [
            position(out[axis], window[k], c.attrs.strides[k], c.attrs.dilation[k], c.attrs.padding[k])
            for k, axis in enumerate(conv.spatial)
        ]
        at = dict(zip(conv.spatial, places, strict=True), N=out["N"], C=group * depth + i)
        tap = dict(zip(conv.spatial, window, strict=True))
        tap |= {"O": group, "I": o % multiplier} if multiplier else {"O": o, "I": i}
        value = select(inside(places, extents), data(*conv.data.pack(at)), 0)
        return cast(value, c.dtype) * cast(weight(*conv.kernel.pack(tap)), c.dtype)

    return total(c.shape, "sum", (depth // block, block, *conv.window), element)


def _reference(attributes: Attrs, data: Array, weight: Array) -> Array:
    """Windows of the padded data (as views), contracted with the weight group by group."""
    spatial, data_layout, kernel, out = conv_layouts(attributes)
    rank, groups = len(spatial), attributes.groups
    dtype = accumulator(attributes, data)
    x = data_layout.to_plain(data, "NC" + spatial).astype(dtype)
    w = kernel.to_plain(weight, "OI" + spatial).astype(dtype)
    if groups > 1 and w.shape[1] * groups != x.shape[1]:
        w = w.reshape(-1, 1, *w.shape[2:])
    sides = zip(attributes.padding[:rank], attributes.padding[rank:], strict=True)
    x = np.pad(x, [(0, 0), (0, 0), *sides])
    spans = tuple((k - 1) * d + 1 for k, d in zip(w.shape[2:], attributes.dilation, strict=True))
    windows = sliding_window_view(x, spans, tuple(range(2, 2 + rank)))
    steps = [slice(None, None, s) for s in (*attributes.strides, *attributes.dilation)]
    windows = windows[(slice(None), slice(None), *steps)]
    taps = tuple(range(1 + rank + 1, 2 + 2 * rank))
    by_group: Any = zip(np.split(windows, groups, 1), np.split(w, groups, 0), strict=True)
    parts = [np.tensordot(part, kernels, ((1, *taps), tuple(range(1, 2 + rank)))) for part, kernels in by_group]
    result = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return out.from_plain(result, "NC" + spatial)


def conv_call(name: str, rank: int, arguments: Mapping[str, Any]) -> Expr:
    """A call of a (transposed) convolution, with a tuple entry for each axis whatever short form was given.

    Args:
        name: the operator.
        rank: the number of spatial axes.
        arguments: the builder's arguments by name, data and weight included.

    """
    given = dict(arguments)
    inputs = [given.pop("data"), given.pop("weight")]
    given["padding"] = pad_tuple(given["padding"], rank)
    for key in {"strides", "dilation", "output_padding", "kernel_size"} & given.keys():
        if given[key] is not None:
            given[key] = ints(given[key], rank, key)
    for key in ("groups", "channels"):
        if given[key] is not None:
            given[key] = int(given[key])
    return call(name, inputs, **given)


def _convolution(name: str, rank: int) -> Callable[[Callable[P, Expr]], Callable[P, Expr]]:
    """Declare the convolution of `rank` spatial axes."""
    return operator(
        name,
        Fusion.OUT_ELEMWISE_FUSABLE,
        _infer,
        _reference,
        Reduce(_reduction),
        cases=conv_cases(rank),
        dtypes=CONV_DTYPES,
        complete=_complete,
    )


@_convolution("nn.conv1d", 1)
def conv1d(
    data: ExprLike,
    weight: ExprLike,
    strides: IntOrInts = 1,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    channels: int | None = None,
    kernel_size: IntOrInts | None = None,
    data_layout: str = "NCW",
    kernel_layout: str = "OIW",
    out_layout: str = "",
    out_dtype: str = "",
) -> Expr:
    """1-D convolution.

    Args:
        data: (N, C, W) in the default layout.
        weight: (channels, C / groups, window), or for depthwise convolutions (C, channels / C, window).
        strides: distance between windows.
        padding: zeros around the data: one number, or (left, right).
        dilation: distance between the elements of a window.
        groups: number of groups of channels; a group of outputs sees only its group of inputs.
        channels: number of output channels; with `kernel_size` it decides the type of an untyped weight.
        kernel_size: extent of the window.
        data_layout: layout of the data, e.g. NCW, NWC or NCW16c.
        kernel_layout: layout of the weight; O are output channels, I input channels.
        out_layout: layout of the result; empty: that of the data.
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    """
    return conv_call("nn.conv1d", 1, locals())


@_convolution("nn.conv2d", 2)
def conv2d(
    data: ExprLike,
    weight: ExprLike,
    strides: IntOrInts = (1, 1),
    padding: IntOrInts = (0, 0),
    dilation: IntOrInts = (1, 1),
    groups: int = 1,
    channels: int | None = None,
    kernel_size: IntOrInts | None = None,
    data_layout: str = "NCHW",
    kernel_layout: str = "OIHW",
    out_layout: str = "",
    out_dtype: str = "",
) -> Expr:
    """2-D convolution.

    Args:
        data: (N, C, H, W) in the default layout.
        weight: (channels, C / groups, *window), or for depthwise convolutions (C, channels / C, *window).
        strides: distance between windows.
        padding: zeros around the data: one number, one for each axis, or (top, left, bottom, right).
        dilation: distance between the elements of a window.
        groups: number of groups of channels; a group of outputs sees only its group of inputs.
        channels: number of output channels; with `kernel_size` it decides the type of an untyped weight.
        kernel_size: extents of the window.
        data_layout: layout of the data, e.g. NCHW, NHWC or NCHW16c.
        kernel_layout: layout of the weight; O are output channels, I input channels.
        out_layout: layout of the result; empty: that of the data.
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    """
    return conv_call("nn.conv2d", 2, locals())


@_convolution("nn.conv3d", 3)
def conv3d(
    data: ExprLike,
    weight: ExprLike,
    strides: IntOrInts = (1, 1, 1),
    padding: IntOrInts = (0, 0, 0),
    dilation: IntOrInts = (1, 1, 1),
    groups: int = 1,
    channels: int | None = None,
    kernel_size: IntOrInts | None = None,
    data_layout: str = "NCDHW",
    kernel_layout: str = "OIDHW",
    out_layout: str = "",
    out_dtype: str = "",
) -> Expr:
    """3-D convolution.

    Args:
        data: (N, C, D, H, W) in the default layout.
        weight: (channels, C / groups, *window), or for depthwise convolutions (C, channels / C, *window).
        strides: distance between windows.
        padding: zeros around the data: one number, one for each axis, or (front, top, left, back, bottom, right).
        dilation: distance between the elements of a window.
        groups: number of groups of channels; a group of outputs sees only its group of inputs.
        channels: number of output channels; with `kernel_size` it decides the type of an untyped weight.
        kernel_size: extents of the window.
        data_layout: layout of the data, e.g. NCDHW, NDHWC or NCDHW16c.
        kernel_layout: layout of the weight; O are output channels, I input channels.
        out_layout: layout of the result; empty: that of the data.
        out_dtype: dtype of the sums and of the result; empty: that of the data.

    """
    return conv_call("nn.conv3d", 3, locals())
