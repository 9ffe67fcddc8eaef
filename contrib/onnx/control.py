"""Control flow that is known while the graph is read, and sequences and optionals, which are lists here."""

from collections.abc import Sequence

import numpy as np
import onnx

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr, If, Tuple
from ...ir.types import tensors_of
from .node import Node, constant
from .registry import translate
from .values import Sequence as SequenceValue
from .values import Struct, Value

STEPS = 4096
"""How many rounds of a loop, or steps of a recurrent layer, may be unrolled."""


def steps_of(count: int, what: str) -> int:
    """The length of something that is unrolled.

    Raises:
        FusewireError: there are more than `STEPS`.
    """
    if count > STEPS:
        raise FusewireError(f"{what} has {count} steps, expected at most {STEPS}, as all of them are unrolled")
    return count


@translate("If")
def if_(node: Node) -> list[Value]:
    """One branch where the condition is known; else both, if their results have the same types."""
    then, other = node.attributes["then_branch"], node.attributes["else_branch"]
    known = node.known(0)
    if known is not None:
        return node.run(then if known.any() else other, [])
    yes, no = node.run(then, []), node.run(other, [])
    if not all(isinstance(v, Expr) for v in (*yes, *no)) or _types(yes) != _types(no):
        node.static(0, "the condition (its branches give different types)")
    condition = ops.reshape(node[0], ())
    tensors = [[v for v in branch if isinstance(v, Expr)] for branch in (yes, no)]
    if len(yes) == 1:
        return [If(condition, tensors[0][0], tensors[1][0])]
    chosen = If(condition, Tuple(tensors[0]), Tuple(tensors[1]))
    return [chosen[k] for k in range(len(yes))]


def _types(values: Sequence[Value]) -> list[object]:
    return [tensors_of(v.checked_type) for v in values if isinstance(v, Expr)]


