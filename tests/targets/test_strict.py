"""`-strict`: what would silently run elsewhere than asked is an error, and what runs as asked is none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fusewire as fw
from fusewire.commands.params import complete_target
from fusewire.contrib.onednn import ffi as onednn_ffi
from fusewire.contrib.openblas import ffi as openblas_ffi
from fusewire.fuse.dataflow_pattern import Match, is_op, is_tuple_get_item, wildcard
from fusewire.fuse.library import Executable, Library, Region, Rule
from tests.bisection.doubles import faulty, runner, unary
from tests.contrib.offload import function_of, placed, uniform, var
from tests.contrib.onednn_cases import needs_onednn

Known = Callable[[Library], None]
MISSING = onednn_ffi.probe() or openblas_ffi.probe() or ""
needs_both = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def dense(dtype: str, name: str = "a", rows: int = 4) -> fw.Expr:
    return fw.nn.dense(var(name, rows, 8, dtype=dtype), var(f"{name}_w", 3, 8, dtype=dtype))


# The target string


def test_flag_in_targets() -> None:
    target = fw.Target("cpu -strict -libs=openblas")
    assert str(target) == "cpu -keys=cpu -libs=openblas -strict" and target.strict
    same = [
        fw.Target(str(target)),
        fw.Target(target.to_dict()),
        fw.Target("cpu --libs=openblas --strict"),
        fw.Target("cpu -libs=openblas -strict=true"),
        fw.Target({"kind": "cpu", "libs": "openblas", "strict": True}),
        fw.Target.stored(str(target)),
    ]
    assert all(other == target and hash(other) == hash(target) for other in same)
    assert target.to_dict()["strict"] is True and "strict" not in fw.Target("cpu").to_dict()
    for text in ("cpu -libs=openblas", "cpu -libs=openblas -strict=0"):
        assert fw.Target(text) != target and not fw.Target(text).strict and "strict" not in str(fw.Target(text))
    assert fw.Target("cuda -strict").strict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu -libs", "expected -key=value, got '-libs'"),
        ("cpu -strictly", "expected -key=value, got '-strictly'"),
        ("cpu -strict=maybe", "bad value 'maybe' for -strict; expected nothing, or true or false"),
        ("cpu -strict -strict", "key -strict is given twice"),
        ("cpu strict", "expected -key=value, got 'strict'"),
    ],
)
def test_bad_flags(text: str, message: str) -> None:
    with pytest.raises(fw.TargetError, match=message):
        fw.Target(text)


def test_completion_of_the_flag() -> None:
    assert complete_target("cpu -st") == ["cpu -strict"]


# What is an error


def test_without_libraries_nothing_is_asked() -> None:
    assert placed(fw.build(function_of(dense("float32")), "cpu -strict")) == ["kernel"]


def test_what_runs_as_asked(known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda call: False))
    function = function_of(fw.exp(fw.tanh(fw.exp(var("x", 4)))))  # no rule is about exp
    lib = fw.build(function, "cpu -libs=faulty -strict")
    assert placed(lib) == ["kernel", "faulty.tanh", "kernel"]
    x = uniform(1, (4,))
    np.testing.assert_allclose(lib(x=x), np.exp(np.tanh(np.exp(x))), rtol=1e-5)


def test_a_library_that_takes_nothing(known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda call: False))
    function = function_of(fw.exp(var("x", 4)))
    assert placed(fw.build(function, "cpu -libs=faulty")) == ["kernel"]
    with pytest.raises(fw.PlacementError) as caught:
        fw.build(function, "cpu -libs=faulty -strict")
    assert str(caught.value) == (
        "-strict: not everything runs where the target asks:\n"
        "  library faulty takes nothing: no part of the graph matches a rule of faulty (faulty.tanh)"
    )


@needs_both
def test_refused_operators_are_listed() -> None:
    """One dense is taken and two are refused, equal ones counted; float64 softmax is nobody's."""
    one, two = dense("float64", "a"), dense("float64", "b")
    sum_ = fw.cast(fw.nn.softmax(one + two), "float32")
    function = function_of(sum_ + dense("float32", "c"))
    with pytest.raises(fw.PlacementError) as caught:
        fw.build(function, "cpu -libs=onednn -strict")
    refused = [line for line in str(caught.value).splitlines() if "nn.dense" in line]
    assert refused == [
        "  nn.dense(Tensor[(4, 8), float64], Tensor[(3, 8), float64]) -> Tensor[(4, 3), float64]: "
        "onednn.dense: data is float64, expected float32, bfloat16 or float16 (2 times)"
    ]
    assert "takes nothing" not in str(caught.value)


@needs_both
def test_another_library_may_take_what_one_refused() -> None:
    function = function_of(fw.cast(dense("float64"), "float32") + dense("float32", "b"))
    lib = fw.build(function, "cpu -libs=onednn,openblas -strict")
    assert sorted(set(placed(lib)) - {"kernel"}) == ["onednn.dense", "openblas.dense"]
    with pytest.raises(fw.PlacementError, match=r"library openblas takes nothing: .* that the other libraries left"):
        fw.build(function_of(dense("float32")), "cpu -libs=onednn,openblas -strict")


