"""Compile the kernels of every operator on every dtype, of random graphs and of networks; a few minutes.

python -m tests.launched.compile cuda sm_75 sm_80 sm_90
python -m tests.launched.compile rocm gfx90a gfx1100
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fusewire.targets.cuda.dialect import CUDA
from fusewire.targets.cuda.nvrtc import nvrtc, options
from fusewire.targets.rocm.dialect import HIP
from tests.launched.sources import Sources, every, networks, operators, random_graphs
from tests.rocm.clang import compiled

SEEDS = range(60)


def compile_with(kind: str, folder: Path) -> Callable[[str, str], object]:
    """What compiles a text for an architecture."""
    if kind == "rocm":
        return lambda text, arch: compiled(text, arch, folder)
    return lambda text, arch: nvrtc().compile("all.cu", text, options(arch))


def main(kind: str, archs: list[str]) -> None:
    """Compile all."""
    sources = Sources(HIP if kind == "rocm" else CUDA)
    for function in [*operators(every(), 1, 2), *random_graphs(SEEDS), *networks()]:
        sources.add(function, kind)
    print(f"{sources.kernels} kernels in {len(sources.files)} files", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run = compile_with(kind, Path(folder))
        for arch in archs:
            start = time.perf_counter()
            for text in sources.files:
                run(text, arch)
            print(f"{arch}: all compiled, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
