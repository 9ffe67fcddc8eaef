"""HIP C++, as data for the emitter. It needs no header: what a GPU has, clang knows by itself, and functions on floats
are those of AMD's device library (OCML), which AMD's compilers link.
"""

import re

from ..dialects import FLOAT_FUNCTIONS, binary, unary
from ..launched.cplusplus import cplusplus

_SAME = "log log2 log10 sqrt rsqrt tanh erf ceil floor trunc sin cos tan asin acos atan sinh cosh asinh acosh atanh exp"
_ONE = f"{_SAME} rint fabs"
_TWO = "pow atan2 fmod copysign"


def _declared() -> str:
    lines = ['extern "C" {']
    for name, count in [*((n, 1) for n in _ONE.split()), *((n, 2) for n in _TWO.split()), ("fma", 3)]:
        for t, short in (("float", "f32"), ("double", "f64")):
            lines.append(f"FW_DEVICE {t} __ocml_{name}_{short}({', '.join([t] * count)});")
    return "\n".join([*lines, "}\n"])


_MATHS = {
    **{name: unary(f"__ocml_{name}_@S(a)") for name in _SAME.split()},
    "round": unary("__ocml_rint_@S(a)"),
    "abs": unary("__ocml_fabs_@S(a)"),
    "pow": binary("__ocml_pow_@S(a, b)"),
    "atan2": binary("__ocml_atan2_@S(a, b)"),
    "mod": binary("__ocml_fmod_@S(a, b)"),
    "floordiv": binary("__ocml_floor_@S(a / b)"),
    "floormod": re.sub(r"(fmod|copysign)@F", r"__ocml_\1_@S", FLOAT_FUNCTIONS["floormod"]),
    "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return __ocml_fma_@S(a, b, c); }",
}
_OWN = f"""\
#define FW_DEVICE __attribute__((device))
#define FW_FUNCTION static FW_DEVICE inline __attribute__((always_inline))
#define memcpy __builtin_memcpy
FW_FUNCTION float fw_from_f16(unsigned short a) {{ _Float16 h; memcpy(&h, &a, 2); return (float)h; }}
FW_FUNCTION unsigned short fw_to_f16(float a) {{
  _Float16 h = (_Float16)a; unsigned short r; memcpy(&r, &h, 2); return r; }}
template <typename T> FW_FUNCTION T fw_exchange(T a, unsigned bits) {{
  constexpr int N = (sizeof(T) + 3) / 4; int words[N] = {{}};
  const unsigned other = __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u)) ^ bits;
  memcpy(words, &a, sizeof a);
  for (int i = 0; i < N; ++i) words[i] = __builtin_amdgcn_ds_bpermute((int)(other * 4), words[i]);
  memcpy(&a, words, sizeof a); return a; }}
{_declared()}"""
_ITEM = "__builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x()"
_WORDS = {
    "kernel": 'extern "C" __attribute__((global, amdgpu_flat_work_group_size({group}, {group})))\n'
    "void {name}({params})",
    "barrier": '__builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup"); __builtin_amdgcn_s_barrier(); '
    '__builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");',
    "exchange": "fw_exchange",
    "shared": "__attribute__((shared))",
    "item": f"({_ITEM})",
    "items": "__builtin_amdgcn_grid_size_x()",
    "group": "__builtin_amdgcn_workgroup_id_x()",
    "local_item": "__builtin_amdgcn_workitem_id_x()",
}
_WIDE = {**_WORDS, "item": _ITEM}
_NUMBERS = {"nan": '__builtin_nanf("")', "inf": "__builtin_inff()"}

HIP = cplusplus("HIP", "int", _OWN, _WORDS, _MATHS, _NUMBERS)
"""With positions in 32 bits: a GPU divides and multiplies 64 bits several times slower."""

HIP_WIDE = cplusplus("HIP", "long long", _OWN, _WIDE, _MATHS, _NUMBERS)
"""With positions in 64 bits."""
