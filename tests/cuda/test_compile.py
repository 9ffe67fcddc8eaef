"""Every kind of CUDA kernel compiles with NVRTC; no GPU is needed. All: python -m tests.launched.compile cuda."""

import pytest

import fusewire as fw
from fusewire.targets.cuda.dialect import CUDA
from fusewire.targets.cuda.nvrtc import nvrtc, options
from tests.launched.sources import Sources, networks, operators, random_graphs, sample

try:
    nvrtc()
except fw.DeviceNotFound as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def graphs() -> Sources:
    sources = Sources(CUDA)
    for function in [*random_graphs(range(4)), *networks()]:
        sources.add(function, "cuda")
    return sources


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
def test_kernels_of_graphs(graphs: Sources, arch: str) -> None:
    assert graphs.kernels > 30
    for number, text in enumerate(graphs.files):
        assert nvrtc().compile(f"graphs{number}.cu", text, options(arch))[:4] == b"\x7fELF"


def test_kernels_of_operators() -> None:
    sources = Sources(CUDA)
    for function in operators(sample(), 1, 1):
        sources.add(function, "cuda")
    assert sources.kernels >= len(sample()) - 1  # the transpose of a column moves nothing
    for number, text in enumerate(sources.files):
        assert nvrtc().compile(f"operators{number}.cu", text, options("sm_75"))[:4] == b"\x7fELF"


def test_what_the_compiler_says_is_in_the_error() -> None:
    with pytest.raises(fw.CompileError, match=r"NVRTC [\d.]+ refused bad.cu \(--gpu-architecture=sm_75.*nothing"):
        nvrtc().compile("bad.cu", "__device__ int f() { return nothing; }", options("sm_75"))
    with pytest.raises(fw.CompileError, match="sm_1"):
        nvrtc().compile("old.cu", "", options("sm_1"))
