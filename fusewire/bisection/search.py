"""The search for the first group, and the first operator in it, where two compiled modules part.

Two modules of one graph may be fused differently, so their intermediate tensors cannot be compared with each other.
Instead every group of each module is run *as it was compiled* on the tensors that a float64 reference has there, and
its result compared with what the group's operators give in float64 for those same inputs. Errors of earlier groups
thus never reach later ones, and a group that differs is guilty itself. Inside of it, prefixes of its operators are
compiled by themselves, by the same implementation, until one is found whose operands are right and whose result is not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from attrs import define, field, frozen

from ..commands.differences import Difference, difference
from ..fuse.evaluate import evaluate
from ..fuse.inline import inline, typed
from ..ir.errors import FusewireError
from ..ir.expr import Call, Expr, Function
from ..ir.module import IRModule
from ..ops.spec import OpSpec
from ..targets.compiled import CompiledModule
from ..targets.device import device
from ..targets.executor import GraphModule
from ..targets.explain import operators
from ..targets.libraries import find_library
from ..targets.program import KernelStep, LibraryStep, as_group
from .alone import How, run_alone
from .groups import (
    calls_of,
    interpret,
    leaves,
    meaning,
    operands,
    over_tensors,
    prefix,
    rounded,
    run_step,
    sensitivity,
    single,
)
from .result import Bisection, Mismatch, Probe, Tolerance, largest

Array = npt.NDArray[Any]

SENSITIVE = 4.0
"""How much farther than by rounding each operator's result once a group's result may be; kernels round otherwise."""
WHOLE = 10.0
"""Factor on the tolerance of a whole network's results, where none is given: many groups' roundings add up in them."""


def bisect_mismatch(
    lib_a: CompiledModule,
    lib_b: CompiledModule | None,
    inputs: Mapping[str, Any],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    reference: IRModule | Expr | None = None,
) -> Bisection:
    """Find the first group, then the first operator, where two modules part, or one and its float64 reference.

    Every group of both is looked at, also where the results agree.

    Args:
        lib_a: a module.
        lib_b: a module made from the same graph for another target; None: compare `lib_a` with the float64 reference.
        inputs: arrays for the inputs, by name, as for calling a module.
        rtol: elements may differ by atol + rtol * |reference|. None: by dtype, 1e-4 for float32, 1e-9 for float64, 4e-3
            for float16, 2e-2 for bfloat16; 10 times as much for the results of the whole, and more for operators that
            are known to lose digits. Integers must be equal.
        atol: see rtol. None: as rtol where that is None, times the largest value of the reference.
        reference: the graph before any pass, with its parameters bound, to tell passes that changed its meaning.

    Returns:
        What was found; `str()` tells it, `write_reproducer` writes it down as a script.

    Raises:
        FusewireError: the modules have different inputs or outputs, or one cannot run.
    """
    tolerance = Tolerance(rtol, atol)
    libs = [lib_a] if lib_b is None else [lib_a, lib_b]
    _check_alike(lib_a, libs[-1])
    sides = [_Side.of(lib, inputs, tolerance) for lib in libs]
    graph = None if reference is None else _graph(reference, inputs, lib_a)
    for side in sides:
        side.look()
    against = sides[1].outputs if len(sides) == 2 else graph or sides[0].exact()
    outputs = _differences(sides[0].outputs, against, tolerance)
    verdict, message = _verdict(sides, graph, outputs, tolerance)
    names = [str(side.lib.target) for side in sides]
    return Bisection(
        verdict,
        message,
        (*names, *(["reference"] if len(names) == 1 else [])),
        tuple(outputs),
        tuple(side.mismatch for side in sides if side.mismatch),
        {str(side.lib.target): tuple(side.parted) for side in sides if side.parted},
        tuple(side.groups for side in sides),
        max((side.worst for side in sides if side.worst), key=lambda found: found[1], default=None),
    )


def _check_alike(a: CompiledModule, b: CompiledModule) -> None:
    """Check that two modules take and give the same.

    Raises:
        FusewireError: they do not.
    """
    for what, one, other in (
        ("inputs", a.program.types, b.program.types),
        ("outputs", [a.program.slots[s] for s in a.program.outputs], [b.program.slots[s] for s in b.program.outputs]),
    ):
        if one != other:
            raise FusewireError(f"the modules are not of one graph: their {what} are {one} and {other}")


def _graph(reference: IRModule | Expr, inputs: Mapping[str, Any], lib: CompiledModule) -> list[Array]:
    """The outputs that the graph before all passes has in float64, rounded as the module's are."""
    mod = reference if isinstance(reference, IRModule) else IRModule.from_expr(reference)
    main = typed(inline(mod))
    if missing := [p.name_hint for p in main.params if p.name_hint not in inputs]:
        raise FusewireError(f"the reference needs {', '.join(missing)}; bind parameters that are constants")
    return rounded(leaves(evaluate(main, inputs)), lib.program.function.body.checked_type)


