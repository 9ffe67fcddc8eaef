"""The type rules of pools and padding; tiny runs against references and by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Call, Function, const, var
from fusewire.ir.index import Dim, size_var
from fusewire.ir.infer import infer_type
from fusewire.ir.types import TensorType
from fusewire.ops import pad, pool
from fusewire.ops.spec import all_specs, spec_of
from tests.check import check_lowering
from tests.interpret import interpret_call

N, H, W = size_var("n"), size_var("h"), size_var("w")
Builder = Callable[..., Any]
Shape = tuple[Dim, ...]
NAMES = [s.name for s in all_specs() if "pool" in s.name or s.name in ("nn.pad", "nn.mirror_pad")]


def result_shape(op: Builder, shape: Shape, **attributes: Any) -> Shape:
    """The shape of a call on a float32 variable."""
    found = op(var("data", shape=shape), **attributes).checked_type
    assert isinstance(found, TensorType) and found.dtype == "float32"
    return found.shape


def run(op: Builder, data: Any, dtype: str = "float32", **attributes: Any) -> np.ndarray[Any, Any]:
    """The result of an operator on one array, by interpreting its lowering."""
    array = np.asarray(data, dtype)
    call = op(var("data", shape=array.shape, dtype=dtype), **attributes)
    assert isinstance(call, Call)
    constants = [arg.data for arg in call.args[1:]]  # type: ignore[attr-defined]
    types = [arg.checked_type for arg in call.args]
    (result,) = interpret_call(spec_of(call), call.attrs, [array, *constants], types)
    return result


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "expected"),
    [
        (pool.max_pool1d, (1, 3, 9), {"pool_size": 2, "strides": 2}, (1, 3, 4)),
        (pool.max_pool1d, (1, 3, 9), {"pool_size": 2, "strides": 2, "ceil_mode": True}, (1, 3, 5)),
        (pool.max_pool2d, (1, 3, 224, 224), {"pool_size": 3, "strides": 2, "padding": 1}, (1, 3, 112, 112)),
        (pool.max_pool2d, (N, 3, H, W), {"pool_size": (3, 3), "padding": (1, 1)}, (N, 3, H, W)),
        (pool.max_pool2d, (1, 3, H, 8), {"pool_size": 2, "strides": 2}, (1, 3, (H - 2) // 2 + 1, 4)),
        (pool.max_pool2d, (1, 3, H, 8), {"pool_size": 2, "strides": 2, "ceil_mode": True}, (1, 3, (H - 1) // 2 + 1, 4)),
        (pool.avg_pool2d, (1, 9, 8, 3), {"pool_size": (2, 3), "dilation": (3, 2), "layout": "NHWC"}, (1, 6, 4, 3)),
        (pool.avg_pool2d, (1, 2, 9, 8, 16), {"pool_size": 2, "layout": "NCHW16c"}, (1, 2, 8, 7, 16)),
        (pool.avg_pool2d, (1, 2, 9, 8, 16), {"layout": "NCHW16c", "out_layout": "NHWC"}, (1, 9, 8, 32)),
        (pool.avg_pool2d, (1, 3, 5, 5), {"pool_size": 2, "padding": (1, 0, 2, 3)}, (1, 3, 7, 7)),
        (pool.avg_pool3d, (0, 3, 5, 6, 7), {"pool_size": (1, 2, 3), "strides": (2, 2, 2)}, (0, 3, 3, 3, 3)),
        (pool.global_avg_pool2d, (N, 3, H, W), {}, (N, 3, 1, 1)),
        (pool.global_max_pool2d, (1, 5, 6, 3), {"layout": "NHWC"}, (1, 1, 1, 3)),
        (pool.global_max_pool1d, (1, 5, 6), {}, (1, 5, 1)),
        (pool.global_avg_pool3d, (1, 2, 5, 6, 7), {}, (1, 2, 1, 1, 1)),
        (pool.adaptive_avg_pool2d, (1, 3, 7, 9), {"output_size": (3, 4)}, (1, 3, 3, 4)),
        (pool.adaptive_avg_pool2d, (1, 3, H, W), {"output_size": 6}, (1, 3, 6, 6)),
        (pool.adaptive_max_pool2d, (1, 3, H, 9), {}, (1, 3, H, 9)),
        (pool.adaptive_max_pool1d, (1, 3, 5), {"output_size": [7]}, (1, 3, 7)),
        (pad.pad, (N, 3), {"pad_width": ((1, 2), (0, 4))}, (N + 3, 7)),
        (pad.pad, (4, 3), {"pad_width": [[0, 0], [2, 2]], "pad_mode": "reflect"}, (4, 7)),
        (pad.pad, (), {"pad_width": ()}, ()),
        (pad.pad, (4, 3), {"pad_width": const([[1, 1], [0, 2]])}, (6, 5)),
        (pad.mirror_pad, (3, W), {"pad_width": ((3, 3), (5, 5))}, (9, W + 10)),
    ],
)
def test_shapes(op: Builder, shape: Shape, attributes: dict[str, Any], expected: Shape) -> None:
    assert result_shape(op, shape, **attributes) == expected


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "message"),
    [
        (pool.max_pool2d, (1, 3, 8), {}, "data has 3 dimensions"),
        (pool.max_pool2d, (1, 3, 8, 2), {"pool_size": 3}, "reaches over 3 elements of axis W, which has only 2"),
        (pool.max_pool2d, (1, 3, 8, 8), {"pool_size": 0}, "pool_size must be 2 numbers of at least 1"),
        (pool.max_pool2d, (1, 3, 8, 8), {"pool_size": (2, 2, 2)}, "pool_size must have 2 entries"),
        (pool.max_pool2d, (1, 3, 8, 8), {"strides": (0, 1)}, "strides must be"),
        (pool.max_pool2d, (1, 3, 8, 8), {"padding": -1}, "padding must not be negative"),
        (pool.max_pool2d, (1, 3, 8, 8), {"padding": (1, 2, 3)}, "padding must have 1 or 2 or 4 entries"),
        (pool.max_pool2d, (1, 3, 8, 8), {"layout": "NCW"}, "layout 'NCW' must have the axes NCHW"),
        (pool.max_pool2d, (1, 3, 2, 8, 4), {"layout": "NCHW4h"}, "splits the spatial axis H"),
        (pool.avg_pool1d, (1, 3, 8), {"out_layout": "NCW2c"}, "multiple of 2 for axis C, got 3"),
        (pool.adaptive_avg_pool2d, (1, 3, 8, 8), {"output_size": (2, 3, 4)}, "output_size must be 2 numbers"),
        (pool.adaptive_avg_pool2d, (1, 3, 8, 8), {"output_size": 0}, "output_size must be"),
        (pool.global_avg_pool2d, (1, 3, 0, 8), {}, "axis H of .* has no elements to pool"),
        (pad.pad, (2, 3), {"pad_width": ((1, 1),)}, "pad_width has 1 pairs"),
        (pad.pad, (2, 3), {"pad_width": ((1, 1), (-1, 0))}, "pad_width must not be negative"),
        (pad.pad, (2, 3), {"pad_width": (1, 2)}, "pad_width must have a"),
        (pad.pad, (2, 3), {"pad_width": ((0, 0), (0, 0)), "pad_mode": "wrap"}, "unknown padding mode 'wrap'"),
        (pad.pad, (2, 3), {"pad_width": ((0, 0), (3, 0)), "pad_mode": "reflect"}, "at least 4 elements on axis 1"),
        (pad.pad, (0, 3), {"pad_width": ((1, 0), (3, 0)), "pad_mode": "edge"}, "at least 1 elements on axis 0"),
        (pad.pad, (3,), {"pad_width": ((1, 1),), "pad_value": const([1.0])}, "pad_value must be a scalar"),
        (pad.mirror_pad, (2, 3), {"pad_width": ((3, 0), (0, 0))}, "at least 3 elements on axis 0"),
        (pad.mirror_pad, (2, 3), {"pad_width": ((0, 0), (0, 0)), "mode": "edge"}, "expected one of SYMMETRIC, REFLECT"),
    ],
)
def test_errors_say_what_is_wrong(op: Builder, shape: Shape, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        result_shape(op, shape, **attributes)


def test_attributes_are_stored_in_canonical_form() -> None:
    data = var("data", shape=(1, 3, 8, 8))
    call = pool.avg_pool2d(data, 2, 2, padding=(1, 0))
    assert isinstance(call, Call)
    assert (call.attrs.pool_size, call.attrs.strides, call.attrs.padding) == ((2, 2), (2, 2), (1, 0, 1, 0))
    assert spec_of(call).build(data, **call.attrs).attrs == call.attrs
    adaptive = pool.adaptive_max_pool2d(data)
    assert isinstance(adaptive, Call) and adaptive.attrs.output_size == ()
    assert spec_of(adaptive).build(data, **adaptive.attrs).attrs == adaptive.attrs


def test_global_pools_of_other_ranks_are_adaptive_as_in_relay() -> None:
    call = pool.global_max_pool1d(var("data", shape=(1, 3, 8)))
    assert isinstance(call, Call) and call.op is spec_of("nn.adaptive_max_pool1d") and call.attrs.output_size == (1,)


def test_pad_as_the_text_format_calls_it() -> None:
    data, value = var("data", shape=(2,), dtype="int8"), var("value")
    function = infer_type(Function([data, value], spec_of("nn.pad").build(data, value, pad_width=((1, 0),))))
    assert isinstance(function, Function)
    assert function.params[1].checked_type == TensorType((), "int8")
    number = pad.pad(data, ((1, 0),), 7)
    assert isinstance(number, Call) and number.args[1].checked_type == TensorType((), "int8")


def test_sliding_windows_by_hand() -> None:
    data = [[[1, 5, 2, -7, 4]]]
    assert run(pool.max_pool1d, data, pool_size=2, strides=2).tolist() == [[[5, 2]]]
    assert run(pool.max_pool1d, data, pool_size=2, strides=2, ceil_mode=True).tolist() == [[[5, 2, 4]]]
    assert run(pool.max_pool1d, data, pool_size=3, dilation=2).tolist() == [[[4]]]
    assert run(pool.avg_pool1d, data, pool_size=2, strides=2, padding=(1, 0)).tolist() == [[[1.0, 3.5, -1.5]]]
    included = run(pool.avg_pool1d, [[[3.0, 6.0]]], pool_size=3, padding=1, count_include_pad=True)
    excluded = run(pool.avg_pool1d, [[[3.0, 6.0]]], pool_size=3, padding=1)
    assert included.tolist() == [[[3.0, 3.0]]] and excluded.tolist() == [[[4.5, 4.5]]]


def test_a_window_in_ceil_mode_counts_no_element_behind_the_padding() -> None:
    # Windows of 3 at 0 and 2 of (1, 2, 3, 4, 0): the second reaches one element over the padding of 0.
    result = run(
        pool.avg_pool1d, [[[1.0, 2.0, 3.0, 4.0]]], pool_size=3, strides=2, ceil_mode=True, count_include_pad=True
    )
    assert result.tolist() == [[[2.0, 3.5]]]


def test_padding_never_is_the_maximum() -> None:
    result = run(pool.max_pool1d, [[[-3, -2]]], "int8", pool_size=3, padding=(2, 1))
    assert result.tolist() == [[[-3, -2, -2]]]
    outside = run(pool.max_pool1d, [[[-3.0]]], pool_size=1, padding=(1, 0))
    assert outside.tolist() == [[[-np.inf, -3.0]]]


def test_nan_spreads_over_its_windows() -> None:
    data = [[[1.0, np.nan, 2.0, 3.0]]]
    for op in (pool.max_pool1d, pool.avg_pool1d):
        assert np.isnan(run(op, data, pool_size=2)).tolist() == [[[True, True, False]]]
    assert np.isnan(run(pool.adaptive_max_pool1d, data, output_size=2)).tolist() == [[[True, False]]]


def test_integer_means_round_towards_zero_and_do_not_overflow() -> None:
    assert run(pool.avg_pool1d, [[[-3, -4, 5, 4]]], "int32", pool_size=2, strides=2).tolist() == [[[-3, 4]]]
    assert run(pool.avg_pool1d, [[[127, 126, 125]]], "int8", pool_size=3).tolist() == [[[126]]]
    assert run(pool.global_avg_pool2d, np.full((1, 1, 20, 20), 250), "uint8").tolist() == [[[[250]]]]


def test_adaptive_parts_overlap_where_sizes_do_not_divide() -> None:
    data = [[[1.0, 2.0, 4.0, 8.0, 16.0]]]
    assert run(pool.adaptive_max_pool1d, data, output_size=2).tolist() == [[[4.0, 16.0]]]
    assert run(pool.adaptive_avg_pool1d, data, output_size=2).tolist() == [[[np.float32(7 / 3), np.float32(28 / 3)]]]
    assert run(pool.adaptive_max_pool1d, [[[1.0, 2.0]]], output_size=3).tolist() == [[[1.0, 2.0, 2.0]]]


def test_padding_modes_by_hand() -> None:
    data, width = [1, 2, 3], ((2, 1),)
    assert run(pad.pad, data, pad_width=width, pad_value=9).tolist() == [9, 9, 1, 2, 3, 9]
    assert run(pad.pad, data, pad_width=width, pad_mode="edge").tolist() == [1, 1, 1, 2, 3, 3]
    assert run(pad.pad, data, pad_width=width, pad_mode="reflect").tolist() == [3, 2, 1, 2, 3, 2]
    assert run(pad.mirror_pad, data, pad_width=width).tolist() == [2, 1, 1, 2, 3, 3]
    assert run(pad.mirror_pad, data, pad_width=width, mode="REFLECT").tolist() == [3, 2, 1, 2, 3, 2]
    assert (
        run(pad.pad, np.ones((0, 2)), pad_width=((1, 1), (0, 1)), pad_value=const(5, "int32")).tolist()
        == [[5.0] * 3] * 2
    )
    assert run(pad.pad, [True], "bool", pad_width=((1, 1),)).tolist() == [False, True, False]


@pytest.mark.parametrize("name", NAMES)
def test_lowerings_agree_with_references(name: str) -> None:
    spec = spec_of(name)
    for seed, dtype in enumerate(spec.dtypes):
        for k in range(3):
            check_lowering(spec, dtype, np.random.default_rng([seed, k]))
