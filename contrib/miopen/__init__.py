"""MIOpen on AMD's GPUs (`rocm -libs=miopen`): convolutions, pools and softmax in NCHW, float32 and float16.

None of this has run on a GPU yet: it was tested against a library that stands in for MIOpen and checks its calls.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from ...fuse.library import ADDRESS, Executable, Library, Region
from ...ir.errors import LibraryCallError
from ...ir.types import TensorType
from ..calls import position, rules_for, tensors
from ..layers import (
    POOLS,
    SOFTMAX,
    Convolution,
    caller,
    convolution,
    pool,
    softmax_shape,
    why_not_convolution,
    why_not_pool,
    why_not_softmax,
)
from ..vendor import Handle, log_search, scalar
from . import ffi
from .ffi import MIOPEN

PRIORITY = 25
MOST_ALGORITHMS = 8


def _tensor(shape: Sequence[int], dtype: str) -> Handle:
    """The descriptor of a tensor of four dimensions in row order."""
    made = MIOPEN.new("miopenCreateTensorDescriptor", "miopenDestroyTensorDescriptor")
    MIOPEN.call("miopenSet4dTensorDescriptor", made, ffi.DTYPES[dtype], *shape)
    return made


class _Descriptors:
    """What MIOpen is told of a convolution."""

    def __init__(self, c: Convolution) -> None:
        self.x, self.w, self.y = (_tensor(shape, c.dtype) for shape in (c.data, c.weights, c.out))
        self.conv = MIOPEN.new("miopenCreateConvolutionDescriptor", "miopenDestroyConvolutionDescriptor")
        sizes = (*c.padding, *c.strides, *c.dilation)
        MIOPEN.call("miopenInitConvolutionDescriptor", self.conv, ffi.CONVOLUTION, *sizes)
        MIOPEN.call("miopenSetConvolutionGroupCount", self.conv, c.groups)


def _search(queue: Any, handle: Handle, c: Convolution, d: _Descriptors) -> ffi.Performance:
    """The fastest algorithm. MIOpen wants a search for each handle before the first call, on memory like the real one.

    Raises:
        LibraryCallError: MIOpen fails, or finds none.

    """
    size, count = ctypes.c_size_t(), ctypes.c_int()
    MIOPEN.call("miopenConvolutionForwardGetWorkSpaceSize", handle, d.w, d.x, d.conv, d.y, ctypes.byref(size))
    nbytes = [TensorType(shape, c.dtype).nbytes for shape in (c.data, c.weights, c.out)]
    blocks = [queue.device.allocate(n, "MIOpen's search") for n in (*nbytes, size.value)]
    x, w, y, scratch = (block.address for block in blocks)
    results = (ffi.Performance * MOST_ALGORITHMS)()
    MIOPEN.call("miopenFindConvolutionForwardAlgorithm", handle, d.x, x, d.w, w, d.conv, d.y, y, MOST_ALGORITHMS,
                ctypes.byref(count), results, scratch, size.value, False)  # fmt: skip
    queue.device.wait()  # before the memory goes
    found = sorted(results[: count.value], key=lambda r: r.time)
    if not found:
        raise LibraryCallError(f"MIOpen found no algorithm for {c}")
    told = [(ffi.ALGORITHMS.get(r.algo, f"algorithm {r.algo}"), r.time, r.memory) for r in found]
    log_search(MIOPEN.title, "forward algorithms", f"conv2d {c}", told, told[0][0])
    return found[0]


def _conv2d(region: Region) -> Executable:
    call, queue = region.call, region.queue
    c = convolution(call)
    with MIOPEN.session(queue) as handle:
        d = _Descriptors(c)
        found = _search(queue, handle, c, d)
    queue.reserve(found.memory)
    return _Conv2d(queue, d, found, *(position(region, arg) for arg in call.args))


@frozen(eq=False)
class _Conv2d:
    """A prepared convolution: `x` and `w` are positions among the region's inputs."""

    queue: Any
    d: _Descriptors
    found: ffi.Performance
    x: int
    w: int

    def __call__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        d, found = self.d, self.found
        with MIOPEN.session(self.queue) as handle:
            MIOPEN.call("miopenConvolutionForward", handle, scalar(1.0), d.x, inputs[self.x], d.w, inputs[self.w],
                        d.conv, found.algo, scalar(0.0), d.y, outputs[0], self.queue.scratch, found.memory)  # fmt: skip


def _pool(region: Region) -> Executable:
    p = pool(region.call)
    how = MIOPEN.new("miopenCreatePoolingDescriptor", "miopenDestroyPoolingDescriptor")
    MIOPEN.call("miopenSet2dPoolingDescriptor", how, ffi.POOLING[p.kind], *p.window, *p.padding, *p.strides)
    x, y = _tensor(p.data, p.dtype), _tensor(p.out, p.dtype)
    return caller(MIOPEN, "miopenPoolingForward", region, x, y, before=(how,), after=(False, None, 0))


def _softmax(region: Region) -> Executable:
    call = region.call
    data = _tensor(softmax_shape(call), tensors(call)[0].dtype)
    algorithm = ffi.SOFTMAX_LOG if "log" in str(call.op) else ffi.SOFTMAX_ACCURATE
    return caller(MIOPEN, "miopenSoftmaxForward_V2", region, data, data, after=(algorithm, ffi.MODE_CHANNEL))


_TABLE = (
    (("nn.conv2d",), why_not_convolution, _conv2d),
    (POOLS, why_not_pool, _pool),
    (SOFTMAX, why_not_softmax, _softmax),
)

LIBRARY = Library(
    "miopen",
    targets=("rocm",),
    rules=[
        rule
        for ops, why_not, implement in _TABLE
        for rule in rules_for("miopen", ops, tuple(ffi.DTYPES), why_not, implement, memory=ADDRESS, priority=PRIORITY)
    ],
    probe=MIOPEN.probe,
)
