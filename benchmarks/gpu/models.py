"""The networks, made with fusewire's functions, so that nothing else has to be installed; weights are drawn from seeds.

What PyTorch has one function for is marked in `Model.whole`, so that its twin (twin.py) calls that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

import fusewire as fw
from fusewire.ir.types import TensorType, numpy_dtype

from ..streaming import KERNELS

Array = npt.NDArray[Any]


@frozen(eq=False)
class Model:
    """A network, its weights and its inputs.

    Attributes:
        function: parameters are inputs and weights.
        params: weights by name.
        inputs: by name.
        whole: subgraphs that are one function elsewhere: by the id of the result, the function's name and its argument.
        last: whether the channels of the result lie last, not second.
    """

    function: fw.Function
    params: Mapping[str, Array]
    inputs: Mapping[str, Array]
    whole: Mapping[int, tuple[str, fw.Expr]] = field(factory=dict)
    last: bool = False


@define
class Net:
    """A network under construction.

    Attributes:
        dtype: of weights and of inputs that are no indices.
        last: whether the channels of images and windows (arrays of four dimensions) lie last: NHWC and OHWI, with the
            same values as NCHW and OIHW otherwise.
    """

    dtype: str = "float32"
    last: bool = False

    rng: np.random.Generator = field(factory=lambda: np.random.default_rng(0))
    variables: list[fw.Var] = field(factory=list)
    params: dict[str, Array] = field(factory=dict)
    inputs: dict[str, Array] = field(factory=dict)
    whole: dict[int, tuple[str, fw.Expr]] = field(factory=dict)

    def input(self, name: str, shape: Sequence[int], below: int = 0) -> fw.Var:
        """An input: normal floats, or int64 below a number. The shape has channels second."""
        draw = self.rng.integers(0, below, shape) if below else self._kept(self.rng.standard_normal(shape, np.float32))
        self.inputs[name] = np.asarray(draw)
        return self._variable(name, self.inputs[name])

    def weight(self, values: Any) -> fw.Var:
        """A weight; windows have channels second."""
        name = f"w{len(self.params)}"
        self.params[name] = self._kept(np.asarray(values, np.float32))
        return self._variable(name, self.params[name])

    def _kept(self, array: Array) -> Array:
        """An array of floats as the network has it."""
        turned = np.moveaxis(array, 1, -1) if self.last and array.ndim == 4 else array
        return np.ascontiguousarray(turned, numpy_dtype(self.dtype))

    def _variable(self, name: str, array: Array) -> fw.Var:
        self.variables.append(fw.var(name, shape=array.shape, dtype=array.dtype.name))
        return self.variables[-1]

    def random(self, *shape: int, scale: float = 0.02) -> fw.Var:
        """A weight drawn from a normal distribution."""
        return self.weight(self.rng.standard_normal(shape, np.float32) * np.float32(scale))

    def unit(self, x: fw.Expr, cin: int, cout: int, k: int, stride: int = 1, act: bool = True) -> fw.Expr:
        """Convolution, batch norm, and perhaps a ReLU."""
        weight = self.random(cout, cin, k, k, scale=float(np.sqrt(2 / (cin * k * k))))
        data, kernel = ("NHWC", "OHWI") if self.last else ("NCHW", "OIHW")
        x = fw.nn.conv2d(
            x, weight, strides=stride, padding=k // 2, channels=cout, kernel_size=(k, k), data_layout=data,
            kernel_layout=kernel,
        )  # fmt: skip
        ranges = ((0.5, 1.5), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5))  # scale, shift, mean, variance
        gamma, beta, mean, var = (self.weight(self.rng.uniform(low, high, cout)) for low, high in ranges)
        x = fw.nn.batch_norm(x, gamma, beta, mean, var, axis=3 if self.last else 1)[0]
        return fw.nn.relu(x) if act else x

    def linear(self, x: fw.Expr, inner: int, units: int) -> fw.Expr:
        """A fully connected layer with a bias."""
        return fw.nn.dense(x, self.random(units, inner)) + self.random(units)

    def layer_norm(self, x: fw.Expr, size: int) -> fw.Expr:
        """LayerNormalization over the last axis."""
        return fw.nn.layer_norm(x, self.weight(self.rng.uniform(0.5, 1.5, size)), self.random(size))

    def gelu(self, x: fw.Expr, exact: bool) -> fw.Expr:
        """Gelu with erf, or GPT-2's approximation with tanh."""
        if exact:
            inner = fw.erf(x * fw.const(np.float32(np.sqrt(0.5))))
        else:
            inner = fw.tanh((x + x * x * x * fw.const(np.float32(0.044715))) * fw.const(np.float32(np.sqrt(2 / np.pi))))
        result = x * (inner + fw.const(np.float32(1))) * fw.const(np.float32(0.5))
        self.whole[id(result)] = ("gelu" if exact else "gelu_tanh", x)
        return result

    def heads(self, x: fw.Expr, batch: int, tokens: int, heads: int) -> fw.Expr:
        """(batch, tokens, heads * 64) as (batch, heads, tokens, 64)."""
        return fw.transpose(fw.reshape(x, (batch, tokens, heads, 64)), (0, 2, 1, 3))

    def joined(self, x: fw.Expr, batch: int, tokens: int, heads: int) -> fw.Expr:
        """The inverse of `heads`."""
        return fw.reshape(fw.transpose(x, (0, 2, 1, 3)), (batch, tokens, heads * 64))

    def model(self, *results: fw.Expr) -> Model:
        """The finished network."""
        body = results[0] if len(results) == 1 else fw.Tuple(results)
        return Model(fw.Function(self.variables, body), self.params, self.inputs, self.whole, self.last)


