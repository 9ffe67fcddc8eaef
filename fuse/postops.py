"""The steps that libraries can do behind an operator, each by the pattern that it has in a graph.

Some activations are operators; others are written out in graphs (gelu as five operators, in several orders) and are
matched as a whole, for a library has one instruction for them. In their patterns the factor that is quickly told apart
comes first, so that the value, which may be a long chain, is matched once.
"""

import math
from collections.abc import Callable

from .chain import PostOp
from .dataflow_pattern import DFPattern, is_op, is_scalar

_Written = Callable[[DFPattern], DFPattern]


def _unary(name: str, op: str | None = None) -> PostOp:
    return PostOp(name, lambda value, operand: is_op(op or name)(value))


def _binary(name: str, op: str | None = None) -> PostOp:
    return PostOp(name, lambda value, operand: is_op(op or name)(value, operand))


def _written(name: str, pattern: _Written) -> PostOp:
    return PostOp(name, lambda value, operand: pattern(value))


ADD, SUBTRACT, MULTIPLY, DIVIDE = map(_binary, ("add", "subtract", "multiply", "divide"))
MAXIMUM, MINIMUM = map(_binary, ("maximum", "minimum"))

BIAS = _binary("bias_add", "nn.bias_add")
"""A vector along the axis that the call names."""

RELU, LEAKY_RELU = _unary("relu", "nn.relu"), _unary("leaky_relu", "nn.leaky_relu")
CLIP, TANH, SIGMOID, EXP, LOG, SQRT, ABS = map(_unary, ("clip", "tanh", "sigmoid", "exp", "log", "sqrt", "abs"))


# Written out in several operators


def _times(factor: float) -> _Written:
    """`x * factor`, or the same as a division."""
    return lambda x: x * is_scalar(factor) | x / is_scalar(1 / factor)


def _half_of_product(bracket: DFPattern, x: DFPattern) -> DFPattern:
    """`0.5 * x * bracket`, factors in any order."""
    half = _times(0.5)
    return half(bracket * x) | bracket * half(x) | half(bracket) * x


def _gelu(x: DFPattern) -> DFPattern:
    """`0.5 x (1 + erf(x / sqrt(2)))` (Hendrycks, Gimpel: Gaussian error linear units, 2016)."""
    curve = is_op("erf")(_times(math.sqrt(0.5))(x))
    return _half_of_product(curve + is_scalar(1.0), x) | (_times(0.5)(curve) + is_scalar(0.5)) * x


def _gelu_tanh(x: DFPattern) -> DFPattern:
    """The same with erf approximated: `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3)))`."""
    small = _times(0.044715)
    cubic = small(x * x * x) | small(is_op("power")(x, is_scalar(3.0))) | small(x) * x * x
    inner = cubic + x
    return _half_of_product(is_op("tanh")(_times(math.sqrt(2 / math.pi))(inner)) + is_scalar(1.0), x)


def _swish(x: DFPattern) -> DFPattern:
    """`x sigmoid(x)`, also called silu (Ramachandran, Zoph, Le: Searching for activation functions, 2017)."""
    return is_op("sigmoid")(x) * x


def _between(x: DFPattern, low: float, high: float) -> DFPattern:
    return is_op("clip")(x).has_attr({"a_min": low, "a_max": high})


def _six(x: DFPattern) -> DFPattern:
    """`clip(x + 3, 0, 6)`."""
    return _between(x + is_scalar(3.0), 0.0, 6.0)


def _hard_sigmoid(x: DFPattern) -> DFPattern:
    """`clip(x + 3, 0, 6) / 6`, or the same with the division inside (Howard et al.: MobileNetV3, 2019)."""
    return _times(1 / 6)(_six(x)) | _between(_times(1 / 6)(x) + is_scalar(0.5), 0.0, 1.0)


def _hard_swish(x: DFPattern) -> DFPattern:
    """`x hard_sigmoid(x)`."""
    return _hard_sigmoid(x) * x | _times(1 / 6)(_six(x) * x)


GELU, GELU_TANH = _written("gelu", _gelu), _written("gelu_tanh", _gelu_tanh)
SWISH, HARD_SWISH = _written("swish", _swish), _written("hard_swish", _hard_swish)
HARD_SIGMOID = _written("hard_sigmoid", _hard_sigmoid)

ACTIVATIONS = (
    GELU, GELU_TANH, SWISH, HARD_SWISH, HARD_SIGMOID, RELU, LEAKY_RELU, CLIP, TANH, SIGMOID, EXP, LOG, SQRT, ABS,
)  # fmt: skip
"""All that have no operand."""
