"""FuseStages: which groups become one, and what comes out."""

from collections.abc import Callable

import pytest

import fusewire as fw
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.graph import walk
from fusewire.fuse.infra import Pass
from fusewire.fuse.library import Library, Rule
from fusewire.fuse.pipeline import pipeline
from fusewire.fuse.transform import DefuseOps, FuseOps, FuseStages, Sequential
from fusewire.ir.module import IRModule
from fusewire.ir.structural import structural_equal

Accept = Callable[[fw.Function], bool]
ALWAYS = {"fusewire.FuseStages.min_bytes": 0}
X = fw.var("x", shape=(1, 4, 6, 6))


def conv(data: fw.Expr, name: str, channels: int = 8) -> fw.Expr:
    return fw.nn.conv2d(data, fw.var(name), kernel_size=(1, 1), channels=channels)


def depthwise(data: fw.Expr, name: str, channels: int = 8) -> fw.Expr:
    return fw.nn.conv2d(data, fw.var(name), kernel_size=(3, 3), channels=channels, groups=channels, padding=(1, 1))


def run(net: fw.Expr, accept: Accept = lambda function: True, config: dict[str, int] = ALWAYS) -> IRModule:
    with fw.PassContext(config=config):
        mod = IRModule.from_expr(fw.Function(fw.analysis.free_vars(net), net))
        passes: list[Pass] = [FuseOps(), FuseStages(accept)]
        return Sequential(passes)(mod)


def groups(mod: IRModule) -> list[list[str]]:
    """The operators of each group."""
    calls = [e for e in walk(mod["main"].body) if isinstance(e, fw.Call) and isinstance(e.op, fw.Function)]
    inside = [[n for n in walk(c.op.body) if isinstance(n, fw.Call)] for c in calls if isinstance(c.op, fw.Function)]
    return [[str(n.op) for n in nodes] for nodes in inside]


def test_what_comes_out(golden: Callable[[str, str], None]) -> None:
    bias = fw.var("b", shape=(8, 1, 1))
    mod = run(fw.nn.relu(depthwise(fw.nn.relu(fw.add(conv(X, "v"), bias)), "w")))
    golden("fuse_stages.txt", str(mod))
    assert groups(mod) == [["nn.conv2d", "add", "nn.relu", "nn.conv2d", "nn.relu"]]


def test_it_can_be_undone() -> None:
    net = fw.nn.relu(depthwise(fw.nn.relu(conv(X, "v")), "w"))
    mod = IRModule.from_expr(fw.Function(fw.analysis.free_vars(net), net))
    typed = fw.transform.InferType()(mod)
    assert structural_equal(DefuseOps()(run(net))["main"], typed["main"])


def test_a_group_is_joined_once() -> None:
    chain = depthwise(conv(depthwise(conv(X, "a"), "b"), "c"), "d")
    assert groups(run(chain)) == [["nn.conv2d", "nn.conv2d"]] * 2
    # The target may want just some of them.
    assert groups(run(chain, lambda f: "groups=8" not in str(f).rsplit("nn.conv2d", 1)[1])) == [
        ["nn.conv2d"], ["nn.conv2d", "nn.conv2d"], ["nn.conv2d"]
    ]  # fmt: skip


def used_twice() -> fw.Expr:
    first = conv(X, "v")
    return fw.Tuple([depthwise(first, "w"), depthwise(first, "u")])


def residual() -> fw.Expr:
    first = conv(X, "v")
    return fw.add(depthwise(first, "w"), first)


@pytest.mark.parametrize(
    "net",
    [
        used_twice(),
        residual(),
        depthwise(fw.cumsum(conv(X, "v"), axis=1), "w"),  # a procedure between the two
        fw.transpose(conv(X, "v")),  # no second anchor
        fw.nn.conv2d(X, fw.reshape(conv(X, "v", 9), (9, 4, 3, 3)), kernel_size=(3, 3), channels=9),  # a weight
    ],
    ids=["used twice", "residual", "between", "one anchor", "weight"],
)
def test_what_stays_as_it_is(net: fw.Expr) -> None:
    asked: list[fw.Function] = []

    def accept(function: fw.Function) -> bool:
        asked.append(function)
        return True

    with fw.PassContext(config=ALWAYS):
        before = FuseOps()(IRModule.from_expr(fw.Function(fw.analysis.free_vars(net), net)))
        assert FuseStages(accept)(before) is before and not asked


def test_size() -> None:
    net = depthwise(conv(X, "v"), "w")  # 8 * 6 * 6 * 4 bytes between the two
    for least, count in ((1152, 1), (1153, 2)):
        assert len(groups(run(net, config={"fusewire.FuseStages.min_bytes": least}))) == count
    assert len(groups(run(net, config={}))) == 2
    assert len(groups(run(net, lambda function: False))) == 2


def test_a_library_keeps_what_it_took() -> None:
    pattern = is_op("nn.conv2d")(wildcard(), wildcard())
    rule = Rule("lib.conv2d", pattern, implement=lambda region: lambda inputs, outputs: None)
    net = depthwise(fw.nn.relu(conv(X, "v")), "w")
    partitioned = pipeline([Library("lib", ("cpu",), [rule], probe=lambda: None)])(
        IRModule.from_expr(fw.Function(fw.analysis.free_vars(net), net))
    )
    with fw.PassContext(config=ALWAYS):
        assert FuseStages(lambda function: True)(partitioned) is partitioned
    assert groups(partitioned) == [["nn.conv2d"], ["nn.relu"], ["nn.conv2d"]]
