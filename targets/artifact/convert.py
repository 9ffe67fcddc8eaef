"""From the classes of the compiler to plain data for JSON, and back.

Program, CpuCode, Arena, Choice and what they consist of are written field by field as they are declared, by cattrs: a
new field of plain data needs nothing here. What is no plain data is replaced by a reference, which a `Packer` gives
out and an `Unpacker` resolves:

    an array       its number in the list of tensors
    a long text    the name of a member
    a function     nothing; the function of a step is found by the step's name when somebody asks for it

On the way back every value must have its declared type, and there may be no field too many or too few.
"""

from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any, Protocol, TypeAlias, TypeVar, get_args, get_origin

import numpy as np
import numpy.typing as npt
from attrs import has, resolve_types
from cattrs import BaseValidationError, Converter, transform_error
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.v import format_exception

from ...ir.deferred import Deferred, force
from ...ir.errors import ArtifactError, FusewireError
from ...ir.expr import Function
from ...ir.types import TensorType, TupleType, Type
from ..cpu import Compiled, CpuCode
from ..launched.code import LaunchCode, LaunchStep
from ..program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step
from .manifest import ModuleText, SavedCode

Array: TypeAlias = npt.NDArray[Any]
Text: TypeAlias = str | Deferred[str]
FunctionRef: TypeAlias = Function | Deferred[Function]

_STEPS = {cls.__name__: cls for cls in (KernelStep, LibraryStep, CopyStep, BranchStep)}
resolve_types(BranchStep)  # which holds steps, a name that is defined after it
_KIND = "kind"
_CODES: dict[str, type[SavedCode]] = {"c": CpuCode, "opencl": LaunchCode, "cuda": LaunchCode, "hip": LaunchCode}
_SEQUENCES: tuple[Any, ...] = (tuple, list)
_MOST_DIMENSIONS = 64  # NumPy has no more
_SHOWN = 3  # how many of many mistakes a message lists
_WORDS = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    float: "a fraction",
    list: "a list",
    dict: "an object",
}
T = TypeVar("T")


class Packer(Protocol):
    """Puts things into a file."""

    def array(self, array: Array) -> int:
        """The number of a tensor."""
        ...

    def text(self, folder: str, text: str) -> str:
        """The member that holds a text."""
        ...

    def data(self, data: bytes) -> str:
        """The member that holds a compiled object."""
        ...


class Unpacker(Protocol):
    """Takes things out of a file; each method raises ArtifactError for what is not there."""

    def array(self, number: int) -> Array:
        """The tensor of this number."""
        ...

    def text(self, member: str) -> Deferred[str]:
        """The text in a member."""
        ...

    def data(self, member: str) -> bytes:
        """The compiled object in a member."""
        ...

    def function(self, name: str) -> Deferred[Function]:
        """The function of a step, or of the program ("main")."""
        ...


# Writing


def unstructurer(packer: Packer) -> Converter:
    """Turns the classes of manifest.py into plain data."""
    c = Converter()
    c.register_unstructure_hook_func(_is_array, packer.array)
    c.register_unstructure_hook_func(_has_int_keys, lambda m: [[k, c.unstructure(v)] for k, v in m.items()])
    c.register_unstructure_hook_func(_is_step, lambda step: {_KIND: type(step).__name__, **c.unstructure(step)})
    c.register_unstructure_hook_func(_is_code, lambda code: {_KIND: kind_of(code), **c.unstructure(code)})
    c.register_unstructure_hook(bytes, packer.data)
    for kind in (Type, TensorType, TupleType):
        c.register_unstructure_hook(kind, _type_as_data)

    def register(cls: type[Any], omit: str = "", **hooks: Callable[[Any], Any]) -> None:
        changes: dict[str, Any] = {name: override(unstruct_hook=hook) for name, hook in hooks.items()}
        changes |= {name: override(omit=True) for name in omit.split()}
        c.register_unstructure_hook(cls, make_dict_unstructure_fn(cls, c, _cattrs_use_alias=True, **changes))

    def member(folder: str) -> Callable[[Text], str]:
        return lambda text: packer.text(folder, force(text))

    for cls in (KernelStep, LibraryStep, Program):
        register(cls, omit="_function")
    register(Compiled, step=lambda step: step.name, _loop_ir=member("loops"), _source=member("c"))
    register(LaunchStep, step=lambda step: step.name, _loop_ir=member("loops"), _source=member("kernels"))
    register(ModuleText, text=member("ir"))

    def in_order(steps: Mapping[int, Any]) -> list[Any]:
        return [c.unstructure(compiled) for compiled in steps.values()]

    def files(folder: str) -> Callable[[Any], Any]:
        return lambda found: [[name, packer.text(folder, text)] for name, text in found]

    def runs(found: Sequence[Sequence[KernelStep]]) -> list[list[str]]:
        return [[step.name for step in run] for run in found]

    register(CpuCode, omit="_library", steps=in_order, segments=runs, files=files("c"))
    register(LaunchCode, steps=in_order, files=files("kernels"))
    return c


