"""FuseAttention: what becomes nn.attention, and what must not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.graph import is_op_call, tensor_type, walk
from fusewire.fuse.library import Library, Rule
from fusewire.fuse.partition import Decision
from fusewire.fuse.pipeline import pipeline
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


def test_attention_is_not_torn_apart_by_a_library_but_may_be_taken_whole() -> None:
    """Fusion comes first: one kernel was faster than three library calls at every size that was measured."""
    q, k, v = (fw.var(name, shape=(2, 8, 4)) for name in "qkv")
    scores = fw.nn.batch_matmul(q, k, transpose_b=True)
    net = fw.nn.batch_matmul(fw.nn.softmax(scores), v, transpose_b=False)
    function = fw.Function([q, k, v], net)
    sizes = {"nn.batch_matmul": 2, "nn.attention": 3}
    patterns = {name: is_op(name)(*(wildcard() for _ in range(n))) for name, n in sizes.items()}

    def taken(*names: str) -> list[str]:
        def never(region: Any) -> Any:
            raise AssertionError("nothing runs")

        rules = [Rule(name, patterns[name], implement=never) for name in names]
        decisions: list[Decision] = []
        pipeline([Library("some", ("cpu",), tuple(rules), lambda: None)], decisions)(fw.IRModule.from_expr(function))
        return [decision.rule for decision in decisions if decision.taken]

    assert taken("nn.batch_matmul") == []
    assert taken("nn.batch_matmul", "nn.attention") == ["nn.attention"]
    with fw.transform.PassContext(disabled_pass=["FuseAttention"]):
        assert taken("nn.batch_matmul") == ["nn.batch_matmul"] * 2
