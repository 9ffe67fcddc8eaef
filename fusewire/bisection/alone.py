"""Compiling one group by itself, without passes, by the same implementation as in the module it comes from."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy.typing as npt
from attrs import field, frozen

from ..fuse.library import Library
from ..fuse.partition import partition_for_libraries
from ..ir.expr import Call, Constant, Expr, Function, Var
from ..ir.module import IRModule
from ..ir.visitor import bind
from ..targets.backends import backend_of
from ..targets.cpuinfo import Isa
from ..targets.device import Device
from ..targets.executor import GraphModule
from ..targets.explain import Report
from ..targets.implement import Decision
from ..targets.libraries import require
from ..targets.program import make_program
from ..targets.runnable import Factory, Runnable
from ..targets.schedules.space import Config

Array = npt.NDArray[Any]


@frozen(eq=False)
class How:
    """How a group is compiled.

    Attributes:
        kind: the kind of target.
        isa, threads: what it is compiled for, and how many threads run it.
        implementation: who makes the kernel, where that one fits, and with which numbers.
        config: the numbers that it is written with.
        library: the library that gets it, as much as its rules take; None: code is generated.
    """

    kind: str
    isa: Isa
    threads: int
    implementation: str
    config: Config = field(factory=dict)
    library: Library | None = None


@frozen(eq=False)
class Ran:
    """The results of a group, and which implementations gave them, in their order."""

    outputs: list[Array]
    implementations: tuple[str, ...]


def run_alone(function: Function, values: Sequence[Array], known: Collection[int], how: How) -> Ran:
    """Compile a group by itself, and run it once.

    Args:
        function: the group; its parameters are tensors.
        values: an array for each parameter.
        known: which parameters are constants when it is compiled, as weights are.
        how: who compiles it, and for what.

    Raises:
        FusewireError: it cannot be compiled, the library is missing, or its call fails.
    """
    arguments: list[Expr] = [
        Constant(value) if k in known else Var(f"x{k}", param.checked_type)
        for k, (param, value) in enumerate(zip(function.params, values, strict=True))
    ]
    inputs = {arg.name_hint: value for arg, value in zip(arguments, values, strict=True) if isinstance(arg, Var)}
    variables = [arg for arg in arguments if isinstance(arg, Var)]
    report = Report(how.kind, (), ())
    if how.library is None:
        group = Function(function.params, function.body, None, {"Primitive": 1})
        main = Function(variables, Call(group, arguments))
    else:
        require([how.library])
        body = bind(function.body, dict(zip(function.params, arguments, strict=True)))
        mod, decisions = partition_for_libraries(IRModule({"main": Function(variables, body)}), [how.library])
        main, report = mod["main"], Report(how.kind, [how.library], decisions)
    program = make_program(main, "alone")
    decision = Decision(how.implementation, how.config)
    backend = backend_of(how.kind)
    code = backend.generate(program, how.isa, how.threads, lambda problem, function: decision)
    runnable = Runnable(program, code, backend.plan(program, code), how.threads, report)
    module = GraphModule(Factory(runnable, Device(how.kind)))
    module.run(**inputs)
    outputs = [module.get_output(k).numpy().copy() for k in range(module.get_num_outputs())]
    return Ran(outputs, tuple(runnable.label(step)[1] for step in program.leaf_steps()))
