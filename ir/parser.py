"""Reading programs in Relay's text format: recursive descent over the words of ir/lexer.py.

What `str` and `astext` write is read back structurally equal. Hand-written text may leave out the version line and
types, use comments and `+ - * / < <= ...`, and declare free variables by `free_var %x: Tensor[(2,), float32];`.
Statements follow one another without recursion; nesting is limited to `MAX_DEPTH` levels.

A call `nn.conv2d(%x, %w, padding=[1, 1])` gets the attributes that the operator's builder function would store
(`Op.full_attributes`): printed attributes, which are in that form already, stay as they are, and hand-written ones are
brought into it. No types are inferred backwards; `InferType` does that.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import FusewireError, ParseError
from .expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var
from .lexer import Token
from .module import IRModule
from .op import Attrs, get_op
from .type_parser import TypeParser
from .types import check_dtype, numpy_dtype

T = TypeVar("T")

_INFIX = {
    "==": (0, "equal"), "!=": (0, "not_equal"),
    "<": (1, "less"), ">": (1, "greater"), "<=": (1, "less_equal"), ">=": (1, "greater_equal"),
    "+": (2, "add"), "-": (2, "subtract"), "*": (3, "multiply"), "/": (3, "divide"),
}  # fmt: skip
"""Infix operators: how strongly they bind, and what they call."""


def parse(text: str, constants: Sequence[npt.NDArray[Any]] | None = None) -> IRModule:
    """The module that `text` (one or more `def @name(...) { ... }`) stands for.

    Args:
        text: the program.
        constants: what `meta[relay.Constant][0]`, `[1]`, ... stand for, where the text has no metadata.

    Raises:
        ParseError: the text is no valid program; the message shows line and column.

    """
    return _guarded(text, _Parser.module, constants)


def parse_expr(text: str) -> Expr:
    """The expression that `text` stands for, e.g. `fn (%x: Tensor[(2,), float32]) { nn.relu(%x) }`.

    Raises:
        ParseError: the text is no valid expression; the message shows line and column.

    """
    return _guarded(text, _Parser.whole_expression)


def _guarded(text: str, read: "Callable[[_Parser], T]", constants: Sequence[npt.NDArray[Any]] | None = None) -> T:
    try:
        return read(_Parser(text, constants))
    except RecursionError:
        raise ParseError("the text is nested too deeply for the stack that is left") from None


class _Parser(TypeParser):
    """Expressions, functions and modules."""

    def __init__(self, text: str, arrays: Sequence[npt.NDArray[Any]] | None = None) -> None:
        super().__init__(text)
        self.arrays = arrays
        self.scopes: list[dict[str, Expr]] = []
        self.functions: dict[str, Function] | None = None
        self.constants: dict[int, Constant] = {}
        self.metadata: dict[str, Any] | None = None
        if len(self.words) > 1 and self.words[-2].kind == "metadata":
            section = self.words.pop(-2)
            try:
                self.metadata = json.loads(section.text)
            except ValueError as error:
                raise self.source.error(f"the metadata is not valid JSON: {error}", section.start) from None
        if self.word.kind == "version":
            self.at += 1

    # Modules and functions

    def whole_expression(self) -> Expr:
        """The text as one expression."""
        found = self.block({})
        if self.word.kind != "end":
            self.fail(f"expected an operator or the end of the text, got {self.word.text[:40]!r}")
        return found

    def module(self) -> IRModule:
        """The text as a module. Called functions are read before their callers, which then know their types."""
        starts: dict[str, int] = {}
        while self.word.kind != "end":
            if not self.is_mark("def"):
                self.fail(f"expected 'def @name', got {self.word.text[:40]!r}; parse_expr reads a single expression")
            name = self.words[self.at + 1]
            if name.kind != "function":
                self.fail(f"expected the name of a function, got {name.text[:40]!r}", name)
            if name.text in starts:
                self.fail(f"function @{name.text} is defined twice", name)
            starts[name.text] = self.at
            self._to_next_function()
        self.functions = {}
        for callee in self._call_order(starts):
            self.at = starts[callee] + 1
            self.functions[callee] = self.function()
            if self.word.kind != "end" and not self.is_mark("def"):
                self.fail(f"expected 'def' or the end of the text, got {self.word.text[:40]!r}")
        return IRModule({key: self.functions[key] for key in starts})

    def _to_next_function(self) -> None:
        self.at += 2
        while self.word.kind != "end" and not (self.is_mark("def") and self.words[self.at + 1].kind == "function"):
            self.at += 1

    def _call_order(self, starts: dict[str, int]) -> list[str]:
        ends = [*starts.values(), len(self.words)][1:]
        calls: dict[str, list[str]] = {}
        for (name, start), end in zip(starts.items(), ends, strict=True):
            used = [w for w in self.words[start + 2 : end] if w.kind == "function"]
            for word in used:
                if word.text not in starts:
                    self.fail(f"function @{word.text} is not defined", word)
            calls[name] = [word.text for word in used]
        try:
            return list(TopologicalSorter(calls).static_order())
        except CycleError as error:
            circle = error.args[1][::-1]
            shown = " calls ".join(f"@{name}" for name in circle)
            self.fail(f"recursion is not supported: {shown}", self.words[starts[circle[0]]])

    def function(self) -> Function:
        """A function from the word before its parameters on (`fn` or its name)."""
        start = self.word
        self.at += 1
        self.expect("(")
        scope: dict[str, Expr] = {}
        params: list[Var] = []
        attributes: dict[str, Any] = {}

        def parameter() -> None:
            if self._is_attribute():
                self._attribute(attributes)
            else:
                word, var = self._new_var()
                if word.text in scope:
                    self.fail(f"parameter %{word.text} occurs twice", word)
                scope[word.text] = var
                params.append(var)

        self.listed(")", parameter)
        ret_type = self.type() if self.accept("->") else None
        body = self.braces(scope)
        return self.make(start, Function, params, body, ret_type, Attrs(attributes))

    def _new_var(self) -> tuple[Token, Var]:
        word = self.take("local", "a variable")
        return word, Var(word.text, self.type() if self.accept(":") else None)

    # Blocks

    def braces(self, scope: dict[str, Expr]) -> Expr:
        """A block in braces."""
        self.expect("{")
        body = self.block(scope)
        self.expect("}")
        return body

    def block(self, scope: dict[str, Expr]) -> Expr:
        """Statements and the expression that they lead to; `scope` holds the names that they may use and add."""
        self.scopes.append(scope)
        lets: list[tuple[Var, Expr]] = []
        while True:
            if self.accept("let"):
                lets.append(self._let(scope))
            elif self.accept("free_var"):
                word, var = self._new_var()
                scope[word.text] = var
            elif self._is_temporary():
                self._temporary(scope)
            else:
                result = self.expression()
                if not self.accept(";"):
                    break
                lets.append((Var("_"), result))
                continue
            self.expect(";")
        self.scopes.pop()
        for var, value in reversed(lets):
            result = Let(var, value, result)
        return result

    def _is_temporary(self) -> bool:
        return self.word.kind == "temporary" and self.ahead("=")

    def _temporary(self, scope: dict[str, Expr]) -> None:
        name = self.take("temporary", "a temporary")
        self.expect("=")
        value = self.expression()
        if name.text in scope:
            self.fail(f"%{name.text} is already defined", name)
        scope[name.text] = value

    def _let(self, scope: dict[str, Expr]) -> tuple[Var, Expr]:
        word, var = self._new_var()
        self.expect("=")
        value = self.expression()
        if var.known_type and value.known_type and var.known_type != value.known_type:
            self.fail(f"%{word.text} is declared as {var.known_type}, but its value has type {value.known_type}", word)
        scope[word.text] = var
        return var, value

    # Expressions

    def expression(self, minimum: int = 0) -> Expr:
        """An expression whose infix operators bind at least as strongly as `minimum`."""
        with self.nested():
            left = self._operand()
            while (found := _INFIX.get(self.word.text)) and self.word.kind == "mark" and found[0] >= minimum:
                word = self.word
                self.at += 1
                right = self.expression(found[0] + 1)
                left = self._call(word, found[1], [left, right], {})
        return left

    def _operand(self) -> Expr:
        start = self.word
        expr = self._atom()
        while True:
            word = self.word
            if word.kind == "item":
                self.at += 1
                expr = self.make(word, TupleGetItem, expr, int(word.text))
            elif self.is_mark("("):
                args, attributes = self._arguments()
                expr = self.make(start, Call, expr, args, Attrs(attributes))
            else:
                return expr

    def _atom(self) -> Expr:
        word = self.word
        match word.kind:
            case "temporary" | "local":
                return self._lookup()
            case "function":
                self.at += 1
                known = self.functions[word.text].known_type if self.functions is not None else None
                return GlobalVar(word.text, known)
            case "number":
                return Constant(self.number(""))
            case "name":
                return self._named(word)
        if self.accept("("):
            return self._parenthesis()
        minus = 0
        while self.accept("-"):
            minus += 1
        if not minus:
            self.fail(f"expected an expression, got {word.text[:40]!r}")
        return Constant(self.number("-" * (minus % 2)))

    def _lookup(self) -> Expr:
        word = self.word
        self.at += 1
        found = next((scope[word.text] for scope in reversed(self.scopes) if word.text in scope), None)
        if found is None:
            self.fail(f"%{word.text} is not defined here", word)
        return found

    def _named(self, word: Token) -> Expr:
        if self.is_mark("fn"):
            return self.function()
        self.at += 1
        match word.text:
            case "True" | "False":
                return Constant(np.array(word.text == "True"))
            case "if":
                return self._if(word)
            case "meta":
                return self._constant(word)
        if not self.is_mark("("):
            self.fail(f"expected '(' after the operator {word.text!r}, got {self.word.text[:40]!r}")
        args, attributes = self._arguments()
        return self._call(word, word.text, args, attributes)

    def _parenthesis(self) -> Expr:
        if self.accept(")"):
            return Tuple([])
        if self.is_mark("let") or self.is_mark("free_var") or self._is_temporary():
            inner = self.block({})
            self.expect(")")
            return inner
        fields, comma = self.listed(")", self.expression)
        return fields[0] if len(fields) == 1 and not comma else Tuple(fields)

    def _if(self, word: Token) -> Expr:
        self.expect("(")
        cond = self.expression()
        self.expect(")")
        yes = self.braces({})
        self.expect("else")
        return self.make(word, If, cond, yes, self.braces({}))

    # Calls

    def _arguments(self) -> tuple[list[Expr], dict[str, Any]]:
        args: list[Expr] = []
        attributes: dict[str, Any] = {}

        def argument() -> None:
            if self._is_attribute():
                self._attribute(attributes)
            else:
                args.append(self.expression())

        self.expect("(")
        self.listed(")", argument)
        return args, attributes

    def _is_attribute(self) -> bool:
        return self.word.kind in ("name", "string") and self.ahead("=")

    def _attribute(self, attributes: dict[str, Any]) -> None:
        word = self.word
        key = self.string() if word.kind == "string" else self.take("name", "an attribute").text
        self.expect("=")
        if key in attributes:
            self.fail(f"attribute {key!r} is given twice", word)
        attributes[key] = self.value()

    def _call(self, word: Token, name: str, args: list[Expr], given: dict[str, Any]) -> Expr:
        def call() -> Call:
            op = get_op(name)
            return Call(op, args, Attrs(op.full_attributes(args, given)))

        return self.make(word, call)

    def make(self, word: Token, maker: Callable[..., T], *parts: Any) -> T:
        """Build a node; what is wrong with its types or attributes is reported at `word`."""
        try:
            return maker(*parts)
        except FusewireError as error:
            self.fail(str(error), word)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
            # Attributes are of any type here, and what an operator does with a wrong one is its own affair.
            raise self.source.error(f"{word.text} cannot take these arguments: {error!r}", word.start) from error

    # Constants

    def _constant(self, word: Token) -> Constant:
        self.expect("[")
        kind = self.take("name", "relay.Constant")
        self.expect("]")
        self.expect("[")
        index = int(self.number(""))
        self.expect("]")
        if kind.text != "relay.Constant":
            self.fail(f"expected relay.Constant, got {kind.text!r}", kind)
        if self.metadata is None and self.arrays is None:
            self.fail("the value of this constant is missing: the text was printed without metadata", word)
        if index not in self.constants:
            self.constants[index] = self._decoded(index, word)
        return self.constants[index]

    def _decoded(self, index: int, word: Token) -> Constant:
        if self.arrays is not None:
            if index >= len(self.arrays):
                self.fail(f"there are {len(self.arrays)} constants, numbered from 0", word)
            return Constant(self.arrays[index])
        try:
            assert self.metadata is not None
            entry = self.metadata["relay.Constant"][index]
            dtype = numpy_dtype(check_dtype(entry["dtype"]))
            data = base64.b64decode(entry["data"], validate=True)
            return Constant(np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(entry["shape"]))
        except (LookupError, TypeError, ValueError, binascii.Error, FusewireError) as error:
            self.fail(f"the metadata for this constant is missing or damaged: {error}", word)
