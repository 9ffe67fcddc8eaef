"""Where the groups of all targets stand in one drawing: layers from top to bottom, a column for each target.

Layers come from the regions (see match.py), so that what belongs together stands at one height in all columns. Within a
column this is the layered layout of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical system
structures", 1981): edges over several layers get a place in each of them, the order within a layer follows the
neighbours' mean places, and places are as near to those means as their widths allow.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import define, field, frozen

from .data import Report

WIDTH, HEIGHT = 200.0, 42.0
"""Of a node."""

LANE = 18.0
"""Width that an edge takes where it passes a layer."""

GAP, LAYER, COLUMN, TOP = 14.0, 66.0, 90.0, 44.0
"""Between neighbours; from layer to layer; between columns; above the first layer."""

SWEEPS = 8

Key = tuple[str, int]
"""A node of a target: ("group", k), ("in", k) or ("out", k)."""


@frozen
class Box:
    """A node: its upper left corner."""

    key: Key
    x: float
    y: float


@frozen
class Column:
    """A target's part of the drawing: `x` is its left edge; edges are paths in SVG's notation with their ends."""

    x: float
    width: float
    boxes: tuple[Box, ...]
    edges: tuple[tuple[Key, Key, str], ...]


@frozen
class Drawing:
    """All columns, and the size of the whole."""

    columns: tuple[Column, ...]
    width: float
    height: float


def draw(report: Report) -> Drawing:
    """Place the groups, inputs and results of a report."""
    levels, count = _levels(report)
    columns, x = [], 0.0
    for own, target in zip(levels, report.targets, strict=True):
        column = _column(own, target.edges, x)
        columns.append(column)
        x += column.width + COLUMN
    return Drawing(tuple(columns), max(x - COLUMN, WIDTH), TOP + count * LAYER)


def _levels(report: Report) -> tuple[list[dict[Key, int]], int]:
    """The layer of each node, for each target, and the number of layers."""
    import networkx as nx  # noqa: PLC0415 - slow to import, and only needed here

    shared = nx.DiGraph()
    places: list[dict[Key, Hashable]] = []
    for target in report.targets:
        own: dict[Key, Hashable] = {("group", k): ("region", g.region) for k, g in enumerate(target.groups)}
        own |= {key: key for edge in target.edges for key in edge if key[0] != "group"}
        shared.add_nodes_from(own.values())
        shared.add_edges_from((own[a], own[b]) for a, b in target.edges if own[a] != own[b])
        places.append(own)
    merged = nx.condensation(shared)  # regions that need each other's results stand at one height
    member = merged.graph["mapping"]
    inner = [_inner(target.edges, {k: member[p] for k, p in own.items()}) for target, own in zip(
        report.targets, places, strict=True)]  # fmt: skip
    levels: list[dict[Key, int]] = [{} for _ in places]
    base = 0
    for generation in _generations(merged):
        here = set(generation)
        height = 1
        for own, depth, level in zip(places, inner, levels, strict=True):
            for key, place in own.items():
                if member[place] in here:
                    level[key] = base + depth[key]
                    height = max(height, depth[key] + 1)
        base += height
    for level, target in zip(levels, report.targets, strict=True):
        _lower_inputs(level, target.edges)
    return levels, base


def _generations(graph: Any) -> list[list[Any]]:
    import networkx as nx  # noqa: PLC0415

    return [list(layer) for layer in nx.topological_generations(graph)]


def _inner(edges: Sequence[tuple[Key, Key]], part: Mapping[Key, int]) -> dict[Key, int]:
    """How deep each node stands within its part."""
    import networkx as nx  # noqa: PLC0415

    graph = nx.DiGraph()
    graph.add_nodes_from(part)
    graph.add_edges_from((a, b) for a, b in edges if part[a] == part[b])
    return {key: depth for depth, layer in enumerate(_generations(graph)) for key in layer}


def _lower_inputs(level: dict[Key, int], edges: Sequence[tuple[Key, Key]]) -> None:
    """Inputs stand right above their first user, and not at the top of the drawing."""
    for key in [k for k in level if k[0] == "in"]:
        users = [level[b] for a, b in edges if a == key]
        level[key] = max(level[key], min(users, default=1) - 1)


@define
class _Layers:
    """Nodes and passing edges of one column by layer, with the middles of their places."""

    rows: list[list[Hashable]]
    above: dict[Hashable, list[Hashable]] = field(factory=lambda: defaultdict(list))
    below: dict[Hashable, list[Hashable]] = field(factory=lambda: defaultdict(list))
    x: dict[Hashable, float] = field(factory=dict)

    def place(self) -> None:
        """Order the rows and find the places, by sweeps down and up."""
        for row in self.rows:
            self._spread(row, dict.fromkeys(row, 0.0))
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            near = self.above if down else self.below
            for row in self.rows if down else reversed(self.rows):
                wanted = {n: _mean([self.x[m] for m in near[n]], self.x[n]) for n in row}
                if sweep < SWEEPS - 2:
                    row.sort(key=lambda node: wanted[node])
                self._spread(row, wanted)

    def _spread(self, row: Sequence[Hashable], wanted: Mapping[Hashable, float]) -> None:
        """Places in the order of the row, at least their widths apart, nearest to the wanted ones (least squares).

        A node that has a row for itself, passing edges aside, stands in the middle: without that, long drawings drift.
        """
        nodes = [node for node in row if not _passes(node)]
        if len(nodes) == 1:
            wanted = {**wanted, nodes[0]: 0.0}
        weights = [1.0 if _passes(node) else 1e4 if len(nodes) == 1 else 4.0 for node in row]
        offset, offsets = 0.0, []
        for k, node in enumerate(row):
            if k:
                offset += (_width(row[k - 1]) + _width(node)) / 2 + GAP
            offsets.append(offset)
        free = _ascending([wanted[n] - o for n, o in zip(row, offsets, strict=True)], weights)
        self.x.update((n, f + o) for n, f, o in zip(row, free, offsets, strict=True))


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _passes(node: Hashable) -> bool:
    """Whether it is only an edge that passes."""
    return isinstance(node, tuple) and node[0] == "lane"


def _width(node: Hashable) -> float:
    return LANE if _passes(node) else WIDTH


def _ascending(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The ascending numbers nearest to `values`: neighbours that are out of order become their weighted mean."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, v, n), (b, w, m) = pools[-2:]
            pools[-2:] = [((a * v + b * w) / (v + w), v + w, n + m)]
    return [value for value, _, count in pools for _ in range(count)]


def _column(level: Mapping[Key, int], edges: Sequence[tuple[Key, Key]], left: float) -> Column:
    """One target's nodes and edges. Edges from one node share their places in the layers that they pass."""
    layers = _Layers([[] for _ in range(max(level.values(), default=-1) + 1)])
    for key, row in level.items():
        layers.rows[row].append(key)
    routes: dict[tuple[Key, Key], list[Hashable]] = {}
    lanes: dict[tuple[Key, int], Hashable] = {}
    links: set[tuple[Hashable, Hashable]] = set()
    for a, b in dict.fromkeys(edges):
        route: list[Hashable] = [a]
        for row in range(level[a] + 1, level[b]):
            if (a, row) not in lanes:
                lanes[a, row] = ("lane", a, row)
                layers.rows[row].append(lanes[a, row])
            route.append(lanes[a, row])
        routes[a, b] = [*route, b]
        links |= set(pairwise(routes[a, b]))
    for upper, lower in sorted(links, key=str):
        layers.below[upper].append(lower)
        layers.above[lower].append(upper)
    layers.place()
    start = min((layers.x[n] - _width(n) / 2 for row in layers.rows for n in row), default=0.0)
    end = max((layers.x[n] + _width(n) / 2 for row in layers.rows for n in row), default=WIDTH)
    shift = left - start
    boxes = [Box(k, layers.x[k] + shift - WIDTH / 2, TOP + row * LAYER) for k, row in level.items()]
    paths = [(a, b, _path(route, level, layers.x, shift)) for (a, b), route in routes.items()]
    return Column(left, end - start, tuple(boxes), tuple(paths))


def _path(route: Sequence[Hashable], level: Mapping[Key, int], x: Mapping[Hashable, float], shift: float) -> str:
    """A line from the lower side of the first node to the upper side of the last, through the lanes between."""
    first, last = route[0], route[-1]
    points = [(x[first] + shift, TOP + level[first] * LAYER + HEIGHT)]  # type: ignore[index]
    for row, lane in enumerate(route[1:-1], level[first] + 1):  # type: ignore[index]
        points += [(x[lane] + shift, TOP + row * LAYER), (x[lane] + shift, TOP + row * LAYER + HEIGHT)]
    points.append((x[last] + shift, TOP + level[last] * LAYER))  # type: ignore[index]
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for k, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        middle = (y0 + y1) / 2
        bend = f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} "
        text += f"{bend if k % 2 == 0 else 'L'}{x1:.1f} {y1:.1f}"
    return text