def kind_of(code: SavedCode) -> str:
    """What the sources of a module are."""
    return code.language if isinstance(code, LaunchCode) else "c"


def _type_as_data(type_: Type) -> dict[str, Any]:
    if isinstance(type_, TupleType):
        return {"fields": [_type_as_data(field) for field in type_.fields]}
    assert isinstance(type_, TensorType)
    return {"shape": list(type_.static_shape), "dtype": type_.dtype}


# Reading


def structurer(unpacker: Unpacker) -> Converter:
    """Makes objects from plain data, for `structured`."""
    c = Converter()
    for plain in (int, str, bool, float):
        c.register_structure_hook(plain, _strict)
    c.register_structure_hook_factory(has, lambda t: _object_hook(t, c))
    c.register_structure_hook_factory(_is_sequence, lambda t: _listed(t, c))
    c.register_structure_hook_factory(_has_int_keys, lambda t: _paired(t, c))
    c.register_structure_hook_func(_is_array, lambda value, _: unpacker.array(_strict(value, int)))
    c.register_structure_hook_func(lambda t: t == Text, lambda value, _: unpacker.text(_strict(value, str)))
    c.register_structure_hook_func(lambda t: t == FunctionRef, lambda value, _: unpacker.function(_strict(value, str)))
    c.register_structure_hook_func(_is_step, lambda value, _: _one_of(_STEPS, value, c))
    c.register_structure_hook_func(_is_code, lambda value, _: _one_of(_CODES, value, c))
    c.register_structure_hook(bytes, lambda value, _: unpacker.data(_strict(value, str)))
    for kind in (Type, TensorType, TupleType):
        c.register_structure_hook(kind, _type_from_data)
    _register_program(c)
    return c


def structured(c: Converter, value: object, kind: type[T]) -> T:
    """`value`, as it came out of JSON, as a `kind`.

    Raises:
        ArtifactError: it does not fit; the message says what is wrong and where.

    """
    try:
        return c.structure(value, kind)
    except BaseValidationError as group:
        reasons = transform_error(group, path=kind.__name__.lower(), format_exception=_reason)
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise ArtifactError("; ".join(_short(reason) for reason in reasons[:_SHOWN]) + more) from None
    except RecursionError:
        raise ArtifactError("the program is nested too deeply") from None


