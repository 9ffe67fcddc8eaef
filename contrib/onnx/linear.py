"""Matrix products: MatMul, Gemm, Einsum, determinants, Fourier transforms."""

from collections.abc import Sequence

import numpy as np

from ... import ops
from ...fuse.graph import is_op_call, tensor_type
from ...ir.errors import FusewireError
from ...ir.expr import Expr
from ...ir.types import TensorType
from ...ops import nn
from ...ops.binary import broadcast_shape
from .node import Node, constant
from .registry import translate
from .values import limited


def shape_of(data: Expr) -> tuple[int, ...]:
    """The static shape of an expression."""
    return tensor_type(data).static_shape


def matmul(a: Expr, b: Expr, out_dtype: str = "") -> Expr:
    """The product by NumPy's rules: vectors are rows or columns, leading axes are broadcast."""
    rank_a, rank_b = (tensor_type(x).ndim for x in (a, b))
    if rank_a == 0 or rank_b == 0:
        raise FusewireError("MatMul of a scalar")
    if rank_b == 1:
        b = ops.expand_dims(b, 1)
    if rank_a == 1:
        a = ops.expand_dims(a, 0)
    product = _product(a, b, out_dtype)
    dropped = ([-1] if rank_b == 1 else []) + ([-2] if rank_a == 1 else [])
    return ops.squeeze(product, dropped) if dropped else product


def _product(a: Expr, b: Expr, out_dtype: str) -> Expr:
    rank_a, rank_b = (tensor_type(x).ndim for x in (a, b))
    if rank_b == 2:
        if is_op_call(b, "transpose") and tuple(b.attrs.axes or (1, 0)) == (1, 0):
            return nn.dense(a, b.args[0], out_dtype=out_dtype)
        return nn.matmul(a, b, out_dtype=out_dtype)
    if rank_a == rank_b == 3:
        return nn.batch_matmul(a, b, out_dtype, False, False)
    shape_a, shape_b = shape_of(a), shape_of(b)
    batch = TensorType(broadcast_shape(shape_a[:-2], shape_b[:-2])).static_shape
    count = int(np.prod(batch))
    flat = [
        ops.reshape(ops.broadcast_to(x, batch + s[-2:]) if s[:-2] != batch else x, (count, *s[-2:]), allowzero=True)
        for x, s in ((a, shape_a), (b, shape_b))
    ]
    product = nn.batch_matmul(flat[0], flat[1], out_dtype, False, False)
    return ops.reshape(product, (*batch, shape_a[-2], shape_b[-1]), allowzero=True)


@translate("MatMul")
def mat_mul(node: Node) -> Expr:
    """As np.matmul."""
    return matmul(node[0], node[1])


