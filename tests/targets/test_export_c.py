"""Exported C projects, compiled as their README says, all warnings errors: they compute what the module does."""

import ctypes
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.types import numpy_dtype
from fusewire.targets.artifact.read import load
from fusewire.targets.compiled import CompiledModule
from fusewire.targets.cpuinfo import cpu_features
from fusewire.targets.export.driver import Weights
from fusewire.targets.export.interface import c_name, c_string
from fusewire.targets.toolchain import find_compiler, spelled_for

Array = npt.NDArray[Any]

WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def sections(readme: str) -> dict[str, str]:
    """The shell commands of a README, by the line that announces them."""
    found = re.findall(r"(?m)^(.+)\n\n```sh\n((?s:.+?))\n```", readme)
    return {title: commands.replace("\\\n", "") for title, commands in found}


def compile_line(folder: Path, more: Sequence[str] = ()) -> list[str]:
    """The README's command for the compiler that fusewire uses, with warnings."""
    compiler = find_compiler()
    commands = sections((folder / "README.md").read_text())
    line = commands["With GCC alone:" if compiler.family == "gcc" else "With clang alone:"]
    words = [*compiler.command, *shlex.split(line)[1:], *WARNINGS, *more]
    if compiler.family == "zig":
        words = [*spelled_for("zig", words), *compiler.flags]
    at = words.index("src/*.c")
    return [*words[:at], *sorted(str(p.relative_to(folder)) for p in folder.glob("src/*.c")), *words[at + 1 :]]


def call(words: Sequence[str | Path], folder: Path, status: int = 0) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{shlex.join(map(str, words))}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def export(lib: CompiledModule, folder: Path, more: Sequence[str] = ()) -> Path:
    """Export and compile; returns the program."""
    assert lib.export_c(folder) == folder
    assert call(compile_line(folder, more), folder) == ""
    return folder / f"{manifest(folder)['name']}_main"


def manifest(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "fusewire-export.json").read_text())
    return loaded


def run(main: Path, arrays: Sequence[Array], options: Sequence[str] = ()) -> list[Array]:
    """Run the program on files, and read the files that it writes."""
    folder = main.parent
    for k, array in enumerate(arrays):
        (folder / f"given_{k}.bin").write_bytes(array.tobytes())
    call([main, *options, *(f"given_{k}.bin" for k in range(len(arrays)))], folder)
    outputs = manifest(folder)["outputs"]
    types = [(numpy_dtype(o["dtype"]), o["shape"], f"{o['name']}.bin") for o in outputs]
    return [np.frombuffer((folder / name).read_bytes(), dtype).reshape(shape) for dtype, shape, name in types]


