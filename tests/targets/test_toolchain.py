import ctypes
import importlib.util
import json
import logging
import multiprocessing
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusewire.ir.errors import CompileError
from fusewire.targets import toolchain
from fusewire.targets.cpuinfo import cpu_features, isa_for
from fusewire.targets.objcache import ObjectCache
from fusewire.targets.target import Target
from fusewire.targets.toolchain import (
    cache_dir,
    cache_limit,
    compile_shared,
    find_compiler,
    load_shared,
    spelled_for,
)

FAST = ["-O0"]  # what is compiled here does not matter; how long it takes does


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and the module as it is when freshly imported."""
    for name in ("CC", "FUSEWIRE_CFLAGS", "FUSEWIRE_CACHE_SIZE", "FUSEWIRE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "_private", None)
    monkeypatch.setattr(toolchain, "_last_eviction", float("-inf"))
    return tmp_path / "cache"


@pytest.fixture
def compiler_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the files compiled: a script in front of the compiler appends a line for each call with a C file."""
    log = tmp_path / "calls"
    script = tmp_path / "counting-cc"
    real = " ".join(find_compiler().command)
    script.write_text(f'#!/bin/sh\ncase "$*" in *.c*) echo "$*" >> "{log}";; esac\nexec {real} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def source(value: object, name: str = "f") -> tuple[str, str]:
    return (name, f"int {name}(void) {{ return {value}; }}\n")


def entries(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("objects/*/*") if path.is_dir())


def test_compiles_and_runs_several_sources() -> None:
    library = load_shared([source(3, "f"), ("g.c", "int f(void); int g(void) { return f() + 4; }")], FAST)
    assert (library.f(), library.g()) == (3, 7)


def test_default_flags_keep_nan_and_infinity() -> None:
    text = """
    #include <math.h>
    #include <stdint.h>
    double largest(double a, double b) { return a > b ? a : b; }
    int is_nan(double a) { return a != a; }
    int is_infinite(double a) { return isinf(a) != 0; }
    double negative_zero(double a) { return 1 / (0.0 * -a); }
    int32_t wrapped(int32_t a) { return a + 1 < a; }
    int aliased(int32_t *a, float *b) { *a = 0; *b = 1.5f; return *a != 0; }
    double total(const double *a, int n) { double s = 0; for (int i = 0; i < n; ++i) s += a[i]; return s; }
    double root(double a) { return sqrt(a); }
    """
    library = load_shared([("numbers", text)], isa_for(Target("cpu")).cflags)
    for name in ("largest", "negative_zero", "total", "root"):
        getattr(library, name).restype = ctypes.c_double
    double, nan = ctypes.c_double, float("nan")
    assert library.is_nan(double(nan)) == 1 and library.is_infinite(double(float("-inf"))) == 1
    assert library.largest(double(nan), double(2.0)) == 2.0
    assert library.negative_zero(double(1.0)) == float("-inf")
    assert library.wrapped(2**31 - 1) == 1
    both = ctypes.c_int32()
    assert library.aliased(ctypes.byref(both), ctypes.byref(both)) == 1
    # Reassociated, the large terms would cancel first and leave 1.
    assert library.total((double * 3)(1.0, 1e30, -1e30), 3) == 0.0
    assert library.root(double(-1.0)) != library.root(double(-1.0))


def test_same_names_in_two_libraries_do_not_meet() -> None:
    one = load_shared([("f", "int helper(void) { return 1; } int f(void) { return helper(); }")], FAST)
    two = load_shared([("f", "int helper(void) { return 2; } int f(void) { return helper(); }")], FAST)
    assert (one.f(), two.f()) == (1, 2)


def test_hit_compiles_nothing(compiler_calls: Callable[[], int], cache: Path) -> None:
    sources = [source(1, "a"), source(2, "b")]
    path = compile_shared(sources, FAST)
    assert compiler_calls() == 2
    assert path.is_relative_to(cache)
    assert compile_shared(sources, FAST) == path and load_shared(sources, FAST).b() == 2
    assert compiler_calls() == 2
    assert sorted(item.name for item in path.parent.iterdir()) == ["MANIFEST", "a.c", "b.c", "lib.so"]
    assert json.loads((path.parent / "MANIFEST").read_text())["size"] == path.stat().st_size
    assert list((cache / "tmp").iterdir()) == []


def test_key_depends_on_all_that_matters(
    compiler_calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variants = [([source(1)], []), ([source(2)], []), ([source(1)], ["-DX"]), ([source(1, "g")], [])]
    paths = [compile_shared(sources, [*FAST, *flags]) for sources, flags in variants]
    monkeypatch.setenv("FUSEWIRE_CFLAGS", "-DA='x y'")
    paths.append(compile_shared([source(1)], FAST))
    monkeypatch.delenv("FUSEWIRE_CFLAGS")
    script = tmp_path / "counting-cc"
    os.utime(script, (1, 1))  # the compiler was replaced
    paths.append(compile_shared([source(1)], FAST))
    assert len(set(paths)) == len(paths) == compiler_calls() == 6


def test_native_code_is_not_shared_by_different_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, native = compile_shared([source(1)], FAST), compile_shared([source(1)], [*FAST, "-march=native"])
    other = cpu_features()
    monkeypatch.setattr(toolchain, "cpu_features", lambda: type(other)("other", other.machine, other.features[1:]))
    assert compile_shared([source(1)], FAST) == plain
    assert compile_shared([source(1)], [*FAST, "-march=native"]) != native


@pytest.mark.parametrize("damage", ["truncate", "flip", "no library", "no manifest", "bad manifest", "empty manifest"])
def test_damaged_entry_is_rebuilt(compiler_calls: Callable[[], int], damage: str) -> None:
    path = compile_shared([source(5)], FAST)
    good = path.read_bytes()
    manifest = path.parent / "MANIFEST"
    match damage:
        case "truncate":
            path.write_bytes(good[: len(good) // 2])
        case "flip":
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        case "no library":
            path.unlink()
        case "no manifest":
            manifest.unlink()
        case "bad manifest":
            manifest.write_text("[]")
        case "empty manifest":
            manifest.write_text("")
    assert load_shared([source(5)], FAST).f() == 5
    assert compiler_calls() == 2
    assert path.read_bytes() == good
    assert compile_shared([source(5)], FAST) == path and compiler_calls() == 2


def test_cache_deleted_between_compile_and_load(
    compiler_calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    compile_cached = toolchain._compile_cached
    deletions = iter([True, True, False])

    def compile_then_lose(job: Any) -> Path:
        path = compile_cached(job)
        if next(deletions):
            shutil.rmtree(cache)
        return path

    monkeypatch.setattr(toolchain, "_compile_cached", compile_then_lose)
    library = load_shared([source(6)], FAST)
    assert compiler_calls() == 3
    shutil.rmtree(cache)
    assert library.f() == 6


def test_library_refused_once_is_made_again(monkeypatch: pytest.MonkeyPatch, compiler_calls: Callable[[], int]) -> None:
    build, garbage = toolchain._build, iter([b"not a library", b"nor this"])
    monkeypatch.setattr(toolchain, "_build", lambda job, folder: next(garbage, None) or build(job, folder))
    assert load_shared([source(13)], FAST).f() == 13
    assert compiler_calls() == 1


def test_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_build", lambda job, folder: b"not a library")
    with pytest.raises(CompileError, match="cannot load a library"):
        load_shared([source(1)], FAST)


def _load_in_child(queue: Any, start: Any) -> None:
    start.wait()
    queue.put(load_shared([source(8, "a"), source(9, "b")], FAST).b())


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_parallel_processes_on_one_key(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Event()
    children = [context.Process(target=_load_in_child, args=(queue, start)) for _ in range(8)]
    for child in children:
        child.start()
    start.set()
    answers = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert answers == [9] * 8
    assert len(entries(cache)) == 1 and list((cache / "tmp").iterdir()) == []


def test_unwritable_cache_falls_back_to_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compiler_calls: Callable[[], int]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(blocked / "cache"))
    with caplog.at_level(logging.WARNING, "fusewire"):
        assert load_shared([source(1)], FAST).f() == 1
        assert load_shared([source(1)], FAST).f() == 1
        assert load_shared([source(2)], FAST).f() == 2
    assert compiler_calls() == 2
    assert len(caplog.records) == 1 and str(blocked / "cache") in caplog.records[0].getMessage()
    assert toolchain._private is not None
    root = toolchain._private.root
    toolchain._remove_private(root, os.getpid() + 1)
    assert root.exists()
    toolchain._remove_private(root, os.getpid())
    assert not root.exists()


def test_failed_source_survives_an_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(CompileError):
        compile_shared([("bad", "int f(void) { return missing; }")], FAST)
    assert toolchain._private is not None
    root = toolchain._private.root
    toolchain._remove_private(root, os.getpid())
    assert [path.name for path in root.glob("failed/*/*")] == ["bad.c"]
    shutil.rmtree(root)


def test_compile_error_says_what_and_where(cache: Path) -> None:
    bad = "int f(void) { return missing_name; }\n"
    with pytest.raises(CompileError) as caught:
        compile_shared([source(1, "good"), ("bad", bad)], [*FAST, "-DMARK=1"])
    text = str(caught.value)
    assert "missing_name" in text and "bad.c:1" in text and "-DMARK=1" in text and "exit status 1" in text
    (kept,) = cache.glob("failed/*/*")
    assert kept.name == "bad.c" and kept.read_text() == bad and str(kept) in text
    with pytest.raises(CompileError, match="missing_name"):
        compile_shared([source(1, "good"), ("bad", bad)], [*FAST, "-DMARK=1"])
    assert entries(cache) == []


def test_long_compiler_output_is_trimmed() -> None:
    bad = "".join(f"int f{i}(void) {{ return missing{i}; }}\n" for i in range(60))
    with pytest.raises(CompileError) as caught:
        compile_shared([("bad", bad)], FAST)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 45 and "more lines" in lines[-1] and "missing0" in str(caught.value)


def test_undefined_name_is_a_link_error(cache: Path) -> None:
    with pytest.raises(CompileError, match="nowhere_defined"):
        compile_shared([("f", "int nowhere_defined(void); int f(void) { return nowhere_defined(); }")], FAST)
    assert [path.name for path in cache.glob("failed/*/*")] == ["f.c"]


def test_compiler_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "cc"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 1.0 && exit 0\nkill -9 $$\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(CompileError, match="killed by signal 9"):
        compile_shared([source(1)])


def test_names() -> None:
    long = "fused_" + "nn_conv2d_" * 40
    library = load_shared(
        [(long, source(1, "a")[1]), (long + "x", source(2, "b")[1]), ("a/b c", source(3, "c")[1])], FAST
    )
    assert (library.a(), library.b(), library.c()) == (1, 2, 3)
    for sources in ([], [source(1), source(2)], [("f", "int a;"), ("f.c", "int b;")]):
        with pytest.raises(CompileError, match="different names"):
            compile_shared(sources)


def test_eviction_bounds_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_SIZE", "50K")
    store = ObjectCache(cache)
    for i in range(5):
        path = store.put(f"{i:02}key", bytes(20_000), {"a.c": ""}, {})
        os.utime(path.parent / "MANIFEST", (1000 + i, 1000 + i))
    assert store.find("00key")  # a use makes it the latest
    path = compile_shared([source(1)], FAST)
    left = {entry.name for entry in entries(cache)}
    assert path.parent.name in left and "00key" in left and "01key" not in left and "02key" not in left
    assert sum(item.stat().st_size for entry in entries(cache) for item in entry.iterdir()) <= 50 * 1024
    assert list((cache / "tmp").iterdir()) == []
    # Not again within the minute.
    for i in range(5):
        store.put(f"{i:02}new", bytes(20_000), {}, {})
    compile_shared([source(2)], FAST)
    assert len(entries(cache)) == len(left) + 6


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 1 << 30), ("123", 123), ("4k", 4096), ("5M", 5 << 20), ("2G", 2 << 30), ("2GiB", 2 << 30), ("0", 0)],
)
def test_cache_limit(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_SIZE", text)
    assert cache_limit() == size


def test_bad_cache_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_SIZE", "much")
    with pytest.raises(CompileError, match="FUSEWIRE_CACHE_SIZE='much'"):
        compile_shared([source(1)], FAST)


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("FUSEWIRE_CACHE_DIR")
    assert cache_dir().parent.name == "fusewire"


def test_cc_with_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", " ".join([*find_compiler().command, "-DVALUE=11"]))
    assert load_shared([source("VALUE")], FAST).f() == 11


def test_relative_cc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my cc").write_text(f'#!/bin/sh\nexec {" ".join(find_compiler().command)} "$@"\n')
    (tmp_path / "my cc").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "'./my cc'")
    assert load_shared([source(12)], FAST).f() == 12


@pytest.mark.parametrize("command", ["no-such-compiler-here", "false"])
def test_cc_that_does_not_work(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.raises(CompileError, match=rf"\$CC does not work: {command}"):
        compile_shared([source(1)])


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match=r"apt install gcc.*pip install 'fusewire\[zig\]'"):
        compile_shared([source(1)])


def test_broken_cc_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = find_compiler().command[0]
    (tmp_path / "cc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "gcc").write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    for name in ("cc", "gcc"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_compiler().command == (str(tmp_path / "gcc"),)


def test_ziglang_is_the_last_resort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler().command == (os.path.abspath(sys.executable), "-m", "ziglang", "cc")
    assert find_compiler().version.startswith("clang")
    library = load_shared([source(3, "f"), source(4, "g")], isa_for(Target("cpu")).cflags)
    assert (library.f(), library.g()) == (3, 4)
    # Checks for undefined behaviour, which zig adds to unoptimised code, would stop at the unaligned load.
    unaligned = load_shared([("f", "int f(const char *p) { return *(const int *)(p + 1); }")], FAST)
    assert unaligned.f(b"\0\x07\0\0\0") == (7 if sys.byteorder == "little" else 7 << 24)


def test_zig_takes_the_names_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    assert spelled_for("zig", ["-march=x86-64-v3", "-mno-fma"]) == ("-march=x86_64_v3", "-mno-fma")
    assert spelled_for("zig", ["-mcpu=cortex-a72+simd"]) == ("-mcpu=cortex_a72+neon",)
    assert spelled_for("gcc", ["-march=x86-64-v3"]) == ("-march=x86-64-v3",)
    if "sse2" not in cpu_features().features:
        pytest.skip("not an x86-64 processor")
    monkeypatch.setenv("CC", f"{sys.executable} -m ziglang cc")
    assert load_shared([source(5)], ["-march=x86-64", "-O1"]).f() == 5


def test_debug_logs_the_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fusewire"):
        compile_shared([source(1)], FAST)
        assert not caplog.records
        monkeypatch.setenv("FUSEWIRE_DEBUG", "1")
        compile_shared([source(2)], FAST)
        compile_shared([source(2)], FAST)
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == ["compiled f.c"]


def test_loads_in_both_arms_of_a_condition(cache: Path) -> None:
    """gcc 12 at -O3 leaves elements out when it vectorises this loop; the flags have to prevent that."""
    text = """
    void join(const float *restrict a, const float *restrict b, float *restrict out) {
      for (long i = 0; i < 5; ++i)
        for (long j = 0; j < 2; ++j) {
          float t;
          if (i < 3) { t = a[2 * i + j]; } else { t = b[2 * i + j - 6]; }
          out[2 * i + j] = t;
        }
    }
    """
    library = load_shared([("join", text)], ["-march=native"])
    arrays = [(ctypes.c_float * n)(*values) for n, values in ((6, range(1, 7)), (4, range(10, 14)), (10, [0] * 10))]
    library.join(*arrays)
    assert list(arrays[2]) == [1, 2, 3, 4, 5, 6, 10, 11, 12, 13]
