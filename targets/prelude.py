"""What stands above the kernels of a source file: vector types, and the functions that are not infix operators.

Functions (exp, floor-division, ...) come from the dialect's table on demand; the vector form of a function that the
table does not have is a loop over the lanes, which compilers turn into vector instructions where they can.
"""

import math
import re
from collections.abc import Sequence

from attrs import define, field

from ..ir.errors import VerifyError
from ..ir.scalar import is_float, shuffle_places
from .dialects import FUNCTION, Dialect

_SHORT = {"float": "f", "uint": "u", "int": "i", "bfloat": "bf"}


def short_name(dtype: str, lanes: int = 1) -> str:
    """f32, i64, v16f32: the names of types inside function names."""
    if dtype == "bool":
        return short_name("int32", lanes) if lanes > 1 else "bool"
    base = dtype.rstrip("0123456789")
    text = _SHORT[base] + dtype[len(base) :]
    return f"v{lanes}{text}" if lanes > 1 else text


@define
class Prelude:
    """The functions and vector types that a source file needs, in the order of their definition."""

    dialect: Dialect
    definitions: dict[str, str] = field(factory=dict)

    def type(self, dtype: str, lanes: int = 1, storage: bool = False) -> str:
        """The name of a value's type (or of its type in memory), declared on first use."""
        if lanes == 1:
            table = self.dialect.storage if storage and dtype in self.dialect.storage else self.dialect.types
            return table[dtype]
        if dtype == "bool":
            dtype = "uint8" if storage else "int32"
        short = short_name(dtype, lanes)
        facts = {
            "type": self.dialect.types[dtype],
            "short": short,
            "lanes": lanes,
            "size": lanes * width(dtype),
            "width": width(dtype),
        }
        if self.dialect.vector_type:
            self.definitions.setdefault(short, self.dialect.vector_type.format(**facts))
        return (self.dialect.vector_storage if storage else self.dialect.vector).format(**facts)

    def function(self, fn: str, dtype: str, lanes: int = 1, operands: int = 1) -> str:
        """The name of a function on values of one type, defined on first use."""
        name = f"fw_{fn}_{short_name(dtype, lanes)}"
        if name in self.definitions:
            return name
        self.definitions[name] = ""  # takes its place behind what it needs
        text = self._template(fn, dtype, lanes)
        if text is None and lanes > 1:
            text = self._lane_loop(fn, dtype, lanes, operands)
        if text is None:
            raise VerifyError(f"{self.dialect.name} has no function {fn} for {dtype}")
        definition = self._fill(text, fn, dtype, lanes)
        del self.definitions[name]
        self.definitions[name] = definition
        return name

    def _template(self, fn: str, dtype: str, lanes: int) -> str | None:
        table, form = self.dialect.functions, " vector" if lanes > 1 else ""
        family = dtype.rstrip("0123456789")
        return table.get(dtype + form, {}).get(fn) or table.get(family + form, {}).get(fn)

    def _lane_loop(self, fn: str, dtype: str, lanes: int, operands: int) -> str:
        scalar = self.function(fn, dtype, 1, operands)
        param, first, lane = self.dialect.lane
        joined = {
            "params": ", ".join(param.format(a=a) for a in "abcd"[:operands]),
            "first": "".join(first.format(a=a) for a in "abcd"[:operands]),
            "args": ", ".join(lane.format(a=a) for a in "abcd"[:operands]),
        }
        return self.dialect.lanes.format(scalar=scalar, **joined)

    def _fill(self, text: str, fn: str, dtype: str, lanes: int) -> str:
        bits = 32 if dtype == "bool" and lanes > 1 else width(dtype) * 8
        integer = self.type(f"int{bits}", lanes) if "@I" in text else ""
        words = {"@W": "float32", "@U": "uint32", "@M": "bool"}
        for needed in ("exp", "maxc", "minc", "bits", "from_bits"):
            if f"fw_{needed}_@S(" in text and needed != fn:
                self.function(needed, dtype, lanes, 2 if needed in ("maxc", "minc") else 1)
        for way in ("load", "store"):  # of pairs
            if f"fw_{way}_bf16(" in text and dtype != "bfloat16":
                self.function(way, "bfloat16")
        replace = {
            "@T": self.type(dtype, lanes),
            "@E": self.dialect.types[dtype],
            "@L": str(lanes),
            "@I": integer,
            "@G": {64: "__AVX512F__", 32: "__AVX__", 16: "__AVX__"}.get(lanes * bits // 8, "FW_NEVER"),
            "@P": "pd" if dtype == "float64" else "ps",
            "@B": str(bits - 1),
            "@Z": str(lanes * bits // 8),
            "@N": fn,
            "@S": short_name(dtype, lanes),
            "@F": self.dialect.suffixes.get(dtype, ""),
            "@f": "f" if dtype == "float32" else "",
            "@A": ", ".join(["a"] * lanes),
            **{mark: self.type(word, lanes) for mark, word in words.items() if mark in text},
        }
        for mark, new in replace.items():
            text = text.replace(mark, new)
        return text.replace(FUNCTION, self.dialect.function)

    def shuffle(self, fn: str, dtype: str, lanes: int) -> str:
        """The name of a function that moves lanes (see `shuffle_places`)."""
        name, places = f"fw_{fn}_{short_name(dtype, lanes)}", shuffle_places(fn, lanes)
        called = ", ".join(f"{'ab'[place // lanes]}.s{place % lanes:x}" for place in places)
        text = self.dialect.shuffle.replace("@P", ", ".join(map(str, places))).replace("@Q", called)
        return self.helper(name, self._fill(text, fn, dtype, lanes))

    def helper(self, name: str, text: str) -> str:
        """A function written by the caller, defined once."""
        self.definitions.setdefault(name, text.replace(FUNCTION, self.dialect.function))
        return name

    def text(self, users: Sequence[str]) -> str:
        """The definitions that the kernels `users` need; some were made for an expression that was then left out."""
        words = set(re.findall(r"\w+", " ".join(users)))
        needed: list[str] = []
        for name, definition in reversed(self.definitions.items()):
            if name in words or definition.startswith("typedef"):
                words.update(re.findall(r"\w+", definition))
                needed.append(definition)
        return "\n".join(reversed(needed)) + "\n"


def width(dtype: str) -> int:
    """Bytes of one element of a type in memory."""
    return {"bool": 1, "float16": 2, "bfloat16": 2}.get(dtype) or int(dtype.lstrip("uintfloa")) // 8


def literal(value: object, dtype: str, dialect: Dialect) -> str:
    """A number as source text that gives exactly this value."""
    if dtype == "bool":
        return "1" if value else "0"
    if is_float(dtype):
        number = float(value)  # type: ignore[arg-type]
        suffix = "f" if dtype == "float32" else ""
        if not math.isfinite(number):
            name = "nan" if math.isnan(number) else "inf"
            return f"{'-' if number < 0 else ''}{dialect.numbers[name][dtype]}"
        plain = number.hex() if number != int(number) or abs(number) > 1e6 else f"{number:.1f}"
        return f"{plain}{suffix}"
    number = int(value)  # type: ignore[call-overload]
    if dtype == "int64" and number == -(1 << 63):
        return "INT64_MIN"
    if dtype in ("int64", "uint64"):
        return f"{'U' if dtype[0] == 'u' else ''}INT64_C({number})"
    if dtype == "int32" and number == -(1 << 31):
        return "INT32_MIN"
    return f"(({dialect.types[dtype]}){number})" if dtype != "int32" else str(number)


def stepping_stones(source: str, dtype: str) -> tuple[str, ...]:
    """The types to convert vectors by way of: gcc 12 takes other conversions apart into scalars.

    Integers double their width at each step, and floats are made of, and become, int32 first.
    """
    if source == "bool" or dtype == "bool":
        return ()
    wide: tuple[str, ...] = ("int16",) if width(source) == 1 and width(dtype) >= 4 else ()
    small = min(width(source), width(dtype)) <= 2
    return (*wide, "int32") if small and is_float(source) != is_float(dtype) else wide
