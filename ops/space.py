"""Operators that move elements between axes: depth and space, batch and space, batch_flatten."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Constant, Expr, ExprLike, call
from ..ir.index import Dim, Index, as_dim, as_index, product
from ..ir.op import Attrs
from ..ir.scalar import Operand
from ..ir.types import TensorType, Type
from .arguments import IntsLike, one_of, static_ints
from .layout import Layout
from .lowering import Context, Map
from .reshape import ravel, reshaped, unravel
from .spec import EVERY, Array, Case, Fusion, operator, tensor
from .unary import draw_shape
from .window import divided, full_blocks, static, tensor_layout

_DTYPES = (*EVERY, "int8", "uint8")
_MODES = ("DCR", "CRD")


def _image(data: Type, text: Any) -> tuple[Layout, dict[str, Dim]]:
    """The layout of a 4-D image tensor, and its sizes by axis."""
    layout = tensor_layout(text, "NCHW", "layout")
    return layout, layout.unpack_shape(tensor(data).shape, "data")


def _block_size(a: Attrs) -> int:
    if a.block_size < 1:
        raise TypeInferenceError(f"block_size must be at least 1, got {a.block_size}")
    return int(a.block_size)


# depth_to_space, space_to_depth


def _infer_depth_to_space(a: Attrs, data: Type) -> Type:
    block = _block_size(a)
    one_of(a.mode, _MODES, "mode")
    layout, sizes = _image(data, a.layout)
    sizes["C"] = divided(as_dim(sizes["C"]), block * block, "the number of channels")
    sizes["H"], sizes["W"] = sizes["H"] * block, sizes["W"] * block
    return TensorType(full_blocks(layout, sizes, "layout"), tensor(data).dtype)


def _depth_to_space(c: Context, *index: Index) -> Operand:
    block, layout = c.attrs.block_size, Layout.parse(c.attrs.layout)
    at = layout.unpack(index)
    place = at["H"] % block * block + at["W"] % block
    channels = layout.unpack_shape(c.shape)["C"]
    channel = place * channels + at["C"] if c.attrs.mode == "DCR" else at["C"] * (block * block) + place
    source = {"N": at["N"], "C": channel, "H": at["H"] // block, "W": at["W"] // block}
    return c.args[0](*layout.pack(source))


def _np_depth_to_space(a: Attrs, x: Array) -> Array:
    layout, block = Layout.parse(a.layout), a.block_size
    n, channels, height, width = (plain := layout.to_plain(x, "NCHW")).shape
    channels //= block * block
    if a.mode == "DCR":
        parts = plain.reshape(n, block, block, channels, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = plain.reshape(n, channels, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return layout.from_plain(parts.reshape(n, channels, height * block, width * block), "NCHW")


def _draw_image(rng: np.random.Generator, channels: int, unit: int) -> tuple[tuple[int, ...], str]:
    """The shape and layout of an image: a multiple of `channels` channels, height and width multiples of `unit`."""
    inner = 2 * channels
    layout = str(rng.choice(["NCHW", "NHWC", "CWNH", f"NCHW{inner}c"]))
    depth = inner * int(rng.integers(1, 3)) if "c" in layout else channels * int(rng.choice([1, 2, 3, 5]))
    sizes = {"N": int(rng.choice([0, 1, 2, 3], p=[0.05, 0.45, 0.3, 0.2])), "C": depth}
    sizes |= {axis: unit * int(rng.integers(1, 5)) for axis in "HW"}
    shape = Layout.parse(layout).pack_shape(sizes)
    return tuple(int(as_index(n).const) for n in shape), layout


def _cases_depth_to_space(rng: np.random.Generator) -> Case:
    block = int(rng.integers(1, 4))
    shape, layout = _draw_image(rng, block * block, 1)
    # A blocked layout needs full blocks on both sides.
    if "c" in layout and shape[1] % (block * block):
        shape = (shape[0], shape[1] * block * block, *shape[2:])
    return Case([shape], {"block_size": block, "layout": layout, "mode": str(rng.choice(_MODES))})


@operator(
    "nn.depth_to_space",
    Fusion.INJECTIVE,
    _infer_depth_to_space,
    _np_depth_to_space,
    Map(_depth_to_space),
    cases=_cases_depth_to_space,
    dtypes=_DTYPES,
)
def depth_to_space(data: ExprLike, block_size: int, layout: str = "NCHW", mode: str = "DCR") -> Expr:
    """Channels laid out as square blocks of pixels: fewer channels, larger images.

    Args:
        data: image tensor; block_size * block_size divides its channels.
        block_size: height and width of a block.
        layout: the layout of data and result, such as "NCHW" or "NHWC".
        mode: "DCR": the place in the block is the slow part of the channel number; "CRD": the fast part.

    """
    return call("nn.depth_to_space", [data], block_size=int(block_size), layout=layout, mode=mode)


def _infer_space_to_depth(a: Attrs, data: Type) -> Type:
    block = _block_size(a)
    layout, sizes = _image(data, a.layout)
    sizes["C"] = sizes["C"] * (block * block)
    sizes["H"], sizes["W"] = (divided(as_dim(sizes[axis]), block, f"axis {axis}") for axis in "HW")
    return TensorType(full_blocks(layout, sizes, "layout"), tensor(data).dtype)


def _space_to_depth(c: Context, *index: Index) -> Operand:
    block, layout = c.attrs.block_size, Layout.parse(c.attrs.layout)
    at = layout.unpack(index)
    channels = max(static(layout.unpack_shape(c.args[0].shape)["C"]), 1)
    place, channel = at["C"] // channels, at["C"] % channels
    source = {"N": at["N"], "C": channel, "H": at["H"] * block + place // block, "W": at["W"] * block + place % block}
    return c.args[0](*layout.pack(source))


def _np_space_to_depth(a: Attrs, x: Array) -> Array:
    layout, block = Layout.parse(a.layout), a.block_size
    n, channels, height, width = (plain := layout.to_plain(x, "NCHW")).shape
    parts = plain.reshape(n, channels, height // block, block, width // block, block).transpose(0, 3, 5, 1, 2, 4)
    return layout.from_plain(parts.reshape(n, channels * block**2, height // block, width // block), "NCHW")


def _cases_space_to_depth(rng: np.random.Generator) -> Case:
    block = int(rng.integers(1, 4))
    shape, layout = _draw_image(rng, 1, block)
    return Case([shape], {"block_size": block, "layout": layout})


@operator(
    "nn.space_to_depth",
    Fusion.INJECTIVE,
    _infer_space_to_depth,
    _np_space_to_depth,
    Map(_space_to_depth),
    cases=_cases_space_to_depth,
    dtypes=_DTYPES,
)
def space_to_depth(data: ExprLike, block_size: int, layout: str = "NCHW") -> Expr:
    """Square blocks of pixels stacked as channels: the inverse of `depth_to_space` with mode "DCR".

    Args:
        data: image tensor; block_size divides its height and width.
        block_size: height and width of a block.
        layout: the layout of data and result, such as "NCHW" or "NHWC".

    """
    return call("nn.space_to_depth", [data], block_size=int(block_size), layout=layout)


# space_to_batch_nd, batch_to_space_nd


def _pairs(value: Any, what: str) -> tuple[tuple[int, int], ...]:
    """Two numbers for each spatial axis, given as nested sequences, an array or a constant."""
    rows = np.asarray(value.data if isinstance(value, Constant) else value)
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "iu":
        raise TypeInferenceError(f"{what} must be a pair of integers for each spatial axis, got {value}")
    return tuple((int(before), int(after)) for before, after in rows)


def _check_blocks(x: TensorType, block_shape: Sequence[int], pairs: Sequence[tuple[int, int]], what: str) -> None:
    rank = len(block_shape)
    if x.ndim < 1 + rank:
        raise TypeInferenceError(f"data must have a batch axis and the {rank} axes of block_shape, got {x}")
    if len(pairs) != rank:
        raise TypeInferenceError(f"{what} must have {rank} pairs, as many as block_shape, got {len(pairs)}")
    if any(b < 1 for b in block_shape):
        raise TypeInferenceError(f"the entries of block_shape must be at least 1, got {block_shape}")
    if any(n < 0 for pair in pairs for n in pair):
        raise TypeInferenceError(f"{what} must not be negative, got {pairs}")


def _infer_space_to_batch(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    _check_blocks(x, a.block_shape, a.paddings, "paddings")
    spatial = [
        divided(as_dim(n + before + after), block, f"padded axis {axis}")
        for axis, n, block, (before, after) in zip(
            range(1, x.ndim), x.shape[1:], a.block_shape, a.paddings, strict=False
        )
    ]
    batch = as_dim(as_index(x.shape[0]) * math.prod(a.block_shape))
    return TensorType([batch, *spatial, *x.shape[1 + len(spatial) :]], x.dtype)


def _space_to_batch(c: Context, *index: Index) -> Operand:
    (x,), blocks = c.args, c.attrs.block_shape
    batch = max(x.shape[0], 1)
    offsets = unravel(index[0] // batch, blocks)
    spatial = [
        i * block + offset - before
        for i, block, offset, (before, _) in zip(index[1:], blocks, offsets, c.attrs.paddings, strict=False)
    ]
    return x.padded(index[0] % batch, *spatial, *index[1 + len(blocks) :], fill=c.attrs.pad_value)


def _np_space_to_batch(a: Attrs, x: Array) -> Array:
    rank = len(a.block_shape)
    rest = x.shape[1 + rank :]
    padded = np.pad(x, [(0, 0), *a.paddings, *[(0, 0)] * len(rest)], constant_values=x.dtype.type(a.pad_value))
    split = [n for size, block in zip(padded.shape[1:], a.block_shape, strict=False) for n in (size // block, block)]
    parts = padded.reshape(x.shape[0], *split, *rest)
    outer, inner = [1 + 2 * k for k in range(rank)], [2 + 2 * k for k in range(rank)]
    moved = parts.transpose(*inner, 0, *outer, *range(1 + 2 * rank, parts.ndim))
    return moved.reshape(x.shape[0] * math.prod(a.block_shape), *split[::2], *rest)


def _draw_blocks(rng: np.random.Generator) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Block shape, a pair for each spatial axis, and trailing axes."""
    rank = int(rng.integers(1, 4))
    blocks = [int(n) for n in rng.integers(1, 4, rank)]
    pairs = [(int(before), int(after)) for before, after in rng.integers(0, 3, (rank, 2))]
    return blocks, pairs, [int(n) for n in rng.integers(1, 5, rng.integers(0, 3))]


