r"""ToMixedPrecision: weights, and what is multiplied by them, as 16-bit floats; sums and everything else in float32.

    float32 x    w: Constant float32               x                 w: Constant bfloat16
           \      /                                 |                     |
          nn.dense                               cast bfloat16            |
              |              -- bfloat16 -->           \                 /
           softmax                               nn.dense, out_dtype float32
                                                            |
                                                         softmax

Relay's pass of this name sorts all operators into those that may, must and must not compute in the small type. Here
only what is multiplied is rounded, where it is multiplied: the operators between two products (normalisations,
residual sums, softmax) stay float32 with no list of them, so nothing overflows and errors do not pile up along a deep
network. FuseOps puts each cast behind what computes its operand, so a tensor that only products read is stored in the
small type.

bfloat16 rounds both factors: processors multiply pairs of them in one instruction. float16 is for storage where what is
computed from it is float32 in any case: there only the weights become float16, and values of float16's small range
nowhere else. Where devices compute in float16, both factors are rounded (`both`).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field

from ..ir.errors import FusewireError
from ..ir.expr import Call, Constant, Expr
from ..ir.op import Attrs
from ..ir.scalar import SMALL_FLOATS
from ..ir.types import numpy_dtype
from ..ops.layout import Layout
from ..ops.unary import cast
from .graph import is_op_call, rewrite_function, tensor_type
from .infra import Pass, over_functions

CONVOLUTIONS = ("nn.conv1d", "nn.conv2d")
PRODUCTS = ("nn.dense", "nn.matmul", "nn.batch_matmul")

SHORTEST = 8
"""Terms of a sum (channels of a group, for convolutions) from which on rounding its factors pays."""

LARGE_TABLE = 1 << 20
"""Elements from which on a table of embeddings, too, is stored in the small type."""

LOST = 2.0**-8
"""The part of a weight (as a length) that rounding may lose; more is lost where values leave the range of float16..."""

MARGIN = 8.0
"""...in which they stay, times or by this number, when they are transformed for Winograd's convolutions."""


def to_mixed_precision(dtype: str, both: bool) -> Pass:
    """The pass ToMixedPrecision; `both`: whether not only weights are rounded, but what they multiply, too.

    Raises:
        FusewireError: `dtype` is neither float16 nor bfloat16.
    """
    if dtype not in SMALL_FLOATS:
        raise FusewireError(f"ToMixedPrecision: expected {' or '.join(SMALL_FLOATS)}, got {dtype!r}")
    return over_functions(
        "ToMixedPrecision", 0, lambda f, mod, context: rewrite_function(f, _Mixed(dtype, both).replacement)
    )


@define(eq=False)
class _Mixed:
    dtype: str
    both: bool
    weights: dict[int, tuple[Constant, Constant | None]] = field(factory=dict)
    casts: dict[int, tuple[Expr, Expr]] = field(factory=dict)

    def replacement(self, old: Expr, new: Expr) -> Expr | None:
        """What comes in place of a node; None: it stays."""
        if not isinstance(new, Call):
            return None
        if is_op_call(new, *CONVOLUTIONS, *PRODUCTS) and _length(new) >= SHORTEST:
            return self._product(new)
        if is_op_call(new, "take") and _elements(new.args[0]) >= LARGE_TABLE:
            table = self._rounded(new.args[0])
            return None if table is None else cast(Call(new.op, [table, *new.args[1:]], new.attrs), "float32")
        return None

    def _product(self, call: Call) -> Expr | None:
        data, weight = call.args
        if tensor_type(data).dtype != "float32" or tensor_type(call).dtype != "float32":
            return None
        small = self._rounded(weight)
        if small is None:
            return None
        if not self.both:
            return Call(call.op, [data, small], call.attrs)
        return Call(call.op, [self._cast(data), small], Attrs({**call.attrs, "out_dtype": "float32"}))

    def _cast(self, data: Expr) -> Expr:
        if id(data) not in self.casts:
            self.casts[id(data)] = data, cast(data, self.dtype)
        return self.casts[id(data)][1]

    def _rounded(self, weight: Expr) -> Constant | None:
        """A float32 constant in the small type, once for all that use it; None: it is none, or does not fit."""
        if not isinstance(weight, Constant) or tensor_type(weight).dtype != "float32":
            return None
        if id(weight) not in self.weights:
            small = weight.data.astype(numpy_dtype(self.dtype)) if _fits(weight.data) else None
            if small is not None:
                small.setflags(write=False)
            self.weights[id(weight)] = weight, None if small is None else Constant(small)
        return self.weights[id(weight)][1]


def _fits(array: npt.NDArray[Any]) -> bool:
    """Whether float16 holds the values well, however convolutions transform them."""
    exact = array.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        lost = [np.linalg.norm((exact * f).astype(np.float16) / f - exact) for f in (MARGIN, 1 / MARGIN)]
    return bool(max(lost) <= LOST * np.linalg.norm(exact))  # not where it is infinite or not a number


def _length(call: Call) -> int:
    """The terms of a product's sums; for convolutions, the channels that one of them runs over; 0: not known."""
    shape = tensor_type(call.args[1]).shape
    if is_op_call(call, *CONVOLUTIONS):
        terms = Layout.parse(call.attrs.kernel_layout).unpack_shape(shape)["I"]
    else:
        terms = shape[-1 if call.attrs.get("transpose_b", True) else -2]
    return terms if isinstance(terms, int) else 0


def _elements(expr: Expr) -> int:
    return expr.data.size if isinstance(expr, Constant) else 0
