"""The variants of kernels for work-groups, as data.

A device of kind CPU runs them, too, but prefers kernels for a team (implement.py): there they are taken only where a
search has found one to be faster.
"""

from ...implementation import Implementation
from . import (
    conv,
    conv_local,
    depthwise,
    depthwise_local,
    flash,
    gemm_routes,
    maps,
    product,
    rows,
    streamcolumns,
    streamrows,
    turned,
)
from .conv import Block
from .depthwise import Pixels
from .product import Tile

ON_CPU, ON_GPU = 0, 20
"""Priorities, below and above those of kernels for a team."""

CONV2D = ("nn.conv2d", "nn.conv1d")

GENERAL_BLOCKS = tuple(Block(c, h, w) for c, h, w in
                       ((4, 1, 1), (4, 1, 2), (4, 4, 1), (4, 1, 4), (8, 2, 1), (8, 4, 1), (8, 1, 4)))  # fmt: skip
"""Output blocks of conv2d with any window."""

POINTWISE_BLOCKS = tuple(Block(c, 1, w, pointwise=True) for c, w in ((4, 4), (4, 2), (4, 1), (8, 4), (8, 2)))
"""Output blocks of conv2d with a window of 1x1."""


PRODUCT = ("nn.dense", "nn.matmul", "nn.batch_matmul")

TILES = (
    Tile(64, 64, 16, 4, 4),
    Tile(128, 64, 16, 8, 4),
    Tile(64, 128, 16, 4, 8),
    Tile(128, 128, 8, 8, 8),
    Tile(32, 64, 16, 4, 4),
    Tile(32, 32, 16, 2, 4),
    Tile(16, 32, 32, 2, 4),
)
"""Tiles of matrix products."""


DEPTHWISE = tuple(Pixels(h, w) for h, w in ((1, 1), (1, 2), (1, 4), (2, 2), (4, 1)))
"""Pixels of a work-item in depthwise conv2d."""


def _depthwise() -> tuple[Implementation, ...]:
    return tuple(
        Implementation(
            f"conv2d_depthwise_{pixels.name}.cpu",
            CONV2D,
            ON_CPU,
            depthwise.check,
            depthwise.schedule(pixels),
            depthwise.predict(pixels),
            depthwise.configs(pixels),
        )
        for pixels in DEPTHWISE
    )


def _products() -> tuple[Implementation, ...]:
    return tuple(
        Implementation(
            f"gemm_{tile.name}.cpu", PRODUCT, ON_CPU, product.check(tile), product.schedule(tile), product.predict(tile)
        )
        for tile in TILES
    )


def _conv_products() -> tuple[Implementation, ...]:
    return tuple(
        Implementation(
            f"conv2d_gemm_{tile.name}.cpu",
            CONV2D,
            ON_CPU,
            product.check_conv(tile),
            product.schedule_conv(tile),
            product.predict_conv(tile),
            product.conv_configs,
        )
        for tile in TILES
    )


def _blocks() -> tuple[Implementation, ...]:
    return tuple(
        Implementation(
            f"conv2d_{block.name}.cpu",
            CONV2D,
            ON_CPU,
            conv.check(block),
            conv.schedule(block),
            conv.predict(block),
            conv.configs(block),
        )
        for block in (*GENERAL_BLOCKS, *POINTWISE_BLOCKS)
    )


def _sums() -> tuple[Implementation, ...]:
    conv2d = rows.check_local, rows.schedule_local, rows.predict_local, rows.local_configs
    few = rows.check_rows, rows.schedule_rows, rows.predict_rows, rows.rows_configs
    return (
        Implementation("conv2d_1x1_local.cpu", CONV2D, ON_CPU, *conv2d),
        Implementation("gemm_rows.cpu", PRODUCT, ON_CPU, *few),
        Implementation("rows_tree.cpu", None, ON_CPU, rows.check, rows.schedule, rows.predict, rows.configs),
    )


_LOCAL = (
    Implementation(
        "conv2d_local.cpu",
        CONV2D,
        ON_CPU,
        conv_local.check,
        conv_local.schedule,
        conv_local.predict,
        conv_local.configs,
    ),
    Implementation(
        "conv2d_depthwise_local.cpu",
        CONV2D,
        ON_CPU,
        depthwise_local.check,
        depthwise_local.schedule,
        depthwise_local.predict,
        depthwise_local.configs,
    ),
)


def _through_local() -> tuple[Implementation, ...]:
    routes = ("conv2d_gemm", CONV2D, gemm_routes.of_conv), ("gemm", PRODUCT, gemm_routes.of_product)
    return tuple(
        Implementation(
            f"{name}_{'mma' if units else 'local'}.cpu",
            ops,
            ON_CPU,
            gemm_routes.check(route, units),
            gemm_routes.schedule(route, units),
            gemm_routes.predict(route, units),
            gemm_routes.configs(route, units),
        )
        for name, ops, route in routes
        for units in (False, True)
    )


_MAPS = (Implementation("maps_items.cpu", None, ON_CPU, maps.check, maps.schedule, maps.predict, maps.configs),)

_STREAMS = (
    Implementation("maps_turned.cpu", None, ON_CPU, turned.check, turned.schedule, turned.predict, turned.configs),
    Implementation(
        "attention_flash.cpu",
        ("nn.attention",),
        ON_CPU,
        flash.check,
        flash.schedule,
        flash.predict,
        flash.configs,
    ),
    Implementation(
        "rows_once.cpu", None, ON_CPU, streamrows.check, streamrows.schedule, streamrows.predict, streamrows.configs
    ),
    Implementation(
        "columns_once.cpu",
        None,
        ON_CPU,
        streamcolumns.check,
        streamcolumns.schedule,
        streamcolumns.predict,
        streamcolumns.configs,
    ),
    Implementation(
        "reduce_chunks.cpu",
        None,
        ON_CPU,
        streamcolumns.check_chunks,
        streamcolumns.schedule_chunks,
        streamcolumns.predict_chunks,
        streamcolumns.chunk_configs,
    ),
)

TABLE = (
    *_blocks(),
    *_depthwise(),
    *_conv_products(),
    *_products(),
    *_sums(),
    *_LOCAL,
    *_through_local(),
    *_MAPS,
    *_STREAMS,
)
"""All variants, by operator."""
