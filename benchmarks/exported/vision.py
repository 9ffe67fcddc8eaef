"""Convolutional networks by name; architectures as in the papers that their functions name, weights random."""

from collections.abc import Callable
from functools import partial

from .dense import AnchorDetector, Detector, UNet
from .mobile import efficientnet_b0, mobilenet_v2, mobilenet_v3, shufflenet_v2
from .model import Example, seeded
from .residual import densenet, inception, resnet, squeezenet

PHOTO = (1, 3, 224, 224)
PHOTOS = (2, 3, 224, 224)

MODELS: dict[str, Callable[[], Example]] = {
    "resnet18": partial(seeded, partial(resnet, (2, 2, 2, 2), bottleneck=False), PHOTO),
    "resnet50": partial(seeded, partial(resnet, (3, 4, 6, 3), bottleneck=True), PHOTOS, dynamic=True),
    "mobilenet_v2": partial(seeded, mobilenet_v2, PHOTO),
    "mobilenet_v3_small": partial(seeded, partial(mobilenet_v3, large=False), PHOTO),
    "mobilenet_v3_large": partial(seeded, partial(mobilenet_v3, large=True), PHOTO),
    "efficientnet_b0": partial(seeded, efficientnet_b0, PHOTO),
    "densenet121": partial(seeded, densenet, PHOTO),
    "shufflenet_v2": partial(seeded, shufflenet_v2, PHOTOS, dynamic=True),
    "squeezenet": partial(seeded, squeezenet, PHOTO),
    "inception_v3": partial(seeded, inception, (1, 3, 299, 299)),
    "unet": partial(seeded, UNet, (1, 3, 128, 128)),
    "unet_bilinear": partial(seeded, partial(UNet, bilinear=True), (1, 3, 100, 118)),
    "detector": partial(seeded, Detector, (1, 3, 320, 320)),
    "detector_best": partial(seeded, partial(Detector, best=50), (1, 3, 320, 320)),
    "detector_anchors": partial(seeded, AnchorDetector, (1, 3, 256, 320)),
}
"""Each function makes the network anew, always with the same weights."""
