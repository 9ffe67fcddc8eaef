"""Compilers for GPUs that are libraries: NVIDIA's NVRTC and AMD's HIPRTC, whose interfaces are alike but for names.

They need no device. What they make is kept by compiler, options and source.
"""

import ctypes
import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attrs import frozen

from ...ir.errors import CompileError
from ..cpuinfo import usable_cores
from ..objcache import ObjectCache
from ..toolchain import cache_dir, cache_limit

_log = logging.getLogger("fusewire")


@frozen(eq=False)
class RuntimeCompiler:
    """A compiler.

    Attributes:
        name: with its version.
        library: the loaded library.
        prefix: with which the names of its functions begin.
        result: what they call the machine code that it makes.
        suffix: of files that hold such code.
    """

    name: str
    library: Any
    prefix: str
    result: str
    suffix: str

    def compile(self, name: str, source: str, options: Sequence[str]) -> bytes:
        """Machine code for a source file called `name`.

        Raises:
            CompileError: the compiler refused it; the message has its words.
        """
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self._function("CompileProgram")(program, len(options), given)
            if status:
                words = self._bytes(program, "ProgramLogSize", "ProgramLog").rstrip(b"\0").decode(errors="replace")
                what = words.strip() or self._words(status)
                raise CompileError(f"{self.name} refused {name} ({' '.join(options)}): {what}")
            return self._bytes(program, f"{self.result}Size", self.result)
        finally:
            self._function("DestroyProgram")(ctypes.byref(program))

    def _bytes(self, program: Any, size: str, get: str) -> bytes:
        count = ctypes.c_size_t()
        self._call(f"Get{size}", program, ctypes.byref(count))
        buffer = ctypes.create_string_buffer(count.value)
        self._call(f"Get{get}", program, buffer)
        return buffer.raw

    def _function(self, name: str) -> Any:
        return getattr(self.library, self.prefix + name)

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._function(name)(*arguments)
        if status:
            raise CompileError(f"{self.name}: {self.prefix}{name} gave {self._words(status)}")

    def _words(self, status: int) -> str:
        function = self._function("GetErrorString")
        function.restype = ctypes.c_char_p
        text: bytes = function(status)
        return text.decode(errors="replace")


def compile_all(
    compiler: RuntimeCompiler, files: Sequence[tuple[str, str]], options: Sequence[str], device: str = ""
) -> list[bytes]:
    """Machine code for source files (name, text), compiled at the same time or taken from the cache.

    What is kept is for `device` (and its driver), if that is given.

    Raises:
        CompileError: the compiler refused one.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(lambda file: _compiled(compiler, file, options, device), files))


def _compiled(compiler: RuntimeCompiler, file: tuple[str, str], options: Sequence[str], device: str) -> bytes:
    name, source = file
    key = hashlib.sha256("\0".join([compiler.name, device, *options, source]).encode()).hexdigest()
    cache = ObjectCache(cache_dir(), compiler.suffix)
    if (known := cache.read(key)) is not None:
        return known
    start = time.perf_counter()
    code = compiler.compile(name, source, options)
    _log.debug("%s compiled %s in %.2f s", compiler.name, name, time.perf_counter() - start)
    try:
        cache.put(key, code, {name: source}, {"compiler": compiler.name, "options": " ".join(options)})
        cache.evict(cache_limit(), key)
    except OSError as error:
        _log.info("the compiled program is not kept: %s", error)
    return code
