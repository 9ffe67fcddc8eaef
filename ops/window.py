"""What convolutions, pools and matrix products share: sliding windows, checks of layouts, dtypes of sums."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.index import Dim, Index, as_dim, floordiv
from ..ir.op import Attrs
from ..ir.types import TensorType, check_dtype, numpy_dtype
from .layout import Layout
from .spec import Array, ints

IntOrInts: TypeAlias = int | Sequence[int]
"""One number for every spatial axis, or one number for each."""


def spatial_axes(rank: int) -> str:
    """The spatial axes of a tensor of 1, 2 or 3 spatial dimensions, outermost first: "W", "HW" or "DHW"."""
    return "DHW"[3 - rank :]


def pad_tuple(padding: IntOrInts, rank: int) -> tuple[int, ...]:
    """Padding with `2 * rank` entries, all the starts before all the ends: (top, left, bottom, right) in 2-D.

    Args:
        padding: one number for all sides, one for each axis, or one for each side.
        rank: the number of spatial axes.

    Raises:
        TypeInferenceError: there is another number of entries.

    """
    given = ints(padding)
    if len(given) == 1:
        return given * (2 * rank)
    if len(given) == rank:
        return given * 2
    if len(given) == 2 * rank:
        return given
    expected = " or ".join(map(str, sorted({1, rank, 2 * rank})))
    raise TypeInferenceError(f"padding must have {expected} entries, got {len(given)}: {given}")


def tensor_layout(text: Any, axes: str, what: str) -> Layout:
    """The layout `text`, which must name exactly the `axes`, with no spatial axis (D, H, W) split into blocks.

    Raises:
        TypeInferenceError: it does not.

    """
    layout = Layout.parse(text)
    if sorted(layout.axes) != sorted(axes):
        raise TypeInferenceError(f"{what} {layout.name!r} must have the axes {axes}, in any order")
    for axis in set(axes) & set("DHW"):
        if layout.block(axis) != 1:
            raise TypeInferenceError(f"{what} {layout.name!r} splits the spatial axis {axis}, which is not supported")
    return layout


def positive(value: Sequence[int], rank: int, what: str) -> tuple[int, ...]:
    """`value` if it holds `rank` numbers of at least 1, else a TypeInferenceError."""
    if len(value) != rank or any(v < 1 for v in value):
        expected = "one number" if rank == 1 else f"{rank} numbers"
        raise TypeInferenceError(f"{what} must be {expected} of at least 1, got {tuple(value)}")
    return tuple(value)


def not_negative(value: Sequence[int], what: str) -> tuple[int, ...]:
    """`value` if no entry is below 0, else a TypeInferenceError."""
    if any(v < 0 for v in value):
        raise TypeInferenceError(f"{what} must not be negative, got {tuple(value)}")
    return tuple(value)


def span(kernel: int, dilation: int) -> int:
    """How many elements a window of `kernel` elements, `dilation` apart, reaches over."""
    return (kernel - 1) * dilation + 1


def window_count(size: Dim, pads: int, reach: int, stride: int, axis: str, ceil: bool = False) -> Dim:
    """How many windows that reach over `reach` elements fit on an axis of `size` elements plus `pads` of padding.

    Raises:
        TypeInferenceError: the window is larger than the padded axis.

    """
    room = as_dim(size + pads - reach)
    if isinstance(room, int) and room < 0:
        raise TypeInferenceError(
            f"the window reaches over {reach} elements of axis {axis}, which has only {size} and {pads} of padding"
        )
    return as_dim(floordiv(room + (stride - 1 if ceil else 0), stride) + 1)


def full_blocks(layout: Layout, sizes: Mapping[str, Dim], what: str) -> tuple[Dim, ...]:
    """The shape in `layout` of a tensor with these sizes; every block must be full.

    Raises:
        TypeInferenceError: a size is not a multiple of its block.

    """
    for axis, size in sizes.items():
        if isinstance(size, int) and size % layout.block(axis):
            raise TypeInferenceError(
                f"{what} {layout.name} needs a multiple of {layout.block(axis)} for axis {axis}, got {size}"
            )
    return layout.pack_shape(sizes)


def numeric(type_: TensorType, what: str) -> TensorType:
    """`type_` if its elements are numbers (not bool), else a TypeInferenceError."""
    if type_.dtype == "bool":
        raise TypeInferenceError(f"{what} must hold numbers, got {type_}")
    return type_


def divided(value: Dim, divisor: int, what: str) -> Dim:
    """`value // divisor`, or a TypeInferenceError if it is known that there is a rest."""
    if isinstance(value, int) and value % divisor:
        raise TypeInferenceError(f"{what} must be a multiple of {divisor}, got {value}")
    return as_dim(floordiv(value, divisor))


def static(dim: Dim) -> int:
    """A dimension that must be known by now as an int, or a TypeInferenceError."""
    if not isinstance(dim, int):
        raise TypeInferenceError(f"dimension {dim} must be known when code is generated")
    return dim


def shown(shape: Sequence[Dim]) -> str:
    """A shape as in printed types."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def position(out: Index, step: Index, stride: int, dilation: int, pad: int) -> Index:
    """Where element `step` of window `out` lies on the axis (negative: in the padding in front)."""
    return out * stride + step * dilation - pad


def out_dtype_of(attributes: Attrs, data: TensorType) -> str:
    """The dtype of the result: `out_dtype` where it is given, else that of the data."""
    return check_dtype(attributes.out_dtype) if attributes.out_dtype else data.dtype


def accumulator(attributes: Attrs, array: Array) -> "np.dtype[np.generic]":
    """The dtype that a reference adds up in: float64 for floating results, else the result's own."""
    dtype = numpy_dtype(attributes.out_dtype) if attributes.out_dtype else array.dtype
    return dtype if dtype.kind in "iu" else np.dtype(np.float64)
