"""Saved modules, and damage to them: to the bytes, to the archive, and to what its tables say.

Native code in a file runs as it is, and so does whatever was put into it: a file is to be trusted like a program. So
compiled objects and C files are damaged only where their hashes stay as they were. Everything else may lie, with
hashes that fit the lie: that must not crash.
"""

import functools
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, frozen

import fusewire as fw

from .mutate import FRACTIONS, TEXTS, Rng, damaged, number, pick

MANIFEST, HASH = "manifest.json", "manifest.sha256"


@frozen
class Artefact:
    """A saved module before it is damaged."""

    name: str
    data: bytes


def _small() -> fw.Function:
    x = fw.var("x", shape=(2, 3))
    return fw.Function([x], fw.exp(x) + 1.0)


def _dense() -> fw.Function:
    rng = np.random.default_rng(1)
    x = fw.var("x", shape=(2, 8))
    hidden = fw.nn.relu(fw.nn.dense(x, fw.const(rng.random((6, 8), np.float32))))
    return fw.Function([x], fw.nn.softmax(fw.nn.dense(hidden, fw.const(rng.random((4, 6), np.float32)))))


def _conv() -> fw.Function:
    rng = np.random.default_rng(2)
    x = fw.var("x", shape=(1, 3, 8, 8))
    net = fw.nn.conv2d(x, fw.const(rng.random((8, 3, 3, 3), np.float32)), padding=(1, 1), kernel_size=(3, 3))
    net = fw.nn.max_pool2d(fw.nn.relu(net), (2, 2), (2, 2))
    return fw.Function([x], fw.Tuple([fw.sum(net, [2, 3]), fw.nn.batch_flatten(net), x]))


def _branches() -> fw.Function:
    x, c = fw.var("x", shape=(4,)), fw.var("c", shape=(), dtype="bool")
    return fw.Function([x, c], fw.If(c, fw.sort(x), fw.cumsum(x, 0)) * 2.0)


def _constant() -> fw.Function:
    return fw.Function([], fw.const(np.arange(6, dtype=np.int64)))


def _names() -> fw.Function:
    variables = [fw.var(name, shape=(2,)) for name in ('"', "a\nb", "größe", "*/", "")]
    return fw.Function(variables, fw.concatenate(variables, 0))


MODULES: dict[str, Callable[[], fw.Function]] = {
    "small": _small, "dense": _dense, "conv": _conv, "branches": _branches, "constant": _constant, "names": _names,
}  # fmt: skip


@functools.cache
def artefacts() -> tuple[Artefact, ...]:
    """All of them, compiled and saved."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in MODULES.items():
            path = Path(folder) / f"{name}.fw"
            fw.build(make(), "cpu -num-cores=2").save(path)
            found.append(Artefact(name, path.read_bytes()))
    return tuple(found)


# The archive


@define
class Archive:
    """Members as they go into a file: (name, content, attributes of the zip entry)."""

    members: list[tuple[str, bytes, dict[str, Any]]]

    def index(self, name: str) -> int:
        """Which member has a name."""
        return next(k for k, (held, _, _) in enumerate(self.members) if held == name)

    def put(self, name: str, data: bytes) -> None:
        """Replace the content of a member."""
        self.members[self.index(name)] = (name, data, {})

    @property
    def manifest(self) -> Any:
        """The manifest as plain data."""
        return json.loads(self.members[self.index(MANIFEST)][1])

    def write_manifest(self, text: str) -> None:
        """Another manifest, with its hash."""
        data = text.encode("utf-8", "surrogatepass")
        self.put(MANIFEST, data)
        self.put(HASH, hashlib.sha256(data).hexdigest().encode())


def unpacked(data: bytes) -> Archive:
    """The members of a file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return Archive([(info.filename, archive.read(info), {}) for info in archive.infolist()])


