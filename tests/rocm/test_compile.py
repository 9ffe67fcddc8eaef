"""Every kind of HIP kernel compiles with clang; no ROCm is needed. All: python -m tests.launched.compile rocm."""

import re
from pathlib import Path

import pytest

from fusewire.targets.rocm.dialect import HIP
from tests.launched.sources import Sources, block, networks, operators, random_graphs, sample
from tests.rocm.clang import HERE, compiled

pytestmark = pytest.mark.skipif(not HERE, reason="clang for AMD's GPUs is missing: pip install ziglang")


@pytest.mark.parametrize("arch", ["gfx90a", "gfx1100"])
def test_kernels_of_graphs(arch: str, tmp_path: Path) -> None:
    sources = Sources(HIP)
    for function in [*random_graphs(range(2)), *networks()]:
        sources.add(function, "rocm")
    for text in sources.files:
        found = re.findall(r"^\s*\.amdhsa_kernel (\w+)", compiled(text, arch, tmp_path, "-O1"), re.MULTILINE)
        assert len(found) == text.count('extern "C" __attribute__((global')


def test_kernels_of_operators(tmp_path: Path) -> None:
    sources = Sources(HIP)
    for function in operators(sample(), 1, 1):
        sources.add(function, "rocm")
    for text in sources.files:
        assert ".amdhsa_kernel" in compiled(text, "gfx90a", tmp_path, "-O1")


def test_vectors_at_proven_places_are_one_access(tmp_path: Path) -> None:
    sources = Sources(HIP)
    sources.add(block(), "rocm")
    assert "global_load_dwordx4" in compiled(sources.files[0], "gfx90a", tmp_path)
