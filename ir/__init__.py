"""What a program is: types, expressions, the loop IR, text format, analyses."""

from . import printer

__all__ = ["printer"]  # imported here so that `str(expr)` works whichever part of this package is used first
