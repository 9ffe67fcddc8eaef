"""Edited manifests whose hashes are right: refused, with the reason, wherever running would go wrong."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.artifact.manifest import LARGEST
from fusewire.targets.artifact.read import load
from tests.targets.stored import branches, manifest_of, network, refused, results, with_manifest

Edit = Callable[[Any], object]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of some modules."""
    folder = tmp_path_factory.mktemp("originals")
    for make in (network, branches):
        make()[0].save(folder / make.__name__)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def path(originals: dict[str, bytes], tmp_path: Path) -> Path:
    """A file of its own with `network`."""
    (tmp_path / "m.fw").write_bytes(originals["network"])
    return tmp_path / "m.fw"


@pytest.fixture
def branching(originals: dict[str, bytes], tmp_path: Path) -> Path:
    """A file of its own with `branches`."""
    (tmp_path / "b.fw").write_bytes(originals["branches"])
    return tmp_path / "b.fw"


def put(*where: Any) -> Edit:
    """An edit that sets a value: the place in the manifest, then the value."""

    def edit(manifest: Any) -> None:
        *path, last, value = where
        for key in path:
            manifest = manifest[key]
        manifest[last] = value(manifest[last]) if callable(value) else value

    return edit


def overlapping(manifest: Any) -> None:
    """Everything at the beginning of an arena that is just large enough."""
    slots, arena = manifest["module"]["program"]["slots"], manifest["module"]["arena"]
    arena["offsets"] = [[slot, 0] for slot, _ in arena["offsets"]]
    arena["size"] = max(4 * int(np.prod(slots[slot]["shape"])) for slot, _ in arena["offsets"])


PROGRAM, CODE = ("module", "program"), ("module", "code")

