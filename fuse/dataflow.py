"""A function as a graph of values and their uses, with post-dominators: the ground that fusion stands on."""

from collections.abc import Callable, Sequence

from attrs import frozen

from ..ir.expr import Call, Constant, Expr, GlobalVar, Tuple, TupleGetItem, Var
from ..ir.types import TensorType, TupleType
from ..ir.visitor import children
from ..ops.lowering import Procedure, Reduce
from ..ops.spec import Fusion, OpSpec


@frozen
class Use:
    """A use of a node: who uses it (its number), and how it reads it."""

    user: int
    how: Fusion


@frozen(eq=False)
class Dataflow:
    """The nodes of a function, numbered so that parts come before wholes.

    Attributes:
        nodes: the expressions.
        kinds: how each may be fused; OPAQUE for what is no operator.
        uses: the uses of each node by operators and tuples.
        escapes: whether the node is also used by something that fusion cannot look into: the result of a function, a
            let-binding, a branch, a function call.
        parent: the immediate post-dominator of each node: the first node through which everything that depends on it
            goes; -1 where there is none.

    """

    nodes: Sequence[Expr]
    kinds: Sequence[Fusion]
    uses: Sequence[Sequence[Use]]
    escapes: Sequence[bool]
    parent: Sequence[int]

    def between(
        self, source: int, limit: int, admit: Callable[[int], bool], visit: Callable[[Use], bool]
    ) -> list[int] | None:
        """The nodes on all paths from `source` to its post-dominator, both ends excluded.

        None when `visit(use)` refuses an edge, `admit(node)` a node in between, or there are more than `limit`.
        """
        sink = self.parent[source]
        found: list[int] = []
        seen = {source, sink}
        pending = [source]
        while pending:
            for use in self.uses[pending.pop()]:
                if not visit(use):
                    return None
                if use.user in seen:
                    continue
                if not admit(use.user) or len(found) >= limit:
                    return None
                seen.add(use.user)
                found.append(use.user)
                pending.append(use.user)
        return found


def analyse(order: Sequence[Expr]) -> Dataflow:
    """The dataflow of an expression, given all its nodes with parts before wholes."""
    number = {id(node): k for k, node in enumerate(order)}
    uses: list[list[Use]] = [[] for _ in order]
    escapes = [False] * len(order)
    for user, node in enumerate(order):
        for child in children(node):
            k = number.get(id(child))
            if k is None or isinstance(child, Var | Constant | GlobalVar):
                continue
            how = _edge(node, child)
            if how is Fusion.OPAQUE:
                escapes[k] = True
            else:
                uses[k].append(Use(user, how))
    if order:
        escapes[-1] = True
    return Dataflow(order, [_kind(node) for node in order], uses, escapes, _post_dominators(uses, escapes))


def _post_dominators(uses: Sequence[Sequence[Use]], escapes: Sequence[bool]) -> list[int]:
    sink = -1
    import networkx as nx  # noqa: PLC0415 - half of the time of `import fusewire`, and only needed here

    graph = nx.DiGraph()
    graph.add_node(sink)
    for k, users in enumerate(uses):
        if escapes[k] or not users:
            graph.add_edge(sink, k)
        graph.add_edges_from((use.user, k) for use in users)
    nearest = nx.immediate_dominators(graph, sink)
    return [nearest.get(k, sink) for k in range(len(uses))]


def _kind(node: Expr) -> Fusion:
    match node:
        case Call(op=OpSpec() as spec):
            return _kind_of(spec)
        case Tuple():
            return Fusion.TUPLE
        case TupleGetItem():
            return Fusion.INJECTIVE
    return Fusion.OPAQUE


def _kind_of(spec: OpSpec) -> Fusion:
    """The declared kind, made stricter where the lowering asks for it."""
    if spec.lowering is None or isinstance(spec.lowering, Procedure):
        # Statements write their outputs themselves: nothing can be inlined behind them.
        return Fusion.OPAQUE
    if isinstance(spec.lowering, Reduce):
        return max(spec.fusion, Fusion.COMM_REDUCE)
    return spec.fusion


def _edge(user: Expr, part: Expr) -> Fusion:
    """How `user` reads `part`."""
    match user:
        case Call(op=OpSpec() as spec):
            kind = _kind_of(spec)
            if kind is Fusion.OPAQUE:
                return kind
            if kind <= Fusion.BROADCAST:
                return Fusion.ELEMWISE if _same_shape(user, part) else Fusion.BROADCAST
            return kind
        case Tuple() if isinstance(part.checked_type, TensorType):
            return Fusion.INJECTIVE
        case TupleGetItem() if _flat(part):
            return Fusion.INJECTIVE
    return Fusion.OPAQUE


def _same_shape(a: Expr, b: Expr) -> bool:
    left, right = a.checked_type, b.checked_type
    return isinstance(left, TensorType) and isinstance(right, TensorType) and left.shape == right.shape


def _flat(part: Expr) -> bool:
    type_ = part.checked_type
    return isinstance(type_, TupleType) and all(isinstance(f, TensorType) for f in type_.fields)
