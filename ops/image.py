"""The `fw.image` namespace: resize1d, resize2d, resize3d, and from grid.py sampling at computed places."""

from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Constant, Expr, ExprLike, call
from ..ir.index import Dim, Index, as_index
from ..ir.op import Attrs
from ..ir.scalar import Operand
from ..ir.types import TensorType, Type, check_dtype, numpy_dtype
from .arguments import IntsLike, one_of, static_ints
from .grid import affine_grid as affine_grid
from .grid import grid_sample as grid_sample
from .interpolate import CROP, METHODS, MODES, ROUNDINGS, Scheme, np_resample, ratio, resample
from .layout import Layout
from .lowering import Context, Map
from .spec import REAL, Array, Case, Cases, Fusion, Infer, operator, tensor
from .window import full_blocks, numeric, shown, spatial_axes, tensor_layout


def resized(scheme: Scheme, x: TensorType, sizes: dict[str, Dim], dtype: str) -> TensorType:
    """The type of `x` with new spatial sizes."""
    old = scheme.layout.unpack_shape(x.shape, "data")
    for axis, target in sizes.items():
        size = old[axis]
        if size == 0 or (isinstance(target, int) and target < 1):
            raise TypeInferenceError(f"cannot resize axis {axis} from {size} to {target}: both must be at least 1")
        if isinstance(size, int) and isinstance(target, int):
            ratio(scheme, axis, size, target)
    return TensorType(full_blocks(scheme.layout, {**old, **sizes}, "layout"), dtype)


# image.resize1d, resize2d, resize3d


def _scheme(a: Attrs, rank: int) -> Scheme:
    axes = spatial_axes(rank)
    return Scheme(
        tensor_layout(a.layout, "NC" + axes, "layout"), axes, a.method, a.coordinate_transformation_mode,
        a.rounding_method, a.cubic_alpha, bool(a.cubic_exclude), a.extrapolation_value, a.roi,
    )  # fmt: skip


def _infer_resize(rank: int) -> Infer:
    def infer(a: Attrs, data: Type) -> Type:
        x = numeric(tensor(data), "data")
        one_of(a.method, METHODS, "method")
        one_of(a.coordinate_transformation_mode, MODES, "coordinate_transformation_mode")
        one_of(a.rounding_method, ("", *ROUNDINGS), "rounding_method")
        if len(a.size) != rank:
            raise TypeInferenceError(f"size must have {rank} entries, got {shown(a.size)}")
        if len(a.roi) != 2 * rank or not np.isfinite(a.roi).all():
            raise TypeInferenceError(f"roi must be {rank} starts and {rank} ends, got {shown(a.roi)}")
        scheme = _scheme(a, rank)
        return resized(scheme, x, dict(zip(scheme.axes, a.size, strict=True)), a.out_dtype or x.dtype)

    return infer


def _resize_lowering(rank: int) -> Map:
    def element(c: Context, *index: Index) -> Operand:
        return resample(_scheme(c.attrs, rank), c.args[0], c.shape, index)

    return Map(element)


def _np_resize(a: Attrs, x: Array) -> Array:
    return np_resample(_scheme(a, len(a.size)), x, a.size, numpy_dtype(a.out_dtype) if a.out_dtype else x.dtype)


def draw_image(rng: np.random.Generator, rank: int) -> tuple[tuple[int, ...], str]:
    """The shape and layout of an image tensor with `rank` spatial axes."""
    axes = spatial_axes(rank)
    layout = str(rng.choice([f"NC{axes}", f"N{axes}C", f"NC{axes}4c"]))
    sizes = {"N": int(rng.integers(1, 3)), "C": 4 * int(rng.integers(1, 3)) if "4c" in layout else int(rng.integers(4))}
    sizes |= {axis: int(rng.choice([1, 2, 3, 4, 5, 7, 9][: 9 - 2 * rank])) for axis in axes}
    return tuple(int(as_index(n).const) for n in Layout.parse(layout).pack_shape(sizes)), layout


