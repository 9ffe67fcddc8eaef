"""From compiled modules to a report."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

from ..ir.errors import FusewireError
from ..ir.module import IRModule
from ..targets.compiled import CompiledModule
from ..targets.executor import GraphModule
from ..targets.explain import Choice
from ..targets.program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step, flatten
from . import roofline
from .accuracy import accuracy, follow, reference
from .data import (
    GENERATED,
    Accuracy,
    Considered,
    Group,
    Memory,
    Output,
    Region,
    Report,
    Roof,
    Settings,
    TargetReport,
    Timing,
)
from .match import Area, areas

Array = npt.NDArray[Any]
Leaf = KernelStep | LibraryStep


@frozen(eq=False)
class Measured:
    """A target as it was built, run and timed.

    Attributes:
        name: the target as people write it.
        library, module: what was built, and what ran.
        outputs: its results.
        differences: of each result to the first target's: the largest, the same over the largest element, and how many
            elements differ by more than the tolerance.
        times: seconds of whole runs.
    """

    name: str
    library: CompiledModule
    module: GraphModule
    outputs: Sequence[Array]
    differences: Sequence[tuple[float, float, int]]
    times: Sequence[float]


@define
class _Texts:
    """Texts of groups, each kept once."""

    places: dict[str, int] = field(factory=dict)

    def add(self, text: str) -> int:
        """The place of a text."""
        return self.places.setdefault(text, len(self.places))


def collect(
    name: str,
    source: tuple[IRModule, Mapping[str, Any]],
    measured: Sequence[Measured],
    inputs: Mapping[str, Any],
    settings: Settings,
    step: Callable[[str], None],
) -> Report:
    """Everything a report says of a model on several targets.

    Args:
        name: of the model.
        source: the model before any pass, and its weights.
        measured: the targets; the first is the one to compare with.
        inputs: what they ran on, by name.
        settings: how they were measured.
        step: called at the beginning of each long step.

    Raises:
        FusewireError: a module fails when it runs.
    """
    notes: list[str] = []
    parts, matched = areas([m.library.program for m in measured])
    step("reference in float64")
    try:
        right: list[Array] | None = reference(*source, inputs)
    except FusewireError as error:
        right = None
        notes.append(f"There is no float64 reference of the results: {error}")
    texts = _Texts()
    targets = []
    for k, one in enumerate(measured):
        steps = {s: number for number, part in enumerate(parts) for s in part.steps[k]}
        targets.append(_target(one, steps, right, matched[k], (inputs, settings), texts, notes, step))
    regions = tuple(_region(part, targets) for part in parts)
    if not any(t.peaks for t in targets):
        notes.append("The machine's peaks could not be measured, so groups have no place under a roofline.")
    return Report(name, settings, tuple(targets), regions, tuple(texts.places), tuple(notes))


def _target(
    one: Measured,
    regions: Mapping[int, int],
    right: Sequence[Array] | None,
    matched: tuple[int, int],
    about: tuple[Mapping[str, Any], Settings],
    texts: _Texts,
    notes: list[str],
    step: Callable[[str], None],
) -> TargetReport:
    (inputs, settings), program = about, one.library.program
    step(f"errors of '{one.name}'")
    try:
        errors = follow(one.module, inputs, settings.rtol, settings.atol, settings.rounding)
    except FusewireError as error:
        errors = {}
        notes.append(f"'{one.name}': there is no float64 reference of inner tensors: {error}")
    step(f"steps of '{one.name}'")
    times, other = step_times(one.module, settings.repeat)
    profile = roofline.compared(one.library, times)
    maker = _Groups(one.library, texts, times, errors, roofline.roofs(profile))
    groups = [maker.group(s, regions[k]) for k, s in enumerate(program.leaf_steps())]
    return TargetReport(
        name=one.name,
        target=str(one.library.target),
        threads=one.library.threads,
        timing=_timing(one.times),
        groups=tuple(groups),
        edges=tuple(edges_of(program)),
        inputs=tuple((n, str(t)) for n, t in program.types.items()),
        outputs=tuple(_outputs(one, right, settings)),
        memory=_memory(one.library),
        other_ms=other,
        matched=matched,
        peaks=roofline.peaks(profile),
    )


def step_times(module: GraphModule, repeat: int) -> tuple[dict[str, float], float]:
    """The median milliseconds of each step by its name, and those of all copies together.

    Steps run in their order, so that a step finds in the caches what it finds there in a run.
    """
    rounds: dict[str, list[float]] = defaultdict(list)
    copies = 0.0

    def visit(step: Step, seconds: float) -> None:
        nonlocal copies
        if isinstance(step, KernelStep | LibraryStep):
            rounds[step.name].append(seconds * 1e3)
        else:
            copies += seconds * 1e3

    for _ in range(repeat):
        module.walk(visit)
    return {name: float(np.median(times)) for name, times in rounds.items()}, copies / repeat


@frozen(eq=False)
class _Groups:
    """Makes the groups of one target."""

    library: CompiledModule
    texts: _Texts
    times: Mapping[str, float]
    errors: Mapping[str, Accuracy]
    roofs: Mapping[str, Roof]

    def group(self, step: Leaf, region: int) -> Group:
        code = self.library.runnable.code.of(step) if isinstance(step, KernelStep) else None
        choice = self.library.runnable.report.choice(step, self.library.runnable.code)

        def shared(text: str) -> int:  # equal groups share a kernel, which is named after the first of them
            return self.texts.add(text.replace(step.name, code.symbol if code else step.name))

        return Group(
            name=step.name,
            region=region,
            by=GENERATED if code else str(step.function.attrs["Compiler"]),
            implementation=choice.chosen,
            ops=choice.ops,
            result=str(step.function.body.checked_type),
            ms=self.times.get(step.name),
            scratch=self.library.runnable.code.workspace(self.library.threads, code.step) if code else 0,
            candidates=considered(choice),
            ir=self.texts.add(str(step.function)),
            loops=shared(code.loop_ir) if code else None,
            source=shared(code.source) if code else None,
            kernel=code.symbol if code else "",
            error=self.errors.get(step.name),
            roof=self.roofs.get(step.name),
        )


def considered(choice: Choice) -> tuple[Considered, ...]:
    """The candidates of a choice, the chosen one first, refused ones last."""
    rank = {"chosen": 0, "passed": 1, "refused": 2}
    found = []
    for candidate in choice.candidates:
        verdict = choice.verdict(candidate)
        status = "refused" if candidate.refusal else "chosen" if verdict == "chosen" else "passed"
        found.append(Considered(candidate.name, candidate.priority, status, choice.reason(candidate)))
    return tuple(sorted(found, key=lambda c: (rank[c.status], -c.priority)))


def edges_of(program: Program) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Which group feeds which; copies are seen through, and what only chooses a branch counts as feeding it not."""
    sources: dict[int, list[tuple[str, int]]] = {}
    for k, slots in enumerate(program.inputs.values()):
        sources |= {slot: [("in", k)] for slot in slots}

    def of(slot: int) -> list[tuple[str, int]]:
        return sources.get(program.root(slot), [])

    found: list[tuple[tuple[str, int], tuple[str, int]]] = []
    number = 0
    for step in flatten(program.steps):
        if isinstance(step, CopyStep):
            sources.setdefault(step.target, []).extend(of(step.source))
        elif not isinstance(step, BranchStep):
            found += [(source, ("group", number)) for slot in step.inputs for source in of(slot)]
            sources |= {slot: [("group", number)] for slot in step.outputs}
            number += 1
    found += [(source, ("out", k)) for k, slot in enumerate(program.outputs) for source in of(slot)]
    return list(dict.fromkeys(found))


