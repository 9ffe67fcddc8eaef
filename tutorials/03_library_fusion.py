"""Fusion across the border of a library.

The first tutorial ended with a limit: a library call is a black box, so fusion stops where it begins. But the box has
a slot. Libraries such as oneDNN take a list of *post-ops* along with a convolution: operations to apply to each result
while it is still in a register. This tutorial builds the same network three times, and shows how the compiler fills
that slot, what it asks before it does, and what the numbers say.

    python tutorials/03_library_fusion.py [--output FOLDER]

It needs the extras `onednn` and `tutorials` (`pip install 'fusewire[onednn,tutorials]'`), takes a few seconds, and
saves a figure into the folder `output`. The cells (`# %%`) can be run one by one in an editor that knows them.
"""

# %%
# Setting up
# ----------

import argparse
import re
from pathlib import Path

import matplotlib
import numpy as np

import fusewire as fw
from fusewire.contrib.onednn.epilogue import EPILOGUE
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.targets.program import LibraryStep

matplotlib.use("Agg")  # draw into files: no display is needed
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

parser = argparse.ArgumentParser(description="One network: generated, library and kernel, library with post-ops.")
parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER", help="where the figure goes")
output_folder: Path = parser.parse_args().output


def chapter(title: str) -> None:
    """Print a headline."""
    print(f"\n{title}\n{'=' * len(title)}")


# %%
# The network
# -----------
# A convolution, a scale and a shift for each channel (which is what batch normalisation becomes), and a ReLU.
# Scale and shift are written out here, so that the printed graphs are short.

data = fw.var("data", shape=(1, 3, 224, 224), dtype="float32")
scale, shift = fw.var("scale", shape=(16, 1, 1)), fw.var("shift", shape=(16, 1, 1))
net = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1))
net = fw.nn.relu(net * scale + shift)
mod, _ = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))

rng = np.random.default_rng(0)
params = {
    "weight": rng.normal(0, 0.2, (16, 3, 3, 3)).astype("float32"),
    "scale": rng.uniform(0.5, 1.5, (16, 1, 1)).astype("float32"),
    "shift": rng.normal(0, 0.1, (16, 1, 1)).astype("float32"),
}
image = rng.normal(size=(1, 3, 224, 224)).astype("float32")

# %%
# Three ways
# ----------
# * `cpu`: everything generated, and fused into one kernel.
# * `cpu -libs=onednn -postops=0`: the library's convolution, its result in memory, and a kernel for the rest.
# * `cpu -libs=onednn`: the library's convolution with three post-ops. Nothing is left to generate.

targets = {
    "generated": "cpu",
    "library, then kernel": "cpu -libs=onednn -postops=0",
    "library with post-ops": "cpu -libs=onednn",
}
libs = {label: fw.build(mod, target, params=params) for label, target in targets.items()}

chapter("Who runs what")
for label, lib in libs.items():
    print(f"\n{label} ({targets[label]}):")
    for step, choice in zip(lib.program.leaf_steps(), lib.explain().choices, strict=True):
        kind = "library call" if isinstance(step, LibraryStep) else "kernel"
        print(f"  {kind}: {' + '.join(choice.ops)}  [{choice.chosen}]")

# %%
# What the compiler hands over is a function with two attributes: `Compiler` names the library, `Composite` the rule
# that matched. Everything inside of it is one call of oneDNN.


def untyped(text: str) -> str:
    """A printed program without the comments that give types, which make long lines."""
    return re.sub(r" /\* ty=.*?\*/", "", text)


chapter("One call")
print(untyped(str(libs["library with post-ops"].fused_mod)))

# %%
# Where this comes from
# ---------------------
# A rule of a library is an *anchor* and a chain of steps that may follow, written down as data. Each place of the
# chain holds the steps of which one may stand there, and may stay empty. This is oneDNN's for convolutions; there is
# no other code that knows which post-ops go with what.

chapter("The chain")
print("nn.conv2d")
for slot in EPILOGUE:
    print("  . " + " | ".join(post_op.name for post_op in slot) + " ?")

# %%
# The longest match is tried first. If the library refuses it, one step less is tried, and the reason is kept. Here the
# addend is a column for each row of pixels, for which oneDNN has no fast implementation: what it would run is called
# `ref`, is a hundred times slower, and is therefore refused. The sum goes to a generated kernel.

