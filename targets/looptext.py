"""The loop IR as text, for people: what `get_source(kind="loops")` and golden tests show.

kernel fused_add(p0: float32[4, 8], p1: float32[8]) -> (out: float32[4, 8])
  parallel i0 in 0..3:
    for i1 in 0..7:
      out[i0, i1] = p0[i0, i1] + p1[i1]
"""

from collections.abc import Sequence

from ..ir.index import Index
from ..ir.loops import Alloc, Barrier, For, If, Kernel, Prefetch, Stmt, Store
from ..ir.scalar import Apply, Buffer, Const, Load, Scalar
from .rewrite import all_values

_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "and", "or": "or", "xor": "^", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
_HEADS = {"serial": "for", "rolled": "for", "short": "for", "unrolled": "unroll", "vectorised": "vector"}
_LONGEST = 4000


def kernel_text(kernel: Kernel) -> str:
    """A kernel as text."""
    ins, outs = (", ".join(f"{b.name}: {_type(b)}" for b in part) for part in (kernel.inputs, kernel.outputs))
    lines = [f"kernel {kernel.name}({ins}) -> ({outs})"]
    lines += [f"  # {note}" for note in kernel.notes]
    lines += _block(kernel.body, "  ")
    return "\n".join(lines) + "\n"


def _type(buffer: Buffer) -> str:
    lanes = f"x{buffer.lanes}" if buffer.lanes > 1 else ""
    return f"{buffer.dtype}{lanes}[{', '.join(map(str, buffer.shape))}]"


def _block(body: Sequence[Stmt], indent: str) -> list[str]:
    lines: list[str] = []
    for stmt in body:
        match stmt:
            case For(var=var, extent=extent, body=inner, kind=kind):
                lines.append(f"{indent}{_HEADS.get(kind, kind)} {var} in 0..{extent - 1}:")
                lines += _block(inner, indent + "  ")
            case Store(buffer=buffer, index=index, value=value):
                lanes = f"::{value.lanes}" if value.lanes > 1 and buffer.lanes == 1 else ""
                lines.append(f"{indent}{buffer.name}[{_places(index)}{lanes}] = {value_text(value)}")
            case Alloc(buffer=buffer):
                lines.append(f"{indent}{buffer.scope} {buffer.name}: {_type(buffer)}")
            case If(cond=cond, then=then, orelse=orelse):
                lines += [f"{indent}if {value_text(cond)}:", *_block(then, indent + "  ")]
                if orelse:
                    lines += [f"{indent}else:", *_block(orelse, indent + "  ")]
            case Barrier(scope=scope):
                lines.append(f"{indent}barrier {scope}")
            case Prefetch(buffer=buffer, index=index, write=write):
                purpose = " to write" if write else ""
                lines.append(f"{indent}prefetch {buffer.name}[{_places(index)}]{purpose}")
    return lines


def _places(index: Sequence[Index]) -> str:
    return ", ".join(map(_index, index))


def _index(index: Index) -> str:
    return "[value]" if index.values else str(index)


def value_text(root: Scalar) -> str:
    """A value as text; very large ones are cut short."""
    texts: dict[int, str] = {}
    for node in all_values([root]):
        text = _text(node, texts)
        texts[id(node)] = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return texts[id(root)]


def _text(node: Scalar, texts: dict[int, str]) -> str:
    match node:
        case Index():
            return _index(node)
        case Const(value=value):
            return str(value)
        case Load(buffer=buffer, index=index, lanes=lanes):
            wide = f"::{lanes}" if lanes > 1 and buffer.lanes == 1 else ""
            return f"{buffer.name}[{_places(index)}{wide}]"
        case Apply(fn=fn, args=args, dtype=dtype):
            parts = [texts[id(a)] for a in args]
            if fn in _SIGNS and len(parts) == 2:
                return f"({parts[0]} {_SIGNS[fn]} {parts[1]})"
            if fn == "select":
                return f"({parts[1]} if {parts[0]} else {parts[2]})"
            name = f"{dtype}" if fn == "cast" else fn
            return f"{name}({', '.join(parts)})"
    raise TypeError(f"not a value: {node!r}")
