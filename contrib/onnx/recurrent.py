"""RNN, GRU and LSTM, unrolled over their (static) number of steps."""

from collections.abc import Callable, Sequence

from attrs import frozen

from ... import ops
from ...fuse.graph import tensor_type
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import nn
from .node import Node, constant
from .registry import translate
from .values import Value

Activation = Callable[[Expr], Expr]


def _activation(name: str, alpha: float | None, beta: float | None, dtype: str) -> Activation:
    """An activation by its ONNX name."""

    def number(value: float | None, default: float) -> Expr:
        return constant(default if value is None else value, dtype)

    known: dict[str, Activation] = {
        "relu": nn.relu,
        "tanh": ops.tanh,
        "sigmoid": ops.sigmoid,
        "affine": lambda x: ops.add(ops.multiply(x, number(alpha, 1.0)), number(beta, 0.0)),
        "leakyrelu": lambda x: nn.leaky_relu(x, 0.01 if alpha is None else alpha),
        "hardsigmoid": lambda x: ops.clip(ops.add(ops.multiply(x, number(alpha, 0.2)), number(beta, 0.5)), 0, 1),
        "softsign": lambda x: ops.divide(x, ops.add(ops.abs(x), number(None, 1.0))),
        "softplus": lambda x: ops.log(ops.add(ops.exp(x), number(None, 1.0))),
        "scaledtanh": lambda x: ops.multiply(ops.tanh(ops.multiply(x, number(beta, 1.0))), number(alpha, 1.0)),
        "thresholdedrelu": lambda x: ops.where(ops.greater(x, number(alpha, 1.0)), x, number(None, 0.0)),
    }
    if name.lower() not in known:
        raise FusewireError(f"the activation {name!r} is not supported")
    return known[name.lower()]


@frozen(eq=False)
class Cell:
    """One direction of a recurrent layer.

    Attributes:
        node: the node.
        number: 0 forwards, 1 for the second direction.
        backwards: from the last step to the first.
        activations: for this direction.
    """

    node: Node
    number: int
    backwards: bool
    activations: Sequence[Activation]

    @property
    def hidden(self) -> int:
        """The size of the hidden state."""
        return int(self.node.shape(2)[-1])

    def part(self, k: int) -> Expr:
        """What input `k` holds for this direction."""
        cut = ops.strided_slice(self.node[k], [self.number], [self.number + 1], axes=[0])
        return ops.squeeze(cut, [0])

    def clipped(self, x: Expr) -> Expr:
        """Gates brought into -clip..clip, if the node wants that."""
        limit = self.node.attr("clip")
        return x if limit is None else ops.clip(x, -limit, limit)

    def biases(self) -> tuple[Expr, Expr] | None:
        """The biases of the input's and of the state's products."""
        if not self.node.has(3):
            return None
        halves = ops.split(self.part(3), 2, 0)
        return halves[0], halves[1]

    def initial(self, k: int, batch: int) -> Expr:
        """A state at the beginning: input `k`, or zeros."""
        if self.node.has(k):
            return self.part(k)
        return ops.zeros((batch, self.hidden), self.node.dtype())


Step = Callable[[Cell, Expr, list[Expr]], list[Expr]]
"""`(cell, product of this step's input with W, states) -> new states`; the first state is the output."""


def _rnn_step(cell: Cell, x: Expr, states: list[Expr]) -> list[Expr]:
    biases = cell.biases()
    total = ops.add(x, nn.dense(states[0], cell.part(2)))
    if biases:
        total = ops.add(total, ops.add(*biases))
    return [cell.activations[0](cell.clipped(total))]


def _gru_step(cell: Cell, x: Expr, states: list[Expr]) -> list[Expr]:
    f, g = cell.activations[:2]
    hidden, state = cell.part(2), states[0]
    biases = cell.biases()
    if biases:
        x = ops.add(x, biases[0])
    xs = ops.split(x, 3, 1)
    rows = ops.split(hidden, 3, 0)
    bs = ops.split(biases[1], 3, 0) if biases else None

    def gate(k: int, h: Expr) -> Expr:
        product = nn.dense(h, rows[k])
        return ops.add(product, bs[k]) if bs else product

    z = f(cell.clipped(ops.add(xs[0], gate(0, state))))
    r = f(cell.clipped(ops.add(xs[1], gate(1, state))))
    if cell.node.attr("linear_before_reset", 0):
        candidate = ops.multiply(r, gate(2, state))
    else:
        candidate = gate(2, ops.multiply(r, state))
    h = g(cell.clipped(ops.add(xs[2], candidate)))
    one = constant(1, cell.node.dtype())
    return [ops.add(ops.multiply(ops.subtract(one, z), h), ops.multiply(z, state))]


