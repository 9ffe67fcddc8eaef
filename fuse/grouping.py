"""Which nodes of a dataflow graph are computed together: the algorithm behind FuseOps (the story is told there)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from attrs import define

from ..ir.expr import Call, Expr, Tuple, TupleGetItem
from ..ir.types import TensorType, tensors_of
from ..ops.spec import Fusion, spec_of
from .cost import cost_of, size_ratio
from .dataflow import Dataflow, Use

MAX_RECOMPUTE = 2.0
"""How often an element may be computed where once would do, on average."""

EXPENSIVE_RECOMPUTE = 1.5
"""The same for expensive operators; above 1 so that padding and the like do not count."""

MAX_STEPS = 8
"""How many operators that read at other places may follow each other: each can double the size of an index."""

MAX_ACCESSES = 16
"""At how many places of the generated code one operator may be written out."""


@define(eq=False)
class Group:
    """Nodes that become one function.

    Attributes:
        root: the number of the node whose value leaves the group.
        kind: the largest kind in the group that restricts what else may join.
        members: the numbers of its nodes.
        calls: how many of them are operator calls.

    """

    root: int
    kind: Fusion
    members: list[int]
    calls: int


class Grouping:
    """A partition of the nodes of a graph into groups; starts with every node alone."""

    def __init__(self, flow: Dataflow, max_depth: int) -> None:
        self.flow = flow
        self.max_depth = max_depth
        self._group = [Group(k, kind, [k], int(isinstance(flow.nodes[k], Call))) for k, kind in enumerate(flow.kinds)]

    def of(self, k: int) -> Group:
        """The group of node `k`."""
        return self._group[k]

    def groups(self) -> list[Group]:
        """All groups, by root."""
        return [group for k, group in enumerate(self._group) if group.root == k]

    def fuse(self) -> None:
        """Merge groups, in three rounds over the nodes from the inputs to the outputs."""
        for round_ in (self._chains, self._injective, self._into_tuples):
            for k, parent in enumerate(self.flow.parent):
                if parent >= 0:
                    round_(k)

    def _chains(self, k: int) -> None:
        """Elementwise operators join what uses them; anchors and reductions take in what follows elementwise."""
        kind = self.of(k).kind
        if kind <= Fusion.BROADCAST:
            self._join(k, Fusion.INJECTIVE, Fusion.OUT_ELEMWISE_FUSABLE, last=Fusion.COMM_REDUCE)
        elif kind in (Fusion.COMM_REDUCE, Fusion.OUT_ELEMWISE_FUSABLE):
            self._join(k, Fusion.BROADCAST, Fusion.BROADCAST, last=Fusion.ELEMWISE, every=Fusion.ELEMWISE)

    def _injective(self, k: int) -> None:
        """Data movement joins what uses it, unless that is an anchor; so do tuples."""
        if self.flow.kinds[k] in (Fusion.INJECTIVE, Fusion.TUPLE):
            self._join(k, Fusion.INJECTIVE, Fusion.COMM_REDUCE, last=Fusion.COMM_REDUCE)
        else:
            # An operand that is read twice in an epilogue could not join before the epilogue was complete.
            self._chains(k)

    def _into_tuples(self, k: int) -> None:
        """What feeds a tuple that was itself fused (the argument of concatenate) follows it."""
        if self.of(k).kind <= Fusion.INJECTIVE and self.flow.kinds[self.flow.parent[k]] is Fusion.TUPLE:
            self._join(k, Fusion.INJECTIVE, Fusion.COMM_REDUCE, last=Fusion.INJECTIVE)

    def _sink(self, k: int) -> Group:
        return self.of(self.flow.parent[k])

    def _join(self, k: int, between: Fusion, sink: Fusion, *, last: Fusion, every: Fusion = Fusion.INJECTIVE) -> None:
        """Merge node `k`, its post-dominator and all between them, if that is allowed.

        Args:
            k: the node.
            between: the largest kind of group allowed on the way.
            sink: the largest kind of the post-dominator's group.
            last: how the post-dominator itself may read, at most.
            every: how the nodes on the way may read, at most.

        """
        target, parent = self._sink(k), self.flow.parent[k]
        if target is self.of(k) or target.kind > sink:
            return
        plain = target.root == parent

        def visit(use: Use) -> bool:
            nonlocal plain
            plain = plain and use.how is Fusion.ELEMWISE
            return use.how <= (last if use.user == parent else every)

        def admit(node: int) -> bool:
            return self.of(node).kind <= between or self.of(node) is target

        nodes = self.flow.between(k, self.max_depth, admit, visit)
        if nodes is None:
            return
        joined = {id(g): g for g in (self.of(n) for n in (k, *nodes)) if g is not target}
        if sum(g.calls for g in joined.values()) + target.calls > self.max_depth:
            return
        members = sorted([*target.members, *(m for g in joined.values() for m in g.members)])
        # Where every read is elementwise, nothing is read at more places than before.
        if plain or fits(self.flow, members, target.root):
            self._merge(joined.values(), target, members)

    def _merge(self, joined: Iterable[Group], target: Group, members: list[int]) -> None:
        for group in joined:
            target.calls += group.calls
            if group.kind in (Fusion.COMM_REDUCE, Fusion.OUT_ELEMWISE_FUSABLE):
                target.kind = group.kind
            for m in group.members:
                self._group[m] = target
        target.members = members


_Accesses: TypeAlias = dict[tuple[object, ...], float]
"""The places at which a node is read, seen from the root, and how often each of its elements is computed for them."""


def fits(flow: Dataflow, members: Sequence[int], root: int) -> bool:
    """Whether a group can be generated, every member inlined at each place where it is read, without repeating much.

    An access is a way of indexing, seen from the root: elementwise reads share the access of their reader, every other
    read is an access of its own. A group does not fit in which

    * an anchor or reduction is read otherwise than elementwise (its values come one at a time), or
    * more than `MAX_STEPS` operators on a path read at other places, or
    * a node has more than `MAX_ACCESSES` accesses (the code would grow without bound), or
    * an expensive operator is computed more than `EXPENSIVE_RECOMPUTE` times per element, because of several accesses
      or because its result is stretched by a broadcast, or
    * any other arithmetic is computed more than `MAX_RECOMPUTE` times per element, where being stretched counts once:
      a cheap operator may be repeated along a broadcast axis, but not be written out over and over again.

    Args:
        flow: the graph.
        members: the nodes of the group, in rising order.
        root: the node whose value leaves the group.

    """
    inside = {id(flow.nodes[k]) for k in members}
    accesses: dict[int, _Accesses] = {id(flow.nodes[root]): {(): 1.0}}
    for k in reversed(members):
        node = flow.nodes[k]
        found = accesses.get(id(node), {})
        if len(found) > MAX_ACCESSES or (isinstance(node, Call) and _repeats(node, found)):
            return False
        if flow.kinds[k] in (Fusion.COMM_REDUCE, Fusion.OUT_ELEMWISE_FUSABLE) and found.keys() != {()}:
            return False
        for part, step, factor in _reads(node):
            if id(part) in inside:
                below = accesses.setdefault(id(part), {})
                for key, times in found.items():
                    place = (*key, step) if step is not None else key
                    if len(place) > MAX_STEPS:
                        return False
                    below[place] = max(below.get(place, 0.0), times * factor)
    return True


def _repeats(call: Call, accesses: _Accesses) -> bool:
    cost = cost_of(call)
    if not cost.work:
        return False
    if cost.expensive:
        return sum(accesses.values()) > EXPENSIVE_RECOMPUTE
    return sum(min(1.0, times) for times in accesses.values()) > MAX_RECOMPUTE


def _reads(node: Expr) -> Iterator[tuple[Expr, object, float]]:
    """What a node reads: the part, a mark of the access (None: elementwise), and computations per element of it."""
    match node:
        case TupleGetItem(tuple_value=Tuple(fields=fields), index=index):
            yield fields[index], None, 1.0
        case TupleGetItem(tuple_value=value, index=index):
            yield value, ("item", index), 1.0
        case Call():
            yield from _call_reads(node)


def _call_reads(call: Call) -> Iterator[tuple[Expr, object, float]]:
    kind, reads, place = spec_of(call).fusion, cost_of(call).reads, 0
    outs = tensors_of(call.checked_type)
    for arg in call.args:
        types = tensors_of(arg.checked_type)
        ratio = size_ratio(outs, types) / len(outs)
        for part, type_ in _tensors(arg):
            if kind <= Fusion.BROADCAST:
                if type_.shape == outs[0].shape:
                    yield part, None, 1.0
                else:
                    how = (id(call), place) if call.attrs else (type_.shape, outs[0].shape)
                    yield part, how, ratio
            else:
                for n in range(reads[place]):
                    yield part, (id(call), place, n), ratio if kind is Fusion.INJECTIVE else 1.0
            place += 1


def _tensors(arg: Expr) -> Iterator[tuple[Expr, TensorType]]:
    """The tensors of an argument with the nodes that make them; a `Tuple` is taken apart."""
    if isinstance(arg, Tuple):
        for field in arg.fields:
            yield from _tensors(field)
    else:
        yield from ((arg, type_) for type_ in tensors_of(arg.checked_type))
