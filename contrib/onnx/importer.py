"""Reads a checked ONNX graph node by node and builds the fusewire function.

Every node is read once its inputs are, so that all types are known on the way: translations see static shapes, and
what follows from constants is computed at once (`values.simplified`), which turns arithmetic on shapes into plain
numbers. Initialisers become parameters; those that a translation used up (the new shape of a Reshape) vanish.

Operators without a translation that ONNX defines by a function body are replaced by the body (`functions.py`).
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import onnx

from ...ir.errors import FusewireError, RuntimeInputError, shortened
from ...ir.expr import Constant, Expr, Function, Tuple, Var
from ...ir.index import Dim, size_var
from ...ir.tuple_wrapper import TupleWrapper
from ...ir.types import TensorType
from ...ir.visitor import free_vars
from ...ops import cast
from . import functions, registry
from .dtypes import dtype_of, to_array
from .model import opsets, per_name, plain_domain
from .node import Node, attribute, described
from .schema import check_node
from .unsupported import DEPTH, check_supported
from .values import Array, DynamicValueError, Knowledge, Struct, Value, check_size, simplified
from .values import Sequence as SequenceValue

UNFOLDED = 50_000
"""How many nodes loops and functions may unfold to."""

INLINE = 64
"""Elements that an initialiser of whole numbers may have to become a constant: shapes, axes, indices."""


@attrs.frozen
class Options:
    """What the caller says of a model.

    Attributes:
        shape: shapes of inputs, or values of symbolic dimensions, by name.
        dtype: the dtype in which inputs arrive: one for all, or by name; they are converted to what the model wants.
        opset: replaces the version of the default domain.
        constants: values of inputs that are known now: arrays, or lists of arrays and None for sequences and optionals.
        structures: for inputs that are sequences or optionals: the types of their elements, or None.
        base: the folder of the initialisers' external data.
    """

    shape: Mapping[str, Any] = attrs.field(factory=dict)
    dtype: Any = None
    opset: int | None = None
    constants: Mapping[str, Any] = attrs.field(factory=dict)
    structures: Mapping[str, Any] = attrs.field(factory=dict)
    base: str = os.curdir


@attrs.frozen(eq=False)
class Imported:
    """A model as a function.

    Attributes:
        function: inputs first, then parameters.
        params: arrays by the name of the parameter.
        outputs: what the outputs are; the function returns the tensors in them, from left to right.
    """

    function: Function
    params: dict[str, Array]
    outputs: tuple[Value, ...]


def local_functions(model: onnx.ModelProto) -> dict[tuple[str, str], onnx.FunctionProto]:
    """The functions that a model brings, by domain and name."""
    return {(plain_domain(f.domain), f.name): f for f in model.functions}


def check_operators(model: onnx.ModelProto, opset: int | None) -> dict[str, int]:
    """The version of every domain, after a look whether all operators can be read.

    Raises:
        FusewireError: some cannot; it lists them all.
    """
    versions = opsets(model, opset)
    check_supported(model.graph, versions, local_functions(model))
    return versions


@attrs.define(eq=False)
class Importer:
    """The state of one import."""

    model: onnx.ModelProto
    options: Options
    knowledge: Knowledge = attrs.field(factory=Knowledge)
    inputs: list[Var] = attrs.field(factory=list)
    weights: dict[int, Var] = attrs.field(factory=dict)
    named: dict[str, Var] = attrs.field(factory=dict)
    dims: dict[str, Dim] = attrs.field(factory=dict)
    local: dict[tuple[str, str], onnx.FunctionProto] = attrs.field(factory=dict)
    depth: int = 0
    unfolded: int = 0

    def run(self) -> Imported:
        """Read the model."""
        versions = check_operators(self.model, self.options.opset)
        self.local = local_functions(self.model)
        graph = self.model.graph
        scope = Scope(self, {}, versions, {})
        scope.add_initialisers(graph)
        for info in graph.input:
            if info.name not in scope.values:
                scope.values[info.name] = self.input(info)
        self.check_names()
        scope.run_nodes(graph.node)
        outputs = tuple(scope.lookup(o.name, "the outputs") for o in graph.output)
        return self.finish(outputs)

    def check_names(self) -> None:
        """Refuse sizes and dtypes for what the model does not have."""
        inputs = {info.name for info in self.model.graph.input}
        sizes = {d.dim_param for i in self.model.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param}
        dtype = self.options.dtype
        for what, given, known in (
            ("shape", self.options.shape, inputs | sizes),
            ("dtype", dtype if isinstance(dtype, Mapping) else {}, inputs),
        ):
            if unknown := sorted(map(str, given.keys() - known)):
                listed = ", ".join(sorted(known)) or "none"
                raise RuntimeInputError(
                    f"the model has no input {unknown[0]!r}, which {what}= names; there are: {listed}"
                )

    def finish(self, outputs: Sequence[Value]) -> Imported:
        """The function and the parameters that it uses."""
        tensors = [t for value in outputs for t in flat(value)]
        if not tensors:
            raise FusewireError("the model has no outputs")
        body = tensors[0] if len(tensors) == 1 else Tuple(tensors)
        used = {id(v) for v in free_vars(body)}
        params = [v for v in self.weights.values() if id(v) in used]
        arrays = {v.name_hint: self.knowledge.initialisers[id(v)] for v in params}
        return Imported(Function([*self.inputs, *params], body), arrays, tuple(outputs))

    def input(self, info: onnx.ValueInfoProto) -> Value:
        """An input of the model."""
        name, kind = info.name, info.type.WhichOneof("value")
        if name in self.options.constants:
            return known_value(self.options.constants[name])
        if kind in ("sequence_type", "optional_type"):
            return self.structure(name, kind)
        if kind != "tensor_type":
            raise FusewireError(f"input {name!r}: values of kind {kind} are not supported")
        dtype = dtype_of(info.type.tensor_type.elem_type)
        arriving = per_name(self.options.dtype, name) or dtype
        variable = self.variable(name, TensorType(self.input_shape(info), arriving))
        return variable if arriving == dtype else cast(variable, dtype)

    def variable(self, name: str, type_: TensorType) -> Var:
        """A new parameter of the function."""
        self.inputs.append(Var(name, type_))
        check_size(self.inputs[-1], f"input {name!r}")
        return self.inputs[-1]

    def weight(self, name: str, array: Array) -> Var:
        """The parameter for an initialiser.

        Subgraphs may use one name for different tensors, and the body of a loop is read many times: parameters have
        different names, and a tensor that is there already is taken again.
        """
        inputs, number, base = {v.name_hint for v in self.inputs}, 0, name
        while name in self.named or name in inputs:
            known = self.named.get(name)
            if known is not None and _same(self.knowledge.initialisers[id(known)], array):
                return known
            number += 1
            name = f"{base}.{number}"
        variable = self.named[name] = Var(name, TensorType(array.shape, array.dtype.name))
        self.weights[id(variable)] = variable
        self.knowledge.initialisers[id(variable)] = array
        return variable

    def structure(self, name: str, kind: str) -> Value:
        """An input that is a sequence or an optional."""
        if name not in self.options.structures:
            raise DynamicValueError(f"input {name!r} is a {kind}: its length must be known", (name,))
        given = self.options.structures[name]
        if isinstance(given, list):
            return SequenceValue(tuple(self.variable(f"{name}.{k}", t) for k, t in enumerate(given)))
        return Struct() if given is None else self.variable(name, given)

    def input_shape(self, info: onnx.ValueInfoProto) -> list[Dim]:
        """The shape of an input: as the caller says, else as the model says, with symbolic dimensions."""
        tensor = info.type.tensor_type
        given: Any = self.options.shape.get(info.name)
        if given is None and not tensor.HasField("shape"):
            raise FusewireError(f"input {info.name!r} has no shape in the model: give one with shape=")
        declared = list(tensor.shape.dim) if tensor.HasField("shape") else None
        if given is not None:
            given = [given] if isinstance(given, int) else [*given]
            if declared is not None and not fits(given, declared):
                expected = [d.dim_param or d.dim_value if d.WhichOneof("value") else "?" for d in declared]
                raise FusewireError(f"input {info.name!r}: got shape {given}, expected {expected}")
            return list(given)
        assert declared is not None
        return [self.dim(d, f"{info.name}_{k}") for k, d in enumerate(declared)]

    def dim(self, dim: onnx.TensorShapeProto.Dimension, fallback: str) -> Dim:
        """A dimension of an input; names stand for the same size everywhere."""
        if dim.WhichOneof("value") == "dim_value":
            return dim.dim_value
        name = dim.dim_param or fallback
        if isinstance(bound := self.options.shape.get(name), int):
            return bound
        if name not in self.dims:
            plain = "".join(c if c.isalnum() else "_" for c in name)
            taken = {str(d) for d in self.dims.values()}
            # Names that differ in other characters only must not become one size.
            own = next(n for k in itertools.count() if (n := f"{plain}_{k}" if k else plain) not in taken)
            self.dims[name] = size_var(own)
        return self.dims[name]


@attrs.define(eq=False)
class Scope:
    """The values that nodes of one graph or function body see.

    Attributes:
        values: by name.
        versions: the opset of each domain.
        given: the attributes of the function that is being read.
        outer: the scope around a subgraph.
    """

    importer: Importer
    values: dict[str, Value]
    versions: Mapping[str, int]
    given: Mapping[str, onnx.AttributeProto]
    outer: "Scope | None" = None

    def lookup(self, name: str, what: str) -> Value:
        """The value called `name`, here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        raise FusewireError(f"{what}: there is no value {name!r}")

    def add_initialisers(self, graph: onnx.GraphProto) -> None:
        """Make parameters of stored tensors, and constants of small ones of whole numbers."""
        if graph.sparse_initializer:
            raise FusewireError("sparse initialisers are not supported")
        for tensor in graph.initializer:
            array = to_array(tensor, self.importer.options.base)
            if array.dtype.kind in "iub" and array.size <= INLINE:
                self.values[tensor.name] = Constant(array)
                continue
            self.values[tensor.name] = self.importer.weight(tensor.name, array)

    def run_nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Read nodes in order."""
        self.importer.depth += 1
        if self.importer.depth > DEPTH:
            raise FusewireError(f"functions and subgraphs are nested more than {DEPTH} deep")
        for proto in nodes:
            self.importer.unfolded += self.importer.depth > 1
            if self.importer.unfolded > UNFOLDED:
                raise FusewireError(f"loops and functions unfold to more than {UNFOLDED} nodes")
            results = self.read(proto)
            for name, value in zip(proto.output, results, strict=False):
                if name:
                    check_size(value, f"{proto.op_type} {proto.name!r}: {name!r}")
                    self.values[name] = simplified(value, self.importer.knowledge)
        self.importer.depth -= 1

    def read(self, proto: onnx.NodeProto) -> Sequence[Value]:
        """The outputs of a node."""
        domain = plain_domain(proto.domain)
        opset = self.versions.get(domain, 1)
        where = described(proto, opset)
        inputs = tuple(self.lookup(name, where) if name else None for name in proto.input)
        given = self.attributes_of(proto)
        body = self.importer.local.get((domain, proto.op_type))
        translation = None if body else registry.find(domain, proto.op_type, opset)
        if translation is None:
            body = body or functions.body_of(proto, opset, inputs, given)
            if body is None:
                raise FusewireError(f"{where} is not supported")
            return self.call(body, inputs, functions.with_defaults(proto, opset, given, body), where)
        plain = {name: attribute(a) for name, a in given.items()}
        node = Node(proto, opset, inputs, plain, self.importer.knowledge, self.subgraph)
        check_node(node)
        try:
            return as_outputs(translation(node))
        except FusewireError as error:
            if isinstance(error, DynamicValueError):
                raise
            text = str(error)
            raise type(error)(shortened(text if where in text else f"{where}: {text}")) from None

    def attributes_of(self, proto: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
        """The attributes of a node, those that refer to attributes of the function replaced."""
        found = {}
        for entry in proto.attribute:
            if not entry.ref_attr_name:
                found[entry.name] = entry
            elif entry.ref_attr_name in self.given:
                copied = onnx.AttributeProto()
                copied.CopyFrom(self.given[entry.ref_attr_name])
                copied.name = entry.name
                if entry.type and copied.type != entry.type:
                    got, wanted = (onnx.AttributeProto.AttributeType.Name(t) for t in (copied.type, entry.type))
                    raise FusewireError(
                        f"the attribute {entry.ref_attr_name} of a function is {got}, expected {wanted}"
                    )
                found[entry.name] = copied
        return found

    def call(
        self,
        body: onnx.FunctionProto,
        inputs: Sequence[Value],
        given: Mapping[str, onnx.AttributeProto],
        where: str,
    ) -> list[Value]:
        """Read the body of a function."""
        padded = [*inputs, *[None] * (len(body.input) - len(inputs))]
        versions = {**self.versions, **{plain_domain(e.domain): e.version for e in body.opset_import}}
        scope = Scope(self.importer, dict(zip(body.input, padded, strict=False)), versions, given)
        try:
            scope.run_nodes(body.node)
        except DynamicValueError:
            raise
        except FusewireError as error:
            raise FusewireError(f"in the function {body.name} of {where}: {error}") from None
        return [scope.values.get(name) for name in body.output]

    def subgraph(self, graph: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """Read a subgraph; it sees the values of this scope."""
        names = [info.name for info in graph.input]
        scope = Scope(self.importer, dict(zip(names, inputs, strict=False)), self.versions, self.given, self)
        scope.add_initialisers(graph)
        scope.run_nodes(graph.node)
        return [scope.lookup(output.name, f"the outputs of {graph.name!r}") for output in graph.output]


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal bit by bit."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def as_outputs(result: Value | Sequence[Value]) -> Sequence[Value]:
    """What a translation returned, as a list of outputs."""
    if isinstance(result, TupleWrapper):
        return [result[k] for k in range(len(result))]
    return [result] if result is None or isinstance(result, Expr | SequenceValue | Struct) else result


def flat(value: Value) -> list[Expr]:
    """The tensors in a value."""
    if isinstance(value, SequenceValue):
        return [tensor for item in value.items for tensor in flat(item)]
    return [value] if isinstance(value, Expr) else []


def known_value(given: Any) -> Value:
    """A value from an array, or a list of them."""
    if isinstance(given, list):
        return SequenceValue(tuple(map(known_value, given)))
    return Struct() if given is None else Constant(given)


def fits(given: Sequence[Any], declared: Sequence[onnx.TensorShapeProto.Dimension]) -> bool:
    """Whether a shape has the rank and the sizes that the model declares."""
    return len(given) == len(declared) and all(
        d.WhichOneof("value") != "dim_value" or d.dim_value == size for size, d in zip(given, declared, strict=True)
    )


def check_model(model: onnx.ModelProto) -> None:
    """Raise a FusewireError that lists all operators of a loaded model that cannot be read."""
    check_operators(model, None)


def import_model(model: onnx.ModelProto, options: Options | None = None) -> Imported:
    """Read a model that `load` has checked."""
    try:
        return Importer(model, options or Options()).run()
    except UnicodeDecodeError as error:  # protobuf decodes a text when it is asked for it
        raise FusewireError(f"the ONNX model has a name or another text that is not UTF-8: {error}") from None
