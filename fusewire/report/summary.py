"""What a report says in a few words: who is fastest, whether results agree, what makes the difference."""

from collections.abc import Sequence

from attrs import frozen

from .data import Accuracy, Report, TargetReport


@frozen
class Headline:
    """The first lines of a report.

    Attributes:
        speed: which target is fastest, and by how much.
        clear: whether the difference is larger than the noise.
        agreement: whether results agree.
        agree: the same as "yes" or "no".
        cause: which part of the model makes more than half of the difference; empty where none does.
    """

    speed: str
    clear: bool
    agreement: str
    agree: bool
    cause: str


@frozen
class Kind:
    """All regions with the same operators: how many, and their times together in each target."""

    label: str
    count: int
    ms: tuple[float, ...]
    only: str

    @property
    def spread(self) -> float:
        """Milliseconds between the slowest target and the fastest."""
        return max(self.ms) - min(self.ms)


def letter(index: int) -> str:
    """What a target is called for short: A, B, ..."""
    return chr(ord("A") + index) if index < 26 else f"T{index + 1}"


def ms(value: float | None) -> str:
    """A time in three digits, with its unit."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{digits(value / 1e3)} s"
    return f"{digits(value)} ms" if value >= 0.1 or value == 0 else f"{digits(value * 1e3)} µs"


def digits(value: float) -> str:
    """A number in three digits, without exponent."""
    if value == 0:
        return "0"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{places}f}"


def sizes(nbytes: float) -> str:
    """Bytes with a unit (powers of 1024)."""
    for unit in ("bytes", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "bytes" else f"{digits(nbytes)} {unit}"
        nbytes /= 1024
    return f"{digits(nbytes)} GiB"


def headline(report: Report) -> Headline:
    """The first lines."""
    order = sorted(range(len(report.targets)), key=lambda k: report.targets[k].timing.median_ms)
    best, worst = report.targets[order[0]], report.targets[order[-1]]
    following = report.targets[order[1]]
    clear = best.timing.high_ms < following.timing.low_ms
    return Headline(
        speed=_speed(report, order, clear),
        clear=clear,
        agreement=_agreement(report),
        agree=all(o.within for t in report.targets for o in t.outputs),
        cause=_cause(report, best, worst) if best.timing.high_ms < worst.timing.low_ms else "",
    )


def _speed(report: Report, order: Sequence[int], clear: bool) -> str:
    best = report.targets[order[0]]
    others = [report.targets[k] for k in order[1:]]
    close = [t for t in others if t.timing.low_ms <= best.timing.high_ms]
    rest = [t for t in others if t.timing.low_ms > best.timing.high_ms]
    names = [f"{t.timing.median_ms / best.timing.median_ms:.2f} times as fast as {t.name}" for t in rest]
    if not clear:
        more = f"; {best.name} is {', '.join(names)}" if names else ""
        medians = " and ".join(f"{t.name} ({ms(t.timing.median_ms)})" for t in (best, *close))
        return f"No clear winner: {medians} differ by less than their times vary{more}"
    return f"{best.name} is fastest: {', '.join(names)}"


def _agreement(report: Report) -> str:
    wrong = [(t, o) for t in report.targets[1:] for o in t.outputs if not o.within]
    tolerance = f"{report.settings.atol:g} + {report.settings.rtol:g} * |value|"
    if report.settings.rounding:
        tolerance += f" + {report.settings.rounding:g} * the largest"
    if wrong:
        target, output = max(wrong, key=lambda p: p[1].difference)
        elements = f"{output.differing} elements of {output.name}"
        return f"Results differ: {target.name} has {elements} further than {tolerance} from {report.targets[0].name}"
    outputs = [o for t in report.targets[1:] for o in t.outputs]
    largest = max((o.difference for o in outputs), default=0.0)
    share = max((o.share for o in outputs), default=0.0)
    return f"Results agree: at most {largest:.2g} apart, {share:.1g} of the largest element (allowed: {tolerance})"


def _cause(report: Report, best: TargetReport, worst: TargetReport) -> str:
    a, b = report.targets.index(best), report.targets.index(worst)
    gains = sorted(kinds(report), key=lambda kind: kind.ms[a] - kind.ms[b])
    whole = sum(kind.ms[b] - kind.ms[a] for kind in gains)
    if whole <= 0 or 2 * (gains[0].ms[b] - gains[0].ms[a]) <= whole:
        return ""
    top = gains[0]
    times = f"{ms(top.ms[b])} in {worst.name}, {ms(top.ms[a])} in {best.name}"
    return f"Most of it comes from {top.count} × ({top.label}): {times}"


def kinds(report: Report) -> list[Kind]:
    """Regions by their operators, those with the largest difference between targets first."""
    found: dict[tuple[str, str], Kind] = {}
    for region in report.regions:
        has = [k for k, groups in enumerate(region.groups) if groups]
        only = "" if len(has) == len(region.groups) else ", ".join(letter(k) for k in has)
        times = tuple(t or 0.0 for t in region.ms)
        before = found.get((region.label, only), Kind(region.label, 0, (0.0,) * len(times), only))
        total = tuple(a + b for a, b in zip(before.ms, times, strict=True))
        found[region.label, only] = Kind(region.label, before.count + 1, total, only)
    return sorted(found.values(), key=lambda kind: -kind.spread)


def unsteady(report: Report) -> list[str]:
    """The targets whose steps do not add up to the time of a run, letters and names: something disturbed the times.

    Steps one by one may well take longer than a run, where small ones are one call (some 20 us each).
    """
    found = []
    for k, target in enumerate(report.targets):
        run, steps = target.timing.median_ms, target.steps_ms
        if not 0.7 * run - 0.1 <= steps <= 1.4 * run + 0.02 * len(target.groups):
            found.append(f"{letter(k)}: {target.name} ({ms(steps)} and {ms(run)})")
    return found


def runner_times(report: Report, target: TargetReport) -> list[tuple[int, str, int, float]]:
    """For each runner: its number, its name, how many groups it runs, and their time."""
    found = []
    for k, name in enumerate(report.runners):
        own = [g for g in target.groups if g.by == name]
        if own:
            found.append((k, name, len(own), sum(g.ms or 0.0 for g in own)))
    return found


def worst_error(target: TargetReport) -> Accuracy | None:
    """The largest error of a result, relative to its largest element."""
    known = [o.error for o in target.outputs if o.error]
    return max(known, key=lambda e: e.scaled, default=None)
