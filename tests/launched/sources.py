"""Kernels of many graphs in one language, put together in few files, to see whether a compiler takes them."""

from collections.abc import Iterator, Sequence

import numpy as np
from attrs import define, field

import fusewire as fw
from fusewire.ops.spec import OpSpec, all_specs
from fusewire.targets.dialects import Dialect
from fusewire.testing import sample_uses
from tests.random_graphs import random_graph

LARGEST = 150_000
"""Characters of one file."""

SPECS = [spec for spec in all_specs() if spec.lowering is not None]
SAMPLE = [
    ("nn.conv2d", "float32"), ("nn.conv2d", "float16"), ("nn.dense", "bfloat16"), ("nn.batch_matmul", "float64"),
    ("nn.softmax", "float32"), ("sort", "int32"), ("cumsum", "float32"), ("scatter_elements", "float32"),
    ("floor_divide", "int8"), ("argmax", "float32"), ("image.resize2d", "float32"), ("exp", "bfloat16"),
    ("erf", "float64"), ("right_shift", "int64"), ("isnan", "float32"), ("where", "uint8"), ("transpose", "bool"),
    ("power", "float32"), ("floor_mod", "uint16"), ("nn.attention", "float32"), ("cast", "float16"),
]  # fmt: skip


@define
class Sources:
    """Files of kernels; each module's lie in a namespace of its own."""

    dialect: Dialect
    files: list[str] = field(factory=list)
    kernels: int = 0
    _count: int = 0

    def add(self, function: fw.Function, target: str) -> None:
        """The kernels of a graph."""
        lib = fw.build(function, target, mod_name=f"m{self._count}")
        for _, text in lib.runnable.code.files:
            assert text.startswith(self.dialect.headers)
            own = text.removeprefix(self.dialect.headers)
            if not self.files or len(self.files[-1]) + len(own) > LARGEST:
                self.files.append(self.dialect.headers)
            self.files[-1] += f"\nnamespace n{self._count} {{\n{own}\n}}\n"
            self.kernels += own.count('extern "C"')
        self._count += 1


def operators(pairs: Sequence[tuple[OpSpec, str]], seed: int, count: int) -> Iterator[fw.Function]:
    """A graph with `count` random uses of each operator on a dtype."""
    for spec, dtype in pairs:
        yield sample_uses(spec, dtype, np.random.default_rng(seed), count)[0]


def sample() -> list[tuple[OpSpec, str]]:
    """Operators of all kinds, on dtypes of all kinds."""
    known = {spec.name: spec for spec in SPECS}
    return [(known[name], dtype) for name, dtype in SAMPLE]


def every() -> list[tuple[OpSpec, str]]:
    """Every operator on every dtype it declares."""
    return [(spec, dtype) for spec in SPECS for dtype in spec.dtypes]


def random_graphs(seeds: Sequence[int]) -> Iterator[fw.Function]:
    """Random graphs."""
    for seed in seeds:
        yield random_graph(seed)[0]


def block() -> fw.Function:
    """The network of the first tutorial, in small: a convolution, batch normalisation and an activation."""
    rng = np.random.default_rng(0)
    data = fw.var("data", shape=(1, 3, 56, 56))
    weight = fw.const(rng.uniform(-1, 1, (16, 3, 3, 3)).astype(np.float32))
    net = fw.nn.conv2d(data, weight, kernel_size=(3, 3), channels=16, padding=(1, 1))
    gamma, beta, mean, var = (fw.const(rng.uniform(0.5, 1.5, 16).astype(np.float32)) for _ in range(4))
    return fw.Function([data], fw.nn.relu(fw.nn.batch_norm(net, gamma, beta, mean, var)[0]))


