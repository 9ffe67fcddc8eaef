"""Every operator in every dtype it declares, compiled, against NumPy in float64, on random shapes and attributes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.ops.spec import OpSpec, all_specs
from fusewire.testing import check_operator
from tests.which import TARGET

COUNT = 6
"""Uses of each operator in each dtype, in one module: starting a compiler is most of what a small one costs."""

SPECS = [spec for spec in all_specs() if spec.lowering is not None]


def pairs() -> list[tuple[OpSpec, str]]:
    return [(spec, dtype) for spec in SPECS for dtype in spec.dtypes]


@pytest.mark.parametrize(("spec", "dtype"), pairs(), ids=lambda v: v if isinstance(v, str) else v.name)
@settings(max_examples=1, deadline=None, print_blob=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_compiled_operator_agrees_with_numpy(spec: OpSpec, dtype: str, seed: int) -> None:
    assert check_operator(spec, dtype, np.random.default_rng(seed), count=COUNT, target=TARGET) == COUNT


def test_every_operator_declares_cases() -> None:
    assert len(SPECS) > 120
    assert [spec.name for spec in SPECS if spec.cases is None] == []
    assert fw.nn.conv2d.__doc__
