"""Constant scales behind a convolution, taken into its constant weights where these are packed.

A convolution is linear in the weights of each output channel: conv(x, w) * s = conv(x, w * s). The graph keeps the
multiplication, which gives the group its name and its meaning (FoldScaleAxis, of level 3, takes it out of the graph).
Here only the kernel is spared it: what is packed once, at build time, is the weights times the scale. It counts where
sums are short: the multiplication waits for the unit that multiplies and adds.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..ir.expr import Call, Expr, Function, Var
from ..ir.types import TensorType
from ..ir.visitor import children, post_order
from ..ops.conv import conv_layouts

Array = npt.NDArray[Any]

CONVOLUTIONS = ("nn.conv2d", "nn.conv1d")
"""Operators whose weights have the output channels first, if their layout is the plain one."""


@frozen(eq=False)
class Absorbed:
    """A multiplication that the weights take in.

    Attributes:
        call: the multiplication; its value is the convolution's, with weights times the scale.
        weight, scale: the parameters.
    """

    call: Call
    weight: Var
    scale: Var


def absorbed(function: Function, anchor: Expr | None, known: Collection[int]) -> Absorbed | None:
    """The multiplication of a group that the weights of its anchor can take in, if there is one.

    Args:
        function: the group.
        anchor: its convolution.
        known: identities of the parameters that are constants.
    """
    if not isinstance(anchor, Call) or str(anchor.op) not in CONVOLUTIONS:
        return None
    users: dict[int, list[Expr]] = {}
    for node in post_order(function.body):
        for part in children(node):
            users.setdefault(id(part), []).append(node)
    weight, behind = anchor.args[1], users.get(id(anchor), [])
    if len(behind) != 1 or not isinstance(weight, Var) or id(weight) not in known or len(users[id(weight)]) > 1:
        return None
    (call,) = behind
    if not isinstance(call, Call) or str(call.op) != "multiply" or call.args[0] is call.args[1]:
        return None
    scale = call.args[1] if call.args[0] is anchor else call.args[0]
    if not isinstance(scale, Var) or id(scale) not in known or not _fits(anchor, call, weight, scale):
        return None
    return Absorbed(call, weight, scale)


def _fits(anchor: Call, call: Call, weight: Var, scale: Var) -> bool:
    """Whether the scale has one factor for each channel, or for all, and nothing is converted on the way."""
    types = [e.checked_type for e in (anchor, call, weight, scale)]
    if not all(isinstance(t, TensorType) and t.dtype == "float32" for t in types) or types[0] != types[1]:
        return False
    _, _, kernel, out = conv_layouts(anchor.attrs)
    shape, factors, weights = (t.static_shape for t in (types[0], types[3], types[2]) if isinstance(t, TensorType))
    if not kernel.name.startswith("OI") or len(factors) > len(shape):
        return False
    factors = (1,) * (len(shape) - len(factors)) + factors
    channels = [shape[k] if part.axis == "C" else 1 for k, part in enumerate(out.parts)]
    each = list(factors) == channels and weights[0] == math.prod(channels)
    return each or math.prod(factors) == 1


def prepared(
    position: int,
    scales: Mapping[int, int],
    packed: Mapping[int, Callable[[Array], Array]],
    constant: Callable[[int], Array],
) -> Array:
    """A constant input in the form that a kernel reads.

    Args:
        position: of the input.
        scales: for weights that take in a scale, the position of that.
        packed: how inputs are packed.
        constant: a constant input as it is in the graph, by position.
    """
    array = constant(position)
    if position in scales:
        factors = constant(scales[position])
        with np.errstate(all="ignore"):
            array = array * factors.reshape(-1, *(1,) * (array.ndim - 1))
    return packed[position](array) if position in packed else array
