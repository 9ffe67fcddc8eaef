"""OpenCL C, as data for the emitter (see ../dialects.py).

float16 is held as its bits, like bfloat16: vload_half and vstore_half convert it on every device, with or without
cl_khr_fp16. Comparisons of vectors give -1 for true in OpenCL as in GCC's vectors.
"""

from ..dialects import FLOAT_FUNCTIONS, SCALAR_FUNCTIONS, Dialect, binary, unary

_HEADERS = """\
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
#pragma OPENCL FP_CONTRACT ON
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;
#define INT64_C(x) x##L
#define UINT64_C(x) x##UL
#define INT64_MIN LONG_MIN
#define INT32_MIN INT_MIN
#ifdef FW_FLAT
#define FW_PUT(v, p) do { \\
  typedef __typeof__(+(v)) fw_vector __attribute__((aligned(1))); \\
  *(__global fw_vector *)(size_t)(p) = (v); \\
} while (0)
#undef vstore2
#define vstore2(v, at, p) FW_PUT(v, p)
#undef vstore4
#define vstore4(v, at, p) FW_PUT(v, p)
#undef vstore8
#define vstore8(v, at, p) FW_PUT(v, p)
#undef vstore16
#define vstore16(v, at, p) FW_PUT(v, p)
#endif
"""

# What the language has for vectors as for scalars.
_PLAIN = ("abs", "sqrt", "rsqrt", "ceil", "floor", "trunc", "round", "div", "floordiv", "fma")
_MATHS = {
    **{name: FLOAT_FUNCTIONS[name] for name in _PLAIN},
    "max": binary("select(b, a, (a > b) | (a != a))"),
    "min": binary("select(b, a, (a < b) | (a != a))"),
    "max_else": binary("select(b, a, a > b)"),
    "min_else": binary("select(b, a, a < b)"),
    "maxc": "static inline @T fw_maxc_@S(@T a, @E b) { return select(a, (@T)(b), a < (@T)(b)); }",
    "minc": "static inline @T fw_minc_@S(@T a, @E b) { return select(a, (@T)(b), a > (@T)(b)); }",
}
_VECTOR = {
    "splat": "static inline @T fw_splat_@S(@E a) { return (@T)(a); }",
    "select": "static inline @T fw_select_@S(@M m, @T a, @T b) { return select(b, a, convert_@I(m)); }",
}
_INT_VECTOR = {
    **_VECTOR,
    **{name: binary(f"{name}(a, b)") for name in ("max", "min")},
    **{
        name: f"static inline @T fw_{name}_@S(@T a, @E b) {{ return {name[:3]}(a, (@T)(b)); }}"
        for name in ("maxc", "minc")
    },
    "fma": "static inline @T fw_fma_@S(@T a, @T b, @T c) { return a * b + c; }",
}
_HALF_FMA = """\
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
static inline @T fw_fma_@S(@T a, @T b, @T c) {{
  return as_@T(fma(as_{half}(a), as_{half}(b), as_{half}(c)));
}}"""
_FLOAT16 = {
    "fma": _HALF_FMA.format(half="half"),
    "load": "static inline float fw_load_f16(ushort a) { return vload_half(0, (const __private half *)&a); }",
    "store": """\
static inline ushort fw_store_f16(float a) {
  ushort r;
  vstore_half_rte(a, 0, (__private half *)&r);
  return r;
}""",
}
_FLOAT16_VECTOR = {
    "fma": _HALF_FMA.format(half="half@L"),
    "load": "static inline @W fw_load_@S(@T a) { return vload_half@L(0, (const __private half *)&a); }",
    "store": """\
static inline @T fw_store_@S(@W a) {
  @T r;
  vstore_half@L_rte(a, 0, (__private half *)&r);
  return r;
}""",
}
_BFLOAT16 = {
    "load": "static inline float fw_load_bf16(ushort a) { return as_float((uint)a << 16); }",
    "store": """\
static inline ushort fw_store_bf16(float a) {
  uint u = as_uint(a);
  return a != a ? (ushort)(u >> 16 | 0x40) : (ushort)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}""",
}
_BFLOAT16_VECTOR = {
    **_VECTOR,
    "load": "static inline @W fw_load_@S(@T a) { return as_@W(convert_@U(a) << 16); }",
    "store": """\
static inline @T fw_store_@S(@W a) {
  @U u = as_@U(a);
  return convert_@T(select((u + 0x7fff + (u >> 16 & 1)) >> 16, u >> 16 | 0x40, a != a));
}""",
}

