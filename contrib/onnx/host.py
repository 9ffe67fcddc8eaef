"""Operators whose result has a shape that depends on values: computed while the model is read.

Their inputs must be known then (`constants=`); the results are constants. No kernels are made of them.
"""

import math

import numpy as np

from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import take
from .dtypes import dtype_of
from .node import Node, constant
from .registry import translate
from .values import Array, limited

HOST = ("NonZero", "Unique", "NonMaxSuppression", "MelWeightMatrix", "Range", "Compress")
"""Operators that need known inputs by their nature; `Compress` needs its condition, `Range` its limits."""


@translate("NonZero")
def non_zero(node: Node) -> Expr:
    """The places of elements that are not 0, in columns."""
    return constant(np.stack(np.nonzero(np.atleast_1d(node.static(0)))).astype(np.int64))


@translate("Compress")
def compress(node: Node) -> Expr:
    """The slices where a known condition holds."""
    places = np.flatnonzero(node.static(1, "the condition")).astype(np.int64)
    axis = None if node.attr("axis") is None else node.axis(0)
    length = math.prod(node.shape()) if axis is None else (node.shape() or (1,))[axis]
    if places.size and places[-1] >= length:
        raise FusewireError(f"the condition has an element {places[-1]}, but there are {length}")
    return take(node[0], constant(places), axis, mode="fast")


@translate("Unique")
def unique(node: Node) -> list[Expr]:
    """Different elements or slices, where they first are, which one each element is, and how often they are."""
    data = node.static(0)
    axis = None if node.attr("axis") is None else node.axis(0)
    found, first, inverse, count = np.unique(data, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not node.attr("sorted", 1):
        order = np.argsort(first)
        found = np.take(found, order, 0 if axis is None else axis)
        first, count = first[order], count[order]
        inverse = np.argsort(order)[inverse]
    return [constant(found, node.dtype()), *(constant(x.astype(np.int64)) for x in (first, inverse, count))]


@translate("NonMaxSuppression")
def non_max_suppression(node: Node) -> Expr:
    """Boxes kept greedily by score, unless they overlap one that was kept: (batch, class, box) in rows."""
    boxes, scores = node.static(0), node.static(1)
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape != (len(scores), scores.shape[2], 4):
        raise FusewireError(
            f"boxes of the shape {boxes.shape} and scores of the shape {scores.shape} do not belong together: "
            "expected (batches, boxes, 4) and (batches, classes, boxes)"
        )
    most = int(node.scalar(2, 0))
    overlap, least = float(node.scalar(3, 0.0)), node.scalar(4)
    corners = _corners(boxes, node.attr("center_point_box", 0))
    chosen = [
        (b, c, box)
        for b in range(scores.shape[0])
        for c in range(scores.shape[1])
        for box in _kept(corners[b], scores[b, c], most, overlap, least)
    ]
    return constant(np.array(chosen, np.int64).reshape(-1, 3))


def _corners(boxes: Array, centred: int) -> Array:
    if centred:
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    a, b = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(a, b), np.maximum(a, b)], -1)


def _kept(boxes: Array, scores: Array, most: int, overlap: float, least: float | None) -> list[int]:
    kept: list[int] = []
    for k in np.argsort(-scores, kind="stable"):
        if len(kept) >= most or (least is not None and scores[k] <= least):
            break
        if all(_iou(boxes[k], boxes[other]) <= overlap for other in kept):
            kept.append(int(k))
    return kept


def _iou(a: Array, b: Array) -> float:
    """The area that two boxes share over the area of both together."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(np.prod(sides))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / union if union > 0 else 0.0


@translate("MelWeightMatrix")
def mel_weight_matrix(node: Node) -> Expr:
    """Triangular filters that are equally wide on the mel scale."""
    bands, length, rate = (int(node.scalar(k)) for k in range(3))
    low, high = float(node.scalar(3)), float(node.scalar(4))
    dtype = dtype_of(node.attr("output_datatype", 1))
    if not (rate > 0 and bands > 0 and length > 0 and 0 <= low < high <= rate / 2):
        raise FusewireError(
            f"{bands} bands from {low} to {high} Hz of {length} samples at {rate} Hz: expected positive numbers, and "
            "a band that ends at half of the rate at most"
        )
    limited(max(bands * (length // 2 + 1), bands), "the matrix")
    mel_low, mel_high = (2595 * np.log10(1 + f / 700) for f in (low, high))
    step = (mel_high - mel_low) / (bands + 2)
    edges = 700 * (10 ** ((np.arange(bands + 2) * step + mel_low) / 2595) - 1)
    bins = ((length + 1) * edges // rate).astype(np.int64)
    matrix = np.zeros((length // 2 + 1, bands))
    for band in range(bands):
        below, centre, above = bins[band : band + 3]
        if centre == below:
            matrix[centre, band] = 1
        else:
            for j in range(below, centre + 1):
                matrix[j, band] = (j - below) / (centre - below)
        for j in range(centre, above):
            matrix[j, band] = (above - j) / (above - centre)
    return constant(matrix, dtype)
