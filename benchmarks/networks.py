"""The benchmark networks, written as ONNX files with fixed random weights.

    python -m benchmarks.networks FOLDER [NAME ...]

`simple` is the network of tutorial 1; c3_64_56 and the like are single layers, convolution + batch norm + relu, named
after window, channels and side. Needs onnx.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from attrs import define, field
from onnx import TensorProto, helper, numpy_helper


@define
class Network:
    """An ONNX graph under construction; every method appends nodes and returns the name of its result."""

    rng: np.random.Generator = field(factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(factory=list)
    weights: list[onnx.TensorProto] = field(factory=list)

    def weight(self, values: Any) -> str:
        """A constant."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

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

    def model(self, name: str, shape: Sequence[int]) -> onnx.ModelProto:
        """The finished model; its input is called data."""
        values = [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)]
        results = [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, name, values, results, self.weights)
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
    return net.model(name, (1, 3, 224, 224))


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
    return net.model(name, (1, 3, 224, 224))


def layer(cin: int, cout: int, k: int, side: int, stride: int = 1) -> Callable[[str], onnx.ModelProto]:
    """A network of one unit."""

    def make(name: str) -> onnx.ModelProto:
        net = Network()
        net.unit("data", cin, cout, k, stride)
        return net.model(name, (1, cin, side, side))

    return make


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
}


def write(name: str, folder: Path) -> Path:
    """Write one network to `folder`, unless it is there; returns the file."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(NETWORKS[name](name), path)
    return path


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
def main(folder: Path, names: Sequence[str]) -> None:
    """Write the networks named, or all."""
    for name in names or NETWORKS:
        click.echo(write(name, folder))


if __name__ == "__main__":
    main()
