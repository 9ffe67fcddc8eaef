"""Writing programs in Relay's text format, as `astext()` and `str()` do; ir/parser.py reads it back.

    #[version = "0.0.5"]
    def @main(%x: Tensor[(1, 3), float32] /* ty=Tensor[(1, 3), float32] */) -> Tensor[(1, 3), float32] {
      %0 = nn.relu(%x) /* ty=Tensor[(1, 3), float32] */;
      add(%0, 1f /* ty=float32 */) /* ty=Tensor[(1, 3), float32] */
    }

Each node is written once, as `%0 = ...;` in the innermost block that all its uses share, unless it is a leaf or the
only use is at the end of a block or as the value of a `let`. Numbers start from 0 in each function of a module.
Constants that are no scalars are written `meta[relay.Constant][0]`, and their values stand in a section
`#[metadata]` after the program, as JSON: `{"relay.Constant": [{"dtype": ..., "shape": [...], "data": base64 of the
little-endian bytes}]}`. Names that occur twice or are no identifiers are changed.
"""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from .expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var, use_printer
from .index import Index, IndexVar, substitute
from .lexer import IDENTIFIER, VARIABLE, VERSION
from .literals import NUMBER, literal
from .module import IRModule
from .op import Op
from .scopes import Scope, ScopeMap
from .types import FuncType, TensorType, TupleType, Type

Lines = list["str | tuple[int, Lines]"]
"""Lines of text, and further lines indented by some spaces."""


def to_text(program: Expr | IRModule, show_meta_data: bool = True, show_version: bool = True) -> str:
    """`program` in Relay's text format.

    Args:
        program: an expression or a module.
        show_meta_data: whether the values of constants that are no scalars are written; without them, the text is
            shorter and cannot be read back if there are such constants.
        show_version: whether the text of an expression begins with the version; that of a module always does.

    """
    shared = _Shared()
    return _program(shared, program, show_version) + shared.metadata(show_meta_data)


def to_text_and_constants(program: Expr | IRModule) -> tuple[str, list[Constant]]:
    """`program` in Relay's text format without metadata, and what its `meta[relay.Constant][k]` stand for, in order.

    `parse(text, arrays)` puts the two together again.
    """
    shared = _Shared()
    text = _program(shared, program, show_version=True)
    return text, shared.constants


def _program(shared: "_Shared", program: Expr | IRModule, show_version: bool) -> str:
    if isinstance(program, IRModule):
        parts = [_Body(shared, f).definition(name) for name, f in program.functions.items()]
        text = "\n".join(_joined(part) + "\n" for part in parts)
    else:
        text = _joined(_Body(shared, program).expression())
    header = f'#[version = "{VERSION}"]\n' if show_version or isinstance(program, IRModule) else ""
    return header + text


class _Names:
    """Gives out names, each once."""

    def __init__(self) -> None:
        self._used: dict[Scope, set[str]] = defaultdict(set)
        self._counts: dict[tuple[Scope, str], int] = {}

    def unique(self, name: str, scope: Scope) -> str:
        """`name`, or `name` with a number after it, whichever no name in or around `scope` is called yet."""
        blocks: list[Scope] = []
        block: Scope | None = scope.block
        while block is not None:
            blocks.append(block)
            block = block.parent.block if block.parent else None
        found, count = name, self._counts.get((blocks[0], name), 0)
        while any(found in self._used[b] for b in blocks):
            count += 1
            found = f"{name}{count}"
        self._counts[blocks[0], name] = count
        self._used[blocks[0]].add(found)
        return found


def _valid_name(name: str, pattern: str = VARIABLE) -> str:
    """`name` with characters changed until it is a name that the parser reads back."""
    if not re.fullmatch(pattern, name, re.ASCII) or re.search(r"\.\d+\Z", name, re.ASCII):
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        name = name if re.match(r"[A-Za-z_]", name) else "v" + name
    return name if not re.fullmatch(NUMBER, name) else name + "_"


