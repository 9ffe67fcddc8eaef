"""`TupleWrapper`: an expression with several results that unpacks like a Python tuple.

left, right = fw.split(x, 2, axis=1)
values, places = fw.topk(x, k=3)
"""

from collections.abc import Iterator

from attrs import frozen

from .expr import Expr, TupleGetItem


@frozen(eq=False)
class TupleWrapper:
    """An expression known to be a tuple of `size` values; its items are expressions.

    Attributes:
        tuple_value: the expression.
        size: how many values it has.

    """

    tuple_value: Expr
    size: int

    def astuple(self) -> Expr:
        """The expression itself, whose type is a tuple (the body of a function, for example)."""
        return self.tuple_value

    def astext(self, show_meta_data: bool = True) -> str:
        """The expression in Relay's text format."""
        return self.tuple_value.astext(show_meta_data)

    def __getitem__(self, index: int) -> Expr:
        # IndexError, not a FusewireError: Python's unpacking and iteration rely on it.
        if not -self.size <= index < self.size:
            raise IndexError(f"tuple index {index} is out of range for {self.size} values")
        return TupleGetItem(self.tuple_value, index % self.size)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Expr]:
        return (self[i] for i in range(self.size))

    def __str__(self) -> str:
        return str(self.tuple_value)

    def __repr__(self) -> str:
        return f"TupleWrapper({self.tuple_value!r}, {self.size})"
