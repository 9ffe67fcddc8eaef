"""Pools: the maximum or the mean of windows, sliding, adaptive or global; how they work is in `pooling`."""

from collections.abc import Callable
from typing import ParamSpec

from ..ir.expr import Expr, ExprLike
from .lowering import Reduce
from .pooling import (
    adaptive_cases,
    infer_adaptive,
    infer_sliding,
    np_adaptive,
    np_sliding,
    pool_call,
    pool_lowering,
    sliding_cases,
)
from .spec import Fusion, operator
from .window import IntOrInts

P = ParamSpec("P")
MAX_DTYPES = ("float32", "float64", "float16", "int32", "int64", "int8", "uint8")
MEAN_DTYPES = ("float32", "float64", "float16", "int32", "int8", "uint8")


def _sliding(name: str, rank: int, mean: bool) -> Callable[[Callable[P, Expr]], Callable[P, Expr]]:
    """Declare a pool with sliding windows."""
    return operator(
        name,
        Fusion.OUT_ELEMWISE_FUSABLE,
        infer_sliding,
        np_sliding(mean),
        Reduce(pool_lowering(rank, mean)),
        cases=sliding_cases(rank, mean),
        dtypes=MEAN_DTYPES if mean else MAX_DTYPES,
    )


def _adaptive(
    name: str, rank: int, mean: bool, single: bool = False
) -> Callable[[Callable[P, Expr]], Callable[P, Expr]]:
    """Declare an adaptive pool; `single`: a global one."""
    return operator(
        name,
        Fusion.OUT_ELEMWISE_FUSABLE,
        infer_adaptive(rank),
        np_adaptive(rank, mean),
        Reduce(pool_lowering(rank, mean)),
        cases=adaptive_cases(rank, single),
        dtypes=MEAN_DTYPES if mean else MAX_DTYPES,
    )


@_sliding("nn.max_pool1d", 1, mean=False)
def max_pool1d(
    data: ExprLike,
    pool_size: IntOrInts = (1,),
    strides: IntOrInts = (1,),
    dilation: IntOrInts = (1,),
    padding: IntOrInts = (0,),
    layout: str = "NCW",
    out_layout: str = "",
    ceil_mode: bool = False,
) -> Expr:
    """The maximum of every window over width.

    Args:
        data: (N, C, W) in the default layout.
        pool_size: extent of a window.
        strides: distance between windows.
        dilation: distance between the elements of a window.
        padding: surroundings of the data that never count: one number, or (left, right).
        layout: layout of the data, e.g. NCW, NWC or NCW16c.
        out_layout: layout of the result; empty: that of the data.
        ceil_mode: also a last window that the padded data does not fill counts.

    """
    return pool_call("nn.max_pool1d", 1, locals())


@_sliding("nn.max_pool2d", 2, mean=False)
def max_pool2d(
    data: ExprLike,
    pool_size: IntOrInts = (1, 1),
    strides: IntOrInts = (1, 1),
    dilation: IntOrInts = (1, 1),
    padding: IntOrInts = (0, 0),
    layout: str = "NCHW",
    out_layout: str = "",
    ceil_mode: bool = False,
) -> Expr:
    """The maximum of every window over height and width.

    Args:
        data: (N, C, H, W) in the default layout.
        pool_size: extent of a window.
        strides: distance between windows.
        dilation: distance between the elements of a window.
        padding: surroundings of the data that never count: one number, one for each axis, or
            (top, left, bottom, right).
        layout: layout of the data, e.g. NCHW, NHWC or NCHW16c.
        out_layout: layout of the result; empty: that of the data.
        ceil_mode: also a last window that the padded data does not fill counts.

    """
    return pool_call("nn.max_pool2d", 2, locals())


@_sliding("nn.max_pool3d", 3, mean=False)
def max_pool3d(
    data: ExprLike,
    pool_size: IntOrInts = (1, 1, 1),
    strides: IntOrInts = (1, 1, 1),
    dilation: IntOrInts = (1, 1, 1),
    padding: IntOrInts = (0, 0, 0),
    layout: str = "NCDHW",
    out_layout: str = "",
    ceil_mode: bool = False,
) -> Expr:
    """The maximum of every window over depth, height and width.

    Args:
        data: (N, C, D, H, W) in the default layout.
        pool_size: extent of a window.
        strides: distance between windows.
        dilation: distance between the elements of a window.
        padding: surroundings of the data that never count: one number, one for each axis, or
            (front, top, left, back, bottom, right).
        layout: layout of the data, e.g. NCDHW, NDHWC or NCDHW16c.
        out_layout: layout of the result; empty: that of the data.
        ceil_mode: also a last window that the padded data does not fill counts.

    """
    return pool_call("nn.max_pool3d", 3, locals())


