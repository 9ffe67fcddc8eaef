"""The errors a user can meet; every one derives from `FusewireError`.

A message says what was wrong, what was got, what was expected, and where (the printed expression or the file position).
"""

LONGEST = 4000
"""Characters of a message from which on its middle is left out."""


def shortened(text: str) -> str:
    """A message that may hold a whole program or a list of a million numbers, without its middle if it is long."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} [... {len(text) - LONGEST} characters ...] {text[-half:]}"


class FusewireError(Exception):
    """Root of all errors that fusewire raises on purpose."""


class TypeInferenceError(FusewireError):
    """An expression is ill-typed, or its type cannot be found."""


class ParseError(FusewireError):
    """Text is not a valid program; the message gives line and column."""


class VerifyError(FusewireError):
    """An IR invariant is broken (a pass or a library has a bug)."""


class TargetError(FusewireError):
    """A target string names an unknown kind, key, value or library."""


class PlacementError(FusewireError):
    """With `-strict`: a part of the graph would run elsewhere than the target asks."""


class CompileError(FusewireError):
    """The system compiler is missing or refused a generated source."""


class ArtifactError(FusewireError):
    """A module cannot be saved, or a file is no saved module: damaged, edited, or of another version."""


class RuntimeInputError(FusewireError):
    """A name, shape or dtype handed to a compiled module does not fit."""


class DeviceNotFound(FusewireError):
    """The device that a target needs is not present."""


class DeviceError(FusewireError):
    """A device refused or failed: too little memory, a kernel that it cannot run, wrong results."""


class LibraryNotFound(FusewireError):
    """A library named in `-libs=` cannot be loaded; the message names the command that installs it."""


class LibraryCallError(FusewireError):
    """A library could not prepare or run a part of the graph; the message names the operator, the shapes and why."""
