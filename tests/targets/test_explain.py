"""Why each step runs where it runs: candidates, refusals, libraries, log lines."""

import json
import logging

import numpy as np
import pytest

import fusewire as fw


def net() -> fw.Function:
    data, weight = fw.var("data", shape=(1, 3, 8, 20)), fw.var("weight", shape=(16, 3, 3, 3))
    conv = fw.nn.relu(fw.nn.conv2d(data, weight, padding=(1, 1)) + 1.0)
    return fw.Function([data, weight], fw.nn.softmax(fw.nn.batch_flatten(conv)))


def test_table_and_data() -> None:
    explanation = fw.build(net()).explain()
    first = explanation.choices[0]
    assert first.ops == ("nn.conv2d", "add", "nn.relu") and first.chosen == "conv2d_nchw.cpu"
    found = {c.name: (c.priority, c.refusal) for c in first.candidates}
    assert found["conv2d_nchw.cpu"] == (10, None) and found["loops.cpu"] == (1, None)
    assert found["conv2d_nchwc.cpu"] == (10, "the layout has no blocks of channels")
    lines = str(explanation).splitlines()
    assert any("conv2d_nchw.cpu (10)" in line and line.endswith("chosen") for line in lines)
    assert any("loops.cpu (1)" in line and line.endswith("lower priority") for line in lines)
    assert all(any(line.startswith(choice.step) for line in lines) for choice in explanation.choices)
    plain = json.loads(json.dumps(explanation.to_dict()))
    assert [c["step"] for c in plain] == [c.step for c in explanation.choices]


@pytest.mark.parametrize(
    ("make", "chosen", "reason"),
    [
        (lambda x, w: fw.nn.conv2d(x, w), "conv2d_nchw.cpu", None),
        (lambda x, w: fw.nn.conv2d(x, fw.exp(w)), "conv2d_nchw.cpu", None),
        (
            lambda x, w: fw.nn.conv2d(fw.cast(x, "int8"), fw.cast(w, "int8"), out_dtype="int32"),
            "loops.cpu",
            "dtype int8",
        ),
        (lambda x, w: fw.nn.conv2d(fw.cast(x, "float16"), fw.cast(w, "float16")), "conv2d_nchw.cpu", None),
    ],
)
def test_refusals_have_reasons(make, chosen: str, reason: str | None) -> None:  # type: ignore[no-untyped-def]
    x, w = fw.var("x", shape=(1, 4, 6, 6)), fw.var("w", shape=(4, 4, 3, 3))
    (choice,) = fw.build(make(x, w)).explain("nn.conv2d").choices
    assert choice.chosen == chosen
    plain = next(c for c in choice.candidates if c.name == "conv2d_nchw.cpu")
    assert (plain.refusal or "").startswith(reason or "") and (plain.refusal is None) == (reason is None)


def test_choices_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fusewire"):
        fw.build(net())
    assert "Using conv2d_nchw.cpu for nn.conv2d based on highest priority (10)" in caplog.messages
    assert "Using loops.cpu for nn.softmax based on highest priority (1)" in caplog.messages


def test_the_cheaper_of_two_wins() -> None:
    x, w = fw.var("x", shape=(1, 4, 28, 28, 16)), fw.const(np.ones((64, 64, 3, 3), np.float32))
    lib = fw.build(fw.nn.conv2d(x, w, padding=1, data_layout="NCHW16c"), "cpu -mcpu=x86-64-v4")
    (choice,) = lib.explain().choices
    costs = {c.name: c.predicted for c in choice.candidates if c.predicted}
    assert choice.chosen == min(costs, key=lambda name: costs[name] or 0.0)
    assert {c.name for c in choice.candidates if choice.verdict(c) == "dearer"} == costs.keys() - {choice.chosen}
    assert "dearer" in str(lib.explain()) and "predicted" in lib.explain().to_dict()[0]["candidates"][0]  # type: ignore[index]


def test_filters() -> None:
    lib = fw.build(net())
    assert [c.chosen for c in lib.explain("nn.softmax").choices] == ["loops.cpu"]
    assert lib.explain("nn.relu").choices == lib.explain("nn.conv2d").choices
    assert lib.explain("nn.dense").choices == ()


def test_with_a_library() -> None:
    pytest.importorskip("fusewire.contrib.onednn")
    lib = fw.build(net(), "cpu -libs=onednn", params={"weight": np.ones((16, 3, 3, 3), np.float32)})
    (conv,) = lib.explain("nn.conv2d").choices
    assert conv.chosen == "conv2d_onednn.cpu" and conv.ops == ("nn.conv2d", "add", "nn.relu")
    assert conv.candidates[-1].refusal is None and conv.candidates[-1].priority > 10
    integer = fw.nn.conv2d(
        fw.var("x", shape=(1, 4, 6, 6), dtype="int32"), fw.var("w", shape=(4, 4, 3, 3), dtype="int32")
    )
    (refused,) = fw.build(integer, "cpu -libs=onednn").explain("nn.conv2d").choices
    assert refused.chosen == "loops.cpu"
    assert any(c.name == "conv2d_onednn.cpu" and "int32" in str(c.refusal) for c in refused.candidates)


def test_a_library_that_takes_nothing_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("fusewire.contrib.onednn")
    with caplog.at_level(logging.WARNING, logger="fusewire"):
        fw.build(fw.erf(fw.var("x", shape=(3,))), "cpu -libs=onednn")
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "onednn is not used" in record.message


def test_what_would_change_the_choice() -> None:
    x, w = fw.var("x", shape=(1, 32, 12, 12)), fw.const(np.ones((32, 32, 3, 3), np.float32))
    (choice,) = fw.build(fw.nn.conv2d(x, w, padding=(1, 1))).explain("nn.conv2d").choices
    rivals = [c.name for c in choice.candidates if c.priority == 10 and not c.refusal and c.name != choice.chosen]
    assert rivals and choice.change == f"{', '.join(rivals)} if measured to be faster (`fusewire tune`)"
    (choice,) = fw.build(fw.nn.softmax(fw.var("x", shape=(3, 4)))).explain().choices
    assert choice.change == ""
    half = fw.var("h", shape=(2, 3), dtype="float64")
    lib = fw.build(fw.nn.dense(half, fw.const(np.ones((4, 3)))), "cpu -libs=onednn")
    assert "dense_onednn.cpu would run, but for: " in lib.explain("nn.dense").choices[0].change
    assert "would run, but for" in str(lib.explain()) and lib.explain().to_dict()[0]["change"]
