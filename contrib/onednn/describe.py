"""What oneDNN is asked to compute: `Convolution` and `MatMul`, with their post-ops, as frozen and hashable values.

A description holds the shapes and layouts of the caller's arrays. oneDNN is fast only in layouts of its own choice (its
blocked or channels-last formats), so a description leaves the layouts open (tag `any`); `Primitive` asks which ones
were chosen and reorders at the border. Making a description needs no library; `check` does.
"""

import math
from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from typing import Any

import attrs
import numpy as np

from ...ir.errors import RuntimeInputError
from ...ir.types import numpy_dtype
from . import ffi
from .ffi import BINARY, DTYPES, ELTWISE, Api, Array, Handle, OneDNNError, OneDNNRefused, dims_t

_LARGEST = 2**31 - 1
"""Elements of a tensor, padding included: oneDNN takes 64-bit sizes, but crashes on some that 32 bits cannot hold."""


def _swap(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values[:-2], values[-1], values[-2])


def require(condition: bool, problem: str) -> None:
    """Raise RuntimeInputError with `problem` unless the condition holds."""
    if not condition:
        raise RuntimeInputError(problem)


def _shape(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _post_ops(values: Sequence["Eltwise | Binary | Sum"]) -> tuple["Eltwise | Binary | Sum", ...]:
    return tuple(values)


def _one_of(names: Mapping[str, int]) -> Any:
    """Return an attrs validator that names the known values."""

    def check(instance: object, attribute: Any, value: str) -> None:
        if value not in names:
            problem = f"{attribute.name} is {value!r}, expected one of {', '.join(names)}"
            raise OneDNNError(type(instance).__name__, problem)

    return check


def _operand_problem(post_ops: Sequence["Eltwise | Binary | Sum"], dst: tuple[int, ...]) -> str | None:
    for j, op in enumerate(post_ops):
        if isinstance(op, Binary):
            fits = len(op.shape) == len(dst) and all(a in (1, b) for a, b in zip(op.shape, dst, strict=True))
            if not fits:
                return f"post-op {j}: an operand of shape {op.shape} does not broadcast to {dst}"
    return None


@attrs.frozen
class Tensor:
    """One argument of a primitive in the caller's plain layout.

    `order` lists the logical axes as they are stored, outermost first; `stored` is the shape of the caller's array.
    With `open` oneDNN chooses the layout it works in.
    """

    name: str
    arg: int
    dims: tuple[int, ...]
    order: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: str
    open: bool

    def plain(self, api: Api) -> Handle:
        """Return a descriptor of the caller's layout."""
        strides = [0] * len(self.dims)
        for position, axis in enumerate(self.order):
            strides[axis] = math.prod(self.dims[inner] for inner in self.order[position + 1 :])
        arguments = (len(self.dims), dims_t(self.dims), DTYPES[self.dtype], dims_t(strides))
        return Handle(api, "memory_desc", "dnnl_memory_desc_create_with_strides", *arguments)

    def requested(self, api: Api) -> Handle:
        """Return the descriptor to ask for: layout `any` where it is open."""
        if not self.open:
            return self.plain(api)
        arguments = (len(self.dims), dims_t(self.dims), DTYPES[self.dtype], ffi.TAG_ANY)
        return Handle(api, "memory_desc", "dnnl_memory_desc_create_with_tag", *arguments)

    def address(self, array: Array | c_void_p, *, written: bool = False) -> c_void_p:
        """Return where the elements are, after checking that an array has the right shape, dtype and memory."""
        if isinstance(array, c_void_p):
            require(bool(array), f"{self.name}: expected an address, got a null pointer")
            return array
        if not isinstance(array, np.ndarray):
            raise RuntimeInputError(f"{self.name}: expected a NumPy array or a c_void_p, got {type(array).__name__}")
        dtype = numpy_dtype(self.dtype)
        if array.shape != self.stored or array.dtype != dtype:
            expected, got = f"{dtype} {self.stored}", f"{array.dtype} {array.shape}"
            raise RuntimeInputError(f"{self.name}: expected an array of {expected}, got {got}")
        if not (array.flags.c_contiguous and array.flags.aligned) or (written and not array.flags.writeable):
            raise RuntimeInputError(f"{self.name}: expected a C-contiguous{', writeable' * written} array")
        return c_void_p(array.ctypes.data)


@attrs.frozen
class Eltwise:
    """Post-op `algorithm(x)`, one of `ELTWISE`; alpha and beta as in oneDNN (relu: alpha is the slope below zero)."""

    algorithm: str = attrs.field(validator=_one_of(ELTWISE))
    alpha: float = 0.0
    beta: float = 0.0


@attrs.frozen
class Binary:
    """Post-op `algorithm(x, operand)`, one of `BINARY`; each axis of `shape` is 1 or dst's (logical order)."""

    algorithm: str = attrs.field(validator=_one_of(BINARY))
    shape: tuple[int, ...] = attrs.field(converter=_shape)


@attrs.frozen
class Sum:
    """Post-op `x + scale * (what the destination held before)`."""

    scale: float = 1.0


@attrs.frozen(kw_only=True)
class Description:
    """What `Convolution` and `MatMul` share.

    Attributes:
        dtype: element type of every tensor, one of `DTYPES`; sums are accumulated in float32.
        bias: whether a bias vector (one value per output channel or column) is added before the post-ops.
        constant_weights: weights and bias come once through `set_weights`; False: anew with every `execute`.
        post_ops: applied to the result in this order, before it is stored.
        num_threads: OpenMP threads while preparing and running; None: the calling thread's setting when preparing.

    """

    dtype: str = attrs.field(default="float32", validator=_one_of(DTYPES))
    bias: bool = False
    constant_weights: bool = True
    post_ops: tuple[Eltwise | Binary | Sum, ...] = attrs.field(default=(), converter=_post_ops)
    num_threads: int | None = None

    def __attrs_post_init__(self) -> None:
        problem = self._problem()
        if problem is None and self.num_threads is not None and self.num_threads < 1:
            problem = f"num_threads is {self.num_threads}, expected at least 1"
        problem = problem or self._size_problem()
        if problem is not None:
            raise OneDNNError(type(self).__name__, problem, where=self)

    def _size_problem(self) -> str | None:
        for name, size in self._sizes().items():
            if size > _LARGEST:
                return f"{name} has {size} elements, expected at most {_LARGEST}"
        return None

    def _sizes(self) -> dict[str, int]:
        """Return the numbers of elements that kernels count through, by what they are."""
        return {tensor.name: math.prod(tensor.dims) for tensor in self.tensors().values()}

    def _problem(self) -> str | None:
        """Return why the shapes do not fit together, or None."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Return "src", "weights", "dst" and, if there is one, "bias"."""
        raise NotImplementedError

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        """Return the primitive descriptor."""
        raise NotImplementedError

    def operands(self) -> list[Tensor]:
        """Return the operands of the binary post-ops; a full tensor's layout is open where the destination's is."""
        dst, operands = self.tensors()["dst"], []
        for j, op in enumerate(self.post_ops):
            if isinstance(op, Binary):
                name, arg = f"operand of post-op {j}", ffi.POST_OP * (j + 1) | ffi.SRC_1
                stored = tuple(op.shape[axis] for axis in dst.order)
                open_ = dst.open and op.shape == dst.dims
                operands.append(Tensor(name, arg, op.shape, dst.order, stored, self.dtype, open_))
        return operands

    def _attributes(self, api: Api) -> Handle:
        attributes = ffi.scratchpad_attributes(api)
        if not self.post_ops:
            return attributes
        ops, operands = Handle(api, "post_ops", "dnnl_post_ops_create"), iter(self.operands())
        for op in self.post_ops:
            if isinstance(op, Eltwise):
                api.dll.dnnl_post_ops_append_eltwise(ops, ELTWISE[op.algorithm], op.alpha, op.beta)
            elif isinstance(op, Binary):
                api.dll.dnnl_post_ops_append_binary(ops, BINARY[op.algorithm], next(operands).requested(api))
            else:
                api.dll.dnnl_post_ops_append_sum(ops, op.scale, 0, 0)
        api.dll.dnnl_primitive_attr_set_post_ops(attributes, ops)
        return attributes

    def primitive_descriptor(self, api: Api) -> Handle:
        """Return the primitive descriptor of a usable implementation, or raise `OneDNNRefused`."""
        descriptors = {name: tensor.requested(api) for name, tensor in self.tensors().items()}
        try:
            described = self._create(api, descriptors, self._attributes(api))
        except OneDNNError as error:
            kind = OneDNNRefused if error.status == ffi.UNIMPLEMENTED else OneDNNError
            raise kind(error.call, error.problem, error.status, where=self) from None
        name = ffi.implementation_name(api, described)
        if name.startswith("ref"):
            problem = f"only the slow reference implementation ({name}) takes it"
            raise OneDNNRefused(type(self).__name__, problem, where=self)
        return described

    def check(self) -> str | None:
        """Return why oneDNN does not do this, or should not (only its reference implementation would), or None.

        Raises:
            LibraryNotFound: oneDNN cannot be loaded.

        """
        api = ffi.load()
        try:
            with api.threads(self.num_threads):
                self.primitive_descriptor(api)
        except OneDNNError as error:
            return error.problem if isinstance(error, OneDNNRefused) else f"{error.call}: {error.problem}"
        return None


@attrs.frozen
class Convolution(Description):
    """A 1-D, 2-D or 3-D convolution (cross-correlation, as in neural networks).

    Shapes are logical: data (N, C, *spatial), weights (O, I / groups, *kernel). A caller whose arrays are stored
    otherwise gives the axes in stored order, outermost first: `src_order=(0, 2, 3, 1)` for NHWC, `weights_order=(2, 3,
    1, 0)` for HWIO; the arrays then have that shape. `dilation` is zero-based (0: dense). Bias has shape (O,).

    With `depthwise` the groups are the input channels and the weights have the shape (C, multiplier, *kernel): output
    channel `c * multiplier + m` is input channel c convolved with weights[c, m].
    """

    src_shape: tuple[int, ...] = attrs.field(converter=_shape)
    weights_shape: tuple[int, ...] = attrs.field(converter=_shape)
    dst_shape: tuple[int, ...] = attrs.field(converter=_shape)
    strides: tuple[int, ...] = attrs.field(converter=_shape)
    dilation: tuple[int, ...] = attrs.field(converter=_shape)
    padding_l: tuple[int, ...] = attrs.field(converter=_shape)
    padding_r: tuple[int, ...] = attrs.field(converter=_shape)
    groups: int = 1
    depthwise: bool = False
    src_order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_shape))
    weights_order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_shape))
    dst_order: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_shape))

    def _problem(self) -> str | None:
        rank = len(self.src_shape)
        spatial = (self.strides, self.dilation, self.padding_l, self.padding_r)
        if rank not in (3, 4, 5) or {len(self.weights_shape), len(self.dst_shape)} != {rank}:
            return "src, weights and dst must have the same rank, 3 to 5"
        if any(len(values) != rank - 2 for values in spatial):
            return f"strides, dilation and padding must have {rank - 2} values each"
        if min(*self.src_shape, *self.weights_shape, *self.strides, self.groups) < 1 or min(map(min, spatial)) < 0:
            return "dimensions, strides and groups must be at least 1, dilation and padding at least 0"
        orders = (self.src_order, self.weights_order, self.dst_order)
        if any(order is not None and sorted(order) != [*range(rank)] for order in orders):
            return f"an order must hold each axis from 0 to {rank - 1} once"
        if problem := self._channel_problem():
            return problem
        sizes = zip(self.src_shape[2:], self.weights_shape[2:], *spatial, strict=True)
        out = [(n + low + high - (k - 1) * (gap + 1) - 1) // step + 1 for n, k, step, gap, low, high in sizes]
        expected = (self.src_shape[0], self._filters, *out)
        if self.dst_shape != expected or min(out) < 1:
            return f"dst_shape is {self.dst_shape}, expected {expected}"
        return _operand_problem(self.post_ops, self.dst_shape)

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
        natural = tuple(range(len(self.src_shape)))
        tensors = {"weights": self._weights()}
        for name, arg, dims, order in (
            ("src", ffi.SRC, self.src_shape, self.src_order or natural),
            ("dst", ffi.DST, self.dst_shape, self.dst_order or natural),
        ):
            tensors[name] = Tensor(name, arg, dims, order, tuple(dims[a] for a in order), self.dtype, open=True)
        if self.bias:
            tensors["bias"] = Tensor("bias", ffi.BIAS, (self._filters,), (0,), (self._filters,), self.dtype, open=False)
        return tensors

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        tensors = (descriptors["src"], descriptors["weights"], descriptors.get("bias"), descriptors["dst"])
        window = (dims_t(values) for values in (self.strides, self.dilation, self.padding_l, self.padding_r))
        create = "dnnl_convolution_forward_primitive_desc_create"
        arguments = (api.engine, ffi.FORWARD_INFERENCE, ffi.DIRECT, *tensors, *window, attributes)
        return Handle(api, "primitive_desc", create, *arguments)


@attrs.frozen
class MatMul(Description):
    """The matrix product dst = a b of 2-D matrices or of 3-D batches (a batch of 1 is repeated), C-contiguous.

    Shapes are those of the arrays: a is (M, K), or (K, M) if `a_transposed`; b is (K, N), or (N, K) if `b_transposed`;
    dst is (M, N); batches come first. a is the `src` and b the `weights` of `Primitive`. Bias has shape (N,).
    """

    a_shape: tuple[int, ...] = attrs.field(converter=_shape)
    b_shape: tuple[int, ...] = attrs.field(converter=_shape)
    dst_shape: tuple[int, ...] = attrs.field(converter=_shape)
    a_transposed: bool = False
    b_transposed: bool = False

    def _logical(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        flags = ((self.a_shape, self.a_transposed), (self.b_shape, self.b_transposed))
        a, b = (_swap(shape) if transposed else shape for shape, transposed in flags)
        return a, b

    def _problem(self) -> str | None:
        if len(self.dst_shape) not in (2, 3) or {len(self.a_shape), len(self.b_shape)} != {len(self.dst_shape)}:
            return "a, b and dst must have the same rank, 2 or 3"
        if min(self.a_shape + self.b_shape) < 1:
            return "dimensions must be at least 1"
        a, b = self._logical()
        expected = (*(max(pair) for pair in zip(a[:-2], b[:-2], strict=True)), a[-2], b[-1])
        batches = {*a[:-2], *b[:-2]} - {1}
        if a[-1] != b[-2] or len(batches) > 1 or self.dst_shape != expected:
            return f"{a} times {b} is not {self.dst_shape}"
        return _operand_problem(self.post_ops, self.dst_shape)

    def tensors(self) -> dict[str, Tensor]:
        """See `Description.tensors`."""
        natural = tuple(range(len(self.dst_shape)))
        (a, b), n = self._logical(), self.dst_shape[-1]
        a_order, b_order = (_swap(natural) if flip else natural for flip in (self.a_transposed, self.b_transposed))
        free = self.constant_weights
        tensors = {
            "src": Tensor("src (a)", ffi.SRC, a, a_order, self.a_shape, self.dtype, open=False),
            "weights": Tensor("weights (b)", ffi.WEIGHTS, b, b_order, self.b_shape, self.dtype, open=free),
            "dst": Tensor("dst", ffi.DST, self.dst_shape, natural, self.dst_shape, self.dtype, open=False),
        }
        if self.bias:
            row = (*(1 for _ in natural[1:]), n)
            tensors["bias"] = Tensor("bias", ffi.BIAS, row, natural, (n,), self.dtype, open=False)
        return tensors

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        tensors = (descriptors["src"], descriptors["weights"], descriptors.get("bias"), descriptors["dst"])
        return Handle(api, "primitive_desc", "dnnl_matmul_primitive_desc_create", api.engine, *tensors, attributes)
