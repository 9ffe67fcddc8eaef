"""The host's processor, and the instruction set that a `cpu` target compiles for.

Schedules ask `isa_for(target)` for the vector width and the number of vector registers; the toolchain gets the flags
that make the compiler agree. Feature names are written without `_` and `.` (`avx512vnni`, `sse42`), because the kernel,
gcc and LLVM spell them differently.
"""

import os
import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from ..ir.errors import TargetError
from .target import Target, did_you_mean

_ARM = ("aarch64", "arm64")
_X86 = ("x86_64", "amd64", "i686", "i386")

# What the kernel calls by another name than the compilers do.
_SYNONYMS = {"pni": "sse3", "asimd": "neon", "abm": "lzcnt"}

_SSE = ("sse", "sse2")
_SSE42 = (*_SSE, "sse3", "ssse3", "sse41", "sse42", "popcnt")
_AVX2 = (*_SSE42, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_BF16 = (*_AVX512, "avx512bf16")

# The processors that gcc and clang know by name, by their vector features: what decides the width, and what must be
# there for the code to run.
_X86_CPUS: dict[str, tuple[str, ...]] = {
    name: features
    for features, names in (
        (_SSE, "x86-64 k8"),
        ((*_SSE, "sse3"), "nocona k8-sse3"),
        ((*_SSE, "sse3", "ssse3"), "core2 bonnell atom"),
        (_SSE42, "x86-64-v2 nehalem corei7 westmere silvermont goldmont goldmont-plus tremont"),
        ((*_SSE42, "avx"), "sandybridge corei7-avx"),
        ((*_SSE42, "avx", "f16c"), "ivybridge core-avx-i"),
        (_AVX2, "x86-64-v3 haswell core-avx2 broadwell skylake alderlake raptorlake meteorlake arrowlake arrowlake-s"),
        (_AVX2, "lunarlake pantherlake gracemont sierraforest grandridge clearwaterforest bdver4 znver1 znver2 znver3"),
        (_AVX512, "x86-64-v4 skylake-avx512 rocketlake cannonlake cascadelake icelake-client icelake-server"),
        (_AVX512, "tigerlake"),
        (_BF16, "cooperlake sapphirerapids emeraldrapids graniterapids graniterapids-d diamondrapids znver4 znver5"),
    )
    for name in names.split()
}
_ARM_NAMES = """
    cortex-a53 cortex-a55 cortex-a57 cortex-a72 cortex-a73 cortex-a75 cortex-a76 cortex-a77 cortex-a78 cortex-a510
    cortex-a520 cortex-a710 cortex-a715 cortex-a720 cortex-x1 cortex-x2 cortex-x3 cortex-x4 neoverse-n1 neoverse-n2
    neoverse-n3 neoverse-v1 neoverse-v2 neoverse-v3 thunderx2t99 a64fx ampere1 ampere1a apple-m1 apple-m2 apple-m3
"""
_ARM_CPUS = tuple(_ARM_NAMES.split())


@frozen
class CpuFeatures:
    """One processor: its name, its machine type (`x86_64`, `aarch64`) and its features, sorted, spelled as above."""

    name: str
    machine: str
    features: tuple[str, ...]

    @property
    def vector_bytes(self) -> int:
        """Bytes in the widest vector worth using: 64 (AVX-512), 32 (AVX2 with FMA), else 16."""
        return _vector_bytes(self.features)

    def missing(self, isa: "Isa") -> tuple[str, ...]:
        """The features that code compiled for `isa` may use and this processor lacks; empty means that it runs."""
        return tuple(name for name in isa.requires if name not in self.features)


@frozen
class DeviceProfile:
    """What schedules for work-groups must know of a device.

    Attributes:
        kind: `gpu`; or `cpu`, where such kernels run, but kernels for a team, cut into launches, are faster.
        local_bytes: memory that the items of a group can share.
        max_group: items in a group at most.
        warp: items that run in lockstep (32 in a warp, 64 in a wavefront).
        matrix: the types in which units for matrices may take the factors of float32 products: float32 (rounded to
            TF32), float16, bfloat16.
        plain: whether channels are best left where the graph has them; else they are put into blocks of a vector.
        exchange: whether items exchange values without memory.
        image: columns and rows that a read-only image may have at most; (0, 0): there are none.
        half: whether factors of float16 are multiplied, and a few products added, in float16.
    """

    kind: str = "cpu"
    local_bytes: int = 32768
    max_group: int = 256
    warp: int = 1
    matrix: tuple[str, ...] = ()
    plain: bool = False
    exchange: bool = False
    image: tuple[int, int] = (0, 0)
    half: bool = False


@frozen
class Isa:
    """What a kernel is compiled for.

    Attributes:
        name: `avx512`, `avx2`, `sse`, `neon` or `generic`.
        vector_bytes: bytes in one vector.
        registers: architectural vector registers.
        cflags: the compiler flags that select it.
        requires: features that a processor must have to run the code.
        device: the device that runs launches, where kernels are launches and no functions for a team.

    """

    name: str
    vector_bytes: int
    registers: int
    cflags: tuple[str, ...]
    requires: tuple[str, ...] = ()
    device: DeviceProfile | None = None

    @property
    def gpu(self) -> bool:
        """Whether kernels for work-groups are what the device is made for."""
        return self.device is not None and self.device.kind == "gpu"

    @property
    def half(self) -> bool:
        """Whether float16 is computed with, and not only stored."""
        return self.device is not None and self.device.half

    def takes_groups(self, items: int) -> bool:
        """Whether work-groups may have so many items: as many as the target allows, and whole warps on GPUs."""
        device = self.device
        return device is not None and 0 < items <= device.max_group and (not self.gpu or items % device.warp == 0)

    @property
    def block_bytes(self) -> int:
        """Bytes of the vectors that layouts have blocks for; 0: layouts stay as they are."""
        return 0 if self.device is not None and self.device.plain else self.vector_bytes

    @property
    def bfloat16_dot(self) -> bool:
        """Whether there is an instruction that multiplies pairs of bfloat16 and adds in float32 (AVX512_BF16)."""
        return self.vector_bytes == 64 and "avx512bf16" in self.requires

    @property
    def float16_loads(self) -> bool:
        """Whether vectors of float16 are converted by an instruction; elsewhere it takes a call for each element."""
        return self.name == "neon" or not {"f16c", "avx512f"}.isdisjoint(self.requires)

    @property
    def is_native(self) -> bool:
        """Whether the flags mean the processor of the machine that compiles."""
        return any(flag.endswith("=native") for flag in self.cflags)


@lru_cache(maxsize=1)
def cpu_features() -> CpuFeatures:
    """The host's processor, from `/proc/cpuinfo`; elsewhere only what its machine type guarantees."""
    machine = platform.machine().lower()
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, machine)


