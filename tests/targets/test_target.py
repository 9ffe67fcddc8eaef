import pickle
from collections.abc import Callable
from typing import Any

import pytest

from fusewire.ir.errors import TargetError
from fusewire.targets import target as target_module
from fusewire.targets.cpuinfo import CpuFeatures, Isa, cpu_features, isa_for, parse_cpuinfo, usable_cores
from fusewire.targets.target import KINDS, Target, known_libraries, register_library_name

CANONICAL = {
    "cpu": "cpu -keys=cpu",
    "llvm": "cpu -keys=cpu",
    "c -num_cores=2": "cpu -keys=cpu -num-cores=2",
    "cpu -libs=onednn,openblas -num-cores=2": "cpu -keys=cpu -libs=onednn,openblas -num-cores=2",
    "cpu -libs=onednn,onednn": "cpu -keys=cpu -libs=onednn",
    "cpu -libs=": "cpu -keys=cpu",
    "cpu -libs=auto": "cpu -keys=cpu -libs=auto",
    "cpu -libs=auto:openblas": "cpu -keys=cpu -libs=auto:openblas",
    "cpu -mcpu=haswell -mattr=-fma,+sse4.2": "cpu -keys=cpu -mattr=-fma,+sse4.2 -mcpu=haswell",
    "llvm -mtriple=aarch64-linux-gnu -mattr=+neon": "cpu -keys=cpu -mattr=+neon -mtriple=aarch64-linux-gnu",
    "cuda -libs=cudnn -arch=sm_75": "cuda -keys=cuda,gpu -arch=sm_75 -libs=cudnn -max_num_threads=1024 "
    "-thread_warp_size=32",
    "cuda --max-num-threads=256": "cuda -keys=cuda,gpu -max_num_threads=256 -thread_warp_size=32",
    "opencl -device='Some GPU'": "opencl -keys=opencl,gpu '-device=Some GPU' -max_num_threads=256 -thread_warp_size=1",
    "rocm -mcpu=gfx90a": "rocm -keys=rocm,gpu -arch=gfx90a -max_num_threads=256 -thread_warp_size=64",
    "rocm -arch=gfx1100": "rocm -keys=rocm,gpu -arch=gfx1100 -max_num_threads=256 -thread_warp_size=32",
    "rocm -thread_warp_size=32": "rocm -keys=rocm,gpu -max_num_threads=256 -thread_warp_size=32",
    "opencl -keys=opencl,cpu": "opencl -keys=opencl,cpu -max_num_threads=256 -thread_warp_size=1",
}


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_string_and_round_trips(text: str) -> None:
    target = Target(text)
    assert str(target) == CANONICAL[text]
    for again in (
        Target(str(target)),
        Target(target),
        Target(target.to_dict()),
        Target({**target.to_dict(), "device": None} if target.device is None else target),
        pickle.loads(pickle.dumps(target)),
    ):
        assert again == target
        assert hash(again) == hash(target)
        assert str(again) == str(target)
    assert repr(target) == f"Target({str(target)!r})"


def test_attributes() -> None:
    target = Target("cpu -libs=onednn,openblas -num-cores=2 -mattr=+avx2 -precision=bfloat16 -device=server")
    assert (target.kind, target.keys, target.libs, target.libs_auto) == ("cpu", ("cpu",), ("onednn", "openblas"), False)
    assert (target.num_cores, target.mcpu, target.mattr) == (2, None, ("+avx2",))
    assert (target.precision, target.device) == ("bfloat16", "server")
    assert target.arch is None and target.max_num_threads is None
    gpu = Target("cuda")
    assert (gpu.libs, gpu.num_cores, gpu.max_num_threads, gpu.thread_warp_size) == ((), None, 1024, 32)


def test_mapping_takes_python_values() -> None:
    spec = {"kind": "llvm", "libs": ["openblas"], "num_cores": 3, "mattr": ("+avx2", "-fma")}
    assert Target(spec) == Target("cpu -num-cores=3 -mattr=+avx2,-fma -libs=openblas")
    assert Target({"kind": "cpu", "libs": ["auto", "onednn"]}) == Target("cpu -libs=auto:onednn")


