"""What goes through tiles in local memory (gemm_local.py): dense, matmul, batch_matmul, conv2d (implicit GEMM)."""

from collections.abc import Callable, Iterator

from ....ir.index import Index
from ....ir.loops import Builder, Kernel
from ....ir.scalar import Value
from ...lower import Problem
from .. import gemm
from ..conv_shape import Conv
from ..space import Config
from ..tiles import Packed
from . import gemm_local
from .convs import plain_conv, runs_along_channels
from .items import device_needed, emit_pixel, in_halves, or_zero, within
from .product import Product, conv_product, pixel_of, product_of

LEAST_WORK = 1 << 13
"""Multiply-adds from which on tiles are worth it."""

FIND = 4.0
"""Vector operations that it takes to find a pixel of a convolution with a window."""

Route = Callable[[Problem], "tuple[Product, tuple[bool, bool], float] | str"]
"""The product of a group, whether neighbours of either matrix are neighbours in memory, and what finding one costs."""


def of_product(problem: Problem) -> tuple[Product, tuple[bool, bool], float] | str:
    """dense, matmul, batch_matmul."""
    if reason := device_needed(problem) or gemm.check(problem):
        return reason
    return product_of(problem), (True, True), 0.0


def of_conv(problem: Problem) -> tuple[Product, tuple[bool, bool], float] | str:
    """conv2d in NCHW or NHWC."""
    conv = plain_conv(problem)
    if isinstance(conv, str):
        return conv
    if conv.s.groups > 1 and (runs_along_channels(conv) or conv.s.co % 16):
        return f"{conv.s.groups} groups of {conv.s.co} channels; it takes NCHW, and multiples of 16 channels"
    if not runs_along_channels(conv):
        return conv_product(conv), (True, conv.s.pointwise), 0.0 if conv.s.pointwise else FIND
    return _pixels_times_channels(conv), (conv.s.ci % 4 == 0, conv.s.groups == 1), FIND / 4


def _pixels_times_channels(conv: Conv) -> Product:
    """NHWC: pixels times channels; terms are (place of the window, channel), as they lie in memory."""
    s, count = conv.s, conv.s.n * conv.s.groups
    pad = s.pad if s.padded else (0, 0)

    def pixel(batch: Index, at: Index, k: Index) -> Value:
        n, g, tap, c = batch // s.groups, batch % s.groups, k // s.ci, k % s.ci
        row = at // s.ow * s.stride[0] + tap // s.kw * s.dilation[0] - pad[0]
        column = at % s.ow * s.stride[1] + tap % s.kw * s.dilation[1] - pad[1]
        return or_zero(within((row, column), (s.h, s.w)), conv.data(n, g * s.ci + c, row, column), conv.dtype)

    def weight(batch: Index, k: Index, o: Index) -> Value:
        tap = k // s.ci
        return conv.weight(batch % s.groups * s.co + o, k % s.ci, tap // s.kw, tap % s.kw)

    def emit(b: Builder, batch: Index, at: Index, o: Index, value: Value) -> None:
        n, channel = batch // s.groups, batch % s.groups * s.co + o
        emit_pixel(conv, b, (n, channel, *pixel_of(s.oh, s.ow, at)), value)

    return Product(count, s.oh * s.ow, s.co, s.terms, pixel, weight, emit, conv.dtype)


def matrix_type(problem: Problem) -> str:
    """The type in which a device's units for matrices may take the factors of a group; empty: none.

    float16 has a small range: it is taken where a factor has it already, and its maker so decided.
    """
    device, context = problem.isa.device, problem.context
    if device is None or context is None or context.dtype != "float32":
        return ""
    given = {view.type.dtype for view in context.args}
    for dtype in device.matrix:
        if given <= {"float32", dtype} and (dtype != "float16" or dtype in given):
            return dtype
    return ""


def check(route: Route, units: bool) -> Callable[[Problem], str | None]:
    """Why a group does not take a route, in registers or by units for matrices, or None."""

    def reason(problem: Problem) -> str | None:
        found = route(problem)
        if isinstance(found, str):
            return found
        if units and not matrix_type(problem):
            return "no units for matrices that may take its factors: see -precision="
        if found[0].work < LEAST_WORK:
            return f"{found[0].work} multiply-adds are too few; it takes {LEAST_WORK}"
        return None if _space(problem, route, units) else "no tile fits the device, or the sums are shorter than one"

    return reason


def _space(problem: Problem, route: Route, units: bool) -> list[Config]:
    found = route(problem)
    assert not isinstance(found, str)
    return gemm_local.space(problem, found[0], matrix_type(problem) if units else "", found[2])


def configs(route: Route, units: bool) -> Callable[[Problem], Iterator[Config]]:
    """The candidate space, the cheapest by prediction first."""
    return lambda problem: iter(_space(problem, route, units))


def predict(route: Route, units: bool) -> Callable[[Problem, Config], float]:
    """The cost in vector operations."""

    def cost(problem: Problem, config: Config) -> float:
        found = route(problem)
        assert not isinstance(found, str)
        return gemm_local.cost(found[0], config, matrix_type(problem) if units else "", found[2])

    return cost


def schedule(route: Route, units: bool) -> Callable[[Problem, Config], tuple[Kernel, Packed]]:
    """The loops."""

    def kernel(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        b, found = Builder(), route(problem)
        assert not isinstance(found, str)
        matrix = matrix_type(problem) if units else ""
        gemm_local.write(b, found[0], config, matrix, found[1], in_halves(problem))
        return problem.kernel(b), {}

    return kernel
