"""Layouts, and the type rules of convolutions and matrix products; tiny runs against references and by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Call, Function, var
from fusewire.ir.index import Dim, IndexVar, as_index, size_var
from fusewire.ir.infer import infer_type
from fusewire.ir.op import Attrs
from fusewire.ir.types import TensorType
from fusewire.ops import conv, conv_transpose, dense
from fusewire.ops.layout import Layout
from fusewire.ops.spec import Case, spec_of
from tests.check import check_lowering
from tests.interpret import interpret_call

N, H, W = size_var("n"), size_var("h"), size_var("w")
Builder = Callable[..., Any]
Shape = tuple[Dim, ...]


def result_type(op: Builder, shapes: list[Shape], dtypes: tuple[str, ...] = (), **attributes: Any) -> TensorType:
    """The type of a call on variables of these shapes (float32 unless `dtypes` says otherwise)."""
    kinds = dtypes or ("float32",) * len(shapes)
    args = [var(f"x{k}", TensorType(s, d)) for k, (s, d) in enumerate(zip(shapes, kinds, strict=True))]
    found = op(*args, **attributes).checked_type
    assert isinstance(found, TensorType)
    return found


def completed(op: Builder, shape: Shape, dtype: str = "float32", **attributes: Any) -> TensorType:
    """The type that inference gives to an untyped second argument."""
    data, weight = var("data", TensorType(shape, dtype)), var("weight")
    function = infer_type(Function([data, weight], op(data, weight, **attributes)))
    assert isinstance(function, Function)
    found = function.params[1].checked_type
    assert isinstance(found, TensorType)
    return found


def run(op: Builder, *arrays: np.ndarray[Any, Any], **attributes: Any) -> np.ndarray[Any, Any]:
    """The result of an operator by interpreting its lowering."""
    types = [TensorType(a.shape, a.dtype.name) for a in arrays]
    call = op(*(var(f"x{k}", t) for k, t in enumerate(types)), **attributes)
    assert isinstance(call, Call)
    (result,) = interpret_call(spec_of(call), call.attrs, arrays, types)
    return result


@pytest.mark.parametrize(
    ("text", "logical", "packed"),
    [
        ("NCHW", {"N": 2, "C": 6, "H": 4, "W": 5}, (2, 6, 4, 5)),
        ("NHWC", {"N": 2, "C": 6, "H": 4, "W": 5}, (2, 4, 5, 6)),
        ("NCHW2c", {"N": 2, "C": 6, "H": 4, "W": 5}, (2, 3, 4, 5, 2)),
        ("OIHW2i3o", {"O": 6, "I": 4, "H": 1, "W": 2}, (2, 2, 1, 2, 2, 3)),
        ("OIW2i3o2i", {"O": 6, "I": 8, "W": 2}, (2, 2, 2, 2, 3, 2)),
        ("N2nCW", {"N": 4, "C": 3, "W": 5}, (2, 2, 3, 5)),
    ],
)
def test_layout_maps_every_element_both_ways(text: str, logical: dict[str, int], packed: Shape) -> None:
    layout = Layout.parse(text)
    assert layout.pack_shape(logical) == packed
    assert layout.unpack_shape(packed) == logical
    assert layout.ndim == len(packed) and set(layout.axes) == set(logical)
    axes = "".join(logical)
    plain = np.arange(np.prod(list(logical.values()))).reshape(list(logical.values()))
    array = layout.from_plain(plain, axes)
    assert array.shape == packed
    np.testing.assert_array_equal(layout.to_plain(array, axes), plain)
    for place in np.ndindex(array.shape):
        at = layout.unpack(place)
        assert layout.pack(at) == tuple(map(as_index, place))
        assert array[place] == plain[tuple(at[axis].const for axis in axes)]


def test_layout_with_symbols() -> None:
    layout = Layout.parse("NCHW16c")
    assert layout.unpack_shape((N, 4, H, W, 16)) == {"N": N, "C": 64, "H": H, "W": W}
    outer, inner = as_index(IndexVar("co", 0, 3)), as_index(IndexVar("ci", 0, 15))
    index = (as_index(0), outer, as_index(1), as_index(2), inner)
    assert layout.pack(layout.unpack(index)) == index  # 16 * co + ci comes apart again
    assert "C" in layout and "O" not in layout and layout.block("C") == 16 and layout.index_of("W") == 3


def test_layout_rounds_up_a_last_block() -> None:
    assert Layout.parse("NC4c").pack_shape({"N": 1, "C": 6}) == (1, 2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "malformed"),
        ("nchw", "malformed"),
        ("NCHWc", "malformed"),
        ("NCHW0c", "malformed"),
        ("N CHW", "malformed"),
        ("NCHWC", "axis C occurs twice"),
        ("NCHW16o", "block o belongs to no axis O"),
        (4, "a layout is a string"),
    ],
)
def test_malformed_layouts(text: Any, message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        Layout.parse(text)


def test_layout_errors_on_shapes() -> None:
    layout = Layout.parse("NCHW16c")
    with pytest.raises(TypeInferenceError, match="data has 4 dimensions"):
        layout.unpack_shape((1, 2, 3, 4), "data")
    with pytest.raises(TypeInferenceError, match="dimension 4 of layout NCHW16c must be 16"):
        layout.unpack_shape((1, 2, 3, 4, 8))
    with pytest.raises(TypeInferenceError, match="no axis 'D'"):
        layout.index_of("D")


CONV_TYPES: list[tuple[Builder, list[Shape], dict[str, Any], Shape]] = [
    (conv.conv1d, [(2, 3, 9), (5, 3, 3)], {}, (2, 5, 7)),
    (conv.conv1d, [(2, 9, 3), (3, 3, 5)], {"data_layout": "NWC", "kernel_layout": "WIO", "padding": (2, 0)}, (2, 9, 5)),
    (conv.conv2d, [(1, 3, 224, 224), (16, 3, 3, 3)], {"padding": 1}, (1, 16, 224, 224)),
    (conv.conv2d, [(1, 3, 9, 10), (4, 3, 3, 2)], {"strides": (2, 3), "padding": (1, 0, 2, 1)}, (1, 4, 5, 4)),
    (conv.conv2d, [(1, 3, 9, 10), (4, 3, 3, 2)], {"dilation": (3, 2)}, (1, 4, 3, 8)),
    (conv.conv2d, [(N, 3, H, W), (4, 3, 3, 3)], {"padding": (1, 1)}, (N, 4, H, W)),
    (conv.conv2d, [(N, 3, H, 8), (4, 3, 1, 1)], {"strides": 2}, (N, 4, (H - 1) // 2 + 1, 4)),
    (conv.conv2d, [(1, 6, 5, 5), (9, 2, 3, 3)], {"groups": 3}, (1, 9, 3, 3)),
    (conv.conv2d, [(1, 6, 5, 5), (12, 1, 3, 3)], {"groups": 6}, (1, 12, 3, 3)),
    (conv.conv2d, [(1, 6, 5, 5), (6, 2, 3, 3)], {"groups": 6, "channels": 12}, (1, 12, 3, 3)),
    (
        conv.conv2d,
        [(1, 5, 5, 6), (3, 3, 6, 2)],
        {"groups": 6, "data_layout": "NHWC", "kernel_layout": "HWOI"},
        (1, 3, 3, 12),
    ),
    (
        conv.conv2d,
        [(1, 2, 8, 8, 16), (1, 2, 3, 3, 16, 8)],
        {"data_layout": "NCHW16c", "kernel_layout": "OIHW16i8o", "out_layout": "NCHW8c"},
        (1, 1, 6, 6, 8),
    ),
    (conv.conv2d, [(0, 3, 8, 8), (4, 3, 3, 3)], {}, (0, 4, 6, 6)),
    (conv.conv2d, [(1, 3, 8, 8), (8, 3, 3, 3)], {"out_layout": "NHWC"}, (1, 6, 6, 8)),
    (conv.conv3d, [(1, 2, 5, 6, 7), (4, 2, 1, 2, 3)], {"padding": (1, 0, 1, 1, 0, 2)}, (1, 4, 7, 5, 8)),
    (conv_transpose.conv1d_transpose, [(1, 3, 5), (3, 4, 3)], {"strides": 2, "padding": 1}, (1, 4, 9)),
    (
        conv_transpose.conv2d_transpose,
        [(N, 6, H, 5), (6, 2, 3, 4)],
        {"strides": (2, 2), "groups": 3, "padding": (1, 1), "output_padding": (1, 0)},
        (N, 6, 2 * H, 10),
    ),
    (conv_transpose.conv2d_transpose, [(1, 3, 4, 4), (5, 3, 2, 2)], {"kernel_layout": "OIHW"}, (1, 5, 5, 5)),
    (conv_transpose.conv3d_transpose, [(1, 2, 2, 2, 2), (2, 3, 3, 3, 3)], {"dilation": 2}, (1, 3, 6, 6, 6)),
]


@pytest.mark.parametrize(("op", "shapes", "attributes", "expected"), CONV_TYPES)
def test_convolution_types(op: Builder, shapes: list[Shape], attributes: dict[str, Any], expected: Shape) -> None:
    assert result_type(op, shapes, **attributes) == TensorType(expected, "float32")


def test_out_dtype_and_mixed_dtypes() -> None:
    shapes: list[Shape] = [(1, 3, 8, 8), (4, 3, 3, 3)]
    for dtypes, out_dtype, expected in [
        (("uint8", "int8"), "int32", "int32"),
        (("int8", "int8"), "", "int8"),
        (("float16", "float16"), "float32", "float32"),
    ]:
        assert result_type(conv.conv2d, shapes, dtypes, out_dtype=out_dtype).dtype == expected
    assert result_type(dense.dense, [(2, 3), (4, 3)], ("uint8", "int8"), out_dtype="int32").dtype == "int32"


@pytest.mark.parametrize(
    ("op", "data", "attributes", "expected"),
    [
        (conv.conv1d, (1, 4, 9), {"channels": 6, "kernel_size": 3, "groups": 2}, (6, 2, 3)),
        (conv.conv2d, (N, 3, H, W), {"channels": 16, "kernel_size": (3, 5)}, (16, 3, 3, 5)),
        (
            conv.conv2d,
            (1, 8, 8, 4),
            {"channels": 6, "kernel_size": 3, "data_layout": "NHWC", "kernel_layout": "HWIO"},
            (3, 3, 4, 6),
        ),
        (
            conv.conv2d,
            (1, 2, 8, 8, 4),
            {"channels": 16, "kernel_size": 3, "data_layout": "NCHW4c", "kernel_layout": "OIHW4i16o"},
            (1, 2, 3, 3, 4, 16),
        ),
        (conv.conv3d, (1, 6, 8, 8, 8), {"channels": 6, "kernel_size": (1, 2, 3), "groups": 6}, (6, 1, 1, 2, 3)),
        (conv_transpose.conv1d_transpose, (1, 4, 9), {"channels": 6, "kernel_size": 3, "groups": 2}, (4, 3, 3)),
        (conv_transpose.conv2d_transpose, (N, 10, 9, 9), {"channels": 15, "kernel_size": (3, 3)}, (10, 15, 3, 3)),
        (conv_transpose.conv3d_transpose, (1, 2, 4, 4, 4), {"channels": 3, "kernel_size": 2}, (2, 3, 2, 2, 2)),
        (dense.dense, (N, 7, 12), {"units": 5}, (5, 12)),
        (dense.matmul, (N, 12), {"units": 5}, (12, 5)),
        (dense.matmul, (3, 12, 4), {"units": 5, "transpose_a": True, "transpose_b": True}, (5, 12)),
        (dense.bias_add, (1, 6, H, W), {}, (6,)),
        (dense.bias_add, (1, H, W, 6), {"axis": -1}, (6,)),
    ],
)  # fmt: skip
def test_types_flow_to_the_weight(op: Builder, data: Shape, attributes: dict[str, Any], expected: Shape) -> None:
    assert completed(op, data, "float16", **attributes) == TensorType(expected, "float16")


def test_a_weight_that_nothing_decides_is_an_error() -> None:
    data, weight = var("data", shape=(1, 3, 8, 8)), var("weight")
    with pytest.raises(TypeInferenceError, match="%weight"):
        infer_type(Function([data, weight], conv.conv2d(data, weight, kernel_size=(3, 3))))


CONV_ERRORS: list[tuple[Builder, list[Shape], dict[str, Any], str]] = [
    (conv.conv2d, [(1, 3, 8), (4, 3, 3, 3)], {}, "data has 3 dimensions"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3)], {}, "weight has 3 dimensions"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 2, 3, 3)], {}, "must be 3 for 3 input channels and groups=1"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"channels": 5}, "channels is 5, but the weight gives 4"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"kernel_size": (3, 5)}, r"kernel_size is \(3, 5\)"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"groups": 2}, "input channels must be a multiple of 2, got 3"),
    (conv.conv2d, [(1, 4, 8, 8), (3, 2, 3, 3)], {"groups": 2}, "output channels must be a multiple of 2, got 3"),
    (conv.conv2d, [(1, 4, 8, 8), (4, 4, 3, 3)], {"groups": 0}, "groups must be one number of at least 1"),
    (conv.conv2d, [(1, 3, 8, 2), (4, 3, 3, 3)], {}, "reaches over 3 elements of axis W, which has only 2"),
    (conv.conv2d, [(1, 3, 8, 5), (4, 3, 3, 3)], {"dilation": 3, "padding": (1, 0)}, "over 7 elements of axis W"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"strides": 0}, "strides must be"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"strides": (1, 1, 1)}, "strides must have 2 entries"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"padding": (1, 1, 1)}, "padding must have 1 or 2 or 4 entries"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"padding": (-1, 1)}, "padding must not be negative"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"data_layout": "NCDW"}, "must have the axes NCHW"),
    (conv.conv2d, [(1, 3, 4, 8, 2), (4, 3, 3, 3)], {"data_layout": "NCHW2h"}, "splits the spatial axis H"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"out_layout": "NCHW8c"}, "multiple of 8 for axis C, got 4"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, H, 3)], {}, "must have known sizes"),
    (conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], {"out_dtype": "int7"}, "unknown dtype 'int7'"),
    (conv_transpose.conv2d_transpose, [(1, 3, 8, 8), (4, 3, 3, 3)], {}, "must be 3, the number of input channels"),
    (conv_transpose.conv2d_transpose, [(1, 3, 8, 8), (3, 4, 3, 3)], {"channels": 5}, "channels is 5"),
    (conv_transpose.conv2d_transpose, [(1, 3, 8, 8), (3, 4, 3, 3)], {"output_padding": 1}, "smaller than stride"),
    (conv_transpose.conv2d_transpose, [(1, 3, 2, 2), (3, 4, 1, 1)], {"padding": 2}, "axis H of the result would"),
    (dense.dense, [(2, 3), (4, 5)], {}, "sums run over 3 elements of data"),
    (dense.dense, [(2, 3), (4, 3)], {"units": 5}, "units is 5, but weight"),
    (dense.dense, [(2, 3), (4, 3, 1)], {}, "weight must have 2 dimensions"),
    (dense.dense, [(), (4, 3)], {}, "data must have at least 1 dimensions"),
    (dense.matmul, [(3,), (3, 4)], {"transpose_a": True}, "tensor_a must have at least 2 dimensions"),
    (dense.matmul, [(2, 3), (4, 3)], {}, "sums run over 3 elements of tensor_a"),
    (dense.batch_matmul, [(2, 3, 4), (3, 5, 4)], {}, "batches must be equal or 1"),
    (dense.batch_matmul, [(2, 3, 4), (2, 4, 5)], {}, "sums run over 4 elements"),
    (dense.batch_matmul, [(3, 4), (2, 5, 4)], {}, "tensor_a must have 3 dimensions"),
    (dense.bias_add, [(2, 3), (2,)], {}, "bias for axis 1"),
    (dense.bias_add, [(2, 3), (3,)], {"axis": 2}, "axis 2 is out of range"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "shapes", "attributes", "message"), CONV_ERRORS)
def test_errors_say_what_is_wrong(op: Builder, shapes: list[Shape], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        result_type(op, shapes, **attributes)


def test_bool_and_tuples_are_refused() -> None:
    with pytest.raises(TypeInferenceError, match="data must hold numbers"):
        result_type(conv.conv2d, [(1, 3, 8, 8), (4, 3, 3, 3)], ("bool", "bool"))
    with pytest.raises(TypeInferenceError, match="bias for axis 1"):
        result_type(dense.bias_add, [(2, 3), (3,)], ("float32", "float16"))


def test_attributes_are_stored_in_canonical_form() -> None:
    data, weight = var("data", shape=(1, 3, 8, 8)), var("weight", shape=(4, 3, 3, 3))
    short = conv.conv2d(data, weight, 2, 1, kernel_size=3, channels=4)
    full = conv.conv2d(data, weight, strides=[2, 2], padding=[1, 1, 1, 1], kernel_size=[3, 3], channels=4)
    assert isinstance(short, Call) and isinstance(full, Call)
    assert short.attrs == full.attrs
    assert short.attrs.padding == (1, 1, 1, 1) and short.attrs.strides == (2, 2)
    again = spec_of("nn.conv2d").build(data, weight, **full.attrs)
    assert again.attrs == full.attrs
    line = conv.conv1d(var("d", shape=(1, 3, 8)), var("w", shape=(4, 3, 3)), padding=(1, 2))
    assert isinstance(line, Call)
    assert line.attrs.padding == (1, 2) and line.attrs.strides == (1,) and line.attrs.kernel_size is None


def test_matmul_with_only_b_transposed_is_dense() -> None:
    call = dense.matmul(var("a", shape=(2, 3)), var("b", shape=(4, 3)), transpose_b=True)
    assert isinstance(call, Call) and call.op is spec_of("nn.dense")


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "expected"),
    [
        (dense.dense, [(N, 7, 12), (5, 12)], {}, (N, 7, 5)),
        (dense.dense, [(12,), (5, 12)], {}, (5,)),
        (dense.matmul, [(N, 12, 7), (12, 5)], {"transpose_a": True}, (N, 7, 5)),
        (dense.batch_matmul, [(N, 2, 3), (1, 4, 3)], {}, (N, 2, 4)),
        (dense.batch_matmul, [(1, 3, 2), (N, 3, 4)], {"transpose_a": True, "transpose_b": False}, (N, 2, 4)),
        (dense.bias_add, [(N, 2, 3), (3,)], {"axis": -1}, (N, 2, 3)),
    ],
)
def test_product_types(op: Builder, shapes: list[Shape], attributes: dict[str, Any], expected: Shape) -> None:
    assert result_type(op, shapes, **attributes) == TensorType(expected, "float32")


def test_conv_by_hand() -> None:
    data = np.array([[[1.0, 2.0, 3.0, 4.0]]], np.float32)
    weight = np.array([[[10.0, 1.0]]], np.float32)
    np.testing.assert_array_equal(run(conv.conv1d, data, weight), [[[12, 23, 34]]])
    np.testing.assert_array_equal(run(conv.conv1d, data, weight, padding=(1, 0), strides=2), [[[1, 23]]])
    np.testing.assert_array_equal(run(conv.conv1d, data, weight, dilation=2), [[[13, 24]]])
    np.testing.assert_array_equal(
        run(conv_transpose.conv1d_transpose, data, weight, strides=(2,), output_padding=(1,)),
        [[[10, 1, 20, 2, 30, 3, 40, 4, 0]]],
    )


def test_depthwise_multiplier_by_hand() -> None:
    data = np.array([[[[2]], [[3]]]], np.int32)  # two channels of one element
    weight = np.array([[[[10]], [[100]]], [[[1000]], [[10000]]]], np.int32)  # (input channels, multiplier, 1, 1)
    result = run(conv.conv2d, data, weight, groups=2, channels=4)
    np.testing.assert_array_equal(result.reshape(-1), [20, 200, 3000, 30000])


def test_integer_products_do_not_overflow_in_int32() -> None:
    data, weight = np.full((1, 8, 1, 1), 255, np.uint8), np.full((1, 8, 1, 1), -128, np.int8)
    assert run(conv.conv2d, data, weight, out_dtype="int32").item() == 8 * 255 * -128
    assert run(dense.dense, data.reshape(1, 8), weight.reshape(1, 8), out_dtype="int32").item() == 8 * 255 * -128


def test_transposed_convolution_is_the_adjoint() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.random((1, 4, 7, 6)), rng.random((6, 2, 3, 2))
    given: dict[str, Any] = {"strides": (2, 2), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 2}
    y = rng.random(result_type(conv.conv2d, [x.shape, w.shape], **given).static_shape)
    forth = spec_of("nn.conv2d").reference(_attrs(conv.conv2d, x, w, given), x, w)
    given["output_padding"] = (1, 0)
    back = spec_of("nn.conv2d_transpose").reference(_attrs(conv_transpose.conv2d_transpose, y, w, given), y, w)
    assert np.shape(back) == x.shape
    np.testing.assert_allclose(np.vdot(np.asarray(forth), y), np.vdot(x, np.asarray(back)))


def _attrs(op: Builder, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any], given: dict[str, Any]) -> Attrs:
    call = op(var("x", shape=x.shape, dtype="float64"), var("w", shape=w.shape, dtype="float64"), **given)
    assert isinstance(call, Call)
    return call.attrs


OPERATORS = ["nn.conv1d", "nn.conv2d", "nn.conv3d", "nn.conv1d_transpose", "nn.conv2d_transpose", "nn.conv3d_transpose"]
OPERATORS += ["nn.dense", "nn.matmul", "nn.batch_matmul", "nn.bias_add"]


@pytest.mark.parametrize("name", OPERATORS)
def test_lowerings_agree_with_references(name: str) -> None:
    spec = spec_of(name)
    assert spec.cases is not None
    seeds = [seed for seed in range(200) if _work(spec.cases(np.random.default_rng(seed))) < 1500][:20]
    assert len(seeds) == 20
    for k, seed in enumerate(seeds):
        check_lowering(spec, spec.dtypes[k % len(spec.dtypes)], np.random.default_rng(seed))


def _work(case: Case) -> float:
    """About how long the interpreter takes: the product of the operands' sizes."""
    return float(np.prod([np.prod(shape) for shape in case.shapes]))
