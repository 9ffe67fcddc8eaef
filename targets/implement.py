"""Which implementation makes a group's kernel: candidates with names and priorities, the highest that fits wins."""

import logging
from collections.abc import Mapping, Sequence

from attrs import evolve, field, frozen

from ..ir.expr import Call, Function
from ..ir.loops import Kernel
from .groups import check_races
from .implementation import Implementation
from .lower import Problem, anchors, spec
from .prove import verify
from .rewrite import unroll
from .schedules import (
    attention,
    conv,
    conv_depthwise,
    conv_transpose,
    depthwise,
    gemm,
    generic,
    strassen,
    winograd,
    winograd_pairs,
    winograd_rows,
)
from .schedules.gpu.table import ON_GPU
from .schedules.gpu.table import TABLE as GROUPS
from .schedules.space import GROUP, Config, without_group
from .schedules.tiles import Packed
from .target import KINDS
from .vectorise import vectorise

_log = logging.getLogger("fusewire")


@frozen(eq=False)
class Lowered:
    """A kernel, and how it wants constant inputs to be packed, by position."""

    kernel: Kernel
    packed: Packed = field(factory=dict)


@frozen(eq=False)
class Candidate:
    """An implementation as it was considered for one group.

    Attributes:
        name, priority: of the implementation.
        refusal: why it does not fit the group, or None.
        predicted: what it was expected to cost, in vector operations.
        measured: the seconds that its fastest config took when the group was tuned.
        config: the config that was taken, or would have been.
    """

    name: str
    priority: int
    refusal: str | None = None
    predicted: float | None = None
    measured: float | None = None
    config: Config = field(factory=dict)


@frozen
class Decision:
    """What tuning found best for a group.

    Attributes:
        implementation: its name.
        config: the numbers it is written with.
        measured: the seconds that the fastest config of each implementation took, by name.
        problems: what was wrong with an implementation, by name.
    """

    implementation: str
    config: Config
    measured: Mapping[str, float] = field(factory=dict)
    problems: Mapping[str, str] = field(factory=dict)


@frozen(eq=False)
class Chosen:
    """An implementation, the numbers it is written with, and work-items in a work-group (0: as the device likes it)."""

    entry: Implementation
    config: Config
    group: int = 0

    def schedule(self, problem: Problem) -> tuple[Kernel, Packed]:
        """The kernel."""
        return self.entry.schedule(problem, self.config)


