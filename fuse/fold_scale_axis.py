"""FoldScaleAxis: multiplications by a constant for each channel disappear into constant weights.

Convolutions and matrix products are linear in each channel, so

    backward    conv(x, w) * s       = conv(x, w * s)          s along the output channels of w
    forward     conv(x * s, w)       = conv(x, w * s)          s along the input channels of w

and the same holds with steps in between that commute with the scale: addition of a constant (which is scaled as well)
behind, and relu where s > 0 on either side. What is folded must have no other use. After SimplifyInference this removes
the multiplication of every batch normalisation that follows or precedes a convolution.
"""

from collections.abc import Callable, Sequence

import numpy as np
from attrs import frozen

from ..ir.expr import Call, Constant, Expr, Function
from ..ir.op import Attrs
from ..ir.scalar import is_float
from ..ir.types import TensorType, numpy_dtype
from ..ops.conv import conv_layouts, describe
from ..ops.layout import Layout
from ..ops.spec import Array
from .fold_constant import widened
from .graph import is_op_call, rewrite_function, tensor_type, use_counts
from .infra import Pass, over_functions

CONVOLUTIONS = tuple(f"nn.conv{rank}d" for rank in (1, 2, 3))
TRANSPOSED = tuple(f"{name}_transpose" for name in CONVOLUTIONS)
_POSITIVE = ("nn.relu", "nn.leaky_relu")
"""f with f(s * x) = s * f(x) for s > 0."""

_MAX_STEPS = 64
"""How many steps may lie between a scale and the weights that take it up."""


def fold_scale_axis() -> Pass:
    """The pass FoldScaleAxis: backward, then forward."""
    return over_functions("FoldScaleAxis", 3, lambda f, mod, context: _Fold(_Fold(f).backward()).forward())


def backward_fold_scale_axis() -> Pass:
    """The pass BackwardFoldScaleAxis: scales behind a linear operator."""
    return over_functions("BackwardFoldScaleAxis", 3, lambda f, mod, context: _Fold(f).backward())


def forward_fold_scale_axis() -> Pass:
    """The pass ForwardFoldScaleAxis: scales in front of a linear operator."""
    return over_functions("ForwardFoldScaleAxis", 3, lambda f, mod, context: _Fold(f).forward())


@frozen(eq=False)
class Scale:
    """A factor for each channel.

    Attributes:
        values: a vector in float64, of one element where all channels have the same factor.
        axis: the channel axis; None where all channels have the same factor.

    """

    values: Array
    axis: int | None

    @property
    def positive(self) -> bool:
        """Whether all factors are above zero."""
        return bool(np.all(self.values > 0))

    def along(self, axis: int) -> bool:
        """Whether this scales along `axis` and nothing else."""
        return self.axis is None or self.axis == axis

    def shaped(self, ndim: int) -> Array:
        """The factors in a shape that broadcasts against a tensor of `ndim` dimensions."""
        if self.axis is None:
            return self.values.reshape(())
        return self.values.reshape((-1,) + (1,) * (ndim - self.axis - 1))


def _scaled_tensor(new: Expr) -> tuple[Expr, Scale] | None:
    """The tensor and the scale of `tensor * constant`, if the constant varies along one axis at most."""
    if not is_op_call(new, "multiply"):
        return None
    whole = tensor_type(new)
    if not is_float(whole.dtype):
        return None
    for tensor, factor in (new.args, new.args[::-1]):
        if isinstance(factor, Constant) and not isinstance(tensor, Constant) and tensor.checked_type == whole:
            wide = [axis for axis, n in enumerate(factor.data.shape, whole.ndim - factor.data.ndim) if n != 1]
            if len(wide) <= 1:
                return tensor, Scale(widened(factor).reshape(-1), wide[0] if wide else None)
    return None


