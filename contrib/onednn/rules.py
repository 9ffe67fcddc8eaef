"""What oneDNN takes, as a table: for each operator what may follow it, and how the call is described.

Every rule goes the same way:

    region -> Links            the anchor, and the steps behind it (`Chain.links`)
    Links -> Prepared          what to ask oneDNN for, with post-ops (`anchors`, `epilogue`, `fold`); needs no library
    Description.check()        asks oneDNN, where it can be loaded, whether it has a fast implementation
    Primitive(Description)     prepared once for each module, constant weights reordered once
    Primitive.execute_on       at each run
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt
from attrs import field, frozen

from ...fuse.chain import Chain, Links, PostOp
from ...fuse.dataflow_pattern import DFPattern, Match, is_op, is_tuple_get_item
from ...fuse.library import Executable, Region, Rule
from ...fuse.postops import ACTIVATIONS, MULTIPLY, RELU
from ...ir.errors import RuntimeInputError
from ...ir.expr import Constant, Expr, Function
from ..calls import PRODUCTS, anchor_call, position, shown, why_not_plain
from . import anchors, ffi
from .epilogue import EPILOGUE, SHIFT, Prepared, with_post_ops
from .ffi import DTYPES, OneDNNError
from .fold import Affine, Value, fold, scaled
from .primitive import Primitive

PRIORITY = 25

Arrays: TypeAlias = Sequence[npt.NDArray[Any]]
Slots: TypeAlias = Sequence[Sequence[PostOp]]
Describe: TypeAlias = Callable[[Expr, anchors.Setting], Prepared]


@frozen
class Entry:
    """A row of the table.

    Attributes:
        ops: the operators, each of which is the anchor of a rule of its own.
        describe: makes the description of such a call, without post-ops.
        slots: what may follow.
        pattern: of the anchor, where it is not just a call of the operator.
        light: see `Rule.light`.
        blocked: whether channels may lie in blocks.

    """

    ops: Sequence[str]
    describe: Describe
    slots: Slots = field(default=())
    pattern: Callable[[str], DFPattern | str] = lambda op: op
    light: bool = False
    blocked: bool = False


def _each_rank(*families: str) -> list[str]:
    return [f"nn.{family.format(rank)}" for family in families for rank in (1, 2, 3)]


def _normalised(op: str) -> DFPattern:
    """The normalised data of a batch norm; the statistics in its result are of no interest."""
    return is_tuple_get_item(is_op(op)(None), 0)


AFTER_SOFTMAX = ((MULTIPLY,), SHIFT, ACTIVATIONS)

TABLE = (
    Entry(_each_rank("conv{}d", "conv{}d_transpose"), anchors.convolution, EPILOGUE, blocked=True),
    Entry(PRODUCTS, anchors.matmul, EPILOGUE),
    Entry(_each_rank("max_pool{}d", "avg_pool{}d"), anchors.pool, EPILOGUE, blocked=True),
    Entry(_each_rank("adaptive_max_pool{}d", "adaptive_avg_pool{}d"), anchors.pool, EPILOGUE, blocked=True),
    Entry(["nn.global_max_pool2d", "nn.global_avg_pool2d"], anchors.pool, EPILOGUE, blocked=True),
    Entry(["nn.softmax", "nn.fast_softmax", "nn.log_softmax"], anchors.softmax, AFTER_SOFTMAX),
    Entry(["nn.layer_norm"], anchors.layer_norm),
    Entry(["nn.batch_norm"], anchors.batch_norm, [[RELU]], _normalised),
    Entry(["sum", "mean", "max", "min", "prod"], anchors.reduction, EPILOGUE, light=True),
    Entry(
        ["add", "subtract", "multiply", "divide", "maximum", "minimum"], anchors.arithmetic, EPILOGUE[1:], light=True
    ),
    Entry(
        ["nn.relu", "nn.leaky_relu", "clip", "tanh", "sigmoid", "exp", "log", "sqrt", "abs"],
        anchors.elementwise,
        light=True,
    ),
)  # fmt: skip


def rules() -> list[Rule]:
    """The rules of the whole table."""
    return [_rule(op, entry) for entry in TABLE for op in entry.ops]


def _rule(op: str, entry: Entry) -> Rule:
    chain = Chain(entry.pattern(op), entry.slots)
    name = f"onednn.{op.removeprefix('nn.')}"

    def check(match: Match) -> str | None:
        return _why_not(chain.links(match), entry.describe)

    def implement(region: Region) -> Executable:
        return _implement(region, chain.links(region.function), entry.describe)

    def blocked(region: Function) -> str | None:
        return _why_not(chain.links(region), entry.describe)

    agrees = blocked if entry.blocked else None
    return Rule(name, chain, check, implement=implement, priority=PRIORITY, blocked=agrees, light=entry.light)


def _prepared(links: Links, describe: Describe, value: Value, threads: int | None) -> tuple[Prepared, Affine | None]:
    """What to ask for, and what to do to weights and bias before."""
    constant = value(anchor_call(links.anchor).args[-1]) is not None
    return fold(with_post_ops(describe(links.anchor, anchors.Setting(constant, threads)), links), value)


def _why_not(links: Links, describe: Describe) -> str | None:
    """Why oneDNN should not take a region, or None. A build needs no library: oneDNN is asked only where it loads."""
    call = anchor_call(links.anchor)
    if reason := why_not_plain(call, tuple(DTYPES), links.anchor):
        return reason
    try:
        prepared, _ = _prepared(links, describe, lambda e: e.data if isinstance(e, Constant) else None, None)
    except OneDNNError as error:
        return error.problem
    if ffi.probe() is not None or (problem := prepared.description.check()) is None:
        return None
    return f"oneDNN {ffi.version()}: {problem}"


@frozen(eq=False)
class _Executable:
    """A prepared region.

    Attributes:
        shown: the region, for errors.
        primitive: what runs it.
        places: which inputs of the region are which tensors of the primitive; constant weights are already in it.

    """

    shown: str
    primitive: Primitive
    places: Mapping[str, int]

    def __call__(self, inputs: Arrays, outputs: Arrays) -> None:
        arrays, stored = [*inputs, *outputs], self.primitive.stored
        try:
            if self.primitive.execute_again(arrays):
                return
            given = {name: inputs[place].reshape(stored(name)) for name, place in self.places.items()}
            given["dst"] = outputs[0].reshape(stored("dst"))
            plain = all(array.flags.c_contiguous for array in arrays)  # otherwise what was reshaped may be a copy
            self.primitive.execute_on(given, arrays if plain else ())
        except OneDNNError as error:
            raise OneDNNError(error.call, error.problem, error.status, where=self.shown) from error
        except RuntimeInputError as error:
            raise RuntimeInputError(f"{self.shown}: {error}") from None


def _implement(region: Region, links: Links, describe: Describe) -> Executable:
    """Prepare a region.

    Raises:
        OneDNNError: oneDNN cannot do it; where it could be asked when the graph was built, `_why_not` has said so.

    """
    call = anchor_call(links.anchor)

    def value(expr: Expr) -> npt.NDArray[Any] | None:
        return expr.data if isinstance(expr, Constant) else region.constants.get(position(region, expr))

    threads = region.threads if ffi.load().has_openmp else None
    where = " + ".join([shown(call), *(link.post_op.name for link in links.steps)])
    try:
        prepared, affine = _prepared(links, describe, value, threads)
        places = {name: position(region, arg) for name, arg in prepared.arguments.items()}
        primitive = Primitive(prepared.description)
        if prepared.description.constant_weights and "weights" in places:
            weights = region.constants[places.pop("weights")].reshape(primitive.stored("weights"))
            _set_weights(primitive, weights, affine)
    except OneDNNError as error:
        raise OneDNNError(error.call, error.problem, error.status, where=where) from error
    return _Executable(where, primitive, places)


def _set_weights(primitive: Primitive, weights: npt.NDArray[Any], affine: Affine | None) -> None:
    if affine is None:
        primitive.set_weights(weights)
        return
    bias = affine.shift.astype(weights.dtype) if primitive.description.bias else None
    primitive.set_weights(scaled(weights, affine.scale, primitive.description), bias)
