"""Many kernels for one convolution: tuning on an OpenCL device.

OpenCL runs on telephones, on graphics cards and on processors, and no way to write a convolution is the best on all of
them. How many results should a work-item keep in registers? Should its neighbours share what they read? Should it be a
convolution at all, or a matrix product, or Winograd's algorithm? Instead of an answer, fusewire has a table of
variants, as MNN does, and tries them on the device. This tutorial takes one layer, reads some of its variants, lets
them race, and keeps the winner.

    python tutorials/04_opencl_tuning.py [--device NAME] [--seconds 20] [--output FOLDER]

It needs the extras `opencl` and `tutorials` (`pip install 'fusewire[opencl,tutorials]'`), takes about half a minute,
and saves a figure into the folder `output`. Where there is no OpenCL device it shows the variants and their sources,
says so, and ends before the race. The cells (`# %%`) can be run one by one in an editor that knows them.
"""

# %%
# Setting up
# ----------

import argparse
import re
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np

import fusewire as fw
from fusewire.targets.backends import backend_of
from fusewire.targets.implement import Decision
from fusewire.targets.launched.code import LaunchCode
from fusewire.targets.opencl.devices import find
from fusewire.targets.program import KernelStep

matplotlib.use("Agg")  # draw into files: no display is needed
from matplotlib import pyplot as plt

parser = argparse.ArgumentParser(description="Variants of one convolution, and which of them an OpenCL device likes.")
parser.add_argument("--device", metavar="NAME", help="number, type, or words of a device's name; else the default")
parser.add_argument("--seconds", type=float, default=20, help="how long to search")
parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER", help="where the figure goes")
arguments = parser.parse_args()
target = fw.Target({"kind": "opencl"} if arguments.device is None else {"kind": "opencl", "device": arguments.device})


def chapter(title: str) -> None:
    """Print a headline."""
    print(f"\n{title}\n{'=' * len(title)}")


# %%
# The layer
# ---------
# A convolution as in ResNet-18, cut down so that the race is short: windows of 3x3, 64 channels in and out, 28 x 28
# pixels; then a shift for each channel, and a ReLU.

data = fw.var("data", shape=(1, 64, 28, 28))
net = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=64, padding=(1, 1))
net = fw.nn.relu(net + fw.var("shift", shape=(64, 1, 1)))
mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))

# %%
# The candidates
# --------------
# Building needs no device. `explain` has everything that was considered for the convolution. Those named after a block,
# such as `c4h1w2`, are for work-groups: a work-item computes 4 channels of 1 row and 2 columns. `gemm` ones copy
# windows into local memory and multiply matrices, in tiles of so many rows, columns and terms; the last three numbers
# are what one work-item does. The others share their work among few, large work-items with wide vectors, as processors
# like it. Where a variant does not fit, there is a reason.

lib = fw.build(mod, target, params)
(choice,) = lib.explain("nn.conv2d").choices
candidates = {c.name.removesuffix(".opencl"): c for c in choice.candidates}
fitting = [name for name, c in candidates.items() if c.refusal is None]

chapter("The candidates")
for name in fitting:
    numbers = ", ".join(f"{knob}={value}" for knob, value in candidates[name].config.items())
    print(f"{name:28} {numbers}")
chapter("Those that do not fit")
for name, candidate in candidates.items():
    if candidate.refusal:
        print(f"{name:28} {candidate.refusal}")

# %%
# Side by side
# ------------
# All of them come out of one code generator. Here are two blocks. The left one keeps 4 channels of one pixel in one
# vector register, reads an element of the input, and uses it for these 4. The right one keeps 8 channels of 4 rows: 8
# vectors. It does eight times the work with one set of addresses and loop counters and uses each weight 4 times once it
# is read; but there are only an eighth of the work-items, and a device with many processors may run out of them.


def source(name: str) -> str:
    """The OpenCL text of the layer's convolution, by one variant."""
    decision = Decision(f"{name}.opencl", candidates[name].config)
    code = backend_of("opencl").generate(lib.program, lib.runnable.code.isa, 1, lambda problem, function: decision)
    assert isinstance(code, LaunchCode)
    (step,) = (s for s in lib.program.leaf_steps() if isinstance(s, KernelStep) and s.name == choice.step)
    return code.of(step).source


