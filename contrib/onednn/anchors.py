"""From an operator call to the description of what to ask oneDNN for, family by family.

Each function gets the expression that a rule's anchor matched, and the setting; it returns the description and which
expressions are its tensors, or raises `OneDNNError` whose problem says why oneDNN cannot take the call. No function
needs the library.
"""

from attrs import frozen

from ...ir.expr import Call, Expr
from ...ir.types import TensorType
from ...ops import conv, conv_transpose, pooling
from ...ops.layout import Layout
from ...ops.reduce import reduced_axes
from ...ops.window import span, static
from ..calls import anchor_call, product, tensors
from .convolution import Convolution, Deconvolution
from .describe import Eltwise
from .epilogue import BINARY, Prepared, eltwise, logical_shape, with_number
from .ffi import OneDNNError
from .layers import Arithmetic, Elementwise, Normalization, Pool, Reduction, Softmax
from .product import MatMul


@frozen
class Setting:
    """What a description depends on beside the call.

    Attributes:
        constant: whether the second argument (the weights) never changes.
        threads: the number of threads; None: the calling thread's setting.

    """

    constant: bool
    threads: int | None


def _unfit(problem: str) -> OneDNNError:
    return OneDNNError("describe", problem)


def _feature(name: str, layout: Layout, axes: str) -> tuple[tuple[int, ...], int]:
    """The positions in `axes` of a layout's axes as they are stored, and the block of the channels (0: none)."""
    blocks = [part for part in layout.parts if part.block]
    if not blocks:
        return tuple(axes.index(axis) for axis in layout.axes), 0
    if len(blocks) > 1 or layout.parts[-1].axis != "C" or layout.axes != axes or blocks[0].block not in (8, 16):
        known = f"whole axes such as {axes}, or {axes}8c or {axes}16c"
        raise _unfit(f"{name} {layout} has blocks that oneDNN does not know, expected {known}")
    return tuple(range(len(axes))), blocks[0].block


def _whole_axes(name: str, layout: Layout, axes: str) -> tuple[int, ...]:
    if any(part.block for part in layout.parts):  # oneDNN makes blocks itself
        raise _unfit(f"{name} {layout} has blocks, expected whole axes such as {layout.axes}")
    return tuple(axes.index(axis) for axis in layout.axes)


def convolution(anchor: Expr, setting: Setting) -> Prepared:
    """nn.conv1d, nn.conv2d, nn.conv3d and their transposes."""
    call = anchor_call(anchor)
    data, weight, _ = tensors(call)
    attributes, transposed = call.attrs, "output_padding" in call.attrs
    c = (conv_transpose.describe if transposed else conv.describe)(attributes, data, weight)
    axes, rank = "NC" + c.spatial, len(c.spatial)
    kernel_axes = ("IO" if transposed else "OI") + c.spatial
    src_order, src_block = _feature("data_layout", c.data, axes)
    weights_order = _whole_axes("kernel_layout", c.kernel, kernel_axes)
    dst_order, dst_block = _feature("out_layout", c.out, axes)
    padding_l, padding_r = attributes.padding[:rank], attributes.padding[rank:]
    if transposed:
        padding_r = [p - extra for p, extra in zip(padding_r, attributes.output_padding, strict=True)]
    else:
        _check_padding(c, attributes.padding, attributes.dilation)
    src, weights, dst = (
        [static(sizes[axis]) for axis in names]
        for sizes, names in ((c.sizes, axes), (c.weights, kernel_axes), (c.out_sizes, axes))
    )
    description = (Deconvolution if transposed else Convolution)(
        src,
        weights,
        dst,
        strides=attributes.strides,
        dilation=[step - 1 for step in attributes.dilation],
        padding_l=padding_l,
        padding_r=padding_r,
        groups=attributes.groups,
        depthwise=c.multiplier != 0,
        src_order=src_order,
        weights_order=weights_order,
        dst_order=dst_order,
        src_block=src_block,
        dst_block=dst_block,
        dtype=data.dtype,
        constant_weights=setting.constant,
        num_threads=setting.threads,
    )
    return Prepared(description, {"src": call.args[0], "weights": call.args[1]})


