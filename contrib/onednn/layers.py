"""What oneDNN computes beside convolutions and products: pools, softmax, normalisations, elementwise, reductions.

The tensors of these are taken as the caller stores them: nothing is reordered.
"""

import attrs

from . import ffi
from .describe import Description, Tensor, one_of, operand_problem, shape_of
from .ffi import ELTWISE, POOLING, REDUCTION, SOFTMAX, Api, Handle, dims_t


def _plain(name: str, arg: int, dims: tuple[int, ...], dtype: str, order: tuple[int, ...] | None = None) -> Tensor:
    order = order or tuple(range(len(dims)))
    return Tensor(name, arg, dims, order, tuple(dims[axis] for axis in order), dtype, open=False)


@attrs.frozen(kw_only=True)
class _Layer(Description):
    """A description whose result is shaped like its data; `order` as in `Convolution.src_order`.

    `block` (0: none): the second axis lies in blocks of so many, behind the others.
    """

    shape: tuple[int, ...] = attrs.field(converter=shape_of)
    order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(shape_of))
    block: int = 0

    def _problem(self) -> str | None:
        if not self.shape or min(self.shape) < 1:
            return f"shape is {self.shape}, expected dimensions of at least 1"
        if self.block and ((len(self.shape), self.block) not in ffi.BLOCKED or self.shape[1] % self.block):
            return f"{self.shape} in blocks of {self.block}: expected full blocks of 8 or 16"
        return operand_problem(self.post_ops, self._result)

    @property
    def _result(self) -> tuple[int, ...]:
        return self.shape

    def _feature(self, name: str, arg: int, dims: tuple[int, ...]) -> Tensor:
        if not self.block:
            return _plain(name, arg, dims, self.dtype, self.order)
        stored = (dims[0], dims[1] // self.block, *dims[2:], self.block)
        return Tensor(name, arg, dims, (*range(len(dims)), 1), stored, self.dtype, open=False)

    def tensors(self) -> dict[str, Tensor]:
        """See `Description.tensors`."""
        src = self._feature("src", ffi.SRC, self.shape)
        return {"src": src, "dst": self._feature("dst", ffi.DST, self._result)}


@attrs.frozen(kw_only=True)
class Pool(_Layer):
    """The maximum or the mean of windows over the spatial axes of (N, C, *spatial).

    `algorithm` is one of `POOLING`; `dilation` is zero-based; `dst_shape` is (N, C, *windows).
    """

    algorithm: str = attrs.field(validator=one_of(POOLING))
    dst_shape: tuple[int, ...] = attrs.field(converter=shape_of)
    window: tuple[int, ...] = attrs.field(converter=shape_of)
    strides: tuple[int, ...] = attrs.field(converter=shape_of)
    dilation: tuple[int, ...] = attrs.field(converter=shape_of)
    padding_l: tuple[int, ...] = attrs.field(converter=shape_of)
    padding_r: tuple[int, ...] = attrs.field(converter=shape_of)

    @property
    def _result(self) -> tuple[int, ...]:
        return self.dst_shape

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        geometry = (self.strides, self.window, self.dilation, self.padding_l, self.padding_r)
        start = (api.engine, ffi.FORWARD_INFERENCE, POOLING[self.algorithm], descriptors["src"], descriptors["dst"])
        arguments = (*start, *map(dims_t, geometry), attributes)
        return Handle(api, "primitive_desc", "dnnl_pooling_forward_primitive_desc_create", *arguments)


@attrs.frozen(kw_only=True)
class Softmax(_Layer):
    """Softmax along one axis, or its logarithm."""

    algorithm: str = attrs.field(validator=one_of(SOFTMAX))
    axis: int

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        start = (api.engine, ffi.FORWARD_INFERENCE, SOFTMAX[self.algorithm], descriptors["src"], descriptors["dst"])
        create = "dnnl_softmax_forward_primitive_desc_create"
        return Handle(api, "primitive_desc", create, *start, self.axis, attributes)


@attrs.frozen(kw_only=True)
class Normalization(_Layer):
    """(x - mean) / sqrt(variance + epsilon) * scale + shift.

    Layer norm: along the last axis, with statistics of the data. With `channels`, batch norm: the statistics are given
    as the vectors "mean" and "variance" of the second axis. `scale` and `shift` say whether there are such vectors.
    """

    epsilon: float
    scale: bool
    shift: bool
    channels: bool = False

    @property
    def _vectors(self) -> dict[str, int]:
        names = {"scale": ffi.SCALE} if self.scale else {}
        names |= {"shift": ffi.SHIFT} if self.shift else {}
        return names | ({"mean": ffi.MEAN, "variance": ffi.VARIANCE} if self.channels else {})

    def tensors(self) -> dict[str, Tensor]:
        """See `Description.tensors`."""
        length = (self.shape[1 if self.channels else -1],)
        return super().tensors() | {k: _plain(k, arg, length, "float32") for k, arg in self._vectors.items()}

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        flags = ffi.USE_SCALE * self.scale | ffi.USE_SHIFT * self.shift | ffi.GLOBAL_STATISTICS * self.channels
        statistics = () if self.channels else (None,)
        start = (api.engine, ffi.FORWARD_INFERENCE, descriptors["src"], descriptors["dst"], *statistics)
        create = f"dnnl_{'batch' if self.channels else 'layer'}_normalization_forward_primitive_desc_create"
        return Handle(api, "primitive_desc", create, *start, self.epsilon, flags, attributes)


@attrs.frozen(kw_only=True)
class Elementwise(_Layer):
    """`algorithm(x)`, one of `ELTWISE`, for every element; alpha and beta as in oneDNN."""

    algorithm: str = attrs.field(validator=one_of(ELTWISE))
    alpha: float = 0.0
    beta: float = 0.0

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        start = (api.engine, ffi.FORWARD_INFERENCE, ELTWISE[self.algorithm], descriptors["src"], descriptors["dst"])
        create = "dnnl_eltwise_forward_primitive_desc_create"
        return Handle(api, "primitive_desc", create, *start, self.alpha, self.beta, attributes)


@attrs.frozen(kw_only=True)
class Arithmetic(_Layer):
    """`algorithm(src, other)`, one of `BINARY`; each axis of `other_shape` is 1 or as long as that of src."""

    algorithm: str = attrs.field(validator=one_of(ffi.BINARY))
    other_shape: tuple[int, ...] = attrs.field(converter=shape_of)

    def _problem(self) -> str | None:
        fits = len(self.other_shape) == len(self.shape)
        if not fits or any(n not in (1, m) for n, m in zip(self.other_shape, self.shape, strict=True)):
            return f"an operand of shape {self.other_shape} does not broadcast to {self.shape}"
        return super()._problem()

    def tensors(self) -> dict[str, Tensor]:
        """See `Description.tensors`."""
        tensors = super().tensors()
        return tensors | {"other": tensors["src"].operand(self.other_shape, "other", ffi.SRC_1)}

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        tensors = (descriptors["src"], descriptors["other"], descriptors["dst"])
        create = "dnnl_binary_primitive_desc_create"
        return Handle(api, "primitive_desc", create, api.engine, ffi.BINARY[self.algorithm], *tensors, attributes)


@attrs.frozen(kw_only=True)
class Reduction(_Layer):
    """A reduction over `axes`; in `stored`, the shape of the caller's result, they are 1 or missing (`keepdims`)."""

    algorithm: str = attrs.field(validator=one_of(REDUCTION))
    axes: tuple[int, ...] = attrs.field(converter=shape_of)
    keepdims: bool = False

    @property
    def _result(self) -> tuple[int, ...]:
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))

    def tensors(self) -> dict[str, Tensor]:
        """See `Description.tensors`."""
        dims = self._result
        order = tuple(axis for axis in range(len(dims)) if self.keepdims or axis not in self.axes)
        dst = Tensor("dst", ffi.DST, dims, order, tuple(dims[axis] for axis in order), self.dtype, open=False)
        return {"src": self._feature("src", ffi.SRC, self.shape), "dst": dst}

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        start = (api.engine, REDUCTION[self.algorithm], descriptors["src"], descriptors["dst"])
        return Handle(api, "primitive_desc", "dnnl_reduction_primitive_desc_create", *start, 0.0, 0.0, attributes)
