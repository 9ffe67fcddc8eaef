"""Results of timing a module: whole runs, and step by step."""

import time
from collections.abc import Callable

import numpy as np
from attrs import frozen
from tabulate import tabulate


@frozen
class BenchmarkResult:
    """Times of repeated runs, in seconds for one run."""

    results: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return float(np.mean(self.results))

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.results))

    @property
    def min(self) -> float:
        """The fastest."""
        return float(np.min(self.results))

    @property
    def max(self) -> float:
        """The slowest."""
        return float(np.max(self.results))

    @property
    def std(self) -> float:
        """The standard deviation."""
        return float(np.std(self.results))

    def __str__(self) -> str:
        names = ("mean", "median", "max", "min", "std")
        row = [f"{getattr(self, name) * 1e3:.4f}" for name in names]
        return "Execution time summary:\n" + str(tabulate([row], [f"{n} (ms)" for n in names], disable_numparse=True))


@frozen
class StepTime:
    """How long one step took: seconds for one run, and its share of the whole."""

    name: str
    implementation: str
    seconds: float
    share: float


@frozen
class Profile:
    """Times of all steps."""

    steps: tuple[StepTime, ...]

    def __str__(self) -> str:
        rows = [(s.name, s.implementation, f"{s.seconds * 1e6:.1f}", f"{s.share:.1%}") for s in self.steps]
        return str(tabulate(rows, ["step", "by", "time (us)", "share"], disable_numparse=True))


def seconds(action: Callable[[], None], number: int) -> float:
    """The mean time of `number` calls."""
    start = time.perf_counter()
    for _ in range(number):
        action()
    return (time.perf_counter() - start) / number
