"""Every variant that streams, on every case that it fits, on every driver, against NumPy in float64.

The cases are those of test_variants.py. Work-items exchange values there by way of local memory; on GPUs it is the same
loop IR with shuffles (tests/cuda/test_streams.py).
"""

import pytest

from fusewire.targets.implement import Decision
from tests.opencl.forced import problems
from tests.opencl.present import one_device
from tests.opencl.test_variants import agrees, fitting, streams

CASES = {case.name: case for case in streams()}
STREAMS = ("rows_once", "columns_once", "reduce_chunks", "maps_turned", "attention_flash")
FITS = {
    "softmax of short rows": {"rows_once"},
    "softmax of long rows with -inf": {"rows_once"},
    "layer_norm": {"rows_once"},
    "group_norm": {"rows_once"},
    "softmax down columns": {"rows_once", "columns_once"},
    "mean of all": {"rows_once", "reduce_chunks"},
    "argmin of long columns": {"rows_once", "columns_once", "reduce_chunks"},
    "NCHW to NHWC, and a sum": {"maps_turned"},
    "attention, all remainders": {"attention_flash"},
    "attention with a mask": {"attention_flash"},
    "attention of one query": {"attention_flash"},
}


@one_device
@pytest.mark.parametrize("name", FITS)
def test_streams_agree_with_numpy(target: str, name: str) -> None:
    case = CASES[name]
    lib = case.build(target)
    (problem,) = problems(lib)
    variants = {e.name.partition(".")[0]: e for e in fitting(problem) if e.name.startswith(STREAMS)}
    assert set(variants) == FITS[name]
    for entry in variants.values():
        agrees(lib, case, Decision(entry.name, next(iter(entry.configs(problem)))))
