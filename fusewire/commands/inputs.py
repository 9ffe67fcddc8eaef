"""Arrays for the inputs of a module: out of files, or made up."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from ..ir.errors import FusewireError
from ..ir.types import TensorType, TupleType, Type, numpy_dtype
from ..targets.compiled import CompiledModule
from .images import read_image
from .options import InputOptions

Array = npt.NDArray[Any]


def input_types(library: CompiledModule) -> dict[str, Type]:
    """The types of the inputs by name."""
    return {p.name_hint: p.checked_type for p in library.program.function.params}


def make_inputs(types: Mapping[str, Type], options: InputOptions) -> dict[str, Any]:
    """An array for every input (a tuple of arrays for a tuple).

    Raises:
        FusewireError: a file cannot be read, or does not fit an input.
        click.BadParameter: a name is no input, or given twice.
    """
    given: dict[str, Array] = {}
    for text in options.inputs:
        for name, array in _read(text, types, options):
            if name in given:
                raise _bad(f"input {name!r} is given twice")
            given[name] = _fitting(name, array, types[name])
    return {
        name: given[name]
        if name in given
        else _filled(type_, options.fill_mode, np.random.default_rng([options.seed, k]))
        for k, (name, type_) in enumerate(types.items())
    }


def _bad(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="'--inputs'")


def _read(text: str, types: Mapping[str, Type], options: InputOptions) -> Iterator[tuple[str, Array]]:
    """Names and arrays out of one --inputs."""
    name, path = _split(text, types)
    if not path.is_file():
        raise _bad(f"there is no file {str(path)!r}")
    loaded = _load(path) if path.suffix in (".npz", ".npy") else None
    if isinstance(loaded, dict):
        if name is not None:
            raise _bad(f"{path} is an archive, whose arrays have names; leave {name}= away")
        if not loaded:
            raise FusewireError(f"{path} holds no arrays")
        yield from ((_known(key, types), array) for key, array in loaded.items())
        return
    name = _only(path, types) if name is None else _known(name, types)
    if loaded is not None:
        yield name, loaded
        return
    type_ = types[name]
    if not isinstance(type_, TensorType):
        raise FusewireError(f"input {name!r} is a tuple, which no picture can be")
    yield name, read_image(path, name, type_, options)


def _split(text: str, types: Mapping[str, Type]) -> tuple[str | None, Path]:
    """NAME=FILE or FILE; both names and paths may hold "="."""
    places = [k for k, c in enumerate(text) if c == "="]
    for k in places:
        if text[:k] in types:
            return text[:k], Path(text[k + 1 :])
    if not places or Path(text).is_file():
        return None, Path(text)
    return text[: places[0]], Path(text[places[0] + 1 :])


def _shown(types: Mapping[str, Type]) -> str:
    return ", ".join(f"{name}: {type_}" for name, type_ in types.items()) or "none"


def _known(name: str, types: Mapping[str, Type]) -> str:
    if name not in types:
        raise _bad(f"there is no input {name!r}; the inputs are {_shown(types)}")
    return name


def _only(path: Path, types: Mapping[str, Type]) -> str:
    if not types:
        raise _bad(f"what is {path} for? The model has no inputs")
    if len(types) != 1:
        raise _bad(f"which input is {path} for? Write NAME={path}; the inputs are {_shown(types)}")
    return next(iter(types))


def _load(path: Path) -> Any:
    """What an .npy file (an array) or an .npz file (arrays by name) holds; objects are refused, as they are code."""
    try:
        with path.open("rb") as file:
            if not file.read(8).startswith((b"PK", b"\x93NUMPY")):
                raise ValueError("it is no file of NumPy's")
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.lib.npyio.NpzFile):
                return {key: found[key] for key in found.files}
    except Exception as error:  # damaged archives raise what zipfile, zlib and NumPy's parser happen to raise
        raise FusewireError(f"cannot read {path}: {error}") from error
    return found


def _fitting(name: str, given: Any, type_: Type) -> Array:
    """`given` as what an input takes.

    NumPy's files know no bfloat16: they keep such numbers as two nameless bytes each, or they come as float32.
    """
    if not isinstance(type_, TensorType):
        raise FusewireError(f"input {name!r} is a tuple of tensors, which no file can give; got one array")
    if not isinstance(given, np.ndarray):
        raise FusewireError(f"input {name!r}: expected an array, got a {type(given).__name__}")
    array: Array = given
    if type_.dtype == "bfloat16" and array.dtype == np.float32:
        array = array.astype(numpy_dtype("bfloat16"))
    elif type_.dtype == "bfloat16" and array.dtype == np.dtype("V2"):
        array = array.view(numpy_dtype("bfloat16"))
    if array.shape != type_.static_shape or array.dtype != numpy_dtype(type_.dtype):
        raise FusewireError(f"input {name!r} is {type_}; the file has {array.dtype.name} of shape {array.shape}")
    return array


def _filled(type_: Type, mode: str, rng: np.random.Generator) -> Any:
    """Made-up values: floating numbers in [-1, 1); int8 and uint8 in [0, 128); other integers 0 or 1.

    0 and 1 are a valid mask, token type or class, and a valid index into anything that has two rows.
    """
    if isinstance(type_, TupleType):
        return tuple(_filled(part, mode, rng) for part in type_.fields)
    assert isinstance(type_, TensorType)
    shape, dtype = type_.static_shape, numpy_dtype(type_.dtype)
    if mode != "random":
        return np.full(shape, mode == "ones", dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 128 if dtype.itemsize == 1 and dtype.kind != "b" else 2, shape).astype(dtype)
    return rng.uniform(-1, 1, shape).astype(dtype)
