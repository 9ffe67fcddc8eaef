"""Groups of different targets that cover the same operators stand beside each other."""

from itertools import combinations, pairwise

import numpy as np
import pytest

import fusewire as fw
from fusewire.report.match import Operation, align, areas, common, operations
from tests.random_graphs import random_graph
from tests.report.samples import FUSED, PLAIN, UNFUSED, built, network, unit


def names(library: fw.CompiledModule, steps: tuple[int, ...]) -> list[str]:
    return [library.program.leaf_steps()[k].name.removeprefix("fusewire_default_fused_") for k in steps]


def test_a_fused_group_stands_beside_its_parts() -> None:
    one, two = built(network(), FUSED), built(network(), UNFUSED)
    found, matched = areas([one.program, two.program])
    assert matched == [(10, 10), (10, 10)]
    assert [len(a.steps[0]) for a in found] == [1, 1, 1, 1] and [len(a.steps[1]) for a in found] == [3, 3, 3, 1]
    assert names(one, found[1].steps[0]) == ["nn_conv2d_add_nn_relu_1"]
    assert names(two, found[1].steps[1]) == ["nn_conv2d_1", "add_1", "nn_relu_1"]
    assert [o.name for o in found[1].operations] == ["nn.conv2d", "add", "nn.relu"]


def test_changes_of_layout_stand_alone() -> None:
    data = fw.var("data", shape=(1, 32, 28, 28))
    function = fw.Function([data], unit(unit(data, "a", 32, 32), "b", 32, 32))
    blocked, plain = built(function, UNFUSED), built(function, {**UNFUSED, "disabled_pass": ["FuseOps", "AlterLayout"]})
    found, matched = areas([blocked.program, plain.program])
    ops = [o.name for o in operations(blocked.program)]
    assert ops.count("layout_transform") == 2
    assert matched == [(8, 8), (6, 6)]
    alone = [a for a in found if not all(a.steps)]
    assert [[o.name for o in a.operations] for a in alone] == [["layout_transform"]] * 2
    assert alone == [found[0], found[-1]], "they come where they run: first and last"


def test_fusion_across_each_others_borders_makes_one_region() -> None:
    """Where A fuses 1+2, 3+4 and B fuses 2+3, the smallest part that both run by themselves is 1 to 4."""
    x = fw.var("x", shape=(4, 6))

    def group(kinds: list[str], value: fw.Expr) -> fw.Expr:
        p = fw.var("p0", shape=(4, 6))
        body: fw.Expr = p
        for kind in kinds:
            body = getattr(fw, kind)(body)
        return fw.Call(fw.Function([p], body, None, {"Primitive": 1}), [value])

    def program(*groups: list[str]) -> fw.CompiledModule:
        value: fw.Expr = x
        for kinds in groups:
            value = group(kinds, value)
        return built(fw.Function([x], value), FUSED)

    a = program(["exp", "tanh"], ["sigmoid", "sqrt"])
    b = program(["exp"], ["tanh", "sigmoid"], ["sqrt"])
    found, _ = areas([a.program, b.program])
    assert [tuple(map(len, area.steps)) for area in found] == [(2, 3)]


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_fused_and_unfused(seed: int) -> None:
    function, _ = random_graph(seed)
    libraries = [built(function, how) for how in (FUSED, UNFUSED, PLAIN)]
    programs = [library.program for library in libraries]
    found, matched = areas(programs)
    for target, program in enumerate(programs):
        steps = [s for area in found for s in area.steps[target]]
        assert sorted(steps) == list(range(len(program.leaf_steps()))), "each step is in one region"
        own = operations(program)
        moving = sum(o.moves for o in own)
        same, count = matched[target]
        assert count == len(own) and same >= count - moving, f"seed {seed}: what computes is found again"
    assert areas([programs[1], programs[1]])[1][1] == matched[1][1:] * 2


def test_alignment_survives_operators_that_only_one_has() -> None:
    def op(name: str, moves: bool = False) -> Operation:
        return Operation(0, name, 8, moves)

    block = [op("dense"), op("add"), op("reshape", True), op("tanh")]
    first = block * 4
    other = [op("cast", True), *block, *block[:1], op("erf"), *block[1:], *block[1:], *block]
    pairs = align(first, other)
    assert all(first[a].token == other[b].token for a, b in pairs)
    assert pairs == sorted(pairs) and len({b for _, b in pairs}) == len(pairs) == 15
    assert common("", "ab") == common("ab", "") == [] and common("abc", "abc") == [(0, 0), (1, 1), (2, 2)]
    assert align([], first) == [] and align(first, []) == []


def test_branches_are_seen() -> None:
    x = fw.var("x", shape=(3,))
    choice = fw.If(fw.less(fw.sum(x), fw.const(0.0)), fw.exp(fw.sqrt(fw.abs(x))), fw.tanh(x))
    library = built(fw.Function([x], fw.nn.relu(choice)), FUSED)
    assert {o.name for o in operations(library.program)} >= {"sum", "less", "exp", "sqrt", "abs", "tanh", "nn.relu"}
    found, _ = areas([library.program, library.program])
    assert all(a.steps[0] == a.steps[1] for a in found)
    assert np.concatenate([a.steps[0] for a in found]).size == len(library.program.leaf_steps())


@pytest.mark.parametrize("seed", range(20))
def test_longest_common_subsequence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (tuple(rng.integers(0, 3, rng.integers(0, 9))) for _ in range(2))
    pairs = common(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < n for (i, j), (k, n) in pairwise(pairs))
    parts = {p for size in range(len(b) + 1) for p in combinations(b, size)}
    longest = max(size for size in range(len(a) + 1) if parts & set(combinations(a, size)))
    assert len(pairs) == longest, (a, b)
