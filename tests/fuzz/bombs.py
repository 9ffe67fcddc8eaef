"""Small models that ask for much: nesting, calls of calls, long loops, and tensors that are large by decree."""

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .mutate import Rng, number, pick
from .parts import change, graphs, infos, nodes, replace


def _copy(graph: GraphProto) -> GraphProto:
    found = GraphProto()
    found.CopyFrom(graph)
    return found


def _store(graph: GraphProto, name: str, value: object, dtype: type) -> str:
    kept = [TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name != name]
    replace(graph.initializer, [*kept, numpy_helper.from_array(np.asarray(value, dtype), name)])
    return name


def _add(graph: GraphProto, node: NodeProto) -> None:
    """A node whose first output becomes one of the graph."""
    graph.node.append(node)
    graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["any"]))


@change()
def nested_graphs(rng: Rng, model: ModelProto) -> bool:
    """The nodes inside of the branches of Ifs, some deep."""
    graph = model.graph
    _store(graph, "b.yes", True, bool)
    outputs = [helper.make_tensor_value_info(o.name, TensorProto.FLOAT, ["any"]) for o in graph.output]
    inner = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    for _ in range(pick(rng, (1, 5, 20, 30, 60, 400))):
        branch = helper.make_graph(inner, "branch", [], outputs)
        names = [o.name for o in outputs]
        inner = [helper.make_node("If", ["b.yes"], names, then_branch=branch, else_branch=branch)][:1]
        if branch.ByteSize() > 1 << 20:
            break
    del graph.node[:]
    graph.node.extend(inner)
    return True


@change()
def chained_branches(rng: Rng, model: ModelProto) -> bool:
    """Nesting in one branch only, which does not double at each level."""
    value = numpy_helper.from_array(np.ones(2, np.float32))
    inner = [helper.make_node("Constant", [], ["b.c"], value=value)]
    other = _branch(inner, "b.c")
    for k in range(pick(rng, (3, 10, 25, 30))):
        branch = _branch(inner, inner[0].output[0])
        inner = [helper.make_node("If", ["b.deeply"], [f"b.c{k}"], then_branch=branch, else_branch=other)]
    _store(model.graph, "b.deeply", True, bool)
    _add(model.graph, inner[0])
    return True


def _branch(inner: list[NodeProto], name: str) -> GraphProto:
    return helper.make_graph(inner, "branch", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["any"])])