class _Shared:
    """What the functions of one text have in common: constants, symbolic dimensions, names of functions."""

    def __init__(self) -> None:
        self._scope = Scope()
        self._dim_names, self._function_names = _Names(), _Names()
        self._dims: dict[IndexVar, Index] = {}
        self._functions: dict[str, str] = {}
        self._types: dict[Type, str] = {}
        self._constants: dict[int, tuple[int, Constant]] = {}

    def function_name(self, name: str) -> str:
        """The name of a function in the text."""
        if name not in self._functions:
            self._functions[name] = self._function_names.unique(_valid_name(name), self._scope)
        return self._functions[name]

    def constant(self, node: Constant) -> str:
        """A constant in the text."""
        index, _ = self._constants.setdefault(id(node), (len(self._constants), node))
        return f"meta[relay.Constant][{index}]"

    @property
    def constants(self) -> list[Constant]:
        """The constants that the text refers to by number."""
        return [node for _, node in self._constants.values()]

    def metadata(self, shown: bool) -> str:
        """The end of the text: the values of the constants, or that they are left out."""
        if not self._constants:
            return ""
        if not shown:
            return "\n/* the values of meta[relay.Constant] are left out; astext() writes them */\n"
        values = ",\n".join(json.dumps(_encoded(node)) for _, node in self._constants.values())
        return f'\n#[metadata]\n{{"relay.Constant": [\n{values}\n]}}\n'

    def type(self, type_: Type) -> str:
        """A type in the text."""
        if type_ not in self._types:
            self._types[type_] = str(self._renamed(type_))
        return self._types[type_]

    def dim(self, dim: Index) -> Index:
        """A dimension with its variables named as in the text."""
        for var in sorted(dim.variables - self._dims.keys(), key=str):
            name = self._dim_names.unique(_valid_name(var.name, IDENTIFIER).replace(".", "_"), self._scope)
            new = var if name == var.name else IndexVar(name, var.lo, var.hi)
            self._dims[var] = Index(frozenset([(new, 1)]))
        return substitute(dim, self._dims)

    def _renamed(self, type_: Type) -> Type:
        match type_:
            case TensorType(shape=shape, dtype=dtype):
                return TensorType([self.dim(d) if isinstance(d, Index) else d for d in shape], dtype)
            case TupleType(fields=fields):
                return TupleType(map(self._renamed, fields))
            case FuncType(arg_types=args, ret_type=result):
                return FuncType(map(self._renamed, args), self._renamed(result))
        return type_

    def value(self, value: Any) -> str:
        """The value of an attribute in the text; what has no text form is shown as `<...>`, which cannot be read."""
        match value:
            case None | bool() | int() | float():
                return repr(value)
            case str():
                return json.dumps(value)
            case tuple() | list():
                return f"[{', '.join(map(self.value, value))}]"
            case dict():
                return "{" + ", ".join(f"{self.value(k)}: {self.value(v)}" for k, v in value.items()) + "}"
            case Index():
                return f"Dim[{self.dim(value)}]"
        return f"<{value!r}>"


