"""What a report holds, as plain values: `plain(report)` is what `--json` prints and what the page is made from.

Times are milliseconds for one run, sizes are bytes.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
from attrs import frozen

GENERATED = "generated"
"""Who runs a group that fusewire made a kernel for; other groups are run by the library of that name."""


@frozen
class Accuracy:
    """How far a tensor is from what float64 arithmetic gives.

    Attributes:
        max_abs: the largest |value - reference|.
        max_rel: the largest |value - reference| / |reference|.
        scaled: max_abs over the largest |reference|: 1e-7 is what one rounding to float32 may cost.
        max_ulp: the largest error in units in the last place of the tensor's dtype, where 0.5 is rounded as well as can
            be; None for integers.
        beyond: elements that differ by more than atol + rtol * |reference|.
        size: elements.
        worst: where max_abs is.
        value, reference: what stands there.
        histogram: how many elements have an error of at most 0, 0.5, 1, 2, 4, ... units in the last place (the last
            entry: all others).
    """

    max_abs: float
    max_rel: float
    scaled: float
    max_ulp: float | None
    beyond: int
    size: int
    worst: tuple[int, ...]
    value: float
    reference: float
    histogram: tuple[int, ...]


@frozen
class Roof:
    """How a group stands to what the machine can do.

    Attributes:
        flops, nbytes: operations and bytes of its definition.
        reached: the part of the machine's measured peak (1: all of it), by the nearer of its two roofs.
        bound: that roof: "compute" or "memory".
        effective: whether it does fewer operations than its definition says, so that it may pass its roof.
    """

    flops: int
    nbytes: int
    reached: float
    bound: str
    effective: bool


@frozen
class Considered:
    """An implementation that was considered for a group; `status` is "chosen", "refused" or "passed"."""

    name: str
    priority: int
    status: str
    reason: str


@frozen
class Group:
    """One step of a target.

    Attributes:
        name: of the generated function or the library call.
        region: the number of the region that it belongs to.
        by: `GENERATED`, or a library's name.
        implementation: what runs it.
        ops: the operators that it covers, first to last.
        result: the type of what it computes.
        ms: its time, None where it did not run (the other branch of an If).
        scratch: bytes that it needs while it runs.
        candidates: what was considered for it.
        ir, loops, source: its texts, as places in `Report.texts`; None where there is none.
        kernel: the name of the compiled function, which equal groups share; empty for library calls.
        error: of its result (of the worst of them), with the errors that came in through its inputs.
        roof: where the machine's peaks are known.
    """

    name: str
    region: int
    by: str
    implementation: str
    ops: tuple[str, ...]
    result: str
    ms: float | None
    scratch: int
    candidates: tuple[Considered, ...]
    ir: int
    loops: int | None
    source: int | None
    kernel: str
    error: Accuracy | None
    roof: Roof | None


@frozen
class Output:
    """A result of the model.

    Attributes:
        name, type: of the result.
        error: against float64.
        difference: the largest absolute difference to the first target's.
        share: that over the largest element of the first target's.
        differing: elements that differ by more than the tolerance.
    """

    name: str
    type: str
    error: Accuracy | None
    difference: float
    share: float
    differing: int

    @property
    def within(self) -> bool:
        """Whether all elements are within the tolerance."""
        return self.differing == 0


@frozen
class Memory:
    """Bytes of a module.

    Attributes:
        arena: intermediate tensors.
        scratch: of the kernels, for all threads.
        constants: weights as the graph has them.
        packed: weights once more, in the form that kernels want.
        io: inputs and results.
    """

    arena: int
    scratch: int
    constants: int
    packed: int
    io: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arena + self.scratch + self.constants + self.packed + self.io


@frozen
class Peaks:
    """What the machine can do at most: operations in a second, bytes in a second from memory and from the caches."""

    flops: float
    memory: float
    cache: float
    about: str


@frozen
class Timing:
    """Times of whole runs; the quartiles tell how much they vary."""

    median_ms: float
    low_ms: float
    high_ms: float
    min_ms: float
    all_ms: tuple[float, ...]


@frozen
class TargetReport:
    """One target.

    Attributes:
        name: as people write it.
        target: the canonical target string.
        threads: it runs on.
        timing: of whole runs.
        groups: in the order they run.
        edges: which group feeds which; ("in", k) is input k, ("out", k) result k.
        inputs: names and types.
        outputs: results.
        memory: in bytes.
        other_ms: time of the copies that belong to no group.
        matched: how many of its operators were found in the first target too, and how many it has.
        peaks: of the machine, for its instruction set and threads.
    """

    name: str
    target: str
    threads: int
    timing: Timing
    groups: tuple[Group, ...]
    edges: tuple[tuple[tuple[str, int], tuple[str, int]], ...]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[Output, ...]
    memory: Memory
    other_ms: float
    matched: tuple[int, int]
    peaks: Peaks | None

    @property
    def steps_ms(self) -> float:
        """The times of all groups, each measured by itself, and of the copies."""
        return sum(g.ms or 0.0 for g in self.groups) + self.other_ms


@frozen
class Region:
    """Groups of all targets that cover the same operators: the smallest such part of the graph.

    Attributes:
        label: its operators.
        ops: in full.
        result: the type of its last operator's result.
        groups: for each target, its groups as places in `TargetReport.groups`; none where only another target has it
            (a change of layout).
        ms: for each target the time of its groups; None where it has none, or they did not run.
    """

    label: str
    ops: tuple[str, ...]
    result: str
    groups: tuple[tuple[int, ...], ...]
    ms: tuple[float | None, ...]


@frozen
class Settings:
    """How it was measured. An element may be off by atol + rtol * |reference| + rounding * the largest |reference|."""

    rtol: float
    atol: float
    rounding: float
    repeat: int
    number: int
    inputs: str
    machine: str
    date: str
    version: str


@frozen
class Report:
    """A model on several targets; the first is the one that others are compared with."""

    model: str
    settings: Settings
    targets: tuple[TargetReport, ...]
    regions: tuple[Region, ...]
    texts: tuple[str, ...]
    notes: tuple[str, ...]

    @cached_property
    def runners(self) -> tuple[str, ...]:
        """Who runs groups: fusewire itself first, then libraries in the order they appear."""
        return tuple(dict.fromkeys([GENERATED, *(g.by for t in self.targets for g in t.groups)]))


def plain(report: Report) -> dict[str, Any]:
    """The report as JSON has it; numbers that JSON does not have become the strings "inf", "-inf" and "nan"."""
    found: dict[str, Any] = finite(attrs.asdict(report))
    return found


def finite(value: Any) -> Any:
    """Plain data with infinities and NaN as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
