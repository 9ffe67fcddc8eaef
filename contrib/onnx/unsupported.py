"""One look over a whole model before it is read: every operator must have somebody to read it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from ...ir.errors import FusewireError
from . import functions, registry
from .model import plain_domain
from .node import described

Versions = Mapping[str, int]
Local = Mapping[tuple[str, str], onnx.FunctionProto]


def check_supported(graph: onnx.GraphProto, versions: Versions, local: Local) -> None:
    """Raise one error for all operators of a model that cannot be read.

    Raises:
        FusewireError: it lists each operator with its opset and the nodes that use it.
    """
    missing: dict[str, list[str]] = {}
    for node, opset in _nodes(graph.node, versions, local):
        domain = plain_domain(node.domain)
        if registry.find(domain, node.op_type, opset) or functions.has_body(domain, node.op_type, opset):
            continue
        full = described(node, opset)
        operator = f"{domain + '.' if domain else ''}{node.op_type} (opset {opset})"
        missing.setdefault(operator, []).append(node.name or (node.output[0] if node.output else full))
    if missing:
        listed = "; ".join(f"{operator} in {_shown(names)}" for operator, names in sorted(missing.items()))
        raise FusewireError(f"the model uses {len(missing)} operators that are not supported: {listed}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


DEPTH = 64
"""How deep function bodies and subgraphs may be nested."""

Key = tuple[str, str]


def _nodes(nodes: Iterable[onnx.NodeProto], versions: Versions, local: Local) -> Iterator[tuple[onnx.NodeProto, int]]:
    """All nodes with their opsets, those of subgraphs and of the model's own functions among them.

    A function is looked into once for each set of versions: functions that call others twice would be endless work.
    """
    waiting: list[tuple[Iterable[onnx.NodeProto], Versions, tuple[Key, ...], int]] = [(nodes, versions, (), 0)]
    seen: set[tuple[Key, frozenset[tuple[str, int]]]] = set()
    while waiting:
        graph, versions, inside, depth = waiting.pop()
        if depth > DEPTH:
            raise FusewireError(f"functions and subgraphs are nested more than {DEPTH} deep")
        for node in graph:
            key = (plain_domain(node.domain), node.op_type)
            if key not in local:
                yield node, versions.get(key[0], 1)
            elif key in inside:
                raise FusewireError(f"the function {key[1]} of the model calls itself")
            else:
                own = {**versions, **{plain_domain(e.domain): e.version for e in local[key].opset_import}}
                mark = (key, frozenset(own.items()))
                if mark not in seen:
                    seen.add(mark)
                    waiting.append((local[key].node, own, (*inside, key), depth + 1))
            for entry in node.attribute:
                for inner in [entry.g] if entry.HasField("g") else entry.graphs:
                    waiting.append((inner.node, versions, inside, depth + 1))
