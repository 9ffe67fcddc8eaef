"""HIPRTC, AMD's compiler of HIP C++, which ROCm brings. It needs no GPU."""

import ctypes
import os
from functools import lru_cache

from ...ir.errors import DeviceNotFound
from ..launched.compiler import RuntimeCompiler

INSTALL = "install ROCm (rocm.docs.amd.com has the packages of each system)"
_VERSIONS = ("", ".7", ".6", ".5")


def rocm_library(name: str) -> ctypes.CDLL | None:
    """A library of ROCm, from the loader's places, $ROCM_PATH or /opt/rocm; None if it is not there."""
    root = os.environ.get("ROCM_PATH", "/opt/rocm")
    for folder in ("", f"{root}/lib/"):
        for version in _VERSIONS:
            try:
                return ctypes.CDLL(f"{folder}lib{name}.so{version}")
            except OSError:
                continue
    return None


def options(arch: str) -> list[str]:
    """What the compiler is told for an architecture such as gfx90a. Arithmetic stays as the language says."""
    return [f"--offload-arch={arch}", "-std=c++17", "-O3", "-w"]


@lru_cache(maxsize=1)
def hiprtc() -> RuntimeCompiler:
    """The compiler.

    Raises:
        DeviceNotFound: it is not installed; the message says what to do.
    """
    library = rocm_library("hiprtc") or rocm_library("amdhip64")  # older ones have it in the runtime
    if library is None or not hasattr(library, "hiprtcVersion"):
        raise DeviceNotFound(f"HIP kernels are compiled by HIPRTC, which is not installed: {INSTALL}")
    one, two = ctypes.c_int(), ctypes.c_int()
    library.hiprtcVersion(ctypes.byref(one), ctypes.byref(two))
    return RuntimeCompiler(f"HIPRTC {one.value}.{two.value}", library, "hiprtc", "Code", "hsaco")
