"""Operators that rearrange tensors, and those that compute with shapes."""

import math
from collections.abc import Sequence

import numpy as np

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Constant, Expr
from ...ir.types import TensorType
from ...ops import nn
from ...ops.binary import broadcast_shape
from .dtypes import dtype_of
from .node import Node, constant
from .registry import translate
from .sizes import reshape_codes
from .values import LARGEST, Value, limited


@translate("Shape")
def shape(node: Node) -> Expr:
    """Known at once where the shape is static."""
    start, end = node.attr("start", 0), node.attr("end")
    kept = slice(start, end)
    if node.type().is_static:
        return constant(np.array(node.shape()[kept], np.int64))
    dims = node.dims()[kept]
    if all(isinstance(d, int) for d in dims):
        return constant(np.array(dims, np.int64))
    whole = ops.shape_of(node[0], "int64")
    first, last, _ = kept.indices(node.rank())
    return ops.strided_slice(whole, [first], [last])


@translate("Size")
def size(node: Node) -> Expr:
    """The number of elements."""
    if node.type().is_static:
        return constant(_counted(node.shape()), "int64")
    return ops.ndarray_size(node[0], "int64")


def _counted(sizes: Sequence[int]) -> int:
    """The product of sizes, which must be an int64."""
    count = math.prod(sizes)
    if count >= 2**63:
        raise FusewireError(f"a tensor of the shape {tuple(sizes)} has {count} elements, which is more than an int64")
    return count


@translate("Reshape")
def reshape(node: Node) -> Expr:
    """The new shape must be known."""
    wanted = node.sizes(1, "the new shape")
    if any(isinstance(s, int) and s < -1 for s in wanted):
        raise FusewireError(f"invalid shape {wanted}")
    sizes = reshape_codes(node.dims(), wanted)
    return ops.reshape(node[0], sizes, allowzero=bool(node.attr("allowzero", 0)))


@translate("Flatten")
def flatten(node: Node) -> Expr:
    """A matrix, cut before `axis`."""
    rank = node.rank()
    axis = node.attr("axis", 1)
    if not -rank <= axis <= rank:
        raise FusewireError(f"axis {axis} is out of range for {rank} dimensions")
    axis = axis + rank if axis < 0 else axis
    if axis == 1 and not node.type().is_static:
        return nn.batch_flatten(node[0])
    dims = node.shape()
    return ops.reshape(node[0], (_counted(dims[:axis]), _counted(dims[axis:])), allowzero=True)


@translate("Transpose")
def transpose(node: Node) -> Expr:
    """By default the axes in reverse order."""
    return ops.transpose(node[0], node.attr("perm"))


def axes_argument(node: Node) -> tuple[int, ...] | None:
    """The axes of Squeeze and Unsqueeze: an attribute before opset 13, then an input."""
    if node.has(1):
        return node.ints(1, "the axes")
    given = node.attr("axes")
    return None if given is None else tuple(given)


@translate("Squeeze")
def squeeze(node: Node) -> Expr:
    """Without axes: all of size 1."""
    axes = axes_argument(node)
    return node[0] if axes == () else ops.squeeze(node[0], axes)


@translate("Unsqueeze")
def unsqueeze(node: Node) -> Expr:
    """Axes are those of the result."""
    axes = axes_argument(node)
    if axes is None:
        raise FusewireError("the axes are missing")
    rank = node.rank() + len(axes)
    places = sorted(a + rank if a < 0 else a for a in axes)
    if len(set(places)) < len(places) or any(not 0 <= p < rank for p in places):
        raise FusewireError(f"axes {axes} are repeated or out of range for {rank} dimensions")
    data = node[0]
    for place in places:
        data = ops.expand_dims(data, place)
    return data


@translate("Concat")
def concat(node: Node) -> Expr:
    """Joins the inputs along an axis."""
    if "axis" not in node.attributes:
        raise FusewireError("the attribute axis is missing")
    return node[0] if len(node.inputs) == 1 else ops.concatenate(node.tensors, node.axis(0))


