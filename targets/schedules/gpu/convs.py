"""What convolutions for work-groups share: which they are, their pictures, tiles of them, and packed weights."""

from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve

from ....ir.index import Index
from ....ir.loops import Builder
from ....ir.scalar import Buffer, Value, apply
from ....ir.types import TensorType
from ....ops.layout import Layout
from ....ops.lowering import View
from ...lower import Problem
from .. import conv_shape
from ..conv_shape import Conv, conv_of
from ..tiles import Packed, Packing, Piece, packed_operand
from .items import LANES, device_needed, or_zero


def plain_conv(problem: Problem) -> Conv | str:
    """A convolution whose pixels and channels are not in blocks; or why the group is none."""
    if reason := device_needed(problem):
        return reason
    context = problem.context
    assert context is not None
    a, (_, weight) = context.attrs, context.args
    layouts = a.data_layout, a.out_layout or a.data_layout, a.kernel_layout
    if layouts[:2] == ("NHWC", "NHWC") and layouts[2] in ("HWIO", "HWOI"):
        if reason := conv_shape.check_values(problem):
            return reason
        order = _order(layouts[2])
        view = View(
            TensorType(tuple(weight.shape[axis] for axis in order), weight.dtype),
            lambda *place: weight(*(place[order.index(axis)] for axis in range(4))),
        )
        return conv_of(problem, weight=view)
    if reason := conv_shape.check(problem):
        return reason
    conv = conv_of(problem)
    if conv.data_block > 1 or conv.out_block > 1 or conv.axes is not None:
        return "it is written for NCHW and NHWC"
    return conv


def _order(layout: str) -> tuple[int, ...]:
    """Where the axes OIHW stand in a layout of weights."""
    return tuple(map(layout.index, "OIHW"))


def runs_along_channels(conv: Conv) -> bool:
    """Whether neighbouring channels are neighbours in memory (NHWC)."""
    return conv.out_layout == Layout.parse("NHWC")


def plain_depthwise(problem: Problem, last: bool) -> Conv | str:
    """A depthwise convolution in NHWC (`last`) or NCHW; or why the group is none."""
    conv = plain_conv(problem)
    if isinstance(conv, str):
        return conv
    if conv.s.ci != 1 or conv.s.co != 1 or conv.s.groups == 1:
        return "not depthwise: a group has more than one channel"
    return conv if runs_along_channels(conv) == last else f"it is written for {'NHWC' if last else 'NCHW'}"


def known_depthwise(problem: Problem, last: bool) -> Conv:
    """The depthwise convolution of a group that a check let pass."""
    conv = plain_depthwise(problem, last)
    assert isinstance(conv, Conv)
    return conv


def is_pointwise(conv: Conv) -> bool:
    """Whether the window is 1x1 and there is no border."""
    return conv.s.kh == conv.s.kw == 1 and not conv.s.padded


def picture(conv: Conv) -> tuple[int, int]:
    """Rows and columns of the result; those of a pointwise convolution are one row."""
    return (1, conv.s.oh * conv.s.ow) if conv.s.pointwise else (conv.s.oh, conv.s.ow)


def window_of(conv: Conv, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the input, border included, that so many of the result read."""
    s = conv.s
    high = (rows - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0] + 1
    return high, (columns - 1) * s.stride[1] + (s.kw - 1) * s.dilation[1] + 1


def packed_blocks(conv: Conv, b: Builder, channels: int) -> tuple[Conv, Buffer, Packing, Packed]:
    """Weights as [group][block of channels][term][channels], zero beyond the last channel.

    A term is (block of input channels, place of the window, input channel of the block).
    """
    s, block, view, area = conv.s, conv.data_block, conv.weight, conv.s.kh * conv.s.kw
    context, tiles = conv.problem.context, -(-s.co // channels)
    assert context is not None
    last, given = runs_along_channels(conv), context.attrs.kernel_layout
    packing = Packing((Piece(0, tiles, channels // LANES, LANES),), s.terms, tiles * channels)

    def element(g: Index, row: Index, o: Index) -> Value:
        c, k = row // (block * area) * block + row % block, row // block % area
        place = (g * s.co + o, c) if view.shape[1] == s.ci else (g, o)
        return or_zero(apply("lt", o, s.co), view(*place, k // s.kw, k % s.kw), view(0, 0, 0, 0).dtype)

    def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        whole = array.transpose(_order(given)) if last else array
        parts = whole.reshape(s.groups, s.co, s.ci // block, block, area)
        whole = parts.transpose(0, 2, 4, 3, 1).reshape(s.groups, s.terms, s.co)
        return np.pad(whole, ((0, 0), (0, 0), (0, packing.extent - s.co)))

    weights, problem, packed = packed_operand(conv.problem, packing, b, s.groups, matrix, element)
    return evolve(conv, problem=problem), weights, packing, packed
