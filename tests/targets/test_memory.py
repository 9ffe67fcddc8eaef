"""The memory plan: what is alive at the same time never shares bytes, what is not does; scratch and arena sizes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.targets.memory import ALIGN, Arena, lifetimes, lowest_gap, plan
from fusewire.targets.program import BranchStep, CopyStep, KernelStep, Program, Step

EMPTY = fw.Function([], fw.const(0.0))


def step(inputs: Sequence[int], outputs: Sequence[int]) -> KernelStep:
    return KernelStep("k", EMPTY, tuple(inputs), tuple(outputs))


def program(
    sizes: Sequence[int], steps: Sequence[Step], inputs: Sequence[int] = (), outputs: Sequence[int] = ()
) -> Program:
    slots = tuple(fw.TensorType((n,), "int8") for n in sizes)
    return Program(slots, {f"x{s}": (s,) for s in inputs}, {}, tuple(outputs), tuple(steps), EMPTY)


def rounded(size: int) -> int:
    return -(-max(size, 1) // ALIGN) * ALIGN


def check(made: Program, arena: Arena) -> None:
    """No two tensors that are alive at one time overlap; all lie inside and are aligned."""
    alive = lifetimes(made)
    assert arena.offsets.keys() == alive.keys()
    fixed = {s for slots in made.inputs.values() for s in slots} | set(made.outputs) | made.constants.keys()
    assert not fixed & alive.keys()
    spans = {s: (arena.offsets[s], arena.offsets[s] + made.slots[s].nbytes) for s in alive}
    for a, (start, end) in spans.items():
        assert start % ALIGN == 0 and start >= 0 and end <= arena.size
        for b, (other, stop) in spans.items():
            together = alive[a][0] <= alive[b][1] and alive[b][0] <= alive[a][1]
            assert a == b or not together or end <= other or stop <= start
    assert arena.size <= sum(rounded(made.slots[s].nbytes) for s in alive)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Steps that read earlier tensors and make new ones, some inside of branches."""
    sizes = [draw(st.integers(0, 500)) for _ in range(draw(st.integers(1, 3)))]
    inputs = list(range(len(sizes)))
    steps: list[Step] = []

    def one(visible: list[int]) -> Step:
        reads = draw(st.lists(st.sampled_from(visible), min_size=1, max_size=3))
        first = len(sizes)
        sizes.extend(draw(st.lists(st.integers(0, 500), min_size=1, max_size=2)))
        return step(reads, range(first, len(sizes)))

    for _ in range(draw(st.integers(1, 12))):
        visible = list(range(len(sizes)))
        if draw(st.integers(0, 4)):
            steps.append(one(visible))
            continue
        target = len(sizes)
        sizes.append(40)
        arms: list[tuple[Step, ...]] = []
        for _ in range(2):
            inner = one(visible)
            assert isinstance(inner, KernelStep)
            arms.append((inner, CopyStep(inner.outputs[0], target)))
        steps.append(BranchStep(draw(st.sampled_from(visible)), arms[0], arms[1]))
    made = draw(st.lists(st.integers(len(inputs), len(sizes) - 1), min_size=1, max_size=2, unique=True))
    return program(sizes, steps, inputs, made)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(programs())
def test_random_programs(made: Program) -> None:
    check(made, plan(made))


def test_a_chain_needs_two_buffers() -> None:
    steps = [step([k], [k + 1]) for k in range(10)]
    made = program([1000] * 11, steps, inputs=[0], outputs=[10])
    arena = plan(made)
    check(made, arena)
    assert arena.size == 2 * 1024
    assert len(set(arena.offsets.values())) == 2


def test_large_tensors_are_placed_first() -> None:
    """Small ones go into the gap that a large one leaves when it is no longer needed."""
    steps = [step([0], [1]), step([1], [2]), step([2], [3]), step([3], [4])]
    made = program([8, 4096, 64, 4096, 8], steps, inputs=[0], outputs=[4])
    arena = plan(made)
    check(made, arena)
    assert arena.size == 4096 + 64


def test_a_branch_counts_as_one_step() -> None:
    """What an arm reads stays alive through both arms, and what it makes is not where that lies."""
    arms = [(step([1], [3]), CopyStep(3, 5)), (step([2], [4]), CopyStep(4, 5))]
    made = program([4, 100, 100, 100, 100, 100, 4], [step([0], [1, 2]), BranchStep(0, *arms), step([5], [6])], [0], [6])
    arena = plan(made)
    check(made, arena)
    assert len({arena.offsets[s] for s in (1, 2, 3, 5)}) == 4


def test_nothing_to_place() -> None:
    made = program([4, 4], [step([0], [1])], inputs=[0], outputs=[1])
    assert plan(made) == Arena({}, 0)


@pytest.mark.parametrize(
    ("size", "busy", "offset"),
    [(64, [], 0), (64, [(0, 64)], 64), (64, [(64, 128)], 0), (128, [(64, 128)], 128), (64, [(0, 64), (128, 192)], 64),
     (64, [(0, 256), (64, 128)], 256)],
)  # fmt: skip
def test_lowest_gap(size: int, busy: list[tuple[int, int]], offset: int) -> None:
    assert lowest_gap(size, [(start, end, 0, 0) for start, end in busy]) == offset


def test_through_the_compiler() -> None:
    """A chain of reductions that cannot be fused: buffers are reused, and the results are right all the same."""
    x = fw.var("x", shape=(16, 256))
    value: fw.Expr = x
    for _ in range(6):
        value = fw.nn.softmax(value * 3.0)
    early = fw.nn.softmax(x)
    lib = fw.build(fw.Function([x], fw.Tuple([value + early, fw.sum(early, 1)])))
    check(lib.program, lib.arena)
    one = 16 * 256 * 4
    assert lib.arena.size <= 3 * one < sum(t.nbytes for t in lib.program.slots)
    data = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
    expected = fw.testing.evaluate(fw.Function([x], fw.Tuple([value + early, fw.sum(early, 1)])), {"x": data})
    for _ in range(2):
        for got, want in zip(lib(x=data), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
