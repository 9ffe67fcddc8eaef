"""The report: rows gathered by what they are about, as Markdown, and as a figure."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..figures import COLORS, pyplot
from .jobs import COMPILED, EAGER, Job, named
from .worker import COPY

Row = Mapping[str, Any]
Group = dict[str, Row]


def gathered(rows: Sequence[Row]) -> dict[tuple[str, str, int, str], Group]:
    """Rows by section, case, batch and precision, and by engine therein."""
    found: dict[tuple[str, str, int, str], Group] = {}
    for row in rows:
        if row["job"].startswith(f"{COPY}/"):
            continue
        job = named(row["job"])
        found.setdefault((job.section, *job.subject), {})[job.engine] = row
    return found


def engines_of(rows: Sequence[Row]) -> list[str]:
    """The engines that have rows, PyTorch's last."""
    names = list(dict.fromkeys(named(row["job"]).engine for row in rows if not row["job"].startswith(f"{COPY}/")))
    return sorted(names, key=lambda name: (name in (EAGER, COMPILED), name == COMPILED))


def own(group: Group) -> Row | None:
    """The row of the target without libraries."""
    plain = (row for engine, row in group.items() if engine not in (EAGER, COMPILED) and "-libs=" not in engine)
    return next(plain, None)


def ratio(group: Group, kind: str) -> float | None:
    """Time of the best other engine over that of generated code; None where either is missing.

    Args:
        group: the rows of one subject.
        kind: "ms" for whole runs as a caller sees them (median), "device_ms" for the device's time.
    """
    first = own(group)
    times = [time for row in group.values() if row is not first and (time := _time(row, kind))]
    mine = _time(first, kind) if first else None
    return min(times) / mine if times and mine else None


def _time(row: Row, kind: str) -> float | None:
    if "error" in row or kind not in row:
        return None
    return float(row[kind]["median"] if kind == "ms" else row[kind])


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "error" in row:
        return "failed"
    return f"{row['ms']['median']:.3f} ({row['device_ms']:.3f})"


def _ratios(group: Group) -> str:
    values = [ratio(group, kind) for kind in ("ms", "device_ms")]
    return " / ".join("-" if value is None else f"{value:.2f}" for value in values)


def timings(rows: Sequence[Row]) -> str:
    """A table of networks, layers or products."""
    engines = engines_of(rows)
    lines = []
    for (_, case, batch, precision), group in gathered(rows).items():
        mine = own(group)
        speed = f"{mine['flops'] / mine['device_ms'] / 1e9:.2f}" if mine and mine.get("flops") else ""
        wrong = [row["difference"] for row in group.values() if "difference" in row]
        difference = f"{mine['difference']:.1e}" if mine and "difference" in mine else ""
        largest = f"{max(wrong):.1e}" if wrong else ""
        cells = [_cell(group.get(engine)) for engine in engines]
        lines.append([case, str(batch), precision, *cells, _ratios(group), speed, difference, largest])
    heads = ["network", "batch", "precision", *engines, "best other / generated", "TFLOP/s", "error", "largest error"]
    return str(tabulate(lines, heads, disable_numparse=True, tablefmt="github"))


def shares(rows: Sequence[Row]) -> list[tuple[str, float, float | None]]:
    """Kernels that move memory: name, GB/s, and the part of the copy's bandwidth."""
    copy = next((row.get("gbytes") for row in rows if row["job"].startswith(f"{COPY}/")), None)
    found = []
    for row in rows:
        if "nbytes" in row:
            speed = row["nbytes"] / row["device_ms"] / 1e6
            found.append((named(row["job"]).case, speed, speed / copy if copy else None))
    return found


def bandwidths(rows: Sequence[Row]) -> str:
    """A table of kernels that move memory."""
    lines = [[name, f"{speed:.0f}", "" if share is None else f"{share:.0%}"] for name, speed, share in shares(rows)]
    copies = [["copy", f"{row['gbytes']:.0f}", "100%"] for row in rows if "gbytes" in row]
    heads = ["kernel", "GB/s", "of the copy"]
    return str(tabulate([*copies, *lines], heads, disable_numparse=True, tablefmt="github"))