@translate("Gemm")
def gemm(node: Node) -> Expr:
    """Alpha * A' B' + beta * C."""
    a, b, dtype = node[0], node[1], node.dtype()
    if node.attr("transA", 0):
        a = ops.transpose(a, [1, 0])
    product = nn.dense(a, b) if node.attr("transB", 0) else nn.matmul(a, b)
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    if alpha != 1:
        product = ops.multiply(product, constant(alpha, dtype))
    if not node.has(2) or beta == 0:
        return product
    bias = node[2] if beta == 1 else ops.multiply(node[2], constant(beta, dtype))
    return nn.bias_add(product, bias) if node.rank(2) == 1 and node.dims(2)[0] != 1 else ops.add(product, bias)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of the operands and of the result; what "..." stands for gets capital Greek letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise FusewireError(f"the equation {equation!r} has {len(terms)} terms for {len(ranks)} inputs")
    widest = max([r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t], default=0)
    extra = "".join(chr(0x391 + k) for k in range(max(widest, 0)))
    full = []
    for term, rank in zip(terms, ranks, strict=True):
        own = rank - len(term.replace("...", ""))
        full.append(term.replace("...", extra[len(extra) - own :] if own else ""))
        if len(full[-1]) != rank:
            raise FusewireError(f"the term {term!r} of {equation!r} does not fit an input of {rank} dimensions")
    if not arrow:
        joined = "".join(terms).replace("...", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    right = right.replace("...", extra)
    if len(set(right)) < len(right) or not set(right) <= set("".join(full)):
        raise FusewireError(f"the result of {equation!r} repeats a label, or has one that no term has")
    return full, right


def _diagonal(data: Expr, labels: str) -> tuple[Expr, str]:
    """Repeated labels of one operand merged: the elements where their indices agree."""
    for label in set(labels):
        while labels.count(label) > 1:
            first, second = [k for k, c in enumerate(labels) if c == label][:2]
            size = shape_of(data)[first]
            rest = [k for k in range(len(labels)) if k not in (first, second)]
            moved = ops.transpose(data, [first, second, *rest])
            dims = shape_of(moved)
            places = constant(np.arange(limited(size, "a diagonal"), dtype=np.int64) * (size + 1))
            flat = ops.reshape(moved, (size * size, *dims[2:]), allowzero=True)
            data = ops.take(flat, places, 0, mode="fast")
            labels = label + "".join(labels[k] for k in rest)
    return data, labels


def _summed(data: Expr, labels: str, keep: set[str]) -> tuple[Expr, str]:
    axes = [k for k, c in enumerate(labels) if c not in keep]
    return (ops.sum(data, axes) if axes else data), "".join(c for c in labels if c in keep)


def _ordered(data: Expr, labels: str, order: str) -> Expr:
    """The axes brought into an order; labels that are missing become axes of size 1."""
    present = [c for c in order if c in labels]
    moved = ops.transpose(data, [labels.index(c) for c in present]) if labels else data
    for place, label in enumerate(order):
        if label not in labels:
            moved = ops.expand_dims(moved, place)
    return moved


def _contract(a: Expr, la: str, b: Expr, lb: str, keep: set[str]) -> tuple[Expr, str]:
    """The product of two operands, summed over the labels that both have and nobody else needs."""
    a, la = _summed(a, la, keep | set(lb))
    b, lb = _summed(b, lb, keep | set(la))
    both = [c for c in la if c in lb]
    batch = "".join(c for c in both if c in keep)
    inner = "".join(c for c in both if c not in keep)
    left = "".join(c for c in la if c not in lb)
    right = "".join(c for c in lb if c not in la)
    sizes: dict[str, int] = {}
    for labels, x in ((la, a), (lb, b)):
        for label, size in zip(labels, shape_of(x), strict=True):
            sizes[label] = max(size, sizes.get(label, 0)) if size != 1 else sizes.get(label, 1)

    def product(labels: str) -> int:
        return int(np.prod([sizes[c] for c in labels], dtype=np.int64))

    def matrices(x: Expr, labels: str, outer: str) -> Expr:
        order = batch + outer + inner
        full = ops.broadcast_to(_ordered(x, labels, order), [sizes[c] for c in order])
        return ops.reshape(full, (product(batch), product(outer), product(inner)), allowzero=True)

    done = nn.batch_matmul(matrices(a, la, left), matrices(b, lb, right))
    order = batch + left + right
    return ops.reshape(done, [sizes[c] for c in order], allowzero=True), order


@translate("Einsum")
def einsum(node: Node) -> Expr:
    """Operands are contracted two at a time, from left to right."""
    terms, result = _parse(node.attr("equation"), [node.rank(k) for k in range(len(node.inputs))])
    operands = [_diagonal(x, labels) for x, labels in zip(node.tensors, terms, strict=True)]
    data, labels = operands[0]
    for k, (other, theirs) in enumerate(operands[1:], 2):
        needed = set(result) | {c for _, later in operands[k:] for c in later}
        data, labels = _contract(data, labels, other, theirs, needed)
    data, labels = _summed(data, labels, set(result))
    order = [labels.index(c) for c in result]
    return ops.transpose(data, order) if order != list(range(len(order))) else data


@translate("Det")
def det(node: Node) -> Expr:
    """By Laplace's expansion, for matrices of up to 4 rows."""
    if node.rank() < 2:
        raise FusewireError(f"Det of a tensor of {node.rank()} dimensions")
    *_, rows, columns = node.shape()
    if rows != columns or rows > 4:
        raise FusewireError(
            f"Det of {rows} by {columns} matrices is not supported: expected square ones of up to 4 rows"
        )

    def element(i: int, j: int) -> Expr:
        cut = ops.strided_slice(node[0], [i, j], [i + 1, j + 1], axes=[-2 % node.rank(), -1 % node.rank()])
        return ops.squeeze(cut, [-2, -1])

    def minor(i: int, left: tuple[int, ...]) -> Expr:
        if len(left) == 1:
            return element(i, left[0])
        total: Expr | None = None
        for k, j in enumerate(left):
            term = ops.multiply(element(i, j), minor(i + 1, left[:k] + left[k + 1 :]))
            total = term if total is None else (ops.subtract if k % 2 else ops.add)(total, term)
        assert total is not None
        return total

    return minor(0, tuple(range(rows)))


def fourier(data: Expr, length: int, bins: int, inverse: bool, complex_in: bool) -> list[Expr]:
    """Real and imaginary parts of the Fourier transform along the last axis (before that of complex numbers).

    As products with the matrix of roots of unity; `data` is (..., n, 1) for real numbers or (..., n, 2).
    """
    dtype = tensor_type(data).dtype
    size = shape_of(data)[-2]
    if length < 1:
        raise FusewireError(f"a Fourier transform of {length} elements")
    limited(min(size, length) * bins, "the matrix of a Fourier transform")
    angles = 2 * np.pi * np.outer(np.arange(min(size, length)), np.arange(bins)) / length
    scale = 1 / length if inverse else 1.0
    cosine = constant(np.cos(angles) * scale, dtype)
    sine = constant(np.sin(angles) * (scale if inverse else -scale), dtype)
    parts = [_part(data, k, min(size, length)) for k in range(2 if complex_in else 1)]
    real, imaginary = matmul(parts[0], cosine), matmul(parts[0], sine)
    if complex_in:
        real = ops.subtract(real, matmul(parts[1], sine))
        imaginary = ops.add(imaginary, matmul(parts[1], cosine))
    return [real, imaginary]


def _part(data: Expr, k: int, length: int) -> Expr:
    rank = tensor_type(data).ndim
    cut = ops.strided_slice(data, [0, k], [length, k + 1], axes=[rank - 2, rank - 1])
    return ops.squeeze(cut, [rank - 1])


def _dft(node: Node, axis: int) -> Expr:
    shape = node.shape()
    rank = len(shape)
    if rank < 2 or shape[-1] not in (1, 2):
        raise FusewireError(f"the last axis must hold real, or real and imaginary parts, got the shape {shape}")
    axis = node.place(axis, rank)
    if axis == rank - 1:
        raise FusewireError(f"axis {axis} is the one of real and imaginary parts")
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    length = int(node.scalar(1, shape[axis]))
    order = [k for k in range(rank - 1) if k != axis] + [axis, rank - 1]
    data = ops.transpose(node[0], order)
    complex_in = shape[-1] == 2
    if inverse and onesided:
        data, length, complex_in = (
            _whole_spectrum(data, node.scalar(1)),
            int(node.scalar(1, 2 * (shape[axis] - 1))),
            True,
        )
        return _restored(fourier(data, length, length, True, True)[:1], order)
    bins = length // 2 + 1 if onesided else length
    return _restored(fourier(data, length, bins, inverse, complex_in), order)


def _whole_spectrum(data: Expr, length: int | None) -> Expr:
    """The mirrored half of a spectrum of real numbers added."""
    dims = shape_of(data)
    half, rank = dims[-2], len(dims)
    total = limited(length or 2 * (half - 1), "a spectrum")
    places = np.arange(total)
    source = np.where(places < half, places, total - places)
    sign = np.stack([np.ones(total), np.where(places < half, 1, -1)], -1)
    taken = ops.take(data, constant(source.astype(np.int64)), rank - 2, mode="fast")
    return ops.multiply(taken, constant(sign, tensor_type(data).dtype))


def _restored(parts: list[Expr], order: list[int]) -> Expr:
    stacked = ops.stack(parts, -1)
    return ops.transpose(stacked, [int(k) for k in np.argsort(order)])


@translate("DFT")
def dft_attribute(node: Node) -> Expr:
    """Opset 17: the axis is an attribute."""
    return _dft(node, node.attr("axis", 1))


@translate("DFT", since=20)
def dft(node: Node) -> Expr:
    """The axis is an input."""
    return _dft(node, int(node.scalar(2, -2)))


@translate("STFT")
def stft(node: Node) -> Expr:
    """Frames of the signal, windowed and transformed."""
    shape = node.shape()
    window = node.shape(2, 1)[0] if node.has(2) else 0
    step, length = int(node.scalar(1)), int(node.scalar(3, window))
    if len(shape) not in (2, 3) or step < 1 or not 0 < length <= shape[1] or (window and window != length):
        raise FusewireError(
            f"frames of {length} elements (the window has {window}) in steps of {step} do not fit a signal {shape}"
        )
    frames = 1 + (shape[1] - length) // step
    limited(frames * length, "the frames")
    places = constant((np.arange(frames)[:, None] * step + np.arange(length)).astype(np.int64))
    signal = node[0] if len(shape) == 3 else ops.expand_dims(node[0], 2)
    cut = ops.take(signal, places, 1, mode="fast")  # (batch, frames, length, 1 or 2)
    if node.has(2):
        cut = ops.multiply(cut, ops.reshape(node[2], (length, 1)))
    bins = length // 2 + 1 if node.attr("onesided", 1) else length
    return ops.stack(fourier(cut, length, bins, False, shape_of(cut)[-1] == 2), -1)