def parse_cpuinfo(text: str, machine: str) -> CpuFeatures:
    """The first processor in the text of `/proc/cpuinfo` on a `machine` (as `platform.machine()` names it)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    words = (fields.get("flags") or fields.get("features") or "").split()
    found = {_plain(word) for word in words} | set(_guaranteed(machine))
    name = fields.get("model name") or platform.processor() or machine
    return CpuFeatures(name, machine, tuple(sorted(found)))


def usable_cores() -> int:
    """Processors that this process may run on (its affinity mask, where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def isa_for(target: Target) -> Isa:
    """The instruction set of a `cpu` target: the host's, or what `-mcpu=`, `-mattr=` and `-mtriple=` ask for.

    `-mcpu=generic` is the least that every processor of the machine has; without `-mtriple` and `-mattr` it is C that
    any processor runs. A machine that is neither x86-64 nor 64-bit Arm gets such C, too.

    Raises:
        TargetError: the target is of another kind, `-mcpu` is unknown or not one of `-mtriple`, or `-mattr` stands
            without `-mcpu` on Arm, or for a machine whose features are not known.

    """
    if target.kind != "cpu":
        raise TargetError(f"target '{target}': only a target of kind cpu has an instruction set")
    host, given = cpu_features().machine, _machine(target)
    mcpu = target.mcpu or ("generic" if given else "native")
    named = "arm" if mcpu in _ARM_CPUS else "x86" if mcpu in _X86_CPUS else ""
    if not named and mcpu not in ("native", "generic"):
        known = ["native", "generic", *_X86_CPUS, *_ARM_CPUS]
        hint = f"{did_you_mean(mcpu, known)}; known processors: {', '.join(known)}"
        raise TargetError(f"target '{target}': unknown processor {mcpu!r}{hint}")
    family = named or _family(given or host)
    if given and (family != _family(given) or (mcpu == "native" and family != _family(host))):
        whose = f"the host's, which is {host}" if mcpu == "native" else f"not one for {given}"
        raise TargetError(f"target '{target}': the processor {mcpu} is {whose}")
    if family not in ("arm", "x86") or (mcpu == "generic" and not given and not target.mattr):
        if target.mattr:
            raise TargetError(f"target '{target}': -mattr is for x86 and Arm only, not for {given or host}")
        return Isa("generic", 16, 16, (), (given,) if given not in ("", host) else ())
    return (_arm if family == "arm" else _x86)(target, None if mcpu == "native" else mcpu)


def _machine(target: Target) -> str:
    """The machine type of `-mtriple=`; empty without one."""
    name = (target.mtriple or "").partition("-")[0].lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def _family(machine: str) -> str:
    return "arm" if machine in _ARM else "x86" if machine in _X86 else machine


def _x86(target: Target, mcpu: str | None) -> Isa:
    mcpu = "x86-64" if mcpu == "generic" else mcpu
    features = set(_X86_CPUS[mcpu] if mcpu else filter(_generates_code, cpu_features().features))
    flags = [f"-march={mcpu or 'native'}"]
    for attribute in target.mattr:
        on, name = attribute[0] == "+", attribute[1:]
        flags.append(f"-m{name}" if on else f"-mno-{name}")
        features = _switched_on(features, _plain(name)) if on else _switched_off(features, _plain(name))
    width = _vector_bytes(features)
    if width == 64:
        # Left alone, gcc and clang vectorise plain loops 32 bytes wide on most AVX-512 processors.
        flags.append("-mprefer-vector-width=512")
        # Tuned for AMD's processors, or for none, gcc reads a vector again at each use to save a register. A core reads
        # one such vector a cycle, so that multiply-adds wait.
        flags.append("-mtune=skylake-avx512")
    name = {64: "avx512", 32: "avx2", 16: "sse"}[width]
    return Isa(name, width, 32 if width == 64 else 16, tuple(flags), tuple(sorted(features)))


def _arm(target: Target, mcpu: str | None) -> Isa:
    if target.mattr and mcpu is None:
        # gcc refuses -mcpu=native+feature.
        raise TargetError(f"target '{target}': on Arm, -mattr needs a named -mcpu; known: {', '.join(_ARM_CPUS)}")
    # LLVM, and so TVM, calls neon what gcc and clang call simd.
    names = [(name[0], "simd" if name[1:] == "neon" else name[1:]) for name in target.mattr]
    extensions = "".join(f"+{'' if sign == '+' else 'no'}{name}" for sign, name in names)
    # Told "native", the compiler may use whatever this processor has.
    requires = ("neon",) if mcpu else tuple(sorted({"neon", *cpu_features().features}))
    return Isa("neon", 16, 32, (f"-mcpu={mcpu or 'native'}{extensions}",), requires)


def _plain(name: str) -> str:
    name = name.lower().replace("_", "").replace(".", "")
    return _SYNONYMS.get(name, name)


def _guaranteed(machine: str) -> tuple[str, ...]:
    """Features that every processor of the machine type has."""
    if machine in _ARM:
        return ("neon",)
    return _SSE if machine in ("x86_64", "amd64") else ()


def _generates_code(name: str) -> bool:
    """Whether a compiler told `-march=native` may use the feature in a kernel, unasked."""
    return name in _AVX2 or name.startswith("avx") or name in ("fma4", "xop", "gfni", "movbe")


def _implied(name: str) -> tuple[str, ...]:
    """The features that `name` is built upon, among those that decide the vector width."""
    if name.startswith("avx512"):
        return ("avx512f", "avx2", "avx")
    return ("avx",) if name in ("avx2", "fma", "f16c", "fma4", "xop") or name.startswith("avx") else ()


def _switched_on(features: Iterable[str], name: str) -> set[str]:
    return {*features, name, *_implied(name)}


def _switched_off(features: Iterable[str], name: str) -> set[str]:
    return {feature for feature in features if feature != name and name not in _implied(feature)}


def _vector_bytes(features: Iterable[str]) -> int:
    features = set(features)
    if "avx512f" in features:
        return 64
    return 32 if {"avx2", "fma"} <= features else 16