EDITS: dict[str, tuple[Edit, str]] = {
    "format": (put("format", "zip"), "its format is 'zip', expected 'fusewire module'"),
    "version": (put("version", 7), r"format version 7, written by fusewire '\d.*reads version 5"),
    "no version": (lambda m: m.pop("version"), "format version None"),
    "version as text": (put("version", "1"), "format version '1'"),
    "byte order": (put("byteorder", "middle"), "its numbers are middle-endian"),
    "extra field": (put("note", "hello"), r"extra fields found \(note\)"),
    "missing field": (lambda m: m["module"].pop("arena"), "required field missing @ stored.arena"),
    "number for a text": (put("module", "name", 3), "expected a text, got 3 @ stored.name"),
    "fraction for a number": (put("module", "threads", 1.0), "expected a whole number, got 1.0 @ stored.threads"),
    "true for a number": (put("module", "threads", True), "expected a whole number, got True"),
    "list for an object": (put(*PROGRAM, []), r"expected an object, got \[\] @ stored.program"),
    "no threads": (put("module", "threads", 0), "it runs on 0 threads"),
    "another kind of target": (put("module", "target", "cuda"), "it was built for target 'cuda"),
    "hash of a member": (lambda m: m["members"]["c/0000.c"].update(sha256="0" * 64), "'c/0000.c' is damaged"),
    "size of a member": (put("members", "c/0000.c", "size", 1 << 40), "bytes, expected 1099511627776"),
    "type of a slot": (put(*PROGRAM, "slots", 1, "dtype", "float8"), "unknown dtype 'float8'"),
    "negative dimension": (put(*PROGRAM, "slots", 1, "shape", [-1]), "dimensions lie in"),
    "huge slot": (put(*PROGRAM, "slots", 3, "shape", [2**40] * 3), "larger than any memory"),
    "many dimensions": (put(*PROGRAM, "slots", 3, "shape", [1] * 65), "65 dimensions"),
    "slot of an input": (put(*PROGRAM, "inputs", {"data": [99]}), "the program uses slot 99; there are"),
    "slot of an output": (put(*PROGRAM, "outputs", [-1]), "the program uses slot -1"),
    "an output that is an input": (put(*PROGRAM, "outputs", lambda o: [0]), "an output is not a slot of its own"),
    "an output twice": (put(*PROGRAM, "outputs", lambda o: o * 2), "an output is not a slot of its own"),
    "name of an input": (put(*PROGRAM, "inputs", {"other": [0]}), "its inputs and their types have different names"),
    "type of an input": (put(*PROGRAM, "types", "data", "shape", [1]), "input 'data' is Tensor"),
    "slot of a constant": (put(*PROGRAM, "constants", 0, 0, 0), "a slot is used for two inputs or constants"),
    "constant twice": (put(*PROGRAM, "constants", lambda c: c + c[:1]), "a number occurs twice in a mapping"),
    "tensor of a constant": (put(*PROGRAM, "constants", 0, 1, 1), r"the constant in slot \d is"),
    "tensor that is not there": (put(*PROGRAM, "constants", 0, 1, 99), "there is no tensor 99"),
    "shape of a tensor": (put("tensors", 0, "shape", [3]), r"'weights/0000.bin' has 1728 bytes, but Tensor\[\(3,\)"),
    "type of a tensor": (put("tensors", 0, "dtype", "object"), "'weights/0000.bin' cannot be a tensor: unknown dtype"),
    "member of a tensor": (put("tensors", 0, "member", "objects/0000.so"), "there is no tensor 'objects/0000.so'"),
    "kind of step": (put(*PROGRAM, "steps", 0, "kind", "ShellStep"), "expected a kind of step .*, got 'ShellStep'"),
    "input of a step": (put(*PROGRAM, "steps", 0, "inputs", 0, 10**30), "uses slot 10000000"),
    "steps in a circle": (put(*PROGRAM, "steps", lambda s: s[::-1]), "reads slot .* before anything is written there"),
    "a step twice": (put(*PROGRAM, "steps", lambda s: s + s[:1]), "there are two steps"),
    "a step less": (put(*PROGRAM, "steps", lambda s: s[:-1]), "no step writes the output|kernel"),
    "step that writes an input": (put(*PROGRAM, "steps", 0, "outputs", [0]), "writes slot 0, which is written"),
    "step that writes a constant": (put(*PROGRAM, "steps", 0, "outputs", [1]), "writes slot 1, which is written"),
    "arena too small": (put("module", "arena", "size", 64), "of an arena of 64"),
    "arena too large": (put("module", "arena", "size", 1 << 40), "the arena has 1099511627776 bytes"),
    "offset outside": (put("module", "arena", "offsets", 0, 1, 1 << 30), "ends at byte"),
    "negative offset": (put("module", "arena", "offsets", 0, 1, -64), "is at byte -64 of the arena"),
    "offset that is not aligned": (put("module", "arena", "offsets", 0, 1, 4), "is at byte 4 of the arena"),
    "tensors on top of each other": (overlapping, r"slots \d and \d overlap in the arena"),
    "slot without a place": (put("module", "arena", "offsets", lambda o: o[1:]), "does not hold just the intermediate"),
    "kernel of another step": (put(*CODE, "steps", 0, "step", "nobody"), "there is no kernel step 'nobody'"),
    "kernels in another order": (put(*CODE, "steps", lambda s: s[::-1]), "the kernels are not those of the steps"),
    "input of a kernel": (put(*CODE, "steps", 1, "inputs", [99]), "and its kernel have different inputs"),
    "function of a kernel": (put(*CODE, "steps", 0, "symbol", "system"), "its code was not made for its program"),
    "scratch of a kernel": (put(*CODE, "steps", 0, "thread_bytes", 1 << 20), "wrong thread_bytes"),
    "scratch of all": (put(*CODE, "team_bytes", -1), "wrong team_bytes"),
    "segments": (put(*CODE, "segments", []), "wrong segments"),
    "packed constants": (put(*CODE, "packed", lambda p: [[s + 1, t] for s, t in p]), "wrong numbers"),
    "source in the weights": (put(*CODE, "files", 0, 1, "weights/0000.bin"), "there is no member 'weights/0000.bin'"),
    "object in the weights": (put(*CODE, "objects", "kernels", "data", "weights/0000.bin"), "there is no member"),
    "object that is another member": (put(*CODE, "objects", "kernels", "data", "ir/0000.txt"), "not made for its"),
    "choices": (put("module", "choices", []), "its choices are not those of its steps"),
}  # fmt: skip


