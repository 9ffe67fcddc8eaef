"""What FuseOps makes of a graph: for the tests of it."""

from collections.abc import Callable, Sequence

import fusewire as fw
from fusewire.fuse.transform import FuseOps, InferType
from fusewire.ir.structural import assert_structural_equal

ONE = fw.const(1.0)


def fused(expr: fw.Expr, level: int = 2) -> fw.Function:
    return FuseOps(level)(fw.IRModule.from_expr(expr))["main"]


def primitive(make: Callable[..., fw.Expr], *args: fw.Expr) -> fw.Call:
    """A call of the Primitive function that `make` builds from parameters like `args`."""
    params = [fw.var(f"p{k}", arg.checked_type) for k, arg in enumerate(args)]
    return fw.Call(fw.Function(params, make(*params), None, {"Primitive": 1}), args)


def check(before: fw.Expr, expected: fw.Expr, level: int = 2) -> None:
    wanted = InferType()(fw.IRModule.from_expr(expected))["main"]
    assert_structural_equal(fused(before, level), wanted)
    # One function per operator must always be possible, too.
    assert not fw.analysis.free_vars(fused(before, 0))


def groups(expr: fw.Expr, level: int = 2) -> list[list[str]]:
    """The operators of every Primitive function, in the order in which the functions are called."""
    found = []
    for node in order(fused(expr, level)):
        if isinstance(node, fw.Call) and isinstance(node.op, fw.Function):
            found.append([str(c.op) for c in order(node.op.body) if isinstance(c, fw.Call)])
    return found


def order(expr: fw.Expr) -> Sequence[fw.Expr]:
    found: list[fw.Expr] = []
    fw.analysis.post_order_visit(expr, found.append)
    return found


def conv(data: fw.Expr, name: str, size: int = 3, channels: int = 16) -> fw.Expr:
    return fw.nn.conv2d(data, fw.var(name), kernel_size=(size, size), padding=(size // 2, size // 2), channels=channels)


def image(name: str = "x", channels: int = 16, side: int = 8) -> fw.Var:
    return fw.var(name, shape=(1, channels, side, side))
