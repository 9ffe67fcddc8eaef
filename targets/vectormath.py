"""C texts of functions on vectors: choices by masks or by one instruction of x86, and exp, erf, tanh as polynomials.

They are templates of the C dialect (dialects.py says what their `@` marks mean).
"""

from collections.abc import Sequence


def vector_select(test: str, second: str = "@T") -> str:
    """Take b in the lanes where `test` holds, else a, by masks: a loop over lanes would be taken apart into scalars."""
    return (
        f"static inline @T fw_@N_@S(@T a, {second} b) {{\n"
        f"  @I m = {test};\n  return (@T)((m & (@I)((@T){{0}} + b)) | (~m & (@I)a));\n}}"
    )


def vector_clamp(test: str, instruction: str) -> str:
    """The same as one instruction of x86, which also gives its second operand, here a, where one is NaN."""
    plain = vector_select(test, "@E").split("{\n", 1)
    return (
        f"{plain[0]}{{\n#if defined(@G)\n  @T r, c = (@T){{0}} + b;\n"
        f'  __asm__("{instruction}@P\\t%2, %1, %0" : "=v"(r) : "v"(c), "v"(a));\n  return r;\n#else\n'
        f"{plain[1].removesuffix('}')}#endif\n}}"
    )


def extreme(plain: str, instruction: str) -> str:
    """Max or min that gives NaN where an operand is: x86's gives the second operand where one is NaN, here a, and then
    b goes in where it is NaN. In a chain of them over a, only the two last instructions wait for each other.
    """
    return f"""\
static inline @T fw_@N_@S(@T a, @T b) {{
#if defined(__AVX512F__) && @Z == 64
  @T r; unsigned short k;
  __asm__("{instruction}@P\\t%2, %3, %0\\n\\tvcmpunord@P\\t%3, %3, %1\\n\\tvmova@P\\t%3, %0%{{%1%}}"
    : "=&v"(r), "=&Yk"(k) : "v"(a), "v"(b));
  return r;
#elif defined(__AVX__) && (@Z == 32 || @Z == 16)
  @T r, k;
  __asm__("{instruction}@P\\t%2, %3, %0\\n\\tvcmpunord@P\\t%3, %3, %1\\n\\tvblendv@P\\t%1, %3, %0, %0"
    : "=&x"(r), "=&x"(k) : "x"(a), "x"(b));
  return r;
#else
{plain}
#endif
}}"""


def masked(test: str) -> str:
    """The choice of b in the lanes where `test` holds, else a."""
    return f"  @I m = {test};\n  return (@T)((m & (@I)b) | (~m & (@I)a));"


def ordered(test: str, instruction: str) -> str:
    """A where it compares so with b, else b, as the instruction of x86 has it."""
    return f"""\
static inline @T fw_@N_@S(@T a, @T b) {{
#if defined(@G)
  @T r;
  __asm__("{instruction}@P\\t%2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  return r;
#else
  @I m = {test};
  return (@T)((m & (@I)a) | (~m & (@I)b));
#endif
}}"""


# As Cephes' expf: reduce by multiples of ln 2 split in two parts, then a polynomial of degree 6, here a minimax fit of
# the relative error (3.1e-9) with its first two coefficients 1. The power of two is applied in two halves so that
# results near the ends of the range neither overflow early nor flush to zero; AVX-512 has an instruction for it.
EXP_F32 = """\
static inline @T fw_exp_@S(@T a) {
  @T x = fw_maxc_@S(fw_minc_@S(a, 89.0f), -104.0f);
  @T z = x * 1.44269504088896341f + 12582912.0f;
  @T k = z - 12582912.0f;
  @T r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  @T p = r * 1.381453826e-3f + 8.368745446e-3f;
  p = p * r + 4.166838899e-2f;
  p = p * r + 1.666652113e-1f;
  p = p * r + 4.999999404e-1f;
  p = p * (r * r) + (r + 1.0f);
#if @Z == 64 && defined(__AVX512F__) || (@Z == 32 || @Z == 16) && defined(__AVX512VL__)
  @T s;
  __asm__("vscalefps\\t%2, %1, %0" : "=v"(s) : "v"(p), "v"(k));
  return s;
#else
  @I n = fw_bits_@S(z) - 0x4b400000;
  @I h = n >> 1;
  return p * fw_from_bits_@S((h + 127) << 23) * fw_from_bits_@S((n - h + 127) << 23);
#endif
}"""


def odd_rational(name: str, end: float, above: Sequence[float], below: Sequence[float]) -> str:
    """An odd function with limits -1 and 1 as `a * above(a * a) / below(a * a)`, lowest powers first.

    From `end` on the function is 1 in float32. The coefficients are minimax fits of the relative error, found by
    iteratively reweighted least squares.
    """

    def polynomial(variable: str, coefficients: Sequence[float]) -> list[str]:
        *rest, last = coefficients
        lines = [f"  @T {variable} = (@T){{0}} + {last!r}f;"]
        return lines + [f"  {variable} = {variable} * t + {c!r}f;" for c in reversed(rest)]

    return "\n".join([
        f"static inline @T fw_{name}_@S(@T a) {{",
        f"  @T x = fw_maxc_@S(fw_minc_@S(a, {end}f), -{end}f), t = x * x;",
        *polynomial("p", above),
        *polynomial("q", below),
        "  return fw_maxc_@S(fw_minc_@S(x * p / q, 1.0f), -1.0f);\n}",
    ])  # fmt: skip


# Largest errors found (in units of the last place, over 2^23 random arguments): erf 5.8, tanh 4.8.
ERF_F32 = odd_rational(
    "erf", 3.92,
    (1.128379226, 0.185137704, 5.424407497e-2, 3.838691395e-3, 3.767507733e-4, 4.608958534e-6, -1.279855333e-8),
    (1.0, 0.4974074364, 0.1138745546, 1.543015707e-2, 1.301527838e-3, 6.239657523e-5),
)  # fmt: skip
TANH_F32 = odd_rational(
    "tanh", 9.02,
    (1.0, 0.136798948, 3.868301865e-3, 2.800692528e-5, 3.058370268e-8, -1.220246473e-11),
    (1.0, 0.4701322615, 2.724574506e-2, 3.938584996e-4, 1.287328701e-6),
)  # fmt: skip
