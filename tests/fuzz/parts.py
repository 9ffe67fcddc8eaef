"""What an ONNX model consists of, and the list of changes to it."""

from collections.abc import Callable, Iterator, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from .mutate import Rng, number, pick

Change = Callable[[Rng, ModelProto], bool]
"""Changes a model in place; says whether there was something to change."""

CHANGES: list[Change] = []
"""All changes, with repetitions as weights."""


def change(weight: int = 1) -> Callable[[Change], Change]:
    """Put a function on the list."""

    def add(function: Change) -> Change:
        CHANGES.extend([function] * weight)
        return function

    return add


def damaged(rng: Rng, data: bytes) -> tuple[bytes, str]:
    """A serialized model with one to three changes, and what they were."""
    model = onnx.load_model_from_string(data)
    done: list[str] = []
    wanted = pick(rng, (1, 1, 1, 2, 2, 3))
    for _ in range(20):
        if len(done) == wanted:
            break
        found = pick(rng, CHANGES)
        try:
            if found(rng, model):
                done.append(found.__name__)
        except ValueError:  # what an earlier change left is too odd for this one
            done.append(f"half of {found.__name__}")
    return model.SerializeToString(), ", ".join(done)


# What a model consists of


def graphs(model: ModelProto) -> list[GraphProto]:
    """The graph and all subgraphs."""
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            for entry in node.attribute:
                found += [entry.g] if entry.HasField("g") else entry.graphs
    return found


def nodes(model: ModelProto) -> list[NodeProto]:
    """All nodes, those of functions among them."""
    return [n for graph in graphs(model) for n in graph.node] + [n for f in model.functions for n in f.node]


def attributes(model: ModelProto) -> list[AttributeProto]:
    """All attributes."""
    return [entry for node in nodes(model) for entry in node.attribute]


def tensors(model: ModelProto) -> list[TensorProto]:
    """All stored tensors."""
    stored = [t for graph in graphs(model) for t in graph.initializer]
    return stored + [entry.t for entry in attributes(model) if entry.HasField("t")]


def infos(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """All declarations of inputs and outputs."""
    return [i for graph in graphs(model) for i in (*graph.input, *graph.output, *graph.value_info)]


def names(model: ModelProto) -> list[str]:
    """All names of values."""
    made = [name for node in nodes(model) for name in (*node.input, *node.output)]
    return [*made, *(t.name for graph in graphs(model) for t in graph.initializer), *(i.name for i in infos(model))]


def dims(model: ModelProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    """The dimensions of all declarations of tensors."""
    for info in infos(model):
        if info.type.HasField("tensor_type"):
            yield from info.type.tensor_type.shape.dim


def some_list(rng: Rng, count: int) -> list[int]:
    """A list of whole numbers."""
    return [number(rng) for _ in range(count)]


def replace(held: object, new: Sequence[object]) -> None:
    """Other entries in a repeated field."""
    del held[:]  # type: ignore[attr-defined]
    held.extend(new)  # type: ignore[attr-defined]