def layer(tokens: int = 16, width: int = 32, heads: int = 2) -> fw.Function:
    """A layer of a transformer: attention and a feed-forward part, each added to what it read, and normalised."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> fw.Constant:
        return fw.const(rng.uniform(-0.2, 0.2, shape).astype(np.float32))

    def split(value: fw.Expr) -> fw.Expr:
        return fw.transpose(fw.reshape(value, (tokens, heads, width // heads)), (1, 0, 2))

    def normalised(value: fw.Expr) -> fw.Expr:
        return fw.nn.layer_norm(value, weight(width), weight(width))

    x = fw.var("x", shape=(tokens, width))
    query, key, value = (split(fw.nn.dense(x, weight(width, width))) for _ in range(3))
    scores = fw.nn.softmax(fw.nn.batch_matmul(query, key) * fw.const(np.float32(0.25)))
    mixed = fw.nn.batch_matmul(scores, fw.transpose(value, (0, 2, 1)))
    mixed = fw.reshape(fw.transpose(mixed, (1, 0, 2)), (tokens, width))
    y = normalised(x + fw.nn.dense(mixed, weight(width, width)))
    wide = fw.nn.dense(y, weight(4 * width, width))
    inner = wide * fw.const(np.float32(0.5)) * (fw.erf(wide * fw.const(np.float32(0.5**0.5))) + fw.const(np.float32(1)))
    return fw.Function([x], normalised(y + fw.nn.dense(inner, weight(width, 4 * width))))


def residual(channels: int = 16) -> fw.Function:
    """What ResNet-18 and MobileNetV2 are made of: strided, 1x1 and depthwise convolutions, pooling, sums."""
    rng = np.random.default_rng(0)

    def conv(value: fw.Expr, cin: int, cout: int, k: int, stride: int = 1, groups: int = 1) -> fw.Expr:
        weight = fw.const(rng.uniform(-0.2, 0.2, (cout, cin // groups, k, k)).astype(np.float32))
        sizes = {"channels": cout, "kernel_size": (k, k), "strides": (stride, stride), "groups": groups}
        made = fw.nn.conv2d(value, weight, padding=(k // 2, k // 2), **sizes)  # type: ignore[arg-type]
        return fw.nn.bias_add(made, fw.const(rng.uniform(-1, 1, cout).astype(np.float32)))

    x = fw.var("x", shape=(1, 3, 32, 32))
    y = fw.nn.max_pool2d(fw.nn.relu(conv(x, 3, channels, 1, 2)), (3, 3), (2, 2), padding=(1, 1))
    y = fw.nn.relu(y + conv(fw.nn.relu(conv(y, channels, channels, 1)), channels, channels, 3))
    wide = fw.clip(conv(y, channels, 4 * channels, 1), 0.0, 6.0)
    deep = fw.clip(conv(wide, 4 * channels, 4 * channels, 3, 2, 4 * channels), 0.0, 6.0)
    z = conv(deep, 4 * channels, channels, 1) + conv(y, channels, channels, 1, 2)
    flat = fw.nn.batch_flatten(fw.nn.global_avg_pool2d(z))
    return fw.Function([x], fw.nn.softmax(fw.nn.dense(flat, fw.const(np.ones((10, channels), np.float32)))))


def mobile(channels: int = 16) -> fw.Function:
    """NHWC: a convolution, depthwise ones of two window sizes, pooling, a classifier of one picture."""
    rng = np.random.default_rng(0)

    def conv(value: fw.Expr, cin: int, cout: int, k: int, stride: int = 1, groups: int = 1) -> fw.Expr:
        weight = fw.const(rng.uniform(-0.2, 0.2, (k, k, cin // groups, cout)).astype(np.float32))
        made = fw.nn.conv2d(
            value, weight, channels=cout, kernel_size=(k, k), strides=(stride, stride), groups=groups,
            padding=(k // 2, k // 2), data_layout="NHWC", kernel_layout="HWIO",
        )  # fmt: skip
        return fw.clip(fw.add(made, fw.const(rng.uniform(-1, 1, cout).astype(np.float32))), 0.0, 6.0)

    x = fw.var("x", shape=(1, 32, 32, 3))
    y = fw.nn.max_pool2d(conv(x, 3, channels, 3, 2), (3, 3), (1, 1), padding=(1, 1), layout="NHWC")
    y = conv(y, channels, channels, 3, 1, channels)
    y = conv(conv(y, channels, 2 * channels, 1), 2 * channels, 2 * channels, 5, 2, 2 * channels)
    y = fw.nn.avg_pool2d(y, (3, 3), (2, 2), padding=(1, 1), layout="NHWC")
    flat = fw.nn.batch_flatten(fw.nn.global_avg_pool2d(y, layout="NHWC"))
    scores = fw.nn.dense(flat, fw.const(rng.uniform(-1, 1, (10, 2 * channels)).astype(np.float32)))
    return fw.Function([x], fw.nn.softmax(fw.nn.matmul(scores, fw.const(np.eye(10, 12, dtype=np.float32)))))


def networks() -> list[fw.Function]:
    """Small networks of all kinds of layers."""
    return [block(), residual(), layer(), layer(tokens=1), mobile()]