class _Body:
    """The text of one expression."""

    def __init__(self, shared: _Shared, expr: Expr) -> None:
        self.shared = shared
        self.expr = expr
        self.map = ScopeMap(expr)
        self.lines: dict[Scope, Lines] = defaultdict(list)
        self.texts: dict[int, str] = {}
        self.ends: dict[int, Lines] = {}
        self.count = 0
        self._name_variables()

    def expression(self) -> Lines:
        """The lines of an expression by itself."""
        self._write()
        return self._closed(self.map.root, self.expr)

    def definition(self, name: str) -> Lines:
        """The lines of a function in a module."""
        assert isinstance(self.expr, Function)
        self.map.order.pop()
        self._write()
        (scope,) = self.map.inner(self.expr)
        self.lines[scope][:0] = self.lines[self.map.root]  # declarations of free variables
        return self._function(f"def @{self.shared.function_name(name)}", self.expr)

    def _name_variables(self) -> None:
        names = _Names()

        def name(var: Var, scope: Scope) -> None:
            self.texts.setdefault(id(var), "%" + names.unique(_valid_name(var.name_hint), scope))

        # Free and outer variables first: they keep their names.
        for node in self.map.order:
            if isinstance(node, Var) and not self.map.binders(node):
                name(node, self.map.root)
                self.lines[self.map.root].append(f"free_var {self._declared(node)};")
        for node in reversed(self.map.order):
            if isinstance(node, Function | Let):
                for var in node.params if isinstance(node, Function) else (node.var,):
                    name(var, self.map.inner(node)[0])

    def _write(self) -> None:
        for node in self.map.order:
            match node:
                case Var():
                    pass
                case GlobalVar(name_hint=hint):
                    self.texts[id(node)] = f"@{self.shared.function_name(hint)}"
                case Constant(data=data):
                    self.texts[id(node)] = (literal(data) or self.shared.constant(node)) + self._comment(node)
                case _:
                    self._place(node, self._lines_of(node))

    def _place(self, node: Expr, lines: Lines) -> None:
        """Keep the lines of `node` for the end of a block, or give it a number in its own."""
        if self.map.uses[id(node)] == 1 and id(node) in self.map.at_end:
            self.ends[id(node)] = lines
            return
        number, self.count = f"%{self.count}", self.count + 1
        self.texts[id(node)] = number
        if isinstance(node, Let):
            lines = ["(", (2, lines), ")"]
        self.lines[self.map.of(node)] += _wrapped(f"{number} = ", lines, ";")

    def _lines_of(self, node: Expr) -> Lines:
        match node:
            case Call():
                return [self._call(node) + self._comment(node)]
            case Tuple(fields=fields):
                comma = "," if len(fields) == 1 else ""
                return [f"({', '.join(self.texts[id(f)] for f in fields)}{comma})" + self._comment(node)]
            case TupleGetItem(tuple_value=value, index=index):
                return [f"{self._operand(value)}.{index}" + self._comment(node)]
            case Let(var=var, value=value, body=body):
                (scope,) = self.map.inner(node)
                bound = _wrapped(f"let {self._declared(var)} = ", self._end(value), ";")
                return [*bound, (0, self._closed(scope, body))]
            case If(cond=cond, true_branch=yes, false_branch=no):
                then, orelse = self.map.inner(node)
                head = f"if ({self.texts[id(cond)]}) {{"
                return [head, (2, self._closed(then, yes)), "} else {", (2, self._closed(orelse, no)), "}"]
            case Function():
                lines = self._function("fn ", node)
                return _wrapped("", lines, self._comment(node))
        raise AssertionError(node)

    def _function(self, head: str, node: Function) -> Lines:
        params = [self._declared(p) for p in node.params] + self._attributes(node.attrs, {})
        ret_type = node.ret_type or (node.known_type.ret_type if isinstance(node.known_type, FuncType) else None)
        arrow = f"-> {self.shared.type(ret_type)} " if ret_type else ""
        (scope,) = self.map.inner(node)
        return [f"{head}({', '.join(params)}) {arrow}{{", (2, self._closed(scope, node.body)), "}"]

    def _call(self, node: Call) -> str:
        args = [self.texts[id(a)] for a in node.args]
        if isinstance(node.op, Op):
            return f"{node.op.name}({', '.join(args + self._attributes(node.attrs, node.op.defaults()))})"
        return f"{self._operand(node.op)}({', '.join(args + self._attributes(node.attrs, {}))})"

    def _operand(self, node: Expr) -> str:
        """A node before `.0` or `(`."""
        return f"({self.texts[id(node)]})" if isinstance(node, Constant) else self.texts[id(node)]

    def _attributes(self, attributes: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
        shown = {k: v for k, v in attributes.items() if k not in defaults or repr(defaults[k]) != repr(v)}
        return [f"{k if _is_identifier(k) else json.dumps(k)}={self.shared.value(v)}" for k, v in shown.items()]

    def _declared(self, var: Var) -> str:
        if var.type_annotation is None:
            return self.texts[id(var)]
        return f"{self.texts[id(var)]}: {self.shared.type(var.type_annotation)}{self._comment(var)}"

    def _comment(self, node: Expr) -> str:
        return f" /* ty={self.shared.type(node.known_type)} */" if node.known_type is not None else ""

    def _end(self, node: Expr) -> Lines:
        return self.ends.pop(id(node)) if id(node) in self.ends else [self.texts[id(node)]]

    def _closed(self, scope: Scope, result: Expr) -> Lines:
        return [*self.lines.pop(scope, []), (0, self._end(result))]


def _is_identifier(text: str) -> bool:
    return bool(re.fullmatch(IDENTIFIER, text, re.ASCII)) and not re.fullmatch(NUMBER, text)


def _wrapped(before: str, lines: Lines, after: str) -> Lines:
    """Lines with text before the first and after the last of them."""
    first, last = lines[0], lines[-1]
    assert isinstance(first, str) and isinstance(last, str)
    if len(lines) == 1:
        return [before + first + after]
    return [before + first, *lines[1:-1], last + after]


def _joined(lines: Lines) -> str:
    out: list[str] = []
    stack: list[tuple[int, str | tuple[int, Lines]]] = [(0, line) for line in reversed(lines)]
    while stack:
        indent, line = stack.pop()
        if isinstance(line, str):
            out.append(" " * indent + line)
        else:
            stack.extend((indent + line[0], inner) for inner in reversed(line[1]))
    return "\n".join(out)


def _encoded(node: Constant) -> dict[str, Any]:
    data = node.data
    little = data.astype(data.dtype.newbyteorder("<"), copy=False) if data.dtype.kind != "V" else data
    text = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": data.dtype.name, "shape": list(data.shape), "data": text}


use_printer(to_text)
