"""From C text to a loaded shared object, through the system's C compiler and a cache on disk.

Environment: `CC` (the compiler, arguments allowed), `FUSEWIRE_CFLAGS` (flags added last), `FUSEWIRE_CACHE_DIR` and
`FUSEWIRE_CACHE_SIZE` (bytes, or with K, M or G; 1G when not set), `FUSEWIRE_DEBUG` (1 and more: log compile times).
"""

import atexit
import ctypes
import hashlib
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import platformdirs
from attrs import frozen

from ..ir.errors import CompileError
from .cpuinfo import cpu_features, usable_cores
from .objcache import ObjectCache
from .scratch import OWNER, own_folder, scratch_folder

_log = logging.getLogger("fusewire")

# NaN, infinities and signed zeros behave as in NumPy, so nothing of -ffast-math beyond these: errno and floating-point
# traps are not observed (without this, sqrt and conditionals would not vectorise), and a*b+c may round once.
# int32 and int64 wrap around as in NumPy; one arena holds tensors of several types. -fno-semantic-interposition and
# -Bsymbolic keep calls within a library inside it, whatever symbols of the same name the process has.
DEFAULT_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-Wno-psabi",
    "-fno-semantic-interposition",
)
# -z defs: a name that is nowhere defined is the linker's error, not the loader's.
_LINK_FLAGS = ("-Wl,-Bsymbolic", "-Wl,-z,defs") if sys.platform == "linux" else ()
_LINK_LIBRARIES = ("-lm", "-lpthread")

# gcc 12 vectorises a loop with loads in both arms of a condition wrongly (tests/targets/test_toolchain.py has one), so
# its conversion of conditions for the vectoriser stays off. Carrying values from one iteration to the next costs the
# registers that tiles of accumulators need.
_GCC_FLAGS = ("-fno-tree-loop-if-convert", "-fno-predictive-commoning")

# Tuned for some processors, gcc uses fused multiply-add in wide loops and not in narrow ones; then the last elements of
# a row are rounded differently from the others.
_GCC_X86_FLAGS = ("--param=avoid-fma-max-bits=0",)

# zig checks for undefined behaviour unless told not to, and gives the checks no runtime library.
_ZIG_FLAGS = ("-fno-sanitize=undefined",)

_MESSAGE_LINES = 40
_LOAD_ATTEMPTS = 5
_EVICTION_INTERVAL = 60.0  # seconds
_INSTALL_HINT = "install one (apt install gcc), or the bundled one (pip install 'fusewire[zig]')"


@frozen
class Compiler:
    """A C compiler: the command that calls it, flags that only it needs, and what tells it from others in the cache."""

    command: tuple[str, ...]
    flags: tuple[str, ...]
    version: str
    identity: tuple[str, ...]
    family: str = "clang"


def family_flags(family: str, machine: str) -> tuple[str, ...]:
    """The flags beside `DEFAULT_FLAGS` that compilers of a family (`gcc`, `clang`, `zig`) need for a machine type."""
    if family == "gcc":
        return _GCC_FLAGS + (_GCC_X86_FLAGS if machine in ("x86_64", "amd64") else ())
    return _ZIG_FLAGS if family == "zig" else ()


def spelled_for(family: str, flags: Sequence[str]) -> tuple[str, ...]:
    """Flags that choose a processor (`Isa.cflags`) as a compiler family spells them.

    zig knows LLVM's own names. What code is tuned for is said to gcc only.
    """
    if family == "gcc":
        return tuple(flags)
    untuned = tuple(flag for flag in flags if not flag.startswith("-mtune="))
    if family == "clang":
        return untuned
    chosen = re.compile(r"-m(arch|cpu)=(.*)")
    return tuple(
        f"-m{match[1]}={match[2].replace('-', '_').replace('+simd', '+neon')}"
        if (match := chosen.match(flag))
        else flag
        for flag in untuned
    )


def find_compiler() -> Compiler:
    """`$CC` if set, else the first that works of cc, gcc, clang, and the one in the `ziglang` package.

    Raises:
        CompileError: there is none, or `$CC` does not work.

    """
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        compiler = _identify(chosen)
        if compiler is None:
            raise CompileError(
                f"the C compiler in $CC does not work: {shlex.join(chosen)} --version failed; expected the name or "
                f"path of a C compiler, with arguments if need be"
            )
        return compiler
    candidates = [["cc"], ["gcc"], ["clang"]]
    if importlib.util.find_spec("ziglang") is not None:
        candidates.append([sys.executable, "-m", "ziglang", "cc"])
    for candidate in candidates:
        if compiler := _identify(candidate):
            return compiler
    raise CompileError(f"no C compiler found (tried $CC, cc, gcc, clang, ziglang); {_INSTALL_HINT}")


