"""What a network to be exported is, and how one gets weights that are random but sane."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Axes = Mapping[str, Mapping[int, str]]
"""By input and axis, the name of a size that is not known before a run."""


class Example(NamedTuple):
    """A network and what it is exported with; functions in `sequence` return plain tuples of the same parts.

    Attributes:
        module: in evaluation mode.
        inputs: example inputs, which decide static shapes.
        names: of the inputs.
        axes: the axes of unknown size, or None.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    names: Sequence[str]
    axes: Axes | None = None


def seeded(make: Callable[[], nn.Module], shape: tuple[int, ...], seed: int = 0, dynamic: bool = False) -> Example:
    """A network of one image input with random weights, all statistics of its batch normalisations random.

    Statistics are first measured, so that values keep their size through the depth of the network, and then moved at
    random, so that nothing that a compiler folds is 0 or 1.
    """
    torch.manual_seed(seed)
    module = make()
    images = _images(shape)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        nn.init.uniform_(layer.weight, 0.6, 1.4)
        nn.init.normal_(layer.bias, std=0.2)
        layer.momentum = None  # the plain mean of all batches seen
    if not norms:  # nothing else would keep values from vanishing
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    with torch.no_grad():
        module.train()
        module(_images((4, *shape[1:])))
        module.eval()
        for layer in norms:
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean += 0.1 * layer.running_var.sqrt() * torch.randn_like(layer.running_mean)
            layer.running_var *= 0.7 + 0.6 * torch.rand_like(layer.running_var)
    axes = {"images": {0: "batch"}} if dynamic else None
    return Example(module.requires_grad_(False), (images,), ["images"], axes)


def _images(shape: tuple[int, ...]) -> Tensor:
    """Random images with structure of several sizes: from white noise, deep layers would see the same everywhere."""
    parts = []
    for size in (1, 8, 32):
        coarse = torch.randn(*shape[:2], *(-(-side // size) for side in shape[2:]))
        parts.append(functional.interpolate(coarse, shape[2:], mode="bilinear"))
    return torch.stack(parts).sum(0)
