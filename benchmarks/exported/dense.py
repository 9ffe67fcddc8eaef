"""Networks with a result for every place of an image: U-Net, and a detector in the manner of YOLO."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .residual import Residual, conv_norm


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_norm(inputs, outputs, 3), conv_norm(outputs, outputs, 3))


class UNet(nn.Module):
    """Ronneberger et al., U-Net, 2015, with padded convolutions; grows by transposed convolution or by interpolation.

    Where a side cannot be halved, what comes back from below is padded to the size of what it is joined with.
    """

    def __init__(self, classes: int = 2, width: int = 64, bilinear: bool = False) -> None:
        super().__init__()
        widths = [width << k for k in range(5)]
        self.first = _pair(3, width)
        self.down = nn.ModuleList(_pair(a, b) for a, b in pairwise(widths))
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList(_pair(2 * a, a) for a in reversed(widths[:-1]))
        for a in reversed(widths[:-1]):
            if bilinear:
                grown = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
                self.grow.append(nn.Sequential(grown, nn.Conv2d(2 * a, a, 1)))
            else:
                self.grow.append(nn.ConvTranspose2d(2 * a, a, 2, 2))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, classes, h, w)."""
        x = self.first(images)
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(functional.max_pool2d(x, 2))
        for grow, up in zip(self.grow, self.up, strict=True):
            beside = kept.pop()
            x = grow(x)
            dy, dx = beside.shape[2] - x.shape[2], beside.shape[3] - x.shape[3]
            x = functional.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = up(torch.cat([beside, x], 1))
        done: Tensor = self.out(x)
        return done


class Split(nn.Module):
    """Half of the channels through residual blocks in a row, the results of all of them joined (C2f)."""

    def __init__(self, inputs: int, outputs: int, depth: int, adds: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = conv_norm(inputs, outputs, act=nn.SiLU)
        self.blocks = nn.ModuleList(_Bottleneck(half, adds) for _ in range(depth))
        self.leave = conv_norm((2 + depth) * half, outputs, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c', h, w)."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        done: Tensor = self.leave(torch.cat(parts, 1))
        return done


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, adds: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(*(conv_norm(channels, channels, 3, act=nn.SiLU) for _ in range(2)))
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.body(x)
        return x + done if self.adds else done


class Pyramid(nn.Module):
    """Maxima of windows of growing size, joined (SPPF: each pooling takes what the last one gave)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = conv_norm(channels, channels // 2, act=nn.SiLU)
        self.leave = conv_norm(2 * channels, channels, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same shape."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        done: Tensor = self.leave(torch.cat(parts, 1))
        return done


BINS = 16
"""Distances from a cell to a side of its box are given as probabilities of 0 .. BINS - 1."""


class Detector(nn.Module):
    """A detector without anchors: C2f blocks, features passed down and up again (PAN), boxes from distances.

    Redmon et al., You only look once, 2015; Liu et al., Path aggregation network, 2018; Li et al., Generalized focal
    loss, 2020; widths and depths of the smallest YOLOv8.

    Args:
        classes: how many there are.
        best: give this many best boxes with scores and classes, instead of all boxes.
    """

    def __init__(self, classes: int = 80, best: int = 0) -> None:
        super().__init__()
        self.classes, self.best = classes, best
        c = [16, 32, 64, 128, 256]

        def down(k: int) -> nn.Module:
            return conv_norm(c[k], c[k + 1], 3, 2, nn.SiLU)

        self.stem = nn.Sequential(conv_norm(3, c[0], 3, 2, nn.SiLU), down(0), Split(c[1], c[1], 1, True))
        self.small = nn.Sequential(down(1), Split(c[2], c[2], 2, True))
        self.middle = nn.Sequential(down(2), Split(c[3], c[3], 2, True))
        self.large = nn.Sequential(down(3), Split(c[4], c[4], 1, True), Pyramid(c[4]))
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.to_middle, self.to_small = Split(c[4] + c[3], c[3], 1, False), Split(c[3] + c[2], c[2], 1, False)
        self.shrink = nn.ModuleList(conv_norm(k, k, 3, 2, nn.SiLU) for k in c[2:4])
        self.back = nn.ModuleList([Split(c[2] + c[3], c[3], 1, False), Split(c[3] + c[4], c[4], 1, False)])
        self.boxes = nn.ModuleList(_head(k, 64, 4 * BINS) for k in c[2:])
        self.scores = nn.ModuleList(_head(k, 80, classes, rare=6.0) for k in c[2:])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features at an eighth, a sixteenth and a thirty-second of the size."""
        small = self.small(self.stem(images))
        middle = self.middle(small)
        large = self.large(middle)
        middle = self.to_middle(torch.cat([self.grow(large), middle], 1))
        small = self.to_small(torch.cat([self.grow(middle), small], 1))
        middle = self.back[0](torch.cat([self.shrink[0](small), middle], 1))
        return [small, middle, self.back[1](torch.cat([self.shrink[1](middle), large], 1))]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """(n, 3, h, w) to (n, 4 + classes, cells): centres, sizes, and a probability for each class.

        With `best`: corners (n, best, 4), scores (n, best) and classes (n, best).
        """
        features = self.features(images)
        distances = torch.cat([head(x).flatten(2) for head, x in zip(self.boxes, features, strict=True)], 2)
        scores = torch.cat([head(x).flatten(2) for head, x in zip(self.scores, features, strict=True)], 2).sigmoid()
        centres, strides = _grid(features, images.shape[2])
        n, _, cells = distances.shape
        chances = distances.view(n, 4, BINS, cells).transpose(1, 2).softmax(1)
        expected = (chances * torch.arange(BINS, dtype=images.dtype).view(1, BINS, 1, 1)).sum(1)
        before, behind = expected.chunk(2, 1)
        low, high = centres - before, centres + behind
        if not self.best:
            return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * strides, scores], 1)
        top, kind = scores.max(1)
        found, cell = top.topk(self.best, 1)
        corners = (torch.cat([low, high], 1) * strides).transpose(1, 2)
        chosen = corners.gather(1, cell[..., None].expand(-1, -1, 4))
        return chosen, found, kind.gather(1, cell)