def compile_shared(sources: Sequence[tuple[str, str]], flags: Sequence[str] = ()) -> Path:
    """Compile C sources, each by itself and in parallel, and link them to one shared object, unless the cache has it.

    Args:
        sources: (name, text) pairs; the names, with or without `.c`, differ and show up in compiler messages.
        flags: added to `DEFAULT_FLAGS`, such as `Isa.cflags`.

    Returns:
        The shared object in the cache. Another process may delete it at any moment: to use it, take `load_shared`.

    Raises:
        CompileError: there is no compiler, or it refused a source.

    """
    return _compile_cached(_job(sources, flags))


@frozen(eq=False)
class SharedObject:
    """A compiled library: its bytes, and the compiler and flags that made it."""

    data: bytes
    command: tuple[str, ...]
    compiler: str
    flags: tuple[str, ...]


def shared_object(sources: Sequence[tuple[str, str]], flags: Sequence[str] = ()) -> SharedObject:
    """As `compile_shared`, but the library itself, which nobody can delete.

    Raises:
        CompileError: there is no compiler, or it refused a source.

    """
    job = _job(sources, flags)
    for _ in range(_LOAD_ATTEMPTS):
        _compile_cached(job)
        for cache in _caches():
            if (data := cache.read(job.key)) is not None:
                return SharedObject(data, job.compiler.command, job.compiler.version, job.flags)
    raise CompileError("the kernel cache loses its entries as fast as they are written")


def load_object(data: bytes) -> ctypes.CDLL:
    """Load a library from its bytes; the same bytes are loaded once in a process, which never unloads them.

    Raises:
        CompileError: the system refuses: it was made for another one.

    """
    key = hashlib.sha256(data).hexdigest()
    if key not in _loaded:
        _loaded[key] = _load_bytes(data)
    return _loaded[key]


_loaded: dict[str, ctypes.CDLL] = {}


def _load_bytes(data: bytes) -> ctypes.CDLL:
    failure: OSError | None = None
    for folder in (None, cache_dir()):  # some systems allow no code in temporary files
        try:
            if folder is None:
                return _load_copy(data)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix="fusewire-", suffix=".so", dir=folder) as copy:
                copy.write(data)
                copy.flush()
                return ctypes.CDLL(copy.name)
        except OSError as error:
            failure = failure or error
    raise CompileError(f"the system does not load the library: {failure}")


def _load_copy(library: bytes) -> ctypes.CDLL:
    """Load a library from a copy among the temporary files, which is gone by then."""
    with scratch_folder("load") as folder:
        (folder / "lib.so").write_bytes(library)
        return ctypes.CDLL(str(folder / "lib.so"))


def load_shared(sources: Sequence[tuple[str, str]], flags: Sequence[str] = ()) -> ctypes.CDLL:
    """`compile_shared`, then load the library; compiles again if the file is gone or damaged by then.

    Once loaded, the library no longer needs the cache: whoever cuts off a file that a process has mapped kills the
    process, so what is loaded is a copy that has no name any more.

    Raises:
        CompileError: there is no compiler, it refused a source, or the system refuses to load what it made.

    """
    job = _job(sources, flags)
    failure: OSError | None = None
    for _ in range(_LOAD_ATTEMPTS):
        _compile_cached(job)
        try:
            return _load(job.key)
        except OSError as error:
            failure = error
            _discard(job.key)
    raise CompileError(f"cannot load a library compiled by {shlex.join(job.compiler.command)}: {failure}") from failure


def _load(key: str) -> ctypes.CDLL:
    """Load a private copy of a cached library; OSError if it is not there, or cannot be loaded."""
    for cache in _caches():
        library = cache.read(key)
        if library is None:
            continue
        try:
            return _load_copy(library)
        except OSError:  # some systems allow no code in temporary files
            return ctypes.CDLL(str(cache.find(key)))
    raise FileNotFoundError("the kernel cache loses its entries as fast as they are written")


@frozen
class _Job:
    """One shared object to make: its sources by file name, all the flags, the compiler, and the cache key."""

    compiler: Compiler
    sources: dict[str, str]
    flags: tuple[str, ...]
    key: str


