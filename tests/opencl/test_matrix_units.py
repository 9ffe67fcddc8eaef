"""Products written for units of matrices, as plain statements on OpenCL devices: their tiles, copies and stores."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve

from fusewire.targets.implement import Decision
from tests.opencl.forced import fitting_with, run_as
from tests.opencl.present import one_device
from tests.opencl.test_variants import CASES, Case

NAMES = ["product, all remainders", "products in a batch, both transposed", "3x3 as a product",
         "product with few results of long sums", "1x1, channels last"]  # fmt: skip


def rounded(case: Case, dtype: str) -> tuple[float, float]:
    """Tolerances: the rounding of factors."""
    return (1e-4, 2e-5) if dtype == "float32" else (0.05, 0.05)


@one_device
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_products_of_matrices(target: str, name: str, dtype: str) -> None:
    case = CASES[name]
    lib = case.build(target)
    isa = lib.runnable.code.isa
    lib.runnable.code.isa = evolve(isa, device=evolve(isa.device, matrix=(dtype,)))
    ((entry, configs),) = [(e, c) for e, c in fitting_with(lib) if e.endswith("_mma.cpu")]
    rtol, atol = rounded(case, dtype)
    picked = [configs[0]] if target.endswith("pocl") else [configs[0], configs[-1]]
    for config in picked:
        (got,) = run_as(lib, Decision(entry, config), case.inputs)
        np.testing.assert_allclose(got, case.expected, rtol=rtol, atol=atol, err_msg=str(config))
        error: npt.NDArray[Any] = np.abs(got - case.expected)
        assert dtype == "float32" or error.max() > 1e-5  # the factors are rounded
