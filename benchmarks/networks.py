"""The benchmark networks, written as ONNX files with fixed random weights.

    python -m benchmarks.networks FOLDER [NAME ...]

`simple` is the network of tutorial 1; c3_64_56 and the like are single layers, convolution + batch norm + relu, named
after window, channels and side; `bert` is BERT-base over 128 tokens, `gpt2_step` one new token of GPT-2 small behind
127 others. Needs onnx.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from attrs import define, field
from onnx import TensorProto, helper, numpy_helper

Shapes = Mapping[str, Sequence[int]]


@define
class Network:
    """An ONNX graph under construction; every method appends nodes and returns the name of its result."""

    rng: np.random.Generator = field(factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(factory=list)
    weights: list[onnx.TensorProto] = field(factory=list)

    def weight(self, values: Any) -> str:
        """A constant."""
        return self.constant(np.asarray(values, np.float32))

    def constant(self, values: Any) -> str:
        """A constant of the dtype that it has: int64 for shapes and positions."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def random(self, *shape: int, scale: float = 0.02) -> str:
        """A weight drawn from a normal distribution."""
        return self.weight(self.rng.standard_normal(shape, np.float32) * np.float32(scale))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One operator."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}_{name}", **attributes))
        return name

    def unit(self, x: str, cin: int, cout: int, k: int, stride: int = 1, groups: int = 1, act: str = "Relu") -> str:
        """Convolution, batch norm, and an activation unless `act` is empty."""
        scale = np.sqrt(2 / (cin // groups * k * k))
        weight = self.weight(self.rng.standard_normal((cout, cin // groups, k, k)) * scale)
        window: dict[str, Any] = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [k // 2] * 4}
        x = self.node("Conv", x, weight, group=groups, **window)
        ranges = ((0.5, 1.5), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5))  # scale, shift, mean, variance
        statistics = [self.weight(self.rng.uniform(low, high, cout)) for low, high in ranges]
        x = self.node("BatchNormalization", x, *statistics)
        if act == "Clip":
            return self.node("Clip", x, self.weight(0.0), self.weight(6.0))
        return self.node(act, x) if act else x

    def head(self, x: str, channels: int) -> str:
        """Global average pool and a classifier of 1000 classes."""
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        matrix = self.weight(self.rng.standard_normal((1000, channels)) * 0.02)
        return self.node("Gemm", x, matrix, self.weight(np.zeros(1000)), transB=1)

    def linear(self, x: str, inner: int, units: int) -> str:
        """A matrix product with a bias."""
        return self.node("Add", self.node("MatMul", x, self.random(inner, units)), self.random(units))

    def layer_norm(self, x: str, size: int) -> str:
        """LayerNormalization over the last axis."""
        scale, shift = self.weight(self.rng.uniform(0.5, 1.5, size)), self.random(size)
        return self.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)

    def gelu(self, x: str, exact: bool) -> str:
        """Gelu with erf, or GPT-2's approximation with tanh."""
        if exact:
            inner = self.node("Erf", self.node("Div", x, self.weight(np.sqrt(2))))
        else:
            cubed = self.node("Mul", self.weight(0.044715), self.node("Pow", x, self.weight(3)))
            inner = self.node("Tanh", self.node("Mul", self.weight(np.sqrt(2 / np.pi)), self.node("Add", x, cubed)))
        raised = self.node("Add", inner, self.weight(1))
        return self.node("Mul", self.node("Mul", x, raised), self.weight(0.5))

    def heads(self, x: str, tokens: int, order: Sequence[int] = (0, 2, 1, 3)) -> str:
        """(1, tokens, 768) taken apart into 12 heads of 64 and transposed."""
        return self.node("Transpose", self.node("Reshape", x, self.constant([1, tokens, 12, 64])), perm=list(order))

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts of the last axis."""
        names = [f"t{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], names, name=f"Split_{names[0]}", axis=-1))
        return names

    def attend(self, query: str, key: str, value: str, tokens: int, mask: str = "") -> str:
        """Attention over 12 heads; `key` is (1, 12, 64, length), the others are (1, 12, length, 64)."""
        scores = self.node("Div", self.node("MatMul", query, key), self.weight(8))
        scores = self.node("Add", scores, mask) if mask else scores
        result = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        result = self.node("Transpose", result, perm=[0, 2, 1, 3])
        return self.node("Reshape", result, self.constant([1, tokens, 768]))

    def model(
        self, name: str, floats: Shapes, ints: Shapes | None = None, results: Sequence[str] = ()
    ) -> onnx.ModelProto:
        """The finished model with inputs of these names and shapes; its result is the last node's unless named."""
        kinds = ((TensorProto.INT64, ints or {}), (TensorProto.FLOAT, floats))
        values = [helper.make_tensor_value_info(n, kind, s) for kind, given in kinds for n, s in given.items()]
        names = results or (self.nodes[-1].output[0],)
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
        graph = helper.make_graph(self.nodes, name, values, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model


def resnet(name: str, repeats: Sequence[int], bottleneck: bool) -> onnx.ModelProto:
    """ResNet (He et al. 2015); the stride stands at the 3x3 convolution."""
    net = Network()
    x = net.node("MaxPool", net.unit("data", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    cin = 64
    for stage, count in enumerate(repeats):
        width = 64 << stage
        cout = width * 4 if bottleneck else width
        for stride in [1 if stage == 0 else 2] + [1] * (count - 1):
            if bottleneck:
                y = net.unit(net.unit(x, cin, width, 1), width, width, 3, stride)
                y = net.unit(y, width, cout, 1, act="")
            else:
                y = net.unit(net.unit(x, cin, width, 3, stride), width, cout, 3, act="")
            if stride != 1 or cin != cout:
                x = net.unit(x, cin, cout, 1, stride, act="")
            x, cin = net.node("Relu", net.node("Add", y, x)), cout
    net.head(x, cin)
    return net.model(name, {"data": (1, 3, 224, 224)})


def mobilenetv2(name: str) -> onnx.ModelProto:
    """MobileNetV2 1.0 (Sandler et al. 2018)."""
    net = Network()
    x, cin = net.unit("data", 3, 32, 3, 2, act="Clip"), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, cout, count, first in stages:
        for stride in [first] + [1] * (count - 1):
            hidden = cin * expand
            y = net.unit(x, cin, hidden, 1, act="Clip") if expand > 1 else x
            y = net.unit(y, hidden, hidden, 3, stride, groups=hidden, act="Clip")
            y = net.unit(y, hidden, cout, 1, act="")
            x, cin = (net.node("Add", x, y) if stride == 1 and cin == cout else y), cout
    net.head(net.unit(x, cin, 1280, 1, act="Clip"), 1280)
    return net.model(name, {"data": (1, 3, 224, 224)})


def layer(cin: int, cout: int, k: int, side: int, stride: int = 1) -> Callable[[str], onnx.ModelProto]:
    """A network of one unit."""

    def make(name: str) -> onnx.ModelProto:
        net = Network()
        net.unit("data", cin, cout, k, stride)
        return net.model(name, {"data": (1, cin, side, side)})

    return make


def bert(name: str) -> onnx.ModelProto:
    """BERT-base (Devlin et al. 2018): embeddings and 12 layers over 128 tokens, with a mask of tokens to attend to."""
    net, tokens = Network(), 128
    words = net.node("Gather", net.random(30522, 768), "input_ids")
    kinds = net.node("Gather", net.random(2, 768), "token_type_ids")
    x = net.layer_norm(net.node("Add", net.node("Add", words, kinds), net.random(1, tokens, 768)), 768)
    mask = net.node("Cast", net.node("Unsqueeze", "attention_mask", net.constant([1, 2])), to=TensorProto.FLOAT)
    mask = net.node("Mul", net.node("Sub", net.weight(1), mask), net.weight(-10000))
    for _ in range(12):
        query, value = (net.heads(net.linear(x, 768, 768), tokens) for _ in range(2))
        key = net.heads(net.linear(x, 768, 768), tokens, (0, 2, 3, 1))
        y = net.linear(net.attend(query, key, value, tokens, mask), 768, 768)
        x = net.layer_norm(net.node("Add", y, x), 768)
        y = net.linear(net.gelu(net.linear(x, 768, 3072), exact=True), 3072, 768)
        x = net.layer_norm(net.node("Add", y, x), 768)
    return net.model(name, {}, dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, tokens)))


def gpt2_step(name: str) -> onnx.ModelProto:
    """GPT-2 small (Radford et al. 2019): the 128th token, with the keys and values of 127; logits, new keys and values.

    The table of words is the matrix of the last layer, too.
    """
    net, past = Network(), 127
    words, cache, results = net.random(50257, 768), {}, []
    x = net.node("Add", net.node("Gather", words, "input_ids"), net.random(1, 1, 768))
    for number in range(12):
        y = net.linear(net.layer_norm(x, 768), 768, 3 * 768)
        query, key, value = (net.heads(part, 1) for part in net.split(y, 3))
        for kind, new in (("key", key), ("value", value)):
            cache[f"past_{kind}_{number}"] = (1, 12, past, 64)
            results.append(net.node("Concat", f"past_{kind}_{number}", new, axis=2))
        key = net.node("Transpose", results[-2], perm=[0, 1, 3, 2])
        x = net.node("Add", x, net.linear(net.attend(query, key, results[-1], 1), 768, 768))
        y = net.gelu(net.linear(net.layer_norm(x, 768), 768, 3072), exact=False)
        x = net.node("Add", x, net.linear(y, 3072, 768))
    last = net.node("Reshape", net.layer_norm(x, 768), net.constant([1, 768]))
    logits = net.node("Gemm", last, words, transB=1)
    return net.model(name, cache, {"input_ids": (1, 1)}, [logits, *results])


NETWORKS: dict[str, Callable[[str], onnx.ModelProto]] = {
    "simple": layer(3, 16, 3, 224),
    "c7s2": layer(3, 64, 7, 224, 2),
    "c3_64_56": layer(64, 64, 3, 56),
    "c3_128_28": layer(128, 128, 3, 28),
    "c3_256_14": layer(256, 256, 3, 14),
    "c3_512_7": layer(512, 512, 3, 7),
    "c1_256_64_56": layer(256, 64, 1, 56),
    "c1_1024_256_14": layer(1024, 256, 1, 14),
    "resnet18": lambda name: resnet(name, (2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda name: resnet(name, (3, 4, 6, 3), bottleneck=True),
    "mobilenetv2": mobilenetv2,
    "bert": bert,
    "gpt2_step": gpt2_step,
}


def write(name: str, folder: Path) -> Path:
    """Write one network to `folder`, unless it is there; returns the file."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(NETWORKS[name](name), path)
    return path


LAYERS = tuple(name for name in NETWORKS if name == "simple" or re.match(r"c\d", name))
"""The networks of a single layer."""


def files_of(names: Sequence[str], folder: Path) -> list[Path]:
    """The files of networks, written to `folder` if need be; a name that is no network's is a file already.

    Raises:
        BadParameter: there is no such file.
    """
    files = [write(name, folder) if name in NETWORKS else Path(name) for name in names]
    for file in files:
        if not file.is_file():
            known = ", ".join(NETWORKS)
            raise click.BadParameter(f"{file} is neither a file nor one of {known}", param_hint="MODEL")
    return [file.resolve() for file in files]


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
def main(folder: Path, names: Sequence[str]) -> None:
    """Write the networks named, or all."""
    for name in names or NETWORKS:
        click.echo(write(name, folder))


if __name__ == "__main__":
    main()
