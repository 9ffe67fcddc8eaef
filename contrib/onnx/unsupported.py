"""One look over a whole model before it is read: every operator must have somebody to read it."""

from collections.abc import Iterator, Mapping, Sequence

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
    for node, opset in _nodes(graph.node, versions, local, frozenset()):
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


def _nodes(
    nodes: Sequence[onnx.NodeProto], versions: Versions, local: Local, inside: frozenset[tuple[str, str]]
) -> Iterator[tuple[onnx.NodeProto, int]]:
    """All nodes with their opsets, those of subgraphs and of the model's own functions among them."""
    for node in nodes:
        key = (plain_domain(node.domain), node.op_type)
        if key in local:
            if key in inside:
                raise FusewireError(f"the function {key[1]} of the model calls itself")
            body = local[key]
            own = {**versions, **{plain_domain(e.domain): e.version for e in body.opset_import}}
            yield from _nodes(body.node, own, local, inside | {key})
        else:
            yield node, versions.get(key[0], 1)
        for entry in node.attribute:
            for graph in [entry.g] if entry.HasField("g") else entry.graphs:
                yield from _nodes(graph.node, versions, local, inside)
