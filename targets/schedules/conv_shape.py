"""What all schedules of convolutions share: their numbers, and their tensors seen as NCHW in whatever layout.

A conv1d is a conv2d of height 1. Where data and weights are bfloat16, and the processor multiplies pairs of them, two
neighbouring channels are seen as one, of type uint32.
"""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index
from ...ir.loops import Builder
from ...ir.scalar import SMALL_FLOATS, Load, Value, in_pairs, is_float, pair
from ...ir.types import TensorType
from ...ops.layout import Layout
from ...ops.lowering import View
from ..lower import Problem
from .tiles import paired

NEAR_CACHE = 1 << 20
"""Bytes that are taken to stay in a core's own cache."""


@frozen
class Shape:
    """The numbers of a convolution. Sizes are per group where marked."""

    n: int
    groups: int
    ci: int  # per group
    co: int  # per group
    h: int
    w: int
    oh: int
    ow: int
    kh: int
    kw: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]  # top, left
    padded: bool

    @property
    def rows_needed(self) -> int:
        """Input rows that the outputs read, border included."""
        return (self.oh - 1) * self.stride[0] + (self.kh - 1) * self.dilation[0] + 1

    @property
    def columns_needed(self) -> int:
        """Input columns that the outputs read, border included."""
        return (self.ow - 1) * self.stride[1] + (self.kw - 1) * self.dilation[1] + 1

    @property
    def terms(self) -> int:
        """Terms of the sum behind one output element."""
        return self.ci * self.kh * self.kw

    @property
    def flops(self) -> int:
        """Additions and multiplications of the definition."""
        return 2 * self.n * self.groups * self.co * self.oh * self.ow * self.terms

    @property
    def pointwise(self) -> bool:
        """Whether outputs see pixels only, in their order: 1x1, stride 1, no border."""
        return self.kh == self.kw == 1 and self.stride == (1, 1) and not self.padded


