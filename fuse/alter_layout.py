"""AlterLayout: feature maps with their channels in blocks of a vector, where that pays.

Convolutions run best on NCHW16c (16 floats fill a vector): Winograd and depthwise schedules need it, and results leave
the registers as they are. Between two layouts stands a transposition, so the question is where to stand in which.

    data --> conv --> relu --> conv --> add --> pool --> flatten --> dense
             '------------ an island ------------'
       NCHW  '              NCHW16c              '  NCHW

An *island* is a set of calls that can work on blocked channels and hand feature maps to each other. For each island the
pass adds up what its calls save, and what it costs to bring tensors in and out (one scalar operation for each element);
if the island gains, its calls are written for the blocked layout, with `layout_transform` at its shores.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from attrs import define, field

from ..ir.expr import Call, Constant, Expr, Function
from ..ir.visitor import children, with_children
from .graph import tensor_type, walk
from .infra import Pass, over_functions
from .layout_regions import region_rules
from .layout_rules import Blocks, Rule, relaid, rule_for
from .library import Library


def alter_layout(vector_bytes: int, libraries: Sequence[Library] = ()) -> Pass:
    """The pass AlterLayout for vectors of so many bytes; it does nothing where a vector has less than 4 floats.

    Regions of the `libraries` take part as `layout_regions` says.
    """
    blocks, regions = Blocks(vector_bytes), region_rules(libraries)
    return over_functions("AlterLayout", 2, lambda f, mod, context: _Alter(blocks, regions).function(f))


@define(eq=False)
class _Alter:
    blocks: Blocks
    regions: Callable[[Call], Rule | None]
    members: dict[int, tuple[Call, Rule, list[Expr]]] = field(factory=dict)
    chosen: set[int] = field(factory=set)
    plain: dict[int, Expr] = field(factory=dict)
    blocked: dict[int, dict[int, Expr]] = field(factory=dict)

    def function(self, function: Function) -> Function:
        order = walk(function.body)
        for node in order:
            rule = (rule_for(node) or self.regions(node)) if isinstance(node, Call) else None
            features = rule.features(node, self.blocks) if rule and isinstance(node, Call) else None
            if rule and features is not None and self.blocks.of(node.checked_type) and isinstance(node, Call):
                self.members[id(node)] = (node, rule, features)
        self._choose(order, function.body)
        if not self.chosen:
            return function
        for node in order:
            self._rewrite(node)
        return Function(function.params, self._plain(function.body), None, function.attrs)

    # Which islands gain

    def _choose(self, order: list[Expr], result: Expr) -> None:
        import networkx as nx  # noqa: PLC0415 - slow to import, and only needed here

        graph = nx.Graph()
        graph.add_nodes_from(self.members)
        users: dict[int, list[Expr]] = defaultdict(list)
        for node in order:
            for child in children(node):
                users[id(child)].append(node)
        for key, (_, _, features) in self.members.items():
            graph.add_edges_from((key, id(f)) for f in features if id(f) in self.members)
        for island in nx.connected_components(graph):
            if self._gain(island) > self._cost(island, users, result):
                self.chosen |= island

    def _gain(self, island: set[int]) -> float:
        lanes = self.blocks.vector_bytes // 4
        return sum(rule.gain(node, lanes) for node, rule, _ in map(self.members.__getitem__, island))

    def _cost(self, island: set[int], users: dict[int, list[Expr]], result: Expr) -> float:
        """Elements that cross the shores."""
        entering: dict[int, Expr] = {}
        leaving: list[Expr] = []
        for key in island:
            node, _, features = self.members[key]
            entering |= {id(f): f for f in features if id(f) not in island and not isinstance(f, Constant)}
            if node is result or any(not self._inside(user, node, island) for user in users[key]):
                leaving.append(node)
        return sum(_weight(node) for node in [*entering.values(), *leaving])

    def _inside(self, user: Expr, node: Expr, island: set[int]) -> bool:
        """Whether `user`, or what it is a tuple for, takes `node` as a feature map of the island."""
        if id(user) in island:
            return any(f is node for f in self.members[id(user)][2])
        takers = [m for m in island if user in self.members[m][0].args]
        return bool(takers) and all(any(f is node for f in self.members[m][2]) for m in takers)

    # Writing them

    def _rewrite(self, node: Expr) -> None:
        if id(node) not in self.chosen:
            if id(node) not in self.plain:
                self.plain[id(node)] = self._rebuilt(node)
            return
        call, rule, features = self.members[id(node)]
        found = [next(iter(self.blocked.get(id(f), ())), 0) or self.blocks.of(f.checked_type) for f in features]
        if len(found) > 1:
            channels = [tensor_type(f).static_shape[1] for f in features]
            found = [self.blocks.dividing(channels, tensor_type(node).dtype)] * len(found)
        values = [self._blocked(f, b) for f, b in zip(features, found, strict=True)]
        taken = {id(f) for f in features}
        template = Call(call.op, [a if id(a) in taken else self._plain(a) for a in call.args], call.attrs)
        result, block = rule.write(template, values, found, self.blocks)
        self.blocked[id(node)] = {block: result}

    def _rebuilt(self, node: Expr) -> Expr:
        return with_children(node, [self._plain(child) for child in children(node)])

    def _plain(self, node: Expr) -> Expr:
        if id(node) not in self.plain:
            if id(node) in self.blocked:
                block, value = next(iter(self.blocked[id(node)].items()))
                self.plain[id(node)] = relaid(value, block, 0)
            else:
                self.plain[id(node)] = node
        return self.plain[id(node)]

    def _blocked(self, node: Expr, block: int) -> Expr:
        forms = self.blocked.setdefault(id(node), {})
        if block not in forms:
            source, value = next(iter(forms.items()), (0, self._plain(node)))
            forms[block] = relaid(value, source, block)
        return forms[block]


def _weight(node: Expr) -> int:
    return math.prod(tensor_type(node).static_shape)
