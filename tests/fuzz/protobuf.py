"""Damage to the structure of an ONNX model: what a file can say that no exporter would."""

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .mutate import FRACTIONS, NUMBERS, TEXTS, Rng, number, pick
from .operators import SCHEMAS
from .parts import attributes, change, dims, graphs, infos, names, nodes, replace, some_list, tensors

# Shapes and types


@change(5)
def dim_of_a_value(rng: Rng, model: ModelProto) -> bool:
    """An absurd size."""
    found = list(dims(model))
    if found:
        pick(rng, found).dim_value = number(rng)
    return bool(found)


@change()
def dim_with_a_name(rng: Rng, model: ModelProto) -> bool:
    """A symbolic size, of any name."""
    found = list(dims(model))
    if found:
        pick(rng, found).dim_param = pick(rng, TEXTS)
    return bool(found)


@change(2)
def rank_of_a_value(rng: Rng, model: ModelProto) -> bool:
    """One size more or less, hundreds, or no shape at all."""
    found = [i.type.tensor_type for i in infos(model) if i.type.HasField("tensor_type")]
    if not found:
        return False
    shape = pick(rng, found).shape
    match int(rng.integers(4)):
        case 0 if shape.dim:
            del shape.dim[0]
        case 1:
            shape.dim.add().dim_value = 1
        case 2:
            for _ in range(pick(rng, (5, 40, 300))):
                shape.dim.add().dim_value = pick(rng, (1, 1, 2))
        case _:
            pick(rng, found).ClearField("shape")
    return True


@change(2)
def type_of_a_value(rng: Rng, model: ModelProto) -> bool:
    """Another element type."""
    found = [i.type.tensor_type for i in infos(model) if i.type.HasField("tensor_type")]
    if found:
        pick(rng, found).elem_type = pick(rng, (*range(24), 99, -1))
    return bool(found)


@change(3)
def type_of_everything(rng: Rng, model: ModelProto) -> bool:
    """All floats as another type, so that it fits together."""
    code = pick(rng, (6, 7, 9, 2, 3, 5, 10, 11, 12, 13, 16))
    dtype = helper.tensor_dtype_to_np_dtype(code)
    for info in infos(model):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = code
    for tensor in tensors(model):
        if tensor.data_type == TensorProto.FLOAT and not tensor.external_data:
            with np.errstate(all="ignore"):
                array = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True


@change()
def kind_of_a_value(rng: Rng, model: ModelProto) -> bool:
    """A sequence, an optional, a map or nothing where a tensor was declared."""
    found = infos(model)
    if not found:
        return False
    held = pick(rng, found).type
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    made = (helper.make_sequence_type_proto(tensor), helper.make_optional_type_proto(tensor), onnx.TypeProto(),
            helper.make_map_type_proto(TensorProto.INT64, tensor),
            helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2]))  # fmt: skip
    held.CopyFrom(pick(rng, made))
    return True


# Attributes


@change(9)
def value_of_an_attribute(rng: Rng, model: ModelProto) -> bool:
    """Another number, list or text."""
    found = [a for a in attributes(model) if a.type not in (AttributeProto.GRAPH, AttributeProto.TENSOR)]
    if not found:
        return False
    entry = pick(rng, found)
    match entry.type:
        case AttributeProto.INT:
            entry.i = number(rng)
        case AttributeProto.FLOAT:
            entry.f = pick(rng, FRACTIONS)
        case AttributeProto.STRING:
            entry.s = pick(rng, (pick(rng, TEXTS).encode(), b"\xff\xfe", entry.s.lower(), entry.s * 2))
        case AttributeProto.INTS:
            _other_ints(rng, entry)
        case AttributeProto.FLOATS:
            entry.floats.append(pick(rng, FRACTIONS))
        case AttributeProto.STRINGS:
            entry.strings.append(pick(rng, TEXTS).encode())
    return True


def _other_ints(rng: Rng, entry: AttributeProto) -> None:
    held = list(entry.ints)
    match int(rng.integers(5)):
        case 0:
            held = held[:-1]
        case 1:
            held = [*held, number(rng)]
        case 2:
            held = some_list(rng, len(held))
        case 3 if held:
            held = [held[0]] * len(held)
        case _ if held:
            held[int(rng.integers(len(held)))] = number(rng)
    del entry.ints[:]
    entry.ints.extend(held)


@change()
def kind_of_an_attribute(rng: Rng, model: ModelProto) -> bool:
    """A number where a list was, a text where a number was."""
    found = attributes(model)
    if not found:
        return False
    entry = pick(rng, found)
    made = (1, 0.5, "text", [1, 2], [0.5], ["a"], numpy_helper.from_array(np.zeros(2, np.float32)), onnx.GraphProto())
    entry.CopyFrom(helper.make_attribute(entry.name or "a", pick(rng, made)))
    return True


@change(2)
def an_attribute_gone(rng: Rng, model: ModelProto) -> bool:
    """One left out."""
    found = [n for n in nodes(model) if n.attribute]
    if found:
        held = pick(rng, found).attribute
        del held[int(rng.integers(len(held)))]
    return bool(found)


# Nodes