def _check_padding(c: conv.Convolution, padding: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    """Of windows full of zeros there may be millions, and oneDNN then takes minutes to choose an implementation."""
    rank = len(c.spatial)
    for k, axis in enumerate(c.spatial):
        room = static(c.sizes[axis]) + span(c.window[k], dilation[k])
        if max(padding[k], padding[rank + k]) > room:
            raise _unfit(f"padding {padding} exceeds {room}, the sum of data and window on axis {axis}")


def matmul(anchor: Expr, setting: Setting) -> Prepared:
    """nn.dense, nn.matmul and nn.batch_matmul."""
    call = anchor_call(anchor)
    p, dtype = product(call), tensors(call)[0].dtype
    shapes = (p.a, p.b, p.out, p.trans_a, p.trans_b)
    description = MatMul(*shapes, dtype=dtype, constant_weights=setting.constant, num_threads=setting.threads)
    return Prepared(description, {"src": call.args[0], "weights": call.args[1]})


def pool(anchor: Expr, setting: Setting) -> Prepared:
    """Pools: sliding, global, and adaptive ones whose windows are all alike."""
    call = anchor_call(anchor)
    (data, out), name = tensors(call), str(call.op)
    rank = int(name[-2])
    layout, out_layout = pooling.pool_layouts(call.attrs, rank)
    axes = Layout.parse("NC" + "DHW"[3 - rank :]).axes
    order, block = _feature("layout", layout, axes)
    if out_layout != layout:
        raise _unfit(f"out_layout is {out_layout}, expected {layout} as the data has")
    sizes, results = (layout.unpack_shape(type_.shape, "data") for type_ in (data, out))
    src, dst = ([static(shape[axis]) for axis in axes] for shape in (sizes, results))
    window = _sliding(call, src[2:], dst[2:]) if "pool_size" in call.attrs else _even(src[2:], dst[2:])
    kind = "max" if "max_pool" in name else "avg_include_padding"
    if kind != "max" and any(window.padding_l + window.padding_r) and not call.attrs.get("count_include_pad"):
        kind = "avg_exclude_padding"
    description = Pool(
        algorithm=kind,
        shape=src,
        dst_shape=dst,
        window=window.extents,
        strides=window.strides,
        dilation=[step - 1 for step in window.dilation],
        padding_l=window.padding_l,
        padding_r=window.padding_r,
        order=order,
        block=block,
        dtype=data.dtype,
        num_threads=setting.threads,
    )
    return Prepared(description, {"src": call.args[0]})


@frozen
class _Window:
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding_l: tuple[int, ...]
    padding_r: tuple[int, ...]


def _even(sizes: list[int], parts: list[int]) -> _Window:
    """The windows of a pool that cuts each axis into so many parts."""
    if uneven := [(size, count) for size, count in zip(sizes, parts, strict=True) if size % count]:
        size, count = uneven[0]
        raise _unfit(f"{size} elements in {count} parts give windows of several sizes")
    extents = tuple(size // count for size, count in zip(sizes, parts, strict=True))
    none = (0,) * len(sizes)
    return _Window(extents, extents, (1,) * len(sizes), none, none)


def _sliding(call: Call, sizes: list[int], windows: list[int]) -> _Window:
    a, rank = call.attrs, len(sizes)
    after = list(a.padding[rank:])
    for k, (size, count) in enumerate(zip(sizes, windows, strict=True)):
        reach = span(a.pool_size[k], a.dilation[k])
        if max(a.padding[k], after[k]) >= reach or (count - 1) * a.strides[k] - a.padding[k] >= size:
            raise _unfit(f"padding {a.padding} makes windows without elements: they reach over {reach}")
        missing = (count - 1) * a.strides[k] + reach - size - a.padding[k] - after[k]
        if missing > 0 and a.get("count_include_pad"):
            raise _unfit(
                "ceil_mode makes windows that reach beyond the padding, which count_include_pad does not count"
            )
        after[k] += max(missing, 0)
    return _Window(a.pool_size, a.strides, a.dilation, a.padding[:rank], tuple(after))


def softmax(anchor: Expr, setting: Setting) -> Prepared:
    """nn.softmax and nn.log_softmax."""
    call = anchor_call(anchor)
    data, _ = tensors(call)
    name = str(call.op).removeprefix("nn.").removeprefix("fast_")
    axis = call.attrs.axis % data.ndim
    description = Softmax(
        algorithm=name, shape=data.static_shape, axis=axis, dtype=data.dtype, num_threads=setting.threads
    )
    return Prepared(description, {"src": call.args[0]})


def layer_norm(anchor: Expr, setting: Setting) -> Prepared:
    """nn.layer_norm along the last axis."""
    call = anchor_call(anchor)
    data, *_ = tensors(call)
    if call.attrs.axis % data.ndim != data.ndim - 1:
        raise _unfit(f"axis is {call.attrs.axis}, expected the last one of {data}")
    return _normalization(call, data, setting, channels=False)


def batch_norm(anchor: Expr, setting: Setting) -> Prepared:
    """nn.batch_norm with stored statistics, of which only the normalised data is used."""
    call = anchor_call(anchor)
    data = call.args[0].checked_type
    assert isinstance(data, TensorType)
    return _normalization(call, data, setting, channels=True)


def _normalization(call: Call, data: TensorType, setting: Setting, channels: bool) -> Prepared:
    a, order = call.attrs, tuple(range(data.ndim))
    shape = data.static_shape
    if channels:
        axis = a.axis % data.ndim
        order = (0, *range(2, axis + 1), 1, *range(axis + 1, data.ndim))
        if data.ndim < 2 or axis == 0:
            raise _unfit(f"axis is {a.axis}, expected one behind the first of {data}")
        shape = (shape[0], shape[axis], *(n for k, n in enumerate(shape) if k not in (0, axis)))
    if data.dtype != "float32":
        raise _unfit(f"data is {data.dtype}, expected float32, as oneDNN has scale and shift")
    description = Normalization(
        shape=shape,
        epsilon=a.epsilon,
        scale=a.scale,
        shift=a.center,
        channels=channels,
        order=order if channels else None,
        dtype=data.dtype,
        num_threads=setting.threads,
    )
    names = ("src", "scale", "shift", "mean", "variance")
    arguments = {k: arg for k, arg in zip(names, call.args, strict=False) if k in description.tensors()}
    return Prepared(description, arguments)


def elementwise(anchor: Expr, setting: Setting) -> Prepared:
    """An activation."""
    call = anchor_call(anchor)
    return _elementwise(call.args[0], eltwise(str(call.op).removeprefix("nn."), call.attrs), setting)


def _elementwise(data: Expr, step: Eltwise, setting: Setting) -> Prepared:
    type_ = data.checked_type
    assert isinstance(type_, TensorType)
    description = Elementwise(
        algorithm=step.algorithm,
        alpha=step.alpha,
        beta=step.beta,
        shape=type_.static_shape or (1,),
        dtype=type_.dtype,
        num_threads=setting.threads,
    )
    return Prepared(description, {"src": data})


def arithmetic(anchor: Expr, setting: Setting) -> Prepared:
    """add, subtract, multiply, divide, maximum or minimum of a tensor and one that is broadcast to it."""
    call = anchor_call(anchor)
    left, right, out = tensors(call)
    name, (src, other) = str(call.op), call.args
    if left != out and right == out and name not in ("subtract", "divide"):
        (src, other), left, right = (other, src), right, left
    if left != out:
        raise _unfit(f"the left side {left} is broadcast to {out}, expected the right side only")
    if src is other:
        raise _unfit(f"both operands of {name} are one tensor, expected separate memory")
    if number := with_number(name, other):
        return _elementwise(src, number, setting)
    shape = out.static_shape
    flat = Elementwise(algorithm="linear", shape=shape or (1,), dtype=out.dtype).tensors()["dst"]
    description = Arithmetic(
        algorithm=BINARY[name],
        shape=shape or (1,),
        other_shape=logical_shape(name, right.static_shape, shape, flat),
        dtype=out.dtype,
        num_threads=setting.threads,
    )
    return Prepared(description, {"src": src, "other": other})


def reduction(anchor: Expr, setting: Setting) -> Prepared:
    """sum, mean, max, min and prod over axes."""
    call = anchor_call(anchor)
    data, _ = tensors(call)
    description = Reduction(
        algorithm=str(call.op),
        shape=data.static_shape,
        axes=reduced_axes(call.attrs, data.ndim),
        keepdims=call.attrs.keepdims,
        dtype=data.dtype,
        num_threads=setting.threads,
    )
    return Prepared(description, {"src": call.args[0]})
