"""rocBLAS on AMD's GPUs (`rocm -libs=rocblas`): products of matrices in float32, float64, float16 and bfloat16.

None of this has run on a GPU yet: it was tested against a library that stands in for rocBLAS and checks its calls.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from attrs import frozen

from ...fuse.library import ADDRESS, Executable, Library, Region
from ..blas import Gemm, gemm, why_not_product
from ..calls import PRODUCTS, position, product, rules_for, tensors
from ..vendor import of_rocm, scalar

PRIORITY = 25
DTYPES = MappingProxyType({"float32": 151, "float64": 152, "float16": 150, "bfloat16": 168})
"""rocblas_datatype, as rocblas-types.h has it."""

PLAIN, TRANSPOSED = 111, 112
STANDARD = 0  # rocblas_gemm_algo_standard

ROCBLAS = of_rocm(
    "rocblas",
    title="rocBLAS",
    files=("librocblas.so.5", "librocblas.so.4", "librocblas.so.3", "librocblas.so"),
    create="rocblas_create_handle",
    destroy="rocblas_destroy_handle",
    set_stream="rocblas_set_stream",
    functions={
        "rocblas_create_handle": "p",
        "rocblas_destroy_handle": "p",
        "rocblas_set_stream": "pp",
        "rocblas_gemm_ex": "piiiii" + "p" + "pii" * 2 + "p" + "pii" * 2 + "iiiu",
        "rocblas_gemm_strided_batched_ex": "piiiii" + "p" + "piiq" * 2 + "p" + "piiq" * 2 + "iiiiu",
    },
    statuses={
        1: "a handle that is not there",
        2: "what it does not have",
        3: "a wrong address",
        4: "a wrong size",
        5: "not enough memory",
        6: "an internal error",
        7: "too little memory to be fast",
        11: "a wrong parameter",
        14: "what it was built without",
        15: "a device whose architecture it does not have",
    },
)


def _implement(region: Region) -> Executable:
    call = region.call
    a, b = (position(region, arg) for arg in call.args)
    return _Product(region.queue, gemm(product(call)), tensors(call)[0].dtype, b, a)


@frozen(eq=False)
class _Product:
    """A product: `first` and `second` are positions among the region's inputs. The result is read nowhere."""

    queue: Any
    g: Gemm
    dtype: str
    first: int
    second: int

    def __call__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        g, wide = self.g, self.dtype == "float64"
        one, two, out = g.operands((inputs[self.first], inputs[self.second], outputs[0]), DTYPES[self.dtype])
        flags = (TRANSPOSED if flag else PLAIN for flag in g.transposed)
        name, count = ("rocblas_gemm_strided_batched_ex", [g.batch]) if g.batch > 1 else ("rocblas_gemm_ex", [])
        sums = DTYPES["float64" if wide else "float32"]
        with ROCBLAS.session(self.queue) as handle:
            ROCBLAS.call(name, handle, *flags, g.m, g.n, g.k, scalar(1.0, wide), *one, *two, scalar(0.0, wide), *out,
                         *out, *count, sums, STANDARD, 0, 0)  # fmt: skip


LIBRARY = Library(
    "rocblas",
    targets=("rocm",),
    rules=rules_for("rocblas", PRODUCTS, tuple(DTYPES), why_not_product, _implement, memory=ADDRESS, priority=PRIORITY),
    probe=ROCBLAS.probe,
)
