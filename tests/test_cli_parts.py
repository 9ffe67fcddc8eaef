"""Parts of the command line by themselves: differences of results, words of --targets, files written whole."""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.commands.base import shown
from fusewire.commands.bench import statistics
from fusewire.commands.compare import spread
from fusewire.commands.differences import difference, rounding_of
from fusewire.commands.files import why_not_writable, written
from fusewire.commands.params import ShapesType
from fusewire.report.data import finite


def floats(*values: float, dtype: Any = np.float32) -> Any:
    return np.array(values).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_neighbours_are_one_ulp_apart(dtype: Any) -> None:
    for value in (0.0, 1.0, -1.0, 300.0, -1e-3):
        a = floats(value, dtype=dtype)
        up = np.nextafter(a, floats(np.inf, dtype=dtype))
        two = np.nextafter(up, floats(np.inf, dtype=dtype))
        assert difference(up, a, 1, 1).max_ulp == 1 and difference(a, two, 1, 1).max_ulp == 2
    across = np.nextafter(floats(0, dtype=dtype), floats(1, dtype=dtype))
    assert difference(across, -across, 1, 1).max_ulp == 2
    assert difference(floats(0.0, dtype=dtype), floats(-0.0, dtype=dtype), 0, 0).max_ulp == 0


def test_special_values() -> None:
    nan, inf = float("nan"), float("inf")
    equal = difference(floats(nan, inf, -inf, 0, 1), floats(nan, inf, -inf, -0.0, 1), 0, 0)
    assert (equal.max_abs, equal.max_rel, equal.max_ulp, equal.beyond, equal.size) == (0, 0, 0, 0, 5) and equal.within
    for got, reference in ((nan, 1), (1, nan), (inf, 1), (1, inf), (inf, -inf), (nan, inf)):
        found = difference(floats(got, 1), floats(reference, 1), 1e9, 1e9)
        assert found.beyond == 1 and found.max_abs == inf and not found.within
    assert difference(floats(nan), floats(1), 1, 1).max_ulp == inf
    assert math.isfinite(difference(floats(1e38), floats(-1e38), 1, 1).max_ulp or inf)


def test_absolute_and_relative() -> None:
    found = difference(floats(1.5, 10.0), floats(1.0, 8.0), 0.3, 0)
    assert (found.max_abs, found.max_rel, found.beyond) == (2.0, 0.5, 1)
    assert difference(floats(1.5, 10.0), floats(1.0, 8.0), 0.3, 0.2).within
    assert difference(floats(1.0), floats(0.0), 0, 0).max_rel == float("inf")


def test_rounded_factors_are_allowed_for_as_a_part_of_the_largest_element() -> None:
    got, reference = floats(1.0, 101.0, -1.0), floats(0.0, 100.0, 0.0)
    assert difference(got, reference, 1e-3, 1e-5).beyond == 3
    allowed = {p: rounding_of([fw.Target("cpu"), fw.Target(f"cpu -precision={p}")]) for p in ("fp32", "fp16", "bf16")}
    found = {p: difference(got, reference, 1e-3, 1e-5, rounding) for p, rounding in allowed.items()}
    assert [found[p].beyond for p in allowed] == [3, 3, 0]
    assert found["bf16"].of_largest == pytest.approx(0.01)
    assert difference(floats(0.0), floats(0.0), 0, 0).of_largest == 0
    assert difference(floats(1.0), floats(0.0), 0, 0).of_largest == math.inf
    assert difference(np.array([3]), np.array([100]), 0, 0, 0.5).beyond == 1  # no whole number is rounded


def test_whole_numbers_and_empty_outputs() -> None:
    big = 2**62
    found = difference(np.array([big + 1]), np.array([big]), 0, 0)
    assert (found.max_abs, found.max_ulp, found.beyond, found.argmax_agreement) == (1, None, 1, None)
    flags = difference(np.array([True, False]), np.array([True, True]), 0, 0)
    assert (flags.max_abs, flags.beyond) == (1, 1)
    empty = difference(np.zeros((0, 3), "float32"), np.zeros((0, 3), "float32"), 0, 0)
    assert (empty.max_abs, empty.max_ulp, empty.beyond, empty.argmax_agreement) == (0, 0, 0, None)
    assert difference(np.float32(2), np.float32(1), 0, 0).beyond == 1  # type: ignore[arg-type]


