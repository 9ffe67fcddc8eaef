"""A group as a function of tensors: what it means in float64, and its prefixes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fuse.evaluate import evaluate
from ..ir.expr import Call, Expr, Function, Tuple, Var
from ..ir.types import TupleType, Type, numpy_dtype, tensors_of
from ..ir.visitor import bind, post_order
from ..targets.executor import GraphModule
from ..targets.program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step, as_group

Array = npt.NDArray[Any]
Leaf = Callable[[KernelStep | LibraryStep, list[Array]], list[Array]]
"""What runs one step: from arrays for its inputs to arrays for its outputs."""


def interpret(program: Program, given: Mapping[int, Array], leaf: Leaf) -> list[Array]:
    """The outputs of a program whose kernel and library steps are run by `leaf`, one after the other.

    Args:
        program: the steps.
        given: the inputs, by slot.
        leaf: runs a step.
    """
    tensors: dict[int, Array] = {**program.constants, **given}

    def read(slot: int) -> Array:
        return tensors[program.root(slot)].reshape(program.slots[slot].static_shape)

    def run(steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case CopyStep(source=source, target=target):
                    tensors[target] = read(source)
                case BranchStep(cond=cond, then=then, orelse=orelse):
                    run(then if bool(read(cond)) else orelse)
                case KernelStep() | LibraryStep():
                    results = leaf(step, [read(slot) for slot in step.inputs])
                    tensors.update(zip(step.outputs, results, strict=True))

    run(program.steps)
    return [read(slot) for slot in program.outputs]


def run_step(module: GraphModule, step: KernelStep | LibraryStep, values: Sequence[Array]) -> list[Array]:
    """Run one step of a module, as it was compiled, on arrays for its inputs; returns copies of its outputs.

    Inputs that are constants of the program keep their contents.
    """
    program = module.lib.program
    for slot, value in zip(step.inputs, values, strict=True):
        if program.root(slot) not in program.constants:
            np.copyto(module.tensor(slot), value)
    module.run_step(step)
    return [module.tensor(slot).copy() for slot in step.outputs]


def over_tensors(function: Function) -> Function:
    """A group whose parameters are tensors p0, p1, ...: tuples among them are taken apart."""
    params: list[Var] = []

    def fresh(type_: Type) -> Expr:
        if isinstance(type_, TupleType):
            return Tuple([fresh(field) for field in type_.fields])
        params.append(Var(f"p{len(params)}", type_))
        return params[-1]

    values = {param: fresh(param.checked_type) for param in function.params}
    return Function(params, bind(function.body, values), None, function.attrs)


def meaning(function: Function, values: Sequence[Array]) -> list[Array]:
    """What a group over tensors gives in float64 arithmetic, unrounded; tuples flattened."""
    named = {param.name_hint: value for param, value in zip(function.params, values, strict=True)}
    return leaves(evaluate(function, named))


def sensitivity(function: Function, values: Sequence[Array]) -> list[float]:
    """How far the results of a group move when every operator's result is rounded to its dtype, as without fusion.

    Much more than rounding where operators cancel digits, such as (x + 1e5) - 1e5: no kernel can do better there.
    """
    named = {param.name_hint: value for param, value in zip(function.params, values, strict=True)}
    moved = leaves(evaluate(function, named, stepwise=True))
    return [_farthest(a, b) for a, b in zip(moved, leaves(evaluate(function, named)), strict=True)]


def _farthest(a: Array, b: Array) -> float:
    wide = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(wide[0] - wide[1])
    return float(np.max(apart, initial=0.0, where=np.isfinite(apart)))


def leaves(value: Any) -> list[Array]:
    """Arrays out of tuples and lists within each other, in their order."""
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [np.asarray(value)]


def rounded(values: Sequence[Array], type_: Type) -> list[Array]:
    """Arrays in the dtypes that the tensors of a type have."""
    with np.errstate(over="ignore", invalid="ignore"):
        return [v.astype(numpy_dtype(t.dtype)) for v, t in zip(values, tensors_of(type_), strict=True)]


def calls_of(function: Function) -> list[Call]:
    """The operator calls of a group, operands first."""
    return [node for node in post_order(function.body) if isinstance(node, Call)]


def operands(call: Call, among: Sequence[Call]) -> list[int]:
    """Which of the calls of a group give a call its operands, directly or through tuples."""
    place = {id(other): k for k, other in enumerate(among)}
    stack, found = list(call.args), list[int]()
    while stack:
        node = stack.pop()
        if id(node) in place:
            found.append(place[id(node)])
        elif not isinstance(node, Var):
            stack.extend(part for part in post_order(node)[:-1] if isinstance(part, Call) and id(part) in place)
    return sorted(set(found))


def prefix(function: Function, call: Call) -> tuple[Function, list[int]]:
    """The part of a group that ends in `call`, and which of the group's parameters it takes."""
    used = {id(node) for node in post_order(call)}
    kept = [k for k, param in enumerate(function.params) if id(param) in used]
    return over_tensors(Function([function.params[k] for k in kept], call, None, {"Primitive": 1})), kept


def single(function: Function, call: Call, values: Sequence[Array]) -> tuple[Function, list[Array], dict[int, int]]:
    """A call as a group of its own: the group, what it gets in the reference, and what its parameters were before.

    Returns:
        The group over tensors; an array for each parameter; and for parameters that are parameters of `function` the
        position there.
    """
    alone = over_tensors(as_group(call))
    places = {id(param): k for k, param in enumerate(function.params)}
    arrays: list[Array] = []
    same: dict[int, int] = {}
    for arg in call.args:
        if id(arg) in places:
            same[len(arrays)] = places[id(arg)]
        got = leaves(meaning(Function(function.params, arg), values))
        arrays.extend(rounded(got, arg.checked_type))
    return alone, arrays, same