def packed(archive: Archive) -> bytes:
    """A file of members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
        for name, data, settings in archive.members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = settings.get("mode", 0o100644) << 16
            if name.startswith("weights/") and "unaligned" not in settings:
                at = stream.tell() + 30 + len(name) + 6
                info.extra = b"\x35\xd9" + (2 + -at % 64).to_bytes(2, "little") + b"\x40\0" + bytes(-at % 64)
            target.writestr(info, data, compress_type=settings.get("compress", zipfile.ZIP_STORED))
        target.comment = archive.members[0][2].get("comment", b"") if archive.members else b""
    return stream.getvalue()


NAMES = (
    "../../outside/written.txt", "/tmp/written.txt", "..", "weights/../../x.bin", "C:\\x", "a\0b.txt", "weights/",
    "x" * 300, "weights/0000.bin", "ir/0000.txt", "objects/0000.so", "extra/0000.txt", "größe.txt", "", "a//b.txt",
    "manifest.json",
)  # fmt: skip


def change_members(rng: Rng, archive: Archive) -> str:
    """Members renamed, added, left out, doubled, moved, compressed, made links of, or not aligned."""
    where = int(rng.integers(len(archive.members)))
    name, data, _ = archive.members[where]
    way = pick(rng, ("rename", "add", "drop", "double", "move", "compress", "bomb", "link", "unaligned", "comment"))
    match way:
        case "rename":
            archive.members[where] = (pick(rng, NAMES), data, {})
        case "add":
            archive.members.insert(where, (pick(rng, NAMES), rng.bytes(10), {}))
        case "drop":
            del archive.members[where]
        case "double":
            archive.members.append((name, data, {}))
        case "move":
            archive.members.append(archive.members.pop(where))
        case "compress":
            archive.members[where] = (name, data, {"compress": zipfile.ZIP_DEFLATED})
        case "bomb":
            archive.members[where] = (name, bytes(64 << 20), {"compress": zipfile.ZIP_DEFLATED})
        case "link":
            archive.members[where] = (name, b"../outside/secret.bin", {"mode": 0o120777})
        case "unaligned":
            archive.members = [(n, d, {"unaligned": True}) for n, d, _ in archive.members]
        case "comment":
            archive.members[0] = (*archive.members[0][:2], {"comment": rng.bytes(pick(rng, (1, 65535)))})
    return way


def change_weights(rng: Rng, archive: Archive) -> str:
    """Other weights, with a hash that fits or not."""
    found = [n for n, _, _ in archive.members if n.startswith("weights/")]
    if not found:
        return change_members(rng, archive)
    name = pick(rng, found)
    data, damage = damaged(rng, archive.members[archive.index(name)][1])
    archive.put(name, data)
    if rng.random() < 0.8:
        _agree(archive, name, data)
    return f"weights: {damage}"


def _agree(archive: Archive, name: str, data: bytes) -> None:
    """The manifest says the size and the hash that a member now has."""
    manifest = archive.manifest
    manifest["members"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    archive.write_manifest(json.dumps(manifest))


WORDS = (
    "float32",
    "add",
    "nn.dense",
    "Tensor",
    "def",
    "%0",
    "(",
    ")",
    "[2",
    "[99999999999",
    "int64",
    "bool",
    "Primitive",
    "{",
)


def change_ir(rng: Rng, archive: Archive) -> str:
    """The text of the module, or of a kernel's loops, with a hash that fits."""
    found = [n for n, _, _ in archive.members if n.startswith(("ir/", "loops/"))]
    if not found:
        return change_members(rng, archive)
    name = pick(rng, found)
    text = archive.members[archive.index(name)][1]
    if rng.random() < 0.5:
        data, damage = damaged(rng, text)
    else:
        old, new = pick(rng, WORDS), pick(rng, (*WORDS, "-1", "nan", "2147483648", '"', "}", "sum", "relu"))
        data, damage = text.replace(old.encode(), new.encode(), 1 if rng.random() < 0.7 else -1), f"{old} -> {new}"
    archive.put(name, data)
    _agree(archive, name, data)
    return f"{name}: {damage}"


