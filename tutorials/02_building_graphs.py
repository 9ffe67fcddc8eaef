"""Building graphs, and what happens to them.

A program in fusewire is a graph of expressions that never change. This tutorial builds some, looks at their types,
writes them as text and reads them back, runs the passes one by one, and ends with passes of its own.

    python tutorials/02_building_graphs.py
"""

# %%
# Expressions
# -----------
# Every operator is a Python function that makes an expression; nothing is computed. Arithmetic works as one
# would expect, and Python numbers become constants of the fitting type. An expression that is used twice (here
# `x`) is one node with two uses, and is computed once.

import re
from typing import Any

import numpy as np

import fusewire as fw
from fusewire import dataflow_pattern as dfp
from fusewire import relay


def chapter(title: str) -> None:
    """Print a headline."""
    print(f"\n{title}\n{'=' * len(title)}")


def untyped(program: object) -> str:
    """A program as text without the comments that give types, which make long lines."""
    return re.sub(r" /\* ty=.*?\*/", "", str(program))


x = fw.var("x", shape=(2, 3), dtype="float32")
y = fw.tanh(x) * 2.0 + x

chapter("An expression")
print(y)

# %%
# Types
# -----
# A type is known as soon as the types of the parts are; what does not fit is refused on the spot. The message
# has the call with its types and attributes.

chapter("Types")
print("y is a", y.checked_type)
try:
    fw.nn.dense(x, fw.var("w", shape=(4, 5)))
except fw.TypeInferenceError as error:
    print(f"refused: {error}")

# %%
# Variables may be left without a type. Then inference finds it: forwards from what is known, and *backwards*
# where an operator decides what its argument must look like. `dense` with 4 units on rows of 3 numbers needs a
# (4, 3) weight, and `bias_add` a vector of 4.

weight, bias = fw.var("weight"), fw.var("bias")
layer = fw.nn.relu(fw.nn.bias_add(fw.nn.dense(x, weight, units=4), bias))
mod = fw.transform.InferType()(fw.IRModule.from_expr(layer))

chapter("Types found by inference")
for param in mod["main"].params:
    print(f"{param.name_hint}: {param.checked_type}")

# %%
# Dimensions may be symbolic. The arithmetic of shapes works on them, and two that are the same sum compare
# equal. To be compiled they need numbers: `shape=` of `build` gives them.

n = fw.size_var("n")
pictures = fw.var("pictures", shape=(n, 3, 32, 32))
features = fw.nn.conv2d(pictures, fw.var("kernel", shape=(8, 3, 3, 3)), strides=(2, 2), padding=(1, 1))
both = fw.concatenate([features, features], axis=0)

chapter("Symbolic dimensions")
print("features:", features.checked_type)
print("twice:   ", both.checked_type)
try:
    fw.build(both)
except fw.FusewireError as error:
    print(f"refused: {error}")
stacked = fw.build(both, shape={"pictures": (5, 3, 32, 32)})
print("built with n = 5:", stacked.program.slots[stacked.program.outputs[0]])

# %%
# Functions, let, if
# ------------------
# A `Function` names its parameters, an `IRModule` its functions; `main` is where a program starts. `Let` binds
# a value to a name, `If` takes one of two branches and leaves the other alone. `ScopeBuilder` writes both in
# the order of reading.

flag = fw.var("flag", shape=(), dtype="bool")
z = fw.var("z", shape=(4,))
scope = fw.ScopeBuilder()
with scope.if_scope(flag):
    root = scope.let("root", fw.sqrt(z))
    scope.ret(root + root)
with scope.else_scope():
    scope.ret(fw.negative(z))
choose = fw.Function([flag, z], scope.get())

chapter("Let and If")
print(untyped(choose))
run = fw.build(choose, "cpu")
values = np.array([1, 4, 9, 16], dtype="float32")
print("flag is true: ", run(flag=np.array(True), z=values))
print("flag is false:", run(flag=np.array(False), z=values))

# %%
# Text
# ----
# `str` and `astext` write Relay's text format, `parse` reads it. The text is complete: attributes, types, and
# the values of constants (in a section at the end, which `str` leaves out). So programs can be kept in files,
# written by hand, or sent with a bug report.

table = fw.const(np.arange(6, dtype="float32").reshape(2, 3))
mod = fw.IRModule.from_expr(fw.Function([x], fw.nn.relu(x - table)))
text = mod.astext()

chapter("Text")
print(text)
again = fw.parse(text)
print("structurally equal after a round trip:", fw.analysis.structural_equal(mod, again))

by_hand = fw.parse("""
#[version = "0.0.5"]
def @main(%a: Tensor[(2, 2), float32], %b: Tensor[(2, 2), float32]) {
  %0 = nn.matmul(%a, %b);
  nn.relu(%0)
}
""")
square = np.array([[1, -2], [3, 4]], dtype="float32")
print("a program written by hand:\n", fw.build(by_hand)(a=square, b=square))
try:
    fw.parse('#[version = "0.0.5"]\ndef @main(%a: Tensor[(2, 2), float32]) {\n  nn.relu(%a\n}')
except fw.ParseError as error:
    print(f"refused: {error}")

# %%
# Passes
# ------
# A pass makes a new module out of a module. Here are the three that matter most, one by one, on a small block:
# a convolution, batch normalisation, dropout, ReLU, and the input added at the end.

data = fw.var("data", shape=(1, 8, 16, 16))
block = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=8, padding=(1, 1))
gamma, beta, mean, var = (fw.var(f"bn_{name}") for name in ("gamma", "beta", "mean", "var"))
block = fw.nn.batch_norm(block, gamma, beta, mean, var)[0]
block = fw.nn.dropout(block, rate=0.3)
block = fw.nn.relu(block) + data
original, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(block), block))

