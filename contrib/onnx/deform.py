"""DeformConv: a convolution whose windows read at places that a tensor says (Dai et al. 2017, Zhu et al. 2019).

Elements are gathered, weighted by bilinear interpolation, into columns; a matrix product does the rest.
"""

import math

import numpy as np

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import nn
from .node import Node, constant
from .registry import translate
from .values import limited
from .window import given_pads, numbers


@translate("DeformConv")
def deform_conv(node: Node) -> Expr:
    """Two spatial axes; places outside of the image count as 0."""
    if node.rank() != 4:
        raise FusewireError(f"DeformConv with {node.rank() - 2} spatial dimensions is not supported: expected 2")
    batch, channels = node.shape()[:2]
    outputs, _, *kernel = node.shape(1, 4)
    rows, columns = node.shape(2, 4)[2:]
    taps, places, groups = math.prod(kernel), rows * columns, node.count("group", 1)
    limited(taps * places, "a table of places")
    gathered = _columns(node, taps, places)
    left = ops.reshape(node[1], (1, groups, outputs // groups, channels // groups * taps))
    left = ops.broadcast_to(left, (batch, groups, outputs // groups, channels // groups * taps))
    product = nn.batch_matmul(
        ops.reshape(left, (batch * groups, outputs // groups, -1)),
        ops.reshape(gathered, (batch * groups, channels // groups * taps, places)),
        transpose_b=False,
    )
    done = ops.reshape(product, (batch, outputs, rows, columns))
    return nn.bias_add(done, node[3]) if node.has(3) else done


def _columns(node: Node, taps: int, places: int) -> Expr:
    """The elements under each window: (batch, channels, taps, places)."""
    batch, channels, height, width = node.shape()
    groups = node.count("offset_group", 1)
    y, x = _coordinates(node, groups, taps, places)
    image = ops.reshape(node[0], (batch, groups, channels // groups, height * width))
    top, left = ops.floor(y), ops.floor(x)
    total: Expr | None = None
    for down in (0, 1):
        for right in (0, 1):
            row, column = (ops.add(p, constant(k, node.dtype())) for p, k in ((top, down), (left, right)))
            near = ops.multiply(_nearness(y, row), _nearness(x, column))
            weight = ops.where(
                ops.logical_and(_inside(row, height), _inside(column, width)), near, constant(0, node.dtype())
            )
            at = ops.add(
                ops.multiply(ops.cast(ops.clip(row, 0, height - 1), "int64"), constant(width, "int64")),
                ops.cast(ops.clip(column, 0, width - 1), "int64"),
            )
            full = (batch, groups, channels // groups, taps * places)
            value = ops.gather(image, 3, ops.broadcast_to(at, full))
            term = ops.multiply(value, weight)
            total = term if total is None else ops.add(total, term)
    assert total is not None
    if node.has(4):
        total = ops.multiply(total, ops.reshape(node[4], (batch, groups, 1, taps * places)))
    return ops.reshape(total, (batch, channels, taps, places))


def _nearness(place: Expr, pixel: Expr) -> Expr:
    """1 minus the distance: the weight of a neighbour in linear interpolation."""
    return ops.subtract(1, ops.abs(ops.subtract(place, pixel)))


def _inside(place: Expr, size: int) -> Expr:
    return ops.logical_and(ops.greater_equal(place, 0), ops.less_equal(place, size - 1))


def _coordinates(node: Node, groups: int, taps: int, places: int) -> list[Expr]:
    """Rows and columns that are read: each (batch, offset groups, 1, taps * places)."""
    batch, kernel, out = node.shape()[0], node.shape(1)[2:], node.shape(2)[2:]
    strides, dilations = numbers(node, "strides", 2), numbers(node, "dilations", 2)
    pads = given_pads(node, 2)
    offsets = ops.reshape(node[2], (batch, groups, taps, 2, places))
    found = []
    for axis in (0, 1):
        tap = np.arange(kernel[axis]) * dilations[axis]
        start = np.arange(out[axis]) * strides[axis] - pads[axis]
        # Axes: tap row, tap column, output row, output column.
        at = np.expand_dims(tap, [1 - axis, 2, 3]) + np.expand_dims(start, [0, 1, 3 - axis])
        base = np.broadcast_to(at, (*kernel, *out)).reshape(taps, places)
        own = ops.squeeze(ops.strided_slice(offsets, [axis], [axis + 1], axes=[3]), [3])
        moved = ops.add(own, constant(base, node.dtype()))
        found.append(ops.reshape(moved, (batch, groups, 1, taps * places)))
    return found
