"""Matrix products for oneDNN."""

import attrs

from . import ffi
from .describe import Description, Tensor, operand_problem, shape_of
from .ffi import Api, Handle


def _swap(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values[:-2], values[-1], values[-2])


@attrs.frozen
class MatMul(Description):
    """The matrix product dst = a b of 2-D matrices or of 3-D batches (a batch of 1 is repeated), C-contiguous.

    Shapes are those of the arrays: a is (M, K), or (K, M) if `a_transposed`; b is (K, N), or (N, K) if `b_transposed`;
    dst is (M, N); batches come first. a is the `src` and b the `weights` of `Primitive`. Bias has shape (N,).
    """

    a_shape: tuple[int, ...] = attrs.field(converter=shape_of)
    b_shape: tuple[int, ...] = attrs.field(converter=shape_of)
    dst_shape: tuple[int, ...] = attrs.field(converter=shape_of)
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
        return operand_problem(self.post_ops, self.dst_shape)

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