class _Fold:
    """One rewrite of a function; knows how often each node of the graph under construction is used."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self._uses = use_counts(function)
        self._new_uses: dict[int, int] = {}
        self._alive: list[Expr] = []

    def backward(self) -> Function:
        """Fold scales into the linear operators that they follow."""

        def visit(new: Expr) -> Expr | None:
            found = _scaled_tensor(new)
            return self._push(*found) if found else None

        return self._rewrite(visit)

    def forward(self) -> Function:
        """Fold scales into the linear operators that they precede."""

        def visit(new: Expr) -> Expr | None:
            if not is_op_call(new, *CONVOLUTIONS, *TRANSPOSED, "nn.dense"):
                return None
            found = self._peel(new.args[0])
            return _with_weight(new, found[0], found[1], inputs=True) if found else None

        return self._rewrite(visit)

    def _rewrite(self, visit: Callable[[Expr], Expr | None]) -> Function:
        def replace(old: Expr, new: Expr) -> Expr:
            found = visit(new)
            return self._note(new if found is None else found, self._uses[id(old)])

        return rewrite_function(self.function, replace)

    def _note(self, expr: Expr, uses: int) -> Expr:
        self._new_uses[id(expr)] = uses
        self._alive.append(expr)
        return expr

    def _single(self, expr: Expr) -> bool:
        return self._new_uses.get(id(expr)) == 1

    def _push(self, expr: Expr, scale: Scale, steps: int = _MAX_STEPS) -> Expr | None:
        """`expr` times `scale` without a multiplication; None if that cannot be done."""
        if not steps or not isinstance(expr, Call) or not self._single(expr):
            return None
        found: Expr | None = None
        if is_op_call(expr, *CONVOLUTIONS, *TRANSPOSED, "nn.dense"):
            found = _with_weight(expr, expr.args[0], scale, inputs=False)
        elif is_op_call(expr, *_POSITIVE) and scale.positive:
            inner = self._push(expr.args[0], scale, steps - 1)
            found = None if inner is None else Call(expr.op, [inner], expr.attrs)
        elif is_op_call(expr, "add", "subtract"):
            found = self._push_sum(expr, scale, steps)
        elif is_op_call(expr, "nn.bias_add") and scale.along(expr.attrs.axis % tensor_type(expr).ndim):
            found = self._push_bias(expr, scale, steps)
        return None if found is None else self._note(found, 1)

    def _push_sum(self, expr: Call, scale: Scale, steps: int) -> Expr | None:
        parts: list[Expr] = []
        for arg in expr.args:
            if isinstance(arg, Constant):
                part: Expr | None = _times(arg, scale.shaped(tensor_type(expr).ndim))
            else:
                whole = arg.checked_type == expr.checked_type
                part = self._push(arg, scale, steps - 1) if whole else None
            if part is None:
                return None
            parts.append(part)
        return Call(expr.op, parts, expr.attrs)

    def _push_bias(self, expr: Call, scale: Scale, steps: int) -> Expr | None:
        data, bias = expr.args
        if not isinstance(bias, Constant):
            return None
        inner = self._push(data, scale, steps - 1)
        return None if inner is None else Call(expr.op, [inner, _times(bias, scale.values)], expr.attrs)

    def _peel(self, expr: Expr) -> tuple[Expr, Scale] | None:
        """`expr` without the scale in it, and that scale: (x, s) of x * s, and (relu(x), s) of relu(x * s)."""
        above: list[Call] = []
        while is_op_call(expr, *_POSITIVE) and self._single(expr):
            above.append(expr)
            expr = expr.args[0]
        found = _scaled_tensor(expr)
        if found is None or not self._single(expr) or (above and not found[1].positive):
            return None
        tensor, scale = found
        for step in reversed(above):
            tensor = Call(step.op, [tensor], step.attrs)
        return tensor, scale


def _times(constant: Constant, factor: Array) -> Constant:
    return Constant((widened(constant) * factor).astype(constant.data.dtype))


def _with_weight(linear: Call, data: Expr, scale: Scale, *, inputs: bool) -> Expr | None:
    """A linear operator on `data`, with its constant weight scaled along its input or output channels."""
    weight = linear.args[1]
    if not isinstance(weight, Constant):
        return None
    if is_op_call(linear, "nn.dense"):
        tensor = tensor_type(linear.args[0] if inputs else linear)
        if not scale.along(tensor.ndim - 1):
            return None
        factor = scale.values[None, :] if inputs else scale.values[:, None]
        return Call(linear.op, [data, _times(weight, factor)], linear.attrs)
    spatial, data_layout, kernel, out_layout = conv_layouts(linear.attrs)
    layout = data_layout if inputs else out_layout
    if layout.block("C") != 1 or not scale.along(layout.index_of("C")):
        return None
    plain = kernel.to_plain(widened(weight), "OI" + spatial)
    matrix = _channel_factors(linear, plain.shape[:2], scale, inputs)
    scaled = plain * matrix.reshape(plain.shape[:2] + (1,) * len(spatial))
    return Call(linear.op, [data, _packed(kernel, scaled, spatial, tensor_type(weight))], linear.attrs)


def _packed(kernel: Layout, plain: Array, spatial: str, type_: TensorType) -> Constant:
    return Constant(kernel.from_plain(plain, "OI" + spatial).astype(numpy_dtype(type_.dtype)))


def _channel_factors(conv: Call, shape: Sequence[int], scale: Scale, inputs: bool) -> Array:
    """For each (O, I) of a convolution's weight, the factor of the channel that it reads or writes."""
    read, written = _channels(conv, conv.attrs, shape)
    channels = read if inputs else written
    return np.broadcast_to(scale.values, (int(channels.max()) + 1,))[channels] if channels.size else channels


def _channels(conv: Call, attributes: Attrs, shape: Sequence[int]) -> tuple[Array, Array]:
    """For each (O, I) of a convolution's weight, the input channel that it reads and the output channel it writes."""
    o, i = np.indices(tuple(shape))
    outputs, depth = shape
    if is_op_call(conv, *TRANSPOSED):
        group = i // max(depth // attributes.groups, 1)
        return i, group * outputs + o
    if describe(attributes, *(arg.checked_type for arg in conv.args)).multiplier:
        return o, o * depth + i
    group = o // max(outputs // attributes.groups, 1)
    return group * depth + i, o
