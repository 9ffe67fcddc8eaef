"""MergeComposite, AnnotateTarget and PartitionGraph, one by one and all together."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.chain import Chain
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.library import Library, Rule
from fusewire.fuse.partition import partition_for_libraries
from fusewire.fuse.postops import RELU
from fusewire.fuse.transform import (
    AnnotateTarget,
    FoldConstant,
    FuseOps,
    InferType,
    MergeComposite,
    PartitionGraph,
    PassContext,
    Sequential,
)
from fusewire.ir.structural import assert_structural_equal, structural_equal

X, W = fw.var("x", shape=(4, 8)), fw.var("w", shape=(3, 8))
DENSE_RELU = is_op("nn.relu")(is_op("nn.dense")(wildcard(), wildcard()))
DENSE = is_op("nn.dense")(wildcard(), wildcard())


def module(body: fw.Expr) -> fw.IRModule:
    return InferType()(fw.IRModule.from_expr(fw.Function(fw.analysis.free_vars(body), body)))


def net() -> fw.IRModule:
    return module(fw.exp(fw.nn.relu(fw.nn.dense(X, W))))


def attributes(mod: fw.IRModule) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []

    def visit(node: fw.Expr) -> None:
        if isinstance(node, fw.Call) and isinstance(node.op, fw.Function):
            found.append(dict(node.op.attrs))

    fw.analysis.post_order_visit(mod["main"], visit)
    return found


def test_step_by_step() -> None:
    merged = MergeComposite([("acme.dense_relu", DENSE_RELU), ("acme.dense", DENSE)])(net())
    assert attributes(merged) == [{"Composite": "acme.dense_relu"}]
    p, q = fw.var("p0", shape=(4, 8)), fw.var("p1", shape=(3, 8))
    inner = fw.Function([p, q], fw.nn.relu(fw.nn.dense(p, q)), None, {"Composite": "acme.dense_relu"})
    assert_structural_equal(merged, module(fw.exp(fw.Call(inner, [X, W]))))
    annotated = AnnotateTarget("acme")(merged)
    assert attributes(annotated) == [{"Composite": "acme.dense_relu", "Compiler": "acme"}]
    sealed = PartitionGraph()(annotated)
    assert attributes(sealed) == [{"Composite": "acme.dense_relu", "Compiler": "acme", "Primitive": 1}]
    fused = Sequential([FoldConstant(), FuseOps(2)])(sealed)
    assert [a.get("Composite") for a in attributes(fused)] == ["acme.dense_relu", None]


def test_the_same_as_in_one_go() -> None:
    def implement(region: object) -> None:
        raise AssertionError

    rules = [Rule("acme.dense", Chain("nn.dense", [[RELU]]), implement=implement)]  # type: ignore[arg-type]
    acme = Library("acme", ("cpu",), rules, probe=lambda: None)
    steps = Sequential([MergeComposite(acme), AnnotateTarget([acme]), PartitionGraph()])(net())
    whole, _ = partition_for_libraries(net(), [acme])
    assert_structural_equal(steps, InferType()(whole))


def test_longest_match_wins_then_the_first_entry() -> None:
    table = [("acme.dense", DENSE), ("acme.other", DENSE), ("acme.dense_relu", DENSE_RELU)]
    assert attributes(MergeComposite(table)(net())) == [{"Composite": "acme.dense_relu"}]
    assert attributes(MergeComposite(table[:2])(net())) == [{"Composite": "acme.dense"}]


def test_check_of_an_entry() -> None:
    seen: list[str] = []

    def check(root: fw.Expr) -> bool:
        assert isinstance(root, fw.Call)
        seen.append(str(root.op))
        return False

    mod = net()
    after = MergeComposite([("acme.dense_relu", DENSE_RELU, check), ("acme.dense", DENSE)])(mod)
    assert seen == ["nn.relu"] and attributes(after) == [{"Composite": "acme.dense"}]


@pytest.mark.parametrize("entry", [("acme.dense",), (DENSE, "acme.dense"), ("acme.dense", DENSE, 3), "acme.dense"])
def test_malformed_entry(entry: object) -> None:
    with pytest.raises(fw.FusewireError, match=r"tuples \(name, pattern\) or \(name, pattern, check\), got"):
        MergeComposite([entry])  # type: ignore[list-item]


def test_what_no_library_took_is_opened_again() -> None:
    mod = net()
    merged = MergeComposite([("acme.dense_relu", DENSE_RELU)])(mod)
    assert attributes(AnnotateTarget("other")(merged)) == [{"Composite": "acme.dense_relu"}]
    assert structural_equal(PartitionGraph()(AnnotateTarget("other")(merged)), mod)


def test_nothing_to_do_changes_nothing() -> None:
    mod = net()
    for step in (MergeComposite([]), AnnotateTarget("acme"), PartitionGraph()):
        assert step(mod) is mod


def test_names_are_known_to_contexts() -> None:
    with PassContext(disabled_pass=["MergeComposite", "AnnotateTarget", "PartitionGraph"]):
        assert attributes(Sequential([MergeComposite([("acme.dense", DENSE)])])(net())) == []


def test_regions_of_a_table_run_nowhere() -> None:
    merge = [MergeComposite([("acme.dense", DENSE)]), AnnotateTarget("acme"), PartitionGraph()]
    with pytest.raises(fw.FusewireError, match=r"no library has the rule 'acme\.dense'"):
        fw.build(Sequential(merge)(net()), "cpu")


def test_partitioned_by_hand_and_built() -> None:
    from fusewire.contrib.openblas import LIBRARY, ffi

    if reason := ffi.probe():
        pytest.skip(reason)
    by_hand = Sequential([MergeComposite(LIBRARY), AnnotateTarget("openblas"), PartitionGraph()])(net())
    lib = fw.build(by_hand, "cpu -libs=openblas")
    assert [c.chosen for c in lib.explain().choices] == ["dense_openblas.cpu", "loops.cpu"]
    x, w = (np.random.default_rng(k).normal(size=s).astype("float32") for k, s in enumerate(((4, 8), (3, 8))))
    np.testing.assert_allclose(lib(x=x, w=w), np.exp(np.maximum(x @ w.T, 0)), rtol=1e-5)
