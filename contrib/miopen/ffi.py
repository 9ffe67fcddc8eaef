"""The functions of MIOpen that are used here, and their numbers, as miopen.h has them (versions 2.19 and 3)."""

import ctypes
from types import MappingProxyType

from ..vendor import of_rocm

DTYPES = MappingProxyType({"float32": 1, "float16": 0})
CONVOLUTION = 0  # miopenConvolution: a cross-correlation
POOLING = MappingProxyType({"max": 0, "average of data": 1, "average": 2})
SOFTMAX_ACCURATE, SOFTMAX_LOG, MODE_CHANNEL = 1, 2, 1

ALGORITHMS = MappingProxyType({
    0: "miopenConvolutionFwdAlgoGEMM", 1: "miopenConvolutionFwdAlgoDirect", 2: "miopenConvolutionFwdAlgoFFT",
    3: "miopenConvolutionFwdAlgoWinograd", 5: "miopenConvolutionFwdAlgoImplicitGEMM",
})  # fmt: skip


class Performance(ctypes.Structure):
    """miopenConvAlgoPerf_t: what was found of one algorithm; milliseconds and bytes."""

    _fields_ = (("algo", ctypes.c_int), ("time", ctypes.c_float), ("memory", ctypes.c_size_t))


MIOPEN = of_rocm(
    "miopen-hip",
    title="MIOpen",
    files=("libMIOpen.so.1", "libMIOpen.so"),
    create="miopenCreate",
    destroy="miopenDestroy",
    set_stream="miopenSetStream",
    functions={
        "miopenCreate": "p",
        "miopenDestroy": "p",
        "miopenSetStream": "pp",
        "miopenCreateTensorDescriptor": "p",
        "miopenDestroyTensorDescriptor": "p",
        "miopenSet4dTensorDescriptor": "piiiii",
        "miopenCreateConvolutionDescriptor": "p",
        "miopenDestroyConvolutionDescriptor": "p",
        "miopenInitConvolutionDescriptor": "piiiiiii",
        "miopenSetConvolutionGroupCount": "pi",
        "miopenConvolutionForwardGetWorkSpaceSize": "pppppp",
        "miopenFindConvolutionForwardAlgorithm": "ppp" + "pp" + "p" + "pp" + "ipp" + "pz" + "b",
        "miopenConvolutionForward": "pp" + "pp" + "pp" + "pi" + "p" + "pp" + "pz",
        "miopenCreatePoolingDescriptor": "p",
        "miopenDestroyPoolingDescriptor": "p",
        "miopenSet2dPoolingDescriptor": "piiiiiii",
        "miopenPoolingForward": "pp" + "ppp" + "ppp" + "bpz",
        "miopenSoftmaxForward_V2": "pp" + "ppp" + "pp" + "ii",
    },
    statuses={
        1: "a library that is not initialised",
        2: "a wrong value",
        3: "a wrong parameter",
        4: "not enough memory",
        5: "an internal error",
        6: "what it does not have",
        7: "an error that it does not know",
        8: "an operation that it does not support",
    },
)
