"""Pools and softmax of cuDNN."""

from ...fuse.library import Executable, Region
from ..calls import tensors
from ..layers import caller, pool, softmax_shape
from . import ffi
from .convolution import tensor
from .ffi import CUDNN


def implement_pool(region: Region) -> Executable:
    """Sliding and global pools."""
    p = pool(region.call)
    how = CUDNN.new("cudnnCreatePoolingDescriptor", "cudnnDestroyPoolingDescriptor")
    sizes = (*p.window, *p.padding, *p.strides)
    CUDNN.call("cudnnSetPooling2dDescriptor", how, ffi.POOLING[p.kind], ffi.PROPAGATE_NAN, *sizes)
    x, y = tensor(p.data, p.dtype), tensor(p.out, p.dtype)
    return caller(CUDNN, "cudnnPoolingForward", region, x, y, before=(how,))


def implement_softmax(region: Region) -> Executable:
    """nn.softmax and nn.log_softmax along any axis."""
    call = region.call
    data = tensor(softmax_shape(call), tensors(call)[0].dtype)
    algorithm = ffi.SOFTMAX_LOG if "log" in str(call.op) else ffi.SOFTMAX_ACCURATE
    return caller(CUDNN, "cudnnSoftmaxForward", region, data, data, before=(algorithm, ffi.MODE_CHANNEL))
