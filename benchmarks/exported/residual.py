"""Plain and residual convolutional classifiers: SqueezeNet, ResNet, DenseNet, Inception."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[], nn.Module]


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    act: Activation | None = nn.ReLU,
    groups: int = 1,
    padding: int | tuple[int, int] | None = None,
    epsilon: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation; padded to keep the size unless told otherwise."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    same = (sides[0] // 2, sides[1] // 2)
    conv = nn.Conv2d(inputs, outputs, sides, stride, same if padding is None else padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, epsilon), *([act()] if act else []))


class Residual(nn.Module):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c', h', w')."""
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet(depths: Sequence[int], bottleneck: bool) -> nn.Module:
    """He et al., Deep residual learning, 2015; with bottlenecks, the stride is in their 3x3 convolution."""
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        outputs = 4 * width if bottleneck else width
        for block in range(depth):
            stride = 2 if stage and not block else 1
            if bottleneck:
                first, last = conv_norm(channels, width), conv_norm(width, outputs, act=None)
                body = nn.Sequential(first, conv_norm(width, width, 3, stride), last)
            else:
                body = nn.Sequential(conv_norm(channels, width, 3, stride), conv_norm(width, width, 3, act=None))
            same = stride == 1 and channels == outputs
            layers.append(Residual(body, nn.Identity() if same else conv_norm(channels, outputs, 1, stride, None)))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class Fire(nn.Module):
    """1x1 and 3x3 convolutions side by side, after a 1x1 convolution to fewer channels."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.narrow, self.wide = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, 2 expanded, h, w)."""
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.narrow(x)), functional.relu(self.wide(x))], 1)


def squeezenet() -> nn.Module:
    """Iandola et al., SqueezeNet, 2016, version 1.1; its pooling rounds sizes up."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(),
        Fire(64, 16, 64), Fire(128, 16, 64), pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), pool(),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Dense(nn.Module):
    """The input with 32 new channels behind it, made by a 1x1 and a 3x3 convolution that normalise first."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c + growth, h, w)."""
        return torch.cat([x, self.body(x)], 1)


def densenet(depths: Sequence[int] = (6, 12, 24, 16), growth: int = 32) -> nn.Module:
    """Huang et al., Densely connected convolutional networks, 2016: DenseNet-121."""
    layers: list[nn.Module] = [conv_norm(3, 2 * growth, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 2 * growth
    for stage, depth in enumerate(depths):
        if stage:
            halved = nn.Conv2d(channels, channels // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), halved, nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(Dense(channels, growth))
            channels += growth
    tail = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return nn.Sequential(*layers, *tail)


class Branches(nn.Module):
    """Several ways side by side, joined along the channels."""

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c', h', w')."""
        return torch.cat([way(x) for way in self.ways], 1)


def _way(inputs: int, *layers: tuple[int, int | tuple[int, int]]) -> nn.Sequential:
    """Convolutions given as (channels, kernel)."""
    made = []
    for outputs, kernel in layers:
        made.append(conv_norm(inputs, outputs, kernel, epsilon=1e-3))
        inputs = outputs
    return nn.Sequential(*made)


def _shrink(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return conv_norm(inputs, outputs, kernel, 2, padding=0, epsilon=1e-3)


def _pooled(inputs: int, outputs: int) -> nn.Sequential:
    """The mean of 3x3 windows, zeros around the image among them, and a 1x1 convolution."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), _way(inputs, (outputs, 1)))


def _split(inputs: int, channels: int) -> nn.Module:
    """1x3 and 3x1 convolutions of the same values."""
    return Branches(_way(inputs, (channels, (1, 3))), _way(inputs, (channels, (3, 1))))


def _factorised(width: int) -> nn.Module:
    """A block of 768 channels whose 7x7 convolutions are pairs of 1x7 and 7x1 ones."""
    row, column = (1, 7), (7, 1)
    return Branches(
        _way(768, (192, 1)),
        _way(768, (width, 1), (width, row), (192, column)),
        _way(768, (width, 1), (width, column), (width, row), (width, column), (192, row)),
        _pooled(768, 192),
    )


def inception() -> nn.Module:
    """Szegedy et al., Rethinking the Inception architecture, 2015: Inception v3, without the auxiliary head."""
    layers: list[nn.Module] = [
        _shrink(3, 32), conv_norm(32, 32, 3, padding=0, epsilon=1e-3), _way(32, (64, 3)), nn.MaxPool2d(3, 2),
        _way(64, (80, 1)), conv_norm(80, 192, 3, padding=0, epsilon=1e-3), nn.MaxPool2d(3, 2),
    ]  # fmt: skip
    for channels, pooled in ((192, 32), (256, 64), (288, 64)):
        wide, wider = _way(channels, (48, 1), (64, 5)), _way(channels, (64, 1), (96, 3), (96, 3))
        layers.append(Branches(_way(channels, (64, 1)), wide, wider, _pooled(channels, pooled)))
    double = nn.Sequential(_way(288, (64, 1), (96, 3)), _shrink(96, 96))
    layers.append(Branches(_shrink(288, 384), double, nn.MaxPool2d(3, 2)))
    layers += [_factorised(width) for width in (128, 160, 160, 192)]
    short = nn.Sequential(_way(768, (192, 1)), _shrink(192, 320))
    long = nn.Sequential(_way(768, (192, 1), (192, (1, 7)), (192, (7, 1))), _shrink(192, 192))
    layers.append(Branches(short, long, nn.MaxPool2d(3, 2)))
    for channels in (1280, 2048):
        one = nn.Sequential(_way(channels, (384, 1)), _split(384, 384))
        two = nn.Sequential(_way(channels, (448, 1), (384, 3)), _split(384, 384))
        layers.append(Branches(_way(channels, (320, 1)), one, two, _pooled(channels, 192)))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(2048, 1000))
