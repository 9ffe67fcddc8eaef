"""The oracle and the random graphs of `cpu` on every OpenCL driver there is, at the same tolerances, with fewer cases.

Here each operator has one use in each of its dtypes, all of them in one module, and some of the graphs are built with
some of the passes left out. As many as `cpu` has takes minutes for a driver (see tests/which.py):

    FUSEWIRE_TEST_TARGET="opencl -device=pocl" python -m pytest tests/ops/test_oracle.py tests/test_random_graphs.py \\
        tests/targets/test_numerics.py
"""

import zlib

import numpy as np
import pytest

from fusewire.ops.spec import OpSpec, all_specs
from fusewire.testing import check_operator
from tests.opencl.present import each_device
from tests.test_random_graphs import VARIANTS, check

SPECS = [spec for spec in all_specs() if spec.lowering is not None]


@each_device
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_operators(spec: OpSpec, target: str) -> None:
    seed = zlib.crc32(spec.name.encode())
    print(f"seed {seed}")
    assert check_operator(spec, spec.dtypes, np.random.default_rng(seed), count=1, target=target) == len(spec.dtypes)


@each_device
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_graphs(target: str, seed: int, variant: str) -> None:
    check(seed, variant, target)


@each_device
@pytest.mark.parametrize("first", [3, 13])
def test_more_random_graphs(target: str, first: int) -> None:
    for seed in range(first, first + 10):
        check(seed, "all passes", target)
