"""Which operators can work on blocked channels (NCHW16c and the like), and how they are then written.

A rule looks at a call whose result is a feature map, of type (N, C, H, W). It says which arguments are feature maps
too, writes the call for blocked ones, and estimates what the blocked form saves, in vector operations.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from attrs import frozen

from ..ir.expr import Call, Constant, Expr, Tuple, const
from ..ir.op import Attrs, get_op
from ..ir.types import TensorType
from ..ops.binary import add
from ..ops.layout import Layout
from ..ops.lowering import Map
from ..ops.reshape import reshape
from ..ops.shape import layout_transform
from ..ops.spec import Fusion, OpSpec
from .graph import tensor_type

_LAYOUT_OPS = (
    "nn.max_pool2d", "nn.avg_pool2d", "nn.global_max_pool2d", "nn.global_avg_pool2d", "nn.adaptive_max_pool2d",
    "nn.adaptive_avg_pool2d", "nn.upsampling", "image.resize2d",
)  # fmt: skip
_SPATIAL_REDUCTIONS = ("mean", "sum", "max", "min")


@frozen(eq=False)
class Blocks:
    """The blocks that channels may be cut into.

    Attributes:
        vector_bytes: bytes of a vector register; a block is a whole one or half of one.
    """

    vector_bytes: int

    def of(self, type_: object) -> int:
        """The block for a tensor (N, C, H, W): the largest that divides its channels; 0 where there is none."""
        if not isinstance(type_, TensorType) or type_.ndim != 4 or type_.dtype not in ("float32", "float64"):
            return 0
        if not all(isinstance(d, int) and d > 0 for d in type_.shape):
            return 0
        return self.dividing([type_.static_shape[1]], type_.dtype)

    def dividing(self, channels: Sequence[int], dtype: str) -> int:
        """The largest block that divides all of `channels`, or 0."""
        lanes = self.vector_bytes // (8 if dtype == "float64" else 4)
        fitting = [b for b in (lanes, lanes // 2) if b >= 4 and all(c % b == 0 for c in channels)]
        return fitting[0] if fitting else 0


@frozen(eq=False)
class Rule:
    """How one kind of call takes blocked feature maps.

    Attributes:
        features: `(call, blocks) -> arguments that are feature maps`, flattened; None where the rule does not apply.
        write: `(call, blocked arguments in that order, their blocks) -> the result, blocked, and its block`.
        gain: `(call, lanes) -> vector operations saved`.
    """

    features: Callable[[Call, Blocks], list[Expr] | None]
    write: Callable[[Call, Sequence[Expr], Sequence[int], Blocks], tuple[Expr, int]]
    gain: Callable[[Call, int], float] = lambda call, lanes: 0.0


def layout_of(block: int) -> str:
    """The name of a layout: NCHW, or NCHW16c."""
    return f"NCHW{block}c" if block else "NCHW"


def rule_for(node: Call) -> Rule | None:
    """The rule for a call's operator."""
    op = node.op
    if not isinstance(op, OpSpec) or not isinstance(node.checked_type, TensorType):
        return None
    if op.name in _BY_NAME:
        return _BY_NAME[op.name]
    plain = not any(isinstance(v, tuple | list) for v in node.attrs.values()) and "axis" not in node.attrs
    if isinstance(op.lowering, Map) and op.fusion in (Fusion.ELEMWISE, Fusion.BROADCAST) and plain:
        return ELEMENTWISE
    return None


def _with(node: Call, args: Sequence[Expr], **changes: object) -> Expr:
    return Call(node.op, args, Attrs({**node.attrs, **changes}))


# conv2d


