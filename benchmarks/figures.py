"""The figures of the benchmarks, drawn with matplotlib (pip install matplotlib), as PNG or SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
"""Distinguishable for colour-blind eyes (Paul Tol's bright scheme)."""

Row = Mapping[str, Any]


def pyplot() -> Any:
    """matplotlib.pyplot, drawing without a screen.

    Raises:
        ClickException: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise click.ClickException("figures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def ratios(rows: Sequence[Row], path: Path, about: str) -> None:
    """Bars: time of the best peer over that of fusewire, for each model, a colour for each number of threads."""
    plt = pyplot()
    shown = [row for row in rows if "ratio" in row]
    models = list(dict.fromkeys(row["model"] for row in shown))
    counts = sorted({row["threads"] for row in shown})
    height = 0.8 / max(len(counts), 1)
    fig, axes = plt.subplots(figsize=(7.5, 0.28 * len(shown) + 0.22 * len(models) + 1.4), layout="constrained")
    for k, threads in enumerate(counts):
        own = [row for row in shown if row["threads"] == threads]
        at = [models.index(row["model"]) + (k - (len(counts) - 1) / 2) * height for row in own]
        values = [row["ratio"]["min"] for row in own]
        label = f"{threads} thread{'s' * (threads > 1)}"
        bars = axes.barh(at, values, height * 0.92, color=COLORS[k % len(COLORS)], label=label)
        best = [min((t["min"], e) for e, t in row["ms"].items() if e != "fusewire")[1] for row in own]
        texts = [f"{value:.2f}  ({engine})" for value, engine in zip(values, best, strict=True)]
        axes.bar_label(bars, texts, padding=3, fontsize=7, color="#333333")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max((row["ratio"]["min"] for row in shown), default=1))
    axes.set_xlabel("time of the best peer / time of fusewire (fastest runs; above 1: fusewire is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    fig.legend(frameon=False, loc="outside upper right", ncols=len(counts), fontsize=8)
    axes.set_title(about, fontsize=8, loc="left", color="#555555")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def roofline(steps: Sequence[Row], peaks: Row, path: Path, about: str) -> None:
    """Every step at its operations per byte and its speed, under the roofs of the machine."""
    plt = pyplot()
    fig, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    drawn = [s for s in steps if s["flops"] and s["nbytes"]]
    intensity = np.array([s["flops"] / s["nbytes"] for s in drawn])
    lowest, highest = min(intensity.min(initial=0.1), 0.1) / 1.5, max(intensity.max(initial=100), 100) * 1.5
    x = np.geomspace(lowest, highest, 200)
    top = peaks["flops"]["float32"] / 1e9
    for (size, rate), style in ((peaks["copy"][0], ":"), (peaks["copy"][-1], "-")):
        name = f"copying {_size(size)}: {rate / 1e9:.0f} GB/s"
        axes.plot(x, np.minimum(x * rate / 1e9, top), style, color="#333333", linewidth=1, label=name)
    axes.annotate(f"{top:.0f} GFLOP/s", (highest, top), ha="right", va="bottom", fontsize=8)
    kinds = list(dict.fromkeys(s["implementation"] for s in drawn))
    for k, kind in enumerate(kinds):
        own = [(i, s) for i, s in zip(intensity, drawn, strict=True) if s["implementation"] == kind]
        sizes = [15 + 600 * s["share"] for _, s in own]
        color = COLORS[k % len(COLORS)]
        effective = any(s["effective"] for _, s in own)
        look = {"facecolors": "none", "edgecolors": color} if effective else {"color": color, "alpha": 0.75}
        label = kind + (" (effective)" if effective else "")
        axes.scatter([i for i, _ in own], [s["gflops"] for _, s in own], sizes, label=label, **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte (inputs, constants and results once)")
    axes.set_ylabel("GFLOP/s (area: share of the time)")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, loc="lower right", markerscale=0.6)
    axes.set_title(about, fontsize=9, loc="left")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"
