"""Damage to the tensors that an ONNX model stores, in itself or in a file beside it."""

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from .models import WEIGHTS
from .mutate import FRACTIONS, TEXTS, Rng, number, pick
from .parts import change, replace, some_list, tensors


@change(9)
def values_of_a_tensor(rng: Rng, model: ModelProto) -> bool:
    """Other numbers: axes, shapes, widths, limits of loops and scales among them."""
    found = [t for t in tensors(model) if not t.external_data]
    if not found:
        return False
    tensor = pick(rng, found)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except Exception:  # damaged before
        return False
    if not array.size or array.dtype.kind not in "iuf":
        return False
    with np.errstate(all="ignore"):
        flat = array.reshape(-1)
        for _ in range(pick(rng, (1, 1, 2, flat.size))):
            new = np.asarray(pick(rng, FRACTIONS) if array.dtype.kind == "f" else number(rng), object)
            flat[int(rng.integers(flat.size))] = _wrapped(new.item(), array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True


def _wrapped(value: float, dtype: "np.dtype[Any]") -> float:
    """`value` within an integer dtype."""
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return min(max(int(value), int(limits.min)), int(limits.max))


@change(5)
def size_of_a_tensor(rng: Rng, model: ModelProto) -> bool:
    """Another shape, with as much data as it needs."""
    found = [t for t in tensors(model) if not t.external_data]
    if not found:
        return False
    tensor = pick(rng, found)
    try:
        array = numpy_helper.to_array(tensor)
    except Exception:  # damaged before
        return False
    held = array.shape
    new = pick(
        rng, ((), (0,), (1,), (array.size,), (1, *held), held[1:], held[::-1], (*held, 2), (0, *held), (1,) * 40)
    )
    tensor.CopyFrom(numpy_helper.from_array(np.resize(array, new), tensor.name))
    return True


@change()
def shape_of_a_tensor(rng: Rng, model: ModelProto) -> bool:
    """A shape that the data does not have, or another one of the same size: a scalar, a row of one, nothing."""
    found = tensors(model)
    if not found:
        return False
    tensor = pick(rng, found)
    held = list(tensor.dims)
    size = int(np.prod(held, dtype=object))
    new: tuple[list[int], ...] = (
        [], [0], [1], [size], [1, *held], held[1:], held[::-1], [*held, number(rng)], some_list(rng, 1 + len(held)),
        [2**31, 2**31, 2**31], [2**32, 2**32], [-1, -size], [0, 2**62], [1] * 100,
    )  # fmt: skip
    replace(tensor.dims, list(pick(rng, new)))
    return True


@change(2)
def data_of_a_tensor(rng: Rng, model: ModelProto) -> bool:
    """Another element type for the same data, less data, data in two places, or none."""
    found = tensors(model)
    if not found:
        return False
    tensor = pick(rng, found)
    match int(rng.integers(5)):
        case 0:
            tensor.data_type = pick(rng, (*range(24), 99, -1))
        case 1:
            tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
        case 2:
            tensor.raw_data = b"\0" * pick(rng, (1, 3, 8, 100))
        case 3:
            tensor.float_data.append(1.0)
            tensor.int64_data.append(1)
        case _:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)
    return True


PLACES = (
    WEIGHTS, "missing.bin", "../outside/secret.bin", "../../outside/secret.bin", "/etc/passwd",
    "../../../../etc/passwd", "/dev/zero", "/dev/stdin", "/dev/urandom", "link.bin", "pipe", ".", "",
    "model.onnx", "a\0b",
    "folder/../weights.bin", "//etc/passwd", "~/x", "file:///etc/passwd", "C:\\x",
    "x" * 5000,
)  # fmt: skip
"""Where external data may claim to be; `cases` puts a link, a pipe and a folder beside the model."""


@change(3)
def place_of_a_tensor(rng: Rng, model: ModelProto) -> bool:
    """External data that is elsewhere, too long, or not there."""
    found = tensors(model)
    if not found:
        return False
    tensor = pick(rng, found)
    size = int(np.prod(list(tensor.dims), dtype=object)) * 4
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.7:
        tensor.ClearField("raw_data")
    odd = (str(number(rng)), "ten", "", "1e9", str(2**70), pick(rng, TEXTS))
    entries = {
        "location": pick(rng, PLACES),
        "offset": pick(rng, ("0", "0", "4", *odd)),
        "length": pick(rng, (str(size), str(size), *odd)),
        "checksum": "0",
        "basepath": pick(rng, ("/", "..", "/etc")),
        pick(rng, TEXTS): pick(rng, TEXTS),
    }
    del tensor.external_data[:]
    for key, value in entries.items():
        if key == "location" or rng.random() < 0.5:
            tensor.external_data.add(key=key, value=value)
    return True
