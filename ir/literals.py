"""Scalar constants as text (`1f`, `2`, `3i8`, `True`), exact in both directions."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FusewireError
from .types import INTEGERS, numpy_dtype

SUFFIXES = {
    "i": "int32", "f": "float32", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64",
    **{name.replace("uint", "u").replace("int", "i"): name for name in INTEGERS},
}  # fmt: skip
"""Element type of a number by what follows its digits."""

_SUFFIX_OF = {dtype: suffix for suffix, dtype in reversed(SUFFIXES.items())} | {"int32": ""}
_SUFFIX = "|".join(sorted(SUFFIXES, key=len, reverse=True))
NUMBER = rf"(?:\d+(?:\.\d+|\.(?!\w))?(?:[eE][+-]?\d+)?(?:{_SUFFIX})?|(?:inf|nan)(?:bf16|f16|f32|f64|f))(?!\w)"
"""A number without its sign. Infinity and not-a-number need a suffix, which tells them from names."""

_PARTS = re.compile(rf"(-?)(inf|nan|[\d.]+(?:[eE][+-]?\d+)?)({_SUFFIX})?")


def parse_literal(text: str) -> npt.NDArray[Any]:
    """The scalar array that `text` (a `NUMBER`, perhaps with a minus before it) stands for.

    Without a suffix, whole numbers are int32 (int64 where they do not fit) and others float32.

    Raises:
        FusewireError: the number does not fit its element type.

    """
    found = _PARTS.fullmatch(text)
    if not found:
        raise FusewireError(f"{text!r} is not a number")
    sign, digits, suffix = found.groups()
    if digits.isdecimal() and (suffix is None or suffix[0] in "iu"):
        return _integer(int(sign + digits), SUFFIXES.get(suffix or ""), text)
    dtype = SUFFIXES[suffix or "f"]
    if dtype in INTEGERS:
        raise FusewireError(f"{text} is not a whole number, as its suffix says")
    with np.errstate(over="ignore"):
        value = np.array(float(sign + digits)).astype(numpy_dtype(dtype))
    if digits != "inf" and np.isinf(value):
        raise FusewireError(f"{text} does not fit {dtype}")
    return value


def _integer(value: int, dtype: str | None, text: str) -> npt.NDArray[Any]:
    if dtype is None:
        dtype = "int32" if -(1 << 31) <= value < 1 << 31 else "int64"
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise FusewireError(f"{text} does not fit {dtype} ({limits.min}..{limits.max})")
    return np.array(value, dtype)


def literal(array: npt.NDArray[Any]) -> str | None:
    """A scalar array as text that gives the same bits back; None where no text does (a NaN with a payload)."""
    if array.ndim:
        return None
    dtype = array.dtype.name
    if dtype == "bool":
        return str(bool(array))
    digits = str(int(array) if dtype in INTEGERS else array[()]).removesuffix(".0")
    if digits == "nan" and np.signbit(array):
        digits = "-nan"
    text = digits + _SUFFIX_OF[dtype]
    return text if parse_literal(text).tobytes() == array.tobytes() else None
