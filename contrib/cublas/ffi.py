"""The functions of cuBLAS and cuBLASLt that are used here, and their numbers, as cublas_api.h, cublasLt.h and
library_types.h have them.
"""

import ctypes
from types import MappingProxyType

from attrs import evolve

from ..vendor import Vendor

INSTALL = "pip install 'fusewire[cublas]' (for CUDA 13; pip install nvidia-cublas-cu12 for CUDA 12)"

DTYPES = MappingProxyType({"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14})
"""cudaDataType_t: CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF."""

COMPUTE_32F, COMPUTE_64F = 68, 70
"""Sums in float32 or float64; float32 factors are not rounded."""

COMPUTE_32F_FAST_TF32 = 77
"""The same with float32 factors rounded to TF32."""

DEFAULT_ALGORITHM = -1
PLAIN, TRANSPOSED = 0, 1

MATMUL_TRANSA, MATMUL_TRANSB, MATMUL_EPILOGUE, MATMUL_BIAS = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
PREFERENCE_WORKSPACE = 1  # CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
PREFERENCE_ALIGNMENTS = (5, 6, 7, 8)  # CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES and those of B, C, D
EPILOGUE_DEFAULT, EPILOGUE_RELU, EPILOGUE_BIAS, EPILOGUE_GELU = 1, 2, 4, 32
"""They are added up, but for the first, which is for none. gelu is the approximation by tanh."""


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm, and the bytes of scratch that it wants."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int),
        ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4),
    )  # fmt: skip


CUBLAS = Vendor(
    title="cuBLAS",
    files=("libcublas.so.13", "libcublas.so.12"),
    packages=("nvidia-cublas", "nvidia-cublas-cu12"),
    folders=("$CUDA_PATH/lib64", "$CONDA_PREFIX/lib", "/usr/local/cuda/lib64"),
    install=INSTALL,
    create="cublasCreate_v2",
    destroy="cublasDestroy_v2",
    set_stream="cublasSetStream_v2",
    functions={
        "cublasCreate_v2": "p",
        "cublasDestroy_v2": "p",
        "cublasSetStream_v2": "pp",
        "cublasGemmEx": "piiiii" + "p" + "pii" * 2 + "p" + "pii" + "ii",
        "cublasGemmStridedBatchedEx": "piiiii" + "p" + "piiq" * 2 + "p" + "piiq" + "iii",
    },
    statuses={
        1: "a device or a driver that it cannot start on",
        3: "not enough memory",
        7: "a wrong parameter",
        8: "an architecture of a device that it does not support",
        11: "an error of the device's memory",
        13: "an error while it ran",
        14: "an internal error",
        15: "what it does not support",
        16: "a licence that does not allow it",
    },
)

LT = evolve(
    CUBLAS,
    title="cuBLASLt",
    files=("libcublasLt.so.13", "libcublasLt.so.12"),
    create="cublasLtCreate",
    destroy="cublasLtDestroy",
    set_stream="",
    functions={
        "cublasLtCreate": "p",
        "cublasLtDestroy": "p",
        "cublasLtMatmulDescCreate": "pii",
        "cublasLtMatmulDescDestroy": "p",
        "cublasLtMatmulDescSetAttribute": "pipz",
        "cublasLtMatrixLayoutCreate": "pizzq",
        "cublasLtMatrixLayoutDestroy": "p",
        "cublasLtMatmulPreferenceCreate": "p",
        "cublasLtMatmulPreferenceDestroy": "p",
        "cublasLtMatmulPreferenceSetAttribute": "pipz",
        "cublasLtMatmulAlgoGetHeuristic": "ppppppp" + "ipp",
        "cublasLtMatmul": "ppp" + "pp" * 2 + "p" + "pp" * 2 + "ppzp",
    },
)
