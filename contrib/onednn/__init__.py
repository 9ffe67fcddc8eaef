"""oneDNN on the CPU (`-libs=onednn`), called through its C API: `rules` says what it takes."""

from ...fuse.library import Library
from . import ffi
from .rules import rules

LIBRARY = Library("onednn", targets=("cpu",), rules=rules(), probe=ffi.probe)
