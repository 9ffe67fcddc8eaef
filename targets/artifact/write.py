"""Saving a compiled module."""

import hashlib
import json
import logging
import os
import sys
from collections import Counter
from functools import cache
from importlib import metadata
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
from attrs import define, field

from ...ir.errors import ArtifactError, CompileError
from ...ir.module import IRModule
from ..code import Code
from ..cpu import CpuCode, Objects
from ..cpuinfo import cpu_features
from ..runnable import Runnable
from ..target import Target
from .container import write_archive
from .convert import unstructurer
from .manifest import (
    FORMAT,
    LARGEST,
    MANIFEST,
    MANIFEST_HASH,
    VERSION,
    WEIGHTS,
    Manifest,
    Member,
    SavedCode,
    Stored,
    Tensor,
)
from .text import module_to_text

SUFFIX = {"c": "c"}
"""How sources are called, by their folder."""

_log = logging.getLogger("fusewire")


@cache
def fusewire_version() -> str:
    """The version of this package."""
    return metadata.version("fusewire")


def save(
    lib: Runnable,
    target: Target,
    name: str,
    ir_mod: IRModule,
    fused_mod: IRModule,
    path: str | os.PathLike[str],
) -> None:
    """Write a compiled module to a file; see `CompiledModule.save`.

    Raises:
        ArtifactError: the file cannot be written, or the module holds something that text cannot.
        CompileError: the C compiler failed.

    """
    try:
        os.fspath(path)
    except TypeError:
        raise ArtifactError(f"expected the path of a file, got {path!r}") from None
    packer = _Packer()
    converter = unstructurer(packer)
    before, after = module_to_text(ir_mod), module_to_text(fused_mod)
    code = _code(lib.code, target)
    stored = Stored(name, str(target), lib.threads, lib.program, code, lib.arena, lib.choices, before, after)
    module = converter.unstructure(stored)
    facts = FORMAT, VERSION, fusewire_version(), sys.byteorder
    manifest = Manifest(*facts, packer.hashes, tuple(packer.tensors), module)
    text = json.dumps(converter.unstructure(manifest), separators=(",", ":")).encode()
    if len(text) > LARGEST:
        raise ArtifactError(f"the module has too many steps: they take {len(text)} bytes, at most {LARGEST} are kept")
    head = {MANIFEST: text, MANIFEST_HASH: hashlib.sha256(text).hexdigest().encode()}
    members = {name: memoryview(data) for name, data in head.items()} | packer.members
    write_archive(path, members, aligned=WEIGHTS)


def _code(code: Code, target: Target) -> SavedCode:
    """The code as it is kept; that for cpu with what the compiler made of it."""
    if not isinstance(code, SavedCode):
        raise ArtifactError(f"a module for target '{target}' cannot be saved")
    if isinstance(code, CpuCode) and code.files:
        return attrs.evolve(code, objects=_objects(code))
    return code


def _objects(code: CpuCode) -> Objects | None:
    """The compiled code; None where this machine can neither run nor compile it."""
    try:
        return code.compiled()
    except CompileError as error:
        if not cpu_features().missing(code.isa):
            raise
        reason = str(error).partition("\n")[0]
        _log.warning("saved without compiled code, to be compiled where it is loaded: %s", reason)
        return None


@define
class _Packer:
    """Collects members; equal ones are one."""

    members: dict[str, memoryview] = field(factory=dict)
    hashes: dict[str, Member] = field(factory=dict)
    tensors: list[Tensor] = field(factory=list)
    _counts: Counter[str] = field(factory=Counter)
    _names: dict[tuple[bool, str], str] = field(factory=dict)
    _numbers: dict[int, tuple[int, npt.NDArray[Any]]] = field(factory=dict)

    def array(self, array: npt.NDArray[Any]) -> int:
        """The number of a tensor: one for each array object, so that what was shared stays so."""
        if id(array) not in self._numbers:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            member = self._add(WEIGHTS, "bin", raw.data)
            self._numbers[id(array)] = len(self.tensors), array
            self.tensors.append(Tensor(array.dtype.name, array.shape, member))
        return self._numbers[id(array)][0]

    def text(self, folder: str, text: str) -> str:
        """The member that holds a text."""
        return self._add(folder, SUFFIX.get(folder, "txt"), memoryview(text.encode()))

    def data(self, data: bytes) -> str:
        """The member that holds a compiled object."""
        return self._add("objects", "so", memoryview(data))

    def _add(self, folder: str, suffix: str, data: memoryview) -> str:
        found = Member(data.nbytes, hashlib.sha256(data).hexdigest())
        # Weights are mapped, perhaps unverified: nothing else is looked for among them.
        key = folder == WEIGHTS, found.sha256
        if key not in self._names:
            name = self._names[key] = f"{folder}/{self._counts[folder]:04}.{suffix}"
            self._counts[folder] += 1
            self.members[name], self.hashes[name] = data, found
        return self._names[key]
