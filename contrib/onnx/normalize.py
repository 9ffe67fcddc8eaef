"""Normalisations."""

from ... import ops
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ops import nn
from .node import Node, constant
from .registry import translate


@translate("BatchNormalization")
def batch_normalization(node: Node) -> list[Expr]:
    """With stored statistics, or (training_mode) with those of the batch."""
    epsilon = node.attr("epsilon", 1e-5)
    if node.attr("training_mode", 0) or (node.opset < 14 and node.wants(1)):
        return _trained(node, epsilon)
    gamma, beta, mean, var = (_as(node, k) for k in range(1, 5))
    done = nn.batch_norm(node[0], gamma, beta, mean, var, epsilon=epsilon)
    return [done[0]]


def _as(node: Node, k: int) -> Expr:
    return node[k] if node.dtype(k) == node.dtype() else ops.cast(node[k], node.dtype())


def _trained(node: Node, epsilon: float) -> list[Expr]:
    rank, momentum = node.rank(), node.attr("momentum", 0.9)
    axes = [k for k in range(rank) if k != 1]
    mean, var = ops.mean(node[0], axes), ops.variance(node[0], axes)
    done = nn.batch_norm(node[0], node[1], node[2], mean, var, epsilon=epsilon)[0]

    def running(old: Expr, new: Expr) -> Expr:
        keep, add = constant(momentum, node.dtype(3)), constant(1 - momentum, node.dtype(3))
        return ops.add(ops.multiply(old, keep), ops.multiply(new, add))

    return [done, running(node[3], mean), running(node[4], var)]


@translate("InstanceNormalization")
def instance_normalization(node: Node) -> Expr:
    """Each channel of each image."""
    return nn.instance_norm(node[0], node[1], node[2], epsilon=node.attr("epsilon", 1e-5))


@translate("LayerNormalization")
def layer_normalization(node: Node) -> list[Expr]:
    """Over the last axes together; statistics are computed in float32."""
    rank, dtype = node.rank(), node.dtype()
    axis, epsilon = node.axis(-1), node.attr("epsilon", 1e-5)
    axes = list(range(axis, rank))
    if not node.wants(1) and not node.wants(2) and axis == rank - 1 and node.has(2) and node.rank(1) == 1:
        return [nn.layer_norm(node[0], node[1], node[2], -1, epsilon)]
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    data = node[0] if wide == dtype else ops.cast(node[0], wide)
    mean = ops.mean(data, axes, True)
    centred = ops.subtract(data, mean)
    var = ops.mean(ops.multiply(centred, centred), axes, True)
    inverse = ops.divide(constant(1, wide), ops.sqrt(ops.add(var, constant(epsilon, wide))))
    done = ops.multiply(centred, inverse)
    done = ops.multiply(done if wide == dtype else ops.cast(done, dtype), node[1])
    return [ops.add(done, node[2]) if node.has(2) else done, mean, inverse]


@translate("GroupNormalization", since=21)
def group_normalization(node: Node) -> Expr:
    """Scale and bias for each channel (before opset 21: for each group, which ONNX's own body reads)."""
    return nn.group_norm(node[0], node[1], node[2], node.attr("num_groups"), epsilon=node.attr("epsilon", 1e-5))


@translate("LRN")
def lrn(node: Node) -> Expr:
    """Over neighbouring channels."""
    size = node.count("size")
    if size % 2 == 0:
        raise FusewireError(f"LRN over an even number of channels ({size}) is not supported")
    return nn.lrn(node[0], size, 1, node.attr("bias", 1.0), node.attr("alpha", 0.0001), node.attr("beta", 0.75))


@translate("LpNormalization")
def lp_normalization(node: Node) -> Expr:
    """Divided by the 1- or 2-norm along an axis; 0 where that is 0."""
    axis, order = node.axis(-1), node.attr("p", 2)
    if order not in (1, 2):
        raise FusewireError(f"p is {order}, expected 1 or 2")
    if order == 1:
        norm = ops.sum(ops.abs(node[0]), [axis], True)
    else:
        norm = ops.sqrt(ops.sum(ops.multiply(node[0], node[0]), [axis], True))
    zero, one = constant(0, node.dtype()), constant(1, node.dtype())
    safe = ops.where(ops.equal(norm, zero), one, norm)
    return ops.divide(node[0], safe)