def _job(sources: Sequence[tuple[str, str]], flags: Sequence[str]) -> _Job:
    texts = {_file_name(name): text for name, text in sources}
    if not texts or len(texts) != len(sources):
        raise CompileError(f"expected C sources with different names, got {[name for name, _ in sources]}")
    compiler = find_compiler()
    extra = shlex.split(os.environ.get("FUSEWIRE_CFLAGS", ""))
    every = (*compiler.flags, *DEFAULT_FLAGS, *spelled_for(compiler.family, flags), *extra)
    # A cache may be shared by machines, on which "native" means different things.
    host = cpu_features().features if any(flag.endswith("=native") for flag in every) else ()
    parts = [texts, every, _LINK_FLAGS, _LINK_LIBRARIES, compiler.command, compiler.identity, host]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return _Job(compiler, texts, every, key)


def _file_name(name: str) -> str:
    """A file name for a source: letters, digits, `_` and `-`, of bounded length, ending in `.c`."""
    stem = name.removesuffix(".c")
    plain = re.sub(r"[^\w\-]", "_", stem, flags=re.ASCII)
    if len(plain) > 120 or plain != stem:
        plain = f"{plain[:100]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return plain + ".c"


def _compile_cached(job: _Job) -> Path:
    for cache in _caches():
        if path := cache.find(job.key):
            return path
    start = time.perf_counter()
    try:
        with scratch_folder("compile") as folder:
            library = _build(job, folder)
        if _debug_level() >= 1:
            _log.info("compiled %s in %.2f s", ", ".join(job.sources), time.perf_counter() - start)
        return _store(job, library)
    except OSError as error:  # not the cache, which has a substitute: a full disk, or no process to be had
        raise CompileError(f"cannot compile {', '.join(job.sources)}: {error}") from error


def _build(job: _Job, folder: Path) -> bytes:
    """Compile and link in `folder`, which is not the cache's: nobody else can delete it meanwhile."""
    compiler = job.compiler.command
    for name, text in job.sources.items():
        (folder / name).write_text(text)
    if len(job.sources) == 1:
        (name,) = job.sources
        whole = [*compiler, *job.flags, "-shared", *_LINK_FLAGS, name, "-o", "lib.so", *_LINK_LIBRARIES]
        if (output := _call(whole, folder)) is not None:
            raise _refusal(job, job.sources, whole, output)
        return (folder / "lib.so").read_bytes()
    commands = [[*compiler, *job.flags, "-c", name, "-o", f"{Path(name).stem}.o"] for name in job.sources]
    with ThreadPoolExecutor(min(usable_cores(), len(commands))) as pool:
        outputs = list(pool.map(lambda command: _call(command, folder), commands))
    for name, command, output in zip(job.sources, commands, outputs, strict=True):
        if output is not None:
            raise _refusal(job, {name: job.sources[name]}, command, output)
    objects = [f"{Path(name).stem}.o" for name in job.sources]
    link = [*compiler, *job.flags, "-shared", *_LINK_FLAGS, *objects, "-o", "lib.so", *_LINK_LIBRARIES]
    output = _call(link, folder)
    if output is not None:
        raise _refusal(job, job.sources, link, output)
    return (folder / "lib.so").read_bytes()


def _call(command: Sequence[str], folder: Path) -> str | None:
    """Run a compiler in `folder`; None when it succeeds, else what it said."""
    # Messages in English: they end up in ours, and in bug reports.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}  # its files, too, go if it is killed
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return None
    reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"{done.stdout.rstrip()}\n({reason})".lstrip()


def _refusal(job: _Job, sources: dict[str, str], command: Sequence[str], output: str) -> CompileError:
    """The error for a failed `command`; keeps the sources for the user to look at."""
    lines = output.splitlines()
    if len(lines) > _MESSAGE_LINES:
        lines = [*lines[:_MESSAGE_LINES], f"... ({len(lines) - _MESSAGE_LINES} more lines)"]
    try:
        kept = _caches()[-1].keep_failed(job.key, sources)
    except OSError as error:
        kept = _private_cache(error).keep_failed(job.key, sources)
    where = ", ".join(str(kept / name) for name in sources)
    return CompileError(
        f"the C compiler failed on {', '.join(sources)}\n"
        f"command: {shlex.join(command)}\nsource kept in: {where}\n" + "\n".join(lines)
    )


