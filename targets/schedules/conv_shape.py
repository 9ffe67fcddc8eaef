"""What all schedules of convolutions share: their numbers, and their tensors seen as NCHW in whatever layout.

A conv1d is a conv2d of height 1. A conv3d is one, too: its pictures are the planes of the result, and its channels are
pairs of a channel and a place of the window along the depth. Its weight, OIDHW, is OIHW of those channels as it lies in
memory. Where data and weights are bfloat16, and the processor multiplies pairs of them, two
neighbouring channels are seen as one, of type uint32.
"""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from attrs import evolve, frozen

from ...ir.index import Index
from ...ir.loops import Builder
from ...ir.scalar import SMALL_FLOATS, Buffer, Load, Value, constant, in_pairs, inside, is_float, pair, select
from ...ir.types import TensorType
from ...ops.layout import Layout
from ...ops.lowering import View
from ..lower import Problem
from .tiles import Packed, Packing, packed_operand, paired

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

    @property
    def lines(self) -> tuple[int, int]:
        """The result as rows and columns: one row, where pixels can be counted through."""
        return (1, self.oh * self.ow) if self.pointwise else (self.oh, self.ow)


@frozen(eq=False)
class Depth:
    """The depth of a conv3d: the input as a function of (n, c, z, y, x), planes of it and of the result, the window,
    and how many planes of zeros stand in front.
    """

    data: View
    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    pad: int

    @property
    def padded(self) -> bool:
        """Whether outputs see planes outside of the input."""
        return self.pad > 0 or self.needed > self.size

    @property
    def pointwise(self) -> bool:
        """Whether a plane of the result sees that of the input, and no other one."""
        return self.taps == self.stride == 1 and not self.padded

    @property
    def needed(self) -> int:
        """Input planes that the outputs read, border included."""
        return (self.out - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    @property
    def planes(self) -> View:
        """The input with a channel (n, c, y, x) for each plane of each channel, planes of the border included."""

        def read(n: Index, c: Index, y: Index, x: Index) -> Value:
            z = c % self.needed - self.pad
            value = self.data(n, c // self.needed, z, y, x)
            return select(inside((z,), (self.size,)), value, constant(0, value.dtype))

        return View(self.data.type, read)

    def windows(self, planes: View) -> View:
        """What a conv2d over the planes of the result reads, of what `planes` gives."""

        def read(n: Index, c: Index, y: Index, x: Index) -> Value:
            z = n % self.out * self.stride + c % self.taps * self.dilation
            return planes(n // self.out, c // self.taps * self.needed + z, y, x)

        return View(planes.type, read)


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
        depth: of a conv3d; its pictures are (picture, plane), its channels (channel, place along the window's depth).
        axes: where in the result of a conv3d an element (n, c, y, x) of the conv2d lies.
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
    depth: Depth | None = None
    axes: Callable[[Index, Index, Index, Index], dict[str, Index]] | None = None

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
        axes = dict(zip("NCHW", index, strict=True)) if self.axes is None else self.axes(*index)
        self.problem.emit(builder, self.out_layout.pack(axes), value)


@frozen(eq=False)
class Written:
    """A convolution being written, and where its packed weights are.

    Attributes:
        conv: the convolution; its problem reads the packed weights.
        b: gets the statements.
        packing, weights, packed: how weights are packed, the buffer, and what packs the constant.
    """

    conv: Conv
    b: Builder
    packing: Packing
    weights: Buffer
    packed: Packed


def with_weights(
    conv: Conv,
    b: Builder,
    packing: Packing,
    matrix: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    element: Callable[[Index, Index, Index], Value] | None = None,
    dtype: str = "",
) -> tuple[Conv, Builder, Packing, Buffer, Packed]:
    """The attributes of `Written` for weights that are one matrix; the arguments are those of `packed_operand`."""
    weights, problem, packed = packed_operand(conv.problem, packing, b, 1, matrix, element, dtype=dtype)
    return evolve(conv, problem=problem), b, packing, weights, packed


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
    return check_values(problem)


def check_values(problem: Problem) -> str | None:
    """Why no schedule fits whatever the layouts, or None."""
    context = problem.context
    assert context is not None
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


def _lanes(problem: Problem) -> int:
    """Elements of a vector: float64, or float32, in which narrower ones are computed."""
    assert problem.context is not None
    return problem.isa.vector_bytes // (8 if problem.context.dtype == "float64" else 4)


def _spatial(problem: Problem) -> str:
    assert problem.context is not None
    return "DHW"[-len(problem.context.attrs.strides) :]


def _block(name: str, spatial: str) -> int | None:
    """The channel block of a layout: 1 for NCHW; None if it is neither NCHW nor NCHW<b>c."""
    layout = Layout.parse(name)
    block = layout.block("C") if "C" in layout else 0
    return block if name == f"NC{spatial}" + ("" if block == 1 else f"{block}c") else None


def conv_of(problem: Problem, pairs: bool = False, weight: View | None = None) -> Conv:
    """The convolution of a group that `check` let pass; `pairs`: over pairs of channels, if that can be.

    `weight` is the weight as OIHW, where it lies otherwise.
    """
    context = problem.context
    assert context is not None
    a, data, weight = context.attrs, context.args[0], weight or context.args[1]
    layout, out_layout = Layout.parse(a.data_layout), Layout.parse(a.out_layout or a.data_layout)
    if len(a.strides) == 3:
        return _volumes(problem, layout, out_layout)
    n, c, h, w = _logical(layout, data.shape)
    _, o, oh, ow = _logical(out_layout, context.shape)
    flat = len(a.strides) == 1
    kh, kw = (1, *weight.shape[2:])[-2:]
    strides, dilation = ((1, p[0]) if flat else (p[0], p[1]) for p in (a.strides, a.dilation))
    pad = (0, a.padding[0]) if flat else (a.padding[0], a.padding[1])
    padded = any(a.padding)
    s = Shape(n, a.groups, c // a.groups, o // a.groups, h, w, oh, ow, kh, kw, strides, dilation, pad, padded)
    lanes = _lanes(problem)
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


def _volumes(problem: Problem, layout: Layout, out_layout: Layout) -> Conv:
    """A conv3d as a conv2d."""
    context = problem.context
    assert context is not None
    a, (data, weight) = context.attrs, context.args
    sizes, out = layout.unpack_shape(data.shape), out_layout.unpack_shape(context.shape)
    n, c, d, h, w = (int(sizes[axis]) for axis in "NCDHW")  # type: ignore[arg-type]
    o, od, oh, ow = (int(out[axis]) for axis in "CDHW")  # type: ignore[arg-type]
    kd, kh, kw = weight.shape[2:]
    channels = c // a.groups * kd
    padded = any(a.padding[1:3]) or any(a.padding[4:])
    s = Shape(
        n * od, a.groups, channels, o // a.groups, h, w, oh, ow, kh, kw, a.strides[1:], a.dilation[1:],
        a.padding[1:3], padded,
    )  # fmt: skip

    def read(n: Index, c: Index, z: Index, y: Index, x: Index) -> Value:
        return data(*layout.pack({"N": n, "C": c, "D": z, "H": y, "W": x}))

    def tap(o: Index, i: Index, y: Index, x: Index) -> Value:
        return weight(o, i // kd, i % kd, y, x)

    def axes(n: Index, c: Index, y: Index, x: Index) -> dict[str, Index]:
        return {"N": n // od, "C": c, "D": n % od, "H": y, "W": x}

    depth = Depth(View(data.type, read), d, od, kd, a.strides[0], a.dilation[0], a.padding[0])
    taps = View(TensorType((o, channels, kh, kw), weight.dtype), tap)
    blocks = layout.block("C"), out_layout.block("C")
    lanes = _lanes(problem)
    view, unready = depth.windows(depth.planes), data.dtype in SMALL_FLOATS
    conv = Conv(problem, s, view, taps, *blocks, out_layout, context.dtype, lanes, None, False, unready, depth, axes)
    return _planes_in_rows(conv, depth) if s.pointwise and depth.pointwise else conv


def _planes_in_rows(conv: Conv, depth: Depth) -> Conv:
    """A pointwise conv3d over pictures that have a plane in each row."""
    s = conv.s

    def axes(n: Index, c: Index, y: Index, x: Index) -> dict[str, Index]:
        return {"N": n, "C": c, "D": y, "H": x // s.ow, "W": x % s.ow}

    data = View(conv.data.type, lambda n, c, y, x: depth.data(n, c, y, x // s.w, x % s.w))
    rows = evolve(s, n=s.n // depth.out, h=depth.size, oh=depth.out, w=s.h * s.w, ow=s.oh * s.ow)
    return evolve(conv, s=rows, data=data, depth=None, axes=axes)


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
