"""What CUDA does in one instruction, as text: copies to shared memory beside other work (sm_80), and products of 16 x 8
matrices by a warp (PTX's mma.sync). Before the architectures that have them, they are the plain statements they mean.

The fragments are those of the PTX ISA: item 4 g + t of a warp has rows g and g + 8 of the left-hand matrix, and column
g of the right-hand one; `a` and `b` are where its sums' rows and columns begin, columns 2 t and 2 t + 1.
"""

COPY = """\
template <int N> FW_FUNCTION void fw_copy(void *to, const void *from, bool whether) {
#if __CUDA_ARCH__ >= 800
  unsigned int place = (unsigned int)__cvta_generic_to_shared(to);
  int bytes = whether ? N : 0;
  if (N == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
    :: "r"(place), "l"(from), "r"(bytes) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
    :: "r"(place), "l"(from), "n"(N), "r"(bytes) : "memory");
#else
  typedef typename fw_piece<N>::type piece;
  piece value = {};
  if (whether) value = *(const piece *)from;
  *(piece *)to = value;
#endif
}"""

COPIED = """\
#if __CUDA_ARCH__ >= 800
asm volatile("cp.async.wait_all;" ::: "memory");
#endif
__syncthreads();"""

_PLAIN = """\
  for (int k = 0; k < {terms}; ++k) {{
    float x = {x}(a[k * AK]), y = {x}(a[8 * AM + k * AK]), u = {x}(b[k * BK]), v = {x}(b[k * BK + BN]);
    c0 = c0 + x * u; c1 = c1 + x * v; c2 = c2 + y * u; c3 = c3 + y * v;
  }}"""
_HEAD = """\
template <int AM, int AK, int BK, int BN> FW_FUNCTION void fw_mma_{dtype}(
    float &c0, float &c1, float &c2, float &c3, const {t} *a, const {t} *b) {{"""
_ITEM = "const int g = (int)(threadIdx.x & 31) >> 2, t = (int)threadIdx.x & 3; b += (g - 2 * t) * BN;"

_TF32 = (
    _HEAD.format(dtype="float32", t="float")
    + f"""
#if __CUDA_ARCH__ >= 800
  {_ITEM}
  const float x[6] = {{a[t * AK], a[8 * AM + t * AK], a[(t + 4) * AK], a[8 * AM + (t + 4) * AK],
    b[t * BK], b[(t + 4) * BK]}};
  unsigned int r[6];
  _Pragma("unroll") for (int i = 0; i < 6; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[i]) : "f"(x[i]));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, "
    "{{%8,%9}}, {{%0,%1,%2,%3}};"
    : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]), "r"(r[5]));
#else
"""
    + _PLAIN.format(terms=8, x="")
    + "\n#endif\n}"
)

_PAIR = """\
template <int S> FW_FUNCTION unsigned int fw_two(const unsigned short *p) {
  if (S == 1) return *(const unsigned int *)p;
  return (unsigned int)p[0] | (unsigned int)p[S] << 16; }
"""


def _half(dtype: str, short: str, ptx: str, older: str) -> str:
    """A function for factors of 16 bits; pairs of terms that are neighbours in memory lie at a multiple of 4 bytes."""
    fragments = """\
  const unsigned int r[6] = {fw_two<AK>(a + 2 * t * AK), fw_two<AK>(a + 8 * AM + 2 * t * AK),
    fw_two<AK>(a + (2 * t + 8) * AK), fw_two<AK>(a + 8 * AM + (2 * t + 8) * AK),
    fw_two<BK>(b + 2 * t * BK), fw_two<BK>(b + (2 * t + 8) * BK)};"""
    sums = '"+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)'
    whole = f"""\
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.{ptx}.{ptx}.f32 {{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, "
    "{{%8,%9}}, {{%0,%1,%2,%3}};"
    : {sums} : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]), "r"(r[5]));"""
    half = "\n".join(
        f'  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.{ptx}.{ptx}.f32 {{%0,%1,%2,%3}}, {{%4,%5}}, {{%6}}, '
        f'{{%0,%1,%2,%3}};"\n    : {sums} : "r"(r[{k}]), "r"(r[{k + 1}]), "r"(r[{k // 2 + 4}]));'
        for k in (0, 2)
    )
    old = f"#elif __CUDA_ARCH__ >= {older}\n  {_ITEM}\n{fragments}\n{half}\n" if older else ""
    head = _HEAD.format(dtype=dtype, t="unsigned short")
    plain = _PLAIN.format(terms=16, x=f"fw_from_{short}")
    new = f"#if __CUDA_ARCH__ >= 800\n  {_ITEM}\n{fragments}\n{whole}\n"
    return f"{head}\n{new}{old}#else\n{plain}\n#endif\n}}"


MATRIX = {
    "float32": _TF32,
    "float16": _half("float16", "f16", "f16", "750"),
    "bfloat16": _half("bfloat16", "bf16", "bf16", ""),
}
"""Functions for loops of kind "mma", by the type of the factors; float32 is rounded to TF32."""

HEADER = _PAIR
"""What they need."""

UNITS = {"float32": 80, "float16": 75, "bfloat16": 80}
"""The first architecture, sm_NN, whose tensor cores take factors of a type."""
