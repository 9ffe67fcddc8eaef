"""Numbers and arguments of cuDNN and cuBLAS against the headers of pip's packages, where those are installed.

pip install nvidia-cudnn-cu13 nvidia-cublas brings them; they need no GPU.
"""

import ctypes
import importlib.metadata
import re
from functools import cache

import pytest

from fusewire.contrib import vendor
from fusewire.contrib.cublas import ffi as cublas
from fusewire.contrib.cublas.ffi import CUBLAS, LT
from fusewire.contrib.cudnn import ffi as cudnn
from fusewire.contrib.cudnn.ffi import CUDNN
from fusewire.contrib.vendor import Vendor

NAMES = {
    "CUDNN_TENSOR_NCHW": cudnn.NCHW,
    "CUDNN_CROSS_CORRELATION": cudnn.CROSS_CORRELATION,
    "CUDNN_DATA_FLOAT": cudnn.FLOAT,
    "CUDNN_DATA_HALF": cudnn.HALF,
    "CUDNN_DEFAULT_MATH": cudnn.DEFAULT_MATH,
    "CUDNN_FMA_MATH": cudnn.FMA_MATH,
    "CUDNN_PROPAGATE_NAN": cudnn.PROPAGATE_NAN,
    "CUDNN_ACTIVATION_RELU": cudnn.RELU,
    "CUDNN_SOFTMAX_ACCURATE": cudnn.SOFTMAX_ACCURATE,
    "CUDNN_SOFTMAX_LOG": cudnn.SOFTMAX_LOG,
    "CUDNN_SOFTMAX_MODE_CHANNEL": cudnn.MODE_CHANNEL,
    "CUDNN_POOLING_MAX": cudnn.POOLING["max"],
    "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING": cudnn.POOLING["average"],
    "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING": cudnn.POOLING["average of data"],
    **{name: number for number, name in enumerate(cudnn.ALGORITHMS)},
    "CUBLAS_OP_N": cublas.PLAIN,
    "CUBLAS_OP_T": cublas.TRANSPOSED,
    "CUBLAS_COMPUTE_32F": cublas.COMPUTE_32F,
    "CUBLAS_COMPUTE_32F_FAST_TF32": cublas.COMPUTE_32F_FAST_TF32,
    "CUBLAS_COMPUTE_64F": cublas.COMPUTE_64F,
    "CUBLAS_GEMM_DEFAULT": cublas.DEFAULT_ALGORITHM,
    "CUBLASLT_MATMUL_DESC_TRANSA": cublas.MATMUL_TRANSA,
    "CUBLASLT_MATMUL_DESC_TRANSB": cublas.MATMUL_TRANSB,
    "CUBLASLT_MATMUL_DESC_EPILOGUE": cublas.MATMUL_EPILOGUE,
    "CUBLASLT_MATMUL_DESC_BIAS_POINTER": cublas.MATMUL_BIAS,
    "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": cublas.PREFERENCE_WORKSPACE,
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES": cublas.PREFERENCE_ALIGNMENTS[0],
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES": cublas.PREFERENCE_ALIGNMENTS[3],
    "CUBLASLT_EPILOGUE_DEFAULT": cublas.EPILOGUE_DEFAULT,
    "CUBLASLT_EPILOGUE_RELU": cublas.EPILOGUE_RELU,
    "CUBLASLT_EPILOGUE_BIAS": cublas.EPILOGUE_BIAS,
    "CUBLASLT_EPILOGUE_GELU": cublas.EPILOGUE_GELU,
}

_WORDS = {"p": r".*\*|cudnn\w+_t|cublas\w*(Handle|Desc|Layout|Preference)_t|cudaStream_t", "z": "size_t|uint64_t",
          "q": "int64_t|long long int", "d": "double", "f": "float"}  # fmt: skip
_INTEGERS = r"int|uint32_t|cudnn\w+_t|cudaDataType(_t)?|cublas\w+_t"


@cache
def text_of(*packages: str) -> str:
    """All headers of a package, without comments."""
    for package in packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found = [str(file.locate()) for file in files if re.fullmatch(r"(cudnn|cublas)\w*\.h", file.name)]
        texts = [open(path, encoding="utf-8", errors="replace").read() for path in found]  # noqa: SIM115
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", "\n".join(texts), flags=re.DOTALL)
    pytest.skip(f"{packages[0]} is not installed")


def headers(name: str) -> str:
    """The headers that have a name."""
    return text_of(*(CUDNN if name.lower().startswith("cudnn") else CUBLAS).packages)


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name: str) -> None:
    found = re.search(rf"\b{name}(?: \w+)?\s*=\s*(-?\d+)", headers(name))
    assert found and int(found[1]) == NAMES[name]


@pytest.mark.parametrize(("library", "prefix"), [(CUDNN, "CUDNN_STATUS_"), (CUBLAS, "CUBLAS_STATUS_")])
def test_statuses_exist(library: Vendor, prefix: str) -> None:
    there = {int(number) for number in re.findall(rf"\b{prefix}\w+\s*=\s*(\d+)", headers(prefix))}
    assert library.statuses.keys() <= there


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library in (CUDNN, CUBLAS, LT) for name in library.functions]
)
def test_arguments(library: Vendor, name: str) -> None:
    """A function takes as many arguments, each of the kind that its letter says."""
    found = re.search(rf"\b{name}\s*\(([^)]*)\)\s*;", headers(name))
    assert found, f"the headers have no {name}"
    arguments = [re.sub(r"\bconst\b", "", one).strip() for one in found[1].split(",")]
    letters = library.functions[name]
    assert len(arguments) == len(letters)
    for argument, letter in zip(arguments, letters, strict=True):
        kind = "*" if "*" in argument or "[" in argument else re.sub(r"\s+\w+$", "", argument)
        assert re.fullmatch(_WORDS.get(letter, _INTEGERS), kind), (argument, letter)


def test_structures() -> None:
    """Sizes as a C compiler lays them out on machines of 64 bits."""
    assert ctypes.sizeof(cudnn.Performance) == 48 and cudnn.Performance.memory.offset == 16
    assert ctypes.sizeof(cublas.Heuristic) == 96 and cublas.Heuristic.workspace.offset == 64


@pytest.mark.parametrize("library", [CUDNN, CUBLAS, LT], ids=lambda library: library.title)
def test_the_library_has_all_functions(library: Vendor) -> None:
    text_of(*library.packages)
    path = next(iter(vendor.places(library)))
    assert path.endswith(library.files)
    assert library.probe() is None, library.probe()
