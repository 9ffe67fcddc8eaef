"""Values that are made when they are first asked for: what a stored module keeps as text until somebody looks."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Deferred(Generic[T]):
    """A value and how to make it; it is made once, by the first `get`, whichever thread that comes from.

    Args:
        make: makes the value. What it raises comes out of `get`, and the next `get` tries again.
    """

    __slots__ = ("_lock", "_make", "_value")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._value: T | None = None
        self._lock = threading.RLock()

    def get(self) -> T:
        """The value."""
        with self._lock:
            if self._make is not None:
                self._value = self._make()
                self._make = None
        return cast(T, self._value)

    def __reduce__(self) -> tuple[type["Deferred[T]"], tuple[Callable[[], T]]]:
        """To another process goes the recipe, which must be a function of a module."""
        if self._make is None:
            raise TypeError("a deferred value that was made stays in its process")
        return Deferred, (self._make,)


def force(value: "T | Deferred[T]") -> T:
    """`value`, made if it was deferred."""
    return cast(T, value.get() if isinstance(value, Deferred) else value)
