"""The files of an exported project: templates filled in."""

import re
import shlex
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import frozen

from ..cpu import CALL_STRUCT
from ..cpuinfo import Isa
from ..memory import ALIGN
from ..program import Program
from ..runnable import Runnable
from ..target import Target
from ..team import RUNTIME, SPIN_NS, TEAM_HEADER
from ..toolchain import DEFAULT_FLAGS, family_flags, spelled_for
from .driver import Weights, checks_text, code_of, lay_out, steps_text, table
from .interface import Interface, Port, interface

MANIFEST = "fusewire-export.json"
"""The file that tells an exported project from other folders."""

# What the compiler defines when the instruction set is there that the code was laid out for.
_GUARDS = {
    "avx512": ("__AVX512F__",),
    "avx2": ("__AVX2__", "__FMA__"),
    "sse": ("__SSE2__",),
    "neon": ("__ARM_NEON",),
}
_MACHINES = {"avx512": "x86_64", "avx2": "x86_64", "sse": "x86_64", "neon": "aarch64"}

# A definition at the beginning of a line that other files see, and that has no name of the module in it.
_EXTERNAL = re.compile(
    r"^(?!static|typedef|extern)[A-Za-z][\w ]*?[ *](fw_(?!\w*fusewire_)\w+)(?=[(\[;]| =)", re.MULTILINE
)


@frozen(eq=False)
class Project:
    """What an export writes: texts by path, and the weights.

    Attributes:
        texts: the files but the weights; the manifest is not among them.
        weights_path: where the weights go; empty when there are none.
        manifest: what the manifest says, without the list of files.
    """

    texts: Mapping[str, str]
    weights: Weights
    weights_path: str
    manifest: Mapping[str, object]


def make_project(runnable: Runnable, target: Target, mod_name: str) -> Project:
    """The files that make a C project of a program; library steps must not be among its steps."""
    face, weights = interface(runnable, mod_name), lay_out(runnable)
    code = {f"src/code_{name}.c": _in_project(text) for name, text in code_of(runnable).files}
    code["src/runtime.c"] = _runtime(face)
    values = _values(runnable, target, face, weights, code)
    if weights.size:
        code[f"src/{face.name}_weights.c"] = _fill("weights.c", values)
    code[f"src/{face.name}.c"] = _fill("model.c", values)
    values["SOURCES"] = "\n".join(f"  {path}" for path in sorted(code))
    texts = {
        **code,
        f"include/{face.name}.h": _fill("model.h", values),
        "src/fw_config.h": _fill("fw_config.h", values),
        "src/fw_team.h": TEAM_HEADER,
        "main.c": _fill("main.c", values),
        "README.md": _fill("README.md", values),
        "CMakeLists.txt": _fill("CMakeLists.txt", values),
    }
    path = f"src/{face.name}_weights.bin" if weights.size else ""
    return Project(texts, weights, path, _manifest(runnable, target, face))


def _in_project(text: str) -> str:
    """A generated source, with the header that it holds a copy of as a file."""
    return '#include "fw_config.h"\n' + text.replace(TEAM_HEADER, '#include "fw_team.h"\n')


def _runtime(face: Interface) -> str:
    text = "".join(text.replace(TEAM_HEADER, "") for _, text in RUNTIME)
    return f'#include "fw_config.h"\n#ifdef FW_THREADED\n#include "fw_team.h"\n{text}#endif\n'


def _fill(template: str, values: Mapping[str, str]) -> str:
    text = Path(__file__).with_name(f"{template}.in").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def _values(
    runnable: Runnable, target: Target, face: Interface, weights: Weights, code: Mapping[str, str]
) -> dict[str, str]:
    """What the marks of the templates stand for."""
    thread, team = code_of(runnable).thread_bytes, code_of(runnable).team_bytes
    arena, slots = runnable.arena.size, len(runnable.program.slots) + len(runnable.code.packed)
    regions = [f"void fw_segment_{k}(void *arg, int tid, int nthreads, fw_team *team);\n"
               for k in range(len(code_of(runnable).segments))]  # fmt: skip
    names = sorted({name for text in code.values() for name in _EXTERNAL.findall(text)})
    return {
        **_numbers(runnable, weights),
        **_main_values(face),
        **_flag_values(runnable.code.isa, face, bool(weights.size)),
        "NAME": face.name,
        "UPPER": face.upper,
        "TARGET": str(target),
        "MEMORY": f"{arena} + {thread} * {face.upper}_THREADS + {team}",
        "PORTS": "".join(map(face.constants, face.ports)),
        "PARAMS": face.params,
        "NAMES": "".join(f"#define {name} {face.name}_{name.removeprefix('fw_')}\n" for name in names),
        "CALL_STRUCT": CALL_STRUCT,
        "SLOTS": str(max(slots, 1)),
        "STRIDE": str(thread),
        "ARENA": str(max(arena, 1)),
        "TEAM_BYTES": str(team or 1),
        "WEIGHTS": _declared_weights(face, weights),
        "DIGEST": weights.digest(),
        "TABLE": table(runnable, weights, face.name) or "    NULL,\n",
        "REGIONS": "".join(regions),
        "CHECK": checks_text(face),
        "SET": "".join(_set(runnable.program, port) for port in face.ports),
        "STEPS": steps_text(runnable),
    }


def _set(program: Program, port: Port) -> str:
    """Statements that tell where a tensor of the caller is, to all slots that are its memory."""
    root = program.root(port.slot)
    slots = [root, *(view for view, shown in program.views.items() if shown == root)]
    return "".join(f"  set({slot}, {port.name});\n" for slot in slots)


