"""Which implementation makes a group's kernel: candidates with names and priorities, the highest that fits wins."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import field, frozen

from ..ir.expr import Function
from ..ir.loops import Kernel
from .lower import Problem, find_anchor, spec
from .prove import verify
from .rewrite import unroll
from .schedules import attention, conv, conv_transpose, depthwise, gemm, generic, winograd, winograd_rows
from .schedules.space import FIXED, Config
from .schedules.tiles import Packed
from .vectorise import vectorise

_log = logging.getLogger("fusewire")


@frozen(eq=False)
class Lowered:
    """A kernel, and how it wants constant inputs to be packed, by position."""

    kernel: Kernel
    packed: Packed = field(factory=dict)


@frozen(eq=False)
class Implementation:
    """One way to make a kernel for an operator.

    Attributes:
        name: what logs and `explain` call it, e.g. "conv2d_nchw.cpu".
        ops: the operators it is for; None: any.
        priority: the highest among those that fit is taken.
        check: why it does not fit a group, or None if it does.
        schedule: writes the loops, with the numbers of a config.
        predict: what it is expected to cost, in vector operations; decides among those of one priority.
        configs: the candidate space, the best guess first.
    """

    name: str
    ops: tuple[str, ...] | None
    priority: int
    check: Callable[[Problem], str | None]
    schedule: Callable[[Problem, Config], tuple[Kernel, Packed]]
    predict: Callable[[Problem, Config], float] | None = None
    configs: Callable[[Problem], Iterable[Config]] = lambda problem: FIXED


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
    """An implementation, and the numbers it is written with."""

    entry: Implementation
    config: Config

    def schedule(self, problem: Problem) -> tuple[Kernel, Packed]:
        """The kernel."""
        return self.entry.schedule(problem, self.config)


def _generic(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
    return generic.schedule(problem), {}


_CONV = ("nn.conv2d", "nn.conv1d")
_TRANSPOSED = ("nn.conv2d_transpose", "nn.conv1d_transpose")
_PRODUCT = ("nn.dense", "nn.matmul", "nn.batch_matmul")
TABLE = (
    Implementation("conv2d_nchw.cpu", _CONV, 10, conv.check_plain, conv.schedule, conv.predict, conv.configs),
    Implementation("conv2d_nchwc.cpu", _CONV, 10, conv.check_blocked, conv.schedule, conv.predict, conv.configs),
    Implementation(
        "conv2d_depthwise_nchwc.cpu",
        _CONV,
        10,
        depthwise.check,
        depthwise.schedule,
        depthwise.predict,
        depthwise.configs,
    ),
    *(
        Implementation(
            f"conv2d_winograd{m}_nchwc.cpu",
            _CONV,
            10,
            winograd.check(m),
            winograd.schedule(m),
            winograd.predict(m),
            winograd.configs,
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
    Implementation("gemm.cpu", _PRODUCT, 10, gemm.check, gemm.schedule, gemm.predict, gemm.configs),
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
    """The operator that a group is about: its anchor, or "injective"."""
    anchor = find_anchor(function)
    return spec(anchor).name if anchor is not None else "injective"


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
    measured = decision.measured if decision else {}
    fitting: list[tuple[int, float, Chosen]] = []
    candidates: list[Candidate] = []
    decided: Chosen | None = None
    for entry in entries(problem):
        reason = entry.check(problem)
        if reason is not None:
            candidates.append(Candidate(entry.name, entry.priority, reason))
            continue
        config = next(iter(entry.configs(problem)))
        if decision and decision.implementation == entry.name and _has(entry, problem, decision.config):
            config = decision.config
            decided = Chosen(entry, config)
        predicted = entry.predict(problem, config) if entry.predict else None
        candidates.append(
            Candidate(entry.name, entry.priority, None, predicted, measured.get(entry.name), dict(config))
        )
        fitting.append((-entry.priority, predicted or 0.0, Chosen(entry, config)))
    return decided or min(fitting, key=lambda found: found[:2])[2], candidates


def follows(problem: Problem, decision: Decision) -> bool:
    """Whether a decision names an implementation that fits a group, and a config of its space."""
    named = [entry for entry in entries(problem) if entry.name == decision.implementation]
    return any(entry.check(problem) is None and _has(entry, problem, decision.config) for entry in named)


def _has(entry: Implementation, problem: Problem, config: Config) -> bool:
    return any(dict(config) == dict(known) for known in entry.configs(problem))


def entries(problem: Problem) -> list[Implementation]:
    """The implementations that are for a group's operator."""
    name = spec(problem.anchor).name if problem.anchor is not None else "injective"
    return [entry for entry in TABLE if entry.ops is None or name in entry.ops]


def finish(kernel: Kernel, vector_bytes: int) -> Kernel:
    """The loop passes: vectorise, unroll; verified before and after."""
    verify(kernel)
    kernel = vectorise(kernel, vector_bytes)
    kernel = Kernel(kernel.name, kernel.inputs, kernel.outputs, unroll(kernel.body), kernel.notes)
    verify(kernel)
    return kernel
