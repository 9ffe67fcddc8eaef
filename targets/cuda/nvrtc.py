"""NVRTC, NVIDIA's compiler of CUDA C++, from a pip package or a CUDA toolkit. It needs neither a GPU nor a driver."""

import ctypes
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from ...ir.errors import DeviceNotFound
from ..launched.compiler import RuntimeCompiler

INSTALL = "pip install nvidia-cuda-nvrtc"
_MAJORS = (13, 12)
_TOOLKITS = ("/usr/local/cuda", "/opt/cuda")


def options(arch: str) -> list[str]:
    """What NVRTC is told for an architecture such as sm_90. Arithmetic stays as the language says: no fast maths."""
    return [f"--gpu-architecture={arch}", "--std=c++17", "--disable-warnings"]


@lru_cache(maxsize=4)
def nvrtc(major: int | None = None) -> RuntimeCompiler:
    """The compiler; of CUDA `major` if there are several.

    Raises:
        DeviceNotFound: it is not installed; the message says what installs it.
    """
    found = sorted({_major(path): path for path in _candidates()}.items(), key=lambda item: -item[0])
    found.sort(key=lambda item: item[0] != major)
    for _, path in found:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        one, two = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(one), ctypes.byref(two))
        return RuntimeCompiler(f"NVRTC {one.value}.{two.value}", library, "nvrtc", "CUBIN", "cubin")
    raise DeviceNotFound(f"CUDA kernels are compiled by NVRTC, which is not installed: {INSTALL}")


def _major(path: str) -> int:
    match = re.search(r"\.so\.(\d+)", path)
    return int(match[1]) if match else 0


def _candidates() -> Iterator[str]:
    """Where the library may be; later ones of a version are preferred."""
    for major in _MAJORS:
        yield f"libnvrtc.so.{major}"
    for root in (os.environ.get("CUDA_PATH", ""), os.environ.get("CUDA_HOME", ""), *_TOOLKITS):
        yield from map(str, sorted(Path(root or "/nowhere").glob("lib*/libnvrtc.so.*")))
    for package in ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc"):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        yield from (str(file.locate()) for file in files if re.fullmatch(r"libnvrtc\.so\.\d+", file.name))