def _numbers(runnable: Runnable, weights: Weights) -> dict[str, str]:
    scratch = code_of(runnable).thread_bytes * runnable.threads + code_of(runnable).team_bytes
    numbers = {
        "ALIGN": ALIGN,
        "SPIN_NS": SPIN_NS,
        "THREADS": runnable.threads,
        "WEIGHT_BYTES": weights.size,
        "ARENA_BYTES": runnable.arena.size,
        "SCRATCH_BYTES": scratch,
    }
    return {name: str(number) for name, number in numbers.items()}


def _declared_weights(face: Interface, weights: Weights) -> str:
    if not weights.size:
        return ""
    return f'\nextern const unsigned char {face.name}_weights[] __attribute__((visibility("hidden")));\n'


def _main_values(face: Interface) -> dict[str, str]:
    """What main.c needs for each tensor."""

    def buffer(port: Port) -> str:
        return f"static {port.ctype} {port.name}[{face.macro(port, 'SIZE') if port.elements else 1}] ALIGNED;\n"

    def row(port: Port) -> str:
        floats = ("bool", "float16", "bfloat16", "float32", "float64")
        kind = port.type.dtype.upper() if port.type.dtype in floats else "INTEGER"
        return f'    {{"{port.name}", {port.name}, {face.macro(port, "BYTES")}, {port.width}, {kind}}},\n'

    declared = "".join(f"static {port.ctype} {port.name}[{face.macro(port, 'SIZE')}];\n" for port in face.ports)
    arguments = ", ".join(port.name for port in face.ports)
    return {
        "BUFFERS": "".join(map(buffer, face.ports)),
        "INPUTS": "".join(map(row, face.inputs)),
        "OUTPUTS": "".join(map(row, face.outputs)),
        "ARGUMENTS": arguments,
        "EXAMPLE": f"{declared}\nint status = {face.name}_run({arguments}); /* {face.upper}_OK */",
        "FILES": " ".join(f"{port.name}.bin" for port in face.inputs),
    }


def _flag_values(isa: Isa, face: Interface, has_weights: bool) -> dict[str, str]:
    """Flags and commands; what fusewire itself compiles with."""
    machine = _MACHINES.get(isa.name, "")
    sources = f"-Iinclude -Isrc src/*.c main.c -o {face.name}_main -lm -lpthread"

    def command(compiler: str, family: str) -> str:
        flags = (*family_flags(family, machine), *DEFAULT_FLAGS, *spelled_for(family, isa.cflags))
        return f"{compiler} {shlex.join(flags)} \\\n  {sources}"

    tests = " || ".join(f"!defined({name})" for name in _GUARDS.get(isa.name, ()))
    wanted = f'#error "generated for {isa.name}: compile with {shlex.join(isa.cflags)}, or generate it anew"'
    gcc = family_flags("gcc", machine)
    weights = f"{face.name}_weights"
    depend = f"set_source_files_properties(src/{weights}.c PROPERTIES OBJECT_DEPENDS\n" \
             f'  "${{CMAKE_CURRENT_SOURCE_DIR}}/src/{weights}.bin")\n'  # fmt: skip
    return {
        "GCC": command("gcc", "gcc"),
        "CLANG": command("clang", "clang"),
        "CROSS": _cross(isa, face, command),
        "PROCESSOR": _processor(isa),
        "CPU_FLAGS": ";".join(isa.cflags),
        "FLAGS": "\n".join(f"  {flag}" for flag in DEFAULT_FLAGS),
        "GCC_FLAGS": "".join(f"\n    {flag}" for flag in gcc),
        "GUARD": f"#if {tests}\n{wanted}\n#endif\n" if tests else "",
        "WEIGHTS_DEPEND": depend if has_weights else "",
    }


def _processor(isa: Isa) -> str:
    """The README's line on the processor."""
    flags = f"`{shlex.join(isa.cflags)}`"
    if isa.is_native:
        text = (
            f"the code is laid out for {isa.name}, and {flags} means the machine that compiles it. For another one, "
            'name it when building (`"cpu -mcpu=haswell"`, say) and export again.'
        )
    else:
        chosen = f"{flags} chooses it" if isa.cflags else "any will do; your compiler's flags choose it"
        text = f"{chosen}. The code is laid out for {isa.name}, with {isa.vector_bytes} bytes in a vector."
    return "\n  ".join(textwrap.wrap(f"* Processor: {text}", 116))


def _cross(isa: Isa, face: Interface, command: Callable[[str, str], str]) -> str:
    """The README's section on compiling elsewhere; nothing for code that is for the machine that compiles it."""
    if isa.is_native:
        return ""
    machine = _MACHINES.get(isa.name) or next(iter(isa.requires), "aarch64")
    zig = command(f"python -m ziglang cc -target {machine}-linux-musl -static", "zig")
    return _fill("cross.md", {"MACHINE": machine, "ZIG": zig, "NAME": face.name})


def _manifest(runnable: Runnable, target: Target, face: Interface) -> dict[str, object]:
    def described(port: Port) -> dict[str, object]:
        about: dict[str, object] = {"name": port.name, "dtype": port.type.dtype, "shape": list(port.type.static_shape)}
        return {**about, "label": port.label} if port.is_input else about

    return {
        "format": 1,
        "name": face.name,
        "target": str(target),
        "threads": runnable.threads,
        "inputs": [described(port) for port in face.inputs],
        "outputs": [described(port) for port in face.outputs],
    }
