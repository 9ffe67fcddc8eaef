"""The parts of program text below expressions: words, types, dimensions and attribute values."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from .errors import FusewireError
from .index import Dim, Index, as_dim, as_index, size_var
from .lexer import Source, Token
from .literals import parse_literal
from .types import DTYPES, FuncType, TensorType, TupleType, Type

MAX_DEPTH = 100
"""How deep parentheses, blocks and types may be nested in program text."""

T = TypeVar("T")


class TypeParser:
    """A place in a list of words, and how to read types, dimensions and attribute values from there."""

    def __init__(self, text: str) -> None:
        self.source = Source(text)
        self.words = self.source.tokens()
        self.at = 0
        self.depth = 0
        self.dims: dict[str, Index] = {}

    @property
    def word(self) -> Token:
        """The next word."""
        return self.words[self.at]

    def ahead(self, text: str) -> bool:
        """Whether the word after the next one is `text`."""
        return self.at + 1 < len(self.words) and self.words[self.at + 1].text == text

    def is_mark(self, text: str) -> bool:
        """Whether the next word is this punctuation mark or keyword."""
        return self.word.text == text and self.word.kind in ("mark", "name")

    def accept(self, text: str) -> bool:
        """Step over a punctuation mark or keyword if it comes next."""
        found = self.is_mark(text)
        self.at += found
        return found

    def expect(self, text: str) -> Token:
        """Step over a punctuation mark or keyword, which must come next."""
        word = self.word
        if not self.accept(text):
            self.fail(f"expected {text!r}, got {word.text[:40]!r}")
        return word

    def take(self, kind: str, what: str) -> Token:
        """The next word, which must be of this kind."""
        word = self.word
        if word.kind != kind:
            self.fail(f"expected {what}, got {word.text[:40]!r}")
        self.at += 1
        return word

    def fail(self, message: str, word: Token | None = None) -> NoReturn:
        """Raise a ParseError that points at `word` (the next one if it is not given)."""
        raise self.source.error(message, (word or self.word).start)

    @contextmanager
    def nested(self) -> Iterator[None]:
        """One level deeper."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} levels deep")
        yield
        self.depth -= 1

    def listed(self, close: str, item: Callable[[], T]) -> tuple[list[T], bool]:
        """Items between commas up to `close`, and whether a comma came after the last one."""
        items: list[T] = []
        comma = False
        while not self.accept(close):
            if items and not comma:
                self.fail(f"expected ',' or {close!r}, got {self.word.text[:40]!r}")
            items.append(item())
            comma = self.accept(",")
        return items, comma

    # Types and dimensions

    def type(self) -> Type | None:
        """A type; None for `_`, which leaves it to inference."""
        with self.nested():
            return self._type()

    def _type(self) -> Type | None:
        word = self.word
        if self.accept("_"):
            return None
        if self.accept("("):
            fields, comma = self.listed(")", self.known_type)
            return fields[0] if len(fields) == 1 and not comma else TupleType(fields)
        if self.accept("fn"):
            self.expect("(")
            args, _ = self.listed(")", self.known_type)
            self.expect("->")
            return FuncType(args, self.known_type())
        if self.accept("Tensor"):
            return self._tensor_type()
        return TensorType((), self._dtype(word))

    def known_type(self) -> Type:
        """A type that is written out."""
        word, found = self.word, self.type()
        if found is None:
            self.fail("a type must be written out here", word)
        return found

    def _dtype(self, word: Token) -> str:
        name = self.take("name", "a type").text
        if name not in DTYPES:
            self.fail(f"unknown type {name!r}, expected Tensor[(shape), dtype] or one of {', '.join(DTYPES)}", word)
        return name

    def _tensor_type(self) -> TensorType:
        start = self.expect("[")
        self.expect("(")
        shape, _ = self.listed(")", self.dim)
        self.expect(",")
        dtype = self._dtype(self.word)
        self.expect("]")
        try:
            return TensorType(shape, dtype)
        except FusewireError as error:
            self.fail(str(error), start)

    def dim(self) -> Dim:
        """A dimension: sums of products and quotients of whole numbers and names."""
        with self.nested():
            total: Dim = -self._product() if self.accept("-") else self._product()
            while self.is_mark("+") or self.is_mark("-"):
                minus, term = self.accept("-") or not self.accept("+"), self._product()
                total = total - term if minus else total + term
        return as_dim(total)

    def _product(self) -> Index:
        value = as_index(self._factor())
        while (word := self.word).text in ("*", "//", "%"):
            self.at += 1
            other = self._factor()
            try:
                value = value * other if word.text == "*" else value // other if word.text == "//" else value % other
            except ValueError as error:
                self.fail(str(error), word)
        return value

    def _factor(self) -> Dim:
        word = self.word
        if self.accept("("):
            value = self.dim()
            self.expect(")")
            return value
        if self.accept("?"):
            return size_var("any")
        if word.kind == "number" and word.text.isdecimal():
            self.at += 1
            return int(word.text)
        name = self.take("name", "a dimension").text
        return self.dims.setdefault(name, size_var(name))

    # Attribute values

    def value(self) -> Any:
        """An attribute's value: a number, a string, True, False, None, a list, a dictionary or `Dim[...]`."""
        with self.nested():
            return self._value()

    def _value(self) -> Any:
        word = self.word
        if self.accept("["):
            return tuple(self.listed("]", self.value)[0])
        if self.accept("("):
            return tuple(self.listed(")", self.value)[0])
        if self.accept("{"):
            return dict(self.listed("}", self._entry)[0])
        if self.accept("Dim"):
            self.expect("[")
            found = self.dim()
            self.expect("]")
            return found
        if word.kind == "string":
            return self.string()
        if word.text in ("True", "False", "None"):
            self.at += 1
            return {"True": True, "False": False, "None": None}[word.text]
        return self._attribute_number(word)

    def string(self) -> str:
        """A string in quotes."""
        word = self.take("string", "a string")
        try:
            return str(json.loads(word.text, strict=False))
        except ValueError as error:
            self.fail(f"this string is malformed: {error}", word)

    def _entry(self) -> tuple[Any, Any]:
        key = self.value()
        self.expect(":")
        return key, self.value()

    def _attribute_number(self, word: Token) -> int | float:
        sign = -1 if self.accept("-") else 1
        digits = self.word
        if digits.text not in ("inf", "nan") and digits.kind != "number":
            self.fail(f"expected the value of an attribute, got {word.text[:40]!r}", word)
        self.at += 1
        whole = digits.text.split("i")[0].split("u")[0]
        if whole.isdecimal():
            return sign * int(whole)
        # `0.05f` in an attribute is how Relay prints a double.
        bare = digits.text.split("b")[0].split("f")[0] if digits.text[0].isdigit() else digits.text[:3]
        return sign * float(bare)

    def number(self, sign: str) -> Any:
        """A scalar array from a number whose sign was read before."""
        word = self.take("number", "a number")
        try:
            return parse_literal(sign + word.text)
        except FusewireError as error:
            self.fail(str(error), word)