def searches(rows: Sequence[Row]) -> str:
    """A table of networks before and after tuning."""
    lines = []
    for row in rows:
        if "untuned" in row:
            whole, device = (_time(row["untuned"], kind) / _time(row, kind) for kind in ("ms", "device_ms"))  # type: ignore[operator]
            chosen = "; ".join(row["chosen"]) + " (withdrawn)" * bool(row["withdrawn"])
            tried = f"{row['tried']}, {len(row['problems'])} failed", f"{row['search_seconds']:.1f}"
            case = named(row["job"]).case
            lines.append([case, _cell(row["untuned"]), _cell(row), f"{whole:.2f} / {device:.2f}", *tried, chosen])
    heads = ["network", "untuned", "tuned", "untuned / tuned", "tried", "seconds", "chosen"]
    return str(tabulate(lines, heads, disable_numparse=True, tablefmt="github"))


TABLES: Mapping[str, Callable[[Sequence[Row]], str]] = {"streaming": bandwidths, "tuning": searches}
"""Sections with tables of their own."""


def section(name: str, found: Row) -> str:
    """One section as Markdown."""
    text = [f"## {name}", "", f"{found.get('status', 'not run')}, {found.get('seconds', 0.0):.0f} s"]
    if rows := found.get("rows"):
        text += ["", TABLES.get(name, timings)(rows), ""]
        text += [f"* {row['job']}: {row['error']}" for row in rows if "error" in row]
        text += [f"* {row['job']}: {problem}" for row in rows for problem in row.get("problems", ())]
    if missing := found.get("not_reached"):
        text += ["", f"Not reached: {len(missing)} of the jobs, from {missing[0]} on."]
    if "passed" in found:
        text += ["", f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped"]
        text += [f"* {failed['test']}" for failed in found["failures"]]
    for tool in ("memcheck", "racecheck"):
        if tool in found:
            seen = found[tool]
            text += ["", f"{tool}: {seen['errors']} findings in {seen['jobs']} jobs ({seen['status']})", *seen["first"]]
    for key in ("reason", "notes"):
        if found.get(key):
            text += ["", str(found[key])]
    if output := found.get("output", "").strip():
        text += ["", "```text", output, "```"]
    return "\n".join(text)


def markdown(report: Row) -> str:
    """The whole report."""
    about = report["about"]
    lines = [f"# {about['device']}", ""]
    lines += [f"* {key}: {value}" for key, value in about.items() if key != "device"]
    lines += [
        "",
        "Times are milliseconds of a run with the wait for it (median), in brackets those that the device was busy.",
        'Ratios, for both: above 1, generated code is faster than every other engine. "error": largest difference from',
        "float64 over the largest value, of generated code and of all engines.",
    ]
    return "\n".join([*lines, *("\n" + section(*item) for item in report["sections"].items())]) + "\n"


def figure(report: Row, path: Path) -> None:
    """Ratios of layers, products and networks, and shares of the copy's bandwidth.

    Raises:
        ClickException: matplotlib is not installed.
    """
    plt = pyplot()
    bars: list[tuple[str, float]] = []
    for name in ("layers", "gemm", "networks"):
        for (_, case, batch, precision), group in gathered(report["sections"].get(name, {}).get("rows", [])).items():
            if (value := ratio(group, "device_ms")) is not None:
                bars.append((f"{case}, {batch}, {precision}", value))
    parts = shares(report["sections"].get("streaming", {}).get("rows", []))
    known = [(name, share) for name, _, share in parts if share is not None]
    height = 1.6 + 0.22 * max(len(bars), len(known), 4)
    fig, axes = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    heads = ("time of the best other engine / generated (device)", "part of the copy's bandwidth")
    for axis, drawn, head, color in zip(axes, (bars, known), heads, COLORS, strict=False):
        drawing = axis.barh(range(len(drawn)), [value for _, value in drawn], color=color)
        axis.bar_label(drawing, [f"{value:.2f}" for _, value in drawn], padding=3, fontsize=7)
        axis.set_yticks(range(len(drawn)), [label for label, _ in drawn], fontsize=7)
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlabel(head)
        axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{report['about']['device']}, {report['about']['date']}", fontsize=9)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def subjects(jobs: Sequence[Job]) -> list[str]:
    """Lines that say what jobs are about, for lists."""
    seen: dict[tuple[str, int, str], list[str]] = {}
    for job in jobs:
        seen.setdefault(job.subject, []).append(job.engine)
    return [f"{case}, {batch}, {precision}: {', '.join(made)}" for (case, batch, precision), made in seen.items()]
