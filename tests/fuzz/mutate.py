"""Damage to bytes, and the odd values that every kind of damage draws from."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Rng = np.random.Generator

NUMBERS = (
    -(2**63), -(2**62), -(2**40), -(2**31) - 1, -(2**31), -70000, -1000, -9, -3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 17, 64,
    255, 1000, 4096, 65536, 2**20, 2**31 - 1, 2**31, 2**32, 2**40, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 1,
)  # fmt: skip
"""Whole numbers at the borders of what anybody may have thought of."""

FRACTIONS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, -0.0, 1e-45, 1e-7, 0.5, 1.5, 1e10, 3.4e38, -3.4e38)
"""Fractions of the same kind, all within float32."""

TEXTS = (
    "", " ", "x", '"', "'", "\\", "\n", "a\nb", "\r", "\0", "a\0b", "*/", "/*", "//", "??/", "${HOME}", "%s", "%n",
    "{}", "a.b", "../x", "/etc/passwd", "größe", "名前", "\u202e", "\ufeff", "int", "main", "self", "NOTSET", "0", "-1",
    "x" * 3000, "#include </etc/passwd>", "\\n*/#error", '")', "a,b->", "...", "ii->i", "ai.onnx", "None",
)  # fmt: skip
"""Names and texts that end in messages, comments, identifiers, file names and patterns."""


def pick(rng: Rng, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.integers(len(items)))]


def number(rng: Rng) -> int:
    """A whole number: mostly small, often odd."""
    return int(rng.integers(-5, 10)) if rng.random() < 0.4 else pick(rng, NUMBERS)


def span(rng: Rng, data: bytes, longest: int) -> slice:
    """A part of `data`."""
    start = int(rng.integers(len(data)))
    return slice(start, start + int(rng.integers(1, longest + 1)))


def flip(rng: Rng, data: bytes) -> bytes:
    """Some bits turned over."""
    held = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        held[int(rng.integers(len(held)))] ^= 1 << int(rng.integers(8))
    return bytes(held)


def overwrite(rng: Rng, data: bytes) -> bytes:
    """Some bytes replaced."""
    where = span(rng, data, 8)
    held = bytearray(data)
    held[where] = bytes(pick(rng, (0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256)))) for _ in data[where])
    return bytes(held)


def truncate(rng: Rng, data: bytes) -> bytes:
    """The end cut off, or the beginning."""
    at = int(rng.integers(len(data)))
    return data[:at] if rng.random() < 0.8 else data[at:]


def insert(rng: Rng, data: bytes) -> bytes:
    """Something put in: noise, a large number as protobuf writes it, or text."""
    at = int(rng.integers(len(data) + 1))
    new = pick(rng, (rng.bytes(int(rng.integers(1, 64))), b"\xff" * 9 + b"\x01", b"\0" * 16, pick(rng, TEXTS).encode()))
    return data[:at] + new + data[at:]


def duplicate(rng: Rng, data: bytes) -> bytes:
    """A part there twice, or many times."""
    where = span(rng, data, 200)
    return data[: where.stop] + data[where] * pick(rng, (1, 2, 100)) + data[where.stop :]


def remove(rng: Rng, data: bytes) -> bytes:
    """A part left out."""
    where = span(rng, data, 50)
    return data[: where.start] + data[where.stop :]


def move(rng: Rng, data: bytes) -> bytes:
    """Two parts in the wrong order."""
    a, b, c = sorted(int(rng.integers(len(data) + 1)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def garble(rng: Rng, data: bytes) -> bytes:
    """A word of the same length that is no text, or another word: lengths stay right, so that the rest is read."""
    words = list(re.finditer(rb"[A-Za-z_]{1,40}", data))
    if not words:
        return flip(rng, data)
    word = pick(rng, words)
    size = word.end() - word.start()
    new = pick(rng, (b"\xff" * size, b"\0" * size, b'"' * size, b"\n" * size, b"*/" * size, pick(rng, words)[0] * size))
    return data[: word.start()] + new[:size] + data[word.end() :]


BYTES: tuple[Callable[[Rng, bytes], bytes], ...] = (
    flip, flip, overwrite, overwrite, truncate, insert, duplicate, remove, move, garble, garble,
)  # fmt: skip
"""All of them, the more telling ones more often."""


def damaged(rng: Rng, data: bytes) -> tuple[bytes, str]:
    """`data` with one to three damages, and what they were."""
    done = []
    for _ in range(pick(rng, (1, 1, 1, 2, 3))):
        if data:
            change = pick(rng, BYTES)
            data = change(rng, data)
            done.append(change.__name__)
    return data, ", ".join(done)
