"""Chains: what they match, what they say about a region, and how libraries use them."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.chain import Chain
from fusewire.fuse.dataflow_pattern import Match, is_op, is_scalar, is_tuple_get_item
from fusewire.fuse.library import Library, Region, Rule
from fusewire.fuse.partition import NEIGHBOURS, heads, partition_for_libraries
from fusewire.fuse.postops import ADD, BIAS, CLIP, GELU, MULTIPLY, RELU, SWISH
from fusewire.fuse.transform import InferType

X = fw.var("x", shape=(1, 4, 6, 6))
W = fw.var("w", shape=(4, 4, 3, 3))
S, T = fw.var("s", shape=(4, 1, 1)), fw.var("t", shape=(4, 1, 1))
R = fw.var("r", shape=(1, 4, 6, 6))

CONV = Chain("nn.conv2d", [[MULTIPLY], [ADD, BIAS], [ADD], [RELU, CLIP, GELU, SWISH]])


def conv() -> fw.Expr:
    return fw.nn.conv2d(X, W, padding=1)


def library(*rules: Rule, name: str = "lib") -> Library:
    return Library(name, ("cpu",), rules, probe=lambda: None)


def nobody(region: Region) -> None:
    raise AssertionError("partitioning must not implement anything")


def rule(name: str, chain: Chain, **options: object) -> Rule:
    return Rule(name, chain, **{"implement": nobody, **options})  # type: ignore[arg-type]


def partition(body: fw.Expr, *libraries: Library, post_ops: bool = True) -> tuple[list[str], list[str | None]]:
    """The operators of each region, and what was said about each match."""
    mod = InferType()(fw.IRModule.from_expr(fw.Function(fw.analysis.free_vars(body), body)))
    after, decisions = partition_for_libraries(mod, libraries, post_ops=post_ops)
    found: list[str] = []

    def visit(node: fw.Expr) -> None:
        if isinstance(node, fw.Call) and isinstance(node.op, fw.Function):
            calls: list[str] = []
            fw.analysis.post_order_visit(
                node.op.body, lambda e: calls.append(str(e.op)) if isinstance(e, fw.Call) else None
            )
            found.append("+".join(calls))

    fw.analysis.post_order_visit(after["main"], visit)
    return found, [d.reason for d in decisions]


def gelu(x: fw.Expr) -> fw.Expr:
    return x * fw.const(0.5) * (fw.erf(x * fw.const(0.70710678)) + fw.const(1.0))


@pytest.mark.parametrize(
    ("body", "region"),
    [
        (lambda: conv(), "nn.conv2d"),
        (lambda: fw.nn.relu(conv() * S + T + R), "nn.conv2d+multiply+add+add+nn.relu"),
        (lambda: fw.nn.relu(R + conv()), "nn.conv2d+add+nn.relu"),
        (lambda: fw.clip(S * conv(), 0.0, 6.0), "nn.conv2d+multiply+clip"),
        (lambda: fw.nn.bias_add(conv(), fw.var("b")), "nn.conv2d+nn.bias_add"),
        (lambda: gelu(conv() + T), "nn.conv2d+add+multiply+multiply+erf+add+multiply"),
        (lambda: (lambda y: y * fw.sigmoid(y))(conv()), "nn.conv2d+sigmoid+multiply"),
        (lambda: fw.nn.relu(fw.nn.relu(conv())), "nn.conv2d+nn.relu"),
        (lambda: conv() + T + R + S, "nn.conv2d+add+add"),
        (lambda: fw.nn.relu(conv() * S) * T, "nn.conv2d+multiply+nn.relu"),
        (lambda: fw.nn.relu(conv() - T), "nn.conv2d"),
    ],
)
def test_longest_chain_is_taken(body: object, region: str) -> None:
    assert callable(body)
    assert partition(body(), library(rule("lib.conv2d", CONV))) == ([region], [None])
    assert partition(body(), library(rule("lib.conv2d", CONV)), post_ops=False)[0] == ["nn.conv2d"]


def test_links_of_a_region() -> None:
    seen: list[tuple[str, list[tuple[str, object, object]]]] = []

    def check(match: Match) -> None:
        links = CONV.links(match)
        assert links.result is match.root
        seen.append((str(links.anchor.op), [(s.post_op.name, s.operand, s.value) for s in links.steps]))  # type: ignore[attr-defined]

    y = conv()
    z = y * S
    partition(fw.nn.relu(z + R), library(rule("lib.conv2d", CONV, check=check)))
    ((op, ((n1, o1, v1), (n2, o2, v2), (n3, o3, v3))),) = seen
    assert (op, n1, n2, n3) == ("nn.conv2d", "multiply", "add", "relu")
    assert isinstance(v1, fw.Call) and isinstance(v2, fw.Call) and isinstance(v3, fw.Call)
    assert (str(v1.op), str(v2.op), str(v3.op)) == ("nn.conv2d", "multiply", "add")
    assert getattr(o1, "name_hint", "") == "s" and getattr(o2, "name_hint", "") == "r" and o3 is None


def test_links_of_the_function_made_of_it() -> None:
    body = gelu(conv() * S + fw.const(2.0))
    mod = InferType()(fw.IRModule.from_expr(fw.Function([X, W, S], body)))
    after, _ = partition_for_libraries(mod, [library(rule("lib.conv2d", CONV))])
    call = after["main"].body
    assert isinstance(call, fw.Call) and isinstance(call.op, fw.Function)
    links = CONV.links(call.op)
    assert [s.post_op.name for s in links.steps] == ["multiply", "add", "gelu"]
    assert links.steps[0].operand is call.op.params[2]
    assert isinstance(links.steps[1].operand, fw.Constant)
    assert links.steps[2].call is call.op.body
    with pytest.raises(fw.FusewireError, match=r"expected a region of the chain that starts with nn\.dense"):
        Chain("nn.dense").links(call.op)
    with pytest.raises(fw.FusewireError, match="expected a region of the chain"):
        Chain("nn.conv2d", [[MULTIPLY]]).links(call.op)  # some steps would be left


@pytest.mark.parametrize("body", [lambda y: y + y, lambda y: y + fw.nn.relu(y), lambda y: fw.nn.relu(y * S) + y])
def test_a_region_is_no_operand_of_itself(body: object) -> None:
    assert callable(body)
    regions, reasons = partition(
        body(conv()), library(rule("lib.conv2d", Chain("nn.conv2d", [[MULTIPLY], [RELU], [ADD]])))
    )
    assert regions == ["nn.conv2d"]
    assert "the operand of add is a value that the region itself computes" in reasons


def test_refused_steps_are_left_one_by_one() -> None:
    def check(match: Match) -> str | None:
        return "two steps at most" if len(CONV.links(match).steps) > 2 else None

    regions, reasons = partition(fw.nn.relu(conv() * S + T + R), library(rule("lib.conv2d", CONV, check=check)))
    assert regions == ["nn.conv2d+multiply+add"]
    assert reasons == ["two steps at most", "two steps at most", None]


def test_anchor_that_is_no_call() -> None:
    norm = Chain(is_tuple_get_item(is_op("nn.batch_norm")(None), 0), [[RELU]])
    g, b, m, v = (fw.var(name, shape=(4,)) for name in "gbmv")
    body = fw.nn.relu(fw.nn.batch_norm(X, g, b, m, v)[0])
    assert partition(body, library(rule("lib.batch_norm", norm)))[0] == ["nn.batch_norm+nn.relu"]
    assert heads(norm.pattern) is None
    assert heads(CONV.pattern) is not None and "nn.conv2d" in (heads(CONV.pattern) or ())


def test_first_library_named_wins_and_the_other_gets_the_rest() -> None:
    short = library(rule("short.conv2d", Chain("nn.conv2d")), name="short")
    long = library(rule("long.conv2d", CONV), name="long")
    body = fw.nn.relu(conv() * S)
    assert partition(body, short, long)[0] == ["nn.conv2d"]
    assert partition(body, long, short)[0] == ["nn.conv2d+multiply+nn.relu"]


LIGHT = library(rule("lib.tanh", Chain("tanh", [[RELU]]), light=True), rule("lib.dense", Chain("nn.dense")))
D = fw.var("d", shape=(4, 4))


@pytest.mark.parametrize(
    ("body", "regions", "fused"),
    [
        (lambda: fw.tanh(D), ["tanh"], 0),
        (lambda: fw.nn.relu(fw.tanh(D)), ["tanh+nn.relu"], 0),
        (lambda: fw.tanh(fw.exp(D)), [], 1),
        (lambda: fw.exp(fw.tanh(D)), [], 1),
        (lambda: fw.nn.dense(fw.tanh(fw.nn.dense(D, D)), D), ["nn.dense", "tanh", "nn.dense"], 0),
        (lambda: fw.Tuple([fw.tanh(D), D]), ["tanh"], 0),
        (lambda: fw.concatenate([fw.tanh(D), D], 0), [], 1),
        (lambda: fw.tanh(fw.split(D, 2)[0]), [], 1),
    ],
)
def test_light_rules_leave_what_can_be_fused(body: object, regions: list[str], fused: int) -> None:
    assert callable(body)
    found, reasons = partition(body(), LIGHT)
    assert found == regions and reasons.count(NEIGHBOURS) == fused
    assert "tanh" not in "".join(partition(body(), LIGHT, post_ops=False)[0])


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (0.70710678, "float32", True), (np.sqrt(0.5), "float64", True), (0.7071, "float32", False),
        (0.7071, "float16", True), (0.70710678, "bfloat16", True), (1, "int32", False), (-0.70710678, "float32", False),
    ],
)  # fmt: skip
def test_is_scalar(value: float, dtype: str, fits: bool) -> None:
    assert is_scalar(0.5**0.5).match(fw.const(value, dtype)) == fits
    assert not is_scalar(1.0).match(fw.const(np.ones(1, "float32")))
    assert not is_scalar(1.0).match(fw.var("x", shape=()))
