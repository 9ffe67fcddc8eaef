"""OpenBLAS on the CPU (`-libs=openblas`): matrix products in float32 and float64 through gemm and gemv."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ...fuse.dataflow_pattern import Match, is_op, wildcard
from ...fuse.library import Executable, Library, Region, Rule
from ...ir.errors import RuntimeInputError
from ..calls import PRODUCTS, position, product, shown, why_not_plain
from . import ffi

DTYPES = ("float32", "float64")


def _why_not(match: Match) -> str | None:
    """Why OpenBLAS cannot take a call, or None; it takes any sizes that its integers can hold."""
    call = match.calls[0]
    if reason := why_not_plain(call, DTYPES):
        return reason
    p = product(call)
    size = max(*p.a, *p.b, *p.out)
    return f"a dimension is {size}, expected at most {ffi.INT_MAX}" if size > ffi.INT_MAX else None


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
    rules=[
        Rule(f"openblas.{op.removeprefix('nn.')}", is_op(op)(wildcard(), wildcard()), _why_not, implement=_implement)
        for op in PRODUCTS
    ],
    probe=ffi.probe,
)
