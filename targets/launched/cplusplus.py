"""C++ for GPUs, as far as CUDA and HIP say it alike, as data for the emitter (see ../dialects.py).

Vectors are structs with an operator for each of the emitter's, lane by lane: a GPU computes on single numbers, and what
a vector gains is wide access to memory. Such access must be aligned, so it says by how many bytes it is known to be,
and moves pieces of that size: a vector at a multiple of 16 bytes is one instruction, one at any place is a few. The
comparisons of vectors give -1 for true in int32 lanes, whatever is compared.

float16 and bfloat16 are held as their bits; loads convert them to float32, and stores back.
"""

from collections.abc import Mapping

from ...ir.scalar import EXCHANGES
from ..dialects import SCALAR_FUNCTIONS, Dialect, unary

# Macros, so that no header that a compiler puts in front can disagree.
_INTEGERS = """\
typedef int fw_int32;
typedef unsigned int fw_uint32;
typedef long long fw_int64;
typedef unsigned long long fw_uint64;
#define int32_t fw_int32
#define uint32_t fw_uint32
#define int64_t fw_int64
#define uint64_t fw_uint64
#undef INT64_C
#undef UINT64_C
#undef INT64_MIN
#undef INT32_MIN
#define INT64_C(x) x##LL
#define UINT64_C(x) x##ULL
#define INT64_MIN (-9223372036854775807LL - 1)
#define INT32_MIN (-2147483647 - 1)
"""

_VECTORS = """\
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) fw_vec { T s[N]; };

#define FW_LANES _Pragma("unroll") for (int i = 0; i < N; ++i)
#define FW_OPERATOR(R, op, x) \\
  template <typename T, int N> FW_FUNCTION fw_vec<R, N> operator op(const fw_vec<T, N> &a, const fw_vec<T, N> &b) { \\
    fw_vec<R, N> r; FW_LANES r.s[i] = (R)(x(a.s[i] op b.s[i])); return r; } \\
  template <typename T, int N> FW_FUNCTION fw_vec<R, N> operator op(const fw_vec<T, N> &a, T b) { \\
    fw_vec<R, N> r; FW_LANES r.s[i] = (R)(x(a.s[i] op b)); return r; }
#define FW_SAME +
#define FW_MASK -(int)
FW_OPERATOR(T, +, FW_SAME)
FW_OPERATOR(T, -, FW_SAME)
FW_OPERATOR(T, *, FW_SAME)
FW_OPERATOR(T, &, FW_SAME)
FW_OPERATOR(T, |, FW_SAME)
FW_OPERATOR(T, ^, FW_SAME)
FW_OPERATOR(int, <, FW_MASK)
FW_OPERATOR(int, <=, FW_MASK)
FW_OPERATOR(int, >, FW_MASK)
FW_OPERATOR(int, >=, FW_MASK)
FW_OPERATOR(int, ==, FW_MASK)
FW_OPERATOR(int, !=, FW_MASK)
template <typename T, int N> FW_FUNCTION fw_vec<T, N> operator-(const fw_vec<T, N> &a) {
  fw_vec<T, N> r; FW_LANES r.s[i] = (T)-a.s[i]; return r; }
template <typename T, int N> FW_FUNCTION fw_vec<T, N> operator~(const fw_vec<T, N> &a) {
  fw_vec<T, N> r; FW_LANES r.s[i] = (T)~a.s[i]; return r; }

template <typename T> struct fw_lane;
template <typename T, int N> struct fw_lane<fw_vec<T, N>> { typedef T type; static const int count = N; };
template <typename V, typename T, int N> FW_FUNCTION V fw_convert(const fw_vec<T, N> &a) {
  V r; FW_LANES r.s[i] = (typename fw_lane<V>::type)a.s[i]; return r; }
template <typename V, typename T> FW_FUNCTION V fw_bitcast(const T &a) {
  static_assert(sizeof(V) == sizeof(T), "the same bits"); V r; memcpy(&r, &a, sizeof r); return r; }
template <typename V, int... P> FW_FUNCTION V fw_shuffled(const V &a, const V &b) {
  constexpr int N = fw_lane<V>::count;
  return V{{(P < N ? a.s[P % N] : b.s[P % N])...}}; }

// Vectors in memory at a multiple of A bytes, moved in pieces of A bytes.
template <int A> struct fw_piece;
template <> struct fw_piece<1> { typedef unsigned char type; };
template <> struct fw_piece<2> { typedef unsigned short type; };
template <> struct fw_piece<4> { typedef unsigned int type; };
template <> struct fw_piece<8> { struct alignas(8) type { unsigned int a, b; }; };
template <> struct fw_piece<16> { struct alignas(16) type { unsigned int a, b, c, d; }; };
template <typename V, int A> FW_FUNCTION V fw_load(const void *p) {
  typedef typename fw_piece<A>::type piece;
  constexpr int N = sizeof(V) / A;
  piece from[N]; V r;
  FW_LANES from[i] = ((const piece *)p)[i];
  memcpy(&r, from, sizeof r);
  return r; }
template <int A, typename V> FW_FUNCTION void fw_store(void *p, const V &a) {
  typedef typename fw_piece<A>::type piece;
  constexpr int N = sizeof(V) / A;
  piece to[N];
  memcpy(to, &a, sizeof a);
  FW_LANES ((piece *)p)[i] = to[i]; }
"""

