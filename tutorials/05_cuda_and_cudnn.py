"""CUDA, and cuDNN.

This is the comparison that "using external libraries" was first written about: one small network, compiled for a GPU
twice. Once the compiler generates everything, and fusion makes one kernel of four operators. Once cuDNN brings the
convolution, tuned by its vendor for this very chip, and the compiler generates what is left. Who wins?

    python tutorials/05_cuda_and_cudnn.py [--arch sm_90] [--side 224] [--repeat 20] [--output FOLDER]

The first half needs no GPU, nor any package of NVIDIA's: it shows the graph, the kernels' source, who was placed
where, and why. The second half runs them, and needs a GPU, `pip install 'fusewire[cuda,tutorials]' nvidia-cudnn-cu13`,
and a few seconds; where something is missing the tutorial says what, and ends there. The cells (`# %%`) can be run one
by one in an editor that knows them.
"""

# %%
# Setting up
# ----------

import argparse
import logging
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np

import fusewire as fw
from fusewire.targets.cuda.nvrtc import nvrtc, options

matplotlib.use("Agg")  # draw into files: no display is needed
from matplotlib import pyplot as plt

parser = argparse.ArgumentParser(description="One network on a GPU, by generated kernels and by cuDNN.")
parser.add_argument("--arch", default="sm_90", help="the architecture to build for")
parser.add_argument("--repeat", type=int, default=20, help="how many times to measure")
parser.add_argument("--side", type=int, default=224, help="pixels in a row and in a column")
parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER", help="where the figure goes")
arguments = parser.parse_args()

logging.basicConfig(stream=sys.stdout, format="[%(name)s] %(message)s")
logging.getLogger("fusewire").setLevel(logging.INFO)


def chapter(title: str) -> None:
    """Print a headline."""
    print(f"\n{title}\n{'=' * len(title)}")


def untyped(text: str) -> str:
    """A printed program without the comments that give types, which make long lines."""
    return re.sub(r" /\* ty=.*?\*/", "", text)


# %%
# The network
# -----------
# The first layer of many image networks, as in tutorial 1: a convolution that makes 16 channels of 3 colours, batch
# normalisation, ReLU.

shape = (1, 3, arguments.side, arguments.side)
data = fw.var("data", shape=shape, dtype="float32")
net = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1))
gamma, beta, mean, var = (fw.var(name) for name in ("bn_gamma", "bn_beta", "bn_mean", "bn_var"))
net = fw.nn.relu(fw.nn.batch_norm(net, gamma, beta, mean, var)[0])
mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))

# %%
# Everything generated
# --------------------
# `-arch` names the chip; left out, it is that of the device where the module is made. In the printed form of a target
# stands also what was not said: work-groups of at most 1024 work-items ("threads", in CUDA's words), which go in step
# by 32 ("warps").

target = fw.Target(f"cuda -arch={arguments.arch}")
chapter("Building for cuda")
print(f"{target}\n")
generated = fw.build(mod, target, params=params)
print(f"\n{untyped(str(generated.fused_mod))}")

# %%
# Batch normalisation has become a multiplication and an addition, and fusion has put both and the ReLU behind the
# convolution. So there is one kernel: a result is finished while it is in a register, and goes to memory once. This is
# the beginning and the end of its source, without the few inline functions in front of it.


def kernels(source: str) -> str:
    """The kernels of a CUDA text."""
    return source[source.index('extern "C" __global__') :].strip()


def shortened(text: str, width: int = 150, first: int = 30, last: int = 14) -> str:
    """The first and last lines of a text, none too long."""
    shown = [line if len(line) <= width else f"{line[: width - 4]} ..." for line in text.splitlines()]
    if (between := len(shown) - first - last) <= 1:
        return "\n".join(shown)
    return "\n".join([*shown[:first], f"... {between} lines ...", *shown[-last:]])


chapter("The kernel")
print(shortened(kernels(generated.get_source())))

# %%
# NVIDIA's compiler for such texts, NVRTC, is a pip package of its own and needs no GPU. With it fusewire's tests see to
# it that kernels compile for several generations of chips, on machines that have none.

chapter("Compiled")
try:
    compiler = nvrtc()
    code = compiler.compile("net.cu", generated.get_source(), options(arguments.arch))
    print(f"{compiler.name}: {len(code):,} bytes of machine code for {arguments.arch}")
except fw.FusewireError as error:
    print(error)

# %%
# cuDNN brings the convolution
# ----------------------------
# The same network, and one more word in the target. The library's convolution has the higher priority, so it is taken:
# the log says so, and `explain` has the whole list. The library is a black box that writes its result to memory; what
# followed the convolution is a kernel of its own now. (cuDNN can add a bias and take a maximum by itself, and where
# that is all that follows it gets it. This network has a multiplication in between, which this call cannot do.)

chapter("Building for cuda -libs=cudnn")
library_target = fw.Target(f"cuda -arch={arguments.arch} -libs=cudnn")
print(f"{library_target}\n")
library = fw.build(mod, library_target, params=params)
print(f"\n{untyped(str(library.fused_mod))}")

