"""Using external libraries.

A compiler that generates its own kernels and a vendor library that was tuned by hand for years are rivals. fusewire
does not take sides: the *target string* says who may take part, and the compiler decides operator by operator which
of them runs. This tutorial takes one small network through both ways, looks at what happens inside, checks that the
results agree, and measures.

    python tutorials/01_using_external_libraries.py [--output FOLDER]

It needs the extras `onednn` and `tutorials` (`pip install 'fusewire[onednn,tutorials]'`), takes a few seconds, and
saves a figure into the folder `output`. The cells (`# %%`) can be run one by one in an editor that knows them.
"""

# %%
# Setting up
# ----------
# fusewire tells on the logger `fusewire` which implementation it takes for which operator. That is worth
# seeing, so the level is set to INFO. Everything else is plain NumPy and Matplotlib.

import argparse
import itertools
import logging
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

import fusewire as fw

matplotlib.use("Agg")  # draw into files: no display is needed
from matplotlib import pyplot as plt

parser = argparse.ArgumentParser(description="One network, run by generated code and by oneDNN.")
parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER", help="where the figure goes")
output_folder: Path = parser.parse_args().output

logging.basicConfig(stream=sys.stdout, format="[%(name)s] %(message)s")
logging.getLogger("fusewire").setLevel(logging.INFO)


def chapter(title: str) -> None:
    """Print a headline."""
    print(f"\n{title}\n{'=' * len(title)}")


# %%
# The network
# -----------
# A convolution that makes 16 channels out of the 3 colours of a picture, a batch normalisation and a ReLU: the
# first layer of many image networks. Only `data` needs a type. `conv2d` knows from `channels` and `kernel_size`
# what its weight must look like, and `batch_norm` knows the length of its four vectors from what it normalises:
# type inference also works backwards.

batch, out_channels, height, width = 1, 16, 224, 224

data = fw.var("data", shape=(batch, 3, height, width), dtype="float32")
weight = fw.var("weight")
gamma, beta = fw.var("bn_gamma"), fw.var("bn_beta")
mean, var = fw.var("bn_mean"), fw.var("bn_var")

net = fw.nn.conv2d(data, weight, kernel_size=(3, 3), channels=out_channels, padding=(1, 1))
net = fw.nn.batch_norm(net, gamma, beta, mean, var)[0]
net = fw.nn.relu(net)
func = fw.Function(fw.analysis.free_vars(net), net)

# %%
# `create_workload` infers all types and draws random parameters: Xavier weights from a fixed seed, and
# statistics that make the normalisation neutral. Printed, a module is Relay's text format, with the type of
# every value in a comment.

mod, params = fw.testing.create_workload(func)

chapter("The typed graph")
print(mod)

# %%
# The input
# ---------
# Noise would do for a benchmark, but not for the eye: here is a picture (`data/draw_landscape.py` painted it),
# as float32 in the layout NCHW, with the usual mean and deviation of each colour removed.