def _differences(got: Sequence[Array], expected: Sequence[Array], tolerance: Tolerance) -> list[Difference]:
    return [tolerance.difference(a, b, WHOLE) for a, b in zip(got, expected, strict=True)]


def _verdict(
    sides: Sequence["_Side"], graph: list[Array] | None, outputs: Sequence[Difference], tolerance: Tolerance
) -> tuple[str, str]:
    """The kind of difference, and a sentence on it."""
    results = f"the results differ by up to {max((d.max_abs for d in outputs), default=0.0):.3g}"
    if guilty := [side for side in sides if side.mismatch]:
        found = "; ".join(side.told() for side in guilty)
        if all(d.within for d in outputs):
            results = "the results agree within the tolerance, and yet"
            return "operator", f"{results} {found}"
        return "operator", f"{results}: {found}"
    if all(d.within for d in outputs):
        return "agree", f"no difference: the results agree, and so does each of {_counted(sides)} with its reference"
    if wrong := _wrong_graph(sides, graph, tolerance):
        return "passes", f"{results}, but each of {_counted(sides)} computes what it should: {wrong}"
    if together := [side for side in sides if not side.same_singly()]:
        names = " and ".join(f"'{side.lib.target}'" for side in together)
        return "together", f"{results}: for {names} every step is right by itself, and wrong when all run as a whole"
    return "rounding", f"{results}, but no group differs by itself: small differences of {_counted(sides)} add up"


def _counted(sides: Sequence["_Side"]) -> str:
    """How many groups there are, of each module where that is not the same."""
    first, *others = counts = [side.groups for side in sides]
    if all(count == first for count in others):
        return f"{first} groups"
    return " and ".join(f"{n} groups for '{side.lib.target}'" for n, side in zip(counts, sides, strict=True))


def _wrong_graph(sides: Sequence["_Side"], graph: list[Array] | None, tolerance: Tolerance) -> str | None:
    """How the graphs after the passes differ in meaning, or None."""
    exact = [side.exact() for side in sides]
    wrong = [
        side
        for side, own in zip(sides, exact, strict=True)
        if graph is not None and not all(d.within for d in _differences(own, graph, tolerance))
    ]
    if wrong:
        names = " and ".join(f"'{side.lib.target}'" for side in wrong)
        return f"the passes for {names} changed what the graph means"
    if len(exact) == 2 and not all(d.within for d in _differences(exact[0], exact[1], tolerance)):
        return "after the passes the two graphs do not mean the same"
    return None


