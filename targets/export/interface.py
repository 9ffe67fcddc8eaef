"""What the caller of an exported model sees: its inputs and outputs, as C."""

import math
import re
from collections.abc import Sequence

from attrs import frozen

from ...ir.types import TensorType, TupleType, numpy_dtype
from ..dialects import C
from ..program import identifier
from ..runnable import Runnable

_AS_BITS = {"bool": "uint8_t", "float16": "uint16_t", "bfloat16": "uint16_t"}


@frozen
class Port:
    """An input or output tensor.

    Attributes:
        slot: its number in the program.
        name: the parameter of the C function.
        label: what the graph calls it; empty for outputs.
        type: its shape and dtype.
    """

    slot: int
    name: str
    label: str
    type: TensorType

    @property
    def ctype(self) -> str:
        """The C type of an element: a type that C++ knows as well, so 16-bit floats are passed as their bits."""
        return _AS_BITS.get(self.type.dtype) or C.types[self.type.dtype]

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.type.static_shape)

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return numpy_dtype(self.type.dtype).itemsize

    @property
    def is_input(self) -> bool:
        """Whether it is an input."""
        return self.name.startswith("in_")


@frozen
class Interface:
    """Inputs and outputs of a model, in the order of the parameters of its C function.

    Attributes:
        name: what the C names begin with; `upper`: the same for macros.
        inputs, outputs: the tensors; one for each member of a tuple.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def upper(self) -> str:
        """What the names of macros begin with."""
        return self.name.upper()

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @property
    def params(self) -> str:
        """The parameter list of the C function that runs the model."""
        listed = [f"{'const ' if port.is_input else ''}{port.ctype} *{port.name}" for port in self.ports]
        return ", ".join(listed) or "void"

    def macro(self, port: Port, what: str) -> str:
        """The name of a constant of a tensor, such as DEFAULT_IN_DATA_SIZE."""
        return f"{self.upper}_{port.name.upper()}_{what}"

    def constants(self, port: Port) -> str:
        """The part of the header that describes a tensor."""
        shape = port.type.static_shape
        rows: list[tuple[str, object]] = [
            ("SIZE", port.elements),
            ("BYTES", port.elements * port.width),
            ("RANK", len(shape)),
            ("SHAPE", "{" + ", ".join(map(str, shape)) + "}"),
            ("DTYPE", c_string(port.type.dtype)),
        ]
        called = ""
        if port.is_input:
            rows.append(("NAME", c_string(port.label)))
            called = f", {c_string(port.label)} of the graph"
        lines = [f"/* {port.name}: {port.type.dtype} {shape}{called} */"]
        lines += [f"#define {self.macro(port, what)} {value}" for what, value in rows if value != "{}"]
        return "\n".join(lines) + "\n\n"


def interface(runnable: Runnable, mod_name: str) -> Interface:
    """The interface of a program, with C names that are valid and differ from each other, as macros too."""
    program, taken = runnable.program, set[str]()
    inputs: list[Port] = []
    for label, slots in program.inputs.items():
        in_tuple = isinstance(program.types[label], TupleType)
        for k, slot in enumerate(slots):
            name = _unique(f"in_{identifier(label)}" + (f"_{k}" if in_tuple else ""), taken)
            inputs.append(Port(slot, name, f"{label}[{k}]" if in_tuple else label, program.slots[slot]))
    outputs = [Port(slot, f"out_{k}", "", program.slots[slot]) for k, slot in enumerate(program.outputs)]
    return Interface(c_name(mod_name), tuple(inputs), tuple(outputs))


def c_name(mod_name: str) -> str:
    """A module's name as the beginning of C names: those that start with a digit or `_` are not the user's."""
    name = identifier(mod_name)
    return name if re.match(r"[A-Za-z]", name) else f"model_{name.lstrip('_')}".rstrip("_")


def c_string(text: str) -> str:
    """A string literal, of ASCII characters, that may also stand in a comment."""
    plain = {*range(32, 127)} - {*b'"\\?*'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode(errors="replace")) + '"'


def _unique(name: str, taken: set[str]) -> str:
    candidates: Sequence[str] = (name, *(f"{name}_{k}" for k in range(1, len(taken) + 2)))
    found = next(c for c in candidates if c.upper() not in taken)
    taken.add(found.upper())
    return found