def _cases_space_to_batch(rng: np.random.Generator) -> Case:
    blocks, pairs, rest = _draw_blocks(rng)
    spatial = []
    for k, block in enumerate(blocks):
        size = int(rng.integers(0, 6))
        pairs[k] = (pairs[k][0], pairs[k][1] + -(size + sum(pairs[k])) % block)
        spatial.append(size)
    attributes = {"block_shape": blocks, "paddings": pairs, "pad_value": float(rng.choice([0, 1, 3]))}
    return Case([(int(rng.integers(1, 4)), *spatial, *rest)], attributes)


@operator(
    "nn.space_to_batch_nd",
    Fusion.INJECTIVE,
    _infer_space_to_batch,
    _np_space_to_batch,
    Map(_space_to_batch),
    cases=_cases_space_to_batch,
    dtypes=_DTYPES,
)
def space_to_batch_nd(data: ExprLike, block_shape: IntsLike, paddings: Any, pad_value: float = 0) -> Expr:
    """Blocks of the (padded) spatial axes cut apart: each place in the block becomes a batch of its own.

    Args:
        data: tensor of shape (batch, spatial axes, other axes).
        block_shape: the size of a block along each spatial axis; it divides the padded size.
        paddings: (before, after) for each spatial axis.
        pad_value: what padding holds.

    """
    return call(
        "nn.space_to_batch_nd", [data], block_shape=static_ints(block_shape, "block_shape"),
        paddings=_pairs(paddings, "paddings"), pad_value=float(pad_value),
    )  # fmt: skip


