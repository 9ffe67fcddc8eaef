"""What users give as inputs, checked against what a program wants."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..ir.errors import RuntimeInputError
from ..ir.types import TensorType, TupleType, Type, numpy_dtype
from .device import as_numpy
from .program import Program

Array = npt.NDArray[Any]


class Taker(Protocol):
    """Knows arrays of a device."""

    def adopted(self, value: Any) -> Any | None:
        """`value`, if it lies on the device, as something with a shape and a NumPy dtype."""
        ...


@frozen(eq=False)
class Feed:
    """The inputs of a program: their names, their types, and whether something fits.

    Attributes:
        program: the program.
        taker: knows arrays that need not become NumPy arrays.
    """

    program: Program
    taker: Taker

    def describe(self, name: str) -> str:
        """An input for messages: its name and its type."""
        types = [str(self.program.slots[s]) for s in self.program.inputs[name]]
        return f"{name!r}: {types[0] if len(types) == 1 else '(' + ', '.join(types) + ')'}"

    def name(self, key: str | int) -> str:
        """The name of an input given by name or number.

        Raises:
            RuntimeInputError: there is none.
        """
        names = list(self.program.inputs)
        if isinstance(key, int) and 0 <= key < len(names):
            return names[key]
        if not isinstance(key, str) or key not in names:
            expected = ", ".join(map(self.describe, names)) or "none"
            raise RuntimeInputError(f"there is no input {key!r}; the inputs are {expected}")
        return key

    def fitting(self, name: str, value: Any) -> list[tuple[int, Any]]:
        """The arrays of an input by slot.

        Raises:
            RuntimeInputError: structure, shape or dtype do not fit.
        """
        slots = self.program.inputs[name]
        values = _leaves(value, self.program.types[name])
        if values is None or len(values) != len(slots):
            got = f"{len(value)} values" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
            raise RuntimeInputError(f"input {self.describe(name)} takes a tuple of {len(slots)} arrays, got {got}")
        fitting = []
        for slot, item in zip(slots, values, strict=True):
            type_ = self.program.slots[slot]
            try:
                adopted = self.taker.adopted(item)
                array = adopted if adopted is not None else _as_array(item, type_)
            except (TypeError, ValueError, OverflowError, RuntimeError, BufferError) as error:
                raise RuntimeInputError(
                    f"input {self.describe(name)} was given a {type(item).__name__}: {error}"
                ) from None
            if array.shape != type_.shape or array.dtype != numpy_dtype(type_.dtype):
                raise RuntimeInputError(
                    f"input {self.describe(name)} was given {array.dtype.name} of shape {array.shape}"
                )
            fitting.append((slot, array))
        return fitting


def _leaves(value: Any, type_: Type) -> list[Any] | None:
    """What is given for each tensor of a type, tuples flattened; None where `value` has another structure."""
    if not isinstance(type_, TupleType):
        return [value]
    if not isinstance(value, list | tuple) or len(value) != len(type_.fields):
        return None
    parts = [_leaves(v, t) for v, t in zip(value, type_.fields, strict=True)]
    return [leaf for part in parts for leaf in part or ()] if None not in parts else None


def _as_array(value: Any, type_: TensorType) -> Array:
    """`value` as an array. Python numbers, and lists of them, have no dtype of their own: they take that of `type_`."""
    array = as_numpy(value)
    wanted = numpy_dtype(type_.dtype)
    if (
        isinstance(value, int | float | list | tuple)
        and not isinstance(value, np.generic)
        and array.dtype.kind in "biuf"
    ):
        kinds = "biuf" if wanted.kind in "fV" else "b" if wanted.kind == "b" else "biu"
        return np.asarray(value, wanted) if array.dtype.kind in kinds else array
    return array