def test_targets_differ_by_every_option() -> None:
    texts = ["cpu", "cuda", "cpu -libs=auto", "cpu -libs=onednn", "cpu -libs=auto:onednn", "cpu -libs=openblas,onednn"]
    texts += ["cpu -libs=onednn,openblas", "cpu -mcpu=haswell", "cpu -mattr=+fma", "cpu -num-cores=1", "cpu -device=a"]
    assert len({Target(text) for text in texts}) == len(texts)


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        Target("cpu").num_cores = 3  # type: ignore[misc]


def test_auto_means_what_is_known_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_LIBRARIES", {kind: list(names) for kind, names in _libraries().items()})
    target = Target("cpu -libs=auto")
    before = target.libs
    assert target.libs_auto and before == ("onednn", "openblas")
    register_library_name("mylib", ["llvm", "cuda"])
    register_library_name("mylib", ["cpu"])
    assert target.libs == (*before, "mylib") == known_libraries("cpu")
    assert Target("cuda -libs=mylib").libs == ("mylib",)
    with pytest.raises(TargetError, match="a library for cpu, cuda"):
        Target("rocm -libs=mylib")
    for name, kinds in (("auto", ["cpu"]), ("a,b", ["cpu"]), ("fine", ["cpuu"])):
        with pytest.raises(TargetError):
            register_library_name(name, kinds)
    assert "fine" not in known_libraries("cpu")


def _libraries() -> dict[str, list[str]]:
    return target_module._LIBRARIES


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("", ["known kinds: cpu (llvm, c), opencl, cuda, rocm"]),
        ("-libs=onednn", ["kind -key=value"]),
        ("cpuu", ["unknown kind 'cpuu'", "did you mean 'cpu'", "rocm"]),
        ("cpu -lib=onednn", ["unknown key -lib", "did you mean 'libs'", "-num-cores"]),
        ("cpu -arch=sm_75", ["unknown key -arch", "for kind cpu", "-mcpu"]),
        ("cpu -libs=onedn", ["unknown library 'onedn'", "did you mean 'onednn'", "openblas"]),
        ("cpu -libs=cudnn", ["unknown library 'cudnn'", "a library for cuda", "onednn"]),
        ("cpu -libs=auto,onednn", ["-libs", "auto:NAME"]),
        ("cpu -libs=onednn,auto", ["-libs", "auto:NAME"]),
        ("cpu -libs=auto:", ["at least one library"]),
        ("cuda -thread_warp_size=64", ["64", "-thread_warp_size", "expected 32", "kind cuda"]),
        ("rocm -arch=gfx1030 -thread_warp_size=64", ["64", "expected 32", "-arch=gfx1030"]),
        ("rocm -arch=gfx942 -thread_warp_size=32", ["32", "expected 64", "-arch=gfx942"]),
        ("rocm -thread_warp_size=16", ["expected 64 or 32", "kind rocm"]),
        ("rocm -arch=gfx9", ["'gfx9'", "-arch", "such as gfx90a"]),
        ("cpu -num-cores=0", ["'0'", "-num-cores", "at least 1"]),
        ("cpu -num-cores=two", ["'two'", "-num-cores"]),
        ("cpu -num-cores", ["expected -key=value, got '-num-cores'"]),
        ("cpu onednn", ["expected -key=value, got 'onednn'"]),
        ("cpu -num-cores=2 -num-cores=3", ["given twice"]),
        ("cpu -num-cores=2 -num_cores=3", ["given twice"]),
        ("cpu -mattr=avx2", ["+FEATURE"]),
        ("cpu -precision=float8", ["one of float32, bfloat16, float16"]),
        ("cuda -arch=75", ["sm_75"]),
        ("rocm -arch=sm_75", ["gfx90a"]),
        ("cpu -device='x", ["quotation"]),
        ({"libs": ["onednn"]}, ["'kind'"]),
        ({"kind": "cpu", "libs": 3}, ["-libs", "names"]),
        ({"kind": "cpu", "num-cores": True}, ["-num-cores"]),
        (7, ["a string, a Target, or a mapping"]),
    ],
)
def test_errors_name_what_was_got_and_what_is_known(spec: Any, parts: list[str]) -> None:
    with pytest.raises(TargetError) as caught:
        Target(spec)
    for part in parts:
        assert part in str(caught.value)


def test_every_option_has_a_target_attribute() -> None:
    for kind in KINDS.values():
        names = [option.name for option in kind.options]
        assert names == ["keys", *sorted(names[1:])]
        for option in kind.options:
            assert hasattr(Target(kind.name), option.attribute)


# Instruction sets ----------------------------------------------------------------------------------------------------

