"""Random graphs of many operators, for differential tests: the same seed always gives the same graph."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import fusewire as fw

Array = npt.NDArray[np.float32]
Value = fw.Expr


class GraphMaker:
    """Grows a graph by random operators on random earlier values."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.params: list[fw.Var] = []
        self.inputs: dict[str, Array] = {}
        self.values: list[Value] = []

    def function(self, size: int) -> fw.Function:
        batch, channels, side = (int(self.rng.integers(1, n)) for n in (3, 9, 13))
        self.values.append(self.input((batch, channels, side, side)))
        if self.rng.random() < 0.5:
            self.values.append(self.input((batch, int(self.rng.integers(1, 20)))))
        for _ in range(size):
            self.grow()
        used = [v for v in self.values if not isinstance(v, fw.Var)]
        outputs = [used[-1], *(v for v in used[:-1] if self.rng.random() < 0.15)]
        body = outputs[0] if len(outputs) == 1 else fw.Tuple(outputs)
        return fw.Function(self.params, body)

    def input(self, shape: tuple[int, ...]) -> fw.Var:
        name = f"x{len(self.params)}"
        self.params.append(fw.var(name, shape=shape))
        self.inputs[name] = self.rng.uniform(-1, 1, shape).astype(np.float32)
        return self.params[-1]

    def const(self, *shape: int, low: float = -1.0, high: float = 1.0) -> fw.Constant:
        return fw.const(self.rng.uniform(low, high, shape).astype(np.float32))

    def pick(self, rank: int | None = None) -> Value | None:
        fitting = [v for v in self.values if rank is None or len(shape_of(v)) == rank]
        # Recent values more often: chains are what fusion is about.
        return fitting[-1 - int(len(fitting) * self.rng.random() ** 2)] if fitting else None

    def grow(self) -> None:
        step = STEPS[int(self.rng.integers(len(STEPS)))]
        for value in step(self):
            if 0 not in shape_of(value) and int(np.prod(shape_of(value))) <= 20000:
                self.values.append(value)


def shape_of(value: Value) -> tuple[int, ...]:
    type_ = value.checked_type
    assert isinstance(type_, fw.TensorType)
    return type_.static_shape


def unary(g: GraphMaker) -> list[Value]:
    x = g.pick()
    assert x is not None
    functions: list[Callable[[Value], Value]] = [
        fw.nn.relu,
        fw.tanh,
        fw.sigmoid,
        fw.negative,
        fw.abs,
        fw.nn.leaky_relu,
        lambda v: fw.clip(v, -0.5, 0.8),
        lambda v: fw.exp(fw.negative(fw.abs(v))),
        lambda v: fw.sqrt(fw.abs(v) + 1.0),
    ]
    return [functions[int(g.rng.integers(len(functions)))](x)]


def binary(g: GraphMaker) -> list[Value]:
    x = g.pick()
    assert x is not None
    mates = [v for v in g.values if shape_of(v) == shape_of(x)]
    choice = g.rng.random()
    if choice < 0.5:
        y: Value = mates[int(g.rng.integers(len(mates)))]
    elif choice < 0.8:
        y = g.const(*(n if g.rng.random() < 0.5 else 1 for n in shape_of(x)))
    else:
        y = fw.const(float(np.float32(g.rng.uniform(-1, 1))))
    functions = [fw.add, fw.subtract, fw.multiply, fw.maximum, fw.minimum]
    return [functions[int(g.rng.integers(len(functions)))](x, y)]


