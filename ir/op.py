"""What the IR needs to know of an operator: its name, and the type of its result.

`ops.spec.OpSpec` adds everything else (builder, NumPy reference, lowering, ...). The table by name exists for the
parser, for operators on expressions (`a + b`) and for patterns.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from .errors import FusewireError
from .types import Type


class Attrs(Mapping[str, Any]):
    """The immutable, hashable attributes of a call; `a.axis` and `a["axis"]` are the same."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, Any] = {}) -> None:
        object.__setattr__(self, "_items", {key: freeze(value) for key, value in items.items()})
        object.__setattr__(self, "_hash", None)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        try:
            return self._items[key]
        except KeyError:
            raise AttributeError(f"no attribute {key!r}; there are {', '.join(self._items) or 'none'}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError("attributes of a call cannot be changed; build a new call")

    def __reduce__(self) -> tuple[Any, ...]:
        return Attrs, (self._items,)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        # repr tells 1 from 1.0 and makes nan equal to itself.
        return isinstance(other, Attrs) and repr(self) == repr(other)

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash(repr(self)))
        return int(self._hash)

    def __repr__(self) -> str:
        return "Attrs(" + ", ".join(f"{k}={self._items[k]!r}" for k in sorted(self._items)) + ")"

    def replace(self, **changes: Any) -> "Attrs":
        """These attributes with some set anew."""
        return Attrs({**self._items, **changes})


def freeze(value: Any) -> Any:
    """`value` with lists turned into tuples and NumPy scalars into Python's."""
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    if isinstance(value, dict):
        return {key: freeze(v) for key, v in value.items()}
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


@attrs.frozen(eq=False, repr=False)
class Op:
    """An operator as the IR sees it. Operators are compared by identity; there is one object for each name."""

    name: str

    def infer(self, args: Sequence[Type], attributes: Attrs) -> Type:
        """The type of the result.

        Raises:
            TypeInferenceError: the argument types do not fit.

        """
        raise NotImplementedError(self.name)

    def complete(self, args: Sequence[Type | None], attributes: Attrs) -> Sequence[Type | None]:
        """`args` with unknown types filled in where the known ones and the attributes decide them."""
        return args

    def build(self, *args: Any, **attributes: Any) -> Any:
        """Make a call as the public builder function does."""
        raise NotImplementedError(self.name)

    def defaults(self) -> Mapping[str, Any]:
        """The attributes that may be left out, and what they are then; the printer leaves these out."""
        return {}

    def full_attributes(self, args: Sequence[Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes of a call on `args` for which only `given` is written down (the parser's entry).

        Raises:
            FusewireError: an attribute is unknown or missing.

        """
        return {**self.defaults(), **given}

    def __reduce__(self) -> tuple[Any, ...]:
        return get_op, (self.name,)  # copied and unpickled, an operator is still the same object

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


_OPS: dict[str, Op] = {}


def register(op: Op) -> None:
    """Make `op` known by its name; a name is taken once."""
    if op.name in _OPS:
        raise FusewireError(f"operator {op.name!r} is declared twice")
    _OPS[op.name] = op


def get_op(name: str) -> Op:
    """The operator called `name`.

    Raises:
        FusewireError: there is none; the message offers the nearest names.

    """
    try:
        return _OPS[name]
    except KeyError:
        near = difflib.get_close_matches(name, _OPS, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise FusewireError(f"unknown operator {name!r}{hint}") from None


def all_ops() -> dict[str, Op]:
    """Every operator by name."""
    return dict(_OPS)
