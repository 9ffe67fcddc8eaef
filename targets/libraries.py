"""Finding the libraries that `-libs=` names: those of this process, of contrib, and of other installed packages.

A program makes a library of its own known with `register_library`. A package offers one by an entry point of the group
"fusewire.libraries", whose value is a `Library`. This lookup is the only place that knows of contrib; its modules are
imported when a target names them.
"""

import importlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata

from ..fuse.library import Library
from ..fuse.partition import Decision, why_unused
from ..ir.errors import LibraryNotFound, TargetError
from .target import KINDS, LIBRARY_GROUP, Target, register_library_name

_log = logging.getLogger("fusewire")

BUILTIN = {
    name: f"contrib.{name}" for name in ("clblast", "cublas", "cudnn", "miopen", "onednn", "openblas", "rocblas")
}
_registered: dict[str, Library] = {}


def register_library(library: Library) -> Library:
    """Let `-libs=` find a library while this process runs; again with the same name, the new one takes its place.

    Packages that are installed offer theirs by an entry point instead.

    Returns:
        The library.

    Raises:
        TargetError: it is no `Library`, its name is one of fusewire's own or not fit for a target string, or it works
            on a kind of target that there is not.
    """
    if not isinstance(library, Library):
        raise TargetError(f"expected a Library, got a {type(library).__name__}")
    if library.name in BUILTIN:
        raise TargetError(f"{library.name!r} is the name of a library that fusewire brings; choose another")
    if unknown := [kind for kind in library.targets if kind not in KINDS]:
        raise TargetError(f"library {library.name}: no target is called {unknown[0]!r}; there are {', '.join(KINDS)}")
    register_library_name(library.name, library.targets)
    _registered[library.name] = library
    find_library.cache_clear()
    return library


@lru_cache(maxsize=64)
def find_library(name: str) -> Library:
    """The library called `name`.

    Raises:
        TargetError: there is none, or the package that offers it does not give a `Library` of this name.
        LibraryNotFound: the package that offers it cannot be imported.
    """
    if name in BUILTIN:
        return _checked(name, importlib.import_module(f"..{BUILTIN[name]}", __package__).LIBRARY)
    if name in _registered:
        return _registered[name]
    for point in metadata.entry_points(group=LIBRARY_GROUP, name=name):
        try:
            return _checked(name, point.load())
        except (ImportError, AttributeError) as error:
            raise LibraryNotFound(f"the library {name!r} is offered as {point.value}: {error}") from error
    raise TargetError(f"no library is called {name!r}")


def _checked(name: str, library: object) -> Library:
    if not isinstance(library, Library):
        raise TargetError(f"the entry point {name!r} in {LIBRARY_GROUP} gives a {type(library).__name__}, no Library")
    if library.name != name:
        raise TargetError(f"the entry point {name!r} in {LIBRARY_GROUP} gives a library called {library.name!r}")
    return library


def libraries_of(target: Target) -> list[Library]:
    """The libraries that a target names, in its order.

    Raises:
        TargetError: one does not work on this kind of target.
    """
    found = [find_library(name) for name in target.libs]
    for library in found:
        if target.kind not in library.targets:
            raise TargetError(f"target '{target}': {library.name} works on {', '.join(library.targets)}")
    return found


def require(libraries: Sequence[Library]) -> None:
    """Check that libraries can be loaded.

    Raises:
        LibraryNotFound: one cannot; the message says why, and what installs it.
    """
    for library in libraries:
        if reason := library.probe():
            raise LibraryNotFound(f"{library.name}: {reason}")


def warn_unused(libraries: Sequence[Library], decisions: Sequence[Decision]) -> None:
    """Log a warning, with the reasons, for each requested library that took nothing."""
    for library in libraries:
        if reason := why_unused(library, decisions):
            _log.warning("library %s is not used: %s", library.name, reason)
