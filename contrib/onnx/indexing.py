"""Reading and writing at places that tensors hold: the gather and scatter families, TopK, OneHot."""

import math
from collections.abc import Sequence

import numpy as np

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from .node import Node, constant
from .registry import translate
from .values import limited
from .window import numbers, pads_of, spatial_rank

REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}


def _reduction(node: Node) -> str:
    name = node.attr("reduction", "none")
    if name not in REDUCTIONS:
        raise FusewireError(f"unknown reduction {name!r}")
    return REDUCTIONS[name]


@translate("Gather")
def gather(node: Node) -> Expr:
    """Slices along an axis; negative places count from the end."""
    axis, places = node.axis(0), node.known(1)
    size = node.dims()[axis]
    if places is None or not isinstance(size, int):
        return ops.take(node[0], node[1], axis, mode="wrap")
    if ((places < -size) | (places >= size)).any():
        raise FusewireError(f"indices outside of axis {axis}, which has {size} elements")
    return ops.take(node[0], constant(np.where(places < 0, places + size, places)), axis, mode="fast")


@translate("GatherElements")
def gather_elements(node: Node) -> Expr:
    """As np.take_along_axis."""
    return ops.gather(node[0], node.axis(0), node[1])


def _first_last(indices: Expr, rank: int) -> Expr:
    """The last axis, which runs over the addressed dimensions, put first."""
    return ops.transpose(indices, [rank - 1, *range(rank - 1)])


@translate("GatherND")
def gather_nd(node: Node) -> Expr:
    """Slices at places of several dimensions."""
    return ops.gather_nd(node[0], _first_last(node[1], node.rank(1)), node.attr("batch_dims", 0))


@translate("Scatter", "ScatterElements")
def scatter_elements(node: Node) -> Expr:
    """Elements combined along an axis."""
    return ops.scatter_elements(node[0], node[1], node[2], node.axis(0), _reduction(node))


@translate("ScatterND")
def scatter_nd(node: Node) -> Expr:
    """Slices combined at places of several dimensions."""
    return ops.scatter_nd(node[0], _first_last(node[1], node.rank(1)), node[2], _reduction(node))


@translate("OneHot")
def one_hot(node: Node) -> Expr:
    """Negative indices count from the end; others outside give the off value."""
    depth = node.scalar(1)
    if not 0 < depth < 2**62:
        raise FusewireError(f"the depth is {depth}, expected a number of classes")
    depth = int(depth)
    indices = node[0] if node.dtype() == "int64" else ops.cast(node[0], "int64")
    count = constant(depth, "int64")
    indices = ops.where(ops.less(indices, constant(0, "int64")), ops.add(indices, count), indices)
    off, on = (ops.squeeze(ops.strided_slice(node[2], [k], [k + 1]), [0]) for k in (0, 1))
    last = node.rank()
    axis = node.axis(-1, last + 1)
    return ops.one_hot(indices, on, off, depth, -1 if axis == last else axis, node.dtype(2))


@translate("TopK")
def top_k(node: Node) -> list[Expr]:
    """`k` is an attribute before opset 10, then an input."""
    k = int(node.scalar(1)) if node.has(1) else int(node.attr("k"))
    axis = node.axis(-1)
    if not 0 <= k <= node.shape()[axis]:
        raise FusewireError(f"k is {k}, but the axis has {node.shape()[axis]} elements")
    if k == 0:
        empty = [0 if a == axis else n for a, n in enumerate(node.shape())]
        return [ops.zeros(empty, node.dtype()), ops.zeros(empty, "int64")]
    found = ops.topk(node[0], k, axis, "both", not node.attr("largest", 1), "int64")
    return [found[0], found[1]]


@translate("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(node: Node) -> Expr:
    """Chosen columns."""
    data = node[0] if node.rank() > 1 else ops.expand_dims(node[0], 0)
    return ops.take(data, ops.reshape(node[1], (-1,)), max(node.rank(), 2) - 1)


@translate("MaxUnpool")
def max_unpool(node: Node) -> Expr:
    """Values put back to where MaxPool took them from."""
    shape, rank = node.shape(), spatial_rank(node)
    kernel, strides = numbers(node, "kernel_shape", rank), numbers(node, "strides", rank)
    pads = pads_of(node, kernel, strides, [1] * rank)
    window = zip(shape[2:], strides, kernel, pads[:rank], pads[rank:], strict=True)
    plain = (*shape[:2], *((n - 1) * s + k - b - e for n, s, k, b, e in window))
    out = node.ints(2, "the output shape") if node.has(2) else plain
    if len(out) != len(plain) or min(out) < 0:
        raise FusewireError(f"the output shape is {out}, expected {len(plain)} sizes")
    # The indices count in a tensor of the plain size.
    places = node[1] if plain == out else _recounted(node[1], plain, out)
    flat = ops.zeros([math.prod(out)], node.dtype())
    done = ops.scatter_elements(flat, ops.reshape(places, (-1,)), ops.reshape(node[0], (-1,)), 0)
    return ops.reshape(done, out)


def _recounted(places: Expr, old: Sequence[int], new: Sequence[int]) -> Expr:
    """Row-major places in a tensor of shape `old` as places in one of shape `new`."""
    result: Expr | None = None
    for axis in range(len(old)):
        inner = constant(math.prod(old[axis + 1 :]), "int64")
        at = ops.floor_mod(ops.floor_divide(places, inner), constant(old[axis], "int64"))
        term = ops.multiply(at, constant(math.prod(new[axis + 1 :]), "int64"))
        result = term if result is None else ops.add(result, term)
    assert result is not None
    return result


@translate("TensorScatter")
def tensor_scatter(node: Node) -> Expr:
    """A cache with new entries written along an axis, where each batch entry has its own start."""
    past, update, axis = node[0], node[1], node.axis(-2)
    rank = node.rank()
    size, count = node.shape(0)[axis], limited(node.shape(1, rank)[axis], "a table of places")
    offsets: Expr = constant(np.arange(count).reshape([-1 if a == axis else 1 for a in range(rank)]), "int64")
    if node.has(2):
        starts = ops.reshape(ops.cast(node[2], "int64"), [node.shape(1)[0]] + [1] * (rank - 1))
        offsets = ops.add(offsets, starts)
    if node.one_of("mode", "linear", ("linear", "circular")) == "circular":
        offsets = ops.floor_mod(offsets, constant(size, "int64"))
    return ops.scatter_elements(past, ops.broadcast_to(offsets, node.shape(1)), update, axis)
