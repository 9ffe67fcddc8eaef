"""Classifiers made of depthwise convolutions: MobileNet, EfficientNet, ShuffleNet."""

import torch
from torch import Tensor, nn

from .residual import Activation, conv_norm


def rounded(channels: float, step: int = 8) -> int:
    """The nearest multiple of `step`, not more than a tenth below."""
    nearest = max(step, int(channels + step / 2) // step * step)
    return nearest + step if nearest < 0.9 * channels else nearest


class Excitation(nn.Module):
    """Channels scaled by a function of all channel means (Hu et al., Squeeze-and-excitation networks, 2017)."""

    def __init__(self, channels: int, squeezed: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), act(), nn.Conv2d(squeezed, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same shape."""
        gated: Tensor = x * self.scale(x)
        return gated


class Inverted(nn.Module):
    """Channels widened, convolved each for itself, narrowed without activation; the input added where it fits."""

    def __init__(
        self, inputs: int, wide: int, outputs: int, kernel: int, stride: int, act: Activation,
        excitation: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        layers = [conv_norm(inputs, wide, act=act)] if wide != inputs else []
        layers.append(conv_norm(wide, wide, kernel, stride, act, groups=wide))
        if excitation is not None:
            layers.append(nn.Sequential(excitation))
        self.body = nn.Sequential(*layers, conv_norm(wide, outputs, act=None))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c', h', w')."""
        done: Tensor = self.body(x)
        return x + done if self.adds else done


def _head(features: int, *layers: nn.Module) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers, nn.Linear(features, 1000)]


def mobilenet_v2() -> nn.Module:
    """Sandler et al., MobileNetV2, 2018."""
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, nn.ReLU6)]
    channels = 32
    for expand, outputs, depth, stride in table:
        for k in range(depth):
            step = 1 if k else stride
            layers.append(Inverted(channels, expand * channels, outputs, 3, step, nn.ReLU6))
            channels = outputs
    return nn.Sequential(*layers, conv_norm(320, 1280, act=nn.ReLU6), *_head(1280, nn.Dropout(0.2)))


V3_LARGE = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)  # fmt: skip
"""Kernel, wide channels, output channels, excitation, hard swish (else ReLU), stride: table 1 of the paper."""

V3_SMALL = (
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2), (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)  # fmt: skip
"""The same for the small network: table 2."""


def mobilenet_v3(large: bool) -> nn.Module:
    """Howard et al., Searching for MobileNetV3, 2019."""
    layers: list[nn.Module] = [conv_norm(3, 16, 3, 2, nn.Hardswish)]
    channels = 16
    for kernel, wide, outputs, excited, hard, stride in V3_LARGE if large else V3_SMALL:
        act: Activation = nn.Hardswish if hard else nn.ReLU
        gate = Excitation(wide, rounded(wide / 4), nn.ReLU, nn.Hardsigmoid) if excited else None
        layers.append(Inverted(channels, wide, outputs, kernel, stride, act, gate))
        channels = outputs
    hidden = 1280 if large else 1024
    tail = _head(hidden, nn.Linear(6 * channels, hidden), nn.Hardswish(), nn.Dropout(0.2))
    return nn.Sequential(*layers, conv_norm(channels, 6 * channels, act=nn.Hardswish), *tail)


def efficientnet_b0() -> nn.Module:
    """Tan and Le, EfficientNet, 2019."""
    table = (
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, nn.SiLU)]
    channels = 32
    for expand, kernel, outputs, depth, stride in table:
        for k in range(depth):
            wide = expand * channels
            gate = Excitation(wide, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
            layers.append(Inverted(channels, wide, outputs, kernel, 1 if k else stride, nn.SiLU, gate))
            channels = outputs
    return nn.Sequential(*layers, conv_norm(320, 1280, act=nn.SiLU), *_head(1280, nn.Dropout(0.2)))


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    """Channels of all groups interleaved."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shuffle(nn.Module):
    """Half of the channels convolved, the other half passed on (or both made smaller), then shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        taken = inputs if stride > 1 else half

        def depthwise(channels: int) -> nn.Module:
            return conv_norm(channels, channels, 3, stride, None, channels)

        self.left = nn.Sequential(depthwise(inputs), conv_norm(inputs, half)) if stride > 1 else None
        self.right = nn.Sequential(conv_norm(taken, half), depthwise(half), conv_norm(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c', h', w')."""
        if self.left is not None:
            return shuffled(torch.cat([self.left(x), self.right(x)], 1))
        kept, taken = x.chunk(2, 1)
        return shuffled(torch.cat([kept, self.right(taken)], 1))


def shufflenet_v2() -> nn.Module:
    """Ma et al., ShuffleNet V2, 2018, width 1.0."""
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for outputs, depth in ((116, 4), (232, 8), (464, 4)):
        for k in range(depth):
            layers.append(Shuffle(channels, outputs, 1 if k else 2))
            channels = outputs
    return nn.Sequential(*layers, conv_norm(464, 1024), *_head(1024))
