"""ConvertLayout: convolutions in the layout that is asked for, and as few transposes as possible around them.

    ConvertLayout({"nn.conv2d": ["NHWC", "default"]})

One walk from the inputs to the result. A converted convolution gives a tensor whose dimensions lie in another order;
what comes behind it moves to that order as well, if its attributes can say so (axes, layout strings, pad widths), and
only what cannot gets the tensor transposed back:

    transpose(data)   conv2d NHWC   add, relu, max_pool2d, concatenate, ... in NHWC   transpose   reshape

The walk keeps, for each such tensor, both forms: the transposed-back one stands in the graph and is dropped again where
every user found the other. Weights are transposed too; with constant weights FoldConstant computes that. Transposes are
used, and not layout_transform, because SimplifyExpr cancels them against those that a model brings along.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..ir.errors import FusewireError, TypeInferenceError
from ..ir.expr import Call, Expr, Function, Tuple, TupleGetItem, call
from ..ir.op import Op
from ..ir.types import TensorType, TupleType
from ..ops.conv import describe
from ..ops.layout import Layout
from ..ops.reduce import reduced_axes
from ..ops.spec import Fusion, spec_of
from .graph import is_op_call, rewrite_function, tensor_type
from .infra import Pass, over_functions

Order = tuple[int, ...]
"""How dimensions moved: dimension k of the moved tensor is dimension order[k] of the original."""

CONVOLUTIONS = {"nn.conv1d": "NCW", "nn.conv2d": "NCHW", "nn.conv3d": "NCDHW"}
"""What can be converted, and the axes of its data."""

_POOLS = tuple(
    f"nn.{kind}_pool{rank}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for rank in (1, 2, 3)
) + ("nn.global_max_pool2d", "nn.global_avg_pool2d")
_RESIZES = ("image.resize1d", "image.resize2d", "image.resize3d", "nn.upsampling", "nn.upsampling3d")
_ALONG_AXIS = ("nn.bias_add", "nn.prelu", "nn.softmax", "nn.fast_softmax", "nn.log_softmax", "nn.lrn")
_REDUCTIONS = ("sum", "mean", "max", "min", "prod")
_PADS = ("nn.pad", "nn.mirror_pad")
_NOT_POINTWISE = ("broadcast_to", "broadcast_to_like", "expand_dims")
"""Operators of kind broadcast whose attributes, or whose second argument's shape, name dimensions."""


@frozen(eq=False)
class Desired:
    """The layouts wanted for an operator; `kernel` is None for the one that goes with the data's."""

    data: Layout
    kernel: Layout | None


@frozen(eq=False)
class Moved:
    """A tensor with its dimensions in another order."""

    expr: Expr
    order: Order


def convert_layout(desired_layouts: Mapping[str, Sequence[str]]) -> Pass:
    """The pass ConvertLayout.

    Raises:
        FusewireError: an operator cannot be converted, or a layout is malformed, split into blocks, or of other axes.
    """
    desired = {name: _desired(name, layouts) for name, layouts in desired_layouts.items()}
    return over_functions("ConvertLayout", 3, lambda f, mod, context: _Conversion(desired).of(f))


def _desired(name: str, layouts: Sequence[str]) -> Desired:
    if name not in CONVOLUTIONS:
        raise FusewireError(f"ConvertLayout cannot convert {name!r}; it converts {', '.join(CONVOLUTIONS)}")
    if not isinstance(layouts, list | tuple) or not 1 <= len(layouts) <= 2:
        raise FusewireError(f"ConvertLayout: {name} needs [data layout, kernel layout], got {layouts!r}")
    data, kernel = layouts[0], layouts[1] if len(layouts) == 2 else "default"
    axes = CONVOLUTIONS[name]
    parsed = _layout(name, data, axes)
    return Desired(parsed, None if kernel == "default" else _layout(name, kernel, "OI" + axes[2:]))


def _layout(name: str, text: str, axes: str) -> Layout:
    try:
        layout = Layout.parse(text)
    except TypeInferenceError as error:
        raise FusewireError(f"ConvertLayout, {name}: {error}") from None
    if sorted(text) != sorted(axes):
        raise FusewireError(
            f"ConvertLayout, {name}: layout {text!r} must be an order of the axes {axes}, without blocks"
        )
    return layout