def _head(inputs: int, width: int, outputs: int, rare: float = 0.0) -> nn.Module:
    """Three convolutions; `rare` is taken from the result, so that few probabilities made of it are near 1."""
    first, second = conv_norm(inputs, width, 3, act=nn.SiLU), conv_norm(width, width, 3, act=nn.SiLU)
    last = nn.Conv2d(width, outputs, 1)
    assert last.bias is not None
    nn.init.constant_(last.bias, -rare)
    return nn.Sequential(first, second, last)


def _grid(features: Sequence[Tensor], side: int) -> tuple[Tensor, Tensor]:
    """Centres of all cells (2, cells) in units of the cell's size, and these sizes (1, cells) in pixels."""
    centres, strides = [], []
    for x in features:
        h, w = x.shape[2:]
        y, z = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        centres.append(torch.stack([z, y]).flatten(1).to(x.dtype))
        strides.append(torch.full((1, h * w), side / h, dtype=x.dtype))
    return torch.cat(centres, 1), torch.cat(strides, 1)


class AnchorDetector(nn.Module):
    """The older way, with anchors: each cell moves and scales three boxes of given size (YOLOv3 to v5).

    A backbone of residual blocks (Redmon and Farhadi, YOLOv3, 2018, with fewer channels) and two levels of heads.
    """

    ANCHORS = (((10.0, 14.0), (23.0, 27.0), (37.0, 58.0)), ((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)))

    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        self.values = 5 + classes

        def leaky() -> nn.Module:
            return nn.LeakyReLU(0.1)

        def stage(inputs: int, outputs: int) -> nn.Module:
            body = nn.Sequential(conv_norm(outputs, outputs // 2, act=leaky), conv_norm(outputs // 2, outputs, 3))
            return nn.Sequential(conv_norm(inputs, outputs, 3, 2, leaky), Residual(body, nn.Identity()))

        self.fine = nn.Sequential(stage(3, 16), stage(16, 32), stage(32, 64), stage(64, 128))
        self.coarse = stage(128, 256)
        self.down = conv_norm(256, 128, act=leaky)
        self.heads = nn.ModuleList([nn.Conv2d(256, 3 * self.values, 1), nn.Conv2d(256, 3 * self.values, 1)])

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, boxes, 5 + classes): centre, size, certainty, classes."""
        fine = self.fine(images)
        coarse = self.coarse(fine)
        grown = functional.interpolate(self.down(coarse), scale_factor=2.0, mode="nearest")
        found = []
        for k, x in enumerate((torch.cat([fine, grown], 1), coarse)):
            raw = self.heads[k](x)
            n, _, h, w = raw.shape
            raw = raw.view(n, 3, self.values, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            y, z = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack([z, y], 2).view(1, 1, h, w, 2).to(x.dtype)
            stride = images.shape[2] / h
            place = (raw[..., 0:2] * 2 - 0.5 + grid) * stride
            size = (raw[..., 2:4] * 2) ** 2 * torch.tensor(self.ANCHORS[k], dtype=x.dtype).view(1, 3, 1, 1, 2)
            found.append(torch.cat([place, size, raw[..., 4:]], 4).view(n, -1, self.values))
        return torch.cat(found, 1)
