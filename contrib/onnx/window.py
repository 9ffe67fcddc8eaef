"""Convolutions and pooling."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ... import ops
from ...fuse.graph import tensor_type
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import nn
from .linear import shape_of
from .node import Node, constant
from .registry import translate
from .values import limited

CONV = {1: nn.conv1d, 2: nn.conv2d, 3: nn.conv3d}
CONV_TRANSPOSE = {1: nn.conv1d_transpose, 2: nn.conv2d_transpose, 3: nn.conv3d_transpose}
MAX_POOL = {1: nn.max_pool1d, 2: nn.max_pool2d, 3: nn.max_pool3d}
AVG_POOL = {1: nn.avg_pool1d, 2: nn.avg_pool2d, 3: nn.avg_pool3d}


def spatial_rank(node: Node) -> int:
    """The number of spatial axes: 1, 2 or 3."""
    rank = node.rank() - 2
    if rank not in CONV:
        raise FusewireError(f"{rank} spatial dimensions are not supported: expected 1, 2 or 3")
    return rank


def numbers(node: Node, name: str, rank: int, default: int = 1) -> list[int]:
    """An attribute with one number, `default` or more, for each spatial axis."""
    found = list(node.attr(name) or [default] * rank)
    if len(found) != rank or any(n < default for n in found):
        raise FusewireError(f"{name} is {found}, expected {rank} numbers from {default} on")
    return found


def given_pads(node: Node, rank: int) -> list[int]:
    """The attribute `pads`: all starts before all ends, by default 0."""
    found = list(node.attr("pads") or [0] * (2 * rank))
    if len(found) != 2 * rank:
        raise FusewireError(f"pads has {len(found)} entries, expected {2 * rank}")
    return found


AUTO = ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER")


def pads_of(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Padding, all starts before all ends; `auto_pad` worked out."""
    rank = len(kernel)
    auto = node.one_of("auto_pad", "NOTSET", AUTO)
    if auto in ("NOTSET", ""):
        return given_pads(node, rank)
    if auto == "VALID":
        return [0] * (2 * rank)
    starts, ends = [], []
    for size, k, s, d in zip(node.shape()[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less = total // 2
        starts.append(less if auto == "SAME_UPPER" else total - less)
        ends.append(total - starts[-1])
    return starts + ends


def convolution(node: Node, data: Expr, weight: Expr, out_dtype: str = "") -> Expr:
    """A convolution with the attributes of `node`, without bias."""
    rank = spatial_rank(node)
    shape = tensor_type(weight).static_shape
    if len(shape) != rank + 2:
        raise FusewireError(f"the weight must have {rank + 2} dimensions, got the shape {shape}")
    kernel = list(shape[2:])
    strides, dilations = numbers(node, "strides", rank), numbers(node, "dilations", rank)
    pads = pads_of(node, kernel, strides, dilations)
    return CONV[rank](
        data, weight, strides, pads, dilations, node.attr("group", 1), shape[0], kernel, out_dtype=out_dtype
    )


@translate("Conv")
def conv(node: Node) -> Expr:
    """With an optional bias."""
    done = convolution(node, node[0], node[1])
    return nn.bias_add(done, node[2]) if node.has(2) else done


@translate("ConvTranspose")
def conv_transpose(node: Node) -> Expr:
    """The padding may follow from the wanted output shape."""
    rank = spatial_rank(node)
    kernel = node.shape(1, rank + 2)[2:]
    strides, dilations = numbers(node, "strides", rank), numbers(node, "dilations", rank)
    extra = numbers(node, "output_padding", rank, 0)
    pads, groups = _transposed_pads(node, kernel, strides, dilations, extra), node.attr("group", 1)
    channels = node.shape(1)[1] * groups
    cut = [max(-p, 0) for p in pads]
    done = CONV_TRANSPOSE[rank](
        node[0], node[1], strides, [max(p, 0) for p in pads], dilations, groups, channels, kernel, output_padding=0
    )
    widths = [(0, 0)] * 2 + [(cut[k], cut[rank + k] + extra[k]) for k in range(rank)]
    if any(map(any, widths)):
        done = _extended(node, done, widths, pads, extra)
    return nn.bias_add(done, node[2]) if node.has(2) else done


def _extended(node: Node, done: Expr, widths: list[tuple[int, int]], pads: Sequence[int], extra: Sequence[int]) -> Expr:
    """Output padding: rows that were cut off at the end come back before zeros are added."""
    rank = len(extra)
    strides, dilations = numbers(node, "strides", rank), numbers(node, "dilations", rank)
    kernel, groups = node.shape(1)[2:], node.attr("group", 1)
    ends = [max(pads[rank + k], 0) for k in range(rank)]
    back = [min(e, x) for e, x in zip(ends, extra, strict=True)]
    if any(back):
        starts = [max(p, 0) for p in pads[:rank]]
        padding = starts + [e - b for e, b in zip(ends, back, strict=True)]
        done = CONV_TRANSPOSE[rank](
            node[0], node[1], strides, padding, dilations, groups, node.shape(1)[1] * groups, kernel, output_padding=0
        )
        widths = [*widths[:2], *((b, e - back[k]) for k, (b, e) in enumerate(widths[2:]))]
    return nn.pad(done, widths, constant(0, node.dtype())) if any(map(any, widths)) else done


def _transposed_pads(
    node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extra: Sequence[int]
) -> list[int]:
    rank = len(kernel)
    auto, wanted = node.one_of("auto_pad", "NOTSET", AUTO), node.attr("output_shape")
    if not wanted and auto in ("NOTSET", "", "VALID"):
        return given_pads(node, rank)
    if wanted and len(wanted) not in (rank, rank + 2):
        raise FusewireError(f"output_shape has {len(wanted)} entries, expected {rank}")
    sizes = node.shape()[2:]
    wanted = list(wanted)[-rank:] if wanted else [n * s for n, s in zip(sizes, strides, strict=True)]
    starts, ends = [], []
    for k in range(rank):
        total = strides[k] * (sizes[k] - 1) + extra[k] + (kernel[k] - 1) * dilations[k] + 1 - wanted[k]
        less = total // 2
        starts.append(total - less if auto != "SAME_UPPER" else less)
        ends.append(total - starts[-1])
    return starts + ends


def _pool_window(node: Node) -> tuple[int, list[int], list[int], list[int], list[int]]:
    rank = spatial_rank(node)
    kernel = numbers(node, "kernel_shape", rank)
    strides, dilations = numbers(node, "strides", rank), numbers(node, "dilations", rank)
    return rank, kernel, strides, dilations, pads_of(node, kernel, strides, dilations)


def counts(node: Node) -> list[int]:
    """How many windows there are on each axis: with ceil_mode none that begins in the padding at the end."""
    rank, kernel, strides, dilations, pads = _pool_window(node)
    found = []
    for k, size in enumerate(node.shape()[2:]):
        room = size + pads[k] + pads[rank + k] - (kernel[k] - 1) * dilations[k] - 1
        if not node.attr("ceil_mode", 0):
            found.append(room // strides[k] + 1)
            continue
        count = -(-room // strides[k]) + 1
        found.append(count - 1 if (count - 1) * strides[k] >= size + pads[k] else count)
    if any(count < 0 for count in found):
        raise FusewireError(f"windows of {kernel} (dilations {dilations}) do not fit {node.shape()} with pads {pads}")
    return found


def _cut(node: Node, data: Expr) -> Expr:
    """Windows that ONNX does not count removed."""
    wanted, got = counts(node), shape_of(data)[2:]
    if any(w > g for w, g in zip(wanted, got, strict=True)):
        raise FusewireError(f"expected {wanted} windows, got {got}")
    if tuple(wanted) == got:
        return data
    return ops.strided_slice(data, [0] * len(wanted), wanted, axes=list(range(2, 2 + len(wanted))))


@translate("MaxPool")
def max_pool(node: Node) -> list[Expr]:
    """With the places of the maxima where they are asked for."""
    rank, kernel, strides, dilations, pads = _pool_window(node)
    ceil = bool(node.attr("ceil_mode", 0))
    if node.wants(1):
        return _max_pool_places(node)
    done = MAX_POOL[rank](node[0], kernel, strides, dilations, pads, ceil_mode=ceil)
    return [_cut(node, done) if ceil else done]


def _window_places(node: Node) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """For every window (rows) the row-major places of its elements in the plane, -1 in the padding."""
    rank, kernel, strides, dilations, pads = _pool_window(node)
    sizes, windows = node.shape()[2:], counts(node)
    limited(math.prod([*windows, *kernel]), "a table of places")
    flat = np.zeros([*windows, *kernel], np.int64)
    inside = np.ones(flat.shape, bool)
    for k in range(rank):
        at = np.arange(windows[k])[:, None] * strides[k] - pads[k] + np.arange(kernel[k]) * dilations[k]
        shape = [1] * (2 * rank)
        shape[k], shape[rank + k] = at.shape
        flat = flat * sizes[k] + at.reshape(shape)
        inside = inside & ((at >= 0) & (at < sizes[k])).reshape(shape)
    return np.where(inside, flat, -1).reshape(math.prod(windows), math.prod(kernel))


def _max_pool_places(node: Node) -> list[Expr]:
    shape = node.shape()
    planes, plane = math.prod(shape[:2]), math.prod(shape[2:])
    places = _window_places(node)
    data = ops.reshape(node[0], (planes, plane))
    taken = ops.take(data, constant(np.maximum(places, 0)), 1, mode="fast")
    lowest = -np.inf if node.is_float() else np.iinfo(node.dtype()).min
    masked = ops.where(constant(places >= 0), taken, constant(lowest, node.dtype()))
    best = ops.cast(ops.argmax(masked, 2), "int64")
    at = ops.add(best, constant(np.arange(len(places)) * places.shape[1]))
    found = ops.take(constant(_stored(node, places, shape)), at, mode="fast")
    found = ops.add(found, constant((np.arange(planes) * plane)[:, None]))
    out = (*shape[:2], *counts(node))
    return [ops.reshape(ops.max(masked, 2), out), ops.reshape(found, out)]


def _stored(node: Node, places: "np.ndarray[tuple[int, int], np.dtype[np.int64]]", shape: Sequence[int]) -> object:
    """Places in the storage order that is asked for: row-major, or column-major."""
    if not node.attr("storage_order", 0):
        return places.reshape(-1)
    at = np.unravel_index(np.maximum(places.reshape(-1), 0), shape[2:])
    return np.ravel_multi_index(at[::-1], shape[2:][::-1]).astype(np.int64)


@translate("AveragePool")
def average_pool(node: Node) -> Expr:
    """Elements of the padding count if count_include_pad is set."""
    rank, kernel, strides, dilations, pads = _pool_window(node)
    ceil, include = bool(node.attr("ceil_mode", 0)), bool(node.attr("count_include_pad", 0))
    if ceil and include:
        return _average_with_pads(node)
    done = AVG_POOL[rank](node[0], kernel, strides, dilations, pads, ceil_mode=ceil, count_include_pad=include)
    return _cut(node, done) if ceil else done


def _average_with_pads(node: Node) -> Expr:
    """What hangs over the padding at the end does not count, as opposed to the padding itself."""
    rank, kernel, strides, dilations, pads = _pool_window(node)
    sums = _cut(node, _window_sums(node[0], rank, kernel, strides, dilations, pads, node))
    limited(math.prod(counts(node)), "a table of the sizes of windows")
    size = np.ones(counts(node))
    for k in range(rank):
        at = np.arange(counts(node)[k])[:, None] * strides[k] + np.arange(kernel[k]) * dilations[k]
        number = (at < node.shape()[2 + k] + pads[k] + pads[rank + k]).sum(1)
        size = size * number.reshape([-1 if a == k else 1 for a in range(rank)])
    return ops.divide(sums, constant(size, node.dtype()))


def _window_sums(
    data: Expr, rank: int, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    pads: Sequence[int], node: Node,
) -> Expr:  # fmt: skip
    """Sums over windows: with enough zeros at the end, means of full windows times their size."""
    widths = [(0, 0)] * 2
    for k, count in enumerate(counts(node)):
        need = (count - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1
        widths.append((pads[k], max(need - node.shape()[2 + k] - pads[k], 0)))
    full = nn.pad(data, widths, constant(0, node.dtype()))
    means = AVG_POOL[rank](full, kernel, strides, dilations, 0)
    return ops.multiply(means, constant(math.prod(kernel), node.dtype()))


@translate("LpPool")
def lp_pool(node: Node) -> Expr:
    """(sum of |x|^p)^(1/p) over windows."""
    rank, kernel, strides, dilations, pads = _pool_window(node)
    powers = _power(ops.abs(node[0]), node.count("p", 2), node.dtype())
    sums = _cut(node, _window_sums(powers, rank, kernel, strides, dilations, pads, node))
    return _power(sums, 1 / node.attr("p", 2), node.dtype())


def _power(x: Expr, exponent: float, dtype: str) -> Expr:
    if exponent == 1:
        return x
    if exponent == 0.5:
        return ops.sqrt(x)
    return ops.multiply(x, x) if exponent == 2 else ops.power(x, constant(exponent, dtype))


def _global(name: str, four: Callable[[Expr], Expr] | None, reduce: Callable[..., Expr]) -> None:
    @translate(name)
    def read(node: Node) -> Expr:
        if node.rank() == 4 and four:
            return four(node[0])
        return reduce(node[0], list(range(2, node.rank())), True)


_global("GlobalAveragePool", nn.global_avg_pool2d, ops.mean)
_global("GlobalMaxPool", nn.global_max_pool2d, ops.max)


@translate("GlobalLpPool")
def global_lp_pool(node: Node) -> Expr:
    """(sum of |x|^p)^(1/p) over all spatial axes."""
    powers = _power(ops.abs(node[0]), node.count("p", 2), node.dtype())
    return _power(ops.sum(powers, list(range(2, node.rank())), True), 1 / node.attr("p", 2), node.dtype())


@translate("Col2Im")
def col2im(node: Node) -> Expr:
    """Columns of blocks added up into an image."""
    sizes, block = node.ints(1), node.ints(2)
    rank = len(sizes)
    if len(block) != rank or min((*sizes, *block), default=0) < 1:
        raise FusewireError(f"cannot make an image of {sizes} pixels from blocks of {block}")
    strides, dilations, pads = numbers(node, "strides", rank), numbers(node, "dilations", rank), given_pads(node, rank)
    batch, rows, columns = node.shape(0, 3)
    channels = rows // math.prod(block)
    full = [n + pads[k] + pads[rank + k] for k, n in enumerate(sizes)]
    windows = [(f - (b - 1) * d - 1) // s + 1 for f, b, d, s in zip(full, block, dilations, strides, strict=True)]
    if min(pads) < 0 or min(windows) < 1 or columns != math.prod(windows) or rows % math.prod(block):
        raise FusewireError(f"{rows} by {columns} elements are no blocks of {block} in {windows} places (pads {pads})")
    limited(batch * rows * columns, "a table of places")
    flat = np.zeros([*block, *windows], np.int64)
    for k in range(rank):
        at = np.arange(block[k])[:, None] * dilations[k] + np.arange(windows[k]) * strides[k]
        flat = flat * full[k] + at.reshape(
            [block[k] if a == k else windows[k] if a == rank + k else 1 for a in range(2 * rank)]
        )
    places = constant(np.broadcast_to(flat.reshape(-1), (batch, channels, flat.size)).copy())
    image = ops.scatter_elements(
        ops.zeros((batch, channels, math.prod(full)), node.dtype()),
        places, ops.reshape(node[0], (batch, channels, flat.size)), 2, "add",
    )  # fmt: skip
    image = ops.reshape(image, (batch, channels, *full))
    begin, end = pads[:rank], [pads[k] + sizes[k] for k in range(rank)]
    return ops.strided_slice(image, begin, end, axes=list(range(2, 2 + rank)))