def _order(old: Layout, new: Layout) -> Order | None:
    """How dimensions move from one layout to another; None where either splits an axis into blocks."""
    if old.ndim != len(old.axes) or new.ndim != len(new.axes):
        return None
    return tuple(old.axes.index(axis) for axis in new.axes)


def _transpose(expr: Expr, order: Order) -> Expr:
    return expr if order == tuple(range(len(order))) else call("transpose", [expr], axes=order)


def _inverse(order: Order) -> Order:
    return tuple(int(k) for k in np.argsort(order))


class _Conversion:
    """The rewrite of one function; knows which tensors it has in another order."""

    def __init__(self, desired: Mapping[str, Desired]) -> None:
        self._desired = desired
        self._moved: dict[int, tuple[Expr, Moved]] = {}  # by the id of the transposed-back form, which is kept alive

    def of(self, function: Function) -> Function:
        """The function, converted."""
        return rewrite_function(function, self._replace)

    def _replace(self, old: Expr, new: Expr) -> Expr | None:
        if isinstance(new, TupleGetItem) and isinstance(new.tuple_value, Tuple):
            return new.tuple_value.fields[new.index]
        if not isinstance(new, Call) or not isinstance(new.op, Op):
            return None
        if new.op.name in self._desired:
            return self._back(self._convolution(new, self._desired[new.op.name]))
        order = self._common_order(new)
        if order is None:
            return None
        if isinstance(new.checked_type, TupleType):
            return self._several(new, order)
        return self._back(self._follow(new, order))

    # The two forms of a tensor

    def _back(self, moved: Moved | None) -> Expr | None:
        """The tensor in its original order; whoever asks for it in the other order will find it."""
        if moved is None:
            return None
        plain = _transpose(moved.expr, _inverse(moved.order))
        if plain is not moved.expr:
            self._moved[id(plain)] = plain, moved
        return plain

    def _order_of(self, expr: Expr) -> Order | None:
        return self._moved[id(expr)][1].order if id(expr) in self._moved else None

    def _common_order(self, new: Call) -> Order | None:
        """The order that most of the arguments (or of the fields of a tuple) are in; None if all are as they were."""
        parts = [part for arg in new.args for part in (arg.fields if isinstance(arg, Tuple) else (arg,))]
        orders = Counter(order for part in parts if (order := self._order_of(part)))
        return orders.most_common(1)[0][0] if orders else None

    def _in(self, expr: Expr, order: Order) -> Expr:
        """A tensor in another order; one of lower rank (a bias beside an image) gets leading axes of size 1 first."""
        if id(expr) in self._moved:
            found = self._moved[id(expr)][1]
            if len(found.order) == len(order):
                return _transpose(found.expr, tuple(found.order.index(k) for k in order))
        missing = len(order) - tensor_type(expr).ndim
        if missing == len(order):
            return expr
        return _transpose(call("expand_dims", [expr], axis=0, num_newaxis=missing) if missing else expr, order)

    # What each operator becomes; None: it stays as it is, on tensors in their original order

    def _convolution(self, new: Call, desired: Desired) -> Moved | None:
        data_layout, kernel_layout = Layout.parse(new.attrs.data_layout), Layout.parse(new.attrs.kernel_layout)
        out_layout = Layout.parse(new.attrs.out_layout or data_layout)
        depthwise = new.attrs.groups > 1 and describe(new.attrs, *(a.checked_type for a in new.args)).weights["I"] == 1
        wanted = desired.kernel or _kernel_beside(desired.data, depthwise)
        order, back = _order(data_layout, desired.data), _order(out_layout, desired.data)
        kernel_order = _order(kernel_layout, wanted)
        if order is None or back is None or kernel_order is None:
            return None
        attributes = new.attrs.replace(data_layout=desired.data.name, kernel_layout=wanted.name, out_layout="")
        data, weight = new.args
        if attributes == new.attrs.replace(out_layout="") and back == tuple(range(len(back))):
            return None  # it is as desired
        return Moved(Call(new.op, [self._in(data, order), _transpose(weight, kernel_order)], attributes), back)

    def _follow(self, new: Call, order: Order) -> Moved | None:
        """An operator on tensors that are there in `order`."""
        assert isinstance(new.op, Op)
        name, rank = new.op.name, len(order)
        if name == "concatenate":
            return self._concatenate(new, order)
        data = new.args[0]
        if self._order_of(data) is not None and tensor_type(data).ndim == rank:
            inner = self._in(data, order)
            if name in _POOLS or name in _RESIZES:
                return self._with_layout(new, inner, order)
            if name in _ALONG_AXIS:
                attributes = new.attrs.replace(axis=order.index(new.attrs.axis % rank))
                return Moved(Call(new.op, [inner, *new.args[1:]], attributes), order)
            if name in _PADS:
                attributes = new.attrs.replace(pad_width=tuple(new.attrs.pad_width[k] for k in order))
                return Moved(Call(new.op, [inner, *new.args[1:]], attributes), order)
            if name in _REDUCTIONS:
                return _reduction(new, inner, order)
        return self._pointwise(new, order)

    def _pointwise(self, new: Call, order: Order) -> Moved | None:
        spec = spec_of(new)
        if spec.fusion > Fusion.BROADCAST or spec.name in (*_NOT_POINTWISE, *_ALONG_AXIS):
            return None
        tensors = all(isinstance(arg.checked_type, TensorType) for arg in new.args)
        if not tensors or tensor_type(new).ndim != len(order):
            return None
        return Moved(Call(new.op, [self._in(arg, order) for arg in new.args], new.attrs), order)

    def _concatenate(self, new: Call, order: Order) -> Moved | None:
        (whole,) = new.args
        if not isinstance(whole, Tuple) or tensor_type(new).ndim != len(order):
            return None
        attributes = new.attrs.replace(axis=order.index(new.attrs.axis % len(order)))
        return Moved(Call(new.op, [Tuple([self._in(part, order) for part in whole.fields])], attributes), order)

    def _with_layout(self, new: Call, inner: Expr, order: Order) -> Moved | None:
        """Pools and resizes, which name their axes by a layout string."""
        old = Layout.parse(new.attrs.layout)
        out = Layout.parse(new.attrs.get("out_layout") or old)
        if old.ndim != len(old.axes):
            return None
        layout = Layout.parse("".join(old.axes[k] for k in order))
        back = _order(out, layout)
        if back is None:
            return None
        changes: dict[str, Any] = {"layout": layout.name}
        if "out_layout" in new.attrs:
            changes["out_layout"] = ""
        return Moved(Call(new.op, [inner, *new.args[1:]], new.attrs.replace(**changes)), back)

    def _several(self, new: Call, order: Order) -> Expr | None:
        """Operators with several results: batch_norm, whose statistics are vectors, and split."""
        if not is_op_call(new, "nn.batch_norm", "split") or self._order_of(new.args[0]) is None:
            return None
        attributes = new.attrs.replace(axis=order.index(new.attrs.axis % len(order)))
        result = Call(new.op, [self._in(new.args[0], order), *new.args[1:]], attributes)
        assert isinstance(result.checked_type, TupleType)
        fields: list[Expr] = []
        for k, type_ in enumerate(result.checked_type.fields):
            field = TupleGetItem(result, k)
            whole = isinstance(type_, TensorType) and type_.ndim == len(order)
            plain = self._back(Moved(field, order)) if whole else field
            assert plain is not None
            fields.append(plain)
        return Tuple(fields)


def _kernel_beside(data: Layout, depthwise: bool) -> Layout:
    """The kernel layout that goes with a data layout, as in Relay: OIHW; HWIO with channels last, HWOI if depthwise."""
    spatial = "".join(axis for axis in data.axes if axis not in "NC")
    if not data.axes.endswith("C"):
        return Layout.parse("OI" + spatial)
    return Layout.parse(spatial + ("OI" if depthwise else "IO"))


def _reduction(new: Call, inner: Expr, order: Order) -> Moved:
    rank = len(order)
    gone = reduced_axes(new.attrs, rank)
    places = tuple(sorted(order.index(axis) for axis in gone))
    result = Call(new.op, [inner], new.attrs.replace(axis=places, exclude=False))
    if new.attrs.keepdims:
        return Moved(result, order)
    kept = [axis for axis in order if axis not in gone]
    return Moved(result, tuple(sorted(kept).index(axis) for axis in kept))