def _draw_roi(rng: np.random.Generator, rank: int) -> list[float]:
    """A region of interest whose corners, where they matter to rounding, are exact in binary."""
    kind = rng.integers(3)
    if kind == 0:
        return [0.0] * rank + [1.0] * rank
    if kind == 1:
        return [float(n) / 8 for n in rng.integers(-4, 13, 2 * rank)]
    return [float(n) for n in rng.uniform(-0.2, 1.2, 2 * rank)]


def _resize_cases(rank: int) -> Cases:
    def cases(rng: np.random.Generator) -> Case:
        shape, layout = draw_image(rng, rank)
        attributes: dict[str, Any] = {
            "size": [int(n) for n in rng.choice([1, 2, 3, 4, 6, 8, 9, 17][: 10 - 2 * rank], rank)],
            "layout": layout,
            "method": str(rng.choice(METHODS)),
            "coordinate_transformation_mode": str(rng.choice(MODES)),
            "rounding_method": str(rng.choice(["", *ROUNDINGS])),
        }
        if attributes["coordinate_transformation_mode"] == CROP:
            attributes |= {"roi": _draw_roi(rng, rank), "extrapolation_value": float(rng.choice([0, 5]))}
        if rng.random() < 0.4:
            attributes |= {"cubic_alpha": -0.75, "cubic_exclude": int(rng.integers(2))}
        if rng.random() < 0.2:
            attributes["out_dtype"] = "float32"
        whole = attributes["method"] == "nearest_neighbor" and rng.random() < 0.3
        return Case(
            [shape], attributes, dtypes=[str(rng.choice(["int32", "int8", "uint8", "int64"]))] if whole else None
        )

    return cases


def _floats(roi: Any, rank: int) -> tuple[float, ...]:
    """A region of interest given as None, a sequence, an array or a constant."""
    if roi is None:
        return (0.0,) * (2 * rank)
    if isinstance(roi, Constant):
        roi = roi.data
    if isinstance(roi, Expr):
        raise TypeInferenceError(f"roi must be numbers known when the graph is built, got the expression {roi}")
    return tuple(float(edge) for edge in np.asarray(roi).reshape(-1))


def _resize(
    rank: int, data: ExprLike, size: IntsLike, roi: Any, layout: str, method: str, mode: str, rounding_method: str,
    cubic_alpha: float, cubic_exclude: int, extrapolation_value: float, out_dtype: str | None,
) -> Expr:  # fmt: skip
    return call(
        f"image.resize{rank}d",
        [data],
        size=static_ints(size, "size"),
        roi=_floats(roi, rank),
        layout=layout,
        method=method,
        coordinate_transformation_mode=mode,
        rounding_method=rounding_method,
        cubic_alpha=float(cubic_alpha),
        cubic_exclude=int(cubic_exclude),
        extrapolation_value=float(extrapolation_value),
        out_dtype=check_dtype(out_dtype) if out_dtype else None,
    )


@operator(
    "image.resize1d",
    Fusion.INJECTIVE,
    _infer_resize(1),
    _np_resize,
    _resize_lowering(1),
    cases=_resize_cases(1),
    dtypes=REAL,
    tolerance=4,
)
def resize1d(
    data: ExprLike,
    size: IntsLike,
    roi: Any = None,
    layout: str = "NCW",
    method: str = "linear",
    coordinate_transformation_mode: str = "half_pixel",
    rounding_method: str = "",
    cubic_alpha: float = -0.5,
    cubic_exclude: int = 0,
    extrapolation_value: float = 0.0,
    out_dtype: str | None = None,
) -> Expr:
    """Signals resampled to another length; the arguments are those of `resize2d`, with one spatial axis.

    Args:
        data: tensor of numbers.
        size: the new length.
        roi: (start, end).
        layout: the layout of data and result, such as "NCW" or "NWC".
        method: see `resize2d`.
        coordinate_transformation_mode: see `resize2d`.
        rounding_method: see `resize2d`.
        cubic_alpha: see `resize2d`.
        cubic_exclude: see `resize2d`.
        extrapolation_value: see `resize2d`.
        out_dtype: the dtype of the result; None: that of `data`.

    """
    return _resize(
        1, data, size, roi, layout, method, coordinate_transformation_mode, rounding_method, cubic_alpha,
        cubic_exclude, extrapolation_value, out_dtype,
    )  # fmt: skip