def excerpt(name: str, width: int, lines: int = 44) -> list[str]:
    """The kernel's first lines, each shortened to the width."""
    text = [re.sub(r"^( +)", lambda m: m[1][: len(m[1]) // 2], line) for line in source(name).splitlines()]
    shown = [line if len(line) <= width else f"{line[: width - 4]} ..." for line in text]
    return [f"{name}, {len(text)} lines", "", *shown[:lines], *(["..."] if len(shown) > lines else [])]


def side_by_side(left: str, right: str, width: int = 74) -> None:
    """Print two kernels."""
    for one, other in zip_longest(excerpt(left, width), excerpt(right, width), fillvalue=""):
        print(f"{one:{width}} | {other}".rstrip())


chapter("Two blocks side by side")
side_by_side("conv2d_c4h1w1", "conv2d_c8h4w1")

# %%
# A third one looks different: this is the matrix product. Look for `__local`, the memory that a work-group shares, and
# for `barrier`, where all of its work-items wait until a tile is there.

chapter("A matrix product instead")
product = source("conv2d_gemm_32x32x16_2x4").splitlines()
print("\n".join(line.strip() for line in product if "__local" in line or "barrier(" in line))

# %%
# A device
# --------
# From here on something has to run.

try:
    device = find(arguments.device)
    fw.GraphModule(lib["default"](fw.device("opencl", 0)))
except fw.FusewireError as error:
    chapter("No device")
    print(f"{error}\nThe rest of this tutorial runs kernels: it ends here.")
    sys.exit(0)

chapter("The device")
print(f"{device.name}, {device.platform}, {device.compute_units} units, work-groups of up to {device.max_group}")

# %%
# The race
# --------
# The level "heavy" has no limit to the number of trials and tries also those variants that are made for another kind of
# device; so the limit here is time. Each candidate runs in another process (a bad kernel can take a whole process
# down), is compared with plain loops on the same device, and then timed by the device's clock. The most promising one
# of each implementation comes first, then their other numbers, then other sizes of work-groups.

with tempfile.TemporaryDirectory() as folder:
    records = Path(folder) / "records.jsonl"
    result = fw.tune(mod, target, params, level="heavy", seconds=arguments.seconds, records=records)
    tuned = fw.build(mod, target, params, records=records)  # what a later build does: it searches nothing

searched = next(group for group in result.groups if choice.step in group.steps)
outcome = searched.outcome
assert outcome is not None, "the convolution was not searched: give it more --seconds"
fastest: dict[str, float] = {}
for timing in outcome.timings:
    if timing.seconds is not None:
        name = timing.implementation.removesuffix(".opencl")
        fastest[name] = min(timing.seconds, fastest.get(name, timing.seconds))
ranking = sorted(fastest.items(), key=lambda item: item[1])

chapter("What the device says")
failed = [timing for timing in outcome.timings if timing.problem]
print(f"{len(outcome.timings)} trials of {len(fastest)} implementations, {len(failed)} failed\n")
for name, seconds in ranking:
    print(f"{name:28} {seconds * 1e6:9.1f} us")
for timing in failed:
    print(f"{timing.implementation} {dict(timing.config)}: {timing.problem}")

# %%
# The chosen one
# --------------
# The winner has to beat the first guess, which the cost model made without running anything, clearly and in most
# rounds. What was decided stands in the records, and the next build follows it.

chapter("The chosen one")
(now,) = tuned.explain("nn.conv2d").choices
print(f"first guess: {choice.chosen}, {outcome.first_seconds * 1e6:.1f} us")
print(f"chosen:      {now.chosen}, {outcome.seconds * 1e6:.1f} us, {dict(outcome.best.config)}")
print(f"\n{result}")

# %%
# Fast, and right? The whole network again, with the tuned kernel, against the definition of each operator in float64.

image = np.random.default_rng(0).normal(size=(1, 64, 28, 28)).astype("float32")
(exact,) = fw.testing.evaluate(mod["main"], {"data": image, **{name: a.numpy() for name, a in params.items()}})
difference = float(np.abs(tuned(data=image) - exact).max() / np.abs(exact).max())
chapter("Largest difference from float64")
print(f"{difference:.1e} of the largest value")
assert difference < 1e-4

# %%
# The figure
# ----------

arguments.output.mkdir(parents=True, exist_ok=True)
figure, axes = plt.subplots(figsize=(8, 1.4 + 0.28 * len(ranking)), layout="constrained")
winner = outcome.best.implementation.removesuffix(".opencl")
colors = ["#4477aa" if name == winner else "#bbbbbb" for name, _ in ranking]
bars = axes.barh([name for name, _ in ranking], [seconds * 1e6 for _, seconds in ranking], color=colors)
axes.bar_label(bars, [f"{seconds * 1e6:.0f} us" for _, seconds in ranking], padding=3, fontsize=8)
axes.set_xscale("log")
axes.invert_yaxis()
axes.set_xlabel("fastest run, microseconds (blue: chosen)")
axes.set_title(f"conv2d 3x3, 64 to 64 channels, 28 x 28, on {device.name}", fontsize=10, loc="left")
axes.spines[["top", "right"]].set_visible(False)
figure_path = arguments.output / "04_opencl_tuning.png"
figure.savefig(figure_path, dpi=120)
plt.close(figure)
print(f"\nFigure: {figure_path}")

# %%
# Where to go from here
# ---------------------
# * `fusewire tune MODEL --target opencl --level normal` does this for every layer of a model; `docs/tuning.md` has the
#   levels, the rules, and what is in the records.
# * The table of variants is `targets/schedules/gpu/table.py`. A new block is one more entry.
# * `05_cuda_and_cudnn.py`: the same kernels' relatives on CUDA.
