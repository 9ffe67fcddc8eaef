"""Where groups stand in the drawing."""

from itertools import pairwise

import pytest

import fusewire as fw
from fusewire.report.data import Report
from fusewire.report.layout import GAP, HEIGHT, WIDTH, Box, Drawing, _ascending, draw
from tests.random_graphs import random_graph
from tests.report.samples import FUSED, UNFUSED, data, network, report_of


def boxes(drawing: Drawing, target: int) -> dict[tuple[str, int], Box]:
    return {box.key: box for box in drawing.columns[target].boxes}


def check(report: Report) -> None:
    drawing = draw(report)
    end = -1.0
    for target, column in zip(report.targets, drawing.columns, strict=True):
        assert column.x > end
        end = column.x + column.width
        places = {box.key: box for box in column.boxes}
        assert len(places) == len(column.boxes)
        assert {k for kind, k in places if kind == "group"} == set(range(len(target.groups)))
        for box in column.boxes:
            assert column.x - 0.01 <= box.x and box.x + WIDTH <= end + 0.01 and box.y + HEIGHT <= drawing.height
        rows: dict[float, list[float]] = {}
        for box in column.boxes:
            rows.setdefault(box.y, []).append(box.x)
        for row in rows.values():
            assert all(b - a >= WIDTH + GAP - 0.01 for a, b in pairwise(sorted(row))), "boxes do not overlap"
        assert {(a, b) for a, b, _ in column.edges} == set(target.edges)
        assert all(places[a].y < places[b].y for a, b, _ in column.edges), "edges lead downwards"
    assert drawing.width >= end - 0.01


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(network(), {"data": data()}, {"fused": FUSED, "unfused": UNFUSED})


def test_columns(report: Report) -> None:
    check(report)
    drawing = draw(report)
    fused, unfused = boxes(drawing, 0), boxes(drawing, 1)
    for region in report.regions:
        mine, theirs = region.groups
        assert fused["group", mine[0]].y == unfused["group", theirs[0]].y, "a region begins at one height"
    assert [round(unfused["group", b].y - unfused["group", a].y) for a, b in pairwise(report.regions[0].groups[1])] == [
        66,
        66,
    ]


@pytest.mark.parametrize("seed", [5, 11])
def test_random_graphs(seed: int) -> None:
    function, inputs = random_graph(seed, 14)
    check(report_of(function, inputs, {"fused": FUSED, "unfused": UNFUSED}))


def test_a_model_without_operators() -> None:
    x = fw.var("x", shape=(2,))
    report = report_of(fw.Function([x], x), {"x": data((2,))}, {"a": FUSED, "b": FUSED})
    check(report)
    assert report.regions == () and report.targets[0].edges == ((("in", 0), ("out", 0)),)


def test_nearest_ascending_numbers() -> None:
    assert _ascending([1, 2, 3], [1, 1, 1]) == [1, 2, 3]
    assert _ascending([3, 1], [1, 1]) == [2, 2] and _ascending([3, 1], [3, 1]) == [2.5, 2.5]
    assert _ascending([0, 5, 1, 3, 9], [1] * 5) == [0, 3, 3, 3, 9]
    assert _ascending([], []) == []


def test_a_long_network_stays_straight() -> None:
    """Forty residual blocks, and one input that all of them use: a spine in the middle, and narrow columns."""
    x, mask = fw.var("x", shape=(4, 4)), fw.var("mask", shape=(4, 4))
    value: fw.Expr = x
    for _ in range(40):
        value = fw.add(fw.nn.softmax(fw.add(value, mask)), value)
    report = report_of(
        fw.Function([x, mask], value), {"x": data((4, 4)), "mask": data((4, 4))}, {"a": UNFUSED, "b": FUSED}
    )
    drawing = draw(report)
    groups = [box.x for key, box in boxes(drawing, 0).items() if key[0] == "group"]
    assert max(groups) - min(groups) < 1 and drawing.columns[0].width < 2.5 * WIDTH
