"""What oneDNN is asked to compute: the parts that all descriptions share, and post-ops, as frozen and hashable values.

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
from .ffi import BINARY, BLOCKED, DTYPES, ELTWISE, Api, Array, Handle, OneDNNError, OneDNNRefused, dims_t

_LARGEST = 2**31 - 1
"""Elements of a tensor, padding included: oneDNN takes 64-bit sizes, but crashes on some that 32 bits cannot hold."""


def require(condition: bool, problem: str) -> None:
    """Raise RuntimeInputError with `problem` unless the condition holds."""
    if not condition:
        raise RuntimeInputError(problem)


def shape_of(values: Sequence[int]) -> tuple[int, ...]:
    """Return a shape as a tuple of plain ints."""
    return tuple(int(value) for value in values)


def operand_name(position: int) -> str:
    """Return what the operand of the post-op at this position is called."""
    return f"operand of post-op {position}"


def _post_ops(values: Sequence["Eltwise | Binary | Sum"]) -> tuple["Eltwise | Binary | Sum", ...]:
    return tuple(values)


def one_of(names: Mapping[str, int]) -> Any:
    """Return an attrs validator that names the known values."""

    def check(instance: object, attribute: Any, value: str) -> None:
        if value not in names:
            problem = f"{attribute.name} is {value!r}, expected one of {', '.join(names)}"
            raise OneDNNError(type(instance).__name__, problem)

    return check


def operand_problem(post_ops: Sequence["Eltwise | Binary | Sum"], dst: tuple[int, ...]) -> str | None:
    """Return why the operands of post-ops do not fit a result, or None."""
    for j, op in enumerate(post_ops):
        if isinstance(op, Binary):
            fits = len(op.shape) == len(dst) and all(a in (1, b) for a, b in zip(op.shape, dst, strict=True))
            if not fits:
                return f"post-op {j}: an operand of shape {op.shape} does not broadcast to {dst}"
    return None


@attrs.frozen
class Tensor:
    """One argument of a primitive in the caller's layout.

    `order` lists the logical axes as they are stored, outermost first; `stored` is the shape of the caller's array. An
    axis of size 1 may be missing. If the second axis stands twice (`(0, 1, 2, 3, 1)`), its last part is a block.
    With `open` oneDNN chooses the layout it works in.
    """

    name: str
    arg: int
    dims: tuple[int, ...]
    order: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: str
    open: bool

    @property
    def blocked(self) -> bool:
        """Whether the channels are stored in blocks."""
        return len(set(self.order)) < len(self.order)

    def plain(self, api: Api) -> Handle:
        """Return a descriptor of the caller's layout."""
        start = (len(self.dims), dims_t(self.dims), DTYPES[self.dtype])
        if self.blocked:
            tag = BLOCKED[len(self.dims), self.stored[-1]]
            return Handle(api, "memory_desc", "dnnl_memory_desc_create_with_tag", *start, tag)
        strides = [1] * len(self.dims)
        for position, axis in enumerate(self.order):
            strides[axis] = math.prod(self.dims[inner] for inner in self.order[position + 1 :])
        return Handle(api, "memory_desc", "dnnl_memory_desc_create_with_strides", *start, dims_t(strides))

    def operand(self, shape: tuple[int, ...], name: str, arg: int) -> "Tensor":
        """Return the operand of a post-op with this tensor: each axis of `shape` is 1 or as long as this one's."""
        stored = []
        for axis, size in zip(self.order, self.stored, strict=True):
            stored.append(1 if shape[axis] == 1 < self.dims[axis] else size)
        natural = tuple(range(len(self.dims)))
        flat = self.blocked and max(shape[2:], default=1) == 1  # then blocks lie in their natural order
        order = natural if flat else self.order
        return Tensor(name, arg, shape, order, tuple(stored), self.dtype, self.open and shape == self.dims)

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

    algorithm: str = attrs.field(validator=one_of(ELTWISE))
    alpha: float = 0.0
    beta: float = 0.0


@attrs.frozen
class Binary:
    """Post-op `algorithm(x, operand)`, one of `BINARY`; each axis of `shape` is 1 or dst's (logical order)."""

    algorithm: str = attrs.field(validator=one_of(BINARY))
    shape: tuple[int, ...] = attrs.field(converter=shape_of)


@attrs.frozen
class Sum:
    """Post-op `x + scale * (what the destination held before)`."""

    scale: float = 1.0


@attrs.frozen(kw_only=True)
class Description:
    """What all descriptions share.

    Attributes:
        dtype: element type of every tensor, one of `DTYPES`; sums are accumulated in float32.
        bias: whether a bias vector (one value per output channel or column) is added before the post-ops.
        constant_weights: weights and bias come once through `set_weights`; False: anew with every `execute`.
        post_ops: applied to the result in this order, before it is stored.
        num_threads: OpenMP threads while preparing and running; None: the calling thread's setting when preparing.

    """

    dtype: str = attrs.field(default="float32", validator=one_of(DTYPES))
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

    @property
    def constants(self) -> tuple[str, ...]:
        """The tensors that are given once, before the first run."""
        names = ("weights", "bias") if self.constant_weights else ()
        return tuple(name for name in names if name in self.tensors())

    def _problem(self) -> str | None:
        """Return why the shapes do not fit together, or None."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Return "src" and "dst" and, where there are any, "weights", "bias" and others, by name."""
        raise NotImplementedError

    def _create(self, api: Api, descriptors: dict[str, Handle], attributes: Handle) -> Handle:
        """Return the primitive descriptor."""
        raise NotImplementedError

    def operands(self) -> list[Tensor]:
        """Return the operands of the binary post-ops; a full tensor's layout is open where the destination's is."""
        dst, operands = self.tensors()["dst"], []
        for j, op in enumerate(self.post_ops):
            if isinstance(op, Binary):
                operands.append(dst.operand(op.shape, operand_name(j), ffi.POST_OP * (j + 1) | ffi.SRC_1))
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
        if any(part.startswith("ref") for part in name.split("+")):  # a part, as in "conv:any+ref:any"
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