def change_manifest(rng: Rng, archive: Archive) -> str:
    """Some values of the manifest, with a hash that fits."""
    manifest = archive.manifest
    done = [_change_value(rng, manifest) for _ in range(pick(rng, (1, 1, 1, 2, 4)))]
    archive.write_manifest(json.dumps(manifest))
    return "; ".join(done)


def _change_value(rng: Rng, root: Any) -> str:
    """Walk down a random path, mostly far, and change what is there."""
    path: list[str] = []
    held: Any = root
    while True:
        keys = list(held) if isinstance(held, dict) else list(range(len(held)))
        if not keys:
            return "nothing"
        key = pick(rng, keys)
        path.append(str(key))
        if not isinstance(held[key], dict | list) or not held[key] or rng.random() < 0.1:
            break
        held = held[key]
    where = "/".join(path)
    way = rng.random()
    if way < 0.1:
        del held[key]
        return f"{where} gone"
    if way < 0.15 and isinstance(held, list):
        held.insert(key, held[key])
        return f"{where} doubled"
    if way < 0.2 and isinstance(held, dict):
        held[pick(rng, TEXTS)] = held[key]
        return f"{where} under another name, too"
    held[key] = _other(rng, held[key])
    return f"{where} = {str(held[key])[:30]!r}"


def _other(rng: Rng, value: Any) -> Any:
    """Another value, half of the time of the same kind."""
    if rng.random() < 0.5:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return pick(rng, (value + 1, value - 1, value * 2, value + 64, -value, number(rng), number(rng)))
        if isinstance(value, str):
            return pick(rng, (value[:-1], value + "x", value[::-1], value.upper(), pick(rng, TEXTS), "int64", "bool"))
        if isinstance(value, list):
            return pick(rng, (value[:-1], value[::-1], value * 2, [], [*value, 0]))
    deep: Any = 0
    for _ in range(pick(rng, (3, 900))):
        deep = [deep]
    return pick(
        rng, (None, True, number(rng), pick(rng, FRACTIONS), pick(rng, TEXTS), [], {}, deep, {"a": 1}, "\ud800")
    )


def rewrite_manifest(rng: Rng, archive: Archive) -> str:
    """The text of the manifest, with a hash that fits: no JSON any more, or odd JSON."""
    text = archive.members[archive.index(MANIFEST)][1].decode()
    way = pick(rng, ("damaged", "deep", "long number", "repeated key", "not JSON's NaN", "empty"))
    match way:
        case "damaged":
            data, damage = damaged(rng, text.encode())
            archive.put(MANIFEST, data)
            archive.put(HASH, hashlib.sha256(data).hexdigest().encode())
            return f"manifest: {damage}"
        case "deep":
            text = "[" * 100_000 + "]" * 100_000
        case "long number":
            text = text.replace("1", "1" * pick(rng, (30, 5000)), 1)
        case "repeated key":
            text = text.replace("{", '{"format": "x", ', 1)
        case "not JSON's NaN":
            text = text.replace("1", "NaN", int(rng.integers(1, 20)))
        case "empty":
            text = pick(rng, ("", "null", "[]", "{}", "0", '"x"'))
    archive.write_manifest(text)
    return way


def damaged_artefact(rng: Rng, artefact: Artefact) -> tuple[bytes, str]:
    """A file with some damage, and what it was."""
    way = rng.random()
    if way < 0.2:
        return damaged(rng, artefact.data)
    if way < 0.25:
        return _end_damaged(rng, artefact.data)
    archive = unpacked(artefact.data)
    changes = (change_members, change_weights, change_ir, change_manifest, change_manifest, change_manifest,
               change_manifest, rewrite_manifest)  # fmt: skip
    damage = pick(rng, changes)(rng, archive)
    return packed(archive), damage


def _end_damaged(rng: Rng, data: bytes) -> tuple[bytes, str]:
    """The directory at the end of the archive, which says where everything is."""
    start = data.rindex(b"PK\x01\x02") if rng.random() < 0.5 else data.index(b"PK\x01\x02")
    tail, damage = damaged(rng, data[start:])
    return data[:start] + tail, f"directory: {damage}"
