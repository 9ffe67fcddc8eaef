"""All passes together, on the network of the tutorial."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.dataflow_pattern import is_constant, is_op, wildcard
from fusewire.fuse.library import Library, Rule
from fusewire.fuse.partition import Decision
from fusewire.fuse.pipeline import pipeline
from fusewire.fuse.transform import DefuseOps, PassContext
from fusewire.testing import evaluate

RNG = np.random.default_rng(7)


def network(bound: bool = True) -> fw.IRModule:
    data = fw.var("data", shape=(1, 3, 8, 8))
    values = {
        "weight": RNG.uniform(-1, 1, (4, 3, 3, 3)),
        **{name: RNG.uniform(0.5, 1.5, 4) for name in ("gamma", "beta", "mean", "var")},
    }
    given = {n: fw.const(v.astype("float32")) if bound else fw.var(n, shape=v.shape) for n, v in values.items()}
    weight, gamma, beta, mean, var = given.values()
    net = fw.nn.conv2d(data, weight, kernel_size=(3, 3), channels=4, padding=(1, 1))
    net = fw.nn.relu(fw.nn.batch_norm(net, gamma, beta, mean, var)[0])
    return fw.IRModule.from_expr(net)


def groups(mod: fw.IRModule) -> list[list[str]]:
    nodes: list[fw.Expr] = []
    fw.analysis.post_order_visit(mod["main"], nodes.append)
    found = []
    for node in nodes:
        if isinstance(node, fw.Call) and isinstance(node.op, fw.Function):
            inner: list[fw.Expr] = []
            fw.analysis.post_order_visit(node.op.body, inner.append)
            found.append([str(e.op) for e in inner if isinstance(e, fw.Call)])
    return found


@pytest.mark.parametrize(
    ("level", "expected"),
    [(2, [["nn.conv2d", "multiply", "add", "nn.relu"]]), (3, [["nn.conv2d", "add", "nn.relu"]])],
)
def test_one_group(level: int, expected: list[list[str]]) -> None:
    with PassContext(opt_level=level):
        assert groups(pipeline()(network())) == expected


def test_default_level_is_two() -> None:
    assert groups(pipeline()(network())) == [["nn.conv2d", "multiply", "add", "nn.relu"]]


def test_level_zero_is_one_operator_at_a_time() -> None:
    with PassContext(opt_level=0):
        assert {len(g) for g in groups(pipeline()(network()))} == {1}


def test_parameters_given_later() -> None:
    # gamma / sqrt(var + eps) is computed once, not for every pixel.
    found = groups(pipeline()(network(bound=False)))
    assert found[0] == ["add", "sqrt", "divide"] and found[1][0] == "nn.conv2d" and len(found) == 2


@pytest.mark.parametrize("level", range(4))
def test_result_is_the_same(level: int) -> None:
    before = network()
    with PassContext(opt_level=level):
        after = DefuseOps()(pipeline()(before))
    data = {"data": RNG.uniform(-1, 1, (1, 3, 8, 8)).astype("float32")}
    typed = fw.transform.InferType()(before)
    np.testing.assert_allclose(evaluate(after["main"], data)[0], evaluate(typed["main"], data)[0], rtol=1e-5, atol=1e-6)


def test_without_fusion() -> None:
    after = pipeline(fuse=False)(network())
    assert groups(after) == []
    assert "nn.batch_norm" not in str(after)


def test_libraries_come_before_fusion() -> None:
    pattern = is_op("nn.conv2d")(wildcard(), is_constant())
    rule = Rule("lib.conv2d", pattern, implement=lambda region: lambda inputs, outputs: None)
    lib = Library("lib", ("cpu",), [rule], probe=lambda: None)
    record: list[Decision] = []
    assert groups(pipeline([lib], record)(network())) == [["nn.conv2d"], ["multiply", "add", "nn.relu"]]
    assert [d.rule for d in record] == ["lib.conv2d"]


def test_disabled_pass() -> None:
    with PassContext(disabled_pass=["FuseOps"]):
        assert groups(pipeline()(network())) == []
    with PassContext(opt_level=2, required_pass=["FoldScaleAxis"]):
        assert groups(pipeline()(network())) == [["nn.conv2d", "add", "nn.relu"]]
