"""Saved modules: what is loaded is what was saved, here and in another process, and nothing is copied or compiled."""

import mmap
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.errors import ArtifactError
from fusewire.ir.parser import parse
from fusewire.targets import toolchain
from fusewire.targets.artifact import text
from fusewire.targets.artifact.manifest import VERSION
from fusewire.targets.artifact.read import load
from tests.random_graphs import random_graph
from tests.targets.stored import CASES, X, bits, manifest_of, members_of, network, odd_constants, results

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compiler_gone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, whatever wants to compile fails the test."""
    return lambda: monkeypatch.setattr(toolchain, "_compile_cached", lambda job: pytest.fail("something was compiled"))


def base_of(array: Any) -> Any:
    """What an array is a view of in the end."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def assert_same(lib: fw.CompiledModule, other: fw.CompiledModule) -> None:
    """Whatever users can ask of a module is the same."""
    for get in (
        lambda m: (m.target, m.name, m.threads, m.arena),
        lambda m: (m.program.slots, list(m.program.inputs.items()), m.program.outputs, m.program.types),
        lambda m: (list(m.params), bits(m.params.values())),
        lambda m: (m.get_source(), m.get_source(kind="loops"), str(m.explain()), m.explain().to_dict()),
    ):
        assert get(lib) == get(other)
    for mine, theirs in ((lib.ir_mod, other.ir_mod), (lib.fused_mod, other.fused_mod)):
        fw.analysis.assert_structural_equal(mine, theirs)
        assert [p.name_hint for p in mine["main"].params] == [p.name_hint for p in theirs["main"].params]
    assert lib.function_metadata.keys() == other.function_metadata.keys()
    for mine_, theirs_ in zip(lib.function_metadata.values(), other.function_metadata.values(), strict=True):
        for field in ("workspace_sizes", "io_sizes", "constant_sizes", "loop_ir", "source"):
            assert getattr(mine_, field) == getattr(theirs_, field)
        fw.analysis.assert_structural_equal(mine_.relay_function, theirs_.relay_function)


@pytest.mark.parametrize("name", CASES)
def test_round_trip(name: str, tmp_path: Path, compiler_gone: Callable[[], None]) -> None:
    lib, inputs = CASES[name]()
    expected = bits(results(lib, inputs))
    lib.save(tmp_path / "m.fw")
    lib.save(tmp_path / "twice.fw")
    compiler_gone()
    loaded = load(tmp_path / "m.fw")
    assert bits(results(loaded, inputs)) == expected
    assert_same(lib, loaded)
    loaded.save(tmp_path / "again.fw")
    assert bits(results(load(tmp_path / "again.fw"), inputs)) == expected
    first, *others = ((tmp_path / n).read_bytes() for n in ("m.fw", "twice.fw", "again.fw"))
    assert all(other == first for other in others)
    assert {path.name for path in tmp_path.iterdir()} == {"m.fw", "twice.fw", "again.fw"}


def test_fresh_process_without_compiler(tmp_path: Path) -> None:
    expected = []
    for name, make in CASES.items():
        lib, inputs = make()
        lib.save(tmp_path / f"{name}.fw")
        expected.append(repr(bits(results(lib, inputs))))
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from fusewire.targets.artifact.read import load
from tests.targets.stored import CASES, bits, results
for name, make in CASES.items():
    print(bits(results(load(sys.argv[1] + "/" + name + ".fw"), make()[1])))