def test_argmax() -> None:
    a, b = floats(1, 2, 3, 4).reshape(2, 2), floats(2, 1, 3, 4).reshape(2, 2)
    assert difference(a, b, 0, 0).argmax_agreement == 0.5
    assert difference(a.reshape(-1), b.reshape(-1), 0, 0).argmax_agreement == 1
    assert difference(a.reshape(1, 2, 2), b.reshape(1, 2, 2), 0, 0).argmax_agreement is None
    assert difference(a[:, :1], b[:, :1], 0, 0).argmax_agreement is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(*[st.floats(width=32)] * 2), min_size=1, max_size=20))
def test_differences_of_anything(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(side, np.float32) for side in zip(*pairs, strict=True))
    found = difference(a, b, 1e-3, 1e-5)
    close = np.isclose(a.astype("float64"), b.astype("float64"), rtol=1e-3, atol=1e-5, equal_nan=True)
    assert found.beyond == int((~close).sum())
    assert (found.max_abs == 0) == np.array_equal(a, b, equal_nan=True) == (found.max_ulp == 0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("m.onnx --targets|cpu|cpu -libs=x", "m.onnx|--targets|cpu|--targets|cpu -libs=x"),
        ("--targets|cpu|llvm|m.onnx|--json", "--targets|cpu|--targets|llvm|m.onnx|--json"),
        ("-t|cpu|c|-t|opencl", "-t|cpu|-t|c|-t|opencl"),
        ("--targets=cpu|llvm|m", "--targets=cpu|--targets|llvm|--targets|m"),
        ("--targets|cpu|--repeat|3|m.onnx", "--targets|cpu|--repeat|3|m.onnx"),
        ("--targets|cpu|--|llvm", "--targets|cpu|--|llvm"),
        ("--targets|m.onnx|cpu", "--targets|m.onnx|--targets|cpu"),
        ("--targets", "--targets"),
    ],
)
def test_words_of_targets(words: str, expected: str) -> None:
    given = [part for word in words.split("|") for part in (word.split(" ") if word.startswith("m.onnx ") else [word])]
    assert spread(given) == expected.split("|")


def test_a_model_without_a_suffix_ends_the_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").touch()
    Path("cpu").touch()
    assert spread(["-t", "cpu", "cpu", "model"]) == ["-t", "cpu", "-t", "cpu", "model"]


def test_shapes() -> None:
    def read(text: str) -> Any:
        return ShapesType().convert(text, None, None)

    assert read("data:[1,3,224,224] ids:[1,8]") == {"data": (1, 3, 224, 224), "ids": (1, 8)}
    assert read(" a:0:[2 , 3],b/c : [ 4 ]  d:[]") == {"a:0": (2, 3), "b/c": (4,), "d": ()}
    assert read("") == {}


def test_shown_targets_are_targets() -> None:
    for text in (
        "cpu",
        "cpu -libs=onednn -num-cores=2",
        "cpu -keys=arm,cpu",
        "cuda -arch=sm_90",
        "cpu -device='a b'",
    ):
        assert fw.Target(shown(fw.Target(text))) == fw.Target(text)
    assert shown(fw.Target("llvm -libs=onednn")) == "cpu -libs=onednn"


def test_numbers_that_json_has_not() -> None:
    assert finite({"a": [float("inf"), 1.0], "b": (float("nan"), "x")}) == {"a": ["inf", 1.0], "b": ["nan", "x"]}


def test_statistics() -> None:
    times = tuple(k / 1000 for k in range(1, 12))
    found = statistics(times)
    assert found == pytest.approx({"median_ms": 6, "min_ms": 1, "p90_ms": 10, "mean_ms": 6})


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with written(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".bin"
        temporary.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(ZeroDivisionError), written(path) as temporary:
        temporary.write_bytes(b"two")
        raise ZeroDivisionError
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(fw.FusewireError, match="cannot write"), written(tmp_path / "nodir" / "x") as temporary:
        temporary.write_bytes(b"")


def test_why_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_writable(tmp_path / "x") is None and why_not_writable(Path("/dev/null")) is None
    assert "is a folder" in str(why_not_writable(tmp_path))
    assert "there is no folder" in str(why_not_writable(tmp_path / "no" / "x"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot be written to" in str(why_not_writable(tmp_path / "x"))