@translate("Loop")
def loop(node: Node) -> list[Value]:
    """Unrolled: the number of rounds, and the condition after each, must be known."""
    body: onnx.GraphProto = node.attributes["body"]
    limit = int(node.scalar(0)) if node.has(0) else STEPS + 1
    carried = [node.value(k) for k in range(2, len(node.inputs))]
    condition: Value = node.get(1) if node.has(1) else constant(True, "bool")
    if len(body.output) <= len(carried) or len(body.input) < 2 + len(carried):
        raise FusewireError(
            f"the body has {len(body.input)} inputs and {len(body.output)} outputs, expected at least "
            f"{2 + len(carried)} and {1 + len(carried)} for {len(carried)} carried values"
        )
    scanned: list[list[Expr]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    for step in range(limit):
        if not _holds(node, condition):
            break
        if step >= STEPS:
            raise FusewireError(f"a loop of more than {STEPS} rounds is not supported")
        results = node.run(body, [constant(step, "int64"), condition, *carried])
        condition, carried = results[0], results[1 : 1 + len(carried)]
        for found, value in zip(scanned, results[1 + len(carried) :], strict=True):
            if not isinstance(value, Expr):
                raise FusewireError("a scan output of a loop must be a tensor")
            found.append(value)
    if any(not found for found in scanned):
        return [*carried, *(_nothing(body, k + 1 + len(carried)) for k in range(len(scanned)))]
    return [*carried, *(ops.stack(found, 0) for found in scanned)]


def _nothing(body: onnx.GraphProto, k: int) -> Expr:
    """A scan output of no rounds."""
    raise FusewireError(f"the scan output {body.output[k].name!r} of a loop without rounds is not supported")


def _holds(node: Node, condition: Value) -> bool:
    if not isinstance(condition, Expr):
        raise FusewireError("the condition of a loop must be a tensor")
    known = node.knowledge.of(condition)
    if known is None:
        raise node.knowledge.dynamic(condition, f"Loop {node.proto.name!r}: the condition")
    return bool(known.any())


@translate("Scan")
def scan_8(node: Node) -> list[Value]:
    """Opset 8: with a batch axis in front; each entry is read on its own."""
    if node.has(0):
        raise FusewireError("Scan with sequence lengths is not supported")
    batch = steps_of(node.shape(1)[0] if node.rank(1) else 0, "the batch")
    if not batch:
        raise FusewireError(f"Scan over an empty batch is not supported: input 1 has the shape {node.shape(1)}")
    rows = []
    for b in range(batch):
        cut = [
            ops.squeeze(ops.strided_slice(x, [b], [b + 1]), [0])
            for x in map(node.__getitem__, range(1, len(node.inputs)))
        ]
        rows.append(_scan(node, cut, [0] * _scan_inputs(node, len(cut))))
    return [ops.stack([row[k] for row in rows], 0) for k in range(len(rows[0]))]


@translate("Scan", since=9)
def scan(node: Node) -> list[Value]:
    """Unrolled over the scanned axis."""
    count = _scan_inputs(node, len(node.inputs))
    return list(_scan(node, node.tensors, _each(node, "scan_input_axes", count)))


def _scan_inputs(node: Node, inputs: int) -> int:
    count = node.count("num_scan_inputs")
    if count > inputs:
        raise FusewireError(f"num_scan_inputs is {count}, but there are {inputs} inputs")
    return count


def _each(node: Node, name: str, count: int) -> list[int]:
    """An attribute with one number for each of `count` things, by default 0."""
    found = list(node.attr(name) or [0] * count)
    if len(found) != count:
        raise FusewireError(f"{name} has {len(found)} entries, expected {count}")
    return found


def _scan(node: Node, inputs: Sequence[Expr], axes: list[int]) -> list[Expr]:
    body: onnx.GraphProto = node.attributes["body"]
    count = _scan_inputs(node, len(inputs))
    states: list[Value] = list(inputs[: len(inputs) - count])
    scanned = inputs[len(inputs) - count :]
    reverse = _each(node, "scan_input_directions", count) if node.opset > 8 else _each(node, "directions", count)
    types = [tensors_of(x.checked_type)[0] for x in scanned]
    axes = [node.place(a, t.ndim) for a, t in zip(axes, types, strict=True)]
    lengths = {t.static_shape[a] if t.ndim else 0 for a, t in zip(axes, types, strict=True)}
    if len(lengths) > 1 or 0 in lengths:
        raise FusewireError(f"scanned inputs must have one length, which is not 0, got {sorted(lengths)}")
    steps = steps_of(lengths.pop(), "the scan")
    outputs = len(body.output) - len(states)
    if outputs < 0 or len(body.input) < len(inputs):
        raise FusewireError(
            f"the body has {len(body.input)} inputs and {len(body.output)} outputs for {len(states)} states and "
            f"{count} scanned inputs"
        )
    out_axes, backwards = _each(node, "scan_output_axes", outputs), _each(node, "scan_output_directions", outputs)
    found: list[list[Expr]] = [[] for _ in range(outputs)]
    for step in range(steps):
        cut = []
        for x, axis, back in zip(scanned, axes, reverse, strict=True):
            t = steps - 1 - step if back else step
            cut.append(ops.squeeze(ops.strided_slice(x, [t], [t + 1], axes=[axis]), [axis]))
        results = node.run(body, [*states, *cut])
        states = list(results[: len(states)])
        for out, value in zip(found, results[len(states) :], strict=True):
            if not isinstance(value, Expr):
                raise FusewireError("a scan output must be a tensor")
            out.append(value)
    joined = [
        ops.stack(values[::-1] if back else values, axis)
        for values, axis, back in zip(found, out_axes, backwards, strict=True)
    ]
    return [*(s for s in states if isinstance(s, Expr)), *joined]


# Sequences and optionals


def items(node: Node, k: int = 0) -> tuple[Value, ...]:
    """The elements of a sequence input."""
    value = node.value(k)
    if not isinstance(value, SequenceValue):
        raise FusewireError(f"input {k} must be a sequence")
    return value.items


def _place(node: Node, k: int, count: int) -> int:
    place = int(node.scalar(k, -1))
    if not -count <= place < count:
        raise FusewireError(f"position {place} is outside of a sequence of {count}")
    return place % count


@translate("SequenceConstruct")
def sequence_construct(node: Node) -> Value:
    """A sequence of the inputs."""
    return SequenceValue(node.inputs)


@translate("SequenceEmpty")
def sequence_empty(node: Node) -> Value:
    """A sequence of nothing."""
    return SequenceValue(())


@translate("SequenceAt")
def sequence_at(node: Node) -> Value:
    """One element."""
    held = items(node)
    return held[_place(node, 1, len(held))]


@translate("SequenceInsert")
def sequence_insert(node: Node) -> Value:
    """An element put in, by default at the end."""
    held = items(node)
    place = int(node.scalar(2, len(held)))
    if not -len(held) <= place <= len(held):
        raise FusewireError(f"position {place} is outside of a sequence of {len(held)}")
    place = place + len(held) if place < 0 else place
    return SequenceValue((*held[:place], node.value(1), *held[place:]))


@translate("SequenceErase")
def sequence_erase(node: Node) -> Value:
    """An element taken out, by default the last."""
    held = items(node)
    place = _place(node, 1, len(held))
    return SequenceValue((*held[:place], *held[place + 1 :]))


@translate("SequenceLength")
def sequence_length(node: Node) -> Value:
    """How many elements."""
    return constant(len(items(node)), "int64")


@translate("ConcatFromSequence")
def concat_from_sequence(node: Node) -> Value:
    """Joined along an axis, or along a new one."""
    parts = [x for x in items(node) if isinstance(x, Expr)]
    if node.attr("new_axis", 0):
        return ops.stack(parts, node.attr("axis"))
    return ops.concatenate(parts, node.attr("axis"))


@translate("SplitToSequence")
def split_to_sequence(node: Node) -> Value:
    """Cut along an axis into parts of given sizes; by default of size 1, whose axis may go."""
    axis = node.axis(0)
    if not node.rank():
        raise FusewireError("a scalar cannot be split")
    total = node.shape()[axis]
    if node.has(1) and node.rank(1):
        sizes = list(node.ints(1))
        if sum(sizes) != total or any(s < 0 for s in sizes):
            raise FusewireError(f"cannot split {total} elements into {tuple(sizes)}")
    else:
        part = int(node.scalar(1, 1))
        if part < 1:
            raise FusewireError(f"cannot split {total} elements into parts of {part}")
        steps_of(-(-total // part), "the sequence")
        sizes = [min(part, total - k) for k in range(0, total, part)]
    cuts = [int(p) for p in np.cumsum(sizes)[:-1]]
    parts = ops.split(node[0], cuts, axis) if cuts else [node[0]]
    found = [parts[k] for k in range(len(sizes))]
    if not node.has(1) and not node.attr("keepdims", 1):
        found = [ops.squeeze(p, [axis]) for p in found]
    return SequenceValue(tuple(found))


@translate("Optional")
def optional(node: Node) -> Value:
    """The input, or nothing."""
    return node.value(0) if node.has(0) else Struct()


@translate("OptionalHasElement")
def optional_has_element(node: Node) -> Value:
    """Whether there is something."""
    return constant(node.has(0) and not isinstance(node.value(0), Struct), "bool")


@translate("OptionalGetElement")
def optional_get_element(node: Node) -> Value:
    """What is in the optional."""
    if isinstance(node.value(0), Struct):
        raise FusewireError("the optional is empty")
    return node.value(0)
