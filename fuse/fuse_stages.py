r"""FuseStages: two groups, one behind the other, become one where the target has a kernel for both.

FuseOps ends a group where an anchor reads it: a convolution wants its whole input in memory. Some targets can do with
a few rows of it, which a core keeps in its own cache:

    fused(conv2d 1x1, add, clip)            96 channels for 16: the widest tensor of the network
              |
    fused(conv2d 3x3 depthwise, add, clip)  each channel sees itself only

The tensor between the two is then never stored. That pays where it is too large for the caches near to a core, and
costs where it is small: its rows are then computed in smaller pieces for nothing.
"""

from collections.abc import Callable, Sequence

from ..ir.expr import Call, Expr, Function, Var
from ..ir.module import IRModule
from ..ir.types import nbytes
from ..ir.visitor import bind, post_order
from ..ops.spec import Fusion, spec_of
from .graph import is_op_call, rewrite_function, use_counts
from .infra import Pass, PassContext, config_option, over_functions

MIN_BYTES = config_option(
    "fusewire.FuseStages.min_bytes", 1 << 20, "bytes of a tensor from which on FuseStages keeps it out of memory"
)


def fuse_stages(accept: Callable[[Function], bool]) -> Pass:
    """The pass FuseStages.

    Args:
        accept: whether the target has a kernel for a group that was made of two.

    """

    def run(function: Function, mod: IRModule, context: PassContext) -> Function:
        return _fuse(function, accept, context.option(MIN_BYTES))

    return over_functions("FuseStages", 1, run)


def _fuse(function: Function, accept: Callable[[Function], bool], least: int) -> Function:
    uses = use_counts(function)
    lone: set[int] = set()
    """Calls of groups, as they are now, whose results are used once."""

    def replace(old: Expr, new: Expr) -> Expr | None:
        if not isinstance(new, Call) or _anchor(new.op) is None:
            return None
        result = new
        for position, arg in enumerate(new.args):
            if id(arg) in lone and nbytes([arg.checked_type]) >= least and _feeds(arg, new, position):
                joined, args = _joined(arg, new, position)
                if accept(joined):
                    result = Call(joined, args)
                    break
        if uses[id(old)] == 1:
            lone.add(id(result))
            kept.append(result)
        return None if result is new else result

    kept: list[Expr] = []  # so that no other node gets their numbers
    return rewrite_function(function, replace)


def _anchor(op: object) -> Call | None:
    """The anchor of a group that has just one."""
    if not isinstance(op, Function) or "Primitive" not in op.attrs or "Compiler" in op.attrs:
        return None
    calls = [node for node in post_order(op.body) if is_op_call(node)]
    found = [call for call in calls if spec_of(call).fusion is Fusion.OUT_ELEMWISE_FUSABLE]
    return found[0] if len(found) == 1 else None


def _feeds(first: Expr, second: Call, position: int) -> bool:
    """Whether a group's result is all that the anchor of another one computes its sums from, and nothing else of it."""
    behind, anchor = second.op, _anchor(second.op)
    if not isinstance(first, Call) or _anchor(first.op) is None or anchor is None or not isinstance(behind, Function):
        return False
    param = behind.params[position]
    return anchor.args[0] is param and use_counts(behind.body)[id(param)] == 1


def _joined(first: Expr, second: Call, position: int) -> tuple[Function, Sequence[Expr]]:
    """One group of two, of which the second gets the result of the first as its argument `position`; and its
    arguments.
    """
    assert isinstance(first, Call)
    before, behind = first.op, second.op
    assert isinstance(before, Function) and isinstance(behind, Function)
    rest = [k for k in range(len(second.args)) if k != position]
    old = [*before.params, *(behind.params[k] for k in rest)]
    params = [Var(f"p{k}", param.checked_type) for k, param in enumerate(old)]
    count = len(before.params)
    data = bind(before.body, dict(zip(before.params, params[:count], strict=True)))
    names: dict[Var, Expr] = dict(zip(old[count:], params[count:], strict=True))
    body = bind(behind.body, {**names, behind.params[position]: data})
    return Function(params, body, None, {"Primitive": 1}), [*first.args, *(second.args[k] for k in rest)]
