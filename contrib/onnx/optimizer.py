"""Steps of optimisers (ai.onnx.preview.training): each takes lists of tensors, gradients and states."""

from collections.abc import Callable, Sequence

from ... import ops
from ...ir.expr import Expr
from .node import Node, constant
from .registry import translate
from .values import Value

DOMAIN = "ai.onnx.preview.training"

Update = Callable[["Rate", Sequence[Expr]], list[Expr]]
"""`(rate, (tensor, gradient, *states)) -> (new tensor, *new states)`"""


class Rate:
    """The learning rate, the number of updates so far, and numbers in the dtype of the tensors."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.dtype = node.dtype(2)
        self.rate = ops.cast(node[0], self.dtype)
        self.count = node[1]

    def number(self, name: str, default: float = 0.0) -> Expr:
        """An attribute as a constant."""
        return constant(self.node.attr(name, default), self.dtype)

    def value(self, number: float) -> Expr:
        """A constant."""
        return constant(number, self.dtype)

    def regularized(self, tensor: Expr, gradient: Expr) -> Expr:
        """The gradient of the loss with its penalty on the size of the tensor."""
        return ops.add(ops.multiply(self.number("norm_coefficient"), tensor), gradient)


def _each(node: Node, states: int, update: Update) -> list[Value]:
    """Apply an update to each tensor; the outputs are grouped by kind."""
    rate = Rate(node)
    groups = states + 2
    count = (len(node.inputs) - 2) // groups
    results = [update(rate, [node[2 + g * count + k] for g in range(groups)]) for k in range(count)]
    return [results[k][g] for g in range(states + 1) for k in range(count)]


@translate("Adagrad", domain=DOMAIN)
def adagrad(node: Node) -> list[Value]:
    """Duchi, Hazan and Singer: Adaptive subgradient methods, 2011."""

    def update(r: Rate, parts: Sequence[Expr]) -> list[Expr]:
        tensor, gradient, squares = parts
        count = ops.multiply(ops.cast(r.count, r.dtype), r.number("decay_factor"))
        rate = ops.divide(r.rate, ops.add(count, r.value(1)))
        slope = r.regularized(tensor, gradient)
        squares = ops.add(squares, ops.multiply(slope, slope))
        step = ops.divide(ops.multiply(rate, slope), ops.add(ops.sqrt(squares), r.number("epsilon", 1e-6)))
        return [ops.subtract(tensor, step), squares]

    return _each(node, 1, update)


@translate("Adam", domain=DOMAIN)
def adam(node: Node) -> list[Value]:
    """Kingma and Ba: Adam, 2014."""

    def update(r: Rate, parts: Sequence[Expr]) -> list[Expr]:
        tensor, gradient, first, second = parts
        alpha, beta = r.number("alpha", 0.9), r.number("beta", 0.999)
        one, slope = r.value(1), r.regularized(tensor, gradient)
        first = ops.add(ops.multiply(alpha, first), ops.multiply(ops.subtract(one, alpha), slope))
        squares = ops.multiply(slope, slope)
        second = ops.add(ops.multiply(beta, second), ops.multiply(ops.subtract(one, beta), squares))
        count = ops.cast(r.count, r.dtype)
        fixes = ops.divide(
            ops.sqrt(ops.subtract(one, ops.power(beta, count))), ops.subtract(one, ops.power(alpha, count))
        )
        rate = ops.where(ops.greater(r.count, constant(0, "int64")), ops.multiply(r.rate, fixes), r.rate)
        step = ops.divide(ops.multiply(rate, first), ops.add(ops.sqrt(second), r.number("epsilon", 1e-6)))
        after = ops.subtract(one, r.number("norm_coefficient_post"))
        return [ops.multiply(after, ops.subtract(tensor, step)), first, second]

    return _each(node, 2, update)


@translate("Momentum", domain=DOMAIN)
def momentum(node: Node) -> list[Value]:
    """Stochastic gradients with momentum, plain or Nesterov's."""

    def update(r: Rate, parts: Sequence[Expr]) -> list[Expr]:
        tensor, gradient, velocity = parts
        slope, alpha, beta = r.regularized(tensor, gradient), r.number("alpha"), r.number("beta")
        # The first update is not damped.
        share = ops.where(ops.greater(r.count, constant(0, "int64")), beta, r.value(1))
        velocity = ops.add(ops.multiply(alpha, velocity), ops.multiply(share, slope))
        step = velocity
        if r.node.attr("mode") == "nesterov":
            step = ops.add(slope, ops.multiply(alpha, velocity))
        return [ops.subtract(tensor, ops.multiply(r.rate, step)), velocity]

    return _each(node, 1, update)