def conv(g: GraphMaker) -> list[Value]:
    x = g.pick(4)
    if x is None:
        return []
    c, k = shape_of(x)[1], int(g.rng.choice([1, 3]))
    if min(shape_of(x)[2:]) < k:
        return []
    groups = c if g.rng.random() < 0.2 else 1
    out = c if groups > 1 else int(g.rng.integers(1, 20))
    weight = g.const(out, c // groups, k, k, low=-0.5, high=0.5)
    padding = (int(g.rng.integers(0, 2)) * (k // 2),) * 2
    strides = (int(g.rng.integers(1, 3)),) * 2
    y = fw.nn.conv2d(x, weight, channels=out, kernel_size=(k, k), groups=groups, padding=padding, strides=strides)
    y = fw.multiply(y, fw.const(np.float32(1 / np.sqrt(c * k * k))))
    if g.rng.random() < 0.5:
        gamma, beta, mean, var = (g.const(out, low=0.5, high=1.5) for _ in range(4))
        y = fw.nn.batch_norm(y, gamma, beta, mean, var)[0]
    elif g.rng.random() < 0.5:
        y = fw.nn.bias_add(y, g.const(out))
    return [y, fw.nn.relu(y)] if g.rng.random() < 0.5 else [y]


def dense(g: GraphMaker) -> list[Value]:
    x = g.pick(2)
    if x is None:
        return []
    k, n = shape_of(x)[1], int(g.rng.integers(1, 40))
    return [fw.nn.dense(x, g.const(n, k, low=-1 / k, high=1 / k), units=n)]


def pool(g: GraphMaker) -> list[Value]:
    x = g.pick(4)
    if x is None or min(shape_of(x)[2:]) < 2:
        return []
    function: Callable[..., Value] = fw.nn.max_pool2d if g.rng.random() < 0.5 else fw.nn.avg_pool2d
    return [
        function(
            x, pool_size=(2, 2), strides=(int(g.rng.integers(1, 3)),) * 2, padding=(int(g.rng.integers(0, 2)),) * 2
        )
    ]


def shaping(g: GraphMaker) -> list[Value]:
    x = g.pick()
    assert x is not None
    rank = len(shape_of(x))
    choice = int(g.rng.integers(6))
    if choice == 0:
        return [fw.transpose(x, axes=[int(a) for a in g.rng.permutation(rank)])]
    if choice == 1:
        return [fw.nn.batch_flatten(x) if rank > 1 else fw.expand_dims(x, axis=0)]
    if choice == 2:
        return [fw.concatenate([x, fw.nn.relu(x)], axis=int(g.rng.integers(rank)))]
    if choice == 3:
        axis = int(g.rng.integers(rank))
        begin = int(g.rng.integers(0, max(shape_of(x)[axis] // 2, 1)))
        return [fw.strided_slice(x, begin=[begin], end=[shape_of(x)[axis]], axes=[axis])]
    if choice == 4:
        axis = int(g.rng.integers(rank))
        if shape_of(x)[axis] < 2:
            return []
        return list(fw.split(x, indices_or_sections=[1], axis=axis))
    return [fw.reverse(x, axis=int(g.rng.integers(rank)))]


def reducing(g: GraphMaker) -> list[Value]:
    x = g.pick()
    assert x is not None
    axis = int(g.rng.integers(len(shape_of(x))))
    functions = [fw.mean, fw.max, fw.min]
    return [functions[int(g.rng.integers(3))](x, axis=axis, keepdims=True)]


def normalising(g: GraphMaker) -> list[Value]:
    x = g.pick()
    assert x is not None
    axis = int(g.rng.integers(len(shape_of(x))))
    if g.rng.random() < 0.5:
        return [fw.nn.softmax(x, axis=axis)]
    n = shape_of(x)[axis]
    return [fw.nn.layer_norm(x, g.const(n), g.const(n), axis=axis, epsilon=0.1)]


def residual(g: GraphMaker) -> list[Value]:
    x = g.pick()
    assert x is not None
    y = fw.tanh(x)
    return [fw.add(fw.multiply(y, fw.const(np.float32(0.5))), x)]


STEPS: list[Callable[[GraphMaker], list[Value]]] = [
    unary, unary, binary, binary, conv, conv, dense, pool, shaping, shaping, reducing, normalising, residual
]  # fmt: skip


def random_graph(seed: int, size: int = 10) -> tuple[fw.Function, dict[str, Array]]:
    """A function, and values for its inputs."""
    maker = GraphMaker(seed)
    function = maker.function(size)
    while isinstance(function.body, fw.Var):
        maker.grow()
        function = fw.Function(maker.params, maker.values[-1])
    return function, maker.inputs
