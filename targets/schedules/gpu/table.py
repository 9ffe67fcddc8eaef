"""The variants of kernels for work-groups, as data.

A device of kind CPU runs them, too, but prefers kernels for a team (implement.py): there they are taken only where a
search has found one to be faster.
"""

from collections.abc import Iterable
from typing import Protocol

from attrs import evolve

from ....ir.loops import Kernel
from ...implementation import Implementation
from ...lower import Problem
from ..space import Config
from ..tiles import Packed
from . import (
    conv,
    conv_local,
    depthwise,
    depthwise_last,
    depthwise_local,
    flash,
    gemm_routes,
    gemv,
    maps,
    product,
    rows,
    streamcolumns,
    streamrows,
    turned,
    windows,
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

IMAGE_BLOCKS = tuple(evolve(block, image=True) for block in (*GENERAL_BLOCKS, *POINTWISE_BLOCKS) if block.points == 4)
"""Those that use a vector of weights often enough, once more with weights as an image. They come behind all blocks with
buffers: of equal predictions the first is taken."""


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


class Schedule(Protocol):
    """A module with one schedule."""

    def check(self, problem: Problem) -> str | None:
        """Why it does not fit a group, or None."""
        ...

    def configs(self, problem: Problem) -> Iterable[Config]:
        """The candidate space, the best guess first."""
        ...

    def predict(self, problem: Problem, config: Config) -> float:
        """The cost in vector operations."""
        ...

    def schedule(self, problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        """The loops."""
        ...


def _row(name: str, ops: tuple[str, ...] | None, of: Schedule) -> Implementation:
    return Implementation(f"{name}.cpu", ops, ON_CPU, of.check, of.schedule, of.predict, of.configs)


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
        for block in (*GENERAL_BLOCKS, *POINTWISE_BLOCKS, *IMAGE_BLOCKS)
    )


def _sums() -> tuple[Implementation, ...]:
    conv2d = rows.check_local, rows.schedule_local, rows.predict_local, rows.local_configs
    return (
        Implementation("conv2d_1x1_local.cpu", CONV2D, ON_CPU, *conv2d),
        _row("rows_tree", None, rows),
    )


_LOCAL = (
    _row("conv2d_local", CONV2D, conv_local),
    _row("conv2d_depthwise_local", CONV2D, depthwise_local),
    _row("conv2d_depthwise_last", CONV2D, depthwise_last),
)


def _few_rows() -> tuple[Implementation, ...]:
    routes = ("conv2d_few_rows", CONV2D, gemm_routes.of_conv), ("gemm_few_rows", PRODUCT, gemm_routes.of_product)
    return tuple(
        Implementation(
            f"{name}.cpu",
            ops,
            ON_CPU,
            gemv.check(route),
            gemv.schedule(route),
            gemv.predict(route),
            gemv.configs(route),
        )
        for name, ops, route in routes
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


_STREAMS = (
    _row("maps_items", None, maps),
    _row("windows_items", None, windows),
    _row("maps_turned", None, turned),
    _row("attention_flash", ("nn.attention",), flash),
    _row("rows_once", None, streamrows),
    _row("columns_once", None, streamcolumns),
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
    *_few_rows(),
    *_through_local(),
    *_STREAMS,
)
"""All variants, by operator."""
