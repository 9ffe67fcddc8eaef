"""Kernels of the loop IR compiled and called directly, without a program around them."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusewire.ir.loops import Kernel
from fusewire.ir.scalar import Buffer
from fusewire.ir.types import numpy_dtype
from fusewire.targets.cpuinfo import Isa, cpu_features, isa_for
from fusewire.targets.csource import Emitter
from fusewire.targets.dialects import C
from fusewire.targets.implement import finish
from fusewire.targets.prelude import Prelude
from fusewire.targets.target import Target
from fusewire.targets.team import TEAM_HEADER
from fusewire.targets.toolchain import load_shared

Array = npt.NDArray[Any]
Work = Sequence[tuple[Kernel, Sequence[Array]]]

AVX512 = Isa("avx512", 64, 32, ())
AVX2 = Isa("avx2", 32, 16, ())
SSE = Isa("sse", 16, 16, ())
MARGIN = 64
SCRATCH = 4 << 20


def c_text(kernels: Sequence[Kernel]) -> str:
    """Finished kernels as C, with the functions that they need in front."""
    library = Prelude(C)
    texts = [Emitter(library).kernel(k).removeprefix("static ") for k in kernels]
    return library.text(texts) + "\n" + "\n".join(texts)


def run_loops(work: Work, vector_bytes: int | None = None) -> list[list[Array]]:
    """`run_kernels` after the loop passes: vectorised for registers of `vector_bytes` (the host's if left out)."""
    size = vector_bytes or cpu_features().vector_bytes
    return run_kernels([(finish(kernel, size), arrays) for kernel, arrays in work])


def run_kernels(work: Work) -> list[list[Array]]:
    """Compile finished kernels as one file, run each on its inputs on one thread, and give the outputs of each.

    Vectors wider than the host's are the C compiler's business. Output memory starts as garbage, with a margin behind
    it that must not be touched.
    """
    text = C.headers + TEAM_HEADER + c_text([kernel for kernel, _ in work])
    code = load_shared([("direct", text)], isa_for(Target("cpu")).cflags)
    team = (ctypes.c_int * 4)(1, 0, 0, 0)
    scratch = np.zeros((2, SCRATCH), np.uint8)
    first = scratch.ctypes.data + -scratch.ctypes.data % 64
    places = ctypes.c_void_p(first), ctypes.c_void_p(first + SCRATCH - 64)
    results: list[list[Array]] = []
    for kernel, arrays in work:
        outputs = [_padded(b) for b in kernel.outputs]
        given = [np.ascontiguousarray(a) for a in arrays]
        pointers = [a.ctypes.data for a in (*given, *outputs)]
        getattr(code, kernel.name)((ctypes.c_void_p * len(pointers))(*pointers), 0, 1, team, *places)
        results.append([_checked(a, b) for a, b in zip(outputs, kernel.outputs, strict=True)])
    return results


def memory_for(kernel: Kernel, arrays: Sequence[Array]) -> Mapping[Buffer, Array]:
    """Memory for the interpreter: the inputs, and garbage in the outputs."""
    filled = {b: np.array(a, numpy_dtype(b.dtype)) for b, a in zip(kernel.inputs, arrays, strict=True)}
    return {**filled, **{b: _checked(_padded(b), b) for b in kernel.outputs}}


def _padded(buffer: Buffer) -> Array:
    return np.full(int(np.prod(buffer.shape)) * numpy_dtype(buffer.dtype).itemsize + MARGIN, 0xAA, np.uint8)


def _checked(memory: Array, buffer: Buffer) -> Array:
    assert (memory[-MARGIN:] == 0xAA).all(), f"{buffer.name} was written behind its end"
    return memory[:-MARGIN].view(numpy_dtype(buffer.dtype)).reshape(buffer.shape).copy()
