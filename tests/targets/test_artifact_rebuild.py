"""Saved modules on other machines: missing features, objects that do not load, other versions, missing libraries."""

import ctypes
import logging
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.library import Library, Region, Rule
from fusewire.ir.errors import ArtifactError
from fusewire.targets import backends, build, cpu, libraries, target, toolchain
from fusewire.targets.artifact import read, report, write
from fusewire.targets.artifact.read import load
from fusewire.targets.cpuinfo import Isa, cpu_features, isa_for
from fusewire.targets.program import LibraryStep
from fusewire.targets.target import Target
from tests.contrib.onednn_cases import needs_onednn
from tests.targets.stored import X, bits, manifest_of, members_of, network, results, with_manifest, with_member
from tests.targets.test_artifact import assert_same

FOREIGN, NAMED = (
    ("haswell", ["-mcpu=cortex-a53"])
    if "neon" in cpu_features().features
    else ("cortex-a72", ["-mcpu=x86-64", "-mattr=+sse2"])
)
"""A processor of another kind, and targets that name one of this kind."""


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="fusewire"):
        yield caplog


@pytest.fixture
def saved_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Saves `network` for a target, as if this processor had a feature that it does not have."""

    def save(where: str) -> Path:
        def better(asked: Target) -> Isa:
            isa = isa_for(asked)
            return attrs.evolve(isa, requires=(*isa.requires, "avx9000"))

        with monkeypatch.context() as inner:
            inner.setitem(backends.BACKENDS, "cpu", attrs.evolve(backends.BACKENDS["cpu"], isa=better))
            lib, _ = network(where)
            lib.save(tmp_path / "m.fw")
        return tmp_path / "m.fw"

    return save


class TestProcessors:
    def test_kernels_are_made_anew(self, saved_elsewhere: Callable[[str], Path], log: pytest.LogCaptureFixture) -> None:
        path = saved_elsewhere("cpu -num-cores=1")
        log.clear()
        loaded = load(path)
        (message,) = [m for m in log.messages if "anew" in m]
        assert message.endswith(
            "m.fw: making the kernels anew, since they need avx9000, which this processor does not have"
        )
        assert any(m.startswith("Using conv2d_nchw.cpu for nn.conv2d") for m in log.messages)
        assert loaded.code.objects is None and "avx9000" not in loaded.code.isa.requires
        lib, inputs = network("cpu -num-cores=1")
        assert bits(results(loaded, inputs)) == bits(results(lib, inputs))
        assert_same(lib, loaded)
        loaded.save(path)
        assert load(path).code.objects is not None

    def test_kernels_for_narrower_vectors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
    ) -> None:
        """What was made for the widest vectors that this processor has is run on one that has none of them."""
        if cpu_features().vector_bytes == 16:
            pytest.skip("this processor has narrow vectors")
        lib, inputs = network()
        expected = results(lib, inputs)
        lib.save(tmp_path / "m.fw")
        wide = {name for name in cpu_features().features if name.startswith("avx")} | {"fma", "f16c"}
        kept = tuple(name for name in cpu_features().features if name not in wide)
        narrow = attrs.evolve(cpu_features(), features=kept)
        for module in ("cpuinfo", "backends", "artifact.read"):
            monkeypatch.setattr(f"fusewire.targets.{module}.cpu_features", lambda: narrow)
        loaded = load(tmp_path / "m.fw")
        assert loaded.code.isa.vector_bytes == 16 and "v4f32" in loaded.get_source()
        for mine, theirs in zip(expected, results(loaded, inputs), strict=True):
            fw.testing.assert_allclose(theirs, mine, rtol=1e-5)

    @pytest.mark.parametrize("options", NAMED)
    def test_a_named_processor_is_meant(
        self, options: str, saved_elsewhere: Callable[[str], Path], log: pytest.LogCaptureFixture
    ) -> None:
        path = saved_elsewhere(f"cpu {options}")
        loaded = load(path)
        assert not any("anew" in message for message in log.messages)
        assert loaded.get_source() and loaded.explain().choices
        with pytest.raises(fw.TargetError, match="this processor lacks avx9000"):
            loaded["default"](fw.cpu())
        with pytest.raises(fw.TargetError, match="this processor lacks avx9000"):
            results(loaded, network()[1])

    def test_saved_for_a_machine_that_cannot_be_compiled_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*args: Any) -> None:
            raise fw.CompileError("no compiler for that\nat all")

        monkeypatch.setattr(cpu, "shared_object", refuse)
        lib, _ = network(f"cpu -mcpu={FOREIGN}")
        lib.save(tmp_path / "m.fw")
        assert "saved without compiled code, to be compiled where it is loaded: no compiler for that" in log.messages
        loaded = load(tmp_path / "m.fw")
        assert loaded.code.objects is None and loaded.get_source() == lib.get_source()
        with pytest.raises(fw.TargetError, match="this processor lacks"):
            loaded["default"](fw.cpu())
        with pytest.raises(fw.CompileError, match="no compiler"):
            network()[0].save(tmp_path / "native.fw")

    def test_number_of_threads_is_this_machines(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for where, expected in (("cpu", 3), ("cpu -num-cores=2", 2)):
            lib, inputs = network(where)
            lib.save(tmp_path / "m.fw")
            with monkeypatch.context() as inner:
                inner.setattr(build, "usable_cores", lambda: 3)
                loaded = load(tmp_path / "m.fw")
            assert loaded.threads == expected
            assert bits(results(loaded, inputs)) == bits(results(lib, inputs))


class TestObjects:
    @pytest.mark.parametrize("number", [0, 1])
    def test_one_that_does_not_load_is_compiled(
        self, number: int, tmp_path: Path, log: pytest.LogCaptureFixture
    ) -> None:
        lib, inputs = network()
        path = tmp_path / "m.fw"
        lib.save(path)
        name = f"objects/000{number}.so"
        elf = bytearray(members_of(path)[name])
        elf[4] = 1  # of 32 bits
        with_member(path, name, bytes(elf))
        loaded = load(path)
        assert bits(results(loaded, inputs)) == bits(results(lib, inputs))
        reason = "compiling again what came compiled for another system: the system does not load the library"
        assert any(message.startswith(reason) for message in log.messages)
        loaded.save(path)
        assert members_of(path)[name] != bytes(elf)

    def test_none(self, tmp_path: Path) -> None:
        lib, inputs = network()
        path = tmp_path / "m.fw"
        lib.save(path)
        manifest = manifest_of(path)
        manifest["module"]["code"]["objects"] = None
        loaded = load(with_manifest(path, manifest))
        assert bits(results(loaded, inputs)) == bits(results(lib, inputs))

    def test_where_temporary_files_may_not_hold_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib, inputs = network()
        lib.save(tmp_path / "m.fw")
        expected = bits(results(lib, inputs))
        monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(toolchain, "_loaded", {})
        folders = []

        def careful(path: str) -> ctypes.CDLL:
            folders.append(Path(path).parent)
            if folders[-1] != tmp_path / "cache":
                raise OSError("failed to map segment from shared object")
            return CDLL(path)

        CDLL = ctypes.CDLL
        monkeypatch.setattr(ctypes, "CDLL", careful)
        loaded = load(tmp_path / "m.fw")
        assert bits(results(loaded, inputs)) == expected
        assert folders.count(tmp_path / "cache") == 2 and not list((tmp_path / "cache").iterdir())

    def test_loaded_once(self, tmp_path: Path) -> None:
        lib, inputs = network()
        lib.save(tmp_path / "m.fw")
        first, second = load(tmp_path / "m.fw"), load(tmp_path / "m.fw")
        assert bits(results(first, inputs)) == bits(results(second, inputs))
        assert first.code.load() is second.code.load()


class TestVersions:
    def test_code_of_another_version_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
    ) -> None:
        """The structures that kernels and the rest share have changed since."""
        lib, inputs = network()
        path = tmp_path / "m.fw"
        with monkeypatch.context() as inner:
            inner.setattr(cpu, "CALL_STRUCT", cpu.CALL_STRUCT.replace("char *team", "int *team"))
            inner.setattr(write, "fusewire_version", lambda: "0.0.7")
            network()[0].save(path)
        loaded = load(path)
        assert any(m.endswith("making the kernels anew, since they were made by fusewire 0.0.7") for m in log.messages)
        assert bits(results(loaded, inputs)) == bits(results(lib, inputs))

    def test_the_same_version_must_agree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "m.fw"
        with monkeypatch.context() as inner:
            inner.setattr(cpu, "CALL_STRUCT", cpu.CALL_STRUCT + "\n")
            network()[0].save(path)
        with pytest.raises(ArtifactError, match="its code was not made for its program"):
            load(path)

    def test_code_of_another_version_that_still_fits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib, inputs = network()
        lib.save(tmp_path / "m.fw")
        monkeypatch.setattr(read, "fusewire_version", lambda: "9.9")
        loaded = load(tmp_path / "m.fw")
        assert loaded.code.objects is not None
        assert bits(results(loaded, inputs)) == bits(results(lib, inputs))


class TestLibraries:
    @needs_onednn
    def test_onednn(self, tmp_path: Path) -> None:
        lib, inputs = network("cpu -libs=onednn -num-cores=1")
        lib.save(tmp_path / "m.fw")
        loaded = load(tmp_path / "m.fw")
        taken = [s.composite for s in loaded.program.leaf_steps() if isinstance(s, LibraryStep)]
        assert taken == ["onednn.conv2d", "onednn.max_pool2d", "onednn.dense", "onednn.softmax"]
        assert bits(results(loaded, inputs)) == bits(results(lib, inputs))
        assert_same(lib, loaded)
        module = fw.GraphModule(loaded["default"](fw.cpu()))
        ran = {step.name: step.implementation for step in module.profile(repeat=1, **inputs).steps}
        assert list(ran.values()).count("conv2d_onednn.cpu") == 1

    def test_library_of_another_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is found by its name; without it the module can still be looked at and saved."""
        offered = _acme()
        monkeypatch.setattr(metadata, "entry_points", lambda group, name="acme": [offered] if name == "acme" else [])
        monkeypatch.setitem(target._LIBRARIES, "cpu", [*target._LIBRARIES["cpu"]])
        libraries.find_library.cache_clear()
        x = fw.var("x", fw.TensorType((2, 3)))
        lib = fw.build(fw.Function([x], fw.tanh(fw.nn.relu(x))), "cpu -libs=acme")
        expected = np.tanh(np.maximum(X, 0) + 1)
        np.testing.assert_allclose(lib(x=X), expected, rtol=1e-6)
        path = tmp_path / "m.fw"
        lib.save(path)
        np.testing.assert_array_equal(load(path)(x=X), lib(x=X))
        assert_same(lib, load(path))

        monkeypatch.setattr(metadata, "entry_points", lambda group, name="": [])
        monkeypatch.setitem(target._LIBRARIES, "cpu", ["onednn"])
        libraries.find_library.cache_clear()
        loaded = load(path)
        assert str(loaded.target) == "cpu -keys=cpu -libs=acme" and loaded.target == lib.target
        assert "relu_acme.cpu" in str(loaded.explain())
        with pytest.raises(fw.LibraryNotFound, match="no library is called 'acme'; install the package"):
            loaded["default"](fw.cpu())
        loaded.save(tmp_path / "again.fw")
        assert (tmp_path / "again.fw").read_bytes() == path.read_bytes()

    def test_library_without_the_rule(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib, _ = network("cpu -libs=onednn")
        lib.save(tmp_path / "m.fw")
        loaded = load(tmp_path / "m.fw")
        monkeypatch.setattr(report, "find_library", lambda name: Library(name, ("cpu",), [], lambda: None))
        with pytest.raises(fw.LibraryNotFound, match=r"'onednn' has no rule 'onednn\.conv2d'"):
            loaded["default"](fw.cpu())


def _acme() -> Any:
    def implement(region: Region) -> Any:
        return lambda inputs, outputs: np.copyto(outputs[0], np.maximum(inputs[0], 0) + 1)

    rule = Rule("acme.relu", is_op("nn.relu")(wildcard()), implement=implement, priority=77)
    library = Library("acme", ("cpu",), [rule], lambda: None)

    class Point:
        name, value = "acme", "acme:LIBRARY"

        def load(self) -> Library:
            return library

    return Point()
