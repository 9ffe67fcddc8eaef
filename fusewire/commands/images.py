"""Pictures as inputs, read by Pillow: RGB, resized, cut out of the middle, (value - mean) / scale."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.errors import FusewireError
from ..ir.types import TensorType, numpy_dtype
from .options import InputOptions

Array = npt.NDArray[Any]


def pillow(module: str) -> Any:
    """A module of Pillow.

    Raises:
        FusewireError: Pillow is missing.
    """
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError:
        raise FusewireError("pictures as inputs need Pillow: pip install 'fusewire[images]'") from None


def read_image(path: Path, name: str, type_: TensorType, options: InputOptions) -> Array:
    """The picture in a file as an array for an input.

    Args:
        path: any file that Pillow reads.
        name: the input, for messages.
        type_: what the input takes: three dimensions, or four of which the batch is 1; one channel (grey) or three.
        options: size, layout, mean and scale.

    Raises:
        FusewireError: there is no picture in the file, or the input cannot be one.
    """
    layout = _layout(name, type_, options.image_layout)
    sizes = dict(zip(layout, type_.static_shape, strict=True))
    wanted = sizes["H"], sizes["W"]
    if sizes["C"] not in (1, 3) or sizes.get("N", 1) != 1 or 0 in wanted:
        raise FusewireError(f"input {name!r} is {type_}: in layout {layout} that is no single picture")
    height, width = options.image_size or wanted
    if height < wanted[0] or width < wanted[1]:
        raise FusewireError(f"--image-size {height}x{width} is smaller than input {name!r}, {wanted[0]}x{wanted[1]}")
    if max(len(options.mean), len(options.scale)) > sizes["C"]:
        raise FusewireError(f"--mean and --scale: input {name!r} is {type_}, which has one channel, not three")
    pixels = _pixels(path, (height, width), wanted, sizes["C"])
    values = (pixels - np.asarray(options.mean)) / np.asarray(options.scale)  # float64; H W C
    plain = values.transpose(["HWC".index(axis) for axis in layout if axis != "N"])
    return _converted(plain.reshape(type_.static_shape), type_.dtype)


def _layout(name: str, type_: TensorType, chosen: str | None) -> str:
    """Where the channels are: as the user says, else where there are one or three of them."""
    shape = type_.static_shape
    batch = "N" * (len(shape) - 3)
    if len(shape) not in (3, 4) or (chosen and len(chosen) != len(shape)):
        what = f"a picture in layout {chosen}" if chosen else "a picture (three or four dimensions)"
        raise FusewireError(f"input {name!r} is {type_}, which cannot be {what}")
    if chosen:
        return chosen
    return batch + ("HWC" if shape[-1] in (1, 3) and shape[-3] not in (1, 3) else "CHW")


def _pixels(path: Path, size: tuple[int, int], middle: tuple[int, int], channels: int) -> Array:
    """Values 0 to 255 as float64 (height, width, channels): of the picture scaled to cover `size`, the middle."""
    image_module, operations = pillow("Image"), pillow("ImageOps")
    try:
        with image_module.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise FusewireError(f"{path}: pictures of mode {image.mode} are not supported; save it with 8 bits")
            upright = operations.exif_transpose(image).convert("RGB" if channels == 3 else "L")
            fitted = operations.fit(upright, (size[1], size[0]), method=image_module.Resampling.BILINEAR)
            top, left = (size[0] - middle[0]) // 2, (size[1] - middle[1]) // 2
            cut = fitted.crop((left, top, left + middle[1], top + middle[0]))
    except FusewireError:
        raise
    except Exception as error:  # damaged files make decoders raise almost anything
        raise FusewireError(f"cannot read the picture {path}: {error}") from error
    return np.asarray(cut, np.float64).reshape(*middle, channels)


def _converted(values: Array, dtype: str) -> Array:
    wanted = numpy_dtype(dtype)
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        values = np.clip(np.rint(values), limits.min, limits.max)
    elif wanted.kind == "b":
        raise FusewireError("an input of dtype bool cannot be a picture")
    return values.astype(wanted)
