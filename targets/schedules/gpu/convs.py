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
    if layouts == ("NHWC", "NHWC", "HWIO"):
        if reason := conv_shape.check_values(problem):
            return reason
        shape = tuple(weight.shape[k] for k in (3, 2, 0, 1))
        view = View(TensorType(shape, weight.dtype), lambda o, i, y, x: weight(y, x, i, o))
        return conv_of(problem, weight=view)
    if reason := conv_shape.check(problem):
        return reason
    conv = conv_of(problem)
    if conv.data_block > 1 or conv.out_block > 1 or conv.axes is not None:
        return "it is written for NCHW and NHWC"
    return conv


def runs_along_channels(conv: Conv) -> bool:
    """Whether neighbouring channels are neighbours in memory (NHWC)."""
    return conv.out_layout == Layout.parse("NHWC")


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
    last = runs_along_channels(conv)
    tiles = -(-s.co // channels)
    packing = Packing((Piece(0, tiles, channels // LANES, LANES),), s.terms, tiles * channels)

    def element(g: Index, row: Index, o: Index) -> Value:
        c, k = row // (block * area) * block + row % block, row // block % area
        place = (g * s.co + o, c) if view.shape[1] == s.ci else (g, o)
        return or_zero(apply("lt", o, s.co), view(*place, k // s.kw, k % s.kw), view(0, 0, 0, 0).dtype)

    def matrix(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        parts = (array.transpose(3, 2, 0, 1) if last else array).reshape(s.groups, s.co, s.ci // block, block, area)
        whole = parts.transpose(0, 2, 4, 3, 1).reshape(s.groups, s.terms, s.co)
        return np.pad(whole, ((0, 0), (0, 0), (0, packing.extent - s.co)))

    weights, problem, packed = packed_operand(conv.problem, packing, b, s.groups, matrix, element)
    return evolve(conv, problem=problem), weights, packing, packed
