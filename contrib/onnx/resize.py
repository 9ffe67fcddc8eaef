"""Resampling: Resize and Upsample in all modes, GridSample, RoiAlign."""

import math
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from ... import ops
from ...fuse.graph import tensor_type
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import image
from .linear import shape_of
from .node import Node, constant
from .registry import translate
from .values import Array, limited

METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
POLICIES = ("stretch", "not_larger", "not_smaller")


@frozen
class Plan:
    """How one axis is resampled.

    Attributes:
        size, target: the lengths of the axis before and after.
        scale: the ratio that coordinates are computed with, which need not be target / size.
        start, end: the region of interest, as fractions.
    """

    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _coordinates(mode: str, plan: Plan) -> Array:
    """Where the output places lie on the input axis (definitions of ONNX Resize)."""
    x: Array = np.arange(plan.target, dtype=np.float64)
    size, target, scale = plan.size, plan.target, plan.scale
    match mode:
        case "half_pixel":
            return (x + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (x + 0.5) / scale - 0.5 if target > 1 else np.zeros(1) - 0.5
        case "align_corners":
            # The exact new length, which need not be whole.
            return x * (size - 1) / (scale * size - 1) if target > 1 else np.zeros(target)
        case "asymmetric":
            return x / scale
        case "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        case "half_pixel_symmetric":
            adjusted = target / (scale * size)
            return size / 2 * (1 - adjusted) + (x + 0.5) / scale - 0.5
        case "tf_crop_and_resize":
            if target == 1:
                return np.array([0.5 * (plan.start + plan.end) * (size - 1)])
            return np.asarray(plan.start * (size - 1) + x * (plan.end - plan.start) * (size - 1) / (target - 1))
    raise FusewireError(f"unknown coordinate_transformation_mode {mode!r}")


def _nearest(where: Array, rounding: str) -> Array:
    match rounding:
        case "round_prefer_floor":
            return np.ceil(where - 0.5)
        case "round_prefer_ceil":
            return np.floor(where + 0.5)
        case "floor":
            return np.floor(where)
        case "ceil":
            return np.ceil(where)
    raise FusewireError(f"unknown nearest_mode {rounding!r}")


def _kernel(method: str, distance: Array, alpha: float) -> Array:
    s = np.abs(distance)
    if method == "linear":
        return np.asarray(np.maximum(1 - s, 0))
    near = (alpha + 2) * s**3 - (alpha + 3) * s**2 + 1
    far = alpha * s**3 - 5 * alpha * s**2 + 8 * alpha * s - 4 * alpha
    return np.where(s <= 1, near, np.where(s < 2, far, 0))


def _taps(node: Node, method: str, mode: str, plan: Plan) -> tuple[Array, Array]:
    """Places (target, taps) and weights of one axis."""
    where = _coordinates(mode, plan)
    stretch = max(1.0, 1 / plan.scale) if node.attr("antialias", 0) else 1.0
    radius = (1 if method == "linear" else 2) * stretch
    count = 2 * math.ceil(radius)
    limited(count * plan.target, "a table of weights")
    first = np.floor(where) - math.ceil(radius) + 1
    places = first[:, None] + np.arange(count)
    weights = _kernel(method, (where[:, None] - places) / stretch, node.attr("cubic_coeff_a", -0.75))
    if node.attr("exclude_outside", 0):
        weights = np.where((places >= 0) & (places < plan.size), weights, 0)
    total = weights.sum(1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    return places.clip(0, plan.size - 1).astype(np.int64), weights


def _axis(node: Node, data: Expr, axis: int, method: str, mode: str, plan: Plan) -> Expr:
    """One axis resampled by selection and weighted sums."""
    if method == "nearest":
        chosen = _nearest(_coordinates(mode, plan), node.attr("nearest_mode", "round_prefer_floor"))
        places = chosen.clip(0, plan.size - 1).astype(np.int64)
        return ops.take(data, constant(places), axis, mode="fast")
    places, weights = _taps(node, method, mode, plan)
    rank = len(shape_of(data))
    total: Expr | None = None
    for k in range(places.shape[1]):
        if not weights[:, k].any():
            continue
        column = weights[:, k].reshape([-1] + [1] * (rank - 1 - axis))
        part = ops.take(data, constant(places[:, k].copy()), axis, mode="fast")
        term = ops.multiply(part, constant(column, "float64" if node.dtype() == "float64" else "float32"))
        total = term if total is None else ops.add(total, term)
    if total is None:  # nothing has a weight, or there is nothing
        taken = ops.take(data, constant(places[:, 0].copy()), axis, mode="fast")
        total = ops.multiply(taken, constant(0, tensor_type(data).dtype))
    return total


def _resample(node: Node, plans: dict[int, Plan], method: str, mode: str) -> Expr:
    wide = "float64" if node.dtype() == "float64" else "float32"
    if method != "nearest" and not node.is_float():
        wide = "float64" if node.dtype() in ("int32", "int64", "uint32", "uint64") else "float32"
    data = node[0]
    if method != "nearest" and node.dtype() != wide:
        data = ops.cast(data, wide)
    for axis, plan in plans.items():
        if plan.size != plan.target or mode == "tf_crop_and_resize" or plan.scale != 1:
            data = _axis(node, data, axis, method, mode, plan)
    if mode == "tf_crop_and_resize":
        data = _extrapolated(node, data, plans)
    if tensor_type(data).dtype != node.dtype():
        data = ops.cast(data if node.is_float() else ops.round(data), node.dtype())
    return data


def _extrapolated(node: Node, data: Expr, plans: dict[int, Plan]) -> Expr:
    """A fixed value where a coordinate lies outside of the input."""
    rank = node.rank()
    outside = np.zeros([1] * rank, bool)
    for axis, plan in plans.items():
        where = _coordinates("tf_crop_and_resize", plan)
        beyond = (where < 0) | (where > plan.size - 1)
        outside = outside | beyond.reshape([-1 if a == axis else 1 for a in range(rank)])
    value = constant(node.attr("extrapolation_value", 0.0), tensor_type(data).dtype)
    return ops.where(constant(outside), value, data)


def _plain(node: Node, plans: dict[int, Plan], method: str, mode: str) -> Expr | None:
    """As image.resize where that means the same: whole axes behind batch and channels, exact scales."""
    rank = node.rank() - 2
    exact = all(abs(p.scale * p.size - p.target) < 1e-6 for p in plans.values())
    spatial = all(p.size == p.target for axis, p in plans.items() if axis < 2)
    modes = ("half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")
    if not (exact and spatial and rank in (1, 2, 3) and mode in modes and node.is_float()):
        return None
    if node.attr("antialias", 0):
        return None
    targets = [plans[k + 2].target if k + 2 in plans else node.shape()[k + 2] for k in range(rank)]
    builder = {1: image.resize1d, 2: image.resize2d, 3: image.resize3d}[rank]
    return builder(
        node[0],
        targets,
        layout=f"NC{'DHW'[3 - rank :]}",
        method=METHODS[method],
        coordinate_transformation_mode=mode,
        rounding_method=node.attr("nearest_mode", "round_prefer_floor") if method == "nearest" else "",
        cubic_alpha=node.attr("cubic_coeff_a", -0.75),
        cubic_exclude=node.attr("exclude_outside", 0),
    )


def _run(node: Node, plans: dict[int, Plan], mode: str) -> Expr:
    method = node.attr("mode", "nearest")
    method = {"bilinear": "linear", "trilinear": "linear"}.get(method, method)
    if method not in METHODS:
        raise FusewireError(f"unknown mode {method!r}")
    found = _plain(node, plans, method, mode)
    return _resample(node, plans, method, mode) if found is None else found


def _by_scales(node: Node, scales: Sequence[float], axes: Sequence[int], roi: Sequence[float]) -> dict[int, Plan]:
    shape, count = node.shape(), len(axes)
    if len(scales) != count or not all(0 < s < math.inf and np.float32(s) > 0 for s in scales):
        raise FusewireError(f"the scales are {tuple(scales)}, expected {count} positive numbers")
    return {
        a: Plan(shape[a], _scaled(shape[a], s), float(np.float32(s)), *_span(roi, k, count))
        for k, (a, s) in enumerate(zip(axes, scales, strict=True))
    }


def _floats(node: Node, k: int) -> list[float]:
    return [float(s) for s in node.static(k, "the scales").reshape(-1)]


def _scaled(size: int, scale: float) -> int:
    _target(math.ceil(size * scale))  # in float64, which holds any such product
    return math.floor(size * np.float32(scale))


def _target(size: int) -> int:
    return limited(size, "an axis of the result")


def _span(roi: Sequence[float], k: int, count: int) -> tuple[float, float]:
    if not all(map(math.isfinite, roi)):
        raise FusewireError(f"the region of interest is {tuple(roi)}, expected finite numbers")
    return (float(roi[k]), float(roi[count + k])) if len(roi) == 2 * count else (0.0, 1.0)


@translate("Upsample")
def upsample(node: Node) -> Expr:
    """Scales are an attribute, or from opset 9 on an input."""
    scales = node.attr("scales") or _floats(node, 1)
    return _legacy(node, scales)


@translate("Resize", since=10)
def resize_10(node: Node) -> Expr:
    """Opset 10: as Upsample."""
    return _legacy(node, _floats(node, 1))


def _legacy(node: Node, scales: Sequence[float]) -> Expr:
    attributes = {**node.attributes, "nearest_mode": "floor"}
    old = Node(node.proto, node.opset, node.inputs, attributes, node.knowledge, node.run)
    return _run(old, _by_scales(old, scales, range(old.rank()), ()), "asymmetric")


@translate("Resize", since=11)
def resize(node: Node) -> Expr:
    """By scales or to sizes."""
    rank = node.rank()
    axes = [node.place(a, rank) for a in node.attr("axes", range(rank))]
    if len(set(axes)) < len(axes):
        raise FusewireError(f"the axes {axes} are repeated")
    mode = node.attr("coordinate_transformation_mode", "half_pixel")
    roi = [float(r) for r in node.static(1).reshape(-1)] if node.has(1) and mode == "tf_crop_and_resize" else []
    if node.has(3) and node.dims(3) != (0,):
        plans = _by_sizes(node, node.ints(3, "the sizes"), axes, roi)
    else:
        plans = _by_scales(node, _floats(node, 2), axes, roi)
    return _run(node, plans, mode)


def _by_sizes(node: Node, sizes: Sequence[int], axes: Sequence[int], roi: Sequence[float]) -> dict[int, Plan]:
    shape, policy = node.shape(), node.one_of("keep_aspect_ratio_policy", "stretch", POLICIES)
    if len(sizes) != len(axes) or not all(shape[a] or not size for a, size in zip(axes, sizes, strict=True)):
        raise FusewireError(f"cannot resize {shape} to {tuple(sizes)} along the axes {tuple(axes)}")
    scales = [_target(size) / max(shape[a], 1) for a, size in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        scale = (min if policy == "not_larger" else max)(scales)
        scales = [scale] * len(axes)
        sizes = [_target(math.floor(scale * shape[a] + 0.5)) for a in axes]
    return {
        a: Plan(shape[a], size, scale, *_span(roi, k, len(axes)))
        for k, (a, size, scale) in enumerate(zip(axes, sizes, scales, strict=True))
    }


@translate("GridSample")
def grid_sample(node: Node) -> Expr:
    """The grid's coordinates stand last in ONNX."""
    method = {
        "bilinear": "bilinear",
        "linear": "bilinear",
        "nearest": "nearest",
        "bicubic": "bicubic",
        "cubic": "bicubic",
    }
    rank = node.rank()
    if rank not in (4, 5):
        raise FusewireError(f"the input must have 4 or 5 dimensions, got {rank}")
    kind = method[node.one_of("mode", "linear", method)]
    padding = node.one_of("padding_mode", "zeros", ("zeros", "border", "reflection"))
    corners, coordinates = bool(node.attr("align_corners", 0)), node[1]
    sizes = node.shape()[:1:-1]  # x first
    if kind == "nearest" and min(sizes) > 1 and (corners or padding != "reflection"):
        coordinates, corners = _on_pixels(coordinates, sizes, corners), True
    grid = ops.transpose(coordinates, [0, rank - 1, *range(1, rank - 1)])
    return image.grid_sample(node[0], grid, kind, "NCHW" if rank == 4 else "NCDHW", padding, corners)


def _on_pixels(grid: Expr, sizes: Sequence[int], corners: bool) -> Expr:
    """A grid moved onto the centres of the nearest pixels: ONNX rounds halves to even."""
    dtype = tensor_type(grid).dtype
    lengths = np.array(sizes, np.float64)
    scale, shift = ((lengths - 1) / 2, (lengths - 1) / 2) if corners else (lengths / 2, (lengths - 1) / 2)
    place = ops.round(ops.add(ops.multiply(grid, constant(scale, dtype)), constant(shift, dtype)))
    return ops.subtract(ops.multiply(place, constant(2 / (lengths - 1), dtype)), constant(1, dtype))


def _sampled(data: Expr, batch: Expr, y: Expr, x: Expr, size: tuple[int, int]) -> tuple[list[Expr], list[Expr]]:
    """The four neighbours of points of channels-last images as flat places, and their weights."""
    height, width = size
    one = constant(1, "float32")
    y, x = ops.clip(y, 0, height - 1), ops.clip(x, 0, width - 1)
    top, left = ops.floor(y), ops.floor(x)
    dy, dx = ops.subtract(y, top), ops.subtract(x, left)
    places, weights = [], []
    for down in (0, 1):
        row = ops.clip(ops.add(top, constant(down, "float32")), 0, height - 1)
        for right in (0, 1):
            column = ops.clip(ops.add(left, constant(right, "float32")), 0, width - 1)
            flat = ops.add(ops.multiply(ops.cast(row, "int64"), constant(width, "int64")), ops.cast(column, "int64"))
            places.append(ops.add(ops.multiply(batch, constant(height * width, "int64")), flat))
            wy = dy if down else ops.subtract(one, dy)
            weights.append(ops.multiply(wy, dx if right else ops.subtract(one, dx)))
    return places, weights


@translate("RoiAlign")
def roi_align(node: Node) -> Expr:
    """Means or maxima of bilinear samples of boxes (Mask R-CNN, He et al. 2017)."""
    _, channels, height, width = node.shape(0, 4)
    rows, columns = node.count("output_height", 1), node.count("output_width", 1)
    boxes_count, coordinates = node.shape(1, 2)
    if coordinates != 4 or not height * width:
        raise FusewireError(f"boxes of {coordinates} numbers in images of {height} by {width} pixels; expected 4")
    ratio = node.attr("sampling_ratio", 0)
    if ratio <= 0:
        raise FusewireError("RoiAlign needs sampling_ratio > 0: the number of samples must be known")
    limited(max(rows, columns) * ratio, "the samples of a box")
    half = (
        0.5 if node.opset >= 16 and node.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel" else 0.0
    )
    boxes = ops.subtract(
        ops.multiply(node[1], constant(node.attr("spatial_scale", 1.0), "float32")), constant(half, "float32")
    )
    x1, y1, x2, y2 = (ops.strided_slice(boxes, [k], [k + 1], axes=[1]) for k in range(4))
    w, h = ops.subtract(x2, x1), ops.subtract(y2, y1)
    if not half:
        w, h = (ops.maximum(s, constant(1, "float32")) for s in (w, h))

    def points(start: Expr, length: Expr, bins: int) -> Expr:
        at = (np.arange(bins * ratio) + 0.5) / (ratio * bins)
        return ops.add(start, ops.multiply(length, constant(at, "float32")))

    y, x = points(y1, h, rows), points(x1, w, columns)
    ys, xs = ops.expand_dims(y, 2), ops.expand_dims(x, 1)
    full = (boxes_count, rows * ratio, columns * ratio)
    ys, xs = ops.broadcast_to(ys, full), ops.broadcast_to(xs, full)
    batch = ops.reshape(ops.cast(node[2], "int64"), (boxes_count, 1, 1))
    places, weights = _sampled(node[0], batch, ys, xs, (height, width))
    pixels = ops.reshape(ops.transpose(node[0], [0, 2, 3, 1]), (-1, channels))
    outside = ops.logical_or(_beyond(ys, height), _beyond(xs, width))
    terms = [
        ops.multiply(ops.take(pixels, p, 0), ops.expand_dims(ops.where(outside, constant(0.0), w), 3))
        for p, w in zip(places, weights, strict=True)
    ]
    grid = (boxes_count, rows, ratio, columns, ratio, channels)
    if node.one_of("mode", "avg", ("avg", "max")) == "max":
        value = terms[0]
        for term in terms[1:]:
            value = ops.maximum(value, term)
        done = ops.max(ops.reshape(value, grid), [2, 4])
    else:
        value = ops.add(ops.add(terms[0], terms[1]), ops.add(terms[2], terms[3]))
        done = ops.mean(ops.reshape(value, grid), [2, 4])
    return ops.transpose(done, [0, 3, 1, 2])


def _beyond(place: Expr, size: int) -> Expr:
    return ops.logical_or(ops.less(place, constant(-1.0)), ops.greater(place, constant(float(size))))