@operator(
    "image.resize2d",
    Fusion.INJECTIVE,
    _infer_resize(2),
    _np_resize,
    _resize_lowering(2),
    cases=_resize_cases(2),
    dtypes=REAL,
    tolerance=4,
)
def resize2d(
    data: ExprLike,
    size: IntsLike,
    roi: Any = None,
    layout: str = "NCHW",
    method: str = "linear",
    coordinate_transformation_mode: str = "half_pixel",
    rounding_method: str = "",
    cubic_alpha: float = -0.5,
    cubic_exclude: int = 0,
    extrapolation_value: float = 0.0,
    out_dtype: str | None = None,
) -> Expr:
    """Images resampled to another height and width, after the definitions of ONNX Resize.

    Input places outside of the image have the value of the nearest border. Whole-number dtypes truncate what is
    interpolated.

    Args:
        data: tensor of numbers.
        size: the new (height, width).
        roi: (top, left, bottom, right) of the region to take, as fractions of the image; counts for
            "tf_crop_and_resize" only.
        layout: the layout of data and result, such as "NCHW", "NHWC" or "NCHW8c".
        method: "nearest_neighbor", "linear" or "cubic".
        coordinate_transformation_mode: where output place x of m lies on an axis of n input places:
            "half_pixel" (x + 0.5) * n/m - 0.5; "align_corners" x * (n-1)/(m-1), 0 for m = 1; "asymmetric" x * n/m;
            "pytorch_half_pixel" as half_pixel, but 0 for m = 1; "tf_half_pixel_for_nn" (x + 0.5) * n/m;
            "tf_crop_and_resize" between the start and the end of `roi`.
        rounding_method: how "nearest_neighbor" rounds: "round" and "round_prefer_ceil" (halves up),
            "round_prefer_floor" (halves down), "floor", "ceil"; "" is "round" with align_corners and else "floor".
        cubic_alpha: the coefficient of the cubic kernel.
        cubic_exclude: 1: "cubic" gives no weight to places outside of the image.
        extrapolation_value: the result where "tf_crop_and_resize" leaves the image.
        out_dtype: the dtype of the result; None: that of `data`.

    """
    return _resize(
        2, data, size, roi, layout, method, coordinate_transformation_mode, rounding_method, cubic_alpha,
        cubic_exclude, extrapolation_value, out_dtype,
    )  # fmt: skip


@operator(
    "image.resize3d",
    Fusion.INJECTIVE,
    _infer_resize(3),
    _np_resize,
    _resize_lowering(3),
    cases=_resize_cases(3),
    dtypes=REAL,
    tolerance=8,
)
def resize3d(
    data: ExprLike,
    size: IntsLike,
    roi: Any = None,
    layout: str = "NCDHW",
    method: str = "linear",
    coordinate_transformation_mode: str = "half_pixel",
    rounding_method: str = "",
    cubic_alpha: float = -0.5,
    cubic_exclude: int = 0,
    extrapolation_value: float = 0.0,
    out_dtype: str | None = None,
) -> Expr:
    """Volumes resampled to another depth, height and width; the arguments are those of `resize2d`.

    Args:
        data: tensor of numbers.
        size: the new (depth, height, width).
        roi: all starts, then all ends.
        layout: the layout of data and result, such as "NCDHW" or "NDHWC".
        method: see `resize2d`.
        coordinate_transformation_mode: see `resize2d`.
        rounding_method: see `resize2d`.
        cubic_alpha: see `resize2d`.
        cubic_exclude: see `resize2d`.
        extrapolation_value: see `resize2d`.
        out_dtype: the dtype of the result; None: that of `data`.

    """
    return _resize(
        3, data, size, roi, layout, method, coordinate_transformation_mode, rounding_method, cubic_alpha,
        cubic_exclude, extrapolation_value, out_dtype,
    )  # fmt: skip
