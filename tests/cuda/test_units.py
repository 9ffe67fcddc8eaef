"""Tensor cores and copies to shared memory: the text for sm_80, with the instructions of PTX acted out on the host.

`mma.sync` is written here from the tables of the PTX ISA ("Matrix fragments for mma.m16n8k8" and "...k16"): each item
of a warp lays its fragments down, all wait, and each computes its sums from the matrices.
"""

import ctypes
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fusewire.ir.errors import VerifyError
from fusewire.ir.loops import Builder, Kernel
from fusewire.ir.scalar import Buffer, apply, cast, later
from fusewire.targets.csource import Emitter
from fusewire.targets.cuda.dialect import CUDA
from fusewire.targets.implement import finish
from fusewire.targets.launches import plan_launches
from fusewire.targets.matrixtext import TERMS
from fusewire.targets.prelude import Prelude
from tests.cuda.host import _SHIM, compiler, needs_compiler

Array = npt.NDArray[Any]
M, N = 16, 8

_ACTED = """\
#define __CUDA_ARCH__ 800
#define __syncwarp() pthread_barrier_wait(&fw_barrier)
static unsigned int lay[32][6];
static unsigned long long __cvta_generic_to_shared(void *p) { return (unsigned long long)p; }
static float as_float(unsigned int u) { float r; memcpy(&r, &u, 4); return r; }
static unsigned int as_tf32(float f) { unsigned int u; memcpy(&u, &f, 4); return (u + 0x1000) & ~0x1fffu; }
static float half_of(unsigned int u, int k, bool wide) {
  unsigned int h = u >> (16 * k) & 0xffff; return wide ? as_float(h << 16) : _cvtsh_ss(h); }
static void acted_mma(float *c[4], const unsigned int *r, int kind) {
  const int lane = threadIdx.x & 31, group = lane >> 2, in_group = lane & 3;
  __syncwarp();
  for (int i = 0; i < 6; ++i) lay[lane][i] = r[i];
  __syncwarp();
  static thread_local float A[16][16], B[16][8];
  for (int l = 0; l < 32; ++l) for (int i = 0; i < 4; ++i) for (int e = 0; e < 2; ++e) {
    const int row = l / 4 + (i % 2 ? 8 : 0);
    if (kind == 0) A[row][l % 4 + (i < 2 ? 0 : 4)] = as_float(lay[l][i]);
    else A[row][l % 4 * 2 + e + (i < 2 ? 0 : 8)] = half_of(lay[l][i], e, kind == 2); }
  for (int l = 0; l < 32; ++l) for (int i = 0; i < 2; ++i) for (int e = 0; e < 2; ++e) {
    if (kind == 0) B[l % 4 + (i ? 4 : 0)][l / 4] = as_float(lay[l][4 + i]);
    else B[l % 4 * 2 + e + (i ? 8 : 0)][l / 4] = half_of(lay[l][4 + i], e, kind == 2); }
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i < 2 ? 0 : 8), column = in_group * 2 + (i & 1);
    for (int k = 0; k < (kind == 0 ? 8 : 16); ++k) *c[i] += A[row][k] * B[k][column]; }
}
"""


def acted(text: str) -> str:
    """A text with its assembly as calls of functions of the host."""
    text = text.replace("__shared__ alignas(16)", "alignas(16) static")
    text = re.sub(r'asm\("cvt.rna.tf32.*?\(x\[i\]\)\);', "r[i] = as_tf32(x[i]);", text)
    for kind, name in enumerate(("k8.row.col.f32.tf32", "k16.row.col.f32.f16", "k16.row.col.f32.bf16")):
        call = f"{{ float *c[4] = {{&c0, &c1, &c2, &c3}}; acted_mma(c, r, {kind}); }}"
        text = re.sub(
            rf'asm volatile\("mma\.sync\.aligned\.m16n8{re.escape(name)}\..*?\)\);', call, text, flags=re.DOTALL
        )
    copies = (
        "{ unsigned long long u = (unsigned long long)to; memset((void *)u, 0, N); memcpy((void *)u, from, bytes); }"
    )
    text = re.sub(r'if \(N == 16\) asm volatile\("cp\.async.*?"memory"\);\s*else asm volatile.*?"memory"\);',
                  copies, text, flags=re.DOTALL)  # fmt: skip
    text = re.sub(r'asm volatile\("cp\.async\.wait_all;" ::: "memory"\);', "", text)
    text = re.sub(r'asm\("cvt\.f32\.f16.*?\(a\)\);', "r = _cvtsh_ss(a);", text)
    return re.sub(r'asm\("cvt\.rn\.f16\.f32.*?\(a\)\);', "r = _cvtss_sh(a, 0);", text)