def layer(batch: int, cin: int, cout: int, k: int, side: int) -> Model:
    """Convolution, batch norm and ReLU."""
    return _layer(Net(), batch, cin, cout, k, side)


def layer_in_16_bits(batch: int, cin: int, cout: int, k: int, side: int) -> Model:
    """The same layer with weights and input rounded to bfloat16, and channels last.

    So cuDNN takes it: in 16 bits its graphs may have no plans for channels second. Their sums are float32; an out_dtype
    of float32 they refuse.
    """
    return _layer(Net(dtype="bfloat16", last=True), batch, cin, cout, k, side)


def _layer(net: Net, batch: int, cin: int, cout: int, k: int, side: int) -> Model:
    return net.model(net.unit(net.input("data", (batch, cin, side, side)), cin, cout, k))


def resnet(batch: int, repeats: Sequence[int], side: int = 224, width: int = 64) -> Model:
    """ResNet with bottlenecks (He et al. 2015); the stride stands at the 3x3 convolution."""
    net = Net()
    x = net.unit(net.input("data", (batch, 3, side, side)), 3, width, 7, 2)
    x, cin = fw.nn.max_pool2d(x, pool_size=(3, 3), strides=(2, 2), padding=(1, 1)), width
    for stage, count in enumerate(repeats):
        inner = width << stage
        for stride in [1 if stage == 0 else 2] + [1] * (count - 1):
            y = net.unit(net.unit(x, cin, inner, 1), inner, inner, 3, stride)
            y = net.unit(y, inner, inner * 4, 1, act=False)
            if stride != 1 or cin != inner * 4:
                x = net.unit(x, cin, inner * 4, 1, stride, act=False)
            x, cin = fw.nn.relu(y + x), inner * 4
    return net.model(net.linear(fw.nn.batch_flatten(fw.nn.global_avg_pool2d(x)), cin, 1000))