@_sliding("nn.avg_pool1d", 1, mean=True)
def avg_pool1d(
    data: ExprLike,
    pool_size: IntOrInts = (1,),
    strides: IntOrInts = (1,),
    dilation: IntOrInts = (1,),
    padding: IntOrInts = (0,),
    layout: str = "NCW",
    out_layout: str = "",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Expr:
    """The mean of every window over width.

    Args:
        data: (N, C, W) in the default layout.
        pool_size: extent of a window.
        strides: distance between windows.
        dilation: distance between the elements of a window.
        padding: padding around the data: one number, or (left, right).
        layout: layout of the data, e.g. NCW, NWC or NCW16c.
        out_layout: layout of the result; empty: that of the data.
        ceil_mode: also a last window that the padded data does not fill counts.
        count_include_pad: whether elements of the padding count (as 0) for the mean.

    """
    return pool_call("nn.avg_pool1d", 1, locals())


@_sliding("nn.avg_pool2d", 2, mean=True)
def avg_pool2d(
    data: ExprLike,
    pool_size: IntOrInts = (1, 1),
    strides: IntOrInts = (1, 1),
    dilation: IntOrInts = (1, 1),
    padding: IntOrInts = (0, 0),
    layout: str = "NCHW",
    out_layout: str = "",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Expr:
    """The mean of every window over height and width.

    Args:
        data: (N, C, H, W) in the default layout.
        pool_size: extent of a window.
        strides: distance between windows.
        dilation: distance between the elements of a window.
        padding: padding around the data: one number, one for each axis, or
            (top, left, bottom, right).
        layout: layout of the data, e.g. NCHW, NHWC or NCHW16c.
        out_layout: layout of the result; empty: that of the data.
        ceil_mode: also a last window that the padded data does not fill counts.
        count_include_pad: whether elements of the padding count (as 0) for the mean.

    """
    return pool_call("nn.avg_pool2d", 2, locals())


@_sliding("nn.avg_pool3d", 3, mean=True)
def avg_pool3d(
    data: ExprLike,
    pool_size: IntOrInts = (1, 1, 1),
    strides: IntOrInts = (1, 1, 1),
    dilation: IntOrInts = (1, 1, 1),
    padding: IntOrInts = (0, 0, 0),
    layout: str = "NCDHW",
    out_layout: str = "",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Expr:
    """The mean of every window over depth, height and width.

    Args:
        data: (N, C, D, H, W) in the default layout.
        pool_size: extent of a window.
        strides: distance between windows.
        dilation: distance between the elements of a window.
        padding: padding around the data: one number, one for each axis, or
            (front, top, left, back, bottom, right).
        layout: layout of the data, e.g. NCDHW, NDHWC or NCDHW16c.
        out_layout: layout of the result; empty: that of the data.
        ceil_mode: also a last window that the padded data does not fill counts.
        count_include_pad: whether elements of the padding count (as 0) for the mean.

    """
    return pool_call("nn.avg_pool3d", 3, locals())


@_adaptive("nn.adaptive_max_pool1d", 1, mean=False)
def adaptive_max_pool1d(
    data: ExprLike, output_size: IntOrInts | None = None, layout: str = "NCW", out_layout: str = ""
) -> Expr:
    """The maximum of each of `output_size` parts of width.

    Args:
        data: (N, C, W) in the default layout.
        output_size: number of parts; None: as many as there are elements.
        layout: layout of the data.
        out_layout: layout of the result; empty: that of the data.

    """
    return pool_call("nn.adaptive_max_pool1d", 1, locals())


@_adaptive("nn.adaptive_max_pool2d", 2, mean=False)
def adaptive_max_pool2d(
    data: ExprLike, output_size: IntOrInts | None = None, layout: str = "NCHW", out_layout: str = ""
) -> Expr:
    """The maximum of each of `output_size` parts of height and width.

    Args:
        data: (N, C, H, W) in the default layout.
        output_size: number of parts, one for all axes or one for each; None: as many as there are elements.
        layout: layout of the data.
        out_layout: layout of the result; empty: that of the data.

    """
    return pool_call("nn.adaptive_max_pool2d", 2, locals())


@_adaptive("nn.adaptive_max_pool3d", 3, mean=False)
def adaptive_max_pool3d(
    data: ExprLike, output_size: IntOrInts | None = None, layout: str = "NCDHW", out_layout: str = ""
) -> Expr:
    """The maximum of each of `output_size` parts of depth, height and width.

    Args:
        data: (N, C, D, H, W) in the default layout.
        output_size: number of parts, one for all axes or one for each; None: as many as there are elements.
        layout: layout of the data.
        out_layout: layout of the result; empty: that of the data.

    """
    return pool_call("nn.adaptive_max_pool3d", 3, locals())


@_adaptive("nn.adaptive_avg_pool1d", 1, mean=True)
def adaptive_avg_pool1d(
    data: ExprLike, output_size: IntOrInts | None = None, layout: str = "NCW", out_layout: str = ""
) -> Expr:
    """The mean of each of `output_size` parts of width.

    Args:
        data: (N, C, W) in the default layout.
        output_size: number of parts; None: as many as there are elements.
        layout: layout of the data.
        out_layout: layout of the result; empty: that of the data.

    """
    return pool_call("nn.adaptive_avg_pool1d", 1, locals())


@_adaptive("nn.adaptive_avg_pool2d", 2, mean=True)
def adaptive_avg_pool2d(
    data: ExprLike, output_size: IntOrInts | None = None, layout: str = "NCHW", out_layout: str = ""
) -> Expr:
    """The mean of each of `output_size` parts of height and width.

    Args:
        data: (N, C, H, W) in the default layout.
        output_size: number of parts, one for all axes or one for each; None: as many as there are elements.
        layout: layout of the data.
        out_layout: layout of the result; empty: that of the data.

    """
    return pool_call("nn.adaptive_avg_pool2d", 2, locals())


@_adaptive("nn.adaptive_avg_pool3d", 3, mean=True)
def adaptive_avg_pool3d(
    data: ExprLike, output_size: IntOrInts | None = None, layout: str = "NCDHW", out_layout: str = ""
) -> Expr:
    """The mean of each of `output_size` parts of depth, height and width.

    Args:
        data: (N, C, D, H, W) in the default layout.
        output_size: number of parts, one for all axes or one for each; None: as many as there are elements.
        layout: layout of the data.
        out_layout: layout of the result; empty: that of the data.

    """
    return pool_call("nn.adaptive_avg_pool3d", 3, locals())


def global_max_pool1d(data: ExprLike, layout: str = "NCW", out_layout: str = "") -> Expr:
    """The maximum over all of width, which becomes 1 (as in Relay, an `adaptive_max_pool1d`)."""
    return adaptive_max_pool1d(data, 1, layout, out_layout)


@_adaptive("nn.global_max_pool2d", 2, mean=False, single=True)
def global_max_pool2d(data: ExprLike, layout: str = "NCHW", out_layout: str = "") -> Expr:
    """The maximum over all of height and width, which become 1."""
    return pool_call("nn.global_max_pool2d", 2, locals())


def global_max_pool3d(data: ExprLike, layout: str = "NCDHW", out_layout: str = "") -> Expr:
    """The maximum over all of depth, height and width, which become 1 (as in Relay, an `adaptive_max_pool3d`)."""
    return adaptive_max_pool3d(data, 1, layout, out_layout)


def global_avg_pool1d(data: ExprLike, layout: str = "NCW", out_layout: str = "") -> Expr:
    """The mean over all of width, which becomes 1 (as in Relay, an `adaptive_avg_pool1d`)."""
    return adaptive_avg_pool1d(data, 1, layout, out_layout)


@_adaptive("nn.global_avg_pool2d", 2, mean=True, single=True)
def global_avg_pool2d(data: ExprLike, layout: str = "NCHW", out_layout: str = "") -> Expr:
    """The mean over all of height and width, which become 1."""
    return pool_call("nn.global_avg_pool2d", 2, locals())


def global_avg_pool3d(data: ExprLike, layout: str = "NCDHW", out_layout: str = "") -> Expr:
    """The mean over all of depth, height and width, which become 1 (as in Relay, an `adaptive_avg_pool3d`)."""
    return adaptive_avg_pool3d(data, 1, layout, out_layout)