def _identify(words: Sequence[str]) -> Compiler | None:
    """The compiler that `words` call, or None if they do not."""
    path = shutil.which(words[0])
    if path is None:
        return None
    # Absolute, since the compiler runs in another folder; but not resolved: ccache looks at the name it is called by.
    path = os.path.abspath(path)
    zig = any(word == "ziglang" or Path(word).name == "zig" for word in words)
    spec = importlib.util.find_spec("ziglang") if zig else None
    stamps = tuple(_stamp(name) for name in (path, spec.origin if spec else None) if name)
    command = (path, *words[1:])
    version = _version(command, stamps)
    if version is None:
        return None
    family = "zig" if zig else "gcc" if "Free Software Foundation" in version else "clang"
    flags = family_flags(family, cpu_features().machine)
    return Compiler(command, flags, version.partition("\n")[0], (version, *stamps), family)


def _stamp(path: str) -> str:
    """What changes when the file at `path` is replaced: where it really is, its time of change and its size."""
    status = os.stat(path)
    return f"{os.path.realpath(path)} {status.st_mtime_ns} {status.st_size}"


@lru_cache(maxsize=16)
def _version(command: tuple[str, ...], stamps: tuple[str, ...]) -> str | None:
    """The output of `--version`, None if that fails; asked once for each state of the file (`stamps`)."""
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


_private: ObjectCache | None = None
_last_eviction = float("-inf")


def cache_dir() -> Path:
    """The folder of the kernel cache: `$FUSEWIRE_CACHE_DIR`, else the user's cache folder."""
    chosen = os.environ.get("FUSEWIRE_CACHE_DIR")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("fusewire") / "cache"


def cache_limit() -> int:
    """How many bytes the kernel cache may take: `$FUSEWIRE_CACHE_SIZE`, else 1 GiB.

    Raises:
        CompileError: the variable does not hold a size.

    """
    text = os.environ.get("FUSEWIRE_CACHE_SIZE") or "1G"
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise CompileError(f"FUSEWIRE_CACHE_SIZE={text!r}: expected a number of bytes, such as 1073741824, 500M or 2G")
    return int(match[1]) << (10 * " KMG".index(match[2].upper() or " "))


def _caches() -> list[ObjectCache]:
    """The caches to look in; the last is the one to write to."""
    shared = ObjectCache(cache_dir())
    return [shared] if _private is None else [shared, _private]


def _store(job: _Job, library: bytes) -> Path:
    about = {"command": [*job.compiler.command, *job.flags], "compiler": job.compiler.version}
    cache = _caches()[-1]
    try:
        path = cache.put(job.key, library, job.sources, about)
        _evict(cache, job.key)
        return path
    except OSError as error:
        return _private_cache(error).put(job.key, library, job.sources, about)


def _evict(cache: ObjectCache, keep: str) -> None:
    """Keep the cache below its limit; cheap, as it looks at most once a minute."""
    global _last_eviction
    limit = cache_limit()
    if time.monotonic() - _last_eviction >= _EVICTION_INTERVAL:
        _last_eviction = time.monotonic()
        cache.evict(limit, keep)


def _private_cache(reason: OSError) -> ObjectCache:
    """A cache of this process's own, for when the shared one cannot be written; gone when the process ends."""
    global _private
    if _private is None:
        root, _ = own_folder("cache")
        _private = ObjectCache(root)
        atexit.register(_remove_private, root, os.getpid())
        _log.warning("cannot write the kernel cache %s (%s); using %s until exit", cache_dir(), reason, root)
    return _private


def _remove_private(root: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child shares its parent's
    if (root / "failed").exists():  # an error message named this path: only the rest goes
        shutil.rmtree(root / "objects", ignore_errors=True)
        shutil.rmtree(root / "tmp", ignore_errors=True)
        (root / OWNER).unlink(missing_ok=True)  # so that nobody sweeps it away
    else:
        shutil.rmtree(root, ignore_errors=True)


def _discard(key: str) -> None:
    """Drop an entry that the system would not load."""
    for cache in _caches():
        try:
            cache.drop(key)
        except OSError as error:
            _private_cache(error)


def _debug_level() -> int:
    """`$FUSEWIRE_DEBUG` as a number; 0 if it is not one."""
    text = os.environ.get("FUSEWIRE_DEBUG", "")
    return int(text) if text.isascii() and text.isdigit() else 0