chapter("Who runs what, and why")
print(library.explain())

# %%
# The kernel that is left moves data, and nothing else: it reads a number, multiplies, adds, takes the maximum, and
# writes it. All of that is the price for not being part of the convolution.

chapter("The kernel that is left")
print(shortened(kernels(library.get_source())))

# %%
# What does it cost? Bytes that go through the GPU's memory, at least:

chapter("Bytes through memory")
sizes: dict[str, int] = {}
for label, lib in (("generated", generated), ("cuDNN + generated", library)):
    moved = 0
    for step in lib.program.leaf_steps():
        slots = [lib.program.slots[slot] for slot in (*step.inputs, *step.outputs)]
        moved += sum(slot.nbytes for slot in slots)
    sizes[label] = moved
    print(f"{label:20} {len(list(lib.program.leaf_steps()))} steps, {moved:,} bytes")

# %%
# More than one library
# ---------------------
# Libraries are named in the order of preference, and each takes what it can do. cuBLAS multiplies matrices. There are
# none in this network, and a library that was asked for and has nothing to do is worth a warning:

chapter("Building for cuda -libs=cudnn,cublas")
fw.build(mod, f"cuda -arch={arguments.arch} -libs=cudnn,cublas", params=params)

# %%
# A device
# --------
# From here on a GPU is needed. Everything above was for the architecture named; now the device's own is taken.

try:
    dev = fw.device("cuda", 0)
    libs = {
        "generated": fw.build(mod, "cuda", params=params),
        "cuDNN + generated": fw.build(mod, "cuda -libs=cudnn", params=params),
    }
    chapter("Making the modules")
    modules = {label: fw.GraphModule(lib["default"](dev)) for label, lib in libs.items()}
except fw.FusewireError as error:
    chapter("Not here")
    print(f"{error}\nThe rest of this tutorial runs on a GPU: it ends here.")
    sys.exit(0)

# %%
# When the module was made, cuDNN was asked which of its algorithms is the fastest for this convolution. It tried them;
# the log above has how many there are, which was chosen, and for each the time and the workspace that it needs.
#
# Do they agree?
# --------------
# Sums of 27 products in different orders differ in the last bits. The third opinion is each operator's definition, in
# float64.

image = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
outputs = {}
for label, module in modules.items():
    module.set_input("data", image)
    module.run()
    outputs[label] = module.get_output(0).numpy()

(exact,) = fw.testing.evaluate(mod["main"], {"data": image, **{name: a.numpy() for name, a in params.items()}})
chapter("Largest difference")
one, other = outputs.values()
print(f"between the two: {np.abs(one - other).max():.1e}")
for label, output in outputs.items():
    print(f"{label} from float64: {np.abs(output - exact).max():.1e}")
    fw.testing.assert_allclose(output, exact, rtol=1e-5, atol=1e-5)
fw.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

# %%
# Who wins?
# ---------
# `benchmark` times whole runs, with the wait for the device, and `profile` each step by the device's own clock. A layer
# as small as this one takes so little of a GPU's time that starting it counts, which is why fusewire records kernels
# that follow each other in a CUDA graph, and repeats that.

chapter("Timings")
times = {label: module.benchmark(dev, repeat=arguments.repeat, number=10) for label, module in modules.items()}
parts = {label: module.profile(repeat=arguments.repeat).steps for label, module in modules.items()}
for label, result in times.items():
    print(f"\n{label}: {result.median * 1e3:.4f} ms a run (median)")
    for part in parts[label]:
        print(f"  {part.seconds * 1e3:.4f} ms on the device: {part.name} [{part.implementation}]")

# %%
# The figure
# ----------

arguments.output.mkdir(parents=True, exist_ok=True)
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
for position, row in enumerate(parts.values()):
    left = 0.0
    for number, part in enumerate(row):
        width = part.seconds * 1e6
        axes.barh(position, width, 0.5, left=left, color=("#4477aa", "#ee6677", "#ccbb44")[number % 3])
        axes.text(left, position - 0.33, f" {part.implementation}", fontsize=8, va="bottom")
        left += width
    axes.text(left, position, f" {left:.1f} us", va="center")
axes.set_yticks(range(len(parts)), list(parts))
axes.set_ylim(1.5, -0.6)
axes.set_xlabel("microseconds on the device")
axes.spines[["top", "right"]].set_visible(False)
figure_path = arguments.output / "05_cuda_and_cudnn.png"
figure.savefig(figure_path, dpi=120)
plt.close(figure)
print(f"\nFigure: {figure_path}")

# %%
# Where to go from here
# ---------------------
# * `cuda -libs=cudnn -precision=fp16` and the like: cuDNN's newer interface, whose plans take the whole chain.
# * `python -m benchmarks.gpu` measures layers and whole networks beside cuDNN, PyTorch and torch.compile.
# * `rocm -libs=miopen,rocblas`: the same story on AMD's GPUs.
