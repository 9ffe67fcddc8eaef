"""Layouts: how the named axes of a tensor lie in memory.

A layout string names the axes from the outermost to the innermost. A capital letter is a whole axis; a number with a
small letter splits a block off that axis: in `NCHW16c` the channels are cut into blocks of 16, and channel `c` is
found at block `c // 16` of axis `C` and place `c % 16` of the last axis. An axis may be split more than once
(`OIHW4i16o4i`); its first block is then the more significant one.

    nchw16c = Layout.parse("NCHW16c")
    nchw16c.pack({"N": n, "C": c, "H": h, "W": w})      # (n, c // 16, h, w, c % 16)
    nchw16c.unpack((n, co, h, w, ci))                   # {"N": n, "C": 16*co + ci, "H": h, "W": w}
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..ir.errors import TypeInferenceError
from ..ir.index import Dim, Index, as_dim, as_index, ceildiv

_PART = re.compile(r"([A-Z])|([1-9][0-9]*)([a-z])")


@frozen
class Part:
    """One dimension of a tensor in some layout: a whole axis, or a block split off it.

    Attributes:
        axis: the capital letter of the axis.
        block: the size of the block; 0 for the outermost part, which takes what the blocks leave.
        stride: how far one step in this dimension moves along the axis: the product of the less significant blocks.

    """

    axis: str
    block: int
    stride: int


@frozen(repr=False)
class Layout:
    """A parsed layout string; make one with `Layout.parse`.

    Attributes:
        name: the string.
        parts: one entry for each dimension, outermost first.

    """

    name: str
    parts: tuple[Part, ...]

    @staticmethod
    def parse(text: Any) -> "Layout":
        """The layout that a string such as "NCHW16c" describes.

        Raises:
            TypeInferenceError: the string is malformed, an axis occurs twice, or a block has no axis.

        """
        if isinstance(text, Layout):
            return text
        if not isinstance(text, str):
            raise TypeInferenceError(f"a layout is a string such as 'NCHW' or 'NCHW16c', got {text!r}")
        return _parse(text)

    @property
    def ndim(self) -> int:
        """The number of dimensions of a tensor in this layout."""
        return len(self.parts)

    @property
    def axes(self) -> str:
        """The capital letters in order, blocks left out: "NCHW" for NCHW16c."""
        return "".join(part.axis for part in self.parts if not part.block)

    def __contains__(self, axis: object) -> bool:
        return isinstance(axis, str) and axis in self.axes

    def index_of(self, axis: str) -> int:
        """The dimension that holds the outermost part of an axis (a capital letter)."""
        for place, part in enumerate(self.parts):
            if part.axis == axis and not part.block:
                return place
        raise TypeInferenceError(f"layout {self.name} has no axis {axis!r}")

    def block(self, axis: str) -> int:
        """The product of all blocks split off an axis; 1 where there are none."""
        outer = self.parts[self.index_of(axis)]
        return outer.stride

    def same_axes(self, other: "Layout") -> bool:
        """Whether both layouts name the same axes, in any order and with any blocks."""
        return sorted(self.axes) == sorted(other.axes)

    def pack(self, logical: Mapping[str, Dim]) -> tuple[Index, ...]:
        """The index in this layout of the element at `logical`, which maps each capital letter to an index."""
        packed = []
        for part in self.parts:
            place = as_index(logical[part.axis]) // part.stride
            packed.append(place % part.block if part.block else place)
        return tuple(packed)

    def unpack(self, index: Sequence[Dim]) -> dict[str, Index]:
        """The index along each axis of the element at `index` in this layout; the inverse of `pack`."""
        self._check_rank(index)
        logical = {part.axis: as_index(0) for part in self.parts if not part.block}
        for part, i in zip(self.parts, index, strict=True):
            logical[part.axis] = logical[part.axis] + as_index(i) * part.stride
        return logical

    def pack_shape(self, logical: Mapping[str, Dim]) -> tuple[Dim, ...]:
        """The shape in this layout of a tensor with these sizes; a last block that is not full counts whole."""
        return tuple(part.block or as_dim(ceildiv(logical[part.axis], part.stride)) for part in self.parts)

    def unpack_shape(self, shape: Sequence[Dim], what: str = "the tensor") -> dict[str, Dim]:
        """The size of each axis of a tensor (called `what` in errors) whose shape in this layout is `shape`.

        Raises:
            TypeInferenceError: the number of dimensions is wrong, or a dimension that holds a block has another size.

        """
        self._check_rank(shape, what)
        sizes: dict[str, Dim] = {}
        for place, (part, size) in enumerate(zip(self.parts, shape, strict=True)):
            if not part.block:
                sizes[part.axis] = as_dim(size * part.stride)
            elif size != part.block:
                shown = f"({', '.join(map(str, shape))})"
                raise TypeInferenceError(
                    f"{what} has shape {shown}: dimension {place} of layout {self.name} must be {part.block}"
                )
        return sizes

    def to_plain(self, array: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
        """A NumPy array in this layout as one whose dimensions are the whole axes named by `axes`, in that order."""
        order: list[int] = []
        shape: list[int] = []
        for axis in axes:
            places = self._places(axis)
            order += places
            shape.append(math.prod(array.shape[p] for p in places))
        return array.transpose(order).reshape(shape)

    def from_plain(self, array: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
        """The inverse of `to_plain`; the sizes must be multiples of the blocks."""
        order: list[int] = []
        shape: list[int] = []
        for axis, size in zip(axes, array.shape, strict=True):
            places = self._places(axis)
            order += places
            shape += [self.parts[p].block or size // self.parts[p].stride for p in places]
        return array.reshape(shape).transpose(np.argsort(order))

    def _places(self, axis: str) -> list[int]:
        """The dimensions that an axis lies in, the most significant first."""
        found = [p for p, part in enumerate(self.parts) if part.axis == axis]
        return sorted(found, key=lambda p: (self.parts[p].block > 0, -self.parts[p].stride))

    def _check_rank(self, shape: Sequence[Dim], what: str = "the index") -> None:
        if len(shape) != self.ndim:
            shown = f"({', '.join(map(str, shape))})"
            raise TypeInferenceError(f"{what} has {len(shape)} dimensions {shown}, layout {self.name} has {self.ndim}")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Layout({self.name!r})"


@cache
def _parse(text: str) -> Layout:
    tokens = [match.groups() for match in _PART.finditer(text)]
    if not text or "".join((axis or "") + (size or "") + (small or "") for axis, size, small in tokens) != text:
        raise TypeInferenceError(
            f"malformed layout {text!r}: expected capital letters and blocks such as 16c, for example NCHW16c"
        )
    axes = [axis for axis, _, _ in tokens if axis]
    if twice := {axis for axis in axes if axes.count(axis) > 1}:
        raise TypeInferenceError(f"malformed layout {text!r}: axis {min(twice)} occurs twice")
    if lost := {small for _, _, small in tokens if small and small.upper() not in axes}:
        letter = min(lost)
        raise TypeInferenceError(f"malformed layout {text!r}: block {letter} belongs to no axis {letter.upper()}")
    parts: list[Part] = []
    strides = dict.fromkeys(axes, 1)
    for _, size, small in reversed(tokens):
        if small:
            parts.append(Part(small.upper(), int(size), strides[small.upper()]))
            strides[small.upper()] *= int(size)
    # A whole axis steps over all its blocks, wherever they stand.
    whole = iter([Part(axis, 0, strides[axis]) for axis in axes])
    blocks = iter(reversed(parts))
    return Layout(text, tuple(next(whole) if axis else next(blocks) for axis, _, _ in tokens))