"""
    environment = {**os.environ, "CC": "false", "FUSEWIRE_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert not list((tmp_path / "cache").rglob("*.so"))  # the modules made to compare with only print their kernels


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs(seed: int, tmp_path: Path) -> None:
    function, inputs = random_graph(seed)
    lib = fw.build(function)
    lib.save(tmp_path / "m.fw")
    loaded = load(tmp_path / "m.fw")
    assert bits(results(loaded, inputs)) == bits(results(lib, inputs)), f"seed {seed}"
    assert_same(lib, loaded)


def test_everything_that_modules_do(tmp_path: Path) -> None:
    lib, inputs = network(name="net")
    lib.save(str(tmp_path / "m.fw"))
    loaded = load(str(tmp_path / "m.fw"))
    with pytest.raises(fw.FusewireError, match="'net', not 'default'"):
        loaded["default"]
    module = fw.GraphModule(loaded["net"](fw.cpu()))
    module.set_input("data", inputs["data"])
    module.run()
    np.testing.assert_array_equal(module.get_output(0).numpy(), results(lib, inputs)[0])
    assert len(module.benchmark(repeat=2, number=1).results) == 2
    steps = [step.name for step in module.profile(repeat=1).steps]
    assert steps == [step.name for step in lib.program.leaf_steps()]
    assert repr(loaded) == repr(lib)


class TestLaziness:
    def test_text_is_parsed_when_it_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib, inputs = network()
        lib.save(tmp_path / "m.fw")
        parsed = []

        def counting(source: str, *more: Any) -> fw.IRModule:
            parsed.append(source)
            return parse(source, *more)

        monkeypatch.setattr(text, "parse", counting)
        loaded = load(tmp_path / "m.fw")
        results(loaded, inputs)
        loaded.explain()
        assert not parsed and loaded.params and loaded.program.types
        assert loaded.fused_mod["main"] is loaded.function_metadata["__fusewire_main__"].relay_function
        assert len(parsed) == 1
        assert loaded.ir_mod is loaded.ir_mod and len(parsed) == 2

    def test_weights_are_mapped(self, tmp_path: Path) -> None:
        lib, inputs = network()
        path = tmp_path / "m.fw"
        lib.save(path)
        before = path.read_bytes()
        loaded = load(path)
        weights = [*loaded.program.constants.values(), *loaded.code.packed.values()]
        maps = {id(base_of(array)): base_of(array) for array in weights}
        assert len(weights) > 3 and all(isinstance(m, mmap.mmap) for m in maps.values()) and len(maps) == 1
        constants = [n.data for n in _constants(loaded.fused_mod)]
        assert {id(array) for array in constants} == {id(array) for array in loaded.program.constants.values()}
        assert all(not array.flags.writeable and array.ctypes.data % 64 == 0 for array in weights)
        results(loaded, inputs)
        assert path.read_bytes() == before

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
    def test_weights_that_were_verified_take_up_no_memory(self, tmp_path: Path) -> None:
        x = fw.var("x", shape=(8, 2048))
        w = fw.const(np.arange(1 << 22, dtype=np.float32).reshape(2048, 2048))
        fw.build(fw.Function([x], fw.nn.dense(x, w))).save(tmp_path / "m.fw")
        assert (tmp_path / "m.fw").stat().st_size > 30 << 20  # as they are, and packed
        code = (
            "import mmap, sys, fusewire as fw\n"
            "pages = lambda: int(open('/proc/self/statm').read().split()[1]) * mmap.PAGESIZE >> 20\n"
            "kept = fw.load(sys.argv[1], verify_weights=False)\n"
            "before = pages(); lib = fw.load(sys.argv[1]); print(pages() - before)\n"
            "assert lib.params['p0'].sum() > 0; print(pages() - before)\n"
        )
        ended = subprocess.run([sys.executable, "-c", code, tmp_path / "m.fw"], capture_output=True, text=True)
        loaded, read = map(int, ended.stdout.split())
        assert loaded < 8 and read >= 16, ended.stderr

    def test_inputs_are_not_the_file(self, tmp_path: Path) -> None:
        x = fw.var("x", fw.TensorType((2, 3)))
        lib = fw.build(fw.Function([x], fw.Tuple([x + fw.const(X), fw.const(X)])))
        path = tmp_path / "m.fw"
        lib.save(path)
        before = path.read_bytes()
        module = fw.GraphModule(load(path)["default"](fw.cpu()))
        module.run(x=X)
        for k in range(2):
            module.get_output(k).copyfrom(np.full((2, 3), 7, np.float32))
        module.get_input("x").copyfrom(np.full((2, 3), 7, np.float32))
        module.run()
        assert path.read_bytes() == before
        np.testing.assert_array_equal(module.get_output(0).numpy(), X + 7)
        np.testing.assert_array_equal(module.get_output(1).numpy(), X)

    def test_file_may_be_replaced_and_deleted(self, tmp_path: Path) -> None:
        (lib, inputs), (other, _) = network(), odd_constants()
        path = tmp_path / "m.fw"
        lib.save(path)
        loaded = load(path)
        other.save(path)
        np.testing.assert_array_equal(results(loaded, inputs)[0], results(lib, inputs)[0])
        loaded.save(path)
        path.unlink()
        loaded.save(path)
        np.testing.assert_array_equal(results(load(path), inputs)[0], results(lib, inputs)[0])

    def test_weights_can_go_unverified(self, tmp_path: Path) -> None:
        lib, _ = network()
        path = tmp_path / "m.fw"
        lib.save(path)
        data = bytearray(path.read_bytes())
        data[data.index(lib.params["p1"].tobytes())] ^= 1
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"m\.fw': member 'weights/0001\.bin' is damaged: its hash differs"):
            load(path)
        changed = load(path, verify_weights=False).params["p1"]
        assert changed.tobytes() != lib.params["p1"].tobytes()


def _constants(mod: fw.IRModule) -> list[fw.Constant]:
    found: list[fw.Constant] = []
    fw.analysis.post_order_visit(mod["main"], lambda e: found.append(e) if isinstance(e, fw.Constant) else None)
    return [c for c in found if c.data.ndim]


class TestFiles:
    def test_archive(self, tmp_path: Path) -> None:
        """What other programs see: a plain archive, its manifest first, the weights raw and aligned."""
        lib, _ = odd_constants()
        path = tmp_path / "m.fw"
        lib.save(path)
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            assert archive.testzip() is None and infos[0].filename == "manifest.json"
        assert {i.compress_type for i in infos} == {zipfile.ZIP_STORED} and {i.date_time[0] for i in infos} == {1980}
        members, manifest = members_of(path), manifest_of(path)
        assert manifest["format"] == "fusewire module" and manifest["version"] == VERSION and manifest["fusewire"]
        assert manifest["module"]["target"] == "cpu -keys=cpu" and manifest["module"]["code"]["isa"]["requires"]
        data = path.read_bytes()
        for array in lib.params.values():
            assert data.index(array.tobytes()) % 64 == 0
        assert len(set(members.values())) == len(members)
        assert {name.split("/")[0] for name in members if "/" in name} == {"ir", "c", "loops", "objects", "weights"}
        assert lib.get_source().encode() in members.values()
        assert sum(name.startswith("weights/") for name in members) < len(manifest["tensors"])  # some are equal

    def test_text_shows_constants_by_number(self, tmp_path: Path) -> None:
        lib, _ = network()
        lib.save(tmp_path / "m.fw")
        shown = members_of(tmp_path / "m.fw")["ir/0001.txt"].decode()
        assert "nn.conv2d" in shown and "meta[relay.Constant][1]" in shown and "#[metadata]" not in shown

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("missing/m.fw", "cannot write '.*missing/m.fw'.*No such file"),
            ("file/m.fw", "cannot write '.*file/m.fw'"),
            ("folder", "cannot write '.*folder'"),
            ("a\0b", "cannot write .*null"),
        ],
    )
    def test_places_that_cannot_be_written(self, place: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir()
        lib, _ = CASES["without_kernels"]()
        with pytest.raises(ArtifactError, match=message):
            lib.save(tmp_path / place)
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]

    def test_failure_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib, _ = CASES["without_kernels"]()
        path = tmp_path / "m.fw"
        lib.save(path)
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="No space left"):
            lib.save(path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.fw"]

    def test_link_is_followed(self, tmp_path: Path) -> None:
        lib, inputs = CASES["without_kernels"]()
        (tmp_path / "link.fw").symlink_to("m.fw")
        lib.save(tmp_path / "link.fw")
        assert (tmp_path / "link.fw").is_symlink() and not (tmp_path / "m.fw").is_symlink()
        assert bits(results(load(tmp_path / "link.fw"), inputs)) == bits(results(lib, inputs))

    @pytest.mark.parametrize("path", [3, None, 1.5, ["m.fw"]])
    def test_what_is_no_path(self, path: Any) -> None:
        lib, _ = CASES["without_kernels"]()
        for call in (lib.save, load):
            with pytest.raises(ArtifactError, match="expected the path of a file, got"):
                call(path)

    def test_what_text_cannot_hold(self, tmp_path: Path) -> None:
        x = fw.var("x", fw.TensorType((2, 3)))
        function = fw.Function([x], x + 1.0).with_attr("note", object())
        lib = fw.build(function)
        if "note" not in lib.ir_mod["main"].attrs:
            pytest.fail("build drops attributes now: take another example")
        with pytest.raises(ArtifactError, match="the module cannot be written as text: line 2"):
            lib.save(tmp_path / "m.fw")
        assert not list(tmp_path.iterdir())