def _timing(times: Sequence[float]) -> Timing:
    ms = np.asarray(times) * 1e3
    low, median, high = (float(q) for q in np.percentile(ms, (25, 50, 75)))
    return Timing(median, low, high, float(ms.min()), tuple(float(t) for t in ms))


def _memory(library: CompiledModule) -> Memory:
    info, target = library.function_metadata["__fusewire_main__"], library.target
    code = library.runnable.code
    return Memory(
        arena=library.arena.size,
        scratch=code.workspace(library.threads),
        constants=info.constant_sizes[target],
        packed=sum(a.nbytes for a in code.packed.values()),
        io=info.io_sizes[target],
    )


def _outputs(one: Measured, right: Sequence[Array] | None, settings: Settings) -> list[Output]:
    program = one.library.program
    found = []
    for k, (got, (difference, share, beyond)) in enumerate(zip(one.outputs, one.differences, strict=True)):
        error = None if right is None else accuracy(got, right[k], settings.rtol, settings.atol, settings.rounding)
        type_ = str(program.slots[program.outputs[k]])
        found.append(Output(f"output_{k}", type_, error, difference, share, beyond))
    return found


def _region(part: Area, targets: Sequence[TargetReport]) -> Region:
    ops = tuple(o.name for o in part.operations)
    first = next(k for k, steps in enumerate(part.steps) if steps)
    times = []
    for target, steps in zip(targets, part.steps, strict=True):
        ran = [ms for s in steps if (ms := target.groups[s].ms) is not None]
        times.append(sum(ran) if ran else None)
    result = targets[first].groups[part.steps[first][-1]].result
    return Region(label(ops), ops, result, part.steps, tuple(times))


def label(ops: Sequence[str], limit: int = 5) -> str:
    """The operators of a region in short: `conv2d + 2 × add + relu`, at most `limit` of them."""
    short = [op.removeprefix("nn.").removeprefix("image.") for op in ops] or ["copy"]
    runs: list[list[Any]] = []
    for op in short:
        if runs and runs[-1][0] == op:
            runs[-1][1] += 1
        else:
            runs.append([op, 1])
    words = [op if count == 1 else f"{count} × {op}" for op, count in runs]
    if len(words) > limit:
        words = [*words[: limit - 2], "...", words[-1]]
    return " + ".join(words)
