"""Which groups of different targets stand beside each other: those that cover the same operators.

All targets start from one graph and change it only here and there, so their operators, groups opened, are nearly the
same list. The lists are aligned, as a text comparison aligns lines, in two steps: first the operators that compute
(name and number of elements are what must be equal; layouts may differ), then, between those, the ones that only move
data. Aligned operators are one operator of the model. Groups that share one belong together:

    target A   [ conv2d   add   relu ]  [ max_pool2d ]
    target B   [ conv2d ] [ add  relu ] [ layout_transform ] [ max_pool2d ]
               '------ region 1 ------' '--- only in B ----' '- region 2 -'

So a region is the smallest part of the model that every target runs by itself, and its times can be compared.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

from ..ir.expr import Call, Expr, Tuple, Var
from ..ir.types import tensors_of
from ..ir.visitor import children
from ..ops.spec import Fusion, OpSpec
from ..targets.program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step

Node: TypeAlias = tuple[int, Expr]
"""An expression inside of a step."""


@frozen
class Operation:
    """An operator of the model as a target runs it.

    Attributes:
        step: the number of the step that runs it, among the program's leaf steps.
        name: of the operator.
        size: elements of its results.
        moves: whether it only moves or converts elements.
    """

    step: int
    name: str
    size: int
    moves: bool

    @property
    def token(self) -> tuple[str, int]:
        """What must be equal in two targets."""
        return self.name, self.size


@frozen
class Area:
    """A region: for each target the numbers of its steps, and the operations of the first target that has any."""

    steps: tuple[tuple[int, ...], ...]
    operations: tuple[Operation, ...]


@define(eq=False)
class _Flow:
    """Where tensors of a program come from."""

    program: Program
    leaves: list[KernelStep | LibraryStep] = field(init=False)
    makers: dict[int, list[Node]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.leaves = self.program.leaf_steps()
        numbers = {id(step): k for k, step in enumerate(self.leaves)}
        self._enter(self.program.steps, numbers, [])

    def _enter(self, steps: Sequence[Step], numbers: dict[int, int], conditions: list[int]) -> None:
        for step in steps:
            match step:
                case CopyStep(source=source, target=target):
                    known = [*conditions, source]
                    self.makers.setdefault(target, []).extend(m for s in known for m in self.of(s))
                case BranchStep(cond=cond, then=then, orelse=orelse):
                    self._enter(then, numbers, [*conditions, cond])
                    self._enter(orelse, numbers, [*conditions, cond])
                case KernelStep() | LibraryStep():
                    results = _results(step.function.body)
                    for slot, result in zip(step.outputs, results, strict=True):
                        self.makers[slot] = [(numbers[id(step)], result)]

    def of(self, slot: int) -> list[Node]:
        """What makes a tensor; nothing for inputs and constants."""
        return self.makers.get(self.program.root(slot), [])

    def before(self, node: Node) -> list[Node]:
        """What a node is computed from."""
        number, expr = node
        if not isinstance(expr, Var):
            return [(number, child) for child in children(expr)]
        step, place = self.leaves[number], 0
        for param in step.function.params:
            count = len(tensors_of(param.checked_type))
            if param is expr:
                return [m for slot in step.inputs[place : place + count] for m in self.of(slot)]
            place += count
        return []

    def order(self) -> Iterator[Node]:
        """All nodes once, operands first, in an order that does not depend on the grouping."""
        seen: set[tuple[int, int]] = set()
        results = [m for slot in self.program.outputs for m in self.of(slot)]
        stack = [(node, False) for node in reversed(results)]
        while stack:
            node, ready = stack.pop()
            key = node[0], id(node[1])
            if ready:
                yield node
            elif key not in seen:
                seen.add(key)
                stack.append((node, True))
                stack.extend((before, False) for before in reversed(self.before(node)))


def _results(body: Expr) -> list[Expr]:
    """The expression behind each tensor that a body gives."""
    if isinstance(body, Tuple):
        return [result for part in body.fields for result in _results(part)]
    return [body] * len(tensors_of(body.checked_type))


def operations(program: Program) -> list[Operation]:
    """The operators of a program, groups opened."""
    found = []
    for number, expr in _Flow(program).order():
        if isinstance(expr, Call):
            moves = isinstance(expr.op, OpSpec) and (expr.op.fusion is Fusion.INJECTIVE or expr.op.name == "cast")
            size = sum(prod(t.static_shape) for t in tensors_of(expr.checked_type))
            found.append(Operation(number, str(expr.op), size, moves))
    return found


def align(first: Sequence[Operation], other: Sequence[Operation]) -> list[tuple[int, int]]:
    """Pairs of places in two lists of operations that hold the same operation, ascending in both."""
    anchors = _aligned(first, other, [k for k, o in enumerate(first) if not o.moves],
                       [k for k, o in enumerate(other) if not o.moves])  # fmt: skip
    pairs = list(anchors)
    ends = [(-1, -1), *anchors, (len(first), len(other))]
    for (a, b), (c, d) in pairwise(ends):
        movers = ([k for k in range(a + 1, c) if first[k].moves], [k for k in range(b + 1, d) if other[k].moves])
        pairs += _aligned(first, other, *movers)
    return sorted(pairs)


def _aligned(
    first: Sequence[Operation], other: Sequence[Operation], places: Sequence[int], others: Sequence[int]
) -> list[tuple[int, int]]:
    if not places or not others:
        return []
    found = common([first[k].token for k in places], [other[k].token for k in others])
    return [(places[a], others[b]) for a, b in found]


def common(first: Sequence[Any], other: Sequence[Any]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence of two lists.

    By the classic table of Wagner and Fischer ("The string-to-string correction problem", 1974), a row at a time. What
    is equal at both ends is taken off before, which mostly leaves little. (difflib looks for long runs instead: in a
    network of equal blocks it then pairs the wrong ones.)
    """
    numbers: dict[Any, int] = {}
    a = np.array([numbers.setdefault(t, len(numbers)) for t in first], int)
    b = np.array([numbers.setdefault(t, len(numbers)) for t in other], int)
    head = _same_ends(a, b)
    tail = _same_ends(a[head:][::-1], b[head:][::-1])
    n, m = len(a) - tail, len(b) - tail
    table = np.zeros((n - head + 1, m - head + 1), np.int32)
    for i in range(head, n):
        above = table[i - head]
        longer = np.where(b[head:m] == a[i], above[:-1] + 1, 0)
        table[i - head + 1, 1:] = np.maximum.accumulate(np.maximum(above[1:], longer))
    inner = []
    i, j = n - head, m - head
    while i and j:
        if a[head + i - 1] == b[head + j - 1]:
            i, j = i - 1, j - 1
            inner.append((head + i, head + j))
        elif table[i - 1, j] >= table[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return [*((k, k) for k in range(head)), *reversed(inner), *((n + k, m + k) for k in range(tail))]


def _same_ends(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    """How many elements at the beginning of two arrays are equal."""
    short = min(len(a), len(b))
    different = np.flatnonzero(a[:short] != b[:short])
    return int(different[0]) if different.size else short


def areas(programs: Sequence[Program]) -> tuple[list[Area], list[tuple[int, int]]]:
    """The regions of several programs of one model, in the order they run.

    Returns:
        The regions, and for each program how many of its operators the first has too, and how many it has.
    """
    import networkx as nx  # noqa: PLC0415 - slow to import, and only needed here

    lists = [operations(program) for program in programs]
    graph, matched = nx.Graph(), []
    place: dict[tuple[int, int], tuple[int, int, int]] = {}
    for target, (program, own) in enumerate(zip(programs, lists, strict=True)):
        graph.add_nodes_from((target, step) for step in range(len(program.leaf_steps())))
        same = {b: a for a, b in align(lists[0], own)} if target else {k: k for k in range(len(own))}
        matched.append((len(same), len(own)))
        last = -1
        for k, operation in enumerate(own):
            last = max(last, same.get(k, last))
            node = target, operation.step
            place.setdefault(node, (last, target, k))
            if k in same:
                graph.add_edge(node, ("operator", same[k]))
    parts = [sorted(n for n in part if n[0] != "operator") for part in nx.connected_components(graph)]
    parts = sorted((p for p in parts if p), key=lambda part: min(place.get(n, (len(lists[0]), *n)) for n in part))
    return [_area(part, lists) for part in parts], matched


def _area(part: Sequence[Any], lists: Sequence[Sequence[Operation]]) -> Area:
    steps = tuple(tuple(step for t, step in part if t == target) for target in range(len(lists)))
    target = next(t for t, own in enumerate(steps) if own)
    return Area(steps, tuple(o for o in lists[target] if o.step in steps[target]))
