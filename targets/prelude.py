"""What stands above the kernels of a source file: vector types, and the functions that are not infix operators.

Functions (exp, floor-division, ...) come from the dialect's table on demand; the vector form of a function that the
table does not have is a loop over the lanes, which compilers turn into vector instructions where they can.
"""

import math
import re
from collections.abc import Sequence

from attrs import define, field

from ..ir.errors import VerifyError
from ..ir.scalar import is_float
from .dialects import Dialect

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
        name = short_name(dtype, lanes)
        if name not in self.definitions:
            scalar = self.dialect.types[dtype]
            size = lanes * width(dtype)
            self.definitions[name] = (
                f"typedef {scalar} {name} __attribute__((vector_size({size})));\n"
                f"typedef {scalar} {name}u __attribute__((vector_size({size}), aligned({width(dtype)}), may_alias));"
            )
        return name + ("u" if storage else "")

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
        table = self.dialect.functions
        if lanes > 1:
            ok = fn in ("maxc", "minc", "max", "min") or (
                is_float(dtype) and (dtype == "float32" or fn in ("div", "fma"))
            )
            special = {} if is_float(dtype) else table["int vector"]
            return special.get(fn) or table["vector"].get(fn) if ok and dtype != "bool" else None
        family = dtype.rstrip("0123456789")
        return table.get(dtype, {}).get(fn) or table.get(family, {}).get(fn)

    def _lane_loop(self, fn: str, dtype: str, lanes: int, operands: int) -> str:
        scalar = self.function(fn, dtype, 1, operands)
        names = "abcd"[:operands]
        params = ", ".join(f"@T {n}" for n in names)
        args = ", ".join(f"{n}[i]" for n in names)
        return (
            f"static inline @T fw_{fn}_@S({params}) {{\n  @T r;\n"
            f"  for (int i = 0; i < {lanes}; ++i) r[i] = {scalar}({args});\n  return r;\n}}"
        )

    def _fill(self, text: str, fn: str, dtype: str, lanes: int) -> str:
        bits = width(dtype) * 8
        integer = self.type(f"int{bits}", lanes) if "@I" in text else ""
        for needed in ("exp", "maxc", "minc", "bits", "from_bits"):
            if f"fw_{needed}_@S(" in text and needed != fn:
                self.function(needed, dtype, lanes, 2 if needed in ("maxc", "minc") else 1)
        suffix = "f" if dtype == "float32" else ""
        replace = {
            "@T": self.type(dtype, lanes),
            "@E": self.dialect.types[dtype],
            "@L": str(lanes),
            "@I": integer,
            "@B": str(bits - 1),
            "@N": fn,
            "@S": short_name(dtype, lanes),
            "@F": suffix,
            "@f": suffix,
        }
        for mark, new in replace.items():
            text = text.replace(mark, new)
        return text

    def helper(self, name: str, text: str) -> str:
        """A function written by the caller, defined once."""
        self.definitions.setdefault(name, text)
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
        if math.isnan(number):
            return f'__builtin_nan{suffix}("")'
        if math.isinf(number):
            return f"{'-' if number < 0 else ''}__builtin_inf{suffix}()"
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