def product(dtype: str, across: bool) -> Kernel:
    """16 x 8 sums by one warp; the right-hand matrix lies by columns or, `across`, by terms."""
    terms = 2 * TERMS[dtype]
    a, c = Buffer("a", (M, terms), dtype), Buffer("b", (N, terms) if across else (terms, N), dtype)
    out, b = Buffer("out", (M, N), "float32"), Builder()
    with b.loop("group", 1, "workgroup"):
        left = b.alloc("left", (M, terms + 8), dtype, "local")
        right = b.alloc("right", (N, terms + 8) if across else (terms, N + 8), dtype, "local")
        with b.loop("item", 32, "workitem") as item:
            for target, source in ((left, a), (right, c)):
                rows, columns = source.shape
                with b.loop("round", rows * columns // 128) as round_, b.loop("v", 4, "vectorised") as v:
                    flat = round_ * 128 + item * 4
                    place = (flat // columns, flat % columns + v)
                    b.store(target, place, later(b.load(source, place)))
            b.barrier("local")
            sums = b.alloc("acc", (4,), "float32")
            for s in range(4):
                b.store(sums, (s,), 0)
            g, two = item // 4, item % 4 * 2
            for k0 in range(0, terms, TERMS[dtype]):
                with b.loop("k", TERMS[dtype], "mma") as k:
                    for s in range(4):
                        row, column = g + s // 2 * 8, two + s % 2
                        place = (column, k0 + k) if across else (k0 + k, column)
                        x, y = b.load(left, (row, k0 + k)), b.load(right, place)
                        whole = apply("fma", cast(x, "float32"), cast(y, "float32"), b.load(sums, (s,)))
                        b.store(sums, (s,), whole)
            for s in range(4):
                b.store(out, (g + s // 2 * 8, two + s % 2), b.load(sums, (s,)))
    return finish(Kernel("product", (a, c), (out,), b.finish()), 16)


def text_of(kernel: Kernel) -> str:
    (launch,) = plan_launches(kernel).launches
    emitter = Emitter(Prelude(CUDA))
    head = emitter.launch("product", launch, kernel.inputs, kernel.params)
    return f"{CUDA.headers}{emitter.prelude.text([head.text])}{head.text}"


def stored(array: Array, dtype: str) -> Array:
    """Numbers as a type has them in memory."""
    if dtype == "float32":
        return array.astype(np.float32)
    if dtype == "float16":
        return array.astype(np.float16).view(np.uint16)
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def run(text: str, arrays: list[Array], folder: Path) -> None:
    source = folder / "product.cpp"
    start = '\nextern "C" void go(void **args) { fw_groups(one, args, 1, 32, true); }\n'
    caller = "static void one(void **args) { product(TYPES); }"
    types = re.search(r"product\((.*?)\)", text[text.index('extern "C" __global__') :])
    assert types
    given = [p[: p.rindex("*") + 1].replace("__restrict__", "") for p in types[1].split(", ")]
    caller = caller.replace("TYPES", ", ".join(f"({t})args[{k}]" for k, t in enumerate(given)))
    source.write_text(_SHIM + _ACTED + acted(text) + caller + start)
    command = compiler()
    assert command is not None
    flags = ["-std=c++17", "-O1", "-w", "-mf16c", "-mfma", "-shared", "-fPIC", "-pthread"]
    target = folder / "product.so"
    done = subprocess.run(
        [*command, *flags, str(source), "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:3000]
    table = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    ctypes.CDLL(str(target)).go(table)


@needs_compiler
@pytest.mark.parametrize(
    "dtype, across", [("float32", False), ("float16", True), ("bfloat16", True), ("float16", False)]
)
def test_fragments_lie_as_ptx_has_them(dtype: str, across: bool) -> None:
    rng = np.random.default_rng(3)
    terms = 2 * TERMS[dtype]
    # Small integers: exact in every type, so that nothing but a wrong place makes a difference.
    x, y = (rng.integers(-8, 9, shape).astype(np.float64) for shape in ((M, terms), (terms, N)))
    text = text_of(product(dtype, across))
    assert f"fw_mma_{dtype}<" in text and "mma.sync" in text and "fw_copy<" in text
    out = np.zeros((M, N), np.float32)
    arrays = [stored(x, dtype), stored(np.ascontiguousarray(y.T) if across else y, dtype), out]
    with tempfile.TemporaryDirectory() as folder:
        run(text, arrays, Path(folder))
    np.testing.assert_array_equal(out, x @ y)


def test_a_wrong_product_is_refused() -> None:
    a, out, b = Buffer("a", (32, 8), "float32"), Buffer("out", (32,), "float32"), Builder()
    with b.loop("group", 1, "workgroup"), b.loop("item", 32, "workitem") as item:
        acc = b.alloc("acc", (1,), "float32")
        b.store(acc, (0,), 0)
        with b.loop("k", 8, "mma") as k:
            b.store(acc, (0,), apply("fma", b.load(a, (item, k)), b.load(a, (item, k)), b.load(acc, (0,))))
        b.store(out, (item,), b.load(acc, (0,)))
    kernel = finish(Kernel("product", (a,), (out,), b.finish()), 16)
    with pytest.raises(VerifyError, match="not a product of 16 x 8 sums"):
        text_of(kernel)
