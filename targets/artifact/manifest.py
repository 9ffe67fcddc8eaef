"""What a file says of a module, as classes; convert.py turns them into plain data for JSON, and back."""

from typing import Any, TypeAlias

import numpy.typing as npt
from attrs import frozen

from ...ir.deferred import Deferred
from ..cpu import CpuCode
from ..explain import Choice
from ..launched.code import LaunchCode
from ..memory import Arena
from ..program import Program

FORMAT = "fusewire module"
VERSION = 5
"""Counts up with every change to what files hold; only files of this version are read."""

MANIFEST, MANIFEST_HASH = "manifest.json", "manifest.sha256"
WEIGHTS = "weights"
"""The folder of the tensors' bytes, and of nothing else."""

SavedCode: TypeAlias = CpuCode | LaunchCode
"""The code that files can hold."""

LARGEST = 1 << 23
"""Bytes of the manifest, and of the text of a module, at most: enough for some thousand kernels, and quickly read."""


@frozen
class Member:
    """A member of the archive: its bytes, and their hash as hexadecimal digits."""

    size: int
    sha256: str


@frozen
class Tensor:
    """An array whose elements are the bytes of a member."""

    dtype: str
    shape: tuple[int, ...]
    member: str


@frozen
class Manifest:
    """The outer part: readable by itself, and needed to read the rest.

    Attributes:
        format, version: `FORMAT` and `VERSION`.
        fusewire: the version of fusewire that wrote the file.
        byteorder: little or big, for the tensors.
        members: all members but the manifest and its hash.
        tensors: the arrays that the module refers to by number.
        module: a `Stored`, not looked into yet.
    """

    format: str
    version: int
    fusewire: str
    byteorder: str
    members: dict[str, Member]
    tensors: tuple[Tensor, ...]
    module: Any


@frozen(eq=False)
class ModuleText:
    """A module in Relay's text format.

    Attributes:
        text: the program.
        constants: the tensors that `meta[relay.Constant][k]` stands for.
        params: the names of main's parameters; some are no names in the text, which has others in their places.
    """

    text: str | Deferred[str]
    constants: tuple[npt.NDArray[Any], ...]
    params: tuple[str, ...]


@frozen(eq=False)
class Stored:
    """The inner part: a compiled module. The code refers to the steps of the program, which is read before it.

    Attributes:
        name: what `lib[...]` finds it by.
        target: the target string.
        threads: how many threads it ran on where it was saved.
        program, code, arena: as in `Runnable`.
        choices: what `explain` shows.
        ir_mod, fused_mod: the module before and after fusion.
    """

    name: str
    target: str
    threads: int
    program: Program
    code: SavedCode
    arena: Arena
    choices: tuple[Choice, ...]
    ir_mod: ModuleText
    fused_mod: ModuleText