X86 = "processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse sse2 pni {}\n\nprocessor : 1\nflags : fpu\n"
AVX2 = X86.format("sse4_1 avx avx2 fma f16c abm hypervisor")
AVX512 = X86.format("avx avx2 fma avx512f avx512vl avx512_vnni")
ARM = "processor : 0\nBogoMIPS : 50\nFeatures\t: fp asimd crc32\n"


@pytest.mark.parametrize(
    ("text", "machine", "width", "some"),
    [
        (X86.format(""), "x86_64", 16, {"sse3", "sse2"}),
        (X86.format("avx avx2"), "x86_64", 16, {"avx2"}),  # no fma
        (AVX2, "x86_64", 32, {"avx2", "fma", "sse41", "lzcnt"}),
        (AVX512, "x86_64", 64, {"avx512f", "avx512vnni"}),
        (ARM, "aarch64", 16, {"neon", "crc32"}),
        ("", "x86_64", 16, {"sse2"}),
        ("", "arm64", 16, {"neon"}),
        ("", "riscv64", 16, set()),
    ],
)
def test_parse_cpuinfo(text: str, machine: str, width: int, some: set[str]) -> None:
    cpu = parse_cpuinfo(text, machine)
    assert cpu.vector_bytes == width and some <= set(cpu.features) and cpu.machine == machine and cpu.name
    assert list(cpu.features) == sorted(set(cpu.features))


def test_host() -> None:
    cpu = cpu_features()
    assert cpu.name and cpu.vector_bytes in (16, 32, 64)
    assert cpu.missing(isa_for(Target("cpu"))) == ()
    assert usable_cores() >= 1


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], CpuFeatures]:
    def use(text: str, machine: str) -> CpuFeatures:
        cpu = parse_cpuinfo(text, machine)
        monkeypatch.setattr("fusewire.targets.cpuinfo.cpu_features", lambda: cpu)
        return cpu

    return use


@pytest.mark.parametrize(
    ("options", "name", "width", "registers", "cflags"),
    [
        ("", "avx512", 64, 32, ["-march=native", "-mprefer-vector-width=512", "-mtune=skylake-avx512"]),
        ("-mcpu=native", "avx512", 64, 32, ["-march=native", "-mprefer-vector-width=512", "-mtune=skylake-avx512"]),
        ("-mcpu=haswell", "avx2", 32, 16, ["-march=haswell"]),
        ("-mcpu=x86-64", "sse", 16, 16, ["-march=x86-64"]),
        ("-mcpu=ivybridge", "sse", 16, 16, ["-march=ivybridge"]),
        (
            "-mcpu=skylake-avx512",
            "avx512",
            64,
            32,
            ["-march=skylake-avx512", "-mprefer-vector-width=512", "-mtune=skylake-avx512"],
        ),
        ("-mcpu=znver4", "avx512", 64, 32, ["-march=znver4", "-mprefer-vector-width=512", "-mtune=skylake-avx512"]),
        ("-mattr=-avx512f", "avx2", 32, 16, ["-march=native", "-mno-avx512f"]),
        ("-mattr=+avx2,-avx512f", "avx2", 32, 16, ["-march=native", "-mavx2", "-mno-avx512f"]),
        ("-mattr=-avx", "sse", 16, 16, ["-march=native", "-mno-avx"]),
        ("-mattr=-avx512f,-fma", "sse", 16, 16, ["-march=native", "-mno-avx512f", "-mno-fma"]),
        ("-mcpu=x86-64 -mattr=+avx2,+fma,+sse4.2", "avx2", 32, 16, ["-march=x86-64", "-mavx2", "-mfma", "-msse4.2"]),
        (
            "-mcpu=haswell -mattr=+avx512_vnni",
            "avx512",
            64,
            32,
            ["-march=haswell", "-mavx512_vnni", "-mprefer-vector-width=512", "-mtune=skylake-avx512"],
        ),
        ("-mcpu=neoverse-n1", "neon", 16, 32, ["-mcpu=neoverse-n1"]),
        ("-mcpu=neoverse-v1 -mattr=+sve,-fp16", "neon", 16, 32, ["-mcpu=neoverse-v1+sve+nofp16"]),
        ("-mcpu=generic", "generic", 16, 16, []),
        ("-mcpu=generic -mattr=+avx2,+fma", "avx2", 32, 16, ["-march=x86-64", "-mavx2", "-mfma"]),
        ("-mtriple=x86_64-linux-gnu", "sse", 16, 16, ["-march=x86-64"]),
        ("-mtriple=amd64-freebsd -mcpu=native -mattr=-avx512f", "avx2", 32, 16, ["-march=native", "-mno-avx512f"]),
        ("-mtriple=aarch64-linux-gnu -mattr=+neon", "neon", 16, 32, ["-mcpu=generic+simd"]),
        ("-mtriple=arm64-apple-darwin -mcpu=apple-m1", "neon", 16, 32, ["-mcpu=apple-m1"]),
        ("-mtriple=riscv64-linux-gnu", "generic", 16, 16, []),
    ],
)
def test_isa_on_an_avx512_host(
    host: Callable[[str, str], CpuFeatures], options: str, name: str, width: int, registers: int, cflags: list[str]
) -> None:
    host(AVX512, "x86_64")
    isa = isa_for(Target(f"cpu {options}"))
    assert (isa.name, isa.vector_bytes, isa.registers, list(isa.cflags)) == (name, width, registers, cflags)


