"""Weights of a convolution as an image: the block of channels and the place of the window are its rows.

    row     (group * blocks of channels + block) * window + place in the window
    column  input channel * texels of a block + texel

A texel is four output channels. GPUs read images through a cache of their own, apart from that of buffers (MNN keeps
weights so on Adreno and Mali); where both share one, images gain nothing, and on a CPU they are emulated.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ....ir.index import Index
from ....ir.loops import Builder
from ....ir.scalar import Buffer, Value
from ...lower import Problem
from ..conv_shape import Conv, conv_of
from ..tiles import Packed
from .items import LANES

STORED = ("float32", "float16")
"""What a texel may be stored as; sums are float32."""


@frozen(eq=False)
class ImageWeights:
    """Weights that lie in an image, for blocks of `channels` output channels."""

    conv: Conv
    image: Buffer
    packed: Packed
    channels: int

    @staticmethod
    def of(conv: Conv, channels: int) -> "ImageWeights":
        """Let a constant weight be an image; `conv.problem` has it as input."""
        given = conv.problem.parameter(1)
        assert given is not None
        image = Buffer(given.name, _shape(conv, channels), "float32", "image")
        problem = evolve(conv.problem, inputs=tuple(image if b is given else b for b in conv.problem.inputs))
        packed = {conv.problem.inputs.index(given): lambda array: _texels(conv, channels, array)}
        return ImageWeights(evolve(conv, problem=problem), image, packed, channels)

    def load(self, b: Builder, at: tuple[Index, Index], place: tuple[Index, Index, Index], o: Index, v: Index) -> Value:
        """Lane `v` of vector `o` of a block (group, block), for the row, the column and the input channel `place`."""
        s, (g, tile), (y, x, c) = self.conv.s, at, place
        row = ((g * -(-s.co // self.channels) + tile) * s.kh + y) * s.kw + x
        return b.load(self.image, (row, c * (self.channels // LANES) + o, v))


def check(problem: Problem, channels: int) -> str | None:
    """Why weights cannot be an image, or None."""
    conv, device = conv_of(problem), problem.isa.device
    if device is None or device.image == (0, 0):
        return "the device has no images, or is not known when this is built"
    if conv.weight.dtype not in STORED or conv.dtype != "float32":
        return f"weights of {conv.weight.dtype} for sums of {conv.dtype}; images hold {' and '.join(STORED)}"
    if problem.parameter(1) not in problem.constants:
        return "the weight is not known at build time"
    rows, columns, _ = _shape(conv, channels)
    if columns > device.image[0] or rows > device.image[1]:
        most = " x ".join(map(str, device.image))
        return f"weights of {columns} x {rows} texels; an image of the device has {most} at most"
    return None


def _shape(conv: Conv, channels: int) -> tuple[int, int, int]:
    s = conv.s
    return s.groups * -(-s.co // channels) * s.kh * s.kw, s.ci * (channels // LANES), LANES


def _texels(conv: Conv, channels: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights (O, I, H, W) as texels, 0 beyond the last channel."""
    s, tiles = conv.s, -(-conv.s.co // channels)
    parts = array.reshape(s.groups, s.co, s.ci, s.kh * s.kw)
    whole = np.pad(parts, ((0, 0), (0, tiles * channels - s.co), (0, 0), (0, 0)))
    blocks = whole.reshape(s.groups, tiles, channels, s.ci, -1).transpose(0, 1, 4, 3, 2)
    return np.ascontiguousarray(blocks.reshape(_shape(conv, channels)))
