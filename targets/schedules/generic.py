"""Schedules that fit every operator: maps (maps.py), reductions (reduce.py), and procedures as they are written."""

from attrs import evolve

from ...ir.errors import VerifyError
from ...ir.loops import Alloc, Barrier, Builder, Kernel
from ...ops.lowering import Map, Nest, Procedure, Reduce
from ..lower import Problem, spec
from .maps import map_kernel
from .reduce import reduce_kernel


def schedule(problem: Problem) -> Kernel:
    """The generic loops of a group; the result of a first stage is stored as a whole before the second one begins."""
    if problem.before is not None:
        (between,) = problem.before.outputs
        first, last = schedule(problem.before), schedule(evolve(problem, before=None))
        body = (Alloc(between), *first.body, Barrier(), *last.body)
        return Kernel(problem.name, problem.inputs, problem.outputs, body, last.notes)
    if problem.anchor is None:
        return map_kernel(problem)
    lowering = spec(problem.anchor).lowering
    assert problem.context is not None
    match lowering:
        case Procedure():
            builder = Builder()
            lowering.write(problem.context, builder, problem.outputs)
            return problem.kernel(builder)
        case Nest():
            builder = Builder()
            lowering.write(problem.context, builder, lambda index, value: problem.emit(builder, index, value))
            return problem.kernel(builder)
        case Reduce():
            return reduce_kernel(problem, lowering.make(problem.context))
        case Map():
            raise VerifyError(f"{spec(problem.anchor).name} needs no anchor")
    raise VerifyError(f"{spec(problem.anchor).name} cannot be lowered")