@define(eq=False)
class _Side:
    """One of the modules, and what was found of it."""

    lib: CompiledModule
    module: GraphModule
    tolerance: Tolerance
    outputs: list[Array]
    given: dict[int, Array]
    mismatch: Mismatch | None = None
    parted: list[str] = field(factory=list)
    groups: int = 0
    worst: tuple[str, float] | None = None

    @staticmethod
    def of(lib: CompiledModule, inputs: Mapping[str, Any], tolerance: Tolerance) -> "_Side":
        """Run a module as a whole."""
        module = GraphModule(lib[lib.name](device(lib.target.kind)))
        module.run(**inputs)
        outputs = [module.get_output(k).numpy().copy() for k in range(module.get_num_outputs())]
        given = {slot: module.tensor(slot).copy() for slots in lib.program.inputs.values() for slot in slots}
        return _Side(lib, module, tolerance, outputs, given)

    def look(self) -> None:
        """Compare every group with its reference, on the reference's inputs."""
        interpret(self.lib.program, self.given, self._compared)

    def _compared(self, step: KernelStep | LibraryStep, values: list[Array]) -> list[Array]:
        function = over_tensors(step.function)
        expected = rounded(meaning(function, values), function.body.checked_type)
        found = _compare(function, values, run_step(self.module, step, values), expected, self.tolerance)
        self.groups += 1
        relative = max((d.max_abs / (largest(e) or 1.0) for d, e in zip(found, expected, strict=True)), default=0.0)
        if self.worst is None or relative > self.worst[1]:
            self.worst = step.name, relative
        if not all(d.within for d in found):
            self.parted.append(step.name)
            if self.mismatch is None:
                self.mismatch = _Narrowing(self.lib, step, function, values, self.tolerance).mismatch(_most(found))
        return expected

    def told(self) -> str:
        """The mismatch in a sentence."""
        assert self.mismatch is not None
        m, more = self.mismatch, len(self.parted) - 1
        others = f" ({more} more groups differ)" if more > 1 else " (1 more group differs)" if more else ""
        where = f"{m.op} in {m.group}" if m.narrowed else m.group
        return f"for '{m.target}' {where}, run by {m.implementation}, is off by up to {m.max_abs:.3g}{others}"

    def exact(self) -> list[Array]:
        """The outputs that the module's graph has in float64, rounded at the very end only."""
        program = self.lib.program
        wide = interpret(program, self.given, lambda step, values: meaning(over_tensors(step.function), values))
        return rounded(wide, program.function.body.checked_type)

    def same_singly(self) -> bool:
        """Whether running the steps one by one, each in fresh memory, gives what the whole run gave."""
        singly = interpret(self.lib.program, self.given, lambda step, values: run_step(self.module, step, values))
        return all(d.within for d in _differences(self.outputs, singly, self.tolerance))


def _limits(
    function: Function, values: Sequence[Array], expected: Sequence[Array], tolerance: Tolerance
) -> list[tuple[float, float]]:
    """The tolerances for each result of a group, wider where rounding alone moves the result."""
    factor = _looseness(function)
    limits = [tolerance.limits(e, factor) for e in expected]
    if tolerance.atol is not None:
        return limits
    return [(r, a + SENSITIVE * s) for (r, a), s in zip(limits, sensitivity(function, values), strict=True)]


def _compare(
    function: Function, values: Sequence[Array], got: Sequence[Array], expected: Sequence[Array], tolerance: Tolerance
) -> list[Difference]:
    """How far the results of a group are from those expected."""
    factor = _looseness(function)
    found = [tolerance.difference(a, b, factor) for a, b in zip(got, expected, strict=True)]
    if all(d.within for d in found):
        return found
    limits = _limits(function, values, expected, tolerance)  # costs a second evaluation
    return [difference(a, b, *own) for a, b, own in zip(got, expected, limits, strict=True)]


def _looseness(function: Function) -> float:
    """The largest factor on the tolerance that an operator of a group declares."""
    return max((c.op.tolerance for c in calls_of(function) if isinstance(c.op, OpSpec)), default=1.0)


def _most(found: Sequence[Difference]) -> Difference:
    return max(found, key=lambda d: (not d.within, d.max_abs))


@frozen(eq=False)
class _Tried:
    """A prefix that was compiled and compared."""

    function: Function
    arrays: list[Array]
    known: list[int]
    expected: list[Array]
    difference: Difference
    probe: Probe


