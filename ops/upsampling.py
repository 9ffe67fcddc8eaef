"""nn.upsampling and nn.upsampling3d: resizing by factors instead of to sizes."""

from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, ExprLike, call
from ..ir.index import Dim, Index, as_dim
from ..ir.op import Attrs
from ..ir.scalar import Operand
from ..ir.types import TensorType, Type
from .arguments import one_of
from .image import draw_image, resized
from .interpolate import Scheme, np_resample, resample
from .lowering import Context, Map
from .spec import REAL, Array, Case, Cases, Fusion, operator, tensor
from .window import numeric, tensor_layout

_METHODS_2D = {"nearest_neighbor": "nearest_neighbor", "bilinear": "linear", "bicubic": "cubic"}
_METHODS_3D = {"nearest_neighbor": "nearest_neighbor", "trilinear": "linear"}
_MODES_3D = ("half_pixel", "align_corners", "asymmetric")


def _scheme(a: Attrs) -> tuple[Scheme, tuple[float, ...]]:
    """How to resample, and the factor for each spatial axis."""
    axes = "DHW" if "scale_d" in a else "HW"
    if axes == "HW":
        mode, methods = "align_corners" if a.align_corners else "asymmetric", _METHODS_2D
    else:
        mode, methods = (
            one_of(a.coordinate_transformation_mode, _MODES_3D, "coordinate_transformation_mode"),
            _METHODS_3D,
        )
    method = methods[one_of(a.method, tuple(methods), "method")]
    layout = tensor_layout(a.layout, "NC" + axes, "layout")
    return Scheme(layout, axes, method, mode), tuple(a[f"scale_{axis.lower()}"] for axis in axes)


def _scaled(size: Dim, factor: float, axis: str) -> Dim:
    if not factor > 0 or factor == float("inf"):
        raise TypeInferenceError(f"the scale of axis {axis} must be positive, got {factor}")
    if isinstance(size, int):
        return round(size * factor)
    if factor != int(factor):
        raise TypeInferenceError(f"axis {axis} is symbolic ({size}): its scale must be a whole number, got {factor}")
    return as_dim(size * int(factor))


def _infer_upsampling(a: Attrs, data: Type) -> TensorType:
    x = numeric(tensor(data), "data")
    scheme, factors = _scheme(a)
    sizes = scheme.layout.unpack_shape(x.shape, "data")
    new = {axis: _scaled(sizes[axis], factor, axis) for axis, factor in zip(scheme.axes, factors, strict=True)}
    return resized(scheme, x, new, x.dtype)


def _upsampling(c: Context, *index: Index) -> Operand:
    return resample(_scheme(c.attrs)[0], c.args[0], c.shape, index)


def _np_upsampling(a: Attrs, x: Array) -> Array:
    scheme, factors = _scheme(a)
    image = scheme.layout.to_plain(x, scheme.axes + "NC")
    return np_resample(scheme, x, [round(n * f) for n, f in zip(image.shape, factors, strict=False)], x.dtype)


def _cases(rank: int) -> Cases:
    def cases(rng: np.random.Generator) -> Case:
        shape, layout = draw_image(rng, rank)
        factors = [float(f) for f in rng.choice([1, 2, 3, 1.5, 0.75], rank)]
        attributes: dict[str, Any] = {
            f"scale_{axis.lower()}": f for axis, f in zip("DHW"[3 - rank :], factors, strict=True)
        }
        attributes["layout"] = layout
        if rank == 2:
            attributes |= {"method": str(rng.choice(list(_METHODS_2D))), "align_corners": bool(rng.integers(2))}
        else:
            attributes["method"] = str(rng.choice(list(_METHODS_3D)))
            attributes["coordinate_transformation_mode"] = str(rng.choice(_MODES_3D))
        return Case([shape], attributes)

    return cases


@operator(
    "nn.upsampling",
    Fusion.INJECTIVE,
    _infer_upsampling,
    _np_upsampling,
    Map(_upsampling),
    cases=_cases(2),
    dtypes=REAL,
    tolerance=4,
)
def upsampling(
    data: ExprLike,
    scale_h: float = 1,
    scale_w: float = 1,
    layout: str = "NCHW",
    method: str = "nearest_neighbor",
    align_corners: bool = False,
) -> Expr:
    """Images enlarged by a factor for each axis; the new size is the rounded product.

    Args:
        data: tensor of numbers.
        scale_h: the factor for the height.
        scale_w: the factor for the width.
        layout: the layout of data and result, such as "NCHW", "NHWC" or "NCHW8c".
        method: "nearest_neighbor", "bilinear" or "bicubic".
        align_corners: the corner pixels of data and result coincide; else output place x lies at x * n/m, for n input
            and m output places.

    """
    return call(
        "nn.upsampling", [data], scale_h=float(scale_h), scale_w=float(scale_w), layout=layout, method=method,
        align_corners=bool(align_corners),
    )  # fmt: skip


@operator(
    "nn.upsampling3d",
    Fusion.INJECTIVE,
    _infer_upsampling,
    _np_upsampling,
    Map(_upsampling),
    cases=_cases(3),
    dtypes=REAL,
    tolerance=4,
)
def upsampling3d(
    data: ExprLike,
    scale_d: float = 1,
    scale_h: float = 1,
    scale_w: float = 1,
    layout: str = "NCDHW",
    method: str = "nearest_neighbor",
    coordinate_transformation_mode: str = "half_pixel",
) -> Expr:
    """Volumes enlarged by a factor for each axis; the new size is the rounded product.

    Args:
        data: tensor of numbers.
        scale_d: the factor for the depth.
        scale_h: the factor for the height.
        scale_w: the factor for the width.
        layout: the layout of data and result, such as "NCDHW" or "NDHWC".
        method: "nearest_neighbor" or "trilinear".
        coordinate_transformation_mode: "half_pixel", "align_corners" or "asymmetric", as in `image.resize3d`.

    """
    return call(
        "nn.upsampling3d", [data], scale_d=float(scale_d), scale_h=float(scale_h), scale_w=float(scale_w),
        layout=layout, method=method, coordinate_transformation_mode=coordinate_transformation_mode,
    )  # fmt: skip
