"""Pools and softmax of cuDNN."""

from collections.abc import Sequence

from ...fuse.dataflow_pattern import Match
from ...fuse.library import Executable, Region
from ..calls import position, tensors
from ..layers import pool, softmax_shape, why_not_pool, why_not_softmax
from ..vendor import scalar
from . import ffi
from .convolution import tensor
from .ffi import CUDNN


def why_not_pooled(match: Match) -> str | None:
    """Why cuDNN cannot take a pool, or None."""
    return why_not_pool(match.calls[0], tuple(ffi.DTYPES))


def implement_pool(region: Region) -> Executable:
    """Sliding and global pools."""
    p, queue, place = pool(region.call), region.queue, position(region, region.call.args[0])
    x, y = tensor(p.data, p.dtype), tensor(p.out, p.dtype)
    how = CUDNN.new("cudnnCreatePoolingDescriptor", "cudnnDestroyPoolingDescriptor")
    sizes = (*p.window, *p.padding, *p.strides)
    CUDNN.call("cudnnSetPooling2dDescriptor", how, ffi.POOLING[p.kind], ffi.PROPAGATE_NAN, *sizes)

    def run(inputs: Sequence[int], outputs: Sequence[int]) -> None:
        with CUDNN.session(queue) as handle:
            CUDNN.call("cudnnPoolingForward", handle, how, scalar(1.0), x, inputs[place], scalar(0.0), y, outputs[0])

    return run


def why_not_normalised(match: Match) -> str | None:
    """Why cuDNN cannot take a softmax, or None."""
    return why_not_softmax(match.calls[0], tuple(ffi.DTYPES))


def implement_softmax(region: Region) -> Executable:
    """nn.softmax and nn.log_softmax along any axis."""
    call, queue = region.call, region.queue
    place, data = position(region, call.args[0]), tensor(softmax_shape(call), tensors(call)[0].dtype)
    algorithm = ffi.SOFTMAX_LOG if "log" in str(call.op) else ffi.SOFTMAX_ACCURATE

    def run(inputs: Sequence[int], outputs: Sequence[int]) -> None:
        with CUDNN.session(queue) as handle:
            CUDNN.call("cudnnSoftmaxForward", handle, algorithm, ffi.MODE_CHANNEL, scalar(1.0), data, inputs[place],
                       scalar(0.0), data, outputs[0])  # fmt: skip

    return run
