"""The process that tuning on cuda runs its candidates in, with the double in place of CuPy."""

from collections.abc import Callable
from typing import Any

import pytest

from fusewire.targets.tuning import serving
from tests.cuda.double import Double, install

BEST = 64
"""Work-items of a work-group with which launches take one millisecond; with others they take two."""


def cost(kernel: str, groups: int, items: int) -> float:
    """Milliseconds of a launch."""
    return 1.0 if items == BEST else 2.0


def serve(target: str, identity: str, sweep: int) -> Callable[[Any], object]:
    """As that of `serving`."""
    double = install(pytest.MonkeyPatch(), Double(cost=cost))
    serving.LEAD = 1 << 12
    real = serving.serve(target, identity, sweep)

    def answer(request: Any) -> object:
        double.idle = isinstance(request, serving.Time)  # threads in place of work-items are slow
        return real(request)

    return answer
