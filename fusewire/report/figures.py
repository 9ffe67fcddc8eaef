"""The figures of a report as PNG files, for slides and issues."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ir.errors import FusewireError, LibraryNotFound
from .data import Report, TargetReport
from .summary import digits, kinds, letter

COLOURS = ("#3b74c4", "#e07b1a", "#1d9a80", "#a04fbf", "#c9a400", "#d1477f", "#6b7280")
"""Of targets."""

MARKERS = ("o", "s", "^", "D")


def require_matplotlib() -> Any:
    """The module matplotlib.figure.

    Raises:
        LibraryNotFound: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: PLC0415 - optional
    except ImportError:
        raise LibraryNotFound("figures need matplotlib. Install it with: pip install 'fusewire[report]'") from None
    return matplotlib.figure


def save_figures(report: Report, folder: Path) -> list[Path]:
    """Write times.png, kinds.png, and errors.png and roofline.png where there is something to show; returns the files.

    Raises:
        LibraryNotFound: matplotlib is not installed.
        FusewireError: a file cannot be written.
    """
    figures = require_matplotlib()
    drawers: dict[str, Callable[[Any, Report], None]] = {"times": _times, "kinds": _kinds}
    if any(_errors_of(t)[0] for t in report.targets):
        drawers["errors"] = _errors
    if any(t.peaks for t in report.targets):
        drawers["roofline"] = _roofline
    written = []
    for name, draw in drawers.items():
        figure = figures.Figure(figsize=(9, 4.5), layout="constrained")
        axes = figure.subplots()
        draw(axes, report)
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=140)
        except OSError as error:
            raise FusewireError(f"cannot write {path}: {error.strerror or error}") from error
        written.append(path)
    return written


def _text(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _names(report: Report) -> list[str]:
    return [_text(f"{letter(k)}: {t.name}") for k, t in enumerate(report.targets)]


def _times(axes: Any, report: Report) -> None:
    for k, target in enumerate(report.targets):
        t = target.timing
        around = [[t.median_ms - t.low_ms], [t.high_ms - t.median_ms]]
        axes.barh(k, t.median_ms, xerr=around, color=COLOURS[k % 7], capsize=4, height=0.6)
        axes.annotate(f" {digits(t.median_ms)} ms", (t.high_ms, k), va="center")
    axes.set_yticks(range(len(report.targets)), _names(report))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("ms for one run: median, and the middle half of the times")
    axes.set_title(_text(report.model))


def _kinds(axes: Any, report: Report) -> None:
    top = kinds(report)[:10]
    height = 0.8 / len(report.targets)
    for k, name in enumerate(_names(report)):
        places = [row + (k - (len(report.targets) - 1) / 2) * height for row in range(len(top))]
        axes.barh(places, [kind.ms[k] for kind in top], height=height, color=COLOURS[k % 7], label=name)
    axes.set_yticks(range(len(top)), [_text(f"{kind.count} × ({kind.label})") for kind in top], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms of all groups, each timed by itself")
    axes.legend()
    axes.set_title(_text(f"{report.model}: what makes the difference"))


def _errors_of(target: TargetReport) -> tuple[list[int], list[float]]:
    known = [(g.region, g.error.scaled) for g in target.groups if g.error and 0 < g.error.scaled < math.inf]
    return [region for region, _ in known], [error for _, error in known]


def _errors(axes: Any, report: Report) -> None:
    for k, (target, name) in enumerate(zip(report.targets, _names(report), strict=True)):
        places, errors = _errors_of(target)
        axes.scatter(places, errors, 18, COLOURS[k % 7], marker=MARKERS[k % 4], label=name)
    axes.axhline(2**-24, color="grey", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("regions in the order they run")
    axes.set_ylabel("largest error / largest element")
    axes.legend()
    axes.set_title(_text(f"{report.model}: errors against float64"))


def _roofline(axes: Any, report: Report) -> None:
    for k, (target, name) in enumerate(zip(report.targets, _names(report), strict=True)):
        known = [(g.roof, g.ms) for g in target.groups if g.roof and g.roof.flops and g.roof.nbytes and g.ms]
        x, y = [r.flops / r.nbytes for r, _ in known], [r.flops / ms / 1e6 for r, ms in known]
        axes.scatter(x, y, 18, COLOURS[k % 7], marker=MARKERS[k % 4], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_xlim()
    peaks = next(t.peaks for t in report.targets if t.peaks)
    for rate in (peaks.memory, peaks.cache):
        knee = min(max(peaks.flops / rate, low), high)
        axes.plot([low, knee, high], [low * rate / 1e9, min(knee * rate, peaks.flops) / 1e9, peaks.flops / 1e9], "k--")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("GFLOP/s")
    axes.legend()
    axes.set_title(_text(f"{report.model}: roofline"))
