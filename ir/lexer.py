"""Program text as tokens, and error messages that point into the text."""

import re
from typing import NamedTuple

from .errors import ParseError
from .literals import NUMBER

IDENTIFIER = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
"""The name of an operator, an attribute or a symbolic dimension."""
VARIABLE = r"[A-Za-z_]\w*(?:[./]\w+)*"
"""The name of a variable or a function, e.g. `layer.0.weight`; a variable's does not end in `.` and digits, for
`%x.0` is an item of the tuple `%x`."""

VERSION = "0.0.5"
"""The version of Relay's text format that is read and written."""

LONGEST_NUMBER = 1000
"""Characters; Python itself refuses to make a number of more than 4300 digits."""

_TOKEN = re.compile(
    rf"""
    (?P<space>\s+)
  | (?P<open>/\*)
  | (?P<divide>//)
  | (?P<version>\#\[version\s*=\s*"(?P<number_of_version>[^"\n]*)"\])
  | (?P<metadata>\#\[metadata\](?P<json>.*))
  | (?P<temporary>%\d+)
  | (?P<local>%{VARIABLE})
  | (?P<function>@{VARIABLE})
  | (?P<item>\.\d+)
  | (?P<number>{NUMBER})
  | (?P<name>{IDENTIFIER})
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<mark>->|==|!=|<=|>=|[-+*/%<>=(){{}}\[\],;:?_])
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")
_ITEMS = re.compile(r"(?:\.\d+)*\Z")


class Token(NamedTuple):
    """One word of the text.

    Attributes:
        kind: temporary (`%0`), local (`%x`), function (`@f`), item (`.0`), number, name, string, mark, version,
            metadata or end.
        text: the word itself; without `%`, `@` or `.`; the JSON of a metadata section.
        start: where it begins, counted in characters.

    """

    kind: str
    text: str
    start: int


class Source:
    """A text to parse, which knows how to show a place in itself."""

    def __init__(self, text: str) -> None:
        self.text = text

    def error(self, message: str, start: int) -> ParseError:
        """A ParseError that shows the line at `start`, with a caret under the place."""
        line = self.text.count("\n", 0, start) + 1
        begin = self.text.rfind("\n", 0, start) + 1
        column = start - begin + 1
        shown = self.text[begin:].split("\n", 1)[0]
        # A window of the line: printed types make lines of thousands of characters.
        left = max(0, column - 80)
        shown, caret = shown[left : left + 120].replace("\t", " "), " " * (column - 1 - left) + "^"
        return ParseError(f"line {line}, column {column}: {message}\n  {shown}\n  {caret}")

    def tokens(self) -> list[Token]:
        """All words; comments and white space are left out.

        Raises:
            ParseError: a character that begins no word, a comment without an end, or another format version.

        """
        found: list[Token] = []
        pos, end = 0, len(self.text)
        brackets = 0  # how deep inside `Tensor[...]` and `Dim[...]`, where `//` divides
        while pos < end:
            match = _TOKEN.match(self.text, pos)
            if not match:
                first = self.text[pos]
                raise self.error("this string has no end" if first == '"' else f"unexpected character {first!r}", pos)
            kind, text, start, pos = match.lastgroup or "", match.group(), pos, match.end()
            if kind in ("number", "item", "temporary") and len(text) > LONGEST_NUMBER:
                raise self.error(f"a number of {len(text)} characters fits no type", start)
            if kind == "open":
                pos = self._after_comment(start)
            elif kind == "divide" and not brackets:
                pos = (self.text.find("\n", pos) + 1) or end
            elif kind != "space":
                token, pos = self._word(kind, match)
                found.append(token)
                if text == "[" and (brackets or (len(found) > 1 and found[-2].text in ("Tensor", "Dim"))):
                    brackets += 1
                elif text == "]" and brackets:
                    brackets -= 1
        found.append(Token("end", "end of text", end))
        return found

    def _word(self, kind: str, match: re.Match[str]) -> tuple[Token, int]:
        text, start, end = match.group(), match.start(), match.end()
        match kind:
            case "divide":
                kind = "mark"
            case "version":
                if match["number_of_version"] != VERSION:
                    raise self.error(f"unknown text format {match['number_of_version']!r}, expected {VERSION}", start)
            case "metadata":
                text, start = match["json"], match.start("json")
            case "local":
                items = _ITEMS.search(text)
                end -= len(items.group()) if items else 0
                text = self.text[start + 1 : end]
            case "temporary" | "function" | "item":
                text = text[1:]
        return Token(kind, text, start), end

    def _after_comment(self, start: int) -> int:
        depth = 0
        for mark in _COMMENT.finditer(self.text, start):
            depth += 1 if mark.group() == "/*" else -1
            if not depth:
                return mark.end()
        raise self.error("this comment has no end", start)
