"""For the tests of saved modules: modules of many kinds, and files taken apart and put together again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.errors import ArtifactError
from fusewire.ir.types import numpy_dtype
from fusewire.targets.artifact.container import read_archive, write_archive
from fusewire.targets.artifact.manifest import MANIFEST, MANIFEST_HASH, WEIGHTS
from fusewire.targets.artifact.read import load

Array = npt.NDArray[Any]
Case = tuple[fw.CompiledModule, dict[str, Any]]
PLAIN = fw.TensorType((2, 3))
X = np.arange(6, dtype=np.float32).reshape(2, 3) / 4 - 0.5


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def network(target: str = "cpu", name: str = "default") -> Case:
    """A convolution with constants that it wants packed, and what comes after."""
    data = fw.var("data", shape=(1, 3, 8, 8))
    net = fw.nn.conv2d(data, fw.const(draw(1, 16, 3, 3, 3)), padding=(1, 1))
    net = fw.nn.relu(net + fw.const(draw(2, 16, 1, 1)))
    net = fw.nn.dense(fw.nn.batch_flatten(fw.nn.max_pool2d(net, (2, 2), (2, 2))), fw.const(draw(3, 5, 256)))
    return fw.build(fw.Function([data], fw.nn.softmax(net)), target, mod_name=name), {"data": draw(4, 1, 3, 8, 8)}


def branches() -> Case:
    c, x = fw.var("c", shape=(), dtype="bool"), fw.var("x", PLAIN)
    inner = fw.If(fw.sum(x) > 3.0, x + 1.0, x * 2.0)
    shared, weight = fw.exp(x), fw.const(X * 3)
    body = fw.If(c, fw.Tuple([inner, shared]), fw.Tuple([fw.nn.softmax(x * 3.0), shared + weight]))
    return fw.build(fw.Function([c, x], body), "cpu -num-cores=2"), {"c": False, "x": X}


def tuples() -> Case:
    pair = fw.var("pair", fw.TupleType([PLAIN, fw.TupleType([PLAIN, fw.TensorType((3,), "int64")])]))
    inner = fw.TupleGetItem(pair, 1)
    body = fw.Tuple([pair[0] * inner[0], fw.cumsum(inner[1]), inner[0], fw.const(X)])
    return fw.build(fw.Function([pair], body)), {"pair": (X, (X + 1, np.arange(3)))}


def symbolic() -> Case:
    n = fw.size_var("n")
    a, b = fw.var("a", shape=(n, 3)), fw.var("b", shape=(n * 2 + 1, 3))
    lib = fw.build(fw.Function([a, b], fw.concatenate([a, b], 0) * 2), shape={"a": (2, 3)})
    return lib, {"a": X, "b": draw(1, 5, 3)}


def dtypes() -> Case:
    names = ("int8", "uint8", "float16", "bfloat16", "bool", "int64", "float64")
    params = [fw.var(f"v_{name}", shape=(2, 3), dtype=name) for name in names]
    values = [np.array([[0, 1, 2], [3, 4, 5]]).astype(numpy_dtype(name)) for name in names]
    body = []
    for param, value in zip(params, values, strict=True):
        plain = param.type_annotation == fw.TensorType((2, 3), "bool")
        body.append(fw.logical_and(param, fw.const(value)) if plain else param + fw.const(value))
    lib = fw.build(fw.Function(params, fw.Tuple(body)))
    return lib, {f"v_{name}": value for name, value in zip(names, values, strict=True)}


def empty() -> Case:
    x = fw.var("x", shape=(0, 3))
    weight = fw.const(np.zeros((2, 0), np.float32))
    body = fw.Tuple([fw.concatenate([x, fw.const(X)], 0), x * 2.0, fw.sum(x, axis=0), fw.nn.dense(weight, weight)])
    return fw.build(fw.Function([x], body)), {"x": np.zeros((0, 3), np.float32)}


def without_kernels() -> Case:
    x = fw.var("x", PLAIN)
    return fw.build(fw.Function([x], fw.Tuple([x, fw.const(X), x]))), {"x": X}


def without_inputs() -> Case:
    with fw.PassContext(disabled_pass=["FoldConstant"]):
        return fw.build(fw.Function([], fw.exp(fw.const(X)))), {}


def without_fusion() -> Case:
    x = fw.var("x", PLAIN)
    with fw.PassContext(disabled_pass=["FuseOps"]):
        return fw.build(fw.Function([x], fw.tanh(x * 2.0) + fw.const(X))), {"x": X}


def odd_constants() -> Case:
    """Equal ones, ones that are used twice, and a not-a-number with bits of its own."""
    x, w = fw.var("x", PLAIN), fw.const(X + 2)
    nan = np.array([0x7FC12345, 0xFF812345, 0x80000000], np.uint32).view(np.float32)
    one = fw.const(np.array(0x7FC00001, np.uint32).view(np.float32))
    body = [fw.nn.dense(x, w), fw.cumsum(x * w), fw.nn.dense(x, fw.const(X + 2)), fw.maximum(x, fw.const(nan)), x * one]
    return fw.build(fw.Function([x], fw.Tuple(body))), {"x": X}


def odd_names() -> Case:
    names = ["input:0", "größe", "1st", "a b", 'quote"\\n', "x.1", "%0"]
    params = [fw.var(name, PLAIN) for name in names]
    body: fw.Expr = params[0]
    for param in params[1:]:
        body = body - param * 2.0
    lib = fw.build(fw.Function(params, body), mod_name="net-1 ü")
    return lib, {name: X + k for k, name in enumerate(names)}


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f
    for f in (
        network, branches, tuples, symbolic, dtypes, empty, without_kernels, without_inputs, without_fusion,
        odd_constants, odd_names,
    )
}  # fmt: skip


def results(lib: fw.CompiledModule, inputs: Mapping[str, Any]) -> list[Array]:
    """All results of a run, as a list."""
    found = lib(**inputs)
    return found if isinstance(found, list) else [found]


def bits(arrays: list[Array]) -> list[tuple[str, tuple[int, ...], bytes]]:
    """What must be equal for arrays to be the same."""
    return [(a.dtype.name, a.shape, a.tobytes()) for a in arrays]


def members_of(path: Path) -> dict[str, bytes]:
    """The members of a file."""
    return {name: bytes(data) for name, data in read_archive(path).items()}


def write_members(path: Path, members: Mapping[str, bytes]) -> Path:
    """A file with these members."""
    write_archive(path, {name: memoryview(data) for name, data in members.items()}, WEIGHTS)
    return path


def with_manifest(path: Path, manifest: Any, **changed: bytes) -> Path:
    """The file at `path` with another manifest (text as it is), whose hash is right."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    return write_members(path, {**members_of(path), **changed, MANIFEST: text, MANIFEST_HASH: digest})


def manifest_of(path: Path) -> Any:
    """The manifest of a file as plain data."""
    return json.loads(members_of(path)[MANIFEST])


def with_member(path: Path, name: str, data: bytes) -> Path:
    """The file at `path` with another member, whose hash is right."""
    manifest = manifest_of(path)
    manifest["members"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return with_manifest(path, manifest, **{name: data})


def refused(path: Path, message: str) -> None:
    """Check that loading is refused with a message, which names the file."""
    with pytest.raises(ArtifactError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(repr(str(path)))


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one to three damages: bits turned over, bytes overwritten, cut out, put in, copied, cut off."""
    held = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, size = int(rng.integers(len(held) + 1)), int(rng.integers(1, 40))
        match int(rng.integers(6)):
            case 0 if at < len(held):
                held[at] ^= 1 << int(rng.integers(8))
            case 1:
                held[at : at + size] = rng.bytes(len(held[at : at + size]))
            case 2:
                del held[at : at + size]
            case 3:
                held[at:at] = rng.bytes(size)
            case 4:
                held[at:at] = held[at : at + size]
            case 5:
                del held[at:]
    return bytes(held)
