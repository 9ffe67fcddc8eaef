"""Several libraries in one target, and libraries that other packages bring."""

import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fusewire as fw
from fusewire.contrib.onednn import ffi as onednn_ffi
from fusewire.contrib.openblas import ffi as openblas_ffi
from fusewire.targets import libraries, target
from fusewire.testing import evaluate
from tests.contrib.offload import Array, check, compare, conv2d, function_of, placed, refusals, uniform, var

MISSING = onednn_ffi.probe() or openblas_ffi.probe() or ""
needs_both = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def dense(dtype: str = "float32") -> fw.Expr:
    return fw.nn.dense(var("a", 4, 8, dtype=dtype), var("b", 3, 8, dtype=dtype))


@needs_both
@pytest.mark.parametrize("libs", ["onednn,openblas", "openblas,onednn"])
def test_the_first_library_named_has_the_choice(libs: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fusewire"):
        check(dense(), libs, [f"{libs.split(',')[0]}.dense"])
    unused = [message for message in caplog.messages if "is not used" in message]
    second = libs.split(",")[1]
    assert len(unused) == 1 and unused[0].startswith(f"library {second} is not used: no part of the graph")


@needs_both
def test_the_second_library_takes_what_the_first_refuses() -> None:
    lib = check(dense("float64"), "onednn,openblas", ["openblas.dense"], rtol=1e-12)
    assert refusals(lib) == ["dense_onednn.cpu: data is float64, expected float32, bfloat16 or float16"]
    (choice,) = lib.explain().choices
    assert choice.chosen == "dense_openblas.cpu"


@needs_both
@pytest.mark.parametrize("libs", ["onednn,openblas", "openblas,onednn"])
def test_each_library_takes_its_part(libs: str) -> None:
    x = fw.nn.relu(conv2d((2, 3, 6, 6), (4, 3, 3, 3)))
    y = fw.nn.dense(fw.nn.batch_flatten(x), var("w", 5, 64))
    dense = f"{libs.split(',')[0]}.dense"
    check(fw.nn.softmax(y), libs, ["onednn.conv2d", dense, "onednn.softmax"], ["weight"])
    bare = check(
        fw.nn.softmax(y), f"{libs} -postops=0", ["onednn.conv2d", "kernel", dense, "onednn.softmax"], ["weight"]
    )
    names = [name for name in bare.function_metadata if "onednn" in name or "openblas" in name]
    assert len(names) == 3
    table = str(bare.explain())
    assert "conv2d_onednn.cpu (25)" in table and "multiply" not in table


@needs_both
def test_same_names_are_told_apart() -> None:
    x, w = var("x", 4, 8), fw.const(uniform(1, (8, 8)))
    y = fw.nn.dense(fw.erf(fw.nn.dense(x, w)), w)
    lib = check(y, "onednn", ["onednn.dense", "kernel", "onednn.dense"])
    steps = [step.name for step in lib.program.leaf_steps()]
    assert len(set(steps)) == 3
    assert [c.step for c in lib.explain(steps[2]).choices] == [steps[2]]


def awkward_arrays() -> dict[str, Array]:
    plain = uniform(1, (3, 8))
    raw = np.zeros(plain.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(3, 8)
    raw[:] = plain
    wide = np.zeros((6, 16), np.float32)
    wide[::2, ::2] = plain
    return {
        "columns first": np.asfortranarray(plain),
        "unaligned": raw,
        "other byte order": plain.astype(plain.dtype.newbyteorder()),
        "cut out": wide[::2, ::2],
        "reversed": plain[::-1].copy()[::-1],
    }


@pytest.mark.parametrize("libs", ["", " -libs=onednn", " -libs=openblas"])
@pytest.mark.parametrize("name", awkward_arrays())
def test_arrays_that_are_not_plain_in_memory(name: str, libs: str) -> None:
    if libs and MISSING:
        pytest.skip(MISSING)
    function, a, b = function_of(dense()), uniform(2, (4, 8)), awkward_arrays()[name]
    expected = a.astype(np.float64) @ b.astype(np.float64).T
    constant, variable = fw.build(function, f"cpu{libs}", params={"b": b}), fw.build(function, f"cpu{libs}")
    assert placed(constant) == placed(variable) == ([f"{libs.split('=')[1]}.dense"] if libs else ["kernel"])
    compare([constant(a=a), variable(a=a, b=b)], [expected, expected])


def test_requested_library_without_work_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    a, b = var("a", 4, 8, dtype="float64"), var("b", 3, 8, dtype="float64")
    body = fw.nn.dense(fw.nn.dense(a, b), var("c", 2, 3, dtype="float64"))
    with caplog.at_level(logging.WARNING, logger="fusewire"):
        lib = fw.build(function_of(body), "cpu -libs=onednn")
    assert placed(lib) == ["kernel", "kernel"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    reason = "onednn.dense: data is float64, expected float32, bfloat16 or float16"
    assert record.getMessage() == f"library onednn is not used: {reason}"


@pytest.mark.parametrize("name", ["nosuchlib", "one_dnn", "cudnn"])
def test_unknown_library(name: str) -> None:
    with pytest.raises(
        fw.TargetError, match=rf"unknown library '{name}' for kind cpu.*known libraries: onednn, openblas"
    ):
        fw.build(function_of(dense()), f"cpu -libs={name}")


# Libraries of other packages

ACME = """
import numpy as np
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.library import Library, Rule

MISSING = None
regions = []

def check(match):
    dtype = match.root.checked_type.dtype
    return None if dtype == "float32" else f"dtype {dtype}"

def implement(region):
    regions.append(region)
    def run(inputs, outputs):
        np.maximum(inputs[0], 0, out=outputs[0])
        outputs[0] += 1  # so that one can see who did it
    return run

pattern = is_op("nn.relu")(wildcard())
rule = Rule("acme.relu", pattern, check, implement=implement, priority=77)
LIBRARY = Library("acme", ("cpu",), [rule], lambda: MISSING)
ELSEWHERE = Library("acme-gpu", ("cuda",), [], lambda: None)
NUMBER = 7
"""

Offer = Callable[..., None]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offer]:
    """`offer(name="module:attribute", ...)` installs a package that offers libraries by these entry points."""

    def install(**points: str) -> None:
        (tmp_path / "acme_fusewire.py").write_text(ACME)
        info = tmp_path / "acme_fusewire-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-fusewire\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[fusewire.libraries]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.setitem(target._LIBRARIES, "cpu", [*target._LIBRARIES["cpu"]])
    libraries.find_library.cache_clear()
    yield install
    libraries.find_library.cache_clear()
    sys.modules.pop("acme_fusewire", None)


def relu() -> fw.Expr:
    return fw.tanh(fw.nn.relu(var("x", 2, 3)))


def test_third_party_library(offer: Offer, caplog: pytest.LogCaptureFixture) -> None:
    offer(acme="acme_fusewire:LIBRARY")
    where = fw.Target("cpu -libs=acme")  # known without a build before
    with caplog.at_level(logging.INFO, logger="fusewire"):
        lib = fw.build(function_of(relu()), where)
    assert placed(lib) == ["acme.relu", "kernel"]
    assert "Using relu_acme.cpu for nn.relu based on highest priority (77)" in caplog.messages
    x = uniform(1, (2, 3))
    compare([lib(x=x)], [np.tanh(np.maximum(x, 0) + 1)])
    (region,) = sys.modules["acme_fusewire"].regions
    assert region.threads == lib.threads and dict(region.constants) == {}


@needs_both
def test_third_party_library_beside_one_of_fusewires(offer: Offer) -> None:
    offer(acme="acme_fusewire:LIBRARY")
    function = function_of(fw.nn.relu(dense()))
    a, b = uniform(1, (4, 8)), uniform(2, (3, 8))
    assert placed(fw.build(function, "cpu -libs=onednn,acme")) == ["onednn.dense"]  # the longer match, and named first
    for where in ("cpu -libs=acme,onednn", "cpu -libs=onednn,acme -postops=0"):
        lib = fw.build(function, where)
        assert placed(lib) == ["onednn.dense", "acme.relu"]
    compare([lib(a=a, b=b)], [evaluate(function, {"a": a, "b": b})[0] + 1])


def test_third_party_refusal(offer: Offer, caplog: pytest.LogCaptureFixture) -> None:
    offer(acme="acme_fusewire:LIBRARY")
    lib = fw.build(function_of(fw.nn.relu(var("x", 3, dtype="float64"))), "cpu -libs=acme")
    assert placed(lib) == ["kernel"]
    assert refusals(lib) == ["relu_acme.cpu: dtype float64"]
    assert "library acme is not used: acme.relu: dtype float64" in caplog.messages


def test_third_party_library_that_is_missing(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(acme="acme_fusewire:LIBRARY")
    lib = fw.build(function_of(relu()), "cpu -libs=acme")
    monkeypatch.setattr(sys.modules["acme_fusewire"], "MISSING", "install it with: acme-get")
    with pytest.raises(fw.LibraryNotFound, match=r"^acme: install it with: acme-get"):
        lib["default"](fw.cpu())


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("acme_fusewire:NUMBER", fw.TargetError, "entry point 'acme' in fusewire.libraries gives a int, no Library"),
        ("acme_fusewire:ELSEWHERE", fw.TargetError, "entry point 'acme' .* gives a library called 'acme-gpu'"),
        ("acme_fusewire:NOTHING", fw.LibraryNotFound, "'acme' is offered as acme_fusewire:NOTHING: .*NOTHING"),
        ("no_such_module:LIBRARY", fw.LibraryNotFound, "'acme' is offered as no_such_module:LIBRARY: No module named"),
    ],
)
def test_broken_entry_points(offer: Offer, value: str, error: type[Exception], message: str) -> None:
    offer(acme=value)
    assert placed(fw.build(function_of(relu()), "cpu")) == ["kernel"]  # others are not hurt
    with pytest.raises(error, match=message):
        fw.build(function_of(relu()), "cpu -libs=acme")


def test_library_for_another_kind_of_target(offer: Offer) -> None:
    offer(acme_gpu="acme_fusewire:ELSEWHERE")
    with pytest.raises(fw.TargetError, match="acme-gpu works on cuda"):
        fw.build(function_of(relu()), "cpu -libs=acme-gpu")


def test_names_that_no_target_can_have_are_left_out(monkeypatch: pytest.MonkeyPatch, offer: Offer) -> None:
    names = ("two words", "auto", "fine")
    points = [importlib.metadata.EntryPoint(name, "acme_fusewire:LIBRARY", target.LIBRARY_GROUP) for name in names]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    with pytest.raises(fw.TargetError, match="known libraries: onednn, openblas, fine, auto"):
        fw.Target("cpu -libs=other")