picture = np.asarray(Image.open(Path(__file__).parent / "data" / "landscape.png").convert("RGB"))
normalised = (picture / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
image = np.ascontiguousarray(normalised.astype("float32").transpose(2, 0, 1)[None])

# %%
# Generated code
# --------------
# With the target `cpu`, fusewire generates everything. Before it does, the graph goes through passes. Batch
# normalisation with fixed statistics is one multiplication and one addition for each channel; the two vectors
# of 16 numbers are computed while building; and fusion finds that `multiply`, `add` and `relu` work element by
# element on what `conv2d` makes, so that all four become one function:


def untyped(text: str) -> str:
    """A printed program without the comments that give types, which make long lines."""
    return re.sub(r" /\* ty=.*?\*/", "", text)


chapter("Building for cpu")
generated = fw.build(mod, target="cpu", params=params)
print("\nThe fused graph:\n")
print(untyped(str(generated.fused_mod)))

# %%
# `function_metadata` knows the size of everything. The result of the fused function has 16 * 224 * 224 numbers
# of 4 bytes, that is 3,211,264 bytes. The whole program has in addition the input, and 1,856 bytes of
# constants: the weights (1,728) and the two vectors of batch normalisation (64 each). There is no memory for
# intermediate results, because there are none.

chapter("Sizes in bytes")
for name, info in generated.function_metadata.items():
    (io,), (constants,) = info.io_sizes.values(), info.constant_sizes.values()
    print(f"{name}: io {io:,}, constants {constants:,}")

# %%
# The loop IR
# -----------
# This is what the fused function became: loops, before they are printed as C. First a copy of the picture with
# a border of zeros, so that the inner loops need no tests; then, for each block of 8 channels and 32 pixels, 16
# vector registers that collect the products. And then the point of fusion: the last lines take each finished
# accumulator through multiply, add and max on its way to the *only* store. (Lines that differ in their numbers
# alone are left out here.)


def excerpt(text: str, line_length: int = 160) -> str:
    """Loop IR with runs of lines that store to the same buffer shortened to the first."""
    lines = []
    for _, same in itertools.groupby(text.splitlines(), key=lambda line: re.sub(r"\[.*", "", line.split(" = ")[0])):
        first, *others = same
        lines.append(first if len(first) <= line_length else first[: line_length - 4] + " ...")
        if others:
            lines.append(f"{' ' * (len(first) - len(first.lstrip()))}... and {len(others)} more like this")
    return "\n".join(lines)


fused_name = "fusewire_default_fused_nn_conv2d_multiply_add_nn_relu"
chapter("The loop IR of the fused function")
print(excerpt(generated.get_source(fused_name, kind="loops")))

# %%
# The C text is there too: `generated.get_source(fused_name)`.
#
# Running it
# ----------
# As in Relay: a device, a graph module, inputs by name, `run`, outputs by number.

dev = fw.device("cpu", 0)
module = fw.GraphModule(generated["default"](dev))
module.set_input("data", image)
module.run()
generated_output = module.get_output(0).numpy()

# %%
# A library
# ---------
# The same network, and a target with one more word. oneDNN brings its own convolution; with a higher priority
# than the generated one it is taken, as the log line says. For the compiler a library call is a black box.
# Nothing can be fused into it from outside, and so there are two stages now: the library's convolution, and one
# generated function for the rest. (`-postops=0` keeps it so. Without that word the library would be asked to do
# the rest, too, which is the subject of `03_library_fusion.py`.)

chapter("Building for cpu -libs=onednn")
library = fw.build(mod, target="cpu -libs=onednn -postops=0", params=params)
print("\nThe graph in two stages:\n")
print(untyped(str(library.fused_mod)))

# %%
# `explain` gives the reasons: all implementations that were considered for each step, and why one was taken.

chapter("Who runs what, and why")
print(library.explain())

# %%
# Nothing else changes for the caller.

library_module = fw.GraphModule(library["default"](dev))
library_module.set_input("data", image)
library_module.run()
library_output = library_module.get_output(0).numpy()

# %%
# Do they agree?
# --------------
# Two programs that add up 27 products in different orders do not agree to the last bit, but they must to
# rounding. As a third opinion there is the plain meaning of the graph: each operator's NumPy definition in
# double precision.

fw.testing.assert_allclose(generated_output, library_output, rtol=1e-5, atol=1e-5)

arrays = {"data": image, **{name: array.numpy() for name, array in params.items()}}
main = mod["main"]
(reference,) = fw.testing.evaluate(main, arrays)
chapter("Largest difference between results")
print(f"generated and oneDNN  {np.abs(generated_output - library_output).max():.1e}")
print(f"generated and float64 {np.abs(generated_output - reference).max():.1e}")
print(f"oneDNN and float64    {np.abs(library_output - reference).max():.1e}")
fw.testing.assert_allclose(generated_output, reference, rtol=1e-5, atol=1e-5)

# %%
# Which is faster?
# ----------------
# That depends on the machine, the shapes and the library, and is not for a tutorial to say: measure.
# `benchmark` runs the whole module, `profile` each step by itself. Here the library's convolution has to write
# its result to memory and the second stage has to read it again, which is what fusion saves.

chapter("Timings")
times = {
    "generated": module.benchmark(dev, repeat=20, number=10),
    "oneDNN + generated": library_module.benchmark(dev, repeat=20, number=10),
}
for label, result in times.items():
    print(f"\n{label}: {result}")
print(f"\n{library_module.profile()}")

# %%
# The picture of it all
# ---------------------
# The weights are random, and still one can see what a convolution does: edges, colours, textures.

output_folder.mkdir(parents=True, exist_ok=True)
figure = plt.figure(figsize=(12, 6.6), layout="constrained")
grid = figure.add_gridspec(4, 7)

axes = figure.add_subplot(grid[:3, :3])
axes.imshow(picture)
axes.set_title("input")
axes.axis("off")

axes = figure.add_subplot(grid[3, :3])
for position, (label, result) in enumerate(times.items()):
    low, middle, high = 1e3 * np.percentile(result.results, [25, 50, 75])
    error = [[middle - low], [high - middle]]
    axes.barh(position, middle, 0.45, xerr=error, color=f"C{position}", ecolor="#444444", capsize=3)
    axes.text(0, position - 0.3, f" {label}: {middle:.2f} ms", va="bottom")
axes.set_ylim(1.4, -0.75)
axes.set_yticks([])
axes.set_xlim(left=0)
axes.set_xlabel("milliseconds for one run: median and quartiles")
axes.spines[["top", "right"]].set_visible(False)

for channel, values in enumerate(generated_output[0]):
    axes = figure.add_subplot(grid[channel // 4, 3 + channel % 4])
    axes.imshow(values, cmap="magma", vmin=0, vmax=max(float(np.percentile(values, 99)), 1e-6))
    axes.set_title(f"output channel {channel}", fontsize=8)
    axes.axis("off")

figure_path = output_folder / "01_using_external_libraries.png"
figure.savefig(figure_path, dpi=120)
plt.close(figure)
print(f"\nFigure: {figure_path}")

# %%
# Where to go from here
# ---------------------
# * Other target strings: `cpu -libs=openblas` for matrix products, `cpu -libs=onednn,openblas`, `cpu
#   -num-cores=1`. A library that is asked for and is missing is an error that names the pip command; one that
#   has nothing to do is a warning.
# * `02_building_graphs.py`: the builder, the text format and the passes.
# * `03_library_fusion.py`: how fusion goes on across the border of a library.
# * `docs/architecture.md`: how this network became C text, step by step.
