"""The command line: run; inputs from files, pictures and nowhere; outputs."""

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from fusewire.commands.run import top
from tests.cli_models import (
    Array,
    bad_usage,
    classifier,
    failed,
    fine,
    fusewire,
    pointwise,
    tensor,
    two_in_two_out,
    write,
)

Image = pytest.importorskip("PIL.Image")
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def same(shape: list[int], dtype: int = TensorProto.FLOAT) -> Path:
    """A model that gives back its input "x"."""
    return pointwise(Path("same.onnx"), "Identity", shape, dtype)


def single(values: Any) -> Array:
    return np.array(values, np.float32)


def output(*args: object) -> Array:
    """The only output of a run."""
    fine("run", *args, "-o", "out.npy")
    array: Array = np.load("out.npy")
    return array


# Files of arrays


def test_arrays_of_every_kind() -> None:
    a, b = (rng.normal(size=4).astype("float32") for _ in range(2))
    np.save("a.npy", a)
    np.save("b.npy", b)
    np.savez("both.npz", a=a, b=b)
    np.savez_compressed("one.npz", b=b)
    model = two_in_two_out(Path("both.onnx"))
    for inputs in (["both.npz"], ["a=a.npy", "b=b.npy"], ["one.npz", "a=a.npy"]):
        fine("run", model, *(word for given in inputs for word in ("--inputs", given)), "--outputs", "y.npz")
        with np.load("y.npz") as archive:
            np.testing.assert_array_equal(archive["output_0"], a + b)
            np.testing.assert_array_equal(archive["output_1"], a - b)
    assert "2 outputs: write an .npz" in failed("run", model, "-o", "y.npy")
    np.save("x.npy", a)
    np.testing.assert_array_equal(output(same([4]), "-i", "x.npy"), a)


def test_names_and_paths_with_odd_characters() -> None:
    name, file = "x=1:0/a é", "ün=ï 1.npy"
    model = write(Path("ö dd.onnx"), [fw_node(name)], [tensor(name, [2])], [tensor("y", [2])])
    np.save(file, single([1, 2]))
    for given in (f"{name}={file}", file):
        assert list(output(model, "--inputs", given)) == [1, 2]


def fw_node(name: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [name], ["y"])


def test_bfloat16_comes_and_goes_as_float32() -> None:
    model = same([3], TensorProto.BFLOAT16)
    values = single([1, -2.5, 1e30])
    np.save("wide.npy", values)
    np.save("raw.npy", values.astype(ml_dtypes.bfloat16))
    expected = values.astype(ml_dtypes.bfloat16).astype("float32")
    for file in ("wide.npy", "raw.npy"):
        got = output(model, "--inputs", file)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)


def broken_files() -> dict[str, bytes]:
    np.savez("x.npz", x=np.zeros(100, "float32"))
    np.save("x.npy", np.zeros(100, "float32"))
    np.savez("none.npz")
    np.save("object.npy", np.array([{}], dtype=object), allow_pickle=True)
    whole = Path("x.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    return {
        "empty.npy": b"", "empty.npz": b"", "text.npy": b"hello", "text.npz": b"hello", "cut.npz": whole[:200],
        "flipped.npz": bytes(flipped), "cut.npy": Path("x.npy").read_bytes()[:200],
        "none.npz": Path("none.npz").read_bytes(), "object.npy": Path("object.npy").read_bytes(),
        "text.png": b"hello", "empty.png": b"", "empty.jpg": b"", "noname": b"x",
        "huge.npy": b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,), }"
        .ljust(117) + b"\n",
    }  # fmt: skip


def test_files_that_cannot_be_read() -> None:
    model = same([100])
    for name, content in broken_files().items():
        Path(name).write_bytes(content)
        error = failed("run", model, "--inputs", name)
        assert name in error or "cannot be a picture" in error
        assert "pickle.load" not in error and "bug" not in error


def test_inputs_that_do_not_fit() -> None:
    model = same([2, 3])
    for array in (np.zeros((3, 2), "float32"), np.zeros((2, 3)), np.array(["a"]), np.zeros((2, 3), "int32")):
        np.save("x.npy", array)
        error = failed("run", model, "--inputs", "x.npy")
        assert "input 'x' is Tensor[(2, 3), float32]; the file has" in error


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["nosuch.npy"], "there is no file 'nosuch.npy'"),
        (["."], "there is no file"),
        ([""], "there is no file"),
        (["a="], "there is no file"),
        (["x.npy"], "Write NAME=x.npy; the inputs are a: Tensor[(4,), float32], b: Tensor[(4,), float32]"),
        (["c=x.npy"], "there is no input 'c'"),
        (["c.npz"], "there is no input 'c'"),
        (["a=c.npz"], "leave a= away"),
        (["a=x.npy", "a=x.npy"], "input 'a' is given twice"),
    ],
)
def test_bad_inputs(inputs: list[str], message: str) -> None:
    np.save("x.npy", np.zeros(4, "float32"))
    np.savez("c.npz", c=np.zeros(4, "float32"))
    model = two_in_two_out(Path("both.onnx"))
    assert message in bad_usage("run", model, *(word for given in inputs for word in ("--inputs", given)))


