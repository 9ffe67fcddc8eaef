"""Why each part of a program runs where it runs: chosen implementation, candidates, refusals."""

import logging
from collections.abc import Sequence

from attrs import asdict, field, frozen
from tabulate import tabulate

from ..fuse.fuse_stages import MIN_BYTES
from ..fuse.library import Library, Rule
from ..fuse.partition import Decision
from ..ir.errors import FusewireError
from ..ir.expr import Call, Expr, Function
from ..ir.types import nbytes
from ..ir.visitor import post_order
from .code import Code
from .implement import Candidate
from .lower import anchors
from .program import KernelStep, LibraryStep, Program

_log = logging.getLogger("fusewire")


@frozen
class Choice:
    """What was decided for one step.

    Attributes:
        step: the name of the generated function or library call.
        ops: the operators it covers, first to last.
        chosen: the implementation that runs.
        candidates: everything that was considered; each with its priority, and the reason where it was refused.
        between: bytes of the tensor between its two stages, where FuseStages joined two groups.
    """

    step: str
    ops: tuple[str, ...]
    chosen: str
    candidates: tuple[Candidate, ...]
    between: int = 0

    def verdict(self, candidate: Candidate) -> str:
        """Why a candidate was taken or not."""
        if candidate.refusal:
            return f"refused: {candidate.refusal}"
        if candidate.name == self.chosen:
            return "chosen"
        winner = next(c for c in self.candidates if c.name == self.chosen and c.refusal is None)
        if candidate.priority < winner.priority:
            return "lower priority"
        return "slower" if winner.measured and candidate.measured else "dearer"

    def reason(self, candidate: Candidate) -> str:
        """The verdict with the numbers behind it: predicted costs; measured times and the config where it was tuned."""
        facts = [self.verdict(candidate)]
        if sum(c.predicted is not None for c in self.candidates) > 1 and candidate.predicted:
            facts.append(f"cost {candidate.predicted:.3g}")
        if candidate.measured:
            facts.append(f"measured {candidate.measured * 1e6:.1f} us")
        if candidate.name == self.chosen and candidate.measured and candidate.config:
            facts.append(" ".join(f"{knob}={value}" for knob, value in candidate.config.items()))
        return ", ".join(facts)

    @property
    def change(self) -> str:
        """What would change the choice; empty where nothing else could run the step."""
        winner = next(c for c in self.candidates if c.name == self.chosen and c.refusal is None)
        wanted = [c for c in self.candidates if c.refusal and c.priority > winner.priority]
        if wanted:
            best = max(wanted, key=lambda c: c.priority)
            return f"{best.name} would run, but for: {best.refusal}"
        rivals = [c for c in self.candidates if not c.refusal and c.priority == winner.priority and c is not winner]
        if rivals and not winner.measured:
            return f"{', '.join(c.name for c in rivals)} if measured to be faster (`fusewire tune`)"
        return ""


@frozen
class Explanation:
    """The choices of a whole program; `str()` shows them as a table, `to_dict()` as plain data."""

    choices: tuple[Choice, ...]

    def to_dict(self) -> list[dict[str, object]]:
        """Plain data for JSON."""
        return [
            {
                "step": c.step,
                "ops": list(c.ops),
                "chosen": c.chosen,
                "change": c.change,
                "between": c.between,
                "candidates": [asdict(candidate) for candidate in c.candidates],
            }
            for c in self.choices
        ]

    def __str__(self) -> str:
        rows = []
        for choice in self.choices:
            rows.append((choice.step, ""))
            rows += [(f"- {c.name} ({c.priority})", choice.reason(c)) for c in choice.candidates]
            rows += [("- instead", choice.change)] if choice.change else []
            joined = f"two groups with {_mb(choice.between)} between them (FuseStages)"
            joined += f"; by default from {_mb(MIN_BYTES.default)} on, what a near cache keeps"
            rows += [("- joined", joined)] if choice.between else []
        return str(tabulate(rows, ["step, and its candidates (priority)", "verdict"], disable_numparse=True))


@frozen(eq=False)
class Report:
    """What the libraries of a build took and refused."""

    kind: str
    libraries: Sequence[Library]
    decisions: Sequence[Decision]
    precision: str = field(default="float32", kw_only=True)

    def rule(self, step: LibraryStep) -> Rule:
        """The rule that took a step."""
        for library in self.libraries:
            if library.name == step.function.attrs.get("Compiler") and (rule := library.rule(step.composite)):
                return rule
        raise FusewireError(f"{step.name}: no library has the rule {step.composite!r}")

    def used(self, program: Program) -> list[Library]:
        """The libraries that run at least one step."""
        names = {str(s.function.attrs.get("Compiler")) for s in program.leaf_steps() if isinstance(s, LibraryStep)}
        return [library for library in self.libraries if library.name in names]

    def log_library_steps(self, program: Program) -> None:
        """Log each library step, as generated kernels are logged."""
        for step in program.leaf_steps():
            if isinstance(step, LibraryStep):
                rule = self.rule(step)
                op = operators(step.function)[0]
                name = rule.implementation(self.kind)
                _log.info("Using %s for %s based on highest priority (%d)", name, op, rule.priority)

    def choice(self, step: KernelStep | LibraryStep, code: Code) -> Choice:
        """All that is known of how a step was decided."""
        ops = operators(step.function)
        if isinstance(step, KernelStep):
            compiled = code.of(step)
            refused = self._refusals(step.function)
            candidates = (*refused, *compiled.candidates)
            return Choice(step.name, ops, compiled.implementation, candidates, _between(step.function))
        rule = self.rule(step)
        name = rule.implementation(self.kind)
        return Choice(step.name, ops, name, (*self._refusals(step.function), Candidate(name, rule.priority)))

    def _refusals(self, function: Function) -> list[Candidate]:
        """What libraries said to calls like those in a function (same operator, attributes and types)."""
        own = {_signature(e) for e in post_order(function.body)}
        found: dict[tuple[str, str | None], Candidate] = {}
        for decision in self.decisions:
            if decision.reason is not None and _signature(decision.root) in own:
                rule = next(r for lib in self.libraries for r in lib.rules if r.name == decision.rule)
                name = rule.implementation(self.kind)
                found[name, decision.reason] = Candidate(name, rule.priority, decision.reason)
        return list(found.values())


def operators(function: Function) -> tuple[str, ...]:
    """The operators of a group, first to last."""
    return tuple(str(e.op) for e in post_order(function.body) if isinstance(e, Call))


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.3g} MB"


def _between(function: Function) -> int:
    stages = anchors(function)
    return nbytes([stages[1].args[0].checked_type]) if len(stages) == 2 else 0


def _signature(expr: Expr) -> tuple[object, ...]:
    if not isinstance(expr, Call):
        return ()
    return (str(expr.op), expr.attrs, *(arg.checked_type for arg in expr.args))
