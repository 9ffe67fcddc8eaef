"""`bisect_mismatch` names exactly what was made wrong on purpose."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

import fusewire as fw
from fusewire.bisection import Bisection
from fusewire.fuse.dataflow_pattern import is_constant, is_op, wildcard
from fusewire.fuse.library import Library
from fusewire.ir.loops import Kernel
from fusewire.ir.scalar import constant
from fusewire.ir.types import numpy_dtype
from fusewire.targets import implement
from fusewire.targets.lower import Problem
from fusewire.targets.memory import Arena
from fusewire.targets.program import LibraryStep
from fusewire.targets.schedules.space import Config
from fusewire.targets.schedules.tiles import Packed
from tests.bisection.doubles import ERROR, calls, faulty, unary
from tests.contrib.offload import function_of, uniform, var
from tests.random_graphs import random_graph

Known = Callable[[Library], None]
ONE = "cpu -num-cores=1"


def bisect(function: fw.Function, *targets: str, **inputs: Any) -> Bisection:
    libs = [fw.build(function, target) for target in targets]
    return fw.testing.bisect_mismatch(libs[0], libs[1] if len(libs) > 1 else None, inputs)


def wrong_schedule(
    monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[[Problem], bool] = lambda p: True, error: float = ERROR
) -> None:
    """Make an implementation add something to what its anchor gives."""

    def schedule(problem: Problem, config: Config) -> tuple[Kernel, Packed]:
        right = problem.finish
        wrong = attrs.evolve(problem, finish=lambda index, value: right(index, value + constant(error, "float32")))
        return old.schedule(wrong if when(problem) else problem, config)

    old = next(entry for entry in implement.TABLE if entry.name == name)
    new = attrs.evolve(old, schedule=schedule)
    monkeypatch.setattr(implement, "TABLE", tuple(new if entry is old else entry for entry in implement.TABLE))


def conv_relu(dtype: str = "float32") -> fw.Function:
    net = fw.nn.conv2d(var("data", 1, 3, 8, 8, dtype=dtype), fw.const(uniform(1, (16, 3, 3, 3), numpy_dtype(dtype))))
    return function_of(fw.exp(fw.nn.relu(fw.add(net, fw.const(uniform(2, (16, 1, 1), numpy_dtype(dtype)))))))


DATA = uniform(3, (1, 3, 8, 8))


def test_one_wrong_library_call_in_two_hundred_operators(known: Known) -> None:
    function, inputs = random_graph(5, 440)
    ops = calls(function)
    kinds = Counter((str(c.op), c.checked_type) for c in ops)
    tanh = [c for c in ops if str(c.op) == "tanh" and kinds["tanh", c.checked_type] == 1]
    assert len(ops) >= 200 and len(tanh) >= 3
    planted = tanh[len(tanh) // 2]
    known(faulty({"tanh": unary("tanh")}, lambda c: str(c.op) == "tanh" and c.checked_type == planted.checked_type))
    lib = fw.build(function, f"{ONE} -libs=faulty")
    assert sum(isinstance(step, LibraryStep) for step in lib.program.leaf_steps()) >= len(tanh)
    for a, b in ((fw.build(function, ONE), lib), (lib, None)):
        found = fw.testing.bisect_mismatch(a, b, inputs)
        assert found.verdict == "operator" and not found.agree
        (m,) = found.mismatches
        assert (m.op, m.output, m.implementation) == ("tanh", str(planted.checked_type), "tanh_faulty.cpu")
        assert m.target == str(lib.target) and m.narrowed and m.group.startswith("fusewire_default_faulty_tanh")
        assert m.max_abs == pytest.approx(ERROR, rel=1e-3) and found.parted == {m.target: (m.group,)}
        assert "tanh(%p0)" in m.call and m.inputs == (m.output,)
        step = next(step for step in lib.program.leaf_steps() if step.name == m.group)
        assert isinstance(step, LibraryStep)


def test_one_wrong_operator_of_a_library_call(known: Known) -> None:
    pattern = unary("tanh").optional(lambda x: is_op("multiply")(x, is_constant()))
    pattern = pattern.optional(lambda x: is_op("add")(x, wildcard()))
    known(faulty({"chain": pattern}, lambda c: str(c.op) == "multiply"))
    x = var("x", 4, 5)
    function = function_of(fw.nn.softmax(fw.add(fw.multiply(fw.tanh(x), fw.const(uniform(1, (5,)))), x)))
    found = bisect(function, ONE, f"{ONE} -libs=faulty", x=uniform(2, (4, 5)))
    assert found.mismatch is not None
    assert (found.mismatch.op, found.mismatch.ops) == ("multiply", ("tanh", "multiply", "add"))
    assert found.mismatch.implementation == "chain_faulty.cpu"
    assert {p.op: p.parts for p in found.mismatch.probes} == {"add": True, "multiply": True, "tanh": False}
    assert found.mismatch.inputs == ("Tensor[(4, 5), float32]", "Tensor[(5,), float32]")


def test_wrong_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    function = conv_relu()
    name = fw.build(function, ONE).explain("nn.conv2d").choices[0].chosen
    wrong_schedule(monkeypatch, name)
    found = bisect(function, ONE, data=DATA)
    m = found.mismatch
    assert m is not None and found.targets == (str(fw.Target(ONE)), "reference")
    assert (m.op, m.implementation, m.narrowed, m.alone) == ("nn.conv2d", name, True, True)
    assert m.ops == ("nn.conv2d", "add", "nn.relu", "exp")
    assert m.max_abs == pytest.approx(ERROR, rel=1e-2) and m.difference.beyond == m.difference.size == 576
    assert f"is off by up to {m.max_abs:.3g}" in found.message and "call            nn.conv2d(%p0, %p1" in str(found)


def test_wrong_only_when_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    function = conv_relu()
    name = fw.build(function, ONE).explain("nn.conv2d").choices[0].chosen
    wrong_schedule(monkeypatch, name, lambda problem: len(problem.inputs) > 2)  # where the bias is fused
    m = bisect(function, ONE, data=DATA).mismatch
    assert m is not None and (m.op, m.implementation, m.alone) == ("add", name, False)
    assert "right: only wrong among its neighbours" in str(m)


def test_agreement_is_said() -> None:
    for targets in ([ONE, f"{ONE} -mcpu=generic"], [ONE]):
        found = bisect(conv_relu(), *targets, data=DATA)
        assert found.agree and found.mismatch is None and found.worst is not None and found.worst[1] < 1e-5
        assert str(found) == "no difference: the results agree, and so does each of 1 groups with its reference"
        assert found.groups == (1,) * len(targets)


def test_groups_are_counted_for_each_target() -> None:
    function = conv_relu()
    with fw.transform.PassContext(disabled_pass=["FuseOps"]):
        apart = fw.build(function, ONE)
    found = fw.testing.bisect_mismatch(fw.build(function, ONE), apart, {"data": DATA})
    many, target = len(apart.program.leaf_steps()), str(fw.Target(ONE))
    assert found.groups == (1, many) and many > 1 and found.to_dict()["groups"] == [1, many]
    assert f"so does each of 1 groups for '{target}' and {many} groups for '{target}' with" in found.message


def test_tolerances_given_hold(known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda c: True))
    function = function_of(fw.tanh(var("x", 4)))
    lib, x = fw.build(function, f"{ONE} -libs=faulty"), {"x": uniform(1, (4,))}
    assert fw.testing.bisect_mismatch(lib, None, x, atol=0.02).agree
    assert not fw.testing.bisect_mismatch(lib, None, x, atol=0.005, rtol=0).agree
    assert fw.testing.bisect_mismatch(lib, None, x, atol=0, rtol=100).agree


def test_both_targets_wrong(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    known(faulty({"exp": unary("exp")}, lambda c: True))
    function = conv_relu()
    wrong_schedule(monkeypatch, fw.build(function, ONE).explain("nn.conv2d").choices[0].chosen)
    found = bisect(function, ONE, f"{ONE} -libs=faulty", data=DATA)
    assert [m.op for m in found.mismatches] == ["nn.conv2d", "nn.conv2d"]  # the first of each
    assert len(found.parted[f"{fw.Target(ONE + ' -libs=faulty')}"]) == 2
    assert "(1 more group differs)" in found.message


def test_a_pass_that_changed_the_meaning() -> None:
    x = var("x", 4)
    one, other = function_of(fw.tanh(x)), function_of(fw.tanh(x + fw.const(0.01)))
    values = {"x": uniform(1, (4,))}
    libs = fw.build(one, ONE), fw.build(other, ONE)
    found = fw.testing.bisect_mismatch(*libs, values)
    assert found.verdict == "passes" and "the two graphs do not mean the same" in found.message
    found = fw.testing.bisect_mismatch(libs[0], None, values, reference=other)
    assert found.verdict == "passes" and f"the passes for '{libs[0].target}' changed" in found.message
    assert found.outputs[0].beyond == 4
    assert fw.testing.bisect_mismatch(libs[0], None, values, reference=one).agree


@pytest.mark.parametrize("fused", [True, False])
def test_rounding_is_nobodys_fault(fused: bool) -> None:
    """(sum + 1e7) - 1e7 loses all digits, in one group or in several."""
    x = var("x", 64)
    function = function_of((fw.sum(x, axis=[0], keepdims=True) + fw.const(1e7)) - fw.const(1e7))
    with fw.transform.PassContext(disabled_pass=[] if fused else ["FuseOps"]):
        found = bisect(function, ONE, x=uniform(1, (64,)))
    assert found.verdict == "rounding" and found.groups == ((1,) if fused else (3,))
    assert f"small differences of {found.groups[0]} groups add up" in found.message and not found.outputs[0].within


def test_steps_that_spoil_each_other() -> None:
    x = var("x", 4, 8)
    first, second = fw.nn.softmax(x), fw.nn.softmax(x, axis=0)
    body = fw.Tuple([fw.nn.softmax(first), fw.nn.softmax(second), fw.nn.softmax(first, axis=0)])
    lib = fw.build(function_of(body), ONE)
    values = {"x": uniform(1, (4, 8)) * 9}
    assert fw.testing.bisect_mismatch(lib, None, values).agree
    assert len({*lib.arena.offsets.values()}) == 2
    lib.runnable = attrs.evolve(lib.runnable, arena=Arena(dict.fromkeys(lib.arena.offsets, 0), lib.arena.size))
    found = fw.testing.bisect_mismatch(lib, None, values)
    assert found.verdict == "together" and "every step is right by itself" in found.message


@pytest.mark.parametrize("flag", [True, False])
def test_inside_of_a_branch(flag: bool, known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda c: True))
    x, cond = var("x", 4), fw.var("cond", shape=(), dtype="bool")
    function = fw.Function([cond, x], fw.If(cond, fw.tanh(x), fw.exp(x)))
    lib = fw.build(function, f"{ONE} -libs=faulty")
    found = fw.testing.bisect_mismatch(lib, None, {"cond": np.array(flag), "x": uniform(1, (4,))})
    assert found.agree is not flag and [m.op for m in found.mismatches] == ["tanh"] * flag


def test_tuples(known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda c: True))
    x = fw.var("x", fw.TupleType([fw.TensorType((2, 3)), fw.TensorType((2, 3))]))
    joined = fw.concatenate([fw.tanh(fw.TupleGetItem(x, 0)), fw.TupleGetItem(x, 1)], axis=1)
    function = fw.Function([x], fw.Tuple([fw.split(joined, 2, axis=1)[0], fw.nn.relu(joined)]))
    values = {"x": [uniform(1, (2, 3)), uniform(2, (2, 3))]}
    with fw.transform.PassContext(disabled_pass=["FuseOps"]):
        lib, other = fw.build(function, f"{ONE} -libs=faulty"), fw.build(function, ONE)
    assert fw.testing.bisect_mismatch(other, None, values).agree
    found = fw.testing.bisect_mismatch(other, lib, values)
    assert [m.op for m in found.mismatches] == ["tanh"]


def test_modules_that_cannot_be_compared() -> None:
    one = fw.build(function_of(fw.tanh(var("x", 4))), ONE)
    with pytest.raises(fw.FusewireError, match="not of one graph: their inputs"):
        fw.testing.bisect_mismatch(one, fw.build(function_of(fw.tanh(var("y", 4))), ONE), {"x": uniform(1, (4,))})
    with pytest.raises(fw.FusewireError, match="not of one graph: their outputs"):
        fw.testing.bisect_mismatch(one, fw.build(function_of(fw.sum(var("x", 4))), ONE), {"x": uniform(1, (4,))})
    with pytest.raises(fw.RuntimeInputError, match="inputs not set: 'x'"):
        fw.testing.bisect_mismatch(one, None, {})