@translate("Split")
def split(node: Node) -> list[Expr]:
    """Into given sizes, or into as many parts as there are outputs; the last one may be smaller."""
    if not node.rank():
        raise FusewireError("a scalar cannot be split")
    axis = node.axis(0)
    total = node.length(axis)
    sizes: Sequence[int] = node.ints(1, "the sizes") if node.has(1) else node.attr("split", ())
    if not sizes:
        count = node.count("num_outputs", len(node.proto.output))
        if count != len(node.proto.output):
            raise FusewireError(f"num_outputs is {count}, but there are {len(node.proto.output)} outputs")
        part = -(-total // count)
        sizes = [part] * (count - 1) + [total - part * (count - 1)]
    if sum(sizes) != total or any(s < 0 for s in sizes):
        raise FusewireError(f"cannot split {total} elements into {tuple(sizes)}")
    if len(sizes) == 1:
        return [node[0]]
    parts = ops.split(node[0], [int(p) for p in np.cumsum(sizes)[:-1]], axis)
    return [parts[k] for k in range(len(sizes))]


def sliced(data: Expr, dims: Sequence[int], ranges: dict[int, tuple[int, int, int]]) -> Expr:
    """`data[begin:end:step]` on some axes, by the rules of Python."""
    axes = sorted(ranges)
    begins, ends, steps = [], [], []
    for axis in axes:
        begin, end, step = slice(*ranges[axis]).indices(dims[axis])
        begins.append(begin)
        # Before the first element: -1 would count from the end.
        ends.append(end if end >= 0 else -dims[axis] - 1)
        steps.append(step)
    return ops.strided_slice(data, begins, ends, steps, axes) if axes else data


@translate("Slice")
def slice_attributes(node: Node) -> Expr:
    """Before opset 10: attributes."""
    starts, ends = node.attr("starts"), node.attr("ends")
    return _slice(node, starts, ends, node.attr("axes") or range(len(starts)), [1] * len(starts))


@translate("Slice", since=10)
def slice_inputs(node: Node) -> Expr:
    """Starts, ends, axes and steps are inputs."""
    starts, ends = node.ints(1, "the starts"), node.ints(2, "the ends")
    axes = node.ints(3, "the axes") if node.has(3) else range(len(starts))
    return _slice(node, starts, ends, axes, node.ints(4, "the steps") if node.has(4) else [1] * len(starts))


def _slice(node: Node, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Expr:
    rank, dims = node.rank(), node.dims()
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise FusewireError(f"starts, ends, axes and steps differ in length: {starts}, {ends}, {axes}, {steps}")
    if any(not -rank <= a < rank for a in axes) or 0 in steps:
        raise FusewireError(f"axes {tuple(axes)} are out of range for {rank} dimensions, or a step is 0")
    ranges = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if isinstance(dims[axis % rank], int) or (start, step) != (0, 1) or end < 2**31 - 1:
            ranges[axis % rank] = (start, end, step)
    known = [d if isinstance(d, int) else node.shape()[k] if k in ranges else 0 for k, d in enumerate(dims)]
    return sliced(node[0], known, ranges)


@translate("Tile")
def tile(node: Node) -> Expr:
    """Repeats must be known; 0 gives an empty tensor."""
    reps = node.ints(1, "the repeats")
    if 0 in reps and len(reps) != node.rank():
        raise FusewireError(f"got {len(reps)} repeats for {node.rank()} dimensions")
    if 0 in reps:
        return ops.zeros([n * r for n, r in zip(node.shape(), reps, strict=True)], node.dtype())
    return ops.tile(node[0], reps) if reps else node[0]


@translate("Expand")
def expand(node: Node) -> Expr:
    """Broadcast both ways: sizes of 1 in the wanted shape keep those of the data."""
    wanted = TensorType(broadcast_shape(node.dims(), node.ints(1, "the shape")))
    return ops.broadcast_to(node[0], wanted.static_shape)


@translate("ConstantOfShape")
def constant_of_shape(node: Node) -> Expr:
    """Filled with the attribute `value`, 0.0 if it is left out."""
    sizes = node.ints(0, "the shape")
    value = np.asarray(node.attr("value", np.zeros(1, np.float32)))
    if any(s < 0 for s in sizes):
        raise FusewireError(f"negative sizes in the shape {sizes}")
    if value.size != 1:
        raise FusewireError(f"the value must be one number, got the shape {value.shape}")
    return ops.full(Constant(value.reshape(-1)[0]), sizes, value.dtype.name)


@translate("EyeLike")
def eye_like(node: Node) -> Expr:
    """Ones on a diagonal."""
    dtype = dtype_of(node.attr("dtype")) if "dtype" in node.attributes else node.dtype()
    rows, columns = node.shape(0, 2)
    limited(rows * columns, "the matrix")
    diagonal = min(max(node.attr("k", 0), -rows), columns)
    return constant(np.eye(rows, columns, diagonal), dtype)


@translate("Range")
def range_(node: Node) -> Expr:
    """Its limits must be known: they decide the shape."""
    start, limit, step = (node.scalar(k) for k in range(3))
    if step == 0 or not math.isfinite(start) or not abs((limit - start) / step) < LARGEST // 8:
        raise FusewireError(f"a range from {start} to {limit} in steps of {step} has no end, or too many elements")
    return constant(np.arange(start, limit, step), node.dtype())


@translate("Constant")
def constant_node(node: Node) -> Value:
    """A tensor or a number as an attribute."""
    for name, value in node.attributes.items():
        if name == "value":
            return Constant(np.asarray(value))
        if name in ("value_float", "value_floats"):
            return constant(np.asarray(value), "float32")
        if name in ("value_int", "value_ints"):
            return constant(np.asarray(value), "int64")
    raise FusewireError(f"constants of kind {', '.join(node.attributes) or 'none'} are not supported")


def padded(data: Expr, dims: Sequence[int], pads: Sequence[tuple[int, int]], mode: str, value: Expr) -> Expr:
    """Padding in any of ONNX's modes; negative widths cut elements off."""
    cut = {
        k: (max(-b, 0), n - max(-e, 0), 1)
        for k, ((b, e), n) in enumerate(zip(pads, dims, strict=True))
        if b < 0 or e < 0
    }
    data = sliced(data, dims, cut)
    sizes = [n + min(b, 0) + min(e, 0) for (b, e), n in zip(pads, dims, strict=True)]
    widths = [(max(b, 0), max(e, 0)) for b, e in pads]
    if not any(map(any, widths)):
        return data
    if mode == "constant":
        return nn.pad(data, widths, value)
    for axis, (width, size) in enumerate(zip(widths, sizes, strict=True)):
        if any(width):
            limited(size + sum(width), "a padded axis")
            if size < 1:
                raise FusewireError(f"there is nothing to pad axis {axis} with in mode {mode!r}")
            # Positions padded like data: any number of wraps and reflections is a plain selection.
            places = np.pad(np.arange(size), width, mode=mode)  # type: ignore[call-overload]
            data = ops.take(data, constant(places.astype(np.int64)), axis, mode="fast")
    return data


@translate("Pad")
def pad_attributes(node: Node) -> Expr:
    """Before opset 11: attributes."""
    pads = node.attr("pads") or node.attr("paddings") or [0] * (2 * node.rank())
    value = constant(node.attr("value", 0.0), node.dtype())
    return _pad(node, pads, range(node.rank()), value)


@translate("Pad", since=11)
def pad_inputs(node: Node) -> Expr:
    """Widths, value and axes are inputs."""
    axes = node.ints(3, "the axes") if node.has(3) else range(node.rank())
    value = ops.reshape(node[2], ()) if node.has(2) else constant(0, node.dtype())
    return _pad(node, node.ints(1, "the widths"), axes, value)


def _pad(node: Node, pads: Sequence[int], axes: Sequence[int], value: Expr) -> Expr:
    rank, count = node.rank(), len(axes)
    if len(pads) != 2 * count:
        raise FusewireError(f"got {len(pads)} pads for {count} axes")
    widths = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        widths[node.place(axis, rank)] = (pads[k], pads[count + k])
    mode = node.one_of("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    return padded(node[0], node.shape(), widths, mode, value)


@translate("DepthToSpace")
def depth_to_space(node: Node) -> Expr:
    """Channels as blocks of pixels."""
    mode = node.one_of("mode", "DCR", ("DCR", "CRD"))
    return nn.depth_to_space(node[0], node.count("blocksize"), mode=mode)


@translate("SpaceToDepth")
def space_to_depth(node: Node) -> Expr:
    """Blocks of pixels as channels."""
    b = node.count("blocksize")
    if node.one_of("mode", "DCR", ("DCR", "CRD")) == "DCR":
        return nn.space_to_depth(node[0], b)
    batch, channels, height, width = node.shape(0, 4)
    blocks = ops.reshape(node[0], (batch, channels, height // b, b, width // b, b))
    moved = ops.transpose(blocks, [0, 1, 3, 5, 2, 4])
    return ops.reshape(moved, (batch, channels * b * b, height // b, width // b))


@translate("Trilu")
def trilu(node: Node) -> Expr:
    """The upper or lower triangle; the diagonal may depend on inputs."""
    if node.rank() < 2:
        raise FusewireError(f"the input must have 2 dimensions at least, got {node.rank()}")
    rows, columns = node.shape()[-2:]
    limited(rows * columns, "a table of diagonals")
    offset = constant(np.arange(columns)[None, :] - np.arange(rows)[:, None], "int64")
    diagonal = ops.reshape(node[1], ()) if node.has(1) else constant(0, "int64")
    compare = ops.greater_equal if node.attr("upper", 1) else ops.less_equal
    if not rows * columns:
        return node[0]
    return ops.where(compare(offset, diagonal), node[0], constant(0, node.dtype()))


@translate("ReverseSequence")
def reverse_sequence(node: Node) -> Expr:
    """The first elements of each batch entry in reverse order."""
    return ops.reverse_sequence(node[0], node[1], node.attr("time_axis", 0), node.attr("batch_axis", 1))