class TestManifest:
    @pytest.mark.parametrize("name", EDITS)
    def test_edited(self, path: Path, name: str) -> None:
        """Edits whose hashes are right are found, too, where running would go wrong."""
        edit, message = EDITS[name]
        manifest = manifest_of(path)
        edit(manifest)
        refused(with_manifest(path, manifest), message)

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            ({"kind": "CopyStep", "source": 0, "target": 2}, "writes slot 2|before anything|a copy of bool"),
            ({"kind": "CopyStep", "source": 99, "target": 2}, "a copy uses slot 99"),
            (
                {"kind": "BranchStep", "cond": 1, "then": [], "orelse": []},
                r"a branch goes by Tensor\[\(2, 3\), float32\]",
            ),
            ({"kind": "BranchStep", "cond": -1, "then": [], "orelse": []}, "a branch uses slot -1"),
            ({"kind": "BranchStep", "cond": 0, "then": [{"kind": "CopyStep"}], "orelse": []}, "required field missing"),
        ],
    )
    def test_branches_and_copies(self, branching: Path, step: Any, message: str) -> None:
        manifest = manifest_of(branching)
        manifest["module"]["program"]["steps"].insert(0, step)
        refused(with_manifest(branching, manifest), message)

    def test_result_of_one_arm_only(self, branching: Path) -> None:
        manifest = manifest_of(branching)
        (branch,) = (s for s in manifest["module"]["program"]["steps"] if s["kind"] == "BranchStep")
        branch["orelse"] = [s for s in branch["orelse"] if s["kind"] != "CopyStep"]
        refused(with_manifest(branching, manifest), "no step writes the output")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "Expecting value"),
            (b"{", "the manifest is damaged"),
            (b"[]", "its format is None"),
            (b"\xff\xfe", "the manifest is damaged"),
            (b'{"format": "fusewire module", "version": 1, "version": 1}', "a name occurs twice"),
            (b'{"format": ' + b"[" * 100_000, "nested too deeply"),
            (b'{"version": ' + b"9" * 5000 + b"}", "the manifest is damaged"),
            (b" " * (LARGEST + 1), "expected at most"),
        ],
    )
    def test_what_is_no_manifest(self, path: Path, text: bytes, message: str) -> None:
        refused(with_manifest(path, text), message)

    def test_steps_nested_too_deeply(self, branching: Path) -> None:
        opening, closing = b'{"kind": "BranchStep", "cond": 0, "then": [', b'], "orelse": []}'
        manifest = manifest_of(branching)
        manifest["module"]["program"]["steps"] = ["@"]
        text = json.dumps(manifest).encode().replace(b'"@"', opening * 300 + closing * 300)
        refused(with_manifest(branching, text), "nested too deeply")

    @pytest.mark.parametrize("seed", range(80))
    def test_random_edits(self, branching: Path, seed: int) -> None:
        """Whatever stands in the manifest, with right hashes: it is refused, or it runs."""
        rng = np.random.default_rng(seed)
        manifest = manifest_of(branching)
        for _ in range(int(rng.integers(1, 4))):
            change_something(manifest["module"], rng)
        with_manifest(branching, manifest)
        try:
            lib = load(branching)
            results(lib, branches()[1])
            lib.explain()
            assert lib.function_metadata
        except fw.FusewireError:
            pass


ODD: list[Any] = [
    -1, 0, 1, 2, 64, 2**31, 2**63, 10**40, 1.5, None, True, "", "x", "../x", "float64", "int8", "weights/0000.bin",
    "objects/0001.so", "c/0000.c", "CopyStep", [], {}, [0], [[0, 0]],
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object in plain data, with each of its keys."""
    for key in value.keys() if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def change_something(module: Any, rng: np.random.Generator) -> None:
    """One value replaced, by something odd, by a neighbour of a number, or by a value from elsewhere."""
    every = list(places(module))
    holder, key = every[int(rng.integers(len(every)))]
    match int(rng.integers(4)):
        case 0:
            holder[key] = ODD[int(rng.integers(len(ODD)))]
        case 1 if type(holder[key]) is int:
            holder[key] += int(rng.integers(-64, 65))
        case 2 if isinstance(holder, list):
            del holder[key]
        case _:
            other, where = every[int(rng.integers(len(every)))]
            holder[key] = copy.deepcopy(other[where])