column = fw.var("column", shape=(224, 1), dtype="float32")
odd = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1))
odd = fw.nn.relu(odd * scale + column)
awkward = fw.build(fw.Function([data, *fw.analysis.free_vars(odd)[1:]], odd), "cpu -libs=onednn")

chapter("A step that the library refuses")
print(awkward.explain())

# %%
# The same by hand
# ----------------
# Partitioning is three passes, as in Relay: `MergeComposite` puts what a table of patterns matches into functions,
# `AnnotateTarget` says which library they are for, `PartitionGraph` seals them.

table = [("acme.scaled", is_op("multiply")(is_op("nn.conv2d")(wildcard(), wildcard()), wildcard()))]
passes = [fw.transform.MergeComposite(table), fw.transform.AnnotateTarget("acme"), fw.transform.PartitionGraph()]

chapter("Partitioned by hand")
print(untyped(str(fw.transform.Sequential(passes)(mod))))

# %%
# Do they agree?
# --------------
# All three with each other, and each with the NumPy definition of the operators in double precision.

results = {label: lib(data=image) for label, lib in libs.items()}
(reference,) = fw.testing.evaluate(mod["main"], {"data": image, **params})
chapter("Largest difference from float64")
for label, result in results.items():
    fw.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-5)
    fw.testing.assert_allclose(result, results["generated"], rtol=1e-5, atol=1e-5)
    print(f"{label:22s} {np.abs(result - reference).max():.1e}")

# %%
# What does the border cost?
# --------------------------
# In two steps the convolution's result, 3.2 MB, is written to memory and read again. With post-ops it is touched
# once. Whether the library or the generated kernel is faster is another question, which depends on machine and shapes:
# measure. `-num-cores=1` makes the comparison steadier.

dev = fw.device("cpu", 0)
chapter("Timings")
times = {}
for label, target in targets.items():
    module = fw.GraphModule(fw.build(mod, f"{target} -num-cores=1", params=params)["default"](dev))
    times[label] = 1e3 * np.array(module.benchmark(dev, repeat=20, number=5, data=image).results)
    print(f"{label:22s} {np.median(times[label]):.3f} ms")

# %%
# The picture of it all
# ---------------------
# Above, who runs which operator: a box is one step, and between boxes the whole tensor goes through memory. Below,
# the time of each way.

output_folder.mkdir(parents=True, exist_ok=True)
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.4), layout="constrained", height_ratios=[3, 2])
colours = {"kernel": "#4c9f70", "library call": "#3d6fb6"}
for row, lib in enumerate(libs.values()):
    start = 0.0
    for step, choice in zip(lib.program.leaf_steps(), lib.explain().choices, strict=True):
        kind = "library call" if isinstance(step, LibraryStep) else "kernel"
        width = len(choice.ops)
        above.barh(row, width - 0.12, left=start + 0.06, height=0.62, color=colours[kind])
        for place, op in enumerate(choice.ops):
            above.text(start + place + 0.5, row, op.removeprefix("nn."), ha="center", va="center", color="white")
        start += width
above.set_yticks(range(len(libs)), list(libs))
above.invert_yaxis()
above.set_xlim(0, 4)
above.set_xticks([])
above.set_title("one box is one step; between boxes the tensor goes through memory", fontsize=10)
above.legend([Patch(color=c) for c in colours.values()], list(colours), loc="upper center",
             bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False)  # fmt: skip

for row, values in enumerate(times.values()):
    low, middle, high = np.percentile(values, [25, 50, 75])
    below.barh(row, middle, 0.5, xerr=[[middle - low], [high - middle]], color=f"C{row}", ecolor="#444444", capsize=3)
    below.text(0, row, f" {middle:.2f} ms", va="center", color="white")
below.set_yticks(range(len(times)), list(times))
below.invert_yaxis()
below.set_xlabel("milliseconds for one run on one core: median and quartiles")
for axes in (above, below):
    axes.spines[["top", "right"]].set_visible(False)

figure_path = output_folder / "03_library_fusion.png"
figure.savefig(figure_path, dpi=120)
plt.close(figure)
print(f"\nFigure: {figure_path}")

# %%
# Where to go from here
# ---------------------
# * `docs/architecture.md`: how a library is added.
# * `contrib/onednn/rules.py`: the table of all that oneDNN takes.