@change()
def operator_of_a_node(rng: Rng, model: ModelProto) -> bool:
    """Another operator, or one that nobody knows."""
    found = nodes(model)
    if found:
        pick(rng, found).op_type = pick(rng, (pick(rng, SCHEMAS).name, "Frobnicate", "", pick(rng, TEXTS)))
    return bool(found)


@change()
def domain_of_a_node(rng: Rng, model: ModelProto) -> bool:
    """Another domain, or one without a version."""
    found = nodes(model)
    if found:
        node = pick(rng, found)
        node.domain = pick(rng, ("ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "nowhere", pick(rng, TEXTS)))
        if rng.random() < 0.7:
            model.opset_import.append(helper.make_opsetid(node.domain, 1))
    return bool(found)


@change(4)
def input_of_a_node(rng: Rng, model: ModelProto) -> bool:
    """Another value, which may come later (a circle), nothing, or a name that nobody made."""
    found = [(graph, k) for graph in graphs(model) for k, n in enumerate(graph.node) if n.input]
    if found:
        graph, k = pick(rng, found)
        before = [n for node in graph.node[:k] for n in node.output] + [i.name for i in graph.input]
        before = [n for n in (*before, *(t.name for t in graph.initializer)) if n] or ["nobody"]
        taken = pick(rng, names(model) if rng.random() < 0.1 else before)
        held = graph.node[k].input
        held[int(rng.integers(len(held)))] = pick(rng, (*[taken] * 8, "", "nobody"))
    return bool(found)


@change()
def number_of_inputs(rng: Rng, model: ModelProto) -> bool:
    """One more, one less, none, or hundreds."""
    found = nodes(model)
    if not found:
        return False
    held = pick(rng, found).input
    match int(rng.integers(4)):
        case 0 if held:
            del held[-1]
        case 1:
            held.append(pick(rng, (*names(model), "")))
        case 2:
            del held[:]
        case _:
            held.extend([pick(rng, (*names(model), ""))] * pick(rng, (2, 300)))
    return True


@change()
def outputs_of_a_node(rng: Rng, model: ModelProto) -> bool:
    """Another name (a duplicate, a value of further up), one more, one less."""
    found = nodes(model)
    if not found:
        return False
    held = pick(rng, found).output
    match int(rng.integers(4)):
        case 0 if held:
            held[int(rng.integers(len(held)))] = pick(rng, (*names(model), ""))
        case 1:
            held.append(pick(rng, ("more", "", *names(model))))
        case 2 if held:
            del held[-1]
        case _:
            held.extend(f"more{k}" for k in range(pick(rng, (2, 300))))
    return True


@change()
def order_of_nodes(rng: Rng, model: ModelProto) -> bool:
    """Nodes shuffled, left out, or there twice."""
    graph = pick(rng, graphs(model))
    held = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    if not held:
        return False
    where = int(rng.integers(len(held)))
    match int(rng.integers(3)):
        case 0:
            rng.shuffle(held)
        case 1:
            del held[where]
        case _:
            held.insert(where, held[where])
    replace(graph.node, held)
    return True


@change()
def parts_of_a_graph(rng: Rng, model: ModelProto) -> bool:
    """No nodes, no inputs, no outputs, no initialisers; or one input or output twice."""
    graph = pick(rng, graphs(model))
    held = pick(rng, (graph.node, graph.input, graph.output, graph.initializer))
    kept: list[Message] = [held[0], held[0]] if len(held) and rng.random() < 0.4 else []
    replace(held, [type(m).FromString(m.SerializeToString()) for m in kept])
    return True


# Names


@change(3)
def name_of_a_value(rng: Rng, model: ModelProto) -> bool:
    """A name replaced wherever it stands, so that the model still holds together."""
    found = [n for n in names(model) if n]
    if not found:
        return False
    old, new = pick(rng, found), pick(rng, TEXTS)
    for node in nodes(model):
        for held in (node.input, node.output):
            replace(held, [new if n == old else n for n in held])
    named = [*infos(model), *(t for g in graphs(model) for t in g.initializer)]
    for item in named:
        item.name = new if item.name == old else item.name
    return True


@change()
def name_of_a_part(rng: Rng, model: ModelProto) -> bool:
    """Names of nodes, graphs, functions, and documentation."""
    parts = [*nodes(model), *graphs(model), *model.functions]
    part = pick(rng, parts)
    part.name = pick(rng, TEXTS)
    part.doc_string = pick(rng, TEXTS)
    return True


# Versions


@change()
def versions(rng: Rng, model: ModelProto) -> bool:
    """Another opset, several for one domain, none; another version of the format."""
    match int(rng.integers(5)):
        case 0:
            model.ir_version = pick(rng, (*NUMBERS, 3, 7, 10))
        case 1:
            model.opset_import.append(helper.make_opsetid(pick(rng, ("", "ai.onnx", "local")), number(rng)))
        case 2:
            del model.opset_import[:]
        case 3 if model.opset_import:
            model.opset_import[0].version = pick(rng, (0, 9999, -1, 2**62))
        case _ if model.opset_import:
            model.opset_import[0].version = int(rng.integers(1, 27))
    return True
