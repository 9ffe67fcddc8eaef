"""Regions for libraries: which are taken, which are not, and what is said about it."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.dataflow_pattern import Match, is_constant, is_op, wildcard
from fusewire.fuse.library import Library, Rule
from fusewire.fuse.partition import partition_for_libraries, partition_pass, why_unused
from fusewire.fuse.transform import FoldConstant, FuseOps, InferType, Sequential
from fusewire.ir.structural import assert_structural_equal

RNG = np.random.default_rng(3)
X = fw.var("x", shape=(1, 4, 6, 6))


def weight() -> fw.Constant:
    return fw.const(RNG.uniform(-1, 1, (4, 4, 3, 3)).astype("float32"))


def bias() -> fw.Constant:
    return fw.const(RNG.uniform(-1, 1, (4,)).astype("float32"))


def conv(data: fw.Expr, w: fw.Expr | None = None) -> fw.Expr:
    return fw.nn.conv2d(data, weight() if w is None else w, padding=(1, 1))


def no_implementation(*args: object) -> None:
    raise AssertionError("partitioning must not implement anything")


def rule(name: str, pattern: object, **options: object) -> Rule:
    return Rule(name, pattern, **{"implement": no_implementation, **options})  # type: ignore[arg-type]


CONV = is_op("nn.conv2d")(wildcard(), is_constant())
FULL = CONV.optional(lambda p: is_op("nn.bias_add")(p, is_constant())).optional(is_op("nn.relu"))


def library(*rules: Rule, name: str = "lib") -> Library:
    return Library(name, ("cpu",), rules, probe=lambda: None)


def module(expr: fw.Expr) -> fw.IRModule:
    return InferType()(fw.IRModule.from_expr(expr))


def regions(mod: fw.IRModule) -> list[tuple[str, str]]:
    """Composite name and operators of each region, in order."""
    found = []
    nodes: list[fw.Expr] = []
    fw.analysis.post_order_visit(mod["main"], nodes.append)
    for node in nodes:
        if isinstance(node, fw.Call) and isinstance(node.op, fw.Function) and "Composite" in node.op.attrs:
            inner: list[fw.Expr] = []
            fw.analysis.post_order_visit(node.op.body, inner.append)
            ops = "+".join(str(e.op) for e in inner if isinstance(e, fw.Call))
            found.append((node.op.attrs.Composite, ops))
    return found


def test_region_becomes_a_function() -> None:
    w, b = weight(), bias()
    after, decisions = partition_for_libraries(
        module(fw.exp(fw.nn.relu(fw.nn.bias_add(conv(X, w), b)))), [library(rule("lib.conv2d", FULL))]
    )
    params = [fw.var(f"p{k}", e.checked_type) for k, e in enumerate((X, w, b))]
    p, q, r = params
    body = fw.nn.relu(fw.nn.bias_add(fw.nn.conv2d(p, q, padding=(1, 1)), r))
    inner = fw.Function(params, body, None, {"Composite": "lib.conv2d", "Compiler": "lib", "Primitive": 1})
    assert_structural_equal(after, module(fw.Function([X], fw.exp(fw.Call(inner, [X, w, b])))))
    (decision,) = decisions
    assert decision.taken and decision.ops == ("nn.conv2d", "nn.bias_add", "nn.relu")
    assert str(decision) == "lib.conv2d(nn.conv2d + nn.bias_add + nn.relu) taken"


def test_scalar_constants_stay_inside() -> None:
    pattern = is_op("multiply")(wildcard(), is_constant())
    after, _ = partition_for_libraries(module(fw.multiply(X, fw.const(0.5))), [library(rule("lib.scale", pattern))])
    call = after["main"].body
    assert isinstance(call, fw.Call) and call.args == after["main"].params


def test_longest_match_wins() -> None:
    short, long = rule("lib.conv", CONV, priority=99), rule("lib.full", FULL)
    after, _ = partition_for_libraries(module(fw.nn.relu(conv(X))), [library(short, long)])
    assert regions(after) == [("lib.full", "nn.conv2d+nn.relu")]


def test_priority_decides_between_equals() -> None:
    low, high = rule("lib.low", CONV), rule("lib.high", CONV, priority=99)
    for rules in ((low, high), (high, low)):
        after, _ = partition_for_libraries(module(conv(X)), [library(*rules)])
        assert regions(after) == [("lib.high", "nn.conv2d")]


def test_order_of_libraries() -> None:
    one, two = library(rule("one.conv", CONV), name="one"), library(rule("two.full", FULL), name="two")
    mod = module(fw.nn.relu(conv(X)))
    after, decisions = partition_for_libraries(mod, [one, two])
    assert regions(after) == [("one.conv", "nn.conv2d")]
    assert [d.library for d in decisions] == ["one"]
    after, _ = partition_for_libraries(mod, [two, one])
    assert regions(after) == [("two.full", "nn.conv2d+nn.relu")]


def test_second_library_takes_what_is_left() -> None:
    one = library(rule("one.conv", CONV), name="one")
    two = library(rule("two.dense", is_op("nn.dense")(wildcard(), wildcard())), name="two")
    flat = fw.nn.dense(fw.nn.batch_flatten(conv(X)), fw.const(np.ones((3, 144), "float32")))
    after, _ = partition_for_libraries(module(flat), [one, two])
    assert regions(after) == [("one.conv", "nn.conv2d"), ("two.dense", "nn.dense")]


def test_refusal_gives_a_reason_and_a_shorter_region() -> None:
    def check(match: Match) -> str | None:
        return "relu cannot be appended" if match.has("nn.relu") else None

    after, decisions = partition_for_libraries(
        module(fw.nn.relu(conv(X))), [library(rule("lib.conv2d", FULL, check=check))]
    )
    assert regions(after) == [("lib.conv2d", "nn.conv2d")]
    assert [(d.taken, d.reason) for d in decisions] == [(False, "relu cannot be appended"), (True, None)]
    assert str(decisions[0]) == "lib.conv2d(nn.conv2d + nn.relu) refused: relu cannot be appended"


def test_inner_value_used_elsewhere() -> None:
    c = conv(X)
    after, _ = partition_for_libraries(module(fw.Tuple([fw.nn.relu(c), c])), [library(rule("lib.conv2d", FULL))])
    assert regions(after) == [("lib.conv2d", "nn.conv2d")]


@pytest.mark.parametrize("swap", [False, True])
def test_sum_takes_the_operand_that_is_free(swap: bool) -> None:
    # Only one of the two convolutions has no other use; it is found whichever operand it is.
    shared, free = conv(X), conv(X)
    total = fw.add(free, shared) if swap else fw.add(shared, free)
    pattern = is_op("add")(CONV, wildcard())
    after, _ = partition_for_libraries(module(fw.Tuple([total, shared])), [library(rule("lib.sum", pattern))])
    assert regions(after) == [("lib.sum", "nn.conv2d+add")]


def test_residual_chain() -> None:
    y: fw.Expr = X
    for _ in range(3):
        y = fw.nn.relu(fw.add(conv(fw.nn.relu(conv(y))), y))
    pattern = FULL | is_op("add")(CONV, wildcard()).optional(is_op("nn.relu"))
    after, _ = partition_for_libraries(module(y), [library(rule("lib.conv2d", pattern))])
    block = [("lib.conv2d", "nn.conv2d+nn.relu"), ("lib.conv2d", "nn.conv2d+add+nn.relu")]
    assert regions(after) == block * 3


def test_nothing_matches() -> None:
    mod = module(fw.exp(X))
    lib = library(rule("lib.conv2d", CONV))
    after, decisions = partition_for_libraries(mod, [lib])
    assert after is mod and decisions == []
    assert why_unused(lib, decisions) == "no part of the graph matches a rule of lib (lib.conv2d)"


def test_why_unused() -> None:
    lib = library(rule("lib.conv2d", CONV, check=lambda match: "float64 is not supported"))
    mod = module(fw.add(conv(X), conv(fw.exp(X))))
    after, decisions = partition_for_libraries(mod, [lib])
    assert after is mod and len(decisions) == 2
    assert why_unused(lib, decisions) == "lib.conv2d: float64 is not supported"
    taken = library(rule("lib.conv2d", CONV))
    assert why_unused(taken, partition_for_libraries(mod, [taken])[1]) is None


def test_regions_are_sealed_for_later_passes() -> None:
    mod = module(fw.exp(fw.nn.relu(conv(X))))
    record: list[object] = []
    steps = [partition_pass([library(rule("lib.conv2d", FULL))], record), FoldConstant(), FuseOps(2)]  # type: ignore[arg-type]
    after = Sequential(steps)(mod)
    assert regions(after) == [("lib.conv2d", "nn.conv2d+nn.relu")]
    assert len(record) == 1
    again, decisions = partition_for_libraries(after, [library(rule("lib.conv2d", FULL))])
    assert again is after and decisions == []


def test_rule_by_name() -> None:
    conv_rule = rule("lib.conv2d", CONV)
    lib = library(conv_rule)
    assert lib.rule("lib.conv2d") is conv_rule and lib.rule("other") is None
