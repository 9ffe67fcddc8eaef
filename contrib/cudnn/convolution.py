"""Convolutions of cuDNN in float32: the search for the fastest algorithm, and calls with what follows absorbed.

cuDNN times its algorithms itself. The search is done once for each convolution and device in a process, when a module
is made; it is logged, fastest first. CUDNN_FMA_MATH keeps arithmetic in float32: without it, as with `-precision=tf32`,
the factors of products may be rounded to TF32.
"""

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ...fuse.chain import Chain
from ...fuse.dataflow_pattern import Match
from ...fuse.library import Executable, Region
from ...fuse.postops import ADD, BIAS, RELU
from ...ir.errors import LibraryCallError
from ..calls import anchor_call, position
from ..layers import Convolution, addend, convolution, why_not_convolution
from ..vendor import Handle, log_search, scalar
from . import ffi
from .ffi import CUDNN

CHAIN = Chain("nn.conv2d", [[ADD, BIAS], [ADD], [RELU]])
"""y = relu(conv(x) + bias + z), each part of which may be missing."""

MOST_SCRATCH = 1 << 30
"""Bytes of scratch of an algorithm; one that wants more is not chosen."""

_lock = threading.Lock()
_found: dict[tuple[str, Convolution, int], "list[Found]"] = {}


@frozen
class Found:
    """An algorithm that works: its number, milliseconds, bytes of scratch, and how it computes (cudnnMathType_t)."""

    algorithm: int
    milliseconds: float
    nbytes: int
    math: int

    @property
    def name(self) -> str:
        """As cuDNN calls it."""
        known = self.algorithm < len(ffi.ALGORITHMS)
        return ffi.ALGORITHMS[self.algorithm] if known else f"algorithm {self.algorithm}"


def why_not(match: Match) -> str | None:
    """Why cuDNN cannot take a convolution with what follows, or None."""
    links = CHAIN.links(match)
    if reason := why_not_convolution(anchor_call(links.anchor), ("float32",)):
        return reason
    kinds = []
    for link in links.steps:
        if link.post_op is RELU:
            continue
        kinds.append(addend(link, axis=1))
        if kinds[-1] is None:
            return f"the operand of {link.post_op.name} is neither a bias of the channels nor as large as the result"
        if kinds.count(kinds[-1]) > 1:
            return f"there are two sums with a {kinds[-1]}, cuDNN has one"
    return None


class _Descriptors:
    """What cuDNN is told of a convolution; `math` is how it may compute."""

    def __init__(self, c: Convolution, math: int) -> None:
        self.math = math
        self.x, self.y, self.bias = (tensor(shape) for shape in (c.data, c.out, (1, c.out[1], 1, 1)))
        self.w = CUDNN.new("cudnnCreateFilterDescriptor", "cudnnDestroyFilterDescriptor")
        CUDNN.call("cudnnSetFilter4dDescriptor", self.w, ffi.FLOAT, ffi.NCHW, *c.weights)
        self.conv = CUDNN.new("cudnnCreateConvolutionDescriptor", "cudnnDestroyConvolutionDescriptor")
        sizes = (*c.padding, *c.strides, *c.dilation)
        CUDNN.call("cudnnSetConvolution2dDescriptor", self.conv, *sizes, ffi.CROSS_CORRELATION, ffi.FLOAT)
        CUDNN.call("cudnnSetConvolutionGroupCount", self.conv, c.groups)
        CUDNN.call("cudnnSetConvolutionMathType", self.conv, math)
        self.relu = CUDNN.new("cudnnCreateActivationDescriptor", "cudnnDestroyActivationDescriptor")
        CUDNN.call("cudnnSetActivationDescriptor", self.relu, ffi.RELU, ffi.PROPAGATE_NAN, 0.0)


def tensor(shape: Sequence[int], dtype: str = "float32") -> Handle:
    """The descriptor of a tensor of four dimensions."""
    made = CUDNN.new("cudnnCreateTensorDescriptor", "cudnnDestroyTensorDescriptor")
    CUDNN.call("cudnnSetTensor4dDescriptor", made, ffi.NCHW, ffi.DTYPES[dtype], *shape)
    return made