def _conv_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    a, (data, weight) = node.attrs, node.args
    if a.data_layout != "NCHW" or a.kernel_layout != "OIHW" or a.out_layout not in ("", "NCHW"):
        return None
    out, into, w = node.checked_type, data.checked_type, weight.checked_type
    block = blocks.of(out)
    if not block or not isinstance(into, TensorType) or not isinstance(w, TensorType):
        return None
    if any(not isinstance(d, int) or d == 0 for d in (*into.shape, *w.shape)):
        return None
    ci = into.static_shape[1] // a.groups
    co = tensor_type(node).static_shape[1] // a.groups
    if w.shape[1] != ci:
        return None
    depthwise = ci == co == 1
    if a.groups > 1 and not depthwise and (not blocks.of(into) or ci % blocks.of(into) or co % block):
        return None
    return [data] if blocks.of(into) else []


def _write_conv(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    data, weight = (features[0] if features else node.args[0]), node.args[1]
    depthwise = node.attrs.groups > 1 and tensor_type(weight).shape[0] == node.attrs.groups
    block = found[0] if features and depthwise else blocks.of(node.checked_type)
    changes = {"data_layout": layout_of(found[0] if found else 0), "out_layout": layout_of(block)}
    return _with(node, [data, weight], **changes), block


def _conv_gain(node: Call, lanes: int) -> float:
    a, (_, weight) = node.attrs, node.args
    out, (co, ci, kh, kw) = math.prod(tensor_type(node).static_shape), tensor_type(weight).static_shape
    direct = out * ci * kh * kw / lanes
    if a.groups == co > 1:
        return 3 * direct  # the plain schedule has one channel, and few pixels, to fill its registers
    square = kh == kw and a.strides[0] == a.strides[1] and tuple(a.dilation) == (1, 1) and a.groups == 1
    if square and kh > a.strides[0] and co >= 16 and (ci >= 16 or kh >= 5):
        return (0.5 if a.strides[0] == 1 else 0.25) * direct  # Winograd
    long = ci * kh * kw >= 256
    return (0.05 * direct + 4 * out / lanes) if long else 0.0  # no way round over a scratch array


def _transposed_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    a, (data, weight) = node.attrs, node.args
    if a.data_layout != "NCHW" or a.kernel_layout != "IOHW" or a.out_layout not in ("", "NCHW") or a.groups != 1:
        return None
    if not _static(node) or not isinstance(weight, Constant) or not blocks.of(node.checked_type):
        return None
    return [data] if blocks.of(data.checked_type) else []


def _write_transposed(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    block = blocks.of(node.checked_type)
    layouts = {"data_layout": layout_of(found[0] if found else 0), "out_layout": layout_of(block)}
    return _with(node, [*(features or node.args[:1]), node.args[1]], **layouts), block


def _transposed_gain(node: Call, lanes: int) -> float:
    return 4 * math.prod(tensor_type(node).static_shape) / lanes  # no way round over a scratch array


# Other operators


def _data_only(node: Call, blocks: Blocks) -> list[Expr] | None:
    data = node.args[0]
    return [data] if blocks.of(data.checked_type) else None


def _layout_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    a = node.attrs
    if a.layout != "NCHW" or a.get("out_layout", "") not in ("", "NCHW"):
        return None
    return _data_only(node, blocks)


def _write_layout(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    layout = {key: layout_of(found[0]) for key in ("layout", "out_layout") if node.attrs.get(key)}
    return _with(node, [*features, *node.args[1:]], **layout), found[0]


def _window_gain(node: Call, lanes: int) -> float:
    window = math.prod(node.attrs.get("pool_size") or (4,))
    return 4 * window * math.prod(tensor_type(node).static_shape) / lanes


def _concat_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    parts = node.args[0]
    if node.attrs.axis not in (1, -3) or not isinstance(parts, Tuple):
        return None
    return list(parts.fields) if all(blocks.of(f.checked_type) for f in parts.fields) else None


def _write_concat(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    return Call(node.op, [Tuple(list(features))], Attrs({"axis": 1})), found[0]


def _pad_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    width = node.attrs.pad_width
    fits = len(width) == 4 and tuple(width[0]) == tuple(width[1]) == (0, 0)
    return _data_only(node, blocks) if fits else None


def _write_pad(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    return _with(node, [*features, *node.args[1:]], pad_width=(*node.attrs.pad_width, (0, 0))), found[0]


def _reduce_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    axis = node.attrs.axis
    axes = (
        {a % 4 for a in ((axis,) if isinstance(axis, int) else axis or ())} if blocks.of(node.checked_type) else set()
    )
    return _data_only(node, blocks) if axes == {2, 3} and node.attrs.keepdims and not node.attrs.exclude else None


def _write_reduce(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    return _with(node, features, axis=(2, 3)), found[0]


def _elementwise_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    shape = tensor_type(node).shape
    if len(shape) != 4 or not _static(node):
        return None
    full = [a for a in node.args if tensor_type(a).shape == shape and blocks.of(a.checked_type)]
    return None if all(isinstance(a, Constant) for a in full) else full


def _static(node: Call) -> bool:
    types = [node.checked_type, *(a.checked_type for a in node.args)]
    return all(isinstance(t, TensorType) and all(isinstance(d, int) and d for d in t.shape) for t in types)


def _write_elementwise(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    rest = iter(features)
    taken = {id(f) for f in _elementwise_features(node, blocks) or ()}
    args = [next(rest) if id(a) in taken else operand(a, found[0]) for a in node.args]
    return _with(node, args), found[0]


def _bias_features(node: Call, blocks: Blocks) -> list[Expr] | None:
    return _data_only(node, blocks) if node.attrs.axis in (1, -3) else None


def _write_bias(node: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    channels = tensor_type(node).static_shape[1]
    return add(features[0], operand(_reshaped(node.args[1], (channels, 1, 1)), found[0])), found[0]


def operand(value: Expr, block: int) -> Expr:
    """An operand that is broadcast against feature maps, in the form that fits blocked ones."""
    type_ = tensor_type(value)
    if type_.ndim == 0:
        return value
    n, c, h, w = (1,) * (4 - type_.ndim) + type_.static_shape
    if c == 1:
        return _reshaped(value, (n, 1, h, w, 1))
    if h == w == 1:
        return _reshaped(value, (n, c // block, 1, 1, block))
    return relaid(_reshaped(value, (n, c, h, w)), 0, block)


def relaid(value: Expr, source: int, target: int) -> Expr:
    """A feature map with channels in blocks of `source` (0: NCHW) as one with blocks of `target`."""
    if source == target:
        return value
    type_ = tensor_type(value)
    if isinstance(value, Constant):
        plain = Layout.parse(layout_of(source)).to_plain(value.data, "NCHW")
        return const(np.ascontiguousarray(Layout.parse(layout_of(target)).from_plain(plain, "NCHW")))
    if type_.static_shape[2:4] == (1, 1):  # one pixel: the channels lie in their order in every layout
        n, channels = type_.static_shape[0], math.prod(type_.static_shape[1:])
        return _reshaped(value, (n, channels // target, 1, 1, target) if target else (n, channels, 1, 1))
    return layout_transform(value, layout_of(source), layout_of(target))


def _reshaped(value: Expr, shape: tuple[int, ...]) -> Expr:
    if tensor_type(value).shape == shape:
        return value
    if isinstance(value, Constant):
        return const(value.data.reshape(shape))
    if isinstance(value, Call) and value.op == _RESHAPE and tensor_type(value.args[0]).shape == shape:
        return value.args[0]
    return reshape(value, shape)


_RESHAPE = get_op("reshape")
ELEMENTWISE = Rule(_elementwise_features, _write_elementwise)
_BY_NAME = {
    "nn.conv2d": Rule(_conv_features, _write_conv, _conv_gain),
    "nn.conv2d_transpose": Rule(_transposed_features, _write_transposed, _transposed_gain),
    "concatenate": Rule(_concat_features, _write_concat),
    "nn.pad": Rule(_pad_features, _write_pad),
    "nn.bias_add": Rule(_bias_features, _write_bias),
    **{name: Rule(_layout_features, _write_layout, _window_gain) for name in _LAYOUT_OPS},
    **{name: Rule(_reduce_features, _write_reduce) for name in _SPATIAL_REDUCTIONS},
}