# Made-up inputs


def test_fill_modes() -> None:
    floats = same([50, 2])
    assert not output(floats, "--fill-mode", "zeros").any() and (output(floats, "--fill-mode", "ones") == 1).all()
    first = output(floats)
    assert -1 <= first.min() < 0 < first.max() < 1
    np.testing.assert_array_equal(output(floats, "--seed", 0), first)
    assert (output(floats, "--seed", 1) != first).any()
    bad_usage("run", floats, "--fill-mode", "twos")
    bad_usage("run", floats, "--seed", "-1")


@pytest.mark.parametrize(
    ("dtype", "highest"), [("INT64", 1), ("INT32", 1), ("INT8", 127), ("UINT8", 127), ("BOOL", 1), ("FLOAT16", 1)]
)
def test_random_values_of_every_type(dtype: str, highest: int) -> None:
    got = output(same([1000], getattr(TensorProto, dtype)), "--fill-mode", "random").astype("float64")
    assert abs(got.max() - highest) < 0.01 and (got.min() == 0 or dtype == "FLOAT16")


# Pictures


def picture(name: str, array: Array) -> str:
    Image.fromarray(array).save(name)
    return name


COLOURS = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)


def test_picture_of_the_right_size() -> None:
    picture("cat.png", COLOURS)
    planes = COLOURS.transpose(2, 0, 1).astype("float32")
    np.testing.assert_array_equal(output(same([1, 3, 8, 6]), "--inputs", "x=cat.png")[0], planes)
    np.testing.assert_array_equal(output(same([3, 8, 6]), "--inputs", "cat.png"), planes)
    np.testing.assert_array_equal(output(same([8, 6, 3], TensorProto.UINT8), "--inputs", "cat.png"), COLOURS)
    shift = ["--mean", "1,2,3", "--scale", "2"]
    got = output(same([1, 8, 6, 3]), "--inputs", "cat.png", *shift)
    np.testing.assert_allclose(got[0], (COLOURS - single([1, 2, 3])) / 2, rtol=1e-6)
    rounded = output(same([8, 6, 3], TensorProto.UINT8), "--inputs", "cat.png", "--scale", "0.5,2,3")
    np.testing.assert_array_equal(rounded, np.clip(np.rint(COLOURS / [0.5, 2, 3]), 0, 255).astype("uint8"))


def test_layout_may_be_ambiguous() -> None:
    grid = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    picture("grid.png", grid)
    model = same([3, 4, 3])
    channels_last = output(model, "--inputs", "grid.png", "--image-layout", "HWC")
    np.testing.assert_array_equal(channels_last, grid)
    assert output(model, "--inputs", "grid.png").shape == (3, 4, 3)  # read as CHW: a picture of 4 by 3
    assert "cannot be a picture in layout NCHW" in failed(
        "run", model, "--inputs", "grid.png", "--image-layout", "NCHW"
    )
    assert "in layout HWC that is no single picture" in failed(
        "run", same([3, 8, 6]), "--inputs", "grid.png", "--image-layout", "HWC"
    )
    bad_usage("run", model, "--image-layout", "HCW")


def test_resize_and_centre_crop() -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (200, 100, 50)  # only the middle has a colour
    picture("wide.png", wide)
    got = output(same([1, 3, 20, 20]), "--inputs", "wide.png")
    np.testing.assert_array_equal(got[0, :, 10, 10], [200, 100, 50])
    assert (got[0, 0, :, 2:18] == 200).all()
    borders = output(same([1, 3, 20, 20]), "--inputs", "wide.png", "--image-size", "20x60")
    np.testing.assert_array_equal(borders, got)  # the middle third of 20x60
    small = output(same([1, 3, 4, 4]), "--inputs", "wide.png", "--image-size", "20x60")
    assert (small[0, 0] == 200).all()
    assert "smaller than input 'x', 20x20" in failed(
        "run", same([1, 3, 20, 20]), "--inputs", "wide.png", "--image-size", "10x60"
    )


def test_modes_of_pictures() -> None:
    grey = rng.integers(0, 256, (8, 6), dtype=np.uint8)
    picture("grey.png", grey)
    picture("alpha.png", np.dstack([COLOURS, np.full((8, 6), 7, np.uint8)]))
    picture("deep.png", rng.integers(0, 65536, (8, 6), dtype=np.uint16))
    three = output(same([1, 3, 8, 6]), "--inputs", "grey.png")
    np.testing.assert_array_equal(three[0], np.stack([grey] * 3))
    np.testing.assert_array_equal(output(same([1, 1, 8, 6]), "--inputs", "grey.png")[0, 0], grey)
    np.testing.assert_array_equal(output(same([8, 6, 3]), "--inputs", "alpha.png"), COLOURS)
    assert "mode I;16" in failed("run", same([8, 6, 3]), "--inputs", "deep.png")
    turned = Image.fromarray(COLOURS)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save("turned.png", exif=exif)
    np.testing.assert_array_equal(output(same([8, 6, 3]), "--inputs", "turned.png"), COLOURS[::-1, ::-1])


