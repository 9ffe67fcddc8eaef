"""Reductions over axes, softmax and its kin, running sums."""

from collections.abc import Callable, Sequence

import numpy as np

from ... import ops
from ...fuse.graph import tensor_type
from ...ir.expr import Expr
from ...ir.types import FLOATS
from ...ops import nn
from .node import Node, constant
from .registry import translate

Reduce = Callable[[Expr, Sequence[int], bool], Expr]
"""`(data, axes, keepdims) -> result`"""


def axes_of(node: Node) -> tuple[int, ...] | None:
    """The axes to reduce: an attribute, or since opset 13 or 18 an input; None for nothing at all."""
    given = node.attr("axes")
    if node.has(1):
        given = node.ints(1, "the axes")
    if not given and node.attr("noop_with_empty_axes", 0):
        return None
    rank = node.rank()
    axes = given or range(rank)
    if any(not -rank <= a < rank for a in axes):
        raise node.error(f"axes {tuple(axes)} are out of range for {rank} dimensions")
    return tuple(sorted({a % rank for a in axes}))


def _reduction(name: str, reduce: Reduce, before: Callable[[Expr], Expr], after: Callable[[Expr], Expr]) -> None:
    @translate(name)
    def read(node: Node) -> Expr:
        axes = axes_of(node)
        data = before(node[0])
        if axes:
            data = reduce(data, axes, bool(node.attr("keepdims", 1)))
        return after(data)


def _same(x: Expr) -> Expr:
    return x


def _extreme(reduce: Callable[..., Expr]) -> Reduce:
    def run(data: Expr, axes: Sequence[int], keepdims: bool) -> Expr:
        dtype = tensor_type(data).dtype
        if dtype != "bool":
            return reduce(data, axes, keepdims)
        return ops.cast(reduce(ops.cast(data, "uint8"), axes, keepdims), "bool")

    return run


def _log_sum_exp(data: Expr, axes: Sequence[int], keepdims: bool) -> Expr:
    return ops.logsumexp(data, axes, keepdims)


def _root(x: Expr) -> Expr:
    dtype = tensor_type(x).dtype
    return ops.sqrt(x) if dtype in FLOATS else ops.cast(ops.sqrt(ops.cast(x, "float64")), dtype)


def _square(x: Expr) -> Expr:
    return ops.multiply(x, x)


_reduction("ReduceSum", ops.sum, _same, _same)
_reduction("ReduceMean", ops.mean, _same, _same)
_reduction("ReduceProd", ops.prod, _same, _same)
_reduction("ReduceMax", _extreme(ops.max), _same, _same)
_reduction("ReduceMin", _extreme(ops.min), _same, _same)
_reduction("ReduceL1", ops.sum, ops.abs, _same)
_reduction("ReduceL2", ops.sum, _square, _root)
_reduction("ReduceSumSquare", ops.sum, _square, _same)
_reduction("ReduceLogSum", ops.sum, _same, ops.log)


@translate("ReduceLogSumExp")
def reduce_log_sum_exp(node: Node) -> Expr:
    """log(sum(exp(x))); whole numbers are computed in float64."""
    axes, dtype = axes_of(node), node.dtype()
    data = node[0] if dtype in FLOATS else ops.cast(node[0], "float64")
    if not axes:
        return node[0]
    keep = bool(node.attr("keepdims", 1))
    found = ops.log(ops.sum(ops.exp(data), axes, keep)) if 0 in node.dims() else _log_sum_exp(data, axes, keep)
    return found if dtype in FLOATS else ops.cast(found, dtype)


def _arg(name: str, builder: Callable[..., Expr]) -> None:
    @translate(name)
    def read(node: Node) -> Expr:
        last = bool(node.attr("select_last_index", 0))
        found = builder(node[0], node.axis(0), bool(node.attr("keepdims", 1)), select_last_index=last)
        return ops.cast(found, "int64")


_arg("ArgMax", ops.argmax)
_arg("ArgMin", ops.argmin)


def _along_rows(node: Node, fn: Callable[[Expr, int], Expr]) -> Expr:
    """Before opset 13: the tensor as a matrix, cut before `axis`, and `fn` along its rows."""
    if node.opset >= 13:
        return fn(node[0], node.axis(-1))
    axis, shape = node.axis(1), node.shape()
    if axis == len(shape) - 1:
        return fn(node[0], axis)
    flat = ops.reshape(node[0], (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), allowzero=True)
    return ops.reshape(fn(flat, 1), shape, allowzero=True)


@translate("Softmax")
def softmax(node: Node) -> Expr:
    """Along one axis."""
    return _along_rows(node, nn.softmax)


@translate("LogSoftmax")
def log_softmax(node: Node) -> Expr:
    """Along one axis."""
    return _along_rows(node, nn.log_softmax)


@translate("Hardmax")
def hardmax(node: Node) -> Expr:
    """1 at the first maximum, else 0."""

    def run(data: Expr, axis: int) -> Expr:
        size, dtype = tensor_type(data).static_shape[axis], node.dtype()
        place = ops.argmax(data, axis)
        return ops.one_hot(place, constant(1, dtype), constant(0, dtype), size, axis, dtype)

    return _along_rows(node, run)


def _scan(name: str, builder: Callable[..., Expr]) -> None:
    @translate(name)
    def read(node: Node) -> Expr:
        axis = node.place(int(node.scalar(1)), node.rank())
        data = ops.reverse(node[0], axis) if node.attr("reverse", 0) else node[0]
        done = builder(data, axis, exclusive=bool(node.attr("exclusive", 0)))
        return ops.reverse(done, axis) if node.attr("reverse", 0) else done


_scan("CumSum", ops.cumsum)
_scan("CumProd", ops.cumprod)