_VECTOR = {
    "splat": "static inline @T fw_splat_@S(@E a) { return @T{{@A}}; }",
    "select": "static inline @T fw_select_@S(@M m, @T a, @T b) {\n"
    "  constexpr int N = @L; @T r; FW_LANES r.s[i] = m.s[i] ? a.s[i] : b.s[i]; return r; }",
}
_NUMBERS = {
    **_VECTOR,
    **{
        name: f"static inline @T fw_{name}_@S(@T a, @E b) {{\n"
        f"  constexpr int N = @L; @T r; FW_LANES r.s[i] = b {sign} a.s[i] ? b : a.s[i]; return r; }}"
        for name, sign in (("maxc", ">"), ("minc", "<"))
    },
}


def _small(name: str) -> dict[str, str]:
    """A 16-bit float, converted lane by lane."""
    head = "constexpr int N = @L;"
    return {
        **_VECTOR,
        "load": f"static inline @W fw_load_@S(@T a) {{ {head} @W r; "
        f"FW_LANES r.s[i] = fw_from_{name}(a.s[i]); return r; }}",
        "store": f"static inline @T fw_store_@S(@W a) {{ {head} @T r; "
        f"FW_LANES r.s[i] = fw_to_{name}(a.s[i]); return r; }}",
    }


_LOAD = "static inline float fw_load_@S(unsigned short a) { return fw_from_@S(a); }"
_STORE = "static inline unsigned short fw_store_@S(float a) { return fw_to_@S(a); }"

_BFLOAT16 = """\
FW_FUNCTION float fw_from_bf16(unsigned short a) {
  unsigned int u = (unsigned int)a << 16; float r; memcpy(&r, &u, 4); return r; }
FW_FUNCTION unsigned short fw_to_bf16(float a) {
  unsigned int u; memcpy(&u, &a, 4);
  return a != a ? (unsigned short)(u >> 16 | 0x40) : (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16); }
"""


_WORDS = ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
_FUSED = {"fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return fma@F(a, b, c); }"}


