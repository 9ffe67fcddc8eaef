"""OpenBLAS on the CPU (`-libs=openblas`): matrix products in float32 and float64 through gemm and gemv."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ...fuse.library import Executable, Library, Region
from ...ir.errors import RuntimeInputError
from ..blas import why_not_product
from ..calls import PRODUCTS, position, product, rules_for, shown
from . import ffi

DTYPES = ("float32", "float64")


def _implement(region: Region) -> Executable:
    call = region.call
    left, right = (position(region, arg) for arg in call.args)
    p, name = product(call), shown(call)
    multiply = ffi.gemm if len(p.out) == 2 else ffi.batched_gemm

    def run(inputs: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> None:
        a, b, out = inputs[left].reshape(p.a), inputs[right].reshape(p.b), outputs[0].reshape(p.out)
        try:
            with ffi.threads(region.threads):
                multiply(a, b, out, p.trans_a, p.trans_b)
        except RuntimeInputError as error:
            raise RuntimeInputError(f"{name}: {error}") from None

    return run


LIBRARY = Library(
    "openblas",
    targets=("cpu",),
    rules=rules_for("openblas", PRODUCTS, DTYPES, why_not_product, _implement),
    probe=ffi.probe,
)
