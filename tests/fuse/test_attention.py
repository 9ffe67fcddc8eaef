"""FuseAttention: what becomes nn.attention, and what must not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.graph import is_op_call, tensor_type, walk
from fusewire.fuse.transform import FuseAttention
from tests.fuse.test_simplify import check, run

HEADS, ROWS, LENGTH, SIZE, WIDTH = 6, 5, 7, 4, 3
Q = fw.var("q", shape=(HEADS, ROWS, SIZE))
K = fw.var("k", shape=(HEADS, LENGTH, SIZE))
V = fw.var("v", shape=(HEADS, LENGTH, WIDTH))
MASK = fw.var("mask", shape=(2, 1, 1, LENGTH))
SCORES = (2, HEADS // 2, ROWS, LENGTH)


def four(x: fw.Expr) -> fw.Expr:
    """Batch and heads as axes of their own."""
    return fw.reshape(x, (2, HEADS // 2, *tensor_type(x).static_shape[1:]), allowzero=False)


def in_one(q: fw.Expr, k: fw.Expr, v: fw.Expr, **attributes: Any) -> fw.Expr:
    """Attention over one batch."""
    q, k, v = (fw.reshape(x, (1, *tensor_type(x).static_shape), allowzero=False) for x in (q, k, v))
    return fw.nn.attention(q, k, v, **attributes)


def weights(scores: Callable[[fw.Expr], fw.Expr] = lambda s: s) -> fw.Expr:
    return fw.nn.softmax(scores(fw.reshape(fw.nn.batch_matmul(Q, K), SCORES)))


def product(weights: fw.Expr, **attributes: Any) -> fw.Expr:
    flat = fw.reshape(weights, (HEADS, ROWS, LENGTH))
    return fw.nn.batch_matmul(flat, V, **{"transpose_b": False, **attributes})


def back(x: fw.Expr) -> fw.Expr:
    return fw.reshape(x, (HEADS, ROWS, WIDTH), allowzero=False)


def test_products_around_a_softmax() -> None:
    plain = fw.nn.batch_matmul(fw.nn.softmax(fw.nn.batch_matmul(Q, K)), V, transpose_b=False)
    check(FuseAttention(), plain, back(in_one(Q, K, V)))
    check(FuseAttention(), product(weights()), back(fw.nn.attention(four(Q), four(K), four(V))))


@pytest.mark.parametrize("swapped", [False, True], ids=["scores + mask", "mask + scores"])
def test_scale_and_mask(swapped: bool) -> None:
    def scores(x: fw.Expr) -> fw.Expr:
        scaled = fw.multiply(fw.const(0.5), fw.divide(x, fw.const(np.array([4], np.float32))))
        return fw.add(MASK, scaled) if swapped else fw.add(scaled, MASK)

    expected = fw.nn.attention(four(Q), four(K), four(V), MASK, scale=0.125)
    check(FuseAttention(), product(weights(scores)), back(expected))


def test_a_transposed_key_and_rows_without_a_score() -> None:
    turned = fw.var("k", shape=(HEADS, SIZE, LENGTH))
    softmax = fw.nn.softmax(fw.nn.batch_matmul(Q, turned, transpose_b=False))
    before = fw.nn.batch_matmul(fw.where(fw.isnan(softmax), fw.const(0.0), softmax), V, transpose_b=False)
    check(FuseAttention(), before, back(in_one(Q, turned, V, key_transposed=True, nan_to_zero=True)))


def test_the_transpose_behind_goes_in() -> None:
    heads = fw.reshape(product(weights()), (2, HEADS // 2, ROWS, WIDTH), allowzero=False)
    before = fw.transpose(heads, (0, 2, 1, 3))
    check(FuseAttention(), before, fw.nn.attention(four(Q), four(K), four(V), swap_heads=True))


def half(name: str) -> fw.Var:
    return fw.var(name, shape=(2, 4, 4), dtype="float16")


REFUSED: dict[str, Callable[[], fw.Expr]] = {
    "softmax along the rows": lambda: product(fw.nn.softmax(fw.reshape(fw.nn.batch_matmul(Q, K), SCORES), 2)),
    "scores with another use": lambda: fw.Tuple([product(w := weights()), w]),
    "a mask below the scale": lambda: product(weights(lambda x: fw.multiply(fw.add(x, MASK), fw.const(0.5)))),
    "a factor for each key": lambda: product(weights(lambda x: fw.multiply(x, fw.var("f", shape=(LENGTH,))))),
    "no product in front": lambda: product(fw.nn.softmax(fw.var("s", shape=SCORES))),
    "tanh between": lambda: product(weights(fw.tanh)),
    "a mask that stretches the scores": lambda: fw.nn.batch_matmul(
        fw.reshape(fw.nn.softmax(fw.reshape(_one_head(), (1, 1, ROWS, LENGTH)) + fw.var("m", shape=SCORES)), (6, 5, 7)),
        V,
        transpose_b=False,
    ),
    "numbers of batches that differ": lambda: fw.nn.batch_matmul(
        fw.nn.softmax(fw.nn.batch_matmul(fw.var("q1", shape=(1, ROWS, SIZE)), K)), V, transpose_b=False
    ),
    "float16": lambda: fw.nn.batch_matmul(
        fw.nn.softmax(fw.nn.batch_matmul(half("a"), half("b"))), half("c"), transpose_b=False
    ),
}  # fmt: skip


def _one_head() -> fw.Expr:
    return fw.nn.batch_matmul(fw.var("q1", shape=(1, ROWS, SIZE)), fw.var("k1", shape=(1, LENGTH, SIZE)))


@pytest.mark.parametrize("name", REFUSED)
def test_left_alone(name: str) -> None:
    after = run(FuseAttention(), REFUSED[name]())
    assert not any(is_op_call(node, "nn.attention") for node in walk(after))
    assert sum(is_op_call(node, "nn.batch_matmul") for node in walk(after)) in (1, 2)
