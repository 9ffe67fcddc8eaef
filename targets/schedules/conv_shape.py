"""What all schedules of convolutions share: their numbers, and their tensors seen as NCHW in whatever layout.

A conv1d is a conv2d of height 1.
"""

from collections.abc import Callable

from attrs import frozen

from ...ir.index import Index
from ...ir.loops import Builder
from ...ir.scalar import Value
from ...ops.layout import Layout
from ...ops.lowering import View
from ..lower import Problem

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

    def emit(self, builder: Builder, index: tuple[Index, Index, Index, Index], value: Value) -> None:
        """Run the epilogue for the output element (n, c, y, x)."""
        self.problem.emit(builder, self.out_layout.pack(dict(zip("NCHW", index, strict=True))), value)


def check(problem: Problem) -> str | None:
    """Why no schedule of this family fits, or None."""
    context = problem.context
    assert context is not None
    a = context.attrs
    spatial = _spatial(problem)
    blocks = [_block(name, spatial) for name in (a.data_layout, a.out_layout or a.data_layout)]
    if None in blocks or a.kernel_layout != "OI" + spatial:
        return f"layout {a.data_layout}/{a.kernel_layout}; it is written for NCHW or NCHW<b>c and OIHW (NCW and OIW)"
    if context.args[0].dtype not in ("float32", "float64") or context.out.dtype not in ("float32", "float64"):
        return f"dtype {context.args[0].dtype}; it is written for float32 and float64"
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


def conv_of(problem: Problem) -> Conv:
    """The convolution of a group that `check` let pass."""
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
    return Conv(problem, s, view, taps, layout.block("C"), out_layout.block("C"), out_layout, context.dtype, lanes)


def _logical(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = {"H": 1, **layout.unpack_shape(shape)}
    return tuple(int(sizes[axis]) for axis in "NCHW")  # type: ignore[arg-type]


def _reader(layout: Layout, data: View) -> Callable[..., Value]:
    return lambda n, c, y, x: data(*layout.pack({"N": n, "C": c, "H": y, "W": x}))