def _generic(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    return generic.schedule(problem), {}


UNASKED = 0
"""The priority of what rounds otherwise than the definition would: only a search may choose it."""

_CONV = ("nn.conv2d", "nn.conv1d")
_VOLUMES = ("nn.conv3d",)
_TRANSPOSED = ("nn.conv2d_transpose", "nn.conv1d_transpose")
_PRODUCT = ("nn.dense", "nn.matmul", "nn.batch_matmul")
TABLE = (
    Implementation(
        "conv2d_nchw.cpu", _CONV, 10, conv.check_plain, conv.schedule, conv.predict, conv.configs, conv.pack
    ),
    Implementation(
        "conv2d_nchwc.cpu", _CONV, 10, conv.check_blocked, conv.schedule, conv.predict, conv.configs, conv.pack
    ),
    Implementation(
        "conv3d_ncdhw.cpu", _VOLUMES, 10, conv.check_plain, conv.schedule, conv.predict, conv.configs, conv.pack
    ),
    Implementation(
        "conv2d_depthwise_nchwc.cpu",
        _CONV,
        10,
        depthwise.check,
        depthwise.schedule,
        depthwise.predict,
        depthwise.configs,
        depthwise.pack,
    ),
    Implementation(
        "conv2d_with_depthwise_nchwc.cpu",
        ("nn.conv2d + nn.conv2d",),
        10,
        conv_depthwise.check,
        conv_depthwise.schedule,
        conv_depthwise.predict,
        conv_depthwise.configs,
        conv_depthwise.pack,
    ),
    *(
        Implementation(
            f"conv2d_winograd{m}_nchwc.cpu",
            _CONV,
            10,
            winograd.check(m),
            winograd.schedule(m),
            winograd.predict(m),
            winograd.configs(m),
            winograd.pack(m),
        )
        for m in (2, 3, 4)
    ),
    Implementation(
        "conv2d_winograd_rows_nchw.cpu",
        _CONV,
        10,
        winograd_rows.check,
        winograd_rows.schedule,
        winograd_rows.predict,
        winograd_rows.configs,
        winograd_rows.pack,
    ),
    Implementation(
        "conv2d_winograd_pairs_nchw.cpu",
        _CONV,
        10,
        winograd_pairs.check,
        winograd_pairs.schedule,
        winograd_pairs.predict,
        winograd_pairs.configs,
        winograd_pairs.pack,
    ),
    Implementation(
        "conv2d_transpose.cpu",
        _TRANSPOSED,
        10,
        conv_transpose.check,
        conv_transpose.schedule,
        conv_transpose.predict,
        conv_transpose.configs,
    ),
    Implementation("gemm.cpu", _PRODUCT, 10, gemm.check, gemm.schedule, gemm.predict, gemm.configs, gemm.pack),
    Implementation(
        "gemm_strassen.cpu",
        ("nn.dense", "nn.matmul"),
        UNASKED,
        strassen.check,
        strassen.schedule,
        strassen.predict,
        strassen.configs,
        strassen.pack,
        strassen.CAUTION,
    ),
    Implementation(
        "attention.cpu",
        ("nn.attention",),
        10,
        attention.check,
        attention.schedule,
        attention.predict,
        attention.configs,
    ),
    Implementation(
        "attention_dots.cpu",
        ("nn.attention",),
        10,
        attention.check_dots,
        attention.schedule_dots,
        attention.predict_dots,
    ),
    Implementation("loops.cpu", None, 1, lambda problem: None, _generic),
)
"""Implementations on `cpu`, the generic one last."""


def operator_name(function: Function) -> str:
    """The operator that a group is about: its anchor, those of two stages, or "injective"."""
    return _about(anchors(function))


def _about(found: Sequence[Call]) -> str:
    return " + ".join(spec(call).name for call in found) or "injective"


def log_choice(name: str, operator: str, candidates: Sequence[Candidate]) -> None:
    """Say which implementation an operator got."""
    priority = next(c.priority for c in candidates if c.name == name)
    _log.info("Using %s for %s based on highest priority (%d)", name, operator, priority)


def implement(problem: Problem, decision: Decision | None = None) -> tuple[Lowered, str, list[Candidate]]:
    """Make the kernel of a group, as was decided if it was.

    Returns:
        The kernel, the name of the implementation that made it, and all that were considered.
    """
    chosen, candidates = choose(problem, decision)
    kernel, packed = chosen.schedule(problem)
    return Lowered(finish(kernel, problem.isa.vector_bytes), packed), chosen.entry.name, candidates


def choose(problem: Problem, decision: Decision | None = None) -> tuple[Chosen, list[Candidate]]:
    """The implementation for a group, and all that were considered.

    Without a decision, or where what it names is there no longer, the highest priority wins, then the lowest
    prediction.
    """
    measured = {stem(name): seconds for name, seconds in decision.measured.items()} if decision else {}
    fitting: list[tuple[int, float, Chosen]] = []
    candidates: list[Candidate] = []
    decided: Chosen | None = None
    for entry in entries(problem):
        reason = entry.check(problem)
        if reason is not None:
            candidates.append(Candidate(entry.name, entry.priority, reason))
            continue
        config = shown = next(iter(entry.configs(problem)))
        if decision and _names(decision, entry) and _has(entry, problem, decision.config):
            config, group = without_group(decision.config)
            shown, decided = decision.config, Chosen(entry, config, group)
        predicted = entry.predict(problem, config) if entry.predict else None
        seconds = measured.get(stem(entry.name))
        candidates.append(Candidate(entry.name, entry.priority, None, predicted, seconds, dict(shown)))
        fitting.append((-entry.priority, predicted or 0.0, Chosen(entry, config)))
    return decided or min(fitting, key=lambda found: found[:2])[2], candidates


def follows(problem: Problem, decision: Decision) -> bool:
    """Whether a decision names an implementation that fits a group, a config of its space, and a fitting work-group."""
    meant = [entry for entry in entries(problem) if _names(decision, entry)]
    return any(entry.check(problem) is None and _has(entry, problem, decision.config) for entry in meant)


def caution(problem: Problem, name: str) -> str:
    """What to know of an implementation that no build takes unasked; empty for others."""
    return next((entry.caution for entry in entries(problem) if stem(entry.name) == stem(name)), "")


def _names(decision: Decision, entry: Implementation) -> bool:
    return stem(decision.implementation) == stem(entry.name)


def _has(entry: Implementation, problem: Problem, config: Config) -> bool:
    own, group = without_group(config)
    if GROUP in config and not problem.isa.takes_groups(group):
        return False
    return any(own == dict(known) for known in entry.configs(problem))


def stem(name: str) -> str:
    """The name of an implementation without the kind of target at its end."""
    front, _, kind = name.rpartition(".")
    return front if kind in KINDS else name


def named(name: str, kind: str) -> str:
    """An implementation of the table, which names those of cpu, as one of a kind of target."""
    return f"{stem(name)}.{kind}"


def entries(problem: Problem) -> list[Implementation]:
    """The implementations that are for a group's operator."""
    first = problem.before.anchor if problem.before is not None else None
    name = _about([call for call in (first, problem.anchor) if call is not None])
    groups = GROUPS if problem.isa.device else ()
    if problem.isa.gpu:
        groups = tuple(evolve(entry, priority=ON_GPU) for entry in groups)
    return [entry for entry in (*groups, *TABLE) if entry.ops is None or name in entry.ops]


def finish(kernel: Kernel, vector_bytes: int) -> Kernel:
    """The loop passes: vectorise, unroll; verified before and after."""
    verify(kernel)
    check_races(kernel)
    kernel = vectorise(kernel, vector_bytes)
    kernel = Kernel(kernel.name, kernel.inputs, kernel.outputs, unroll(kernel.body), kernel.notes)
    verify(kernel)
    return kernel