def test_isa_of_other_hosts(host: Callable[[str, str], CpuFeatures]) -> None:
    host(AVX2, "x86_64")
    native = isa_for(Target("cpu"))
    assert (native.name, native.vector_bytes, native.cflags) == ("avx2", 32, ("-march=native",))
    assert "hypervisor" not in native.requires and "fma" in native.requires
    host(ARM, "aarch64")
    assert isa_for(Target("cpu")) == Isa("neon", 16, 32, ("-mcpu=native",), ("crc32", "fp", "neon"))
    with pytest.raises(TargetError, match="needs a named -mcpu"):
        isa_for(Target("cpu -mattr=+sve"))
    host("", "riscv64")
    assert isa_for(Target("cpu")) == Isa("generic", 16, 16, ())
    with pytest.raises(TargetError, match="x86 and Arm only"):
        isa_for(Target("cpu -mattr=+v"))


def test_what_the_host_lacks(host: Callable[[str, str], CpuFeatures]) -> None:
    cpu = host(AVX2, "x86_64")
    wanted = isa_for(Target("cpu -mcpu=skylake-avx512"))
    assert {"avx512f", "avx512vl"} <= set(cpu.missing(wanted)) and "fma" not in cpu.missing(wanted)
    assert "avx2" not in cpu.missing(isa_for(Target("cpu -mattr=+avx2")))


def test_plain_c_runs_anywhere_and_a_named_machine_is_the_one(host: Callable[[str, str], CpuFeatures]) -> None:
    cpu = host(AVX2, "x86_64")
    assert cpu.missing(isa_for(Target("cpu -mcpu=generic"))) == ()
    assert cpu.missing(isa_for(Target("cpu -mtriple=x86_64"))) == ()
    assert cpu.missing(isa_for(Target("cpu -mtriple=riscv64-linux-gnu"))) == ("riscv64",)
    assert cpu.missing(isa_for(Target("cpu -mtriple=aarch64"))) == ("neon",)
    assert host("", "riscv64").missing(isa_for(Target("cpu -mtriple=riscv64-linux-gnu"))) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-mtriple=aarch64-linux-gnu -mcpu=haswell", "the processor haswell is not one for aarch64"),
        ("-mtriple=x86_64 -mcpu=cortex-a72", "the processor cortex-a72 is not one for x86_64"),
        ("-mtriple=riscv64 -mcpu=haswell", "the processor haswell is not one for riscv64"),
        ("-mtriple=aarch64 -mcpu=native", "the processor native is the host's, which is x86_64"),
        ("-mtriple=riscv64 -mattr=+v", "-mattr is for x86 and Arm only, not for riscv64"),
        ("-mtriple=-x", "bad value '-x' for -mtriple; expected a machine, such as aarch64-linux-gnu"),
    ],
)
def test_triple_errors(host: Callable[[str, str], CpuFeatures], options: str, message: str) -> None:
    host(AVX2, "x86_64")
    with pytest.raises(TargetError) as caught:
        isa_for(Target(f"cpu {options}"))
    assert message in str(caught.value)


def test_isa_errors() -> None:
    with pytest.raises(TargetError, match=r"unknown processor 'haswel'; did you mean 'haswell'\?; .*znver4"):
        isa_for(Target("cpu -mcpu=haswel"))
    with pytest.raises(TargetError, match="only a target of kind cpu"):
        isa_for(Target("cuda"))