chapter("As built")
print(untyped(original))

# %%
# `build` starts by turning the parameters that it is given into constants. Here `bind` does so: of the
# parameters only `data` remains.

constants = {p: fw.const(params[p.name_hint]) for p in original["main"].params if p.name_hint in params}
bound = fw.IRModule.from_expr(relay.bind(original["main"], constants))

# %%
# *SimplifyInference* writes operators that mean something special while training as what they are afterwards:
# dropout is nothing, and batch normalisation a multiplication and an addition.

simple = fw.transform.SimplifyInference()(bound)
chapter("After SimplifyInference")
print(untyped(simple))

# %%
# *FoldConstant* computes what does not depend on inputs: of the four vectors of batch normalisation two remain.

folded = fw.transform.FoldConstant()(simple)
chapter("After FoldConstant")
print(untyped(folded))

# %%
# *FuseOps* decides what is computed together. Functions marked `Primitive` become one kernel each; here, one
# takes it all: the residual addition reads `data` at the same place that it writes, so it can be done on the
# convolution's accumulator.

fused = fw.transform.FuseOps()(folded)
chapter("After FuseOps")
print(untyped(fused))

# %%
# Many passes at once
# -------------------
# `Sequential` runs a list of passes under a `PassContext`, which says how hard to try (`opt_level`), and which
# passes to leave out or to insist on. `build` obeys it too. Instruments watch: here one measures time, and one
# of our own counts calls of operators. Without FuseOps each operator is a kernel of its own.


class CountCalls(fw.transform.PassInstrument):
    """Prints how many operator calls each pass leaves."""

    def run_after_pass(self, mod: fw.IRModule, info: fw.transform.PassInfo) -> None:
        """Count."""
        print(f"  {info.name}: {sum(fw.analysis.list_op_freqs(mod).values())} calls")


steps = [fw.transform.SimplifyInference(), fw.transform.FoldConstant(), fw.transform.FuseOps()]
timing = fw.transform.PassTimingInstrument()

chapter("Instruments")
with fw.transform.PassContext(opt_level=3, instruments=[timing, CountCalls()]):
    fw.transform.Sequential(steps)(bound)
print(timing.render())

image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype("float32")
whole = fw.build(original, params=params)
with fw.PassContext(disabled_pass=["FuseOps"]):
    parts = fw.build(original, params=params)
fw.testing.assert_allclose(whole(data=image), parts(data=image), rtol=1e-5, atol=1e-5)

chapter("With and without fusion")
for label, lib in (("with", whole), ("without", parts)):
    print(f"{label} FuseOps:", *(step.name for step in lib.program.leaf_steps()), sep="\n  ")

# %%
# A pass of one's own
# -------------------
# `ExprMutator` rebuilds a graph from its inputs to its result; a method for each kind of node may return
# something else. This one replaces `leaky_relu` with slope 0 by `relu`. `function_pass` makes a pass of a
# function, which can then stand in a `Sequential` among the others. Types are inferred and the graph is
# verified after it, so a mistake shows at once.


class PlainRelu(fw.ExprMutator):
    """Writes leaky_relu(x, alpha=0) as relu(x)."""

    def visit_call(self, call: fw.Call) -> Any:
        """Replace the call, or rebuild it from its new parts."""
        new = super().visit_call(call)
        if str(new.op) == "nn.leaky_relu" and new.attrs.alpha == 0:
            return fw.nn.relu(new.args[0])
        return new


@fw.transform.function_pass(opt_level=1)
def plain_relu(function: fw.Function, mod: fw.IRModule, context: fw.PassContext) -> fw.Function:
    """What the pass does to a function."""
    result: fw.Function = PlainRelu().visit(function)
    return result


leaky = fw.IRModule.from_expr(fw.nn.leaky_relu(fw.nn.leaky_relu(x, alpha=0.1), alpha=0.0))
chapter("A pass made of an ExprMutator")
print(untyped(plain_relu(leaky)))

# %%
# Patterns
# --------
# For replacing a piece of a graph there is a shorter way: say what it looks like, and what takes its place. The
# pattern below is the usual approximation of GELU, x * sigmoid(1.702 * x); it finds it whichever way round the
# multiplications are written.


class ExactGelu(dfp.DFPatternCallback):
    """Replaces x * sigmoid(c * x) by x * (1 + erf(x / sqrt(2))) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.x = dfp.wildcard()
        self.pattern = self.x * dfp.is_op("sigmoid")(dfp.is_constant() * self.x)

    def callback(self, pre: fw.Expr, post: fw.Expr, node_map: Any) -> fw.Expr:
        """What takes the place of a match."""
        found: fw.Expr = node_map[self.x][0]
        return found * (fw.erf(found * 0.5**0.5) + 1.0) * 0.5


approximate = x * fw.sigmoid(1.702 * x)
exact = dfp.rewrite(ExactGelu(), approximate)

chapter("A rewrite by pattern")
print(untyped(exact))
sample = np.linspace(-2, 2, 6, dtype="float32").reshape(2, 3)
difference = np.abs(fw.build(exact)(x=sample) - fw.build(approximate)(x=sample)).max()
print(f"the approximation was off by up to {difference:.3f}")
assert 0 < difference < 0.03

# %%
# Where to go from here
# ---------------------
# * `01_using_external_libraries.py`: the same from the outside, with a library and a clock.
# * `docs/operators.md`: all operators. `docs/architecture.md`: how an operator, a pass or a library is added.
