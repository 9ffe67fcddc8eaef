"""Convolutions and transposed convolutions for oneDNN."""

import math
from collections.abc import Sequence
from typing import ClassVar

import attrs

from . import ffi
from .describe import Description, Tensor, operand_problem, shape_of
from .ffi import BLOCKED, Api, Handle, dims_t


@attrs.frozen
class Convolution(Description):
    """A 1-D, 2-D or 3-D convolution (cross-correlation, as in neural networks).

    Shapes are logical: data (N, C, *spatial), weights (O, I / groups, *kernel). A caller whose arrays are stored
    otherwise gives the axes in stored order, outermost first: `src_order=(0, 2, 3, 1)` for NHWC, `weights_order=(2, 3,
    1, 0)` for HWIO; the arrays then have that shape. With `src_block` or `dst_block` the channels lie in blocks of so
    many behind the other axes, as in NCHW16c. `dilation` is zero-based (0: dense). Bias has shape (O,).

    With `depthwise` the groups are the input channels and the weights have the shape (C, multiplier, *kernel): output
    channel `c * multiplier + m` is input channel c convolved with weights[c, m].
    """

    src_shape: tuple[int, ...] = attrs.field(converter=shape_of)
    weights_shape: tuple[int, ...] = attrs.field(converter=shape_of)
    dst_shape: tuple[int, ...] = attrs.field(converter=shape_of)
    strides: tuple[int, ...] = attrs.field(converter=shape_of)
    dilation: tuple[int, ...] = attrs.field(converter=shape_of)
    padding_l: tuple[int, ...] = attrs.field(converter=shape_of)
    padding_r: tuple[int, ...] = attrs.field(converter=shape_of)
    groups: int = 1
    depthwise: bool = False
    src_order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(shape_of))
    weights_order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(shape_of))
    dst_order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(shape_of))
    src_block: int = 0
    dst_block: int = 0

    _CREATE: ClassVar[str] = "dnnl_convolution_forward_primitive_desc_create"
    _ALGORITHM: ClassVar[int] = ffi.DIRECT

    def _problem(self) -> str | None:
        rank = len(self.src_shape)
        spatial = (self.strides, self.dilation, self.padding_l, self._padding_r)
        if rank not in (3, 4, 5) or {len(self.weights_shape), len(self.dst_shape)} != {rank}:
            return "src, weights and dst must have the same rank, 3 to 5"
        if any(len(values) != rank - 2 for values in spatial):
            return f"strides, dilation and padding must have {rank - 2} values each"
        if min(*self.src_shape, *self.weights_shape, *self.strides, self.groups) < 1 or min(map(min, spatial)) < 0:
            return "dimensions, strides and groups must be at least 1, dilation and padding at least 0"
        orders = (self.src_order, self.weights_order, self.dst_order)
        if any(order is not None and sorted(order) != [*range(rank)] for order in orders):
            return f"an order must hold each axis from 0 to {rank - 1} once"
        if problem := self._channel_problem() or self._block_problem():
            return problem
        out = self._windows()
        expected = (self.src_shape[0], self._filters, *out)
        if self.dst_shape != expected or min(out) < 1:
            return f"dst_shape is {self.dst_shape}, expected {expected}"
        return operand_problem(self.post_ops, self.dst_shape)

    def _windows(self) -> list[int]:
        """The spatial extents of the result."""
        spatial = (self.strides, self.dilation, self.padding_l, self.padding_r)
        sizes = zip(self.src_shape[2:], self.weights_shape[2:], *spatial, strict=True)
        return [(n + low + high - (k - 1) * (gap + 1) - 1) // step + 1 for n, k, step, gap, low, high in sizes]

    @property
    def _padding_r(self) -> tuple[int, ...]:
        """The padding that must not be negative."""
        return self.padding_r

    def _block_problem(self) -> str | None:
        for channels, block in ((self.src_shape[1], self.src_block), (self.dst_shape[1], self.dst_block)):
            if block and ((len(self.src_shape), block) not in BLOCKED or channels % block):
                return f"{channels} channels in blocks of {block}: expected full blocks of 8 or 16"
        return None

    def _sizes(self) -> dict[str, int]:
        extents = zip(self.src_shape[2:], self.padding_l, self.padding_r, self.strides, strict=True)
        padded = [max(n + low + high, step) for n, low, high, step in extents]
        return {**super()._sizes(), "padded src": math.prod((*self.src_shape[:2], *padded))}

    def _channel_problem(self) -> str | None:
        channels, groups, filters = self.src_shape[1], self.groups, self._filters
        first, second = self.weights_shape[:2]
        if self.depthwise and not first == groups == channels:
            return f"depthwise weights for {first} channels and {groups} groups do not fit {channels} channels"
        if not self.depthwise and (channels != second * groups or filters % groups):
            return f"{groups} groups of {second} channels do not fit {channels} channels and {filters} filters"
        return None

    @property
    def _filters(self) -> int:
        """The number of output channels."""
        return math.prod(self.weights_shape[:2]) if self.depthwise else self.weights_shape[0]

    def _weights(self) -> Tensor:
        """The weights; with groups their axes are (groups, O / groups, I / groups, *kernel) to oneDNN."""
        dims, order = self.weights_shape, self.weights_order or tuple(range(len(self.weights_shape)))
        stored = tuple(dims[axis] for axis in order)
        if self.groups > 1 or self.depthwise:
            first, second, *kernel = dims
            split = {0: (0,), 1: (1, 2)} if self.depthwise else {0: (0, 1)}
            dims = (first, second, 1, *kernel) if self.depthwise else (self.groups, first // self.groups, *dims[1:])
            order = tuple(new for axis in order for new in split.get(axis, (axis + 1,)))
        return Tensor("weights", ffi.WEIGHTS, dims, order, stored, self.dtype, open=True)

    def tensors(self) -> dict[str, Tensor]:
        """See `Description.tensors`."""
        weights = self._weights()
        src = self._feature("src", ffi.SRC, self.src_shape, self.src_order, self.src_block)
        dst = self._feature("dst", ffi.DST, self.dst_shape, self.dst_order, self.dst_block)
        tensors = {"weights": weights, "src": src, "dst": dst}
        if self.bias:
            tensors["bias"] = Tensor("bias", ffi.BIAS, (self._filters,), (0,), (self._filters,), self.dtype, open=False)
        return tensors

    def _feature(self, name: str, arg: int, dims: tuple[int, ...], order: Sequence[int] | None, block: int) -> Tensor:
        """The data or the result."""
        if block:
            stored = (dims[0], dims[1] // block, *dims[2:], block)
            # Blocks of 16 fill a vector of AVX-512, and are used as they are. Of blocks of 8 that is for oneDNN to say.
            return Tensor(name, arg, dims, (*range(len(dims)), 1), stored, self.dtype, open=block != 16)
        order = tuple(order or range(len(dims)))
        return Tensor(name, arg, dims, order, tuple(dims[axis] for axis in order), self.dtype, open=True)

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        tensors = (descriptors["src"], descriptors["weights"], descriptors.get("bias"), descriptors["dst"])
        window = (dims_t(values) for values in (self.strides, self.dilation, self.padding_l, self.padding_r))
        arguments = (api.engine, ffi.FORWARD_INFERENCE, self._ALGORITHM, *tensors, *window, attributes)
        return Handle(api, "primitive_desc", self._CREATE, *arguments)


@attrs.frozen
class Deconvolution(Convolution):
    """A transposed convolution: input element x adds to the results x * stride + k * dilation - padding.

    As `Convolution`, but the weights are (I, O / groups, *kernel), and `padding` is cut off the result. Elements added
    at the end (output padding) are subtracted from `padding_r`, which may become negative.
    """

    _CREATE: ClassVar[str] = "dnnl_deconvolution_forward_primitive_desc_create"
    _ALGORITHM: ClassVar[int] = ffi.TRANSPOSED

    def _problem(self) -> str | None:
        low = [-min(high, 0) for high in self.padding_r]
        if any(extra >= stride for extra, stride in zip(low, self.strides, strict=False)):
            return f"output padding {tuple(low)} must be less than the strides {self.strides}"
        return super()._problem()

    @property
    def _padding_r(self) -> tuple[int, ...]:
        return tuple(max(high, 0) for high in self.padding_r)

    def _windows(self) -> list[int]:
        spatial = (self.strides, self.dilation, self.padding_l, self.padding_r)
        sizes = zip(self.src_shape[2:], self.weights_shape[2:], *spatial, strict=True)
        return [(n - 1) * step + (k - 1) * (gap + 1) + 1 - low - high for n, k, step, gap, low, high in sizes]

    def _sizes(self) -> dict[str, int]:
        return Description._sizes(self)

    def _channel_problem(self) -> str | None:
        channels, first = self.src_shape[1], self.weights_shape[0]
        if self.depthwise or channels != first or channels % self.groups:
            return f"weights for {first} channels in {self.groups} groups do not fit {channels} channels"
        return None

    @property
    def _filters(self) -> int:
        return self.weights_shape[1] * self.groups

    def _weights(self) -> Tensor:
        """The weights; to oneDNN their axes are (O, I, *kernel), or (groups, O / groups, I / groups, *kernel)."""
        order = self.weights_order or tuple(range(len(self.weights_shape)))
        stored = tuple(self.weights_shape[axis] for axis in order)
        inputs, filters, *kernel = self.weights_shape
        if self.groups > 1:
            dims: tuple[int, ...] = (self.groups, filters, inputs // self.groups, *kernel)
            split = {0: (0, 2), 1: (1,)}
        else:
            dims, split = (filters, inputs, *kernel), {0: (1,), 1: (0,)}
        shift = len(dims) - len(stored)
        places = tuple(new for axis in order for new in split.get(axis, (axis + shift,)))
        return Tensor("weights", ffi.WEIGHTS, dims, places, stored, self.dtype, open=True)