def _infer_batch_to_space(a: Attrs, data: Type) -> Type:
    x = tensor(data, "data")
    _check_blocks(x, a.block_shape, a.crops, "crops")
    spatial: list[Dim] = []
    for axis, n, block, crop in zip(range(1, x.ndim), x.shape[1:], a.block_shape, a.crops, strict=False):
        left = as_dim(as_index(n) * block - sum(crop))
        if isinstance(left, int) and left < 0:
            raise TypeInferenceError(f"crops {crop} are larger than axis {axis}, which has {n} blocks of {block}")
        spatial.append(left)
    batch = divided(x.shape[0], math.prod(a.block_shape), "the batch")
    return TensorType([batch, *spatial, *x.shape[1 + len(spatial) :]], x.dtype)


def _batch_to_space(c: Context, *index: Index) -> Operand:
    blocks = c.attrs.block_shape
    rank = len(blocks)
    at = [i + before for i, (before, _) in zip(index[1:], c.attrs.crops, strict=False)]
    offset = ravel([i % block for i, block in zip(at, blocks, strict=True)], blocks)
    spatial = [i // block for i, block in zip(at, blocks, strict=True)]
    return c.args[0](offset * c.shape[0] + index[0], *spatial, *index[1 + rank :])


def _np_batch_to_space(a: Attrs, x: Array) -> Array:
    rank, batch = len(a.block_shape), x.shape[0] // math.prod(a.block_shape)
    spatial, rest = x.shape[1 : 1 + rank], x.shape[1 + rank :]
    parts = x.reshape(*a.block_shape, batch, *spatial, *rest)
    order = [rank, *(axis for k in range(rank) for axis in (rank + 1 + k, k)), *range(2 * rank + 1, parts.ndim)]
    sizes = [n * block for n, block in zip(spatial, a.block_shape, strict=True)]
    joined = parts.transpose(order).reshape(batch, *sizes, *rest)
    return joined[(slice(None), *(slice(b, n - e) for (b, e), n in zip(a.crops, sizes, strict=True)))]


def _cases_batch_to_space(rng: np.random.Generator) -> Case:
    blocks, pairs, rest = _draw_blocks(rng)
    spatial = [-(-sum(pair) // block) + int(rng.integers(0, 4)) for block, pair in zip(blocks, pairs, strict=True)]
    batch = math.prod(blocks) * int(rng.integers(0, 4))
    return Case([(batch, *spatial, *rest)], {"block_shape": blocks, "crops": pairs})


@operator(
    "nn.batch_to_space_nd",
    Fusion.INJECTIVE,
    _infer_batch_to_space,
    _np_batch_to_space,
    Map(_batch_to_space),
    cases=_cases_batch_to_space,
    dtypes=_DTYPES,
)
def batch_to_space_nd(data: ExprLike, block_shape: IntsLike, crops: Any) -> Expr:
    """Batches woven together into larger images, then cropped: the inverse of `space_to_batch_nd`.

    Args:
        data: tensor of shape (batch, spatial axes, other axes); the product of `block_shape` divides its batch.
        block_shape: the size of a block along each spatial axis.
        crops: (before, after): how many elements to cut off each spatial axis of the result.

    """
    blocks = static_ints(block_shape, "block_shape")
    return call("nn.batch_to_space_nd", [data], block_shape=blocks, crops=_pairs(crops, "crops"))


# batch_flatten


def _infer_batch_flatten(a: Attrs, data: Type) -> Type:
    x = tensor(data)
    if x.ndim < 1:
        raise TypeInferenceError(f"batch_flatten needs a tensor of at least 1 dimension, got {x}")
    return TensorType((x.shape[0], product(x.shape[1:])), x.dtype)


@operator(
    "nn.batch_flatten",
    Fusion.INJECTIVE,
    _infer_batch_flatten,
    lambda a, x: x.reshape(x.shape[0], math.prod(x.shape[1:])),
    Map(lambda c, *index: reshaped(c.args[0], c.shape, index)),
    cases=lambda rng: Case([draw_shape(rng, 1)]),
    dtypes=_DTYPES,
)
def batch_flatten(data: ExprLike) -> Expr:
    """All axes but the first flattened into one.

    Args:
        data: tensor of at least one dimension.

    """
    return call("nn.batch_flatten", [data])