def _reason(error: BaseException, kind: Any) -> str:
    if isinstance(error, FusewireError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return format_exception(error, None if isinstance(error, TypeError) else kind)


def _register_program(c: Converter) -> None:
    """The classes that refer to functions, to steps, or to texts."""
    known: dict[str, KernelStep] = {}

    def made(cls: type[Any], omit: str = "", **hooks: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        changes: dict[str, Any] = {name: override(struct_hook=_one_argument(h)) for name, h in hooks.items()}
        changes |= {name: override(omit=True) for name in omit.split()}
        hook = _object_hook(cls, c, **changes)
        c.register_structure_hook(cls, hook)
        return hook

    def step(name: object) -> KernelStep:
        if _strict(name, str) not in known:
            raise ArtifactError(f"there is no kernel step {shown(name)}")
        return known[str(name)]

    kernel, library, program = made(KernelStep), made(LibraryStep), made(Program)

    def kernel_step(value: Any, kind: Any) -> KernelStep:
        found: KernelStep = kernel(_with_function(value), kind)
        if known.setdefault(found.name, found) is not found:
            raise ArtifactError(f"there are two steps {shown(found.name)}")
        return found

    c.register_structure_hook(KernelStep, kernel_step)
    c.register_structure_hook(LibraryStep, lambda value, kind: library(_with_function(value), kind))
    c.register_structure_hook(Program, lambda value, kind: program(_with_function(value, "main"), kind))
    made(Compiled, step=step)
    made(LaunchStep, step=step)

    def by_step(kind: Any) -> Callable[[Any], Any]:
        def keyed(items: Any) -> dict[int, Any]:
            steps: Any = c.structure(items, GenericAlias(tuple, (kind, ...)))  # type: ignore[arg-type]
            return {id(x.step): x for x in steps}

        return keyed

    def runs(found: Any) -> list[list[KernelStep]]:
        return [[step(name) for name in run] for run in c.structure(found, list[list[str]])]

    def files(found: Any) -> list[tuple[str, str]]:
        return [(name, force(text)) for name, text in c.structure(found, tuple[tuple[str, Text], ...])]

    made(CpuCode, omit="_library", steps=by_step(Compiled), segments=runs, files=files)
    made(LaunchCode, steps=by_step(LaunchStep), files=files)


def _object_hook(cls: type[Any], c: Converter, **changes: Any) -> Callable[[Any, Any], Any]:
    """How an attrs class is made of an object with its fields."""
    make: Any = make_dict_structure_fn(cls, c, _cattrs_use_alias=True, _cattrs_forbid_extra_keys=True, **changes)
    return lambda value, kind: make(_strict(value, dict), kind)


def _one_argument(hook: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, _: hook(value)


def _with_function(value: Any, name: str = "") -> dict[str, Any]:
    """Plain data of a step or program with the name that its function is found by."""
    data = _strict(value, dict)
    if "function" in data:
        raise ArtifactError("it has a field 'function'")
    return {**data, "function": name or data.get("name")}


def _one_of(classes: Mapping[str, Any], value: Any, c: Converter) -> Any:
    """A step, or code, which say of which kind they are."""
    data = dict(_strict(value, dict))
    kind = data.pop(_KIND, None)
    if not isinstance(kind, str) or kind not in classes:
        what = "step" if classes is _STEPS else "code"
        raise ArtifactError(f"expected a kind of {what} ({', '.join(classes)}), got {shown(kind)}")
    return c.structure(data, classes[kind])


def _type_from_data(value: Any, kind: Any) -> Type:
    data = _strict(value, dict)
    if data.keys() == {"fields"} and kind is not TensorType:
        return TupleType([_type_from_data(field, Type) for field in _strict(data["fields"], list)])
    if data.keys() != {"shape", "dtype"} or kind is TupleType:
        raise ArtifactError(f"expected a type, got {shown(value)}")
    shape = _strict(data["shape"], list)
    if len(shape) > _MOST_DIMENSIONS:
        raise ArtifactError(f"a tensor has {len(shape)} dimensions, expected at most {_MOST_DIMENSIONS}")
    return TensorType([_strict(dim, int) for dim in shape], _strict(data["dtype"], str))


def _listed(kind: Any, c: Converter) -> Callable[[Any, Any], Any]:
    """How lists and tuples of a type are made of a list."""
    make, kinds = get_origin(kind), get_args(kind)
    if make is list or kinds[1:] == (...,):
        return lambda value, _: make(c.structure(item, kinds[0]) for item in _strict(value, list))

    def fixed(value: Any, _: Any) -> Any:
        if len(_strict(value, list)) != len(kinds):
            raise ArtifactError(f"expected {len(kinds)} values, got {shown(value)}")
        return make(c.structure(item, kind) for item, kind in zip(value, kinds, strict=True))

    return fixed


def _paired(kind: Any, c: Converter) -> Callable[[Any, Any], Any]:
    """How mappings from numbers are made of a list of pairs."""
    key, item = get_args(kind)
    pair: Any = GenericAlias(tuple, (key, item))

    def structure(value: Any, _: Any) -> dict[int, Any]:
        pairs: list[tuple[int, Any]] = [c.structure(found, pair) for found in _strict(value, list)]
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ArtifactError("a number occurs twice in a mapping")
        return found

    return structure


def _strict(value: Any, kind: type[T]) -> T:
    """`value`, if it is of exactly this type: True is no number, and 1 no fraction."""
    if type(value) is not kind:
        raise ArtifactError(f"expected {_WORDS.get(kind, kind.__name__)}, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """A value for a message, cut short."""
    return _short(repr(value), 80)


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def _is_step(kind: Any) -> bool:
    return bool(kind == Step)


def _is_code(kind: Any) -> bool:
    return bool(kind == SavedCode)


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) in _SEQUENCES


def _is_array(kind: Any) -> bool:
    return kind is np.ndarray or get_origin(kind) is np.ndarray


def _has_int_keys(kind: Any) -> bool:
    return get_origin(kind) in (dict, Mapping) and get_args(kind)[0] is int
