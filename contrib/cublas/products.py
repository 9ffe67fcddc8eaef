"""Products of cuBLAS, and what follows them: bias, relu and gelu in one call of cuBLASLt, which others do not need."""

import ctypes
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from ...fuse.chain import Chain, Links
from ...fuse.library import Executable, Region
from ...fuse.postops import ADD, BIAS, GELU_TANH, RELU
from ...ir.errors import LibraryCallError
from ..blas import Gemm, gemm, why_not_product
from ..calls import anchor_call, position, product, tensors
from ..layers import addend
from ..vendor import Handle, scalar
from . import ffi
from .ffi import CUBLAS, LT

ALIGNMENT = 16
"""Bytes at a multiple of which every tensor starts; inputs that users share may start so."""

LT_SCRATCH = 32 << 20
"""Bytes of scratch that cuBLASLt may use: what NVIDIA recommends for its newest devices."""


def chain(op: str) -> Chain:
    """A product, and what may follow."""
    return Chain(op, [[ADD, BIAS], [RELU, GELU_TANH]])


def why_not(links: Links) -> str | None:
    """Why cuBLAS cannot take a product with what follows, or None."""
    call = anchor_call(links.anchor)
    if reason := why_not_product(call, tuple(ffi.DTYPES)):
        return reason
    if not links.steps:
        return None
    names = " and ".join(link.post_op.name for link in links.steps)
    if tensors(call)[0].dtype == "float64":
        return f"{names} of float64, expected float32, float16 or bfloat16"
    if len(product(call).out) != 2:
        return f"{names} behind a batch of products, expected one product"
    for link in links.steps:
        if link.operand is not None and addend(link, axis=-1) != "bias":
            return f"the operand of {link.post_op.name} is no bias of the last axis"
    return None


def implement(region: Region, links: Links) -> Executable:
    """Say how to call cuBLAS or cuBLASLt."""
    call = anchor_call(links.anchor)
    a, b = (position(region, arg) for arg in call.args)
    g, dtype = gemm(product(call)), tensors(call)[0].dtype
    compute = computes(dtype, region.precision)
    if not links.steps:
        return _Product(region.queue, g, dtype, compute, b, a)
    epilogue, bias = 0, -1
    for link in links.steps:
        if link.operand is not None:
            epilogue, bias = epilogue | ffi.EPILOGUE_BIAS, position(region, link.operand)
        else:
            epilogue |= ffi.EPILOGUE_RELU if link.post_op is RELU else ffi.EPILOGUE_GELU
    return _lt(region.queue, g, dtype, compute, epilogue, (b, a, bias))


def computes(dtype: str, precision: str) -> int:
    """How a product is computed: cublasComputeType_t."""
    if dtype == "float32" and precision == "tf32":
        return ffi.COMPUTE_32F_FAST_TF32
    return ffi.COMPUTE_64F if dtype == "float64" else ffi.COMPUTE_32F


@frozen(eq=False)
class _Product:
    """A product: `first` and `second` are positions among the region's inputs."""

    queue: Any
    g: Gemm
    dtype: str
    compute: int
    first: int
    second: int

    def __call__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        g, wide = self.g, self.dtype == "float64"
        one, two, out = g.operands((inputs[self.first], inputs[self.second], outputs[0]), ffi.DTYPES[self.dtype])
        flags = (ffi.TRANSPOSED if flag else ffi.PLAIN for flag in g.transposed)
        name, count = ("cublasGemmStridedBatchedEx", [g.batch]) if g.batch > 1 else ("cublasGemmEx", [])
        with CUBLAS.session(self.queue) as handle:
            CUBLAS.call(name, handle, *flags, g.m, g.n, g.k, scalar(1.0, wide), *one, *two, scalar(0.0, wide), *out,
                        *count, self.compute, ffi.DEFAULT_ALGORITHM)  # fmt: skip


def _set(what: str, made: Handle, attribute: int, value: Any) -> None:
    LT.call(f"cublasLtMatmul{what}SetAttribute", made, attribute, ctypes.byref(value), ctypes.sizeof(value))


def _new(what: str, *arguments: int) -> Handle:
    return LT.new(f"cublasLt{what}Create", f"cublasLt{what}Destroy", *arguments)


def _lt(queue: Any, g: Gemm, dtype: str, compute: int, epilogue: int, places: tuple[int, int, int]) -> Executable:
    """Describe a product for cuBLASLt, and take the algorithm that it thinks best."""
    kind = ffi.DTYPES[dtype]
    with queue.using("asking cuBLASLt for an algorithm"):
        how = _new("MatmulDesc", compute, ffi.DTYPES["float32"])
        for attribute, flag in zip((ffi.MATMUL_TRANSA, ffi.MATMUL_TRANSB), g.transposed, strict=True):
            _set("Desc", how, attribute, ctypes.c_int32(ffi.TRANSPOSED if flag else ffi.PLAIN))
        _set("Desc", how, ffi.MATMUL_EPILOGUE, ctypes.c_uint32(epilogue))
        shapes = [(g.k, g.m) if g.transposed[0] else (g.m, g.k), (g.n, g.k) if g.transposed[1] else (g.k, g.n)]
        layouts = [
            _new("MatrixLayout", kind, *shape, width)
            for shape, width in zip([*shapes, (g.m, g.n)], g.widths, strict=True)
        ]
        wish = _new("MatmulPreference")
        _set("Preference", wish, ffi.PREFERENCE_WORKSPACE, ctypes.c_uint64(LT_SCRATCH))
        for attribute in ffi.PREFERENCE_ALIGNMENTS:
            _set("Preference", wish, attribute, ctypes.c_uint32(ALIGNMENT))
        if epilogue & ffi.EPILOGUE_BIAS:  # of which only the alignment counts here
            _set("Desc", how, ffi.MATMUL_BIAS, ctypes.c_void_p(ALIGNMENT))
        handle = queue.kept(LT.title, lambda: LT.new(LT.create, LT.destroy))
        found, count = ffi.Heuristic(), ctypes.c_int()
        LT.call("cublasLtMatmulAlgoGetHeuristic", handle, how, *layouts, layouts[2], wish, 1, ctypes.byref(found),
                ctypes.byref(count))  # fmt: skip
        if not count.value or found.state:
            raise LibraryCallError(f"cuBLASLt has no algorithm for {g} in {dtype} with epilogue {epilogue}")
    queue.reserve(found.workspace)
    return _Lt(queue, handle, how, (layouts[0], layouts[1], layouts[2]), found, places)


@frozen(eq=False)
class _Lt:
    """A product with an epilogue; `places` are positions among the region's inputs, the last one -1 without a bias."""

    queue: Any
    handle: Handle
    how: Handle
    layouts: tuple[Handle, Handle, Handle]
    found: ffi.Heuristic
    places: tuple[int, int, int]

    def __call__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        first, second, bias = self.places
        one, two, out = self.layouts
        with self.queue.using("calling cuBLASLt") as stream:
            if bias >= 0:
                _set("Desc", self.how, ffi.MATMUL_BIAS, ctypes.c_void_p(inputs[bias]))
            LT.call("cublasLtMatmul", self.handle, self.how, scalar(1.0), inputs[first], one, inputs[second], two,
                    scalar(0.0), outputs[0], out, outputs[0], out, ctypes.byref(self.found.algo), self.queue.scratch,
                    self.found.workspace, stream)  # fmt: skip
