"""How a region of a library takes blocked feature maps: as its operators would, if the library agrees.

    fn (%p0: NCHW, %p1, %p2: (C, 1, 1)) { nn.relu(add(nn.conv2d(%p0, %p1), %p2)) }
    fn (%p0: NCHW16c, %p1, %p2: (C/16, 1, 1, 16)) { nn.relu(add(nn.conv2d(%p0, %p1, data_layout="NCHW16c"), %p2)) }

Blocked channels of fusewire and of libraries such as oneDNN are the same bytes, so between two such regions, and
between a region and generated code, nothing has to be copied.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from ..ir.expr import Call, Expr, Function, Var
from ..ir.op import Attrs
from ..ir.types import TensorType
from .graph import outline, tensor_type, walk
from .identity import with_origin
from .layout_rules import Blocks, Rule, layout_of, rule_for
from .library import Library


def region_rules(libraries: Sequence[Library]) -> Callable[[Call], Rule | None]:
    """Gives the rule for a call of a library's region; None for other calls, and where the library never agrees."""
    known = {rule.name: rule.blocked for library in libraries for rule in library.rules if rule.blocked}

    def find(call: Call) -> Rule | None:
        agrees = known.get(str(call.op.attrs.get("Composite"))) if isinstance(call.op, Function) else None
        if agrees is None:
            return None
        return Rule(lambda c, blocks: _features(c, blocks, agrees), _write, _gain)

    return find


def _features(call: Call, blocks: Blocks, agrees: Callable[[Function], str | None]) -> list[Expr] | None:
    """The arguments that become blocked; None if an operator of the region has no blocked form, or the library none."""
    found = _parameters(call, blocks)
    if found is None or not blocks.of(call.checked_type):
        return None
    features = [arg for param, arg in _bound(call).items() if param in found]
    sizes = [blocks.of(feature.checked_type) for feature in features]
    if len(sizes) > 1:
        sizes = [blocks.dividing([tensor_type(f).static_shape[1] for f in features], tensor_type(call).dtype)] * len(
            sizes
        )
    if not all(sizes):
        return None
    stand_ins = [_stand_in(feature, size) for feature, size in zip(features, sizes, strict=True)]
    written, _ = _write(call, stand_ins, sizes, blocks)
    assert isinstance(written, Call) and isinstance(written.op, Function)
    return features if agrees(written.op) is None else None


def _bound(call: Call) -> dict[Var, Expr]:
    assert isinstance(call.op, Function)
    return dict(zip(call.op.params, call.args, strict=True))


def _parameters(call: Call, blocks: Blocks) -> set[Var] | None:
    """The parameters of the region that its operators take as feature maps."""
    assert isinstance(call.op, Function)
    found: set[Var] = set()
    for node in walk(call.op.body):
        if not isinstance(node, Call):
            continue
        rule = rule_for(node)
        features = rule.features(node, blocks) if rule else None
        if features is None:
            return None
        found |= {feature for feature in features if isinstance(feature, Var)}
    return found


def _stand_in(feature: Expr, block: int) -> Expr:
    n, c, *space = tensor_type(feature).static_shape
    return Var("feature", TensorType((n, c // block, *space, block), tensor_type(feature).dtype))


def _write(call: Call, features: Sequence[Expr], found: Sequence[int], blocks: Blocks) -> tuple[Expr, int]:
    """The region on blocked feature maps; the operators' own rules write them, operands are reshaped outside."""
    assert isinstance(call.op, Function)
    params = _parameters(call, blocks) or set()
    names = [param for param in call.op.params if param in params]
    values: dict[int, Expr] = {id(p): arg for p, arg in _bound(call).items()}
    values |= {id(p): value for p, value in zip(names, features, strict=True)}
    sizes = {id(p): block for p, block in zip(names, found, strict=True)}
    members: list[Expr] = []
    for node in walk(call.op.body):
        if isinstance(node, Call):
            written, block = _written(node, values, sizes, found, blocks)
            values[id(node)], sizes[id(node)] = written, block
            members.append(written)
    function, args = outline(members, call.op.attrs, lambda node: node)
    return Call(with_origin(function, call.op), args), sizes[id(call.op.body)]


def _written(
    node: Call, values: Mapping[int, Expr], sizes: Mapping[int, int], found: Sequence[int], blocks: Blocks
) -> tuple[Expr, int]:
    rule = rule_for(node)
    assert rule is not None
    features = rule.features(node, blocks) or []
    taken = {id(feature) for feature in features}
    args = [arg if id(arg) in taken else values.get(id(arg), arg) for arg in node.args]
    template = Call(node.op, args, node.attrs)
    # `rule.write` asks for features of the template by identity, so they stay as they are in the region.
    written, block = rule.write(template, [values[id(f)] for f in features], [sizes[id(f)] for f in features], blocks)
    if "out_layout" in node.attrs and len(found) > 1 and block != found[0]:  # what comes behind has that block
        assert isinstance(written, Call)
        block = found[0]
        written = Call(written.op, written.args, Attrs({**written.attrs, "out_layout": layout_of(block)}))
    return written, block


def _gain(call: Call, lanes: int) -> float:
    """The elements that a library brings into blocks, and back, at each call of a convolution on plain feature maps."""
    assert isinstance(call.op, Function)
    if not any(isinstance(node, Call) and "kernel_layout" in node.attrs for node in walk(call.op.body)):
        return 0.0
    maps = [call, *(_parameters(call, Blocks(4 * lanes)) or ())]
    return float(sum(math.prod(tensor_type(m).static_shape) for m in maps))
