"""From records to a build: the key of a group, and what a store decided for it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.errors import FusewireError
from ...ir.expr import Function
from ...ir.hashing import structural_hash
from ...ir.types import tensors_of
from ..cpuinfo import Isa, cpu_features
from ..explain import operators
from ..generate import Decide
from ..implement import Decision, choose, entries, follows
from ..lower import Problem, make_problem
from ..program import KernelStep
from ..toolchain import find_compiler
from .store import Key, TuningStore, decision_line

if TYPE_CHECKING:
    from ..build import CompiledModule


def key_of(function: Function, isa: Isa, threads: int, constants: Sequence[int]) -> Key:
    """The key under which a group is remembered; `constants` are the positions of known inputs."""
    types = [str(t) for param in function.params for t in tensors_of(param.checked_type)]
    group = json.dumps([str(function), structural_hash(function), sorted(constants), str(isa)])
    compiler = find_compiler()
    return Key(
        "cpu",
        cpu_features().name,
        f"{compiler.family}: {compiler.version}, {isa.name}",
        threads,
        f"{'+'.join(operators(function))} {' '.join(types)}",
        hashlib.sha256(group.encode()).hexdigest()[:20],
    )


def decide_by(records: TuningStore, isa: Isa, threads: int) -> Decide:
    """The decisions of a store for the groups of a program.

    Raises:
        FusewireError: the store is locked, and a group that leaves a choice has no decision in it, or one that cannot
            be followed.
    """

    def decide(problem: Problem, function: Function) -> Decision | None:
        if problem.anchor is None or (len(records) == 0 and not records.locked):
            return None
        known = [k for k, buffer in enumerate(problem.inputs) if buffer in problem.constants]
        key = key_of(function, isa, threads, known)
        decision = records.decision(key)
        if records.locked and several(problem) and not (decision and follows(problem, decision)):
            what = (
                f"says {decision.implementation} {dict(decision.config)}, which is not there" if decision else "lacks"
            )
            raise FusewireError(f"'{records.path}' {what}: {key.work} on {key.device}, {key.driver}, "
                                f"{key.threads} threads; `fusewire lock` writes a complete one")  # fmt: skip
        return decision

    return decide


def several(problem: Problem) -> bool:
    """Whether there is anything to choose for a group."""
    entry, _ = choose(problem)
    fitting = [e for e in entries(problem) if e.priority >= entry.entry.priority and e.check(problem) is None]
    return len(fitting) > 1 or len(list(islice(entry.entry.configs(problem), 2))) > 1


def freeze(lib: "CompiledModule", asked: Mapping[Key, Decision | None], path: Path) -> int:
    """Write what a build decided as a file of decisions, one JSON object a line, in order of their keys.

    Args:
        lib: the module as it was built.
        asked: what the build asked of the records; regions of libraries among it.
        path: the file; is replaced.

    Returns:
        The number of decisions.

    Raises:
        FusewireError: the file cannot be written.
    """
    lines: set[str] = set()
    for step in lib.program.leaf_steps():
        if isinstance(step, KernelStep):
            known = {k for k, slot in enumerate(step.inputs) if slot in lib.program.constants}
            if several(make_problem(step.function, "KERNEL", lib.code.isa, lib.threads, known)):
                compiled = lib.code.of(step)
                config = next(c.config for c in compiled.candidates if c.name == compiled.implementation)
                key = key_of(step.function, lib.code.isa, lib.threads, sorted(known))
                lines.add(decision_line(key, compiled.implementation, config, "normal"))
    names = {library.name for library in lib.runnable.report.libraries}
    for key, decision in asked.items():
        if decision is not None and key.driver in names:
            lines.add(decision_line(key, decision.implementation, decision.config, "normal"))
    try:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)))
    except OSError as error:
        raise FusewireError(f"cannot write '{path}': {error.strerror or error}") from None
    return len(lines)
