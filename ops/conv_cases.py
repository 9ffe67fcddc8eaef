"""Random sample uses of convolutions and transposed convolutions, for the generated tests."""

from collections.abc import Callable

import numpy as np

from .layout import Layout
from .spec import Case
from .window import spatial_axes


def draw_window(rng: np.random.Generator, rank: int) -> tuple[list[int], dict[str, list[int]], list[int]]:
    """Window extents, strides / dilation / padding, and data extents that the window fits into."""
    limit = {1: 7, 2: 4, 3: 3}[rank]
    window = [int(rng.integers(1, limit)) for _ in range(rank)]
    strides = [int(rng.integers(1, 4)) if rng.random() < 0.6 else 1 for _ in range(rank)]
    dilation = [int(rng.integers(1, 4)) if rng.random() < 0.4 else 1 for _ in range(rank)]
    padding = [int(rng.integers(0, 4)) for _ in range(2 * rank)] if rng.random() < 0.7 else [0] * (2 * rank)
    extents = []
    for k in range(rank):
        least = max((window[k] - 1) * dilation[k] + 1 - padding[k] - padding[rank + k], 1)
        extra = int(rng.choice([0, 1, 3, 6, 9, 17])) if k == rank - 1 else int(rng.integers(0, 5))
        extents.append(least + extra)
    return window, {"strides": strides, "dilation": dilation, "padding": padding}, extents


def draw_channels(rng: np.random.Generator) -> tuple[int, int, int, bool]:
    """Input channels, output channels, groups, and whether the weight has the depthwise form."""
    match rng.integers(0, 5):
        case 0 | 1:
            return int(rng.choice([1, 3, 4, 8, 17])), int(rng.choice([1, 2, 4, 8, 16, 33])), 1, False
        case 2:
            groups = int(rng.integers(2, 4))
            return groups * int(rng.integers(1, 5)), groups * int(rng.integers(1, 5)), groups, False
        case _:
            inputs = int(rng.integers(2, 7))
            return inputs, inputs * int(rng.integers(1, 4)), inputs, bool(rng.random() < 0.5)


def conv_data_layouts(rng: np.random.Generator, spatial: str, channels: int) -> str:
    """A layout that suits a tensor with so many channels."""
    blocks = [b for b in (2, 4, 8) if channels % b == 0]
    choices = ["NC" + spatial] * 2 + ["N" + spatial + "C", spatial + "NC"] + [f"NC{spatial}{b}c" for b in blocks]
    return str(rng.choice(choices))


def kernel_layouts(rng: np.random.Generator, spatial: str, sizes: dict[str, int]) -> str:
    """A kernel layout that suits these extents of O and I."""
    choices = ["OI" + spatial] * 2 + ["IO" + spatial, spatial + "IO", spatial + "OI"]
    if sizes["O"] % 4 == 0 and sizes["I"] % 2 == 0:
        choices += ["OI" + spatial + "2i4o"] * 2 + ["OI" + spatial + "2i2o2i"] * (sizes["I"] % 4 == 0)
    return str(rng.choice(choices))


def integer_dtypes(rng: np.random.Generator) -> tuple[list[str | None] | None, str, tuple[float, float]]:
    """Now and then: 8-bit data and weight, accumulated in int32; argument dtypes, out_dtype, range of values."""
    if rng.random() < 0.8:
        return None, "", (-2.0, 2.0)
    data = str(rng.choice(["int8", "uint8"]))
    return [data, "int8"], "int32", (0 if data == "uint8" else -100, 100)


def conv_cases(rank: int) -> Callable[[np.random.Generator], Case]:
    """Cases of all corners of a convolution of this rank."""

    def draw(rng: np.random.Generator) -> Case:
        spatial = spatial_axes(rank)
        window, steps, extents = draw_window(rng, rank)
        attributes: dict[str, object] = {**steps}
        inputs, channels, groups, depthwise = draw_channels(rng)
        o, i = (inputs, channels // inputs) if depthwise else (channels, inputs // groups)
        weights = dict(zip(spatial, window, strict=True), O=o, I=i)
        batch = int(rng.choice([0, 1, 1, 2, 3])) if rng.random() < 0.3 else 1
        sizes = dict(zip(spatial, extents, strict=True), N=batch, C=inputs)
        data_layout, kernel_layout = conv_data_layouts(rng, spatial, inputs), kernel_layouts(rng, spatial, weights)
        keep = rng.random() < 0.6 and channels % Layout.parse(data_layout).block("C") == 0
        dtypes, out_dtype, (low, high) = integer_dtypes(rng)
        attributes |= {"groups": groups, "data_layout": data_layout, "kernel_layout": kernel_layout}
        attributes["out_layout"] = "" if keep else conv_data_layouts(rng, spatial, channels)
        attributes |= {"channels": channels} if depthwise or rng.random() < 0.5 else {}
        attributes |= {"kernel_size": window} if rng.random() < 0.5 else {}
        attributes["out_dtype"] = out_dtype
        shapes = [Layout.parse(data_layout).pack_shape(sizes), Layout.parse(kernel_layout).pack_shape(weights)]
        return Case(shapes, attributes, dtypes, low, high)

    return draw


def _draw_output(rng: np.random.Generator, window: list[int], attributes: dict[str, list[int]]) -> list[int]:
    """Draws output_padding, and input extents that leave something of the result after the padding is cut off."""
    strides, dilation, padding = (attributes[key] for key in ("strides", "dilation", "padding"))
    rank, extra, extents = len(window), [], []
    for k in range(rank):
        extra.append(int(rng.integers(0, max(strides[k], dilation[k]))))
        missing = padding[k] + padding[rank + k] - (window[k] - 1) * dilation[k] - extra[k]
        least = max(-(-missing // strides[k]) + 1, 1)
        extents.append(least + int(rng.choice([0, 1, 3, 6, 9]) if k == rank - 1 else rng.integers(0, 4)))
    attributes["output_padding"] = extra
    return extents


def conv_transpose_cases(rank: int) -> Callable[[np.random.Generator], Case]:
    """Cases of all corners of a transposed convolution of this rank."""

    def draw(rng: np.random.Generator) -> Case:
        spatial = spatial_axes(rank)
        window, steps, _ = draw_window(rng, rank)
        extents = _draw_output(rng, window, steps)
        inputs, channels, groups, _ = draw_channels(rng)
        weights = dict(zip(spatial, window, strict=True), O=channels // groups, I=inputs)
        sizes = dict(zip(spatial, extents, strict=True), N=int(rng.choice([0, 1, 1, 1, 1, 2])), C=inputs)
        data_layout, kernel_layout = conv_data_layouts(rng, spatial, inputs), kernel_layouts(rng, spatial, weights)
        keep = rng.random() < 0.6 and channels % Layout.parse(data_layout).block("C") == 0
        dtypes, out_dtype, (low, high) = integer_dtypes(rng)
        attributes: dict[str, object] = {**steps, "groups": groups, "data_layout": data_layout, "out_dtype": out_dtype}
        if rng.random() < 0.8:
            attributes["kernel_layout"] = kernel_layout
        else:
            kernel_layout = "IO" + spatial
        attributes["out_layout"] = "" if keep else conv_data_layouts(rng, spatial, channels)
        attributes |= {"channels": channels} if rng.random() < 0.5 else {}
        attributes |= {"kernel_size": window} if rng.random() < 0.5 else {}
        shapes = [Layout.parse(data_layout).pack_shape(sizes), Layout.parse(kernel_layout).pack_shape(weights)]
        return Case(shapes, attributes, dtypes, low, high)

    return draw