def deeply_nested(rng: Rng, data: bytes) -> tuple[bytes, str]:
    """A serialized model with branches in branches, deeper than protobuf would write them: so written by hand."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = field(2, b"inner")
    depth = pick(rng, (34, 90, 300, 5000))
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(2, b"g") + field(1, field(1, b"x") + field(4, b"If") + field(5, attribute))
    return data + field(7, graph), f"{depth} branches in branches"  # repeated fields of one number are merged


@change()
def functions_of_functions(rng: Rng, model: ModelProto) -> bool:
    """Each calls the one before twice or more often, or itself; the graph calls the last."""
    depth, fan = pick(rng, ((1, 1), (3, 2), (10, 3), (20, 2), (40, 2), (70, 1), (500, 1), (12, 10)))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("many", 1)]
    circle = rng.random() < 0.3
    for k in range(depth):
        before = f"f{(k - 1) % depth if circle else k - 1}"
        calls = [helper.make_node(before, [f"v{j}"], [f"v{j + 1}"], domain="many") for j in range(fan)]
        if k == 0 and not circle:
            calls = [helper.make_node("Neg", ["v0"], [f"v{fan}"])]
        model.functions.append(helper.make_function("many", f"f{k}", ["v0"], [f"v{fan}"], calls, opsets))
    model.opset_import.append(helper.make_opsetid("many", 1))
    if not model.graph.input:
        return False
    _add(model.graph, helper.make_node(f"f{depth - 1}", [model.graph.input[0].name], ["b.called"], domain="many"))
    return True


@change()
def function_instead_of_an_operator(rng: Rng, model: ModelProto) -> bool:
    """A function with the name of an operator that is used, in its domain, calling it or not."""
    found = [n for n in nodes(model) if n.input and n.output]
    if not found:
        return False
    node = pick(rng, found)
    inputs, outputs = [f"i{k}" for k in range(len(node.input))], [f"o{k}" for k in range(len(node.output))]
    if rng.random() < 0.5:
        inputs = pick(rng, (["i0", "i0"], [], inputs[:1], [*inputs, "more"]))
        outputs = pick(rng, (["o0", "o0"], [], outputs[:1], [*outputs, "none"]))
    inner = helper.make_node(pick(rng, ("Identity", "Identity", node.op_type)), ["i0"], ["o0"])
    made = helper.make_function(node.domain, node.op_type, inputs, outputs, [inner], list(model.opset_import))
    model.functions.append(made)
    return True


@change(3)
def attribute_from_a_call(rng: Rng, model: ModelProto) -> bool:
    """A node put into a function that hands an attribute on: which is there, or not, or of another kind."""
    found = [n for n in model.graph.node if n.attribute and not any(a.g.node for a in n.attribute)]
    if not found:
        return False
    node = pick(rng, found)
    inner = NodeProto.FromString(node.SerializeToString())
    chosen = pick(rng, inner.attribute)
    given = AttributeProto.FromString(chosen.SerializeToString())
    given.name = "k"
    kind = chosen.type if rng.random() < 0.5 else AttributeProto.UNDEFINED
    chosen.CopyFrom(AttributeProto(name=chosen.name, type=kind, ref_attr_name="k"))
    inputs, outputs = [f"i{k}" for k in range(len(node.input))], [f"o{k}" for k in range(len(node.output))]
    replace(inner.input, [name if used else "" for name, used in zip(inputs, node.input, strict=True)])
    replace(inner.output, [name if used else "" for name, used in zip(outputs, node.output, strict=True)])
    made = helper.make_function(
        "passing", "f", inputs, [o for o in inner.output if o], [inner], list(model.opset_import)
    )
    made.attribute.append("k")
    model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("passing", 1))
    other = helper.make_attribute("k", pick(rng, (1, 0.5, "text", [1, 2], [0.5], ["a"])))
    replace(node.attribute, pick(rng, ([given], [], [], [other])))
    node.op_type, node.domain = "f", "passing"
    return True


@change(2)
def long_loop(rng: Rng, model: ModelProto) -> bool:
    """Many rounds, perhaps of many rounds, whose state may grow."""
    rounds = pick(rng, (0, 1, 100, 1000, 4096, 5000, 10**9, 2**63 - 1, -1))
    grows, nested = rng.random() < 0.3, rng.random() < 0.3
    step = (
        helper.make_node("Concat", ["b.s", "b.s"], ["b.t"], axis=0)
        if grows
        else helper.make_node("Neg", ["b.s"], ["b.t"])
    )
    body = _body([step], "b.s", "b.t")
    if nested:
        body = _body([helper.make_node("Loop", ["b.rounds", "", "b.r"], ["b.u"], body=body)], "b.r", "b.u")
    graph = model.graph
    _store(graph, "b.rounds", rounds, np.int64)
    _store(graph, "b.state", np.zeros(2), np.float32)
    start = "b.state" if rng.random() < 0.5 or not graph.input else graph.input[0].name
    _add(graph, helper.make_node("Loop", ["b.rounds", "", start], ["b.looped"], body=body))
    return True


def _body(inner: list[NodeProto], before: str, after: str) -> GraphProto:
    flag = f"on_{before}"
    inputs = [
        helper.make_tensor_value_info(f"i_{before}", TensorProto.INT64, []),
        helper.make_tensor_value_info(flag, TensorProto.BOOL, []),
        helper.make_tensor_value_info(before, TensorProto.FLOAT, ["any"]),
    ]
    outputs = [
        helper.make_tensor_value_info(f"still_{before}", TensorProto.BOOL, []),
        helper.make_tensor_value_info(after, TensorProto.FLOAT, ["any"]),
    ]
    keep = helper.make_node("Identity", [flag], [f"still_{before}"])
    return helper.make_graph([keep, *inner], f"body_{before}", inputs, outputs)


@change(4)
def large_tensor(rng: Rng, model: ModelProto) -> bool:
    """A tensor of any size out of nothing, used whole, summed up, or in one element."""
    graph = model.graph
    size = pick(rng, (1000, 2**16, 2**22, 2**24, 2**26, 2**28, 2**31, 2**33, 2**40, 2**62, number(rng)))
    shape = pick(rng, ([size], [size, 1], [1, size], [2, size], [int(abs(size) ** 0.5)] * 2, [size, size]))
    _store(graph, "b.to", shape, np.int64)
    _store(graph, "b.size", size, np.int64)
    _store(graph, "b.one", 1, np.int64)
    _store(graph, "b.zero", 0, np.int64)
    _store(graph, "b.unit", np.ones(1), np.float32)
    _store(graph, "b.pair", [0.0, 1.0], np.float32)
    _store(graph, "b.some", [0, 1], np.int64)
    filler = numpy_helper.from_array(np.ones(1, np.float32))
    makers = (
        helper.make_node("ConstantOfShape", ["b.to"], ["b.large"], value=filler),
        helper.make_node("Expand", ["b.unit", "b.to"], ["b.large"]),
        helper.make_node("Tile", ["b.unit", "b.to"], ["b.large"]),
        helper.make_node("Range", ["b.zero", "b.size", "b.one"], ["b.large"]),
        helper.make_node("OneHot", ["b.some", "b.size", "b.pair"], ["b.large"]),
        helper.make_node("HannWindow", ["b.size"], ["b.large"]),
        helper.make_node("RandomNormal", [], ["b.large"], shape=shape),
        helper.make_node("Resize", ["b.unit", "", "", "b.to"], ["b.large"], mode="nearest"),
        helper.make_node("EyeLike", ["b.large0"], ["b.large"]),
    )
    maker = pick(rng, makers)
    if maker.op_type == "EyeLike":
        graph.node.append(helper.make_node("ConstantOfShape", ["b.to"], ["b.large0"], value=filler))
    graph.node.append(maker)
    _add(graph, _user(rng, graph))
    return True


def _user(rng: Rng, graph: GraphProto) -> NodeProto:
    """A node that uses the tensor `large`."""
    choices = [
        helper.make_node("Neg", ["b.large"], ["b.used"]),
        helper.make_node("ReduceSum", ["b.large"], ["b.used"], keepdims=0),
        helper.make_node("Size", ["b.large"], ["b.used"]),
        helper.make_node("Gather", ["b.large", "b.zero"], ["b.used"], axis=0),
        helper.make_node("NonZero", ["b.large"], ["b.used"]),
        helper.make_node("Unique", ["b.large"], ["b.used"]),
        helper.make_node("Softmax", ["b.large"], ["b.used"], axis=0),
        helper.make_node("TopK", ["b.large", "b.some"], ["b.used", "b.places"]),
        helper.make_node("CumSum", ["b.large", "b.zero"], ["b.used"]),
        helper.make_node("MatMul", ["b.large", "b.large"], ["b.used"]),
        helper.make_node("Reshape", ["b.large", "b.to"], ["b.used"]),
        helper.make_node("Loop", ["b.large", "", ""], ["b.used"], body=_body([], "b.s", "b.s")),
    ]
    if graph.input:
        choices.append(helper.make_node("Add", [graph.input[0].name, "b.large"], ["b.used"]))
        choices.append(helper.make_node("Reshape", [graph.input[0].name, "b.large"], ["b.used"]))
    return pick(rng, choices)


@change(3)
def large_window(rng: Rng, model: ModelProto) -> bool:
    """A convolution or pooling with windows, strides, dilations and padding of any size."""
    if not model.graph.input:
        return False
    name = model.graph.input[0].name
    rank = pick(rng, (1, 2, 3))

    def values() -> list[int]:
        usual = pick(rng, (1, 2, 3))
        return [number(rng) if rng.random() < 0.3 else usual for _ in range(rank)]

    kind = pick(rng, ("MaxPool", "AveragePool", "LpPool", "Conv", "ConvTranspose"))
    settings: dict[str, Any] = {"kernel_shape": values(), "strides": values(), "pads": values() + values()}
    if kind in ("Conv", "ConvTranspose"):
        settings["dilations"] = values()
        settings["group"] = pick(rng, (1, 1, number(rng)))
        _store(model.graph, "b.window", np.ones([2, 1, *[2] * rank]), np.float32)
    else:
        settings["ceil_mode"] = pick(rng, (0, 1))
    if rng.random() < 0.5:
        _store(model.graph, "b.picture shape", [1, 1, -1] + [1] * (rank - 1), np.int64)
        model.graph.node.append(helper.make_node("Reshape", [name, "b.picture shape"], ["b.picture"]))
        name = "b.picture"
    inputs = [name, "b.window"] if kind in ("Conv", "ConvTranspose") else [name]
    _add(model.graph, helper.make_node(kind, inputs, ["b.windows"], **settings))
    return True


@change()
def long_chain(rng: Rng, model: ModelProto) -> bool:
    """Hundreds of nodes in a row, or one with hundreds of users."""
    if not model.graph.input:
        return False
    before = model.graph.input[0].name
    operator = pick(rng, ("Neg", "Sin", "Transpose", "Softmax", "Size", "Identity", "Flatten"))
    for k in range(pick(rng, (50, 500))):
        model.graph.node.append(helper.make_node(operator, [before], [f"chain{k}"]))
        before = f"chain{k}"
    model.graph.output.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, ["any"]))
    return True


@change()
def doubling(rng: Rng, model: ModelProto) -> bool:
    """x = x + x or concat(x, x), many times: graphs that are small only as long as nobody unfolds them."""
    if not model.graph.input:
        return False
    before = model.graph.input[0].name
    operator = pick(rng, ("Add", "Concat", "Mul", "SequenceConstruct"))
    settings: dict[str, Any] = {"axis": 0} if operator == "Concat" else {}
    for k in range(pick(rng, (10, 25, 60, 200))):
        model.graph.node.append(helper.make_node(operator, [before, before], [f"double{k}"], **settings))
        before = f"double{k}"
    model.graph.output.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, ["any"]))
    return True


@change()
def sparse_tensor(rng: Rng, model: ModelProto) -> bool:
    """A sparse initialiser or constant of any size."""
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    places = numpy_helper.from_array(np.array([0, number(rng)], np.int64), "b.places")
    made = helper.make_sparse_tensor(values, places, [number(rng), 3])
    if rng.random() < 0.5:
        pick(rng, graphs(model)).sparse_initializer.append(made)
    else:
        entry = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
        entry.sparse_tensor.CopyFrom(made)
        node = helper.make_node("Constant", [], ["b.scattered"])
        node.attribute.append(entry)
        _add(model.graph, node)
    return True


@change()
def rest_of_the_model(rng: Rng, model: ModelProto) -> bool:
    """Training information, metadata, notes on quantisation, devices."""
    model.metadata_props.add(key="a", value="b" * pick(rng, (1, 10000)))
    model.graph.quantization_annotation.add(tensor_name="nobody")
    model.producer_name = model.domain = "\n"
    model.training_info.add().algorithm.CopyFrom(_copy(model.graph))
    for info in infos(model)[:1]:
        model.graph.value_info.append(onnx.ValueInfoProto.FromString(info.SerializeToString()))
    return True
