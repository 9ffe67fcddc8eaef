"""Dialects: how C (and later OpenCL, CUDA, HIP) spell what the loop IR says. Data only; the emitter is csource.py.

In templates, `@T` is the type, `@E` that of one lane, `@L` the number of lanes, `@I` the integer type of the same
width, `@B` its bits less one, `@N` the function's name, `@S` the suffix that names the type (f32, v16f32), `@F` the
suffix of C's mathematical functions.
"""

from collections.abc import Mapping

from attrs import field, frozen


@frozen
class Dialect:
    """The spellings of one language.

    Attributes:
        name: shown in messages and file headers.
        types: C type of a scalar by dtype, as a value.
        storage: C type in memory where it differs.
        loops: the head of a loop by kind, with {v} and {n}.
        infix: operators by function name.
        functions: definitions of functions that are not infix, by name and then by type class ("float", "int", "bool",
            or a dtype, which goes first).
        prelude: text at the top of each file.
    """

    name: str
    types: Mapping[str, str]
    storage: Mapping[str, str]
    loops: Mapping[str, str]
    infix: Mapping[str, str]
    functions: Mapping[str, Mapping[str, str]]
    prelude: str = ""
    headers: str = ""
    barriers: Mapping[str, str] = field(factory=dict)


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip


def _unary(expression: str) -> str:
    return f"static inline @T fw_@N_@S(@T a) {{ return {expression}; }}"


def _binary(expression: str) -> str:
    return f"static inline @T fw_@N_@S(@T a, @T b) {{ return {expression}; }}"


def _vector_select(test: str, second: str = "@T") -> str:
    """Take b in the lanes where `test` holds, else a, by masks: a loop over lanes would be taken apart into scalars."""
    return (
        f"static inline @T fw_@N_@S(@T a, {second} b) {{\n"
        f"  @I m = {test};\n  return (@T)((m & (@I)((@T){{0}} + b)) | (~m & (@I)a));\n}}"
    )


