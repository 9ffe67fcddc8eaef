"""Damage that follows what ONNX says of its operators: others in place of some, new ones, other attributes."""

from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, defs, helper, numpy_helper

from fusewire.contrib.onnx import registry
from fusewire.contrib.onnx.functions import has_body

from .mutate import FRACTIONS, TEXTS, Rng, number, pick
from .parts import change, nodes, replace, some_list

SCHEMAS = [s for s in defs.get_all_schemas() if registry.find("", s.name, 99) or has_body("", s.name, s.since_version)]
"""The newest schemas of the operators that fusewire reads."""


def attribute_kind(declared: Any) -> int:
    """The `AttributeProto.AttributeType` that a schema declares."""
    return int(declared.type.value)


def schema_of(name: str, model: ModelProto) -> defs.OpSchema | None:
    """The schema of an operator in the version that a model uses."""
    version = max([e.version for e in model.opset_import if e.domain == ""] or [17])
    try:
        return defs.get_schema(name, min(version, defs.onnx_opset_version()))
    except defs.SchemaError:
        return None


def settings(rng: Rng, schema: defs.OpSchema) -> list[AttributeProto]:
    """The attributes that an operator must have, and some others; half of the values are sensible."""
    graph = helper.make_graph([], "empty", [], [])
    found = []
    for name, declared in sorted(schema.attributes.items()):
        if not declared.required and rng.random() < 0.7:
            continue
        odd = rng.random() < 0.5
        values: dict[int, object] = {
            AttributeProto.INT: number(rng) if odd else int(rng.integers(3)),
            AttributeProto.FLOAT: pick(rng, FRACTIONS) if odd else 0.5,
            AttributeProto.STRING: pick(rng, TEXTS),
            AttributeProto.INTS: some_list(rng, pick(rng, (1, 2, 3, 4))) if odd else [1, 2][: pick(rng, (1, 2))],
            AttributeProto.FLOATS: [pick(rng, FRACTIONS)] if odd else [0.5, 1.0],
            AttributeProto.STRINGS: [pick(rng, TEXTS)],
            AttributeProto.TENSOR: numpy_helper.from_array(np.ones(pick(rng, ((), (1,), (3,))), np.float32)),
            AttributeProto.GRAPH: graph,
        }
        kind = attribute_kind(declared)
        default = declared.default_value
        if default.type and default.type == AttributeProto.STRING and not odd:
            values[AttributeProto.STRING] = default.s
        if kind in values:
            found.append(helper.make_attribute(name, values[kind]))
    return found


@change(6)
def fitting_operator_of_a_node(rng: Rng, model: ModelProto) -> bool:
    """Another operator that takes as many inputs, with the attributes that it must have."""
    found = [n for n in nodes(model) if n.output]
    schema = schema_of(pick(rng, SCHEMAS).name, model)
    if not found or schema is None:
        return False
    node = pick(rng, found)
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        return False
    node.op_type = schema.name
    replace(node.attribute, settings(rng, schema))
    return True


FOREIGN = [(domain, name) for domain, name in registry.known() if domain]
"""Operators of other domains, which the onnx package may know nothing about."""

SETTINGS = (
    "axis",
    "alpha",
    "kernel_shape",
    "channels_last",
    "opset",
    "transA",
    "transB",
    "pads",
    "strides",
    "ceil_mode",
)


@change(3)
def node_of_another_domain(rng: Rng, model: ModelProto) -> bool:
    """An operator of another domain on values that are there, with attributes that it may have, of any kind."""
    domain, name = pick(rng, FOREIGN)
    graph = model.graph
    there = [i.name for i in graph.input] + [t.name for t in graph.initializer] or ["nobody"]
    byte = f"n.{len(graph.initializer)}.byte"
    graph.initializer.append(numpy_helper.from_array(np.zeros(pick(rng, ((), (2, 3), (1, 2, 4, 4))), np.uint8), byte))
    scale = f"n.{len(graph.initializer)}.scale"
    graph.initializer.append(numpy_helper.from_array(np.ones(pick(rng, ((), (), (1,), (3,))), np.float32), scale))
    inputs = [pick(rng, (byte, scale, byte, scale, pick(rng, there), "")) for _ in range(int(rng.integers(10)))]
    if rng.random() < 0.6:
        inputs = [byte, scale, byte] * 3
    node = helper.make_node(name, inputs, [f"n.{len(graph.node)}.0"], domain=domain)
    for setting in SETTINGS:
        if rng.random() < 0.3:
            value = pick(rng, (0, 1, number(rng), 0.5, "text", [1, 1], [2, 2], [1, 1, 1, 1], [0.5]))
            node.attribute.append(helper.make_attribute(setting, value))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    graph.node.append(node)
    graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["any"]))
    return True


@change(14)
def another_node(rng: Rng, model: ModelProto) -> bool:
    """Any operator on values that are there, or on small constants; its results are results of the model."""
    schema = schema_of(pick(rng, SCHEMAS).name, model)
    if schema is None or not schema.outputs:
        return False
    graph = model.graph
    there = [n for node in graph.node for n in node.output] + [t.name for t in graph.initializer]
    there = [n for n in (*there, *(i.name for i in graph.input)) if n] or ["nobody"]
    count = int(rng.integers(schema.min_input, min(schema.max_input, schema.min_input + 2) + 1))
    inputs = []
    for k in range(count):
        name = pick(rng, there)
        if rng.random() < 0.4:
            name = f"n.{len(graph.initializer)}.{k}"
            values = np.array([number(rng) for _ in range(int(rng.integers(4)))], np.int64)
            array = values if rng.random() < 0.6 else np.zeros(pick(rng, ((), (1,), (2, 3), (1, 2, 3, 4))), np.float32)
            graph.initializer.append(numpy_helper.from_array(array, name))
        inputs.append(name)
    outputs = [f"n.{len(graph.node)}.{k}" for k in range(min(max(schema.min_output, 1), 3))]
    node = helper.make_node(schema.name, inputs, outputs)
    node.attribute.extend(settings(rng, schema))
    graph.node.append(node)
    graph.output.append(helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["any"]))
    return True


@change(4)
def an_attribute_more(rng: Rng, model: ModelProto) -> bool:
    """One that the operator has, with any value; or one that it does not have."""
    found = nodes(model)
    if not found:
        return False
    node = pick(rng, found)
    schema = schema_of(node.op_type, model)
    declared = list(schema.attributes.values()) if schema else []
    name, kind = "colour", int(AttributeProto.INT)
    if declared:
        chosen = pick(rng, declared)
        name, kind = chosen.name, attribute_kind(chosen)
    values: dict[int, object] = {
        AttributeProto.INT: number(rng),
        AttributeProto.FLOAT: pick(rng, FRACTIONS),
        AttributeProto.STRING: pick(rng, TEXTS),
        AttributeProto.INTS: some_list(rng, pick(rng, (1, 1, 2, 3, 4))),
    }
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, values.get(kind, 1))])
    return True
