"""-libs=auto: what is measured to be faster runs, what is wrong never does, and nothing is measured twice."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.library import Executable, Library, Region, Rule
from fusewire.targets import target
from fusewire.targets.program import KernelStep, LibraryStep
from fusewire.targets.tuning import auto
from fusewire.targets.tuning.bench import fill_inputs
from fusewire.targets.tuning.boundaries import Observed, alike, cells_of, common, observe, signature
from fusewire.targets.tuning.store import TuningStore
from fusewire.testing import evaluate
from tests.contrib.offload import Array, placed
from tests.contrib.onednn_cases import needs_onednn

TARGET = "cpu -libs=auto:double -num-cores=1"
Speeds = Callable[[float], None]


def double(offset: float = 0.0, failing: bool = False) -> Library:
    """A library that computes dense, and dense with relu, as the reference does; or a bit beside it."""

    def implement(region: Region) -> Executable:
        if failing:
            raise fw.FusewireError("no licence")
        names = [p.name_hint for p in region.function.params]

        def run(inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
            (result,) = evaluate(region.function, dict(zip(names, inputs, strict=True)))
            outputs[0][...] = result + offset

        return run

    dense = is_op("nn.dense")(wildcard(), wildcard())
    patterns = {"dense": dense, "dense_relu": is_op("nn.relu")(dense)}
    rules = [Rule(f"double.{name}", pattern, implement=implement) for name, pattern in patterns.items()]
    return Library("double", ("cpu",), rules, lambda: None)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Library], None]:
    """Makes a library known as "double"."""

    def known(library: Library) -> None:
        monkeypatch.setitem(target._LIBRARIES, "cpu", [*target._LIBRARIES["cpu"], "double"])
        monkeypatch.setattr(auto, "find_library", lambda name: library)

    return known


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> Speeds:
    """`speeds(t)`: generated steps take a millisecond, library steps take `t` times that, steps of relu nothing."""

    def told(ratio: float) -> None:
        def seconds(step: object) -> float:
            assert isinstance(step, KernelStep | LibraryStep)
            return 1e-3 * ratio if isinstance(step, LibraryStep) else 1e-3 if "dense" in step.name else 0.0

        def watch(lib: fw.CompiledModule, inputs: Any) -> list[Observed]:
            return [evolve(o, seconds=seconds(o.step)) for o in observe(lib, inputs)]

        def whole(variants: Iterable[auto._Variant]) -> None:
            for variant in variants:
                variant.whole = sum(seconds(step) for step in variant.lib.program.leaf_steps())

        monkeypatch.setattr(auto, "observe", watch)
        monkeypatch.setattr(auto, "run_in_turns", whole)

    return told


def network() -> fw.Function:
    x, w = fw.var("x", shape=(3, 8)), fw.const(np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32))
    return fw.Function([x], fw.tanh(fw.nn.relu(fw.nn.dense(x, w))))


def check(lib: fw.CompiledModule) -> None:
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_allclose(lib(x=x), evaluate(network(), {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_a_faster_library_is_taken(offer: Callable[[Library], None], speeds: Speeds) -> None:
    offer(double())
    speeds(0.5)
    store = TuningStore()
    lib = fw.build(network(), TARGET, records=store)
    assert placed(lib) == ["double.dense_relu", "kernel"]
    check(lib)


def test_a_slower_library_is_not(offer: Callable[[Library], None], speeds: Speeds) -> None:
    offer(double())
    speeds(2.0)
    lib = fw.build(network(), TARGET, records=TuningStore())
    assert placed(lib) == ["kernel"]
    reasons = [c.refusal for c in lib.explain().choices[0].candidates if "double" in c.name]
    assert reasons == ["measured 2000.0 us, against 1000.0 us with generated"] * len(reasons) and reasons
    check(lib)


def test_generated_code_wins_inside_the_noise(offer: Callable[[Library], None], speeds: Speeds) -> None:
    offer(double())
    speeds(0.98)
    assert placed(fw.build(network(), TARGET, records=TuningStore())) == ["kernel"]


@pytest.mark.parametrize(
    ("library", "reason"),
    [(double(offset=1e-2), "wrong: off by"), (double(failing=True), "): no licence")],
    ids=["wrong", "failing"],
)
def test_a_wrong_library_never_wins(
    library: Library, reason: str, offer: Callable[[Library], None], speeds: Speeds, caplog: pytest.LogCaptureFixture
) -> None:
    offer(library)
    speeds(0.01)
    lib = fw.build(network(), TARGET, records=TuningStore())
    assert placed(lib) == ["kernel"] and reason in caplog.text
    assert any(reason in (c.refusal or "") for c in lib.explain().choices[0].candidates)
    check(lib)


def test_nothing_is_measured_twice(
    offer: Callable[[Library], None], speeds: Speeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(double())
    speeds(0.5)
    path = tmp_path / "records.jsonl"
    first = fw.build(network(), TARGET, records=path)
    before = path.read_bytes()
    monkeypatch.setattr(auto._Auto, "measure", None)
    assert placed(fw.build(network(), TARGET, records=path)) == placed(first) and path.read_bytes() == before
    with pytest.raises(TypeError):  # another number of threads has to be measured
        fw.build(network(), "cpu -libs=auto:double -num-cores=2", records=path)


def test_locked(offer: Callable[[Library], None], speeds: Speeds, tmp_path: Path) -> None:
    offer(double())
    speeds(0.5)
    path = tmp_path / "fusewire.lock"
    store = TuningStore()
    fw.build(network(), TARGET, records=store)
    fw.lock(network(), TARGET, records=store, path=path)
    speeds(5.0)  # would win if anything were measured
    assert placed(fw.build(network(), TARGET, records=path, locked=True)) == ["double.dense_relu", "kernel"]
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "double" not in line))
    with pytest.raises(fw.FusewireError, match=r"lacks: nn\.dense"):
        fw.build(network(), TARGET, records=path, locked=True)


def test_for_real(tmp_path: Path) -> None:
    """With all libraries that are there, and real times: whatever wins is right."""
    lib = fw.build(network(), "cpu -libs=auto -num-cores=1", records=tmp_path / "r.jsonl")
    check(lib)
    names = {name for name in ("onednn", "openblas") if auto._usable(name, "cpu")}
    seen = {c.name.split("_")[-1].split(".")[0] for choice in lib.explain().choices for c in choice.candidates}
    assert names <= seen


def test_a_library_that_is_not_there_is_left_out(offer: Callable[[Library], None]) -> None:
    offer(evolve(double(), probe=lambda: "not installed"))
    assert placed(fw.build(network(), TARGET, records=TuningStore())) == ["kernel"]


# Boundaries


def test_signatures_do_not_depend_on_layout() -> None:
    a = np.random.default_rng(0).normal(size=(2, 32, 5, 7)).astype(np.float32)
    blocked = a.reshape(2, 2, 16, 5, 7).transpose(0, 1, 3, 4, 2)
    assert alike(signature(a), signature(blocked)) and alike(signature(a), signature(a * (1 + 1e-5)))
    assert not alike(signature(a), signature(a + 0.1)) and not alike(signature(a), signature(a[:1]))
    assert alike(signature(np.zeros((0, 3))), signature(np.zeros((3, 0)))) and signature(np.full(4, np.nan)) == (4.0,)


def test_cells() -> None:
    """Generated code in one step, and a library with two more steps, between the same tensors."""
    plain = fw.build(network(), "cpu -num-cores=1")
    steps = [
        observe(lib, fill_inputs(lib.program))
        for lib in (plain, fw.build(network(), "cpu -libs=onednn -num-cores=1 -postops=0"))
    ]  # fmt: skip
    shared = common(steps)
    assert len(shared) == 1
    sizes = [{number: len(cell) for number, cell in cells_of(own, shared).items()} for own in steps]
    assert sizes[0] == {0: 1} and list(sizes[1]) == [0] and sizes[1][0] >= 2


@needs_onednn
def test_regions_in_other_layouts_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in blocked layouts, and regions of which the library may take the whole or the first operator."""
    rng = np.random.default_rng(0)
    x: fw.Expr = fw.var("x", shape=(1, 16, 8, 8))
    for k in range(2):
        x = fw.nn.conv2d(x, fw.const(rng.normal(size=(16, 16, 3, 3)).astype(np.float32)), padding=1)
        x = fw.nn.relu(x * fw.const(rng.normal(size=(16, 1, 1)).astype(np.float32)) + fw.const(np.float32(k)))
    function = fw.Function(fw.analysis.free_vars(x), x)
    layouts = [str(step.function) for step in fw.build(function, "cpu -libs=onednn").program.leaf_steps()]
    assert sum("Origin=" in text and "NCHW16c" in text for text in layouts) in (0, 2)  # two, with AVX-512
    path = tmp_path / "r.jsonl"
    first = fw.build(function, "cpu -libs=auto:onednn -num-cores=1", records=path)
    monkeypatch.setattr(auto._Auto, "measure", lambda *_: pytest.fail("measured again"))
    second = fw.build(function, "cpu -libs=auto:onednn -num-cores=1", records=path)
    assert placed(first) == placed(second)


def test_regions_that_no_variant_had_are_settled(
    offer: Callable[[Library], None], speeds: Speeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusing the longest of three chains lets a middle one be asked for, which no variant was built with."""
    library = double()
    dense = is_op("nn.dense")(wildcard(), wildcard())
    tanh = Rule("double.all", is_op("tanh")(is_op("nn.relu")(dense)), implement=library.rules[0].implement)
    offer(evolve(library, rules=[*library.rules, tanh]))
    speeds(2.0)
    path = tmp_path / "records.jsonl"
    assert placed(fw.build(network(), TARGET, records=path)) == ["kernel"]
    monkeypatch.setattr(auto._Auto, "measure", None)
    again = fw.build(network(), TARGET, records=path)
    names = {c.name for c in again.explain().choices[0].candidates if "double" in c.name and c.refusal}
    assert placed(again) == ["kernel"] and names == {"all_double.cpu", "dense_relu_double.cpu", "dense_double.cpu"}
