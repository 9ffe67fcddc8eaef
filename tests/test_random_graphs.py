"""Random graphs, compiled with all passes, without fusion, and with one pass left out at a time, against NumPy in
float64.
"""

import numpy as np
import pytest

import fusewire as fw
from fusewire.testing import evaluate
from tests.random_graphs import random_graph
from tests.which import TARGET

COUNT = 200
PER_TEST = 10
TOLERANCE = 2e-4
"""Relative to the largest magnitude of an output: graphs of ten and more operators in float32."""

VARIANTS: dict[str, dict[str, object]] = {
    "all passes": {"opt_level": 3},
    "default": {"opt_level": 2},
    "no optimisation": {"opt_level": 0},
    **{
        f"without {name}": {"opt_level": 3, "disabled_pass": [name]}
        for name in (
            "FuseOps",
            "FoldConstant",
            "FoldScaleAxis",
            "EliminateCommonSubexpr",
            "DeadCodeElimination",
            "AlterLayout",
        )
    },
}


def check(seed: int, variant: str, target: str = TARGET) -> None:
    function, inputs = random_graph(seed)
    expected = evaluate(function, inputs)
    with fw.transform.PassContext(**VARIANTS[variant]):  # type: ignore[arg-type]
        result = fw.build(function, target)(**inputs)
    results = result if isinstance(result, list) else [result]
    assert len(results) == len(expected)
    for actual, wanted in zip(results, expected, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        message = f"seed {seed}, {variant}\n{function}"
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=TOLERANCE * scale, err_msg=message)


@pytest.mark.parametrize("first", range(0, COUNT, PER_TEST))
def test_random_graphs(first: int) -> None:
    """Every graph with the passes, by turns unfused and unoptimised, and with one pass left out, the passes in turn."""
    always, turns = ["default", "all passes"], ["no optimisation", "without FuseOps"]
    others = [name for name in VARIANTS if name not in (*always, *turns)]
    print(f"seeds {first}..{first + PER_TEST - 1}")
    for seed in range(first, first + PER_TEST):
        for variant in [*always, turns[seed % 2], others[seed % len(others)]]:
            check(seed, variant)


@pytest.mark.parametrize("seed", range(1000, 1004))
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(seed: int, variant: str) -> None:
    check(seed, variant)


@pytest.mark.parametrize("seed", range(0, COUNT, 4))
def test_text_round_trip(seed: int) -> None:
    """Before and after the passes, a graph read back from its text is the same graph."""
    function, _ = random_graph(seed)
    mod = fw.IRModule.from_expr(function)
    fused = fw.build(mod, "cpu").fused_mod
    for module in (mod, fused):
        fw.analysis.assert_structural_equal(fw.parse(module.astext()), module)