@needs_both
def test_all_that_refused_are_named() -> None:
    with pytest.raises(fw.PlacementError) as caught:
        fw.build(function_of(dense("float16")), "cpu -libs=openblas -strict")
    assert "openblas.dense: data is float16, expected float32 or float64" in str(caught.value)
    a, b = var("a", 2, 8, dtype="int32"), var("b", 3, 8, dtype="int32")
    with pytest.raises(fw.PlacementError) as caught:
        fw.build(function_of(fw.nn.dense(a, b)), "cpu -libs=onednn,openblas -strict")
    assert "onednn.dense: data is int32, expected float32, bfloat16 or float16; openblas.dense: data is int32" in str(
        caught.value
    )


def chains(reason: str | None, alone: str | None) -> Library:
    """tanh, perhaps with abs behind it; `reason` refuses the pair, `alone` tanh alone."""

    def check(match: Match) -> str | None:
        return reason if len(match.calls) > 1 else alone

    def implement(region: Region) -> Executable:
        raise AssertionError("nothing runs here")

    pattern = is_op("tanh")(wildcard()).optional(lambda x: is_op("abs")(x))
    return Library("chains", ("cpu",), [Rule("chains.tanh", pattern, check, implement=implement)], lambda: None)


def test_of_a_chain_the_first_operator_counts(known: Known) -> None:
    function = function_of(fw.abs(fw.tanh(var("x", 4))))
    known(chains("no pairs", None))
    assert placed(fw.build(function, "cpu -libs=chains -strict")) == ["chains.tanh", "kernel"]  # abs is nobody's
    known(chains("no pairs", "not today"))
    with pytest.raises(fw.PlacementError) as caught:
        fw.build(function, "cpu -libs=chains -strict")
    (line,) = str(caught.value).splitlines()[1:]
    assert line == "  tanh(Tensor[(4), float32]) -> Tensor[(4), float32]: chains.tanh: not today".replace("(4)", "(4,)")


def test_a_region_that_ends_in_an_item_of_a_tuple(known: Known) -> None:
    first = is_tuple_get_item(is_op("split")(wildcard()), 0)
    rule = Rule("cutter.split", first, lambda match: "no", implement=runner(lambda call: False))
    known(Library("cutter", ("cpu",), [rule], lambda: None))
    body = fw.exp(fw.split(var("x", 4), 2)[0])
    with pytest.raises(fw.PlacementError, match=r"  split\(Tensor\[\(4,\), float32\]\) -> .*: cutter\.split: no$"):
        fw.build(function_of(body), "cpu -libs=cutter -strict")


def test_a_partition_that_did_not_run(known: Known) -> None:
    known(faulty({"tanh": unary("tanh")}, lambda call: False))
    function = function_of(fw.tanh(var("x", 4)))
    with (
        fw.transform.PassContext(disabled_pass=["PartitionForLibraries"]),
        pytest.raises(fw.PlacementError, match=r"faulty\.tanh: not asked, PartitionForLibraries did not run"),
    ):
        fw.build(function, "cpu -libs=faulty -strict")


# Where the module runs


def missing_tanh() -> Library:
    right = faulty({"tanh": unary("tanh")}, lambda call: False)
    return Library("faulty", ("cpu",), right.rules, lambda: "install it with: get-faulty")


def test_a_library_that_is_missing_where_it_runs(known: Known, tmp_path: Path) -> None:
    """A build needs no library, with -strict either; running without it is an error, for a stored module, too."""
    known(missing_tanh())
    lib = fw.build(function_of(fw.tanh(var("x", 4))), "cpu -libs=faulty -strict")
    lib.save(tmp_path / "lib.fw")
    loaded = fw.load(tmp_path / "lib.fw")
    assert loaded.target.strict
    for module in (lib, loaded):
        with pytest.raises(fw.LibraryNotFound, match=r"^faulty: install it with: get-faulty"):
            module["default"](fw.cpu())


def test_measuring_needs_the_libraries_that_are_named(known: Known) -> None:
    known(missing_tanh())
    function = function_of(fw.tanh(var("x", 4)))
    assert placed(fw.build(function, "cpu -libs=auto:faulty")) == ["kernel"]
    with pytest.raises(fw.LibraryNotFound, match=r"^faulty: install it with: get-faulty"):
        fw.build(function, "cpu -libs=auto:faulty -strict")


@needs_onednn
def test_what_follows_may_run_anywhere() -> None:
    """Only first operators of chains are asked for: not what comes behind, nor what generated code fuses anyway."""
    x = fw.var("x", shape=(1, 3, 8, 8))
    y = fw.nn.conv2d(x, fw.const(np.ones((4, 3, 3, 3), np.float32)))
    body = fw.tanh(fw.erf(fw.nn.relu(y) * y))
    for postops in ("", " -postops=0"):
        lib = fw.build(fw.Function([x], body), f"cpu -libs=onednn -strict{postops}")
        assert [c.chosen for c in lib.explain().choices] == ["conv2d_onednn.cpu", "loops.cpu"]
    with pytest.raises(fw.FusewireError, match=r"(?s)-strict.*nn\.max_pool2d.*reference implementation"):
        fw.build(fw.Function([x], fw.nn.max_pool2d(y, 2, dilation=2)), "cpu -libs=onednn -strict")
