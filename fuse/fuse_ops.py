r"""FuseOps: which operators are computed together, in one kernel.

Fusing saves memory traffic: relu(conv2d(x) * s + b) reads and writes the convolution's output once instead of three
times. What may be fused is decided by how an operator reads its inputs (`Fusion`): an elementwise operator
can work on values that are still in registers, while a convolution needs its whole input in memory.

The difficulty is branches. Here `conv2d` may be fused only if everything that depends on it comes together again:

                conv2d                         conv2d's uses all lead to `add`: `add` is its immediate
               /      \                        post-dominator. All on the way (tanh, exp) are elementwise, so
           tanh        exp                     conv2d, tanh, exp and add become one group, and of its values
               \      /                        only `add` has to be stored.
                 add
                  |                            For `add` the post-dominator is `transpose`, which reads it at
              transpose                        other places: a new group begins.

Nodes are visited from the inputs to the outputs, in three rounds (after TVM's GraphPartitioner); each node is merged
with its post-dominator and all between them, or left alone:

    round 1   elementwise and broadcasting operators join what uses them, be it elementwise, injective, a reduction,
              or the epilogue of an anchor. An anchor (conv2d, dense) or a reduction takes in what follows it
              if that reads it elementwise and has its shape. So no group has two of these.
    round 2   injective operators (transpose, reshape, concatenate, ...) join injective ones, elementwise chains and
              reductions, but not anchors, whose inputs are read many times. Now also tuples join the operator that
              takes them.
    round 3   what feeds a tuple follows it into the operator that the tuple was fused into.

Never fused are opaque operators, sealed functions, and whatever leaves a straight-line region: results of functions,
values bound by `let`, conditions and branches of `if`. A group has at most `relay.FuseOps.max_depth` operators.

Generated code inlines a producer at every place where it is read. That is free along elementwise reads, but
y = x + transpose(x) reads x at two places, and a chain of such steps would double the work at each. So a merge is
refused that would repeat too much work; `grouping.fits` has the rule.

Each group becomes a function with the attribute `Primitive`, called where its result was. At level 0 every operator is
a group of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.expr import Call, Expr, Function, TupleGetItem
from ..ir.module import IRModule
from ..ir.visitor import bind, children, with_children
from .dataflow import Dataflow, analyse
from .graph import is_op_call, outline, rewrite_function, walk
from .grouping import Group, Grouping
from .infra import Pass, PassContext, config_option, over_functions

MAX_DEPTH = config_option("relay.FuseOps.max_depth", 256, "the most operators that one fused function may have")

RESHAPE_ONLY = "relay.reshape_only"
"""Marks a fused function that only gives its input another shape: it can be run by passing the memory on."""

_RESHAPES = ("reshape", "squeeze", "expand_dims", "nn.batch_flatten")


def fuse_ops(fuse_opt_level: int = -1) -> Pass:
    """The pass FuseOps.

    Args:
        fuse_opt_level: 0 makes every operator a function of its own, 1 or more fuses; -1 takes the context's level.

    """

    def run(function: Function, mod: IRModule, context: PassContext) -> Function:
        level = context.opt_level if fuse_opt_level < 0 else fuse_opt_level
        return fuse(function, level, context.option(MAX_DEPTH))

    return over_functions("FuseOps", 0, run)


def fuse(function: Function, level: int = 2, max_depth: int = 256) -> Function:
    """`function` with its operators in Primitive functions."""
    flow = analyse(walk(function))
    grouping = Grouping(flow, max_depth)
    if level > 0:
        grouping.fuse()
    roots: dict[int, list[Expr]] = {}
    hidden: set[int] = set()
    for group in grouping.groups():
        members = _members(flow, group)
        if members:
            roots[id(members[-1])] = members
            hidden.update(id(node) for node in members[:-1])
    return _rebuild(flow.nodes, roots, hidden)


def _members(flow: Dataflow, group: Group) -> list[Expr]:
    """The nodes of a group that becomes a function; empty for what stays in the caller."""
    nodes = [flow.nodes[k] for k in group.members]
    inside = {id(node) for node in nodes}
    # Taking an item out of a tuple that another group makes is nothing to compute.
    kept = [n for n in nodes if not (isinstance(n, TupleGetItem) and id(n.tuple_value) not in inside)]
    return kept if any(is_op_call(node) for node in kept) else []


def _rebuild(nodes: Sequence[Expr], roots: Mapping[int, list[Expr]], hidden: set[int]) -> Function:
    new: dict[int, Expr] = {}

    def renew(expr: Expr) -> Expr:
        return new.get(id(expr), expr)

    for node in nodes:
        if id(node) in roots:
            members = roots[id(node)]
            body, args = outline(members, _attributes(members), renew)
            new[id(node)] = Call(body, args)
        elif id(node) not in hidden:
            new[id(node)] = with_children(node, [renew(child) for child in children(node)])
    result = renew(nodes[-1])
    assert isinstance(result, Function)
    return result


def _attributes(members: Sequence[Expr]) -> dict[str, Any]:
    reshape_only = all(is_op_call(node, *_RESHAPES) for node in members)
    return {"Primitive": 1, RESHAPE_ONLY: 1} if reshape_only else {"Primitive": 1}


def defuse_ops() -> Pass:
    """The pass DefuseOps, the inverse of FuseOps: every call of a Primitive function is replaced by its body."""
    return over_functions("DefuseOps", 0, lambda function, mod, context: rewrite_function(function, _inlined))


def _inlined(old: Expr, new: Expr) -> Expr | None:
    if not isinstance(new, Call) or not isinstance(new.op, Function):
        return None
    callee = new.op
    if "Primitive" not in callee.attrs or "Compiler" in callee.attrs:
        return None
    return bind(callee.body, dict(zip(callee.params, new.args, strict=True)))
