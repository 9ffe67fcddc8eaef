"""Your own library.

To most graph compilers an external library is a black box that the compiler's authors chose. In fusewire it can be a
black box of yours: a library is one value, a `Library`, made of *rules*. A rule says what it can take (a pattern), what
it cannot (a check that gives reasons), and how it is called. This file is such a library, complete, around one function
in C; and if it is run, it tells what the compiler makes of it.

    python tutorials/06_your_own_library.py

It needs NumPy and a C compiler, and takes a few seconds. As a module of a package of yours it works unchanged: see the
end.
"""

# %%
# The function
# ------------
# This is what a team may have lying around: a matrix product with bias and ReLU, written by hand. It returns a status,
# and counts its calls, so that one can see that it ran. `load_shared` compiles it with the compiler that fusewire uses
# for its own kernels, and keeps the result in the same cache; `ctypes.CDLL("libacme.so")` would do as well.

import ctypes
import functools
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import fusewire as fw
from fusewire.fuse.dataflow_pattern import Match, is_constant, is_op, wildcard
from fusewire.fuse.library import Executable, Library, Region, Rule
from fusewire.ir.visitor import post_order
from fusewire.targets.toolchain import load_shared

SOURCE = """
#include <stdint.h>

static long calls;

/* out = x w^T + bias, and no less than 0 if relu is set; bias may be missing. Returns 0, or 1: too deep. */
int acme_dense(const float *x, const float *w, const float *bias, float *out,
               int64_t rows, int64_t units, int64_t depth, int relu)
{
  calls++;
  if (depth > 4096) return 1;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < units; j++) {
      float sum = bias ? bias[j] : 0.0f;
      for (int64_t k = 0; k < depth; k++) sum += x[i * depth + k] * w[j * depth + k];
      out[i * units + j] = relu && sum < 0.0f ? 0.0f : sum;
    }
  return 0;
}

long acme_calls(void) { return calls; }
"""
DEEPEST = 4096
STATUS = {1: "the product is deeper than 4096"}


@functools.cache
def acme() -> ctypes.CDLL:
    """The compiled function; nothing is compiled when this file is imported."""
    library = load_shared([("acme", SOURCE)])
    library.acme_dense.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3, ctypes.c_int]
    library.acme_calls.restype = ctypes.c_long
    return library


def probe() -> str | None:
    """None if the library can be loaded here, else why not: fusewire asks before a module runs."""
    try:
        acme()
    except fw.CompileError as error:
        return f"{error}. Install a C compiler: apt install gcc"
    return None


# %%
# What it can take: the pattern
# -----------------------------
# `nn.dense`, perhaps with a constant added, perhaps with a ReLU behind it. Patterns are Relay's. Of several ways to
# match at one place, the longest wins.

dense = is_op("nn.dense")(wildcard(), wildcard())
with_bias = dense.optional(lambda x: is_op("add")(x, is_constant()))
PATTERN = with_bias.optional(lambda x: is_op("nn.relu")(x))


# %%
# What it cannot take: the check
# ------------------------------
# A check gets a match and says None, or why not. It looks at types and attributes only, so that a program can be built
# where the library is not installed. The reason ends up before the user's eyes, so it says got and expected. If the
# long match is refused here (a bias that is none), the compiler asks again for the shorter one.


def check(match: Match) -> str | None:
    """Why the function cannot compute a match, or None."""
    product, *rest = match.calls
    for operand in product.args:
        type_ = operand.checked_type
        if not isinstance(type_, fw.TensorType) or not type_.is_static or len(type_.shape) != 2:
            return f"an operand is {type_}, expected a matrix of known size"
        if type_.dtype != "float32":
            return f"an operand is {type_.dtype}, expected float32"
        if type_.static_shape[1] > DEEPEST:
            return f"the product is {type_.static_shape[1]} deep, expected at most {DEEPEST}"
    units = product.checked_type.static_shape[1]  # type: ignore[attr-defined]
    for call in rest:
        if str(call.op) == "add" and call.args[1].checked_type != fw.TensorType((units,), "float32"):
            return f"what is added is {call.args[1].checked_type}, expected one float32 for each of {units} units"
    return None


# %%
# How it is called
# ----------------
# `implement` gets the region that the compiler cut out, once for each module, and returns what runs it: a function of
# input and output arrays. They are C-contiguous. What can be prepared once (packing weights, which are in
# `region.constants`) belongs outside of `run`. Whatever `run` raises, fusewire adds which operators failed on which
# shapes, and the module can run again.


