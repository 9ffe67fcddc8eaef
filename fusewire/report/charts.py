"""Where marks and axes stand in the page's charts; the template draws them."""

import math
from collections.abc import Sequence

from attrs import field, frozen

from .data import Group, Report
from .summary import ms

WIDTH, HEIGHT = 960.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 16.0, 14.0, 40.0
SHAPES = ("circle", "square", "triangle", "diamond")
"""Of targets, in their order."""


@frozen
class Mark:
    """A group in a chart: where, in whose colour, in which target's shape, and what it says when pointed at."""

    x: float
    y: float
    runner: int
    shape: str
    target: int
    group: int
    title: str


@frozen
class Line:
    """A line in SVG's notation, and where its name stands."""

    path: str
    name: str
    x: float
    y: float


@frozen
class Chart:
    """A chart with logarithmic axes: ticks are (position, label)."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    y_label: str
    lines: tuple["Line", ...] = ()
    width: float = WIDTH
    height: float = HEIGHT
    left: float = field(default=LEFT)
    bottom: float = field(default=HEIGHT - BOTTOM)


@frozen
class Scale:
    """A logarithmic axis from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @staticmethod
    def over(values: Sequence[float], start: float, end: float) -> "Scale":
        """An axis of whole decades that holds all values."""
        low, high = math.floor(math.log10(min(values)) - 1e-9), math.ceil(math.log10(max(values)) + 1e-9)
        return Scale(low, max(high, low + 1), start, end)

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Whole powers of ten, at most about ten of them."""
        every = max(1, math.ceil((self.high - self.low) / 8))
        powers = range(int(self.low), int(self.high) + 1, every)
        return tuple((self(10.0**k), f"{10.0**k:g}" if -3 <= k <= 4 else f"1e{k}") for k in powers)


def errors(report: Report) -> Chart | None:
    """The error of each group's result, relative to its largest element, in the order of the regions."""
    known = [
        (t, k, g, g.error.scaled)
        for t, target in enumerate(report.targets)
        for k, g in enumerate(target.groups)
        if g.error and 0 < g.error.scaled < math.inf
    ]
    if not known:
        return None
    scale = Scale.over([*(e for *_, e in known), 1e-7], HEIGHT - BOTTOM, TOP)
    last = max(len(report.regions) - 1, 1)
    span = WIDTH - LEFT - RIGHT
    marks = tuple(
        Mark(
            LEFT + span * (0.01 + 0.98 * g.region / last),
            scale(e),
            report.runners.index(g.by),
            SHAPES[t % 4],
            t,
            k,
            f"{report.regions[g.region].label}: {e:.2g} of the largest element",
        )
        for t, k, g, e in known
    )
    half = scale(2**-24)
    lines = (Line(f"M{LEFT} {half:.1f}H{WIDTH - RIGHT}", "half an ulp of float32", LEFT + 8, half - 5),)
    label = "error / largest element"
    return Chart(marks, (), scale.ticks(), "groups in the order they run", label, lines)


def roofline(report: Report) -> Chart | None:
    """Operations a second over operations a byte; None where the machine's peaks are not known."""
    known = [(t, k, g) for t, target in enumerate(report.targets) for k, g in enumerate(target.groups) if _placed(g)]
    peaks = next((t.peaks for t in report.targets if t.peaks), None)
    if not known or peaks is None:
        return None
    reach = [(g.roof.flops / g.roof.nbytes, g.roof.flops / g.ms / 1e6) for _, _, g in known if g.roof and g.ms]
    x = Scale.over([a for a, _ in reach] + [1.0], LEFT, WIDTH - RIGHT)
    y = Scale.over([f for _, f in reach] + [peaks.flops / 1e9], HEIGHT - BOTTOM, TOP)
    marks = tuple(
        Mark(x(a), y(f), report.runners.index(g.by), SHAPES[t % 4], t, k, _reached(report, g, f))
        for (t, k, g), (a, f) in zip(known, reach, strict=True)
    )
    flat = Line("", f"{peaks.flops / 1e9:.0f} GFLOP/s", WIDTH - RIGHT - 90, y(peaks.flops / 1e9) - 6)
    slopes = [_slope(x, y, peaks.flops, *r) for r in ((peaks.memory, "memory"), (peaks.cache, "first cache"))]
    return Chart(marks, x.ticks(), y.ticks(), "operations a byte", "GFLOP/s", (*slopes, flat))


def _placed(group: Group) -> bool:
    return bool(group.roof and group.roof.flops and group.roof.nbytes and group.ms)


def _reached(report: Report, group: Group, rate: float) -> str:
    share = f"{group.roof.reached:.0%} of the peak ({group.roof.bound})" if group.roof else ""
    return f"{report.regions[group.region].label}: {ms(group.ms)}, {rate:.1f} GFLOP/s, {share}"


def _slope(x: Scale, y: Scale, flops: float, rate: float, name: str) -> Line:
    """From the left edge up the slope of a bandwidth to the flat roof of arithmetic."""
    knee = min(max(flops / rate, 10.0**x.low), 10.0**x.high)
    first = max(10.0**x.low, 10.0**y.low * 1e9 / rate)
    points = [(first, first * rate / 1e9), (knee, knee * rate / 1e9), (10.0**x.high, flops / 1e9)]
    path = "M" + "L".join(f"{x(a):.1f} {y(f):.1f}" for a, f in points)
    return Line(path, f"{name}: {rate / 1e9:.0f} GB/s", x(knee) - 130, y(knee * rate / 1e9) - 6)
