"""Networks built with an implementation that is named, whether the device prefers it or not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve

import fusewire as fw
from fusewire.targets.backends import backend_of
from fusewire.targets.compiled import CompiledModule
from fusewire.targets.executor import GraphModule
from fusewire.targets.implement import Decision, entries
from fusewire.targets.lower import Problem, make_problem
from fusewire.targets.program import KernelStep
from fusewire.targets.runnable import Factory
from fusewire.targets.schedules.space import Config

Array = npt.NDArray[Any]


def problems(lib: CompiledModule) -> list[Problem]:
    """The groups of a module that have an anchor."""
    found = []
    for step in lib.program.leaf_steps():
        if isinstance(step, KernelStep):
            constants = [k for k, slot in enumerate(step.inputs) if slot in lib.program.constants]
            found.append(make_problem(step.function, "KERNEL", lib.runnable.code.isa, 1, constants))
    return [p for p in found if p.anchor is not None] or found


def fitting_with(lib: CompiledModule) -> list[tuple[str, list[Config]]]:
    """The implementations that fit the one group of a module, with their configs."""
    (problem,) = problems(lib)
    return [(e.name, list(e.configs(problem))) for e in entries(problem) if e.check(problem) is None]


def run_as(lib: CompiledModule, decision: Decision, inputs: Mapping[str, Array]) -> Sequence[Array]:
    """The outputs of a module whose anchors are all implemented as decided; they must be able to be."""
    backend = backend_of(lib.target.kind)
    code = backend.generate(lib.program, lib.runnable.code.isa, 1, lambda problem, function: decision)
    done = {c.implementation for s in lib.program.leaf_steps() if isinstance(s, KernelStep) for c in [code.of(s)]}
    assert decision.implementation.removesuffix(".cpu") + f".{lib.target.kind}" in done, done
    runnable = evolve(lib.runnable, code=code, arena=backend.plan(lib.program, code))
    device = backend.check(code, lib.target, fw.device(lib.target.kind))
    module = GraphModule(Factory(runnable, device))
    module.run(**inputs)
    return [np.array(module.get_output(k).numpy()) for k in range(module.get_num_outputs())]
