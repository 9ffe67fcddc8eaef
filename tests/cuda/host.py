"""CUDA C++ of ours compiled for the host: what a kernel computes can be looked at without a GPU.

The items of a group run one after the other; where there are barriers, or they exchange values, they are threads that
wait for each other.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

_SHIM = """\
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
struct fw_size { unsigned int x; };
static thread_local fw_size blockIdx, threadIdx;
static fw_size blockDim, gridDim;
static pthread_barrier_t fw_barrier;
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static
#define __syncthreads() pthread_barrier_wait(&fw_barrier)
static unsigned long long fw_lanes[1024];
template <typename T> static T __shfl_xor_sync(unsigned int, T a, int bits) {
  memcpy(&fw_lanes[threadIdx.x], &a, sizeof a); pthread_barrier_wait(&fw_barrier);
  T r; memcpy(&r, &fw_lanes[threadIdx.x ^ bits], sizeof r); pthread_barrier_wait(&fw_barrier); return r; }
static inline float __int_as_float(int a) { float r; memcpy(&r, &a, 4); return r; }
struct fw_item_of { void (*run)(void **); void **args; unsigned int group, item; };
static void *fw_thread(void *p) {
  fw_item_of *w = (fw_item_of *)p; blockIdx.x = w->group; threadIdx.x = w->item; w->run(w->args); return 0; }
static void fw_groups(void (*run)(void **), void **args, unsigned int groups, unsigned int items, bool waits) {
  gridDim.x = groups; blockDim.x = items;
  for (unsigned int g = 0; g < groups; ++g) {
    if (!waits) {
      for (unsigned int i = 0; i < items; ++i) { fw_item_of w = {run, args, g, i}; fw_thread(&w); }
      continue; }
    pthread_barrier_init(&fw_barrier, 0, items);
    pthread_t *threads = new pthread_t[items]; fw_item_of *work = new fw_item_of[items];
    for (unsigned int i = 0; i < items; ++i) {
      work[i] = {run, args, g, i}; pthread_create(&threads[i], 0, fw_thread, &work[i]); }
    for (unsigned int i = 0; i < items; ++i) pthread_join(threads[i], 0);
    delete[] threads; delete[] work; pthread_barrier_destroy(&fw_barrier);
  }
}
"""
_ASSEMBLY = {
    "__shared__ alignas(16)": "alignas(16) static",
    'asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(a));': "r = _cvtsh_ss(a);",
    'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(a));': "r = _cvtss_sh(a, 0);",
}
_KERNEL = re.compile(
    r'extern "C" __global__ void __launch_bounds__\((\w+)\)\n(\w+)\((.*?)\)\n\{\n(.*?)\n\}\n', re.DOTALL
)


def compiler() -> list[str] | None:
    """A C++ compiler for an x86 processor, or None."""
    if shutil.which("g++"):
        return ["g++"]
    return None


needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler for x86")


def parameters(text: str) -> dict[str, tuple[str, list[str]]]:
    """The size of groups, and the types of parameters, of each kernel in a text."""
    found = {}
    for size, name, params, _ in _KERNEL.findall(text):
        types = [
            param.rpartition(" ")[0] if "*" not in param else param[: param.rindex("*") + 1]
            for param in params.split(", ")
        ]
        found[name] = (size, types if params else [])
    return found


def _callers(text: str) -> str:
    lines = []
    for _, name, _, body in _KERNEL.findall(text):
        types = parameters(text)[name][1]
        given = ", ".join(f"*({t} *)args[{k}]" for k, t in enumerate(types))
        waits = "true" if "__syncthreads" in body or "fw_item_xor" in body else "false"
        lines.append(f"static void one_{name}(void **args) {{ {name}({given}); }}")
        lines.append(
            f'extern "C" void run_{name}(void **args, unsigned int groups, unsigned int items) {{ '
            f"fw_groups(one_{name}, args, groups, items, {waits}); }}"
        )
    return "\n".join(lines)


@lru_cache(maxsize=64)
def library(text: str) -> Any:
    """A text as a loaded library: for each kernel a function run_NAME(arguments, groups, items)."""
    command = compiler()
    assert command is not None
    whole = text.replace("__shared__ alignas(16)", "alignas(16) __shared__")  # as g++ wants it
    for assembly, plain in _ASSEMBLY.items():
        whole = whole.replace(assembly, plain)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{hashlib.sha256(whole.encode()).hexdigest()[:16]}.cpp"
        source.write_text(_SHIM + whole + "\n" + _callers(text))
        target = source.with_suffix(".so")
        flags = ["-std=c++17", "-O0", "-w", "-mf16c", "-mfma", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
        done = subprocess.run(
            [*command, *flags, str(source), "-o", str(target)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[:4000]
        return ctypes.CDLL(str(target))


if __name__ == "__main__":
    print(_callers(sys.stdin.read()))
