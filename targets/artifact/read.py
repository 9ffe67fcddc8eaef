"""Loading a saved module: check everything, map the weights, and leave the text unparsed until somebody asks for it.

Objects are used as they are where this processor has the features that they need and the system loads them. Without
the features, kernels are made anew from the IR for this processor, unless the target names a processor. If the system
refuses the objects, the C files are compiled.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
import numpy as np
import numpy.typing as npt
from attrs import define, field

from ...ir.deferred import Deferred
from ...ir.errors import ArtifactError, FusewireError, TypeInferenceError
from ...ir.expr import Function
from ...ir.types import TensorType, numpy_dtype
from ..backends import BACKENDS, backend_of
from ..build import make_runnable, threads_for
from ..compiled import CompiledModule, params_of
from ..cpu import CpuCode
from ..cpuinfo import cpu_features, isa_for, usable_cores
from ..program import KernelStep, LibraryStep, Program, make_program
from ..runnable import Runnable
from ..target import Target
from .container import ALIGN, forget, hash_and_forget, read_archive
from .convert import kind_of, shown, structured, structurer
from .manifest import FORMAT, LARGEST, MANIFEST, MANIFEST_HASH, VERSION, WEIGHTS, Manifest, Stored, Tensor
from .report import StoredReport
from .text import module_from_text
from .validate import agrees, check_stored
from .write import fusewire_version

T = TypeVar("T")

_log = logging.getLogger("fusewire")


def load(path: str | os.PathLike[str], verify_weights: bool = True) -> CompiledModule:
    """Load a module that `CompiledModule.save` wrote. It gives the same results as the one that was saved.

    The weights are not read but mapped, so the file must not be changed in place while the module is in use (replacing
    or deleting it is fine). Nothing is compiled if this machine can run what the file holds.

    A file with native code is to be trusted like a program. Hashes are checked, and all that the code takes for granted
    of the tables it works on; this finds damage, not malice.

    Args:
        path: the file.
        verify_weights: whether the weights' hashes are checked, too; that is most of the time that loading takes.

    Raises:
        ArtifactError: the file cannot be read, is no saved module, is of another format version, or is damaged.
        TargetError: this version of fusewire does not know the module's target.

    """
    try:
        name = os.fspath(path)
    except TypeError:
        raise ArtifactError(f"expected the path of a file, got {path!r}") from None
    with _reading(name):
        members = read_archive(name)
        unpacker = _Unpacker(name, members)
        converter = structurer(unpacker)
        manifest = structured(converter, _manifest_data(members), Manifest)
        if manifest.byteorder != sys.byteorder:
            raise ArtifactError(f"its numbers are {manifest.byteorder}-endian, this machine's are {sys.byteorder}")
        _verify(manifest, members, verify_weights)
        unpacker.tensors = [_array(tensor, members) for tensor in manifest.tensors]
        stored = structured(converter, manifest.module, Stored)
        check_stored(stored)
        return _assembled(stored, manifest.fusewire, unpacker)


@contextmanager
def _reading(path: str | bytes) -> Iterator[None]:
    """Name the file in errors, once."""
    try:
        yield
    except ArtifactError as error:
        named = str(error).startswith(repr(path))
        raise error if named else ArtifactError(f"{path!r}: {error}") from None
    except RecursionError:
        raise ArtifactError(f"{path!r}: the program is nested too deeply") from None


def _manifest_data(members: Mapping[str, memoryview]) -> object:
    """The manifest as plain data, of a format version that this fusewire reads."""
    for name in (MANIFEST, MANIFEST_HASH):
        if name not in members:
            raise ArtifactError(f"not a saved module: it has no {name}")
    data = members[MANIFEST]
    if data.nbytes > LARGEST:
        raise ArtifactError(f"the manifest has {data.nbytes} bytes, expected at most {LARGEST}")
    if members[MANIFEST_HASH].nbytes != 64 or str(members[MANIFEST_HASH], "latin1") != _hash(data):
        raise ArtifactError("the manifest is damaged: its hash differs")
    try:
        found = json.loads(str(data, "utf-8"), object_pairs_hook=_object)
    except ValueError as error:
        raise ArtifactError(f"the manifest is damaged: {error}") from None
    about = found if isinstance(found, dict) else {}
    if about.get("format") != FORMAT:
        raise ArtifactError(f"not a saved module: its format is {shown(about.get('format'))}, expected {FORMAT!r}")
    if about.get("version") != VERSION:
        raise ArtifactError(
            f"format version {shown(about.get('version'))}, written by fusewire {shown(about.get('fusewire'))}; "
            f"this is fusewire {fusewire_version()}, which reads version {VERSION}"
        )
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _hash(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _verify(manifest: Manifest, members: Mapping[str, memoryview], weights: bool) -> None:
    """Check that members are those of the manifest, and their hashes."""
    found = members.keys() - {MANIFEST, MANIFEST_HASH}
    if wrong := sorted(found ^ manifest.members.keys()):
        verb = "is not in the manifest" if wrong[0] in found else "is missing"
        raise ArtifactError(f"member {shown(wrong[0])} {verb}")
    for name, member in manifest.members.items():
        if members[name].nbytes != member.size:
            raise ArtifactError(f"member {name!r} has {members[name].nbytes} bytes, expected {member.size}")
    names = [name for name in manifest.members if weights or not name.startswith(f"{WEIGHTS}/")]
    with ThreadPoolExecutor(usable_cores()) as pool:
        for name, digest in zip(names, pool.map(lambda name: hash_and_forget(members[name]), names), strict=True):
            if digest != manifest.members[name].sha256:
                raise ArtifactError(f"member {name!r} is damaged: its hash differs")
    forget(members[MANIFEST])


def _array(tensor: Tensor, members: Mapping[str, memoryview]) -> npt.NDArray[Any]:
    """A tensor as a view of the map."""
    if tensor.member not in members or not tensor.member.startswith(f"{WEIGHTS}/"):
        raise ArtifactError(f"there is no tensor {shown(tensor.member)}")
    data = members[tensor.member]
    try:
        type_ = TensorType(tensor.shape, tensor.dtype)
        if type_.nbytes != data.nbytes:
            raise ArtifactError(f"{tensor.member!r} has {data.nbytes} bytes, but {type_} has {type_.nbytes}")
        dtype = numpy_dtype(type_.dtype)
        if not data.nbytes:
            array = np.empty(type_.static_shape, dtype)
            array.setflags(write=False)
            return array
        array = np.frombuffer(data, dtype).reshape(type_.static_shape)
        if array.ctypes.data % ALIGN:
            raise ArtifactError(f"{tensor.member!r} is not at a multiple of {ALIGN} bytes: the file was packed anew")
        return array
    except (TypeInferenceError, ValueError) as error:
        raise ArtifactError(f"{tensor.member!r} cannot be a tensor: {error}") from None


@define
class _Unpacker:
    """Finds what the module refers to."""

    path: str | bytes
    members: Mapping[str, memoryview]
    tensors: Sequence[npt.NDArray[Any]] = ()
    functions: Deferred[dict[str, Function]] = field(init=False)

    def array(self, number: int) -> npt.NDArray[Any]:
        """The tensor of this number."""
        if not 0 <= number < len(self.tensors):
            raise ArtifactError(f"there is no tensor {number}, but {len(self.tensors)} from 0 on")
        return self.tensors[number]

    def text(self, member: str) -> Deferred[str]:
        """The text in a member."""
        data = self._member(member)

        def decoded() -> str:
            try:
                return str(data, "utf-8")
            except UnicodeDecodeError as error:
                raise ArtifactError(f"member {member!r} is no text: {error}") from None

        return self.later(decoded)

    def data(self, member: str) -> bytes:
        """The compiled object in a member."""
        return self._member(member).tobytes()

    def function(self, name: str) -> Deferred[Function]:
        """The function of a step, or of the program ("main")."""
        return Deferred(lambda: self.functions.get()[name])

    def later(self, make: Callable[[], T]) -> Deferred[T]:
        """A value that is made when it is needed, with errors that name the file."""

        def made() -> T:
            with _reading(self.path):
                try:
                    return make()
                except FusewireError as error:
                    raise ArtifactError(str(error)) from None

        return Deferred(made)

    def _member(self, name: str) -> memoryview:
        # Weights may be unverified: nothing else is taken from there.
        if name not in self.members or name.startswith(f"{WEIGHTS}/"):
            raise ArtifactError(f"there is no member {shown(name)}")
        return self.members[name]


def _assembled(stored: Stored, version: str, unpacker: _Unpacker) -> CompiledModule:
    """The module, with its own kernels or with new ones; `version` is that of the fusewire that saved it."""
    target = Target.stored(stored.target)
    if target.kind not in BACKENDS or BACKENDS[target.kind].source != kind_of(stored.code):
        raise ArtifactError(f"it was built for target '{target}', for which no module has {kind_of(stored.code)} code")
    before = unpacker.later(lambda: module_from_text(stored.ir_mod))
    after = unpacker.later(lambda: module_from_text(stored.fused_mod))
    unpacker.functions = unpacker.later(lambda: _functions(stored, after.get()["main"]))
    report = StoredReport(
        target.kind, (), (), {choice.step: choice for choice in stored.choices}, precision=target.precision or "float32"
    )
    reason = _why_anew(stored, target, version)
    if reason:
        _log.info("%s: making the kernels anew, since %s", unpacker.path, reason)
        runnable = make_runnable(after.get()["main"], target, backend_of(target.kind).isa(target), report, stored.name)
    else:
        # The flags are this machine's: nobody's compiler is called with what stands in a file.
        if isinstance(stored.code, CpuCode):
            stored.code.isa = attrs.evolve(stored.code.isa, cflags=isa_for(target).cflags)
        runnable = Runnable(stored.program, stored.code, stored.arena, threads_for(target), report)
    return CompiledModule(target, before, after, params_of(runnable.program), runnable, stored.name)


def _why_anew(stored: Stored, target: Target, version: str) -> str:
    """Why the stored kernels cannot be used and new ones must be made; empty if they can, or must not be replaced."""
    missing = cpu_features().missing(stored.code.isa) if isinstance(stored.code, CpuCode) else ()
    if missing and target.mcpu in (None, "native") and not (target.mattr or target.mtriple):
        return f"they need {', '.join(missing)}, which this processor does not have"
    if agrees(stored.program, stored.code):
        return ""
    if version == fusewire_version():
        raise ArtifactError("its code was not made for its program")
    return f"they were made by fusewire {version}"


def _functions(stored: Stored, main: Function) -> dict[str, Function]:
    """The function of each step by name, and that of the program as "main", found by making the steps again."""
    program, again = stored.program, make_program(main, stored.name)
    steps, found = program.leaf_steps(), again.leaf_steps()
    if again.types != program.types or len(found) != len(steps):
        raise ArtifactError("its program and its IR have different inputs or steps")
    functions = {"main": main}
    for step, new in zip(steps, found, strict=True):
        function = functions[step.name] = new.function
        same = _slot_types(program, step) == _slot_types(again, new) and type(step) is type(new)
        if not same or (isinstance(new, LibraryStep) and "Compiler" not in function.attrs):
            raise ArtifactError(f"step {step.name!r} is something else in its IR: {new.name!r}")
    return functions


def _slot_types(program: Program, step: KernelStep | LibraryStep) -> tuple[list[TensorType], ...]:
    return [program.slots[s] for s in step.inputs], [program.slots[s] for s in step.outputs]
