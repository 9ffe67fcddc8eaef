"""CUDA C++, as data for the emitter. It needs no header, and so compiles with NVRTC alone.

NVRTC's defaults are what we want: denormal numbers are kept, divisions and square roots are rounded correctly, and a
product and a sum may be one instruction; nothing here asks for less (`--use_fast_math`).
"""

from attrs import evolve

from ..dialects import Dialect
from ..launched.cplusplus import cplusplus
from .tensor import COPIED, COPY, HEADER, MATRIX

_OWN = """\
#define FW_FUNCTION static __device__ __forceinline__
FW_FUNCTION float fw_from_f16(unsigned short a) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(a)); return r; }
FW_FUNCTION unsigned short fw_to_f16(float a) {
  unsigned short r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(a)); return r; }
template <typename T> FW_FUNCTION T fw_exchange(T a, int bits) { return (T)__shfl_xor_sync(0xffffffffu, a, bits); }
"""
_WORDS = {
    "kernel": 'extern "C" __global__ void __launch_bounds__({group})\n{name}({params})',
    "barrier": "__syncthreads();",
    "exchange": "fw_exchange",
    "shared": "__shared__",
    "item": "(blockIdx.x * blockDim.x + threadIdx.x)",
    "items": "(gridDim.x * blockDim.x)",
    "group": "blockIdx.x",
    "local_item": "threadIdx.x",
}
_WIDE = {**_WORDS, "item": "blockIdx.x * blockDim.x + threadIdx.x", "items": "gridDim.x * blockDim.x"}
_NUMBERS = {"nan": "__int_as_float(0x7fc00000)", "inf": "__int_as_float(0x7f800000)"}


def _with_units(dialect: Dialect) -> Dialect:
    """A dialect with what tensor cores do, and copies to shared memory beside other work."""
    barriers = {**dialect.barriers, "copied": COPIED}
    return evolve(dialect, headers=dialect.headers + HEADER, barriers=barriers, copy=COPY, matrix=MATRIX)


CUDA = _with_units(cplusplus("CUDA", "int", _OWN, _WORDS, {}, _NUMBERS))
"""With positions in 32 bits: a GPU divides and multiplies 64 bits several times slower."""

CUDA_WIDE = _with_units(cplusplus("CUDA", "long long", _OWN, _WIDE, {}, _NUMBERS))
"""With positions in 64 bits."""