def bert(batch: int, layers: int = 12, heads: int = 12, tokens: int = 128, words: int = 30522) -> Model:
    """BERT-base (Devlin et al. 2018) over 128 tokens: embeddings and layers, no mask."""
    net, size = Net(), heads * 64
    ids = net.input("input_ids", (batch, tokens), words)
    x = fw.take(net.random(words, size), ids, axis=0) + net.random(1, tokens, size)
    x = net.layer_norm(x, size)
    for _ in range(layers):
        query, key, value = (net.heads(net.linear(x, size, size), batch, tokens, heads) for _ in range(3))
        y = net.joined(fw.nn.attention(query, key, value, scale=0.125), batch, tokens, heads)
        x = net.layer_norm(net.linear(y, size, size) + x, size)
        y = net.linear(net.gelu(net.linear(x, size, 4 * size), exact=True), 4 * size, size)
        x = net.layer_norm(y + x, size)
    return net.model(x)


def gpt2_step(batch: int, layers: int = 12, heads: int = 12, past: int = 127, words: int = 50257) -> Model:
    """GPT-2 small (Radford et al. 2019): one token behind 127 others; logits, and the keys and values of all."""
    net, size = Net(), heads * 64
    table = net.random(words, size)
    x = fw.take(table, net.input("input_ids", (batch, 1), words), axis=0) + net.random(1, 1, size)
    kept: list[fw.Expr] = []
    for number in range(layers):
        y = net.layer_norm(x, size)
        query, *new = (net.heads(net.linear(y, size, size), batch, 1, heads) for _ in range(3))
        for kind, part in zip(("key", "value"), new, strict=True):
            cache = net.input(f"past_{kind}_{number}", (batch, heads, past, 64))
            kept.append(fw.concatenate([cache, part], axis=2))
        y = net.joined(fw.nn.attention(query, kept[-2], kept[-1], scale=0.125), batch, 1, heads)
        x = x + net.linear(y, size, size)
        y = net.gelu(net.linear(net.layer_norm(x, size), size, 4 * size), exact=False)
        x = x + net.linear(y, 4 * size, size)
    last = fw.reshape(net.layer_norm(x, size), (batch, size))
    return net.model(fw.nn.dense(last, table), *kept)


def product(size: int, dtype: str) -> Model:
    """The product of two square matrices that are both inputs."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.random((size, size), np.float32) - np.float32(0.5) for name in "ab"}
    a, b = (fw.var(name, shape=(size, size), dtype=dtype) for name in "ab")
    kept = {name: array.astype(numpy_dtype(dtype)) for name, array in arrays.items()}
    return Model(fw.Function([a, b], fw.nn.matmul(a, b)), {}, kept)


def kernel(name: str, elements: int) -> Model:
    """A kernel of benchmarks.streaming over so many elements."""
    body = KERNELS[name](elements)
    variables = fw.analysis.free_vars(body)
    rng = np.random.default_rng(0)
    block = rng.standard_normal(1 << 16, np.float32)
    inputs = {}
    for variable in variables:
        type_ = variable.checked_type
        assert isinstance(type_, TensorType)
        inputs[variable.name_hint] = np.resize(block * 8, type_.static_shape).astype(numpy_dtype(type_.dtype))
    return Model(fw.Function(variables, body), {}, inputs)


LAYERS: Mapping[str, tuple[int, ...]] = {
    "simple": (3, 16, 3, 224),
    "c3_64_56": (64, 64, 3, 56),
    "c3_128_28": (128, 128, 3, 28),
    "c3_256_14": (256, 256, 3, 14),
    "c3_512_7": (512, 512, 3, 7),
}
"""Input channels, output channels, window, side: the tutorial's network, and the 3x3 layers of ResNet."""

NETWORKS: Mapping[str, Callable[[int], Model]] = {
    "resnet50": lambda batch: resnet(batch, (3, 4, 6, 3)),
    "bert": bert,
    "gpt2_step": gpt2_step,
}
SMALL: Mapping[str, Callable[[int], Model]] = {
    "resnet50": lambda batch: resnet(batch, (1, 1), 32, 16),
    "bert": lambda batch: bert(batch, 1, 2, 16, 50),
    "gpt2_step": lambda batch: gpt2_step(batch, 1, 2, 7, 50),
}
"""The same networks with few and small layers, to try the command itself."""