@define(eq=False)
class _Narrowing:
    """The search inside of one group."""

    lib: CompiledModule
    step: KernelStep | LibraryStep
    function: Function
    values: list[Array]
    tolerance: Tolerance
    calls: list[Call] = field(init=False)
    known: set[int] = field(init=False)
    how: How = field(init=False)
    tried: dict[int, _Tried] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.calls = calls_of(self.function)
        program = self.lib.program
        self.known = {k for k, slot in enumerate(self.step.inputs) if slot in program.constants}
        self.how = _how(self.lib, self.step)

    def mismatch(self, whole: Difference) -> Mismatch:
        """The operator where the group goes wrong."""
        last = len(self.calls) - 1
        end = self._end()
        guilty = None if end is None else self._first(end)
        call = self.calls[last if guilty is None else guilty]
        tried = self.tried[last if guilty is None else guilty]
        function, arrays, known, expected = tried.function, tried.arrays, tried.known, tried.expected
        limits = _limits(function, arrays, expected, self.tolerance)
        return Mismatch(
            str(self.lib.target),
            self.step.name,
            operators(self.function),
            self.lib.runnable.label(self.step)[1],
            str(call.op),
            _shown(call),
            tuple(str(arg.checked_type) for arg in call.args),
            str(call.checked_type),
            whole if guilty is None else tried.difference,
            whole,
            guilty is not None,
            None if guilty is None else self._alone(guilty),
            tuple(t.probe for t in self.tried.values()),
            function,
            tuple(arrays),
            tuple(known),
            tuple(expected),
            self.how,
            (max(r for r, _ in limits), max(a for _, a in limits)),
        )

    def _end(self) -> int | None:
        """A call near the beginning whose result is wrong, by halving; there may be earlier ones among its operands."""
        low, high = -1, len(self.calls) - 1
        if not self.parts(high):  # in a group of several results, another may be wrong
            return next((k for k in range(high) if self.parts(k)), None)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.parts(middle) else (middle, high)
        return high

    def _first(self, start: int) -> int:
        """From a call whose result is wrong to one with right operands and a wrong result."""
        while True:
            wrong = next((k for k in operands(self.calls[start], self.calls) if self.parts(k)), None)
            if wrong is None:
                return start
            start = wrong

    def parts(self, position: int) -> bool:
        """Whether the prefix that ends in a call differs from its reference."""
        if position not in self.tried:
            function, kept = prefix(self.function, self.calls[position])
            arrays = [self.values[k] for k in kept]
            known = [k for k, old in enumerate(kept) if old in self.known]
            self.tried[position] = self._try(function, arrays, known, str(self.calls[position].op))
        return self.tried[position].probe.parts

    def _alone(self, position: int) -> bool | None:
        """Whether a call is wrong without its neighbours, too."""
        if len(self.calls) == 1:
            return None
        function, arrays, places = single(self.function, self.calls[position], self.values)
        known = [k for k, old in places.items() if old in self.known]
        try:
            return self._try(function, arrays, known, str(self.calls[position].op)).probe.parts
        except FusewireError:
            return None

    def _try(self, function: Function, arrays: list[Array], known: list[int], op: str) -> _Tried:
        type_ = function.body.checked_type
        expected = rounded(meaning(function, arrays), type_)
        ran = run_alone(function, arrays, known, self.how)
        found = _most(_compare(function, arrays, ran.outputs, expected, self.tolerance))
        probe = Probe(op, ran.implementations, not found.within, found.max_abs)
        return _Tried(function, arrays, known, expected, found, probe)


def _shown(call: Call) -> str:
    """A call as text, its operands as %p0, %p1, ..."""
    last = str(as_group(call).body).strip().splitlines()[-1]
    return last.split(" /* ty=")[0]


def _how(lib: CompiledModule, step: KernelStep | LibraryStep) -> How:
    """How a step of a module was compiled."""
    runnable, kind = lib.runnable, lib.target.kind
    if isinstance(step, LibraryStep):
        name = str(step.function.attrs["Compiler"])
        library = find_library(name)  # that of a build with -libs=auto refuses what was not measured
        rule = runnable.report.rule(step).implementation(kind)
        return How(kind, runnable.code.isa, lib.threads, rule, {}, library)
    compiled = runnable.code.of(step)
    config = next(
        (c.config for c in compiled.candidates if c.name == compiled.implementation and c.refusal is None), {}
    )
    return How(kind, runnable.code.isa, lib.threads, compiled.implementation, config)
