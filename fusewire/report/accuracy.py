"""Errors against float64: of a model's results, and of every tensor that a group hands on.

The reference of the results is the model as it was read, before any pass, by the operators' NumPy references. The
reference of inner tensors is the graph that a target runs, group by group beside the running module, as only that graph
has these tensors. So an error of a group holds what came in through its inputs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..bisection.groups import leaves, meaning, over_tensors
from ..fuse.evaluate import evaluate, wide
from ..fuse.inline import bind_params, inline, typed
from ..ir.module import IRModule
from ..targets.executor import GraphModule
from ..targets.program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step, flatten
from .data import Accuracy

Array = npt.NDArray[Any]

BINS = (0.0, *(2.0**k for k in range(-1, 11)))
"""Upper ends of the classes of a histogram of errors, in units in the last place; larger errors have one more class."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


def accuracy(got: Array, reference: Array, rtol: float, atol: float, rounding: float = 0.0) -> Accuracy:
    """The errors of a tensor; `reference` has its shape, and its dtype or float64.

    Elements may be off by atol + rtol * |reference| + rounding * the largest |reference|, the last for floating ones.
    """
    floating = got.dtype.name in FLOATS
    kind: Any = np.float64 if floating else np.longdouble  # which holds 64-bit integers
    a: Array = got.astype(kind)
    b: Array = reference.astype(kind)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        rounded = b.astype(got.dtype)  # a reference beyond the dtype's range is an infinity there
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (got == rounded))
        absolute = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))
        relative = np.where(same, 0.0, np.nan_to_num(absolute / np.abs(b), nan=np.inf, posinf=np.inf))
        size = np.where(np.isfinite(b), np.abs(b), 0.0)
        largest = float(size.max(initial=0.0))
        beyond = ~same & ~(absolute <= atol + rtol * size + (rounding * largest if floating else 0.0))
        ulps = np.where(same, 0.0, absolute / _spacing(rounded)) if floating else None
    place = np.unravel_index(int(absolute.argmax()), absolute.shape) if absolute.size else ()
    worst = float(absolute[place]) if absolute.size else 0.0
    return Accuracy(
        max_abs=worst,
        max_rel=float(relative.max(initial=0.0)),
        scaled=worst / largest if largest else worst,
        max_ulp=None if ulps is None else float(ulps.max(initial=0.0)),
        beyond=int(beyond.sum()),
        size=int(got.size),
        worst=tuple(int(k) for k in place),
        value=float(a[place]) if a.size else 0.0,
        reference=float(b[place]) if a.size else 0.0,
        histogram=histogram(absolute if ulps is None else ulps),
    )


def histogram(errors: Array) -> tuple[int, ...]:
    """How many errors fall into each class of `BINS`, and above."""
    counts = np.bincount(np.searchsorted(BINS, errors.ravel(), side="left"), minlength=len(BINS) + 1)
    return tuple(int(n) for n in counts)


def _spacing(values: Array) -> Array:
    """One unit in the last place of each value, as float64; of the largest finite one for infinities."""
    limits: Any = ml_dtypes.finfo(values.dtype)  # type: ignore[no-untyped-call]
    _, exponent = np.frexp(np.abs(values).astype(np.float64))  # 0.5 <= mantissa < 1
    lowest = int(limits.minexp) - int(limits.nmant)
    exponent = np.where(np.isfinite(values), exponent - 1, int(limits.maxexp) - 1) - int(limits.nmant)
    return np.ldexp(1.0, np.maximum(np.where(values == 0, lowest, exponent), lowest))


def reference(mod: IRModule, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Array]:
    """The results of a model in float64, by its meaning before any pass.

    Raises:
        FusewireError: it holds something that has no NumPy reference.
    """
    main = typed(bind_params(inline(mod), params))
    return leaves(evaluate(main, inputs))


def follow(
    module: GraphModule, inputs: Mapping[str, Any], rtol: float, atol: float, rounding: float = 0.0
) -> dict[str, Accuracy]:
    """Run a module step by step, and the same in float64 beside it; the error of each step's results, by its name.

    Of several results the one with the largest error, relative to its largest element, counts.

    Raises:
        FusewireError: a step holds something that has no NumPy reference.
    """
    beside = _Beside(module.lib.program, inputs)
    found: dict[str, Accuracy] = {}

    def visit(step: Step, seconds: float) -> None:
        beside.step(step)
        if isinstance(step, KernelStep | LibraryStep):
            errors = [accuracy(module.tensor(s), beside.values[s], rtol, atol, rounding) for s in step.outputs]
            if errors:
                found[step.name] = max(errors, key=lambda e: e.scaled)
            beside.forget(step.inputs)

    for name, value in inputs.items():
        module.set_input(name, value)
    module.walk(visit)
    return found


class _Beside:
    """A program in float64: the values of its tensors for as long as they are needed."""

    def __init__(self, program: Program, inputs: Mapping[str, Any]) -> None:
        self.program = program
        self.values: dict[int, Array] = {s: wide(a) for s, a in program.constants.items()}
        for name, slots in program.inputs.items():
            self.values |= {s: wide(a) for s, a in zip(slots, leaves(inputs[name]), strict=True)}
        steps = flatten(program.steps)
        self.left = Counter(program.root(s) for step in program.leaf_steps() for s in step.inputs)
        kept = [s.source for s in steps if isinstance(s, CopyStep)]
        kept += [s.cond for s in steps if isinstance(s, BranchStep)]
        self.kept = {program.root(s) for s in (*kept, *program.outputs)}

    def step(self, step: Step) -> None:
        """Compute what a step gives."""
        match step:
            case CopyStep(source=source, target=target):
                self.values[target] = self._value(source)
            case KernelStep() | LibraryStep():
                results = meaning(over_tensors(step.function), [self._value(s) for s in step.inputs])
                self.values |= {s: wide(a) for s, a in zip(step.outputs, results, strict=True)}

    def _value(self, slot: int) -> Array:
        """A tensor's value; some are the memory of another under another shape."""
        return self.values[self.program.root(slot)].reshape(self.program.slots[slot].static_shape)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop values that no later step reads."""
        for slot in map(self.program.root, slots):
            self.left[slot] -= 1
            if not self.left[slot] and slot not in self.kept:
                self.values.pop(slot, None)
