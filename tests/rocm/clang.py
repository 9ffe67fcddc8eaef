"""clang for AMD's GPUs, out of the package ziglang, without ROCm: to see whether it takes a text."""

import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = importlib.util.find_spec("ziglang") is not None

FLAGS = (
    "-x", "hip", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-std=c++17", "-w",
)  # fmt: skip


def compiled(text: str, arch: str, folder: Path, level: str = "-O3") -> str:
    """The assembly of a HIP text; what AMD's library of mathematical functions has stays to be linked.

    Raises:
        AssertionError: clang refused it; the message has its words.
    """
    source, target = folder / "kernels.hip", folder / "kernels.s"
    source.write_text(text)
    command = [sys.executable, "-m", "ziglang", "clang", *FLAGS, level, f"--offload-arch={arch}", "-S"]
    done = subprocess.run([*command, str(source), "-o", str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return target.read_text()