def test_what_cannot_be_a_picture() -> None:
    picture("cat.png", COLOURS)
    for shape, message in (
        ([4], "cannot be a picture"),
        ([2, 3, 8, 6], "no single picture"),
        ([1, 2, 8, 6], "no single picture"),
        ([1, 3, 0, 6], "no single picture"),
    ):
        assert message in failed("run", same(shape), "--inputs", "cat.png")
    assert "dtype bool" in failed("run", same([3, 8, 6], TensorProto.BOOL), "--inputs", "cat.png")
    assert "one channel" in failed("run", same([1, 1, 8, 6]), "--inputs", "cat.png", "--mean", "1,2,3")


@pytest.mark.parametrize(
    "options",
    [
        ["--image-size", "20"], ["--image-size", "0x4"], ["--image-size", "99999x1"], ["--mean", "1,2"],
        ["--mean", "red"], ["--mean", "nan"], ["--scale", "0"], ["--scale", "inf"], ["--scale", ""],
    ],
)  # fmt: skip
def test_bad_options_of_pictures(options: list[str]) -> None:
    bad_usage("run", same([1, 3, 8, 6]), *options)


def test_pillow_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    picture("cat.png", COLOURS)
    model = same([3, 8, 6])
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert "pip install 'fusewire[images]'" in failed("run", model, "--inputs", "cat.png")


# Outputs


def test_summary() -> None:
    np.save("x.npy", single([[1, 2, 6]]))
    names, values = fine("run", same([1, 3]), "--inputs", "x.npy").splitlines()
    assert names.split() == ["output", "dtype", "shape", "min", "mean", "max"]
    assert values.split() == ["output_0", "float32", "(1,", "3)", "1", "3", "6"]
    assert fine("run", same([0, 3])).splitlines()[1].split()[-3:] == ["-", "-", "-"]


def test_print_top() -> None:
    np.save("x.npy", single([[1, np.nan, 6], [6, -2, np.inf]]))
    lines = fine("run", same([2, 3]), "--inputs", "x.npy", "--print-top", 4).splitlines()
    found = [re.split(r"  +", line) for line in lines[1:]]
    assert found == [["output_0", "[1, 2]", "inf"], ["output_0", "[0, 2]", "6.0"], ["output_0", "[1, 0]", "6.0"],
                     ["output_0", "[0, 0]", "1.0"]]  # fmt: skip
    assert len(fine("run", same([2, 3]), "--print-top", 100).splitlines()) == 7
    bad_usage("run", same([2, 3]), "--print-top", 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "uint64", "uint8", "bool"])
def test_top_against_sorting(dtype: str) -> None:
    array = rng.integers(0, 2 if dtype == "bool" else 9, (4, 5)).astype(np.dtype(dtype))
    if dtype == "int64":
        array[0, 0] = np.iinfo(np.int64).min
    places = [tuple(map(int, place)) for place in np.ndindex(4, 5)]
    expected = sorted(places, key=lambda place: (-int(array[place]), place))
    assert [place for place, _ in top(array, 20)] == expected
    assert top(np.array(3.0), 2) == [((), 3.0)] and top(np.zeros((0, 2)), 2) == []


def test_print_time_and_profile() -> None:
    model = classifier(Path("net.onnx"))
    names, values = fine("run", model, "--print-time").splitlines()
    assert names.split("  ")[0] == "mean (ms)" and values.split()[-2:] == ["1", "1"]
    for option in (["--repeat", 3], ["--print-time", "--repeat", 3]):
        assert fine("run", model, *option).splitlines()[1].split()[-2:] == ["3", "1"]
    assert fine("run", model, "--number", 2).splitlines()[1].split()[-2:] == ["1", "2"]
    profile = fine("run", model, "--profile")
    assert profile.splitlines()[0].split()[:2] == ["step", "by"]
    assert re.search(r"fusewire_default_fused_nn_conv2d_add_nn_relu +conv2d_nchw.cpu +[\d.]+ +[\d.]+%", profile)


def test_device() -> None:
    model = same([2])
    for device in ("cpu", "cpu:0", "llvm"):
        fine("run", model, "--device", device)
    assert "there is one cpu device" in failed("run", model, "--device", "cpu:1")
    assert "cannot run on cuda(0)" in failed("run", model, "--device", "cuda")
    bad_usage("run", model, "--device", "tpu")
    bad_usage("run", model, "--device", "cpu:x")


def test_bad_outputs() -> None:
    model = same([2])
    Path("sub").mkdir()
    assert "there is no folder" in bad_usage("run", model, "-o", "nodir/y.npz")
    assert "is a folder" in bad_usage("run", model, "-o", "sub")
    assert "cannot write /dev/full" in failed("run", model, "-o", "/dev/full")


def test_damaged_compiled_modules() -> None:
    fine("compile", same([2]), "-o", "good.fw")
    whole = Path("good.fw").read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-1]):
        Path("bad.fw").write_bytes(content)
        assert "bad.fw" in failed("run", "bad.fw")
        assert "bad.fw" in failed("explain", "bad.fw")
    Path("noname").write_bytes(whole)  # known by its content
    assert fusewire("run", "noname").status == 0