def cplusplus(
    name: str, index: str, own: str, words: Mapping[str, str], maths: Mapping[str, str], numbers: Mapping[str, str]
) -> Dialect:
    """A dialect of C++ for GPUs.

    Args:
        name: the language.
        index: the type of loop counters and of positions in memory.
        own: what stands at the top of each file: the language's own definitions, FW_FUNCTION (what all functions are
            declared with), memcpy, and fw_from_f16 and fw_to_f16, which convert a float16 in an unsigned short.
        words: the language's "kernel", "barrier" of a work-group, "shared" (what memory of one is declared with), and
            numbers: of an "item", of all "items", of a "group", and of the item in it, "local_item"; and the function
            "exchange", which gives the value of the item whose number in the warp differs in the bits of a number.
        maths: definitions of functions on floats that differ from C's.
        numbers: "nan" and "inf" for float32; a conversion makes them float64.
    """
    both = {key: {"float32": text, "float64": f"((double){text})"} for key, text in numbers.items()}
    return Dialect(
        name=name,
        types={
            "bool": "int",
            "float16": "unsigned short",
            "bfloat16": "unsigned short",
            "float32": "float",
            "float64": "double",
            "index": index,
            **{f"int{bits}": f"signed {word}" for bits, word in _WORDS},
            **{f"uint{bits}": f"unsigned {word}" for bits, word in _WORDS},
        },
        storage={"bool": "unsigned char"},
        function="FW_FUNCTION",
        vector="{short}",
        vector_type="typedef fw_vec<{type}, {lanes}> {short};",
        vector_storage="{short}",
        packed=("bfloat16", "float16"),
        loops=_loops(index),
        functions=_functions(words["exchange"], maths),
        lanes="static inline @T fw_@N_@S({params}) {{\n"
        "  constexpr int N = @L; @T r; FW_LANES r.s[i] = {scalar}({args}); return r; }}",
        lane=("@T {a}", "", "{a}.s[i]"),
        suffixes={"float32": "f"},
        numbers=both,
        convert="fw_convert<{t}>({x})",
        bitcast=("fw_bitcast<{t}>({x})", "fw_bitcast<{t}>({x})"),
        load="fw_load<{t}, {align}>(&{place})",
        store="fw_store<{align}>(&{place}, {value});",
        literal="{t}{{{{{items}}}}}",
        prefetch="",
        array="alignas(16) {t} {name}[{n}];",
        scratch="{t} *__restrict__ {name} = ({t} *)({place});",
        headers=f"{_INTEGERS}{own}{_BFLOAT16}{_VECTORS}",
        kernel=words["kernel"],
        param="{const}{t} *__restrict__ {name}",
        barriers={"local": words["barrier"]},
        shuffle="static inline @T fw_@N_@S(@T a, @T b) { return fw_shuffled<@T, @P>(a, b); }",
        launch=_launch(index, words),
    )


def _loops(index: str) -> dict[str, str]:
    """The heads of loops whose counters are of this type."""
    plain = f"for ({index} {{v}} = 0; {{v}} < {{n}}; ++{{v}})"
    return {
        "serial": plain,
        "rolled": f'_Pragma("unroll 1") {plain}',
        "short": f'_Pragma("unroll") {plain}',
        "parallel": f"for ({index} {{v}} = ({index})({{n}}LL * fw_item / fw_items), "
        f"{{v}}_end = ({index})({{n}}LL * (fw_item + 1) / fw_items); {{v}} < {{v}}_end; ++{{v}})",
        "workitem": "if (fw_item >= {first} && fw_item < {end})",
    }


def _functions(exchange: str, maths: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    """Definitions of functions by type: those of C, `maths` in place of some, and exchanges between items."""
    near = {name: unary(f"(@T){exchange}(a, {step})") for name, step in EXCHANGES.items()}
    floats = {"float": {**SCALAR_FUNCTIONS["float"], **_FUSED, **maths}}
    return {
        **{family: {**known, **near} for family, known in {**SCALAR_FUNCTIONS, **floats}.items()},
        **{f"{family} vector": _NUMBERS for family in ("float", "int", "uint")},
        **{f"{family} vector": _VECTOR for family in ("bool", "bfloat")},
        "float16": {"load": _LOAD, "store": _STORE},
        "float16 vector": _small("f16"),
        "bfloat16": {"load": _LOAD, "store": _STORE},
        "bfloat16 vector": _small("bf16"),
    }


def _launch(index: str, words: Mapping[str, str]) -> dict[str, str]:
    """What stands at the head of a kernel."""
    numbers = {
        name: f"const {index} fw_{name} = ({index}){words[name]};" for name in ("item", "items", "group", "local_item")
    }
    return {
        **numbers,
        "group_size": "FW_LOCAL",
        "usual": "256",
        "local": f"alignas(16) {words['shared']} {{t}} {{name}}[{{n}}];",
        "counter": f"const {index} {{v}} = {{value}};",
        "scratch": "char *fw_scratch",
        "variable": "const long long {v}",
        "own": "char *thread_scratch = fw_scratch + (long long)fw_item * {bytes};",
    }