OPENCL = Dialect(
    name="OpenCL",
    types={
        "bool": "int",
        "float16": "ushort",
        "bfloat16": "ushort",
        "float32": "float",
        "float64": "double",
        "index": "long",
        **{
            f"{u}int{bits}": u + name
            for u in ("", "u")
            for bits, name in ((8, "char"), (16, "short"), (32, "int"), (64, "long"))
        },
    },
    storage={"bool": "uchar"},
    vector="{type}{lanes}",
    vector_type="",
    vector_storage="{type}{lanes}",
    packed=("bfloat16", "float16"),
    loops={
        "serial": "for (long {v} = 0; {v} < {n}; ++{v})",
        "rolled": "#pragma unroll 1\nfor (long {v} = 0; {v} < {n}; ++{v})",
        "parallel": "for (long {v} = {n} * fw_item / fw_items, {v}_end = {n} * (fw_item + 1) / fw_items; "
        "{v} < {v}_end; ++{v})",
        "workitem": "if (fw_item >= {first} && fw_item < {end})",
    },
    functions={
        **SCALAR_FUNCTIONS,
        "float32": {
            "pair": "static inline uint fw_pair_f32(float a, float b) { "
            "return (uint)fw_store_bf16(a) | (uint)fw_store_bf16(b) << 16; }"
        },
        # PoCL 3.1: sin, cos and tan of a vector are wrong beside a lane that is huge; so they go lane by lane. Doubles
        # too: it has 0.78 for 100^1 and for 100 mod 1 in a double8, but not in a double.
        "float32 vector": {
            name: text
            for name, text in FLOAT_FUNCTIONS.items()
            if name not in (*_MATHS, "sign", "floormod", "sin", "cos", "tan")
        },
        "float vector": {**_MATHS, **_VECTOR},
        "int vector": {**_INT_VECTOR, "abs": unary("select(a, -a, a < (@T)(0))")},
        "uint vector": {**_INT_VECTOR, "abs": unary("a")},
        "bool vector": _VECTOR,
        "bfloat vector": _VECTOR,
        "float16": _FLOAT16,
        "float16 vector": {**_VECTOR, **_FLOAT16_VECTOR},
        "bfloat16": _BFLOAT16,
        "bfloat16 vector": _BFLOAT16_VECTOR,
    },
    lanes="""\
static inline @T fw_@N_@S({params}) {{
{first}  @E fw_r[@L];
  for (int i = 0; i < @L; ++i) fw_r[i] = {scalar}({args});
  return vload@L(0, fw_r);
}}""",
    lane=("@T {a}", "  @E fw_{a}[@L];\n  vstore@L({a}, 0, fw_{a});\n", "fw_{a}[i]"),
    suffixes={},
    numbers={
        "nan": {"float32": "NAN", "float64": "nan(0ul)"},
        "inf": {"float32": "INFINITY", "float64": "(double)INFINITY"},
    },
    convert="convert_{t}({x})",
    bitcast=("as_{t}({x})", "as_{t}({x})"),
    load="vload{lanes}(0, &{place})",
    store="vstore{lanes}({value}, 0, &{place});",
    literal="(({t})({items}))",
    # Intel's runtime makes work of it: ResNet-18 takes twice as long. Without it, loads from afar are as fast.
    prefetch="",
    array="{t} {name}[{n}] __attribute__((aligned(64)));",
    scratch="__global {t} *restrict {name} = (__global {t} *)({place});",
    headers=_HEADERS,
    kernel="__kernel __attribute__((reqd_work_group_size({group}, 1, 1)))\nvoid {name}({params})",
    param="__global {const}{t} *restrict {name}",
    barriers={"local": "barrier(CLK_LOCAL_MEM_FENCE);"},
    shuffle="static inline @T fw_@N_@S(@T a, @T b) { return (@T)(@Q); }",
    launch={
        "item": "const long fw_item = get_global_id(0);",
        "items": "const long fw_items = get_global_size(0);",
        "group": "const long fw_group = get_group_id(0);",
        "local_item": "const long fw_local_item = get_local_id(0);",
        "group_size": "FW_LOCAL",
        "usual": "1",
        "local": "__local {t} {name}[{n}] __attribute__((aligned(16)));",
        "counter": "const long {v} = {value};",
        "scratch": "__global char *fw_scratch",
        "variable": "const long {v}",
        "own": "__global char *thread_scratch = fw_scratch + fw_item * {bytes};",
    },
    image={
        "param": "__read_only image2d_t {name}",
        "sampler": "__constant sampler_t fw_nearest = "
        "CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_NONE | CLK_FILTER_NEAREST;",
        "load": "read_imagef({name}, fw_nearest, (int2)((int)({x}), (int)({y})))",
        "one": "static inline {t} {name}(float4 a, long k) {{ float r[4]; vstore4(a, 0, r); return r[k]; }}",
        "part": "static inline {t} {name}(float4 a, long k) "
        "{{ float r[4]; vstore4(a, 0, r); return vload{lanes}(0, r + k); }}",
    },
)
"""OpenCL C 1.2: a kernel is one launch, `fw_item` the number of a work-item."""