@frozen(eq=False)
class Conv:
    """A convolution at hand.

    Attributes:
        problem: the group.
        s: its numbers.
        data: the input as a function of (n, c, y, x).
        weight: the weight as it is, OIHW or (input channels, multiplier, H, W).
        data_block, out_block: how many channels lie together in memory; 1: plain NCHW.
        dtype: what is computed in.
        lanes: elements in a vector.
        place: where in the result a pixel (y, x) of the loops lies, if it is not the same.
        pairs: whether a channel of `s.ci`, `data`, `weight` and `data_block` is a pair of bfloat16 ones.
        unready: whether the data must be converted before it is broadcast.
    """

    problem: Problem
    s: Shape
    data: View
    weight: View
    data_block: int
    out_block: int
    out_layout: Layout
    dtype: str
    lanes: int
    place: Callable[[Index, Index], tuple[Index, Index]] | None = None
    pairs: bool = False
    unready: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.type.itemsize * self.s.groups * self.s.co * self.s.terms

    def taps(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A constant weight as the schedules see it: its input channels in pairs, where they are."""
        return paired(array, 1) if self.pairs else array

    def emit(self, builder: Builder, index: tuple[Index, Index, Index, Index], value: Value) -> None:
        """Run the epilogue for the output element (n, c, y, x)."""
        if self.place is not None:
            index = (*index[:2], *self.place(*index[2:]))
        self.problem.emit(builder, self.out_layout.pack(dict(zip("NCHW", index, strict=True))), value)


def check(problem: Problem, kernel: str = "OI") -> str | None:
    """Why no schedule of this family fits, or None; `kernel` is the order of the weight's channels."""
    context = problem.context
    assert context is not None
    a = context.attrs
    spatial = _spatial(problem)
    blocks = [_block(name, spatial) for name in (a.data_layout, a.out_layout or a.data_layout)]
    if None in blocks or a.kernel_layout != kernel + spatial:
        wanted = f"NCHW or NCHW<b>c and {kernel}HW (NCW and {kernel}W)"
        return f"layout {a.data_layout}/{a.kernel_layout}; it is written for {wanted}"
    if other := [d for d in (*(v.dtype for v in context.args), context.out.dtype) if not is_float(d)]:
        return f"dtype {other[0]}; it is written for floating types"
    if 0 in context.shape or 0 in context.args[0].shape or 0 in context.args[1].shape:
        return "empty tensor"
    if problem.parameter(1) is None:
        return "the weight is computed inside the group"
    return None


def streaming(weight_bytes: int) -> float:
    """Vector operations lost to reading weights that do not fit into the near cache (8 bytes an operation)."""
    return weight_bytes / 8 if weight_bytes > NEAR_CACHE else 0.0


def _spatial(problem: Problem) -> str:
    assert problem.context is not None
    return "HW" if len(problem.context.attrs.strides) == 2 else "W"


def _block(name: str, spatial: str) -> int | None:
    """The channel block of a layout: 1 for NCHW; None if it is neither NCHW nor NCHW<b>c."""
    layout = Layout.parse(name)
    block = layout.block("C") if "C" in layout else 0
    return block if name == f"NC{spatial}" + ("" if block == 1 else f"{block}c") else None


def conv_of(problem: Problem, pairs: bool = False) -> Conv:
    """The convolution of a group that `check` let pass; `pairs`: over pairs of channels, if that can be."""
    context = problem.context
    assert context is not None
    a, (data, weight) = context.attrs, context.args
    layout, out_layout = Layout.parse(a.data_layout), Layout.parse(a.out_layout or a.data_layout)
    n, c, h, w = _logical(layout, data.shape)
    _, o, oh, ow = _logical(out_layout, context.shape)
    flat = len(a.strides) == 1
    kh, kw = (1, *weight.shape[2:])[-2:]
    strides, dilation = ((1, p[0]) if flat else (p[0], p[1]) for p in (a.strides, a.dilation))
    pad = (0, a.padding[0]) if flat else (a.padding[0], a.padding[1])
    padded = any(a.padding)
    s = Shape(n, a.groups, c // a.groups, o // a.groups, h, w, oh, ow, kh, kw, strides, dilation, pad, padded)
    lanes = problem.isa.vector_bytes // (8 if context.dtype == "float64" else 4)
    view = View(data.type, _reader(layout, data))
    taps = View(weight.type, lambda o, i, y, x: weight(o, i, x)) if flat else weight
    blocks = layout.block("C"), out_layout.block("C")
    unready = data.dtype in SMALL_FLOATS
    conv = Conv(problem, s, view, taps, *blocks, out_layout, context.dtype, lanes, unready=unready)
    if not pairs:
        return conv
    whole = blocks[0] % 2 == 0 and s.ci % blocks[0] == 0
    small = data.dtype == weight.dtype == "bfloat16" and context.dtype == "float32"
    return _in_pairs(conv, layout) if whole and small and problem.isa.bfloat16_dot else conv


def _in_pairs(conv: Conv, layout: Layout) -> Conv:
    """The same convolution over pairs of channels."""
    s, data, weight, block = conv.s, conv.data, conv.weight, conv.data_block // 2
    buffer = conv.problem.parameter(0)

    def read(n: Index, c: Index, y: Index, x: Index) -> Value:
        if buffer is None:
            return pair(data(n, 2 * c, y, x), data(n, 2 * c + 1, y, x))
        *outer, last = layout.pack({"N": n, "C": 2 * c, "H": y, "W": x})
        return Load(in_pairs(buffer), (*outer, last // 2))

    def tap(o: Index, i: Index, y: Index, x: Index) -> Value:
        return pair(weight(o, 2 * i, y, x), weight(o, 2 * i + 1, y, x))

    out, channels, *window = weight.shape
    return evolve(
        conv,
        s=evolve(s, ci=s.ci // 2),
        data=View(data.type, read),
        weight=View(TensorType((out, channels // 2, *window), "uint32"), tap),
        data_block=block,
        pairs=True,
        unready=buffer is None,
    )


def _logical(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = {"H": 1, **layout.unpack_shape(shape)}
    return tuple(int(sizes[axis]) for axis in "NCHW")  # type: ignore[arg-type]


def _reader(layout: Layout, data: View) -> Callable[..., Value]:
    return lambda n, c, y, x: data(*layout.pack({"N": n, "C": c, "H": y, "W": x}))