def same(got: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether all arrays have the same dtype, shape and bits."""
    assert [(a.dtype, a.shape) for a in got] == [(a.dtype, a.shape) for a in expected]
    return [a.tobytes() for a in got] == [a.tobytes() for a in expected]


def agrees(lib: CompiledModule, main: Path, feed: Mapping[str, Any]) -> None:
    """The program gives the bits that the module gives, on one thread and on several."""
    results = lib(**feed)
    expected = results if isinstance(results, list) else [results]
    arrays = [a for value in feed.values() for a in (value if isinstance(value, tuple) else (value,))]
    for options in ([], ["--threads", "1"]):
        assert same(run(main, arrays, options), expected), options
    said = call([main, "--check"], main.parent)
    assert len(set(re.findall(r": ([0-9a-f]{16})\n", said))) == 1
    assert "on 1 threads" in said and f"on {lib.threads} threads" in said


def conv_net() -> tuple[fw.IRModule, dict[str, Any]]:
    data = fw.var("data", shape=(1, 3, 20, 20))
    net = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1))
    net = fw.nn.batch_norm(net, fw.var("gamma"), fw.var("beta"), fw.var("mean"), fw.var("var"))[0]
    net = fw.nn.max_pool2d(fw.nn.relu(net), pool_size=(2, 2), strides=(2, 2))
    net = fw.nn.softmax(fw.nn.dense(fw.nn.batch_flatten(net), fw.var("dense"), units=10))
    mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))
    return mod, params


def image(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 3, 20, 20)).astype(np.float32)


def tiny(name: str = "default", scale: float = 2.0) -> CompiledModule:
    x = fw.var("x", shape=(33,))
    weight = fw.const(np.linspace(0, scale, 33, dtype=np.float32))
    return fw.build(fw.Function([x], fw.exp(x * weight) + weight), "cpu -num-cores=2", mod_name=name)


X33 = np.linspace(-1, 1, 33, dtype=np.float32)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompiledModule, Path]:
    """The conv net, exported and compiled for at most 3 threads."""
    mod, params = conv_net()
    lib = fw.build(mod, "cpu -num-cores=3", params=params)
    return lib, export(lib, tmp_path_factory.mktemp("export") / "conv")


class TestNumbers:
    def test_conv_net(self, project: tuple[CompiledModule, Path]) -> None:
        lib, main = project
        agrees(lib, main, {"data": image()})
        assert manifest(main.parent)["inputs"] == [
            {"name": "in_data", "dtype": "float32", "shape": [1, 3, 20, 20], "label": "data"}
        ]

    def test_branches_copies_tuples_and_several_outputs(self, tmp_path: Path) -> None:
        flag, x = fw.var("flag", shape=(), dtype="bool"), fw.var("x", shape=(4, 5))
        pair = fw.var("pair", fw.TupleType([fw.TensorType((4, 5)), fw.TensorType((4, 5))]))
        weight = fw.const(np.arange(20, dtype=np.float32).reshape(4, 5))
        both = fw.Tuple([fw.exp(x), fw.TupleGetItem(pair, 0)])
        branch = fw.If(flag, both, fw.Tuple([fw.If(flag, x, x + weight), weight]))
        first, second = fw.TupleGetItem(branch, 0), fw.TupleGetItem(branch, 1)
        body = fw.Tuple([first * weight, second, x, weight, weight, fw.TupleGetItem(pair, 1) + second])
        lib = fw.build(fw.Function([flag, x, pair], body), "cpu -num-cores=2", mod_name="branches")
        main = export(lib, tmp_path / "p")
        rng = np.random.default_rng(1)
        values = [rng.standard_normal((4, 5)).astype(np.float32) for _ in range(3)]
        for taken in (True, False):
            agrees(lib, main, {"flag": np.array(taken), "x": values[0], "pair": (values[1], values[2])})
        text = (tmp_path / "p" / "src" / "branches.c").read_text()
        assert text.count("if (*(const uint8_t *)slots[") == 2 and "} else {" in text and "memcpy(" in text

    def test_dtypes(self, tmp_path: Path) -> None:
        dtypes = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
        dtypes += ["float16", "bfloat16", "float32", "float64"]
        inputs = [fw.var(f"{dtype}", shape=(7, 3), dtype=dtype) for dtype in dtypes]
        outputs: list[fw.Expr] = [fw.logical_not(inputs[0]), *(x + x for x in inputs[1:])]
        chosen = fw.where(inputs[0], fw.cast(inputs[1], "float16"), inputs[9])
        body = fw.Tuple(
            [*outputs, chosen, fw.sum(fw.cast(inputs[10], "float32"), axis=1), fw.argmax(inputs[7], axis=0)]
        )
        lib = fw.build(fw.Function(inputs, body), mod_name="dtypes")
        rng = np.random.default_rng(2)
        feed = {x.name_hint: rng.integers(0, 2 if x.name_hint == "bool" else 100, (7, 3)) for x in inputs}
        agrees(lib, export(lib, tmp_path), {name: a.astype(numpy_dtype(name)) for name, a in feed.items()})

    def test_no_elements_no_inputs_and_symbolic_dimensions(self, tmp_path: Path) -> None:
        n = fw.var("n", shape=(fw.size_var("rows"), 3))
        none = fw.var("none", shape=(0, 3))
        body = fw.Tuple([fw.concatenate([n, none], axis=0), none + none, fw.sum(none, axis=0), none])
        lib = fw.build(fw.Function([n, none], body), shape={"n": (5, 3)}, mod_name="empty")
        x = np.arange(15, dtype=np.float32).reshape(5, 3)
        agrees(lib, export(lib, tmp_path / "empty"), {"n": x, "none": np.zeros((0, 3), np.float32)})
        constant = fw.build(fw.Function([], fw.const(x)), mod_name="constant")
        agrees(constant, export(constant, tmp_path / "constant"), {})

    def test_a_weight_that_is_shared_is_stored_once(self, tmp_path: Path) -> None:
        x = fw.var("x", shape=(4, 8))
        weight = fw.const(np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32))
        once = fw.nn.relu(fw.nn.dense(x, weight))
        feed = {"x": np.ones((4, 8), np.float32)}
        sizes = []
        for k, body in enumerate((once, fw.nn.dense(once, weight), fw.nn.dense(once, weight) + fw.sum(weight))):
            lib = fw.build(fw.Function([x], body), mod_name="shared")
            agrees(lib, export(lib, tmp_path / str(k)), feed)
            sizes.append((tmp_path / str(k) / "src" / "shared_weights.bin").stat().st_size)
        assert sizes[0] == sizes[1] <= sizes[2] <= sizes[0] + weight.data.nbytes


class TestInterface:
    def library(self, lib: CompiledModule, folder: Path, more: Sequence[str] = ()) -> ctypes.CDLL:
        lib.export_c(folder)
        words = compile_line(folder, ["-shared", *more])
        words[words.index("-o") + 1] = "model.so"
        call(words, folder)
        return ctypes.CDLL(str(folder / "model.so"))

    def run(self, function: Any, given: Array) -> tuple[int, Array]:
        out = np.full(given.shape[0] + 1, 7, np.float32)[1:]  # a multiple of 4 and of nothing more
        status = function(given.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
        return status, out

    def test_calls_and_errors(self, tmp_path: Path) -> None:
        lib = tiny()
        model, expected = self.library(lib, tmp_path), lib(x=X33)
        assert model.default_threads() == 0
        given = np.concatenate([X33[:1], X33])[1:]
        status, out = self.run(model.default_run, given)
        assert status == 0 and same([out], [expected])
        assert model.default_threads() == 2
        for threads, result in ((1, 0), (3, -1), (-1, -1), (2, 0), (0, 0)):
            assert model.default_init(threads) == result
        assert model.default_threads() == 2
        model.default_close()
        model.default_close()
        assert model.default_threads() == 0
        assert self.run(model.default_run, X33)[0] == 0
        assert model.default_run(None, out.ctypes.data_as(ctypes.c_void_p)) == -2
        crooked = np.zeros(33 * 4 + 1, np.uint8)[1:]
        assert model.default_run(crooked.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)) == -2
        model.default_close()

    def test_one_thread_starts_none_and_allocates_nothing(self, tmp_path: Path) -> None:
        lib = tiny()
        model = self.library(lib, tmp_path, ["-DDEFAULT_THREADS=1"])
        assert model.default_init(2) == -1 and model.default_init(0) == 0 and model.default_threads() == 1
        assert same([self.run(model.default_run, X33)[1]], [lib(x=X33)])
        symbols = (tmp_path / "model.so").read_bytes()
        assert b"default_run" in symbols and b"pthread_create" not in symbols and b"aligned_alloc" not in symbols

    def test_two_models_in_one_program(self, tmp_path: Path) -> None:
        one, two = tiny("one"), tiny("two", 3.0)
        for lib in (one, two):
            lib.export_c(tmp_path / lib.name)
        (tmp_path / "both.c").write_text(
            '#include "one.h"\n#include "two.h"\n'
            "int both(const float *x, float *y, float *z) { return one_run(x, y) + two_run(x, z); }\n"
        )
        words = [*find_compiler().command, *find_compiler().flags, "-std=gnu11", "-O3", "-fPIC", "-shared", *WARNINGS]
        objects = []
        for name in ("one", "two"):
            flags = shlex.split(sections((tmp_path / name / "README.md").read_text())["With GCC alone:"])[1:]
            flags = [f for f in flags if f.startswith(("-f", "-m", "-W")) and find_compiler().family == "gcc"]
            for source in sorted((tmp_path / name / "src").glob("*.c")):
                objects.append(f"{name}_{source.stem}.o")
                includes = [f"-I{name}/include", f"-I{name}/src"]
                call([*words, *flags, *includes, "-c", source, "-o", objects[-1]], tmp_path)
        call([*words, "-Ione/include", "-Itwo/include", "both.c", *objects, "-o", "both.so", "-lm"], tmp_path)
        outs = np.zeros((2, 33), np.float32)
        model = ctypes.CDLL(str(tmp_path / "both.so"))
        assert model.both(*(ctypes.c_void_p(a.ctypes.data) for a in (X33, outs[0], outs[1]))) == 0
        np.testing.assert_allclose(outs, [one(x=X33), two(x=X33)], rtol=1e-6)
        model.one_close()
        model.two_close()

    def test_names(self, tmp_path: Path) -> None:
        names = ["int", "a.b", "a_b", "A_B", "", 'say "*/', "ü??/", "a_b_1"]
        inputs = [fw.var(name, shape=(2,)) for name in names]
        total: fw.Expr = inputs[0]
        for k, x in enumerate(inputs[1:]):
            total = total + x * float(k + 2)
        lib = fw.build(fw.Function(inputs, total), mod_name="9 lives?")
        main = export(lib, tmp_path)
        assert main.name == "model_9_lives_main"
        agrees(lib, main, {name: np.array([k, 1], np.float32) for k, name in enumerate(names)})
        found = manifest(tmp_path)["inputs"]
        assert [i["label"] for i in found] == names
        assert len({i["name"].upper() for i in found}) == len(names)
        assert (c_name("default"), c_name("_x"), c_name(""), c_name("é")) == ("default", "model_x", "model", "model")
        assert c_string('a"\\*/?é') == r'"a\042\134\052/\077\303\251"'

    def test_the_header_is_complete_and_good_for_cpp(
        self, project: tuple[CompiledModule, Path], tmp_path: Path
    ) -> None:
        folder = project[1].parent
        zig = [sys.executable, "-m", "ziglang", "c++"] if importlib.util.find_spec("ziglang") else None
        compiler = [path] if (path := shutil.which("c++")) else zig
        if compiler is None:
            pytest.skip("there is no C++ compiler")
        (tmp_path / "use.cpp").write_text(
            '#include "default.h"\nstatic const int shape[DEFAULT_IN_DATA_RANK] = DEFAULT_IN_DATA_SHAPE;\n'
            'static_assert(DEFAULT_IN_DATA_SIZE == 1200 && DEFAULT_IN_DATA_BYTES == 4800, "");\n'
            "static_assert(DEFAULT_OUT_0_SIZE == 10, DEFAULT_IN_DATA_NAME);\n"
            "int use(const float *x, float *y) { return shape[3] + default_run(x, y); }\n"
        )
        flags = ["-std=c++17", *WARNINGS, "-pedantic", f"-I{folder / 'include'}", "-c", "use.cpp", "-o", "use.o"]
        assert call([*compiler, *flags], tmp_path) == ""


class TestMain:
    def test_usage(self, project: tuple[CompiledModule, Path], tmp_path: Path) -> None:
        _, main = project
        (tmp_path / "short.bin").write_bytes(b"1234")
        wrong = {
            ("--repeat",): (2, "--repeat: a number"),
            ("--threads", "x"): (2, "--threads: a number"),
            ("--threads", "99"): (2, "--threads: more than"),
            ("--fast",): (2, "expected [--threads N]"),
            ("--out",): (2, "--out: a folder"),
            ("a.bin",): (1, "cannot read the file: a.bin"),
            ("short.bin",): (1, "short.bin must hold 4800 bytes, for in_data"),
            ("--out", "missing"): (1, "cannot write the file: missing/out_0.bin"),
        }
        for words, (status, message) in wrong.items():
            assert message in call([main, *words], tmp_path, status)
        assert list(tmp_path.iterdir()) == [tmp_path / "short.bin"]
        assert re.search(
            r"2 runs on 1 threads: .* ms at least", call([main, "--repeat", "2", "--threads", "1"], tmp_path)
        )
        first = (tmp_path / "out_0.bin").read_bytes()
        call([main, "--threads", "3"], tmp_path)
        assert (tmp_path / "out_0.bin").read_bytes() == first
        assert call([main, "short.bin", "short.bin"], tmp_path, 1)

    @pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
    def test_cmake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib = tiny()
        lib.export_c(tmp_path)
        compiler = find_compiler()
        monkeypatch.setenv("CC", shlex.join(compiler.command))
        flags = shlex.join([*WARNINGS, *(compiler.flags if compiler.family == "zig" else ())])
        call(["cmake", "-S", ".", "-B", "build", f"-DCMAKE_C_FLAGS={flags}"], tmp_path)
        call(["cmake", "--build", "build"], tmp_path)
        assert "100% tests passed" in call(["ctest"], tmp_path / "build")
        main = tmp_path / "default_main"
        (tmp_path / "build" / main.name).rename(main)
        agrees(lib, main, {"x": X33})


class TestFolder:
    def test_a_former_export_is_replaced_and_other_files_stay(self, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "folder"
        x = fw.var("x", shape=(33,))
        tiny("one").export_c(folder)
        before = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
        (folder / "build").mkdir()
        (folder / "build" / "mine").write_text("mine")
        fw.build(fw.Function([x], x + x), mod_name="two").export_c(folder)
        after = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert after == {*manifest(folder)["files"], "build/mine"}
        assert {"src/one_weights.bin", "src/one_weights.c", "include/one.h"} <= {str(p) for p in before} - after

    def test_what_others_wrote_is_safe(self, tmp_path: Path) -> None:
        lib = tiny()
        for k, content in enumerate(["", "{", "[]", '{"files": 3}', '{"files": ["../mine"]}', '{"files": ["/etc/x"]}']):
            folder = tmp_path / str(k)
            folder.mkdir()
            (folder / ("fusewire-export.json" if content else "mine")).write_text(content)
            with pytest.raises(fw.FusewireError, match=r"contents that export_c did not write.*overwrite=True"):
                lib.export_c(folder)
            assert len(list(folder.iterdir())) == 1
        (tmp_path / "mine").write_text("mine")
        lib.export_c(tmp_path, overwrite=True)
        assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "CMakeLists.txt").exists()

    def test_bad_folders(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        bad: list[Any] = [tmp_path / "file", tmp_path / "file" / "below", "", None, 3, "a\0b", "x" * 5000]
        for folder in bad:
            with pytest.raises(fw.FusewireError, match=r"folder|cannot (read|write)"):
                tiny().export_c(folder)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    def test_a_failure_leaves_nothing_that_looks_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lib = tiny()
        lib.export_c(tmp_path / "old")

        def full(self: Weights) -> Any:
            yield b"1234"
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Weights, "digest", lambda self: "")
            patch.setattr(Weights, "pieces", full)
            for name in ("new", "old"):
                with pytest.raises(fw.FusewireError, match="No space left"):
                    lib.export_c(tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == ["old"]
        assert {str(p.relative_to(tmp_path / "old")) for p in (tmp_path / "old").rglob("*") if p.is_file()} == {
            *manifest(tmp_path / "old")["files"]
        }
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            with pytest.raises(fw.FusewireError, match="Input/output error"):
                lib.export_c(tmp_path / "old")
        assert not (tmp_path / "old" / "CMakeLists.txt").exists()
        assert not (tmp_path / "old" / "fusewire-export.json").exists()

    def test_a_module_from_a_file_gives_the_same_project(self, tmp_path: Path) -> None:
        lib = tiny()
        lib.save(tmp_path / "tiny.fw")
        made = [module.export_c(tmp_path / str(k)) for k, module in enumerate((lib, load(tmp_path / "tiny.fw")))]
        names = manifest(made[0])["files"]
        assert [(made[0] / n).read_bytes() for n in names] == [(made[1] / n).read_bytes() for n in names]

    def test_library_steps_are_named(self, tmp_path: Path) -> None:
        mod, params = conv_net()
        lib = fw.build(mod, "cpu -libs=onednn", params=params)
        with pytest.raises(fw.FusewireError, match=r"default_onednn_\w+ \(onednn\.\w+\).*without -libs="):
            lib.export_c(tmp_path / "p")
        assert not (tmp_path / "p").exists()

    def test_no_mark_of_the_templates_is_left(self, project: tuple[CompiledModule, Path]) -> None:
        folder = project[1].parent
        texts = [p for p in folder.rglob("*") if p.suffix in (".c", ".h", ".txt", ".md", ".json")]
        assert len(texts) > 8 and not [p for p in texts if re.search(r"@[A-Z_]+@", p.read_text())]

    def test_what_it_says_about_memory(self, project: tuple[CompiledModule, Path]) -> None:
        lib, main = project
        header = (main.parent / "include" / "default.h").read_text()
        workspace = lib.function_metadata["__fusewire_main__"].workspace_sizes[lib.target]
        match = re.search(r"MEMORY_BYTES \((\d+) \+ (\d+) \* DEFAULT_THREADS \+ (\d+)\)", header)
        assert match and int(match[1]) + int(match[2]) * lib.threads + int(match[3]) == workspace


ELSEWHERE = ["-mcpu=cortex-a72", "-mtriple=aarch64-linux-gnu -mattr=+neon", "-mcpu=generic"]


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed (apt: qemu-user)")
@pytest.mark.parametrize("options", ELSEWHERE)
def test_on_another_machine(options: str, tmp_path: Path) -> None:
    """The README's commands, in a shell: compiled by zig for 64-bit Arm, run by QEMU."""
    mod, params = conv_net()
    lib = fw.build(mod, f"cpu -num-cores=2 {options}", params=params)
    lib.export_c(tmp_path)
    commands = sections((tmp_path / "README.md").read_text())["result without the machine (apt install qemu-user)."]
    assert " -target aarch64-linux-musl -static " in commands and "qemu-aarch64 ./default_main --check" in commands
    commands = commands.replace("python ", f"{shlex.quote(sys.executable)} ").replace(
        " cc ", f" cc {' '.join(WARNINGS)} "
    )
    assert "on 2 threads" in call(["sh", "-e", "-c", commands], tmp_path)
    (tmp_path / "data.bin").write_bytes(image().tobytes())
    call(["qemu-aarch64", "./default_main", "data.bin"], tmp_path)
    result = np.frombuffer((tmp_path / "out_0.bin").read_bytes(), np.float32)
    expected = fw.build(mod, "cpu", params=params)(data=image())
    np.testing.assert_allclose(result, expected.ravel(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", ["-mcpu=generic", "-mcpu=x86-64", "-mcpu=generic -mattr=+sse4.2"])
def test_the_least_of_processors(options: str, tmp_path: Path) -> None:
    mod, params = conv_net()
    lib = fw.build(mod, f"cpu -num-cores=2 {options}", params=params)
    if cpu_features().missing(lib.code.isa):
        pytest.skip("not an x86-64 processor")
    agrees(lib, export(lib, tmp_path), {"data": image()})
