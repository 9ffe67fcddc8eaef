"""Dialects: how C, OpenCL (opencl/dialect.py), CUDA and HIP (launched/cplusplus.py) spell what the loop IR says. Data
only; the emitter is csource.py.

In templates of functions, `@T` is the type, `@E` that of one lane, `@L` the number of lanes, `@I` the integer type of
the same width, `@M` that of a comparison's result, `@W` and `@U` float32 and uint32 of as many lanes, `@B` its bits
less one, `@Z` the bytes of all lanes, `@N` the function's name, `@S` the suffix that names the type (f32, v16f32), `@F`
the suffix of mathematical functions, `@f` that of numbers, `@A` one `a` for each lane. Other templates name what they
want in braces.
"""

from collections.abc import Mapping

from attrs import field, frozen

from .vectormath import ERF_F32, EXP_F32, TANH_F32, extreme, masked, ordered, vector_clamp, vector_select

FUNCTION = "static inline"
"""What functions are declared with in C and OpenCL."""


@frozen
class Dialect:
    """The spellings of one language.

    Attributes:
        name: shown in messages and file headers.
        types: type of a scalar by dtype, as a value; "index" is that of loop counters.
        storage: type in memory where it differs.
        vector: the name of a vector type, of {type}, {lanes}, and {short}: v16f32.
        vector_type: its declaration; empty where the language knows it.
        vector_storage: its name where it stands in memory, at any address of an element.
        packed: dtypes that are held as they are stored, and converted by the functions load and store.
        function: what functions are declared with; templates of them begin with what it is in C.
        loops: the head of a loop by kind, with {v} and {n}.
        functions: definitions of functions that are not in `INFIX`, by type and then by name. A type is a dtype, or its
            family ("float", "int", "uint", "bool"); followed by "vector" it is for vectors.
        lanes: makes a function for vectors of one for scalars, {scalar}, from what `lane` says of each operand {a}:
            how it is a parameter, what comes first, and what its lane i is.
        suffixes: of mathematical functions by dtype.
        numbers: "nan" and "inf" by dtype.
        convert, bitcast: a vector, and a scalar, {x} read from {source} as {t}; a `bitcast` of scalars may be a
            definition of the function {name}.
        load, store: a vector in memory at {place}, of a type {t}; it lies at a multiple of {align} bytes, as far as is
            known.
        literal: a vector of numbers.
        prefetch: fetches {place} into a cache, the first one where {near} is 3, to be written where {write} is 1;
            empty: it is left out.
        array, scratch: declare {name} as a small array, and as memory at {place}.
        headers: text at the top of each file.
        kernel, param: the head of a kernel, for work-groups of {group}, and how it gets its buffers.
        shuffle: a function of two vectors that gives the lanes @P of them, counted through, or those called @Q.
        launch: for languages in which a kernel is one launch, what stands at its head: its "item", the number of
            "items", a "counter" {v} of a loop within it, which is {value}; and as parameters the "scratch" of
            work-items and a "variable" {v}; "own" is the part of the scratch, of {bytes}, that a work-item has. For
            kernels that are written for work-groups the number of its "group", and of the "local_item" in it, and how
            a "local" array is declared; "group_size" is the macro for the size of the groups of other kernels, and
            "usual" what it is where the compiler is not told.
        barriers: statements by scope; "copied" is the local one where stores to local arrays may be under way.
        copy: the function fw_copy<bytes>(to, from, whether: else zeros), which stores to local memory by the next
            such barrier; empty: there is none.
        matrix: functions for loops of kind "mma", by the type of the factors (see matrixtext.py).
        image: for languages with images (see imagetext.py): one as a "param" {name}; its texel at column {x} of row {y}
            as a "load", by the "sampler" fw_nearest; and the functions {name} that take "one" number out of a texel, or
            a "part" of {lanes}; empty: there are none.
    """

    name: str
    types: Mapping[str, str]
    storage: Mapping[str, str]
    vector: str
    vector_type: str
    vector_storage: str
    packed: tuple[str, ...]
    loops: Mapping[str, str]
    functions: Mapping[str, Mapping[str, str]]
    lanes: str
    lane: tuple[str, str, str]
    suffixes: Mapping[str, str]
    numbers: Mapping[str, Mapping[str, str]]
    convert: str
    bitcast: tuple[str, str]
    load: str
    store: str
    literal: str
    prefetch: str
    array: str
    scratch: str
    headers: str
    kernel: str
    param: str
    shuffle: str
    barriers: Mapping[str, str] = field(factory=dict)
    launch: Mapping[str, str] = field(factory=dict)
    function: str = FUNCTION
    copy: str = ""
    matrix: Mapping[str, str] = field(factory=dict)
    image: Mapping[str, str] = field(factory=dict)


