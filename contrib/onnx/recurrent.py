"""RNN, GRU and LSTM, unrolled over their (static) number of steps.

What does not change from step to step stands outside: the input's products for all steps are one product, and each
weight is one expression that all steps share, so that it is stored (and packed by a kernel) once. Apart from the
first, the steps are equal kernels over other tensors, and code for them is generated once.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

from attrs import field, frozen

from ... import ops
from ...fuse.graph import tensor_type
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import nn
from .control import steps_of
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
    _shared: dict[Hashable, list[Expr]] = field(factory=dict)

    @property
    def hidden(self) -> int:
        """The size of the hidden state."""
        return int(self.node.shape(2)[-1])

    def shared(self, key: Hashable, make: Callable[[], Iterable[Expr]]) -> list[Expr]:
        """What `make` gives, made once for all steps."""
        if key not in self._shared:
            self._shared[key] = list(make())
        return self._shared[key]

    def part(self, k: int) -> Expr:
        """What input `k` holds for this direction."""

        def cut() -> list[Expr]:
            own = ops.strided_slice(self.node[k], [self.number], [self.number + 1], axes=[0])
            return [ops.squeeze(own, [0])]

        return self.shared(k, cut)[0]

    def pieces(self, k: int, count: int) -> list[Expr]:
        """`part(k)` in `count` equal pieces along its first axis."""
        return self.shared((k, count), lambda: ops.split(self.part(k), count, 0))

    def clipped(self, x: Expr) -> Expr:
        """Gates brought into -clip..clip, if the node wants that."""
        limit = self.node.attr("clip")
        return x if limit is None else ops.clip(x, -limit, limit)

    def initial(self, k: int, batch: int) -> Expr:
        """A state at the beginning: input `k`, or zeros."""
        if self.node.has(k):
            return self.part(k)
        return ops.zeros((batch, self.hidden), self.node.dtype())

    @property
    def separate(self) -> bool:
        """Whether the state's bias must be added to the state's product and cannot join the input's."""
        return bool(self.node.attr("linear_before_reset", 0))

    def inputs(self, data: Expr) -> list[Expr]:
        """The input's products with W, biases included, for each step: (batch, gates)."""
        steps, batch, features = tensor_type(data).static_shape
        products = nn.dense(ops.reshape(data, (steps * batch, features), allowzero=True), self.part(1))
        if self.node.has(3):
            own, recurrent = self.pieces(3, 2)
            products = ops.add(products, own if self.separate else ops.add(own, recurrent))
        return list(ops.split(products, steps, 0))


Step = Callable[[Cell, Expr, list[Expr]], list[Expr]]
"""`(cell, product of this step's input with W and biases, states) -> new states`; the first state is the output."""


def _rnn_step(cell: Cell, x: Expr, states: list[Expr]) -> list[Expr]:
    total = ops.add(x, nn.dense(states[0], cell.part(2)))
    return [cell.activations[0](cell.clipped(total))]


def _gru_step(cell: Cell, x: Expr, states: list[Expr]) -> list[Expr]:
    f, g = cell.activations[:2]
    (state,) = states
    input_z, input_r, input_h = ops.split(x, 3, 1)
    if cell.separate:
        products = nn.dense(state, cell.part(2))
        if cell.node.has(3):
            products = ops.add(products, cell.pieces(3, 2)[1])
        state_z, state_r, state_h = ops.split(products, 3, 1)
    else:
        gates, candidate = cell.shared("gates", lambda: ops.split(cell.part(2), [2 * cell.hidden], 0))
        state_z, state_r = ops.split(nn.dense(state, gates), 2, 1)
    z = f(cell.clipped(ops.add(input_z, state_z)))
    r = f(cell.clipped(ops.add(input_r, state_r)))
    seen = ops.multiply(r, state_h) if cell.separate else nn.dense(ops.multiply(r, state), candidate)
    h = g(cell.clipped(ops.add(input_h, seen)))
    one = constant(1, cell.node.dtype())
    return [ops.add(ops.multiply(ops.subtract(one, z), h), ops.multiply(z, state))]


def _columns(data: Expr, start: int, count: int) -> Expr:
    """Some columns of a matrix: unlike the pieces of a split, which is one call, fused into what uses them."""
    return ops.strided_slice(data, [start], [start + count], axes=[1])


def _lstm_step(cell: Cell, x: Expr, states: list[Expr]) -> list[Expr]:
    f, g, h = cell.activations[:3]
    state, memory = states
    total = ops.add(x, nn.dense(state, cell.part(2)))
    i, o, forget, c = (_columns(total, k * cell.hidden, cell.hidden) for k in range(4))
    peep = cell.pieces(7, 3) if cell.node.has(7) else None
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
    inputs = cell.inputs(data)
    states = [cell.initial(k, tensor_type(data).static_shape[1]) for k in initial]
    outputs: list[Expr] = []
    for t in reversed(range(len(inputs))) if cell.backwards else range(len(inputs)):
        new = step(cell, inputs[t], states)
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


def _check_sizes(node: Node, data: Expr, count: int) -> None:
    """Input and weights must have three dimensions, and the weights parts for `count` directions."""
    sizes = [tensor_type(data).static_shape, node.shape(1, 3), node.shape(2, 3)]
    if len(sizes[0]) != 3 or any(len(s) != 3 or s[0] != count for s in sizes[1:]):
        raise FusewireError(
            f"an input {sizes[0]} and weights {sizes[1]} and {sizes[2]} make no layer of {count} directions"
        )
    if steps_of(sizes[0][0], "the layer") == 0:
        raise FusewireError(f"the layer has no steps: its input has the shape {sizes[0]}")


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
    direction = node.one_of("direction", "forward", ("forward", "reverse", "bidirectional"))
    count = 2 if direction == "bidirectional" else 1
    _check_sizes(node, data, count)
    names = node.attr("activations") or list(defaults) * count
    if len(names) != count * len(defaults):
        raise FusewireError(f"got the activations {names}, expected {count * len(defaults)} of them")
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
    whole = ops.stack([ops.stack(outputs, 0) for outputs, _ in sides], 1)  # (steps, directions, batch, hidden)
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
