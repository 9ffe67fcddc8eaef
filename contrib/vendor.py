"""Shared libraries of vendors, called with ctypes: where they lie, their functions, their errors in words.

A library is data: the names of its files, the pip packages that bring them, the arguments of its functions as letters
("pif": a pointer, an int, a float), and what its status codes mean. Nothing is loaded before it is called.
"""

import ctypes
import importlib.metadata
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen

from ..ir.errors import LibraryCallError, LibraryNotFound

_log = logging.getLogger("fusewire")
_LETTERS: Mapping[str, Any] = {
    "p": ctypes.c_void_p, "i": ctypes.c_int, "u": ctypes.c_uint32, "q": ctypes.c_int64, "z": ctypes.c_size_t,
    "f": ctypes.c_float, "d": ctypes.c_double, "b": ctypes.c_bool,
}  # fmt: skip


@frozen(eq=False)
class Vendor:
    """A shared library.

    Attributes:
        title: what people call it.
        files: names of the file, best first.
        packages: pip packages that may bring it, best first.
        folders: further places, with "$NAME" for variables of the environment.
        install: what installs it, for errors.
        functions: the arguments of each function that is used, as letters.
        statuses: what status codes mean, in words that go on after "met".
        create, destroy, set_stream: the functions that make and end a handle, and that give it a stream.
        last_error: the function (char *, size) that tells more about the last error, if there is one.

    """

    title: str
    files: tuple[str, ...]
    install: str
    functions: Mapping[str, str]
    statuses: Mapping[int, str]
    packages: tuple[str, ...] = ()
    create: str = ""
    destroy: str = ""
    set_stream: str = ""
    last_error: str = ""
    folders: tuple[str, ...] = ()

    def load(self) -> Any:
        """The loaded library, its functions declared.

        Raises:
            LibraryNotFound: it is not there, does not load, or is too old; the message says what to install.

        """
        return _loaded(self)

    def probe(self) -> str | None:
        """None if the library can be loaded, else why not and how to install it."""
        return why_missing(self.load)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            LibraryCallError: it gave a status that is no success; the message names the function and says why.

        """
        library = self.load()
        if status := getattr(library, name)(*arguments):
            raise LibraryCallError(f"{name} met {self._words(library, status)}")

    def _words(self, library: Any, status: int) -> str:
        known = self.statuses.get(status) or self.statuses.get(status // 1000 * 1000)  # cuDNN counts within thousands
        words = f"{known or 'an error that is not known here'} (status {status})"
        if not self.last_error or not hasattr(library, self.last_error):
            return words
        text = ctypes.create_string_buffer(4096)
        getattr(library, self.last_error)(text, ctypes.c_size_t(len(text)))
        told = text.value.decode(errors="replace").strip()
        return f"{words}: {told}" if told else words

    def new(self, create: str, destroy: str, *arguments: Any) -> "Handle":
        """An object of the library, ended when nobody has it any more; `create` gets its place and `arguments`."""
        place = ctypes.c_void_p()
        self.call(create, ctypes.byref(place), *arguments)
        return Handle(place, getattr(self.load(), destroy))

    @contextmanager
    def session(self, queue: Any) -> Iterator["Handle"]:
        """The handle of a module, its stream set; `queue`: see `Region.queue`."""
        with queue.using(f"calling {self.title}") as stream:
            handle: Handle = queue.kept(self.title, lambda: self.new(self.create, self.destroy))
            if handle.stream != stream:
                self.call(self.set_stream, handle, stream)
                handle.stream = stream
            yield handle


def of_rocm(package: str, **given: Any) -> Vendor:
    """A library of ROCm, which this package of the system brings; `given`: its other attributes."""
    install = f"install ROCm with {package} (rocm.docs.amd.com has the packages of each system)"
    return Vendor(folders=("$ROCM_PATH/lib", "/opt/rocm/lib"), install=install, **given)


class Handle:
    """An object of a library, given to its functions as it is."""

    def __init__(self, place: ctypes.c_void_p, destroy: Any) -> None:
        self._as_parameter_ = place
        self.stream: int | None = None
        # When the process ends, the device may be gone before us: there is nothing to end then.
        weakref.finalize(self, destroy, place).atexit = False


@cache
def _loaded(vendor: Vendor) -> Any:
    tried = []
    for path in places(vendor):
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
            continue
        for name, letters in vendor.functions.items():
            function = getattr(library, name, None)
            if function is None:
                raise LibraryNotFound(
                    f"{vendor.title}: {path} has no {name}. Install another version: {vendor.install}"
                )
            function.argtypes, function.restype = [_LETTERS[letter] for letter in letters], ctypes.c_int
        return library
    why = "; ".join(dict.fromkeys(tried)) or "there is no such file"
    raise LibraryNotFound(f"{vendor.title}: {vendor.files[0]} does not load ({why}). Install it with: {vendor.install}")


def why_missing(load: Callable[[], object]) -> str | None:
    """None if `load` succeeds, else why not and how to install it, as its LibraryNotFound says."""
    try:
        load()
    except LibraryNotFound as error:
        return str(error)
    return None


def places(vendor: Vendor) -> Iterator[str]:
    """Where the library may be: in pip's packages, in the loader's places, in further folders."""
    wanted = re.compile("|".join(map(re.escape, vendor.files)))
    for package in vendor.packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (str(file.locate()) for file in files if wanted.fullmatch(file.name))
    yield from vendor.files
    for folder in map(os.path.expandvars, vendor.folders):
        yield from (str(path) for name in vendor.files if (path := Path(folder, name)).exists())


def log_search(title: str, kind: str, what: str, found: Sequence[tuple[str, float, int]], chosen: str) -> None:
    """Log what a library found for a call: names, milliseconds and bytes of scratch, fastest first, and its choice."""
    _log.info("%s found %d %s for %s, choosing %s", title, len(found), kind, what, chosen)
    for k, (name, milliseconds, nbytes) in enumerate(found):
        _log.info("  %d) %s - time: %.4f ms, workspace: %d bytes", k, name, milliseconds, nbytes)


def scalar(value: float, double: bool = False) -> Any:
    """A factor as libraries take it: by its place, on the host; a float but where data is double."""
    return ctypes.byref((ctypes.c_double if double else ctypes.c_float)(value))
