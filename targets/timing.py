"""Results of timing a module: whole runs, and step by step."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import asdict, frozen
from tabulate import tabulate

from .peaks import Peaks
from .work import Work


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
    """How long one step took, and how near it came to what the machine can do.

    Attributes:
        name, implementation: the step, and what ran it.
        seconds: for one run.
        share: of all steps.
        flops, nbytes: operations and bytes of its definition (see work.py).
        roof: the part of the machine's measured peak that it reached (1: all of it), by the nearer of its two roofs.
        bound: that roof: "compute" or "memory"; empty where there are no peaks.
    """

    name: str
    implementation: str
    seconds: float
    share: float
    flops: int = 0
    nbytes: int = 0
    roof: float = 0.0
    bound: str = ""

    @property
    def gflops(self) -> float:
        """10^9 operations per second. Of Winograd's convolutions too it is the definition's operations that count."""
        return _each(self.flops, self.seconds) / 1e9

    @property
    def gbytes(self) -> float:
        """10^9 bytes per second."""
        return _each(self.nbytes, self.seconds) / 1e9

    def cells(self) -> list[str]:
        """The step as a row of the table under `COLUMNS`."""
        mark = "*" if self.effective else ""
        return [
            self.name, self.implementation, f"{self.seconds * 1e6:.1f}", f"{self.share:.1%}",
            f"{self.gflops:.1f}" if self.flops else "-", f"{self.gbytes:.1f}" if self.nbytes else "-",
            f"{self.roof:.0%}{mark}" if self.bound else "-", self.bound or "-",
        ]  # fmt: skip

    @property
    def effective(self) -> bool:
        """Whether the step does fewer operations than its definition, so that it may pass its roof."""
        return "winograd" in self.implementation


COLUMNS = ("step", "by", "time (us)", "share", "GFLOP/s", "GB/s", "of peak", "bound")
"""The heads of a table of steps."""


@frozen
class Profile:
    """Times of all steps.

    Attributes:
        steps: in the order they run.
        peaks: what the machine can do, where that could be measured.
    """

    steps: tuple[StepTime, ...]
    peaks: Peaks | None = None

    @property
    def plausible(self) -> bool:
        """Whether no step was clearly faster than its roof allows; else the peaks were measured on a busy machine."""
        return all(s.roof < 1.15 or s.effective for s in self.steps)

    def notes(self) -> list[str]:
        """What has to be known to read the table."""
        found = [self.peaks.summary()] if self.peaks else ["not compared with the machine's peaks"]
        if any(s.effective for s in self.steps):
            found.append("* Winograd: operations of the convolution's definition; it does fewer, and may pass the peak")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "steps": [
                {**asdict(s), "gflops": s.gflops, "gbytes": s.gbytes, "effective": s.effective} for s in self.steps
            ],
            "peaks": asdict(self.peaks) if self.peaks else None,
        }

    def __str__(self) -> str:
        table = tabulate([s.cells() for s in self.steps], COLUMNS, disable_numparse=True)
        return "\n".join([str(table), *self.notes()])


def _each(amount: float, taken: float) -> float:
    """An amount for each second; 0 where a step takes no time: on a device one without elements has no launches."""
    return amount / taken if taken else 0.0


def profiled(times: Sequence[tuple[str, str, float, Work | None]], peaks: Peaks | None) -> Profile:
    """A profile of steps, given as (name, implementation, seconds, work); steps without work are host's."""
    whole = sum(taken for _, _, taken, _ in times) or 1.0
    steps = []
    for name, by, taken, work in times:
        least, bound = peaks.roof(work) if peaks and work else (0.0, "")
        flops, nbytes = (work.flops, work.nbytes) if work else (0, 0)
        steps.append(StepTime(name, by, taken, taken / whole, flops, nbytes, _each(least, taken), bound))
    return Profile(tuple(steps), peaks)


def seconds(action: Callable[[], None], number: int) -> float:
    """The mean time of `number` calls."""
    start = time.perf_counter()
    for _ in range(number):
        action()
    return (time.perf_counter() - start) / number


def steady(action: Callable[[], None], repeat: int) -> float:
    """The median over `repeat` times of the mean of so many calls as take a tenth of a millisecond."""
    number = max(1, min(100, round(1e-4 / max(seconds(action, 1), 1e-9))))
    return float(np.median([seconds(action, number) for _ in range(repeat)]))
