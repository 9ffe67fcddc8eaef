"""A sample of the operators and random graphs that `cpu` is tested with, on every driver there is.

All of them: FUSEWIRE_TEST_TARGET="opencl -device=intel" python -m pytest tests/ops/test_oracle.py (see tests/which.py).
"""

import numpy as np
import pytest

from fusewire.ops.spec import all_specs
from fusewire.testing import check_operator
from tests.opencl.present import each_device
from tests.test_random_graphs import check

SAMPLE = [
    ("nn.conv2d", "float32"), ("nn.conv2d", "float16"), ("nn.dense", "float32"), ("nn.batch_matmul", "float64"),
    ("nn.softmax", "float32"), ("sort", "int32"), ("cumsum", "float32"), ("scatter_elements", "float32"),
    ("floor_divide", "int8"), ("argmax", "float32"), ("image.resize2d", "float32"), ("exp", "bfloat16"),
    ("erf", "float32"), ("right_shift", "int64"), ("isnan", "float32"), ("where", "uint8"), ("transpose", "bool"),
]  # fmt: skip
SPECS = {spec.name: spec for spec in all_specs()}


@each_device
def test_operators(target: str) -> None:
    missing = [name for name, _ in SAMPLE if name not in SPECS]
    assert not missing
    for name, dtype in SAMPLE:
        assert check_operator(SPECS[name], dtype, np.random.default_rng(3), count=1, target=target) == 1


@each_device
@pytest.mark.parametrize("seed", [1, 2])
def test_random_graphs(target: str, seed: int) -> None:
    check(seed, "all passes", target)
