"""CLBlast on OpenCL (`opencl -libs=clblast`): products of matrices, and 2-D convolutions as products, in float32.

Calls go into the module's queue and work on its buffers. It has no post-ops: what follows stays a generated kernel.
"""

from collections.abc import Sequence
from typing import Any

from ...fuse.library import DEVICE, Executable, Library, Region
from ...ir.expr import Call
from ..calls import PRODUCTS, position, product, rules_for, why_not_plain
from ..layers import convolution, why_not_convolution
from . import ffi

DTYPES = ("float32",)


def _product(region: Region) -> Executable:
    call = region.call
    left, right = (position(region, arg) for arg in call.args)
    p = product(call)
    batches = (p.a[0], p.b[0], p.out[0]) if len(p.out) == 3 else (1, 1, 1)
    shape = p.out[-2], p.out[-1], p.a[-2] if p.trans_a else p.a[-1]

    def run(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        operands = (inputs[left], inputs[right], outputs[0])
        ffi.gemm(region.queue, operands, (p.trans_a, p.trans_b), shape, batches)

    return run


def _why_not_conv2d(call: Call, dtypes: Sequence[str]) -> str | None:
    """Why CLBlast cannot take a convolution, or None."""
    if reason := why_not_convolution(call, dtypes):
        return reason
    groups = call.attrs.groups
    return f"groups is {groups}, expected 1" if groups != 1 else None


def _conv2d(region: Region) -> Executable:
    places = [position(region, arg) for arg in region.call.args]
    c = convolution(region.call)

    def run(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        operands = [*(inputs[k] for k in places), outputs[0]]
        ffi.convgemm(region.queue, operands, c.data, c.weights, c.strides, c.padding, c.dilation)

    return run


LIBRARY = Library(
    "clblast",
    targets=("opencl",),
    rules=[
        *rules_for("clblast", PRODUCTS, DTYPES, why_not_plain, _product, memory=DEVICE),
        *rules_for("clblast", ["nn.conv2d"], DTYPES, _why_not_conv2d, _conv2d, memory=DEVICE),
    ],
    probe=ffi.CLBLAST.probe,
)
