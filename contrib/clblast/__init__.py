"""CLBlast on OpenCL (`opencl -libs=clblast`): products of matrices, and 2-D convolutions as products, in float32.

Calls go into the module's queue and work on its buffers. It has no post-ops: what follows stays a generated kernel.
"""

from collections.abc import Sequence
from typing import Any

from ...fuse.dataflow_pattern import Match, is_op, wildcard
from ...fuse.library import DEVICE, Executable, Library, Region, Rule
from ...ir.expr import Call
from ..calls import PRODUCTS, position, product, tensors, why_not_plain
from . import ffi


def _why_not_product(match: Match) -> str | None:
    """Why CLBlast cannot take a product, or None."""
    return why_not_plain(match.calls[0], ("float32",))


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


def _why_not_conv2d(match: Match) -> str | None:
    """Why CLBlast cannot take a convolution, or None."""
    call = match.calls[0]
    a = call.attrs
    if reason := why_not_plain(call, ("float32",)):
        return reason
    layouts = a.data_layout, a.kernel_layout, a.out_layout or a.data_layout
    if layouts != ("NCHW", "OIHW", "NCHW"):
        return f"layouts are {', '.join(layouts)} (data, kernel, out), expected NCHW, OIHW, NCHW"
    if a.groups != 1:
        return f"groups is {a.groups}, expected 1"
    top, left, bottom, right = a.padding
    if (top, left) != (bottom, right):
        return f"padding is {a.padding}, expected as much below as above, and as much right as left"
    return None


def _conv2d(region: Region) -> Executable:
    call: Call = region.call
    places = [position(region, arg) for arg in call.args]
    data, weight, _ = (type_.static_shape for type_ in tensors(call))
    sizes = tuple(call.attrs.strides), tuple(call.attrs.padding[:2]), tuple(call.attrs.dilation)

    def run(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        operands = [*(inputs[k] for k in places), outputs[0]]
        ffi.convgemm(region.queue, operands, data, weight, *sizes)

    return run


LIBRARY = Library(
    "clblast",
    targets=("opencl",),
    rules=[
        *(
            Rule(
                f"clblast.{op.removeprefix('nn.')}", is_op(op)(wildcard(), wildcard()), _why_not_product,
                implement=_product, memory=DEVICE,
            )
            for op in PRODUCTS
        ),
        Rule(
            "clblast.conv2d", is_op("nn.conv2d")(wildcard(), wildcard()), _why_not_conv2d,
            implement=_conv2d, memory=DEVICE,
        ),
    ],
    probe=ffi.probe,
)  # fmt: skip