def search(handle: Handle, c: Convolution, d: _Descriptors, device: str) -> list[Found]:
    """The algorithms that work for a convolution on a device, fastest first.

    Raises:
        LibraryCallError: cuDNN fails, or has no algorithm.

    """
    key = device, c, d.math
    with _lock:
        if key in _found:
            return _found[key]
        most, count = ctypes.c_int(), ctypes.c_int()
        CUDNN.call("cudnnGetConvolutionForwardAlgorithmMaxCount", handle, ctypes.byref(most))
        results = (ffi.Performance * max(most.value, 1))()
        CUDNN.call("cudnnFindConvolutionForwardAlgorithm", handle, d.x, d.w, d.conv, d.y, len(results),
                   ctypes.byref(count), results)  # fmt: skip
        # What rounds factors says so.
        fitting = (ffi.FMA_MATH, ffi.DEFAULT_MATH) if d.math == ffi.FMA_MATH else range(4)
        working = [Found(r.algo, r.time, r.memory, r.mathType) for r in results[: count.value]
                   if not r.status and r.mathType in fitting]  # fmt: skip
        best: dict[int, Found] = {}
        for found in sorted(working, key=lambda f: f.milliseconds):
            best.setdefault(found.algorithm, found)
        _found[key] = list(best.values())
        _tell(c, _found[key])
        return _found[key]


def _tell(c: Convolution, found: Sequence[Found]) -> None:
    chosen = next((f.name for f in found if f.nbytes <= MOST_SCRATCH), "none")
    told = [(f.name, f.milliseconds, f.nbytes) for f in found]
    log_search(CUDNN.title, "forward algorithms", f"conv2d {c}", told, chosen)


def _chosen(found: Sequence[Found], c: Convolution) -> Found:
    for f in found:
        if f.nbytes <= MOST_SCRATCH:
            return f
    least = f", the least of {min(f.nbytes for f in found)} bytes of workspace" if found else ""
    raise LibraryCallError(f"cuDNN found {len(found)} algorithms in float32{least} for {c}")


def implement(region: Region) -> Executable:
    """Search, reserve the workspace, and say how to call cuDNN."""
    links, queue = CHAIN.links(region.function), region.queue
    call = anchor_call(links.anchor)
    c = convolution(call)
    places = {"x": position(region, call.args[0]), "w": position(region, call.args[1])}
    for link in links.steps:
        if link.operand is not None:
            places[addend(link, axis=1) or ""] = position(region, link.operand)
    relu = any(link.post_op is RELU for link in links.steps)
    with CUDNN.session(queue) as handle:
        d = _Descriptors(c, ffi.DEFAULT_MATH if region.precision == "tf32" else ffi.FMA_MATH)
        found = _chosen(search(handle, c, d, queue.device.identity), c)
        if d.math != ffi.FMA_MATH:  # what was timed
            CUDNN.call("cudnnSetConvolutionMathType", d.conv, found.math)
        queue.reserve(found.nbytes)
        zeros = queue.device.allocate(4 * c.out[1], "a bias of zeros") if relu and "bias" not in places else None
        if zeros is not None:
            queue.device.write(zeros.address, np.zeros(c.out[1], np.float32))
    return _Call(queue, d, found, places, relu, zeros)


@frozen(eq=False)
class _Call:
    """A prepared convolution: `places` are positions among the region's inputs."""

    queue: Any
    d: _Descriptors
    found: Found
    places: dict[str, int]
    relu: bool
    zeros: Any

    def __call__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        given = {name: inputs[place] for name, place in self.places.items()}
        with CUDNN.session(self.queue) as handle:
            (self._fused if self.relu else self._plain)(handle, given, outputs[0])

    def _product(self, given: dict[str, int]) -> tuple[Any, ...]:
        d, found = self.d, self.found
        return d.x, given["x"], d.w, given["w"], d.conv, found.algorithm, self.queue.scratch, found.nbytes

    def _fused(self, handle: Handle, given: dict[str, int], y: int) -> None:
        """One call; a residual that is missing counts nothing, but its place must be there."""
        d, bias = self.d, given.get("bias") or self.zeros.address
        residual = scalar(1.0 if "residual" in given else 0.0), d.y, given.get("residual", y)
        CUDNN.call("cudnnConvolutionBiasActivationForward", handle, scalar(1.0), *self._product(given), *residual,
                   d.bias, bias, d.relu, d.y, y)  # fmt: skip

    def _plain(self, handle: Handle, given: dict[str, int], y: int) -> None:
        """Without an activation the one call is there for one algorithm only; sums are calls of their own."""
        d = self.d
        CUDNN.call("cudnnConvolutionForward", handle, scalar(1.0), *self._product(given), scalar(0.0), d.y, y)
        for name, shape in (("bias", d.bias), ("residual", d.y)):
            if name in given:
                CUDNN.call("cudnnAddTensor", handle, scalar(1.0), shape, given[name], scalar(1.0), d.y, y)
