"""The functions of cuDNN 9 that are used here, and their numbers, as cudnn_graph.h, cudnn_ops.h and cudnn_cnn.h have
them.

Its older interface, for convolutions in true float32 and what the graph interface has no operation for. A handle
belongs to a module; its stream is set at each call.
"""

import ctypes
from types import MappingProxyType

from ..vendor import Vendor

INSTALL = "pip install 'fusewire[cudnn]' (for CUDA 13; pip install nvidia-cudnn-cu12 for CUDA 12)"

NCHW, CROSS_CORRELATION = 0, 1
FLOAT, HALF = 0, 2
DTYPES = MappingProxyType({"float32": FLOAT, "float16": HALF})
DEFAULT_MATH, FMA_MATH = 0, 3  # cudnnMathType_t; those between use tensor cores
PROPAGATE_NAN = 1
RELU = 1  # cudnnActivationMode_t
SOFTMAX_ACCURATE, SOFTMAX_LOG = 1, 2
MODE_CHANNEL = 1
POOLING = MappingProxyType({"max": 0, "average": 1, "average of data": 2})

ALGORITHMS = tuple(
    f"CUDNN_CONVOLUTION_FWD_ALGO_{name}"
    for name in ("IMPLICIT_GEMM", "IMPLICIT_PRECOMP_GEMM", "GEMM", "DIRECT", "FFT", "FFT_TILING", "WINOGRAD",
                 "WINOGRAD_NONFUSED")
)  # fmt: skip
"""By their number."""


class Performance(ctypes.Structure):
    """cudnnConvolutionFwdAlgoPerf_t: what was found of one algorithm; milliseconds and bytes."""

    _fields_ = (
        ("algo", ctypes.c_int), ("status", ctypes.c_int), ("time", ctypes.c_float), ("memory", ctypes.c_size_t),
        ("determinism", ctypes.c_int), ("mathType", ctypes.c_int), ("reserved", ctypes.c_int * 3),
    )  # fmt: skip


CUDNN = Vendor(
    title="cuDNN",
    files=("libcudnn.so.9",),
    packages=("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    folders=("$CUDNN_PATH/lib", "$CONDA_PREFIX/lib", "/usr/local/cuda/lib64"),
    install=INSTALL,
    create="cudnnCreate",
    destroy="cudnnDestroy",
    set_stream="cudnnSetStream",
    last_error="cudnnGetLastErrorString",
    functions={
        "cudnnCreate": "p",
        "cudnnDestroy": "p",
        "cudnnSetStream": "pp",
        "cudnnCreateTensorDescriptor": "p",
        "cudnnDestroyTensorDescriptor": "p",
        "cudnnSetTensor4dDescriptor": "piiiiii",
        "cudnnCreateFilterDescriptor": "p",
        "cudnnDestroyFilterDescriptor": "p",
        "cudnnSetFilter4dDescriptor": "piiiiii",
        "cudnnCreateConvolutionDescriptor": "p",
        "cudnnDestroyConvolutionDescriptor": "p",
        "cudnnSetConvolution2dDescriptor": "piiiiiiii",
        "cudnnSetConvolutionGroupCount": "pi",
        "cudnnSetConvolutionMathType": "pi",
        "cudnnCreateActivationDescriptor": "p",
        "cudnnDestroyActivationDescriptor": "p",
        "cudnnSetActivationDescriptor": "piid",
        "cudnnCreatePoolingDescriptor": "p",
        "cudnnDestroyPoolingDescriptor": "p",
        "cudnnSetPooling2dDescriptor": "piiiiiiii",
        "cudnnGetConvolutionForwardAlgorithmMaxCount": "pp",
        "cudnnFindConvolutionForwardAlgorithm": "pppppipp",
        "cudnnConvolutionForward": "ppppppp" + "ipzppp",
        "cudnnConvolutionBiasActivationForward": "ppppppp" + "ipz" + "ppp" + "pp" + "ppp",
        "cudnnAddTensor": "ppppppp",
        "cudnnSoftmaxForward": "piippppp" + "p",
        "cudnnPoolingForward": "pppppppp",
    },
    statuses={
        1001: "a device or a driver that it cannot start on",
        1002: "parts of several versions of itself",
        1008: "a part of itself that does not load",
        2000: "a wrong parameter",
        2002: "a null pointer",
        2003: "a pointer that is not aligned",
        2006: "a buffer that is too small",
        2008: "shapes that do not fit",
        3000: "what it does not support",
        3005: "a driver that is too old for it",
        3006: "a CUDA runtime that does not fit it",
        3007: "an architecture of a device that it does not support",
        4000: "an internal error",
        4003: "not enough memory",
        4004: "not enough memory of the device",
        5000: "an error while it ran",
        5001: "an error of the driver",
        5002: "an error of cuBLAS",
        5003: "an error of the CUDA runtime",
    },
)  # fmt: skip