def _lstm_step(cell: Cell, x: Expr, states: list[Expr]) -> list[Expr]:
    f, g, h = cell.activations[:3]
    state, memory = states
    total = ops.add(x, nn.dense(state, cell.part(2)))
    if biases := cell.biases():
        total = ops.add(total, ops.add(*biases))
    i, o, forget, c = (ops.split(total, 4, 1)[k] for k in range(4))
    peep = ops.split(cell.part(7), 3, 0) if cell.node.has(7) else None
    if peep:
        i = ops.add(i, ops.multiply(peep[0], memory))
        forget = ops.add(forget, ops.multiply(peep[2], memory))
    i = f(cell.clipped(i))
    keep = (
        ops.subtract(constant(1, cell.node.dtype()), i)
        if cell.node.attr("input_forget", 0)
        else f(cell.clipped(forget))
    )
    memory = ops.add(ops.multiply(keep, memory), ops.multiply(i, g(cell.clipped(c))))
    if peep:
        o = ops.add(o, ops.multiply(peep[1], memory))
    return [ops.multiply(f(cell.clipped(o)), h(memory)), memory]


def _direction(cell: Cell, step: Step, data: Expr, initial: Sequence[int]) -> tuple[list[Expr], list[Expr]]:
    """All steps of one direction: outputs in the order of time, and the last states."""
    steps, batch, _ = tensor_type(data).static_shape
    products = nn.dense(data, cell.part(1))
    states = [cell.initial(k, batch) for k in initial]
    outputs: list[Expr] = []
    for t in reversed(range(steps)) if cell.backwards else range(steps):
        x = ops.squeeze(ops.strided_slice(products, [t], [t + 1], axes=[0]), [0])
        new = step(cell, x, states)
        if cell.node.has(4):
            states, shown = _masked(cell, t, new, states)
        else:
            states, shown = new, new[0]
        outputs.append(shown)
    return (outputs[::-1] if cell.backwards else outputs), states


def _masked(cell: Cell, t: int, new: list[Expr], old: list[Expr]) -> tuple[list[Expr], Expr]:
    """Batch entries whose sequence is over keep their states, and their output is 0."""
    lengths = ops.expand_dims(cell.node[4], 1)
    alive = ops.less(constant(t, cell.node.dtype(4)), lengths)
    states = [ops.where(alive, n, o) for n, o in zip(new, old, strict=True)]
    return states, ops.where(alive, new[0], constant(0, cell.node.dtype()))


def _layer(node: Node, step: Step, defaults: Sequence[str], initial: Sequence[int]) -> list[Value]:
    batch_first = bool(node.attr("layout", 0))
    if batch_first and any(node.has(k) for k in initial):
        node = Node(
            node.proto, node.opset,
            tuple(ops.transpose(node[k], [1, 0, 2]) if k in initial and node.has(k) else node.value(k)
                  for k in range(len(node.inputs))),
            node.attributes, node.knowledge, node.run,
        )  # fmt: skip
    data = ops.transpose(node[0], [1, 0, 2]) if batch_first else node[0]
    direction = node.attr("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    names = node.attr("activations") or list(defaults) * count
    alphas, betas = (list(node.attr(f"activation_{n}") or []) for n in ("alpha", "beta"))
    functions = [
        _activation(n, alphas[k] if k < len(alphas) else None, betas[k] if k < len(betas) else None, node.dtype())
        for k, n in enumerate(names)
    ]
    sides = []
    for number in range(count):
        own = functions[number * len(defaults) : (number + 1) * len(defaults)]
        cell = Cell(node, number, number == 1 or direction == "reverse", own)
        sides.append(_direction(cell, step, data, initial))
    steps = [ops.stack([outputs[t] for outputs, _ in sides], 0) for t in range(len(sides[0][0]))]
    whole = ops.stack(steps, 0)  # (steps, directions, batch, hidden)
    last = [ops.stack([states[k] for _, states in sides], 0) for k in range(len(initial))]
    if batch_first:
        whole = ops.transpose(whole, [2, 0, 1, 3])
        last = [ops.transpose(x, [1, 0, 2]) for x in last]
    return [whole, *last]


@translate("RNN")
def rnn(node: Node) -> list[Value]:
    """A plain recurrent layer."""
    return _layer(node, _rnn_step, ["Tanh"], [5])


@translate("GRU")
def gru(node: Node) -> list[Value]:
    """Gated recurrent units (Cho et al. 2014)."""
    return _layer(node, _gru_step, ["Sigmoid", "Tanh"], [5])


@translate("LSTM")
def lstm(node: Node) -> list[Value]:
    """Long short-term memory (Hochreiter and Schmidhuber 1997), with peepholes."""
    return _layer(node, _lstm_step, ["Sigmoid", "Tanh", "Tanh"], [5, 6])