def implement(region: Region) -> Executable:
    """The call for a region."""
    calls = {str(node.op): node for node in post_order(region.function.body) if isinstance(node, fw.Call)}
    place = {param: k for k, param in enumerate(region.function.params)}
    x, w = (place[arg] for arg in calls["nn.dense"].args)  # type: ignore[index]
    bias = place[calls["add"].args[1]] if "add" in calls else None  # type: ignore[index]
    relu = "nn.relu" in calls

    def run(inputs: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> None:
        (rows, depth), units = inputs[x].shape, len(inputs[w])
        addresses = [None if k is None else inputs[k].ctypes.data for k in (x, w, bias)]
        status = acme().acme_dense(*addresses, outputs[0].ctypes.data, rows, units, depth, relu)
        if status != 0:
            raise RuntimeError(f"acme_dense: {STATUS.get(status, 'unknown')} (status {status})")

    return run


LIBRARY = Library(
    "acme",
    targets=("cpu",),
    rules=[Rule("acme.dense", PATTERN, check, implement=implement, priority=30)],
    probe=probe,
)

# %%
# That is all. A package offers it by two lines of its `pyproject.toml`, and from then on `-libs=acme` is known wherever
# the package is installed. fusewire imports it when a target names it.

PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-fusewire"
version = "1.0"

[project.entry-points."fusewire.libraries"]
acme = "acme_fusewire:LIBRARY"

[tool.setuptools]
py-modules = ["acme_fusewire"]
"""


def chapter(title: str) -> None:
    """Print a headline."""
    print(f"\n{title}\n{'=' * len(title)}")


def network(dtype: str = "float32") -> tuple[fw.IRModule, dict[str, Any]]:
    """Two dense layers with bias and ReLU, then a third whose bias is the same for all, and softmax."""
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {}

    def parameter(*shape: int) -> fw.Var:
        name = f"p{len(params)}"
        params[name] = rng.uniform(-0.2, 0.2, shape).astype(dtype)
        return fw.var(name, shape=shape, dtype=dtype)

    net: fw.Expr = fw.var("data", shape=(8, 64), dtype=dtype)
    for _ in range(2):
        net = fw.nn.relu(fw.add(fw.nn.dense(net, parameter(64, 64)), parameter(64)))
    net = fw.nn.softmax(fw.add(fw.nn.dense(net, parameter(10, 64)), parameter(1, 1)))
    return fw.IRModule.from_expr(fw.Function(fw.analysis.free_vars(net), net)), params


# %%
# What the compiler makes of it
# -----------------------------


def main() -> None:
    """The library at work."""
    logging.basicConfig(stream=sys.stdout, format="[%(name)s] %(message)s")
    logging.getLogger("fusewire").setLevel(logging.INFO)
    # A program can make a library known for itself; no package is needed for that.
    fw.register_library(LIBRARY)

    # Three products, three calls. The first two take bias and ReLU with them. The bias of the third is one number, so
    # the long match was refused, the short one taken, and the addition became a generated kernel.
    chapter("Building for cpu -libs=acme")
    mod, params = network()
    lib = fw.build(mod, "cpu -libs=acme", params=params)
    print(f"\n{lib.explain()}")

    # Does it compute the right thing, and did it really run? The counter in C says so. `bisect_mismatch` compares every
    # group of both modules with a float64 reference, and would name the first operator that is wrong.
    chapter("Is it right?")
    data = np.random.default_rng(1).uniform(-1, 1, (8, 64)).astype("float32")
    before = acme().acme_calls()
    result = lib(data=data)
    print(f"calls of acme_dense: {acme().acme_calls() - before}")
    generated = fw.build(mod, "cpu", params=params)
    fw.testing.assert_allclose(result, generated(data=data), rtol=1e-5)
    print(fw.testing.bisect_mismatch(lib, generated, {"data": data}))

    # A library that takes nothing is a warning, with the reason. Where that is not enough, `-strict` makes an error of
    # every operator that would silently run elsewhere than asked.
    chapter("What it refuses")
    mod64, params64 = network("float64")
    fw.build(mod64, "cpu -libs=acme", params=params64)
    try:
        fw.build(mod64, "cpu -libs=acme -strict", params=params64)
    except fw.PlacementError as error:
        print(error)

    # Is it worth it? A plain triple loop seldom is; on one core, since it has no threads:
    chapter("Is it faster?")
    logging.getLogger("fusewire").setLevel(logging.WARNING)
    for target in ("cpu -num-cores=1 -libs=acme", "cpu -num-cores=1"):
        module = fw.GraphModule(fw.build(mod, target, params=params)["default"](fw.cpu()))
        seconds = module.benchmark(repeat=5, number=20, data=data).median
        print(f"{target:28} {seconds * 1e6:8.1f} us")
    # Nobody has to do this by hand: `-libs=auto:acme` measures the whole network both ways, and takes the library only
    # where it is faster, and right.

    chapter("As a package: this file as acme_fusewire.py, and pyproject.toml")
    print(PYPROJECT)


if __name__ == "__main__":
    main()