_LIBM = ("log", "log2", "log10", "sqrt", "tanh", "erf", "ceil", "floor", "trunc", "sin", "cos", "tan", "asin", "acos",
         "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "exp")  # fmt: skip

# Cephes' expf: reduce by multiples of ln 2 split in two parts, then a polynomial of degree 6. The power of two is
# applied in two halves so that results near the ends of the range neither overflow early nor flush to zero.
_EXP_F32 = """\
static inline @T fw_exp_@S(@T a) {
  @T x = fw_maxc_@S(fw_minc_@S(a, 89.0f), -104.0f);
  @T z = x * 1.44269504088896341f + 12582912.0f;
  @I n = fw_bits_@S(z) - 0x4b400000;
  @T k = z - 12582912.0f;
  @T r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  @T p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  @I h = n >> 1;
  return p * fw_from_bits_@S((h + 127) << 23) * fw_from_bits_@S((n - h + 127) << 23);
}"""

_FLOAT_FUNCTIONS: dict[str, str] = {
    **{name: _unary(f"{name}@F(a)") for name in _LIBM},
    "round": _unary("rint@F(a)"),
    "rsqrt": _unary("(@T)1 / sqrt@F(a)"),
    "sigmoid": "static inline @T fw_sigmoid_@S(@T a) { return 1.0@f / (1.0@f + fw_exp_@S(-a)); }",
    "abs": _unary("fabs@F(a)"),
    "sign": _unary("a > 0 ? (@T)1 : a < 0 ? (@T)-1 : a"),
    "div": _binary("a / b"),
    "max": _binary("(a > b || a != a) ? a : b"),
    "min": _binary("(a < b || a != a) ? a : b"),
    # One comparison is enough where b is a constant that is not NaN: a NaN in a fails it and is kept.
    "maxc": _binary("b > a ? b : a"),
    "minc": _binary("b < a ? b : a"),
    "pow": _binary("pow@F(a, b)"),
    "atan2": _binary("atan2@F(a, b)"),
    "mod": _binary("fmod@F(a, b)"),
    "floordiv": _binary("floor@F(a / b)"),
    "floormod": """\
static inline @T fw_floormod_@S(@T a, @T b) {
  @T r = fmod@F(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r == 0 ? copysign@F(r, b) : r;
}""",
    "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return a * b + c; }",
}

# Division and remainder are total functions here: by zero they give zero, and the one overflow wraps around.
_INT_FUNCTIONS: dict[str, str] = {
    "div": _binary("b == 0 ? 0 : b == (@T)-1 ? (@T)(0 - a) : (@T)(a / b)"),
    "mod": _binary("b == 0 || b == (@T)-1 ? 0 : (@T)(a % b)"),
    "floordiv": """\
static inline @T fw_floordiv_@S(@T a, @T b) {
  if (b == 0) return 0;
  if (b == (@T)-1) return (@T)(0 - a);
  @T q = a / b, r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}""",
    "floormod": """\
static inline @T fw_floormod_@S(@T a, @T b) {
  if (b == 0 || b == (@T)-1) return 0;
  @T r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}""",
    "max": _binary("a > b ? a : b"),
    "min": _binary("a < b ? a : b"),
    "maxc": _binary("a > b ? a : b"),
    "minc": _binary("a < b ? a : b"),
    "abs": _unary("a < 0 ? (@T)(0 - a) : a"),
    "sign": _unary("(@T)((a > 0) - (a < 0))"),
    "shl": _binary("b < 0 || b > @B ? 0 : (@T)((uint64_t)a << b)"),
    "shr": _binary("b < 0 || b > @B ? (a < 0 ? (@T)-1 : 0) : (@T)(a >> b)"),
    "pow": """\
static inline @T fw_pow_@S(@T a, @T b) {
  if (b < 0) return a == 1 ? 1 : a == (@T)-1 ? (b % 2 ? (@T)-1 : 1) : 0;
  @T r = 1;
  for (; b; b /= 2) { if (b % 2) r = (@T)(r * a); a = (@T)(a * a); }
  return r;
}""",
    "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return (@T)(a * b + c); }",
    "round": _unary("a"), "floor": _unary("a"), "ceil": _unary("a"), "trunc": _unary("a"),
}  # fmt: skip
_UINT_FUNCTIONS = {
    **_INT_FUNCTIONS,
    "div": _binary("b == 0 ? 0 : (@T)(a / b)"),
    "mod": _binary("b == 0 ? 0 : (@T)(a % b)"),
    "floordiv": _binary("b == 0 ? 0 : (@T)(a / b)"),
    "floormod": _binary("b == 0 ? 0 : (@T)(a % b)"),
    "abs": _unary("a"),
    # The top bit of a | -a: gcc 12 turns a loop over lanes of (a > 0) into a mask of ones (-O3, SLP).
    "sign": _unary("(@T)((@T)(a | (@T)(0 - a)) >> @B)"),
    "shl": _binary("b > @B ? 0 : (@T)((uint64_t)a << b)"),
    "shr": _binary("b > @B ? 0 : (@T)(a >> b)"),
    "pow": "static inline @T fw_pow_@S(@T a, @T b) { @T r = 1; for (; b; b /= 2) { if (b % 2) r = (@T)(r * a); "
    "a = (@T)(a * a); } return r; }",
}
_BOOL_FUNCTIONS = {
    "max": _binary("a | b"), "min": _binary("a & b"), "maxc": _binary("a | b"), "minc": _binary("a & b"),
}  # fmt: skip

C = Dialect(
    name="C",
    types={
        "bool": "int32_t",
        "float16": "_Float16",
        "bfloat16": "uint16_t",
        "float32": "float",
        "float64": "double",
        "index": "int64_t",
        **{f"{u}int{bits}": f"{u}int{bits}_t" for u in ("", "u") for bits in (8, 16, 32, 64)},
    },
    storage={"bool": "uint8_t"},
    loops={
        "serial": "for (int64_t {v} = 0; {v} < {n}; ++{v})",
        "rolled": '_Pragma("GCC unroll 1") for (int64_t {v} = 0; {v} < {n}; ++{v})',
        "lockstep": "for (int64_t {v} = 0; {v} < {n}; ++{v})",
        "parallel": "for (int64_t {v} = {n} * tid / nthreads, {v}_end = {n} * (tid + 1) / nthreads; "
        "{v} < {v}_end; ++{v})",
    },
    infix=_INFIX,
    functions={
        "float": _FLOAT_FUNCTIONS,
        "int": _INT_FUNCTIONS,
        "uint": _UINT_FUNCTIONS,
        "bool": _BOOL_FUNCTIONS,
        "float32": {
            "exp": _EXP_F32,
            "bits": "static inline int32_t fw_bits_f32(float a) { int32_t r; memcpy(&r, &a, 4); return r; }",
            "from_bits": "static inline float fw_from_bits_f32(int32_t a) { float r; memcpy(&r, &a, 4); return r; }",
        },
        "vector": {
            "exp": _EXP_F32,
            "sigmoid": _FLOAT_FUNCTIONS["sigmoid"],
            "maxc": _vector_select("a < b", "@E"),
            "minc": _vector_select("a > b", "@E"),
            "max": _vector_select("(a <= b) | (b != b)"),
            "min": _vector_select("(a >= b) | (b != b)"),
            "bits": "static inline @I fw_bits_@S(@T a) { return (@I)a; }",
            "from_bits": "static inline @T fw_from_bits_@S(@I a) { return (@T)a; }",
            "div": "static inline @T fw_div_@S(@T a, @T b) { return a / b; }",
            "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return a * b + c; }",
        },
        "int vector": {"max": _vector_select("a < b"), "min": _vector_select("a > b")},
        "bfloat16": {
            "load": """\
static inline float fw_load_bf16(uint16_t a) {
  uint32_t u = (uint32_t)a << 16;
  float r;
  memcpy(&r, &u, 4);
  return r;
}""",
            "store": """\
static inline uint16_t fw_store_bf16(float a) {
  uint32_t u;
  memcpy(&u, &a, 4);
  if (a != a) return (uint16_t)((u >> 16) | 0x40);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}""",
        },
    },
    headers="#include <math.h>\n#include <stdint.h>\n#include <string.h>\n",
    barriers={"team": "fw_barrier(team, tid);"},
)
"""C with GCC's vector types (gcc and clang), for one thread of a team."""