INFIX = {
    "add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
"""Operators by the name of the function; all languages here have the same."""


def unary(expression: str) -> str:
    """A function of a."""
    return f"static inline @T fw_@N_@S(@T a) {{ return {expression}; }}"


def binary(expression: str) -> str:
    """A function of a and b."""
    return f"static inline @T fw_@N_@S(@T a, @T b) {{ return {expression}; }}"


_LIBM = ("log", "log2", "log10", "sqrt", "tanh", "erf", "ceil", "floor", "trunc", "sin", "cos", "tan", "asin", "acos",
         "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "exp")  # fmt: skip

FLOAT_FUNCTIONS: dict[str, str] = {
    **{name: unary(f"{name}@F(a)") for name in _LIBM},
    "round": unary("rint@F(a)"),
    "rsqrt": unary("(@T)1 / sqrt@F(a)"),
    "sigmoid": "static inline @T fw_sigmoid_@S(@T a) { return 1.0@f / (1.0@f + fw_exp_@S(-a)); }",
    "abs": unary("fabs@F(a)"),
    "sign": unary("a > 0 ? (@T)1 : a < 0 ? (@T)-1 : a"),
    "div": binary("a / b"),
    "max": binary("(a > b || a != a) ? a : b"),
    "min": binary("(a < b || a != a) ? a : b"),
    "max_else": binary("a > b ? a : b"),
    "min_else": binary("a < b ? a : b"),
    # One comparison is enough where b is a constant that is not NaN: a NaN in a fails it and is kept.
    "maxc": binary("b > a ? b : a"),
    "minc": binary("b < a ? b : a"),
    "pow": binary("pow@F(a, b)"),
    "atan2": binary("atan2@F(a, b)"),
    "mod": binary("fmod@F(a, b)"),
    "floordiv": binary("floor@F(a / b)"),
    "floormod": """\
static inline @T fw_floormod_@S(@T a, @T b) {
  @T r = fmod@F(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r == 0 ? copysign@F(r, b) : r;
}""",
    "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return a * b + c; }",
}

# Division and remainder are total functions here: by zero they give zero, and the one overflow wraps around.
INT_FUNCTIONS: dict[str, str] = {
    "div": binary("b == 0 ? 0 : b == (@T)-1 ? (@T)(0 - a) : (@T)(a / b)"),
    "mod": binary("b == 0 || b == (@T)-1 ? 0 : (@T)(a % b)"),
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
    "max": binary("a > b ? a : b"),
    "min": binary("a < b ? a : b"),
    "maxc": binary("a > b ? a : b"),
    "minc": binary("a < b ? a : b"),
    "abs": unary("a < 0 ? (@T)(0 - a) : a"),
    "sign": unary("(@T)((a > 0) - (a < 0))"),
    "shl": binary("b < 0 || b > @B ? 0 : (@T)((uint64_t)a << b)"),
    "shr": binary("b < 0 || b > @B ? (a < 0 ? (@T)-1 : 0) : (@T)(a >> b)"),
    "pow": """\
static inline @T fw_pow_@S(@T a, @T b) {
  if (b < 0) return a == 1 ? 1 : a == (@T)-1 ? (b % 2 ? (@T)-1 : 1) : 0;
  @T r = 1;
  for (; b; b /= 2) { if (b % 2) r = (@T)(r * a); a = (@T)(a * a); }
  return r;
}""",
    "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return (@T)(a * b + c); }",
    "round": unary("a"), "floor": unary("a"), "ceil": unary("a"), "trunc": unary("a"),
}  # fmt: skip
UINT_FUNCTIONS = {
    **INT_FUNCTIONS,
    "div": binary("b == 0 ? 0 : (@T)(a / b)"),
    "mod": binary("b == 0 ? 0 : (@T)(a % b)"),
    "floordiv": binary("b == 0 ? 0 : (@T)(a / b)"),
    "floormod": binary("b == 0 ? 0 : (@T)(a % b)"),
    "abs": unary("a"),
    # The top bit of a | -a: gcc 12 turns a loop over lanes of (a > 0) into a mask of ones (-O3, SLP).
    "sign": unary("(@T)((@T)(a | (@T)(0 - a)) >> @B)"),
    "shl": binary("b > @B ? 0 : (@T)((uint64_t)a << b)"),
    "shr": binary("b > @B ? 0 : (@T)(a >> b)"),
    "pow": "static inline @T fw_pow_@S(@T a, @T b) { @T r = 1; for (; b; b /= 2) { if (b % 2) r = (@T)(r * a); "
    "a = (@T)(a * a); } return r; }",
}
BOOL_FUNCTIONS = {
    "max": binary("a | b"), "min": binary("a & b"), "maxc": binary("a | b"), "minc": binary("a & b"),
}  # fmt: skip
SCALAR_FUNCTIONS: Mapping[str, Mapping[str, str]] = {
    "float": FLOAT_FUNCTIONS, "int": INT_FUNCTIONS, "uint": UINT_FUNCTIONS, "bool": BOOL_FUNCTIONS,
}  # fmt: skip
"""Functions by family of types; a language may have others in their place."""

# gcc 12 takes a conversion of _Float16 vectors apart into scalars, and needs the processor's own for the dot product.
_X86 = """\
#if defined(__F16C__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif
"""
_FLOAT16_VECTOR = {
    "load": _X86
    + """\
static inline @W fw_load_@S(@T a) {
#if defined(__AVX512F__) && @L == 16
  return (@W)_mm512_cvtph_ps((__m256i)a);
#elif defined(__F16C__) && @L == 8
  return (@W)_mm256_cvtph_ps((__m128i)a);
#else
  @W r;
  for (int i = 0; i < @L; ++i) r[i] = (float)a[i];
  return r;
#endif
}""",
    "store": _X86
    + """\
static inline @T fw_store_@S(@W a) {
#if defined(__AVX512F__) && @L == 16
  return (@T)_mm512_cvtps_ph((__m512)a, 0);
#elif defined(__F16C__) && @L == 8
  return (@T)_mm256_cvtps_ph((__m256)a, 0);
#else
  @T r;
  for (int i = 0; i < @L; ++i) r[i] = (_Float16)a[i];
  return r;
#endif
}""",
}
_BFLOAT16 = {
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
}
_BFLOAT16_VECTOR = {
    "load": "static inline @W fw_load_@S(@T a) { return (@W)(__builtin_convertvector(a, @U) << 16); }",
    "store": """\
static inline @T fw_store_@S(@W a) {
  @U u = (@U)a, nan = (@U)(a != a);
  u = ((u + 0x7fff + ((u >> 16) & 1)) >> 16 & ~nan) | ((u >> 16 | 0x40) & nan);
  return __builtin_convertvector(u, @T);
}""",
}
_PAIR = """\
static inline uint32_t fw_pair_f32(float a, float b) {
  return (uint32_t)fw_store_bf16(a) | (uint32_t)fw_store_bf16(b) << 16;
}"""
_PAIR_VECTOR = """\
static inline @U fw_pair_@S(@W a, @W b) {
  @U u = (@U)a, v = (@U)b, m = (@U)(a != a), n = (@U)(b != b);
  u = ((u + 0x7fff + ((u >> 16) & 1)) >> 16 & ~m) | ((u >> 16 | 0x40) & m);
  v = ((v + 0x7fff + ((v >> 16) & 1)) & ~n) | ((v | 0x400000) & n);
  return u | (v & 0xffff0000u);
}"""
_DOT2 = """\
static inline float fw_dot2_u32(uint32_t a, uint32_t b, float c) {
  return fw_load_bf16((uint16_t)(a >> 16)) * fw_load_bf16((uint16_t)(b >> 16))
    + (fw_load_bf16((uint16_t)a) * fw_load_bf16((uint16_t)b) + c);
}"""
_DOT2_VECTOR = (
    _X86
    + """\
static inline @W fw_dot2_@S(@T a, @T b, @W c) {
#if defined(__AVX512BF16__) && @L == 16
  return (@W)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#elif defined(__AVX512BF16__) && defined(__AVX512VL__) && @L == 8
  return (@W)_mm256_dpbf16_ps((__m256)c, (__m256bh)a, (__m256bh)b);
#elif defined(__AVX512BF16__) && defined(__AVX512VL__) && @L == 4
  return (@W)_mm_dpbf16_ps((__m128)c, (__m128bh)a, (__m128bh)b);
#else
  return (@W)(a & 0xffff0000u) * (@W)(b & 0xffff0000u) + ((@W)(a << 16) * (@W)(b << 16) + c);
#endif
}"""
)

_VECTOR = {
    "splat": "static inline @T fw_splat_@S(@E a) { return (@T){@A}; }",
    "select": "static inline @T fw_select_@S(@M m, @T a, @T b) { "
    "@I k = __builtin_convertvector(m, @I); return (@T)((k & (@I)a) | (~k & (@I)b)); }",
}
_INT_CHOICES = {
    "max": vector_select("a < b"),
    "min": vector_select("a > b"),
    "maxc": vector_select("a < b", "@E"),
    "minc": vector_select("a > b", "@E"),
}

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
    vector="{short}",
    vector_type="typedef {type} {short} __attribute__((vector_size({size})));\n"
    "typedef {type} {short}u __attribute__((vector_size({size}), aligned({width}), may_alias));",
    vector_storage="{short}u",
    packed=("bfloat16",),
    loops={
        "serial": "for (int64_t {v} = 0; {v} < {n}; ++{v})",
        "rolled": '_Pragma("GCC unroll 1") for (int64_t {v} = 0; {v} < {n}; ++{v})',
        "lockstep": "for (int64_t {v} = 0; {v} < {n}; ++{v})",
        "parallel": "for (int64_t {v} = {n} * tid / nthreads, {v}_end = {n} * (tid + 1) / nthreads; "
        "{v} < {v}_end; ++{v})",
    },
    functions={
        **SCALAR_FUNCTIONS,
        "float32": {
            "exp": EXP_F32,
            "erf": ERF_F32,
            "tanh": TANH_F32,
            "bits": "static inline int32_t fw_bits_f32(float a) { int32_t r; memcpy(&r, &a, 4); return r; }",
            "pair": _PAIR,
            "from_bits": "static inline float fw_from_bits_f32(int32_t a) { float r; memcpy(&r, &a, 4); return r; }",
        },
        "float32 vector": {
            "exp": EXP_F32,
            "erf": ERF_F32,
            "tanh": TANH_F32,
            "sigmoid": FLOAT_FUNCTIONS["sigmoid"],
            "bits": "static inline @I fw_bits_@S(@T a) { return (@I)a; }",
            "from_bits": "static inline @T fw_from_bits_@S(@I a) { return (@T)a; }",
            "pair": _PAIR_VECTOR,
        },
        "float vector": {
            **_VECTOR,
            "maxc": vector_clamp("a < b", "vmax"),
            "minc": vector_clamp("a > b", "vmin"),
            "max": extreme(masked("(a <= b) | (b != b)"), "vmax"),
            "min": extreme(masked("(a >= b) | (b != b)"), "vmin"),
            "max_else": ordered("a > b", "vmax"),
            "min_else": ordered("a < b", "vmin"),
            "div": "static inline @T fw_div_@S(@T a, @T b) { return a / b; }",
            "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return a * b + c; }",
        },
        "int vector": {**_VECTOR, **_INT_CHOICES},
        "uint vector": {**_VECTOR, **_INT_CHOICES},
        "bool vector": _VECTOR,
        "bfloat vector": _VECTOR,
        "float16 vector": _FLOAT16_VECTOR,
        "bfloat16": _BFLOAT16,
        "bfloat16 vector": _BFLOAT16_VECTOR,
        "uint32": {"dot2": _DOT2},
        "uint32 vector": {"dot2": _DOT2_VECTOR},
    },
    lanes="""\
static inline @T fw_@N_@S({params}) {{
  @T r;
  for (int i = 0; i < @L; ++i) r[i] = {scalar}({args});
  return r;
}}""",
    lane=("@T {a}", "", "{a}[i]"),
    suffixes={"float32": "f"},
    numbers={
        "nan": {"float32": '__builtin_nanf("")', "float64": '__builtin_nan("")'},
        "inf": {"float32": "__builtin_inff()", "float64": "__builtin_inf()"},
    },
    convert="__builtin_convertvector({x}, {t})",
    bitcast=(
        "(({t}){x})",
        "static inline {t} {name}({source} a) {{ {t} r; memcpy(&r, &a, sizeof r); return r; }}",
    ),
    load="(*(const {t} *)&{place})",
    store="*({t} *)&{place} = {value};",
    literal="(({t}){{{items}}})",
    prefetch="__builtin_prefetch(&{place}, {write}, {near});",
    array="{t} {name}[{n}] __attribute__((aligned(64)));",
    scratch="{t} *restrict {name} = ({t} *)({place});",
    headers="#include <math.h>\n#include <stdint.h>\n#include <string.h>\n",
    kernel="static void {name}(void *const *restrict args, int tid, int nthreads, fw_team *team,\n"
    "    char *restrict thread_scratch, char *restrict team_scratch)",
    param="{const}{t} *restrict {name} = args[{position}];",
    barriers={"team": "fw_barrier(team, tid);"},
    shuffle="""\
static inline @T fw_@N_@S(@T a, @T b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, @P);
#else
  return __builtin_shuffle(a, b, (@I){@P});
#endif
}""",
)
"""C with GCC's vector types (gcc and clang), for one thread of a team."""
